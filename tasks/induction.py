# SPDX-License-Identifier: Apache-2.0
"""Instruction induction, `ii.*`: 24 small tasks in `<data.root>/instruction_induction`, for
evaluation only.

`induce/<task>.json` holds the examples, `annotations/<task>.json` instructions that people wrote
for
them: up to six of those are the templates, as they stand. Each task has one split, which is test,
whole. All references that a file lists count as right.
"""

import json
from collections.abc import Callable
from typing import Any

from itx.errors import UserError
from itx.prepare import sources
from itx.tasks.registry import family, make_task
from itx.tasks.spec import Source, TaskSpec

FOLDER = "instruction_induction"
MOST_INSTRUCTIONS = 6
# Only what the file names "possible" is a reference for every file of that kind; rhymes drop the
# word itself
REFERENCES = ("possible_translations", "other_rhymes", "possible_outputs")


def plain(example: dict) -> dict[str, Any]:
    """{input, output, lists of further right answers} -> {input, answer: [output, …]}."""
    text, answer = example["input"].strip(), example["output"].strip()
    more = [
        r.strip() for key in REFERENCES for r in example.get(key, ()) if r.strip() not in ("", text)
    ]
    return {"input": text, "answer": list(dict.fromkeys([answer, *more]))}


def cause(example: dict) -> dict[str, Any]:
    """{cause, effect} -> both sentences, in an order that the content fixes; the answer is the
    cause."""
    both = [example["cause"].strip(), example["effect"].strip()]
    first, second = both if len(both[0] + both[1]) % 2 else both[::-1]
    return {"input": f"Sentence 1: {first} Sentence 2: {second}", "answer": both[0]}


def concept(example: dict) -> dict[str, Any]:
    """{items, concept, all_common_concepts} -> the items in a row; every listed concept is
    right."""
    right = [c.strip() for c in (example["concept"], *example["all_common_concepts"])]
    return {"input": ", ".join(example["items"]), "answer": list(dict.fromkeys(right))}


_EXACT = ("exact_match",)
_NUMBER = ("exact_match", "numeric")
_FREE = ("token_f1", "rouge_l", "exact_match")
# Lists of words: their order is not asked for, so the overlap of words is the score
_WORDS = ("token_f1", "exact_match")
_SCALE = tuple(
    f"{i} - {word}"
    for i, word in enumerate(
        ("definitely not", "probably not", "possibly", "probably", "almost perfectly", "perfectly")
    )
)
# task -> (cluster, fields, metrics, options)
TASKS: dict[str, tuple[str, Callable[[dict], Any], tuple[str, ...], tuple[str, ...] | None]] = {
    "active_to_passive": ("sentence_transformation", plain, _EXACT, None),
    "antonyms": ("word_semantics", plain, _EXACT, None),
    "cause_and_effect": ("causal_reasoning", cause, _EXACT, None),
    "common_concept": ("common_concept", concept, _FREE, None),
    "diff": ("arithmetic", plain, _NUMBER, None),
    "first_word_letter": ("spelling", plain, _EXACT, None),
    "informal_to_formal": ("style_transfer", plain, _FREE, None),
    "larger_animal": ("comparison", plain, _EXACT, None),
    "letters_list": ("spelling", plain, _EXACT, None),
    "negation": ("sentence_transformation", plain, _EXACT, None),
    "num_to_verbal": ("number_conversion", plain, _EXACT, None),
    "orthography_starts_with": ("spelling", plain, _WORDS, None),
    "rhymes": ("word_relations", plain, _EXACT, None),
    "second_word_letter": ("spelling", plain, _EXACT, None),
    "sentence_similarity": ("paraphrasing", plain, _EXACT, _SCALE),
    "sentiment": ("sentiment_analysis", plain, _EXACT, ("positive", "negative")),
    "singular_to_plural": ("inflection", plain, _EXACT, None),
    "sum": ("arithmetic", plain, _NUMBER, None),
    "synonyms": ("word_semantics", plain, _EXACT, None),
    "taxonomy_animal": ("word_relations", plain, _WORDS, None),
    "translation_en-de": ("translation", plain, _EXACT, None),
    "translation_en-es": ("translation", plain, _EXACT, None),
    "translation_en-fr": ("translation", plain, _EXACT, None),
    "word_in_context": ("word_semantics", plain, _EXACT, ("same", "not the same")),
}
# The data sets behind the tasks (paper of instruction induction, table of tasks)
ORIGIN = {
    "sentiment": ("sst2",),
    "sentence_similarity": ("stsb",),
    "word_in_context": ("wic",),
    "negation": ("squad",),
}


def instructions(name: str, root: str) -> list[str]:
    """The first distinct human-written instructions of a task, braces doubled as templates need."""
    file = sources.find_file(f"{FOLDER}/annotations/{name}.json", root)
    try:
        written = json.loads(file.read_bytes())["annotations"]
    except (ValueError, KeyError, TypeError) as e:
        raise UserError(f"{FOLDER}/annotations/{name}.json: no list 'annotations' ({e})") from e
    distinct = dict.fromkeys(" ".join(w.split()) for w in written if w.strip())
    return [w.replace("{", "{{").replace("}", "}}") for w in distinct][:MOST_INSTRUCTIONS]


def members(root: str) -> list[TaskSpec]:
    return [
        make_task(
            "ii." + name.replace("-", "_"), version=1, cluster=cluster, evaluation_only=True, metrics=metrics,
            source=Source("json", {"test": f"{FOLDER}/induce/{name}.json"}, options={"rows": "examples"}),
            fields=fields, options=options, content=("input",), origin=("instruction_induction", *ORIGIN.get(name, ())),
            templates=[(f"{w}\n{{input}}", "{answer}") for w in instructions(name, root)], module=__name__,
        )
        for name, (cluster, fields, metrics, options) in TASKS.items()
    ]  # fmt: skip


family("ii", members)
