# SPDX-License-Identifier: Apache-2.0
"""What became of a made row in runs: which of a run's training records it is, and at which steps
they were trained on; where it stands as an exemplar, and whether it is asked in an evaluation.

A record is known by the hash of its content, as everywhere (itx/prepare/examples.py): of rows that
ask the same the first is the record. Steps are found by the order (itx/data/order.py), from the
lock alone.
"""

from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from itx import checkpoint, hashing
from itx.create import lineage
from itx.data import cache
from itx.data.lock import LockedData
from itx.data.order import Order
from itx.data.types import Lock
from itx.errors import UserError
from itx.prepare import kinds
from itx.runs import RunFolder, open_run, read_lock, run_config, runs_inside
from itx.tasks import registry
from itx.tasks.spec import Skip, TaskSpec

Places = list[tuple[str, dict[str, Any]]]  # (task, line) of each version that holds a row


class VariantUse(TypedDict):
    """Of one trained variant of a run's lock."""

    variant: str
    records: int  # that are this row, one for each rendering
    left_out: int  # of these: as leaks, or longer than a row
    exemplar_of: int  # records that show it before their own question
    steps: list[int]  # whose batches have it, one entry for each time; skipped steps are none


class Use(TypedDict):
    run: str
    task: str  # the version
    why: str  # it has no record in this run; "" where it has
    steps: int  # that the run has made
    variants: list[VariantUse]
    evaluation: list[str]  # rows that ask it


def opened(paths: list[str]) -> list[RunFolder]:
    """The runs that paths name: each a run folder, or a folder of them; UserError for others."""
    found = []
    for path in paths:
        if RunFolder(Path(path)).is_begun():
            found.append(RunFolder(Path(path)))
        else:
            found += runs_inside(Path(path)) or [open_run(path)]
    return found


def of_row(root: str, places: Places, runs: list[RunFolder]) -> list[Use]:
    """What each run did with a row, a Use for each version of it that the run's lock trains on; of
    a run that trains on none, one Use that says so.

    Args:
        places: the versions that hold the row (lineage.find).
    """
    told = [(task, *_known(root, task, held)) for task, held in places]
    out = []
    for run in runs:
        lock = read_lock(run) if run.has_lock() else None
        trained = {t["task"] for t in lock["tasks"]} if lock else set()
        inside = [x for x in told if x[0] in trained]
        out += [_of_run(run, lock, *x) for x in inside]
        if not inside:
            why = "its lock trains on no version with this row" if lock else "it has no lock yet"
            out.append(_unused(run, places[0][0], why))
    return out


def _known(root: str, task: str, held: dict[str, Any]) -> tuple[int | None, str]:
    """(the hash of its record's content, why it has no record)."""
    if why := held["lineage"]["dropped"]:
        return None, f"it was dropped there: {why}"
    spec = registry.task(task, root)
    content = _content(spec, held)
    if content is None:
        return None, "its task makes no example of it"
    first = _first(root, spec, content)
    if first != held["lineage"]["id"]:
        return None, f"row {first} asks the same and stands before it: that one is the record"
    return content, ""


def _content(spec: TaskSpec, held: dict[str, Any]) -> int | None:
    """The hash that its record has; None where its task makes no example of a row."""
    values = spec.fields(held)
    if isinstance(values, Skip):
        return None
    return hashing.draw("content", kinds.of(spec).content(spec, values))


def _first(root: str, spec: TaskSpec, content: int) -> str:
    """The id of the first row of a version that has this content."""
    file = lineage.of_task(root, spec.name) / lineage.KEPT
    return next(
        (h["lineage"]["id"] for h in lineage.lines(file) if _content(spec, h) == content), ""
    )


def _unused(run: RunFolder, task: str, why: str) -> Use:
    steps = run.steps()[-1] if run.steps() else 0
    return Use(run=str(run.path), task=task, why=why, steps=steps, variants=[], evaluation=[])


def _of_run(run: RunFolder, lock: Lock, task: str, content: int | None, why: str) -> Use:
    use = _unused(run, task, why)
    if content is None:
        return use
    cache_dir = run_config(run).data.cache_dir
    # steps of a checkpoint count from 1, batches from 0
    skipped = {step - 1 for step in checkpoint.skips(run.checkpoints)["skipped"]}
    trained = [step for step in range(use["steps"]) if step not in skipped]
    variants = _variants(lock, cache_dir, task, content, trained)
    asked = [
        row["name"]
        for row in lock["evaluation"]
        if row["task"] == task and _holds(Path(cache_dir) / row["folder"], content)
    ]
    if not any(v["records"] or v["exemplar_of"] for v in variants):
        why = "it is none of its training records: another split has it, or the build left it out"
    return {**use, "why": why, "variants": variants, "evaluation": asked}


def _holds(folder: Path, content: int) -> bool:
    if not folder.is_dir():
        raise UserError(f"{folder}: a folder of the cache is missing; `itx data build` makes it")
    return bool((cache.Records(folder).content == np.uint64(content)).any())


def _variants(
    lock: Lock, cache_dir: str, task: str, content: int, trained: list[int]
) -> list[VariantUse]:
    data = LockedData(lock, cache_dir)
    order = Order(lock, data.usable, data.sizes)
    out = []
    for i, entry in enumerate(lock["tasks"]):
        if entry["task"] != task:
            continue
        own: list[tuple[int, int, int]] = []
        left_out = exemplar_of = 0
        for r, (records, usable) in enumerate(zip(data.records[i], data.usable[i], strict=True)):
            numbers = np.flatnonzero(records.content == np.uint64(content)).tolist()
            kept = [n for n in numbers if n in usable]
            own += [(i, n, r) for n in kept]
            left_out += len(numbers) - len(kept)
            exemplar_of += int((records.exemplars[usable] == np.uint64(content)).any(1).sum())
        out.append(
            VariantUse(
                variant=entry["name"],
                records=len(own) + left_out,
                left_out=left_out,
                exemplar_of=exemplar_of,
                steps=order.steps_with(own, trained),
            )
        )
    return out
