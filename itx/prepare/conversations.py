# SPDX-License-Identifier: Apache-2.0
"""Conversations as training examples: of each its pieces, or an example for every answer
(itx/text_format/chat.py)."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from itx.data.vocabulary import unguarded
from itx.errors import UserError
from itx.hashing import draw
from itx.prepare.render import Item, Rendered, content_of, identity_of
from itx.tasks.chat import spoken
from itx.tasks.spec import TaskSpec
from itx.text_format.chat import Answer, answers, check, imitates, joined, last, unwritten
from itx.text_format.pieces import END

SPLIT = "split conversations"  # what `prepared` counts them under
IMITATES = (
    "conversations hold lines that begin as the turns of the plain chat template do ('User:', 'Assistant:'), so that the "
    "model cannot tell them apart; a data.chat_template with control tokens can"
)


def prepared(
    items: Iterable[Item], template: str, eos: str, each: bool, whole: bool, spec: TaskSpec, counts: Counter,
    skip_bad: bool = False, control: Sequence[str] = (), said: Counter | None = None,
) -> Iterator[Item]:  # fmt: skip
    """Conversations as items whose values are {"pieces"}, as `joined` gives them. said: what
    happened to conversations that are kept, and to how many.

    each: an item for every answer, as encoder-decoder models train on one target at a time; whole:
    never more than one of a conversation, as evaluation asks. Else an item for every answer where
    they cannot be joined: counts[SPLIT]. What stands before an answer is its input, and of those
    with one identity the first is kept, as of all examples.
    """
    check(template)  # its own mistakes are no conversation's
    seen: set[int] = set()
    for item in items:
        where = f"task {spec.name!r}, example {item.id}"
        try:
            found = answers(template, item.values, where, eos, control)
        except UserError as e:
            if not skip_bad:
                raise UserError(
                    f"{e}; --data.skip_bad=True counts and skips such conversations"
                ) from e
            counts["refused by data.chat_template"] += 1
            continue
        if said is not None:
            for what in unwritten(template, item.values, found, where):
                said[f"conversations lose {what}, which data.chat_template does not write"] += 1
            said[IMITATES] += any(imitates(spoken(m), template) for m in item.values["messages"])
        row = joined(found, not each)
        if whole or row and not each:
            values = {"pieces": row or last(found, not each), **turns_of(item.values["messages"])}
            made = [(identity_of(spec, item.values), dataclasses.replace(item, values=values))]
        else:
            counts[SPLIT] += not each
            # as where `fields` makes several examples of one record
            counts["read"] += sum(a.trained for a in found) - 1
            made = _each(item, found, each, spec)
        for identity, one in made:
            if identity in seen:
                counts["begins as another conversation"] += 1
                continue
            seen.add(identity)
            yield one


def turns_of(messages: Sequence[dict]) -> dict[str, list[str]]:
    """For the leak test: the texts of all "turns", and of those what is "asked": the user's, or
    where there are none all but the last. Tools and system text are instructions, which many
    conversations share: they are not asked."""
    turns = [spoken(m) for m in messages]
    asked = [spoken(m) for m in messages if m["role"] == "user"]
    return {"turns": turns, "asked": asked or turns[:-1]}


def _each(
    item: Item, found: Sequence[Answer], joins: bool, spec: TaskSpec
) -> Iterator[tuple[int, Item]]:
    """(identity, item) for every answer that is trained, behind those before it as `last` gives
    them, or (not `joins`) as it is asked alone."""
    for n, answer in enumerate(found):
        if not answer.trained:
            continue
        asked = {**item.values, "messages": item.values["messages"][: answer.turn + 1]}
        content = content_of(spec, asked)
        pieces = last(found[: n + 1], not joins) if joins else last(found[n : n + 1])
        values = {"pieces": pieces, **turns_of(asked["messages"])}
        yield (
            identity_of(spec, asked),
            Item(f"{item.id}/{n}", values, content, draw("content", content)),
        )


def render(
    item: Item, template: str, where: str, eos: str = "", control: Sequence[str] = ()
) -> Rendered:
    """The rendering of a conversation: its last assistant turn is the target, all before it the
    prompt."""
    pieces = item.values.get("pieces") or last(answers(template, item.values, where, eos, control))
    prompt, target = (
        unguarded("".join(text for text, _ in part)).replace(END, "")
        for part in (pieces[:-1], pieces[-1:])
    )
    target = target.strip()
    return Rendered("chat", prompt, target, (target,), None, None, None, pieces=pieces)
