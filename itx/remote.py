# SPDX-License-Identifier: Apache-2.0
"""Reading objects of a store (gs://, s3://, any URL that fsspec knows) onto this machine's disk.

A store answers late, with errors that pass, and sometimes with less than there is. So an object is
read in blocks in their order, each asked for again after a pause where it fails or is short, and
the file takes its name only if it has the hash that the reader expects. Nothing is listed: what is
to be read is known by name. fsspec is imported within functions, for few commands need it.
"""

import errno
import hashlib
import os
import random
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from itx.errors import RunFailed, UserError
from itx.text import say, visible

BLOCK_BYTES = 1 << 24
MAX_REQUEST_SECONDS = 300.0  # a request that takes longer is given up and made again
MAX_TRIES = 7  # of one request: pauses of 1, 2, 4 … s make about a minute
FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 1.0, 30.0
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


class Store:
    """A folder of a store, whose objects are read by their names in it."""

    def __init__(self, url: str):
        import fsspec

        self.url = url.rstrip("/")
        try:
            self.system, self.root = fsspec.core.url_to_fs(self.url)
        except (ImportError, ValueError) as e:
            why = " ".join(str(e).split())
            raise UserError(
                f"{visible(url)}: {visible(why)}; gs:// and s3:// need the extra `cloud` "
                "(uv sync --extra cloud)"
            ) from e
        self.repeated = 0  # requests that were made again

    def size(self, name: str) -> int:
        """Bytes of an object; UserError where it is not there, or where the store does not say
        it."""
        return self._asked(name, self._size)

    def read(self, name: str, is_sound: Callable[[bytes], bool]) -> bytes:
        """A small object, which is asked for again, its size too, where it is not sound; UserError
        where it stays so."""

        def whole(path: str) -> bytes:
            data = self._block(path, 0, self._size(path))
            if not is_sound(data):
                raise Unsound("what came is not what was written")
            return data

        return self._asked(name, whole)

    def copy(self, name: str, to: Path, sha256: str, advance: Callable[[int], None]) -> None:
        """Copy an object to the file `to`, block by block; UserError where it is not what was
        written, even when it is read a second time."""
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
        raise UserError(
            f"{self.url}/{visible(name)} is not what was written: its content has another hash"
        )

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

    def _asked(self, name: str, request: Callable[[str], Any]) -> Any:
        """What a request gives, made again after errors that may pass; UserError where the object
        is not there, may not be read or is another than was written, RunFailed where the store
        does not answer."""
        place = f"{self.url}/{visible(name)}"
        for number in range(1, MAX_TRIES + 1):
            try:
                return _within(MAX_REQUEST_SECONDS, lambda: request(f"{self.root}/{name}"))
            except UserError as e:
                raise UserError(f"{place}: {e}") from e
            except Exception as e:  # each store's library has errors of its own
                why = visible(" ".join(f"{type(e).__name__}: {e}".split())[:200])
                if _is_final(e):
                    raise UserError(f"{place} cannot be read ({why})") from e
                if number == MAX_TRIES and isinstance(e, Unsound):
                    raise UserError(
                        f"{place} is not what was written, in the last of {MAX_TRIES} requests too:"
                        " its content has another hash or is cut; write it to the store again"
                    ) from e
                if number == MAX_TRIES:
                    raise RunFailed(
                        f"{place} did not come in {MAX_TRIES} requests, the last of which said: "
                        f"{why}; the same command goes on from there"
                    ) from e
            self.repeated += 1
            pause = min(FIRST_PAUSE_SECONDS * 2 ** (number - 1), MAX_PAUSE_SECONDS)
            say(f"{place}: {why}; again in {pause:.0f} s ({number} of {MAX_TRIES - 1})")
            time.sleep(pause * random.uniform(0.5, 1.0))  # many hosts must not ask all at once
        raise AssertionError("unreachable")


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
    """The result of `work`; TimeoutError after that time, when a thread is left to its fate."""
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
        raise TimeoutError(f"no answer in {seconds:.0f} s")
    if error:
        raise error[0]
    return result[0]


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
