# SPDX-License-Identifier: Apache-2.0
"""Whether a cache holds what was written in it: every file against its hash, before anything is
trained or scored.

Hashing a folder takes about a second per gigabyte, so it is done once per machine: the identity of
its files (name, size, times of change, inode) is kept under $XDG_CACHE_HOME/itx, and any change of
it has the folder read again. Nothing is written in the cache itself, which may be read-only.
"""

import concurrent.futures
import contextlib
import hashlib
import json
import os
import platform
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from itx import hashing, storage
from itx.data import cache
from itx.data.types import Lock
from itx.data.vocabulary import Vocabulary
from itx.errors import UserError

# Raise it when more is checked: what was found sound before is read again.
VERIFY_VERSION = 1
REBUILD = "`itx data build CONFIG` makes it again"
CHAT = "chat_template.jinja"


class Damaged(UserError):
    """A cache folder that does not hold what was written."""


def of_lock(lock: Lock, cache_dir: str | Path) -> None:
    """Damaged where any folder that a lock names, or its vocabulary, is not what was written."""
    folders(entries(lock), cache_dir, lock["vocabulary"]["size"])
    if "files" in lock["vocabulary"]:
        vocabulary((Path(cache_dir) / lock["vocabulary"]["file"]).parent, lock, REBUILD)


def entries(lock: Lock) -> Iterator[tuple[str, str, str]]:
    """(name of a task or row, its folder in the cache, hash of the manifest) of all that a lock
    names."""
    for task in lock["tasks"]:
        for where, sha256 in zip(task["folders"], task["sha256"], strict=True):
            yield task["name"], where, sha256
    for row in (
        *lock["evaluation"],
        *lock.get("dev", []),
        *lock.get("information", ()),
        *lock.get("retention", ()),
    ):
        yield row["name"], row["folder"], row["sha256"]


def folders(
    several: Iterable[tuple[str, str, str]], cache_dir: str | Path, vocab_size: int
) -> None:
    """`folder` for several `entries`, at once: hashing leaves Python's lock to others."""
    owners = {where: (name, sha256) for name, where, sha256 in several}

    def check(where: str) -> None:
        name, sha256 = owners[where]
        folder(Path(cache_dir) / where, sha256, vocab_size, name)

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(check, owners))


def vocabulary(where: Path, lock: Lock, remedy: str) -> None:
    """Damaged where the files of a vocabulary are not those that the lock names.

    In a run's folder the chat template is the one that conversations were written with, which the
    lock holds.
    """
    for name, sha256 in lock["vocabulary"].get("files", {}).items():
        file = where / name
        try:
            if hashing.file_sha256(file) != sha256 and not (
                name == CHAT and file.read_text("utf-8") == lock.get("chat")
            ):
                raise Damaged(
                    f"{file} is not the vocabulary file that the lock names: its content differs; "
                    + remedy
                )
        except (OSError, UnicodeDecodeError) as e:
            raise Damaged(
                f"{file}, which the lock names, is missing or cannot be read ({e}); {remedy}"
            ) from e


def vocabulary_of_run(file: Path, lock: Lock, embedding_rows: int = 0) -> Vocabulary:
    """The vocabulary in a run's folder, checked against the run's lock; embedding_rows: how many
    the model has, 0: not known."""
    vocabulary(file.parent, lock, "copy them from its folder in the cache")
    return Vocabulary(file, embedding_rows)


def folder(
    path: Path,
    manifest_sha256: str | None = None,
    vocab_size: int | None = None,
    name: str = "",
    anew: bool = False,
) -> None:
    """Damaged where a cache folder is not what was written; the message names the file.

    Args:
        manifest_sha256: what the lock says; the manifest holds the hash of every other file.
        vocab_size: every token must be below it.
        anew: read every file, even those that were found sound before.
    """
    if problem := _problem(path, manifest_sha256, vocab_size, anew):
        raise Damaged(f"{f'task {name}: ' if name else ''}{problem}; {REBUILD}")


