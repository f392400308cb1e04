# SPDX-License-Identifier: Apache-2.0
"""What keeps a run in an object store while it is trained: `itx train --run_dir gs://bucket/runs/a`.

The run folder lies on this machine's disk. A thread of the writer copies it to the store, laid out
as stored_run.py says: behind every checkpoint, every MAX_UNKEPT_SECONDS where something else has
changed, and at the end. Training waits for it at the next checkpoint, so the store is never more
than one checkpoint behind, however slow it is; at SIGTERM, so that what was saved is in the store
before the process ends; and at the end of the run. A store that does not answer is asked again for
MAX_OUTAGE_SECONDS.

On a machine that does not know the run, the folder is brought down before anything reads it. A
folder that knows it goes on from what it has, which is what the store has or more; one that the
store has left behind, for the run went on elsewhere, is refused.

Two runs with one URL are told apart by claim.py.

Of several processes each has a folder of its own, whether their disks are shared or not. The writer
alone saves (checkpoint.py), and its folder alone is put into the store; the others bring down what
they need (`refresh`).
"""

import contextlib
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from itx import hashing, hosts, processes, storage
from itx.claim import Claim
from itx.errors import RunFailed, UserError
from itx.remote import Store
from itx.stored_run import (
    CHECKPOINTS,
    RECORD,
    TRAINED,
    TRANSFERS,
    File,
    Index,
    Record,
    bring,
    bring_newest,
    is_of_checkpoint,
    names_in,
    newest,
    object_name,
    run_in,
    scratch,
    step_of,
)
from itx.text import say, visible
from itx.trainer_lock import TrainerLock

MAX_UNKEPT_SECONDS = 60.0  # what changed is put into the store at least so often
MAX_OUTAGE_SECONDS = 3600.0  # of a store that does not answer, until the run ends
RETRY_SECONDS = 10.0  # behind requests that were made again for a minute already
POLL_SECONDS = 0.1
STAGED = "staged"  # the folder of copies of files that may change while they are put


