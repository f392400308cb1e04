# SPDX-License-Identifier: Apache-2.0
"""Which rates of a mixture score best on dev: the rates that are tried, what each source does to
the others, and which rates follow from that.

candidate  rates for the whole mixture: as the recipe has them, uniform, examples-proportional, with
           a temperature, and those that are proposed
source     a cluster, or a task where all are of one cluster. Left out, it keeps a thousandth of its
           rate, so that its own questions stay in the comparison
others     dev questions of all other sources: what they lose without a source it had taught them,
           what they gain it had cost them
proposed   a source's rate is doubled where the others are worse without it, halved where they are
           better, each after Holm over the sources. None of them: nothing is proposed

Rates are written as factors of the recipe's (`data.rate_factors`), so that all runs read the same
cache. The tasks are all that a mixture is about, and what is left to chance is which examples were
asked and the seed: `again`, the recipe with another seed, shows how much the latter does.
"""

import functools
from collections.abc import Collection
from pathlib import Path
from typing import Any

from itx.analysis import compare, paired, sweep
from itx.data.types import Lock
from itx.errors import RunFailed
from itx.eval import predictions

AS_IT_IS, AGAIN, PROPOSED = "as it is", "again, another seed", "proposed"
LEFT_OUT_FACTOR = 1e-3  # of the rate of a source that is left out; 0 would take its questions away
FACTOR = 2.0  # by which a proposed rate is higher or lower
TEMPERATURE = 2.0  # rates go by examples to the power of 1 / TEMPERATURE
MIN_CHANGE = 0.01  # of a task's rate, as a share: candidates that differ by less are one

Factors = dict[str, float]  # task -> factor of its rate


def _trained(lock: Lock, beside: Collection[str]) -> dict[str, tuple[str, float, int]]:
    """{task: (cluster, rate, examples)} of the mixture's tasks that are trained on.

    Args:
        beside: variants that are trained on beside the mixture, whose shares stay.
    """
    found: dict[str, tuple[str, float, int]] = {}
    for entry in lock["tasks"]:
        if entry["name"] not in beside and entry["rate"] and entry["examples"]:
            cluster, rate, examples = found.get(entry["task"], (entry["cluster"], 0.0, 0))
            examples = max(examples, entry["examples"])  # its variants render the same ones
            found[entry["task"]] = (cluster, rate + entry["rate"], examples)
    return found


def sources(lock: Lock, beside: Collection[str]) -> dict[str, list[str]]:
    """{source: its tasks}, the largest rate first."""
    trained = _trained(lock, beside)
    clusters = {cluster for cluster, _, _ in trained.values()}
    found: dict[str, list[str]] = {}
    for task, (cluster, _, _) in trained.items():
        found.setdefault(cluster if len(clusters) > 1 else task, []).append(task)
    rate = {s: sum(trained[t][1] for t in tasks) for s, tasks in found.items()}
    return {s: found[s] for s in sorted(found, key=lambda s: (-rate[s], s))}


def candidates(lock: Lock, beside: Collection[str]) -> tuple[dict[str, Factors], dict[str, str]]:
    """({candidate: factors}, {candidate that is one of the others: which})."""
    trained = _trained(lock, beside)
    wanted = {
        "uniform": dict.fromkeys(trained, 1.0),
        "examples-proportional": {t: float(n) for t, (_, _, n) in trained.items()},
        f"temperature {TEMPERATURE:g}": {
            t: n ** (1 / TEMPERATURE) for t, (_, _, n) in trained.items()
        },
    }
    share = sum(rate for _, rate, _ in trained.values())
    found: dict[str, Factors] = {AS_IT_IS: {}}
    same: dict[str, str] = {}
    for name, weights in wanted.items():
        whole = sum(weights.values())
        own = {t: weights[t] / whole * share / rate for t, (_, rate, _) in trained.items()}
        if twin := next((n for n, other in found.items() if _alike(own, other)), None):
            same[name] = twin
        else:
            found[name] = own
    return found, same


def _alike(first: Factors, other: Factors) -> bool:
    pairs = [(first.get(t, 1.0), other.get(t, 1.0)) for t in first.keys() | other.keys()]
    return all(abs(a / b - 1) < MIN_CHANGE for a, b in pairs)


def without(tasks: list[str]) -> Factors:
    return dict.fromkeys(tasks, LEFT_OUT_FACTOR)


def override(factors: Factors, own: tuple[tuple[str, float], ...]) -> str:
    """The setting that multiplies the rates a recipe has by factors.

    Args:
        own: the recipe's data.rate_factors.
    """
    held = dict(own)
    both = {t: held.get(t, 1.0) * factors.get(t, 1.0) for t in held.keys() | factors.keys()}
    return "--data.rate_factors=" + ",".join(f"{task},{f!r}" for task, f in sorted(both.items()))


# ---- what the runs say


def beside(first: Path, others: dict[str, Path]) -> dict[str, dict[str, Any]]:
    """{candidate: it beside the recipe as it is, on dev questions of trained tasks}, p adjusted for
    all of them."""
    found = {name: _compared(first, run, {"all": None})["all"] for name, run in others.items()}
    return dict(zip(found, _adjusted(list(found.values())), strict=True))


def effects(
    first: Path, runs: dict[str, Path], tasks: dict[str, list[str]]
) -> list[dict[str, Any]]:
    """[{"source", "others", "own"}]: how the dev questions of the other sources and of a source's
    own fare without it; p of "others" adjusted for all sources.

    Args:
        runs: {source: the run without it}. tasks: {source: its tasks}.
    """
    found = []
    for source, run in runs.items():
        mine = frozenset(tasks[source])
        found.append(
            {
                "source": source,
                **_compared(first, run, {"others": (mine, False), "own": (mine, True)}),
            }
        )
    for effect, others in zip(found, _adjusted([f["others"] for f in found]), strict=True):
        effect["others"] = others
    return found


def proposed(found: list[dict[str, Any]], tasks: dict[str, list[str]]) -> Factors:
    """{} where no source is told to matter to the others."""
    by_verdict = {"worse": FACTOR, "better": 1 / FACTOR}
    return {
        task: by_verdict[effect["others"]["verdict"]]
        for effect in found
        if effect["others"]["verdict"] in by_verdict
        for task in tasks[effect["source"]]
    }


Part = tuple[frozenset[str], bool] | None  # tasks, and whether theirs or all others; None: all


def _compared(first: Path, other: Path, parts: dict[str, Part]) -> dict[str, dict[str, Any]]:
    """A run beside another on parts of their dev questions; RunFailed where a part has none."""
    sides = (compare.scored(str(first)), compare.scored(str(other)))
    same = {n: r for n, r in compare.same_questions(*sides).items() if r["group"] == sweep.GROUP}
    slices = [
        paired.Slice(
            name, [n for n, r in same.items() if part is None or (r["task"] in part[0]) == part[1]]
        )
        for name, part in parts.items()
    ]
    read = functools.cache(predictions.read_whole)
    reads = tuple(functools.partial(read, run.run, run.step) for run in sides)
    made = paired.compare(same, reads, slices, estimated=paired.estimate_on)
    for one in made:
        if not one["pairs"]:
            raise RunFailed(f"{first} and {other} share no dev question of {one['slice']} tasks")
    return {one["slice"]: one for one in made}


def _adjusted(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Slices with p adjusted for each other, and the verdicts that follow."""
    ps = paired.holm([s["p"] for s in found])
    return [
        {**s, "holm": p, "verdict": paired.verdict(s["interval"], p, paired.MARGIN)}
        for s, p in zip(found, ps, strict=True)
    ]
