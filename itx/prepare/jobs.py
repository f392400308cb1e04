# SPDX-License-Identifier: Apache-2.0
"""One cache folder's work: read, render, encode, write. Runs in worker processes without
TensorFlow."""

import functools
import itertools
import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

from itx import hashing
from itx.config import RunConfig
from itx.data import cache
from itx.data.types import Manifest
from itx.data.vocabulary import Vocabulary
from itx.errors import UserError
from itx.leaks import loose
from itx.prepare import (
    conversations,
    examples,
    fewshot,
    instructions,
    kinds,
    notes,
    patches,
    render,
    sources,
    values,
)
from itx.prepare.types import Item, Job, Records, Rendered, Settings, Work
from itx.tasks import fingerprint, registry
from itx.text_format import chat, prompts

SAMPLE = 2000  # texts kept beside a training split, for the audit and the neighbour baseline
ESTIMATED = 200  # examples that `itx data build --dry-run` renders and encodes per task and split
CHUNK = 4096  # examples rendered and encoded at once; beyond them tokens are kept as arrays alone
GZIP = 4  # by how much the texts beside the records shrink (measured on the toy suite: 3.9)
Made = tuple[str, Manifest]  # (folder in the cache, its manifest)


def settings_of(config: RunConfig, vocab_file: str) -> Settings:
    d = config.data
    template = chat.template_text(d.chat_template, d.root)
    if d.prompt_format == "chat":
        prompts.check(template, d.system)
    elif d.system:
        raise UserError("data.system: plain prompts have no system; data.prompt_format=chat has")
    return Settings(d, vocab_file, template, config.model.architecture)


def key(job: Job, settings: Settings, vocab_hash: str) -> str:
    """Hash of all that shapes the folder's content; never the git commit."""
    d, spec = settings.data, settings.task(job.variant)
    return hashing.digest(
        render.RENDER_VERSION,
        loose.LOOSE_VERSION,
        json.dumps(asdict(job), sort_keys=True),
        fingerprint.of_task(spec),
        *sources.hashes(spec.source, job.split, d.root, d.suite_seed),
        vocab_hash,
        *(d.render_seed, d.suite_seed, d.skip_bad),
        d.eval_examples if job.crossed else 0,
        "".join(fingerprint.of_task(settings.task(name)) for name in job.others),
        *kinds.of(spec).key(job, spec, settings),
        *((d.train_examples,) if d.train_examples and _shows_training(job) else ()),
        *(patches.key(d, spec.name) if d.patches and not job.crossed else ()),
    )


def _shows_training(job: Job) -> bool:
    """Whether a folder holds training examples: as its own, or as exemplars."""
    return not job.crossed or bool(job.parsed.shots)


def folder(job: Job, settings: Settings, vocab_hash: str) -> str:
    """Relative to the cache."""
    row = "-".join(p for p in (job.split, job.templates if job.crossed else "", job.ablation) if p)
    return (
        f"{cache.folder_name(job.variant)}/{row}/r{job.rendering}-{key(job, settings, vocab_hash)}"
    )


def by_split(several: Iterable[Job]) -> dict[tuple[str, str], list[Job]]:
    """{(task, split): its jobs}, each job once."""
    groups: dict[tuple[str, str], list[Job]] = {}
    for job in dict.fromkeys(several):
        groups.setdefault((job.parsed.task, job.split), []).append(job)
    return groups


def path(job: Job, settings: Settings, vocab_hash: str) -> Path:
    return Path(settings.data.cache_dir) / folder(job, settings, vocab_hash)


class Examples(NamedTuple):
    """A split's items, and what became of the other records."""

    items: list[Item]
    counts: Counter  # records read, and left out by reason
    faults: dict[str, str]  # the first record of each reason that is a fault of the data
    patched: Counter = Counter()  # what data.patches did, under patches.COUNTED


def _read(task: str, split: str, settings: Settings) -> Examples:
    """A split's examples; those of training with data.patches."""
    patched = tuple(patches.key(settings.data, task)) if split == "train" else ()
    return _read_once(task, split, settings, patched)


@functools.lru_cache(maxsize=4)
def _read_once(task: str, split: str, settings: Settings, patched: tuple[str, ...]) -> Examples:
    """Kept while one task's jobs follow each other.

    Args:
        patched: what of the patches is the task's, so that a file that has changed is read again.
    """
    counts, faults = Counter(), {}
    d, spec = settings.data, settings.task(task)
    if patched:
        items, done = patches.training_examples(spec, d, counts, faults)
        return Examples(items, counts, faults, done)
    items = examples.items(spec, split, d.root, d.suite_seed, counts, d.skip_bad, faults)
    return Examples(list(items), counts, faults)


