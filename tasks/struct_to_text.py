# SPDX-License-Identifier: Apache-2.0
"""Structured data to text."""

from typing import Any

from itx.tasks.registry import instruction_task
from itx.tasks.spec import tfds
from tasks.from_tfds import checked, of_cluster, origins, to_answer

STRUCTURED = {**of_cluster("struct_to_text"), "metrics": ("rouge_l", "token_f1")}


def common_gen_fields(example: dict) -> Any:
    """Concepts and a sentence; the evaluation parts list all references."""
    answers = [example["target"], *example["references"]]
    return checked({"concepts": ", ".join(example["concepts"]), "answer": answers})


instruction_task(
    "common_gen", **STRUCTURED, origin=origins("common_gen"), fields=common_gen_fields,
    source=tfds("gem/common_gen:1.1.0", {"train": "train", "test": "validation"}),
    templates=to_answer(
        "Write a sentence with these words: {concepts}",
        "Words: {concepts}\nSentence:",
        "{concepts}\nMake one everyday sentence that uses all of them.",
        "Put these concepts together in a sentence.\n{concepts}",
        "Describe a scene in which all of the following appear: {concepts}",
        "Turn the list into a natural sentence. List: {concepts}",
    ),
    heldout_templates=to_answer(
        "A game: speak a plausible line that contains {concepts}.",
        "Ingredients: {concepts}\nNow compose.",
    ),
)  # fmt: skip


def rows_of(table: dict) -> list[list[tuple[str, str]]]:
    """(header, content) pairs by row number, in order."""
    rows: dict[int, list[tuple[str, str]]] = {}
    for header, row, content in zip(
        table["column_header"], table["row_number"], table["content"], strict=True
    ):
        rows.setdefault(row, []).append((header.strip(), content.strip()))
    return list(rows.values())


def attributes_fields(example: dict) -> Any:
    """`name: The Mill; food: French`."""
    pairs = [pair for row in rows_of(example["input_text"]["table"]) for pair in row]
    return checked(
        {"data": "; ".join(f"{k}: {v}" for k, v in pairs), "answer": example["target_text"]}
    )


def triples_fields(example: dict) -> Any:
    """A line `subject | predicate | object` for every triple."""
    lines = [" | ".join(v for _, v in row) for row in rows_of(example["input_text"]["table"])]
    return checked({"data": "\n".join(lines), "answer": example["target_text"]})


HELDOUT = to_answer(
    "A machine recorded this:\n{data}\nPut it the way a person would.",
    "{data}\n=> in plain English:",
)
instruction_task(
    "e2e", **STRUCTURED, origin=origins("e2e"), fields=attributes_fields, heldout_templates=HELDOUT,
    source=tfds("e2e_cleaned:0.1.0", ("train", "validation", "test")),
    templates=to_answer(
        "Describe this place in a sentence or two.\n{data}",
        "Attributes of a restaurant: {data}\nDescription:",
        "{data}\nWrite a text for a guide that says all of this.",
        "Turn the attributes into running text.\n{data}",
        "Tell a guest about the restaurant with these facts: {data}",
        "Data: {data}\nText:",
    ),
)  # fmt: skip
TRIPLES = to_answer(
    "Say these facts in ordinary sentences.\n{data}",
    "Triples:\n{data}\nText:",
    "{data}\n\nWrite a short text that tells exactly what these triples tell.",
    "Each line holds a subject, a relation and an object. Describe them in English.\n{data}",
    "Facts from a table:\n{data}\nSummarise them for a reader.",
    "Turn the following data into prose.\n{data}",
)
instruction_task(
    "dart", **STRUCTURED, origin=origins("dart"), fields=triples_fields, templates=TRIPLES, heldout_templates=HELDOUT,
    source=tfds("dart:0.1.0", ("train", "validation", "test")),
)  # fmt: skip
instruction_task(
    "web_nlg", **STRUCTURED, origin=origins("web_nlg"), fields=triples_fields, templates=TRIPLES, heldout_templates=HELDOUT,
    source=tfds("web_nlg:0.1.0", {"train": "train", "validation": "validation", "test": "test_all"}),
)  # fmt: skip
