# SPDX-License-Identifier: Apache-2.0
"""A run made small enough for checks on a CPU (itx/checks.py): the same architecture, tuning
method, optimizer and data, with a small model's sizes, short rows and few ids."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from itx.config import MeshConfig, RunConfig
from itx.data import cache
from itx.data import lock as locks
from itx.data.loader import Batch, Batches
from itx.data.types import Lock
from itx.errors import UserError
from itx.models import small

ROW_TOKENS, TARGET_TOKENS = 192, 64  # of a row at most
IDS = 512  # token ids at most: larger ones are folded onto these
ROWS = 8  # of a batch: one for each device
WINDOW_EXAMPLES = 256
STEPS, CHECKPOINT_EVERY = 4, 2
RANK, VIRTUAL_TOKENS, HIDDEN = 4, 4, 16  # of an adapter at most


class Shrunk(NamedTuple):
    """A run that is small; `notes` say in words what was made smaller."""

    config: RunConfig
    lock: Lock
    ids: int  # size of the vocabulary
    notes: list[str]

    @property
    def sizes(self) -> tuple[int, int]:
        """What train.make_setup takes: size of the vocabulary, number of tasks."""
        return self.ids, len(self.lock["tasks"])

    def batches(self) -> "Folded":
        """Its batches, opened anew."""
        return Folded(Batches(self.lock, self.config.data.cache_dir), self.ids)


class Folded:
    """Batches whose ids are taken modulo the small vocabulary's size. What is under the loss and
    where a segment ends is told by other arrays, so the ids mean nothing to the step."""

    def __init__(self, batches: Batches, ids: int):
        self.batches, self.ids = batches, ids

    def batch(self, step: int, rows: Sequence[int] | None = None) -> Batch:
        held = self.batches.batch(step, rows)
        return {k: v % self.ids if k.endswith("_tokens") else v for k, v in held.items()}

    def iterate(self, start: int, stop: int, rows: Sequence[int] | None = None) -> Iterator[Batch]:
        return (self.batch(step, rows) for step in range(start, stop))


def shrunk(config: RunConfig, lock: Lock) -> Shrunk:
    """UserError where no example of the data fits the short rows."""
    made, notes = _data(config, lock)
    ids = min(lock["vocabulary"]["size"], IDS)
    size = lock["vocabulary"]["size"]
    folded = "" if ids == size else f" of {size:,}, on which the others are folded"
    notes.append(f"{ids:,} token ids{folded}")
    model = dataclasses.replace(
        small.reduced(config.model), pretrained="", vocab_size=0, dtype="float32", attention="xla"
    )
    of_model = ("num_layers", "embed_dim", "mlp_dim", "num_heads", "num_kv_heads", "head_dim")
    sizes = ", ".join(f"{n} {getattr(model, n)} (of {getattr(config.model, n)})" for n in of_model)
    notes.append(f"model in float32 with random weights: {sizes}")
    peft = dataclasses.replace(
        config.peft,
        rank=min(config.peft.rank, RANK),
        length=min(config.peft.length, VIRTUAL_TOKENS),
        prefix_hidden=min(config.peft.prefix_hidden, HIDDEN),
        base_dtype="float32",
        adapter="",
    )
    data = dataclasses.replace(
        config.data,
        **{k: made[k] for k in ("sequence_length", "target_length", "global_batch", "too_long")},
        window_examples=made["window_examples"],
    )
    train = dataclasses.replace(
        config.train,
        steps=STEPS,
        checkpoint_every=CHECKPOINT_EVERY,
        keep_checkpoints=3,
        log_every=1,
        microbatches=1,
        tensorboard=False,
        writers=(),
    )
    optim = dataclasses.replace(
        config.optim, warmup_steps=min(config.optim.warmup_steps, 1), decay_steps=0
    )
    small_config = dataclasses.replace(
        config,
        model=model,
        data=data,
        train=train,
        optim=optim,
        peft=peft,
        mesh=MeshConfig(data=1),
        eval=dataclasses.replace(config.eval, every=0, keep_best=False),
    )
    return Shrunk(small_config, made, ids, notes)


def _data(config: RunConfig, lock: Lock) -> tuple[Lock, list[str]]:
    """(the lock over short rows, notes): examples are cut to fit, and those that cannot be are left
    out."""
    length = min(lock["sequence_length"], ROW_TOKENS)
    room = min(lock["target_length"], TARGET_TOKENS)
    made: Lock = {
        **lock,
        "sequence_length": length,
        "target_length": room,
        "global_batch": ROWS,
        "window_examples": min(lock["window_examples"], WINDOW_EXAMPLES),
        "renderings": 1,
        "too_long": "cut_targets",
        "loss_positions": [room],
        "evaluation": [],
        **{key: [] for key in ("dev", "information", "retention") if key in lock},
    }
    made.pop("phases", None)
    tasks, examples, cut, out, none_left = [], 0, 0, 0, []
    for task in lock["tasks"]:
        records = cache.Records(Path(config.data.cache_dir) / task["folders"][0])
        size = locks.sizes(records.lengths, lock["architecture"])
        is_out, _ = locks.check_fit(task["name"], size, made)
        excluded = np.union1d(task["excluded"][0], np.flatnonzero(is_out)).astype(int)
        left = len(size) - len(excluded)
        examples += len(size) - len(task["excluded"][0])
        cut += int((locks.lost(size, made).sum(1) > 0)[~is_out].sum())
        out += int(is_out.sum())
        if not left:
            none_left.append(task["name"])
        tasks.append(
            {
                **task,
                **{key: task[key][:1] for key in ("folders", "sha256")},
                "excluded": [excluded.tolist()],
                "rate": task["rate"] if left else 0.0,
            }
        )
    total = sum(t["rate"] for t in tasks)
    if not total:
        raise UserError(f"no example fits a row of {length} tokens, {room} of them under the loss")
    made["tasks"] = [{**t, "rate": t["rate"] / total} for t in tasks]
    notes = [
        f"batches of {ROWS} rows (of {lock['global_batch']}), {length} tokens each (of "
        f"{lock['sequence_length']}), {room} under the loss (of {lock['target_length']}); of "
        f"{examples:,} examples {cut:,} are cut to fit and {out:,} left out"
    ]
    if none_left:
        notes.append(f"without an example that fits: {', '.join(none_left)}")
    return made, notes
