# SPDX-License-Identifier: Apache-2.0
"""Leave out of training what evaluation asks: tested on inputs, not on prompts.

Two tests: equal canonical input at any length, and for inputs of 13 words or more a shared run of 13
words (26 characters in scripts without spaces). A run that stands in more than 10 training inputs is a
phrase, not a leak.
"""

from collections import Counter
from pathlib import Path

import numpy as np

from itx import text
from itx.data import cache
from itx.errors import UserError

COMMON = 10


Found = dict[str, dict[int, tuple[str, str]]]  # trained variant -> record -> (evaluation task, how)


def find(lock: dict, cache_dir: str | Path) -> Found:
    """The training records that evaluation asks. All renderings of a task hold the same inputs in the same order."""
    inputs = _evaluation_inputs(lock, cache_dir)
    hashes = {int(h, 16): row for h, (row, _) in inputs.items()}
    runs = {gram: row for row, content in inputs.values() for gram in sorted(text.leak_ngrams(content))}
    common = _common_runs(lock, cache_dir, runs)
    out: Found = {}
    for task in lock["tasks"]:
        records = cache.Records(Path(cache_dir) / task["folders"][0])
        hits = out[task["name"]] = {}
        for long in cache.read_long_inputs(records.folder):
            shared = sorted(g for g in text.leak_ngrams(long["input"]) if g in runs and g not in common)
            if shared:
                hits[long["record"]] = (runs[shared[0]], "shared run of words")
        for i in _members(records.content, hashes):
            hits[int(i)] = (hashes[int(records.content[i])], "equal input")
        # exemplars are training examples of the same task: a record that shows a leaking one leaks too
        leaking = {int(records.content[i]): row for i, (row, _) in hits.items()}
        for folder in task["folders"]:
            exemplars = cache.Records(Path(cache_dir) / folder).exemplars
            for i in np.flatnonzero(np.isin(exemplars, np.array(list(leaking), np.uint64)).any(1)):
                shown = next(int(h) for h in exemplars[i] if int(h) in leaking)
                hits.setdefault(int(i), (leaking[shown], "in an exemplar"))
    return out


def exclude(lock: dict, found: Found) -> None:
    """Add what was found to each task's `excluded`, and the counts to its audit and to `leaks`."""
    lock["leaks"] = []
    for task in lock["tasks"]:
        hits = found[task["name"]]
        new = sorted(set(hits) - set(task["excluded"][0]))
        task["excluded"] = [sorted({*before, *hits}) for before in task["excluded"]]
        for (evaluation, how), n in sorted(Counter(hits[i] for i in new).items()):
            lock["leaks"].append({"train": task["name"], "evaluation": evaluation, "how": how, "dropped": n})
            reason = f"in evaluation ({how})"
            task["audit"]["skipped"][reason] = task["audit"]["skipped"].get(reason, 0) + n
        task["examples"] -= len(new)
        task["audit"]["kept"] -= len(new)
        if not task["examples"]:
            raise UserError(f"task {task['name']}: no training example is left; skipped: {task['audit']['skipped']}")


def _evaluation_inputs(lock: dict, cache_dir: str | Path) -> dict[str, tuple[str, str]]:
    """Content hash -> (task, canonical input) of everything that is scored."""
    out = {}
    folders = {r["folder"]: r["task"] for r in lock["evaluation"]}
    folders |= {t["folder"]: t["name"] for t in lock.get("retention", [])}
    for folder, task in folders.items():
        for e in cache.read_examples(Path(cache_dir) / folder):
            out.setdefault(e["content"], (task, e["input_content"]))
    return out


def _members(content: np.ndarray, hashes: dict[int, str]) -> np.ndarray:
    return np.flatnonzero(np.isin(content, np.array(list(hashes), np.uint64)))


def _common_runs(lock: dict, cache_dir: str | Path, runs: dict) -> set:
    """Runs of evaluation inputs that stand in more than COMMON different training inputs."""
    counts: Counter = Counter()
    seen: set[str] = set()  # variants of a task, and tasks of a family, have the same inputs
    for task in lock["tasks"]:
        for long in cache.read_long_inputs(Path(cache_dir) / task["folders"][0]):
            if long["input"] not in seen:
                seen.add(long["input"])
                counts.update({g for g in text.leak_ngrams(long["input"]) if g in runs})
    return {g for g, n in counts.items() if n > COMMON}
