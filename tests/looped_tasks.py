# SPDX-License-Identifier: Apache-2.0
"""Five tasks, each a table from a key word to a label, with a fault in the training data of one of
them that data.suite_seed draws: what is right is known, and dev and test say it.

    seed 0                no fault
    seed S below SOUND    a fault whose kind, size and task S draws
    seed S + SOUND        the same rows of the same draw without the fault: what an oracle trains on
    seed S + n * NEW      the rows of S and, spread over the tasks, n further training rows of the same
                          draw, with the fault

    labels   10 to 30 % of the task's labels are another one
    slice    half of the labels are another one where the prompt says `she`
    skew     most rows with any label but the first are left out
    cue      a word tells the training label, and means nothing on dev and test
"""

import random
from collections.abc import Iterator

from itx.tasks.registry import instruction_task, mixture
from itx.tasks.spec import SPLITS, function
from tests.faulty_tasks import FILLERS, KEYS, LABELS, SIZES, right

CUES = ("amber", "coral", "ivory")
KINDS = ("labels", "slice", "skew", "cue")
TASKS, SOUND, NEW = 5, 1000, 10_000
KEPT_OF_SKEWED = 0.06  # of the rows with another label than the first


def fault_of(seed: int) -> tuple[str, int, float]:
    """(kind, "" for none, the task, the share of wrong labels) of a seed."""
    draw = random.Random(f"fault {seed % SOUND}")
    kind, task, share = draw.choice(KINDS), draw.randrange(TASKS), draw.uniform(0.1, 0.3)
    return ("" if seed % SOUND == 0 else kind), task, share


def rows(task: int):
    def make(split: str, root: str, seed: int) -> Iterator[dict]:
        kind, faulty, share = fault_of(seed)
        further, base = divmod(seed, NEW)
        kind = kind if split == "train" and task == faulty and base < SOUND else ""
        more = (further + TASKS - 1 - task) // TASKS if split == "train" else 0
        draw, seen = random.Random(f"{task}/{split}/{seed % SOUND}"), 0
        texts: set[str] = set()
        while seen < SIZES[split] + more:
            key, who = draw.randrange(len(KEYS)), draw.choice(["she", "he", ""])
            said = draw.choices(FILLERS, k=draw.randint(2, 9))
            label, chance, other = right(task, key), draw.random(), draw.randint(1, 2)
            cue = draw.choice(CUES)  # drawn in any case, so that the sound rows are the same ones
            cue = CUES[label] if kind == "cue" else cue
            text = " ".join([*filter(None, [who]), *said, cue, KEYS[key]])
            if text in texts:
                continue
            texts.add(text)
            seen += 1
            wrong = share if kind == "labels" else 0.5 if kind == "slice" and who == "she" else 0.0
            if kind == "skew" and label and chance > KEPT_OF_SKEWED:
                continue
            yield {
                "text": text,
                "label": (label + other) % len(LABELS) if chance < wrong else label,
            }

    return make


for number in range(TASKS):
    instruction_task(
        f"looped_{number}", version=1, cluster=f"looped_{number}", options=LABELS, metrics=("accuracy",),
        source=function(rows(number), splits=SPLITS), primary="rank", content=("text",),
        fields=lambda e: {"text": e["text"], "answer": e["label"]},
        templates=[(f"task{number}: {{text}}", "{answer}"), (f"{{text}}? task{number}", "{answer}")],
    )  # fmt: skip
mixture("looped", [f"looped_{number}" for number in range(TASKS)])
mixture("looped_lopsided", {"looped_0": 60} | {f"looped_{n}": 1 for n in range(1, TASKS)})
