# SPDX-License-Identifier: Apache-2.0
"""Paraphrase: do two texts mean the same?"""

from typing import Any

from itx.tasks.registry import instruction_task
from itx.tasks.spec import Skip, tfds
from tasks.from_tfds import checked, of_cluster, origins, plain, to_answer

PARAPHRASE = {**of_cluster("paraphrase"), "metrics": ("accuracy",), "options": ("no", "yes")}
PAIR = plain(first="sentence1", second="sentence2")
TEMPLATES = to_answer(
    "{first}\n{second}\nDo these two sentences mean the same?\n{options}",
    "Sentence 1: {first}\nSentence 2: {second}\nIs one a paraphrase of the other?\n{options}",
    "Compare the meaning.\nA: {first}\nB: {second}\nIs it the same?\n{options}",
    "{options}\nCould the second sentence replace the first?\n1. {first}\n2. {second}",
    "One writer says: {first}\nAnother says: {second}\nAre they saying the same thing?\n{options}",
    "{first}\n{second}\nSame meaning, yes or no?",
    "Answer yes if both lines say the same and no otherwise.\n{first}\n{second}",
)
HELDOUT = to_answer(
    "An editor merges lines that are equivalent.\n{first}\n{second}\nMerge them?\n{options}",
    "{options}\nOriginal: {first}\nRewording: {second}\nNothing lost or added?",
)

instruction_task(
    "mrpc", **PARAPHRASE, origin=origins("mrpc"), fields=PAIR, templates=TEMPLATES, heldout_templates=HELDOUT,
    source=tfds("glue/mrpc:2.0.0", {"train": "train", "test": "validation"}),
)  # fmt: skip
instruction_task(
    "paws_wiki", **PARAPHRASE, origin=origins("paws_wiki"), fields=PAIR, templates=TEMPLATES, heldout_templates=HELDOUT,
    source=tfds("paws_wiki/labeled_final_raw:1.1.0", ("train", "validation", "test")),
)  # fmt: skip
instruction_task(
    "qqp", **PARAPHRASE, origin=origins("qqp"), fields=plain(first="question1", second="question2"),
    source=tfds("glue/qqp:2.0.0", {"train": "train", "test": "validation"}),
    templates=to_answer(
        "{first}\n{second}\nAre these questions duplicates?\n{options}",
        "Question 1: {first}\nQuestion 2: {second}\nDo both ask the same?\n{options}",
        "Would one answer serve both questions?\n{first}\n{second}\n{options}",
        "{options}\nHas the new question been asked before?\nOld: {first}\nNew: {second}",
        "Two users of a forum ask:\n- {first}\n- {second}\nDo they want to know the same thing?\n{options}",
        "{first}\n{second}\nThe same question, yes or no?",
        "Answer yes if the questions are duplicates and no otherwise.\n{first}\n{second}",
    ),
    heldout_templates=to_answer(
        "A moderator closes repeated threads.\nOpen: {first}\nIncoming: {second}\nClose it?\n{options}",
        "{options}\nIs \"{second}\" merely \"{first}\" reworded?",
    ),
)  # fmt: skip


def stsb_fields(example: dict) -> Any:
    """A grade from 0 to 5, the mean of several people's, rounded to a whole number."""
    grade = example["label"]
    if grade < 0:
        return Skip("no label")
    return checked(
        {"first": example["sentence1"], "second": example["sentence2"], "answer": int(grade + 0.5)}
    )


instruction_task(
    "stsb", **{**PARAPHRASE, "options": tuple("012345")}, origin=origins("stsb"), fields=stsb_fields,
    source=tfds("glue/stsb:2.0.0", {"train": "train", "test": "validation"}),
    templates=to_answer(
        "{first}\n{second}\nHow similar are these sentences, from 0 to 5?\n{options}",
        "Grade the similarity of two sentences; 5 means equivalent.\n1. {first}\n2. {second}\n{options}",
        "Sentence A: {first}\nSentence B: {second}\nSimilarity:\n{options}",
        "{options}\nWhich of these grades describes how close the meanings are?\n{first}\n{second}",
        "On a scale that ends at 5, how near is \"{first}\" to \"{second}\"?\n{options}",
        "From 0 (unrelated) to 5 (the same), rate this pair.\n{first}\n{second}",
        "{first}\n{second}\nGive a whole number up to 5 for their similarity.",
    ),
    heldout_templates=to_answer(
        "Nothing shared scores 0, a perfect match 5.\nLeft: {first}\nRight: {second}\n{options}",
        "{options}\nAward points for agreement in content.\n{first}\n{second}",
    ),
)  # fmt: skip
