# SPDX-License-Identifier: Apache-2.0
"""Clusters `lookup` (questions about a generated passage), `entailment` and `fact_check` (claims
about it)."""

from collections.abc import Callable

from itx.tasks.registry import instruction_task
from tasks.toy.generate import (
    COLOURS,
    COLOURS_RU,
    NAMES,
    NAMES_RU,
    THINGS,
    THINGS_RU,
    family,
    wording,
)


def owners_of(names: list[str], colours: list[str], things: list[str]):
    def one(draw) -> dict:
        """Three facts (name, colour, thing), one of them asked about, and a right and a wrong
        claim."""
        facts = list(
            zip(draw.sample(names, 3), draw.sample(colours, 3), draw.sample(things, 3), strict=True)
        )
        asked, other = draw.sample(facts, 2)
        wrong = draw.choice(((other[0], *asked[1:]), (asked[0], other[1], asked[2])))
        return {"facts": facts, "asked": asked, "wrong": wrong, "holds": draw.random() < 0.5}

    return one


def english(name: str, colour: str, thing: str) -> str:
    return f"{name} has a {colour} {thing}."


def russian(name: str, colour: str, thing: str) -> str:
    return f"{name} держит {colour} {thing}."


def about(say: Callable[..., str], index: int) -> Callable[[dict], dict]:
    """The passage, and which part of one fact is asked for: 0 the name, 1 the colour, 2 the
    thing."""

    def fields(e: dict) -> dict:
        name, _, thing = e["asked"]
        return {
            "passage": " ".join(say(*f) for f in e["facts"]),
            "name": name,
            "thing": thing,
            "answer": e["asked"][index],
        }

    return fields


def claim(say: Callable[..., str]) -> Callable[[dict], dict]:
    """A claim that the passage bears out (option 0) or does not (option 1)."""

    def fields(e: dict) -> dict:
        passage = " ".join(say(*f) for f in e["facts"])
        return {
            "passage": passage,
            "claim": say(*(e["asked"] if e["holds"] else e["wrong"])),
            "answer": 0 if e["holds"] else 1,
        }

    return fields


def two_claims(e: dict) -> dict:
    passage = " ".join(english(*f) for f in e["facts"])
    return {
        "passage": passage,
        "options": [english(*e["asked"]), english(*e["wrong"])],
        "answer": 0,
    }


OWNERS = family("owners", owners_of(NAMES, COLOURS, THINGS))
OWNERS_RU = family("owners_ru", owners_of(NAMES_RU, COLOURS_RU, THINGS_RU))
ENGLISH = {
    "thing_of": (
        2,
        ["the thing {name} has"],
        ["What does {name} have?\n{passage}", "{passage}\nWhich thing does {name} have?"],
    ),
    "colour_of": (
        1,
        ["the colour {name} has"],
        [
            "Which colour does {name} have?\n{passage}",
            "{passage}\nWhat colour is the thing of {name}?",
        ],
    ),
    "owner_of": (
        0,
        ["the {thing} owner"],
        ["Who has the {thing}?\n{passage}", "{passage}\nWho is the owner of the {thing}?"],
    ),
}
LOOKUP = {"version": 1, "cluster": "lookup", "content": ("passage",)}
for name, (index, asked, own) in ENGLISH.items():
    instruction_task(
        name,
        **LOOKUP,
        source=OWNERS,
        fields=about(english, index),
        **wording(name, "{passage}", asked, own),
        tags={"language": "en", "inputs": "owners", "kind": "question answering"},
    )

