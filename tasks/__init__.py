# SPDX-License-Identifier: Apache-2.0
"""The shipped registry. Importing it registers every task and mixture, and reads no data."""

import importlib

from tasks.from_tfds import FLAN_CLUSTERS

for _module in (
    "toy",
    "files",
    "bbh",
    "induction",
    "bias",
    "ifeval",
    "safety",
    "seeds",
    "dialog",
    "created",
    *FLAN_CLUSTERS,
    "mixtures",
):
    importlib.import_module(f"tasks.{_module}")
