# SPDX-License-Identifier: Apache-2.0
"""What stands in a text: its language, data of persons, code that does not parse, broken addresses,
options. Each says what it found, "" for nothing; personal data are named by kind, never shown."""

import ast
import json
import re
import unicodedata
import warnings
from collections.abc import Callable
from urllib.parse import urlsplit

from itx import languages
from itx.create.row import Row
from itx.errors import check_known
from itx.leaks import loose

# ---- language

MIN_SURE = 0.8  # probability of a language that is none of those wanted
# An instruction that names another language in such words may want the answer in it.
_LANGUAGE = (
    "french|german|spanish|italian|portuguese|dutch|russian|chinese|mandarin|japanese|korean|"
    "arabic|hindi|latin|greek|turkish|polish|swedish|czech|ukrainian|english"
)
NAMES = re.compile(
    rf"\btranslat|\b(?:in|into|to|from)\s+(?:the\s+)?(?:{_LANGUAGE})\b(?!\s+[a-z]+s\b)|"
    rf"\b(?:{_LANGUAGE})\s+(?:word|phrase|sentence|translation|language|for\b|poem|verb|noun)|"
    r"\bперев(?:од|ед|ести)|\b(?:на|с)\s+\w+(?:ом|ий|ого)(?:\s+язык\w*)|"
    r"\bпо-(?:англ|франц|немец|русс|испан|китай)|翻译|译成|用[英法德俄日中]语",
    re.IGNORECASE,
)


def language(wanted: tuple[str, ...]) -> Callable[[Row], str]:
    """A filter of texts that are surely in none of the languages."""
    for code in wanted:
        check_known(code, languages.LANGUAGES, f"language {code!r} is none that is told apart")

    def found(row: Row) -> str:
        parts = {"instruction": row.instruction}
        if not NAMES.search(f"{row.instruction} {row.input[:200]}"):
            parts["output"] = row.output
        for name, said in parts.items():
            code, sure = languages.language_of(said)
            if code and code not in wanted and sure >= MIN_SURE:
                return f"the {name} is {code} ({sure:.2f})"
        return ""

    return found if wanted else lambda row: ""


# ---- persons

_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@((?:[\w-]+\.)+[a-z]{2,})", re.IGNORECASE)
_NO_ONE = re.compile(r"(?:^|\.)(?:example|test|domain|email|company|yourcompany|website)\.\w+$")
_PHONE = re.compile(
    r"(?<![\w.,/=-])(?:\+\d{1,3}[ .\-]?)?(?:\(\d{2,5}\)[ .\-]?)?"
    r"\d{2,4}(?:[ .\-]\d{2,4}){1,4}(?![\w/=%-]|[.,]\d)"
)
_ABROAD = re.compile(r"(?<![\w+])\+\d{1,3}(?:[ .\-]?\(?\d{1,9}\)?){1,5}(?!\w)")
_NUMBERS = re.compile(r"(?<![\w.])\d(?:[ -]?\d){11,18}(?![\w.]?\d)")
_SSN = re.compile(r"(?<![\w-])(?!000|666|9\d\d)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\w-])")
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?:[ ]?[A-Z0-9]{4}){2,7}(?:[ ]?[A-Z0-9]{1,3})?\b")
_CHINESE_ID = re.compile(r"(?<!\d)\d{17}[\dXx](?![\dXx])")
_SNILS = re.compile(r"(?<!\d)(\d{3})-(\d{3})-(\d{3})[ -](\d{2})(?!\d)")


def personal(said: str) -> str:
    """Numbers and addresses by which a person is reached or known: each by its form, and by its
    check digits where it has some."""
    said = unicodedata.normalize("NFKC", said)
    for m in _EMAIL.finditer(said):
        if not _NO_ONE.search(m[1].casefold()):
            return "an e-mail address"
    for kind, pattern, holds in (
        ("a bank account (IBAN)", _IBAN, _is_iban),
        ("a Chinese identity number", _CHINESE_ID, _is_chinese_id),
        ("a Russian insurance number", _SNILS, _is_snils),
        ("a social security number", _SSN, lambda m: True),
        ("a payment card", _NUMBERS, _is_card),
        ("a telephone number", _PHONE, _is_phone),
        ("a telephone number", _ABROAD, lambda m: 10 <= len(re.sub(r"\D", "", m[0])) <= 15),
    ):
        if any(holds(m) for m in pattern.finditer(said)):
            return kind
    return ""


