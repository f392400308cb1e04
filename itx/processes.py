# SPDX-License-Identifier: Apache-2.0
"""How a process ends: with the process that started it, at a signal; and how a crashed run is
started again."""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from types import MappingProxyType
from typing import Any

from itx import storage
from itx.errors import RunFailed, UserError, of_the_machine
from itx.text import say

# the process id of the starter: a process ends when the one that set this is killed
WATCH = "ITX_END_WITH_PARENT"

# Exit codes after which a restart is pointless: success, a user's mistake, and the signals that
# tell a run to stop.
STOPS = (signal.SIGTERM, signal.SIGINT)
NO_RESTART_CODES = (0, 2, *(128 + n for n in STOPS), *(-n for n in STOPS))
MAX_PAUSE_SECONDS = 60.0
POLL_SECONDS = 0.1


def die_with(parent: int) -> None:
    """End this process when `parent`, which started it, is gone, SIGKILL included: no worker goes
    on alone."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def child(
    work: Callable[..., None], *args: Any
) -> tuple[multiprocessing.process.BaseProcess, Connection]:
    """A new process that runs `work(pipe, *args)` and ends with this one, and the pipe to it. It is
    spawned, so that it starts clean: no TensorFlow, no threads of this process."""
    context = multiprocessing.get_context("spawn")
    own_end, other_end = context.Pipe()
    given = (os.getpid(), work, other_end, *args)
    process = context.Process(target=_as_child, args=given, daemon=True)
    process.start()
    other_end.close()
    return process, own_end


def _as_child(parent: int, work: Callable[..., None], *args: Any) -> None:
    die_with(parent)
    work(*args)


def die_with_starter() -> None:
    """`die_with` the process that set WATCH for this one, if any did."""
    if starter := os.environ.pop(WATCH, ""):
        die_with(int(starter))


# ---- age

_is_one_command = False


def one_command() -> None:
    """This process is one command from its first moment, as `itx` is; tests make many in one."""
    global _is_one_command
    _is_one_command = True


def age() -> float:
    """Seconds since this process began, imports included; 0 where it is not one command, or the
    system does not tell."""
    if not _is_one_command:
        return 0.0
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        # field 22 of proc(5): clock ticks from the machine's start to the process's
        began = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - began)
    except (OSError, ValueError, IndexError, AttributeError):
        return 0.0


# ---- signals

GRACE_SECONDS = 4.0  # to clean up after a signal, where nothing is to be saved
# A signal to a group of processes arrives twice where the parent hands it on: closer than this, two
# are one.
MIN_SECONDS_BETWEEN_SIGNALS = 0.3

_watching = False


def _in_main_thread() -> bool:
    """Only the main thread may set handlers of signals; elsewhere the caller handles them."""
    return threading.current_thread() is threading.main_thread()


@contextlib.contextmanager
def second_signal_ends() -> Iterator[None]:
    """A second SIGTERM or SIGINT ends the process at once, with 128 + its number.

    Python's handlers wait until the main thread is back from a compiler or a restore. This needs no
    handler: the interpreter writes each signal's number to a pipe, which a thread reads.
    """
    global _watching
    if _watching or not _in_main_thread():
        yield
        return
    reads, writes = os.pipe()
    os.set_blocking(writes, False)

    def watch() -> None:
        first = None
        while numbers := os.read(reads, 64):
            if told := [n for n in numbers if n in STOPS]:
                now = time.monotonic()
                first = first or now
                if now - first >= MIN_SECONDS_BETWEEN_SIGNALS:
                    os._exit(128 + told[-1])
        os.close(reads)

    before, _watching = signal.set_wakeup_fd(writes, warn_on_full_buffer=False), True
    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(writes)
        _watching = False


@contextlib.contextmanager
def _handled(note: Callable[[int, Any], None]) -> Iterator[None]:
    """Inside, SIGTERM and SIGINT call `note`."""
    if not _in_main_thread():
        yield
        return
    with second_signal_ends(), _handlers(note):
        yield


@contextlib.contextmanager
def _handlers(note: Callable[[int, Any], None]) -> Iterator[None]:
    """`_handled` in the main thread, where a second signal is one more to note."""
    old = {number: signal.signal(number, note) for number in STOPS}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def exits_within(seconds: float, code: int) -> threading.Timer:
    """End the process with `code` in that time, whatever still holds it; the timer may be
    cancelled."""
    timer = threading.Timer(seconds, os._exit, (code,))
    timer.daemon = True
    timer.start()
    return timer


@contextlib.contextmanager
def ends_at_signal() -> Iterator[None]:
    """SIGTERM ends a command with 143 and a line, SIGINT with KeyboardInterrupt, where it is. Files
    are whole at every moment, so nothing but temporary folders needs to be undone; what takes
    longer than GRACE_SECONDS is left."""
    timers: list[threading.Timer] = []

    def end(number: int, frame: Any) -> None:
        if timers:
            return
        timers.append(exits_within(GRACE_SECONDS, 128 + number))
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        with contextlib.suppress(OSError):
            os.write(2, b"itx: stopped by SIGTERM; the same command resumes\n")
        raise SystemExit(128 + number)

    try:
        with _handled(end):
            yield
    finally:
        for timer in timers:
            timer.cancel()


class Interrupts:
    """Inside, SIGTERM and SIGINT are only noted: training finishes the step, saves, and leaves. A
    signal that nobody looked at ends the process after the block."""

    def __init__(self) -> None:
        self.seen, self.at_once = 0, False
        self.stack = contextlib.ExitStack()

    def __enter__(self) -> "Interrupts":
        self.stack.enter_context(_handled(self._note))
        return self

    def _note(self, number: int, frame: Any) -> None:
        self.seen = self.seen or number
        if self.at_once:
            raise SystemExit(self.exit_code)

    @contextlib.contextmanager
    def ending(self) -> Iterator[None]:
        """Inside, a signal ends the process at once: everything is saved."""
        if self.seen:
            raise SystemExit(self.exit_code)
        self.at_once = True
        try:
            yield
        finally:
            self.at_once = False

    @property
    def exit_code(self) -> int:
        return 128 + self.seen  # as a shell reports a process ended by that signal

    def looked(self) -> int:
        """The exit code of the signal that came, which is thereby looked at; 0: none came."""
        code = self.exit_code if self.seen else 0
        self.seen = 0
        return code

    def __exit__(self, kind: type | None, *error: object) -> None:
        self.stack.close()
        if self.seen and kind is None:  # it came when nobody asked any more
            raise SystemExit(self.exit_code)


def as_command(work: Callable[[], int], conversation: bool = False) -> int:
    """The exit code of `work`, which signals may end; an error that a person or the machine can
    mend is one line on stderr.

    conversation: Ctrl-C cuts an answer short, as often as one likes, and is left to `work`.
    """
    try:
        with contextlib.nullcontext() if conversation else ends_at_signal():
            code = work()
        sys.stdout.flush()  # a full disk shows here rather than when Python ends
        return code
    except UserError as e:
        said, code = str(e), 2
    except RunFailed as e:
        said, code = str(e), 1
    except KeyboardInterrupt:
        said, code = "interrupted; the same command resumes", 128 + signal.SIGINT
    except BrokenPipeError:
        return 0
    except Exception as e:
        refused = of_the_machine(e)
        if refused is None:
            raise
        said, code = refused
    say(said)
    return code


# ---- child processes


@contextlib.contextmanager
def temporary_home() -> Iterator[Path]:
    """A folder that takes all temporary files of this process and its children, and is gone after
    the block, however they end: a process that is ended by a signal removes none of its own."""
    before = os.environ.get("TMPDIR"), tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix="itx-", ignore_cleanup_errors=True) as folder:
        os.environ["TMPDIR"], tempfile.tempdir = folder, None
        try:
            yield Path(folder)
        finally:
            tempfile.tempdir = before[1]
            os.environ.pop("TMPDIR")
            if before[0] is not None:
                os.environ["TMPDIR"] = before[0]


def run_child(
    command: list[str],
    what: str,
    said: Path | None = None,
    environment: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Run a command that ends with this process; end as it does, unless that is well.

    Where this process is ended, the child is told so and has time to end its own workers.

    Args:
        said: a file that all that it prints is added to, in place of the terminal.
        environment: what is set for it besides.
    """
    with without_sigint(workers=False), contextlib.ExitStack() as stack:
        out = stack.enter_context(open(said, "ab")) if said else None
        child = subprocess.Popen(
            command,
            env={**os.environ, **environment, WATCH: str(os.getpid())},
            stdout=out,
            stderr=subprocess.STDOUT if out else None,
        )
    try:
        code = child.wait()
    except BaseException:
        child.terminate()
        try:
            child.wait(GRACE_SECONDS * 0.75)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        raise
    if -code in STOPS:
        raise SystemExit(128 - code)
    if code < 0:
        why = " (mostly for want of memory)" if -code == signal.SIGKILL else ""
        name = signal.Signals(-code).name
        raise RunFailed(f"{what} was ended by {name}{why}; the same command goes on from there")
    if code:
        raise SystemExit(code)


