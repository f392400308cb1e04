# SPDX-License-Identifier: Apache-2.0
"""What the runs of a study show: the measures of each run, the sides beside each other draw by
draw, and the slope along the sides that are numbers of something.

All statistics are over draws, which are what is repeated: the difference of two sides is taken in
each draw, and Student's t is over these differences. A slope is fitted in each draw by least
squares. p is adjusted for all that the study tests (Holm), and the verdict is that of
`itx compare`: better, worse, equivalent (within the measure's margin) or unresolved. Better means a
larger number of bits or a higher score, and of text fewer bits per byte.

From fewer than MIN_SEEDS draws nothing is claimed: the verdict is unresolved.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from itx import storage
from itx.analysis import paired
from itx.analysis.compare import MIN_SEEDS
from itx.config import RunConfig
from itx.errors import RunFailed
from itx.eval import stats
from itx.runs import RunFolder
from itx.study.spec import Comparison, Measure, Study

AGAINST = "swapped"  # the instruction of another task over the same inputs
SLOPE_PER = {False: "for each further one", True: "for each doubling"}
MIN_PLACES = 3  # of a line, from which on a slope is fitted

Values = dict[tuple[str, str], dict[str, float]]  # (side, draw): {measure: value}


class Difference(NamedTuple):
    """What a study tests: a number for each draw, which is 0 where nothing differs."""

    name: str
    measure: Measure
    values: list[float]  # of the draws in which both sides are done, in the order of the draws
    margin: float
    comparison: Comparison | None = None  # None: the slope
    is_foretold: bool = False  # whether what others found is about this measure


# ---- of a run


def is_done(run: RunFolder, steps: int) -> bool:
    return run.report_json.is_file() and run.scores_json(steps).is_file()


def measured(run: RunFolder, config: RunConfig, measures: tuple[Measure, ...]) -> dict[str, float]:
    """{measure: its value} of a run that is done; RunFailed where the run does not have it."""
    scores = storage.read_object(run.scores_json(config.train.steps), "rows")["rows"]
    return {m.name: _of_run(run, m, config.eval.tasks, scores) for m in measures}


def _of_run(run: RunFolder, m: Measure, asked: tuple[str, ...], scores: dict) -> float:
    if m.kind == "text":
        held = storage.read_object(run.retention_json, "after")["after"]
        return stats.mean(of["bits_per_byte"] for of in held.values())
    names = [name for name in asked if name.partition(":")[2] == m.variant]
    rows = {n: scores[f"{n}@eval"] for n in names if f"{n}@eval" in scores}
    if m.kind == "score":
        found = {n: row["score"] for n, row in rows.items()}
    else:
        held = storage.read_object(run.information_json, "after")["after"]
        found = {n: stats.mean(held[n][AGAINST]) for n in rows if n in held and held[n][AGAINST]}
    if lacking := [n for n in names if found.get(n) is None] or not names:
        what = ", ".join(lacking) if names else "any task"
        raise RunFailed(f"{run.path}: no {m.kind} of {what}, which {m.name!r} reads")
    known = {n: (rows[n]["cluster"], value) for n, value in found.items()}
    return float(np.mean(list(stats.cluster_means(known).values())))


def tokens(run: RunFolder) -> int:
    """That a run trains on, from its audit."""
    mixture = storage.read_object(run.audit_json, "mixture")["mixture"]
    return mixture["input_tokens"] + mixture["target_tokens"]


# ---- of the study


def by_side(study: Study, of_runs: Values) -> Values:
    """{(side, draw): means over the side's arms} of sides all of whose arms are done in a draw.

    Args:
        of_runs: {(arm, draw): {measure: value}}.
    """
    arms = stats.grouped((arm.compared_as, arm.name) for arm in study.arms)
    out: Values = {}
    for side, names in arms.items():
        for draw in study.draws:
            own = [of_runs[name, draw.name] for name in names if (name, draw.name) in of_runs]
            if len(own) == len(names):
                measures = {m.name: stats.mean(of[m.name] for of in own) for m in study.measures}
                out[side, draw.name] = measures
    return out


def sides(study: Study, values: Values) -> list[dict[str, Any]]:
    """[{"side", "place"?, "line"?, "draws", "measures": {measure: {"mean", "interval" | None,
    "values": {draw: value}}}}] in the order of the arms."""
    placed = {
        side: {"place": place, "line": line}
        for line, places in study.lines().items()
        for side, place in places.items()
    }
    out = []
    for side in study.sides:
        own = {d.name: values[side, d.name] for d in study.draws if (side, d.name) in values}
        measures = {}
        for m in study.measures:
            numbers = [of[m.name] for of in own.values()]
            interval = stats.t_interval(numbers) if numbers else None
            measures[m.name] = {
                "mean": stats.mean(numbers) if numbers else None,
                "interval": interval and list(interval),
                "values": {draw: of[m.name] for draw, of in own.items()},
            }
        own_place = placed.get(side, {})
        out.append({"side": side, **own_place, "draws": len(own), "measures": measures})
    return out


def tests(study: Study, values: Values) -> list[dict[str, Any]]:
    """[{"name", "measure", "kind", "first"?, "other"?, "draws", "values", "difference", "interval",
    "p", "holm", "smallest", "margin", "verdict", "expected"?, "source"?}]: each comparison, by its
    measure (which has "expected" and "source") and by those beside it, then the slope of each
    measure. From one draw nothing is computed."""
    differences = [*_comparisons(study, values), *_slopes(study, values)]
    found = [_tested(d) for d in differences]
    known = [f for f in found if "p" in f]
    for f, adjusted in zip(known, paired.holm([f["p"] for f in known]), strict=True):
        f["holm"] = adjusted
        if f["draws"] >= MIN_SEEDS:
            f["verdict"] = paired.verdict(tuple(f["interval"]), adjusted, f["margin"])
    return found


def _comparisons(study: Study, values: Values) -> list[Difference]:
    by_name = {m.name: m for m in study.measures}
    out = []
    for c in study.comparisons:
        first = by_name[c.measure] if c.measure else study.measures[0]
        beside = () if c.measure else study.measures[1:]
        for m in (first, *beside):
            sign = -1 if m.kind == "text" else 1  # fewer bits per byte are better
            pairs = [
                (values.get((c.first, d.name)), values.get((c.other, d.name))) for d in study.draws
            ]
            differences = [sign * (b[m.name] - a[m.name]) for a, b in pairs if a and b]
            name = f"{c.other} beside {c.first}"
            out.append(Difference(name, m, differences, m.within, c, m is first))
    return out


def _slopes(study: Study, values: Values) -> list[Difference]:
    """Of each line with at least three places, in each draw that has them all."""
    out = []
    for line, places in study.lines().items():
        x = np.array([math.log2(p) if study.log else p for p in places.values()])
        for m in study.measures if len(places) >= MIN_PLACES else ():
            slopes = []
            for d in study.draws:
                y = [values[side, d.name][m.name] for side in places if (side, d.name) in values]
                if len(y) == len(x):
                    sign = -1 if m.kind == "text" else 1
                    slopes.append(sign * float(np.polyfit(x, np.array(y), 1)[0]))
            name = f"slope of “{line}” {SLOPE_PER[study.log]} of {study.axis}"
            # all along the line as much as what makes two sides differ
            out.append(Difference(name, m, slopes, m.within / float(np.ptp(x))))
    return out


def _tested(d: Difference) -> dict[str, Any]:
    out: dict[str, Any] = {
        "name": d.name,
        "measure": d.measure.name,
        "kind": d.measure.kind,
        "draws": len(d.values),
        "values": d.values,
        "margin": d.margin,
        "verdict": "unresolved",
    }
    if c := d.comparison:
        out |= {"first": c.first, "other": c.other}
        out |= {"expected": c.expected, "source": c.source} if d.is_foretold else {}
    if len(d.values) < 2:
        return out
    mean, n = stats.mean_of(d.values), len(d.values)
    error = float(np.std(d.values, ddof=1)) / math.sqrt(n)
    smallest = paired.Estimate(mean.mean, error, n - 1, "draws").smallest
    return out | {
        "difference": mean.mean,
        "interval": list(mean.interval),
        "p": mean.p,
        "smallest": smallest,
    }
