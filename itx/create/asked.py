# SPDX-License-Identifier: Apache-2.0
"""What refinement asks a generator (generators.py): which answer of a training row is right, and
for rows like some that are shown. Answers are text that is read as data: a number, or an object of
JSON whose texts are those of the task."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from itx import hashing
from itx.create import filters, review
from itx.create.generators import CUT, FAILED, MAX_SEED, Ask, Completion, Request, request_for
from itx.create.review import Shown
from itx.create.row import Row
from itx.errors import RunFailed, UserError
from itx.prepare import examples, patches
from itx.prepare.types import Item
from itx.tasks.spec import TaskSpec, Values

SHOWN = 6  # rows that a request for further ones shows
WRITTEN = 8  # rows that it asks for
MOST_TIMES = 3  # as many requests as would do if all rows were sound
MAX_TOKENS = {"label": 8, "rows": 1200}
TEMPERATURE = 0.7  # of new rows, as for instructions in Self-Instruct
OF_WORDING = ("template = ", "group = ", "variant = ", "relation to training = ", "exemplars = ")
_NUMBER = re.compile(r"\D*(\d{1,3})\b")


def _request(prompt: str, kind: str, chat: bool, seed: int = 0) -> Request:
    temperature = TEMPERATURE if kind == "rows" else 0.0
    how = {"max_tokens": MAX_TOKENS[kind], "temperature": temperature, "seed": seed}
    return request_for(prompt, chat, **how)


def _answers(ask: Ask, requests: list[Request]) -> list[Completion]:
    """The answers; RunFailed where there is none at all."""
    said = ask(requests) if requests else []
    if said and all(x.finish == FAILED for x in said):
        raise RunFailed(f"the generator gave no answer ({said[0].error}); nothing is written")
    return said


# ---- labels


def labels(
    ask: Ask, rows: Sequence[tuple[TaskSpec, Item]], others: Sequence[str], chat: bool
) -> list[str | None]:
    """The answer that a generator chooses for each row, among the task's options, or where there
    are none between its label and another answer; None where its answer cannot be read."""
    choices, requests = [], []
    for (spec, item), other in zip(rows, others, strict=True):
        shown = review.row_facts(Shown(spec, item))
        among = shown["options"] or _two(item, other)
        choices.append(among)
        said = "\n".join(f"{f['says']}: {f['text']}" for f in _asked(shown))
        listed = "\n".join(f"{n}. {option}" for n, option in enumerate(among, 1))
        prompt = (
            f"Here is an example of a task.\n\n{said}\n\nWhich of these answers is right?\n{listed}"
            "\n\nReply with its number alone.\nNumber:"
        )
        requests.append(_request(prompt, "label", chat))
    read = []
    for among, answer in zip(choices, _answers(ask, requests), strict=True):
        found = _NUMBER.match(answer.text) if answer.finish != FAILED else None
        number = int(found[1]) if found else 0
        read.append(among[number - 1] if 1 <= number <= len(among) else None)
    return read


def _two(item: Item, other: str) -> list[str]:
    """A row's label and what else was said, in an order that does not tell which is which."""
    given = item.values["answer"]
    label = given if isinstance(given, str) else str(given[0])
    both = sorted({label, other.strip()} - {""})
    return both if hashing.draw("two", item.hash) % 2 else both[::-1]


def _asked(shown: dict[str, Any]) -> list[dict[str, Any]]:
    """A row's fields but its answer and options."""
    return [f for f in shown["fields"] if not f["at"].startswith(("/answer", "/options"))]


# ---- rows


