# SPDX-License-Identifier: Apache-2.0
"""Calls that are paid are made by a process of their own, the courier, which writes the journal.

Whatever kills the asking process, SIGKILL included, the courier stays until the calls in flight
have come and are written down; it sends no new ones. The next start waits for it (the journal's
lock) and goes on with what is missing. So a call is paid twice only if the courier is killed as
well, or the machine stops: at most `concurrency` calls each time, which the journal knows of.
"""

import multiprocessing
import os
import signal
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from itx import processes
from itx.create.generators import Completion, Generator, Request
from itx.create.journal import Budget, Journal, ask, read
from itx.errors import RunFailed, UserError


class Courier:
    """Asks a generator from a process of its own; what `journal.ask` is, for calls that are paid.
    The generator must be one that can be pickled (server.py's)."""

    def __init__(self, generator: Generator, path: Path, budget: Budget | None = None) -> None:
        self.generator, self.path = generator, path
        context = multiprocessing.get_context("spawn")
        self._pipe, other_end = context.Pipe()
        given = (os.getpid(), other_end, generator, path, budget or Budget())
        # No daemon: Python ends daemons with their parent, calls in flight or not.
        self._process = context.Process(target=_carry, args=given, daemon=False)
        with processes.without_sigint(workers=True):
            self._process.start()
        other_end.close()
        self._journal: Journal | None = None

    def __enter__(self) -> "Courier":
        return self

    def __exit__(self, *error: object) -> None:
        self._pipe.close()
        if self._process.is_alive():
            self._process.terminate()  # told to end; it waits for what is in flight
        self._process.join()
        if self._journal:
            self._journal.close()

    def ask(self, requests: Sequence[Request]) -> list[Completion]:
        try:
            self._pipe.send(list(requests))
            error = self._pipe.recv()
        except (EOFError, OSError) as e:
            self._process.join()
            raise RunFailed(
                f"the process that calls {self.generator.name} ended by itself "
                f"(exit {self._process.exitcode}); the same command goes on"
            ) from e
        if error is not None:
            raise error
        self._journal = self._journal or Journal(self.path, reads_only=True)
        return read(self._journal, self.generator.name, requests)


def _carry(parent: int, pipe: Connection, generator: Generator, path: Path, budget: Budget) -> None:
    """The courier: answers lists of requests until the pipe is closed or the parent is gone."""
    os.setsid()  # Ctrl-C in the terminal is for the parent
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: told.append(number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM,))

    def goes_on() -> bool:
        return not told and os.getppid() == parent

    try:
        with Journal(path) as journal:
            while goes_on():
                requests = _next(pipe, goes_on)
                if requests is None:
                    return
                error: Any = None
                try:
                    ask(journal, generator, requests, budget, goes_on)
                except (UserError, RunFailed) as e:
                    error = e
                except OSError as e:  # its parts, for one that is raised from another is not whole
                    error = OSError(e.errno, e.strerror, str(e.filename or path))
                if goes_on():
                    pipe.send(error)
    except (UserError, RunFailed, OSError) as e:  # the journal cannot be opened, or the pipe broke
        if goes_on():
            pipe.send(e)


def _next(pipe: Connection, goes_on: Any) -> list[Request] | None:
    """The next requests; None where there will be none."""
    while goes_on():
        try:
            if pipe.poll(0.2):
                return pipe.recv()
        except (EOFError, OSError):
            return None
    return None
