# SPDX-License-Identifier: Apache-2.0
"""What a run will be trained on, measured from the lock and the cache before step 0.

facts.py      everything that is measured, from
    tasks.py      records read, kept and skipped by reason; lengths; shares; effective epochs;
                  cut prompts; inputs that repeat or that other tasks have; examples without a
                  target; EOS under the loss
    mixture.py    how many examples and tokens the run's steps take; unigram entropy of targets
    leaks.py      what the build left out because evaluation asks it, for each pair of tasks,
                  and what of the search's finds is still there; exemplars that are the example
                  itself or one of evaluation's
    biases.py     shares of labels, alphabets and groups of people; what goes with a label
    baselines.py  what answers without a model score; tasks where they do well are "easy"
judgement.py  "errors", which stop a run, and "warnings", which are printed
printed.py    the tables; sentences.py has the sentences that build, tables and report share
"""

from pathlib import Path

import numpy as np

from itx.audit.facts import AuditFacts, measure
from itx.audit.judgement import judge
from itx.config import RunConfig
from itx.data.types import Lock


def audit(lock: Lock, cache_dir: str | Path, config: RunConfig) -> AuditFacts:
    facts = measure(lock, Path(cache_dir), config.train.steps)
    return {**facts, **judge(facts, config)}


def with_uses(
    facts: AuditFacts, examples: np.ndarray, trained: np.ndarray | None = None
) -> AuditFacts:
    """The audit with what the run's steps took, counted by the order.

    "used" are a task's records that were trained on at least once, "only_skipped" those that stand
    in skipped batches alone, "not_reached" those that the steps did not come to.

    Args:
        examples: int [tasks], that the steps took, in the facts' sequence.
        trained: int [tasks], records in batches that were not skipped, where some were.
    """
    counted = {}
    for i, (name, f) in enumerate(facts["tasks"].items()):
        reached = min(int(examples[i]), f["kept"])  # an epoch takes every record once
        used = reached if trained is None else int(trained[i])
        counted[name] = {
            **f,
            "examples_taken": int(examples[i]),
            "used": used,
            "only_skipped": reached - used,
            "not_reached": f["kept"] - reached,
        }
    return {**facts, "tasks": counted}
