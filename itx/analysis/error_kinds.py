# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a wrong answer, by rule: the first kind that fits.

empty                nothing that shows
cut                  the limit of new tokens ended it
answer not found     the pattern of the task's target does not occur; `right answer not found`: the
                     right answer stands in it all the same
right answer, wrong form   more was said than the answer: of the options only the right one is named
none of the options  it is no option, though there are some
another option       one of the wrong options
wrong script         written in another alphabet than the right answer
copied the input     five words or more, which stand so in the prompt
one word off         as many words as the right answer, one of them another: a field, a number
other                none of these
"""

from collections import Counter
from collections.abc import Iterable

from itx import text
from itx.eval import stats
from itx.eval.predictions import PredictionLine

KINDS = (
    "empty",
    "cut",
    "right answer not found",
    "answer not found",
    "right answer, wrong form",
    "another option",
    "none of the options",
    "wrong script",
    "copied the input",
    "one word off",
    "other",
)
# how an answer is wrong, whatever the model knows
OF_FORM = tuple(k for k in KINDS if k not in ("another option", "one word off", "other"))
MAX_WRONG_SCORE = 0.5  # a graded answer below it counts as wrong
MIN_COPIED_WORDS = 5
MAX_SHOWN = 3  # examples of a kind


def is_wrong(line: PredictionLine) -> bool:
    return line["score"] < MAX_WRONG_SCORE


def kind_of(line: PredictionLine) -> str:
    """The kind of a wrong answer. One that was ranked is another option, whatever was generated."""
    said, right = line["prediction"], line["references"]
    named = any(text.contains(said, r) for r in right)
    if "rank" in line and line["score"] == float(
        line["rank"]["choice"]["sum"] == line["answer_index"]
    ):
        if not line["scores"] or line["score"] not in line["scores"].values():
            return "another option"
    if text.blank(said):
        return "empty"
    if not line["finished"]:
        return "cut"
    if line["extracted"] is None:
        return "right answer not found" if named else "answer not found"
    if options := line["options"]:
        spoken = [o for o in options if text.contains(line["extracted"], o)]
        if named and all(o in right for o in spoken):
            return "right answer, wrong form"
        answered = text.normalise(line["extracted"], answer=True)
        if any(answered == text.normalise(o, answer=True) for o in options):
            return "another option"
        return "none of the options"
    if named:
        return "right answer, wrong form"
    scripts = {text.script(r) for r in right} - {""}
    if scripts and text.script(said) not in {*scripts, ""}:
        return "wrong script"
    words = text.words(said)
    if len(words) >= MIN_COPIED_WORDS and tuple(words) in text.ngrams(
        text.words(line["prompt"]), len(words)
    ):
        return "copied the input"
    if any(_one_off(words, text.words(r)) for r in right):
        return "one word off"
    return "other"


def _one_off(answered: list[str], right: list[str]) -> bool:
    pairs = list(zip(answered, right, strict=False))
    return len(answered) == len(right) > 1 and sum(a != r for a, r in pairs) == 1


def kinds(lines: Iterable[PredictionLine]) -> dict[str, int]:
    """{kind: wrong answers of it}, in the order of KINDS."""
    counts = Counter(kind_of(x) for x in lines if is_wrong(x))
    return {kind: counts[kind] for kind in KINDS if counts[kind]}


def by_task(tasks: Iterable[str], lines: Iterable[PredictionLine]) -> dict[str, dict]:
    """{task: {"answers", "wrong", "kinds"}}."""
    grouped = stats.grouped(zip(tasks, lines, strict=True))
    return {
        task: {
            "answers": len(own),
            "wrong": sum(map(is_wrong, own)),
            "kinds": kinds(own),
        }
        for task, own in sorted(grouped.items())
    }
