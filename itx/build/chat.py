# SPDX-License-Identifier: Apache-2.0
"""Conversations as text: a Jinja chat template splits them into what is trained (assistant turns) and what is not.

A template is what Hugging Face's tokenizers carry: it sees `messages`, `tools`, `add_generation_prompt`, `bos_token`
and `eos_token` (both empty: the layout adds BOS and EOS), and may call `raise_exception`. It runs in a sandbox. What is
trained in turn i is what it writes for messages[: i + 1] beyond messages[:i] with a generation prompt; a template that
rewrites earlier turns later on cannot be split so, and is an error.
"""

import functools
import json
from pathlib import Path
from typing import Any

from itx.build.render import Item, Rendered
from itx.build.sources import beside
from itx.errors import UserError

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
    """The text of the first `upto` messages."""
    import jinja2

    try:
        return _compiled(template).render(
            messages=values["messages"][:upto], tools=values.get("tools"), add_generation_prompt=prompt,
            bos_token="", eos_token="",
        )  # fmt: skip
    except jinja2.TemplateError as e:
        raise UserError(f"{where}: data.chat_template: {e}") from e


def pieces(template: str, values: dict, where: str, eos: str = "") -> list[tuple[str, bool]]:
    """(text, trained?) in turn; their joined texts are the whole conversation's, but for the texts of the end of
    sequence that the template writes behind a turn: the layout adds that token.

    eos: that text, where the vocabulary reads it as its EOS (Vocabulary.eos_text).
    """
    out: list[tuple[str, bool]] = []
    done = ""
    for i, message in enumerate(values["messages"]):
        if message["role"] != "assistant":
            continue
        prompt = written(template, values, i, True, where)
        whole = written(template, values, i + 1, False, where)
        if not prompt.startswith(done) or not whole.startswith(prompt):
            raise UserError(
                f"{where}: data.chat_template writes turn {i + 1} otherwise once others follow, so that it cannot be "
                "told what the assistant is to write"
            )
        target = whole[len(prompt) :].rstrip()  # white space behind a turn belongs to the next prompt
        body = target.removesuffix(eos)
        if not body:
            raise UserError(f"{where}: data.chat_template writes nothing for the assistant's turn {i + 1}")
        out += [(prompt[len(done) :], False), (body, True)]
        done = prompt + target
    return out


def render(item: Item, template: str, where: str, eos: str = "") -> Rendered:
    """The rendering of a conversation: its last assistant turn is the target, all before it the prompt."""
    found = pieces(template, item.values, where, eos)
    prompt, target = "".join(text for text, _ in found[:-1]), found[-1][0].strip()
    return Rendered("chat", prompt, target, (target,), None, None, None, pieces=tuple(found))


def turns(item: Item) -> list[Item]:
    """An item per assistant turn, for encoder-decoder models, which train on one target at a time."""
    messages = item.values["messages"]
    ends = [i + 1 for i, m in enumerate(messages) if m["role"] == "assistant"]
    return [
        Item(f"{item.id}/{n}", {**item.values, "messages": messages[:end]}, item.content, item.hash)
        for n, end in enumerate(ends)
    ]
