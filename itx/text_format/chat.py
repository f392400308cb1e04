# SPDX-License-Identifier: Apache-2.0
"""Conversations as text: a Jinja chat template splits them into what is trained (assistant turns)
and what is not.

A template is what Hugging Face's tokenizers carry: it sees `messages`, `tools`,
`add_generation_prompt`, `bos_token` (empty: the layout adds BOS) and `eos_token`, and may call
`raise_exception`. It runs in a sandbox. What is trained in turn i is what it writes for messages[:
i + 1] beyond messages[:i] with a generation prompt. Templates of models that think write an earlier
turn otherwise once others follow: such a conversation is an example for each answer, behind what
the model will read before it, rather than one for all. What a template does not write is lost to
the model: `unwritten` finds it, and a build counts it.
"""

import functools
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jinja2

from itx import storage
from itx.data.vocabulary import CONTENT_BEGIN, CONTENT_END, guard, unguarded
from itx.errors import UserError
from itx.tasks.chat import REASONING, trained
from itx.text import texts_of
from itx.text_format import sandbox
from itx.text_format.pieces import END, Pieces

CHAT_VERSION = 4  # raise it when a change here alters a record
# Lines that begin with the speaker; every turn's text follows a single space, as targets do
# elsewhere.
PLAIN = (
    """{%- set names = {"system": "System", "user": "User", "assistant": "Assistant", """
    """"tool": "Tool"} -%}
{%- if tools -%}Tools: {{ tools | tojson }}{{ "\\n" }}{%- endif -%}
{%- for m in messages -%}
{%- if not loop.first %}{{ "\\n" }}{% endif -%}{{ names[m.role] }}: {{ m.content }}
{%- for call in m.get("tool_calls", []) %}{% if m.content or not loop.first %}{{ "\\n" }}"""
    """{% endif %}{{ call.function | tojson }}{% endfor -%}
{%- endfor -%}
{%- if add_generation_prompt %}{{ "\\n" }}Assistant:{% endif -%}"""
)

# A line within a turn that begins as PLAIN begins another turn
IMITATION = re.compile(
    r"[\n\r\x0b\x0c\x85\u2028\u2029]\s*(?:Tools|System|User|Assistant|Tool)\s*[:：]"
)


def imitates(text: str, template: str) -> bool:
    """Whether a turn's text holds what stands for another turn in PLAIN, which has no control
    tokens to tell them apart."""
    return template == PLAIN and IMITATION.search(text) is not None


def template_text(name: str, root: str) -> str:
    """The template that `data.chat_template` names: "" (PLAIN), a .jinja file, or a
    tokenizer_config.json."""
    if not name:
        return PLAIN
    file = storage.given_file(name, root, "data.chat_template")
    text = file.read_text(encoding="utf-8")
    if file.suffix != ".json":
        return text
    template = json.loads(text).get("chat_template")
    if isinstance(template, list):  # several by name
        template = next((t["template"] for t in template if t.get("name") == "default"), None)
    if not isinstance(template, str):
        raise UserError(f"data.chat_template: {name} has no 'chat_template'")
    return template


@functools.lru_cache(maxsize=8)
def program(template: str) -> Any:
    """The program of a template's text; UserError where it is none."""
    try:
        return sandbox.compiled(template, strict=template == PLAIN)
    except jinja2.TemplateSyntaxError as e:
        raise UserError(f"data.chat_template, line {e.lineno}: {e.message}") from e
    except Exception as e:  # Jinja's and Python's compilers have bounds of their own
        raise UserError(f"data.chat_template is no program: {type(e).__name__}: {e}") from e


def written(template: str, values: dict, upto: int, prompt: bool, where: str) -> str:
    """The text of the first `upto` messages; END where the template writes the end of sequence."""
    compiled = program(template)
    given = {
        "messages": [_as_read(m, template) for m in values["messages"][:upto]],
        "tools": values.get("tools"),
    }
    flags = {"add_generation_prompt": prompt, "bos_token": "", "eos_token": END}
    try:
        with sandbox.budget(list(given.values())):
            return compiled.render(**given, **flags)
    # The template's own code may refuse a conversation, or take it for another type.
    except Exception as e:
        refused = isinstance(e, (jinja2.TemplateError, sandbox.TooMuch))
        told = str(e) if refused else f"{type(e).__name__}: {e}"
        raise UserError(f"{where}: data.chat_template: {told}") from e


