# SPDX-License-Identifier: Apache-2.0
"""A data lock and the part of its cache that it names, copied from a store into a local cache.

The lock names every folder by the hash of its manifest, and a manifest every file by its hash: all
that is copied is compared. Files come one after the other, a folder is whole under its name or
absent, what is here already is left as it is, and the lock comes last.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from itx import storage
from itx.data import cache, verify
from itx.data import lock as locks
from itx.data.types import Lock
from itx.errors import UserError
from itx.movement import shown, track
from itx.remote import Store, check_room, inside
from itx.text import visible

LOCKS = "locks"  # the folder of a cache that holds its locks
NAMED_BY = "a lock or manifest"  # what names the folders and files that are copied


def fetch(url: str, to: Path) -> dict:
    """Copy a lock, CACHE/locks/NAME.json of a store, and what it names into the cache `to`.

    Returns:
        {"lock": local path, "folders", "here_already": folders, "files", "bytes", "requests
        made again"}.
    """
    base, slash, name = url.rpartition(f"/{LOCKS}/")
    if not slash or not name or "/" in name:
        raise UserError(f"{visible(url)}: give the URL of a data lock, CACHE/{LOCKS}/NAME.json")
    store = Store(base)
    data = store.read(f"{LOCKS}/{name}", _is_intact)
    held = json.loads(data)
    if storage.SEAL not in held:
        raise UserError(
            f"{visible(url)} has no hash of its own: what came cannot be compared with what was "
            "written; build the data with this version"
        )
    lock = locks.checked(held, url)
    wanted, here = _wanted(lock, to)
    manifests = {
        folder: store.read(f"{folder}/{cache.MANIFEST}", _has(sha256))
        for folder, sha256 in wanted.items()
    }
    files = _files(store, manifests, lock, to)
    sizes = {(folder, name): store.size(f"{folder}/{name}") for folder, name in _names(files)}
    check_room(to, sum(sizes.values()))
    with shown("fetch"), track("copied", sum(sizes.values()), "bytes") as advance:
        for folder, hashes in files.items():
            with storage.whole_folder(to / folder) as part:
                if folder in manifests:
                    (part / cache.MANIFEST).write_bytes(manifests[folder])
                for name_of_file, sha256 in hashes.items():
                    store.copy(f"{folder}/{name_of_file}", part / name_of_file, sha256, advance)
    verify.of_lock(lock, to)
    own = to / LOCKS / name
    with storage.whole_file(own) as part:
        part.write_bytes(data)
    return {
        "lock": str(own),
        "folders": len(files),
        "here_already": here,
        "files": len(sizes),
        "bytes": sum(sizes.values()),
        "requests_made_again": store.repeated,
    }


def _is_intact(data: bytes) -> bool:
    """Whether these are the bytes of an object in JSON, and of the one that was sealed, if any."""
    try:
        held = json.loads(data)
    except ValueError:
        return False
    return isinstance(held, dict) and storage.is_intact(held)


def _has(sha256: str) -> Callable[[bytes], bool]:
    return lambda data: hashlib.sha256(data).hexdigest() == sha256


def _wanted(lock: Lock, to: Path) -> tuple[dict[str, str], int]:
    """({folder: hash of its manifest} of what is not here, how many folders are)."""
    named = {inside(where, NAMED_BY): sha256 for _, where, sha256 in verify.entries(lock)}
    missing = {}
    for where, sha256 in named.items():
        if not (to / where).exists():
            missing[where] = sha256
        else:
            verify.folder(to / where, sha256, lock["vocabulary"]["size"])
    return missing, len(named) - len(missing)


def _files(
    store: Store, manifests: dict[str, bytes], lock: Lock, to: Path
) -> dict[str, dict[str, str]]:
    """{folder: {file: its hash}} of what is to be copied, manifests left out."""
    files = {
        folder: {inside(name, NAMED_BY): of for name, of in json.loads(manifest)["files"].items()}
        for folder, manifest in manifests.items()
    }
    vocabulary = lock["vocabulary"]
    where = str(PurePosixPath(inside(vocabulary["file"], NAMED_BY)).parent)
    if "files" not in vocabulary:
        raise UserError(
            f"{store.url}: its lock does not name the vocabulary's files by their hashes; build "
            "the data with this version"
        )
    if not (to / where).is_dir():
        files[where] = {inside(name, NAMED_BY): of for name, of in vocabulary["files"].items()}
    return files


def _names(files: dict[str, dict[str, str]]) -> list[tuple[str, str]]:
    return [(folder, name) for folder, hashes in files.items() for name in hashes]
