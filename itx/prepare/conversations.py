# SPDX-License-Identifier: Apache-2.0
"""Conversations as training examples, each one example of several pieces or one example for every
answer (itx/text_format/chat.py): their row in the table of kinds (kinds.py)."""

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from itx.data.cache import Texts
from itx.data.vocabulary import unguarded
from itx.errors import UserError
from itx.hashing import draw
from itx.prepare import exclude
from itx.prepare.render import encode, identity
from itx.prepare.types import Item, Job, Records, Rendered, Settings, Work
from itx.tasks.chat import conversation, spoken
from itx.tasks.spec import Skip, TaskSpec, Values
from itx.text import normalise
from itx.text_format import chat
from itx.text_format.chat import Answer, answers, joined, last
from itx.text_format.pieces import END

SPLIT = "split conversations"  # what `prepared` counts them under
IMITATES = (
    "conversations hold lines that begin as the turns of the plain chat template do ('User:', "
    "'Assistant:'), so that the model cannot tell them apart; a data.chat_template with control "
    "tokens can"
)


def checked(values: Values) -> Values | Skip:
    """A conversation as templates are given it, whoever made it."""
    valid = conversation(values["messages"], values.get("tools"))
    return valid if isinstance(valid, Skip) else {**values, **valid}


def content(spec: TaskSpec, values: Values) -> str:
    """The canonical input: all but what is to be written last, a line for each turn and tool."""
    turns = [f"{m['role']}: {spoken(m)}" for m in values["messages"][:-1]]
    tools = [json.dumps(t, ensure_ascii=False) for t in values.get("tools") or ()]
    return "\n".join(map(normalise, [*turns, *tools]))


def shared(spec: TaskSpec, values: Values) -> Values:
    return {"messages": values["messages"][:-1], "tools": values.get("tools") or []}


def answer(spec: TaskSpec, values: Values, where: str) -> str:
    return spoken(values["messages"][-1]).strip()


def leak_texts(spec: TaskSpec, item: Item) -> Texts:
    return exclude.texts(item.values["asked"], item.values["turns"])


def key(job: Job, spec: TaskSpec, settings: Settings) -> list[Any]:
    return [chat.CHAT_VERSION, settings.chat_template, settings.architecture]


def expanded(work: Work, items: list[Item], counts: Counter, said: Counter | None) -> list[Item]:
    settings, vocabulary = work.settings, work.vocabulary
    each = settings.architecture == "encoder_decoder"
    made = prepared(
        items,
        settings.chat_template,
        vocabulary.eos_text,
        each,
        work.job.crossed,
        work.spec,
        counts,
        settings.data.skip_bad,
        vocabulary.control,
        said,
    )
    return list(made)


def prepared(
    items: Iterable[Item],
    template: str,
    eos: str,
    each: bool,
    whole: bool,
    spec: TaskSpec,
    counts: Counter,
    skip_bad: bool = False,
    control: Sequence[str] = (),
    said: Counter | None = None,
) -> Iterator[Item]:
    """Conversations as items whose values are {"pieces"}, as `joined` gives them, and what
    `turns_of` gives.

    What stands before an answer is its input; of items with one identity the first is kept, as
    with all examples.

    Args:
        template, eos, control: as `answers` takes them.
        each: an item for every answer, as encoder-decoder models train on one target at a time.
        whole: never more than one item of a conversation, as evaluation asks. With neither, there
            is an item for every answer where the answers cannot be joined: counts[SPLIT].
        skip_bad: count a conversation that the template refuses, rather than raise.
        said: gets what happened to conversations that are kept, and to how many.
    """
    chat.program(template)  # its own mistakes are no conversation's
    seen: set[int] = set()
    for item in items:
        where = f"task {spec.name!r}, example {item.id}"
        try:
            replies = answers(template, item.values, where, eos, control)
        except UserError as e:
            if not skip_bad:
                raise UserError(
                    f"{e}; --data.skip_bad=True counts and skips such conversations"
                ) from e
            counts["refused by data.chat_template"] += 1
            continue
        if said is not None:
            for what in chat.unwritten(template, item.values, replies, where):
                said[f"conversations lose {what}, which data.chat_template does not write"] += 1
            messages = item.values["messages"]
            said[IMITATES] += any(chat.imitates(spoken(m), template) for m in messages)
        row = joined(replies, not each)
        if whole or row and not each:
            values = {"pieces": row or last(replies, not each), **turns_of(item.values["messages"])}
            shown = identity(shared(spec, item.values))
            parts = [(shown, dataclasses.replace(item, values=values))]
        else:
            counts[SPLIT] += not each
            # The further ones count as read, as where `fields` makes several of one record.
            counts["read"] += sum(a.trained for a in replies) - 1
            parts = _for_each_answer(item, replies, each, spec)
        for shown, part in parts:
            if shown in seen:
                counts["begins as another conversation"] += 1
                continue
            seen.add(shown)
            yield part


def turns_of(messages: Sequence[dict]) -> dict[str, list[str]]:
    """For the leak test: the texts of all "turns", and of those what is "asked": the user's, or
    where there are none all but the last. Tools and system text are instructions, which many
    conversations share: they are not asked."""
    turns = [spoken(m) for m in messages]
    users = [spoken(m) for m in messages if m["role"] == "user"]
    return {"turns": turns, "asked": users or turns[:-1]}


def _for_each_answer(
    item: Item, replies: Sequence[Answer], joins: bool, spec: TaskSpec
) -> Iterator[tuple[int, Item]]:
    """(identity, item) for every answer that is trained, behind those before it as `last` gives
    them, or (not `joins`) as it is asked alone."""
    for n, reply in enumerate(replies):
        if not reply.trained:
            continue
        values = {**item.values, "messages": item.values["messages"][: reply.turn + 1]}
        written = content(spec, values)
        pieces = last(replies[: n + 1], not joins) if joins else last(replies[n : n + 1])
        told = {"pieces": pieces, **turns_of(values["messages"])}
        part = Item(f"{item.id}/{n}", told, written, draw("content", written))
        yield identity(shared(spec, values)), part


def render(
    item: Item, template: str, where: str, eos: str = "", control: Sequence[str] = ()
) -> Rendered:
    """The rendering of a conversation: its last assistant turn is the target, all before it the
    prompt."""
    pieces = item.values.get("pieces") or last(answers(template, item.values, where, eos, control))
    *before, (target, _) = pieces
    prompt, target = (
        unguarded(text).replace(END, "") for text in ("".join(t for t, _ in before), target)
    )
    target = target.strip()
    return Rendered("chat", prompt, target, (target,), pieces=pieces)


def records(work: Work, items: list[Item], pool: None) -> Records:
    template, vocabulary = work.settings.chat_template, work.vocabulary
    marks = (vocabulary.eos_text, vocabulary.control)
    rendered = [render(item, template, work.where(item), *marks) for item in items]
    return rendered, encode(rendered, vocabulary), items


def shown(spec: TaskSpec, item: Item, *_: Any) -> Rendered:
    return render(item, chat.PLAIN, f"task {spec.name!r}, example {item.id}")


def vocabulary_texts(spec: TaskSpec, items: list[Item]) -> list[str]:
    rendered = [render(item, chat.PLAIN, spec.name) for item in items]
    return [text for r in rendered for text in (r.prompt, r.target)]
