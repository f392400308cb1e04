# SPDX-License-Identifier: Apache-2.0
"""The processes of a build: a pool that makes cache folders, and one that asks SeqIO for rates."""

import concurrent.futures
import contextlib
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from itx import hashing, processes, storage
from itx.data.vocabulary import Vocabulary
from itx.errors import UserError
from itx.prepare import again, hits, jobs
from itx.prepare.jobs import Made
from itx.prepare.members import nested
from itx.prepare.types import Job, Settings
from itx.tasks import names, registry, resolve
from itx.versions import version_of

Progress = Callable[[str, int, int], None]  # what is done, how much of it, of how much
Rates = dict[str, float]  # {variant: share of the examples}
RATES_VERSION = 1  # raise it where seqio_bridge.py mixes otherwise


def no_progress(*_: Any) -> None:
    pass


@contextlib.contextmanager
def pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that make jobs. They are spawned, so that they start clean: no TensorFlow, no
    threads of this process. An error or a signal ends them."""
    context = multiprocessing.get_context("spawn")
    start = (workers or os.cpu_count(), context, processes.die_with, (os.getpid(),))
    with ProcessPoolExecutor(*start) as executor:
        try:
            yield executor
        except BaseException:
            processes.end_workers()
            raise


def submit(
    executor: ProcessPoolExecutor,
    todo: list[Job],
    settings: Settings,
    work: Callable[[Job, Settings], Any] = jobs.run,
) -> list[concurrent.futures.Future]:
    """Jobs by task and split, so that a worker reads its examples once."""
    groups = jobs.by_split(todo).values()
    with processes.without_sigint(workers=True):
        return [executor.submit(_in_turn, work, group, settings) for group in groups]


def _in_turn(work: Callable, several: list[Job], settings: Settings) -> list[tuple[Job, Any]]:
    registry.load_modules(settings.data.modules)
    return [(job, work(job, settings)) for job in several]


def collect(waiting: list[concurrent.futures.Future], progress: Progress) -> dict[Job, Any]:
    """What `work` gave for each job."""
    results: dict[Job, Any] = {}
    try:
        for i, future in enumerate(concurrent.futures.as_completed(waiting)):
            results |= dict(future.result())
            progress("cache", i + 1, len(waiting))
    except BaseException:
        for future in waiting:
            future.cancel()
        raise
    return results


def make_all(
    executor: ProcessPoolExecutor,
    todo: list[Job],
    settings: Settings,
    vocabulary: Vocabulary,
    progress: Progress,
) -> dict[Job, Made]:
    """(folder, manifest) of each job; UserError where a worker names a folder otherwise than this
    process."""
    made = collect(submit(executor, todo, settings), progress)
    for job, (folder, _) in made.items():
        if folder != jobs.folder(job, settings, vocabulary.hash):
            raise UserError(
                f"task {job.parsed.task!r}: its cache key differs between two "
                "processes: a value that its functions use changes while they run, or depends on "
                "the process; keep what is computed in functools.cache, and sort sets"
            )
    return made


def cached(
    todo: list[Job], settings: Settings, vocabulary: Vocabulary, mend: hits.Mend
) -> set[Job]:
    """The jobs whose folders are there and sound, once those that are damaged were mended."""
    cache_dir = settings.data.cache_dir
    folders = {j: jobs.folder(j, settings, vocabulary.hash) for j in todo}
    entries = ((j.variant, folder, None) for j, folder in folders.items())
    hits.check(entries, cache_dir, vocabulary.size, mend)
    return {j for j, folder in folders.items() if (Path(cache_dir) / folder).is_dir()}


def make(todo: list[Job], settings: Settings, workers: int) -> dict[Job, Made]:
    """(folder, manifest) of each job, made where the folder is not there."""
    vocabulary = Vocabulary(settings.vocab)
    again.check(cached(todo, settings, vocabulary, hits.refuse), settings, vocabulary)
    with pool(workers) as executor:
        return make_all(executor, todo, settings, vocabulary, no_progress)


def _answer_name(mixtures: list[str], root: str) -> str:
    """The file's name of SeqIO's last answer about mixtures of ours: it follows from what they are,
    and from the numbers of examples, which stand in the file."""
    specs = [registry.MIXTURES[name] for m in mixtures for name in nested(m, root)]
    asked = [(repr(spec), resolve.members(spec, root)) for spec in specs]
    about = [RATES_VERSION, version_of("seqio"), mixtures, asked]
    return f"rates/{hashing.digest(json.dumps(about))}.json"


@contextlib.contextmanager
def seqio_rates(
    mixtures: list[str], settings: Settings
) -> Iterator[Callable[[dict[str, int]], list[Rates]]]:
    """Gives a function from {task: training examples} to the rates of each mixture, as SeqIO mixes
    them.

    Importing SeqIO takes as long as a small build, hence its answer is kept, and a process asks it
    where the mixtures or the numbers of examples are others than last time.
    """
    name, held = _answer_name(mixtures, settings.data.root), {}
    # Where nothing can be kept, or what was kept is damaged, SeqIO is asked each time.
    with contextlib.suppress(OSError, RuntimeError, UserError):
        file = storage.user_cache() / name
        held = storage.read_object(file, "examples", "rates", storage.SEAL, absent={})
    with contextlib.ExitStack() as stack:
        # beside the cache's making, where it is likely to be needed
        ask = None if held else stack.enter_context(_asking(mixtures, settings))

        def rates(examples: dict[str, int]) -> list[Rates]:
            if held and held["examples"] == examples:
                return held["rates"]
            answer = (ask or stack.enter_context(_asking(mixtures, settings)))(examples)
            with contextlib.suppress(OSError, RuntimeError):
                kept = storage.sealed({"examples": examples, "rates": answer})
                storage.write_json(storage.user_cache() / name, kept)
            return answer

        yield rates


@contextlib.contextmanager
def _asking(
    mixtures: list[str], settings: Settings
) -> Iterator[Callable[[dict[str, int]], list[Rates]]]:
    """A process that registers the mixtures in SeqIO, and what asks it for rates. As a process it
    can be ended at once, so that a mistake in the data is told within a second or two."""
    with processes.without_sigint(workers=True):
        process, own_end = processes.child(_serve_rates, mixtures, settings)

    def rates(examples: dict[str, int]) -> list[Rates]:
        try:
            own_end.send(examples)
            answer = own_end.recv()
        except (EOFError, OSError) as e:
            process.join()
            code = process.exitcode
            raise RuntimeError(f"the process that asks SeqIO ended with exit code {code}") from e
        if isinstance(answer, UserError):
            raise answer
        return answer

    try:
        yield rates
    finally:
        process.terminate()
        process.join()


def _serve_rates(pipe: Connection, mixtures: list[str], settings: Settings) -> None:
    """What that process does."""
    from itx.prepare import seqio_bridge

    registry.load_modules(settings.data.modules)
    try:
        registered = [seqio_bridge.registered(str(names.parse(m)), settings) for m in mixtures]
        for task, examples in pipe.recv().items():
            seqio_bridge.SpecSource.counted[task, "train"] = examples
        pipe.send([seqio_bridge.rates(m) for m in registered])
    except UserError as e:
        pipe.send(e)
    except EOFError:
        pass  # the build was ended
