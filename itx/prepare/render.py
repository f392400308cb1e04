# SPDX-License-Identifier: Apache-2.0
"""From an example to its rendering by templates: pure functions of (render_seed, task, example,
rendering).

    example --fields()--> values --render()--> Rendered(prompt, target, …) --encode()--> record

Rendering r of an example uses template (h + r) mod T, h = hash(render_seed, task, example id):
epoch 0 already mixes all T templates, and T epochs show an example in each of them once.
"""

import dataclasses
import datetime
import json
import numbers
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

from itx import text
from itx.data.cache import Record
from itx.data.vocabulary import Vocabulary
from itx.errors import UserError, did_you_mean
from itx.hashing import draw
from itx.prepare import values as checks
from itx.prepare.records import Bad
from itx.prepare.types import Item, Rendered
from itx.tasks import names, templates
from itx.tasks.spec import TaskSpec, Template, Values
from itx.text_format import prompts
from itx.text_format.pieces import encoded
from itx.text_format.prompts import PromptFormat

# Raise it when a change here alters a rendering, or one of the cache's format: it is part of every
# cache key.
RENDER_VERSION = 7
WHOLE: Template = ("", "")  # stands for the run's chat template, or for plain text as it is
NOT_CONTENT = ("answer", "options", "rationale", checks.EXAMPLE_TAGS)


def content_of(spec: TaskSpec, values: Values) -> str:
    """The canonical input: the content fields' normalised texts, a line each."""
    given = [values[k] for k in content_fields(spec, values)]
    return "\n".join(text.normalise(v if isinstance(v, str) else as_json(v)) for v in given)


def content_fields(spec: TaskSpec, values: Values) -> Sequence[str]:
    """The names of the fields whose content decides split and identity."""
    keys = spec.content or [k for k in values if k not in NOT_CONTENT]
    for k in keys:
        if k not in values:
            near = did_you_mean(k, values)
            raise UserError(
                f"task {spec.name!r}: content={spec.content} names no field {k!r}{near}"
            )
    return keys


def shared_fields(spec: TaskSpec, values: Values) -> Values:
    """What examples share that are one: the content fields and the options."""
    options = {"options": values["options"]} if "options" in values else {}
    return {k: values[k] for k in content_fields(spec, values)} | options


def identity(shared: Any) -> int:
    """64 bits of what two examples share that are one: in NFC, white space around a text aside.
    Case, superscripts and indentation tell examples apart that have the same content."""
    return draw("identity", unicodedata.normalize("NFC", as_json(trimmed(shared), sort_keys=True)))


def as_json(value: Any, **how: Any) -> str:
    """Values of fields in JSON, dates and numbers of any type included; TypeError for others."""
    return json.dumps(value, ensure_ascii=False, default=plain, **how)


def plain(value: Any) -> Any:
    """A content field's value that JSON does not know: a date, an exact number, NumPy's."""
    if isinstance(value, (datetime.date, datetime.time, datetime.timedelta, numbers.Number)):
        return str(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    kind = type(value).__name__
    raise TypeError(
        f"a content field holds {kind}: fields() must make a text, a number or a list of it"
    )


def trimmed(value: Any) -> Any:
    """The value with no white space around any of its texts."""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, dict):
        return {k: trimmed(v) for k, v in value.items()}
    return [trimmed(v) for v in value] if isinstance(value, (list, tuple)) else value


def answers(spec: TaskSpec, values: Values, where: str) -> checks.Answers:
    """(references, options, index of the right option) of an example; a label outside the options
    is an error."""
    given = checks.answers(spec, values)
    if isinstance(given, Bad):
        raise UserError(f"{where}: {given.detail}")
    return given


