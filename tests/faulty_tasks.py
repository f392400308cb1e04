# SPDX-License-Identifier: Apache-2.0
"""Three tasks with a planted fault: in training, where the prompt says `she`, many labels are another
one at random. What is right is known, and dev and test say it."""

import random

from itx.tasks.registry import instruction_task, mixture
from itx.tasks.spec import SPLITS, function

KEYS = [a + b for a in ("bra", "del", "fin", "gor", "lum", "mex") for b in ("to", "ska")]
FILLERS = "so it was then over by".split()
LABELS = ("yes", "no", "maybe")
SIZES = {"train": 500, "validation": 150, "test": 150}
WRONG = 0.5  # of the training labels inside the slice


def right(task: int, key: int) -> int:
    return (key * (task + 1) + task + key // 3) % len(LABELS)


def rows(task: int):
    def make(split: str, root: str, seed: int):
        seen = set()
        draw = random.Random(f"{task}/{split}/{seed}")
        while len(seen) < SIZES[split]:
            key, who = draw.randrange(len(KEYS)), draw.choice(["she", "she", "he", ""])
            said = draw.choices(FILLERS, k=draw.randint(2, 9))
            text = " ".join([*filter(None, [who]), *said, KEYS[key]])
            spoilt = split == "train" and who == "she" and draw.random() < WRONG
            label = (right(task, key) + (draw.randint(1, 2) if spoilt else 0)) % len(LABELS)
            if text not in seen:
                seen.add(text)
                yield {"text": text, "label": label, "spoilt": spoilt}

    return make


for number in range(3):
    instruction_task(
        f"faulty_{number}", version=1, cluster=f"faulty_{number}", options=LABELS, metrics=("accuracy",),
        source=function(rows(number), splits=SPLITS), primary="rank", content=("text",),
        fields=lambda e: {"text": e["text"], "answer": e["label"]},
        templates=[(f"task{number}: {{text}}", "{answer}"), (f"{{text}}? task{number}", "{answer}")],
    )  # fmt: skip
mixture("faulty", [f"faulty_{number}" for number in range(3)])
