# SPDX-License-Identifier: Apache-2.0
"""Write the table of itx/analysis/README.md: how often the 95 % intervals hold the truth, how often
two equal runs are told apart, and what pairs save.

    uv run python -m tests.coverage_table [--simulations N]

Each simulation draws a world (clusters of tasks of examples, of a known mean accuracy), the scores
of a model in it, and the interval that scores.json would hold (`averages.averages`) or that
`itx compare` would print (`paired.estimate`). The truth is the mean over all clusters that might
have been drawn.
"""

import argparse
import math

import numpy as np
import scipy.stats

from itx.analysis import paired
from itx.eval import averages, stats
from tests.readme_figures import put

CLUSTERS, TASKS, EXAMPLES = (3, 5, 8, 16, 50), 2, 20
ACCURACIES = (0.1, 0.3, 0.5, 0.7, 0.9)
# standard deviations of how hard clusters, tasks and examples are, on the probit scale
HARD_CLUSTER, HARD_TASK, HARD_EXAMPLE = 0.5, 0.3, 1.0
SPREAD = math.sqrt(HARD_CLUSTER**2 + HARD_TASK**2 + HARD_EXAMPLE**2)
SLICES, RUN_PAIRS = 100, 200


def world(rng: np.random.Generator, clusters: int) -> np.ndarray:
    """How hard each example is [clusters, tasks, examples]."""
    shape = (clusters, TASKS, EXAMPLES)
    return (
        rng.normal(0, HARD_CLUSTER, (clusters, 1, 1))
        + rng.normal(0, HARD_TASK, (clusters, TASKS, 1))
        + rng.normal(0, HARD_EXAMPLE, shape)
    )


def scores(rng: np.random.Generator, hard: np.ndarray, accuracy: float, graded: bool) -> np.ndarray:
    """Of a model whose mean score over all worlds is `accuracy`: right or wrong, or the mean over
    four wordings, which vary as much as one example does."""
    skill = scipy.stats.norm.ppf(accuracy) * math.sqrt(SPREAD**2 + 1)
    tries = rng.normal(0, 1, (4 if graded else 1, *hard.shape))
    return (hard + tries < skill).mean(0)


def shipped(values: np.ndarray) -> tuple[float, float]:
    """The interval of scores.json for scores [clusters, tasks, examples] of one group."""
    rows, of_row = {}, {}
    for c, tasks in enumerate(values):
        for t, of_task in enumerate(tasks):
            name = f"{c}.{t}"
            low, high = stats.wilson(float(of_task.mean()), len(of_task))
            rows[name] = {
                "task": name, "cluster": str(c), "group": "instances", "chance": 0.0, "easy": False, "none_of_options": None,
                "interval": [low, high], "corrected_interval": [low, high], "score": float(of_task.mean()),
            }  # fmt: skip
            of_row[name] = of_task.tolist()
    (group,) = averages.averages(rows, of_row)
    return tuple(group["score_interval"])


def coverage(simulations: int) -> list[str]:
    rng = np.random.default_rng(0)
    rows = []
    for graded in (False, True):
        for clusters in CLUSTERS:
            cells = []
            for accuracy in ACCURACIES:
                intervals = [
                    shipped(scores(rng, world(rng, clusters), accuracy, graded))
                    for _ in range(simulations)
                ]
                held = np.mean([low <= accuracy <= high for low, high in intervals])
                width = np.mean([high - low for low, high in intervals])
                cells.append(f"{held:.1%} ({width:.2f})")
            kind = "graded" if graded else "binary"
            rows.append(f"| {kind} | {clusters} | " + " | ".join(cells) + " |")
            print(rows[-1], flush=True)
    head = "| scores | clusters | " + " | ".join(f"accuracy {a}" for a in ACCURACIES) + " |"
    return [head, "|" + "---|" * (len(ACCURACIES) + 2), *rows]


def difference(rng: np.random.Generator, clusters: int, gain: float = 0.0) -> np.ndarray:
    hard = world(rng, clusters)
    return scores(rng, hard, 0.5 + gain, False) - scores(rng, hard, 0.5, False)


def nested(values: np.ndarray) -> paired.Nested:
    return {
        f"{c}.{t}": (str(c), of_task)
        for c, tasks in enumerate(values)
        for t, of_task in enumerate(tasks)
    }


def equal_runs(simulations: int) -> str:
    """How many of RUN_PAIRS pairs of equal runs have a finding in any of SLICES slices."""
    rng = np.random.default_rng(1)
    pool = [
        paired.estimate(nested(difference(rng, int(rng.integers(2, 17)))))
        for _ in range(10 * simulations)
    ]
    held = np.mean([e.interval[0] <= 0 <= e.interval[1] for e in pool])
    found = 0
    for _ in range(RUN_PAIRS):
        some = [pool[i] for i in rng.integers(len(pool), size=SLICES)]
        adjusted = paired.holm([e.p for e in some])
        found += any(
            paired.verdict(e.interval, p, paired.MARGIN) in ("better", "worse")
            for e, p in zip(some, adjusted, strict=True)
        )
    return (
        f"Two equal runs: of {RUN_PAIRS} pairs with {SLICES} slices each {found} have any finding "
        f"({found / RUN_PAIRS:.1%}); the interval of a difference holds 0 in {held:.1%}."
    )


def saved(simulations: int) -> str:
    """How many examples a paired comparison needs of those that two samples would: 1 - correlation,
    and what it is."""
    rng = np.random.default_rng(2)
    hard = world(rng, 4 * simulations)
    first, other = (scores(rng, hard, a, False) for a in (0.5, 0.55))
    pairs = np.corrcoef(first.ravel(), other.ravel())[0, 1]
    apart = first.var() + other.var()
    together = (other - first).var()
    return (
        f"Pairs: the scores of two runs on one example correlate by {pairs:.2f} here, so that a "
        f"paired comparison should need {1 - pairs:.0%} of the examples of an unpaired one; by its "
        f"variance it needs {together / apart:.0%}."
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--simulations", type=int, default=1000)
    simulations = parser.parse_args().simulations
    text = [
        f"{simulations} simulations a cell, {TASKS} tasks a cluster, {EXAMPLES} examples a task; in brackets the mean width. "
        f"A cell's own standard error is about {100 * math.sqrt(0.05 * 0.95 / simulations):.1f} points.",
        "", *coverage(simulations), "", equal_runs(simulations), "", saved(simulations),
    ]  # fmt: skip
    command = f"uv run python -m tests.coverage_table --simulations {simulations}"
    put("coverage", command, "\n".join(text) + "\n")


if __name__ == "__main__":
    main()
