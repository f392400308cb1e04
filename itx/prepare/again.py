# SPDX-License-Identifier: Apache-2.0
"""Whether a task still renders what its cache holds: a sample of the records of each folder is made
once more.

A key stands for the code and the values that fingerprint.py can read. A file that is read at run
time, or a name that is looked up then, changes the text under the same key: here it becomes an
error instead of stale training data.
"""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from itx import hashing
from itx.data import cache
from itx.data.vocabulary import Vocabulary
from itx.errors import UserError
from itx.prepare import jobs, render, sources
from itx.prepare import values as checks
from itx.prepare.jobs import Job, Settings
from itx.tasks import names, registry
from itx.tasks.spec import Skip, TaskSpec

# So that a hit stays cheap, a sample comes from the beginning of a source, which is read no further
# than that.
FIRST_ROWS = 400  # of a source
# texts of a folder: those of an evaluation split stand in the order of their hashes
FIRST_RECORDS = 512
SAMPLED_RECORDS = 12
REMEDY = "raise the task's version"
COMPARED = (
    "prompt",
    "target",
    "references",
    "options",
    "answer_index",
    "extractor",
    "input_content",
)
Sample = dict[tuple[str, str], dict]  # (id, template): the text that the cache holds


def check(there: Iterable[Job], settings: Settings, vocabulary: Vocabulary) -> None:
    """UserError where a record of a folder that is there is rendered otherwise now. A source is
    read once for all jobs of a task and split."""
    groups: dict[tuple[str, str], list[Job]] = {}
    for job in sorted(there, key=str):
        groups.setdefault((names.parse(job.variant).task, job.split), []).append(job)
    for (task, split), several in groups.items():
        kept = {
            j: _first(Path(settings.cache_dir) / jobs.folder(j, settings, vocabulary.hash))
            for j in several
        }
        spec = registry.task(task, settings.root)
        read = _read(
            spec,
            split,
            {r for sample in kept.values() for i, _ in sample for r in _records_of(i)},
            settings,
        )
        for job, first in kept.items():
            sample = _drawn(
                job, {k: v for k, v in first.items() if read.keys() & _records_of(k[0])}
            )
            if (
                first
                and not sample
                and not any(read.keys() & _records_of(i) for f in kept.values() for i, _ in f)
            ):
                raise UserError(
                    f"task {task!r}: its source gives none of the examples that its cache holds; {REMEDY}"
                )
            _compare(job, sample, _items(spec, sample, read, settings), settings, vocabulary)


def _first(folder: Path) -> Sample:
    first = itertools.islice(cache.iterate_examples(folder), FIRST_RECORDS)
    return {(e["id"], e["template"]): e for e in first}


def _drawn(job: Job, first: Sample) -> Sample:
    """Some of them by hash: others for each job."""
    drawn = sorted(first, key=lambda key: hashing.draw(job, *key))
    return {key: first[key] for key in drawn[:SAMPLED_RECORDS]}


def _records_of(example_id: str) -> set[str]:
    """The ids that the record of an example may have: its n-th value is `<record>.n`, a part of
    that `<id>/n`."""
    whole = example_id.rpartition("/")[0]
    return {i for name in (example_id, whole) for i in (name, name.rpartition(".")[0]) if i}


def _read(spec: TaskSpec, split: str, wanted: set[str], settings: Settings) -> dict[str, dict]:
    """{id: record} of the records wanted among a source's first rows; further ones until there is a
    sample of them."""
    out: dict[str, dict] = {}
    for source_split, _, _ in render.source_splits(spec.source, split):
        source = (
            spec.source,
            source_split,
            settings.root,
            settings.suite_seed,
            Counter(),
            settings.skip_bad,
        )
        for row, (example_id, example) in enumerate(sources.open_source(*source)):
            if row >= FIRST_ROWS and len(out) >= min(SAMPLED_RECORDS, len(wanted)):
                break
            if example_id in wanted:
                out[example_id] = example
    return out


def _items(
    spec: TaskSpec, sample: Sample, read: dict[str, dict], settings: Settings
) -> dict[str, render.Item]:
    """{id: item} of what the records of a sample give now."""
    slots = checks.every_slot(spec)
    out: dict[str, render.Item] = {}
    for example_id in sorted({r for i, _ in sample for r in _records_of(i) if r in read}):
        found = render.fields_of(
            spec, read[example_id], f"task {spec.name!r}, example {example_id}", settings.skip_bad
        )
        for n, values in enumerate(found):
            content = (
                values if isinstance(values, Skip) else render.usable_content(spec, values, slots)
            )
            if isinstance(content, str):  # else it gives no example now
                item = render.item_of(example_id, n, values, content)
                out[item.id] = item
    return out


def _compare(
    job: Job,
    sample: Sample,
    items: dict[str, render.Item],
    settings: Settings,
    vocabulary: Vocabulary,
) -> None:
    spec, variant = registry.task(job.variant, settings.root), names.parse(job.variant)
    # Exemplars would need all training examples: a few-shot prompt is compared from behind them on.
    bare = dataclasses.replace(job, variant=str(dataclasses.replace(variant, shots=0)))
    mine = [items[r] for r in sorted({r for i, _ in sample for r in _records_of(i) if r in items})]
    ids = {i for i, _ in sample}
    parts = [p for p in jobs.expanded(bare, mine, Counter(), settings, vocabulary) if p.id in ids]
    rendered, _, owners = jobs.records_of(bare, parts, settings, vocabulary)
    now = {(o.id, r.template): jobs.example_of(o, r) for o, r in zip(owners, rendered, strict=True)}
    for key, was in sample.items():
        if difference := _difference(was, now.get(key), bool(variant.shots)):
            raise UserError(
                f"task {spec.name!r}: example {key[0]} is no longer what its cache holds ({difference}), though nothing "
                "that the cache's key stands for has changed: its functions read a file or look up a name when they run, "
                f"or give something else each time (`itx tasks check {spec.name}`); {REMEDY}"
            )


def _difference(was: dict, now: dict | None, few_shot: bool) -> str:
    """What differs, in words; "" if nothing does."""
    if now is None:
        return f"its record gives no such example in template {was['template']}"
    for name in COMPARED:
        same = (
            was[name].endswith(now[name])
            if few_shot and name == "prompt"
            else was[name] == now[name]
        )
        if not same:
            a, b = (repr(x[name]) for x in (was, now))
            return f"{name} was {a if len(a) < 100 else a[:100] + '…'}, is {b if len(b) < 100 else b[:100] + '…'}"
    return ""
