# SPDX-License-Identifier: Apache-2.0
"""Cluster `word_problems`: short stories with numbers; two of them also with the reasoning written
out."""

from itx.tasks.registry import instruction_task
from itx.tasks.spec import CoT
from tasks.toy.generate import (
    NAMES,
    NAMES_RU,
    PLURALS,
    PLURALS_RU,
    TALLIES,
    family,
    tallies_fields,
    wording,
)


def together(e: dict) -> dict:
    a, b = e["a"], e["b"]
    return {**tallies_fields(e), "rationale": f"{a} + {b} = {a + b}.", "answer": str(a + b)}


def gift(draw) -> dict:
    (n, m), (b, a) = draw.sample(NAMES, 2), sorted(draw.sample(range(2, 21), 2))
    return {"n": n, "m": m, "a": a, "b": b, "item": draw.choice(PLURALS)}


def left(e: dict) -> dict:
    story = f"{e['n']} had {e['a']} {e['item']} and gave {e['b']} to {e['m']}."
    return {"story": story, "name": e["n"], "item": e["item"], "answer": str(e["a"] - e["b"])}


def market(draw) -> dict:
    a, b = draw.randint(2, 15), draw.randint(2, 10)
    return {
        "n": draw.choice(NAMES),
        "a": a,
        "b": b,
        "c": draw.randint(2, min(10, a + b - 1)),
        "item": draw.choice(PLURALS),
    }


def two_steps(e: dict) -> dict:
    a, b, c = e["a"], e["b"], e["c"]
    story = f"{e['n']} had {a} {e['item']}, found {b} more and then lost {c}."
    rationale = f"{a} + {b} = {a + b}. {a + b} - {c} = {a + b - c}."
    return {
        "story": story,
        "name": e["n"],
        "item": e["item"],
        "rationale": rationale,
        "answer": str(a + b - c),
    }


TIMES = ("утром", "днём", "вечером", "ночью")


def harvest(draw) -> dict:
    a, b = draw.sample(range(5, 21), 2)
    return {
        "n": draw.choice(NAMES_RU),
        "a": a,
        "b": b,
        "item": draw.choice(PLURALS_RU),
        "when": draw.sample(TIMES, 2),
    }


def harvest_fields(e: dict) -> dict:
    a, b = e["a"], e["b"]
    story = f"{e['n']} собирает {a} {e['item']} {e['when'][0]} и {b} {e['item']} {e['when'][1]}."
    return {
        "story": story,
        "name": e["n"],
        "item": e["item"],
        "rationale": f"{a} + {b} = {a + b}.",
        "answer": str(a + b),
    }


COMMON = {"version": 1, "cluster": "word_problems", "metrics": ("numeric",)}
EN = "{rationale}\nThe answer is {answer}."
RU = "{rationale}\nОтвет: {answer}."
instruction_task(
    "total_together",
    **COMMON,
    source=TALLIES,
    fields=together,
    content=("facts",),
    **wording(
        "total_together",
        "",
        [],
        own=[
            "How many {item} do they have together?\n{facts}",
            "{facts}\nHow many do they have together?",
            "{facts} What is the total?",
            "Give the total number of {item}.\n{facts}",
            "{facts}\nHow many {item} in total?",
            "Read this: {facts}\nNow write the total.",
            "Add the {item}: {facts}",
            "Together they have how many?\n{facts}",
        ],
        held=["{facts}\nPlease find the total of {item}.", "What do they have in total?\n{facts}"],
    ),
    tags={"language": "en", "inputs": "tallies", "kind": "word problem"},
)
instruction_task(
    "gave_away",
    **COMMON,
    source=family("gifts", gift),
    fields=left,
    **wording(
        "gave_away",
        "",
        [],
        own=[
            "{story} How many {item} are left?",
            "How many {item} does {name} have now?\n{story}",
            "{story}\nHow many does {name} have left?",
            "Read this: {story}\nHow many {item} are left?",
            "{story}\nGive the number that is left.",
            "How many are left?\n{story}",
            "{story} Now {name} has how many {item}?",
            "What is left after this? {story}",
        ],
        held=[
            "{story}\nFind how many {name} has now.",
            "Tell me the number of {item} left.\n{story}",
        ],
    ),
    tags={"language": "en", "kind": "word problem"},
)
instruction_task(
    "found_and_lost",
    **COMMON,
    source=family("market", market),
    fields=two_steps,
    **wording(
        "found_and_lost",
        "",
        [],
        own=[
            "{story} How many {item} are there now?",
            "How many {item} does {name} have now?\n{story}",
            "{story}\nHow many does {name} have left?",
            "Read this: {story}\nHow many {item} are left?",
            "{story}\nGive the number that is left.",
            "How many are left?\n{story}",
            "{story} Now {name} has how many {item}?",
            "What is left after this? {story}",
        ],
        held=[
            "{story}\nFind how many {name} has now.",
            "Tell me the number of {item} left.\n{story}",
        ],
    ),
    cot=CoT(
        [
            ("{story} How many {item} are there now? Think step by step.", EN),
            ("Think step by step: {story}\nHow many are left?", EN),
            ("{story}\nHow many {item} does {name} have now? Show each step.", EN),
            ("Show the steps. {story} What is left?", EN),
        ],
        [
            ("{story}\nThink, then tell me how many {name} has.", EN),
            ("Step by step, find the number left.\n{story}", EN),
        ],
    ),
    tags={"language": "en", "kind": "word problem"},
)
instruction_task(
    "ru_total",
    **COMMON,
    source=family("harvest", harvest),
    fields=harvest_fields,
    **wording(
        "ru_total",
        "",
        [],
        own=[
            "{story} Сколько {item} всего?",
            "Сколько всего {item}?\n{story}",
            "{story}\nСколько {item} собирает {name} всего?",
            "Прочитай: {story}\nСколько всего?",
            "{story} Сколько получится всего?",
            "Сложи числа: {story}",
            "Найди сумму.\n{story}",
            "{name} собирает сколько {item}? {story}",
        ],
        held=[
            "{story}\nСкажи, сколько {item} получится.",
            "Сколько {name} собирает всего?\n{story}",
        ],
    ),
    cot=CoT(
        [
            ("{story} Сколько {item} всего? Реши по шагам.", RU),
            ("Реши по шагам: {story}\nСколько всего?", RU),
            ("{story}\nПокажи шаги. Сколько {item} всего?", RU),
            ("По шагам найди сумму.\n{story}", RU),
        ],
        [
            ("{story}\nПокажи по шагам, сколько {item} получится.", RU),
            ("Реши и покажи шаги.\n{story}", RU),
        ],
    ),
    tags={"language": "ru", "kind": "word problem"},
)
