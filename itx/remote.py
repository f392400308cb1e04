# SPDX-License-Identifier: Apache-2.0
"""Objects of a store (gs://, s3://, any URL that fsspec knows): read onto this machine's disk, and
written from there.

A store answers late, with errors that pass, and sometimes with less than there is. So an object is
read in blocks in their order, each asked for again after a pause where it fails or is short, and
the file takes its name only if it has the hash that the reader expects. What is written is asked
for before it counts as written: a small object is read back, of a file the size is compared.
Nothing is listed: what is to be read is known by name. fsspec is imported within functions, for
few commands need it.
"""

import errno
import hashlib
import os
import random
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

from itx.errors import RunFailed, UserError
from itx.text import say, visible

BLOCK_BYTES = 1 << 24
MAX_REQUEST_SECONDS = 300.0  # a request that takes longer is given up and made again
MAX_TRIES = 7  # of one request: pauses of 1, 2, 4 … s make about a minute
FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 1.0, 30.0
MIN_BYTES_PER_SECOND = 1 << 20  # of a file that is sent: its request may take so much longer
MIN_FREE_BYTES = 1 << 28  # left on the disk besides what is copied
# what a store says for good: no later request is answered otherwise
FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
FINAL_CODES = ("400", "401", "403", "404")
# Errors of google-auth and botocore, neither of which need be installed: nothing proves who asks.
# RefreshError also wraps what passes, as a metadata server that does not answer (TransportError).
NO_CREDENTIALS = {
    *("DefaultCredentialsError", "RefreshError"),
    *("NoCredentialsError", "PartialCredentialsError", "NoAuthTokenError", "ProfileNotFound"),
    *("SSOTokenLoadError", "UnauthorizedSSOTokenError"),
}


class Unsound(Exception):
    """What came is not what was written."""


class Lost(UserError):
    """An object that is not there, or is not what was written, whoever asks and however often."""


class NoAnswer(TimeoutError):
    """A request that was given up; its thread is left to its fate."""


class Store:
    """A folder of a store, whose objects are read and written by their names in it."""

    def __init__(self, url: str):
        import fsspec

        self.url = url.rstrip("/")
        try:
            # a listing that a library has kept is older than what it says of an object
            self.system, self.root = fsspec.core.url_to_fs(self.url, use_listings_cache=False)
        except (ImportError, ValueError) as e:
            why = " ".join(str(e).split())
            raise UserError(
                f"{visible(url)}: {visible(why)}; gs:// and s3:// need the extra `cloud` "
                "(uv sync --extra cloud)"
            ) from e
        self.repeated = 0  # requests that were made again
        self.abandoned = 0  # requests that were given up and may still be done later

    def size(self, name: str) -> int:
        """Bytes of an object; Lost where it is not there, UserError where the store does not say
        it."""
        return self._asked(name, self._size)

    def exists(self, name: str) -> bool:
        return self._asked(name, lambda path: self._if_there(path, self._size) is not None)

    def read(self, name: str, is_sound: Callable[[bytes], bool]) -> bytes:
        """A small object, which is asked for again, its size too, where it is not sound; Lost where
        it stays so."""
        return self._asked(name, lambda path: self._sound(path, is_sound))

    def find(self, name: str, is_sound: Callable[[bytes], bool]) -> bytes | None:
        """`read`; None where there is no object of that name."""
        return self._asked(
            name, lambda path: self._if_there(path, lambda path: self._sound(path, is_sound))
        )

    def copy(self, name: str, to: Path, sha256: str, advance: Callable[[int], None]) -> None:
        """Copy an object to the file `to`, block by block; Lost where it is not what was written,
        even when it is read a second time."""
        for is_last in (False, True):
            size, digest = self.size(name), hashlib.sha256()
            with open(to, "wb") as out:
                for at in range(0, size, BLOCK_BYTES):
                    end = min(at + BLOCK_BYTES, size)
                    data = self._asked(name, lambda p, at=at, end=end: self._block(p, at, end))
                    digest.update(data)
                    out.write(data)
                    if not is_last:
                        advance(len(data))
            if digest.hexdigest() == sha256:
                return
            self.repeated += 1
        raise Lost(
            f"{self.url}/{visible(name)} is not what was written: its content has another hash"
        )

    def write(self, name: str, data: bytes) -> None:
        """Write a small object, in place of what may be there, and read it back."""

        def put(path: str) -> None:
            self.system.pipe_file(path, data)
            self._check_arrived(path, data)

        self._asked(name, put, "written")

    def create(self, name: str, data: bytes) -> bool:
        """`write` where there is no object of that name; False where another one is there. Of two
        that do so at once one has it: the store itself decides (GCS and S3 do so on a header)."""
        has_tried = False

        def put(path: str) -> bool:
            nonlocal has_tried
            try:
                self.system.pipe_file(path, data, mode="create")
            except FileExistsError:  # maybe an earlier try of ours, whose answer was lost
                held = self._block(path, 0, self._size(path))
                if has_tried and held != data and data.startswith(held):
                    self.system.pipe_file(path, data)  # it was cut short
                elif held != data:
                    return False
            finally:
                has_tried = True
            self._check_arrived(path, data)
            return True

        return self._asked(name, put, "written")

    def put(self, name: str, file: Path, size: int) -> None:
        """Write a file of that size, and ask for the size of what arrived."""

        def put(path: str) -> None:
            self.system.put_file(os.fspath(file), path)
            there = self._if_there(path, self._size)
            if there != size:
                raise OSError(errno.EIO, f"{there or 0} of {size} bytes arrived")

        self._asked(name, put, "written", MAX_REQUEST_SECONDS + size / MIN_BYTES_PER_SECOND)

    def remove(self, name: str) -> None:
        """Remove an object, which may be gone already."""
        self._asked(name, lambda path: self._if_there(path, self.system.rm_file), "removed")

    def _if_there(self, path: str, request: Callable[[str], Any]) -> Any:
        """What a request gives; None where there is no object of that name."""
        try:
            return request(path)
        except Exception as e:  # each store's library has errors of its own
            if not _is_absent(e):
                raise
            return None

    def _sound(self, path: str, is_sound: Callable[[bytes], bool]) -> bytes:
        data = self._block(path, 0, self._size(path))
        if not is_sound(data):
            raise Unsound("what came is not what was written")
        return data

    def _check_arrived(self, path: str, data: bytes) -> None:
        there = self._if_there(path, lambda path: self._block(path, 0, self._size(path)))
        if there != data:
            raise OSError(errno.EIO, "what was written does not come back")

    def _size(self, path: str) -> int:
        size = self.system.info(path).get("size")
        if size is None:  # a web server without Content-Length
            raise UserError(
                "the store does not say how many bytes it has, so nobody could tell whether all "
                "of them came: copy it from a store that does"
            )
        return int(size)

    def _block(self, path: str, start: int, end: int) -> bytes:
        if start == end:
            return b""
        data = self.system.cat_file(path, start=start, end=end)
        if len(data) != end - start:
            raise OSError(errno.EIO, f"{len(data)} of {end - start} bytes came")
        return data

    def _asked(
        self,
        name: str,
        request: Callable[[str], Any],
        done: str = "read",
        seconds: float | None = None,
    ) -> Any:
        """What a request gives, made again after errors that may pass; Lost where the object is not
        there or is another than was written, UserError where it may not be `done`, RunFailed where
        the store does not answer."""
        place, seconds = f"{self.url}/{visible(name)}", seconds or MAX_REQUEST_SECONDS
        for number in range(1, MAX_TRIES + 1):
            try:
                return _within(seconds, lambda: request(f"{self.root}/{name}"))
            except UserError as e:
                raise UserError(f"{place}: {e}") from e
            except Exception as e:  # each store's library has errors of its own
                why = visible(" ".join(f"{type(e).__name__}: {e}".split())[:200])
                self.abandoned += isinstance(e, NoAnswer)
                if _is_final(e):
                    kind = Lost if _is_absent(e) else UserError
                    raise kind(f"{place} cannot be {done} ({why})") from e
                if number == MAX_TRIES and isinstance(e, Unsound):
                    raise Lost(
                        f"{place} is not what was written, in the last of {MAX_TRIES} requests too:"
                        " its content has another hash or is cut; write it to the store again"
                    ) from e
                if number == MAX_TRIES:
                    what = "did not come" if done == "read" else f"could not be {done}"
                    raise RunFailed(
                        f"{place} {what} in {MAX_TRIES} requests, the last of which said: {why}; "
                        "the same command goes on from there"
                    ) from e
            self.repeated += 1
            pause = min(FIRST_PAUSE_SECONDS * 2 ** (number - 1), MAX_PAUSE_SECONDS)
            say(f"{place}: {why}; again in {pause:.0f} s ({number} of {MAX_TRIES - 1})")
            time.sleep(pause * random.uniform(0.5, 1.0))  # many hosts must not ask all at once
        raise AssertionError("unreachable")


