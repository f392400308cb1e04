# SPDX-License-Identifier: Apache-2.0
"""Mixtures. `toy_train` is what the quickstart trains on: the toy suite but for what toy/heldout.py names."""

import tasks.toy  # noqa: F401  registers the tasks
from itx.tasks.registry import TASKS, mixture
from itx.tasks.spec import holdout
from tasks.toy import heldout

TOY = [name for name, spec in TASKS.items() if spec.module.startswith("tasks.toy.")]
# a task without inverted or chain-of-thought templates gives its whole share to the plain variant
mixture(
    "toy_train",
    holdout(clusters=heldout.CLUSTERS, tasks=heldout.TASKS, among=TOY),
    variants={"zs": 0.6, "cot": 0.3, "inv": 0.1},
)
