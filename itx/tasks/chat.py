# SPDX-License-Identifier: Apache-2.0
"""Conversations as `fields` of a chat task: {"messages": [{"role", "content", …}, …], "tools":
[…]}.

    role                system, developer (OpenAI's newer word for it), user, assistant, tool
    content             the text as it is: white space counts, for code begins with it
    train               False: an assistant's turn that is read and not learned ("train": false,
                        "weight": 0)
    tool_calls          of the assistant, which the chat template writes; OpenAI's older
                        "function_call" becomes one
    reasoning_content   of the assistant, or "thinking" or "reasoning", whichever the chat template
                        reads
    name, tool_call_id  as OpenAI has them

A key, a role or a part of a content that is not known here is an error that names it, unless it is
empty: nothing that stands in a record is left out unsaid. What stands behind the last trained turn
is not kept: nothing answers it.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from itx.errors import did_you_mean
from itx.tasks.spec import Skip

ROLES = ("system", "user", "assistant", "tool", "developer")
SHAREGPT = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "system": "system",
    "function_call": "assistant",
    "observation": "tool",
    "tool": "tool",
    "function_response": "tool",
}
# What the assistant thought, under the names that templates have for it
REASONING = ("reasoning_content", "thinking", "reasoning")
ASSISTANT_ALONE = ("tool_calls", "function_call", *REASONING)
TURN = ("role", "content", "name", "tool_call_id", "train", "weight", *ASSISTANT_ALONE)
CALL = ("id", "type", "function")
FUNCTION = ("name", "arguments")
# What records of other programs may hold beside their messages, and a template would read
Record = Mapping[str, Any]  # of a source
Turn = Mapping[str, Any]  # of a conversation, or a part of one
NOT_READ = ("documents", "chat_template_kwargs", "functions")


def openai_messages(example: Record) -> Any:
    """{"messages": [{"role", "content", "tool_calls"?, …}], "tools"?}, OpenAI's chat format."""
    turns = _turns(example, "messages")
    if example.get("system"):
        raise ValueError(
            "the record has a 'system' beside its 'messages': make it their first turn"
        )
    return conversation(turns, example.get("tools"))


def sharegpt_messages(example: Record) -> Any:
    """{"conversations": [{"from", "value"}], "system"?, "tools"?}, ShareGPT's format with its
    common extensions."""
    turns = [{"role": "system", "content": example["system"]}] if example.get("system") else []
    for i, m in enumerate(_turns(example, "conversations")):
        where = f"turn {i}"
        if not isinstance(m, Mapping) or "from" not in m:
            raise ValueError(f"{where} is {_kind(m)} without a 'from'")
        if m["from"] not in SHAREGPT:
            raise ValueError(f"a turn is from {m['from']!r}; known: {', '.join(SHAREGPT)}")
        turn = {"content" if k == "value" else k: v for k, v in m.items() if k != "from"}
        turn["role"] = SHAREGPT[m["from"]]
        if m["from"] == "function_call":
            calls = _parsed(m.get("value"), f"{where} (function_call)")
            turn |= {"content": "", "tool_calls": calls if isinstance(calls, list) else [calls]}
        turns.append(turn)
    return conversation(turns, example.get("tools"))


def conversation(turns: Sequence[Turn], tools: Any = None) -> Any:
    """Checked {"messages", "tools"?} up to the last assistant's turn that is trained, or Skip. Its
    own result is a conversation too and comes back as it is."""
    messages = [_message(turn, f"turn {i}") for i, turn in enumerate(turns)]
    last = max((i for i, m in enumerate(messages) if trained(m)), default=-1)
    if last < 0:
        untrained = any(m["role"] == "assistant" for m in messages)
        return Skip("no assistant turn is trained" if untrained else "no assistant turn")
    messages = messages[: last + 1]
    if not any(m["role"] == "user" for m in messages):
        return Skip("no user turn")
    for m in messages:
        if m["role"] == "assistant" and not m["content"].strip() and "tool_calls" not in m:
            return Skip("empty assistant turn")
    tools = _parsed(tools, "tools") if isinstance(tools, str) and tools.strip() else tools
    if not tools or isinstance(tools, str):
        return {"messages": messages}
    if not isinstance(tools, list) or not all(isinstance(t, dict) for t in tools):
        raise ValueError(f"tools is {_kind(tools)}, not a list of descriptions")
    return {"messages": messages, "tools": tools}


def trained(message: Turn) -> bool:
    """Whether the loss is on a checked message."""
    return message["role"] == "assistant" and message.get("train", True)


def spoken(message: Turn) -> str:
    """All that a checked message says, as one text: what it is known by among others."""
    calls = [json.dumps(c["function"], ensure_ascii=False) for c in message.get("tool_calls", ())]
    thought = [message[k] for k in REASONING if k in message]
    return "\n".join(x for x in (*thought, message["content"], *calls) if x)


def first_user_turn(values: Record) -> str:
    """For `split_key`: conversations that begin alike fall into the same split."""
    return next(m["content"] for m in values["messages"] if m["role"] == "user")


def _turns(example: Record, key: str) -> Sequence[Turn]:
    for other in NOT_READ:
        if example.get(other):
            raise ValueError(
                f"the record has {other!r}, which chat templates are not given here; tools are "
                "'tools'"
            )
    if not isinstance(example[key], (list, tuple)):
        raise ValueError(f"{key!r} is {_kind(example[key])}, not a list of turns")
    return example[key]


