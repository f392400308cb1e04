# SPDX-License-Identifier: Apache-2.0
"""Reading comprehension: questions on a given text."""

from typing import Any

from itx.tasks.registry import instruction_task
from itx.tasks.spec import tfds
from tasks.from_tfds import checked, of_cluster, origins, plain, to_answer

READING = of_cluster("reading_comprehension")

instruction_task(
    "boolq", **READING, metrics=("accuracy",), origin=origins("boolq"), options=("no", "yes"),
    source=tfds("super_glue/boolq:1.0.2", {"train": "train", "test": "validation"}),
    fields=plain(passage="passage", question="question"),
    templates=to_answer(
        "{passage}\n\n{question}?\n{options}",
        "Read the passage and answer the question.\n{passage}\nQuestion: {question}?\n{options}",
        "Question: {question}?\nPassage: {passage}\n{options}",
        "According to the text below: {question}?\n{options}\n\n{passage}",
        "Text: {passage}\n\nWhat does the text say about this? {question}?\n{options}",
        "{passage}\n\n{question}? Yes or no?",
        "Answer yes or no from the passage.\n{question}?\n{passage}",
    ),
    heldout_templates=to_answer(
        "Somebody looks up \"{question}\" and lands here:\n{passage}\nThey learn:\n{options}",
        "{options}\nSource: {passage}\nTo be settled: {question}",
    ),
)  # fmt: skip

SPAN = to_answer(
    "{passage}\n\n{question}",
    "Read the passage and answer the question.\n{passage}\nQuestion: {question}\nAnswer:",
    "Question: {question}\nPassage: {passage}\nAnswer:",
    "Here is a text.\n{passage}\n\nAnswer this about it: {question}",
    "{passage}\n\nAnswer in as few words as the text allows. {question}",
    "Find the answer in the text.\n{question}\n\n{passage}",
)
SPAN_HELDOUT = to_answer(
    "A pupil has studied these lines:\n{passage}\nThe teacher then asks: {question}\nThe pupil says:",
    "Source: {passage}\nQuery: {question}\nResult:",
)


def squad_fields(example: dict) -> Any:
    values = {
        "passage": example["context"],
        "question": example["question"],
        "answer": example["answers"]["text"],
    }
    return checked(values)


def drop_fields(example: dict) -> Any:
    answers = [example["answer"], *example["validated_answers"]]
    return checked(
        {"passage": example["passage"], "question": example["question"], "answer": answers}
    )


instruction_task(
    "squad", **READING, metrics=("exact_match", "squad_f1"), origin=origins("squad"), fields=squad_fields,
    source=tfds("squad/v1.1:3.0.0", {"train": "train", "test": "validation"}),
    templates=SPAN, heldout_templates=SPAN_HELDOUT,
)  # fmt: skip
instruction_task(
    "drop", **READING, metrics=("exact_match", "squad_f1"), origin=origins("drop"), fields=drop_fields,
    source=tfds("drop:2.0.0", {"train": "train", "test": "dev"}), templates=SPAN, heldout_templates=SPAN_HELDOUT,
)  # fmt: skip
instruction_task(
    "multirc", **READING, metrics=("accuracy",), origin=origins("multirc"), options=("no", "yes"),
    source=tfds("super_glue/multirc:1.0.2", {"train": "train", "test": "validation"}),
    fields=plain(passage="paragraph", question="question", candidate="answer"),
    templates=to_answer(
        "{passage}\n\nQuestion: {question}\nProposed answer: {candidate}\nIs it right?\n{options}",
        "{passage}\n\nIs \"{candidate}\" a correct answer to \"{question}\"?\n{options}",
        "Read the paragraph.\n{passage}\n{question}\nSomebody replies: {candidate}\nAre they right?\n{options}",
        "{options}\nDoes the text support the reply?\nText: {passage}\nQuestion: {question}\nReply: {candidate}",
        "Check an answer against the text.\n{passage}\nQ: {question}\nA: {candidate}\n{options}",
        "{passage}\n{question}\n{candidate}\nCorrect? Yes or no.",
        "Answer yes if the reply is right and no if it is wrong.\n{passage}\nQuestion: {question}\nReply: {candidate}",
    ),
    heldout_templates=to_answer(
        "Grade a test.\nMaterial: {passage}\nItem: {question}\nPupil wrote: {candidate}\nGive the point?\n{options}",
        "{options}\n\"{candidate}\" was offered for \"{question}\". Judge by: {passage}",
    ),
)  # fmt: skip


def openbookqa_fields(example: dict) -> Any:
    """A fact, a question about it, four choices."""
    options = [example["question"][f"choice_{letter}"] for letter in "ABCD"]
    return checked({"fact": example["fact1"], "question": example["question"]["stem"], "options": options,
                    "answer": example["answerKey"]})  # fmt: skip


instruction_task(
    "openbookqa", **READING, metrics=("accuracy",), origin=origins("openbookqa"), fields=openbookqa_fields,
    source=tfds("openbookqa:0.1.0", ("train", "validation", "test")), content=("fact", "question", "options"),
    templates=to_answer(
        "{fact}\n{question}\n{options}",
        "Fact: {fact}\nQuestion: {question}\n{options}",
        "Use this fact to answer: {fact}\n\n{question}\n{options}",
        "{options}\nWhich of these completes the sentence? {question}\nHint: {fact}",
        "It is known that {fact}.\nChoose the best answer.\n{question}\n{options}\nAnswer:",
        "{fact}\n{question}",
        "Knowing that {fact}, answer: {question}",
    ),
    heldout_templates=to_answer(
        "From the book: {fact}\nOn the exam: {question}\nTick a box.\n{options}",
        "{options}\n\nLine to finish: {question}\nBackground: {fact}",
    ),
)  # fmt: skip
