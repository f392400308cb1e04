# SPDX-License-Identifier: Apache-2.0
"""A generator as judge of rows: a grade of each, or pairs of rows in both orders.

A judge that prefers whatever stands first says so in both orders: such a pair is a draw, and the
share of them is told (Zheng et al., 2023, arXiv:2306.05685, on the bias of position). What it
answers and cannot be read is no grade, and is counted.
"""

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from itx import hashing
from itx.create.generators import FAILED, MAX_SEED, Ask, Request, request_for
from itx.create.row import Row

MAX_GRADE = 10
OPPONENTS = 3  # of each row, drawn
MAX_TOKENS = 16
_GRADE = (
    "Below are a task and an answer to it. Grade how well the answer does what the task asks: "
    f"1 is useless, {MAX_GRADE} is right, complete and clear. Write only the number.\n\n{{}}\n\n"
    "Grade:"
)
_BETTER = (
    "Below are two tasks, each with an answer. Say which of the answers does better what its task "
    "asks. Write only A or B.\n\nA.\n{}\n\nB.\n{}\n\nBetter:"
)
_NUMBER = re.compile(r"(?<![\d.,-])(\d{1,2})(?![\d]|[.,]\d)")
_SIDE = re.compile(r"\W*(?:answer |option |response )?\(?([AB])\b")


class Grades(NamedTuple):
    """A score of each row, None where there is none; what was met besides."""

    scores: list[float | None]
    notes: dict[str, int]


def _shown(row: Row) -> str:
    return f"Task:\n{row.prompt}\n\nAnswer:\n{row.output}"


def _request(prompt: str, chat: bool, *place: object) -> Request:
    seed = hashing.draw("judge", *place) % (MAX_SEED + 1)
    return request_for(prompt, chat, ("\n",), max_tokens=MAX_TOKENS, seed=seed)


def grades(ask: Ask, rows: Sequence[Row], chat: bool, seed: int) -> Grades:
    """A grade from 1 to MAX_GRADE of each row."""
    requests = [_request(_GRADE.format(_shown(row)), chat, seed) for row in rows]
    scores: list[float | None] = []
    notes: Counter[str] = Counter()
    for answer in ask(requests):
        read = read_grade(answer.text)
        if answer.finish == FAILED:
            notes[f"no grade: {answer.error}"] += 1
        elif read is None:
            notes["no grade: the answer holds no number from 1 to 10"] += 1
        scores.append(None if answer.finish == FAILED else read)
    return Grades(scores, dict(notes))


def read_grade(said: str) -> float | None:
    """The first whole number of an answer, if it is a grade."""
    found = _NUMBER.search(said)
    return float(found[1]) if found and 1 <= int(found[1]) <= MAX_GRADE else None


def read_side(said: str) -> str | None:
    found = _SIDE.match(said)
    return found[1] if found else None


def pairs(n: int, seed: int) -> list[tuple[int, int]]:
    """Rows that meet: each in about 2 OPPONENTS pairs, which are drawn."""
    out: dict[tuple[int, int], None] = {}
    for turn in range(OPPONENTS):
        order = sorted(range(n), key=lambda i: hashing.draw(seed, "pair", turn, i))
        for a, b in zip(order, [*order[1:], *order[:1]], strict=True):
            if a != b:
                out.setdefault((min(a, b), max(a, b)))
    return list(out)


def compared(ask: Ask, rows: Sequence[Row], chat: bool, seed: int) -> Grades:
    """The share of its pairs that each row wins; a draw is half. Each pair is asked about twice,
    the second time turned round."""
    met = pairs(len(rows), seed)
    both = [(i, j) for a, b in met for i, j in ((a, b), (b, a))]
    prompts = [_BETTER.format(_shown(rows[i]), _shown(rows[j])) for i, j in both]
    answers = ask([_request(p, chat, seed) for p in prompts])
    won: dict[int, float] = dict.fromkeys(range(len(rows)), 0.0)
    of: Counter[int] = Counter()
    notes: Counter[str] = Counter()
    for n, (a, b) in enumerate(met):
        first, second = answers[2 * n : 2 * n + 2]
        sides = read_side(first.text), read_side(second.text)
        if FAILED in (first.finish, second.finish) or None in sides:
            notes["pairs without an answer that is A or B"] += 1
            continue
        of.update((a, b))
        winners = {"A": a, "B": b}[sides[0]], {"A": b, "B": a}[sides[1]]
        if winners[0] == winners[1]:
            won[winners[0]] += 1
            notes["pairs decided the same in both orders"] += 1
        else:
            won[a], won[b] = won[a] + 0.5, won[b] + 0.5
            notes["pairs decided by the order"] += 1
    scores = [won[i] / of[i] if of[i] else None for i in range(len(rows))]
    return Grades(scores, dict(sorted(notes.items())))
