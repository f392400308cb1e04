# SPDX-License-Identifier: Apache-2.0
"""What stands in a cache already when a build begins: it must be what was written there.

A damaged folder or vocabulary is an error, or, where the build may mend, removed, told in a line
and made again.
"""

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from itx.data import cache, verify
from itx.data import lock as locks
from itx.data.types import Lock
from itx.errors import UserError

# what is done about a damaged folder: remove it, or raise
Mend = Callable[[verify.Damaged, Path], None]


def refuse(damage: verify.Damaged, folder: Path) -> None:
    raise damage


def remover(lines: list[str]) -> Mend:
    """Removes the damaged folder, and says so in `lines`."""

    def mend(damage: verify.Damaged, folder: Path) -> None:
        lines.append(str(damage))
        shutil.rmtree(folder)

    return mend


def check(
    entries: Iterable[tuple[str, str, str | None]], cache_dir: str, vocab_size: int, mend: Mend
) -> None:
    """Mend what is damaged among folders: (name, folder in the cache, hash of its manifest if it is
    known)."""
    for name, folder, sha256 in entries:
        path = Path(cache_dir) / folder
        if not path.is_dir():
            continue
        try:
            verify.folder(path, sha256, vocab_size, name)
        except verify.Damaged as damage:
            mend(damage, path)


def known_lock(file: Path, cache_dir: str, mend: Mend) -> Lock | None:
    """The lock of an earlier build of the same, if all that it names is there; None if something
    must be made."""
    if not file.is_file():
        return None
    try:
        lock = locks.read(file)
        entries = list(verify.entries(lock))
        check(entries, cache_dir, lock["vocabulary"]["size"], mend)
        lock["vocabulary"]["files"]  # locks of earlier versions name the file alone
    except verify.Damaged:
        raise
    except (UserError, KeyError, TypeError, ValueError):
        return None  # it is written again, from the folders that are there
    there = all(cache.is_there(Path(cache_dir) / folder) for _, folder, _ in entries)
    return lock if there else None