@contextlib.contextmanager
def without_sigint(workers: bool) -> Iterator[None]:
    """Processes that are started inside get no SIGINT: Ctrl-C reaches all of a terminal's
    processes, and who started them ends them.

    workers: they are started through multiprocessing, whose tracker unblocks signals when it
    starts: it must run before.
    """
    if workers:
        resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT,))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_workers() -> None:
    """End the processes that this one has started through multiprocessing."""
    workers = multiprocessing.active_children()
    for worker in workers:
        worker.terminate()
    for worker in workers:
        worker.join()


def newest_checkpoint(checkpoints: Path) -> int:
    """The newest step that has a folder there, 0 without any."""
    return max(storage.checkpoint_steps(checkpoints), default=0)


class Supervisor:
    """Starts `command` again after a crash, at most `times` times in a row without a checkpoint
    gained."""

    def __init__(self, command: list[str], times: int, newest: Callable[[], int]):
        """`newest`: the newest step that has a checkpoint now."""
        self.command, self.times, self.newest = command, times, newest
        self.child: subprocess.Popen | None = None
        self.told = 0  # the signal that told the supervisor to stop

    def run(self) -> int:
        """The exit code of the last start, or 128 + the signal that stopped the run."""
        with _handlers(self._note):
            return self._run()

    def _note(self, number: int, frame: Any) -> None:
        self.told = number
        # A terminal sends SIGINT to the child as well, which takes two at once for one.
        if self.child is not None:
            self.child.send_signal(number)

    def _run(self) -> int:
        fruitless = 0  # crashes in a row that gained no checkpoint
        while True:
            before = self.newest()
            self.child = subprocess.Popen(self.command, env=os.environ | {WATCH: str(os.getpid())})
            if self.told:  # The signal came while the child was being started.
                self.child.send_signal(self.told)
            code = self.child.wait()
            self.child = None
            if code in NO_RESTART_CODES:
                return code if code >= 0 else 128 - code
            if self.told:
                return 128 + self.told
            if self.newest() > before:
                fruitless, how = 0, "steps were gained, so this one is not counted"
            elif fruitless == self.times:
                say(f"exit {code}; {fruitless + 1} starts in a row gained no step")
                return code
            else:
                fruitless += 1
                how = f"{fruitless} of {self.times} without a step gained"
            pause = min(2.0 ** max(fruitless - 1, 0), MAX_PAUSE_SECONDS)
            say(f"exit {code}; a new start in {pause:.0f} s ({how})")
            if stopped := self._pause(pause):
                say("stopped before a new start; the same command resumes")
                return 128 + stopped

    def _pause(self, seconds: float) -> int:
        """Wait; the signal that came meanwhile, or 0."""
        until = time.monotonic() + seconds
        while not self.told and time.monotonic() < until:
            time.sleep(POLL_SECONDS)
        return self.told
