# SPDX-License-Identifier: Apache-2.0
"""Where the wall time of a run goes, over all processes that worked on it.

A `Clock` knows at every moment what its process does: `span` says so, and time passes to the
innermost span that is open, or to UNATTRIBUTED where none is. So each category is measured, and
none is what is left of the others. The clock appends what passed since its last line to
goodput.jsonl, at moments of its own and before each checkpoint: a kill loses what came after the
last line. `summary` reads these lines and makes goodput.json of them:

    lost_work   the steps and waits behind the checkpoint that a later start began from again: they
                were made twice, and count once as steps
    idle        from the last line of a process to the begin of the next one, which holds what a
                killed process did behind its last line

A process that ends a run says so; what lies between that and a later start is no part of the run.
"""

import contextlib
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from itx import hosts, processes, storage

Item = TypeVar("Item")

# what a process may be doing; every span is one of these
CATEGORIES = {
    "init": "start",
    "build": "data build",
    "compile": "compile",
    "data_wait": "data wait",
    "step": "steps",
    "log": "log",
    "evaluation": "evaluation",
    "save": "save",
    "restore": "restore",
    "report": "report",
}
UNATTRIBUTED = "unattributed"
REPEATED = ("step", "data_wait", "log")  # what is done again behind the checkpoint begun from
WORDS = {**CATEGORIES, "lost_work": "lost work", "idle": "idle", UNATTRIBUTED: UNATTRIBUTED}
# A line is written once this share of the process's time has passed since the last one, and never
# sooner than the seconds: a month makes about ten thousand lines.
MAX_UNWRITTEN_SHARE, MIN_LINE_SECONDS = 0.001, 1.0


class Clock:
    """Attributes the time of one process. Spans are those of the main thread; without `open`
    nothing is written."""

    def __init__(self, age: float = 0.0):
        """`age`: seconds that the process is old already; they count as init."""
        now = time.monotonic()
        self.began = now - age
        self.began_at = time.time() - age
        self.seconds = Counter({"init": age})  # since the last line
        self.inside: list[str] = []  # the open spans, the innermost last
        self.since = now  # until here time is attributed
        self.step, self.steps, self.flops = 0, 0, 0.0  # the last step, and of the open line
        self.file: Path | None = None
        self.lock, self.is_over = threading.Lock(), threading.Event()
        self.thread = threading.Thread(target=self._write_now_and_then, daemon=True)

    @contextlib.contextmanager
    def span(self, category: str) -> Iterator[None]:
        """Inside, time passes to `category`, a key of CATEGORIES."""
        if category not in CATEGORIES:
            raise KeyError(category)
        with self.lock:
            self._attribute()
            self.inside.append(category)
        try:
            yield
        finally:
            with self.lock:
                self._attribute()
                self.inside.pop()

    def waits(self, items: Iterator[Item]) -> Iterator[Item]:
        """The items; what they take to come is data wait."""
        while True:
            with self.span("data_wait"):
                try:
                    item = next(items)
                except StopIteration:
                    return
            yield item

    def made(self, step: int, flops: float) -> None:
        """A step was begun, which takes these FLOPs."""
        with self.lock:
            self.step, self.steps, self.flops = step, self.steps + 1, self.flops + flops

    def open(self, file: Path, device: dict[str, Any]) -> None:
        """Write lines to `file` from now on, in a process that holds the run folder.

        Args:
            device: "kind", "count" and "peak_flops" of the devices (itx/plan/peaks.py).
        """
        if not hosts.is_writer():
            return
        held = file.read_bytes() if file.is_file() else b""
        with storage.whole_file(file) as part:  # a line that a kill cut short is gone
            part.write_bytes(held[: held.rfind(b"\n") + 1])
        self.file = file
        self.line(begin=self.began_at, device=device)
        self.thread.start()

    def line(self, **more: Any) -> None:
        """Write what has passed since the last line, with `more` keys: "saved" or "restored" (a
        step)."""
        if self.file is None:
            return
        with self.lock:
            self._attribute()
            entry = {
                "at": time.time(),
                "seconds": {k: round(v, 6) for k, v in self.seconds.items() if v},
                **({"step": self.step, "steps": self.steps} if self.steps else {}),
                **({"flops": self.flops} if self.flops else {}),
                **more,
            }
            with storage.named(self.file), open(self.file, "a", encoding="utf-8") as out:
                out.write(json.dumps(entry) + "\n")
            self.seconds, self.steps, self.flops = Counter(), 0, 0.0

    def close(self, summary_file: Path, **more: Any) -> None:
        """Write the last line, with `more` keys: "done" (the run's steps) where the run ends here;
        and the sums of all lines to `summary_file`. Nothing is written after that."""
        if self.file is None:
            return
        self.is_over.set()
        self.thread.join()
        self.line(**more)
        storage.write_json(summary_file, summary(*read(self.file)))
        self.file = None

    def _attribute(self) -> None:
        now = time.monotonic()
        self.seconds[self.inside[-1] if self.inside else UNATTRIBUTED] += now - self.since
        self.since = now

    def _write_now_and_then(self) -> None:
        pause = MIN_LINE_SECONDS
        while not self.is_over.wait(pause):
            with contextlib.suppress(OSError):  # the main thread meets the same error, and says so
                self.line()
            age = time.monotonic() - self.began
            pause = max(MIN_LINE_SECONDS, MAX_UNWRITTEN_SHARE * age)


