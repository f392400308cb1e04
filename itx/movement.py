# SPDX-License-Identifier: Apache-2.0
"""Signs that work goes on, and how far it is: a bar in a terminal, elsewhere a line every
EVERY_SECONDS.

Work that ends sooner prints nothing. `track` counts what is done; `alive` is for a call that tells
nothing of itself.
"""

import contextlib
import contextvars
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from itx import hosts

if TYPE_CHECKING:
    from rich.progress import Progress

EVERY_SECONDS = 15.0
# The time left is judged by so much of the past: earlier work, compilation say, does not return.
WINDOW_SECONDS = 60.0
_SHOWN: contextvars.ContextVar[str] = contextvars.ContextVar("shown", default="")


class Pace:
    """How fast it goes at present."""

    def __init__(self):
        self.seen: deque[tuple[float, float]] = deque()  # (when, how much was done)

    def note(self, done: float) -> None:
        now = time.monotonic()
        self.seen.append((now, done))
        while len(self.seen) > 2 and self.seen[1][0] <= now - WINDOW_SECONDS:
            self.seen.popleft()

    def left(self, total: float) -> float | None:
        """Seconds until `total` is done; None where nothing was done since the first note."""
        if not self.seen:
            return None
        (began, first), (last, done) = self.seen[0], self.seen[-1]
        return (last - began) / (done - first) * (total - done) if done > first else None

    def words(self, total: float) -> str:
        seconds = self.left(total)
        return "time left not known yet" if seconds is None else f"{seconds:.0f} s left"


@contextlib.contextmanager
def shown(what: str) -> Iterator[None]:
    """What `track` within it does is shown, as a part of this; elsewhere it is silent."""
    token = _SHOWN.set(what)
    try:
        yield
    finally:
        _SHOWN.reset(token)


@contextlib.contextmanager
def track(does: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """Within `shown`, gives a function to call with how many more are done: `evaluate step 3:
    generated 512 of 3,000 prompts, 40 s left`."""
    what = _SHOWN.get()
    if not what or not total or not hosts.is_writer():
        yield lambda n: None
        return
    label = f"{what}: {does}"
    with _bar(label, total, unit) if sys.stderr.isatty() else _lines(label, total, unit) as advance:
        yield advance


def terminal_bar(label: str, text: str, transient: bool) -> "Progress":
    """A bar on stderr between a label and a text, whose {task.…} fields are filled in."""
    from rich import progress
    from rich.console import Console

    return progress.Progress(
        progress.TextColumn(label, markup=False),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn(text),
        progress.TimeRemainingColumn(),
        transient=transient,
        console=Console(stderr=True),
    )


@contextlib.contextmanager
def _bar(label: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    with terminal_bar(label, unit, transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda n: bar.advance(task, n)


@contextlib.contextmanager
def _lines(label: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    done, pace, over = 0, Pace(), threading.Event()
    pace.note(0)

    def advance(n: int) -> None:
        nonlocal done
        done += n
        pace.note(done)

    def tell() -> None:
        while not over.wait(EVERY_SECONDS):
            line = f"{label} {done:,} of {total:,} {unit}, {pace.words(total)}"
            print(line, file=sys.stderr, flush=True)

    # a device's work and a compilation leave other threads running
    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield advance
    finally:
        over.set()
        teller.join()


# Ends when its standard input is closed, which the system does too where this process is killed.
_BEAT = """
import select, signal, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that is watched
label, every, began = sys.argv[1], float(sys.argv[2]), time.monotonic()
while not select.select([sys.stdin], [], [], every)[0]:
    print(f"{label}, {time.monotonic() - began:.0f} s so far", file=sys.stderr, flush=True)
"""


@contextlib.contextmanager
def alive(label: str) -> Iterator[None]:
    """Says every EVERY_SECONDS that one call goes on which lets no other thread of this process
    run: from a process of its own."""
    command = [sys.executable, "-I", "-S", "-c", _BEAT, label, str(EVERY_SECONDS)]
    beat = subprocess.Popen(command, stdin=subprocess.PIPE)
    try:
        yield
    finally:
        beat.stdin.close()
        beat.wait()
