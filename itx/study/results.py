# SPDX-License-Identifier: Apache-2.0
"""What the runs of a study show: the measures of each run, the sides beside each other draw by
draw, and the slope along the sides that are numbers of something.

All statistics are over draws, which are what is repeated: the difference of two sides is taken in
each draw, and Student's t is over these differences. Few draws of few examples may agree by
chance: the error of a difference of scores is never below what the number of examples behind it
allows (`paired.largest_variance`). Of other measures that number says nothing; where the draws do
not differ the verdict is unresolved, and "reason" says so. A slope is fitted in each draw by least
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
ROUNDING = 1e-9  # by which values of draws differ that are the same but for rounding
ALIKE = "it is the same in every draw, which tells nothing of how far draws differ"

Values = dict[tuple[str, str], dict[str, float]]  # (side, draw): {measure: value}
Examples = Values  # the same, {measure: the effective number of examples behind a score}


class Difference(NamedTuple):
    """What a study tests: a number for each draw, which is 0 where nothing differs."""

    name: str
    measure: Measure
    values: list[float]  # of the draws in which both sides are done, in the order of the draws
    margin: float
    comparison: Comparison | None = None  # None: the slope
    is_foretold: bool = False  # whether what others found is about this measure
    scale: float = 1.0  # a value over it is a difference of two mean scores, between -1 and 1
    examples: tuple[float, ...] = ()  # behind each value, effectively; (): not known


# ---- of a run


def is_done(run: RunFolder, steps: int) -> bool:
    return run.report_json.is_file() and run.scores_json(steps).is_file()


def measured(run: RunFolder, config: RunConfig, measures: tuple[Measure, ...]) -> dict[str, float]:
    """{measure: its value} of a run that is done; RunFailed where the run does not have it."""
    scores = storage.read_object(run.scores_json(config.train.steps), "rows")["rows"]
    return {m.name: _of_run(run, m, config.eval.tasks, scores) for m in measures}


def examples(run: RunFolder, config: RunConfig, measures: tuple[Measure, ...]) -> dict[str, float]:
    """{measure of scores: as how many examples its value is sure}, of a run that is `measured`:
    their effective number (`stats.squared_weights`)."""
    scores = storage.read_object(run.scores_json(config.train.steps), "rows")["rows"]
    out = {}
    for m in (m for m in measures if m.kind == "score"):
        rows = _rows(m, config.eval.tasks, scores)[1].values()
        out[m.name] = 1 / stats.squared_weights((row["cluster"], row["examples"]) for row in rows)
    return out


def _rows(m: Measure, asked: tuple[str, ...], scores: dict) -> tuple[list[str], dict[str, dict]]:
    """The tasks that a measure reads, and the rows of scores.json that are there of them."""
    names = [name for name in asked if name.partition(":")[2] == m.variant]
    return names, {n: scores[f"{n}@eval"] for n in names if f"{n}@eval" in scores}


def _of_run(run: RunFolder, m: Measure, asked: tuple[str, ...], scores: dict) -> float:
    if m.kind == "text":
        held = storage.read_object(run.retention_json, "after")["after"]
        return stats.mean(of["bits_per_byte"] for of in held.values())
    names, rows = _rows(m, asked, scores)
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
    return {
        at: {m.name: stats.mean(of[m.name] for of in own) for m in study.measures}
        for at, own in _of_sides(study, of_runs).items()
    }


def examples_by_side(study: Study, of_runs: Examples) -> Examples:
    """`by_side` of effective numbers of examples, which a mean over arms adds up."""
    return {
        at: {name: len(own) ** 2 / sum(1 / of[name] for of in own) for name in own[0]}
        for at, own in _of_sides(study, of_runs).items()
    }


def _of_sides(study: Study, of_runs: Values) -> dict[tuple[str, str], list[dict[str, float]]]:
    """{(side, draw): what each arm of the side has} where all arms have it."""
    arms = stats.grouped((arm.compared_as, arm.name) for arm in study.arms)
    out = {}
    for side, names in arms.items():
        for draw in study.draws:
            own = [of_runs[name, draw.name] for name in names if (name, draw.name) in of_runs]
            if len(own) == len(names):
                out[side, draw.name] = own
    return out


def sides(study: Study, values: Values) -> list[dict[str, Any]]:
    """[{"side", "place"?, "line"?, "draws", "measures": {measure: {"mean", "interval" | None,
    "values": {draw: value}}}}] in the order of the arms. Draws that do not differ give no
    interval."""
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
            interval = stats.t_interval(numbers) if numbers and not _are_alike(numbers) else None
            measures[m.name] = {
                "mean": stats.mean(numbers) if numbers else None,
                "interval": interval and list(interval),
                "values": {draw: of[m.name] for draw, of in own.items()},
            }
        own_place = placed.get(side, {})
        out.append({"side": side, **own_place, "draws": len(own), "measures": measures})
    return out


def tests(study: Study, values: Values, examples: Examples) -> list[dict[str, Any]]:
    """[{"name", "measure", "kind", "first"?, "other"?, "draws", "values", "difference", "interval",
    "p", "holm", "smallest", "margin", "verdict", "reason"?, "expected"?, "source"?}]: each
    comparison, by its measure (which has "expected" and "source") and by those beside it, then the
    slope of each measure. From one draw nothing is computed; of draws that do not differ, without
    a known number of examples, the difference alone.

    Args:
        examples: behind the values of scores; where it lacks one, it is not known.
    """
    differences = [*_comparisons(study, values, examples), *_slopes(study, values, examples)]
    found = [_tested(d) for d in differences]
    known = [f for f in found if "p" in f]
    for f, adjusted in zip(known, paired.holm([f["p"] for f in known]), strict=True):
        f["holm"] = adjusted
        if f["draws"] >= MIN_SEEDS:
            f["verdict"] = paired.verdict(tuple(f["interval"]), adjusted, f["margin"])
    return found


def _behind(
    examples: Examples, measure: Measure, sides: list[str], draws: list[str]
) -> tuple[float, ...]:
    """The number of examples behind a value of each draw: of the side that has the fewest."""
    of = [[examples.get((s, d), {}).get(measure.name) for s in sides] for d in draws]
    known = [[n for n in row if n is not None] for row in of]
    return tuple(map(min, known)) if all(len(row) == len(sides) for row in known) else ()


def _comparisons(study: Study, values: Values, examples: Examples) -> list[Difference]:
    by_name = {m.name: m for m in study.measures}
    out = []
    for c in study.comparisons:
        first = by_name[c.measure] if c.measure else study.measures[0]
        beside = () if c.measure else study.measures[1:]
        for m in (first, *beside):
            sign = -1 if m.kind == "text" else 1  # fewer bits per byte are better
            sides = [c.first, c.other]
            draws = [d.name for d in study.draws if all((s, d.name) in values for s in sides)]
            pairs = [(values[c.first, d], values[c.other, d]) for d in draws]
            differences = [sign * (b[m.name] - a[m.name]) for a, b in pairs]
            behind = _behind(examples, m, sides, draws)
            name = f"{c.other} beside {c.first}"
            out.append(Difference(name, m, differences, m.within, c, m is first, examples=behind))
    return out


def _slopes(study: Study, values: Values, examples: Examples) -> list[Difference]:
    """Of each line with at least three places, in each draw that has them all."""
    out = []
    for line, places in study.lines().items():
        x = np.array([math.log2(p) if study.log else p for p in places.values()])
        draws = [d.name for d in study.draws if all((s, d.name) in values for s in places)]
        for m in study.measures if len(places) >= MIN_PLACES else ():
            sign = -1 if m.kind == "text" else 1
            ys = [np.array([values[side, d][m.name] for side in places]) for d in draws]
            slopes = [sign * float(np.polyfit(x, y, 1)[0]) for y in ys]
            name = f"slope of “{line}” {SLOPE_PER[study.log]} of {study.axis}"
            # all along the line as much as what makes two sides differ
            margin = m.within / float(np.ptp(x))
            # A slope weighs its values by numbers that add up to 0: those above 0 and those below
            # it make two means, whose difference times the weights above 0 is the slope.
            weights = (x - x.mean()) / float(np.square(x - x.mean()).sum())
            scale, behind = (
                float(weights[weights > 0].sum()),
                _behind(examples, m, [*places], draws),
            )
            out.append(Difference(name, m, slopes, margin, scale=scale, examples=behind))
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
    mean, n, least = stats.mean(d.values), len(d.values), _least_error(d)
    if _are_alike(d.values) and not least:
        return out | {"difference": mean, "reason": ALIKE}
    error = max(float(np.std(d.values, ddof=1)) / math.sqrt(n), least)
    found = paired.Estimate(mean, error, n - 1, "draws")
    half = stats.student(1 - paired.LEVEL / 2, n - 1) * error
    return out | {
        "difference": mean,
        "interval": [mean - half, mean + half],
        "p": found.p,
        "smallest": found.smallest,
    }


def _are_alike(values: list[float]) -> bool:
    return len(values) > 1 and float(np.ptp(values)) <= ROUNDING


def _least_error(d: Difference) -> float:
    """The standard error that the number of examples behind a difference of scores allows; 0 where
    it is not known. An example's answers, right or wrong, differ in a share of examples that is at
    least the difference of the two scores."""
    if not d.examples:
        return 0.0
    values = np.array(d.values) / d.scale
    n = len(values) ** 2 / sum(1 / of for of in d.examples)
    variance = paired.largest_variance(float(np.abs(values).mean()), float(values.mean()), n)
    return d.scale * math.sqrt(variance / n)
