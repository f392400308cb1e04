# SPDX-License-Identifier: Apache-2.0
"""The error that a person's mistake raises, with the nearest valid name, and what the machine
refuses in one line."""

import concurrent.futures
import difflib
import errno
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path


class UserError(Exception):
    """A mistake in a config, a task, a file or a command: one line, exit code 2, no traceback."""


class RunFailed(Exception):
    """A run that cannot go on as it is, though nothing it was told is wrong: one line, exit code 1,
    no traceback."""


def nearest(name: str, valid: Iterable[str], most: int = 3, likeness: float = 0.4) -> list[str]:
    """The valid names most like `name`, at least by `likeness` (difflib's ratio), best first."""
    return difflib.get_close_matches(name, list(valid), n=most, cutoff=likeness)


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """`; did you mean 'a' or 'b'?`, or the first valid names where none is near."""
    valid = list(valid)
    if near := nearest(name, valid):
        return f"; did you mean {' or '.join(map(repr, near))}?"
    if not valid:
        return "; none is registered"
    return "; valid: " + ", ".join(sorted(valid)[:8]) + (", …" if len(valid) > 8 else "")


def check_known(name: str, valid: Iterable[str], what: str) -> None:
    """UserError that begins with `what` for a name that is none of the valid ones."""
    if name not in valid:
        raise UserError(what + did_you_mean(name, valid))


# ---- a model of the hub

# the folders that the README puts things in: what stands in one is no name of the hub
OF_FOLDERS = "runs checkpoints configs cache tasks models".split()


def download_hint(name: str) -> str:
    """How to get a model that was named as the Hugging Face hub names it, in place of a path that
    is not there: `; …`, or "" for what looks like a path.

    >>> download_hint("Qwen/Qwen3-0.6B").split("`")[1]
    'hf download Qwen/Qwen3-0.6B --local-dir checkpoints/Qwen3-0.6B'
    """
    owner, _, model = name.partition("/")
    is_name = re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name, re.ASCII)
    if not is_name or owner in OF_FOLDERS or Path(owner).exists():
        return ""
    return (
        f"; if it is a model of the Hugging Face hub, `hf download {name} --local-dir "
        f"checkpoints/{model}` gets it: then give checkpoints/{model}"
    )


# ---- what the machine refuses

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)
# Checkpoints are written by a library that tells the system's error in its text alone.
STORE_ERROR = re.compile(r"\[os_error_code='(\d+)'\]")
# NumPy's, which leaves the system's number out
SHORT_WRITE = re.compile(r"\d+ requested and \d+ written")
OUT_OF_MEMORY = re.compile(r"RESOURCE_EXHAUSTED|std::bad_alloc|[Oo]ut of memory")


def of_the_machine(error: BaseException) -> tuple[str, int] | None:
    """(one line, exit code) for what the file system or the memory refused; None for any other
    error.

    A path that cannot be used is the user's mistake: 2. A full disk or too little memory is none,
    and a new start may find more: 1.
    """
    for e in _chain(error):
        if isinstance(e, concurrent.futures.BrokenExecutor):
            return (
                "a build process was ended from outside, mostly for want of memory: give fewer, "
                "--data.workers=1",
                1,
            )
        if isinstance(e, MemoryError):
            return _memory(e), 1
        if found := _of_the_system(e):
            return _file(*found)
        if OUT_OF_MEMORY.search(str(e)):
            return _memory(e), 1
    return None


def error_number(error: BaseException) -> int | None:
    """The system's number of an error, or of the one that it was raised from."""
    return next((found[0] for e in _chain(error) if (found := _of_the_system(e))), None)


def _of_the_system(error: BaseException) -> tuple[int, str | bytes | int | None] | None:
    """(number, path) of one error of the file system, however it tells them; None for any other
    error."""
    if isinstance(error, OSError) and error.errno:
        return error.errno, error.filename2 or error.filename
    if found := STORE_ERROR.search(str(error)):
        paths = re.findall(r'"(/[^"]*)"', str(error))
        return int(found[1]), paths[0] if paths else None
    return (errno.ENOSPC, None) if SHORT_WRITE.search(str(error)) else None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it was raised from."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _memory(error: BaseException) -> str:
    said = " ".join(str(error).split())[:120]
    return (
        f"out of memory{f' ({said})' if said else ''}: raise --train.microbatches, lower "
        "--data.sequence_length or --eval.batch_size, set --model.remat=full, or end other "
        "programs; the same command goes on"
    )


def _file(number: int, path: str | bytes | int | None) -> tuple[str, int]:
    named = (
        os.fsdecode(path) if isinstance(path, str | bytes) else "standard output or an open file"
    )
    line = f"{named}: {os.strerror(number)}"
    if number in FULL:
        line += "; nothing more could be written: make room, and the same command goes on"
        return line, 1
    if number in REFUSED:
        line += "; give a path that this user may read and write"
    return line, 2


def did_you_mean_file(path: Path) -> str:
    """`; did you mean …` from what the deepest folder on the way to a missing path holds."""
    missing = path.name
    for folder in path.parents:
        if folder.is_dir():
            held = sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))
            return did_you_mean(missing, held) if held else f"; {folder} is empty"
        missing = folder.name
    return ""
