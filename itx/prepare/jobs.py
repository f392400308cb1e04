# SPDX-License-Identifier: Apache-2.0
"""One cache folder's work: read, render, encode, write. Runs in worker processes without
TensorFlow."""

import functools
import itertools
import json
import time
from collections import Counter
from collections.abc import Iterator
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
    render,
    sources,
    values,
)
from itx.prepare.types import Item, Job, Rendered, Settings
from itx.tasks import fingerprint, names, registry
from itx.text_format import chat

SAMPLE = 2000  # texts kept beside a training split, for the audit and the neighbour baseline
ESTIMATED = 200  # examples that `itx data build --dry-run` renders and encodes per task and split
CHUNK = 4096  # examples rendered and encoded at once; beyond them tokens are kept as arrays alone
GZIP = 4  # by how much the texts beside the records shrink (measured on the toy suite: 3.9)
Made = tuple[str, Manifest]  # (folder in the cache, its manifest)


def settings_of(config: RunConfig, vocab_file: str) -> Settings:
    d = config.data
    template = chat.template_text(d.chat_template, d.root)
    return Settings(d, vocab_file, template, config.model.architecture)


def key(job: Job, settings: Settings, vocab_hash: str) -> str:
    """Hash of all that shapes the folder's content; never the git commit."""
    d, spec = settings.data, settings.task(job.variant)
    return hashing.digest(
        render.RENDER_VERSION,
        loose.LOOSE_VERSION,
        json.dumps(asdict(job), sort_keys=True),
        fingerprint.of_task(spec),
        *sources.hashes(spec.source, job.split, settings),
        vocab_hash,
        *(d.render_seed, d.suite_seed, d.skip_bad),
        d.eval_examples if job.crossed else 0,
        fingerprint.of_task(settings.task(job.other)) if job.other else "",
        *kinds.of(spec).key(job, spec, settings),
    )


def folder(job: Job, settings: Settings, vocab_hash: str) -> str:
    """Relative to the cache."""
    row = "-".join(p for p in (job.split, job.templates if job.crossed else "", job.ablation) if p)
    name = f"r{job.rendering}-{key(job, settings, vocab_hash)}"
    return f"{cache.folder_name(job.variant)}/{row}/{name}"


def path(job: Job, settings: Settings, vocab_hash: str) -> Path:
    return Path(settings.data.cache_dir) / folder(job, settings, vocab_hash)


class Examples(NamedTuple):
    """A split's items, and what became of the other records."""

    items: list[Item]
    counts: Counter  # records read, and left out by reason
    faults: dict[str, str]  # the first record of each reason that is a fault of the data


@functools.lru_cache(maxsize=4)
def _read(task: str, split: str, settings: Settings) -> Examples:
    """A split's examples, kept while one task's jobs follow each other."""
    counts, faults = Counter(), {}
    d, spec = settings.data, settings.task(task)
    items = examples.items(spec, split, d.root, d.suite_seed, counts, d.skip_bad, faults)
    return Examples(list(items), counts, faults)


def _complete(job: Job, split: str, settings: Settings) -> Examples:
    """The examples that a job's wordings can show. With data.skip_bad those with a hole are
    counted and left out, in every rendering alike; else `render` tells of the first one that it
    meets."""
    items, counts, faults = _read(names.parse(job.variant).task, split, settings)
    spec, counts, faults = settings.task(job.variant), Counter(counts), dict(faults)
    if settings.data.skip_bad and spec.templated:
        slots, whole = values.slots(instructions.wordings(job, spec)), []
        for item in items:
            if bad := values.incomplete(item.values, slots, spec.options):
                told = f"task {spec.name!r}, example {item.id}: {bad.detail}"
                counts[bad.reason] += 1
                faults.setdefault(bad.reason, told)
            else:
                whole.append(item)
        items = whole
    return Examples(items, counts, faults)


