# SPDX-License-Identifier: Apache-2.0
"""Which rows of a version are kept, by a score, and the random arm beside them.

Many selectors are no better than chance at the same budget (Xia et al., 2024, arXiv:2410.09335;
Ivison et al., 2025, arXiv:2503.01807). So no selection stands alone: with each goes a random arm of
as many tokens, and what a score is worth is what training on it gives beyond that.

    ifd        how much less an answer is to be expected without its question: exp of the difference
               of its mean loss with the question and without; those from 1 on are misfits, of the
               others the highest are kept (Li et al., 2023, arXiv:2308.12032)
    diversity  the farthest row from all that were taken, again and again (k-center, Sener and
               Savarese, 2018, arXiv:1708.00489), by the model's own states (eval/states.py)
    judge      a generator's grade; judge_pairs: pairs of rows, in both orders (judge.py)
    length     words of the output: the baseline that others must beat (Zhao et al., 2024,
               arXiv:2402.04833)
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from itx import hashing, text
from itx.create.judge import Grades
from itx.create.row import Row
from itx.data.vocabulary import Vocabulary
from itx.eval import states
from itx.eval.runner import Runner

BY_MODEL, BY_JUDGE, BY_RULE = ("ifd", "diversity"), ("judge", "judge_pairs"), ("length",)
SELECTORS = (*BY_MODEL, *BY_JUDGE, *BY_RULE)
Prompt = Callable[[Row], list[int]]  # the ids that a model reads before a row's output


class Chosen(NamedTuple):
    """Numbers of rows, the best first, and of the random arm; why each other row is not chosen."""

    rows: list[int]
    random: list[int]
    why_not: dict[int, str]


def ifd(runner: Runner, vocabulary: Vocabulary, prompt: Prompt, rows: Sequence[Row]) -> Grades:
    """Instruction-following difficulty of each row; None for one whose output has no token, or that
    has no room in the model's context."""
    loaded = runner.loaded
    outputs = [vocabulary.encode(row.output) for row in rows]
    prompts = [prompt(row) for row in rows]
    # alone an answer begins a text, which BOS tells, or the end of the one before
    alone = [] if loaded.head or loaded.model.architecture == "encoder_decoder" else [loaded.eos_id]
    room = loaded.context or math.inf
    fits = [i for i, o in enumerate(outputs) if o and len(prompts[i]) + len(o) + 2 <= room]
    asked = [p for i in fits for p in (prompts[i], alone)]
    answers = [[outputs[i]] for i in fits for _ in range(2)]
    scored = [s[0] for s in runner.rank(asked, answers, eos=False)]
    scores: list[float | None] = [None] * len(rows)
    for n, i in enumerate(fits):
        with_question, without = (-s["logprob"] / s["tokens"] for s in scored[2 * n : 2 * n + 2])
        scores[i] = math.exp(min(with_question - without, 700.0))
    missing = len(rows) - len(fits)
    notes = {"no score: no room in the model's context, or no output": missing} if missing else {}
    return Grades(scores, notes)


def diversity(
    runner: Runner, vocabulary: Vocabulary, rows: Sequence[Row], keep: int, seed: int
) -> Grades:
    """A row's score is how early it is taken: the first one has as many as are kept, the last one
    1; None for those that are not taken."""
    ids = [vocabulary.encode(f"{row.asked}\n{row.output}") for row in rows]
    order = k_center(states.vectors(runner.loaded, ids), keep, seed)
    scores: list[float | None] = [None] * len(rows)
    for place, i in enumerate(order):
        scores[i] = float(keep - place)
    return Grades(scores, {})


def k_center(vectors: np.ndarray, keep: int, seed: int) -> list[int]:
    """The numbers of `keep` vectors [n, e] of length 1: the first is drawn, each further one has
    the greatest distance to the nearest that was taken (of equal ones the first)."""
    taken = [hashing.draw(seed, "center") % len(vectors)]
    nearest = np.full(len(vectors), np.inf)
    while len(taken) < min(keep, len(vectors)):
        nearest = np.minimum(nearest, 1.0 - vectors @ vectors[taken[-1]])
        nearest[taken[-1]] = -np.inf
        taken.append(int(nearest.argmax()))
    return taken


def lengths(rows: Sequence[Row]) -> Grades:
    return Grades([float(len(text.words(row.output))) for row in rows], {})


def chosen(
    by: str, scores: Sequence[float | None], sizes: Sequence[int], keep: int, seed: int
) -> Chosen:
    """The rows with the highest scores, and a random arm of as many tokens.

    Args:
        sizes: tokens of each row.
    """
    why_not = {i: f"{by}: no score" for i, s in enumerate(scores) if s is None}
    usable = [i for i, s in enumerate(scores) if s is not None]
    if by == "ifd":
        why_not |= {i: f"ifd: {scores[i]:.3f}, not below 1" for i in usable if scores[i] >= 1}
    usable = [i for i in usable if i not in why_not]
    # of equal scores those that are drawn first
    ranked = sorted(usable, key=lambda i: (-scores[i], hashing.draw(seed, "tie", i)))
    why_not |= {i: f"{by}: {scores[i]:.3f} is too low" for i in ranked[keep:]}
    rows = ranked[:keep]
    return Chosen(rows, random_arm(sizes, sum(sizes[i] for i in rows), seed), why_not)


def random_arm(sizes: Sequence[int], tokens: int, seed: int) -> list[int]:
    """Rows of all, in an order that is drawn, until they have so many tokens: the last one is taken
    if the sum comes nearer with it. No row is passed over for its length."""
    order = sorted(range(len(sizes)), key=lambda i: hashing.draw(seed, "random arm", i))
    taken, total = [], 0
    for i in order:
        if abs(total + sizes[i] - tokens) > abs(total - tokens):
            break
        taken.append(i)
        total += sizes[i]
    return taken
