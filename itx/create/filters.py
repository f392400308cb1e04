# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a made pair, as named predicates: each looks at one row and says what it
found, "" for nothing.

These see form. Whether an answer is right they cannot tell, nor whether it answers the
instruction. README.md beside this file has a table of how many planted flaws each finds, and how
often it is wrong. What compares a row with others is in collection.py; what looks into the text for
persons, code and addresses in contents.py.

A row is dropped by the first filter that finds something, and all are asked: the verdicts are part
of its lineage.
"""

import functools
import re
from collections.abc import Callable, Sequence
from importlib import resources

from itx import refusals, text
from itx.create import contents
from itx.create.generators import CUT
from itx.create.row import Row
from itx.errors import UserError, check_known
from itx.leaks import loose

Filter = Callable[[Row], str]  # what was found, "" for nothing
MIN_INSTRUCTION_WORDS, MAX_INSTRUCTION_WORDS = 3, 150  # Self-Instruct's bounds
MAX_OUTPUT_WORDS = 2_000
MAX_CHARACTERS = 30_000  # of a row that is read


def empty(row: Row) -> str:
    for name, said in (("instruction", row.instruction), ("output", row.output)):
        if text.blank(said):
            return f"no {name}"
        # other signs, "?" or "+", may be what was asked for
        if not said.strip(" \t\n.…-–—_*#"):
            return f"nothing but signs in the {name}"
    return ""


def length(row: Row) -> str:
    """Too short an instruction to say what is asked, or too long for one. A word of a script
    without spaces is a character, of which two make about a word."""
    words = text.words(row.instruction)
    alone = sum(len(w) == 1 and not w.isascii() for w in words)
    n = len(words) - alone // 2
    if n < MIN_INSTRUCTION_WORDS and not row.input:
        return f"an instruction of {n} words"
    if n > MAX_INSTRUCTION_WORDS:
        return f"an instruction of {n} words"
    if len(text.words(row.output)) > MAX_OUTPUT_WORDS:
        return f"an output of {len(text.words(row.output)):,} words"
    return ""


# ---- how an answer ends

MIN_SENTENCE_WORDS = 8  # a shorter answer may do without a full stop
SENTENCE_ENDS = (".", "!", "?", "…", "。", "！", "？", "。」", ":", "：")
CLOSERS = "\"'`»”’)]}*_>】」』）"
# the end of a sentence within a text; the full stop of "F. Scott" is none
_PROSE = re.compile(r"[^\W\d_]{2}[\"'»”’)]?[.!?][\"'»”’)]?\s+[^\Wa-zа-я]|[。！？]")
# words after which no text ends
_DANGLING = re.compile(
    r"(?:^|\s)(?:the|a|an|of|to|and|or|in|on|at|for|with|by|from|as|is|are|was|were|be|that|which|"
    r"who|but|if|because|than|its|their|his|your|my|our|и|в|на|с|к|по|для|от|что|как|но|или|за|из|"
    r"у|о|об|при|чтобы|который|которая|которые)$",
    re.IGNORECASE,
)


def truncated(row: Row) -> str:
    """An answer that reached the limit. Where nobody told why it ended: one whose last sentence has
    no end while its others have one, or that ends in a comma or a word that needs another."""
    if row.finish == CUT:
        return "it reached the limit of tokens"
    if row.finish:
        return ""
    said = row.output.rstrip()
    if said.count("```") % 2:
        return "a block of code without end"
    last_line = said.rpartition("\n")[2]
    # of prose: lists, code, tables and verses end as they like
    bare = said.rstrip(CLOSERS + "\u200b")
    item = re.match(r"\s*(?:[-*•]|\d+[.)])\s", last_line)
    if (
        re.search(r"[,，、；(\[{«“–—]$|\w[;-]$", said)
        and len(text.words(last_line)) >= MIN_SENTENCE_WORDS
    ):
        if not re.search(r"[=<>{}|]|\bSELECT\b", last_line):
            return f"it ends in {said[-1]!r}"
    if len(text.words(last_line)) >= 3 and not item and _DANGLING.search(last_line):
        return f"it ends in {last_line.split()[-1]!r}"
    ended = bare.endswith(SENTENCE_ENDS) or said.endswith(SENTENCE_ENDS)
    if not ended and is_prose(said) and len(text.words(last_line)) >= MIN_SENTENCE_WORDS // 2:
        return "its last sentence has no end"
    return ""


def is_prose(said: str) -> bool:
    """Whether a text is sentences: some end within it, its last line is no item, code or verse,
    and the lines before end as sentences do."""
    lines = [line.strip() for line in said.splitlines() if line.strip()] or [""]
    marked = re.compile(r"(?:[-*•–#>|=+$]|\d+[.):]|[a-zA-Zа-яА-Я][.)]\s|\w+\s*=|[{}<])")
    if marked.match(lines[-1]) or re.search(
        r"[;{}=<>|\\$]|\w\(|\bhttps?:|:\s*\S+$|#\w+$", lines[-1]
    ):
        return False
    before = lines[:-1]
    if before and not all(line.endswith((*SENTENCE_ENDS, *CLOSERS)) for line in before):
        return False
    return bool(_PROSE.search(said)) and len(text.words(said)) >= MIN_SENTENCE_WORDS


# ---- loops

MIN_LOOP_WORDS, LOOPS = 24, 4
MAX_LOOP_RUN = 60  # words that come again
MAX_SAME_CHARACTERS = 40


def repetition(row: Row) -> str:
    """A run of words that comes again and again: LOOPS times in a row and MIN_LOOP_WORDS in all, or
    most of a text in runs of four words that stood there before."""
    said = row.output
    if same := re.search(rf"([^\s\-=_*.~#|+])\1{{{MAX_SAME_CHARACTERS},}}", said):
        return f"{same[1]!r} {len(same[0])} times in a row"
    words = text.words(said)
    for size in range(1, min(MAX_LOOP_RUN, len(words) // LOOPS) + 1):
        times = _in_a_row(words, size)
        if times >= LOOPS and times * size >= MIN_LOOP_WORDS:
            return f"a run of {size} words, {times} times in a row"
    grams = text.ngrams(words, 4)
    if len(words) >= 2 * MIN_LOOP_WORDS and len(set(grams)) < len(grams) / 2:
        return (
            f"{1 - len(set(grams)) / len(grams):.0%} of its runs of four words stood there before"
        )
    return ""


def _in_a_row(words: Sequence[str], size: int) -> int:
    """How often at most a run of `size` words is followed by itself."""
    most = same = 0
    for a, b in zip(words, words[size:], strict=False):
        same = same + 1 if a == b else 0
        most = max(most, same)
    return 1 + most // size if most >= size else 1


# ---- what a model says in place of an answer


def refusal(row: Row) -> str:
    """An answer that says that it is none."""
    found = refusals.non_answer(row.output)
    return f"it says {found[:60]!r}" if found else ""


# ---- what belongs to a prompt, not to a text

_MARKS = re.compile(
    r"""
    <\|[^|<>\s]{1,40}\|>
    | </?s> | <(?:bos|eos|pad|unk|mask|sep|cls)> | \[/?INST\] | <</?SYS>> | </?(?:start
        |end)_of_turn>
    | ^[ \t]*\#{2,}[ ]*(?:instruction|input|output|response|question|answer|human|assistant
        |user|system)s?[ ]*:?[ ]*$
    | ^[ \t]*(?:\*\*)?(?:human|assistant|user|system|bot|ai|gpt|пользователь|ассистент|用户
        |助手)(?:\*\*)?[ ]*[:：]
    | ^[ \t]*(?:\*\*)?(?:instruction|input|output|response|task|инструкция|задание|ввод|вывод
        |ответ|指令|输入|输出)(?:\*\*)?(?:[ ]*\d+)?[ ]*[:：]
    | ^[ \t]*(?:q|a)[ ]?[:：](?:[ ]|$)
    | ^[ \t]*question[ ]*[:：][^\n]*\n+[ \t]*answer[ ]*[:：]
    """,
    re.VERBOSE | re.IGNORECASE | re.MULTILINE,
)
_QUESTION = re.compile(r"^[ \t]*(?:q|question)[ ]?[:：]", re.IGNORECASE | re.MULTILINE)


def format_break(row: Row) -> str:
    """Marks of a prompt or of a chat template in an instruction or an output. A mark that the
    instruction or input has may be asked for, as an answer's is where a question's stands."""
    asked = f"{row.instruction}\n{row.input}"
    for name, said, before in (("output", row.output, asked), ("instruction", row.instruction, "")):
        for found in _MARKS.finditer(said):
            mark = found[0].strip()
            is_answer = mark[:1] in "QqAa" and len(mark) <= 3 and _QUESTION.search(asked)
            if not is_answer and mark.casefold() not in before.casefold():
                return f"the {name} holds {mark[:40]!r}"
    return ""


def copies(row: Row) -> str:
    """An output that is the input or the instruction, character by character but for white space,
    or begins with all of it and adds little. To add a comma or a capital may be the task."""
    output = text.exact(row.output)
    for name, said in (("input", row.input), ("instruction", row.instruction)):
        held = text.exact(said)
        more = len(text.words(output)) - len(text.words(held))
        begins = output.startswith(held) and more <= max(1, len(text.words(held)) // 10)
        if len(text.words(held)) >= MIN_INSTRUCTION_WORDS and begins and held:
            return f"it is the {name}"
    return ""


def options(row: Row) -> str:
    """An answer that is none of the options that the row or its text lists, nor one's label."""
    listed = row.options or contents.listed_options(f"{row.instruction}\n{row.input}")
    if not listed:
        return ""
    said = text.normalise(row.output, answer=True)
    labels = [*map(chr, range(97, 97 + len(listed))), *map(str, range(1, len(listed) + 1))]
    forms = [text.normalise(option, answer=True) for option in listed]
    if said in forms or said in labels or any(f and text.contains(row.output, f) for f in forms):
        return ""
    first = re.match(
        r"\W*(?:option |answer |вариант |ответ )?\W*(\w)(?:[).:]|\W*$)", row.output, re.IGNORECASE
    )
    if first and first[1].casefold() in labels:
        return ""
    return f"it is none of {len(listed)} options"


