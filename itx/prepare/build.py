# SPDX-License-Identifier: Apache-2.0
"""`itx data build`: from a config to a complete cache and the lock that names it.

    1  resolve the mixture's members (light), the vocabulary, the evaluation rows
    2  worker processes make one cache folder per job; meanwhile a process of its own imports SeqIO
    3  SeqIO's registries, in that process, give names and rates
    4  further renderings where the run's epochs need them; leaks and misfits are left out; the lock

A folder that exists is complete (its name holds the hash of what shapes it), so a killed build
resumes; it is verified before it is used, and made again if it was damaged.
"""

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import itertools
import json
import math
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import numpy as np

from itx import errors, hashing, processes, storage
from itx.config import RunConfig
from itx.data import cache, packing
from itx.data import lock as locks
from itx.data.order import ORDER_VERSION, Order
from itx.data.vocabulary import Vocabulary
from itx.errors import UserError, did_you_mean
from itx.leaks import contamination
from itx.prepare import again, evaluation, exclude, hits, jobs, sources, vocab
from itx.prepare.jobs import Job, Settings
from itx.tasks import fingerprint, names, registry, resolve
from itx.tasks.spec import MixtureSpec
from itx.text_format import chat

Progress = Callable[[str, int, int], None]  # what, done, of
# A source's bytes times this are surely more than its cache: packed text in every template of an
# evaluation row
LARGEST_GROWTH = 50


def settings_of(config: RunConfig, vocab_file: str) -> Settings:
    d = config.data
    return Settings(
        d.modules, d.root, d.cache_dir, vocab_file, d.render_seed, d.suite_seed, d.eval_examples, d.skip_bad,
        d.fewshot_tokens or d.sequence_length, chat.template_text(d.chat_template, d.root), config.model.architecture,
        d.sequence_length, d.target_length,
    )  # fmt: skip


def vocabulary_file(config: RunConfig, members: list[str], mend: hits.Mend = hits.refuse) -> str:
    """The given vocabulary (relative ones stand under data.root), or one trained on the mixture;
    with sentinels behind a SentencePiece model's pieces where span corruption is among the members.

    Either way a file of the cache, so that the cache can travel alone to where training happens.
    """
    d = config.data
    if d.vocab:
        kept = vocab.keep_given(d.vocab, d.root, d.cache_dir, config.model.vocab_size, mend)
    else:
        kept = vocab.train(members, d.vocab_size, d.root, d.suite_seed, d.cache_dir, mend)
    if kept.suffix == ".model" and any(
        registry.task(m, d.root).objective == "span_corruption" for m in members
    ):
        kept = vocab.keep_with_sentinels(kept, d.cache_dir, mend)
    return str(kept)


def members_of(config: RunConfig) -> list[str]:
    """Every variant that the mixture and those of later phases train on; [] where only SeqIO knows
    the name."""
    d = config.data
    # TFDS's own setting: before the modules, which may import it; worker processes inherit it
    if d.tfds_data_dir:
        os.environ["TFDS_DATA_DIR"] = d.tfds_data_dir
    registry.load_modules(d.modules)
    found = _variants(d.mixture, d.root)
    steps = [0, *(step for step, _ in d.phases)]
    if any(b <= a for a, b in itertools.pairwise(steps)):
        raise UserError(f"data.phases: steps must rise from above 0, not {steps[1:]}")
    gone = (
        dict(resolve.removed(registry.MIXTURES[d.mixture], d.root))
        if d.mixture in registry.MIXTURES
        else {}
    )
    for _, name in d.phases:
        later = _variants(name, d.root)
        if not later or not found:
            raise UserError(
                f"data.phases: {name if found else d.mixture!r} is SeqIO's own; phases take itx's mixtures and tasks"
            )
        held = [m for m in later if names.parse(m).task in gone]
        if held:
            raise UserError(
                f"data.phases: {name!r} trains on {held[0]!r}, which {d.mixture!r} holds out"
            )
        found = list(dict.fromkeys([*found, *later]))
    return [*found, _replayed(config, found)] if d.replay else found


