# SPDX-License-Identifier: Apache-2.0
"""Plain-text tasks over a few written documents (short, long, empty, in several scripts), and
mixtures with them."""

import random

from itx.tasks.registry import mixture, text_task
from itx.tasks.spec import OBJECTIVES, function
from tests.sample_tasks import WORDS

SCRIPTS = [
    "Привет, мир! Как дела?",
    "日本語の文章です。",
    "naïve café ½ Å",
    "שלום עולם",
    "emoji 🙂 and\nlines\n\nof text",
]

ROOM = ("decoder", 128, 64)  # of a row, for SeqIO
SEEDS = [(1, 2), (2**63 + 5, 3), (2004112415, 94048)]


def documents(split: str, root: str, seed: int):
    yield {"text": ""}
    yield {"text": "one"}
    for i in range(60):
        draw = random.Random(f"documents/{seed}/{i}")
        yield {"text": " ".join(draw.choices([*WORDS, *SCRIPTS], k=draw.choice([3, 20, 120])))}


def text_fields(e: dict) -> dict:
    return {"text": e["text"]}


for objective in OBJECTIVES:
    text_task(
        f"text_{objective}", version=1, cluster="text", objective=objective, fields=text_fields,
        source=function(documents, {"train": 1.0}),
    )  # fmt: skip
text_task(
    "text_kept", version=1, cluster="text", objective="lm", fields=text_fields,
    source=function(documents, {"train": 0.5, "test": 0.5}),
)  # fmt: skip
mixture("replay_decoder", {"sample_mix": 0.8, "text_lm": 0.1, "text_span_corruption": 0.1})
mixture(
    "replay_encoder_decoder",
    {"sample_first": 0.8, "text_prefix_lm": 0.1, "text_span_corruption": 0.1},
)
