# SPDX-License-Identifier: Apache-2.0
"""Conversations as text: a Jinja chat template splits them into what is trained (assistant turns) and what is not.

A template is what Hugging Face's tokenizers carry: it sees `messages`, `tools`, `add_generation_prompt`, `bos_token`
(empty: the layout adds BOS) and `eos_token`, and may call `raise_exception`. It runs in a sandbox. What is trained in
turn i is what it writes for messages[: i + 1] beyond messages[:i] with a generation prompt. Templates of models that
think write an earlier turn otherwise once others follow: such a conversation is an example for each answer, behind what
the model will read before it, rather than one for all.
"""

import dataclasses
import functools
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from itx.build.render import END, Item, Rendered, content_of, draw
from itx.build.sources import beside
from itx.data.vocabulary import CONTENT_BEGIN, CONTENT_END, guard, unguarded
from itx.errors import UserError
from itx.tasks.spec import TaskSpec

Pieces = tuple[tuple[str, bool], ...]  # (text, trained?)
CHAT_VERSION = 3  # raise it when a change here alters a record
SPLIT = "split conversations"  # what `prepared` counts them under

# Lines that begin with the speaker; every turn's text follows a single space, as targets do elsewhere
PLAIN = """{%- set names = {"system": "System", "user": "User", "assistant": "Assistant", "tool": "Tool"} -%}
{%- if tools -%}Tools: {{ tools | tojson }}{{ "\\n" }}{%- endif -%}
{%- for m in messages -%}
{%- if not loop.first %}{{ "\\n" }}{% endif -%}{{ names[m.role] }}: {{ m.content }}
{%- endfor -%}
{%- if add_generation_prompt %}{{ "\\n" }}Assistant:{% endif -%}"""


def template_text(name: str, root: str) -> str:
    """The template that `data.chat_template` names: "" (PLAIN), a .jinja file, or a tokenizer_config.json."""
    if not name:
        return PLAIN
    file = next((p for p in (Path(name), Path(root) / name) if p.is_file()), None)
    if file is None:
        raise UserError(f"data.chat_template: no file {name!r} here or under data.root={root!r}{beside(Path(name))}")
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".json":
        found = json.loads(text).get("chat_template")
        if isinstance(found, list):  # several by name
            found = next((t["template"] for t in found if t.get("name") == "default"), None)
        if not isinstance(found, str):
            raise UserError(f"data.chat_template: {name} has no 'chat_template'")
        return found
    return text


@functools.lru_cache(maxsize=8)
def _compiled(template: str) -> Any:
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined if template == PLAIN else jinja2.Undefined,
    )
    environment.filters["tojson"] = lambda x, **kw: json.dumps(x, ensure_ascii=False, **kw)
    environment.globals["raise_exception"] = raise_exception
    try:
        return environment.from_string(template)
    except jinja2.TemplateSyntaxError as e:
        raise UserError(f"data.chat_template, line {e.lineno}: {e.message}") from e


def written(template: str, values: dict, upto: int, prompt: bool, where: str) -> str:
    """The text of the first `upto` messages; END where the template writes the end of sequence."""
    made = _compiled(template)
    try:
        return made.render(
            messages=values["messages"][:upto], tools=values.get("tools"), add_generation_prompt=prompt,
            bos_token="", eos_token=END,
        )  # fmt: skip
    except Exception as e:  # of the template's own code: what it refuses, and what it takes for another type
        import jinja2

        said = str(e) if isinstance(e, jinja2.TemplateError) else f"{type(e).__name__}: {e}"
        raise UserError(f"{where}: data.chat_template: {said}") from e


class Answer(NamedTuple):
    """An assistant's turn: what stands before it, what is trained, and the end of sequence behind it, END or a text."""

    prompt: str
    text: str
    end: str


def guarded(values: dict, control: Sequence[str], where: str) -> dict:
    """The values with every control token's text in a turn or a tool's description marked as content."""

    def mark(value: Any) -> Any:
        if isinstance(value, str):
            if any(c in value for c in (END, CONTENT_BEGIN, CONTENT_END)):
                raise UserError(f"{where}: a turn holds U+FFFF, U+FDD0 or U+FDD1, which are no characters")
            return guard(value, control)
        if isinstance(value, dict):
            return {mark(k): mark(v) for k, v in value.items()}
        return [mark(v) for v in value] if isinstance(value, list) else value

    messages = [{k: v if k == "role" else mark(v) for k, v in m.items()} for m in values["messages"]]
    return {**values, "messages": messages, **({"tools": mark(values["tools"])} if values.get("tools") else {})}


