# SPDX-License-Identifier: Apache-2.0
"""From an example to its rendering: pure functions of (render_seed, task, example, rendering).

    example --fields()--> values --render()--> Rendered(prompt, target, …) --encode()--> record

Rendering r of an example uses template (h + r) mod T, h = hash(render_seed, task, example id):
epoch 0 already mixes all T templates, and T epochs show an example in each of them once.
"""

import datetime
import json
import numbers
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from itx import text
from itx.data.cache import CONFLICT, REPEATED, Record
from itx.data.vocabulary import Vocabulary
from itx.errors import UserError, did_you_mean
from itx.hashing import draw
from itx.prepare import sources
from itx.prepare import values as checks
from itx.prepare.records import Bad
from itx.tasks import chat, names, templates
from itx.tasks.spec import SPLITS, Skip, Source, TaskSpec, Template
from itx.text_format.pieces import Pieces, encoded

# Raise it when a change here alters a rendering, or one of the cache's format: it is part of every
# cache key.
RENDER_VERSION = 7
# Where a set ships no dev or test part: this share of train, by content hash
DEV_SHARE = 0.05
WHOLE: Template = ("", "")  # stands for the run's chat template, or for plain text as it is
NOT_CONTENT = ("answer", "options", "rationale")
SKIP_BAD = "; --data.skip_bad=True counts and skips such examples"


@dataclass(frozen=True)
class Item:
    """One example of a task's split: its values, and the identity that its content gives it."""

    id: str
    values: dict[str, Any]
    content: str  # the canonical input text
    hash: int  # of the content, 64 bits


@dataclass(frozen=True)
class Rendered:
    """A prompt, its gold target, and what scoring needs."""

    template: str
    prompt: str
    target: str
    references: tuple[str, ...]
    options: tuple[str, ...] | None
    answer_index: int | None
    extractor: str | None
    exemplars: tuple[int, ...] = ()  # hashes of the inputs of the examples shown before it
    pieces: Pieces = ()  # of a conversation


def content_of(spec: TaskSpec, values: dict[str, Any]) -> str:
    """The canonical input: the content fields' normalised texts, a line each."""
    if spec.chat:  # all but what is to be written last
        turns = [f"{m['role']}: {chat.spoken(m)}" for m in values["messages"][:-1]]
        tools = [json.dumps(t, ensure_ascii=False) for t in values.get("tools") or ()]
        return "\n".join(map(text.normalise, [*turns, *tools]))
    return "\n".join(text.normalise(v if isinstance(v, str) else json.dumps(v, ensure_ascii=False, default=_written))
                     for v in (values[k] for k in _content_fields(spec, values)))  # fmt: skip


def _content_fields(spec: TaskSpec, values: dict[str, Any]) -> Sequence[str]:
    keys = spec.content or [k for k in values if k not in NOT_CONTENT]
    for k in keys:
        if k not in values:
            raise UserError(
                f"task {spec.name!r}: content={spec.content} names no field {k!r}"
                + did_you_mean(k, values)
            )
    return keys


def identity_of(spec: TaskSpec, values: dict[str, Any]) -> int:
    """64 bits that two examples share whose content fields and options are the same text: in NFC,
    white space around a text aside. Case, superscripts and indentation tell examples apart, whom
    `content_of` takes for one."""
    if spec.chat:
        told = {"messages": values["messages"][:-1], "tools": values.get("tools") or []}
    else:
        keys = _content_fields(spec, values)
        told = {k: values[k] for k in (*keys, *(["options"] if "options" in values else ()))}
    written = json.dumps(_trimmed(told), ensure_ascii=False, sort_keys=True, default=_written)
    return draw("identity", unicodedata.normalize("NFC", written))


def _written(value: Any) -> Any:
    """A content field's value that JSON does not know: a date, an exact number, NumPy's."""
    if isinstance(value, (datetime.date, datetime.time, datetime.timedelta, numbers.Number)):
        return str(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(
        f"a content field holds {type(value).__name__}: fields() must make a text, a number or a list of it"
    )


def answer_of(spec: TaskSpec, values: dict[str, Any], where: str) -> Any:
    """What tells whether two examples of one input agree; None where there is nothing to agree
    on."""
    if spec.objective:
        return None
    return _trimmed(
        chat.spoken(values["messages"][-1])
        if spec.chat
        else sorted(answers(spec, values, where)[0])
    )


def _trimmed(value: Any) -> Any:
    """The value with no white space around any of its texts."""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, dict):
        return {k: _trimmed(v) for k, v in value.items()}
    return [_trimmed(v) for v in value] if isinstance(value, (list, tuple)) else value


