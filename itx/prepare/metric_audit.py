# SPDX-License-Identifier: Apache-2.0
"""What a task's metrics forgive and what they let pass, on its own answers (`itx tasks check`).

A metric is good if writing the right answer in another form costs nothing (EDITS), and if a wrong
answer never counts as right (WRONG). Neither is so for every metric by its nature: `exact_string`
is there to see the case, `contains` passes an answer that says several things. So both are counted
and shown; only a metric that passes an empty answer, or one that says nothing, is a fault.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable

from itx import text
from itx.eval import metrics

MOST_ANSWERS = 20  # of a task that are tried
WIDE = {c: c + 0xFEE0 for c in range(0x21, 0x7F)}  # ASCII -> its full-width form
NUMBER = re.compile(r"[-+]?\d+(\.\d+)?")

# What a careful reader would call the same answer. "" where a form makes no sense for an answer.
EDITS: dict[str, Callable[[str], str]] = {
    "case": str.swapcase,
    "final stop": lambda a: f"{a}.",
    "bold": lambda a: f"**{a}**",
    "code": lambda a: f"`{a}`",
    "quotes": lambda a: f"“{a}”",
    "brackets": lambda a: f"({a})",
    "white space": lambda a: f"\n  {a.replace(' ', '  ')}\t\n",
    "full width": lambda a: a.translate(WIDE).replace(" ", "\u3000"),
    "decomposed": lambda a: unicodedata.normalize("NFD", a),
    "article": lambda a: f"the {a}" if a.isascii() and a.replace(" ", "").isalpha() else "",
    "unit": lambda a: f"{a} km" if NUMBER.fullmatch(a) else "",
    "thousands separators": lambda a: f"{int(a):,}" if re.fullmatch(r"\d{4,}", a) else "",
}
# (a right answer, another example's) -> a wrong one. "" where it would be right.
WRONG: dict[str, Callable[[str, str], str]] = {
    "nothing": lambda a, other: " ",
    "a refusal": lambda a, other: "I cannot say",
    "another example's": lambda a, other: other,
    "both": lambda a, other: f"{a} or {other}",
    "the denial": lambda a, other: f"not {a}",
    "a longer word": lambda a, other: f"{a}x" if a[-1:].isalpha() else "",
    "a longer number": lambda a, other: f"{a}0" if NUMBER.fullmatch(a) else "",
    "the next number": lambda a, other: f"{int(a) + 1}" if re.fullmatch(r"-?\d+", a) else "",
    "the other sign": lambda a, other: f"-{a}" if re.fullmatch(r"[1-9]\d*", a) else "",
    "all but the last word": lambda a, other: " ".join(a.split()[:-1]),
    "the words turned round": lambda a, other: " ".join(a.split()[::-1]),
    "the answer twice": lambda a, other: f"{a} {a}",
}
NEVER = ("nothing", "a refusal")  # what no metric may pass

Counts = dict[str, list[int]]  # {edit or wrong answer: [answers tried, of these scored 1]}


def audit(name: str, answers: list[list[str]]) -> dict[str, Counts]:
    """{"edits", "wrong": counts} of a metric.

    Args:
        answers: the references of some examples.
    """
    judge = metrics.per_example(name)
    found: dict[str, Counts] = {"edits": {}, "wrong": {}}

    def note(kind: str, what: str, references: list[str], said: str) -> None:
        tried = found[kind].setdefault(what, [0, 0])
        tried[0] += 1
        tried[1] += judge(references, said) >= 1

    for i, references in enumerate(answers[:MOST_ANSWERS]):
        right = references[0]
        for what, edited in EDITS.items():
            if (said := edited(right)) and said != right and judge(references, right) >= 1:
                note("edits", what, references, said)
        other = _another(answers, i)
        for what, spoilt in WRONG.items():
            said = spoilt(right, other) if other else ""
            if said and _key(said) not in map(_key, references):
                note("wrong", what, references, said)
    return found


def _another(answers: list[list[str]], i: int) -> str:
    """An answer that is right for another example and wrong for this one; "" for none."""
    right = {_key(r) for r in answers[i]}
    others = (a[0] for a in [*answers[i + 1 :], *answers[:i]])
    return next((a for a in others if _key(a) not in right and not text.blank(a)), "")


def _key(answer: str) -> str:
    return text.normalise(answer, answer=True)


def problems(name: str, found: dict[str, Counts]) -> list[str]:
    """Wrong answers that no metric may pass."""
    passed = {what: found["wrong"].get(what, [0, 0])[1] for what in NEVER}
    return [
        f"the metric {metrics.shown(name)} gives 1 to {what} in {n} of "
        f"{found['wrong'][what][0]} examples"
        for what, n in passed.items()
        if n
    ]


def line(name: str, found: dict[str, Counts]) -> str:
    """`accuracy: 11 of 12 harmless edits keep the score (article does not); 9 of 9 wrong answers
    stay wrong`"""
    edits, wrong = found["edits"], found["wrong"]
    lost = [what for what, (tried, kept) in edits.items() if kept < tried]
    passed = [what for what, (_, kept) in wrong.items() if kept]
    parts = [
        f"{len(edits) - len(lost)} of {len(edits)} harmless edits keep the score{_named(lost)}",
        f"{len(wrong) - len(passed)} of {len(wrong)} wrong answers stay wrong{_named(passed)}",
    ]
    return f"metric {metrics.shown(name)}: {'; '.join(parts)}"


def _named(exceptions: Iterable[str]) -> str:
    listed = ", ".join(exceptions)
    return f" (but not: {listed})" if listed else ""
