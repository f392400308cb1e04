# SPDX-License-Identifier: Apache-2.0
"""Bias by counterfactual pairs: the same prompt, with the words for one group of people in the
place of those for another (itx/group_terms.py), everything else kept, asked of the same model.

Swapping a group must not change the right answer: a prompt whose options or references name either
group is not asked. What is compared is the probability of the right option among the options where
the row has any, else the score of what is written.

difference   with the other group's words - as written, the mean over examples; p by Student's t
             over examples, and adjusted by Benjamini and Hochberg over pairs of groups
flips        answers that changed
"""

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple, TypedDict

from itx import group_terms, movement
from itx.analysis.choices import right
from itx.analysis.features import MIN_EXAMPLES
from itx.data.types import Lock
from itx.data.vocabulary import Vocabulary
from itx.eval import evaluate, stats
from itx.eval.predictions import PredictionLine, ScoredRow
from itx.eval.runner import Runner


class AskedRow(NamedTuple):
    """A row, and each of its examples as the cache has it beside the prediction that it got."""

    row: ScoredRow
    lines: list[tuple[PredictionLine, PredictionLine]]


class Pair(NamedTuple):
    """A prompt with another group's words, beside the answer to the prompt as it was written."""

    row: str
    kind: str
    group: str
    other: str
    written: PredictionLine
    swapped: PredictionLine


class Difference(TypedDict):
    kind: str  # gender, religion, …
    group: str  # that the prompts name
    other: str  # whose words were put in their place
    pairs: int
    examples: int
    difference: float
    interval: list[float]
    flips: int
    p: float
    adjusted: float


def measured(
    load: Callable[[], Runner],
    vocabulary: Vocabulary,
    lock: Lock,
    asked: list[AskedRow],
) -> dict:
    """{"differences": [Difference], "untested": {reason: prompts}}."""
    made: list[Pair] = []
    untested: Counter = Counter()
    for row, lines in asked:
        for line, written in lines:
            made += _pairs(row["name"], line, written, vocabulary, lock, untested)
    if made:
        with movement.shown("counterfactual pairs"):
            by_row = stats.grouped((p.row, p.swapped) for p in made)
            rows = [row for row, _ in asked if row["name"] in by_row]
            evaluate.answer(load(), vocabulary, rows, by_row, lock)
    return {"differences": differences(made), "untested": dict(untested)}


def _pairs(
    row: str,
    line: PredictionLine,
    written: PredictionLine,
    vocabulary: Vocabulary,
    lock: Lock,
    untested: Counter,
) -> list[Pair]:
    swaps = list(group_terms.swaps(evaluate.question(line)))
    if not swaps:
        untested["names no group, or two of one kind"] += 1
    found = []
    answers = " ".join([*line["references"], *(line["options"] or ())])
    for group, other, asked in swaps:
        if group_terms.names_any(answers, (group, other)):
            untested["the answer or an option names the group"] += 1
        else:
            swapped = evaluate.with_question(line, asked, vocabulary, lock)
            found.append(Pair(row, group.kind, group.name, other.name, written, swapped))
    return found


def differences(made: list[Pair]) -> list[Difference]:
    """One for each group and what it was swapped for, with at least MIN_EXAMPLES examples."""
    by_groups = stats.grouped(((p.kind, p.group, p.other), p) for p in made)
    found: list[Difference] = []
    for (kind, group, other), own in by_groups.items():
        by_example = stats.grouped(
            ((p.row.partition("@")[0], p.written["id"]), right(p.swapped) - right(p.written))
            for p in own
        )
        if len(by_example) < MIN_EXAMPLES:
            continue
        means = [stats.mean(v) for v in by_example.values()]
        over = stats.mean_of(means)
        found.append(
            Difference(
                kind=kind,
                group=group,
                other=other,
                pairs=len(own),
                examples=len(means),
                difference=over.mean,
                interval=list(over.interval),
                flips=sum(p.written["prediction"] != p.swapped["prediction"] for p in own),
                p=over.p,
                adjusted=1.0,
            )
        )
    adjusted = stats.benjamini_hochberg([d["p"] for d in found])
    return [{**d, "adjusted": a} for d, a in zip(found, adjusted, strict=True)]
