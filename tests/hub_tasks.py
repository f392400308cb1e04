# SPDX-License-Identifier: Apache-2.0
"""A task over a data set of the hub (tests/test_hub.py)."""

from itx.tasks.registry import instruction_task
from itx.tasks.spec import hf_dataset

instruction_task(
    "hub_sums",
    version=1,
    cluster="hub_sums",
    source=hf_dataset({"train": "them/sums", "test": "them/sums"}, subset="main"),
    fields=dict,
    templates=[("{question}", "{answer}")],
)