def read(file: Path) -> tuple[list[dict], int]:
    """(the lines of goodput.jsonl, how many others there are that no clock writes)."""
    if not file.is_file():
        return [], 0
    lines, unreadable = [], 0
    for line in file.read_bytes().split(b"\n")[:-1]:  # what follows the last, a kill cut short
        try:
            entry = json.loads(line.decode("utf-8"))
            lines.append({**entry, "at": float(entry["at"]), "seconds": dict(entry["seconds"])})
        except (ValueError, TypeError, KeyError):
            unreadable += 1
    return lines, unreadable


def is_done(file: Path, step: int) -> bool:
    """Whether the last process ended the run at this step or a later one."""
    lines, _ = read(file)
    return bool(lines) and lines[-1].get("done", -1) >= step


def summary(lines: list[dict], unreadable: int = 0) -> dict:
    """{"wall": seconds, "seconds": {category: seconds}, "unattributed_share", "processes", "steps",
    "lost_steps", "unreadable_lines", "flops", "flops_per_second", "mfu", "device"} of a run.

    "flops" are those of the steps that count, and "mfu" their share of what the devices could have
    done in the time of these steps and of the waits for their data; None where no peak is known.
    """
    kept = [Counter(x["seconds"]) for x in lines]
    steps = [(x.get("steps", 0), x.get("flops", 0.0)) for x in lines]
    seconds: Counter = Counter(dict.fromkeys(WORDS, 0.0))
    lost_steps = 0
    for n, line in enumerate(lines):
        if "begin" in line and n and "done" not in lines[n - 1]:
            seconds["idle"] += max(0.0, line["begin"] - lines[n - 1]["at"])
        if "restored" not in line:
            continue
        for m in range(_after_saved(lines[:n], line["restored"]), n):
            lost_steps += steps[m][0]
            steps[m] = 0, 0.0
            seconds["lost_work"] += sum(kept[m].pop(k, 0.0) for k in REPEATED)
    for counted in kept:
        seconds.update(counted)
    devices = [x["device"] for x in lines if "device" in x]
    device = devices[-1] if devices else {}
    flops, busy = sum(f for _, f in steps), seconds["step"] + seconds["data_wait"]
    peak, wall = device.get("peak_flops"), sum(seconds.values())
    return {
        "wall": wall,
        "seconds": dict(seconds),
        "unattributed_share": seconds[UNATTRIBUTED] / wall if wall else 0.0,
        "processes": sum("begin" in x for x in lines),
        "steps": sum(n for n, _ in steps),
        "lost_steps": lost_steps,
        "unreadable_lines": unreadable,
        "flops": flops,
        "flops_per_second": flops / busy if busy else None,
        "mfu": flops / busy / peak if busy and peak and flops else None,
        "device": device,
    }


def _after_saved(lines: list[dict], step: int) -> int:
    """The number of the first line behind the last one that a checkpoint of `step` follows."""
    saved = [n for n, x in enumerate(lines) if x.get("saved") == step]
    if saved:
        return saved[-1] + 1
    # without it (step 0 is never saved): the first that tells of a later step
    return next((n for n, x in enumerate(lines) if x.get("step", 0) > step), len(lines))


def in_words(facts: dict) -> str:
    """The categories by their shares of the wall time, and the use of the devices, in one line."""
    wall, seconds = facts["wall"], facts["seconds"]
    if not wall:
        return "time: nothing is known of it"
    shown = sorted((k for k in WORDS if k != UNATTRIBUTED), key=lambda k: -seconds[k])
    shares = ", ".join(f"{WORDS[k]} {seconds[k] / wall:.1%}" for k in shown if seconds[k])
    starts = facts["processes"]
    text = f"time: {wall:,.1f} s in {starts} start{'s' if starts > 1 else ''}: {shares}; "
    text += f"unattributed {facts['unattributed_share']:.2%}"
    if facts["lost_steps"]:
        text += f"; {facts['lost_steps']} steps were made twice"
    if facts["unreadable_lines"]:
        text += f"; {facts['unreadable_lines']} lines of goodput.jsonl cannot be read"
    return f"{text}; {mfu_in_words(facts)}"


def mfu_in_words(facts: dict) -> str:
    """The use of the devices (MFU), or why it is not known."""
    if not facts["flops"]:
        return "no step was made"
    device, done = facts["device"], facts["flops_per_second"]
    speed = f"{done / 1e12:,.3g} TFLOP/s" if done else "no time"
    if facts["mfu"] is None:
        return f"MFU: no peak known of {device.get('kind', 'the device')} ({speed})"
    return f"MFU {facts['mfu']:.1%} ({speed} on {device['count']} x {device['kind']})"


def of_this_process() -> Clock:
    """A clock that began when the process did, if the process is one command."""
    return Clock(processes.age())
