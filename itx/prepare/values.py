# SPDX-License-Identifier: Apache-2.0
"""Whether the values that `fields` gives can be used: each fault is told, or counted under its
reason, before any of them reaches a prompt.

A slot takes a text, a number or a date. A list, a dict, a truth value or NaN would be shown as
Python writes it, which no task means: `fields` is where it becomes a text.
"""

import datetime
import numbers
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from itx import text
from itx.errors import did_you_mean
from itx.prepare.records import Bad
from itx.tasks import templates
from itx.tasks.spec import TaskSpec, Template, Values

_OUTSIDE = "label outside the options"
EXAMPLE_TAGS = "example_tags"  # a value of `fields` that no prompt shows
SHOWN = 60  # characters of a value that a message shows
_DATES = (datetime.date, datetime.time, datetime.timedelta)


class Answers(NamedTuple):
    references: tuple[str, ...]
    options: tuple[str, ...] | None
    index: int | None  # of the right option


def shown(value: Any, most: int = SHOWN) -> str:
    """A value for a message, in so many characters."""
    told = repr(value)
    return told if len(told) <= most else told[:most] + "…"


def _not_shown(value: Any) -> str:
    """Why a value can stand in no prompt; "" where it can."""
    if isinstance(value, str) or (isinstance(value, _DATES) and value == value):
        return ""
    if isinstance(value, (bool, *_DATES)) or not isinstance(value, numbers.Number):
        return f"is {shown(value)}, neither a text nor a number"
    finite = value == value and abs(value) != float("inf")
    return "" if finite else f"is {value}, which is no number"


def answers(spec: TaskSpec, values: Values) -> Answers | Bad:
    """The references, the options and the right one of an example."""
    options = values.get("options", spec.options)
    if options is not None:
        if not isinstance(options, (list, tuple)):
            return Bad("unusable options", f"the options are {shown(options)}, not a list")
        for i, option in enumerate(options):
            if why := _not_shown(option):
                return Bad("unusable options", f"option {i} {why}")
        options = tuple(map(str, options)) or None
    if options and any(map(text.blank, options)):
        return Bad("unusable options", f"an empty text among the options {shown(options)}")
    if "answer" not in values:
        return Bad("no answer", "fields() gave no 'answer'" + did_you_mean("answer", values))
    answer = values["answer"]
    if isinstance(answer, numbers.Integral) and not isinstance(answer, bool):
        if options is None:
            return Bad(
                "an index without options",
                f"answer {answer} is the index of an option, but there are none; a text is "
                f"{str(answer)!r}",
            )
        if 0 <= answer < len(options):
            return Answers((options[answer],), options, int(answer))
        return Bad(_OUTSIDE, f"label {answer} is outside the options {options}")
    references = (answer,) if isinstance(answer, str) else answer
    if not isinstance(references, (list, tuple)) or not all(isinstance(r, str) for r in references):
        told = f"answer {shown(answer)} is neither an option's index, a text nor a list of texts"
        return Bad("unusable answer", told)
    if not references or any(map(text.blank, references)):
        return Bad("empty answer", f"an empty answer ({shown(answer)})")
    references = tuple(references)
    if not options:
        return Answers(references, options, None)
    if references[0] not in options:
        told = f"answer {shown(references[0])} is not among the options {options}"
        return Bad(_OUTSIDE, told)
    return Answers(references, options, options.index(references[0]))


def example_tags(values: Values) -> dict[str, str] | Bad:
    """What `fields` says of an example beside its content: {name: a text or a number}."""
    given = values.get(EXAMPLE_TAGS, {})
    if not isinstance(given, dict):
        return Bad("unusable tags", f"{EXAMPLE_TAGS} is {shown(given)}, not a dict")
    for name, value in given.items():
        why = _not_shown(value) if isinstance(name, str) else "has a name that is no text"
        if why:
            return Bad("unusable tags", f"{EXAMPLE_TAGS}: {shown(name)} {why}")
    return {name: str(value) for name, value in given.items()}


def slots(among: Iterable[Template]) -> list[str]:
    """The fields that some templates show, in order."""
    return list(dict.fromkeys(s for t in among for part in t for s in templates.slots(part)))


def every_slot(spec: TaskSpec) -> list[str]:
    """The fields that any wording of a task shows, but its answer and its options, which `answers`
    looks at."""
    cot = (*spec.cot.templates, *spec.cot.heldout_templates) if spec.cot else ()
    every = slots((*spec.templates, *spec.heldout_templates, *spec.inverted, *cot))
    return [s for s in every if s not in ("answer", "options")]


def unusable(values: Values, fields: Sequence[str]) -> Bad | None:
    """The first field that can stand in no prompt; fields: `every_slot` of the task."""
    for name in fields:
        if name in values and (why := _not_shown(values[name])):
            return Bad("unusable field", f"the field {name!r} {why}")
    return None


def incomplete(values: Values, fields: Sequence[str], options: Any) -> Bad | None:
    """What some wordings ask of an example that it does not have; fields: the `slots` of these
    wordings."""
    for name in fields:
        if name == "options" and not (values.get("options") or options):
            return Bad("no options", "there are no options to show")
        if name in ("answer", "options"):
            continue
        if name not in values:
            return Bad("missing field", f"there is no field {name!r}" + did_you_mean(name, values))
        if text.blank(str(values[name])):
            return Bad("empty field", f"the field {name!r} is empty")
    return None