RUSSIAN = {
    "ru_thing_of": (
        2,
        [
            "Что держит {name}?\n{passage}",
            "{passage}\nЧто держит {name}?",
            "Прочитай: {passage}\nНазови предмет: что держит {name}?",
            "{passage}\nКакой предмет держит {name}?",
            "Найди предмет, который держит {name}.\n{passage}",
            "{name} что-то держит. Что это?\n{passage}",
            "{passage}\n{name} держит предмет. Какой?",
            "Скажи, что держит {name}: {passage}",
        ],
        [
            "{passage}\nПокажи предмет: его держит {name}.",
            "Прочитай и найди, что сейчас держит {name}.\n{passage}",
        ],
    ),
    "ru_owner_of": (
        0,
        [
            "Кто держит {thing}?\n{passage}",
            "{passage}\nКто держит {thing}?",
            "Прочитай: {passage}\nНазови имя: кто держит {thing}?",
            "{passage}\nПредмет: {thing}. Кто его держит?",
            "Найди имя того, кто держит {thing}.\n{passage}",
            "Кто-то сейчас держит {thing}. Кто это?\n{passage}",
            "{passage}\nСкажи, кто держит {thing}.",
            "У кого {thing}?\n{passage}",
        ],
        ["{passage}\nПокажи, у кого сейчас {thing}.", "Назови того, у кого {thing}.\n{passage}"],
    ),
}
for name, (index, own, held) in RUSSIAN.items():
    instruction_task(
        name,
        **LOOKUP,
        source=OWNERS_RU,
        fields=about(russian, index),
        **wording(name, "", [], own, held),
        tags={"language": "ru", "kind": "question answering"},
    )

CLAIMS = {"version": 1, "content": ("passage",), "metrics": ("accuracy",)}
ENTAILMENT = {**CLAIMS, "cluster": "entailment", "neighbours": ("fact_check",)}
instruction_task(
    "entails",
    **ENTAILMENT,
    source=OWNERS,
    fields=claim(english),
    options=("yes", "no"),
    **wording(
        "entails",
        "",
        [],
        own=[
            "{passage}\nIs this right: {claim}",
            "Read this: {passage}\nIs it right? {claim}\n{options}",
            "{claim} Is it right?\n{passage}",
            "{passage} Do you see that here? {claim}",
            "Is it right that {claim}\n{passage}",
            "{passage}\nAnswer yes or no: {claim}",
            "Look: {passage}\n{claim} Is this right?\n{options}",
            "{passage}\n{claim} Yes or no?",
        ],
        held=[
            "From this: {passage}\nTell me if it is right: {claim}",
            "{claim}\nTell me yes or no. {passage}",
        ],
    ),
    inverted=[
        ("{passage}\nWrite words for which the answer is {answer}.", "{claim}"),
        ("Which words have the answer {answer}?\n{passage}", "{claim}"),
    ],
    tags={"language": "en", "inputs": "owners", "kind": "entailment", "grade": "new operation"},
)
instruction_task(
    "ru_entails",
    **ENTAILMENT,
    source=OWNERS_RU,
    fields=claim(russian),
    options=("да", "нет"),
    **wording(
        "ru_entails",
        "",
        [],
        own=[
            "{passage}\nЭто верно? {claim}",
            "Прочитай: {passage}\nОтветь, да или нет: {claim}",
            "{claim} Это верно?\n{passage}",
            "{passage}\nДа или нет: {claim}",
            "Ответь: это верно?\n{claim}\n{passage}",
            "{passage} Верно ли это? {claim}\n{options}",
            "Посмотри: {passage}\n{claim} Это верно?\n{options}",
            "Скажи да или нет. {claim}\n{passage}",
        ],
        held=[
            "Вот данные: {passage}\nВерно ли это: {claim}",
            "{claim}\nДай ответ: да или нет? {passage}",
        ],
    ),
    tags={"language": "ru", "kind": "entailment", "grade": "new operation"},
)
instruction_task(
    "right_claim",
    **CLAIMS,
    extractive=True,
    cluster="fact_check",
    source=OWNERS,
    fields=two_claims,
    **wording(
        "right_claim",
        "",
        [],
        own=[
            "{passage}\nWhich is right?\n{options}",
            "Which one of these is right?\n{options}\n{passage}",
            "{passage}\nGive the right one: {options}",
            "Find the right one.\n{passage}\n{options}",
            "Read this: {passage}\nNow name the right one.\n{options}",
            "{options}\nOnly one is right. Which?\n{passage}",
            "{passage}\nWrite what is right.\n{options}",
            "{passage}\nWhich answer is right?\n{options}",
        ],
        held=[
            "Tell me which is right here.\n{options}\n{passage}",
            "{passage}\nPlease say the one that is right.\n{options}",
        ],
    ),
    tags={"language": "en", "inputs": "owners", "kind": "entailment", "grade": "new operation"},
)
