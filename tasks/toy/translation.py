# SPDX-License-Identifier: Apache-2.0
"""Clusters `translation` (word lists, and dictionaries in the prompt), `codes` and `symbols`
(numbers for words)."""

from itx.tasks.registry import instruction_task
from tasks.toy.generate import (
    ADJECTIVES,
    ADJECTIVES_LUMO,
    ADJECTIVES_RU,
    INVENTED,
    NOUNS,
    THINGS,
    THINGS_LUMO,
    THINGS_RU,
    family,
    wording,
)


def phrases(draw) -> dict:
    """Two things with an adjective each, joined by and/or, as indexes into the word lists."""
    return {
        "a": [draw.randrange(12) for _ in "ab"],
        "n": draw.sample(range(len(THINGS)), 2),
        "or": draw.random() < 0.5,
    }


def say(
    e: dict,
    adjectives: list[str],
    nouns: list[str],
    joints: tuple[str, str],
    noun_first: bool = False,
) -> str:
    pairs = [
        (adjectives[a], nouns[n])[:: -1 if noun_first else 1]
        for a, n in zip(e["a"], e["n"], strict=True)
    ]
    return f" {joints[e['or']]} ".join(" ".join(p) for p in pairs)


def english(e: dict) -> str:
    return say(e, ADJECTIVES, THINGS, ("and", "or"))


def russian(e: dict) -> str:
    return say(e, ADJECTIVES_RU, THINGS_RU, ("и", "или"))


def lumo(e: dict) -> str:
    return say(e, ADJECTIVES_LUMO, THINGS_LUMO, ("e", "u"), noun_first=True)


def translate(source, target):
    return lambda e: {"text": source(e), "answer": target(e)}


PHRASES = family("phrases", phrases)
PAIRS = {
    "en_to_ru": (
        english,
        russian,
        "mixed",
        [
            "Translate into Russian: {text}",
            "{text}\nIn Russian:",
            "How do you say {text} in Russian?",
            "Переведи на русский: {text}",
            "{text}\nКак это по-русски?",
            "Write this in Russian: {text}",
            "English: {text}\nRussian:",
            "Дай русский перевод: {text}",
        ],
        ["Say it in Russian.\n{text}", "{text}\nНапиши это по-русски."],
    ),
    "ru_to_en": (
        russian,
        english,
        "mixed",
        [
            "Translate into English: {text}",
            "{text}\nIn English:",
            "How do you say {text} in English?",
            "Переведи на английский: {text}",
            "{text}\nКак это по-английски?",
            "Write this in English: {text}",
            "Russian: {text}\nEnglish:",
            "Дай английский перевод: {text}",
        ],
        ["Say it in English.\n{text}", "{text}\nНапиши это по-английски."],
    ),
    "en_to_lumo": (
        english,
        lumo,
        "en",
        [
            "Translate into Lumo: {text}",
            "{text}\nIn Lumo:",
            "How do you say {text} in Lumo?",
            "Translate from English to Lumo.\n{text}",
            "{text}\nHow is it in Lumo?",
            "Write this in Lumo: {text}",
            "English: {text}\nLumo:",
            "Give the Lumo for {text}.",
        ],
        ["Say it in Lumo.\n{text}", "{text}\nPlease write it in Lumo."],
    ),
}
TRANSLATION = {"version": 1, "cluster": "translation"}
for name, (source, target, language, own, held) in PAIRS.items():
    instruction_task(
        name,
        **TRANSLATION,
        source=PHRASES,
        fields=translate(source, target),
        **wording(name, "", [], own, held),
        tags={"language": language, "kind": "translation"},
        inverted=[
            ("This is Lumo: {answer}\nWrite it in English.", "{text}"),
            ("Translate from Lumo to English: {answer}", "{text}"),
        ]
        if name == "en_to_lumo"
        else (),
    )


def dictionary_of(values: list[str]):
    def one(draw) -> dict:
        """A dictionary of four nouns, two of which are asked about."""
        words = draw.sample(NOUNS, 4)
        return {
            "pairs": list(zip(words, draw.sample(values, 4), strict=True)),
            "asked": draw.sample(range(4), 2),
        }

    return one


def by_dictionary(key: int, value: int, count: int = 2):
    """From column `key` of the dictionary to column `value`."""

    def fields(e: dict) -> dict:
        asked = [e["pairs"][i] for i in e["asked"][:count]]
        shown = ", ".join(f"{a} = {b}" for a, b in e["pairs"])
        return {
            "dictionary": shown,
            "words": " ".join(p[key] for p in asked),
            "answer": " ".join(p[value] for p in asked),
        }

    return fields


