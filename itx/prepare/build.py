# SPDX-License-Identifier: Apache-2.0
"""`itx data build`: from a config to a complete cache and the lock that names it.

    1  a plan: what is trained on (members.py), the vocabulary, what is scored (evaluation.py)
    2  worker processes make one cache folder per job; meanwhile a process of its own imports SeqIO
    3  SeqIO's registries, in that process, give names and rates (workers.py)
    4  further renderings where the run's epochs need them; leaks and misfits are left out; the lock
       (new_lock.py)

A folder that exists is complete (its name holds the hash of what shapes it), so a killed build
resumes; it is verified before it is used, and made again if it was damaged.
"""

import contextlib
import dataclasses
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from itx import errors, hashing, storage
from itx.config import RunConfig
from itx.data.types import Lock
from itx.data.vocabulary import Vocabulary
from itx.errors import UserError
from itx.leaks import contamination
from itx.prepare import (
    again,
    evaluation,
    exclude,
    hits,
    jobs,
    new_lock,
    patches,
    sources,
    vocab,
    workers,
)
from itx.prepare.jobs import Made
from itx.prepare.members import members_of, mixtures_of, with_beside, with_factors
from itx.prepare.types import Job, Plan
from itx.prepare.workers import Progress, Rates, no_progress
from itx.tasks import registry

# A source's bytes times this are surely more than its cache: packed text in every template of an
# evaluation row.
MAX_GROWTH = 50


class Built(NamedTuple):
    lock: Path  # the file of the lock that names the cache
    made: list[str]  # variants of which a folder was not there before
    mended: list[str]  # what was damaged, and was made again


def build(config: RunConfig, progress: Progress = no_progress, keep_damaged: bool = False) -> Built:
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
    progress("vocabulary", 0, 1)
    plan = plan_of(config, members, mend)
    file = None if plan.seqio else new_lock.file_of(plan)
    complete = file and hits.known_lock(file, d.cache_dir, mend) is not None
    cached = workers.cached(_own(plan), plan.settings, plan.vocabulary, mend)
    again.check(cached, plan.settings, plan.vocabulary)
    if complete:
        return Built(file, [], mended)
    _check_size(plan)
    made: dict[Job, Made] = {}
    new: set[str] = set()
    if plan.seqio:
        from itx.prepare import foreign

        made, new = foreign.make_all(plan, mend, progress)
        plan = foreign.tried(plan, made)
    with _rates(plan) as rates, workers.pool(d.workers) as pool:
        to_make = (plan.settings, plan.vocabulary, progress)
        made |= workers.make_all(pool, _own(plan), *to_make)
        trained = [made[Job(m, "train")][1] for m in plan.members]
        shares = with_factors(rates({m["task"]: m["examples"] for m in trained}), d)
        shares = with_beside(shares, d)
        progress("leak test", 0, 1)
        lock = _without_leaks(plan, shares, made)
        if more := new_lock.more_renderings(plan, lock):
            if plan.seqio:  # there is but one rendering, which stands for every epoch's
                made |= {job: made[dataclasses.replace(job, rendering=0)] for job in more}
            else:
                cached |= workers.cached(more, plan.settings, plan.vocabulary, mend)
                made |= workers.make_all(pool, more, *to_make)
            # The exemplars of these may show further leaks.
            lock = _without_leaks(plan, shares, made)
    if file is None:  # what SeqIO's tasks are made from has no key: the lock's content names it
        name = hashing.digest(json.dumps(lock, sort_keys=True))
        file = Path(d.cache_dir) / "locks" / f"{name}.json"
    storage.write_json(file, storage.sealed(lock))
    own = {j for j in made if j.variant not in plan.seqio}
    return Built(file, sorted(new | {j.variant for j in own - cached}), mended)


def _own(plan: Plan) -> list[Job]:
    """The jobs of itx's own tasks."""
    return [j for j in plan.jobs if j.variant not in plan.seqio]


def _rates(plan: Plan) -> contextlib.AbstractContextManager:
    """Gives a function from {task: training examples} to the rates of each phase."""
    if plan.seqio:
        return contextlib.nullcontext(lambda examples: [plan.rates])
    return workers.seqio_rates(mixtures_of(plan.config), plan.settings)


