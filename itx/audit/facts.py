# SPDX-License-Identifier: Apache-2.0
"""Everything that the audit measures: the facts of tasks, mixture, leaks and baselines."""

from pathlib import Path
from typing import NotRequired, TypedDict

from itx.audit import baselines, leaks, mixture, tasks
from itx.data.loader import Batches


class AuditFacts(TypedDict):
    """What audit.json holds: plain values."""

    mixture: mixture.MixtureFacts
    tasks: dict[str, tasks.TaskFacts]  # by variant
    # {row: {"task", "group", "halved", and what was read, kept and skipped}}
    evaluation: dict[str, dict]
    unscored: list[str]  # tasks and rows of evaluation that cannot be scored
    unretained: str  # why bits per byte of plain text are not measured, or ""
    holdout: list[dict]  # {"task", "reason"}
    left_out: list[dict]  # of mixtures: {"mixture", "task", "reason"}
    variants: list[
        dict
    ]  # mixtures whose tasks lack variants: {"mixture", "asked", "got", "without"}
    leaks: leaks.LeakFacts
    baselines: dict[str, baselines.Baseline]  # by task
    easy: dict[str, str]  # {task: why}
    errors: NotRequired[list[str]]  # these two are judgement.py's
    warnings: NotRequired[list[str]]


def measure(lock: dict, cache_dir: Path, steps: int) -> AuditFacts:
    """The facts without "errors" and "warnings"; `steps` are those of the run."""
    batches = Batches(lock, cache_dir)
    data = batches.data
    filled = mixture.filling(lock, data, steps)
    by_task = tasks.tasks_facts(lock, batches, filled.examples)
    scores = baselines.of_lock(lock, cache_dir)
    return {
        "mixture": mixture.mixture_facts(lock, data, steps, filled, by_task),
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
        "leaks": leaks.leak_facts(lock, data, cache_dir),
        "baselines": scores,
        "easy": {task: b["easy"] for task, b in scores.items() if b["easy"]},
    }
