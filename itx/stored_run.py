# SPDX-License-Identifier: Apache-2.0
"""A run folder in an object store: what is there, and how it comes to this machine's disk.

    URL/index/000007.json      the files of the run folder, as the seventh start has put them: sizes
                               and hashes by path, sealed
    URL/trainer/000007.json    who trains there, with a beat; gone when that start has ended
    URL/files/PATH@HASH.EXT    a file

A run works in a folder of this machine's disk, which `keeper.py` copies to the store; Orbax would
write to gs:// itself, but then an incomplete step is told from a whole one by a listing, metrics
and scores need a second way, and no test here could reach the store beneath it. What this layout
gives instead:

- a file's name holds its hash, so no file is ever written over: a kill, a late request or a second
  writer leaves files that nobody names, never a changed one;
- the index is written after the files that it names, and before those that it no longer names are
  removed: whichever index is read, all that it names is there. A checkpoint is offered when it is
  named, so never a part of one;
- names that may be left over (of an upload that was killed, of a removal) stand in the index, so
  that they are removed without listing anything;
- each start claims the next number by creating an object, which a store grants once. Of two runs
  one has it; the other one, even if it slept, finds a higher number and ends.

A reader copies what the newest index names into a folder of its own (`here`) and writes nothing in
the store.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from itx import storage, trainer_lock
from itx.errors import UserError
from itx.movement import shown, track
from itx.remote import Lost, Store, check_room, inside
from itx.text import say, visible

TRANSFERS = 8  # files that come or go at once: a single stream uses a part of a network
FILES = "files/"  # begins the names of files' objects
HASH_DIGITS = 32  # of a file's SHA-256 in its object's name
CHECKPOINTS = "checkpoints"  # as runs.py has it
RUN = "run"  # in a scratch folder what holds the run folder, which is called as in the URL
RECORD = "stored.json"  # what a scratch folder knows of the store
TRAINED, READ = "trained", "read"  # scratch folders of those who train and of those who read


Advance = Callable[[int], None]  # is told of bytes that came


class File(NamedTuple):
    """A file in the store."""

    size: int
    sha256: str


@dataclass
class Index:
    """What a start has put into the store; number 0: nothing is there."""

    number: int = 0
    owner: str = ""  # the start that wrote it
    version: str = ""  # another one for each change of the files
    files: dict[str, File] = field(default_factory=dict)  # by path in the run folder
    leftover: list[str] = field(default_factory=list)  # objects that may be there for nothing

    def objects(self) -> set[str]:
        return {object_name(path, file) for path, file in self.files.items()}

    def packed(self) -> bytes:
        files = {path: list(file) for path, file in sorted(self.files.items())}
        held = {"owner": self.owner, "version": self.version, "files": files}
        held["leftover"] = sorted(self.leftover)
        return json.dumps(storage.sealed(held), ensure_ascii=False).encode()


def split(url: str) -> tuple[str, int | None]:
    """(URL of the run, step) of URL/checkpoints/STEP; of any other URL itself and None."""
    run, _, step = url.rstrip("/").rpartition("/checkpoints/")
    return (run, int(step)) if run and step.isdigit() else (url.rstrip("/"), None)


def object_name(path: str, file: File) -> str:
    """The object of a file: its ending stays, so that a browser shows a report.

    >>> object_name("eval/6/scores.json", File(1, "ab" * 32))
    'files/eval/6/scores@abababababababababababababababab.json'
    """
    place = PurePosixPath(path)
    name = f"{place.stem}@{file.sha256[:HASH_DIGITS]}{place.suffix}"
    return f"{FILES}{place.with_name(name)}"


def index_name(number: int) -> str:
    return f"index/{number:06d}.json"


def trainer_name(number: int) -> str:
    return f"trainer/{number:06d}.json"


def is_sealed(data: bytes) -> bool:
    """Whether these are the bytes of an object in JSON as it was sealed."""
    try:
        held = json.loads(data)
    except ValueError:
        return False
    return isinstance(held, dict) and storage.SEAL in held and storage.is_intact(held)


def newest(store: Store) -> Index:
    """The index of the newest start, found without a listing: numbers have no gaps."""
    above = 1
    while store.exists(index_name(above)):
        above *= 2
    number = above // 2
    while above - number > 1:
        middle = (above + number) // 2
        number, above = (middle, above) if store.exists(index_name(middle)) else (number, middle)
    if not number:
        return Index()
    held = json.loads(store.read(index_name(number), is_sealed))
    who = f"{store.url}/{index_name(number)}"
    try:
        files = {inside(p, who): File(int(n), str(h)) for p, (n, h) in held["files"].items()}
        leftover = [inside(n, who) for n in held["leftover"] if n.startswith(FILES)]
        return Index(number, held["owner"], held["version"], files, leftover)
    except (KeyError, TypeError, ValueError, AttributeError) as e:
        raise UserError(f"{who} is not an index of this version ({e})") from e


# ---- on this machine's disk


def scratch(url: str, kind: str, folder: str = "") -> Path:
    """The folder in which a run of a store lies on this machine: RUN, RECORD and a lock.

    Args:
        kind: TRAINED or READ, and behind it the number of one process of several.
        folder: one that the user names; "": in the user's cache.
    """
    place = Path(folder) if folder else storage.user_cache() / "stores"
    return place / f"{hashlib.sha256(url.rstrip('/').encode()).hexdigest()[:16]}-{kind}"


def run_in(folder: Path, url: str) -> Path:
    """The run folder in a scratch folder."""
    return folder / RUN / PurePosixPath(url.rstrip("/")).name


@dataclass
class Record:
    """What a scratch folder knows of the store that its run folder is of."""

    url: str
    version: str = ""  # of the store's files, as this folder last brought or put them
    next: str | None = None  # the version that it was about to put
    is_whole: bool = False  # all of a version was brought, or nothing had to be
    brought: dict[str, str] = field(default_factory=dict)  # {path: hash}

    @classmethod
    def read(cls, folder: Path, url: str) -> "Record":
        """The record of a scratch folder; an empty one where there is none. UserError where it is
        of another URL."""
        held = storage.read_object(folder / RECORD, "url", absent={})
        if held and held["url"] != url:
            raise UserError(f"{folder} is the folder of {held['url']}, not of {url}")
        return cls(**held) if held else cls(url)

    def write(self, folder: Path) -> None:
        storage.write_json(folder / RECORD, storage.sealed(vars(self)))

    def knows(self, version: str) -> bool:
        """Whether the run folder was what the store has in that version; it may have gone on."""
        return self.is_whole and version in (self.version, self.next)


def is_of_checkpoint(path: str) -> bool:
    return path.startswith(f"{CHECKPOINTS}/")


def step_of(path: str) -> int | None:
    """The step of a checkpoint's file; None of any other, also of a checkpoint set aside."""
    parts = PurePosixPath(path).parts
    return int(parts[1]) if is_of_checkpoint(path) and parts[1].isdigit() else None


