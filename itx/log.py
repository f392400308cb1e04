# SPDX-License-Identifier: Apache-2.0
"""What a run says while it trains: metrics.jsonl, writers that copy it, a progress line.

metrics.jsonl has one object per logged step, {"step": n, "train/loss": …}. On resume it is cut back
to the restored step, whose checkpoint holds the digest of what must then be left. Values under
`TIMING` differ from run to run; all others are reproducible.
"""

import copy
import hashlib
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from itx import health, hosts, storage
from itx.config import RunConfig
from itx.data.types import Lock
from itx.errors import UserError
from itx.goodput import Clock
from itx.movement import EVERY_SECONDS, Pace, terminal_bar
from itx.writers import CLUSTER_LOSS, TASK_LOSS, Writer

TIMING = ("train/tokens_per_second", "train/seconds")


class MetricsLog:
    """Append-only JSON lines that are on disk before a checkpoint commits; `writers` get a copy.
    Of several processes the writer (itx/hosts.py) has the file, the others do nothing."""

    def __init__(self, file: Path, step: int, writers: Sequence[Writer] = ()):
        self.file, self.writers = file, writers
        self.kept: list[dict] = []  # its lines, as they were written
        self.written, self.out = hashlib.sha256(), None
        if hosts.is_writer():
            self.kept = cut_back(file, step)
            self.written.update(file.read_bytes())
            self.out = open(file, "a", encoding="utf-8")  # noqa: SIM115 (closed on exit)

    def write(self, step: int, values: dict[str, float]) -> None:
        if self.out is None:
            return
        line = json.dumps({"step": step, **values}) + "\n"
        with storage.named(self.file):
            self.out.write(line)
            self.out.flush()
        self.written.update(line.encode())
        for writer in self.writers:
            writer.write(step, values)

    def sync(self) -> None:
        """Until this returns, lines may be lost in a power cut; after it they are on disk."""
        if self.out is None:
            return
        with storage.named(self.file):
            self.out.flush()
            os.fsync(self.out.fileno())

    @property
    def digest(self) -> str:
        """SHA-256 of all lines that are in the file."""
        return self.written.hexdigest()

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *error: object) -> None:
        self.sync()
        if self.out is not None:
            self.out.close()
        for writer in self.writers:
            writer.close()


def cut_back(file: Path, step: int) -> list[dict]:
    """Drop lines of later steps, and a last line that a kill left incomplete; returns those that
    stay."""
    file.parent.mkdir(parents=True, exist_ok=True)
    kept, damaged = [], None
    for number, line in enumerate(read_lines(file), 1):
        entry = _entry(line)
        if entry is None:
            damaged = damaged or number
        elif entry["step"] <= step:
            # Behind the last line that stays, a damaged one is of a step that is made again.
            if damaged:
                raise _damaged(file, damaged)
            kept.append((line, entry))
    with storage.whole_file(file) as part:
        part.write_bytes(b"".join(line + b"\n" for line, _ in kept))
    return [entry for _, entry in kept]


def read_metrics(file: Path) -> list[dict]:
    """What metrics.jsonl holds; UserError that names a line which is not what a run writes."""
    entries = [_entry(line) for line in read_lines(file)]
    if None in entries:
        raise _damaged(file, entries.index(None) + 1)
    return entries


def digest_up_to(file: Path, step: int) -> str:
    """`MetricsLog.digest` as it was at a step: of the lines up to it, as they now stand."""
    lines = [line for line in read_lines(file) if (entry := _entry(line)) and entry["step"] <= step]
    return hashlib.sha256(b"".join(line + b"\n" for line in lines)).hexdigest()


def _entry(line: bytes) -> dict | None:
    """{"step": n, …}, or None if the line holds something else."""
    try:
        entry = json.loads(line.decode("utf-8"))
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and isinstance(entry.get("step"), int) else None


def _damaged(file: Path, number: int) -> UserError:
    return UserError(
        f"{file}: line {number} is damaged; remove that line (its figures are lost) or put a sound "
        "copy of the file in its place, and say the same command again"
    )


def read_lines(file: Path) -> list[bytes]:
    """The whole lines of a log: what follows the last line end, a kill has cut short."""
    return file.read_bytes().split(b"\n")[:-1] if file.is_file() else []


class Progress:
    """A bar with loss, tokens/s and time left; plain lines where the output is no terminal."""

    def __init__(self, start: int, stop: int, every_seconds: float = EVERY_SECONDS):
        self.stop, self.every = stop, every_seconds
        self.told, self.pace, self.known = time.monotonic(), Pace(), "loss not known yet"
        self.bar = None
        if sys.stderr.isatty() and hosts.is_writer():
            loss_and_speed = "loss {task.fields[loss]}  {task.fields[speed]} tokens/s"
            self.bar = terminal_bar("train", loss_and_speed, transient=False)
            self.bar.start()
            self.task = self.bar.add_task("", total=stop, completed=start, loss="-", speed="-")

    def say(self, text: str) -> None:
        if self.bar is not None:
            self.bar.console.print(text, highlight=False)
        elif hosts.is_writer():
            print(text, file=sys.stderr, flush=True)

    def update(self, step: int, loss: float | None = None, speed: float | None = None) -> None:
        """`step` steps are done; loss and tokens/s where they are known anew."""
        self.pace.note(step)
        if loss is not None:
            self.known = f"loss {loss:.3f}  {speed:,.0f} tokens/s"
        now = time.monotonic()
        if self.bar is not None:
            fields = {} if loss is None else {"loss": f"{loss:.3f}", "speed": f"{speed:,.0f}"}
            self.bar.update(self.task, completed=step, **fields)
        elif now - self.told >= self.every or loss is not None and step >= self.stop:
            self.told = now
            self.say(f"train {step}/{self.stop}  {self.known}  {self.pace.words(self.stop)}")

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.stop()


