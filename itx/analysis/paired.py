# SPDX-License-Identifier: Apache-2.0
"""Two runs on the same questions: by how much one is better, and how sure that is.

pairs       an example that both were asked, in the templates that both were asked it in; its score
            is the mean over these
difference  other - first, the mean over examples, then tasks, then clusters, as scores are averaged
interval    95 %, Student's t over the means of the highest level that has two members: clusters,
            else tasks, else examples. Examples of one cluster share what makes it hard, so that
            counting each for itself would claim too much (Cameron and Miller, 2015, “A
            practitioner's guide to cluster-robust inference”). Never narrower than the share of
            differing pairs allows: where none of a few differs nothing varies, which proves little
unknown     an answer that was cut at its limit, or in which none could be found, and that scored
            below 1: it might have been anything from 0 to 1. The interval reaches from the low end
            with all of these at their worst to the high end with all at their best
holm        p, adjusted for all slices that stand in one table (Holm, 1979)
smallest    the smallest difference that would be found with 80 % probability
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from itx.eval import stats, summary
from itx.eval.predictions import PredictionLine

LEVEL, POWER = 0.05, 0.80
MARGIN = 0.05  # of the score, within which two runs count as equivalent
LENGTH_RATIO = 1.25  # of the longer to the shorter answer of a pair that is matched in length


class Pair(NamedTuple):
    """One example, asked of both runs."""

    difference: float
    worst: float  # with unknown answers of the other run at 0, and of the first at 1
    best: float
    unknown: int  # answers, of both, that might have scored otherwise
    matched: bool  # whether the answers are about equally long


Nested = dict[str, tuple[str, np.ndarray]]  # task: (cluster, a value of each example)


class Estimate(NamedTuple):
    mean: float
    error: float | None  # standard error; None: nothing to learn it from
    df: int
    over: str  # clusters, tasks or examples: what the error is taken over

    @property
    def interval(self) -> tuple[float, float]:
        """95 %; the whole range of a difference of scores where there is no error."""
        if self.error is None:
            return -1.0, 1.0
        half = stats.student(1 - LEVEL / 2, self.df) * self.error
        return max(-1.0, self.mean - half), min(1.0, self.mean + half)

    @property
    def p(self) -> float:
        """Two-sided, of no difference."""
        return stats.two_sided(self.mean / self.error, self.df) if self.error else 1.0

    @property
    def smallest(self) -> float | None:
        """The difference that is found with probability POWER."""
        if self.error is None:
            return None
        quantiles = (stats.student(q, self.df) for q in (1 - LEVEL / 2, POWER))
        return sum(quantiles) * self.error


def estimate(values: Nested) -> Estimate:
    """Differences between -1 and 1, averaged over tasks, then clusters."""
    tasks = {task: (cluster, float(v.mean())) for task, (cluster, v) in values.items()}
    clusters = stats.cluster_means(tasks)
    every = np.concatenate([v for _, v in values.values()])
    levels = {
        "clusters": list(clusters.values()),
        "tasks": [mean for _, mean in tasks.values()],
        "examples": every.tolist(),
    }
    over = next((name for name, units in levels.items() if len(units) > 1), "examples")
    units, mean = levels[over], float(np.mean(list(clusters.values())))
    if len(units) < 2:
        return Estimate(mean, None, 0, over)
    error = float(np.std(units, ddof=1)) / math.sqrt(len(units))
    spread = _spread(every)
    weights = stats.squared_weights((cluster, len(v)) for cluster, v in values.values())
    return Estimate(mean, max(error, math.sqrt(spread * weights)), len(units) - 1, over)


def estimate_on(values: Nested) -> Estimate:
    """Differences averaged over tasks that are all there are: what is left to chance is which
    examples of them were asked. Degrees of freedom by Welch and Satterthwaite."""
    parts = [v for _, v in values.values()]
    mean = float(np.mean([v.mean() for v in parts]))
    every = np.concatenate(parts)
    if len(every) < 2:
        return Estimate(mean, None, 0, "examples")
    least = _spread(every)  # one task's own examples may all be alike
    variances = [(max(float(v.var(ddof=1)), least) if len(v) > 1 else 1.0) / len(v) for v in parts]
    error = math.sqrt(sum(variances)) / len(parts)
    df = sum(variances) ** 2 / sum(
        x * x / max(1, len(v) - 1) for x, v in zip(variances, parts, strict=True)
    )
    return Estimate(mean, error, max(1, int(df)), "examples")


def _spread(differences: np.ndarray) -> float:
    """`largest_variance` of the differences of examples."""
    square, mean = float(np.square(differences).mean()), float(differences.mean())
    return largest_variance(square, mean, len(differences))


def largest_variance(square: float, mean: float, n: float) -> float:
    """The largest variance of a difference between -1 and 1 that Wilson's interval of their mean
    square allows, the mean growing with it.

    Args:
        square, mean: of n differences.
    """
    square = min(1.0, square)
    ends = stats.wilson(square, n)
    return max(s - (mean * s / square) ** 2 if square else s for s in (square, *ends))


def holm(ps: list[float]) -> list[float]:
    """p values adjusted for how many there are, in their order."""
    adjusted, largest = [0.0] * len(ps), 0.0
    for rank, i in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[i]))
        adjusted[i] = largest
    return adjusted


def verdict(interval: tuple[float, float], adjusted: float, margin: float) -> str:
    """better, worse, equivalent or unresolved: the other run, beside the first."""
    low, high = interval
    if adjusted <= LEVEL and low > 0:
        return "better"
    if adjusted <= LEVEL and high < 0:
        return "worse"
    return "equivalent" if -margin < low and high < margin else "unresolved"


# ---- of predictions


def pairs(row: dict, first: list[PredictionLine], other: list[PredictionLine]) -> list[Pair]:
    """Of the examples that both runs were asked.

    Args:
        row: what scores.json holds of it.
    """
    of_other = {(line["id"], line["template"]): line for line in other}
    shared = [line for line in first if (line["id"], line["template"]) in of_other]
    if not shared:
        return []
    answered = [shared, [of_other[line["id"], line["template"]] for line in shared]]
    # an option is chosen, and a whole set is scored, whatever becomes of single answers
    judged = row["metric"] != "rank" and "set_metric" not in row
    sides = [_examples(row, lines, judged) for lines in answered]
    return [_pair(a, b) for a, b in zip(*sides, strict=True)]


class _Example(NamedTuple):
    score: float
    least: float  # it may have scored, were its unknown answers wrong
    most: float
    unknown: int
    characters: float  # of an answer


def _examples(row: dict, lines: list[PredictionLine], judged: bool) -> list[_Example]:
    scores, found = summary.example_scores(row, lines), []
    by_example = stats.grouped((line["id"], line) for line in lines).values()
    for score, own in zip(scores, by_example, strict=True):
        unknown = [line["score"] for line in own if judged and _is_unknown(line)]
        least = score - sum(unknown) / len(own)
        most = score + sum(1 - x for x in unknown) / len(own)
        characters = stats.mean(len(line["prediction"]) for line in own)
        found.append(_Example(score, least, most, len(unknown), characters))
    return found


def _pair(first: _Example, other: _Example) -> Pair:
    short, long = sorted((first.characters, other.characters))
    return Pair(
        other.score - first.score,
        other.least - first.most,
        other.most - first.least,
        first.unknown + other.unknown,
        long <= LENGTH_RATIO * short,
    )


def _is_unknown(line: PredictionLine) -> bool:
    return line["score"] < 1 and (not line["finished"] or line["extracted"] is None)


ReadRow = Callable[[str], list[PredictionLine]]  # name of a row -> its predictions


class Slice(NamedTuple):
    """Rows whose pairs are compared together."""

    name: str
    rows: list[str]


def compare(
    rows: dict[str, dict],
    sides: tuple[ReadRow, ReadRow],
    slices: list[Slice],
    margin: float = MARGIN,
    estimated: Callable[[Nested], Estimate] = estimate,
) -> list[dict]:
    """[{"slice", "pairs", "tasks", "clusters", "difference", "interval", "over", "p", "holm",
    "smallest", "unknown", "matched_difference", "matched_pairs", "verdict"}], in the order of the
    slices; one without a pair has "pairs" alone.

    Args:
        rows: what the first run's scores.json holds of the rows that asked the same of both.
        sides: what gives the predictions of a row, of the first run and of the other.
        estimated: `estimate`, or `estimate_on` where the slices' tasks are all there are.
    """
    found: list[dict] = []
    of_row: dict[str, list[Pair]] = {}
    for s in slices:
        of_task: dict[str, tuple[str, list[Pair]]] = {}
        for name in (n for n in s.rows if n in rows):
            row = rows[name]
            if name not in of_row:
                of_row[name] = pairs(row, *(read(name) for read in sides))
            of_task.setdefault(row["task"], (row["cluster"], []))[1].extend(of_row[name])
        of_task = {task: (c, some) for task, (c, some) in of_task.items() if some}
        found.append({"slice": s.name, "pairs": sum(len(some) for _, some in of_task.values())})
        if of_task:
            found[-1] |= _compared(of_task, estimated)
    tested = [f for f in found if f["pairs"]]
    for f, adjusted in zip(tested, holm([f["p"] for f in tested]), strict=True):
        f["holm"], f["verdict"] = adjusted, verdict(f["interval"], adjusted, margin)
    return found


def _compared(
    of_task: dict[str, tuple[str, list[Pair]]], estimated: Callable[[Nested], Estimate]
) -> dict:
    def nested(key: str, matched: bool = False) -> Nested:
        values = {
            task: (c, np.array([getattr(p, key) for p in some if p.matched or not matched]))
            for task, (c, some) in of_task.items()
        }
        return {task: (c, v) for task, (c, v) in values.items() if v.size}

    plain, matched = estimated(nested("difference")), nested("difference", matched=True)
    return {
        "tasks": len(of_task),
        "clusters": len({c for c, _ in of_task.values()}),
        "difference": plain.mean,
        "interval": [
            min(plain.interval[0], estimated(nested("worst")).interval[0]),
            max(plain.interval[1], estimated(nested("best")).interval[1]),
        ],
        "over": plain.over,
        "p": plain.p,
        "smallest": plain.smallest,
        "unknown": sum(p.unknown for _, some in of_task.values() for p in some),
        "matched_difference": estimated(matched).mean if matched else None,
        "matched_pairs": sum(len(v) for _, v in matched.values()),
    }