instruction_task(
    "by_dictionary",
    **TRANSLATION,
    source=family("dictionary", dictionary_of(INVENTED)),
    fields=by_dictionary(0, 1),
    content=("dictionary",),
    **wording(
        "by_dictionary",
        "",
        [],
        own=[
            "Dictionary: {dictionary}\nTranslate: {words}",
            "Translate {words} with this dictionary: {dictionary}",
            "{dictionary}\nUse the dictionary to translate {words}.",
            "Here you see a dictionary: {dictionary}\nWrite in it: {words}",
            "Look up {words}.\n{dictionary}",
            "{dictionary}\nTranslate the words {words}.",
            "Translate by the dictionary.\n{dictionary}\n{words}",
            "Use this dictionary: {dictionary}\nWhat is {words}?",
        ],
        held=[
            "{dictionary}\nPlease look up the words {words}.",
            "Say {words} by this dictionary: {dictionary}",
        ],
    ),
    inverted=[
        ("Dictionary: {dictionary}\nWhich words are {answer}?", "{words}"),
        ("{dictionary}\nTranslate {answer} back.", "{words}"),
    ],
    tags={"language": "en", "kind": "translation", "rule_in_prompt": "yes"},
)

NUMBERED = family("numbered", dictionary_of([str(n) for n in range(1, 100)]))
CODE = {"version": 1, "source": NUMBERED, "content": ("dictionary",)}
CODES = {**CODE, "cluster": "codes", "neighbours": ("symbols",)}
instruction_task(
    "encode_words",
    **CODES,
    fields=by_dictionary(0, 1),
    **wording(
        "encode_words",
        "",
        [],
        own=[
            "Dictionary: {dictionary}\nWrite in numbers: {words}",
            "Translate {words} to numbers with this dictionary: {dictionary}",
            "{dictionary}\nUse the dictionary to write {words} in numbers.",
            "Look up the numbers of {words}.\n{dictionary}",
            "{dictionary}\nTranslate the words {words}.",
            "Use this dictionary: {dictionary}\nWhich numbers are {words}?",
            "Here you see a dictionary: {dictionary}\nGive numbers for {words}.",
            "Numbers for {words} by the dictionary: {dictionary}",
        ],
        held=[
            "{dictionary}\nPlease say {words} in numbers.",
            "Put {words} into numbers: {dictionary}",
        ],
    ),
    inverted=[
        ("Dictionary: {dictionary}\nWhich words are the numbers {answer}?", "{words}"),
        ("{dictionary}\nTranslate {answer} back.", "{words}"),
    ],
    tags={
        "language": "en",
        "inputs": "numbered",
        "kind": "translation",
        "grade": "new argument",
        "rule_in_prompt": "yes",
    },
)
instruction_task(
    "decode_numbers",
    **CODES,
    fields=by_dictionary(1, 0),
    **wording(
        "decode_numbers",
        "",
        [],
        own=[
            "Dictionary: {dictionary}\nWrite in words: {words}",
            "Translate {words} to words with this dictionary: {dictionary}",
            "{dictionary}\nUse the dictionary to write {words} in words.",
            "Look up the words of {words}.\n{dictionary}",
            "{dictionary}\nTranslate the numbers {words}.",
            "Use this dictionary: {dictionary}\nWhich words are {words}?",
            "Here you see a dictionary: {dictionary}\nGive words for {words}.",
            "Words for {words} by the dictionary: {dictionary}",
        ],
        held=["{dictionary}\nPlease say {words} in words.", "Put {words} into words: {dictionary}"],
    ),
    tags={
        "language": "en",
        "inputs": "numbered",
        "kind": "translation",
        "grade": "new argument",
        "rule_in_prompt": "yes",
    },
)
instruction_task(
    "number_for",
    **CODE,
    cluster="symbols",
    fields=by_dictionary(0, 1, count=1),
    **wording(
        "number_for",
        "",
        [],
        own=[
            "Dictionary: {dictionary}\nWhich number is {words}?",
            "Look up {words}.\n{dictionary}",
            "{dictionary}\nWhat is {words}?",
            "{dictionary}\nUse the dictionary to write {words}.",
            "Use this dictionary: {dictionary}\nGive the number for {words}.",
            "Translate {words} with this dictionary: {dictionary}",
            "The number of {words}: {dictionary}",
            "Here you see a dictionary: {dictionary}\nFind {words}.",
        ],
        held=[
            "{dictionary}\nTell me the number by the word {words}.",
            "Say which number goes with {words}: {dictionary}",
        ],
    ),
    tags={
        "language": "en",
        "inputs": "numbered",
        "kind": "translation",
        "grade": "new argument",
        "rule_in_prompt": "yes",
    },
)
