# SPDX-License-Identifier: Apache-2.0
"""Two locks: which records of each task are trained on by one of them alone, known by the hash of
their content."""

from collections import Counter
from pathlib import Path
from typing import TypedDict

from itx.data import lock as locks
from itx.data.lock import LockedData
from itx.data.types import Lock


class TaskDifference(TypedDict):
    records: list[int]  # trained on, in the first and in the second
    added: int
    removed: int


def of_locks(first: Lock, first_cache: str, second: Lock, second_cache: str) -> dict:
    """{"same", "difference", "tasks"}: whether batches are the same, the first thing in which the
    locks differ, and each trained variant's TaskDifference in its first rendering."""
    one, other = _contents(first, first_cache), _contents(second, second_cache)
    tasks: dict[str, TaskDifference] = {}
    for name in sorted({*one, *other}):
        a, b = one.get(name, Counter()), other.get(name, Counter())
        tasks[name] = TaskDifference(
            records=[a.total(), b.total()], added=(b - a).total(), removed=(a - b).total()
        )
    same = locks.shape_hash(first) == locks.shape_hash(second)
    return {
        "same": same,
        "difference": "" if same else locks.difference(first, second),
        "tasks": tasks,
    }


def _contents(lock: Lock, cache_dir: str | Path) -> dict[str, Counter[int]]:
    """{variant: how often each content is trained on}."""
    data = LockedData(lock, cache_dir)
    return {
        task["name"]: Counter(records[0].content[usable[0]].tolist())
        for task, records, usable in zip(lock["tasks"], data.records, data.usable, strict=True)
    }
