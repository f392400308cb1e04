# SPDX-License-Identifier: Apache-2.0
"""What a request's body asks for: every field is understood, known to change no answer, or refused.

asked      model, prompt or messages, max_tokens (max_completion_tokens), temperature, top_p,
           seed, stop, stream, stream_options, logprobs, top_logprobs
HARMLESS   says who asks or how it is billed; read by nobody
NEUTRAL    would change the answer; taken only with the value that does not
"""

import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from itx.errors import UserError, did_you_mean
from itx.eval import terminal
from itx.eval.loaded import Ids
from itx.serve.asks import Ask
from itx.serve.steps import TOP

COMPLETION_TOKENS = 16  # of a completion without max_tokens, as OpenAI has it
MAX_STOPS, MAX_STOP_CHARACTERS = 16, 1000
MAX_TOP_COMPLETIONS = 5  # logprobs of a completion, as OpenAI has it
HARMLESS = ("user", "metadata", "safety_identifier", "prompt_cache_key", "service_tier")
NEUTRAL: dict[str, tuple] = {
    "n": (1,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "store": (False,),
}
NEUTRAL_OF = {
    "completions": {"best_of": (1,), "echo": (False,), "suffix": ("",)},
    "chat": {
        "tools": ([],),
        "tool_choice": ("none",),
        "parallel_tool_calls": (True, False),
        "functions": ([],),
        "function_call": ("none",),
        "response_format": ({"type": "text"},),
        "modalities": (["text"],),
        "reasoning_effort": (),
        "verbosity": (),
        "audio": (),
        "prediction": (),
        "web_search_options": (),
    },
}
ASKED = (
    *("model", "max_tokens", "temperature", "top_p", "seed", "stop"),
    *("stream", "stream_options", "logprobs"),
)
ASKED_OF = {
    "completions": ("prompt",),
    "chat": ("messages", "max_completion_tokens", "top_logprobs"),
}


class Refused(Exception):
    """A request that is not answered: an HTTP status and OpenAI's fields of an error."""

    def __init__(self, why: str, param: str | None = None, code: str | None = None, status=400):
        super().__init__(why)
        self.param, self.code, self.status = param, code, status


@dataclass(frozen=True)
class Body:
    """A request as it is understood. top: how many of the likeliest tokens are told of each, None:
    no log-probabilities."""

    asks: tuple[Ask, ...]
    stream: bool
    usage: bool  # a last chunk of the stream with the tokens' numbers
    top: int | None


@dataclass(frozen=True)
class Reader:
    """Reads bodies for one model.

    Args:
        system: what conversations stand under that begin with no system message.
        max_new_tokens: the most tokens of an answer.
        longest: tokens that a prompt may have where the model names no context.
    """

    run: terminal.Run
    name: str
    system: str
    max_new_tokens: int
    longest: int

    def completions(self, body: dict) -> Body:
        self._check_fields(body, "completions")
        prompts = self._prompts(body.get("prompt"))
        limit = _whole(body, "max_tokens", 1) or min(COMPLETION_TOKENS, self.max_new_tokens)
        top = _whole(body, "logprobs", 0, MAX_TOP_COMPLETIONS)
        return self._body(body, prompts, limit, (), top)

    def chat(self, body: dict) -> Body:
        self._check_fields(body, "chat")
        if not self.run.template:
            raise Refused(
                f"{self.name} has no chat template: ask it at /v1/completions", "messages"
            )
        ids = self._conversation(body.get("messages"))
        given = [k for k in ("max_tokens", "max_completion_tokens") if body.get(k) is not None]
        if len(given) == 2 and body["max_tokens"] != body["max_completion_tokens"]:
            raise Refused("max_tokens and max_completion_tokens differ: give one", "max_tokens")
        limit = _whole(body, given[0], 1) if given else max(1, self._most(ids))
        wanted, top = _true(body, "logprobs"), _whole(body, "top_logprobs", 0, TOP)
        if top is not None and not wanted:
            raise Refused("top_logprobs needs logprobs: true", "top_logprobs")
        return self._body(body, [ids], limit, self.run.stops(), (top or 0) if wanted else None)

    def _body(
        self, body: dict, prompts: list[Ids], limit: int, ends: Sequence[str], top: int | None
    ) -> Body:
        temperature = _number(body, "temperature", 1.0, 2.0)
        if 0 < temperature < 1e-30:
            raise Refused(f"temperature {temperature}: 0, or above 1e-30", "temperature")
        top_p = _number(body, "top_p", 1.0, 1.0)
        if top_p < 1e-30:
            raise Refused(f"top_p {top_p}: above 0 and at most 1", "top_p")
        seed = _whole(body, "seed", -(2**63), 2**64 - 1)
        stop = tuple(dict.fromkeys((*_stops(body), *ends)))
        stream, usage = _true(body, "stream"), _usage(body)
        if usage and not stream:
            raise Refused("stream_options needs stream: true", "stream_options")
        if limit > self.max_new_tokens:
            raise Refused(
                f"max_tokens {limit}: at most {self.max_new_tokens} (--max_new_tokens)",
                "max_tokens",
            )
        for ids in prompts:
            self._check_room(ids, limit)
        seeds = [secrets.randbits(32) if seed is None else seed % 2**32 for _ in prompts]
        asks = (
            Ask(ids, limit, temperature, top_p, s, stop, top is not None, stream)
            for ids, s in zip(prompts, seeds, strict=True)
        )
        return Body(tuple(asks), stream, usage, top)

    def _check_fields(self, body: dict, kind: str) -> None:
        neutral, asked = NEUTRAL | NEUTRAL_OF[kind], (*ASKED, *ASKED_OF[kind])
        for name, value in body.items():
            if name in asked or name in HARMLESS or value is None and name in neutral:
                continue
            if name not in neutral:
                known = did_you_mean(name, [*asked, *neutral])
                raise Refused(f"no field {name!r} is known here{known}", name, "unknown_field")
            # True == 1 in Python
            if not any(value == v and type(value) in (type(v), float) for v in neutral[name]):
                raise Refused(
                    f"{name} is not supported: it would change the answer; leave it out",
                    name,
                    "unsupported_field",
                )
        model = body.get("model")
        if not isinstance(model, str):
            raise Refused("model is missing, or no text", "model")
        if model != self.name:
            why = f"the model {model!r} does not exist here{did_you_mean(model, [self.name])}"
            raise Refused(why, "model", "model_not_found", 404)

    # ---- prompts

    def _prompts(self, given: Any) -> list[Ids]:
        """One prompt or several, each a text or token ids."""
        several = isinstance(given, list) and given and not _is_ids(given)
        prompts = given if several else [given]
        return [self._prompt(p) for p in prompts]

    def _prompt(self, given: Any) -> Ids:
        if isinstance(given, str):
            return self.run.vocabulary.encode(_text(given, "prompt"))
        if not isinstance(given, list) or not _is_ids(given):
            raise Refused("prompt: a text, token ids, or a list of such", "prompt")
        rows = len(self.run.runner.loaded.params["embedding"])
        if wrong := [i for i in given if not 0 <= i < rows]:
            raise Refused(f"prompt: the model has no token {wrong[0]}", "prompt")
        return given

    def _conversation(self, given: Any) -> Ids:
        if not isinstance(given, list):
            raise Refused("messages is missing, or no list", "messages")
        turns = [_joined(turn) for turn in given]
        try:
            messages = terminal.messages_of({"messages": turns}, "messages:")
            if self.system and messages[0]["role"] != "system":
                messages = [terminal.message(self.system, "data.system", "system"), *messages]
            if lost := self.run.unwritten(messages):
                raise UserError(f"the model's chat template does not write {lost[0]}")
            return self.run.ids(messages)
        except UserError as e:
            raise Refused(str(e), "messages") from e

    # ---- room

    def _most(self, ids: Ids) -> int:
        """The most tokens that an answer to a prompt can have; below 1: the prompt is too long."""
        loaded = self.run.runner.loaded
        if loaded.model.architecture == "encoder_decoder" or not loaded.context:
            return self.max_new_tokens
        return min(self.max_new_tokens, loaded.context - len(loaded.head) - len(ids))

    def _check_room(self, ids: Ids, limit: int) -> None:
        loaded = self.run.runner.loaded
        if not loaded.can_begin(len(ids)):
            raise Refused("an empty prompt, and the vocabulary puts no BOS before it", "prompt")
        if why := loaded.no_room(len(ids), limit, self.longest):
            raise Refused(f"the prompt {why}", None, "context_length_exceeded")


# ---- values


def _is_ids(given: list) -> bool:
    return all(isinstance(i, int) and not isinstance(i, bool) for i in given)


def _text(given: str, name: str) -> str:
    try:
        given.encode("utf-8")
    except UnicodeEncodeError as e:
        raise Refused(f"{name} is no Unicode text (character {e.start})", name) from e
    return given


def _joined(turn: Any) -> Any:
    """A turn whose content is a list of texts, as one with their joined text."""
    if not isinstance(turn, dict) or not isinstance(turn.get("content"), list):
        return turn
    parts = turn["content"]
    for part in parts:
        if not isinstance(part, dict) or part.get("type") != "text":
            kind = part.get("type") if isinstance(part, dict) else part
            raise Refused(f"a part of a message is {kind!r}; this model reads text", "messages")
        if not isinstance(part.get("text"), str):
            raise Refused("a part of a message has no text", "messages")
    return {**turn, "content": "".join(part["text"] for part in parts)}


def _number(body: dict, name: str, default: float, most: float) -> float:
    value = body.get(name)
    if value is None:
        return default
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not 0 <= value <= most:
        raise Refused(f"{name}: a number from 0 to {most:g}", name)
    return float(value)


def _whole(body: dict, name: str, least: int, most: int = 2**63) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        bounds = f"from {least} to {most}" if most < 2**63 else f"of at least {least}"
        raise Refused(f"{name}: a whole number {bounds}", name)
    return value


def _true(body: dict, name: str) -> bool:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise Refused(f"{name}: true or false", name)
    return bool(value)


def _usage(body: dict) -> bool:
    options = body.get("stream_options")
    if options is None:
        return False
    if not isinstance(options, dict) or options.keys() - {"include_usage", "include_obfuscation"}:
        raise Refused("stream_options: {include_usage}", "stream_options")
    if _true(options, "include_obfuscation"):
        raise Refused("stream_options.include_obfuscation is not supported", "stream_options")
    return _true(options, "include_usage")


def _stops(body: dict) -> list[str]:
    given = body.get("stop")
    texts = [] if given is None else given if isinstance(given, list) else [given]
    if len(texts) > MAX_STOPS:
        raise Refused(f"stop: at most {MAX_STOPS} texts", "stop")
    for text in texts:
        if not isinstance(text, str) or not 0 < len(text) <= MAX_STOP_CHARACTERS:
            raise Refused(f"stop: texts of 1 to {MAX_STOP_CHARACTERS} characters", "stop")
        _text(text, "stop")
    return texts
