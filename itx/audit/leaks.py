# SPDX-License-Identifier: Apache-2.0
"""Facts of leaks: what the build left out because evaluation asks it, what is still there, and
exemplars that give an answer away."""

from collections import Counter
from pathlib import Path
from typing import TypedDict

import numpy as np

from itx.data import cache
from itx.data.lock import LockedData
from itx.data.types import Leaks, Lock
from itx.leaks import contamination


class LeakFacts(TypedDict):
    dropped: list[Leaks]  # the lock's own
    pairs: list[dict]  # see `removed_shares`
    left: list[dict]  # see `leaks_left`
    untested: str  # why they could not be looked for, or ""
    exemplars: list[dict]  # see `exemplar_leaks`


def leak_facts(lock: Lock, data: LockedData, cache_dir: Path) -> LeakFacts:
    left, untested = [], ""
    try:
        left = leaks_left(lock, data, cache_dir)
    except contamination.Untestable as e:
        untested = str(e)
    return {
        "dropped": lock.get("leaks", []),
        "pairs": removed_shares(lock),
        "left": left,
        "untested": untested,
        "exemplars": exemplar_leaks(lock, data, cache_dir),
    }


def removed_shares(lock: Lock) -> list[dict]:
    """[{"train", "evaluation", "removed", "share"}]: for each pair of tasks what the build left out
    of training, the largest share first. A record that several evaluation tasks ask is counted with
    one of them."""
    of_pair: Counter = Counter()
    of_task: Counter = Counter()
    for x in lock.get("leaks", []):
        of_pair[x["train"], x["evaluation"]] += x["dropped"]
        of_task[x["train"]] += x["dropped"]
    kept = {t["name"]: t["audit"]["kept"] for t in lock["tasks"]}
    pairs = [
        {"train": t, "evaluation": e, "removed": n, "share": n / (kept[t] + of_task[t])}
        for (t, e), n in of_pair.items()
    ]
    return sorted(pairs, key=lambda p: (-p["share"], p["train"], p["evaluation"]))


def exemplar_leaks(lock: Lock, data: LockedData, cache_dir: Path) -> list[dict]:
    """[{"of", "how", "records"}]: training and evaluation prompts that show their own example, and
    evaluation prompts that show one that the same task is evaluated on. (Training prompts that show
    such a one are in `leaks_left`.)"""
    counts: Counter = Counter()
    for task, renderings, usable in zip(lock["tasks"], data.records, data.usable, strict=True):
        for records, rows in zip(renderings, usable, strict=True):
            counts[f"task {task['name']}", "is the example itself"] += _own(records, rows)
    row_of_folder = {r["folder"]: r for r in lock["evaluation"]}
    opened = {folder: cache.Records(cache_dir / folder) for folder in row_of_folder}
    evaluated: dict[str, list[np.ndarray]] = {}
    for folder, row in row_of_folder.items():
        evaluated.setdefault(row["task"], []).append(opened[folder].content)
    for folder, row in row_of_folder.items():
        records, of = opened[folder], f"evaluation row {row['name']}"
        if records.exemplars.shape[1]:
            known = np.isin(records.exemplars, np.concatenate(evaluated[row["task"]])).any(1)
            counts[of, "is the example itself"] += _own(records, np.arange(len(records)))
            counts[of, "is an evaluation example"] += int(known.sum())
    return [{"of": of, "how": how, "records": n} for (of, how), n in sorted(counts.items()) if n]


def _own(records: cache.Records, rows: np.ndarray) -> int:
    """How many of the rows have their own input among their exemplars."""
    return int((records.exemplars[rows] == records.content[rows, None]).any(1).sum())


def leaks_left(lock: Lock, data: LockedData, cache_dir: Path) -> list[dict]:
    """Training records that evaluation asks all the same: of what the search found, those that are
    not left out.

    [{"train", "evaluation", "how", "records"}] for each pair of tasks.
    """
    counts: Counter = Counter()
    hits = contamination.found(lock, cache_dir)
    for task, usable in zip(lock["tasks"], data.usable, strict=True):
        of_task = hits[task["name"]]
        for record in set().union(*(rows.tolist() for rows in usable)) & set(of_task):
            counts[task["name"], *of_task[record]] += 1
    return [
        {"train": t, "evaluation": e, "how": how, "records": n}
        for (t, e, how), n in sorted(counts.items())
    ]
