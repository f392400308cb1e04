# SPDX-License-Identifier: Apache-2.0
"""What is known of each question that a model was asked, as conditions that slices are made of.

observation  one answer: a row's example in one of its templates
example      the same content of a task, in whichever rows and templates it was asked
condition    what holds of some observations and not of others: a feature with one value
             (`label = yes`), a length above a limit, a word or a group of people in the prompt

Conditions come from the predictions and the lock alone; no model is asked.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from itx import group_terms, text
from itx.eval import stats
from itx.eval.predictions import PredictionLine

GROUPS = ("instances", "templates", "tasks", "clusters", "extra")  # whose rows are analysed
MIN_EXAMPLES = 10  # inside a slice and outside it
MAX_VALUES = 20  # of a label, or of a tag: tasks with more labels have open answers
LENGTH_QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
WORD_SHARES = (0.02, 0.6)  # of the examples, within which a word tells some apart
MAX_WORDS = 150
MIN_LETTERS = 3  # of an alphabet that a prompt is said to have
TOO_FEW = f"conditions of fewer than {MIN_EXAMPLES} examples, or of all but as few"
SAME_ANSWERS = "conditions that hold of the same answers as another"
TOO_MANY_VALUES = f"tags of more than {MAX_VALUES} values"
TOO_MANY_WORDS = f"words beyond the {MAX_WORDS} that split their tasks most evenly"

KNOWN, WORD = "known", "word"  # kinds of conditions, which share the findings' error rate


class Condition(NamedTuple):
    feature: str  # task, template, label, …
    text: str  # for people: `label = yes`
    kind: str  # KNOWN, or WORD: found among the words of the prompts
    holds: np.ndarray  # bool [observations]


class Observations(NamedTuple):
    """Answers of a run to the rows that are analysed, in columns."""

    lines: list[PredictionLine]
    rows: list[str]  # name of the row of each
    scores: np.ndarray  # float [observations], 0 to 1
    tasks: np.ndarray  # int [observations]: place in `task_names`
    examples: np.ndarray  # int [observations]: equal where task and content are
    task_names: list[str]
    clusters: list[str]  # of each task


def observations(
    rows: dict[str, dict], read: Callable[[str], list[PredictionLine]]
) -> Observations:
    """Of the rows of GROUPS.

    Args:
        rows: what scores.json holds of each.
        read: gives the predictions of a row.
    """
    lines: list[PredictionLine] = []
    names: list[str] = []
    for name, row in rows.items():
        if row["group"] in GROUPS:
            own = read(name)
            lines += own
            names += [name] * len(own)
    tasks = [rows[n]["task"] for n in names]
    task_names = sorted(set(tasks))
    cluster_of = {rows[n]["task"]: rows[n]["cluster"] for n in names}
    numbers: dict[tuple[str, str], int] = {}
    examples = [
        numbers.setdefault((t, x["id"]), len(numbers)) for t, x in zip(tasks, lines, strict=True)
    ]
    return Observations(
        lines,
        names,
        np.array([x["score"] for x in lines], float),
        np.array([task_names.index(t) for t in tasks], np.int64),
        np.array(examples, np.int64),
        task_names,
        [cluster_of[t] for t in task_names],
    )


def kept(of: Observations, keep: np.ndarray) -> Observations:
    """Those where `keep` [observations] is true."""
    return of._replace(
        lines=[x for x, k in zip(of.lines, keep, strict=True) if k],
        rows=[r for r, k in zip(of.rows, keep, strict=True) if k],
        scores=of.scores[keep],
        tasks=of.tasks[keep],
        examples=of.examples[keep],
    )


class Conditions(NamedTuple):
    found: list[Condition]
    untested: dict[str, int]  # reason -> conditions


def conditions(
    of: Observations, rows: dict[str, dict], tags: dict[str, dict[str, str]]
) -> Conditions:
    """Every condition that holds of at least MIN_EXAMPLES examples and not of as many, each set of
    observations once: where two conditions hold of the same, the one that comes first names it.

    Args:
        rows: what scores.json holds of each row.
        tags: of each task.
    """
    found: dict[bytes, Condition] = {}
    untested: Counter = Counter()
    for condition in every_condition(of, rows, tags, untested):
        if not enough(of, condition.holds):
            untested[TOO_FEW] += 1
        elif (key := condition.holds.tobytes()) in found:
            untested[SAME_ANSWERS] += 1
        else:
            found[key] = condition
    return Conditions(list(found.values()), {why: n for why, n in untested.items() if n})


def every_condition(
    of: Observations,
    rows: dict[str, dict],
    tags: dict[str, dict[str, str]],
    untested: Counter,
) -> Iterator[Condition]:
    """All that `conditions` chooses from.

    Args:
        untested: gets why others are none, and how many.
    """
    prompts = [text.normalise(x["prompt"]) for x in of.lines]
    yield from _known(of, rows, tags, untested)
    yield from _alphabets(of)
    yield from _lengths(of)
    yield from _groups(prompts)
    yield from _words(of, prompts, untested)


def enough(of: Observations, holds: np.ndarray) -> bool:
    """Whether MIN_EXAMPLES examples are inside a slice and as many outside."""
    return all(
        np.count_nonzero(np.bincount(of.examples[side])) >= MIN_EXAMPLES for side in (holds, ~holds)
    )


def _known(
    of: Observations, rows: dict[str, dict], tags: dict[str, dict[str, str]], untested: Counter
) -> Iterator[Condition]:
    """One for each value of what the lock and the predictions say of an observation."""
    labels = _labels(of)
    columns: dict[str, list[str | None]] = {
        "task": [of.task_names[t] for t in of.tasks],
        "cluster": [of.clusters[t] for t in of.tasks],
        "group": [rows[r]["group"] for r in of.rows],
        "variant": [rows[r]["variant"].partition(":")[2].partition("#")[0] for r in of.rows],
        "relation to training": [rows[r]["relation"] for r in of.rows],
        "template": [x["template"] for x in of.lines],
        "label": labels,
        "place of the right option": [_place(x) for x in of.lines],
        "options": [str(len(x["options"])) if x["options"] else None for x in of.lines],
        "exemplars": [str(x["shots"]) if "shots" in x else None for x in of.lines],
        "script of the prompt": [text.script(x["prompt"]) for x in of.lines],
        "script of the answer": [text.script(" ".join(x["references"])) for x in of.lines],
    }
    own_tags = [
        {**tags.get(of.task_names[t], {}), **x.get("example_tags", {})}
        for t, x in zip(of.tasks, of.lines, strict=True)
    ]
    for tag in sorted({tag for own in own_tags for tag in own}):
        values = [own.get(tag) for own in own_tags]
        if len(set(values) - {None}) > MAX_VALUES:
            untested[TOO_MANY_VALUES] += 1
        else:
            columns[f"tag {tag}"] = values
    for feature, values in columns.items():
        column = np.array([v if v is not None else "" for v in values], object)
        for value in sorted({v for v in values if v}):
            yield Condition(feature, f"{feature} = {value}", KNOWN, column == value)


def _labels(of: Observations) -> list[str | None]:
    """The right answer, where a task has few."""
    first = [x["references"][0] if x["references"] else None for x in of.lines]
    by_task = stats.grouped(zip(of.tasks.tolist(), first, strict=True))
    few = {t for t, values in by_task.items() if len(set(values)) <= MAX_VALUES}
    return [a if t in few else None for t, a in zip(of.tasks.tolist(), first, strict=True)]


def _place(line: PredictionLine) -> str | None:
    """Where the right option stands, from 1."""
    return None if line["answer_index"] is None else str(line["answer_index"] + 1)


def _alphabets(of: Observations) -> Iterator[Condition]:
    """Prompts with a word of an alphabet, whichever the wording around it is written in."""
    found = [text.scripts(x["prompt"]) for x in of.lines]
    for name in sorted({s for own in found for s in own}):
        holds = np.array([own[name] >= MIN_LETTERS for own in found])
        yield Condition("alphabet", f"prompt has {name} letters", KNOWN, holds)


def _lengths(of: Observations) -> Iterator[Condition]:
    """Prompts, and answers, from a length on, at quantiles of all lengths."""
    sizes = np.array([len(x["prompt"]) for x in of.lines])
    for limit in _limits(sizes):
        for holds, sign in ((sizes >= limit, "at least"), (sizes < limit, "under")):
            yield Condition("length", f"prompt of {sign} {limit} characters", KNOWN, holds)
    longest = max((len(r) for x in of.lines for r in x["references"]), default=0)
    if longest:
        answers = np.array([max(map(len, x["references"]), default=0) for x in of.lines])
        for limit in _limits(answers):
            named = f"right answer of at least {limit} characters"
            yield Condition("answer length", named, KNOWN, answers >= limit)


def _limits(sizes: np.ndarray) -> list[int]:
    return sorted({int(np.ceil(np.quantile(sizes, q))) for q in LENGTH_QUANTILES})


def _groups(prompts: list[str]) -> Iterator[Condition]:
    """Prompts that name a group of people."""
    named = [set(group_terms.named(p)) for p in prompts]
    for group in group_terms.GROUPS:
        holds = np.array([group in own for own in named])
        yield Condition(f"names {group.kind}", f"names {group.name}", KNOWN, holds)


def _words(of: Observations, prompts: list[str], untested: Counter) -> Iterator[Condition]:
    """Words that stand in some prompts of a task and not in others, those first that split their
    tasks most evenly; how many more there are is counted in `untested`."""
    sets = [frozenset(text.words(p)) for p in prompts]
    per_task: dict[int, Counter] = {}
    for task, own in zip(of.tasks.tolist(), sets, strict=True):
        per_task.setdefault(task, Counter()).update(own)
    asked = Counter(of.tasks.tolist())
    varies: Counter = Counter()
    for task, counts in per_task.items():
        for word, n in counts.items():
            varies[word] += n * (asked[task] - n) / asked[task]
    whole = Counter(w for own in sets for w in own)
    low, high = (share * len(sets) for share in WORD_SHARES)
    usable = [w for w in whole if low <= whole[w] <= high and varies[w] > 0]
    untested[TOO_MANY_WORDS] += max(0, len(usable) - MAX_WORDS)
    for word in sorted(usable, key=lambda w: (-varies[w], w))[:MAX_WORDS]:
        holds = np.array([word in own for own in sets])
        yield Condition("word", f"prompt says “{word}”", WORD, holds)
