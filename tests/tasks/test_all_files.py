# SPDX-License-Identifier: Apache-2.0
"""Every file of ../shared/data: each row is used once or skipped with a reason, and no exemplar
leaks.

Rows are counted here by the standard library alone, not by the readers or the build's own counters.
"""

import csv
import gzip
import json
from collections import Counter
from pathlib import Path

import pytest

import tasks  # noqa: F401  (registers)
from itx.data import cache
from itx.prepare import examples, fewshot, sources
from itx.tasks import registry
from itx.tasks.spec import SPLITS

SHOTS = 4
# What no task reads as rows of a file: how others evaluate, test data of libraries, lists about the
# sets; what may not be trained on and has no task of its own; and WinoBias, whose lines a function
# reads (tests/eval/test_bias.py)
UNREAD = ("README.md", "conformance/", "tokenizers/", "flan_meta/", "natural_instructions/index.jsonl",
          "natural_instructions/splits/", "instruction_induction/annotations/", "bbh/cot-prompts/", "winobias/",
          "mt_bench/", "gsm8k/test_socratic_part.jsonl")  # fmt: skip


def rows_of(path: Path) -> int:
    """How many records a file holds; of self_instruct's seeds, whose records hold several examples,
    the examples."""
    if path.suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as f:
            return sum(1 for row in csv.reader(f) if row) - 1
    text = (
        gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    ).decode()
    if path.suffix == ".json":
        document = json.loads(text)
        return len(document.get("Instances") or document["examples"])
    lines = [line for line in text.split("\n") if line.strip()]
    return (
        sum(len(json.loads(x)["instances"]) for x in lines)
        if path.name == "seed_tasks.jsonl"
        else len(lines)
    )


def files_of(spec, split: str) -> list[str]:
    found = spec.source.files[split]
    return [found] if isinstance(found, str) else list(found)


def specs(root: str) -> list:
    """Every task over files, families included; tasks over TFDS are in test_flan.py."""
    members = [
        registry.task(n, root) for f in registry.FAMILIES for n in registry.expand(f"{f}.*", root)
    ]
    kinds = ("jsonl", "json", "csv", "tsv")
    absent = ("ifeval",)  # its file is not in ../shared/data
    every = [s for s in registry.TASKS.values() if s.name not in absent]
    shipped = [s for s in every if s.module.startswith("tasks.")]
    return [s for s in [*shipped, *members] if getattr(s.source, "kind", "") in kinds]


@pytest.fixture(scope="module")
def read(shared):
    """[(spec, {split: its items}, {split: its counts})] of all of them."""
    out = []
    for spec in specs(str(shared)):
        items, counts = {}, {}
        for split in SPLITS:
            if sources.source_splits(spec.source, split):
                counts[split] = Counter()
                items[split] = list(examples.items(spec, split, str(shared), 0, counts[split]))
        out.append((spec, items, counts))
    return out


def test_every_file_is_read_by_a_task_or_named_here(read, shared):
    used = {f for spec, _, _ in read for split in spec.source.files for f in files_of(spec, split)}
    there = {str(p.relative_to(shared)) for p in shared.rglob("*") if p.is_file()}
    assert used <= there and len(used) > 400
    assert {f for f in there if not f.startswith(UNREAD)} == used
    assert all(any(f.startswith(u) for f in there) for u in UNREAD)


def test_every_row_is_used_once_or_skipped_with_a_reason(read, shared):
    """By source split: rows = skipped by `fields` + (kept + repeated) of each split that it is
    shared out to."""
    seen = Counter()
    for spec, items, counts in read:
        for source in spec.source.files:
            rows = sum(rows_of(shared / f) for f in files_of(spec, source))
            parts = [
                s
                for s in items
                if [p[0] for p in sources.source_splits(spec.source, s)] == [source]
            ]
            assert parts, (spec.name, source)
            kept, repeated = 0, 0
            for split in parts:
                own = Counter(counts[split])
                assert own.pop("read") == rows, (spec.name, split)
                elsewhere = own.pop("another split", 0)
                repeats = sum(own.pop(reason, 0) for reason in (cache.REPEATED, cache.CONFLICT))
                assert rows == len(items[split]) + repeats + elsewhere + sum(own.values()), (
                    spec.name,
                    split,
                )
                kept, repeated, skipped = kept + len(items[split]), repeated + repeats, own
            assert rows == kept + repeated + sum(skipped.values()), (spec.name, source)
            seen.update(rows=rows, kept=kept, repeated=repeated, skipped=sum(skipped.values()))
        identities = [
            examples.identity_of(spec, i.values) for found in items.values() for i in found
        ]
        assert len(set(identities)) == len(identities), spec.name
    assert seen["kept"] > 50_000 and seen["repeated"] > 100 and seen["skipped"] > 10


def test_no_exemplar_leaks_on_any_task(read):
    """Exemplars are training examples of the task, none the example itself, whatever split it is
    of."""
    fewer = 0
    for spec, items, _ in read:
        if not spec.templated or "train" not in items:
            continue
        pool, known = fewshot.pool(spec, items["train"]), {i.hash for i in items["train"]}
        asked = {i.hash for s in items if s != "train" for i in items[s]}
        assert known.isdisjoint(asked)
        for found in items.values():
            for item in found[:8]:
                shown = [i.hash for i in fewshot.choose(pool, item, SHOTS, 0, spec.name, 0)]
                assert len(set(shown)) == len(shown) <= SHOTS, spec.name
                assert item.hash not in shown and known.issuperset(shown), spec.name
                assert len(shown) == min(SHOTS, len(known - {item.hash})), spec.name
                fewer += len(shown) < SHOTS
    assert fewer  # some tasks are so small
