# SPDX-License-Identifier: Apache-2.0
"""Conversations as `fields` of a chat task: {"messages": [{"role", "content"}, …], "tools": […]}.

Roles are system, user, assistant and tool. A call of a tool is an assistant's turn whose content is the call as JSON:
the model must write it. What stands behind the last assistant's turn is not kept: nothing answers it.
"""

import json
from collections.abc import Mapping
from typing import Any

from itx.tasks.spec import Skip

ROLES = ("system", "user", "assistant", "tool")
SHAREGPT = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant",
    "system": "system", "function_call": "assistant", "observation": "tool", "tool": "tool", "function_response": "tool",
}  # fmt: skip


def openai_messages(example: Mapping[str, Any]) -> Any:
    """{"messages": [{"role", "content", "tool_calls"?}], "tools"?}, OpenAI's chat format."""
    return conversation([(m["role"], _content(m)) for m in example["messages"]], example.get("tools"))


def sharegpt_messages(example: Mapping[str, Any]) -> Any:
    """{"conversations": [{"from", "value"}], "system"?, "tools"?}, ShareGPT's format with its common extensions."""
    turns = [("system", example["system"])] if example.get("system") else []
    for m in example["conversations"]:
        if m["from"] not in SHAREGPT:
            raise ValueError(f"a turn is from {m['from']!r}; known: {', '.join(SHAREGPT)}")
        turns.append((SHAREGPT[m["from"]], m["value"]))
    return conversation(turns, example.get("tools"))


def conversation(turns: list[tuple[str, str]], tools: Any = None) -> Any:
    """Checked messages up to the last assistant's turn, or Skip."""
    for i, (role, content) in enumerate(turns):
        if role not in ROLES:
            raise ValueError(f"turn {i} has the role {role!r}; known: {', '.join(ROLES)}")
        if not isinstance(content, str):
            raise TypeError(f"turn {i} ({role}) holds {type(content).__name__}, not a text")
    last = max((i for i, (role, _) in enumerate(turns) if role == "assistant"), default=-1)
    turns = turns[: last + 1]
    if not turns:
        return Skip("no assistant turn")
    if not any(role == "user" for role, _ in turns):
        return Skip("no user turn")
    if any(role == "assistant" and not content.strip() for role, content in turns):
        return Skip("empty assistant turn")
    out: dict[str, Any] = {"messages": [{"role": role, "content": content.strip()} for role, content in turns]}
    tools = json.loads(tools) if isinstance(tools, str) and tools.strip() else tools
    return {**out, "tools": tools} if tools else out


def first_user_turn(values: Mapping[str, Any]) -> str:
    """For `split_key`: conversations that begin alike fall into the same split."""
    return next(m["content"] for m in values["messages"] if m["role"] == "user")


def _content(message: Mapping[str, Any]) -> str:
    """Text, the text parts of a list of parts, or the calls of tools as JSON."""
    content = message.get("content")
    if isinstance(content, list):
        kinds = {p.get("type") for p in content} - {"text"}
        if kinds:
            raise ValueError(f"a message holds parts of type {', '.join(map(str, kinds))}; only text is known")
        content = "".join(p["text"] for p in content)
    calls = [c.get("function", c) for c in message.get("tool_calls") or ()]
    written = [json.dumps({"name": c["name"], "arguments": _arguments(c)}, ensure_ascii=False) for c in calls]
    return "\n".join([*([content] if content else []), *written])


def _arguments(call: Mapping[str, Any]) -> Any:
    found = call.get("arguments", {})
    try:
        return json.loads(found) if isinstance(found, str) else found
    except json.JSONDecodeError:
        return found
