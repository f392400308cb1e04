# SPDX-License-Identifier: Apache-2.0
"""BIG-Bench Hard, `bbh.*`: 15 tasks in `<data.root>/bbh/bbh/*.json`, for evaluation only; and
`bbh_cot.*`, the same behind three published exemplars that reason (Suzgun et al. 2022,
arXiv:2210.09261), `<data.root>/bbh/cot-prompts/*.txt`.

The files carry a canary that asks never to train on them. Each has one split, which is test, whole.
Input and target stand as published (the target of a multiple-choice question is its letter, "(A)");
the two wordings of `bbh.*` are our own and show no example. `bbh_cot.*` asks as published, reads
what follows the last "So the answer is", and takes as many tokens as eval.max_new_tokens allows
(some 300 are needed).
"""

import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from itx import storage
from itx.errors import UserError
from itx.tasks.registry import family, make_task
from itx.tasks.spec import Skip, Source, TaskSpec, function

# task -> (cluster, a sentence to stand before the input, a sentence to stand after it)
_DEDUCTION = (
    "Use the clues to put the objects in order, then pick the true statement.",
    "Which letter is right?",
)
TASKS: dict[str, tuple[str, tuple[str, str]]] = {
    "boolean_expressions": ("logic", ("Evaluate the Boolean expression.", "Is it True or False?")),
    "causal_judgement": ("causal_reasoning", ("Judge the story about causes.", "Reply Yes or No.")),
    "date_understanding": ("dates", ("Work out the date.", "Give the letter of the right date.")),
    "disambiguation_qa": (
        "coreference",
        ("Find out whom the pronoun means.", "Give the letter of the right reading."),
    ),
    "formal_fallacies": ("logic", ("Check whether the argument holds.", "Reply valid or invalid.")),
    "hyperbaton": (
        "grammar",
        ("English adjectives come in a fixed order.", "Give the letter of the natural one."),
    ),
    "logical_deduction_three_objects": ("logic", _DEDUCTION),
    "logical_deduction_five_objects": ("logic", _DEDUCTION),
    "logical_deduction_seven_objects": ("logic", _DEDUCTION),
    "movie_recommendation": (
        "recommendation",
        ("Recommend a film.", "Give the letter of the closest film."),
    ),
    "navigate": ("spatial_reasoning", ("Follow the steps in your head.", "Reply Yes or No.")),
    "penguins_in_a_table": (
        "table_reading",
        ("Read the table and answer.", "Give the letter of the right answer."),
    ),
    "ruin_names": (
        "humour",
        ("One of these changes to a name is a joke.", "Give the letter of the funny one."),
    ),
    "sports_understanding": (
        "plausibility",
        ("Think of what athletes of each sport do.", "Reply yes or no."),
    ),
    "word_sorting": (
        "sorting",
        ("Put words into dictionary order.", "Write the sorted words on one line."),
    ),
}
# Where the input itself does not list the options
OPTIONS = {"boolean_expressions": ("True", "False"), "sports_understanding": ("yes", "no")}


def options_in(text: str) -> tuple[str, ...]:
    """The options that an input lists: letters `(A)` … or the texts of `- Yes` lines; () where
    none."""
    listed = text.rpartition("Options:")[2] if "Options:" in text else ""
    letters = re.findall(r"^(\([A-Z]\))", listed, re.MULTILINE)
    return tuple(letters or re.findall(r"^- *(.*?) *$", listed, re.MULTILINE))


def fields(example: dict) -> Any:
    """{input, target} -> {input, answer[, options]}; three published rows name no listed option as
    target."""
    text, answer = example["input"].strip(), example["target"].strip()
    if not text or not answer:
        return Skip("empty input or target")
    options = options_in(text)
    if options and answer not in options:
        return Skip("the target is not among the options")
    return {"input": text, "answer": answer} | ({"options": options} if options else {})


def members(root: str) -> list[TaskSpec]:
    """The 15 specs; they need no data."""
    del root
    return [
        make_task(
            f"bbh.{name}", version=1, cluster=cluster, origin=("big_bench", f"bbh_{name}"), evaluation_only=True,
            source=Source("json", {"test": f"bbh/bbh/{name}.json"}, options={"rows": "examples"}), fields=fields,
            options=OPTIONS.get(name), content=("input",), module=__name__,
            templates=[(before + "\n\n{input}", "{answer}"), ("{input}\n\n" + after, "{answer}")],
        )
        for name, (cluster, (before, after)) in TASKS.items()
    ]  # fmt: skip


family("bbh", members)


# ---- with reasoning

_EXEMPLARS = re.compile(r"\A.*?^-----\n(.+)\Z", re.DOTALL | re.MULTILINE)


def exemplars(file: Path) -> str:
    """What a file of published exemplars shows, without the canary above it."""
    found = _EXEMPLARS.match(file.read_text(encoding="utf-8"))
    if not found:
        raise UserError(f"{file}: no line of five dashes, behind which exemplars are published")
    return found[1].strip()


def reasoned(name: str, split: str, root: str, seed: int) -> Iterator[dict]:
    """The rows of a task, each with the task's exemplars."""
    folder = Path(root) / "bbh"
    shown = exemplars(storage.given_file(f"bbh/cot-prompts/{name}.txt", root, f"bbh_cot.{name}"))
    for row in json.loads((folder / "bbh" / f"{name}.json").read_text("utf-8"))["examples"]:
        yield {**row, "shown": shown}


def reasoned_fields(example: dict) -> Any:
    held = fields(example)
    return held if isinstance(held, Skip) else {**held, "shown": example["shown"]}


def reasoned_members(root: str) -> list[TaskSpec]:
    del root
    return [
        make_task(
            f"bbh_cot.{name}", version=1, cluster=cluster, origin=("big_bench", f"bbh_{name}"), evaluation_only=True,
            source=function(functools.partial(reasoned, name), splits=("test",)), fields=reasoned_fields,
            options=OPTIONS.get(name), content=("input",), module=__name__, reasons=True, stop="\n\nQ:",
            templates=[("{shown}\n\nQ: {input}\nA: Let's think step by step.", "So the answer is {answer}.")],
        )
        for name, (cluster, _) in TASKS.items()
    ]  # fmt: skip


family("bbh_cot", reasoned_members)
