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
from typing import Any

from itx import hashing
from itx.data import cache
from itx.data.vocabulary import Vocabulary
from itx.errors import UserError
from itx.prepare import examples, jobs, patches, sources
from itx.prepare.types import Item, Job, Settings, Work
from itx.prepare.values import every_slot, shown
from itx.tasks.spec import TaskSpec

# So that a check stays cheap, a sample comes from the beginning of a source, which is read no
# further than that.
FIRST_ROWS = 400
# Texts of a folder; those of an evaluation split stand in the order of their hashes.
FIRST_RECORDS = 512
SAMPLED_RECORDS = 12
MAX_SHOWN = 100  # characters of a value that a message shows
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
Line = dict[str, Any]  # of examples.jsonl.gz
Sample = dict[tuple[str, str], Line]  # {(id, template): the line that the cache holds}


def check(cached: Iterable[Job], settings: Settings, vocabulary: Vocabulary) -> None:
    """UserError where a record of a job's folder is rendered otherwise now. A source is read once
    for all jobs of a task and split."""
    for (task, split), several in jobs.by_split(sorted(cached, key=str)).items():
        firsts = {j: _first(jobs.path(j, settings, vocabulary.hash)) for j in several}
        spec = settings.task(task)
        record_ids = {r for first in firsts.values() for i, _ in first for r in _record_ids(i)}
        records = _read(spec, split, record_ids, settings)
        for job, first in firsts.items():
            if first and not records:
                raise UserError(
                    f"task {task!r}: its source gives none of the examples that its cache "
                    f"holds; {REMEDY}"
                )
            readable = {k: v for k, v in first.items() if records.keys() & _record_ids(k[0])}
            sample = _drawn(job, readable)
            items = _items(spec, sample, records, settings)
            _compare(Work(job, settings, vocabulary), sample, items)


def _first(folder: Path) -> Sample:
    first = itertools.islice(cache.iterate_examples(folder), FIRST_RECORDS)
    return {(e["id"], e["template"]): e for e in first}


def _drawn(job: Job, sample: Sample) -> Sample:
    """Some of a sample by hash: others for each job."""
    drawn = sorted(sample, key=lambda key: hashing.draw(job, *key))
    return {key: sample[key] for key in drawn[:SAMPLED_RECORDS]}


def _record_ids(example_id: str) -> set[str]:
    """The ids that the record of an example may have: its n-th value is `<record>.n`, a part of
    that `<id>/n`."""
    whole = example_id.rpartition("/")[0]
    return {i for name in (example_id, whole) for i in (name, name.rpartition(".")[0]) if i}


def _read(spec: TaskSpec, split: str, record_ids: set[str], settings: Settings) -> dict[str, dict]:
    """{id: record} of the records wanted among a source's first rows; further rows until there is
    a sample of them."""
    d, records = settings.data, {}
    for source_split, _, _ in sources.source_splits(spec.source, split):
        rows = sources.open_source(
            spec.source, source_split, d.root, d.suite_seed, Counter(), d.skip_bad
        )
        for row, (record_id, record) in enumerate(rows):
            if row >= FIRST_ROWS and len(records) >= min(SAMPLED_RECORDS, len(record_ids)):
                break
            if record_id in record_ids:
                records[record_id] = record
    return records


def _items(
    spec: TaskSpec, sample: Sample, records: dict[str, dict], settings: Settings
) -> dict[str, Item]:
    """{id: item} of what the records of a sample give now."""
    slots = every_slot(spec)
    items: dict[str, Item] = {}
    for record_id in sorted({r for i, _ in sample for r in _record_ids(i) if r in records}):
        where = f"task {spec.name!r}, example {record_id}"
        several = examples.fields_of(spec, records[record_id], where, settings.data.skip_bad)
        for n, given in enumerate(several):
            item = examples.item_of(spec, record_id, n, given, slots)
            if isinstance(item, Item):  # else it gives no example now
                items[item.id] = item
    return items


def _compare(work: Work, sample: Sample, items: dict[str, Item]) -> None:
    # Exemplars would need all training examples: a few-shot prompt is compared from behind them on.
    variant = str(dataclasses.replace(work.variant, shots=0))
    bare = dataclasses.replace(work, job=dataclasses.replace(work.job, variant=variant))
    ids = {i for i, _ in sample}
    own = [items[r] for r in sorted({r for i in ids for r in _record_ids(i) if r in items})]
    if not work.job.crossed:
        patched = (patches.again(work.spec, item, work.settings.data) for item in own)
        own = [item for item in patched if item is not None]
    parts = [part for part in jobs.expanded(bare, own, Counter()) if part.id in ids]
    rendered, _, owners = jobs.records_of(bare, parts)
    lines = jobs.lines_of(bare, owners, rendered)
    now = {(line["id"], line["template"]): line for line in lines}
    for key, was in sample.items():
        if difference := _difference(was, now.get(key), work):
            raise UserError(
                f"task {work.spec.name!r}: example {key[0]} is no longer what its cache holds "
                f"({difference}), though nothing that the cache's key stands for has changed: its "
                "functions read a file or look up a name when they run, or give something else "
                f"each time (`itx tasks check {work.spec.name}`); {REMEDY}"
            )


def _difference(was: Line, now: Line | None, work: Work) -> str:
    """What differs, in words; "" if nothing does."""
    if now is None:
        return f"its record gives no such example in template {was['template']}"
    for name in COMPARED:
        before, after = was[name], now[name]
        if work.shuffled and name == "target":  # another example's; its own are the references
            continue
        if work.variant.shots and name == "prompt" and before.endswith(after):
            continue
        if before != after:
            return f"{name} was {shown(before, MAX_SHOWN)}, is {shown(after, MAX_SHOWN)}"
    return ""