def _is_card(m: re.Match) -> bool:
    """Luhn's check, and a first digit of a card."""
    digits = [int(c) for c in m[0] if c.isdigit()]
    if not 13 <= len(digits) <= 19 or digits[0] not in (2, 3, 4, 5, 6) or len(set(digits)) < 2:
        return False
    doubled = [d * 2 - 9 * (d > 4) for d in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _is_iban(m: re.Match) -> bool:
    """ISO 13616: modulo 97."""
    plain = m[0].replace(" ", "")
    moved = plain[4:] + plain[:4]
    return 15 <= len(plain) <= 34 and int("".join(str(int(c, 36)) for c in moved)) % 97 == 1


def _is_chinese_id(m: re.Match) -> bool:
    """GB 11643."""
    weighed = sum(int(c) * 2 ** (17 - i) for i, c in enumerate(m[0][:17]))
    return "10X98765432"[weighed % 11] == m[0][17].upper()


def _is_snils(m: re.Match) -> bool:
    weighed = sum(int(c) * (9 - i) for i, c in enumerate(m[1] + m[2] + m[3]))
    return weighed % 101 % 100 == int(m[4])


_YEARS = re.compile(r"(?:1[0-9]|20)\d\d")


def _is_phone(m: re.Match) -> bool:
    """Enough digits in a form that numbers are dialled in: with + or brackets, or groups of three
    and four. Dates, years and lists of numbers are none; 555-01xx is kept for fiction."""
    said, digits = m[0], re.sub(r"\D", "", m[0])
    groups = re.findall(r"\d+", said)
    if not 7 <= len(digits) <= 15 or re.search(r"555[ .-]?01\d\d$", said) or len(set(digits)) < 3:
        return False
    if any(_YEARS.fullmatch(g) for g in groups if len(g) == 4) and len(groups) <= 3:
        if not said.startswith(("+", "(")):
            return False
    if said.startswith("+"):
        return len(digits) >= 10
    if said.startswith("("):
        return len(digits) >= 9
    sizes = list(map(len, groups))
    if "-" in said or "." in said:
        return sizes in ([3, 3, 4], [1, 3, 3, 4], [3, 4, 4], [3, 2, 2, 2], [3, 3, 2, 2], [4, 3, 3])
    return sizes in ([3, 3, 2, 2], [1, 3, 3, 2, 2], [3, 4, 4]) and said[0] in "0189"


# ---- code and addresses

_FENCE = re.compile(r"```[ \t]*([\w+#-]*)[^\n]*\n(.*?)```", re.DOTALL)
PYTHON = ("python", "py", "python3")


def code(said: str) -> str:
    """A block of code that is not closed, or of a language that can be read here and does not
    parse. Prompts and output of a Python shell are none."""
    if said.count("```") % 2:
        return "a block of code without end"
    for tag, block in _FENCE.findall(said):
        tag = tag.casefold()
        if tag in PYTHON and ">>>" not in block and "..." not in block and not is_python(block):
            return "Python that does not parse"
        if tag == "json" and "..." not in block and not _is_json(block):
            return "JSON that does not parse"
    if "```" not in said and looks_like_python(said) and not is_python(said):
        return "Python that does not parse"
    return ""


def looks_like_python(said: str) -> bool:
    """Whether a text is a Python program and nothing else: its first line begins one, and it is no
    line of another language."""
    lines = [line for line in said.splitlines() if line.strip()]
    first = re.compile(r"(?:def|class|import) \w+|from \w[\w.]* import ")
    program = re.compile(
        r"\s|def |class |import |from |for |while |if |el(?:if |se)|return|print\(|#|@|try|except"
        r"|with |[\w.\[\], ]+\s*[-+*/]?=|[\w.]+\(|[)\]}]|\"\"\"|'''"
    )
    other = re.search(
        r"[{};]\s*$|^\s*(?:public|private|static|let|var|const|function)\b", said, re.MULTILINE
    )
    return bool(
        len(lines) > 1 and first.match(lines[0]) and not other and all(map(program.match, lines))
    )


def is_python(block: str) -> bool:
    """Whether it parses as Python 3; nothing of it is run."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(block.strip("\n"))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _is_json(block: str) -> bool:
    try:
        json.loads(block)
    except (ValueError, RecursionError):
        return False
    return True


_URL = re.compile(r"(?<!\w)(?:https?|ftp)[:/][^\s<>\"'`)\]}]*", re.IGNORECASE)
_SCHEME = re.compile(r"(?<!\w)h{0,2}t{1,4}p{1,3}s{0,2}(:?/{1,3}|:)(?=\s?[\w.])", re.IGNORECASE)
_HOST = re.compile(
    r"(?:[\w-]+\.)+[^\W\d_]{2,}|localhost|\d{1,3}(?:\.\d{1,3}){3}|\[[0-9a-f:]+\]", re.IGNORECASE
)


def address(said: str) -> str:
    """A web address that cannot be followed: a misspelt scheme, no host, a host without a dot."""
    for m in _SCHEME.finditer(said):
        spelt = m[0].casefold() in ("http://", "https://")
        apart = re.match(r" [\w-]+\.[a-z]{2,}", said[m.end() :])
        if m[1] != ":" and (not spelt or apart):
            return f"the address {m[0]!r}…"
    for m in _URL.finditer(said):
        whole = m[0].rstrip(".,;:!?")
        if whole.casefold() in ("http:", "https:", "http://", "https://", "ftp:", "http", "https"):
            continue  # it is spoken of
        try:
            parts = urlsplit(whole)
            host = parts.hostname or ""
        except ValueError:
            return "an address that is none"
        if not whole.casefold().startswith((f"{parts.scheme}://",)) or not _HOST.fullmatch(host):
            return f"the address {whole[:40]!r}"
    return ""


# ---- options

_LABELLED = re.compile(r"^[ \t]*(?:\(?([a-hA-H])[).:]|([1-9])[).])[ \t]+(\S[^\n]*)$", re.MULTILINE)
_CHOOSE = re.compile(
    r"\b(?:which of|choose|select|pick|multiple.choice|options?|correct answer|какой из|какая из|"
    r"какие из|выбери|вариант)|选择|哪一个|以下哪",
    re.IGNORECASE,
)


def listed_options(said: str) -> tuple[str, ...]:
    """The options that a text lists under labels in order (a), b) or 1., 2.), where it asks to
    choose."""
    return tuple(m[3].strip() for m in _labelled(said, said))


def labelled_options(said: str, asked: str) -> tuple[tuple[str, ...], tuple[str, ...], str] | None:
    """(labels, options, the lines that list them) of a text, where `asked`, all that a row asks,
    asks to choose; None where it lists none, or lines of other kinds stand between them."""
    found = _labelled(said, asked)
    if not found:
        return None
    listed = said[found[0].start() : found[-1].end()]
    if listed.count("\n") != len(found) - 1:
        return None
    labels = tuple(m[0][: m.start(3) - m.start()].strip() for m in found)
    return labels, tuple(m[3].strip() for m in found), listed


def _labelled(said: str, asked: str) -> list[re.Match]:
    found = list(_LABELLED.finditer(said))
    letters = [m for m in found if m[1]]
    numbers = [m for m in found if m[2]]
    for of, first in ((letters, "a"), (numbers, "1")):
        in_order = [chr(ord(first) + i) for i in range(len(of))]
        labels = [(m[1] or m[2]).casefold() for m in of]
        if 2 <= len(of) <= 8 and labels == in_order and _CHOOSE.search(asked):
            return of
    return []


# ---- disguises

MAX_WORD = 60  # characters of a word that is looked at so
_LEET = str.maketrans("013457@$!", "oieastasi")


def without_disguise(said: str) -> str:
    """A text with each word in the letters that it is to be read as: look-alikes of other scripts,
    zero-width characters and, within words, digits for letters. The plain text comes first."""
    words = [w for w in said.split() if len(w) <= MAX_WORD and any(map(str.isalpha, w))]
    forms = [said, *map(loose.loose, words)]
    forms += [w.translate(_LEET) for w in words if re.search(r"[013457@$!]", w)]
    return " ".join(forms)