def _replayed(config: RunConfig, members: list[str]) -> str:
    """data.replay_task, which must be a text task that is not in the mixture."""
    d = config.data
    if not members:
        raise UserError(
            f"data.replay: {d.mixture!r} is SeqIO's own; replay goes with itx's mixtures and tasks"
        )
    name = str(names.parse(d.replay_task))
    if not registry.task(name, d.root).objective:
        texts = [t.name for t in registry.TASKS.values() if t.objective]
        raise UserError(f"data.replay_task: {name!r} is no text task" + did_you_mean(name, texts))
    if name in members:
        raise UserError(
            f"data.replay_task: {name!r} is in {d.mixture!r} already, with a share of its own"
        )
    return name


def with_replay(shares: list[dict[str, float]], data) -> list[dict[str, float]]:
    """The rates of each phase, and beside them data.replay of plain text; each sums to 1 as
    before."""
    if not data.replay:
        return shares
    return [
        {**{n: s * (1 - data.replay) for n, s in of.items()}, data.replay_task: data.replay}
        for of in shares
    ]


def _variants(name: str, root: str) -> list[str]:
    """What one mixture or task trains on, nested mixtures opened."""
    if not name:
        raise UserError("data.mixture is not set" + did_you_mean("", registry.MIXTURES))
    if name in registry.MIXTURES:
        found = [
            m
            for mixture in mixtures_of(name, root)
            for m in resolve.members(registry.MIXTURES[mixture], root)
        ]
        return list(dict.fromkeys(m for m in found if m not in registry.MIXTURES))
    try:
        spec = registry.task(name, root)
    except UserError as e:
        if name.split(".")[0] in registry.FAMILIES:
            raise
        if "seqio" in sys.modules:  # the modules imported it and may have registered the name there
            return []
        known = [*registry.MIXTURES, *registry.TASKS]
        raise UserError(f"unknown mixture or task {name!r}" + did_you_mean(name, known)) from e
    if spec.evaluation_only:
        raise UserError(f"task {name!r} is for evaluation only and must not be trained on")
    return [str(names.parse(name))]


def mixtures_of(name: str, root: str) -> list[str]:
    """A mixture and those nested in it, each once; [] for a task."""
    out = [name] if name in registry.MIXTURES else []
    for mixture in out:  # grows as it goes
        nested = resolve.members(registry.MIXTURES[mixture], root)
        out += [m for m in nested if m in registry.MIXTURES and m not in out]
    return out


class Built(NamedTuple):
    lock: Path  # the file of the lock that names the cache
    made: list[str]  # variants of which a folder was not there before
    mended: list[str]  # what was damaged, and was made again


def build(
    config: RunConfig, progress: Progress = lambda *_: None, keep_damaged: bool = False
) -> Built:
    """Make the cache complete. Damaged folders are made again; with `keep_damaged` they are an
    error."""
    d = config.data
    if d.root and not Path(d.root).is_dir():
        raise UserError(f"data.root: no folder {d.root!r}" + errors.did_you_mean_file(Path(d.root)))
    Path(d.cache_dir).mkdir(parents=True, exist_ok=True)
    storage.clean_parts(d.cache_dir)
    mended: list[str] = []
    mend = hits.refuse if keep_damaged else hits.remover(mended)
    members = members_of(config)
    if not members:
        return _build_foreign(config, progress, mend, mended)
    progress("vocabulary", 0, 1)
    settings, rows, todo = _plan(config, members, mend)
    vocabulary = Vocabulary(settings.vocab)
    without = evaluation.without_split(config, members)
    known = _lock_file(config, settings, vocabulary.hash, todo, without)
    complete = hits.known_lock(known, d.cache_dir, mend) is not None
    there = _sound(todo, settings, vocabulary, mend)
    again.check(there, settings, vocabulary)
    if complete:
        return Built(known, [], mended)
    _check_size(config, todo, settings)
    with _seqio(_mixtures(config), settings) as rates, _pool(d.workers) as pool:
        made = _make_all(pool, todo, settings, vocabulary, progress)
        trained = [made[Job(m, "train")][1] for m in members]
        shares = with_replay(
            rates({manifest["task"]: manifest["examples"] for manifest in trained}), d
        )
        lock = _lock(config, settings, vocabulary, shares, made, rows, without)
        progress("leak test", 0, 1)
        exclude.exclude(lock, contamination.found(lock, d.cache_dir))
        more = _more_renderings(config, lock)
        if more:
            there |= _sound(more, settings, vocabulary, mend)
            made |= _make_all(pool, more, settings, vocabulary, progress)
            lock = _lock(config, settings, vocabulary, shares, made, rows, without)
            # which the exemplars of these may show
            exclude.exclude(lock, contamination.found(lock, d.cache_dir))
    storage.write_json(known, lock)
    return Built(known, sorted({j.variant for j in made if j not in there}), mended)