@functools.lru_cache(maxsize=4)
def _pool(job: Job, settings: Settings) -> fewshot.Pool:
    return fewshot.pool(settings.task(job.variant), _complete(job, "train", settings).items)


def _chosen(job: Job, settings: Settings) -> Examples:
    """The examples of a job: of an evaluation split the first ones by content hash."""
    items, counts, faults = _complete(job, job.split, settings)
    if job.crossed:
        most = settings.data.eval_examples
        counts["beyond data.eval_examples"] += max(0, len(items) - most)
        items = sorted(items, key=lambda item: item.hash)[:most]
    return Examples(items, counts, faults)


def expanded(
    job: Job,
    items: list[Item],
    counts: Counter,
    settings: Settings,
    vocabulary: Vocabulary,
    said: Counter | None = None,
) -> list[Item]:
    """Items, or what they become: a conversation's pieces or answers, a document's chunks. said:
    as `conversations.prepared` takes it."""
    spec = settings.task(job.variant)
    return kinds.of(spec).expanded(job, spec, items, counts, settings, vocabulary, said)


def records_of(
    job: Job, items: list[Item], settings: Settings, vocabulary: Vocabulary
) -> tuple[list[Rendered], list[cache.Record], list[Item]]:
    """(renderings, records, the item of each)."""
    spec, pool = settings.task(job.variant), None
    if names.parse(job.variant).shots:
        pool = _pool(replace(job, split="train", rendering=0), settings)
    return kinds.of(spec).records(job, spec, items, settings, vocabulary, pool)


def lines_of(
    job: Job, items: list[Item], rendered: list[Rendered], settings: Settings
) -> Iterator[dict[str, Any]]:
    """What examples.jsonl.gz says of each rendering."""
    spec = settings.task(job.variant)
    for item, r in zip(items, rendered, strict=True):
        yield line_of(item, r) | kinds.of(spec).line(job, spec, item, settings)


def line_of(item: Item, r: Rendered) -> dict[str, Any]:
    """What all kinds of tasks say of a rendering."""
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
    }


def run_all(several: list[Job], settings: Settings) -> list[tuple[Job, Made]]:
    """The jobs of one task, in turn."""
    return [(job, run(job, settings)) for job in several]


class Estimate(NamedTuple):
    """What a job would write and take."""

    records: int
    bytes: int
    seconds: float  # of one process
    exists: bool


def estimate_all(several: list[Job], settings: Settings) -> list[tuple[Job, Estimate]]:
    """Estimates for the jobs of one task, from all of their source and ESTIMATED of their
    examples."""
    registry.load_modules(settings.data.modules)
    vocabulary = Vocabulary(settings.vocab)
    return [(job, _estimate(job, settings, vocabulary)) for job in several]