def written(
    ask: Ask,
    spec: TaskSpec,
    shown: Sequence[Item],
    every: Sequence[Item],
    conditions: Sequence[str],
    most: int,
    seed: int,
    chat: bool,
    counts: Counter,
) -> list[tuple[Values, str]]:
    """[(values of a new row, the request that made it)], at most `most`.

    Args:
        shown: rows of the slice, some of which each request shows.
        every: the task's training rows, which no new one may repeat.
        counts: gets why what was written is no row.
    """
    if not spec.templated:
        raise UserError(f"task {spec.name!r}: only rows of instruction tasks are generated")
    seen = {examples.identity_of(spec, i.values) for i in every}
    sound, made = filters.every(), []
    needed = -(-most // WRITTEN)
    for turn in range(MOST_TIMES):
        if len(made) >= most:
            break
        requests = [
            _rows_request(spec, shown, conditions, (seed, turn, n), chat) for n in range(needed)
        ]
        for request, answer in zip(requests, _answers(ask, requests), strict=True):
            for values in _read(spec, shown[0], answer, counts):
                if why := _flaw(spec, values, sound, seen):
                    counts[f"not added: {why}"] += 1
                elif len(made) < most:
                    made.append((values, f"request {request.digest}"))
    if len(made) < most:
        counts["fewer than were asked for"] += most - len(made)
    return made


def _rows_request(
    spec: TaskSpec, shown: Sequence[Item], conditions: Sequence[str], place: tuple, chat: bool
) -> Request:
    drawn = sorted(shown, key=lambda i: hashing.draw("asked", *place, i.hash))[:SHOWN]
    lines = "\n".join(json.dumps(_said(spec, i), ensure_ascii=False) for i in drawn)
    told = f"In each of them: {'; '.join(conditions)}.\n" if conditions else ""
    prompt = (
        f"Here are examples of a task, a JSON object on each line:\n{lines}\n\nWrite {WRITTEN} new "
        f"ones of the same form, with other content and right answers, one on a line.\n{told}"
        "Write only the lines.\n"
    )
    seed = hashing.draw("asked", *place, spec.name) % (MAX_SEED + 1)
    return _request(prompt, "rows", chat, seed)


def _said(spec: TaskSpec, item: Item) -> dict[str, Any]:
    """A row as a generator is shown it: its texts, and the answer in words."""
    row = review.row_facts(Shown(spec, item))
    said = {f["at"][1:]: f["text"] for f in row["fields"]}
    return {**said, "answer": row["options"][row["answer"]["index"]]} if row["answer"] else said


def _read(spec: TaskSpec, like: Item, answer: Completion, counts: Counter) -> list[Values]:
    """The values of each line of an answer that is a row of the form of `like`."""
    if answer.finish == FAILED:
        counts[f"no answer ({answer.error})"] += 1
        return []
    lines = [x for x in answer.text.replace("\r\n", "\n").split("\n") if x.strip()]
    if answer.finish == CUT and lines:
        lines.pop()
        counts["not added: cut off"] += 1
    row, wanted, found = review.row_facts(Shown(spec, like)), _said(spec, like), []
    for line in lines:
        try:
            held = json.loads(line)
        except ValueError:
            held = None
        if not isinstance(held, dict) or held.keys() != wanted.keys():
            counts["not added: not of the form that was shown"] += 1
            continue
        try:
            changes = _changes(row, held)
            values = patches.changed(like.values, changes, spec.name)
            found.append(patches.made(spec, "new", values, spec.name).values)
        except UserError:
            counts["not added: no example of the task"] += 1
    return found


def _changes(row: dict[str, Any], held: dict[str, Any]) -> dict[str, Any]:
    changes = {at: held[f["at"][1:]] for f in row["fields"] for at in (f["at"], *f["also"])}
    if answer := row["answer"]:
        if held["answer"] not in row["options"]:
            raise UserError("the answer is none of the options")
        place = row["options"].index(held["answer"])
        changes[answer["at"]] = held["answer"] if answer["text"] else place
    return changes


def _flaw(spec: TaskSpec, values: Values, sound: dict[str, filters.Filter], seen: set[int]) -> str:
    """Why a row is not added; "" for one that is, which is then among those seen."""
    identity = examples.identity_of(spec, values)
    if identity in seen:
        return "it is there already"
    row = review.row_facts(Shown(spec, patches.made(spec, "new", values, spec.name)))
    texts = "\n".join(str(f["text"]) for f in _asked(row))
    answer = row["options"][row["answer"]["index"]] if row["answer"] else str(values["answer"])
    found = filters.verdicts(Row(texts, "", answer, tuple(row["options"])), sound)
    if found:
        return f"filter {next(iter(found))}"
    seen.add(identity)
    return ""
