# SPDX-License-Identifier: Apache-2.0
"""Closed-book questions: the answer stands in no given text."""

from typing import Any

from itx.tasks.registry import instruction_task
from itx.tasks.spec import Skip, tfds
from tasks.from_tfds import checked, of_cluster, origins, to_answer

CLOSED = of_cluster("closed_book_qa")
FACTS = to_answer(
    "{question}",
    "Question: {question}\nAnswer:",
    "Answer this question about the world.\n{question}",
    "{question}\nReply in a few words.",
    "What is the answer to this? {question}",
    "Tell me: {question}",
)
FACTS_HELDOUT = to_answer(
    'A quiz show asks "{question}" and you press the buzzer first. You say:',
    "Q. {question}\nA.",
)


def arc_fields(example: dict) -> Any:
    """Three to five choices; the key is a letter of theirs."""
    letters, texts = example["choices"]["label"], example["choices"]["text"]
    if example["answerKey"] not in letters:
        return Skip("no label")
    return checked(
        {
            "question": example["question"],
            "options": texts,
            "answer": letters.index(example["answerKey"]),
        }
    )


for part in ("Easy", "Challenge"):
    instruction_task(
        f"arc_{part.lower()}", **CLOSED, metrics=("accuracy",), origin=origins("arc"), fields=arc_fields,
        source=tfds(f"ai2_arc/ARC-{part}:1.0.0", ("train", "validation", "test")), content=("question", "options"),
        templates=to_answer(
            "{question}\n{options}",
            "Question: {question}\nWhich answer is right?\n{options}",
            "A question from a science test: {question}\n{options}",
            "{options}\nWhich of these answers the question?\n{question}",
            "Choose what is correct.\n\n{question}\n\n{options}\n\nAnswer:",
            "{question}\nAnswer briefly.",
            "Science question: {question}",
        ),
        heldout_templates=to_answer(
            "Exam item: {question}\nMark a single reply.\n{options}",
            "{options}\n\nA pupil must match one entry with: {question}",
        ),
    )  # fmt: skip


def answers_fields(feature: str):
    """`fields` of sets with a question and a list of references."""

    def fields(example: dict) -> Any:
        return checked({"question": example["question"], "answer": example[feature]})

    return fields


instruction_task(
    "natural_questions", **CLOSED, metrics=("exact_match", "token_f1"), origin=origins("natural_questions"),
    source=tfds("natural_questions_open:1.0.0", {"train": "train", "test": "validation"}),
    fields=answers_fields("answer"), templates=FACTS, heldout_templates=FACTS_HELDOUT,
)  # fmt: skip
instruction_task(
    "web_questions", **CLOSED, metrics=("exact_match", "token_f1"), origin=origins("web_questions"),
    source=tfds("web_questions:1.0.0", ("train", "test")), fields=answers_fields("answers"),
    templates=FACTS, heldout_templates=FACTS_HELDOUT,
)  # fmt: skip


def trivia_fields(example: dict) -> Any:
    """The value first, then its aliases; "<unk>" where the test part hides them."""
    answer = example["answer"]
    if answer["value"] in ("", "<unk>"):
        return Skip("no label")
    return checked(
        {"question": example["question"], "answer": [answer["value"], *answer["aliases"]]}
    )


instruction_task(
    "trivia_qa", **CLOSED, metrics=("exact_match", "token_f1"), origin=origins("trivia_qa"), fields=trivia_fields,
    source=tfds("trivia_qa/rc.nocontext:1.1.0", {"train": "train", "test": "validation"}),
    templates=to_answer(
        "{question}",
        "Trivia: {question}\nAnswer:",
        "Here is a question from a pub quiz.\n{question}",
        "{question}\nGive the name, date or thing that is asked for.",
        "Do you know this? {question}",
        "Answer with as few words as possible.\n{question}",
    ),
    heldout_templates=FACTS_HELDOUT,
)  # fmt: skip