def _complete(work: Work) -> Examples:
    """The examples that a job's wordings can show. With data.skip_bad those with a hole are
    counted and left out, in every rendering alike; else `render` tells of the first one that it
    meets."""
    spec, settings = work.spec, work.settings
    read_under = settings.unpatched if work.job.crossed else settings
    items, counts, faults, patched = _read(work.variant.task, work.job.split, read_under)
    counts, faults = Counter(counts), dict(faults)
    if settings.data.skip_bad and spec.templated:
        slots, whole = values.slots(instructions.wordings(work.job, spec)), []
        for item in items:
            if bad := values.incomplete(item.values, slots, spec.options):
                counts[bad.reason] += 1
                faults.setdefault(bad.reason, f"{work.where(item)}: {bad.detail}")
            else:
                whole.append(item)
        items = whole
    return Examples(items, counts, faults, patched)


@functools.lru_cache(maxsize=4)
def _pool(job: Job, settings: Settings) -> fewshot.Pool:
    work = Work(job, settings, None)
    return fewshot.pool(work.spec, _chosen(work).items)


def most_of(crossed: bool, settings: Settings) -> tuple[str, int | None]:
    """(the setting that bounds the examples of a split, how many it keeps; None: all)."""
    d = settings.data
    if crossed:
        return "data.eval_examples", d.eval_examples
    return "data.train_examples", d.train_examples or None


def _chosen(work: Work) -> Examples:
    """The examples of a job: where a setting bounds them, the first ones by content hash."""
    items, counts, faults, patched = _complete(work)
    setting, most = most_of(work.job.crossed, work.settings)
    if most is not None:
        counts[f"beyond {setting}"] += max(0, len(items) - most)
        items = sorted(items, key=lambda item: item.hash)[:most]
    return Examples(items, counts, faults, patched)


def expanded(
    work: Work, items: list[Item], counts: Counter, said: Counter | None = None
) -> list[Item]:
    """Items, or what they become: a conversation's pieces or answers, a document's chunks. said:
    as `conversations.prepared` takes it."""
    return kinds.of(work.spec).expanded(work, items, counts, said)


def records_of(work: Work, items: list[Item]) -> Records:
    pool = None
    if work.variant.shots:
        # What is asked shows the exemplars of the source, with or without a patch.
        settings = work.settings.unpatched if work.job.crossed else work.settings
        pool = _pool(replace(work.job, split="train", rendering=0), settings)
    return kinds.of(work.spec).records(work, items, pool)


def line_of(item: Item, r: Rendered) -> dict[str, Any]:
    """What examples.jsonl.gz says of a rendering, whatever its kind of task."""
    return {
        "id": item.id,
        "content": f"{item.hash:016x}",
        "input_content": item.content,
        "template": r.template,
        "prompt": r.prompt,
        "target": r.target,
        "references": list(r.references),
        "options": None if r.options is None else list(r.options),
        "answer_index": r.answer_index,
        "extractor": r.extractor,
        **({"messages": list(r.messages)} if r.messages else {}),
    }


def lines_of(work: Work, items: list[Item], rendered: list[Rendered]) -> Iterator[dict[str, Any]]:
    further = kinds.of(work.spec).line
    for item, r in zip(items, rendered, strict=True):
        yield line_of(item, r) | further(work, item)


class Estimate(NamedTuple):
    """What a job would write and take."""

    records: int
    bytes: int
    seconds: float  # that one process would take
    exists: bool


