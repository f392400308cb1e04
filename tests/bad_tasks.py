# SPDX-License-Identifier: Apache-2.0
"""Tasks over files that a test writes below data.root, good and bad."""

from itx.tasks.registry import instruction_task, mixture
from itx.tasks.spec import jsonl

for name in ("letters", "lettres"):
    instruction_task(
        f"bad_{name}", version=1, cluster="bad", source=jsonl(f"{name}.jsonl", {"train": 0.9, "test": 0.1}),
        fields=lambda e: {"text": e["text"], "answer": e["answer"]}, templates=[("Read {text}", "{answer}")],
    )  # fmt: skip
mixture("bad_mix", ["bad_letters"])
mixture("bad_names", ["bad_leters"])
