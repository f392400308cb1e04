# SPDX-License-Identifier: Apache-2.0
"""Cluster `rules`: kinds of things, and labels given by a rule that stands in the prompt."""

from itx.tasks.registry import instruction_task
from tasks.toy.generate import ADJECTIVES, ANIMALS, CLOTHES, FRUITS, THINGS_RU, family, wording

KINDS = {"animals": ANIMALS, "fruits": FRUITS, "clothes": CLOTHES}


def kinds(draw) -> dict:
    """Three words, one of each kind in any order; a label for each kind; one kind asked about."""
    order = draw.sample(list(KINDS), 3)
    words = [draw.choice(KINDS[k]) for k in order]
    labels = dict(zip(draw.sample(list(KINDS), 3), draw.sample(ADJECTIVES, 3), strict=True))
    return {"order": order, "words": words, "labels": labels, "at": draw.randrange(3)}


def of_kind(e: dict) -> dict:
    return {
        "words": " ".join(e["words"]),
        "kind": e["order"][e["at"]],
        "rule": rule(e),
        "answer": e["words"][e["at"]],
    }


def rule(e: dict) -> str:
    return ", ".join(f"{kind} are {label}" for kind, label in e["labels"].items())


def label(e: dict) -> dict:
    return {
        "rule": rule(e),
        "words": " ".join(e["words"]),
        "word": e["words"][e["at"]],
        "answer": e["labels"][e["order"][e["at"]]],
    }


def label_of_last(e: dict) -> dict:
    return {"rule": rule(e), "words": " ".join(e["words"]), "answer": e["labels"][e["order"][-1]]}


def threshold(draw) -> dict:
    """A limit, a number on either side of it, and what to write in each case."""
    limit = draw.randint(10, 90)
    n = draw.randint(limit + 1, 99) if draw.random() < 0.5 else draw.randint(1, limit - 1)
    return {"limit": limit, "n": n, "labels": draw.sample(THINGS_RU, 2)}


def threshold_fields(e: dict) -> dict:
    high, low = e["labels"]
    rule = f"если число больше {e['limit']}, пиши {high}, иначе пиши {low}"
    return {
        "rule": rule,
        "number": str(e["n"]),
        "options": [high, low],
        "answer": 0 if e["n"] > e["limit"] else 1,
    }


SORTED = family("kinds", kinds)
RULES = {"version": 1, "cluster": "rules"}
instruction_task(
    "word_of_kind",
    **RULES,
    source=SORTED,
    fields=of_kind,
    content=("rule", "words"),
    **wording(
        "word_of_kind",
        "{words}",
        ["the word for {kind}"],
        [
            "Which word is one of the {kind}?\n{words}",
            "{words}\nWhich one goes with {kind}?",
            "Find the word from {kind}: {words}",
        ],
    ),
    tags={"language": "en", "kind": "classification"},
)
instruction_task(
    "label_by_rule",
    **RULES,
    source=SORTED,
    fields=label,
    content=("rule", "words"),
    **wording(
        "label_by_rule",
        "",
        [],
        own=[
            "Rule: {rule}\nWhat is {word}?",
            "{rule}\nBy this rule {word} is",
            "Use the rule: {rule}\nWhat is {word}?",
            "Give the label of {word}.\n{rule}",
            "Here you see a rule: {rule}\nThe label of {word}:",
            "What is {word}, if {rule}?",
            "{rule}\nLabel the word {word} by the rule.",
            "Label {word} with this rule: {rule}",
        ],
        held=["{rule}\nTell me the label for {word}.", "Please use this rule for {word}: {rule}"],
    ),
    tags={"language": "en", "kind": "classification", "rule_in_prompt": "yes"},
)
instruction_task(
    "label_last",
    **RULES,
    source=SORTED,
    fields=label_of_last,
    content=("rule", "words"),
    **wording(
        "label_last",
        "",
        [],
        own=[
            "Rule: {rule}\nLabel the last word: {words}",
            "{rule}\nBy this rule the last word is what?\n{words}",
            "Use the rule: {rule}\nWhat is the last word of {words}?",
            "Give the label of the last word.\n{words}\n{rule}",
            "{words}\nThe label of the last word, if {rule}:",
            "What is the last word here: {words}\n{rule}",
            "{rule}\nLabel the last word by the rule.\n{words}",
            "Label with this rule only the last word: {rule}\n{words}",
        ],
        held=[
            "{rule}\nTell me the label for the final word: {words}",
            "Please use this rule for the final word of {words}: {rule}",
        ],
    ),
    tags={
        "language": "en",
        "kind": "classification",
        "grade": "new composition",
        "rule_in_prompt": "yes",
    },
)
instruction_task(
    "ru_number_rule",
    **RULES,
    source=family("threshold", threshold),
    fields=threshold_fields,
    metrics=("accuracy",),
    **wording(
        "ru_number_rule",
        "",
        [],
        own=[
            "Правило: {rule}.\nЧисло: {number}",
            "Число {number}. Правило: {rule}.",
            "Ответь по правилу: {rule}.\nЧисло {number}",
            "Дано число {number}.\nЧто писать, {rule}?",
            "{number}\nПримени правило: {rule}.",
            "Вот правило: {rule}.\nДано число {number}\n{options}",
            "Число: {number}. Ответь по правилу, {rule}.\n{options}",
            "По правилу, {rule}. Что писать? Число {number}",
        ],
        held=[
            "Дано правило: {rule}.\nСкажи ответ, число {number}",
            "{number} - это число. Дай ответ по правилу: {rule}.",
        ],
    ),
    tags={"language": "ru", "kind": "classification", "rule_in_prompt": "yes"},
)
