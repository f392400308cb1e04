# SPDX-License-Identifier: Apache-2.0
"""What a review page shows: training examples as their texts, each under its place (a JSON
pointer), with what names the row in a patch (itx/prepare/patches.py).

Texts of an example that are equal are one field, so that a change of one is a change of all: a task
may show the same request in two ways.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from itx import hashing
from itx.config import DataConfig
from itx.errors import UserError, did_you_mean
from itx.prepare import patches
from itx.prepare import values as checks
from itx.prepare.types import Item
from itx.tasks import registry
from itx.tasks.spec import TaskSpec, Values

TAGS = ("wrong", "unclear", "too easy", "harmful", "personal data", "off topic")
MOST_TAGS = 9  # a digit each
# A new conversation begins as one question and its answer.
_BLANK_TALK = {"messages": [{"role": "user", "content": ""}, {"role": "assistant", "content": ""}]}


class Shown(NamedTuple):
    """An example that is to be judged."""

    spec: TaskSpec
    item: Item
    note: str = ""  # why it is shown


def training_items(spec: TaskSpec, data: DataConfig, counts: Counter | None = None) -> list[Item]:
    """The examples that a build trains on, data.patches applied.

    Args:
        counts: as `examples.items` takes it.
    """
    counts = Counter() if counts is None else counts
    return patches.training_examples(spec, data, counts, {}).items


def task_of(what: str, root: str) -> TaskSpec:
    """The task of a name, or the one whose training rows a file holds; UserError where there is
    none."""
    if not Path(what).is_file():
        return registry.task(what, root)
    file = Path(what).resolve()
    members = [m for family in registry.FAMILIES for m in _members(family, root)]
    for name in [*registry.TASKS, *members]:
        spec = registry.task(name, root)
        named = [f for f in spec.source.files.values() if isinstance(f, str)] if spec.source else []
        if any((Path(root) / f).resolve() == file for f in named):
            return spec
    raise UserError(
        f"{what}: no task reads this file, and a patch is of a task's rows; tasks/files.py has "
        f"calls to copy{did_you_mean(what, registry.TASKS)}"
    )


def _members(family: str, root: str) -> list[str]:
    try:
        return registry.expand(f"{family}.*", root)
    except UserError:
        return []  # a family whose folder is absent reads no file


def facts(
    shown: Sequence[Shown],
    title: str,
    editor: str = "",
    tags: Sequence[str] = TAGS,
    left_out: Sequence[str] = (),
) -> dict[str, Any]:
    """All that the page is made of.

    Args:
        left_out: sentences on what is not shown.
    """
    if not shown:
        raise UserError(f"{title}: there is no row to review")
    if len(tags) > MOST_TAGS:
        raise UserError(f"--tags: {len(tags)} tags, and a page has keys for {MOST_TAGS}")
    rows = [row_facts(x) for x in shown]
    firsts = {x.spec.name: x for x in reversed(shown)}
    return {
        "title": title,
        "digest": hashing.digest(*(f"{r['task']} {r['row']}" for r in rows)),
        "editor": editor,
        "tags": list(tags),
        "left_out": list(left_out),
        "tasks": {name: _blank(x) for name, x in firsts.items()},
        "rows": rows,
    }


def row_facts(x: Shown) -> dict[str, Any]:
    values = patches.as_plain(x.item.values)
    answers = checks.answers(x.spec, values) if x.spec.templated else None
    options = list(answers.options or ()) if isinstance(answers, checks.Answers) else []
    answer = _answer(values, answers) if options else None
    hidden = {"/answer"} if answer and not answer["text"] else set()
    return {
        "task": x.spec.name,
        "id": x.item.id,
        "content": f"{x.item.hash:016x}",
        "row": patches.row_of(x.item.values),
        "fields": _fields(values, lambda at: at not in hidden),
        "options": options,
        "answer": answer,
        "note": x.note,
    }


def _answer(values: Values, answers: checks.Answers) -> dict[str, Any]:
    """Where the answer stands, whether it is a text, and which option it is."""
    given = values["answer"]
    at = "/answer/0" if isinstance(given, list | tuple) else "/answer"
    return {"at": at, "text": not isinstance(given, int), "index": answers.index}


def _fields(values: Values, wanted: Callable[[str], bool]) -> list[dict[str, Any]]:
    """The texts and whole numbers of an example; equal texts are one field."""
    fields: dict[Any, dict[str, Any]] = {}
    for at, value in patches.leaves(values).items():
        number = isinstance(value, int) and not isinstance(value, bool)
        if not wanted(at) or not (number or isinstance(value, str)):
            continue
        key = value if value and not number else at
        name = at[1:].replace("/", " ")
        if key in fields:
            fields[key]["also"].append(at)
            fields[key]["says"] += f", {name}"
        else:
            fields[key] = {"at": at, "says": name, "text": value, "number": number, "also": []}
    return list(fields.values())


def _blank(x: Shown) -> dict[str, Any]:
    """What a new pair of the task is filled into: the values of an example, emptied."""
    values = _BLANK_TALK if x.spec.kind == "chat" else patches.as_plain(x.item.values)
    pointers = patches.leaves(values)
    fields = _fields(values, lambda at: not at.endswith("/role"))
    if x.spec.kind == "chat":
        texts = ("/messages/0/content", "/messages/1/content")
        said = ("user", "assistant")
        fields = [
            {"at": at, "says": s, "text": "", "number": False, "also": []}
            for at, s in zip(texts, said, strict=True)
        ]
    options = values.get("options", x.spec.options)
    for field in fields:
        if field["at"] == "/answer" and field["number"]:
            field["says"] = "answer, by its number from 0: " + ", ".join(map(str, options))
    empty = {at: "" for at, v in pointers.items() if isinstance(v, str) and "/role" not in at}
    return {"blank": patches.changed(values, empty, x.spec.name), "fields": fields}
