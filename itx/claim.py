# SPDX-License-Identifier: Apache-2.0
"""One trainer per run in a store, and the index that it alone writes.

A start claims the number behind the newest index by creating an object that a store grants once
(`Store.create`; of a store without such a request, as some servers that only resemble S3 are, two
that start in the same moment are told apart by the higher number alone). It then beats, in an
object beside. A start that finds a predecessor's beat still changing is refused; one that finds it
silent for PATIENCE_SECONDS goes on. The predecessor, if it only slept, sees the higher number and
ends before it writes again; what it had sent meanwhile is named by no index that anybody reads.
"""

import contextlib
import json
import os
import platform
import secrets
import threading
import time
from dataclasses import replace
from pathlib import Path

from itx import storage
from itx.errors import RunFailed, UserError
from itx.remote import Store
from itx.stored_run import Index, index_name, is_sealed, trainer_name
from itx.text import say, visible

BEAT_SECONDS = 10.0
# Six beats: what delays a beat in a store that is busy is shorter.
PATIENCE_SECONDS = 60.0


class Claim:
    """The right to write a run in a store; `index` is what it has written."""

    def __init__(self, store: Store, folder: Path):
        """`folder`: this trainer's scratch folder, whose lock it holds."""
        self.store, self.index = store, Index()
        self.owner, self.claiming = secrets.token_hex(8), threading.Lock()
        self.abandoned = 0  # the store's count when the index's object was last a new one
        self.has_written = False
        self.is_over = threading.Event()
        self.thread = threading.Thread(target=self._beat, daemon=True)
        self.record = {"host": platform.node(), "process": os.getpid()}
        self.record |= {"machine": storage.machine(), "folder": str(folder.absolute())}
        self.record |= {"since": time.strftime("%Y-%m-%d %H:%M:%S %z"), "owner": self.owner}

    def take(self, index: Index) -> None:
        """Claim the number behind the newest index; UserError where another trainer lives."""
        if index.number:
            self._outwait(index.number)
        self._create(index)
        self.thread.start()

    def write(self, index: Index) -> None:
        """Write the index anew. Where a request of this start was given up, it may still come and
        write over the object: the next number is claimed."""
        self._check()
        self.has_written = True
        before = self.index.number
        if self.store.abandoned == self.abandoned:
            index = replace(index, number=before, owner=self.owner)
            self.store.write(index_name(before), index.packed())
            self.index = index
        else:
            self._create(replace(index, number=before))
            self.store.remove(trainer_name(before))

    def leave(self) -> None:
        """Let the next start go on at once; what was claimed and never written is gone."""
        self.is_over.set()
        self.thread.join()
        number = self.index.number
        try:
            if not self.has_written and not self.store.exists(index_name(number + 1)):
                self.store.remove(index_name(number))
            self.store.remove(trainer_name(number))
        except (RunFailed, UserError) as e:
            say(f"{e}; the next start waits for a sign of this one")

    def _create(self, index: Index) -> None:
        """Claim the number behind an index, and go on with what it holds."""
        claimed = replace(index, number=index.number + 1, owner=self.owner)
        with self.claiming:
            abandoned = self.store.abandoned
            if not self.store.create(index_name(claimed.number), claimed.packed()):
                raise UserError(self._told(claimed.number))
            self.index, self.abandoned = claimed, abandoned
        self._write_beat(0)

    def _outwait(self, number: int) -> None:
        """UserError where the trainer of that number lives."""
        before = self._held(number)
        if before is None:
            return
        # A predecessor that worked in this folder is gone: else it held the folder's lock.
        if all(before.get(key) == self.record[key] for key in ("machine", "folder")):
            return
        say(
            f"{visible(self.store.url)} was held by {_who(before)}; waiting up to "
            f"{PATIENCE_SECONDS:.0f} s for a sign of it"
        )
        until = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < until:
            time.sleep(min(PATIENCE_SECONDS / 10, BEAT_SECONDS / 2))
            now = self._held(number)
            if now is None:
                return
            if now != before:
                raise UserError(self._told(number))
        say("it gives none, so its place is taken")

    def _held(self, number: int) -> dict | None:
        data = self.store.find(trainer_name(number), is_sealed)
        return None if data is None else json.loads(data)

    def _told(self, number: int) -> str:
        return (
            f"{visible(self.store.url)} is being trained by {_who(self._held(number) or {})}: wait "
            "until it ends, stop it there, or give another --run_dir"
        )

    def _write_beat(self, beats: int) -> None:
        held = storage.sealed({**self.record, "beats": beats})
        self.store.write(trainer_name(self.index.number), json.dumps(held).encode())

    def _beat(self) -> None:
        """The work of a thread: say that this start lives, and end it where another one took
        over."""
        beats = 0
        while not self.is_over.wait(BEAT_SECONDS):
            beats += 1
            with contextlib.suppress(RunFailed, UserError):  # one that is missed is no reason
                self._check()
                with self.claiming:
                    self._write_beat(beats)

    def _check(self) -> None:
        """End this process where a later start has claimed the run."""
        with self.claiming:
            number = self.index.number + 1
            if self.store.exists(index_name(number)):
                say(f"{self._told(number)}; this trainer, which gave no sign for long, ends")
                end_process(2)


def end_process(code: int) -> None:
    os._exit(code)


def _who(held: dict) -> str:
    host, process, since = (
        visible(str(held.get(k, "?")))[:100] for k in ("host", "process", "since")
    )
    return f"process {process} on {host} (since {since})"
