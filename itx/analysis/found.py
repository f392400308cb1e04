# SPDX-License-Identifier: Apache-2.0
"""What `itx analyze` found in a run, as the commands that act on it read it: its findings, their
actions, and the training examples that a finding speaks of."""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from itx import storage
from itx.analysis import actions, features
from itx.analysis.actions import Action, ActionExample
from itx.analysis.analyze import Finding
from itx.analysis.suspects import Suspect
from itx.data import cache
from itx.data import lock as locks
from itx.data.types import Lock
from itx.errors import UserError, did_you_mean
from itx.runs import RunFolder, open_run, read_lock, step_of


class Found(NamedTuple):
    """An analysis of a run."""

    run: RunFolder
    lock: Lock
    file: Path
    held: dict  # what analysis.json holds (analyze.py)
    actions: list[Action]

    @property
    def suspects(self) -> dict[tuple[str, str], Suspect]:
        """{(task, content): the training example whose label is doubted}."""
        judged = (self.held["suspects"] or {}).get("suspects", ())
        return {(s["task"], s["content"]): s for s in judged}


def read(path: str, step: int | None) -> Found:
    """The newest analysis of a run, or that of a step; UserError where there is none, or where it
    is of another run's data or of test."""
    path, step = step_of(path, step)
    run = open_run(path)
    files = [f for f in run.path.glob("eval/**/analysis.json") if _step(run, f) is not None]
    files = [f for f in files if step in (None, _step(run, f))]
    if not files:
        at = "" if step is None else f" --step {step}"
        raise UserError(f"{run.path} has no analysis: `itx analyze {run.path}{at}` first")
    file = max(files, key=lambda f: (_step(run, f), f.stat().st_mtime))
    held = storage.read_object(file, "findings", "actions", "suspects")
    proposed = actions.checked(held["actions"], str(file))
    lock = read_lock(run)
    if held["actions"]["data"] != locks.shape_hash(lock):
        raise UserError(
            f"{file} is of {held['run']}, which was trained on other data than {run.path}: `itx "
            f"analyze {run.path}` writes its own"
        )
    if held["split"] == "test":
        raise UserError(
            f"{file} is of the test split, which may choose neither data nor settings: `itx "
            f"analyze {run.path}` looks at dev"
        )
    return Found(run, lock, file, held, proposed)


def _step(run: RunFolder, file: Path) -> int | None:
    name = file.relative_to(run.path / "eval").parts[0]
    return int(name) if name.isdigit() else None


def numbered(given: str, ids: list[str], what: str) -> int:
    """The place of something that is named by its number from 1 or by its id."""
    if given.isdigit() and 1 <= int(given) <= len(ids):
        return int(given) - 1
    places = [i for i, own in enumerate(ids) if len(given) >= 4 and own.startswith(given)]
    if len(places) == 1:
        return places[0]
    near = f"1 to {len(ids)}" if ids else "there is none"
    raise UserError(f"no {what} {given!r}: {near}" + (did_you_mean(given, ids) if ids else ""))


def finding(found: Found, given: str) -> tuple[Finding, Action]:
    """A finding by its number or id, with its action."""
    findings = found.held["findings"]
    chosen = findings[numbered(given, [f["id"] for f in findings], "finding")]
    by_id = {a["id"]: a for a in found.actions}
    return chosen, by_id[chosen["action"]]


def training_examples(
    found: Found, cache_dir: str | Path, action: Action
) -> tuple[list[ActionExample], list[str]]:
    """(the training examples that an action is about, the conditions that cannot be told of them).

    Those that it names; else those of its tasks for which all of its conditions hold, as far as a
    training example is known: of the first rendering, and of what the cache keeps as text
    (itx/prepare/jobs.py, SAMPLE).
    """
    if action["examples"]:
        return action["examples"], []
    rows, lines = {}, {}
    for entry in found.lock["tasks"]:
        if entry["task"] in action["tasks"]:
            rows[entry["name"]] = {
                **{"group": "instances", "relation": "same task", "variant": entry["name"]},
                **{"task": entry["task"], "cluster": entry["cluster"]},
            }
            out = set(entry["excluded"][0])
            kept = cache.iterate_examples(Path(cache_dir) / entry["folders"][0])
            lines[entry["name"]] = [{**x, "score": 0.0} for i, x in enumerate(kept) if i not in out]
    if not any(lines.values()):
        return [], []
    of = features.observations(rows, lines.__getitem__)
    tags = {row["task"]: row["tags"] for row in found.lock["evaluation"]}
    known = {c.text: c.holds for c in features.every_condition(of, rows, tags, Counter())}
    # a condition that holds of all stands for itself
    holds = np.ones(len(of.lines), bool)
    for condition in action["conditions"]:
        if condition in known:
            holds &= known[condition]
    pairs = [(of.task_names[of.tasks[i]], of.lines[i]["content"]) for i in np.flatnonzero(holds)]
    named = [ActionExample(task=t, content=c) for t, c in dict.fromkeys(pairs)]
    return named, [c for c in action["conditions"] if c not in known]
