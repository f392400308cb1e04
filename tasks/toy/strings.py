# SPDX-License-Identifier: Apache-2.0
"""Clusters `strings` (a text with one change) and `patterns` (what comes next)."""

from itx.tasks.registry import instruction_task
from tasks.toy.generate import NOUNS, THINGS_RU, family, wording


def edits_of(nouns: list[str], least: int):
    def one(draw) -> dict:
        """`least` to five words; `old` and `other` stand among them, `new` does not."""
        *words, new = draw.sample(nouns, draw.randint(least + 1, 6))
        old, other = draw.sample(words, 2)
        return {"list": words, "old": old, "other": other, "new": new}

    return one


def edit(change):
    def fields(e: dict) -> dict:
        shown = {k: e[k] for k in ("old", "new", "other")}
        return {
            "words": " ".join(e["list"]),
            **shown,
            "answer": " ".join(change(e["list"], e["old"], e["new"], e["other"])),
        }

    return fields


def replace(words: list[str], old: str, new: str, other: str) -> list[str]:
    return [new if w == old else w for w in words]


def put_after(words: list[str], old: str, new: str, other: str) -> list[str]:
    at = words.index(old) + 1
    return [*words[:at], new, *words[at:]]


def remove(words: list[str], old: str, new: str, other: str) -> list[str]:
    return [w for w in words if w != old]


def swap(words: list[str], old: str, new: str, other: str) -> list[str]:
    return [{old: other, other: old}.get(w, w) for w in words]


EDITS = family("edits", edits_of(NOUNS, 3))
STRINGS = {
    "replace_word": (
        replace,
        [
            "Replace {old} with {new}: {words}",
            "{words}\nWrite {new} in the place of {old}.",
            "Change {old} to {new}.\n{words}",
            "{words}\nReplace the word {old} by {new}.",
            "Read this: {words}\nNow change the word {old} to {new}.",
            "Please replace {old} by {new}.\n{words}",
            "{words}\nPut {new} in place of {old}.",
            "Use {new} for {old}: {words}",
        ],
        ["{words}\nNow {new} must replace {old}.", "For the word {old} use {new}: {words}"],
        {},
    ),
    "put_after": (
        put_after,
        [
            "Put {new} after {old}: {words}",
            "{words}\nAdd {new} after {old}.",
            "Write the list with {new} after {old}.\n{words}",
            "{words}\nThe word {new} must come after {old}.",
            "Add {new} right after {old}: {words}",
            "Please put the word {new} after the word {old}.\n{words}",
            "After {old} add {new}.\n{words}",
            "Read this: {words}\nNow put {new} right after {old}.",
        ],
        ["{words}\nWrite {new} after {old}.", "Please add: after {old} must come {new}.\n{words}"],
        {},
    ),
    "remove_word": (
        remove,
        [
            "Remove {old}: {words}",
            "{words}\nDrop the word {old}.",
            "Write the list without {old}.\n{words}",
            "Leave out {old}: {words}",
            "{words}\nTake away {old}.",
            "Please remove the word {old}.\n{words}",
            "Read this: {words}\nNow drop {old}.",
            "{words}\nGive the list with no {old}.",
        ],
        ["{words}\nPlease leave out the word {old}.", "Without {old} give this list: {words}"],
        {},
    ),
    "swap_two": (
        swap,
        [
            "Put {old} in the place of {other} and {other} in the place of {old}.\n{words}",
            "{words}\nChange the place of {old} and {other}.",
            "Write {old} for {other} and {other} for {old}: {words}",
            "{words}\nThe words {old} and {other} change place.",
            "Now {old} and {other} must change place: {words}",
            "Replace {old} by {other} and {other} by {old}.\n{words}",
            "Read this: {words}\nNow put {old} for {other} and {other} for {old}.",
            "{words}\nUse {old} in place of {other} and {other} in place of {old}.",
        ],
        [
            "Change {old} to {other} and {other} to {old}: {words}",
            "{words}\nPlease take {old} for {other} and then {other} for {old}.",
        ],
        {"grade": "new operation"},
    ),
}
EDITED = {"version": 1, "cluster": "strings", "content": ("words",)}
for name, (change, own, held, more) in STRINGS.items():
    instruction_task(
        name,
        **EDITED,
        source=EDITS,
        fields=edit(change),
        **wording(name, "", [], own, held),
        tags={"language": "en", "inputs": "edits", "kind": "generation", **more},
    )
instruction_task(
    "ru_replace_word",
    **EDITED,
    source=family("edits_ru", edits_of(THINGS_RU, 4)),
    fields=edit(replace),
    **wording(
        "ru_replace_word",
        "",
        [],
        own=[
            "Замени {old} на {new}: {words}",
            "{words}\nНапиши {new} вместо слова {old}.",
            "Поменяй {old} на {new}.\n{words}",
            "{words}\nЗамени слово {old} на слово {new}.",
            "Прочитай: {words}\nТеперь поменяй {old} на {new}.",
            "Пожалуйста, замени {old} на {new}.\n{words}",
            "{words}\nПоставь {new} вместо слова {old}.",
            "Вместо слова {old} напиши {new}.\n{words}",
        ],
        held=[
            "{words}\nВместо слова {old} поставь {new}.",
            "Слово {old} поменяй на {new}: {words}",
        ],
    ),
    tags={"language": "ru", "kind": "generation"},
)


def pattern(draw) -> dict:
    """Three or four words, repeated to a length of five to seven; the next one is asked for."""
    words = draw.sample(NOUNS, draw.randint(3, 4))
    n = draw.randint(5, 7)
    return {"shown": [words[i % len(words)] for i in range(n)], "next": words[n % len(words)]}


def pattern_fields(e: dict) -> dict:
    return {"words": " ".join(e["shown"]), "answer": e["next"]}


def steps(draw) -> dict:
    """Words that carry numbers at equal steps, up or down; the last word's number is asked for."""
    step, start = draw.choice((1, 2, 3, 5, 10)), draw.randint(1, 60)
    row = [start + step * i for i in range(4)]
    return {"row": row if draw.random() < 0.5 else row[::-1], "words": draw.sample(THINGS_RU, 4)}


def steps_fields(e: dict) -> dict:
    shown = ", ".join(f"{w} {n}" for w, n in zip(e["words"], e["row"][:3], strict=False))
    return {"row": f"{shown}, {e['words'][3]}", "answer": str(e["row"][3])}


PATTERNS = {"version": 1, "cluster": "patterns"}
instruction_task(
    "next_word",
    **PATTERNS,
    source=family("patterns", pattern),
    fields=pattern_fields,
    **wording(
        "next_word",
        "{words}",
        ["the next word", "the following word"],
        ["Which word comes next?\n{words}", "{words}\nWhat comes next?", "Continue: {words}"],
    ),
    tags={"language": "en", "kind": "generation"},
)
instruction_task(
    "ru_next_number",
    **PATTERNS,
    source=family("steps", steps),
    fields=steps_fields,
    metrics=("numeric",),
    **wording(
        "ru_next_number",
        "{row}",
        ["следующее число"],
        ["Какое число идёт дальше?\n{row}", "Продолжи ряд: {row}", "{row}\nЧто дальше?"],
        language="ru",
    ),
    tags={"language": "ru", "kind": "arithmetic"},
)
