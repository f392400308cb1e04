# SPDX-License-Identifier: Apache-2.0
"""Who answers: one protocol for a model of ours (own_model.py), a server (server.py), a recording
and a script.

    request      a prompt or messages, how the answer is sampled, and a seed
    completion   the answer's text, why it ended, and how many tokens were read and written
    generator    answers requests, in any order, and tells `Calls` of each attempt as it happens

A request's digest stands for all of it. A generator's name stands for the model that answers, never
for an address or a key: with the digest it is what an answer is kept under (journal.py).

Text is data: a completion's text stays a string whatever stands in it.
"""

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from itx import hashing
from itx.errors import UserError
from itx.tasks.chat import ROLES

MAX_SEED = 2**31 - 1
ASSISTANT = "assistant"
# Why an answer ended: by itself or a stop string; at max_tokens; the server took it back; there is
# none, and `error` says why.
STOPPED, CUT, FILTERED, FAILED = FINISHES = ("stopped", "cut", "filtered", "failed")


class Message(NamedTuple):
    role: str
    content: str


@dataclass(frozen=True)
class Request:
    """What is asked: `prompt`, which is continued as it stands, or `messages`, which go through
    the chat template of who answers. temperature 0 takes the best token, and the seed is then
    without effect.

    speaker: whose turn is written behind the messages. A `user`'s is what a chat model takes for a
    question (Magpie, Xu et al., 2024, arXiv:2406.08464); only a model of ours can be asked for it.
    """

    prompt: str = ""
    messages: tuple[Message, ...] = ()
    max_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int = 0
    speaker: str = ASSISTANT

    def __post_init__(self) -> None:
        if bool(self.prompt) == bool(self.messages):
            raise UserError("a request has a prompt or messages, one of them")
        if any(m.role not in ROLES for m in self.messages):
            raise UserError(f"a request's roles are {', '.join(ROLES)}")
        if self.speaker != ASSISTANT and (self.speaker != "user" or not self.messages):
            raise UserError("a request's speaker is assistant, or behind messages user")
        if not all(self.stop):
            raise UserError("a request's stop strings hold characters")
        if self.max_tokens < 1 or not 0 <= self.seed <= MAX_SEED:
            raise UserError(f"a request has max_tokens from 1 and a seed from 0 to {MAX_SEED}")
        try:
            json.dumps(self.facts(), ensure_ascii=False, allow_nan=False).encode()
        except ValueError as e:
            raise UserError(f"a request that is no Unicode text, or has no number: {e}") from e

    def facts(self) -> dict[str, Any]:
        """The request as JSON has it; `request_of` reads it."""
        held = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        if self.speaker == ASSISTANT:  # as requests were before there were others
            del held["speaker"]
        asked = {"messages": [m._asdict() for m in self.messages]}
        return held | {"stop": list(self.stop)} | asked

    @property
    def digest(self) -> str:
        """16 hexadecimal digits that stand for the whole request."""
        return hashing.digest(json.dumps(self.facts(), sort_keys=True))

    @property
    def most_tokens(self) -> int:
        """A bound on what it costs: a token is at least a byte, and a template adds few."""
        read = [self.prompt, *(m.content for m in self.messages)]
        return self.max_tokens + sum(len(t.encode()) + TEMPLATE_TOKENS for t in read)


TEMPLATE_TOKENS = 64  # that a chat template puts around a message, generously


def request_for(prompt: str, chat: bool, stop: tuple[str, ...] = (), **how: Any) -> Request:
    """A request by a message, or with a text to continue.

    Args:
        stop: at which a continued text ends; the answer to a message ends by itself.
    """
    if chat:
        return Request(messages=(Message("user", prompt),), **how)
    return Request(prompt=prompt, stop=stop, **how)


def request_of(facts: dict[str, Any]) -> Request:
    messages = tuple(Message(**m) for m in facts["messages"])
    return Request(**{**facts, "messages": messages, "stop": tuple(facts["stop"])})


@dataclass(frozen=True)
class Completion:
    """The answer to a request; its token counts are None where nobody told them."""

    text: str
    finish: str  # one of FINISHES
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    error: str = ""


Ask = Callable[[list[Request]], list[Completion]]  # the answer to each, in their order


def failure(why: str) -> Completion:
    """No answer, and why there will be none."""
    return Completion("", FAILED, error=why)


class Calls(Protocol):
    """What a generator tells of request i. `sending` comes before each attempt and may raise, which
    ends the work, as `check` may while it waits; `refused` tells of an attempt that gave no answer,
    and whether it may have to be paid; `answered` ends the request."""

    def check(self) -> None: ...

    def sending(self, i: int) -> None: ...

    def refused(self, i: int, why: str, paid: bool) -> None: ...

    def answered(self, i: int, completion: Completion) -> None: ...


class Generator(Protocol):
    @property
    def name(self) -> str: ...

    def facts(self) -> dict[str, Any]:
        """What a manifest says of it: no key, no password."""
        ...

    def complete(self, requests: Sequence[Request], calls: Calls) -> None:
        """Answer every request; returns when each was told to `calls.answered`."""
        ...


@dataclass(frozen=True)
class Scripted:
    """Answers by a function of the request: for tests, and for rules in place of a model."""

    answer: Callable[[Request], str | Completion]
    name: str = "scripted"

    def facts(self) -> dict[str, Any]:
        return {"kind": "scripted", "name": self.name}

    def complete(self, requests: Sequence[Request], calls: Calls) -> None:
        for i, request in enumerate(requests):
            calls.sending(i)
            said = self.answer(request)
            calls.answered(i, said if isinstance(said, Completion) else Completion(said, STOPPED))


@dataclass(frozen=True)
class Recorded:
    """Answers of another time, by the digest of their requests (`journal.recorded` reads them).
    Under the name of who gave them, so that what is made of them is the same."""

    name: str
    answers: dict[str, Completion]

    def facts(self) -> dict[str, Any]:
        return {"kind": "recorded", "name": self.name, "answers": len(self.answers)}

    def complete(self, requests: Sequence[Request], calls: Calls) -> None:
        for i, request in enumerate(requests):
            if request.digest not in self.answers:
                asked = request.prompt or request.messages[-1].content
                raise UserError(
                    f"the recording of {self.name} holds {len(self.answers):,} answers, and none "
                    f"to request {request.digest} ({asked[-60:]!r})"
                )
            calls.sending(i)
            calls.answered(i, self.answers[request.digest])
