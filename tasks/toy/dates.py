# SPDX-License-Identifier: Apache-2.0
"""Clusters `dates` (days of the week) and `units` (metres, kilograms)."""

from itx.tasks.registry import instruction_task
from tasks.toy.generate import NAMES, NAMES_RU, THINGS, THINGS_RU, family, wording

DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
DAYS_RU = "понедельник вторник среда четверг пятница суббота воскресенье".split()


def plans_of(names: list[str]):
    def one(draw) -> dict:
        """Three people with different days of the week, one of them asked about."""
        return {
            "names": draw.sample(names, 3),
            "days": draw.sample(range(7), 3),
            "at": draw.randrange(3),
        }

    return one


def shifted(days: list[str], shift: int):
    def fields(e: dict) -> dict:
        plan = ", ".join(f"{n}: {days[d]}" for n, d in zip(e["names"], e["days"], strict=True))
        return {
            "plan": plan,
            "name": e["names"][e["at"]],
            "answer": days[(e["days"][e["at"]] + shift) % 7],
        }

    return fields


PLANS = family("plans", plans_of(NAMES))
SHIFTS = {
    "day_of": (
        0,
        ["the day of {name}"],
        ["Which day does {name} have?\n{plan}", "{plan}\n{name} comes on which day?"],
    ),
    "day_after": (
        1,
        ["the day after {name}"],
        [
            "Which day comes after the day of {name}?\n{plan}",
            "{plan}\n{name} comes one day later. Which day is it?",
        ],
    ),
    "day_before": (
        -1,
        ["the day before {name}"],
        [
            "Which day comes before the day of {name}?\n{plan}",
            "{plan}\n{name} comes one day earlier. Which day is it?",
        ],
    ),
}
DATES = {"version": 1, "cluster": "dates", "content": ("plan",)}
for name, (shift, asked, own) in SHIFTS.items():
    instruction_task(
        name,
        **DATES,
        source=PLANS,
        fields=shifted(DAYS, shift),
        **wording(name, "{plan}", asked, own),
        tags={"language": "en", "inputs": "plans", "kind": "dates"},
    )
instruction_task(
    "ru_day_after",
    **DATES,
    source=family("plans_ru", plans_of(NAMES_RU)),
    fields=shifted(DAYS_RU, 1),
    **wording(
        "ru_day_after",
        "",
        [],
        own=[
            "{plan}\n{name} уезжает на день позже. Какой это день?",
            "{name} уезжает на следующий день. Какой это день?\n{plan}",
            "{plan}\nНазови следующий день: {name}",
            "Какой день идёт следом? Гость - {name}.\n{plan}",
            "{plan}\nГость {name}: какой день будет потом?",
            "День на один позже: {name}\n{plan}",
            "Прочитай: {plan}\nГость {name} уезжает на день позже. Когда?",
            "Когда следующий день? Имя: {name}\n{plan}",
        ],
        held=[
            "{plan}\nУкажи, какой день будет следом. Гость - {name}.",
            "Назови день, если {name} уезжает позже на один день.\n{plan}",
        ],
    ),
    tags={"language": "ru", "kind": "dates"},
)


def measures_of(things: list[str]):
    def one(draw) -> dict:
        """Three things with a whole measure each, one of them asked about."""
        return {
            "things": draw.sample(things, 3),
            "values": draw.sample(range(2, 31), 3),
            "at": draw.randrange(3),
        }

    return one


def convert(unit: str, factor: int):
    def fields(e: dict) -> dict:
        facts = ", ".join(f"{t}: {v} {unit}" for t, v in zip(e["things"], e["values"], strict=True))
        value = e["values"][e["at"]]
        return {
            "facts": facts,
            "thing": e["things"][e["at"]],
            "value": str(value),
            "answer": str(value * factor),
        }

    return fields


UNITS = {"version": 1, "cluster": "units", "content": ("facts",), "metrics": ("numeric",)}
instruction_task(
    "m_to_cm",
    **UNITS,
    source=family("metres", measures_of(THINGS)),
    fields=convert("m", 100),
    **wording(
        "m_to_cm",
        "{facts}",
        ["the {thing} length in cm"],
        [
            "How many cm is the {thing}?\n{facts}",
            "{facts}\nHow long is the {thing} in cm?",
            "One m is 100 cm. {facts}\nHow many cm has the {thing}?",
        ],
    ),
    inverted=[
        ("{facts}\nOne thing is {answer} cm. How many m is it?", "{value}"),
        ("How many m is {answer} cm?\n{facts}", "{value}"),
    ],
    tags={"language": "en", "kind": "units"},
)
instruction_task(
    "ru_kg_to_g",
    **UNITS,
    source=family("kilograms", measures_of(THINGS_RU)),
    fields=convert("кг", 1000),
    **wording(
        "ru_kg_to_g",
        "",
        [],
        own=[
            "Сколько граммов весит {thing}?\n{facts}",
            "{facts}\nСколько граммов весит {thing}?",
            "Прочитай: {facts}\nСколько весит {thing} в граммах?",
            "{facts}\nПереведи в граммы: {thing}",
            "В одном кг 1000 граммов. {facts}\nСколько граммов весит {thing}?",
            "Вес в граммах: {thing}\n{facts}",
            "Найди вес в граммах.\n{facts}\nПредмет: {thing}",
            "{facts}\n{thing} - сколько это граммов?",
        ],
        held=[
            "{facts}\nПредмет {thing}: скажи вес в граммах.",
            "Сколько в граммах весит {thing}?\n{facts}",
        ],
    ),
    tags={"language": "ru", "kind": "units"},
)