def bring(
    store: Store, index: Index, folder: Path, step: int | None = None
) -> dict[str, list[str]]:
    """Make the run folder in a scratch folder what the index says, and note it in the record.

    What is lost or damaged in the store is left out, a checkpoint as a whole: a run goes on from
    the one before, as from one that is damaged on a disk. What came earlier and is no longer named
    is removed; files that never came from the store stay.

    Args:
        step: the only checkpoint to bring; None: all.

    Returns:
        {a line that says what was left out: its paths}.
    """
    run, record = run_in(folder, store.url), Record.read(folder, store.url)
    wanted = {p: f for p, f in index.files.items() if step is None or step_of(p) in (None, step)}
    record.is_whole = False
    record.write(folder)
    _remove_old(run, record, wanted)
    steps: dict[int, dict[str, File]] = {}
    others: dict[str, File] = {}
    for path, file in wanted.items():
        if record.brought.get(path) != file.sha256 or not (run / path).is_file():
            at = step_of(path)
            (others if at is None else steps.setdefault(at, {}))[path] = file
    for at in steps:  # a checkpoint comes whole
        steps[at] = {p: f for p, f in wanted.items() if step_of(p) == at}
    missing = [f.size for files in (others, *steps.values()) for f in files.values()]
    check_room(folder, sum(missing))
    left_out: dict[str, list[str]] = {}
    with shown(visible(store.url)), track("copied", sum(missing), "bytes") as advance:
        for at in sorted(steps, reverse=True):  # the newest first: it is what a kill costs most
            left_out |= _bring_step(store, run, at, steps[at], advance)
            record.brought |= {p: f.sha256 for p, f in steps[at].items() if (run / p).is_file()}
            record.write(folder)
        left_out |= _bring_files(store, run, others, advance)
    record.brought |= {p: f.sha256 for p, f in others.items() if (run / p).is_file()}
    record.version, record.is_whole = index.version, True
    record.write(folder)
    return left_out