def _as_read(message: dict, template: str) -> dict:
    """A message in the template's words: who instructs it is its `developer` or its `system`, and
    what the assistant thought stands under the name that it reads."""
    told = {k: v for k, v in message.items() if k != "train"}
    if message["role"] == "developer" and not _names("developer", template):
        told["role"] = "system"
    for key in REASONING:
        if key in told and not _names(key, template):
            other = next((k for k in REASONING if _names(k, template)), key)
            told[other] = told.pop(key)
            break
    return told


def _with_arguments(template: str, values: dict, where: str) -> dict:
    """The values with the arguments of calls as a template takes them: objects, or (DeepSeek's) the
    texts of such."""
    messages = values["messages"]
    if not any("tool_calls" in m for m in messages):
        return values

    def as_text(call: dict) -> dict:
        function = call["function"]
        given = json.dumps(function["arguments"], ensure_ascii=False)
        return {**call, "function": {**function, "arguments": given}}

    texts = [
        {**m, "tool_calls": [*map(as_text, m["tool_calls"])]} if "tool_calls" in m else m
        for m in messages
    ]
    for form in (values, {**values, "messages": texts}):
        try:
            written(template, form, len(messages), False, where)
        except UserError:
            continue
        return form
    # The template refuses it for another reason, which is told where it next writes it.
    return values


@functools.lru_cache(maxsize=64)
def _names(word: str, template: str) -> bool:
    """Whether a template speaks of a key or a role, which is an attribute or a quoted text
    there."""
    return re.search(rf"""[.'"]{word}\b""", template) is not None


class Answer(NamedTuple):
    """An assistant's turn: what stands before it, what is trained, and the end of sequence behind
    it, END or a text."""

    prompt: str
    text: str
    end: str
    turn: int = -1  # its place among the messages
    trained: bool = True


def guarded(values: dict, control: Sequence[str], where: str) -> dict:
    """The values with every control token's text in a turn or a tool's description marked as
    content."""

    def mark(value: Any) -> Any:
        if isinstance(value, str):
            if any(c in value for c in (END, CONTENT_BEGIN, CONTENT_END)):
                raise UserError(
                    f"{where}: a turn holds U+FFFF, U+FDD0 or U+FDD1, which are no characters"
                )
            return guard(value, control)
        if isinstance(value, dict):
            return {mark(k): mark(v) for k, v in value.items()}
        return [mark(v) for v in value] if isinstance(value, list) else value

    messages = [
        {k: v if k == "role" else mark(v) for k, v in m.items()} for m in values["messages"]
    ]
    tools = {"tools": mark(values["tools"])} if values.get("tools") else {}
    return {**values, "messages": messages, **tools}


