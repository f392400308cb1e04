# SPDX-License-Identifier: Apache-2.0
"""Plain text, to be mixed in as a replay share: what a model has learned by pretraining is then
less forgotten.

    c4_demo.lm | .prefix_lm | .span_corruption    300 documents of C4: c4_demo/c4_demo.jsonl under
                                                  `data.root`

A tenth of them is held out by hash: on it retention is measured (eval.retention).

Your own text: copy a call and name your file and its field. `lm` is for decoder-only models; a T5
that was pretrained on span corruption is best replayed the same (itx/prepare/objectives.py says
what each is).
"""

from itx.tasks.registry import text_task
from itx.tasks.spec import OBJECTIVES, jsonl


def text_fields(example: dict) -> dict:
    """The document as it stands."""
    return {"text": example["text"]}


for objective in OBJECTIVES:
    text_task(
        f"c4_demo.{objective}", version=1, cluster="text", origin=("c4",), objective=objective, fields=text_fields,
        source=jsonl({"train": "c4_demo/c4_demo.jsonl"}),
    )  # fmt: skip
