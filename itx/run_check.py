# SPDX-License-Identifier: Apache-2.0
"""`itx runs check`: whether every file of a run folder is what was written. Reads all of them and
writes nothing."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from itx import storage
from itx.checkpoint import Checkpoints, Damaged
from itx.data import lock as locks
from itx.data import verify
from itx.errors import UserError
from itx.log import digest_up_to, read_metrics
from itx.runs import RunFolder, stored_config

OK, DAMAGED, ASIDE, UNKNOWN = "ok", "damaged", "set aside", "not known"
KEPT = "; a checkpoint keeps it, and the run's own command writes it again"
Row = tuple[str, str, str]  # a file or folder, its state, more in words


def check(run: RunFolder) -> list[dict[str, str]]:
    """[{"file", "state": ok, damaged, set aside or not known, "what"}] of a run folder and of the
    cache that it names."""
    checkpoints, kept = _checkpoints(run)
    own = {
        "about": (run.config_json, lambda: stored_config(run)),
        "lock": (run.lock_json, lambda: _lock(run)),
    }
    rows, held = [], {}
    for name, (file, read) in own.items():
        # what `itx convert import` wrote was trained on nothing
        if name == "lock" and run.steps() == [0]:
            continue
        row, held[name] = _read(run, file, read)
        if held[name] is None and name in kept:
            row, held[name] = (*row[:2], row[2] + KEPT), kept[name]
        rows.append(row)
    about, lock = held.get("about"), held.get("lock")
    if lock:
        rows.append(_read(run, run.vocab_model, lambda: _vocabulary(run, lock))[0])
    if lock and run.steps():
        rows.append(_read(run, run.metrics_jsonl, lambda: _metrics(run, kept, about))[0])
    rows += checkpoints
    for file in sorted(run.path.rglob("*.json*")):
        if file.relative_to(run.path).parts[0] in (
            "eval",
            "audit.json",
            "report.json",
            "pretrained",
        ):
            rows.append(_read(run, file, lambda file=file: _parse(file))[0])
    if about and lock:
        rows += _cache(Path(about["config"]["data"]["cache_dir"]), lock)
    return [{"file": file, "state": state, "what": what} for file, state, what in rows]


def _read(run: RunFolder, file: Path, read: Callable[[], Any]) -> tuple[Row, Any]:
    """The row of one file, and what `read` gives of it; None where it is damaged."""
    name = str(file.relative_to(run.path))
    if not file.exists():
        return (name, DAMAGED, "it is not there"), None
    try:
        held = read()
    except (
        UserError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        RuntimeError,
        OSError,
    ) as e:
        return (name, DAMAGED, " ".join(str(e).split())), None
    return (name, OK, held if isinstance(held, str) else ""), held


def _lock(run: RunFolder) -> dict:
    lock = locks.read(run.lock_json)
    locks.shape_hash(lock)
    return lock


def _vocabulary(run: RunFolder, lock: dict) -> str:
    there = verify.vocabulary_of_run(run.vocab_model, lock).hash
    if there != lock["vocabulary"]["hash"]:
        raise UserError(
            f"it is another vocabulary than the lock's: {there}, not {lock['vocabulary']['hash']}"
        )
    return "the lock's"


def _metrics(run: RunFolder, kept: dict, about: dict | None) -> str:
    """How many lines; `kept` is the meta of the newest sound checkpoint, which knows them by their
    digest."""
    steps = [entry["step"] for entry in read_metrics(run.metrics_jsonl)]
    if steps != sorted(set(steps)):
        raise UserError("its steps do not ascend")
    if "metrics" in kept:
        if digest_up_to(run.metrics_jsonl, kept["step"]) != kept["metrics"]:
            raise UserError(
                f"it does not hold what was logged up to step {kept['step']}: lines are missing or changed"
            )
        return f"{len(steps)} lines"
    about = kept.get("about") or about  # saved before digests of the lines were kept
    every = about["config"]["train"]["log_every"] if about else 1
    due = run.steps()[-1] // every * every
    if due and (not steps or steps[-1] < due):
        raise UserError(
            f"it ends at step {steps[-1] if steps else 0}, and the newest checkpoint is of {run.steps()[-1]}"
        )
    return f"{len(steps)} lines"


def _parse(file: Path) -> str:
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".jsonl":
        if text and not text.endswith("\n"):
            raise UserError("its last line is cut short")
        return f"{len([json.loads(line) for line in text.splitlines()])} lines"
    storage.read_object(
        file, *(("step", "split", "rows", "groups", "easy") if file.name == "scores.json" else ())
    )
    return "parses"


def _checkpoints(run: RunFolder) -> tuple[list[Row], dict[str, Any]]:
    """The rows of all checkpoints, and the meta of the newest sound one."""
    if not run.checkpoints.is_dir():
        return [], {}
    rows, kept = [], {}
    with Checkpoints(run.checkpoints, read_only=True) as checkpoints:
        for step in checkpoints.steps():
            name = f"{run.checkpoints.name}/{step}"
            try:
                verified = checkpoints.verify(step)
                rows.append(
                    (name, OK, "each array has its digest")
                    if verified
                    else (name, UNKNOWN, "it has no digests")
                )
                kept = {k: v for k, v in checkpoints.meta(step).items() if v}
            except Damaged as e:
                rows.append((name, DAMAGED, str(e)))
    known = {name for name, *_ in rows}
    for folder in sorted(run.checkpoints.iterdir()):
        name = f"{run.checkpoints.name}/{folder.name}"
        if ".damaged" in folder.name:
            rows.append((name, ASIDE, "a resume found it damaged and used the one before"))
        elif name not in known:
            rows.append((name, UNKNOWN, "a save in progress, or one that was cut short"))
    return rows, kept


def _cache(cache_dir: Path, lock: dict) -> Iterator[Row]:
    """What the lock names in the cache, read anew: one row for each folder that is damaged, one for
    the rest."""
    if not cache_dir.is_dir():
        yield str(cache_dir), UNKNOWN, "the cache is not here"
        return
    sound = 0
    for inner, sha256 in sorted({(folder, sha256) for _, folder, sha256 in verify.entries(lock)}):
        try:
            verify.folder(cache_dir / inner, sha256, lock["vocabulary"]["size"], anew=True)
            sound += 1
        except verify.Damaged as e:
            yield str(cache_dir / inner), DAMAGED, str(e)
    yield str(cache_dir), OK, f"{sound} folders are what was written"