def bring_newest(store: Store, folder: Path, step: int | None = None) -> None:
    """`bring` for whoever does not write the run, and says what was left out. A trainer may remove
    what an index names while it is read: then there is a newer one."""
    while True:
        index = newest(store)
        left_out = bring(store, index, folder, step)
        if not left_out or newest(store).version == index.version:
            break
    for line in left_out:
        say(line)


def _remove_old(run: Path, record: Record, wanted: dict[str, File]) -> None:
    """Remove what came earlier and is not wanted any more, or is another now."""
    for path, sha256 in list(record.brought.items()):
        if path in wanted and wanted[path].sha256 == sha256:
            continue
        at = step_of(path)
        if at is None:
            (run / path).unlink(missing_ok=True)
        else:
            shutil.rmtree(run / CHECKPOINTS / str(at), ignore_errors=True)
        del record.brought[path]


def _bring_step(
    store: Store, run: Path, step: int, files: dict[str, File], advance: Advance
) -> dict[str, list[str]]:
    place = run / CHECKPOINTS / str(step)
    try:
        with storage.whole_folder(place) as part:
            top = f"{CHECKPOINTS}/{step}"
            _copy(
                store,
                {p: (part / PurePosixPath(p).relative_to(top), f) for p, f in files.items()},
                advance,
            )
    except Lost as e:
        return {f"{e}; the checkpoint of step {step} is left out": list(files)}
    return {}


def _bring_files(
    store: Store, run: Path, files: dict[str, File], advance: Advance
) -> dict[str, list[str]]:
    left_out = {}

    def one(path: str) -> None:
        try:
            with storage.whole_file(run / path) as part:
                _copy(store, {path: (part, files[path])}, advance)
        except Lost as e:
            left_out[f"{e}; {visible(path)} is left out"] = [path]

    with ThreadPoolExecutor(TRANSFERS) as pool:
        list(pool.map(one, files))
    return left_out


def _copy(store: Store, files: dict[str, tuple[Path, File]], advance: Advance) -> None:
    def one(path: str) -> None:
        to, file = files[path]
        to.parent.mkdir(parents=True, exist_ok=True)
        store.copy(object_name(path, file), to, file.sha256, advance)

    with ThreadPoolExecutor(TRANSFERS) as pool:
        list(pool.map(one, files))


def here(path: str) -> str:
    """A run's path on this machine: of a URL the folder that it is copied to, of any other path
    itself. URL/checkpoints/STEP brings that checkpoint alone."""
    if not storage.is_url(path):
        return path
    url, step = split(path)
    store, folder = Store(url), scratch(url, READ)
    run = run_in(folder, url)
    if not newest(store).files:
        raise UserError(f"{visible(url)} holds no run: nothing was put there by `itx train`")
    with _alone(folder):
        bring_newest(store, folder, step)
    say(f"{visible(url)} is read from its copy, {run}; the store is not written")
    return str(run if step is None else run / CHECKPOINTS / str(step))


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Inside, no other reader of this machine changes the folder; waits for one that does."""
    folder.mkdir(parents=True, exist_ok=True)
    number = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        while storage.try_lock(number, fcntl.LOCK_EX) is False:
            time.sleep(0.2)
        yield
    finally:
        os.close(number)


def names_in(folder: Path) -> list[str]:
    """The paths of all files of a run folder that belong into the store: checkpoints first, so that
    the log, which is read behind them, holds at least the lines that they rest on. Left out are the
    trainer's lock and what is being written: parts, and steps that Orbax has not renamed yet."""
    paths = [p.relative_to(folder) for p in folder.rglob("*") if p.is_file()]
    kept = [
        p
        for p in paths
        if p.parts != (trainer_lock.NAME,)
        and not any(n.startswith(".") and n.endswith(".part") for n in p.parts)
        and not any(".orbax-checkpoint-tmp" in n for n in p.parts)
    ]
    return [p.as_posix() for p in sorted(kept, key=lambda p: (p.parts[0] != CHECKPOINTS, p))]