class Keeper:
    """Keeps one run in a store; without a URL it does nothing, and the run folder is `folder`."""

    def __init__(self, url: str, folder: Path):
        """`folder`: the scratch folder of a run in a store, else the run folder itself."""
        self.url, self.folder = url.rstrip("/"), folder
        self.path = run_in(folder, url) if url else folder
        self.store = Store(self.url) if url else None
        self.claim = Claim(self.store, folder) if url else None
        self.record = Record(self.url)
        self.lost: set[str] = set()  # what the index names and the store does not give
        self.hashes: dict[str, tuple[tuple, File]] = {}  # by path: identity, and what it had
        self.changed = threading.Condition()
        self.wanted, self.done = 0, 0  # copies with checkpoints
        self.is_saving: Callable[[], bool] = lambda: False
        self.error: BaseException | None = None
        self.is_ending, self.is_over = False, threading.Event()
        self.thread = threading.Thread(target=self._work, daemon=True)

    @property
    def is_remote(self) -> bool:
        return self.store is not None

    # ---- what training asks for

    def note(self, is_saving: Callable[[], bool] = lambda: False) -> None:
        """Something has changed: copy it, checkpoints too. Returns at once.

        Args:
            is_saving: whether a checkpoint is still being written or removed; the copy waits for
                its end, and the caller, before it changes checkpoints again, for the copy.
        """
        if self._writes():
            with self.changed:
                self.wanted, self.is_saving = self.wanted + 1, is_saving
                self.changed.notify_all()

    def wait(self) -> None:
        """Wait until all that was noted is in the store; RunFailed or UserError where it does not
        get there."""
        if not self._writes():
            return
        with self.changed:
            while self.done < self.wanted and self.error is None:
                self.changed.wait(1.0)  # between two waits Python's handlers of signals run
            if self.error is not None:
                raise self.error

    def settle(self) -> None:
        """All that is in the run folder now is in the store when this returns, on all processes."""
        if self.is_remote:
            self.note()
            self.wait()
            hosts.barrier("the store has the run")

    def refresh(self) -> None:
        """`settle`; the folders of the other processes are what the writer's is."""
        self.settle()
        if self.is_remote and not hosts.is_writer():
            bring_newest(self.store, self.folder)

    def _writes(self) -> bool:
        return self.is_remote and hosts.is_writer()

    # ---- the begin

    def take(self) -> None:
        """Claim the run, and bring down what this folder does not have yet; UserError where another
        trainer has it, or where this folder is no copy of what the store has."""
        index = newest(self.store)
        self._check_folder(index)
        self.claim.take(index)
        try:
            self._bring()
        except BaseException:
            self.claim.leave()
            raise

    def _check_folder(self, index: Index) -> None:
        self.record = Record.read(self.folder, self.url)
        is_noted = (self.folder / RECORD).is_file()
        knows = is_noted and (not self.record.is_whole or self.record.knows(index.version))
        if knows or not self._is_there():
            return
        why = f"holds something else than {visible(self.url)}"
        if is_noted and index.files:
            why = f"was left behind: {visible(self.url)} has gone on elsewhere since it was a copy"
        elif is_noted:
            why = f"is a copy of what {visible(self.url)} no longer holds"
        raise UserError(
            f"{self.path} {why}; move that folder away, and what the store has is brought down, or "
            "give another --run_dir or --scratch"
        )

    def _bring(self) -> None:
        index = self.claim.index
        if self._is_there() and self.record.knows(index.version):
            return
        if index.files:
            say(f"{visible(self.url)} is copied to {self.path}")
        for line, paths in bring(self.store, index, self.folder).items():
            say(line)
            self.lost.update(paths)
        self.record = Record.read(self.folder, self.url)

    def _is_there(self) -> bool:
        """Whether this folder holds anything of a run."""
        return self.path.exists() and any(self.path.iterdir())

    def begin(self) -> None:
        """From now on the run folder is put into the store: all checks have passed."""
        if self._writes():
            self.thread.start()
            self.note()

    # ---- the copy

    def _work(self) -> None:
        """The work of a thread: copy what was noted, and now and then what has changed."""
        since = None  # when the store stopped answering
        while not self.is_over.is_set():
            with self.changed:
                self.changed.wait_for(
                    lambda: self.wanted > self.done or self.is_over.is_set(), MAX_UNKEPT_SECONDS
                )
                target = self.wanted
            try:
                self._copy(with_checkpoints=target > self.done)
                since = None
            except RunFailed as e:
                since = since or time.monotonic()
                if not self.is_ending and time.monotonic() - since < MAX_OUTAGE_SECONDS:
                    say(f"{e}; training goes on meanwhile, and waits at the next checkpoint")
                    self.is_over.wait(RETRY_SECONDS)
                    continue
                self._fail(e)
            except BaseException as e:  # the main thread raises it
                self._fail(e)
            with self.changed:
                self.done = target
                self.changed.notify_all()
                if self.error is not None:
                    return

    def _fail(self, error: BaseException) -> None:
        with self.changed:
            self.error = error
            self.changed.notify_all()

    def _copy(self, with_checkpoints: bool) -> None:
        """Make the store what the run folder is; of checkpoints only where nobody changes them."""
        while with_checkpoints and self.is_saving():
            time.sleep(POLL_SECONDS)
        while True:
            files, sources = self._found(with_checkpoints)
            try:
                self._put(files, sources)
                return
            except (FileNotFoundError, UserError):
                # a file that was put may be gone: of a checkpoint that is set aside meanwhile
                if all(source.is_file() for source in sources.values()):
                    raise

    def _found(self, with_checkpoints: bool) -> tuple[dict[str, File], dict[str, Path]]:
        """({path: file} of the run folder as it is now, {path: where its bytes are} of those that
        the store does not have). What may change while it is put is copied first."""
        held, sources = self.claim.index.files, {}
        files = {p: f for p, f in held.items() if is_of_checkpoint(p) and not with_checkpoints}
        shutil.rmtree(self.folder / STAGED, ignore_errors=True)
        for path in names_in(self.path):
            if is_of_checkpoint(path) and not with_checkpoints:
                continue
            with contextlib.suppress(FileNotFoundError):  # replaced or removed in this moment
                file = self._hashed(path)
                if held.get(path) != file or path in self.lost:
                    sources[path], file = self._source(path, file)
                files[path] = file
        for step in {step_of(p) for p in held if p not in files} - {None}:
            if part := [p for p in files if step_of(p) == step]:
                say(f"{self.path}: the checkpoint of step {step} lacks files; the store drops it")
            for path in part:
                del files[path]
                sources.pop(path, None)
        return files, sources

    def _hashed(self, path: str) -> File:
        """A file as it is now; read anew only where it may have changed."""
        place = self.path / path
        seen = storage.identity(place.stat())
        held = self.hashes.get(path)
        if held and held[0] == seen:
            return held[1]
        file = File(seen[0], hashing.file_sha256(place))
        if time.time() - seen[1] / 1e9 > storage.MIN_AGE_SECONDS:
            self.hashes[path] = seen, file
        return file

    def _source(self, path: str, file: File) -> tuple[Path, File]:
        """(where the bytes of a file are, what they are): checkpoints do not change, of all others
        a copy."""
        if is_of_checkpoint(path):
            return self.path / path, file
        staged = self.folder / STAGED / path
        staged.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self.path / path, staged)
        return staged, File(staged.stat().st_size, hashing.file_sha256(staged))

    def _put(self, files: dict[str, File], sources: dict[str, Path]) -> None:
        """Put files into the store, then the index that names them; then remove those that it no
        longer names."""
        held = self.claim.index
        kept = {object_name(path, file) for path, file in files.items()}
        if files != held.files or self.lost:
            names = {path: object_name(path, files[path]) for path in sources}
            if new := set(names.values()) - held.objects() - set(held.leftover):
                self.claim.write(replace(held, leftover=[*held.leftover, *new]))
            with ThreadPoolExecutor(TRANSFERS) as pool:
                put = self.store.put
                list(pool.map(lambda p: put(names[p], sources[p], files[p].size), sources))
            for source in sources.values():
                source.stat()  # FileNotFoundError where a checkpoint was removed meanwhile
            gone = {*self.claim.index.leftover, *held.objects()} - kept
            self._note_next(version := secrets.token_hex(8))
            self.claim.write(replace(held, version=version, files=files, leftover=sorted(gone)))
            self._note_next(None)
            self.lost = set()
        with ThreadPoolExecutor(TRANSFERS) as pool:
            list(pool.map(self.store.remove, set(self.claim.index.leftover) - kept))
        self.claim.index.leftover = []

    def _note_next(self, version: str | None) -> None:
        """Keep in the record which version is about to be the store's, or that it is."""
        self.record.version = self.record.version if version else self.claim.index.version
        self.record.next, self.record.brought = version, {}
        self.record.write(self.folder)

    # ---- the end

    def close(self) -> None:
        """Put what has changed into the store, where training began, and give up the claim."""
        self.is_ending = True
        try:
            if self.thread.ident is not None:
                self.note()
                self.wait()
        finally:
            self.is_over.set()
            with self.changed:
                self.changed.notify_all()
            if self.thread.ident is not None:
                self.thread.join()
            self.claim.leave()
            shutil.rmtree(self.folder / STAGED, ignore_errors=True)
            if not self._is_there():  # a command that was refused
                (self.folder / RECORD).unlink(missing_ok=True)


