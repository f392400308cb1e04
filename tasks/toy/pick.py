# SPDX-License-Identifier: Apache-2.0
"""Cluster `pick`: one word of a list, by its place or its neighbour."""

from collections.abc import Callable

from itx.tasks.registry import instruction_task
from tasks.toy.generate import WORDS_EN, WORDS_RU, wording


def place(index: int) -> Callable[[dict], dict]:
    """The word at a fixed place."""
    return lambda e: {"words": " ".join(e["list"]), "answer": e["list"][index]}


def after(e: dict) -> dict:
    return {"words": " ".join(e["list"]), "query": e["list"][e["at"]], "answer": e["list"][e["at"] + 1]}


def has(e: dict) -> dict:
    return {"words": " ".join(e["list"]), "query": e["probe"], "answer": 0 if e["probe"] in e["list"] else 1}


PLACES = {
    "first_word": (0, ["the first word", "the starting word"], ["Which word comes first?\n{words}"], {}),
    "second_word": (1, ["the second word", "word number two"], ["Which word comes second?\n{words}"], {}),
    "third_word": (2, ["the third word", "word number three"], ["Which word comes third?\n{words}"],
                   {"grade": "new argument"}),
    "last_word": (-1, ["the last word", "the final word"], ["Which word comes last?\n{words}"], {}),
}  # fmt: skip
for name, (index, asked, own, more) in PLACES.items():
    instruction_task(
        name, version=1, cluster="pick", source=WORDS_EN, fields=place(index), content=("words",),
        **wording(name, "{words}", asked, own),
        tags={"language": "en", "inputs": "words_en", "kind": "generation", **more},
    )  # fmt: skip

instruction_task(
    "word_after", version=1, cluster="pick", source=WORDS_EN, fields=after, content=("words",),
    **wording("word_after", "{words}", ["the word after {query}", "the word following {query}"],
              ["Which word comes after {query}?\n{words}", "{words}\nWhat follows {query}?"]),
    tags={"language": "en", "inputs": "words_en", "kind": "generation"},
)  # fmt: skip

instruction_task(
    "has_word", version=1, cluster="pick", source=WORDS_EN, fields=has, content=("words",),
    options=("yes", "no"), metrics=("accuracy",),
    **wording("has_word", "", [], own=[
        "Is {query} in this list?\n{words}", "{words}\nIs the word {query} here?", "List: {words}\nDoes it have {query}?",
        "Read this: {words}\nDo you see {query}? Answer yes or no.", "Is there a word {query}?\n{words}\n{options}",
        "{words}\nIs {query} there? Answer yes or no.", "Look for {query}: {words}\nIs it there?",
        "Does the list have the word {query}?\n{words}\n{options}",
    ], held=["{words}\nDo we have {query} here? Say yes or no.", "Tell me: is {query} one of these words?\n{words}"]),
    tags={"language": "en", "inputs": "words_en", "kind": "classification"},
)  # fmt: skip

for name, index, asked, own in (
    ("ru_first_word", 0, ["первое слово", "начальное слово"], ["Какое слово стоит первым?\n{words}"]),
    ("ru_last_word", -1, ["последнее слово", "конечное слово"], ["Какое слово стоит последним?\n{words}"]),
):
    instruction_task(
        name, version=1, cluster="pick", source=WORDS_RU, fields=place(index), content=("words",),
        **wording(name, "{words}", asked, own, language="ru"),
        tags={"language": "ru", "inputs": "words_ru", "kind": "generation"},
    )  # fmt: skip
