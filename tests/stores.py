# SPDX-License-Identifier: Apache-2.0
"""An object store that answers late, partly, wrongly or not at all, at flaky://.

python -m tests.stores FOLDER PAUSE WORDS…     the `itx` command with a store whose objects lie in
                                               FOLDER, and whose requests take PAUSE seconds
"""

import errno
import os
import sys
import threading
import time
from collections.abc import MutableMapping
from pathlib import Path
from urllib.parse import quote, unquote

from fsspec.implementations.memory import MemoryFile, MemoryFileSystem
from fsspec.registry import register_implementation


class TooMany(Exception):
    """As gcsfs says it: an error with the HTTP status as its code."""

    def __init__(self, code: int):
        super().__init__(f"status {code}")
        self.code = code


class RefreshError(Exception):
    """As google-auth says it, of a token that is over and of a metadata server that is away."""


class TransportError(Exception):
    """google-auth's."""


class NoCredentialsError(Exception):
    """botocore's."""


CREDENTIALS: dict[str, Exception] = {
    "a token that is over": RefreshError("invalid_grant: Token has been expired or revoked."),
    "no credentials": NoCredentialsError("Unable to locate credentials"),
    "a bad token": OSError(errno.EINVAL, "Bad Request"),  # as s3fs says status 400
    "no metadata server": RefreshError(TransportError("Status: 503")),
}


class Flaky(MemoryFileSystem):
    """Objects in memory; `faults` {number of a request: what happens to it}, and a count of the
    requests.

    429, 503, 403    the request is refused
    late             it is done, and then refused with 503
    slow             it takes a second
    truncated        half of the bytes come, or arrive
    flipped          a bit of what comes is another
    lost             what is written is acknowledged and not there
    stale            what was there before the last write comes
    """

    protocol = "flaky"
    store: MutableMapping = {}
    before: dict = {}  # what an object held before it was written over
    pseudo_dirs = [""]
    faults: dict = {}
    requests = 0
    lists = 0
    written: list = []  # the names that were written, in their order
    pause = 0.0
    counting = threading.Lock()

    @classmethod
    def reset(cls) -> None:
        cls.store, cls.before, cls.written = {}, {}, []
        cls.faults, cls.requests, cls.lists = {}, 0, 0

    @classmethod
    def _strip_protocol(cls, path):
        return MemoryFileSystem._strip_protocol(path.removeprefix("flaky://"))

    def _fault(self) -> str:
        time.sleep(self.pause)
        with Flaky.counting:
            Flaky.requests += 1
            fault = self.faults.get(Flaky.requests, self.faults.get("all", ""))
        if fault in ("429", "503", "403"):
            raise TooMany(int(fault))
        if fault in CREDENTIALS:
            raise CREDENTIALS[fault]
        if fault == "slow":
            time.sleep(1.0)
        return fault

    def info(self, path, **more):
        fault, path = self._fault(), self._strip_protocol(path)
        if fault == "stale" and path in self.before:
            return {"name": path, "size": len(self.before[path]), "type": "file"}
        if path not in self.store:
            raise FileNotFoundError(path)
        return {"name": path, "size": self.store[path].size, "type": "file"}

    def cat_file(self, path, start=None, end=None, **more):
        fault, path = self._fault(), self._strip_protocol(path)
        if fault == "stale" and path in self.before:
            return self.before[path][start:end]
        data = super().cat_file(path, start=start, end=end, **more)
        if fault == "truncated":
            return data[: len(data) // 2]
        return bytes([data[0] ^ 1]) + data[1:] if fault == "flipped" else data

    def pipe_file(self, path, value, mode="overwrite", **more):
        fault, path = self._fault(), self._strip_protocol(path)
        with Flaky.counting:
            if mode == "create" and path in self.store:
                raise FileExistsError(path)
            if fault == "lost":
                return
            if path in self.store:
                self.before[path] = self.store[path].getvalue()
            value = value[: len(value) // 2] if fault == "truncated" else value
            self.store[path] = MemoryFile(self, path, value)
            self.written.append(path)
        if fault == "late":
            raise TooMany(503)

    def put_file(self, lpath, rpath, **more):
        self.pipe_file(rpath, Path(lpath).read_bytes())

    def rm_file(self, path):
        fault, path = self._fault(), self._strip_protocol(path)
        if path not in self.store:
            raise FileNotFoundError(path)
        del self.store[path]
        if fault == "late":
            raise TooMany(503)

    def ls(self, *arguments, **more):  # a listing may be old: nobody may ask for one
        Flaky.lists += 1
        return []


register_implementation("flaky", Flaky, clobber=True)


class OnDisk(MutableMapping):
    """Objects in the files of a folder, each of them whole at every moment, for several
    processes."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def _file(self, name: str) -> Path:
        return self.folder / quote(name, safe="@")

    def __getitem__(self, name):
        return MemoryFile(None, name, self._file(name).read_bytes())

    def __setitem__(self, name, value):
        part = self.folder.with_name(f"{os.getpid()}-{threading.get_ident()}.part")
        part.write_bytes(value.getvalue())
        part.replace(self._file(name))

    def __delitem__(self, name):
        self._file(name).unlink()

    def __contains__(self, name):
        return self._file(name).is_file()

    def __iter__(self):
        return (unquote(p.name) for p in self.folder.iterdir())

    def __len__(self):
        return len(list(self))


def serve(folder: str, pause: float = 0.0) -> None:
    """Have this process's store in a folder; who is gone is not waited for long."""
    from itx import claim

    Flaky.store, Flaky.pause = OnDisk(Path(folder)), pause
    claim.BEAT_SECONDS, claim.PATIENCE_SECONDS = 0.5, 5.0


if __name__ == "__main__":
    from itx import cli
    from tests import stores  # under its own name, not as __main__

    stores.serve(sys.argv[1], float(sys.argv[2]))
    sys.argv = ["itx", *sys.argv[3:]]
    cli.run()
