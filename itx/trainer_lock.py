# SPDX-License-Identifier: Apache-2.0
"""One trainer per run folder: a lock file that its process holds, and a heartbeat in it.

Within one machine the kernel knows who holds the file (flock), in every container and until the
process is gone: a trainer that was killed blocks nobody. A network file system may keep each
machine's locks to itself; there a second trainer watches the file, which a living one on another
machine changes with every beat, whatever their clocks say.
"""

import contextlib
import fcntl
import json
import os
import platform
import secrets
import threading
import time
from pathlib import Path

from itx.errors import UserError
from itx.storage import is_at, machine, try_lock
from itx.text import say, visible

NAME = "trainer.lock"
BEAT_SECONDS = 5.0
# Six beats: what delays a beat on a busy machine or a network file system is shorter.
PATIENCE_SECONDS = 30.0
MAX_BYTES = 4096  # read of the file; a trainer writes less


class TrainerLock:
    """Inside `with`, no other trainer works in the folder; the file is gone afterwards."""

    def __init__(self, folder: Path):
        self.folder, self.file = Path(folder), Path(folder) / NAME
        self.number: int | None = None  # the open file
        self.ended = threading.Event()
        self.record = {"host": platform.node(), "process": os.getpid()}
        self.record |= {"since": time.strftime("%Y-%m-%d %H:%M:%S %z"), "machine": machine()}
        self.record |= {"owner": secrets.token_hex(8), "beats": 0}

    def check(self) -> None:
        """UserError where another trainer of this machine holds the folder. Writes nothing."""
        try:
            number = os.open(self.file, os.O_RDONLY)
        # nobody ever held it, or nobody may read it: then it cannot be taken either
        except OSError:
            return
        try:
            if try_lock(number, fcntl.LOCK_SH) is False:
                raise self._refusal()
        finally:
            os.close(number)

    def __enter__(self) -> "TrainerLock":
        self.made_folder = not self.folder.exists()
        try:
            while not self._take():
                pass
            self._write()
        except OSError as e:
            raise UserError(f"{self.file} cannot be written: {e.strerror}") from e
        self.thread = threading.Thread(target=self._beat, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.ended.set()
        self.thread.join()
        with contextlib.suppress(OSError):
            if self._owner() == self.record["owner"]:
                self.file.unlink()
            os.close(self.number)
            if self.made_folder:  # a folder in which nothing was begun
                self.folder.rmdir()

    def _take(self) -> bool:
        """Open and lock the file; UserError where another trainer lives, False where it left in
        this moment."""
        self.folder.mkdir(parents=True, exist_ok=True)
        number = os.open(self.file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            locked = try_lock(number, fcntl.LOCK_EX)
            if locked is False:
                raise self._refusal()
            if not is_at(number, self.file):
                return False
            held = self._read()
            if held and not (locked and _parsed(held).get("machine") == self.record["machine"]):
                self._outwait(held)
            self.number, number = number, None
            return True
        finally:
            if number is not None:
                os.close(number)

    def _outwait(self, held: bytes) -> None:
        """UserError where the file, which no lock of this machine speaks for, still changes."""
        say(
            f"{self.folder} was held by {_who(held)}; waiting up to {PATIENCE_SECONDS:.0f} s for a "
            "sign of it"
        )
        until = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < until:
            time.sleep(min(1.0, PATIENCE_SECONDS / 10))
            if self._read() != held:
                raise self._refusal()
        say("it gives none, so its lock is taken over")

    def _refusal(self) -> UserError:
        return UserError(
            f"{self.folder} is being trained by {_who(self._read())}: wait until it ends, stop it "
            "there, or give another --run_dir"
        )

    def _read(self) -> bytes:
        """What the file holds now: opened anew, for then a network file system asks its server."""
        try:
            with open(self.file, "rb") as f:
                return f.read(MAX_BYTES)
        except OSError:
            return b""

    def _write(self) -> None:
        self.record["beats"] += 1
        text = (json.dumps(self.record) + "\n").encode()
        os.pwrite(self.number, text, 0)
        os.ftruncate(self.number, len(text))
        os.fsync(self.number)

    def _owner(self) -> str | None:
        """The owner that the file names; None where it cannot be read right now."""
        return _parsed(self._read()).get("owner")

    def _beat(self) -> None:
        while not self.ended.wait(BEAT_SECONDS):
            with contextlib.suppress(OSError):  # a beat that is missed is no reason to stop
                if self._owner() not in (None, self.record["owner"]):
                    # This machine slept for longer than another one waited: two trainers would ruin
                    # the folder.
                    new = _who(self._read())
                    say(f"{self.folder} was taken over by {new}; this trainer ends")
                    os._exit(2)
                self._write()


def _parsed(held: bytes) -> dict:
    try:
        record = json.loads(held)
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def _who(held: bytes) -> str:
    record = _parsed(held)
    host, process, since = (
        visible(str(record.get(k, "?")))[:100] for k in ("host", "process", "since")
    )
    return f"process {process} on {host} (since {since})"
