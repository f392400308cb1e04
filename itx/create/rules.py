# SPDX-License-Identifier: Apache-2.0
"""Changes of a row that keep what it asks, by rule: typos, a sentence around the instruction, and
the form in which instruction and input stand.

What a rule cannot do well in a language it does not do: it says so, and that is counted. Typos are
slips of a keyboard that the script is typed on letter by letter (Belinkov and Bisk, 2018,
arXiv:1711.02173, have swaps of neighbouring letters and keys); Chinese, Japanese and Thai words
are not typed so, and get none.
"""

import dataclasses
import functools
import re
from collections.abc import Callable

from itx import text
from itx.create.row import Row
from itx.create.steps import Changed, Job, NotApplicable, Outcome

# ---- typos

# rows of keys, each shifted to the right of the one above by about half a key
LAYOUTS = {
    "Latin": ("qwertyuiop", "asdfghjkl", "zxcvbnm"),  # QWERTY
    "Cyrillic": ("йцукенгшщзхъ", "фывапролджэ", "ячсмитьбю"),  # ЙЦУКЕН
}
MIN_LETTERS = 4  # of a word that gets a typo
WORDS_PER_TYPO, MAX_TYPOS = 12, 5
# Words that turn a sentence round: a reader must not have to guess them.
_TURNING = frozenset(
    "never without except unless neither hardly only none nothing nobody more less least most both "
    "нельзя никогда кроме только меньше больше ничего никто либо разве всегда".split()
)
_PROTECTED = re.compile(
    r"""
    ```.*?(?:```|$) | `[^`\n]*` | https?://\S+ | \S*@\S* | \S*[_\\/=<>{}\[\]#$]\S*
    | "[^"\n]*" | “[^”\n]*” | «[^»\n]*» | (?<!\w)'[^'\n]*'(?!\w)
    """,
    re.VERBOSE | re.DOTALL,
)
_ABOUT_LETTERS = re.compile(
    r"\b(?:spell\w*|misspel\w*|letters|(?:first|last|\w+th|each|every|capital|single) letter|"
    r"vowels?|consonants?|capital(?:ize|ise)\w*|uppercase|"
    r"lowercase|typos?|gramm\w+|proofread\w*|anagram\w*|rhym\w+|palindrom\w*|syllab\w+|"
    r"punctuat\w+|characters?|verbatim|alphabet\w*|букв\w*|опечат\w*|орфограф\w*|граммат\w*|"
    r"рифм\w*|слог\w*|гласн\w*|согласн\w*|исправ\w*|палиндром\w*|анаграмм\w*|алфавит\w*|"
    r"символ\w*|дословно)\b",
    re.IGNORECASE,
)
_WORD = re.compile(r"[^\W\d_]+")


@functools.cache
def neighbours(script: str) -> dict[str, str]:
    """{letter: those on keys that touch its own} of a script's keyboard."""
    rows = LAYOUTS[script]
    places = {c: (2 * x + y, y) for y, row in enumerate(rows) for x, c in enumerate(row)}
    touching: dict[str, str] = {}
    for c, (x, y) in places.items():
        near = (d for d, (u, w) in places.items() if abs(u - x) <= 2 and abs(w - y) <= 1)
        touching[c] = "".join(d for d in near if d != c)
    return touching


def typos(job: Job) -> Outcome:
    """Slips of the keyboard in words of the instruction and the input: one for each WORDS_PER_TYPO
    words. Names, numbers, code, quotations, the options and words of the answer stay as they are,
    and no typo gives a word that a row of the source has."""
    row, script = job.row, text.script(job.row.whole)
    if script not in LAYOUTS:
        return NotApplicable(f"no keyboard of letters for {script or 'a text without letters'}")
    if _ABOUT_LETTERS.search(f"{row.instruction} {row.input}"):
        return NotApplicable("the text is about its letters")
    listed = job.parent.choice.listed if job.parent.choice else ""
    kept = {*text.words(row.output), *text.words(" ".join((*row.options, listed)))}
    changed = {}
    for name in ("instruction", "input"):
        changed[name] = _mistyped(job, name, getattr(row, name), kept)
    if changed["instruction"] == row.instruction and changed["input"] == row.input:
        return NotApplicable("no word that may have a typo")
    return Changed(dataclasses.replace(row, **changed, finish=""))