def estimate(config: RunConfig, progress: Progress = lambda *_: None) -> dict:
    """What `build` would write and take: {"tasks": {variant: {…}}, "bytes", "new_bytes",
    "seconds"}, nothing kept but the vocabulary. Further renderings, which the run's epochs decide,
    are not in it: `data.renderings` at most."""
    members = members_of(config)
    if not members:
        raise UserError(
            f"--dry-run knows itx's own tasks, not {config.data.mixture!r}, which SeqIO resolves"
        )
    settings, _, todo = _plan(config, members)
    workers = config.data.workers or os.cpu_count()
    with _pool(workers) as pool:
        found = _collect(_submit(pool, todo, settings, jobs.estimate_all), progress)
    tasks: dict[str, dict] = {}
    for job, facts in found.items():
        entry = tasks.setdefault(
            job.variant, {"records": 0, "bytes": 0, "seconds": 0.0, "new_bytes": 0}
        )
        entry["records"] += facts["records"] if job.split == "train" else 0
        entry["bytes"] += facts["bytes"]
        entry["new_bytes"] += 0 if facts["exists"] else facts["bytes"]
        entry["seconds"] += 0.0 if facts["exists"] else facts["seconds"]
    total = {k: sum(t[k] for t in tasks.values()) for k in ("bytes", "new_bytes", "seconds")}
    return {"tasks": tasks, **total, "seconds": total["seconds"] / workers, "workers": workers}


def _plan(
    config: RunConfig, members: list[str], mend: hits.Mend = hits.refuse
) -> tuple[Settings, list[evaluation.Row], list[Job]]:
    """(settings, evaluation rows, the jobs of a build); the sources of all of them are there."""
    settings = settings_of(config, vocabulary_file(config, members, mend))
    rows = evaluation.rows(config, members) + evaluation.texts(config, members)
    todo = [Job(m, "train") for m in members] + [r.job for r in rows]
    _check_sources(todo, settings)
    return settings, rows, todo


def _mixtures(config: RunConfig) -> list[str]:
    """The mixture (or task) of each phase."""
    return [config.data.mixture, *(name for _, name in config.data.phases)]


def _check_size(config: RunConfig, todo: list[Job], settings: Settings) -> None:
    """A build that may exceed data.max_bytes is estimated first; small sources cannot."""
    read = sum(part.path.stat().st_size for job in todo for part in _parts(job, settings))
    if read * LARGEST_GROWTH > config.data.max_bytes:
        found = estimate(config)
        if found["new_bytes"] > config.data.max_bytes:
            raise UserError(
                f"the build would write about {found['new_bytes'] / 1e9:,.1f} GB in {found['seconds'] / 3600:.1f} h; "
                f"data.max_bytes is {config.data.max_bytes / 1e9:,.1f} GB: raise it if that is meant"
            )


def _parts(job: Job, settings: Settings) -> list[sources.Part]:
    source = registry.task(job.variant, settings.root).source
    if source.kind == "function":
        return []
    return [
        p
        for s, _, _ in jobs.render.source_splits(source, job.split)
        for p in sources.parts(source, s, settings.root)
    ]


def _check_sources(todo: list[Job], settings: Settings) -> None:
    """Missing files and folders are found before any work starts."""
    for job in todo:
        jobs.key(job, settings, "")


def _lock_file(
    config: RunConfig,
    settings: Settings,
    vocab_hash: str,
    todo: list[Job],
    unscored: Sequence[str] = (),
) -> Path:
    """Where the lock of this very build is kept: a second run needs neither SeqIO nor the
    sources."""
    shape = {
        k: v
        for k, v in dataclasses.asdict(config.data).items()
        if k not in ("cache_dir", "workers", "root", "tfds_data_dir") and not k.startswith("max_")
    }
    specs = {(t := registry.task(j.variant, settings.root)).name: t for j in todo}
    parts = [
        locks.LOCK_VERSION, ORDER_VERSION, contamination.SEARCH_VERSION, shape, config.model.architecture, config.model.prefix_lm,
        config.train.steps, config.eval.tasks, config.eval.split, config.eval.instructions,
        config.eval.retention, bool(config.model.pretrained), list(unscored),
        [repr(registry.MIXTURES[m]) for name in _mixtures(config) for m in mixtures_of(name, settings.root)],
        [fingerprint.of_scoring(specs[name]) for name in sorted(specs)],
        [jobs.folder(j, settings, vocab_hash) for j in todo],
    ]  # fmt: skip
    if any(spec.chat for spec in specs.values()):
        parts.append(settings.chat_template)  # the lock holds it
    # and why no text is measured, which depends on the files that are there
    if config.model.pretrained:
        parts.append(
            evaluation.default_text(config, [j.variant for j in todo if j.split == "train"])[1]
        )
    name = f"{jobs.render.draw(json.dumps(parts, sort_keys=True, default=str)):016x}.json"
    return Path(config.data.cache_dir) / "locks" / name


