# SPDX-License-Identifier: Apache-2.0
"""How sure a score is: which interval belongs to which number.

one task     Wilson, n = examples (an example in several templates counts once); a bootstrap over
             examples where the score is that of the whole set (BLEU, chrF)
an average   hierarchical bootstrap over cluster, task, example; t over clusters below 8 of them
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

Interval = tuple[float, float]
Key, Value = TypeVar("Key", bound=Hashable), TypeVar("Value")
LEVEL_95 = 1.959963984540054  # the normal distribution's 97.5 % point
TAIL_95 = 0.025  # on either side of a 95 % interval
# With fewer clusters a percentile bootstrap covers too little: 75 % at 3, 85 % at 5, 92 % at 10.
MIN_CLUSTERS = 8
RESAMPLES = 2000
POOL = 1000  # resampled means of each task


def grouped(pairs: Iterable[tuple[Key, Value]]) -> dict[Key, list[Value]]:
    """{key: its values}, in the order in which they come."""
    groups: dict[Key, list[Value]] = {}
    for key, value in pairs:
        groups.setdefault(key, []).append(value)
    return groups


def mean(values: Iterable[float]) -> float:
    """0 of none."""
    listed = [float(v) for v in values]
    return sum(listed) / len(listed) if listed else 0.0


def wilson(mean: float, n: float) -> Interval:
    """Wilson's score interval of a share (Wilson, 1927); also used for mean scores between 0 and
    1, and for an effective number of examples, which is no whole one."""
    if n == 0:
        return 0.0, 1.0
    z = LEVEL_95
    middle = (mean + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(mean * (1 - mean) / n + z * z / (4 * n * n))
    # At the ends the formula gives the end itself but for rounding; 0 of n must not read "above 0".
    low = 0.0 if mean <= 0.0 else float(middle - half)
    return low, 1.0 if mean >= 1.0 else float(middle + half)


def of_counts(counts: np.ndarray, score: Callable[[np.ndarray], float]) -> tuple[float, Interval]:
    """The score of a set whose examples' counts [n, k] add up, and its percentile interval over
    resampled examples.

    Of a single example nothing is known: (0, 1).
    """
    value, n = score(counts.sum(0)), len(counts)
    if n < 2:
        return value, (0.0, 1.0)
    rng = np.random.default_rng(0)
    return value, _percentiles(
        [score(counts[rng.integers(n, size=n)].sum(0)) for _ in range(RESAMPLES)]
    )


def _percentiles(resampled: Sequence[float]) -> Interval:
    low, high = np.quantile(resampled, [TAIL_95, 1 - TAIL_95])
    return float(low), float(high)


def influences(counts: np.ndarray, score: Callable[[np.ndarray], float]) -> list[float]:
    """What each example adds to such a score: numbers whose mean is the score, and whose spread is
    how sure it is (the jackknife; Efron and Tibshirani, 1993, chapter 11). So averages over tasks
    take them as they take examples' scores."""
    total, n = counts.sum(0), len(counts)
    if n < 2:
        return [score(total)] * n
    without = np.array([score(total - c) for c in counts])
    return (score(total) + (n - 1) * (without.mean() - without)).tolist()


def corrected(score: float, chance: float) -> float:
    """The score above chance as a share of what is possible above it; negatives are kept."""
    return (score - chance) / (1.0 - chance) if chance < 1.0 else 0.0


def lift(scores: Sequence[float], chance: float, mean: float) -> np.ndarray:
    """Scores - chance, as a share of the most that a row of this mean could be above chance, or
    below it: -1 where no answer is right, 1 where all are. Corrected scores say the same above
    chance, but reach far below -1 where chance is high, so that their spread over tasks hides that
    all of them are below it."""
    most = 1.0 - chance if mean >= chance else chance
    return (np.asarray(scores, float) - chance) / most if most else np.zeros(len(scores))


def student(quantile: float, df: float) -> float:
    """The quantile of Student's t with so many degrees of freedom."""
    from scipy.special import stdtrit

    return float(stdtrit(df, quantile))


class Mean(NamedTuple):
    """The mean of at least two values and how sure it is, by Student's t."""

    mean: float
    interval: Interval  # 95 %
    p: float  # two-sided, of a true mean of 0


def mean_of(values: Sequence[float]) -> Mean:
    x = np.asarray(values, float)
    mean, error, df = float(x.mean()), float(x.std(ddof=1)) / len(x) ** 0.5, len(x) - 1
    half = student(1 - TAIL_95, df) * error
    p = two_sided(mean / error, df) if error else float(mean == 0)
    return Mean(mean, (mean - half, mean + half), p)


def two_sided(t: float, df: float) -> float:
    """p of a value of Student's t at least as far from 0."""
    from scipy.special import stdtr

    return float(2 * stdtr(df, -abs(t)))


