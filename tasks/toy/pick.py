# SPDX-License-Identifier: Apache-2.0
"""Cluster `pick`: one word of a list, by its place or its neighbour."""

from collections.abc import Callable

from itx.tasks.registry import instruction_task
from tasks.toy.generate import WORDS_EN, WORDS_RU, listed, wording


def place(index: int) -> Callable[[dict], dict]:
    """The word at a fixed place."""
    return lambda e: {**listed(e), "answer": e["list"][index]}


def after(e: dict) -> dict:
    return {**listed(e), "answer": e["next"]}


def has(e: dict) -> dict:
    return {**listed(e), "answer": 0 if e["probe"] in e["list"] else 1}


PLACES = {
    "first_word": (
        0,
        ["the first word", "the starting word"],
        ["Which word comes first?\n{words}"],
        {},
    ),
    "second_word": (
        1,
        ["the second word", "word number two"],
        ["Which word comes second?\n{words}"],
        {},
    ),
    "third_word": (
        2,
        ["the third word", "word number three"],
        ["Which word comes third?\n{words}"],
        {"grade": "new argument"},
    ),
    "last_word": (-1, ["the last word", "the final word"], ["Which word comes last?\n{words}"], {}),
}
PICK = {"version": 1, "cluster": "pick", "content": ("words",)}
for name, (index, asked, own, more) in PLACES.items():
    instruction_task(
        name,
        **PICK,
        source=WORDS_EN,
        fields=place(index),
        **wording(name, "{words}", asked, own),
        tags={"language": "en", "inputs": "words_en", "kind": "generation", **more},
    )

instruction_task(
    "word_after",
    **PICK,
    source=WORDS_EN,
    fields=after,
    **wording(
        "word_after",
        "{words}",
        ["the word after {query}", "the word following {query}"],
        ["Which word comes after {query}?\n{words}", "{words}\nWhat follows {query}?"],
    ),
    tags={"language": "en", "inputs": "words_en", "kind": "generation"},
)

instruction_task(
    "has_word",
    **PICK,
    source=WORDS_EN,
    fields=has,
    options=("yes", "no"),
    metrics=("accuracy",),
    **wording(
        "has_word",
        "",
        [],
        own=[
            "Is {probe} in this list?\n{words}",
            "{words}\nIs the word {probe} here?",
            "List: {words}\nDoes it have {probe}?",
            "Read this: {words}\nDo you see {probe}? Answer yes or no.",
            "Is there a word {probe}?\n{words}\n{options}",
            "{words}\nIs it right that {probe} is there? Answer yes or no.",
            "Look for {probe} in these words: {words}\nIs it there?",
            "Does the list have the word {probe}?\n{words}\n{options}",
        ],
        held=[
            "{words}\nDo you find {probe} here? Say yes or no.",
            "Tell me: is {probe} one of these words?\n{words}",
        ],
    ),
    tags={"language": "en", "inputs": "words_en", "kind": "classification"},
)

instruction_task(
    "ru_has_word",
    **PICK,
    source=WORDS_RU,
    fields=has,
    options=("да", "нет"),
    metrics=("accuracy",),
    **wording(
        "ru_has_word",
        "",
        [],
        own=[
            "Есть ли {probe} в этом списке?\n{words}",
            "{words}\nЕсть ли здесь слово {probe}?",
            "Список: {words}\nВ нём есть {probe}?",
            "Прочитай: {words}\nЕсть там {probe}? Ответь, да или нет.",
            "Верно ли, что там есть слово {probe}?\n{words}\n{options}",
            "{words}\nВерно ли это: {probe} есть в списке? Да или нет?",
            "Найди {probe}: {words}\nЭто слово там есть?",
            "Это верно, что в списке есть {probe}?\n{words}\n{options}",
        ],
        held=[
            "{words}\nСкажи, да или нет: есть ли там {probe}",
            "Ответь: здесь есть {probe}?\n{words}",
        ],
    ),
    tags={"language": "ru", "inputs": "words_ru", "kind": "classification"},
)

for name, index, asked, own in (
    (
        "ru_first_word",
        0,
        ["первое слово", "начальное слово"],
        ["Какое слово стоит первым?\n{words}"],
    ),
    (
        "ru_last_word",
        -1,
        ["последнее слово", "конечное слово"],
        ["Какое слово стоит последним?\n{words}"],
    ),
):
    instruction_task(
        name,
        **PICK,
        source=WORDS_RU,
        fields=place(index),
        **wording(name, "{words}", asked, own, language="ru"),
        tags={"language": "ru", "inputs": "words_ru", "kind": "generation"},
    )