def estimate(job: Job, settings: Settings) -> Estimate:
    """From all of the job's source and ESTIMATED of its examples."""
    began = time.monotonic()
    work = Work(job, settings, _vocabulary(settings.vocab))
    exists = cache.is_there(path(job, settings, work.vocabulary.hash))
    items = _chosen(work).items
    reading = time.monotonic() - began
    few = items[:: max(1, len(items) // ESTIMATED)]
    share = len(items) / max(1, len(few))
    rendered, records, owners = records_of(work, expanded(work, few, Counter()))
    n = round(len(records) * share)
    lines = lines_of(work, owners, rendered)
    text_bytes = [len(json.dumps(line, ensure_ascii=False).encode()) for line in lines]
    lines_kept = n if job.crossed else min(n, SAMPLE)
    tokens = sum(len(ids) for r in records for ids, _ in r)
    token_bytes = tokens * cache.token_type(work.vocabulary.size).itemsize
    column_bytes = sum(5 * len(r) + 18 for r in records) + sum(
        8 * len(r.exemplars) for r in rendered
    )
    size = (token_bytes + column_bytes) * share
    size += lines_kept * sum(text_bytes) / max(1, len(text_bytes)) / GZIP
    seconds = reading + (time.monotonic() - began - reading) * share
    return Estimate(n, round(size), seconds, exists)


@functools.lru_cache(maxsize=2)  # a large tokenizer.json takes a second to read
def _vocabulary(file: str) -> Vocabulary:
    return Vocabulary(file)


def run(job: Job, settings: Settings) -> Made:
    """Make the job's folder unless it is there."""
    registry.load_modules(settings.data.modules)
    work = Work(job, settings, _vocabulary(settings.vocab))
    spec, vocabulary = work.spec, work.vocabulary
    name = folder(job, settings, vocabulary.hash)
    place = Path(settings.data.cache_dir) / name
    # These may have changed since it was made: they shape no rendering.
    labels = {"cluster": spec.cluster, "origin": list(spec.origin)}
    if cache.is_there(place):
        return name, cache.read_manifest(place) | labels
    items, counts, faults, patched = _chosen(work)
    # Only what is trained on is looked at.
    noted = None if job.crossed else notes.Notes(vocabulary, spec, items)
    items = expanded(work, items, counts, noted and noted.said)
    columns, sample, templates = _rendered(work, items, noted)
    split = counts.pop(conversations.SPLIT, 0)
    repeated = 0  # only chunks of documents can: `examples.items` leaves no two of one identity
    if spec.kind == "text":
        repeated = len(items) - len({tuple(i.values["tokens"]) for i in items})
    manifest = {
        "task": spec.name,
        **asdict(job),
        "key": name.rsplit("-", 1)[1],
        "vocabulary": vocabulary.hash,
        **labels,
        "templates": templates,
        "examples": len(items),
        "fewshot": fewshot.counts(columns.exemplars, work.variant),
        "split_conversations": split,
        **(noted.facts() if noted else {}),
        "audit": audit(counts, len(items)) | ({"first": faults} if faults else {}),
        **({"patched": dict(patched)} if patched else {}),
        "repeated": repeated,
        **columns.counts(vocabulary.unk_id, vocabulary.eos_id, settings.architecture),
    }
    # Other renderings, and evaluation, hold nothing that the first does not say.
    texts = [] if job.crossed or job.rendering else _leak_texts(work, items)
    cache.write(place, columns, manifest, sample, texts)
    return name, cache.read_manifest(place)


def audit(counts: Counter, kept: int) -> dict[str, Any]:
    """A manifest's account of the records of a split."""
    read = counts.pop("read", 0)
    return {"read": read, "kept": kept, "skipped": {k: n for k, n in sorted(counts.items()) if n}}


def _rendered(
    work: Work, items: list[Item], noted: notes.Notes | None
) -> tuple[cache.Columns, list[dict[str, Any]], list[str]]:
    """(the records of all items, what is said of the first SAMPLE or all of them, the ids of the
    templates)."""
    ids: dict[str, int] = {}  # {template: its number, by first use}
    parts, sample = [], []
    for first in range(0, max(1, len(items)), CHUNK):
        rendered, records, owners = records_of(work, items[first : first + CHUNK])
        if work.shuffled:
            rendered, records, owners = instructions.shuffled(work, rendered, owners)
        for r, record, item in zip(rendered, records, owners, strict=True):
            if not record[-1][0]:
                raise UserError(f"{work.where(item)}: the target {r.target!r} has no tokens")
        if noted:
            noted.records(rendered, records, owners)
        most = len(rendered) if work.job.crossed else max(0, SAMPLE - len(sample))
        sample += itertools.islice(lines_of(work, owners, rendered), most)
        drawn = [ids.setdefault(r.template, len(ids)) for r in rendered]
        shots = [r.exemplars for r in rendered]
        hashes = [item.hash for item in owners]
        parts.append(cache.Columns.of(records, hashes, drawn, work.vocabulary.size, shots))
    return cache.Columns.joined(parts), sample, list(ids)


def _leak_texts(work: Work, items: list[Item]) -> list[cache.Texts]:
    """For the leak test: all that training reads of each example."""
    whole = not work.settings.data.train_examples
    if work.spec.templated and whole:  # the same in all variants of the task
        return _task_leak_texts(work.spec.name, work.settings)
    return [kinds.of(work.spec).leak_texts(work.spec, item) for item in items]


@functools.lru_cache(maxsize=4)
def _task_leak_texts(task: str, settings: Settings) -> list[cache.Texts]:
    spec = settings.task(task)
    return [instructions.leak_texts(spec, item) for item in _read(task, "train", settings).items]
