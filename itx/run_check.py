# SPDX-License-Identifier: Apache-2.0
"""`itx runs check`: whether every file of a run folder is what was written. All of them are read
and nothing is written."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from itx import storage
from itx.checkpoint import Checkpoints, Damaged
from itx.data import lock as locks
from itx.data import verify
from itx.data.types import Lock
from itx.errors import UserError
from itx.log import digest_up_to, read_metrics
from itx.runs import RunFolder, stored_config

OK, DAMAGED, ASIDE, UNKNOWN = "ok", "damaged", "set aside", "not known"
OTHER_FILES = ("eval", "audit.json", "report.json", "pretrained")  # read as JSON alone
# the errors of readers that find a file damaged
FAULTS = (UserError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, OSError)
KEPT = "; a checkpoint keeps it, and the run's own command writes it again"
Row = tuple[str, str, str]  # a file or folder, its state, more in words


def check(run: RunFolder) -> list[dict[str, str]]:
    """[{"file", "state": ok, damaged, set aside or not known, "what"}] of a run folder and of the
    cache that it names."""
    checkpoints, meta = _checkpoints(run)
    rows: list[Row] = []

    def read(file: Path, reader: Callable[[], Any], key: str = "") -> Any:
        """What a file holds, its row added; key: under which a checkpoint's meta keeps a copy."""
        row, held = _read(run, file, reader)
        if held is None and key in meta:
            row, held = (*row[:2], row[2] + KEPT), meta[key]
        rows.append(row)
        return held

    about = read(run.config_json, lambda: stored_config(run), "about")
    # what `itx convert import` wrote was trained on nothing
    lock = None if run.steps() == [0] else read(run.lock_json, lambda: _lock(run), "lock")
    if lock:
        read(run.vocab_model, lambda: _vocabulary(run, lock))
    if lock and run.steps() and not (about or {}).get("soup"):  # a soup was not trained
        read(run.metrics_jsonl, lambda: _metrics(run, meta, about))
    rows += checkpoints
    for file in sorted(run.path.rglob("*.json*")):
        if file.relative_to(run.path).parts[0] in OTHER_FILES:
            read(file, lambda file=file: _parse(file))
    if about and lock:
        rows += _cache(Path(about["config"]["data"]["cache_dir"]), lock)
    return [dict(zip(("file", "state", "what"), row, strict=True)) for row in rows]


def _read(run: RunFolder, file: Path, read: Callable[[], Any]) -> tuple[Row, Any]:
    """The row of one file, and what `read` gives of it; None where it is damaged."""
    name = str(file.relative_to(run.path))
    if not file.exists():
        return (name, DAMAGED, "it is not there"), None
    try:
        held = read()
    except FAULTS as e:
        return (name, DAMAGED, " ".join(str(e).split())), None
    return (name, OK, held if isinstance(held, str) else ""), held


def _lock(run: RunFolder) -> Lock:
    lock = locks.read(run.lock_json)
    locks.shape_hash(lock)
    return lock


def _vocabulary(run: RunFolder, lock: Lock) -> str:
    own, locked = verify.vocabulary_of_run(run.vocab_model, lock).hash, lock["vocabulary"]["hash"]
    if own != locked:
        raise UserError(f"it is another vocabulary than the lock's: {own}, not {locked}")
    return "the lock's"


def _metrics(run: RunFolder, meta: dict, about: dict | None) -> str:
    """How many lines; `meta` is that of the newest sound checkpoint, which knows the lines by their
    digest."""
    steps = [entry["step"] for entry in read_metrics(run.metrics_jsonl)]
    if steps != sorted(set(steps)):
        raise UserError("its steps do not ascend")
    if "metrics" in meta:
        if digest_up_to(run.metrics_jsonl, meta["step"]) != meta["metrics"]:
            raise UserError(
                f"it does not hold what was logged up to step {meta['step']}: lines are missing or "
                "changed"
            )
        return f"{len(steps)} lines"
    about = meta.get("about") or about  # saved before digests of the lines were kept
    every = about["config"]["train"]["log_every"] if about else 1
    last, newest = steps[-1] if steps else 0, run.steps()[-1]
    if last < newest // every * every:
        raise UserError(f"it ends at step {last}, and the newest checkpoint is of {newest}")
    return f"{len(steps)} lines"


def _parse(file: Path) -> str:
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".jsonl":
        if text and not text.endswith("\n"):
            raise UserError("its last line is cut short")
        return f"{len([json.loads(line) for line in text.splitlines()])} lines"
    keys = ("step", "split", "rows", "groups", "easy") if file.name == "scores.json" else ()
    storage.read_object(file, *keys)
    return "parses"


def _checkpoints(run: RunFolder) -> tuple[list[Row], dict[str, Any]]:
    """The rows of all checkpoints, and the meta of the newest sound one."""
    if not run.checkpoints.is_dir():
        return [], {}
    rows, meta = [], {}
    with Checkpoints(run.checkpoints, read_only=True) as checkpoints:
        for step in checkpoints.steps():
            name = f"{run.checkpoints.name}/{step}"
            try:
                state = UNKNOWN, "it has no digests"
                if checkpoints.verify(step):
                    state = OK, "each array has its digest"
                rows.append((name, *state))
                meta = {k: v for k, v in checkpoints.meta(step).items() if v}
            except Damaged as e:
                rows.append((name, DAMAGED, str(e)))
    known = {name for name, *_ in rows}
    for folder in sorted(run.checkpoints.iterdir()):
        name = f"{run.checkpoints.name}/{folder.name}"
        if ".damaged" in folder.name:
            rows.append((name, ASIDE, "a resume found it damaged and used the one before"))
        elif name not in known:
            rows.append((name, UNKNOWN, "a save in progress, or one that was cut short"))
    return rows, meta


def _cache(cache_dir: Path, lock: Lock) -> Iterator[Row]:
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
