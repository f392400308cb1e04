# SPDX-License-Identifier: Apache-2.0
"""Unicode text in one place: for splits, leaks, scores and answer extraction.

normalise   what counts as the same text: NFKC, case, white space; for answers also outer
            punctuation
words       letters, digits and marks between anything else; one character each in scripts that put
            no spaces between words (Chinese, Japanese, Thai, Lao, Burmese, Khmer)
script      the alphabet that most letters are of
numbers     the numbers of a text: decimal comma, thousands spaces, dashes, fractions, every
            script's digits
"""

import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

# Han, kana, Thai, Lao, Burmese, Khmer
UNSPACED = (
    "\u3005-\u3007\u3021-\u3029\u3041-\u3096\u3099-\u309f\u30a1-\u30fa\u30fc-\u30ff"
    "\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
    "\u0e01-\u0e3a\u0e40-\u0e4e\u0e81-\u0ece\u1000-\u1049\u1780-\u17d3"
)
# The parts of Unicode that have marks: a look at all of it takes a quarter of a second
MARKS = (range(0x20000), range(0xE0000, 0xE0200))
QUOTES = "\"'`«»„“”‟‘’‚‛‹›"
ENDS = ".,;:!?…。、，．！？；：।"
BRACKETS = {"(": ")", "[": "]", "{": "}", "<": ">", "（": "）", "「": "」", "《": "》"}


def normalise(text: str, answer: bool = False) -> str:
    """The form in which texts are compared; `answer` also takes off outer punctuation.

    >>> [normalise(text, answer=True) for text in ("«Париж».", "(A)", "−5 ")]
    ['париж', 'a', '-5']
    """
    text = " ".join(unicodedata.normalize("NFKC", text).casefold().replace("\u2212", "-").split())
    # casefold can undo NFKC (U+0345 and its like)
    text = unicodedata.normalize("NFKC", text)
    return _bare(text) if answer else text


_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def visible(text: str) -> str:
    """A text for the terminal: control characters are spelled out, so that data cannot move the
    cursor, set the window's title or turn the direction of what is read.

    >>> visible("a" + chr(27) + "[2J")
    'a\\\\x1b[2J'
    """
    return _CONTROLS.sub(
        lambda m: f"\\x{ord(m[0]):02x}" if ord(m[0]) < 256 else f"\\u{ord(m[0]):04x}", text
    )


def say(line: str) -> None:
    """Print a line of ours to stderr, as a terminal may show it."""
    print(f"itx: {visible(line)}", file=sys.stderr, flush=True)


def blank(text: str) -> bool:
    """Whether a text shows nothing: white space, controls and characters without a form alone.

    >>> blank(" \u200b"), blank("0")
    (True, False)
    """
    return all(unicodedata.category(c) in ("Zs", "Zl", "Zp", "Cc", "Cf") for c in text)


def exact(text: str) -> str:
    """For answers whose case and punctuation matter: NFKC and white space alone."""
    return " ".join(unicodedata.normalize("NFKC", text).split())


_EMPHASIS = re.compile(r"([*_]{1,3})(?!\1)(.*[^*_])\1", re.DOTALL)  # markdown: *a*, **a**, __a__
_OPTION_LABEL = re.compile(r"([^\W_])\)")  # "a)" names option A


def _bare(text: str) -> str:
    """An answer without what stands around it: quotes, closing marks, markdown emphasis, one pair
    of brackets, and the bracket behind a label such as `a)`."""
    whole = text
    while text:
        before = text
        text = text.strip(QUOTES + " ").rstrip(ENDS + " ").lstrip("¿¡ ")
        if emphasis := _EMPHASIS.fullmatch(text):
            text = emphasis[2]
        if option := _OPTION_LABEL.fullmatch(text):
            text = option[1]
        if len(text) > 1 and BRACKETS.get(text[0]) == text[-1] and text[-1] not in text[1:-1]:
            text = text[1:-1]
        if text == before:
            return text
    return whole  # nothing but punctuation: then that is the answer


