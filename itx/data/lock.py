# SPDX-License-Identifier: Apache-2.0
"""The lock: everything that shapes a batch, and nothing that does not (mesh, hosts, number of
steps).

`data.lock.json` holds the architecture's row format, the packing capacities, the seed, each task's
rate and the hash of each rendering, and the evaluation rows. Batch t is a function of (lock, t).
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from itx import hashing, storage
from itx.config import RunConfig
from itx.data import cache, types, verify
from itx.data.types import Lock
from itx.errors import UserError

LOCK_VERSION = 1


def read(path: Path | str) -> Lock:
    try:
        lock = storage.read_json(path)
    except FileNotFoundError as e:
        raise UserError(
            f"{path}: there is no data lock (`itx data build CONFIG` writes one and prints where)"
        ) from e
    except (OSError, ValueError) as e:
        raise UserError(f"{path}: no readable data lock ({e})") from e
    return checked(lock, path)


def checked(lock: Any, path: Path | str) -> Lock:
    """A lock without its seal; UserError where it is of another version, not what was written, or
    not as itx/data/types.py says."""
    if not isinstance(lock, dict) or not storage.is_intact(lock):
        raise UserError(f"{path}: no readable data lock (it is not what was written)")
    if lock.get("version") != LOCK_VERSION:
        raise UserError(
            f"{path}: lock version {lock.get('version')}; this itx reads {LOCK_VERSION}"
        )
    lock = {k: v for k, v in lock.items() if k != storage.SEAL}
    types.check(lock, Lock, path)
    return lock


def sizes(lengths: np.ndarray, architecture: str) -> np.ndarray:
    """int [n, 4], of each record: what it takes of a row's two capacities, with the EOS that each
    format adds; how much of the first is no prompt (a prompt ends before the first trained piece);
    tokens of the last piece.

    Args:
        lengths: Records.lengths.
    """
    total, first, trained, pieces, last = lengths.T.astype(np.int64)
    if architecture == "encoder_decoder":
        return np.stack([total - last + 1, last + 1, np.ones_like(total), last], 1)
    return np.stack([total + pieces, trained + pieces, total - first + pieces, last], 1)


def loss_tokens(records: cache.Records, architecture: str) -> np.ndarray:
    """int [n]: tokens under the loss of each record, EOS included."""
    return sizes(records.lengths, architecture)[:, 1]


def lost(size: np.ndarray, lock: Lock) -> np.ndarray:
    """int [n, 2]: tokens that prompt and target must lose for records of `sizes` to fit a row. The
    prompt gives way first, down to a token."""
    whole, targets, fixed, _ = size.T
    length, room = lock["sequence_length"], lock["target_length"]
    of_target = np.maximum(0, np.maximum(targets - room, fixed + 1 - length))
    same_row = lock["architecture"] == "decoder"
    return np.stack([np.maximum(0, whole - same_row * of_target - length), of_target], 1)


def cut(size: np.ndarray, lock: Lock) -> np.ndarray:
    """int [n, 2]: what records of `sizes` take of the two capacities without what they `lost`."""
    of_prompt, of_target = lost(size, lock).T
    same_row = lock["architecture"] == "decoder"
    return np.stack([size[:, 0] - of_prompt - same_row * of_target, size[:, 1] - of_target], 1)


def check_fit(name: str, size: np.ndarray, lock: Lock) -> tuple[np.ndarray, dict[str, int]]:
    """(which records of `sizes` are left out, {reason: how many}) under the lock's `too_long` rule.

    error         a record that is longer than a row is an error
    drop          it is left out
    cut_left      its prompt loses its beginning, for the question mostly stands at the end;
                  cut_right: its end. A record whose targets alone are too long is left out
    cut_targets   as cut_left, and the last target loses its end where that is not enough: its EOS,
                  then tokens
    """
    of_prompt, of_target = lost(size, lock).T
    over = (of_prompt > 0) | (of_target > 0)
    if not over.any():
        return over, {}
    if lock["too_long"] == "error":
        i = int(np.flatnonzero(over)[0])
        raise UserError(
            f"task {name}: {int(over.sum())} of {len(size)} examples are longer than a row, e.g. "
            f"record {i} takes {size[i, :2].tolist()} of "
            f"{[lock['sequence_length'], lock['target_length']]} (data.sequence_length, "
            "data.target_length); set data.too_long to 'drop' or 'cut_left', or lengthen the rows"
        )
    if lock["too_long"] == "drop":
        return over, {"longer than a row": int(over.sum())}
    out = of_target > (size[:, 3] if lock["too_long"] == "cut_targets" else 0)
    return out, {"target longer than a row": n} if (n := int(out.sum())) else {}


class LockedData:
    """The records behind a lock, opened once and verified with all else that it names.

    records[i][r] is the folder of task i's rendering r, usable[i][r] int [m] the numbers of its
    records that are trained on, sizes[i][r] int [n, 2] what each record takes of a row.
    """

    def __init__(self, lock: Lock, cache_dir: str | Path):
        verify.of_lock(lock, cache_dir)
        self.lock = lock
        self.records: list[list[cache.Records]] = []
        self.usable: list[list[np.ndarray]] = []
        self.sizes: list[list[np.ndarray]] = []
        for task in lock["tasks"]:
            records = [cache.Records(Path(cache_dir) / folder) for folder in task["folders"]]
            pairs = zip(records, task["excluded"], strict=True)
            self.records.append(records)
            self.usable.append([np.delete(np.arange(len(r)), excluded) for r, excluded in pairs])
            self.sizes.append([cut(sizes(r.lengths, lock["architecture"]), lock) for r in records])


def check_config(lock: Lock, config: RunConfig, path: Path | str) -> None:
    """UserError where a lock was not made for this config (a lock may be given: `itx train
    --lock`)."""
    made = {"replay": 0.0, "prompt_format": "plain", "targets": "own", "system": "", **lock}
    values = {f"model.{key}": getattr(config.model, key) for key in ("architecture", "prefix_lm")}
    values |= {f"data.{key}": value for key, value in dataclasses.asdict(config.data).items()}
    if values["data.prompt_format"] == "auto":
        values["data.prompt_format"] = "plain"
    for name, value in values.items():
        key = name.partition(".")[2]
        if key != "added" and key in made and made[key] != value:
            raise UserError(f"{path}: made with {name}={made[key]!r}, and the config has {value!r}")
    files = [patch["file"] for patch in lock.get("patch_files", [])]
    if files != list(config.data.patches):
        raise UserError(
            f"{path}: made with the patches {files}, and data.patches={config.data.patches}"
        )
    for key, name in (("factors", "rate_factors"), ("added", "added")):
        given = getattr(config.data, name)
        if lock.get(key, {}) != dict(given):
            raise UserError(
                f"{path}: made with the {key} {lock.get(key, {})}, and data.{name}={given}"
            )


# keys that shape no batch; `shape_hash` and `difference` look at tasks and vocabulary by themselves
SHAPE_FREE = set(
    "chat evaluation dev information uninformed retention unretained unscored holdout left_out "
    "leaks patch_files factors added variants tasks vocabulary hub".split()
)


def shape_hash(lock: Lock) -> str:
    """Hash of what shapes batches: two locks with the same one give the same batches.

    A longer run may add renderings to a task, so only the first of each counts.
    """
    shape = {k: v for k, v in lock.items() if k not in SHAPE_FREE}
    shape["vocab"] = lock["vocabulary"]["hash"]
    # with phases a task's rate is the mean over the run's steps, which a longer run may change
    rate = (lambda t: None) if lock.get("phases") else (lambda t: t["rate"])
    tasks = [(t["name"], rate(t), t["sha256"][0], t["excluded"][0]) for t in lock["tasks"]]
    return hashing.digest(json.dumps([shape, tasks], sort_keys=True))


def difference(old: Lock, new: Lock) -> str:
    """The first thing in which two locks differ, in words."""
    for key in sorted({*old, *new} - SHAPE_FREE):
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


def check_same(old: Lock, new: Lock, run: Path | str) -> None:
    """UserError where two locks do not give the same batches."""
    if shape_hash(old) != shape_hash(new):
        raise UserError(
            f"{run} was begun on other data: {difference(old, new)}; give another --run_dir"
        )