def answers(template: str, values: dict, where: str, eos: str = "", control: Sequence[str] = ()) -> list[Answer]:
    """The assistant's turns.

    The layout adds EOS to what is trained, so one that the template writes behind a turn is not trained twice: END, or
    eos, the text that the vocabulary reads as its EOS (Vocabulary.eos_text). control: the texts of the vocabulary's
    control tokens (Vocabulary.control); in content they stand between marks (`guard`).
    """
    values = guarded(values, control, where)
    out = []
    for i, message in enumerate(values["messages"]):
        if message["role"] != "assistant":
            continue
        whole = written(template, values, i + 1, False, where)  # first: a template says why it refuses a turn
        prompt = written(template, values, i, True, where)
        if not whole.startswith(prompt):
            raise UserError(
                f"{where}: data.chat_template writes what stands before turn {i + 1} otherwise than it asks for that "
                "turn, so that it cannot be told what the assistant is to write"
            )
        target = whole[len(prompt) :].rstrip()  # white space behind a turn belongs to the next prompt
        body = target.removesuffix(END).removesuffix(eos)
        if not body:
            raise UserError(f"{where}: data.chat_template writes nothing for the assistant's turn {i + 1}")
        out.append(Answer(prompt, body, target[len(body) :]))
    return out


def joined(found: Sequence[Answer]) -> Pieces | None:
    """(text, trained?) in turn, whose joined texts are the whole conversation's but for the `end`s; None where the
    template wrote a turn otherwise once others followed."""
    out: list[tuple[str, bool]] = []
    done = ""
    for prompt, text, end in found:
        if not prompt.startswith(done):
            return None
        out += [(prompt[len(done) :], False), (text, True)]
        done = prompt + text + end
    return tuple(out)


def last(found: Sequence[Answer]) -> Pieces:
    """As `joined`, of the last answer alone where they cannot be joined."""
    return joined(found) or ((found[-1].prompt, False), (found[-1].text, True))


def prepared(
    items: Iterable[Item], template: str, eos: str, each: bool, whole: bool, spec: TaskSpec, counts: Counter,
    skip_bad: bool = False, control: Sequence[str] = (),
) -> Iterator[Item]:  # fmt: skip
    """Conversations as items whose values are {"pieces"}, as `joined` gives them.

    each: an item for every answer, as encoder-decoder models train on one target at a time; whole: never more than one
    of a conversation, as evaluation asks. Else an item for every answer where they cannot be joined: counts[SPLIT].
    An answer's content is what stands before it, and of those with one content the first is kept, as of all examples.
    """
    _compiled(template)  # its own mistakes are no conversation's
    seen: set[int] = set()
    for item in items:
        try:
            found = answers(template, item.values, f"task {spec.name!r}, example {item.id}", eos, control)
        except UserError as e:
            if not skip_bad:
                raise UserError(f"{e}; --data.skip_bad=True counts and skips such conversations") from e
            counts["refused by data.chat_template"] += 1
            continue
        row = joined(found)
        if whole or row and not each:
            made = [dataclasses.replace(item, values={"pieces": row or last(found)})]
        else:
            counts[SPLIT] += not each
            counts["read"] += len(found) - 1  # as where `fields` makes several examples of one record
            made = _each(item, found, each, spec)
        for one in made:
            if one.hash in seen:
                counts["begins as another conversation"] += 1
                continue
            seen.add(one.hash)
            yield one


def _each(item: Item, found: Sequence[Answer], joins: bool, spec: TaskSpec) -> Iterator[Item]:
    """An item for every answer, behind those before it as `last` gives them, or (not `joins`) as it is asked alone."""
    messages = item.values["messages"]
    ends = [i + 1 for i, m in enumerate(messages) if m["role"] == "assistant"]
    for n, end in enumerate(ends):
        content = content_of(spec, {**item.values, "messages": messages[:end]})
        pieces = last(found[: n + 1] if joins else found[n : n + 1])
        yield Item(f"{item.id}/{n}", {"pieces": pieces}, content, draw("content", content))


def render(item: Item, template: str, where: str, eos: str = "", control: Sequence[str] = ()) -> Rendered:
    """The rendering of a conversation: its last assistant turn is the target, all before it the prompt."""
    pieces = item.values.get("pieces") or last(answers(template, item.values, where, eos, control))
    prompt, target = (
        unguarded("".join(text for text, _ in part)).replace(END, "") for part in (pieces[:-1], pieces[-1:])
    )
    target = target.strip()
    return Rendered("chat", prompt, target, (target,), None, None, None, pieces=pieces)