def _problem(path: Path, sha256: str | None, vocab_size: int | None, anew: bool) -> str:
    """What is wrong with a folder, beginning with the name of a file; "" if nothing is."""
    file = path / cache.MANIFEST
    try:
        manifest = file.read_bytes()
    except OSError as e:
        missing = file if path.is_dir() else path
        return f"{missing} is missing or cannot be read ({e.strerror})"
    if sha256 is not None and hashlib.sha256(manifest).hexdigest() != sha256:
        return f"{file} is not what the lock names"
    identity = _identity(path, vocab_size)
    if not anew and identity == _remembered(path):
        return ""
    problem = _damage(path, manifest, vocab_size)
    if not problem:
        _remember(path, identity, vocab_size)
    return problem


def _damage(path: Path, manifest: bytes, vocab_size: int | None) -> str:
    """`_problem` in the files that a manifest names."""
    try:
        facts = json.loads(manifest)
        hashes = facts["files"]
        names = {p.name for p in path.iterdir()} - {cache.MANIFEST}
        if extra := sorted(n for n in names - set(hashes) if n.endswith(".npy")):
            return f"{path / extra[0]} is a file that the manifest does not name"
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        return f"{path / cache.MANIFEST} is damaged ({type(e).__name__}: {e})"
    for file, expected in sorted(hashes.items()):
        try:
            if hashing.file_sha256(path / file) != expected:
                return f"{path / file} is damaged: its content is not what was written"
        except OSError as e:
            return f"{path / file} is missing or cannot be read ({e.strerror})"
    try:
        return _contradiction(cache.Records(path), facts["records"], vocab_size)
    except (ValueError, KeyError, OSError) as e:
        return f"{path} is damaged ({type(e).__name__}: {e})"


def _contradiction(records: cache.Records, n: int, vocab_size: int | None) -> str:
    """Where the arrays of a folder contradict each other or the vocabulary, though their hashes are
    right."""
    path, pieces, lengths = records.folder, records.record_pieces, records.piece_lengths
    if (
        len(pieces) != n + 1
        or pieces[0] != 0
        or pieces[-1] != len(lengths)
        or (np.diff(pieces) < 1).any()
    ):
        return f"{path / 'record_pieces.npy'} does not cut {len(lengths)} pieces into {n} records"
    counts = (("content", n, "records"), ("template", n, "records"))
    for name, count, things in (*counts, ("piece_trained", len(lengths), "pieces")):
        if (entries := len(getattr(records, name))) != count:
            return f"{path / f'{name}.npy'} has {entries} entries for {count} {things}"
    if (lengths < 0).any() or lengths.sum(dtype=np.int64) != records.num_tokens:
        return f"{path / 'piece_lengths.npy'} does not add up to the {records.num_tokens} tokens"
    for i, shard in enumerate(records.shards):
        if vocab_size is not None and (largest := shard.max(initial=0)) >= vocab_size:
            return (
                f"{path / f'tokens-{i:05d}.npy'} holds the token {largest}, and the vocabulary "
                f"ends at {vocab_size - 1}"
            )
    return ""


def _identity(path: Path, vocab_size: int | None) -> str:
    """What changes when a file of the folder is written, replaced, added or removed."""
    held = [p for p in sorted(path.iterdir()) if p.is_file()]
    files = [(p.name, *storage.identity(p.stat())) for p in held]
    return json.dumps([VERIFY_VERSION, vocab_size, files])


def _note(path: Path) -> Path:
    """The file that remembers a folder, outside of it: this user's on this machine."""
    place = f"{platform.node()}\x1f{path.resolve()}".encode(errors="surrogateescape")
    name = hashlib.sha256(place).hexdigest()
    return storage.user_cache() / "verified" / name


def _remembered(path: Path) -> str | None:
    with contextlib.suppress(OSError, RuntimeError, ValueError):
        return _note(path).read_text()
    return None


def _remember(path: Path, identity: str, vocab_size: int | None) -> None:
    """Keep what was found sound; where nothing can be kept it is found anew each time."""
    youngest = max(p.stat().st_ctime for p in path.iterdir())
    if time.time() - youngest < storage.MIN_AGE_SECONDS or _identity(path, vocab_size) != identity:
        return
    with contextlib.suppress(OSError, RuntimeError):
        note = _note(path)
        note.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        note.write_text(identity)  # a part of it, left by a kill, is no identity