def _estimate(job: Job, settings: Settings, vocabulary: Vocabulary) -> Estimate:
    began = time.monotonic()
    exists = cache.is_there(path(job, settings, vocabulary.hash))
    items = _chosen(job, settings).items
    reading = time.monotonic() - began
    few = items[:: max(1, len(items) // ESTIMATED)]
    share = len(items) / max(1, len(few))
    few = expanded(job, few, Counter(), settings, vocabulary)
    rendered, records, owners = records_of(job, few, settings, vocabulary)
    n = round(len(records) * share)
    lines = lines_of(job, owners, rendered, settings)
    text_sizes = [len(json.dumps(line, ensure_ascii=False).encode()) for line in lines]
    kept = n if job.crossed else min(n, SAMPLE)
    token_bytes = cache.token_type(vocabulary.size).itemsize
    tokens = sum(len(ids) for r in records for ids, _ in r) * token_bytes
    columns = sum(
        5 * len(r) + 18 + 8 * len(x.exemplars) for r, x in zip(records, rendered, strict=True)
    )
    texts = kept * sum(text_sizes) / max(1, len(text_sizes)) / GZIP
    work = (time.monotonic() - began - reading) * share
    size = round((tokens + columns) * share + texts)
    return Estimate(n, size, reading + work, exists)


def run(job: Job, settings: Settings) -> Made:
    """Make the job's folder unless it is there. Returns (relative folder, manifest)."""
    registry.load_modules(settings.data.modules)
    vocabulary = Vocabulary(settings.vocab)
    name = folder(job, settings, vocabulary.hash)
    place = Path(settings.data.cache_dir) / name
    spec = settings.task(job.variant)
    # These may have changed since it was made: they shape no rendering.
    labels = {"cluster": spec.cluster, "origin": list(spec.origin)}
    if cache.is_there(place):
        return name, cache.read_manifest(place) | labels
    items, counts, faults = _chosen(job, settings)
    noted = None if job.crossed else notes.Notes(vocabulary, spec, items)  # of what is trained on
    items = expanded(job, items, counts, settings, vocabulary, noted and noted.said)
    columns, sample, templates = _rendered(job, items, settings, vocabulary, noted)
    read, split = counts.pop("read", 0), counts.pop(conversations.SPLIT, 0)
    audit = {"read": read, "kept": len(items), "skipped": skipped(counts)}
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
        "fewshot": fewshot.counts(columns.exemplars, names.parse(job.variant)),
        "split_conversations": split,
        **(noted.facts() if noted else {}),
        "audit": {**audit, "first": faults} if faults else audit,
        "repeated": repeated,
        **columns.counts(vocabulary.unk_id, vocabulary.eos_id, settings.architecture),
    }
    # Other renderings, and evaluation, hold nothing that the first does not say.
    texts = [] if job.crossed or job.rendering else _leak_texts(job, items, settings)
    cache.write(place, columns, manifest, sample, texts)
    return name, cache.read_manifest(place)


def skipped(counts: Counter) -> dict[str, int]:
    """Records that were left out, by reason."""
    return {reason: n for reason, n in sorted(counts.items()) if n}


def _rendered(
    job: Job,
    items: list[Item],
    settings: Settings,
    vocabulary: Vocabulary,
    noted: notes.Notes | None,
) -> tuple[cache.Columns, list[dict[str, Any]], list[str]]:
    """(the records of all items, what is said of the first SAMPLE or all of them, the ids of the
    templates)."""
    ids: dict[str, int] = {}  # of templates, by first use
    parts, sample = [], []
    for first in range(0, max(1, len(items)), CHUNK):
        chunk = items[first : first + CHUNK]
        rendered, records, owners = records_of(job, chunk, settings, vocabulary)
        for r, record, item in zip(rendered, records, owners, strict=True):
            if not record[-1][0]:
                where = f"task {settings.task(job.variant).name!r}, example {item.id}"
                raise UserError(f"{where}: the target {r.target!r} has no tokens")
        if noted:
            noted.records(rendered, records, owners)
        most = len(rendered) if job.crossed else max(0, SAMPLE - len(sample))
        sample += itertools.islice(lines_of(job, owners, rendered, settings), most)
        drawn = [ids.setdefault(r.template, len(ids)) for r in rendered]
        shots = [r.exemplars for r in rendered]
        hashes = [item.hash for item in owners]
        parts.append(cache.Columns.of(records, hashes, drawn, vocabulary.size, shots))
    return cache.Columns.joined(parts), sample, list(ids)


def _leak_texts(job: Job, items: list[Item], settings: Settings) -> list[cache.Texts]:
    """For the leak test: all that training reads of each example."""
    spec = settings.task(job.variant)
    if spec.templated:  # the same in all variants of the task
        return _task_leak_texts(spec.name, settings)
    return [kinds.of(spec).leak_texts(spec, item) for item in items]


@functools.lru_cache(maxsize=4)
def _task_leak_texts(task: str, settings: Settings) -> list[cache.Texts]:
    spec = settings.task(task)
    return [instructions.leak_texts(spec, item) for item in _read(task, "train", settings).items]
