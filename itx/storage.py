# SPDX-License-Identifier: Apache-2.0
"""Writing files so that a kill at any moment leaves the old file or the new one, never a part."""

import contextlib
import errno
import fcntl
import gzip
import hashlib
import json
import os
import platform
import re
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from itx.errors import UserError, did_you_mean_file

SEAL = "seal"  # the key under which an object in JSON holds a hash of the rest
LOCK = "lock"  # the file in a part's folder that its writer holds
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
# No file or folder takes a day to write without a byte of progress; only where no lock can tell.
MAX_IDLE_SECONDS = 24 * 3600


# A file may change again within one tick of its file system's clock (2 s at worst) and keep its
# times: what is remembered of a file by its `identity` must be older than this.
MIN_AGE_SECONDS = 3.0


def identity(file: os.stat_result) -> tuple[int, ...]:
    """What changes when a file is written or replaced: its size, times and inode."""
    return file.st_size, file.st_mtime_ns, file.st_ctime_ns, file.st_ino, file.st_dev


def user_cache() -> Path:
    """This user's folder for what can be made again: $XDG_CACHE_HOME/itx, or ~/.cache/itx."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(home) if os.path.isabs(home) else Path.home() / ".cache") / "itx"


def local(path: str, setting: str = "") -> str:
    """The path, for an argument's type too; UserError, which names the setting as `name=`, for a
    store such as gs://bucket/folder: on this machine a folder named `gs:` would be made."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:/", path):
        raise UserError(
            f"{setting}{path}: only runs may lie in a store (--run_dir of `itx train`, and where a "
            "run is read); `itx data fetch` copies a lock and its cache here; give a local path"
        )
    return path


def is_url(path: str) -> bool:
    """Whether a path is one of a store, such as gs://bucket/runs/a."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://[^/]", path) is not None


def of_run(path: str) -> str:
    """The path of a run, for an argument's type: local, or a URL of a store."""
    return path if is_url(path) else local(path)


def given_file(name: str, root: str, setting: str) -> Path:
    """The file that a setting names, here or under data.root."""
    for path in (Path(name), Path(root) / name):
        if path.is_file():
            return path
    near = did_you_mean_file(Path(name))
    raise UserError(f"{setting}: no file {name!r} here or under data.root={root!r}{near}")


@contextlib.contextmanager
def named(path: Path | str) -> Iterator[None]:
    """Inside, an error of the system that names no file (as one of writing to an open file does),
    or one that is only there while `path` is written, names this path."""
    try:
        yield
    except OSError as e:
        if e.errno is not None and (e.filename is None or ".part" in str(e.filename)):
            e.filename, e.filename2 = str(path), None
        raise


@contextlib.contextmanager
def whole_file(path: Path | str) -> Iterator[Path]:
    """Write to the path that is yielded; it takes the place of `path` when the block ends without
    error."""
    path = Path(path)
    with named(path), _workplace(path) as place:
        part = place / path.name
        part.touch()
        # the umask's mode, kept because a library may put a private file in its place
        mode = part.stat().st_mode
        yield part
        part.chmod(mode)
        _sync(part)
        os.replace(part, path)
        _sync(path.parent)


@contextlib.contextmanager
def whole_folder(path: Path | str) -> Iterator[Path]:
    """`whole_file` for a folder: it is complete under its name, or not there."""
    path = Path(path)
    with named(path), _workplace(path) as place:
        part = place / path.name
        part.mkdir()
        file_mode = part.stat().st_mode & 0o666
        yield part
        for inner in part.rglob("*"):
            if inner.is_file():
                inner.chmod(file_mode)  # safetensors makes private files
            _sync(inner)
        _sync(part)  # a power cut after the rename must not find the name without the content
        if path.exists():  # another process made the same content first
            os.replace(path, place / "replaced")
        os.replace(part, path)
        _sync(path.parent)


def copy_folder(source: Path, to: Path) -> None:
    """The files of a folder, whole or not at all."""
    with whole_folder(to) as part:
        shutil.copytree(source, part, dirs_exist_ok=True)


def _sync(path: Path) -> None:
    """Wait until a file's content, or the names in a folder, are on the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError as e:
        # some network file systems sync no folder
        if not (path.is_dir() and e.errno in (errno.EINVAL, errno.ENOTSUP)):
            raise
    finally:
        os.close(number)


# ---- parts: what is being written, and what killed writers left
#
# A writer works in `.<name>.<random>.part/` beside the final name and holds a lock on the file
# `lock` in it. The kernel releases the lock when the writer dies, whatever its process number and
# in whichever container it ran.


@contextlib.contextmanager
def _workplace(path: Path) -> Iterator[Path]:
    """A folder beside `path` to write its content in; it is gone when the block ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    held = None
    while held is None:
        place = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        place.mkdir()
        held = _hold(place / LOCK)
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)
        os.close(held)


def _hold(lock: Path) -> int | None:
    """The lock file, open and locked, for as long as it is open; None if a cleaner was quicker and
    removed it."""
    number = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
    locked = try_lock(number, fcntl.LOCK_EX)
    if locked is False or locked and not is_at(number, lock):
        os.close(number)
        return None
    if locked:  # Without locks the file names no machine, and cleaners go by age.
        with contextlib.suppress(OSError):  # a full disk is told of where the content is written
            os.write(number, machine().encode())
    return number


