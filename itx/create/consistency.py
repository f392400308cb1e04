# SPDX-License-Identifier: Apache-2.0
"""Whether a model answers a row as it answers the row that it was made of.

The rows are those of a version whose operators keep the meaning (`preserving` in lineage.py). Each
and its parent are asked, the best token taken. An answer is right where it equals the row's output
(exact match); two answers are the same where they are equal after the one normaliser (itx/text.py).
Of options in another order the same answer is another label, so that there they are the same where
both are right, or name the same wrong option by its text; labels alone that are wrong are counted
as unknown.
"""

from collections.abc import Sequence
from typing import NamedTuple, TypedDict

from itx import text
from itx.create.generators import FAILED, Ask, Completion, request_for
from itx.create.row import Row
from itx.eval import metrics, stats

MAX_TOKENS = 64
RELABELLED = ("options",)  # operators after which the same answer may be another text


class Pair(NamedTuple):
    parent: Row
    row: Row
    operator: str


class Consistency(TypedDict):
    """Of an operator's pairs; shares are of those that are compared."""

    pairs: int
    without_answer: int
    unknown: int  # wrong labels of options in another order
    same: float
    interval: list[float]
    parent_right: float
    row_right: float
    lost: int  # right before and wrong now
    won: int


def measured(ask: Ask, pairs: Sequence[Pair], chat: bool) -> dict[str, Consistency]:
    """{operator: what its pairs say}, in the order in which operators come."""
    rows = list(dict.fromkeys(row for p in pairs for row in (p.parent, p.row)))
    answers = dict(
        zip(
            rows,
            ask([request_for(row.prompt, chat, ("\n\n",), max_tokens=MAX_TOKENS) for row in rows]),
            strict=True,
        )
    )
    groups = stats.grouped((p.operator, p) for p in pairs)
    return {name: _of(name, of, answers) for name, of in groups.items()}


def _right(row: Row, answer: Completion) -> bool:
    return metrics.SCORES["exact_match"]([row.output], answer.text) == 1.0


def _same(pair: Pair, a: Completion, b: Completion) -> bool | None:
    """Whether two answers are the same; None where that cannot be told."""
    right = _right(pair.parent, a), _right(pair.row, b)
    if any(right):
        return all(right)
    forms = [text.normalise(answer.text, answer=True) for answer in (a, b)]
    if pair.operator in RELABELLED and any(len(form) <= 1 for form in forms):
        return None
    return forms[0] == forms[1]


def _of(name: str, pairs: Sequence[Pair], answers: dict[Row, Completion]) -> Consistency:
    both = [(p, answers[p.parent], answers[p.row]) for p in pairs]
    answered = [x for x in both if FAILED not in (x[1].finish, x[2].finish)]
    told = [(x, same) for x in answered if (same := _same(*x)) is not None]
    right = [(_right(p.parent, a), _right(p.row, b)) for (p, a, b), _ in told]
    same = stats.mean(s for _, s in told)
    return Consistency(
        pairs=len(pairs),
        without_answer=len(pairs) - len(answered),
        unknown=len(answered) - len(told),
        same=same,
        interval=list(stats.wilson(same, len(told))),
        parent_right=stats.mean(r for r, _ in right),
        row_right=stats.mean(r for _, r in right),
        lost=sum(before and not now for before, now in right),
        won=sum(now and not before for before, now in right),
    )
