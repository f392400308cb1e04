# SPDX-License-Identifier: Apache-2.0
"""A grid of runs: which there are, how each scored on held-in dev examples, and which settings are
chosen.

The choice looks at one group alone: new examples of the trained tasks (`instances`), of the split
`validation`. Runs that differ only in seeds are repeats of one choice, and their mean counts.
"""

import itertools
from typing import Any, NamedTuple, get_origin
from urllib.parse import quote

from itx import storage
from itx.config import fields_by_name
from itx.errors import UserError
from itx.runs import RunFolder

GROUP = "instances"  # new examples of trained tasks
SPLIT = "validation"
SEEDS = ("train.seed", "data.seed", "data.suite_seed")  # their values are repeats, not choices
# settings whose values leave the data, and so the lock, as they are; what begins so, too
OF_NO_DATA = ("optim.", "train.seed", "train.z_loss", "train.label_smoothing")


class Point(NamedTuple):
    """One run of a grid: a value for each axis."""

    values: dict[str, str]  # {setting: value as it was typed}

    @property
    def name(self) -> str:
        """What its folder is called."""
        pairs = (f"{n}={quote(v, safe='')}" for n, v in self.values.items())
        return "+".join(pairs) or "alone"

    @property
    def overrides(self) -> list[str]:
        return [f"--{n}={v}" for n, v in self.values.items()]

    @property
    def choice(self) -> str:
        """What is chosen: the values without the seeds."""
        return ", ".join(f"{n}={v}" for n, v in self.values.items() if n not in SEEDS)

    @property
    def data(self) -> tuple[tuple[str, str], ...]:
        """The values that may shape the data: runs with the same ones share a lock."""
        return tuple(x for x in self.values.items() if not x[0].startswith(OF_NO_DATA))


def grid(overrides: list[str]) -> tuple[list[Point], list[str]]:
    """(the runs, in the order of what was typed, what is the same in all of them). A setting with
    several values between commas is an axis, unless its value is itself a list."""
    fields, axes, fixed = fields_by_name(), {}, []
    for text in overrides:
        name, _, value = text.removeprefix("--").partition("=")
        field = fields.get(name)
        is_list = field is not None and get_origin(field.type) in (tuple, dict)
        if field is None or is_list or "," not in value:
            fixed.append(text)
            continue
        values = value.split(",")
        twice = next((v for i, v in enumerate(values) if v in values[:i]), None)
        if twice is not None or not all(values):
            what = f"{twice!r} stands there twice" if twice else "a value is empty"
            raise UserError(f"--{name}={value}: {what}")
        axes[name] = values
    if not axes:
        raise UserError(
            "a sweep needs a setting with several values, as in --optim.learning_rate=1e-4,3e-4"
        )
    combined = itertools.product(*axes.values())
    return [Point(dict(zip(axes, values, strict=True))) for values in combined], fixed


def dev_score(run: RunFolder, step: int) -> float | None:
    """The score that counts, of a run that is done; None where it is not done. UserError where the
    file is damaged, or nothing of the trained tasks was scored."""
    if not run.report_json.is_file() or not run.scores_json(step).is_file():
        return None
    scores = storage.read_object(run.scores_json(step), "split", "groups")
    found = [g["score"] for g in scores["groups"] if g["group"] == GROUP]
    if scores["split"] != SPLIT or not found or found[0] is None:
        raise UserError(
            f"{run.path}: no {SPLIT} examples of its trained tasks are scored, and a sweep chooses "
            "by them alone"
        )
    return found[0]


def choose(points: list[Point], scores: dict[str, float]) -> list[dict[str, Any]]:
    """[{"choice", "mean", "least", "most", "runs", "of", "chosen", "tied"}], one for each
    combination of values other than seeds, the best first. Only combinations all of whose runs are
    done can be chosen.

    Args:
        scores: {name of a run that is done: its score}.
    """
    rows = []
    for choice in dict.fromkeys(p.choice for p in points):
        own = [p for p in points if p.choice == choice]
        values = [scores[p.name] for p in own if p.name in scores]
        rows.append(
            {
                "choice": choice or "(seeds alone differ)",
                "mean": sum(values) / len(values) if values else None,
                "least": min(values, default=None),
                "most": max(values, default=None),
                "runs": len(values),
                "of": len(own),
                "chosen": False,
                "tied": False,  # with another choice: of several the first that was typed
            }
        )
    rows.sort(key=lambda r: (r["runs"] < r["of"], -(r["mean"] or 0.0)))
    if rows[0]["runs"] == rows[0]["of"]:
        rows[0]["chosen"] = True
        rows[0]["tied"] = any(
            r["mean"] == rows[0]["mean"] and r["runs"] == r["of"] for r in rows[1:]
        )
    return rows


def curves(points: list[Point], scores: dict[str, float]) -> dict[str, Any]:
    """{"axis", "values", "lines": {label: [[scores of a value's runs], …]}}: the first axis that is
    no seed along the picture, a line for each combination of the others."""
    axes = [n for n in points[0].values if n not in SEEDS]
    axis = axes[0] if axes else next(iter(points[0].values))
    values = list(dict.fromkeys(p.values[axis] for p in points))
    lines: dict[str, list[list[float]]] = {}
    for p in points:
        others = ", ".join(f"{n}={v}" for n, v in p.values.items() if n in axes and n != axis)
        line = lines.setdefault(others or "score", [[] for _ in values])
        if p.name in scores:
            line[values.index(p.values[axis])].append(scores[p.name])
    return {"axis": axis, "values": values, "lines": lines}