# ---- words that are not wanted


@functools.cache
def _unsafe(words: tuple[str, ...]) -> re.Pattern:
    forms = {form for w in words for form in (text.normalise(w), loose.loose(w)) if form}
    parts = sorted(map(re.escape, forms), key=len, reverse=True)
    return re.compile(rf"(?<!\w)(?:{'|'.join(parts)})(?!\w)")


def shipped_unsafe_words() -> tuple[str, ...]:
    """The list that comes with itx: slurs and obscenities, of which a user's own takes the
    place."""
    held = resources.files("itx.create").joinpath("unsafe_words.txt").read_text("utf-8")
    return unsafe_words_of(held)


def unsafe_words_of(held: str) -> tuple[str, ...]:
    lines = (line.partition("#")[0].strip() for line in held.splitlines())
    return tuple(filter(None, lines))


def unsafe(words: tuple[str, ...]) -> Filter:
    """A filter of whole words of a list, whatever their case, with letters that look alike."""
    if not words:
        return lambda row: ""

    def found(row: Row) -> str:
        said = text.normalise(contents.without_disguise(row.whole))
        hit = _unsafe(words).search(said)
        return "a word of the list" if hit else ""

    return found


# ---- all of them


def every(
    languages: Sequence[str] = (), unsafe_words: tuple[str, ...] | None = None
) -> dict[str, Filter]:
    """{name: filter}, in the order in which a row is dropped by them.

    languages: codes such as en and ru that a text may be in; (): any.
    """
    listed = shipped_unsafe_words() if unsafe_words is None else unsafe_words
    return {
        "empty": empty,
        "truncated": truncated,
        "length": length,
        "language": contents.language(tuple(languages)),
        "repetition": repetition,
        "refusal": refusal,
        "format": format_break,
        "personal": lambda row: contents.personal(row.whole),
        "code": lambda row: contents.code(row.output),
        "address": lambda row: contents.address(row.output),
        "unsafe": unsafe(listed),
        "copies": copies,
        "options": options,
    }


def chosen(every: dict[str, Filter], without: Sequence[str]) -> dict[str, Filter]:
    """All filters but those named; UserError for a name that is none."""
    for name in without:
        check_known(name, every, f"no filter is called {name!r}")
    left = {name: f for name, f in every.items() if name not in without}
    if not left:
        raise UserError("no filter is left")
    return left


def verdicts(row: Row, filters: dict[str, Filter]) -> dict[str, str]:
    """What each filter found, of those that found something. A row of very many characters is read
    by none: its length is its flaw."""
    size = sum(map(len, row.texts))
    if size > MAX_CHARACTERS:
        return {"length": f"{size:,} characters, more than are read"}
    return {name: found for name, f in filters.items() if (found := f(row))}