def choices(spec: TaskSpec, variant: names.Variant, which: str = "train") -> Sequence[Template]:
    """The templates a variant may use: the training ones or ("heldout") the held-out ones."""
    held = which == "heldout"
    if not spec.templated:
        return [] if held else [WHOLE]
    if variant.inverted:
        among = () if held else spec.inverted
    elif variant.cot:
        cot = spec.cot
        among = () if cot is None else cot.heldout_templates if held else cot.templates
    else:
        among = spec.heldout_templates if held else spec.templates
    if variant.template:
        among = [t for t in among if templates.template_id(t) == variant.template]
    return [tuple(t) for t in templates.with_options(among, variant.options)]


def render(
    spec: TaskSpec,
    variant: names.Variant,
    item: Item,
    rendering: int,
    render_seed: int,
    among: Sequence[Template] | None = None,
    exemplars: Sequence[Item] = (),
) -> Rendered:
    """Render one example.

    Args:
        among: the templates that are drawn from; default: the variant's training templates.
        exemplars: stand before it in the same template and the same style of options, prompt and
            target joined by a space, as the model sees its own prompt and target joined.
    """
    among = choices(spec, variant) if among is None else among
    if not among:
        raise UserError(f"{variant}: the task has no template for this variant")
    h = draw(render_seed, spec.name, item.id)
    template = among[(h + rendering) % len(among)]
    styles = spec.option_styles
    style = templates.OPTION_STYLES[styles[draw(h, "style", rendering) % len(styles)]]
    prompt, target, references, shown, index = _filled(spec, item, template, style, h)
    before = [_filled(spec, e, template, style, draw(h, e.id))[:2] for e in exemplars]
    turns = (*(text for shot in before for text in shot), prompt)
    prompt = spec.shot_separator.join([*map(" ".join, before), prompt])
    pattern = templates.answer_pattern(template[1])
    if variant.inverted:
        references, shown, index, pattern = (target,), None, None, None
    shots = tuple(e.hash for e in exemplars)
    name = templates.template_id(template)
    return Rendered(name, prompt, target, references, shown, index, pattern, shots, turns)


def _filled(spec: TaskSpec, item: Item, template: Template, style: Callable, h: int) -> tuple:
    """(prompt, target, references, options as shown, index of the right one) of one example; h
    draws the options' order."""
    where = f"task {spec.name!r}, example {item.id}"
    references, options, index = answers(spec, item.values, where)
    values = {**item.values, "answer": references[0]}
    if options is None:
        values.pop("options", None)  # an empty list
    else:
        order = list(range(len(options)))
        if spec.shuffle_options:
            order.sort(key=lambda i: draw(h, "option", i))
        options = tuple(options[i] for i in order)
        index = order.index(index) if index is not None else None
        values["options"], called = style(options)
        # Where the prompt shows no list, an option is called by its text.
        if "options" in templates.slots(template[0]) and tuple(called) != options:
            options = tuple(called)
            if index is not None:
                values["answer"] = options[index]
                references = (options[index],)
    prompt, target = (templates.fill(text, values, where) for text in template)
    return prompt, target, references, options, index


def put_to(how: PromptFormat, r: Rendered, where: str, vocabulary: Vocabulary) -> Rendered:
    """A rendering with what the run's chat template makes of it; itself where prompts are plain."""
    if not (messages := how.messages(r.prompt, r.turns)):
        return r
    pieces = prompts.pieces(how.template, messages, r.target, where, vocabulary)
    return dataclasses.replace(r, messages=messages, pieces=pieces)


def encode(rendered: Sequence[Rendered], vocabulary: Vocabulary) -> list[Record]:
    """Records of two pieces: the prompt, encoded alone, and the trained target behind it and a
    space. What a chat template wrote has its own pieces."""
    plain = [r for r in rendered if not r.pieces]
    before = vocabulary.encode_batch([r.prompt for r in plain])
    targets = vocabulary.following([r.target for r in plain])
    pairs = iter([[(p, False), (t, True)] for p, t in zip(before, targets, strict=True)])
    return [encoded(r.pieces, vocabulary) if r.pieces else next(pairs) for r in rendered]
