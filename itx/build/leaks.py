# SPDX-License-Identifier: Apache-2.0
"""Leave out of training what evaluation asks (EVALUATION.md, Leaks): tested on inputs, not on prompts.

Two tests: equal canonical input at any length, and for inputs of 13 words or more a shared run of 13
words (26 characters in scripts without spaces). A run that stands in more than 10 training inputs is a
phrase, not a leak.
"""

from collections import Counter
from pathlib import Path

import numpy as np

from itx import text
from itx.data import cache

COMMON = 10


def exclude(lock: dict, cache_dir: str | Path) -> None:
    """Add leaking training records to each task's `excluded`, and the counts to its audit and `leaks`."""
    inputs = _evaluation_inputs(lock, cache_dir)
    hashes = {int(h, 16): row for h, (row, _) in inputs.items()}
    runs = {gram: row for row, content in inputs.values() for gram in text.leak_ngrams(content)}
    common = _common_runs(lock, cache_dir, runs)
    lock["leaks"] = []
    for task in lock["tasks"]:
        for r, folder in enumerate(task["folders"]):
            records = cache.Records(Path(cache_dir) / folder)
            hits = {int(i): hashes[int(records.content[i])] for i in _members(records.content, hashes)}
            equal = set(hits)
            for long in cache.read_long_inputs(records.folder):
                shared = [g for g in text.leak_ngrams(long["input"]) if g in runs and g not in common]
                if shared:
                    hits.setdefault(long["record"], runs[shared[0]])
            new = sorted(set(hits) - set(task["excluded"][r]))
            task["excluded"][r] = sorted({*task["excluded"][r], *new})
            if r == 0:
                _count(lock, task, new, hits, equal)


def _evaluation_inputs(lock: dict, cache_dir: str | Path) -> dict[str, tuple[str, str]]:
    """Content hash -> (task, canonical input) of everything that is scored."""
    out = {}
    for folder, task in {r["folder"]: r["task"] for r in lock["evaluation"]}.items():
        for e in cache.read_examples(Path(cache_dir) / folder):
            out.setdefault(e["content"], (task, e["input_content"]))
    return out


def _members(content: np.ndarray, hashes: dict[int, str]) -> np.ndarray:
    return np.flatnonzero(np.isin(content, np.array(list(hashes), np.uint64)))


def _common_runs(lock: dict, cache_dir: str | Path, runs: dict) -> set:
    """Runs of evaluation inputs that stand in more than COMMON training inputs."""
    counts: Counter = Counter()
    for task in lock["tasks"]:
        for long in cache.read_long_inputs(Path(cache_dir) / task["folders"][0]):
            counts.update({g for g in text.leak_ngrams(long["input"]) if g in runs})
    return {g for g, n in counts.items() if n > COMMON}


def _count(lock: dict, task: dict, new: list[int], hits: dict[int, str], equal: set[int]) -> None:
    pairs = Counter((hits[i], "equal input" if i in equal else "shared run of words") for i in new)
    for (evaluation, how), n in sorted(pairs.items()):
        lock["leaks"].append({"train": task["name"], "evaluation": evaluation, "how": how, "dropped": n})
        reason = f"in evaluation ({how})"
        task["audit"]["skipped"][reason] = task["audit"]["skipped"].get(reason, 0) + n
    task["examples"] -= len(new)
    task["audit"]["kept"] -= len(new)