def _is_absent(error: Exception) -> bool:
    return isinstance(error, FileNotFoundError) or _code(error) == "404"


def _is_final(error: Exception) -> bool:
    """Whether no later request would be answered otherwise."""
    if isinstance(error, FINAL) or _code(error) in FINAL_CODES:
        return True
    if isinstance(error, OSError) and error.errno == errno.EINVAL:  # s3fs: status 400, a bad token
        return True
    names = {kind.__name__ for kind in type(error).__mro__}
    behind = (error.__cause__, *error.args[:1])
    passes = getattr(error, "retryable", False) or any(
        type(x).__name__ == "TransportError" for x in behind
    )
    return bool(names & NO_CREDENTIALS) and not passes


def _code(error: Exception) -> str:
    """The HTTP status of a store's error, "" where it has none."""
    for name in ("code", "status", "status_code"):
        if isinstance(code := getattr(error, name, None), (int, str)):
            return str(code)
    return ""


def _within(seconds: float, work: Callable[[], Any]) -> Any:
    """The result of `work`; NoAnswer after that time."""
    result: list[Any] = []
    error: list[Exception] = []

    def run() -> None:
        try:
            result.append(work())
        except Exception as e:
            error.append(e)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise NoAnswer(f"no answer in {seconds:.0f} s")
    if error:
        raise error[0]
    return result[0]


def inside(name: str, who: str) -> str:
    """The name of an object or file; UserError where it leads out of the folder that it is relative
    to: `who` names it, and is data."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or not path.parts:
        raise UserError(f"{who} names {visible(name)!r}, which is outside of its folder")
    return name


def check_room(to: Path, needed: int) -> None:
    """UserError where the disk of a folder, which may be absent yet, has no room for so many
    bytes."""
    place = to.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if needed + MIN_FREE_BYTES > free:
        raise UserError(
            f"{to}: {needed / 1e9:,.1f} GB are to be copied there, and its disk has "
            f"{free / 1e9:,.1f} GB free: give another folder ({os.fspath(place)} is on this disk)"
        )
