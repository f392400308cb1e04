# SPDX-License-Identifier: Apache-2.0
"""Conversations in ShareGPT's format under `data.root`; Glaive's call tools."""

from itx.tasks.chat import first_user_turn, sharegpt_messages
from itx.tasks.registry import chat_task
from itx.tasks.spec import jsonl

FILES = {
    "sharegpt": "sharegpt_dummy/dummy_conversation.jsonl",
    "glaive_toolcall": "glaive_toolcall/glaive_toolcall_en_demo.jsonl",
}
SHARES = {"train": 0.9, "validation": 0.05, "test": 0.05}
for name, file in FILES.items():
    chat_task(
        name, version=1, cluster="dialog", origin=(name,), fields=sharegpt_messages,
        source=jsonl(file, split_by_hash=SHARES, split_key=first_user_turn),
    )  # fmt: skip