def _sound(
    todo: list[Job], settings: Settings, vocabulary: Vocabulary, mend: hits.Mend
) -> set[Job]:
    """The jobs whose folders are there, once those that are damaged were mended."""
    folders = {j: jobs.folder(j, settings, vocabulary.hash) for j in todo}
    hits.check(
        ((j.variant, f, None) for j, f in folders.items()),
        settings.cache_dir,
        vocabulary.size,
        mend,
    )
    return {j for j, f in folders.items() if (Path(settings.cache_dir) / f).is_dir()}


@contextlib.contextmanager
def _pool(workers: int) -> Iterator[concurrent.futures.ProcessPoolExecutor]:
    """Spawned, so that workers start clean: no TensorFlow, no threads of this process. An error or
    a signal ends them."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(
        workers or os.cpu_count(), context, processes.die_with, (os.getpid(),)
    ) as pool:
        try:
            yield pool
        except BaseException:
            processes.end_workers()
            raise


@contextlib.contextmanager
def _seqio(
    mixtures: list[str], settings: Settings
) -> Iterator[Callable[[dict[str, int]], list[dict]]]:
    """A process that registers the mixtures in SeqIO; gives {task: training examples} -> [{variant:
    rate}] of each.

    Importing SeqIO takes as long as a small build, hence beside it; and as a process it can be
    ended at once, so that a mistake in the data is told within a second or two.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(
        target=_serve_rates, args=(os.getpid(), there, mixtures, settings), daemon=True
    )
    with processes.without_sigint(workers=True):
        process.start()
    there.close()

    def rates(examples: dict[str, int]) -> list[dict[str, float]]:
        try:
            here.send(examples)
            answer = here.recv()
        except (EOFError, OSError) as e:
            process.join()
            raise RuntimeError(
                f"the process that asks SeqIO ended with exit code {process.exitcode}"
            ) from e
        if isinstance(answer, UserError):
            raise answer
        return answer

    try:
        yield rates
    finally:
        process.terminate()
        process.join()


def _serve_rates(parent: int, pipe: Connection, mixtures: list[str], settings: Settings) -> None:
    """What that process does."""
    processes.die_with(parent)
    from itx.prepare import seqio_bridge

    registry.load_modules(settings.modules)
    try:
        found = [seqio_bridge.registered(str(names.parse(m)), settings) for m in mixtures]
        for task, examples in pipe.recv().items():
            seqio_bridge.SpecSource.counted[task, "train"] = examples
        pipe.send([seqio_bridge.rates(m) for m in found])
    except UserError as e:
        pipe.send(e)
    except EOFError:
        pass  # the build was ended


def make(todo: list[Job], settings: Settings, workers: int) -> dict[Job, tuple[str, dict]]:
    """The folders of some jobs, made where they are not there: (relative folder, manifest) of
    each."""
    vocabulary = Vocabulary(settings.vocab)
    again.check(_sound(todo, settings, vocabulary, hits.refuse), settings, vocabulary)
    with _pool(workers) as pool:
        return _make_all(pool, todo, settings, vocabulary, lambda *_: None)


def _make_all(
    pool: concurrent.futures.Executor,
    todo: list[Job],
    settings: Settings,
    vocabulary: Vocabulary,
    progress: Progress,
) -> dict[Job, tuple[str, dict]]:
    """(relative folder, manifest) of each job; UserError where a worker names a folder otherwise
    than this process."""
    made = _collect(_submit(pool, todo, settings), progress)
    for job, (where, _) in made.items():
        if where != jobs.folder(job, settings, vocabulary.hash):
            raise UserError(
                f"task {names.parse(job.variant).task!r}: its cache key differs between two processes: a value that its "
                "functions use changes while they run, or depends on the process; keep what is computed in "
                "functools.cache, and sort sets"
            )
    return made