def source_splits(source: Source, split: str) -> list[tuple[str, float, float]]:
    """Which rows make a split: [(source split, from, to)], from <= hash / 2^64 < to.

    A split that is declared is whole, so that its scores compare with published ones. A set with
    train alone gives 5 % of it each to validation and test; with train and test, 5 % of train to
    validation; with train and validation it has no test, or (`halve`) each half of validation. A
    set whose only split is an evaluation split is test, and has no validation.
    """
    if source.split_by_hash:
        at, out = 0.0, []
        for name, share in source.split_by_hash.items():
            if name == split:
                out.append(("", at, at + share))
            at += share
        return out
    have = set(source.files) or set(source.options.get("splits", ()))
    evaluation = have - {"train"}
    if split == "train":
        # shares that the other splits take of it
        cut = 0 if "validation" in have else 1 if evaluation else 2
        return [("train", 0.0, 1.0 - cut * DEV_SHARE)] if "train" in have else []
    if source.halve:
        return [("validation", 0.0, 0.5) if split == "validation" else ("validation", 0.5, 1.0)]
    if len(have) == 1 and evaluation:
        return [(*evaluation, 0.0, 1.0)] if split == "test" else []
    if split in have:
        return [(split, 0.0, 1.0)]
    if "validation" in have or "train" not in have:
        return []
    low = 1 - DEV_SHARE * (1 if split == "test" or evaluation else 2)
    return [("train", low, low + DEV_SHARE if not evaluation else 1.0)]


def splits(source: Source) -> dict[str, str]:
    """Each split that a source has, and what it is made of: `whole`, or its share of a split that
    is declared."""
    out = {}
    for split in SPLITS:
        for of, low, high in source_splits(source, split):
            if (low, high) == (0.0, 1.0):
                out[split] = "whole" if of == split else f"all of {of}"
            else:
                out[split] = f"{high - low:.0%} of {of or 'all rows'}, by hash"
    return out


def items(
    spec: TaskSpec, split: str, root: str, seed: int, counts: Counter, skip_bad: bool = False,
    first: dict[str, str] | None = None,
) -> Iterator[Item]:  # fmt: skip
    """The split's examples in source order, once per identity; every record read is yielded or
    counted.

    counts["read"] counts records; the reasons beside it add up to what was not yielded. A record
    whose `fields` gives several value dicts counts the further ones as "read" too.
    first: gets the first record of each reason that is a fault of the data, in words.
    """
    first = {} if first is None else first
    fields = checks.every_slot(spec)
    seen: dict[int, tuple[str, Any]] = {}  # identity -> the example that has it, and its answer
    for source_split, low, high in source_splits(spec.source, split):
        for example_id, example in sources.open_source(
            spec.source, source_split, root, seed, counts, skip_bad, first
        ):
            where = f"task {spec.name!r}, example {example_id}"
            found = fields_of(spec, example, where, skip_bad, first)
            counts["read"] += len(found) - 1
            for n, values in enumerate(found):
                content = (
                    values if isinstance(values, Skip) else usable_content(spec, values, fields)
                )
                if isinstance(content, Bad):
                    if not skip_bad:
                        raise UserError(f"{where}: {content.detail}{SKIP_BAD}")
                    first.setdefault(content.reason, f"{where}: {content.detail}")
                if not isinstance(content, str):
                    counts[content.reason] += 1
                    continue
                item = item_of(example_id, n, values, content)
                place = (
                    item.hash
                    if spec.source.split_key is None
                    else draw("split", text.normalise(spec.source.split_key(values)))
                )
                if not low <= place / 2.0**64 < high:
                    counts["another split"] += 1
                    continue
                identity, answer = identity_of(spec, values), answer_of(spec, values, where)
                if identity not in seen:
                    seen[identity] = (item.id, answer)
                    yield item
                    continue
                earlier, given = seen[identity]
                if answer == given:
                    counts[REPEATED] += 1
                else:
                    counts[CONFLICT] += 1
                    told = f"{item.id} has {_answer_shown(answer)} where {earlier} has {_answer_shown(given)}"
                    first.setdefault(CONFLICT, told)


def usable_content(spec: TaskSpec, values: dict[str, Any], fields: Sequence[str]) -> str | Bad:
    """The canonical input of an example, or why it cannot be used; fields: `every_slot` of the
    task."""
    try:
        return checks.unusable(spec, values, fields) or content_of(spec, values)
    except TypeError as e:  # of `_written`
        return Bad("unusable field", str(e))


def item_of(example_id: str, n: int, values: dict[str, Any], content: str) -> Item:
    """The n-th example that a record gives."""
    return Item(f"{example_id}.{n}" if n else example_id, values, content, draw("content", content))


def _answer_shown(answer: Any) -> str:
    return checks.shown(answer[0] if isinstance(answer, list) and len(answer) == 1 else answer)


