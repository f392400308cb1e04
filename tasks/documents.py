# SPDX-License-Identifier: Apache-2.0
"""Plain text that shows what the toy suite's English tasks are about and asks nothing: what a small
model is pretrained on before it is tuned (configs/studies/README.md).

    toy_documents   150,000 documents, of which a hundredth is validation, and another test
    few_documents   3,000 of them, for quick variants

A document lays out one input of a family (tasks/toy/generate.py), drawn from a stream of its own,
and states in sentences what holds of it:

    horse table bread
    The first word is horse. So the list backwards would be bread table horse.

A thing that is said, "the first word", is a phrase of SKILLS, and what is said of it is the answer
that the task of that name gives. No sentence is a question, a command or a template of a task;
itx/study/purity.py proves that of every document, and the build leaves out those that hold an input
of a test split.
"""

import random
from collections.abc import Callable, Iterator

from itx.tasks.registry import TASKS, text_task
from itx.tasks.spec import Source, function
from tasks.toy import dates, lists, lookup, numbers, rules, strings, translation, word_problems
from tasks.toy.generate import NAMES, NOUNS, THINGS, tallies, words_of

DOCUMENTS = {"toy_documents": 150_000, "few_documents": 3_000}
SAID = (2, 5)  # sentences of a document, at least and at most
ALONE = 0.3  # share of documents in which the input stands within the one sentence

# {family: (draws an input, its text, {task: what its answer is called})}, the words in braces being
# fields of the task's
SKILLS: dict[str, tuple[Callable[[random.Random], dict], str, dict[str, tuple[str, ...]]]] = {
    "words": (
        words_of(NOUNS),
        "{words}",
        {
            "first_word": ("the first word", "the starting word"),
            "second_word": ("the second word", "word number two"),
            "third_word": ("the third word", "word number three"),
            "last_word": ("the last word", "the final word"),
            "word_after": ("the word after {query}", "the word following {query}"),
            "has_word": ("whether {probe} is among them",),
            "reverse_words": ("the reversed list", "the list backwards"),
            "drop_first": ("the list without its first word",),
            "first_and_last": ("the first and last word",),
            "reverse_rest": ("the list backwards without its first word",),
            "count_words": ("the word count", "the list length"),
        },
    ),
    "repeats": (lists.repeats, "{words}", {"count_times": ("the number of times {query} comes",)}),
    "numbers": (
        numbers.numbers,
        "{numbers}",
        {
            "largest_number": ("the largest number", "the biggest number", "the maximum"),
            "smallest_number": ("the smallest number", "the minimum"),
            "third_number": ("the third number", "number three"),
            "sort_numbers": ("the sorted list", "the list from smallest to largest"),
        },
    ),
    "variables": (
        numbers.variables,
        "{facts}",
        {
            "sum": ("{x} plus {y}", "the sum"),
            "difference": ("the difference", "the larger number without the smaller one"),
            "one_more": ("{q} plus one", "one more than {q}"),
        },
    ),
    "tallies": (
        tallies,
        "{facts}",
        {
            "who_more": ("the person with more {item}", "the person with more"),
            "who_fewer": ("the person with fewer {item}", "the person with fewer"),
            "total_together": ("the total", "the total number of {item}"),
        },
    ),
    "gifts": (word_problems.gift, "{story}", {"gave_away": ("the number that {name} has now",)}),
    "market": (
        word_problems.market,
        "{story}",
        {"found_and_lost": ("the number of {item} now", "the number that {name} has now")},
    ),
    "plans": (
        dates.plans_of(NAMES),
        "{plan}",
        {
            "day_of": ("the day of {name}",),
            "day_after": ("the day after {name}", "the day after the day of {name}"),
            "day_before": ("the day before {name}", "the day before the day of {name}"),
        },
    ),
    "metres": (
        dates.measures_of(THINGS),
        "{facts}",
        {"m_to_cm": ("the {thing} in cm", "the length of the {thing} in cm")},
    ),
    "owners": (
        lookup.owners_of(NAMES, lookup.COLOURS, THINGS),
        "{passage}",
        {
            "thing_of": ("the thing {name} has", "the thing of {name}"),
            "colour_of": ("the colour {name} has", "the colour of the thing of {name}"),
            "owner_of": ("the {thing} owner", "the owner of the {thing}"),
        },
    ),
    "kinds": (rules.kinds, "{words}", {"word_of_kind": ("the word for {kind}",)}),
    "labels": (rules.kinds, "{rule}", {"label_by_rule": ("the label that {word} has",)}),
    "last labels": (
        rules.kinds,
        "{words}\n{rule}",
        {"label_last": ("the label that the final word has",)},
    ),
    "edits": (
        strings.edits_of(NOUNS, 3),
        "{words}",
        {
            "replace_word": ("the list with {new} where {old} was", "{new} put for {old}"),
            "put_after": ("the list with {new} after {old}", "the list with {new} behind {old}"),
            "remove_word": ("the list without {old}",),
            "swap_two": ("the list with {old} and {other} exchanged",),
        },
    ),
    "patterns": (
        strings.pattern,
        "{words}",
        {"next_word": ("the next word", "the following word")},
    ),
    "phrases": (translation.phrases, "{text}", {"en_to_lumo": ("the same in Lumo",)}),
    "dictionary": (
        translation.dictionary_of(translation.INVENTED),
        "{dictionary}",
        {"by_dictionary": ("the translation of {words}",)},
    ),
}
# `phrase` is what is spoken of, `answer` what is said of it, `name` anybody
SENTENCES = (
    "{phrase} is {answer}.",
    "It holds that {phrase} is {answer}.",
    "{name} wanted {phrase} and got {answer}.",
    "{name} says that {phrase} is {answer}.",
    "{phrase}: {answer}.",
    "So {phrase} would be {answer}.",
)
WITH_INPUT = (  # the same with the input, `shown`, within the sentence
    "In {shown} {phrase} is {answer}.",
    "For {shown} {name} gave {phrase}, which is {answer}.",
    "{phrase} in {shown} is {answer}.",
    "{phrase} of\n{shown}\nis {answer}.",
)


def document(draw: random.Random) -> str:
    one, shape, skills = SKILLS[draw.choices(list(SKILLS), [len(s[2]) for s in SKILLS.values()])[0]]
    example, name = one(draw), draw.choice(NAMES)
    said = draw.sample(list(skills), min(len(skills), draw.randint(*SAID)))
    alone = draw.random() < ALONE
    sentences = []
    for task in said[:1] if alone else said:
        values = TASKS[task].fields(example)
        phrase = draw.choice(skills[task]).format(**values)
        answer = values["answer"]
        if isinstance(answer, int):
            answer = TASKS[task].options[answer]
        shown = shape.format(**values)
        among = WITH_INPUT if alone else SENTENCES
        sentence = draw.choice(among).format(phrase=phrase, answer=answer, name=name, shown=shown)
        sentences.append(sentence[0].upper() + sentence[1:])
    return sentences[0] if alone else f"{shown}\n{' '.join(sentences)}"


def first(n: int) -> Source:
    """The first n documents."""

    def make(split: str, root: str, seed: int) -> Iterator[dict]:
        for i in range(n):
            yield {"text": document(random.Random(f"documents/{seed}/{i}"))}

    return function(make, {"train": 0.98, "validation": 0.01, "test": 0.01})


def text_fields(example: dict) -> dict:
    """The document as it stands."""
    return {"text": example["text"]}


for name, count in DOCUMENTS.items():
    text_task(
        name, version=1, cluster="text", objective="lm", fields=text_fields, source=first(count)
    )