class Book:
    """Sums of metrics over a log interval, the steps that were skipped, and the log lines.

    Metrics stay on the devices until they are read, which is once for each line of the log. Sums
    are Python floats and travel in a checkpoint's meta, so that a run stopped between two log
    lines goes on to write the same ones.
    """

    def __init__(
        self, config: RunConfig, lock: Lock, meta: dict, watch: health.LossWatch, clock: Clock
    ):
        self.every, self.last = config.train.log_every, config.train.steps
        self.tasks = [t["name"] for t in lock["tasks"]]
        self.clusters = [t["cluster"] for t in lock["tasks"]]
        self.sums: dict[str, Any] = meta.get("interval", {})
        self.skips, self.watch, self.clock = health.Skips(config, meta), watch, clock
        self.unread: list[tuple] = []  # of steps whose metrics are on the devices
        self.timed_since, self.timed_tokens = None, 0.0

    def meta(self) -> dict:
        # copies: a checkpoint is written while the next step already adds to these
        return {"interval": copy.deepcopy(self.sums), **self.skips.meta()}

    def pause(self, seconds: float) -> None:
        """Something else took time between two steps: it counts for no step's speed."""
        if self.timed_since is not None:
            self.timed_since += seconds

    def add(self, pending: tuple | None, log: MetricsLog, progress: Progress) -> None:
        """Take in one step's (step, metrics, places), metrics None if the step was left out; they
        are read where an interval ends."""
        if pending is None:
            return
        step = pending[0]
        self.unread.append(pending)
        if self.timed_since is None or self._ends_interval(step):
            self.read(log, progress)
        # A host that hurries ahead would fill the devices with batches: two steps are enough.
        with self.clock.span("step"):
            jax.block_until_ready([metrics for _, metrics, _ in self.unread[-2:-1]])
        progress.update(step)

    def read(self, log: MetricsLog, progress: Progress) -> None:
        """Fetch and count the metrics that are not read yet; write a line where an interval
        ends."""
        unread, self.unread = self.unread, []
        with self.clock.span("step"):
            fetched = jax.device_get([metrics or {} for _, metrics, _ in unread])
        now = time.monotonic()
        with self.clock.span("log"):
            for (step, _, places), metrics in zip(unread, fetched, strict=True):
                values = {k: np.asarray(v).tolist() for k, v in metrics.items()}
                self._count(step, values, places, now, progress)
                if self._ends_interval(step):
                    self._write(step, now, log, progress)

    def _ends_interval(self, step: int) -> bool:
        return step % self.every == 0 or step == self.last

    def _count(self, step: int, values: dict, places: int, now: float, progress: Progress) -> None:
        """Add one step's metrics to the sums."""
        if self.timed_since is None:  # the first step of a process is compilation
            self.timed_since = now
        else:
            self.timed_tokens += values.get("tokens", 0)
        finite = bool(values) and not values.pop("skipped")
        if finite:
            self._sum({**values, "steps": 1, "cells": places})
        elif values:
            progress.say(
                f"step {step}: loss or gradient is not finite; skipped ({health.batches([step])})"
            )
        self.skips.add(step, finite)

    def _sum(self, values: dict) -> None:
        for k, v in values.items():
            if isinstance(v, list):
                old = self.sums.get(k, [0.0] * len(v))
                self.sums[k] = [a + b for a, b in zip(old, v, strict=True)]
            else:
                self.sums[k] = v + self.sums.get(k, 0)

    def _write(self, step: int, now: float, log: MetricsLog, progress: Progress) -> None:
        s, line = self.sums, {}
        if s.get("steps"):
            line = {
                "train/loss": s["loss"] / s["weight"],
                "train/accuracy": s["correct"] / s["weight"],
                "train/grad_norm": s["grad_norm"] / s["steps"],
                "train/update_norm": s["update_norm"] / s["steps"],
                "train/learning_rate": s["learning_rate"] / s["steps"],
                "train/tokens": s["tokens"],
                "data/non_padding_fraction": s["tokens"] / s["cells"],
            }
            of_tasks = zip(self.tasks, s["task_loss"], s["task_weight"], strict=True)
            of_clusters: dict[str, list[float]] = {}
            for (name, total, weight), cluster in zip(of_tasks, self.clusters, strict=True):
                held = of_clusters.setdefault(cluster, [0.0, 0.0])
                held[:] = held[0] + total, held[1] + weight
                if weight:
                    line[f"{TASK_LOSS}{name}"] = total / weight
            for cluster, (total, weight) in of_clusters.items():
                if weight:
                    line[f"{CLUSTER_LOSS}{cluster}"] = total / weight
        line["train/skipped"] = len(self.skips.skipped)
        seconds = now - self.timed_since
        speed = self.timed_tokens / seconds if seconds else 0.0
        line |= {"train/tokens_per_second": speed, "train/seconds": seconds}
        log.write(step, line)
        progress.update(step, line.get("train/loss", float("nan")), speed)
        for event in self.watch.add(step, line["train/loss"]) if "train/loss" in line else ():
            progress.say(f"step {step}: {event.text}")
        self.sums, self.timed_since, self.timed_tokens = {}, now, 0.0