def fields_of(
    spec: TaskSpec, example: dict, where: str, skip_bad: bool, first: dict[str, str] | None = None
) -> list[dict[str, Any] | Skip]:
    """What `spec.fields` gives, as a list that is not empty; an example it cannot use is an error
    or a Skip, and then the first of `first`."""
    try:
        found = spec.fields(example)
        found = found if isinstance(found, list) else [found]
        for values in found:
            if not isinstance(values, (dict, Skip)):
                raise TypeError(
                    f"gave {type(values).__name__}, not a dict, a list of dicts or Skip(reason)"
                )
            empty = [k for k, v in values.items() if v is None] if isinstance(values, dict) else []
            if empty:
                raise ValueError(f"gave no value (None) for {empty[0]!r}")
        if spec.chat:
            found = [_conversation(values) for values in found]
    except UserError:
        raise
    # of the user's function: whatever it is, they are told which example it was
    except Exception as e:
        if (
            isinstance(e, KeyError)
            and e.args
            and isinstance(e.args[0], str)
            and e.args[0] not in example
        ):
            told = f"{where}: fields() needs the field {e.args[0]!r}" + did_you_mean(
                e.args[0], example
            )
        else:
            record = repr(example) if len(repr(example)) <= 200 else repr(example)[:200] + "…"
            told = f"{where}: fields() {type(e).__name__}: {e}; the example is {record}"
        if not skip_bad:
            raise UserError(told + SKIP_BAD) from e
        if first is not None:
            first.setdefault("unusable fields", told)
        return [Skip("unusable fields")]
    return found or [Skip("fields() gave nothing")]


def _conversation(values: dict[str, Any] | Skip) -> dict[str, Any] | Skip:
    """A conversation as templates are given it, whoever made it."""
    if isinstance(values, Skip):
        return values
    checked = chat.conversation(values["messages"], values.get("tools"))
    return checked if isinstance(checked, Skip) else {**values, **checked}


def answers(spec: TaskSpec, values: dict[str, Any], where: str) -> checks.Answers:
    """(references, options, index of the right option) of an example; a label outside the options
    is an error."""
    found = checks.answers(spec, values)
    if isinstance(found, Bad):
        raise UserError(f"{where}: {found.detail}")
    return found


def choices(spec: TaskSpec, variant: names.Variant, which: str = "train") -> Sequence[Template]:
    """The templates a variant may use: the training ones or ("heldout") the held-out ones."""
    held = which == "heldout"
    if not spec.templated:
        return [] if held else [WHOLE]
    if variant.inverted:
        found = () if held else spec.inverted
    elif variant.cot:
        found = (
            () if spec.cot is None else spec.cot.heldout_templates if held else spec.cot.templates
        )
    else:
        found = spec.heldout_templates if held else spec.templates
    if variant.template:
        found = [t for t in found if templates.template_id(t) == variant.template]
    return [tuple(t) for t in templates.with_options(found, variant.options)]


def render(spec: TaskSpec, variant: names.Variant, item: Item, rendering: int, render_seed: int,
           among: Sequence[Template] | None = None, exemplars: Sequence[Item] = ()) -> Rendered:  # fmt: skip
    """Render one example; `among` (default: the variant's training templates) are what is drawn
    from.

    `exemplars` stand before it in the same template and the same style of options, prompt and
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
    if exemplars:
        before = [_filled(spec, e, template, style, draw(h, e.id))[:2] for e in exemplars]
        prompt = spec.shot_separator.join([*(f"{p} {t}" for p, t in before), prompt])
    if variant.inverted:
        references, shown, index = (target,), None, None
    pattern = None if variant.inverted else templates.answer_pattern(template[1])
    shots = tuple(e.hash for e in exemplars)
    return Rendered(
        templates.template_id(template), prompt, target, references, shown, index, pattern, shots
    )


def _filled(spec: TaskSpec, item: Item, template: Template, style: Callable, h: int) -> tuple:
    """(prompt, target, references, options as shown, index of the right one) of one example; h
    draws the options' order."""
    where = f"task {spec.name!r}, example {item.id}"
    references, options, index = answers(spec, item.values, where)
    values = {**item.values, "answer": references[0]}
    if options is None:
        values.pop("options", None)  # an empty list
    shown = options
    if options is not None:
        order = list(range(len(options)))
        if spec.shuffle_options:
            order.sort(key=lambda i: draw(h, "option", i))
        shown = tuple(options[i] for i in order)
        index = order.index(index) if index is not None else None
        values["options"], called = style(shown)
        # where the prompt shows no list, an option is called by its text
        if "options" in templates.slots(template[0]) and tuple(called) != shown:
            if index is not None:
                references = (called[index],)
                values["answer"] = called[index]
            shown = tuple(called)
    prompt, target = (templates.fill(text, values, where) for text in template)
    return prompt, target, references, shown, index


def encode(rendered: Sequence[Rendered], vocabulary: Vocabulary) -> list[Record]:
    """Records of two pieces: the prompt, encoded alone, and the trained target behind it and a
    space."""
    plain = [r for r in rendered if not r.pieces]
    prompts = vocabulary.encode_batch([r.prompt for r in plain])
    targets = vocabulary.following([r.target for r in plain])
    found = iter([[(p, False), (t, True)] for p, t in zip(prompts, targets, strict=True)])
    return [encoded(r.pieces, vocabulary) if r.pieces else next(found) for r in rendered]
