# SPDX-License-Identifier: Apache-2.0
"""Everything that the audit measures: the facts of tasks, mixture, leaks and baselines."""

from pathlib import Path
from typing import NotRequired, TypedDict

from itx.audit import baselines, biases
from itx.audit.leaks import LeakFacts, leak_facts
from itx.audit.mixture import MixtureFacts, filling, mixture_facts
from itx.audit.tasks import TaskFacts, tasks_facts
from itx.data.loader import Batches
from itx.data.types import Lock, PatchEntry, VariantShares


class AuditFacts(TypedDict):
    """What audit.json holds: plain values."""

    mixture: MixtureFacts
    tasks: dict[str, TaskFacts]  # by variant
    # {row: {"task", "group", "halved", and what was read, kept and skipped}}
    evaluation: dict[str, dict]
    unscored: list[str]  # tasks and rows of evaluation that cannot be scored
    unretained: str  # why bits per byte of plain text are not measured, or ""
    holdout: list[dict]  # {"task", "reason"}
    left_out: list[dict]  # of mixtures: {"mixture", "task", "reason"}
    variants: list[VariantShares]  # of mixtures whose tasks lack some
    leaks: LeakFacts
    patches: list[PatchEntry]  # of training rows, which data.patches names
    patched: dict[str, dict[str, int]]  # {task: {what was decided: rows}}
    biases: biases.BiasFacts
    baselines: dict[str, baselines.Baseline]  # by task
    easy: dict[str, str]  # {task: why}
    errors: NotRequired[list[str]]  # these two are judgement.py's
    warnings: NotRequired[list[str]]


def measure(lock: Lock, cache_dir: Path, steps: int) -> AuditFacts:
    """The facts without "errors" and "warnings"; `steps` are those of the run."""
    batches = Batches(lock, cache_dir)
    data = batches.data
    filled = filling(lock, data, steps)
    by_task = tasks_facts(lock, batches, filled.examples)
    scores = baselines.of_lock(lock, cache_dir)
    return {
        "mixture": mixture_facts(lock, data, steps, filled, by_task),
        "tasks": by_task,
        "evaluation": {
            r["name"]: {
                "task": r["task"],
                "group": r["group"],
                "halved": r.get("halved", False),
                **r["audit"],
            }
            for r in lock["evaluation"]
        },
        "unscored": lock.get("unscored", []),
        "unretained": lock.get("unretained", ""),
        "holdout": lock["holdout"],
        "left_out": lock.get("left_out", []),
        "variants": lock.get("variants", []),
        "leaks": leak_facts(lock, data, cache_dir),
        "patches": lock.get("patch_files", []),
        "patched": {t["task"]: t["patched"] for t in lock["tasks"] if "patched" in t},
        "biases": biases.bias_facts(lock, data, cache_dir),
        "baselines": scores,
        "easy": {task: b["easy"] for task, b in scores.items() if b["easy"]},
    }