def _submit(
    pool: concurrent.futures.Executor,
    todo: list[Job],
    settings: Settings,
    work: Callable = jobs.run_all,
) -> list[concurrent.futures.Future]:
    """Jobs by task and split, so that a worker reads its examples once."""
    groups: dict[tuple[str, str], list[Job]] = {}
    for job in dict.fromkeys(todo):
        groups.setdefault((names.parse(job.variant).task, job.split), []).append(job)
    with processes.without_sigint(workers=True):
        return [pool.submit(work, several, settings) for several in groups.values()]


def _collect(
    waiting: list[concurrent.futures.Future], progress: Progress
) -> dict[Job, tuple[str, dict]]:
    made: dict[Job, tuple[str, dict]] = {}
    try:
        for i, future in enumerate(concurrent.futures.as_completed(waiting)):
            made |= dict(future.result())
            progress("cache", i + 1, len(waiting))
    except BaseException:
        for future in waiting:
            future.cancel()
        raise
    return made


def _more_renderings(config: RunConfig, lock: dict) -> list[Job]:
    """The renderings beyond the first that the run's epochs need: ceil(epochs), at most
    data.renderings."""
    data = locks.LockedData(lock, config.data.cache_dir)
    # the first rendering stands in for every epoch's: the others may not be made yet
    order = Order({**lock, "renderings": 1}, data.usable, data.sizes)
    per_row = config.data.window_examples / len(order.window(0))
    # windows vary: one window and 5 % of an epoch to spare
    examples = per_row * config.data.global_batch * config.train.steps + config.data.window_examples
    out = []
    for i, task in enumerate(lock["tasks"]):
        epochs = math.ceil(examples * task["rate"] / max(1, len(data.usable[i][0])) + 0.05)
        out += [
            Job(task["name"], "train", rendering=r)
            for r in range(1, min(epochs, config.data.renderings))
        ]
    return out


def _lock(config: RunConfig, settings: Settings, vocabulary: Vocabulary, shares: list[dict[str, float]],
          made: dict[Job, tuple[str, dict]], rows: list[evaluation.Row] = (), unscored: list[str] = ()) -> dict:  # fmt: skip
    d = config.data
    lock = {
        "version": locks.LOCK_VERSION, "order_version": ORDER_VERSION,
        "architecture": config.model.architecture, "prefix_lm": config.model.prefix_lm,
        "pad_id": vocabulary.pad_id, "bos_id": vocabulary.bos_id if vocabulary.begins or config.model.architecture == "encoder_decoder" else -1,
        "eos_id": vocabulary.eos_id,
        "vocabulary": {"file": str(Path(settings.vocab).relative_to(d.cache_dir)), "hash": vocabulary.hash, "size": vocabulary.size,
                       "files": {p.name: hashing.file_sha256(p) for p in sorted(Path(settings.vocab).parent.iterdir())}},
        "mixture": d.mixture, "sequence_length": d.sequence_length, "target_length": d.target_length,
        "global_batch": d.global_batch, "window_examples": d.window_examples, "seed": d.seed,
        "renderings": d.renderings, "weighting": d.weighting, "too_long": d.too_long,
        "loss_positions": [d.target_length], "tasks": [], "evaluation": [], "holdout": [],
    }  # fmt: skip
    for name, rate in mean_rates(shares, [s for s, _ in d.phases], config.train.steps).items():
        if any(s.get(name, 0) > 0 for s in shares):
            folders = [
                made[j]
                for r in range(d.renderings)
                if (j := Job(name, "train", rendering=r)) in made
            ]
            lock["tasks"].append(task_entry(name, rate, folders, lock, d))
    trained = {t["name"].partition(":")[0] for t in lock["tasks"]}
    # how `itx generate` is to ask
    if any(spec.chat for name, spec in registry.TASKS.items() if name in trained):
        lock["chat"] = settings.chat_template
    if d.replay:
        lock |= {"replay": d.replay, "replay_task": d.replay_task}
    if d.phases:

        def of(share):
            return [share.get(t["name"], 0.0) for t in lock["tasks"]]

        steps = [0, *(s for s, _ in d.phases)]
        lock["phases"] = [
            {"step": s, "rates": of(share)} for s, share in zip(steps, shares, strict=True)
        ]
    if lock["architecture"] == "decoder":
        # the first rendering stands in for every epoch's, so that a longer run has the same
        data = locks.LockedData(lock, d.cache_dir)
        order = Order({**lock, "renderings": 1}, data.usable, data.sizes)
        lock["loss_positions"] = packing.loss_caps(
            order.size(*order.window(0).segments.T), order.capacity
        )
    spec = registry.MIXTURES.get(d.mixture)
    if spec:
        lock["holdout"] = [{"task": t, "reason": why} for t, why in resolve.removed(spec, d.root)]
    lock["left_out"] = [
        {"mixture": m, "task": t, "reason": why}
        for name in _mixtures(config) for m in mixtures_of(name, d.root)
        for t, why in resolve.left_out(registry.MIXTURES[m], d.root)
    ]  # fmt: skip
    lock["variants"] = [
        found for name in _mixtures(config) for m in mixtures_of(name, d.root)
        if (found := variant_shares(registry.MIXTURES[m], lock["tasks"], d.root))
    ]  # fmt: skip
    # a small set may leave a split nothing: such a row is named, and not scored
    lock["unscored"] = [*unscored, *(r.name for r in rows if not made[r.job][1]["examples"])]
    scored = [r for r in rows if made[r.job][1]["examples"]]
    lock["evaluation"] = evaluation.lock_rows(
        [r for r in scored if not r.spec.objective], made, settings
    )
    lock["retention"] = evaluation.lock_texts(
        [r for r in scored if r.spec.objective], made, settings
    )
    if config.model.pretrained and not lock["retention"]:
        named = any(r.spec.objective for r in rows)
        why = (
            "" if named else evaluation.default_text(config, [t["name"] for t in lock["tasks"]])[1]
        )
        lock["unretained"] = why or "the text that is to be kept has no example"
    return lock