def _mistyped(job: Job, name: str, said: str, kept: set[str]) -> str:
    shielded = [m.span() for m in _PROTECTED.finditer(said)]
    begins = {m.end() for m in re.finditer(r"(?:^|[.!?:\n])\s*", said)}
    places = []
    for m in _WORD.finditer(said):
        word = m[0]
        script = text.script(word)
        plain = len(word) >= MIN_LETTERS and script in LAYOUTS
        plain = plain and set(word.casefold()) <= neighbours(script).keys()
        # a capital within a sentence is a name's
        plain = plain and (word.islower() or (word.istitle() and m.start() in begins))
        free = word.casefold() not in kept | _TURNING
        if plain and free and not any(a < m.end() and m.start() < b for a, b in shielded):
            places.append(m)
    wanted = min(MAX_TYPOS, max(1, len(text.words(said)) // WORDS_PER_TYPO))
    done: dict[int, tuple[int, str]] = {}
    for i in job.order(len(places), name):
        if len(done) < wanted and (slip := _slip(job, (name, i), places[i][0])):
            done[places[i].start()] = places[i].end(), slip
    for begin in sorted(done, reverse=True):
        end, slip = done[begin]
        said = said[:begin] + slip + said[end:]
    return said


def _slip(job: Job, where: tuple, word: str) -> str:
    """A word with one slip between its first letter and its last, which tells singular from plural;
    "" where each one would make a known word."""
    near = neighbours(text.script(word))
    kinds: list[Callable[[int], str]] = [
        lambda i: word[:i] + job.one_of(near[word[i]], *where, i, "key") + word[i + 1 :],
        lambda i: word[:i] + word[i + 1 :],
        lambda i: word[:i] + word[i] + word[i:],
        lambda i: word[: i - 1] + word[i] + word[i - 1] + word[i + 1 :] if i > 1 else word,
    ]
    tries = [(k, i) for k in range(len(kinds)) for i in range(1, len(word) - 1)]
    for n in job.order(len(tries), *where, "slip"):
        kind, i = tries[n]
        made = kinds[kind](i)
        if made.casefold() != word.casefold() and made.casefold() not in job.known:
            return made
    return ""


# ---- a sentence around the instruction

# {} is the instruction as it stands. None begins as a prompt's mark does (`format` in filters.py).
FRAMES = {
    "en": (
        "I need your help with this.\n{}",
        "{}\nThank you in advance.",
        "Could you do the following for me?\n{}",
        "Hello! {}",
        "Please read carefully.\n\n{}",
        "{}\n\nTake your time and answer as well as you can.",
    ),
    "ru": (
        "Помогите мне, пожалуйста, вот с чем.\n{}",
        "{}\nЗаранее спасибо.",
        "Нужно сделать следующее.\n{}",
        "Здравствуйте! {}",
        "Прочитайте, пожалуйста, внимательно.\n\n{}",
        "{}\n\nНе торопитесь и ответьте как можно лучше.",
    ),
    "zh": (
        "我需要你帮我做这件事。\n{}",
        "{}\n先谢谢你。",
        "请你帮我完成下面的事。\n{}",
        "你好！{}",
        "请仔细阅读。\n\n{}",
        "{}\n\n不用着急，请尽力回答。",
    ),
}


def frame(job: Job) -> Outcome:
    """A sentence before or behind the instruction, in its language."""
    frames = FRAMES.get(job.parent.language)
    if frames is None:
        return NotApplicable(_no_wording(job.parent.language))
    said = job.row.instruction.strip()
    # what ends in a colon or without an end leads on to what follows it
    if said.endswith((":", "：")) or not said.endswith((".", "!", "?", "。", "！", "？")):
        frames = tuple(f for f in frames if f.endswith("{}"))
    return Changed(
        dataclasses.replace(job.row, instruction=job.one_of(frames).format(said), finish="")
    )


def _no_wording(language: str) -> str:
    return f"no wording in {language or 'a language that is not told'}"


# ---- the form

# what an input is called before it
CALLED = {"en": ("Text", "Passage", "Given"), "ru": ("Текст", "Дано"), "zh": ("文本", "材料")}
_MARKED = re.compile(r"^([^\W\d_]\w{1,24}(?: \w{1,24})?)([:：])[ \t]*(?=\S)", re.MULTILINE)
MAX_NAME_SIGNS = 4  # of a name in a script without spaces: more are a sentence
_BULLET = re.compile(r"^([ \t]*)([-*•])[ \t]+(?=\S)", re.MULTILINE)
_BULLETS = ("-", "*", "•")


def formats(job: Job) -> Outcome:
    """Another form of the same text (Sclar et al., 2024, arXiv:2310.11324, on how much such forms
    matter): where the input stands and what sets it apart, what separates a name from its value,
    how points of a list begin."""
    shown = job.parent.choice.listed if job.parent.choice else ""
    ways = [way for way in (_apart(job), _separators(job, shown), _points(job, shown)) if way]
    if not ways:
        return NotApplicable("no input, list or name before a value whose form could change")
    return Changed(job.one_of(job.one_of(ways, "way"), "form"))


def _apart(job: Job) -> list[Row]:
    """The forms of a row with an input."""
    row, names = job.row, CALLED.get(job.parent.language, ())
    instruction, given = row.instruction.strip(), row.input.strip()
    if not given:
        return []
    forms = [f'"""\n{given}\n"""', f"<text>\n{given}\n</text>", f"---\n{given}\n---"]
    for name in names:
        colon, space = ("：", "") if job.parent.language == "zh" else (":", " ")
        forms += [f"{name}{colon}\n{given}", f"[{name}]\n{given}"]
        forms.append(f"{name.upper()}{colon}{space}{given}")
    out = [dataclasses.replace(row, input=form, finish="") for form in forms]
    # the input first: an instruction that points forward ("the following") must not follow it
    if not _FORWARD.search(instruction) and not instruction.endswith((":", "：")):
        out.append(Row(f"{given}\n\n{instruction}", "", row.output, row.options))
    return out


_FORWARD = re.compile(
    r"\b(?:following|below|next|следующ\w*|ниже|дальше)\b|以下|下面|下列|如下", re.IGNORECASE
)


def _separators(job: Job, shown: str) -> list[Row]:
    """The names of values (`Premise: …`) as other people write them."""
    said = job.row.instruction
    outside = said.replace(shown, "") if shown else said
    names = {m[1] for m in _MARKED.finditer(outside) if _is_name(m[1])}
    if not names or any(name in shown for name in names) or "```" in outside:
        return []

    def renamed(form: Callable[[str, str], str]) -> str:
        return _MARKED.sub(lambda m: form(m[1], m[2]) if m[1] in names else m[0], said)

    ways = [
        renamed(lambda name, colon: f"{name}{colon}\n"),
        renamed(lambda name, colon: f"[{name}] "),
        renamed(lambda name, colon: f"{name} – "),
        renamed(lambda name, colon: f"{name.upper()}{colon} "),
    ]
    return [dataclasses.replace(job.row, instruction=w, finish="") for w in ways if w != said]


def _is_name(said: str) -> bool:
    return text.script(said) not in ("Han", "Hiragana", "Katakana") or len(said) <= MAX_NAME_SIGNS


def _points(job: Job, shown: str) -> list[Row]:
    """Lists with another sign before each point."""
    signs = {m[2] for m in _BULLET.finditer(job.row.instruction)}
    if shown or len(signs) != 1 or "```" in job.row.instruction:
        return []
    return [
        dataclasses.replace(
            job.row, instruction=_BULLET.sub(rf"\1{sign} ", job.row.instruction), finish=""
        )
        for sign in _BULLETS
        if sign not in signs
    ]
