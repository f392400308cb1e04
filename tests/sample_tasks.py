# SPDX-License-Identifier: Apache-2.0
"""A few tiny tasks and mixtures that tests build: known lengths, shared inputs, one held out."""

import random

from itx.tasks.registry import instruction_task, mixture
from itx.tasks.spec import CoT, Skip, function, holdout

WORDS = "red blue green black white pink brown grey amber coral olive cream".split()
SPLIT = {"train": 0.8, "validation": 0.1, "test": 0.1}


def word_lists(split: str, root: str, seed: int):
    for i in range(300):
        draw = random.Random(f"words/{seed}/{i}")
        yield {"words": draw.choices(WORDS, k=draw.randint(2, 5))}


def sums(split: str, root: str, seed: int):
    for i in range(200):
        draw = random.Random(f"sums/{seed}/{i}")
        yield {"a": draw.randint(0, 49), "b": draw.randint(0, 49)}


def pick(index: int):
    def fields(e: dict):
        if e["words"][0] == "cream":
            return Skip("cream comes first")
        return {"words": " ".join(e["words"]), "answer": e["words"][index]}

    return fields


def add(e: dict) -> dict:
    a, b = e["a"], e["b"]
    return {"a": a, "b": b, "rationale": f"{a} and {b} make {a + b}.", "answer": str(a + b)}


def is_even(e: dict) -> dict:
    return {"a": e["a"], "b": e["b"], "answer": (e["a"] + e["b"]) % 2}


for name, index, word in (("first", 0, "first"), ("last", -1, "last"), ("second", 1, "second")):
    instruction_task(
        f"sample_{name}", version=1, cluster="sample_pick", source=function(word_lists, SPLIT), fields=pick(index),
        templates=[(f"Give the {word} word: {{words}}", "{answer}"), (f"{{words}}\nThe {word} one?", "{answer}")],
        heldout_templates=[(f"List: {{words}}. Name its {word} entry", "{answer}")],
        tags={"inputs": "sample_words"}, inverted=[("Write words whose chosen one is {answer}.", "{words}")],
    )  # fmt: skip
instruction_task(
    "sample_add", version=1, cluster="sample_sum", source=function(sums, SPLIT), fields=add, metrics=("numeric",),
    templates=[("{a} plus {b}?", "{answer}"), ("Add {a} and {b}.", "{answer}")],
    cot=CoT([("{a} plus {b}? Reason first.", "{rationale}\nThe answer is {answer}.")]),
)  # fmt: skip
instruction_task(
    "sample_even", version=1, cluster="sample_parity", source=function(sums, SPLIT), fields=is_even,
    options=("even", "odd"), metrics=("accuracy",), neighbours=("sample_sum",), balanced_shots=True,
    templates=[("Is {a} + {b} even or odd?\n{options}", "{answer}")],
)  # fmt: skip

ALL = ["sample_first", "sample_last", "sample_second", "sample_add", "sample_even"]
mixture(
    "sample_mix", ["sample_first", "sample_last", "sample_second", "sample_add", "sample_add:cot"]
)
mixture(
    "sample_held",
    holdout(tasks=["sample_second"], among=ALL),
    variants={"zs": 0.5, "fs3": 0.25, "inv": 0.25},
)
mixture("sample_opt", ALL, variants={"zs:opt": 1.0}, partial=True)
mixture("sample_no_parity", holdout(clusters=["sample_parity"], among=ALL))
