# SPDX-License-Identifier: Apache-2.0
"""Commonsense: which continuation, means or cause is the likely one?"""

import re
from typing import Any

from itx.tasks.registry import instruction_task
from itx.tasks.spec import Skip, tfds
from tasks.from_tfds import checked, of_cluster, origins, plain, to_answer

COMMONSENSE = {**of_cluster("commonsense"), "metrics": ("accuracy",)}


# Rows from WikiHow carry its marks: `[header] How to … [title] Choose a day. [step] …`
_MARKS = re.compile(r"\[(?:header|title|step|substeps?)\]")


def unmarked(text: str) -> str:
    """`[header] How to swim [title] Find a pool.` -> `How to swim. Find a pool.`"""
    return " ".join(_MARKS.sub("", text.replace(" [title]", ".")).split())


def hellaswag_fields(example: dict) -> Any:
    options = list(map(unmarked, example["endings"]))
    return checked(
        {"context": unmarked(example["context"]), "options": options, "answer": example["label"]}
    )


instruction_task(
    "hellaswag", **COMMONSENSE, origin=origins("hellaswag"), fields=hellaswag_fields, content=("context", "options"),
    source=tfds("hellaswag:1.1.0", {"train": "train", "test": "validation"}),
    templates=to_answer(
        "{context}\nWhat happens next?\n{options}",
        "Choose the most plausible continuation.\n{context}\n{options}",
        "A description breaks off here: {context}\nHow does it go on?\n{options}",
        "{options}\nWhich of these best completes the following?\n{context}",
        "Scene: {context}\n\nPossible continuations:\n{options}\n\nThe likely one:",
        "Continue this description with one sentence.\n{context}",
        "{context}\nWrite what comes after that.",
    ),
    heldout_templates=to_answer(
        "Pick an ending that makes sense.\nBeginning: {context}\n{options}",
        "You watch a film and see this: {context}\nPredict the moment after.\n{options}",
    ),
)  # fmt: skip

instruction_task(
    "piqa", **COMMONSENSE, origin=origins("piqa"), source=tfds("piqa:1.0.0", {"train": "train", "test": "validation"}),
    fields=plain(goal="goal", options=("sol1", "sol2")), content=("goal", "options"),
    templates=to_answer(
        "Goal: {goal}\nWhich solution works?\n{options}",
        "{goal}\nHow would you do it?\n{options}",
        "Here is something to get done: {goal}\nChoose the better way.\n{options}",
        "{options}\nWhich of the two reaches this goal? {goal}",
        "Think of how things behave in the physical world.\nAim: {goal}\n{options}\nThe sensible way:",
        "Explain how to reach this goal: {goal}",
        "Goal: {goal}\nSolution:",
    ),
    heldout_templates=to_answer(
        "A friend wants advice about \"{goal}\"\nRecommend one:\n{options}",
        "Two people disagree on a method.\n{options}\nThe task was: {goal}\nWho is right?",
    ),
)  # fmt: skip


def copa_fields(example: dict) -> Any:
    """`question` is "cause" or "effect"."""
    asked = {"cause": "What was the cause?", "effect": "What happened as a result?"}[
        example["question"]
    ]
    options = [example["choice1"], example["choice2"]]
    return checked(
        {
            "premise": example["premise"],
            "question": asked,
            "options": options,
            "answer": example["label"],
        }
    )


instruction_task(
    "copa", **COMMONSENSE, origin=origins("copa"), fields=copa_fields,
    source=tfds("super_glue/copa:1.0.2", {"train": "train", "test": "validation"}),
    templates=to_answer(
        "{premise}\n{question}\n{options}",
        "Here is an event: {premise}\n{question} Choose the more plausible sentence.\n{options}",
        "{options}\nOne of these goes with the following. {premise} {question}",
        "Question: {premise} {question}\n{options}\nAnswer:",
        "Use common sense.\n\n{premise}\n\n{question}\n{options}",
        "{premise}\n{question}",
        "This took place: {premise}\n{question} Reply with one sentence.",
    ),
    heldout_templates=to_answer(
        "Connect two events.\nFirst: {premise}\nTo find: {question}\n{options}",
        "{question}\nObserved: {premise}\nSelect from\n{options}",
    ),
)  # fmt: skip


def story_cloze_fields(example: dict) -> Any:
    """The label counts from 1; it is missing from the test part of 2018."""
    if example["label"] < 1:
        return Skip("no label")
    return checked(
        {"story": example["context"], "options": example["endings"], "answer": example["label"] - 1}
    )


instruction_task(
    "story_cloze", **COMMONSENSE, origin=origins("story_cloze"), fields=story_cloze_fields, content=("story", "options"),
    # it has no training part
    source=tfds("story_cloze/2016:1.0.0", {"train": "validation", "test": "test"}),
    templates=to_answer(
        "{story}\nHow does the story end?\n{options}",
        "Read the story and choose its last sentence.\n{story}\n{options}",
        "Which ending fits?\nStory: {story}\n{options}",
        "{options}\nOne of these closes the story below.\n{story}",
        "Story: {story}\nLast sentence, out of two:\n{options}",
        "Finish this story with a single sentence.\n{story}",
        "{story}\nAnd then?",
    ),
    heldout_templates=to_answer(
        "An author left two drafts of the finale.\n{options}\nThe rest reads: {story}\nKeep the coherent one.",
        "Four lines are given; supply the fifth.\n{story}\n{options}",
    ),
)  # fmt: skip