def try_lock(number: int, how: int) -> bool | None:
    """Whether the open file is locked now; None where the file system has no locks."""
    try:
        fcntl.flock(number, how | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    except OSError:
        return None


def is_at(number: int, path: Path) -> bool:
    """Whether the open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(number), os.stat(path))
    except FileNotFoundError:
        return False


def machine() -> str:
    """The running kernel: the same in all of its containers, another one after a restart."""
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return platform.node()


def clean_parts(folder: Path | str) -> int:
    """Remove the parts that killed writers left below `folder`; returns how many. A living writer's
    part stays."""
    parts = []
    for top, folders, files in os.walk(folder):
        names = [n for n in (*folders, *files) if n.startswith(".") and n.endswith(".part")]
        parts += [Path(top) / n for n in names]
        folders[:] = [n for n in folders if n not in names]
    return sum(map(_clean_part, parts))


def _clean_part(part: Path) -> bool:
    """Remove one part if its writer is gone: this machine's by its lock alone, others once they are
    old, too.

    A shared file system may keep each machine's locks apart, so a lock that seems free proves
    nothing of another machine.
    """
    try:
        number = os.open(part / LOCK, os.O_RDWR)
    except PermissionError:
        return False
    except OSError:  # no lock file
        number = None
    try:
        locked = None if number is None else try_lock(number, fcntl.LOCK_EX)
        if locked is False:
            return False
        known = locked and os.read(number, 1024).decode(errors="replace") == machine()
        if not known and _idle_seconds(part) < MAX_IDLE_SECONDS:
            return False
        shutil.rmtree(part, ignore_errors=True) if part.is_dir() else part.unlink(missing_ok=True)
        return not part.exists()
    finally:
        if number is not None:
            os.close(number)


def _idle_seconds(part: Path) -> float:
    """How long ago anything in a part was written."""
    times = []
    for file in (part, *part.rglob("*")):
        with contextlib.suppress(FileNotFoundError):
            times.append(file.stat().st_mtime)
    return time.time() - max(times, default=0.0)


def checkpoint_steps(folder: Path) -> list[int]:
    """The steps that have a checkpoint in a run's folder of them, which may be absent."""
    return sorted(int(p.name) for p in folder.glob("[0-9]*") if p.name.isdigit())


def write_json(path: Path | str, value: Any) -> None:
    with whole_file(path) as part:
        part.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def read_json(path: Path | str) -> Any:
    return json.loads(Path(path).read_text(encoding="utf-8"))


def object_of(line: str, where: str) -> dict:
    """The JSON object in a line of a file; UserError, which begins with `where`, if it is none."""
    try:
        held = json.loads(line)
    except ValueError as e:
        raise UserError(f"{where} is not JSON: {e}") from e
    if not isinstance(held, dict):
        raise UserError(f"{where} holds no object")
    return held


def objects_in(file: Path | str) -> Iterator[tuple[int, dict]]:
    """(number, JSON object) of each line of a file that is not empty, and of the first in any case;
    UserError, with the line, where it does not hold these."""
    try:
        # not splitlines(): a text in a line may hold U+2028
        lines = Path(file).read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as e:
        raise UserError(f"{file}: no text in UTF-8 ({e.reason} at byte {e.start})") from e
    except OSError as e:
        raise UserError(f"{file}: {e.strerror or e}") from e
    for number, line in enumerate(lines, 1):
        if number == 1 or line.strip():
            yield number, object_of(line, f"{file}, line {number}")


def read_object(path: Path | str, *keys: str, absent: dict | None = None) -> dict:
    """An object of a file that one of our commands wrote, without its seal; UserError if it does
    not read as one, is not what was sealed, or lacks a key. absent: what is read where there is no
    file; None: FileNotFoundError."""
    if absent is not None and not Path(path).is_file():
        return absent
    why = ""
    try:
        held = read_json(path)
        if not isinstance(held, dict):
            why = "it holds no object"
        elif missing := [k for k in keys if k not in held]:
            why = f"{missing[0]!r} is absent"
        elif not is_intact(held):
            why = "it is not what was written"
    except ValueError as e:
        why = " ".join(str(e).split())
    if why:
        raise UserError(
            f"{path} is damaged ({why}): put a sound copy in its place, or remove it, and the "
            "command that wrote it writes it anew"
        )
    return {k: v for k, v in held.items() if k != SEAL}


def seal(values: dict) -> str:
    """A hash of all that an object holds besides it, as it reads back from JSON."""
    held = json.loads(json.dumps({k: v for k, v in values.items() if k != SEAL}))
    return hashlib.sha256(json.dumps(held, sort_keys=True).encode()).hexdigest()


def sealed(values: dict) -> dict:
    return {**values, SEAL: seal(values)}


def is_intact(values: dict) -> bool:
    """Whether an object is what `sealed` gave; one without a seal is taken as it is."""
    return SEAL not in values or values[SEAL] == seal(values)


def write_jsonl_gz(path: Path, rows: Iterable[Any]) -> None:
    """Byte-stable: no time stamp, no file name in the header."""
    text = "".join(json.dumps(r, ensure_ascii=False, separators=(",", ":")) + "\n" for r in rows)
    path.write_bytes(gzip.compress(text.encode(), compresslevel=1, mtime=0))


def iterate_jsonl_gz(path: Path) -> Iterator[dict]:
    with gzip.open(path, "rt", encoding="utf-8") as f:
        yield from map(json.loads, f)
