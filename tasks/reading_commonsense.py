# SPDX-License-Identifier: Apache-2.0
"""Reading comprehension that needs commonsense."""

from typing import Any

from itx.tasks.registry import instruction_task
from itx.tasks.spec import tfds
from tasks.from_tfds import checked, of_cluster, origins, plain, to_answer

READING = of_cluster("reading_commonsense")

instruction_task(
    "cosmos_qa", **READING, metrics=("accuracy",), origin=origins("cosmos_qa"),
    source=tfds("cosmos_qa:1.0.0", {"train": "train", "test": "validation"}),
    fields=plain(context="context", question="question", options=("answer0", "answer1", "answer2", "answer3")),
    templates=to_answer(
        "{context}\n\n{question}\n{options}",
        "Read what somebody wrote and answer the question.\n{context}\nQuestion: {question}\n{options}",
        "Question: {question}\nText: {context}\n{options}\nAnswer:",
        "{options}\nWhich of these is most likely, given the text?\n{context}\n{question}",
        "Read between the lines.\n{context}\n\n{question}\n{options}",
        "{context}\n\n{question} Reply with a sentence.",
        "Text: {context}\nQuestion: {question}\nAnswer:",
    ),
    heldout_templates=to_answer(
        "A blogger's story: {context}\nA follower asks \"{question}\" Guess:\n{options}",
        "{options}\n\n{question}\nThe diary says: {context}",
    ),
)  # fmt: skip


def record_fields(example: dict) -> Any:
    """Several entities may fill the blank; the references are all of them."""
    return checked({"passage": example["passage"].replace("@highlight\n", "- "), "query": example["query"],
                    "entities": ", ".join(dict.fromkeys(example["entities"])), "answer": example["answers"]})  # fmt: skip


instruction_task(
    "record", **READING, metrics=("exact_match", "squad_f1"), origin=origins("record"), fields=record_fields,
    source=tfds("super_glue/record:1.0.2", {"train": "train", "test": "validation"}), content=("passage", "query"),
    templates=to_answer(
        "{passage}\n\n{query}\nWhat belongs in place of @placeholder?\nChoose from: {entities}",
        "Article: {passage}\nSentence: {query}\nWho or what is @placeholder?\nNames: {entities}",
        "Names in the article: {entities}\nArticle: {passage}\nPut one of them for @placeholder: {query}",
        "Read the article and complete the sentence.\n{passage}\n{query}\n@placeholder is one of: {entities}",
        "{query}\nWhich name does @placeholder hide? The article tells.\n{passage}\nNames: {entities}",
        "{passage}\n\n{query}\nWhat does @placeholder stand for?",
    ),
    heldout_templates=to_answer(
        "A name was blacked out as @placeholder.\n{query}\nReport: {passage}\nSuspects: {entities}",
        "{entities}\n{passage}\nFill @placeholder: {query}",
    ),
)  # fmt: skip