def sign_test(one: int, other: int) -> float:
    """Exact two-sided p of so many changes either way, if both ways were as likely: of paired yes
    and no McNemar's test (1947); 1 without a change."""
    from scipy.stats import binomtest

    return float(binomtest(one, one + other).pvalue) if one + other else 1.0


def benjamini_hochberg(ps: Sequence[float]) -> list[float]:
    """p values adjusted so that those at most q are false in a share q at most (Benjamini and
    Hochberg, 1995), in their order."""
    adjusted, least = [1.0] * len(ps), 1.0
    order = sorted(range(len(ps)), key=ps.__getitem__)
    for rank in range(len(ps), 0, -1):
        i = order[rank - 1]
        least = min(least, ps[i] * len(ps) / rank)
        adjusted[i] = least
    return adjusted


def t_interval(values: Sequence[float]) -> Interval | None:
    """Student's interval of a mean; None for fewer than two values."""
    return mean_of(values).interval if len(values) > 1 else None


def welch(first: Sequence[float], other: Sequence[float]) -> tuple[float, list[float]]:
    """(mean of `other` - mean of `first`, its 95 % interval), of at least two values each with
    variances of their own (Welch, 1947)."""
    x, y = (np.asarray(v, float) for v in (first, other))
    parts = [v.var(ddof=1) / len(v) for v in (x, y)]
    mean, variance = float(y.mean() - x.mean()), float(sum(parts))
    if not variance:
        return mean, [mean, mean]
    df = variance**2 / sum(p**2 / (len(v) - 1) for p, v in zip(parts, (x, y), strict=True))
    half = student(1 - TAIL_95, df) * variance**0.5
    return mean, [mean - half, mean + half]


def cluster_means(tasks: dict[str, tuple[str, float]]) -> dict[str, float]:
    """{task: (cluster, score)} -> {cluster: mean over its tasks}, clusters in order of name."""
    scores = grouped(tasks.values())
    return {cluster: float(np.mean(scores[cluster])) for cluster in sorted(scores)}


def bootstrap(clusters: Sequence[Sequence[np.ndarray]], samples: int = RESAMPLES) -> Interval:
    """Percentile interval of the mean over clusters of the mean over tasks of the mean over
    examples.

    Each resample draws clusters, in each drawn cluster tasks, in each drawn task examples.

    Args:
        clusters: for each cluster its tasks' scores per example (corrected for chance already).
    """
    rng = np.random.default_rng(0)
    pools = [[_resampled_means(np.asarray(t, float), rng) for t in tasks] for tasks in clusters]
    drawn = rng.integers(len(clusters), size=(samples, len(clusters)))
    values = np.empty(drawn.shape)
    for c, pool in enumerate(pools):
        chosen = drawn == c
        shape = (int(chosen.sum()), len(pool))
        means = np.stack(pool)[rng.integers(len(pool), size=shape), rng.integers(POOL, size=shape)]
        values[chosen] = means.mean(1)
    return _percentiles(values.mean(1))


def _resampled_means(scores: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return scores[rng.integers(len(scores), size=(POOL, len(scores)))].mean(1)


def squared_weights(sizes: Iterable[tuple[str, int]]) -> float:
    """The sum of the squared weights that examples have in an average over tasks, then clusters;
    its inverse is their effective number (Kish, 1965, "Survey Sampling").

    Args:
        sizes: (cluster, number of examples) of each task.
    """
    by_cluster = grouped(sizes)
    return sum(1 / n / (len(ns) * len(by_cluster)) ** 2 for ns in by_cluster.values() for n in ns)


def average(tasks: dict[str, tuple[str, np.ndarray]], most: float = 1.0) -> dict:
    """{task: (cluster, corrected scores per example)} -> the average over tasks, then clusters.
    `most` is what no example can exceed.

    Returns {"mean", "interval" | None, "method", "tasks", "clusters": {name: mean}}.
    """
    if not tasks:
        return {"mean": None, "interval": None, "method": "none", "tasks": 0, "clusters": {}}
    means = cluster_means({t: (c, float(np.mean(s))) for t, (c, s) in tasks.items()})
    out = {"mean": float(np.mean(list(means.values()))), "tasks": len(tasks), "clusters": means}
    if len(means) >= MIN_CLUSTERS:
        grouped = [[s for _, (c, s) in sorted(tasks.items()) if c == name] for name in means]
        return {
            **out,
            "interval": list(bootstrap(grouped)),
            "method": "hierarchical bootstrap",
        }
    interval = t_interval(list(means.values()))
    interval = interval and (interval[0], min(most, interval[1]))
    method = "t over clusters" if interval else "a single cluster: no interval"
    return {**out, "interval": list(interval) if interval else None, "method": method}