@contextlib.contextmanager
def opened(run_dir: str, folder: str = "") -> Iterator[Keeper]:
    """Inside, a run may be trained: in a local folder, or in one that is kept in a store.

    Args:
        run_dir: a path or a URL.
        folder: of a URL, where scratch folders are on this machine; "": in the user's cache.
    """
    if not storage.is_url(run_dir):
        yield Keeper("", Path(run_dir))
        return
    keeper = Keeper(run_dir, scratch(run_dir, f"{TRAINED}-{hosts.index()}", folder))
    with TrainerLock(keeper.folder):
        if not hosts.is_writer():
            hosts.barrier("the run is brought down")
            bring_newest(keeper.store, keeper.folder)
            yield keeper
            return
        keeper.take()
        try:
            hosts.barrier("the run is brought down")
            yield keeper
        except BaseException as error:
            try:
                keeper.close()
            except (RunFailed, UserError) as e:
                if e is not error:
                    say(str(e))
            raise
        keeper.close()


def newest_checkpoint(run_dir: str, folder: str = "") -> int:
    """The newest step that this machine has of a run, given as `opened` takes it; 0 without any."""
    if not storage.is_url(run_dir):
        return processes.newest_checkpoint(Path(run_dir) / CHECKPOINTS)
    place = scratch(run_dir, TRAINED, folder)  # of each process a folder whose name begins so
    runs = (run_in(folder, run_dir) for folder in place.parent.glob(f"{place.name}-*"))
    folders = [run / CHECKPOINTS for run in runs]
    return max(map(processes.newest_checkpoint, folders), default=0)
