# SPDX-License-Identifier: Apache-2.0
"""Mixtures of tests/peft_table.py: what its base model is tuned on, and what the toy suite holds
out of that."""

from itx.tasks.registry import MIXTURES, mixture
from itx.tasks.resolve import removed
from tasks import mixtures  # noqa: F401  registers toy_train

mixture("adapt_base", {"toy_train": 0.9, "alpaca": 0.1})
mixture("adapt_suite", [name for name, _ in removed(MIXTURES["toy_train"])], variants={"zs": 1.0})