def variant_shares(spec: MixtureSpec, tasks: list[dict], root: str) -> dict:
    """{"mixture", "asked": {variant: share}, "got": {variant: share of what these tasks are trained
    on}, "without": {variant: the tasks that lack it}} where some do; else {}."""
    lacking = resolve.without(spec, root)
    if not lacking:
        return {}
    rates = {t["name"]: t["rate"] for t in tasks}
    bare = {t["task"] for t in tasks}
    got = {
        v: sum(rates.get(str(names.parse(f"{t}:{v}")), 0.0) for t in bare) for v in spec.variants
    }
    without = {v: [t for t, have in lacking.items() if v not in have] for v in spec.variants}
    whole = sum(got.values()) or 1.0
    return {"mixture": spec.name, "asked": dict(spec.variants), "got": {v: r / whole for v, r in got.items()},
            "without": {v: ts for v, ts in without.items() if ts}}  # fmt: skip


def mean_rates(shares: list[dict[str, float]], begins: list[int], steps: int) -> dict[str, float]:
    """Each variant's share of the examples over the run: of each phase by its steps, the phases
    after the first beginning at `begins`."""
    if not begins:
        return shares[0]
    edges = [0, *(min(b, steps) for b in begins), steps]
    parts = [(b - a) / max(1, steps) for a, b in itertools.pairwise(edges)]
    variants = sorted({name for share in shares for name in share})
    return {
        n: sum(p * share.get(n, 0.0) for p, share in zip(parts, shares, strict=True))
        for n in variants
    }


