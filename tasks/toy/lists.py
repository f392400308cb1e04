# SPDX-License-Identifier: Apache-2.0
"""Clusters `lists` (a list made from a list) and `counting` (how many words a list has)."""

from itx.tasks.registry import instruction_task
from tasks.toy.generate import NOUNS, WORDS_EN, WORDS_RU, family, listed, wording


def backwards(e: dict) -> dict:
    return {**listed(e), "answer": " ".join(e["list"][::-1])}


def rest(e: dict) -> dict:
    return {**listed(e), "answer": " ".join(e["list"][1:])}


def ends(e: dict) -> dict:
    return {**listed(e), "answer": f"{e['list'][0]} {e['list'][-1]}"}


def rest_backwards(e: dict) -> dict:
    return {**listed(e), "answer": " ".join(e["list"][:0:-1])}


def count(e: dict) -> dict:
    return {**listed(e), "answer": str(len(e["list"]))}


def repeats(draw) -> dict:
    """Four to seven words made of two or three different ones; one of them is asked about."""
    different = draw.sample(NOUNS, draw.randint(2, 3))
    words = different + draw.choices(different, k=draw.randint(2, 4))
    draw.shuffle(words)
    return {"list": words, "query": different[0]}


def times(e: dict) -> dict:
    return {
        "words": " ".join(e["list"]),
        "query": e["query"],
        "answer": str(e["list"].count(e["query"])),
    }


LIST = {"version": 1, "cluster": "lists", "source": WORDS_EN, "content": ("words",)}
TAGS = {"language": "en", "inputs": "words_en", "kind": "generation"}

instruction_task(
    "reverse_words",
    **LIST,
    fields=backwards,
    tags=TAGS,
    **wording(
        "reverse_words",
        "{words}",
        ["the reversed list", "the list backwards"],
        ["Reverse the list: {words}", "{words}\nWrite the words from last to first."],
    ),
    inverted=[
        ("A list was reversed, now it is: {answer}\nWhat was the list before?", "{words}"),
        ("{answer}\nThis list is backwards. Give the list as it was.", "{words}"),
    ],
)
instruction_task(
    "drop_first",
    **LIST,
    fields=rest,
    tags=TAGS,
    **wording(
        "drop_first",
        "{words}",
        ["the list without its first word"],
        [
            "Remove the first word: {words}",
            "{words}\nDrop the first word.",
            "Take away the first word.\n{words}",
        ],
        ["{words}\nLeave out the first word.", "Here: {words}\nNow write it with no first word."],
    ),
)
instruction_task(
    "first_and_last",
    **LIST,
    fields=ends,
    tags=TAGS,
    **wording(
        "first_and_last",
        "{words}",
        ["the first and last word"],
        [
            "Which words come first and last?\n{words}",
            "{words}\nTake the first word, then the last one.",
        ],
        [
            "Only the first, then the last: {words}",
            "{words}\nPlease say: which word is first, which is last?",
        ],
    ),
)
instruction_task(
    "reverse_rest",
    **LIST,
    fields=rest_backwards,
    tags={**TAGS, "grade": "new composition"},
    **wording(
        "reverse_rest",
        "{words}",
        ["the list backwards without its first word"],
        [
            "Remove the first word, then reverse the list: {words}",
            "{words}\nDrop the first word and give the list backwards.",
        ],
        [
            "Take away the first one and then write backwards: {words}",
            "{words}\nFrom last to second, write the words.",
        ],
    ),
)

COUNTING = {"version": 1, "cluster": "counting", "content": ("words",), "metrics": ("numeric",)}
instruction_task(
    "count_words",
    **COUNTING,
    source=WORDS_EN,
    fields=count,
    **wording(
        "count_words",
        "{words}",
        ["the word count", "the list length"],
        [
            "How many words are there?\n{words}",
            "Count the words: {words}",
            "{words}\nHow many words do you see?",
        ],
    ),
    tags={"language": "en", "inputs": "words_en", "kind": "counting"},
)
instruction_task(
    "count_times",
    **COUNTING,
    source=family("repeats", repeats),
    fields=times,
    **wording(
        "count_times",
        "",
        [],
        own=[
            "How many times do you see {query}?\n{words}",
            "{words}\nCount the word {query}.",
            "Count how many times {query} is here: {words}",
            "{words}\nHow many {query}?",
            "Find the word {query} and count it.\n{words}",
            "Read this: {words}\nHow many times is {query} there?",
            "The count of {query}: {words}",
            "How many of the words are {query}?\n{words}",
        ],
        held=["Tell me how many {query} there are.\n{words}", "{words}\n{query}: how many times?"],
    ),
    tags={"language": "en", "kind": "counting"},
)
instruction_task(
    "ru_count_words",
    **COUNTING,
    source=WORDS_RU,
    fields=count,
    **wording(
        "ru_count_words",
        "{words}",
        ["число слов", "количество слов"],
        [
            "Сколько здесь слов?\n{words}",
            "Сосчитай слова: {words}",
            "{words}\nСколько слов в списке?",
        ],
        language="ru",
    ),
    tags={"language": "ru", "inputs": "words_ru", "kind": "counting"},
)