def _marked(text: str, where: str) -> str:
    """What a template wrote, if the marks of contents stand in it by twos, as they were set."""
    marks = "".join(re.findall(f"[{CONTENT_BEGIN}{CONTENT_END}]", text))
    if marks != (CONTENT_BEGIN + CONTENT_END) * (len(marks) // 2):
        raise UserError(
            f"{where}: data.chat_template cuts a content within a control token's text, so that "
            "what it wrote cannot be told from what it was given (what the assistant thought may "
            "be given as 'reasoning_content')"
        )
    return text


def answers(
    template: str, values: dict, where: str, eos: str = "", control: Sequence[str] = ()
) -> list[Answer]:
    """The assistant's turns.

    The layout adds EOS to what is trained, so that one which the template writes behind a turn is
    not trained twice: END or `eos`.

    Args:
        eos: the text that the vocabulary reads as its EOS (Vocabulary.eos_text).
        control: the texts of the vocabulary's control tokens (Vocabulary.control); in content they
            stand between marks (`guard`).
    """
    values = guarded(_with_arguments(template, values, where), control, where)
    turns = [i for i, m in enumerate(values["messages"]) if m["role"] == "assistant"]
    return [_answer(template, values, i, where, eos) for i in turns]


def last_answer(
    template: str, values: dict, where: str, eos: str = "", control: Sequence[str] = ()
) -> Answer:
    """The last of `answers`, for a conversation without tools that ends in it; the earlier ones are
    not asked for."""
    values = guarded(values, control, where)
    return _answer(template, values, len(values["messages"]) - 1, where, eos)


def _answer(template: str, values: dict, i: int, where: str, eos: str) -> Answer:
    """The assistant's turn i of a conversation whose contents are marked."""
    # The whole first: there a template says why it refuses a turn.
    whole = _marked(written(template, values, i + 1, False, where), where)
    prompt = _marked(written(template, values, i, True, where), where)
    if not whole.startswith(prompt):
        raise UserError(
            f"{where}: data.chat_template writes what stands before turn {i + 1} otherwise "
            "than it asks for that turn, so that it cannot be told what the assistant is to "
            "write"
        )
    # White space behind a turn belongs to the next prompt.
    target = whole[len(prompt) :].rstrip()
    body = target.removesuffix(END).removesuffix(eos)
    if not body:
        raise UserError(
            f"{where}: data.chat_template writes nothing for the assistant's turn {i + 1}"
        )
    return Answer(prompt, body, target[len(body) :], i, trained(values["messages"][i]))


def joined(replies: Sequence[Answer], ends: bool = True) -> Pieces | None:
    """(text, trained?) in turn, whose joined texts are the whole conversation's but for the `end`s;
    None where the template wrote a turn otherwise once others followed.

    Args:
        ends: the layout puts EOS behind each trained turn, as a decoder's does, so that one which
            is not trained is given it here: it reads alike, and its loss alone is left out.
    """
    pieces: list[tuple[str, bool]] = []
    done = ""
    for prompt, text, end, _, learned in replies:
        if not prompt.startswith(done):
            return None
        written = text if learned or not ends else text + END
        pieces += [(prompt[len(done) :], False), (written, learned)]
        done = prompt + text + end
    return tuple(pieces)


def last(replies: Sequence[Answer], ends: bool = True) -> Pieces:
    """What `joined` gives, or the pieces of the last answer alone where they cannot be joined."""
    return joined(replies, ends) or ((replies[-1].prompt, False), (replies[-1].text, True))


def unwritten(template: str, values: dict, replies: Sequence[Answer], where: str) -> list[str]:
    """What the conversation says and the template writes nowhere, each kind once: "'tools'", "the
    content of tool turns".

    A text that stands in what is written is not looked at further. Any other may be written in
    another form, so it is changed: it is lost where the template then writes the same.
    """
    values = _with_arguments(template, values, where)
    messages = values["messages"]
    whole = _bare(written(template, values, len(messages), False, where))
    own = {a.turn: _bare(a.text) for a in replies}
    lost: dict[str, None] = {}

    def look(said: Sequence[str], changed: dict, upto: int, read: str, what: str) -> None:
        """Add `what` to what is lost, if its texts do not stand in what is read and no change of
        the values changes what is written."""
        if what in lost or all(any(form in read for form in _forms(text)) for text in said):
            return
        try:
            forms = [written(template, v, upto, False, where) for v in (changed, values)]
        except UserError:  # it minds the change
            return
        if forms[0] == forms[1]:
            lost[what] = None

    for i, m in enumerate(messages):
        upto, read = (i + 1, own[i]) if i in own else (len(messages), whole)
        for what, said, change in _sayings(m):
            others = [*messages[:i], {**m, **change}, *messages[i + 1 :]]
            look(said, {**values, "messages": others}, upto, read, what)
    other = [{"type": "function", "function": {"name": "x", "description": "x", "parameters": {}}}]
    said = [t for tool in values.get("tools", ()) for t in texts_of(tool)]
    look(said, {**values, "tools": other}, len(messages), whole, "'tools'")
    return list(lost)


def _sayings(m: dict) -> Iterator[tuple[str, list[str], dict[str, Any]]]:
    """(what a message says, the texts of it, a change of them) for all that it says."""
    if m["content"].strip():
        what = f"the content of {m['role']} turns"
        yield what, [m["content"]], {"content": m["content"] + "x"}
    for key in (*REASONING, *(("name",) if m["role"] != "tool" else ())):
        if key in m:
            yield repr(key), [m[key]], {key: m[key] + "x"}
    calls = [c["function"] for c in m.get("tool_calls", ())]
    for key, other in (("name", "x"), ("arguments", {"x": "x"})):
        if key == "arguments" and calls and isinstance(calls[0][key], str):
            other = json.dumps(other)
        changed = [
            {"type": "function", "id": "000000000", "function": {**f, key: other}} for f in calls
        ]
        said = [t for f in calls for t in texts_of(f[key])]
        yield "'tool_calls'", said, {"tool_calls": changed}


def _bare(text: str) -> str:
    """A text without white space, which templates trim, and without the marks of contents."""
    return "".join(unguarded(text).split())


def _forms(text: str) -> Iterator[str]:
    """How a text may stand in another: as it is, or within JSON."""
    yield _bare(text)
    for ascii_alone in (False, True):
        yield _bare(json.dumps(text, ensure_ascii=ascii_alone)[1:-1])