def task_entry(name: str, rate: float, folders: list[tuple[str, dict]], lock: dict, data) -> dict:
    """One task of the lock: where it lies, its rate, what of it is left out and why."""
    manifest = folders[0][1]
    if not manifest["records"]:
        raise UserError(
            f"task {name}: no training example is left; skipped: {manifest['audit']['skipped']}"
        )
    spec = registry.MIXTURES.get(data.mixture)
    excluded, skipped, cut = [], dict(manifest["audit"]["skipped"]), {}
    for r, (folder, _) in enumerate(folders):
        records = cache.Records(Path(data.cache_dir) / folder)
        size = locks.sizes(records.lengths, lock["architecture"])
        out, reasons = locks.check_fit(name, size, lock)
        if (
            spec
            and spec.max_examples
            and name != data.replay_task
            and (~out).sum() > spec.max_examples
        ):
            ranked = np.argsort(np.where(out, np.uint64(2**64 - 1), records.content), kind="stable")
            beyond = np.zeros(len(out), bool)
            beyond[ranked[spec.max_examples :]] = True
            reasons["beyond max_examples"] = int((beyond & ~out).sum())
            out |= beyond
        if r == 0:
            skipped |= reasons
            lost = locks.lost(size, lock)[~out]
            names = (("cut", "cut_tokens"), ("cut_targets", "cut_target_tokens"))
            cut = {k: v for pair, n in zip(names, lost.T, strict=True) if n.any()
                   for k, v in zip(pair, (int((n > 0).sum()), int(n.sum())), strict=True)}  # fmt: skip
        excluded.append(np.flatnonzero(out).tolist())
    n = manifest["records"] - len(excluded[0])
    if n == 0:
        raise UserError(f"task {name}: no training example is left; skipped: {skipped}")
    return {
        "name": name, "task": manifest["task"], "cluster": manifest["cluster"], "rate": rate, "examples": n,
        "folders": [f for f, _ in folders],
        "sha256": [cache.manifest_hash(Path(data.cache_dir) / f) for f, _ in folders], "excluded": excluded,
        "audit": {**manifest["audit"], "skipped": skipped, "kept": n, **cut},
    }  # fmt: skip


def _build_foreign(
    config: RunConfig, progress: Progress, mend: hits.Mend, mended: list[str]
) -> Built:
    """A Task or Mixture that `data.modules` registered straight in SeqIO; eval.tasks may name such
    ones and our own."""
    from itx.prepare import foreign, seqio_bridge

    d, split = config.data, config.eval.split
    mixture = seqio_bridge.find(d.mixture)
    shares = seqio_bridge.rates(mixture)
    tasks = {name: seqio_bridge.find(name) for name in shares}
    theirs = [name for name in config.eval.tasks if seqio_bridge.known(name)]
    ours = tuple(name for name in config.eval.tasks if name not in theirs)
    further = [t for name in theirs for t in seqio_bridge.tasks_of(seqio_bridge.find(name))]
    every = tasks | {t.name: t for t in further}
    file = foreign.vocabulary_of(every, d.cache_dir, mend)
    settings, vocabulary = settings_of(config, file), Vocabulary(file)
    rows, unscored = foreign.rows(list(tasks.values()), split, "", "instances", "same task")
    for task in {t.name: t for t in further}.values():
        of_task = foreign.rows(
            [task], split, "@eval", "extra", "same task" if task.name in tasks else "none"
        )
        rows, unscored = rows + of_task[0], unscored + of_task[1]
    todo = list(dict.fromkeys([*(Job(name, "train") for name in tasks), *(r.job for r in rows)]))
    made, new = {}, set()
    for i, job in enumerate(todo):
        progress("cache", i, len(todo))
        *made[job], fresh = foreign.build(every[job.variant], job.split, settings, vocabulary, mend)
        new |= {job.variant} if fresh else set()
    own = evaluation.rows(
        dataclasses.replace(config, eval=dataclasses.replace(config.eval, tasks=ours)), []
    )
    own += evaluation.texts(config, [])
    there = _sound([r.job for r in own], settings, vocabulary, mend)
    again.check(there, settings, vocabulary)
    if own:
        with _pool(d.workers) as pool:
            made |= _make_all(pool, [r.job for r in own], settings, vocabulary, progress)
    rows = foreign.tried(rows, [str(Path(d.cache_dir) / made[r.job][0]) for r in rows])
    lock = _lock(config, settings, vocabulary, [shares], made, [*rows, *own], unscored)
    exclude.exclude(lock, contamination.found(lock, d.cache_dir))
    if more := _more_renderings(config, lock):  # there is but one, which stands for every epoch's
        made |= {job: made[dataclasses.replace(job, rendering=0)] for job in more}
        lock = _lock(config, settings, vocabulary, [shares], made, [*rows, *own], unscored)
        exclude.exclude(lock, contamination.found(lock, d.cache_dir))
    progress("cache", len(todo), len(todo))
    digest = hashlib.sha256(json.dumps(lock, sort_keys=True).encode()).hexdigest()[:16]
    known = Path(d.cache_dir) / "locks" / f"{digest}.json"
    storage.write_json(known, lock)
    return Built(known, sorted(new | {r.job.variant for r in own if r.job not in there}), mended)
