# SPDX-License-Identifier: Apache-2.0
"""What the server answers, in the shapes of OpenAI's interface."""

import functools
import json
import secrets
import time
from collections.abc import Sequence
from typing import Any

from itx.data.vocabulary import Vocabulary
from itx.eval.loaded import Ids
from itx.serve.asks import Delta, Scored
from itx.serve.fields import Body


class Replies:
    """The JSON of one request's answers."""

    def __init__(self, chat: bool, model: str, body: Body, vocabulary: Vocabulary):
        self.chat, self.model, self.body, self.vocabulary = chat, model, body, vocabulary
        self.id = f"{'chatcmpl' if chat else 'cmpl'}-{secrets.token_hex(12)}"
        self.created = int(time.time())

    def whole(self, deltas: Sequence[Delta]) -> dict[str, Any]:
        """The answer of a request that is not streamed: one delta for each prompt."""
        choices = []
        for i, delta in enumerate(deltas):
            choice = {"index": i, "finish_reason": delta.finish}
            if self.chat:
                choice["message"] = {"role": "assistant", "content": delta.text, "refusal": None}
            else:
                choice["text"] = delta.text
            choices.append({**choice, "logprobs": self._logprobs(delta.scored)})
        kind = "chat.completion" if self.chat else "text_completion"
        return {**self._head(kind), "choices": choices, "usage": self.usage(deltas)}

    def opening(self) -> list[dict[str, Any]]:
        """What a stream of a conversation begins with."""
        if not self.chat:
            return []
        choice = {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
        return [self._chunk([{**choice, "logprobs": None}])]

    def chunk(self, i: int, delta: Delta) -> dict[str, Any]:
        """What has been added to the answer of prompt i."""
        choice = {"index": i, "finish_reason": delta.finish}
        if self.chat:
            choice["delta"] = {"content": delta.text} if delta.text else {}
        else:
            choice["text"] = delta.text
        return self._chunk([{**choice, "logprobs": self._logprobs(delta.scored)}])

    def usage_chunk(self, deltas: Sequence[Delta]) -> dict[str, Any]:
        return {**self._chunk([]), "usage": self.usage(deltas)}

    def usage(self, deltas: Sequence[Delta]) -> dict[str, int]:
        """The tokens of all prompts, as they are written, and of all answers, without the end of
        sequence."""
        read = sum(len(ask.ids) for ask in self.body.asks)
        written = sum(delta.tokens for delta in deltas)
        counts = {"prompt_tokens": read, "completion_tokens": written}
        return {**counts, "total_tokens": read + written}

    def _chunk(self, choices: list[dict]) -> dict[str, Any]:
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        usage = {"usage": None} if self.body.usage else {}
        return {**self._head(kind), "choices": choices, **usage}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def _logprobs(self, scored: Sequence[Scored]) -> dict[str, Any] | None:
        top = self.body.top
        if top is None:
            return None
        if not self.chat:
            return {
                "tokens": [self._token(s.id) for s in scored],
                "token_logprobs": [s.logprob for s in scored],
                "top_logprobs": [self._likeliest(s.top[:top]) for s in scored] if top else None,
                "text_offset": [s.offset for s in scored],
            }
        told = [
            self._told(s.id, s.logprob) | {"top_logprobs": [self._told(*t) for t in s.top[:top]]}
            for s in scored
        ]
        return {"content": told, "refusal": None}

    def _likeliest(self, top: Sequence[tuple[int, float]]) -> dict[str, float]:
        """Log-probabilities by the tokens' texts; of ids that read alike the likelier is told."""
        by_text: dict[str, float] = {}
        for id, logprob in top:
            by_text.setdefault(self._token(id), logprob)
        return by_text

    def _told(self, id: int, logprob: float) -> dict[str, Any]:
        text = self._token(id)
        # part of a character reads as U+FFFD: its bytes are not known here
        data = None if "\ufffd" in text else list(text.encode())
        return {"token": text, "logprob": logprob, "bytes": data}

    def _token(self, id: int) -> str:
        """A token's text as it stands behind another, with the space that it begins with."""
        ids, text = self._before
        return self.vocabulary.decode([*ids, id]).removeprefix(text)

    @functools.cached_property
    def _before(self) -> tuple[Ids, str]:
        """The token that others stand behind: its ids and its text."""
        ids = self.vocabulary.encode("a")
        return ids, self.vocabulary.decode(ids)


def event(held: dict[str, Any]) -> bytes:
    """A chunk as a server-sent event."""
    return f"data: {as_json(held)}\n\n".encode()


def as_json(held: Any) -> str:
    return json.dumps(held, ensure_ascii=False, allow_nan=False)


DONE = b"data: [DONE]\n\n"  # the end of a stream


def error(why: str, kind: str, param: str | None = None, code: str | None = None) -> dict:
    """An error as OpenAI's clients read it."""
    return {"error": {"message": why, "type": kind, "param": param, "code": code}}