def _message(turn: Any, where: str) -> dict[str, Any]:
    """One turn as templates read it."""
    if not isinstance(turn, Mapping) or "role" not in turn:
        raise ValueError(f"{where} is {_kind(turn)} without a 'role'")
    given = {k: v for k, v in turn.items() if not _empty(v)}
    role = "tool" if turn["role"] == "function" else turn["role"]  # OpenAI's older word
    if role not in ROLES:
        raise ValueError(f"{where} has the role {role!r}; known: {', '.join(ROLES)}")
    where = f"{where} ({role})"
    _known(given, TURN, where)
    if role != "assistant" and turn.get("content") is None:
        raise ValueError(f"{where} has no content")
    message = {"role": role, "content": _text(given.get("content", ""), where)}
    for key in ("name", "tool_call_id"):
        if key in given:
            message[key] = _string(given[key], f"{where}: {key!r}")
    if role != "assistant" and (odd := [k for k in ASSISTANT_ALONE if k in given]):
        raise ValueError(f"{where} has {odd[0]!r}, which only an assistant's turn has")
    thought = {k: _string(given[k], f"{where}: {k!r}") for k in REASONING if k in given}
    if len(set(thought.values())) > 1:
        raise ValueError(f"{where} has {' and '.join(map(repr, thought))}, which differ")
    message |= dict(list(thought.items())[:1])
    calls = given.get("tool_calls", [])
    if not isinstance(calls, (list, tuple)):
        raise ValueError(f"{where}: 'tool_calls' is {_kind(calls)}, not a list")
    if "function_call" in given:
        calls = [*calls, given["function_call"]]
    if calls:
        message["tool_calls"] = [_call(c, f"{where}, call {i}") for i, c in enumerate(calls)]
    return message | _learned(given, role, where)


def _learned(given: Turn, role: str, where: str) -> dict[str, bool]:
    """{"train": False} of a turn that is not learned though it is the assistant's, else {}."""
    flags = {k: given[k] for k in ("train", "weight") if k in given}
    for key, value in flags.items():
        if value not in (0, 1):  # False and True among them
            raise ValueError(
                f"{where} has {key!r} {value!r}; a turn is trained (1, true) or not (0, false)"
            )
    if len(set(map(bool, flags.values()))) > 1:
        raise ValueError(f"{where} has 'train' and 'weight', which differ")
    learned = all(flags.values())
    if role != "assistant" and flags and learned:
        raise ValueError(f"{where} is to be trained; only an assistant's turns are")
    return {} if learned or role != "assistant" else {"train": False}


def _text(content: Any, where: str) -> str:
    """A text, or the text parts of a list of parts."""
    if not isinstance(content, (list, tuple)):
        return _string(content, where)
    texts = []
    for i, part in enumerate(content):
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind != "text":
            what = f"a part of type {kind}" if kind else _kind(part)
            raise ValueError(f"{where}: part {i} of its content is {what}; only text is known")
        given = {k: v for k, v in part.items() if not _empty(v)}
        _known(given, ("type", "text"), f"{where}, part {i}")
        texts.append(_string(part.get("text"), f"{where}, part {i}: 'text'"))
    return "".join(texts)


def _call(call: Any, where: str) -> dict[str, Any]:
    """{"id"?, "type", "function": {"name", "arguments"}} with the arguments as an object, as
    templates take them."""
    if not isinstance(call, Mapping):
        raise ValueError(f"{where} is {_kind(call)}, not an object")
    given = {k: v for k, v in call.items() if not _empty(v)}
    if "function" in given:
        _known(given, CALL, where)
    function = given.get("function", {k: v for k, v in given.items() if k not in ("id", "type")})
    if given.get("type", "function") != "function" or not isinstance(function, Mapping):
        raise ValueError(f"{where} is of type {given.get('type')!r}; only functions are called")
    _known(function, FUNCTION, where)
    if "name" not in function:
        raise ValueError(f"{where} names no function")
    arguments = function.get("arguments")
    if isinstance(arguments, str) and arguments.strip():
        arguments = _parsed(arguments, f"{where}: 'arguments'")
    arguments = {} if _empty(arguments) or isinstance(arguments, str) else arguments
    if not isinstance(arguments, Mapping):
        raise ValueError(f"{where}: 'arguments' is {_kind(arguments)}, not an object")
    name = _string(function["name"], f"{where}: 'name'")
    number = {"id": _string(given["id"], f"{where}: 'id'")} if "id" in given else {}
    return {**number, "type": "function", "function": {"name": name, "arguments": dict(arguments)}}


def _parsed(text: Any, where: str) -> Any:
    try:
        return json.loads(_string(text, where))
    except json.JSONDecodeError as e:
        raise ValueError(f"{where}: no JSON ({e})") from e


def _known(given: Turn, known: Sequence[str], where: str) -> None:
    for key in given:
        if key not in known:
            raise ValueError(
                f"{where} has the key {key!r}; known: "
                f"{', '.join(known)}{did_you_mean(str(key), known)}"
            )


def _string(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{where} holds {_kind(value)}, not a text")
    return value


def _kind(value: Any) -> str:
    return "nothing" if value is None else type(value).__name__


def _empty(value: Any) -> bool:
    """Whether a value says nothing, as in tables that have a column for every key of any row."""
    return value is None or (isinstance(value, (str, list, tuple, dict)) and not value)