def _without_leaks(plan: Plan, shares: list[Rates], made: dict[Job, Made]) -> Lock:
    lock = new_lock.make(plan, shares, made)
    exclude.exclude(lock, contamination.found(lock, plan.config.data.cache_dir))
    return lock


def plan_of(config: RunConfig, members: list[str], mend: hits.Mend = hits.refuse) -> Plan:
    """What a build of these members (of `members_of`) makes."""
    if not members:
        from itx.prepare import foreign

        return foreign.plan_of(config, mend)
    settings = jobs.settings_of(config, vocabulary_file(config, members, mend))
    rows = evaluation.rows(config, members) + evaluation.texts(config, members)
    unscored = evaluation.without_split(config, members)
    told = patches.check(config.data, members)
    return Plan(config, settings, Vocabulary(settings.vocab), members, rows, unscored, patches=told)


def vocabulary_file(config: RunConfig, members: list[str], mend: hits.Mend = hits.refuse) -> str:
    """The given vocabulary (relative ones stand under data.root), or one trained on the mixture;
    with sentinels behind a SentencePiece model's pieces where span corruption is among the members.

    Either way a file of the cache, so that the cache can travel alone to where training happens.
    """
    d = config.data
    if d.vocab:
        file = vocab.keep_given(d.vocab, d.root, d.cache_dir, config.model.vocab_size, mend)
    else:
        file = vocab.train(members, d.vocab_size, d.root, d.suite_seed, d.cache_dir, mend)
    objectives = {registry.task(m, d.root).objective for m in members}
    if file.suffix == ".model" and "span_corruption" in objectives:
        file = vocab.keep_with_sentinels(file, d.cache_dir, mend)
    return str(file)


def estimate(config: RunConfig, progress: Progress = no_progress) -> dict[str, Any]:
    """What `build` would write and take: {"tasks": {variant: {…}}, "bytes", "new_bytes",
    "seconds"}, nothing kept but the vocabulary. Further renderings, which the run's epochs decide,
    are not in it: `data.renderings` at most."""
    members = members_of(config)
    if not members:
        raise UserError(
            f"--dry-run knows itx's own tasks, not {config.data.mixture!r}, which SeqIO resolves"
        )
    plan = plan_of(config, members)
    count = config.data.workers or os.cpu_count()
    with workers.pool(count) as pool:
        waiting = workers.submit(pool, plan.jobs, plan.settings, jobs.estimate)
        estimates = workers.collect(waiting, progress)
    tasks: dict[str, dict[str, Any]] = {}
    for job, facts in estimates.items():
        zero = {"records": 0, "bytes": 0, "seconds": 0.0, "new_bytes": 0}
        entry = tasks.setdefault(job.variant, zero)
        entry["records"] += facts.records if job.split == "train" else 0
        entry["bytes"] += facts.bytes
        if not facts.exists:
            entry["new_bytes"] += facts.bytes
            entry["seconds"] += facts.seconds
    total = {k: sum(t[k] for t in tasks.values()) for k in ("bytes", "new_bytes", "seconds")}
    return {"tasks": tasks, **total, "seconds": total["seconds"] / count, "workers": count}


def _check_size(plan: Plan) -> None:
    """A build that may exceed data.max_bytes is estimated first; small sources cannot."""
    most = plan.config.data.max_bytes
    files = [file for job in _own(plan) for file in _source_files(job, plan)]
    if plan.seqio or sum(file.stat().st_size for file in files) * MAX_GROWTH <= most:
        return
    estimated = estimate(plan.config)
    size, hours = estimated["new_bytes"], estimated["seconds"] / 3600
    if size > most:
        raise UserError(
            f"the build would write about {size / 1e9:,.1f} GB in {hours:.1f} h; "
            f"data.max_bytes is {most / 1e9:,.1f} GB: raise it if that is meant"
        )


def _source_files(job: Job, plan: Plan) -> list[Path]:
    source, root = plan.settings.task(job.variant).source, plan.config.data.root
    if source.kind == "function":
        return []
    splits = [split for split, _, _ in sources.source_splits(source, job.split)]
    return [part.path for split in splits for part in sources.parts(source, split, root)]