@cache
def _word_pattern() -> re.Pattern:
    """Marks belong to the letter before; Python's \\w leaves most of them out."""
    characters = (chr(i) for plane in MARKS for i in plane)
    marks = "".join(c for c in characters if unicodedata.category(c)[0] == "M")
    marks = "[" + marks + "\u200c\u200d]*"
    return re.compile(f"[{UNSPACED}]{marks}|(?:[^\\W_{UNSPACED}]{marks})+")


@cache
def _script_of(character: str) -> str:
    """`Latin`, `Cyrillic`, `Han` … of a letter; "" of any other character."""
    if not character.isalpha():
        return ""
    first = unicodedata.name(character, "").partition(" ")[0]
    return {"CJK": "Han", "IDEOGRAPHIC": "Han", "FULLWIDTH": "Latin"}.get(first, first.title())


def scripts(text: str) -> Counter[str]:
    """{script: its letters}."""
    counts = Counter(map(_script_of, text))
    del counts[""]
    return counts


def script(text: str) -> str:
    """The script that most letters of a text are of; "" where it has none.

    >>> script("Столица: Paris"), script("東京へ行く"), script("12:30")
    ('Cyrillic', 'Han', '')
    """
    counts = scripts(text)
    return max(counts, key=lambda name: (counts[name], name)) if counts else ""


def words(text: str) -> list[str]:
    """The words of a text, normalised.

    >>> words("Don't: 3 яблока, 東京")
    ['don', 't', '3', 'яблока', '東', '京']
    """
    text = normalise(text)
    return re.findall("[a-z0-9]+", text) if text.isascii() else _word_pattern().findall(text)


def ngrams(items: Sequence, n: int) -> list[tuple]:
    """Every run of n items, in order; [] where there are fewer."""
    return [tuple(items[i : i + n]) for i in range(len(items) - n + 1)]


@cache
def _token_pattern() -> re.Pattern:
    """Whole tokens of a normalised text: a number with its sign and decimals, a word with the `+`
    or `#` that ends its name (C++, C#, A+)."""
    digits = r"[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+[.,/][0-9]+(?![.,/]?[0-9])|[0-9]+"
    return re.compile(
        rf"(?<![\w)])-(?:{digits})|{digits}|(?:{_word_pattern().pattern})(?:\+{{1,2}}(?!\w)|\#(?!\w))?"
    )


def contains(text: str, part: str) -> bool:
    """Whether the whole tokens of `part` stand in `text` side by side.

    >>> contains("Столица Франции - Париж.", "Париж"), contains("Парижский", "Париж")
    (True, False)
    >>> contains("It costs 1.5", "5"), contains("It is written in C", "C++")
    (False, False)
    """
    tokens_of = _token_pattern().findall
    wanted, present = tokens_of(normalise(part)), tokens_of(normalise(text))
    if not wanted:
        return normalise(part) in normalise(text)
    return tuple(wanted) in ngrams(present, len(wanted))


_NUMBER = re.compile(
    r"""
    (?<![^\W_UNSPACED])                                         # not inside a word
    (?P<sign>(?<![\d)])[-\u2212][$€£¥₽]?)?
    (?:
      (?P<grouped>
          [1-9]\d{0,2}
          (?: (?:,\d{3})+ | (?:[\u00a0\u2009\u202f]\d{3})+ | (?:'\d{3})+ | (?:\.\d{3}){2,} )
        | (?<!\d[ ]) [1-9]\d{0,2} (?:[ \u00a0\u2009\u202f]\d{3})+    # 1 234; "10 20 300" is a list
      ) (?P<rest>[.,]\d+)? (?!\d)
    | (?P<dots>[1-9]\d{0,2}(?:\.\d{3})+) , (?P<comma>\d+)          # 1.234,5
    | (?:(?<!\d[ ])(?P<units>\d+)[ ]+)?(?P<over>\d+/\d+) (?![\d/])  # 1 1/2 is one number
    | (?P<plain>(?: (?<!\d[.,])\d+[.,]\d+(?![.,]?\d) | \d+) (?:[eE][-+]?\d+)?) (?!\d)
    | (?<!\d) (?P<point>\.\d+)
    )
    """.replace("UNSPACED", UNSPACED),
    re.VERBOSE,
)


