# SPDX-License-Identifier: Apache-2.0
"""Writing files so that a kill at any moment leaves the old file or the new one, never a part."""

import contextlib
import gzip
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def sha256(file: Path | str) -> str:
    with open(file, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def is_remote(path: str) -> bool:
    """Whether a path names a store by its scheme, such as gs://bucket/folder."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*:/", path) is not None


@contextlib.contextmanager
def whole_file(path: Path | str) -> Iterator[Path]:
    """Write to the path that is yielded; it takes the place of `path` when the block ends without error."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.touch()
        mode = part.stat().st_mode  # as the umask has it; a library may put a private file in its place
        yield part
        part.chmod(mode)
        with open(part, "rb") as f:
            os.fsync(f.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_folder(path: Path | str) -> Iterator[Path]:
    """As `whole_file`, for a folder: complete under its name, or not there."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    file_mode = part.stat().st_mode & 0o666
    try:
        yield part
        for file in part.rglob("*"):  # safetensors makes private files
            if file.is_file():
                file.chmod(file_mode)
        if path.exists():  # another process made the same content first
            shutil.rmtree(path)
        os.replace(part, path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def copy_folder(source: Path, to: Path) -> None:
    """The files of a folder, whole or not at all."""
    with whole_folder(to) as part:
        shutil.copytree(source, part, dirs_exist_ok=True)


def clean_parts(folder: Path | str) -> int:
    """Remove what killed writers left below `folder`; returns how many. Living ones keep theirs."""
    left = [p for p in Path(folder).rglob(".*.part") if not _alive(p.name.split(".")[-2])]
    for p in left:
        shutil.rmtree(p, ignore_errors=True) if p.is_dir() else p.unlink(missing_ok=True)
    return len(left)


def _alive(pid: str) -> bool:
    """Whether another process of this machine has the number."""
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError, OverflowError):
        return False
    except PermissionError:
        return True
    return int(pid) != os.getpid()


def write_json(path: Path | str, value: Any) -> None:
    with whole_file(path) as part:
        part.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def read_json(path: Path | str) -> Any:
    return json.loads(Path(path).read_text(encoding="utf-8"))


def write_jsonl_gz(path: Path, rows: list[dict]) -> None:
    """Byte-stable: no time stamp, no file name in the header."""
    text = "".join(json.dumps(r, ensure_ascii=False, separators=(",", ":")) + "\n" for r in rows)
    path.write_bytes(gzip.compress(text.encode(), compresslevel=1, mtime=0))


def iterate_jsonl_gz(path: Path) -> Iterator[dict]:
    with gzip.open(path, "rt", encoding="utf-8") as f:
        yield from map(json.loads, f)


def read_jsonl_gz(path: Path) -> list[dict]:
    return list(iterate_jsonl_gz(path))
