# SPDX-License-Identifier: Apache-2.0
"""The lock: everything that shapes a batch, and nothing that does not (mesh, hosts, number of steps).

`data.lock.json` holds the architecture's row format, the packing capacities, the seed, each task's
rate and the hash of each rendering, and the evaluation rows. Batch t is a function of (lock, t).
"""

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np

from itx import storage
from itx.config import RunConfig
from itx.data import cache
from itx.errors import UserError

LOCK_VERSION = 1


def read(path: Path | str) -> dict:
    try:
        lock = storage.read_json(path)
    except (OSError, ValueError) as e:
        raise UserError(f"{path}: no readable data lock ({e})") from e
    if lock.get("version") != LOCK_VERSION:
        raise UserError(f"{path}: lock version {lock.get('version')}; this itx reads {LOCK_VERSION}")
    return lock


def sizes(lengths: np.ndarray, architecture: str) -> np.ndarray:
    """int [n, 3]: what records take of a row's two capacities, with the EOS each format adds; and how much of the
    first cannot give way to `cut_input`: all but what stands before the first trained piece.

    Args:
        lengths: Records.lengths.
    """
    total, first, trained, pieces, last = lengths.T.astype(np.int64)
    if architecture == "encoder_decoder":
        return np.stack([total - last + 1, last + 1, np.ones_like(total)], 1)
    return np.stack([total + pieces, trained + pieces, total - first + pieces], 1)


def check_fit(name: str, size: np.ndarray, lock: dict) -> tuple[np.ndarray, dict[str, int]]:
    """(which records are left out, {reason: how many}) under the lock's `too_long` rule."""
    capacity = np.array([lock["sequence_length"], lock["target_length"]])
    over = size[:, :2] > capacity
    # the prompt can give way only if the rest leaves it a token
    target_over = over[:, 1] | (size[:, 2] + 1 > capacity[0])
    any_over = over.any(1) | target_over
    if not any_over.any():
        return any_over, {}
    if lock["too_long"] == "error":
        i = int(np.flatnonzero(any_over)[0])
        raise UserError(
            f"task {name}: {int(any_over.sum())} of {len(size)} examples are longer than a row, e.g. record {i} takes "
            f"{size[i, :2].tolist()} of {capacity.tolist()} (data.sequence_length, data.target_length); "
            "set data.too_long to 'drop' or 'cut_input', or lengthen the rows"
        )
    if lock["too_long"] == "drop":
        return any_over, {"longer than a row": int(any_over.sum())}
    counts = {"target longer than a row": int(target_over.sum())}
    return target_over, {k: v for k, v in counts.items() if v}


def cut(size: np.ndarray, lock: dict) -> np.ndarray:
    """Sizes [n, 2] after `cut_input`: the prompt gives way, the target never."""
    return np.minimum(size[:, :2], [lock["sequence_length"], lock["target_length"]])


class LockedData:
    """The records behind a lock: opened once, checked against the lock's hashes."""

    def __init__(self, lock: dict, cache_dir: str | Path):
        self.lock = lock
        self.records: list[list[cache.Records]] = []
        self.usable: list[list[np.ndarray]] = []
        self.sizes: list[list[np.ndarray]] = []
        for task in lock["tasks"]:
            found = []
            for folder, sha in zip(task["folders"], task["sha256"], strict=True):
                path = Path(cache_dir) / folder
                if not path.is_dir() or cache.manifest_hash(path) != sha:
                    raise UserError(f"task {task['name']}: {path} is missing or not what the lock names; "
                                    "build the data again (itx data build CONFIG)")  # fmt: skip
                found.append(cache.Records(path))
            self.records.append(found)
            self.usable.append([np.delete(np.arange(len(r)), x) for r, x in zip(found, task["excluded"], strict=True)])
            self.sizes.append([cut(sizes(r.lengths, lock["architecture"]), lock) for r in found])


def check_config(lock: dict, config: RunConfig, path: Path | str) -> None:
    """UserError where a lock was not made for this config (a lock may be given: `itx train --lock`)."""
    model = {k: getattr(config.model, k) for k in ("architecture", "prefix_lm")}
    for section, values in (("model", model), ("data", dataclasses.asdict(config.data))):
        for key, value in values.items():
            if key in lock and lock[key] != value:
                raise UserError(f"{path}: made with {section}.{key}={lock[key]!r}, and the config has {value!r}")


SHAPE_FREE = ("evaluation", "unscored", "holdout", "leaks", "vocabulary")


def shape_hash(lock: dict) -> str:
    """Hash of what shapes batches: two locks with the same one give the same batches.

    A longer run may add renderings to a task, so only the first of each counts.
    """
    shape = {k: v for k, v in lock.items() if k not in (*SHAPE_FREE, "tasks")} | {"vocab": lock["vocabulary"]["hash"]}
    # with phases a task's rate is the mean over the run's steps, which a longer run may change
    rate = (lambda t: None) if lock.get("phases") else (lambda t: t["rate"])
    tasks = [(t["name"], rate(t), t["sha256"][0], t["excluded"][0]) for t in lock["tasks"]]
    return hashlib.sha256(json.dumps([shape, tasks], sort_keys=True).encode()).hexdigest()[:16]


def difference(old: dict, new: dict) -> str:
    """The first thing in which two locks differ, in words."""
    for key in sorted({*old, *new} - {*SHAPE_FREE, "tasks"}):
        if old.get(key) != new.get(key):
            return f"{key} was {old.get(key)!r}, is {new.get(key)!r}"
    if old["vocabulary"]["hash"] != new["vocabulary"]["hash"]:
        return "the vocabulary is another"
    before, after = ({t["name"]: t for t in lock["tasks"]} for lock in (old, new))
    for name in sorted({*before, *after}):
        if name not in before or name not in after:
            return f"task {name} was {'added' if name in after else 'removed'}"
        if before[name]["sha256"][0] != after[name]["sha256"][0]:
            return f"the renderings of task {name} changed"
    return "rates or left-out records changed"