DASHES = "\u2010\u2011\u2012\u2013\u2212\ufe63\uff0d"  # each is written as a minus sign by someone
_SEPARATORS = {"\u066b": ".", "\u066c": ",", "\u2044": "/", "\uff0e": "."}
_MINUS_WORD = re.compile(
    r"(?<!\w)(?:minus|минус)[ \u00a0]+(?=[0-9])|[负負](?=[0-9])", re.IGNORECASE
)


def _plain_digits(text: str) -> str:
    """The text with each number in ASCII: other scripts' digits and separators, vulgar fractions (½
    as ` 1/2`), dashes and words for minus, apostrophes and underscores between groups of three
    digits. Superscripts stay as they are."""
    out = []
    for c in text:
        if c.isascii():
            out.append(c)
        elif (digit := unicodedata.decimal(c, None)) is not None:
            out.append(str(digit))
        elif unicodedata.decomposition(c).startswith("<fraction>"):
            fraction = unicodedata.normalize("NFKC", c).replace("\u2044", "/")
            out.append(f" {fraction}" if out and out[-1].isdigit() else fraction)
        else:
            out.append("-" if c in DASHES else _SEPARATORS.get(c, c))
    plain = re.sub(r"(?<=[0-9])[\u2019_](?=[0-9]{3}(?![0-9]))", "'", "".join(out))
    return _MINUS_WORD.sub("-", plain)


def _whole_or_decimal(written: str) -> int | float:
    """An int where only digits are written, so that whole numbers of any length are compared
    exactly."""
    try:
        return int(written)
    except ValueError:  # a decimal fraction, or more digits than Python turns into an int
        return float(written)


def numbers(text: str) -> list[int | float]:
    """Every number of a text, in order: an int where it is written as a whole number.

    A comma before exactly three digits separates thousands (1,234), any other is a decimal comma;
    spaces, apostrophes and underscores between groups of three separate thousands too. Units and
    percent signs are passed over.

    >>> numbers("60 км/ч, −1 234,5 кг, $3,000.25, 0,125 and 3/4")
    [60, -1234.5, 3000.25, 0.125, 0.75]
    >>> numbers("minus 5, 1 1/2, ½, ٣٫٥, 1’234 and 1_000")
    [-5, 1.5, 0.5, 3.5, 1234, 1000]
    """
    out: list[int | float] = []
    for m in _NUMBER.finditer(_plain_digits(text)):
        values: list[int | float] = []
        if m["grouped"]:
            whole, rest = re.sub(r"\D", "", m["grouped"]), (m["rest"] or "").replace(",", ".")
            values = [_whole_or_decimal(whole + rest)]
        elif m["dots"]:
            values = [float(m["dots"].replace(".", "") + "." + m["comma"])]
        elif m["over"]:
            # not int: Python refuses one of 4,301 digits
            above, below = map(float, m["over"].split("/"))
            fraction = above / below if below else above
            if not m["units"]:
                values = [fraction]
            elif above < below:
                values = [float(m["units"]) + fraction]
            else:  # "10 20/4" are two numbers
                values = [_whole_or_decimal(m["units"]), fraction]
        else:
            values = [_whole_or_decimal((m["plain"] or m["point"]).replace(",", "."))]
        out += [-values[0] if m["sign"] else values[0], *values[1:]]
    return out


def texts_of(value: Any) -> Iterator[str]:
    """The texts in a value of JSON, keys included."""
    if isinstance(value, str):
        yield value
    if isinstance(value, dict):
        value = value.items()
    elif not isinstance(value, list | tuple):
        return
    for part in value:
        yield from texts_of(part)
