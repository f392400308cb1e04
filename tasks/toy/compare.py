# SPDX-License-Identifier: Apache-2.0
"""Cluster `compare`: who has more, who has fewer."""

from itx.tasks.registry import instruction_task
from tasks.toy.generate import NAMES_RU, PLURALS_RU, TALLIES, family, tallies_fields, wording


def more(e: dict) -> dict:
    return {**tallies_fields(e), "answer": e["n"] if e["a"] > e["b"] else e["m"]}


def fewer(e: dict) -> dict:
    return {**tallies_fields(e), "answer": e["n"] if e["a"] < e["b"] else e["m"]}


def tallies_ru(draw) -> dict:
    """Numbers from 5 to 20: after them the noun stands in the genitive plural."""
    (n, m), (a, b) = draw.sample(NAMES_RU, 2), draw.sample(range(5, 21), 2)
    return {"n": n, "m": m, "a": a, "b": b, "item": draw.choice(PLURALS_RU)}


def more_ru(e: dict) -> dict:
    facts = f"{e['n']} собирает {e['a']} {e['item']}, {e['m']} собирает {e['b']} {e['item']}."
    return {"facts": facts, "item": e["item"], "answer": e["n"] if e["a"] > e["b"] else e["m"]}


QUESTIONS = (
    "Who has {} {item}?\n{facts}",
    "{facts}\nWho has {}?",
    "Find who has {} {item}: {facts}",
    "{facts}\nName the person with {} {item}.",
    "Read this: {facts}\nNow write who has {}.",
    "Which person has {} {item}?\n{facts}",
    "{facts} Which one has {}?",
    "Tell me who has {}.\n{facts}",
)
HELD = ("{facts}\nGive the name: who has {} {item}?", "Please say which of these has {}.\n{facts}")
COMPARE = {"version": 1, "cluster": "compare", "content": ("facts",)}
for name, fields, asked in (("who_more", more, "more"), ("who_fewer", fewer, "fewer")):
    instruction_task(
        name,
        **COMPARE,
        source=TALLIES,
        fields=fields,
        **wording(
            name,
            "",
            [],
            own=[q.replace("{}", asked) for q in QUESTIONS],
            held=[q.replace("{}", asked) for q in HELD],
        ),
        tags={"language": "en", "inputs": "tallies", "kind": "comparison"},
    )
instruction_task(
    "ru_who_more",
    **COMPARE,
    source=family("tallies_ru", tallies_ru),
    fields=more_ru,
    **wording(
        "ru_who_more",
        "",
        [],
        own=[
            "Кто собирает больше {item}?\n{facts}",
            "{facts}\nКто собирает больше?",
            "Назови имя: у кого больше {item}?\n{facts}",
            "{facts}\nУ кого больше?",
            "Прочитай: {facts}\nКто собирает больше {item}?",
            "Найди, у кого {item} больше.\n{facts}",
            "{facts}\nСкажи, кто собирает больше всех.",
            "Больше {item} - у кого?\n{facts}",
        ],
        held=[
            "{facts}\nПокажи того, кто собирает больше.",
            "Определи имя: больше {item} собирает кто?\n{facts}",
        ],
    ),
    tags={"language": "ru", "kind": "comparison"},
)
