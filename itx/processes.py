# SPDX-License-Identifier: Apache-2.0
"""How a process ends: with the process that started it, at a signal; and how a crashed run is started again."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from itx import storage
from itx.errors import RunFailed

WATCH = "ITX_END_WITH_PARENT"  # the process id of the starter: a process ends when the one that set this is killed

# A new start changes nothing after success, after a user's mistake, or when a signal told the run to stop.
NO_RESTART_CODES = (0, 2, 128 + signal.SIGINT, 128 + signal.SIGTERM, -signal.SIGINT, -signal.SIGTERM)
MAX_PAUSE_SECONDS = 60.0
POLL_SECONDS = 0.1


def die_with(parent: int) -> None:
    """End this process when `parent`, which started it, is gone, SIGKILL included: no worker goes on alone."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def die_with_starter() -> None:
    """`die_with` the process that set WATCH for this one, if any did."""
    if starter := os.environ.pop(WATCH, ""):
        die_with(int(starter))


@contextlib.contextmanager
def ends_at_sigterm() -> Iterator[None]:
    """SIGTERM ends the process with 143 and a line. Files are whole at every moment, so nothing needs to be undone."""

    def end(number: int, frame: Any) -> None:
        with contextlib.suppress(OSError):
            os.write(2, b"itx: stopped by SIGTERM; the same command resumes\n")
        os._exit(128 + number)

    try:
        old = signal.signal(signal.SIGTERM, end)
    except ValueError:  # Only the main thread may set a handler; elsewhere the caller handles signals.
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, old)


def newest_checkpoint(checkpoints: Path) -> int:
    """The newest step that has a folder there, 0 without any."""
    return max(storage.checkpoint_steps(checkpoints), default=0)


def check_ended(code: int, what: str) -> None:
    """End as a child process has ended, unless that was well. If it was killed, nobody has said so yet."""
    if -code in (signal.SIGTERM, signal.SIGINT):
        raise SystemExit(128 - code)
    if code < 0:
        why = " (mostly for want of memory)" if -code == signal.SIGKILL else ""
        raise RunFailed(f"{what} was ended by {signal.Signals(-code).name}{why}; the same command goes on from there")
    if code:
        raise SystemExit(code)


class Supervisor:
    """Starts `command` again after a crash, at most `times` times in a row without a checkpoint gained."""

    def __init__(self, command: list[str], times: int, checkpoints: Path):
        self.command, self.times, self.checkpoints = command, times, checkpoints
        self.child: subprocess.Popen | None = None
        self.told = 0  # the signal that told the supervisor to stop

    def run(self) -> int:
        """The exit code of the last start, or 128 + the signal that stopped the run."""
        handlers = {n: signal.signal(n, self._note) for n in (signal.SIGTERM, signal.SIGINT)}
        try:
            return self._run()
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: Any) -> None:
        self.told = number
        # A terminal sends SIGINT to the child as well.
        if self.child is not None and number == signal.SIGTERM:
            self.child.send_signal(number)

    def _run(self) -> int:
        fruitless = 0  # crashes in a row that gained no checkpoint
        while True:
            before = newest_checkpoint(self.checkpoints)
            self.child = subprocess.Popen(self.command, env=os.environ | {WATCH: str(os.getpid())})
            if self.told == signal.SIGTERM:  # The signal came while the child was being started.
                self.child.send_signal(self.told)
            code = self.child.wait()
            self.child = None
            if code in NO_RESTART_CODES:
                return code if code >= 0 else 128 - code
            if self.told:
                return 128 + self.told
            if newest_checkpoint(self.checkpoints) > before:
                fruitless, how = 0, "steps were gained, so this one is not counted"
            elif fruitless == self.times:
                print(f"itx: exit {code}; {fruitless + 1} starts in a row gained no step", file=sys.stderr)
                return code
            else:
                fruitless += 1
                how = f"{fruitless} of {self.times} without a step gained"
            pause = min(2.0 ** max(fruitless - 1, 0), MAX_PAUSE_SECONDS)
            print(f"itx: exit {code}; a new start in {pause:.0f} s ({how})", file=sys.stderr, flush=True)
            if stopped := self._pause(pause):
                print("itx: stopped before a new start; the same command resumes", file=sys.stderr)
                return 128 + stopped

    def _pause(self, seconds: float) -> int:
        """Wait; the signal that came meanwhile, or 0."""
        until = time.monotonic() + seconds
        while not self.told and time.monotonic() < until:
            time.sleep(POLL_SECONDS)
        return self.told
