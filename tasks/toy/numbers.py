# SPDX-License-Identifier: Apache-2.0
"""Clusters `order` (lists of numbers) and `arithmetic` (two named numbers)."""

from collections.abc import Callable

from itx.tasks.registry import instruction_task
from tasks.toy.generate import family, wording

LETTERS = "bcdfghkmnpqrstvwxyz"


def numbers(draw) -> dict:
    return {"list": draw.sample(range(1, 100), draw.randint(3, 4))}


def of_numbers(pick: Callable[[list[int]], object]) -> Callable[[dict], dict]:
    return lambda e: {"numbers": " ".join(map(str, e["list"])), "answer": str(pick(e["list"]))}


def in_order(values: list[int]) -> str:
    return " ".join(map(str, sorted(values)))


def variables(draw) -> dict:
    """Two letters with different values from 2 to 25; `q` is one of them."""
    (x, y), (a, b) = draw.sample(LETTERS, 2), draw.sample(range(2, 26), 2)
    return {"x": x, "y": y, "a": a, "b": b, "q": draw.choice((x, y))}


def of_variables(result: Callable[[dict], int]) -> Callable[[dict], dict]:
    def fields(e: dict) -> dict:
        facts = f"{e['x']} = {e['a']}, {e['y']} = {e['b']}"
        return {"facts": facts, "x": e["x"], "y": e["y"], "q": e["q"], "answer": str(result(e))}

    return fields


def value(e: dict) -> int:
    return e["a"] if e["q"] == e["x"] else e["b"]


NUMBERS = family("numbers", numbers)
ORDER = {
    "largest_number": (
        max,
        ["the largest number", "the biggest number", "the maximum"],
        ["Which number is the largest?\n{numbers}"],
    ),
    "smallest_number": (
        min,
        ["the smallest number", "the minimum"],
        ["Which number is the smallest?\n{numbers}"],
    ),
    "third_number": (
        lambda v: v[2],
        ["the third number", "number three"],
        ["Which number comes third?\n{numbers}"],
    ),
    "sort_numbers": (
        in_order,
        ["the sorted list"],
        [
            "Sort the numbers: {numbers}",
            "{numbers}\nSort from smallest to largest.",
            "Put the numbers in order: {numbers}",
        ],
    ),
}
IN_ORDER = {"version": 1, "cluster": "order", "content": ("numbers",), "source": NUMBERS}
for name, (pick, asked, own) in ORDER.items():
    instruction_task(
        name,
        **IN_ORDER,
        fields=of_numbers(pick),
        **wording(name, "{numbers}", asked, own),
        tags={"language": "en", "inputs": "numbers", "kind": "ordering"},
    )
instruction_task(
    "ru_largest_number",
    **IN_ORDER,
    fields=of_numbers(max),
    **wording(
        "ru_largest_number",
        "{numbers}",
        ["наибольшее число", "самое большое число", "максимум"],
        ["Какое число больше всех?\n{numbers}"],
        language="ru",
    ),
    tags={"language": "ru", "kind": "ordering"},
)

VARIABLES = family("variables", variables)
ARITHMETIC = {
    "sum": (
        lambda e: e["a"] + e["b"],
        ["{x} plus {y}", "the sum"],
        ["How much is {x} plus {y}?\n{facts}", "{facts}\nAdd {x} and {y}."],
    ),
    "difference": (
        lambda e: abs(e["a"] - e["b"]),
        ["the difference"],
        [
            "How far apart are {x} and {y}?\n{facts}",
            "{facts}\nTake the smaller number from the larger.",
        ],
    ),
    "one_more": (
        lambda e: value(e) + 1,
        ["{q} plus one", "one more than {q}"],
        ["How much is {q} plus one?\n{facts}", "{facts}\nAdd one to {q}."],
    ),
}
SUMS = {
    "version": 1,
    "cluster": "arithmetic",
    "content": ("facts",),
    "metrics": ("numeric",),
    "source": VARIABLES,
}
for name, (result, asked, own) in ARITHMETIC.items():
    instruction_task(
        name,
        **SUMS,
        fields=of_variables(result),
        **wording(name, "{facts}", asked, own),
        tags={"language": "en", "inputs": "variables", "kind": "arithmetic"},
    )
instruction_task(
    "ru_sum",
    **SUMS,
    fields=of_variables(ARITHMETIC["sum"][0]),
    **wording(
        "ru_sum",
        "{facts}",
        ["сумму", "{x} плюс {y}"],
        ["Сколько будет {x} плюс {y}?\n{facts}", "{facts}\nСложи {x} и {y}."],
        language="ru",
    ),
    tags={"language": "ru", "kind": "arithmetic"},
)
