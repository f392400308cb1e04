# SPDX-License-Identifier: Apache-2.0
"""Coreference: whom or what does a word mean?"""

from typing import Any

from itx.tasks.registry import instruction_task
from itx.tasks.spec import Skip, tfds
from tasks.from_tfds import checked, of_cluster, origins, plain, to_answer

COREFERENCE = {**of_cluster("coreference"), "metrics": ("accuracy",)}

instruction_task(
    "wsc", **COREFERENCE, origin=origins("wsc"), options=("no", "yes"),
    source=tfds("super_glue/wsc.fixed:1.0.2", {"train": "train", "test": "validation"}),
    fields=plain(text="text", noun="span1_text", pronoun="span2_text", place="span2_index"),
    content=("text", "noun", "pronoun", "place"),
    templates=to_answer(
        "{text}\nDoes \"{pronoun}\" refer to {noun}?\n{options}",
        "In the text below, is {noun} meant by \"{pronoun}\"?\n{text}\n{options}",
        "Text: {text}\nPronoun: {pronoun}\nCandidate: {noun}\nAre they the same?\n{options}",
        "{options}\nCould one write \"{noun}\" in place of \"{pronoun}\" here? {text}",
        "Read this and resolve the pronoun.\n{text}\nDoes \"{pronoun}\" stand for {noun}?\n{options}",
        "{text}\n\"{pronoun}\" means {noun}: yes or no?",
        "Answer yes if \"{pronoun}\" is {noun} and no if not.\n{text}",
    ),
    heldout_templates=to_answer(
        "A translator must know who \"{pronoun}\" is. Their guess: {noun}. Correct?\n{text}\n{options}",
        "{options}\nPassage: {text}\nLink \"{pronoun}\" to \"{noun}\"?",
    ),
)  # fmt: skip


def winogrande_fields(example: dict) -> Any:
    """The blank is written `_`."""
    options = [example["option1"], example["option2"]]
    return checked(
        {"sentence": example["sentence"], "options": options, "answer": example["label"]}
    )


instruction_task(
    "winogrande", **COREFERENCE, origin=origins("winogrande"), fields=winogrande_fields, content=("sentence", "options"),
    source=tfds("winogrande:1.2.0", {"train": "train_xl", "test": "validation"}),
    templates=to_answer(
        "{sentence}\nWhat belongs in the blank?\n{options}",
        "Fill in the blank (_) of this sentence.\n{sentence}\n{options}",
        "Sentence: {sentence}\nWho or what is meant by _?\n{options}",
        "{options}\nWhich of the two makes sense for _ here? {sentence}",
        "Choose the word that replaces the underscore.\n{sentence}\n{options}\nAnswer:",
        "{sentence}\nWhat does _ stand for?",
        "Write the missing word of: {sentence}",
    ),
    heldout_templates=to_answer(
        "A gap was left in a manuscript.\n{sentence}\nRestore it:\n{options}",
        "{options}\nComplete sensibly: {sentence}",
    ),
)  # fmt: skip


def dpr_fields(example: dict) -> Any:
    if len(example["candidates"]) != 2:
        return Skip("not two candidates")
    return checked({"sentence": example["sentence"], "pronoun": example["pronoun"], "options": example["candidates"],
                    "answer": example["label"]})  # fmt: skip


instruction_task(
    "definite_pronoun", **COREFERENCE, origin=origins("definite_pronoun_resolution"), fields=dpr_fields,
    source=tfds("definite_pronoun_resolution:1.1.0", ("train", "test")),
    templates=to_answer(
        "{sentence}\nWhom or what does \"{pronoun}\" mean?\n{options}",
        "Sentence: {sentence}\nResolve the pronoun \"{pronoun}\".\n{options}",
        "What does \"{pronoun}\" refer to in this sentence? {sentence}\n{options}",
        "{options}\nOne of these is \"{pronoun}\" in the sentence below.\n{sentence}",
        "{sentence}\nReplace \"{pronoun}\" by what it stands for.\n{options}",
        "Who or what is \"{pronoun}\" here? {sentence}",
        "{sentence}\n\"{pronoun}\" is",
    ),
    heldout_templates=to_answer(
        "Make it unambiguous: {sentence}\nInstead of \"{pronoun}\" write\n{options}",
        "{options}\nPronoun under study: {pronoun}\nContext: {sentence}\nAntecedent:",
    ),
)  # fmt: skip
