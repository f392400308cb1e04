# SPDX-License-Identifier: Apache-2.0
"""What `itx loop` says of its rounds: each beside the best before it, what was changed, what that
cost, and what was forgotten."""

import functools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from itx import storage
from itx.analysis import choices, compare, features, paired, sweep
from itx.analysis.compare import Scored
from itx.errors import RunFailed
from itx.eval import predictions, safety, tables
from itx.eval.predictions import PredictionLine
from itx.runs import RunFolder

OF_SLICE = ("pairs", "difference", "interval", "p", "over", "verdict")
OF_LOSS = ("slice", "pairs", "difference", "interval", "holm")
SCORE, PROBABILITY = "score", "probability of the right option"  # what a round is judged on
OF_CHANGE = ("changes", "counts", "reasons", "left_out")  # of a refinement's manifest


class Aim(TypedDict):
    """What an action was about."""

    why: str
    tasks: list[str]
    conditions: list[str]


def score(run: Path) -> float | None:
    """Of trained tasks on dev."""
    steps = compare.scored_steps(RunFolder(run))
    return sweep.dev_score(RunFolder(run), steps[-1]) if steps else None


def beside(first: str, other: str, acted: list[Aim]) -> dict[str, Any]:
    """A run beside another on the dev questions of trained tasks; "on", the same on the questions
    that each of the actions in between was about, p adjusted for them all (Holm); of all groups
    those that got worse after Holm, and the drop that each could have hidden with a probability of
    one in five: "worse": [slice], "smallest": {group: difference, None where nothing tells}.
    "untold": why an action has no questions of its own here.

    "better": the verdict over all tasks is; or that on the questions of an action is, and no group
    got worse. What an action mends is little of all that is asked: over all, its gain is seldom
    told from chance.
    """
    facts = compare.facts([first, other])
    label = tables.label(sweep.GROUP, "")
    (slices,) = facts["paired"].values()
    asked = [s for s in slices if s["pairs"]]
    own = next((s for s in asked if s["slice"].startswith(label)), None)
    if own is None:
        raise RunFailed(f"{first} and {other} have no dev question in common")
    worse = [{k: s[k] for k in OF_LOSS} for s in asked if s["verdict"] == "worse"]
    untold: dict[str, str] = {}
    on = _on(first, other, acted, untold)
    mended = not worse and any(s["verdict"] == "better" for s in on)
    return {
        **{k: own[k] for k in OF_SLICE},
        "better": own["verdict"] == "better" or mended,
        "on": on,
        "untold": untold,
        "worse": worse,
        "smallest": {s["slice"]: s["smallest"] for s in asked},
    }


def _on(first: str, other: str, acted: list[Aim], untold: dict[str, str]) -> list[dict[str, Any]]:
    """Two runs on the dev questions of each action's tasks for which its conditions hold. These
    tasks are all that an action is about: left to chance is which examples were asked. Where
    options are ranked, the probability of the right one is compared as well as the score: of a few
    dozen questions it tells a change that no single answer shows.

    Args:
        untold: gets {action: why it has no questions of its own}: a condition cannot be told of a
            question, none of them is shared, or all are, which the verdict over all is about.
    """
    runs = (compare.scored(first), compare.scored(other))
    same = {n: r for n, r in compare.same_questions(*runs).items() if r["group"] == sweep.GROUP}
    read = functools.cache(predictions.read_whole)  # for each of the actions
    of = features.observations(same, functools.partial(read, runs[0].run, runs[0].step))
    tags = {row["task"]: row["tags"] for row in runs[0].lock["evaluation"]}
    known = {c.text: c.holds for c in features.every_condition(of, same, tags, Counter())}
    found = []
    for aim in acted:
        strange = [c for c in aim["conditions"] if c not in known]
        holds = np.isin([of.task_names[t] for t in of.tasks], aim["tasks"])
        for condition in aim["conditions"]:
            holds &= known.get(condition, True)
        if strange:
            untold[aim["why"]] = f"of a question it cannot be told: {'; '.join(strange)}"
        elif not holds.any():
            untold[aim["why"]] = "none of its questions is shared"
        elif holds.all():
            untold[aim["why"]] = "it is about all questions"
        else:
            places = np.flatnonzero(holds)
            keys = {(of.rows[i], of.lines[i]["content"], of.lines[i]["template"]) for i in places}
            found += _measured(
                aim["why"], same, [functools.partial(_those, read, r, keys) for r in runs]
            )
    tested = [s for s in found if s["pairs"]]
    for s, p in zip(tested, paired.holm([s["p"] for s in tested]), strict=True):
        s["holm"], s["verdict"] = p, paired.verdict(s["interval"], p, paired.MARGIN)
    return [{k: s[k] for k in ("measure", *OF_LOSS, "verdict")} for s in tested]


def _measured(
    why: str, same: dict[str, dict], sides: list[paired.ReadRow]
) -> Iterator[dict[str, Any]]:
    """Two runs on the same questions by score, and by probability on those that are ranked."""

    def believed(side: paired.ReadRow, row: str) -> list[PredictionLine]:
        return [{**x, "score": choices.right(x)} for x in side(row) if "rank" in x]

    by_probability = [functools.partial(believed, side) for side in sides]
    ranked = {n: {**r, "metric": "rank"} for n, r in same.items()}  # each line's own score counts
    for measure, rows, reads in ((SCORE, same, sides), (PROBABILITY, ranked, by_probability)):
        slices = [paired.Slice(why, list(rows))]
        for one in paired.compare(rows, tuple(reads), slices, estimated=paired.estimate_on):
            yield {"measure": measure, **one}


def _those(
    read: compare.Read, run: Scored, keys: set[tuple[str, str, str]], row: str
) -> list[PredictionLine]:
    lines = read(run.run, run.step, row)
    return [x for x in lines if (row, x["content"], x["template"]) in keys]


def kept(run: Path) -> dict[str, Any]:
    """Of a run's report: {"retention": {text: bits per byte}, "declined": {kind: share}}."""
    held = storage.read_object(RunFolder(run).report_json, absent={})
    texts = (held.get("retention") or {}).get("after", {})
    of_kinds = (held.get("safety") or {}).get("groups", [])
    return {
        "retention": {name: t["bits_per_byte"] for name, t in texts.items()},
        "declined": safety.declined_after(of_kinds),
    }


def changed(manifest: dict[str, Any]) -> dict[str, Any]:
    """What a refinement changed: settings, rows in and out of each task, actions by what they did,
    and why others were left out."""
    return {k: manifest[k] for k in OF_CHANGE}
