# SPDX-License-Identifier: Apache-2.0
"""Answers of a server with the interface of OpenAI: vLLM, SGLang, llama.cpp, a hosted model.

The official client sends; trying again is ours, so that each attempt is counted: after a status
that may pass (408, 409, 425, 429, 500 and above), a connection that failed, and an answer that is
none. Pauses double, vary with the request, and last as long as the server's Retry-After says. When
one request has been refused `max_attempts` times, all end with what was said; an answer that is
malformed each time is counted as a failure of that request, and the others go on.

The key comes from the environment alone. It stands in no name, fact, error or answer.
"""

import json
import os
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from itx import hashing, movement
from itx.create.generators import (
    ASSISTANT,
    CUT,
    FILTERED,
    STOPPED,
    Calls,
    Completion,
    Request,
    failure,
)
from itx.errors import RunFailed, UserError

PASSING = (408, 409, 425, 429)  # statuses, besides 500 and above, that may be another next time
FINISH_REASONS = {"stop": STOPPED, "length": CUT, "content_filter": FILTERED}
MAX_ANSWER_BYTES = 16 * 2**20
MAX_PAUSE_SECONDS = 60.0
LOOK_SECONDS = 0.2  # between two looks, while waiting, whether all is over
SHOWN = 200  # characters of what a server said


class _Again(Exception):
    """An attempt that may be made again. malformed: the server answered, and it was no answer."""

    def __init__(self, why: str, pause: float = 0.0, malformed: bool = False) -> None:
        super().__init__(why)
        self.pause, self.malformed = pause, malformed


class _Stopped(Exception):
    """Another request ended the work."""


@dataclass(frozen=True)
class Server:
    """A server and how it is asked.

    Args:
        address: e.g. http://127.0.0.1:8000/v1, without a password.
        key_variable: the environment variable that holds the key; a server may need none.
        concurrency: calls at a time. requests_per_minute: 0: no bound.
        timeout_seconds: of one attempt.
    """

    address: str
    model: str
    key_variable: str = "OPENAI_API_KEY"
    concurrency: int = 8
    requests_per_minute: float = 0.0
    max_attempts: int = 6
    timeout_seconds: float = 300.0
    first_pause_seconds: float = 1.0

    def __post_init__(self) -> None:
        parts = urlsplit(self.address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserError(f"server {parts.hostname or self.address!r}: give http://HOST:PORT/v1")
        if parts.username or parts.password or parts.query:
            raise UserError(
                f"server {parts.hostname}: no name, password or query in the address; the key is "
                f"read from the environment, ${self.key_variable}"
            )
        if self.concurrency < 1 or self.max_attempts < 1 or self.timeout_seconds <= 0:
            raise UserError("a server's concurrency, attempts and timeout are above 0")

    @property
    def name(self) -> str:
        return f"server {self.model}"

    def facts(self) -> dict[str, Any]:
        return {"kind": "server", "name": self.name, "model": self.model, "address": self.address}

    def complete(self, requests: Sequence[Request], calls: Calls) -> None:
        if any(r.speaker != ASSISTANT for r in requests):
            raise UserError("a server writes the assistant's turns alone, and was asked for others")
        asking = _Asking(self, os.environ.get(self.key_variable, ""), calls)
        with movement.track("answered", len(requests), "requests") as advance_by:
            asking.all(requests, advance_by)


class _Asking:
    """All requests of one `complete`, over one client and one pace."""

    def __init__(self, server: Server, key: str, calls: Calls) -> None:
        try:
            import openai
        except ImportError as e:
            raise UserError(
                "a server is asked through openai, which is not installed: pip install "
                "'itx[create]'"
            ) from e
        self.openai, self.server, self.key, self.calls = openai, server, key, calls
        self.client = openai.OpenAI(
            base_url=server.address,
            api_key=key or "none",
            max_retries=0,
            timeout=server.timeout_seconds,
        )
        self.stop = threading.Event()
        self.pace = _Pace(server.requests_per_minute)
        self.errors: list[BaseException] = []

    def all(self, requests: Sequence[Request], advance_by: Any) -> None:
        def work(i: int) -> None:
            try:
                if not self.stop.is_set():
                    self.calls.answered(i, self.answer(i, requests[i]))
                    advance_by(1)
            except _Stopped:
                pass
            except BaseException as e:  # told by the thread that waits
                self.errors.append(e)
                self.stop.set()

        with self.client, ThreadPoolExecutor(self.server.concurrency) as pool:
            try:
                for _ in pool.map(work, range(len(requests))):
                    pass
            except BaseException:  # what is in flight is waited for
                self.stop.set()
                raise
        if self.errors:
            raise self.errors[0]

    def answer(self, i: int, request: Request) -> Completion:
        """The completion of one request, after as many attempts as it takes."""
        server = self.server
        for attempt in range(1, server.max_attempts + 1):
            while rest := self.pace.turn():
                self.rest(rest)
            if self.stop.is_set():
                raise _Stopped
            self.calls.sending(i)
            try:
                return self.once(request)
            except _Again as e:
                self.calls.refused(i, str(e), e.malformed)
                why, malformed = str(e), e.malformed
                pause = self.pause(request, attempt, e.pause)
            except BaseException as e:
                self.calls.refused(i, f"ended by {type(e).__name__}", False)
                raise
            if attempt < server.max_attempts:
                if malformed:
                    self.rest(pause)
                else:
                    self.pace.hold(pause)
        if malformed:
            return failure(f"{why}, {server.max_attempts} times")
        raise RunFailed(
            f"{server.name}: {why}, {server.max_attempts} times in a row; the same command goes on"
        )

    def rest(self, seconds: float) -> None:
        """Wait, unless all is over or nobody waits for the answers any more."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if self.stop.wait(min(left, LOOK_SECONDS)):
                raise _Stopped
            self.calls.check()

    def pause(self, request: Request, attempt: int, told: float) -> float:
        """Seconds before the next attempt: doubled each time, times 0.5 to 1.5."""
        vary = 0.5 + hashing.draw(request.digest, attempt) / 2**64
        doubled = self.server.first_pause_seconds * 2 ** (attempt - 1) * vary
        return min(max(told, doubled), MAX_PAUSE_SECONDS)

    def once(self, request: Request) -> Completion:
        openai = self.openai
        settings: dict[str, Any] = {
            "model": self.server.model,
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "seed": request.seed,
            "extra_headers": {"Idempotency-Key": request.digest},
        }
        if request.stop:
            settings["stop"] = list(request.stop)
        if request.messages:
            create = self.client.chat.completions.with_streaming_response.create
            settings["messages"] = [m._asdict() for m in request.messages]
        else:
            create = self.client.completions.with_streaming_response.create
            settings["prompt"] = request.prompt
        try:
            with create(**settings) as response:
                return self.completion(self.body(response))
        except openai.APIStatusError as e:
            return self.refusal(e)
        except openai.APITimeoutError as e:
            raise _Again("no answer in time") from e
        except openai.APIConnectionError as e:
            raise _Again(f"no connection ({self.without_key(str(e.__cause__ or e))})") from e
        except (_Again, UserError, OSError):
            raise
        except Exception as e:  # a connection that breaks while the body is read
            if isinstance(e, openai.OpenAIError) or "httpx" in type(e).__module__:
                raise _Again(f"the connection broke ({type(e).__name__})") from e
            raise

    def body(self, response: Any) -> bytes:
        until = time.monotonic() + self.server.timeout_seconds
        parts, size = [], 0
        for part in response.iter_bytes():
            parts.append(part)
            size += len(part)
            if size > MAX_ANSWER_BYTES:
                why = f"an answer of more than {MAX_ANSWER_BYTES:,} bytes"
                raise _Again(why, malformed=True)
            if time.monotonic() > until:
                raise _Again("no whole answer in time")
        return b"".join(parts)

    def completion(self, body: bytes) -> Completion:
        """What a server's JSON says; _Again where it is no answer."""
        try:
            held = json.loads(body)
            choice = held["choices"][0]
            message = choice["message"]["content"] if "message" in choice else choice["text"]
            text = "" if message is None else message
            reason = choice.get("finish_reason")
            usage = held.get("usage") or {}
            counts = usage.get("prompt_tokens"), usage.get("completion_tokens")
            if not isinstance(text, str):
                raise TypeError("the text is none")
            text.encode()
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as e:
            raise _Again(f"malformed answer ({type(e).__name__})", malformed=True) from e
        if self.key and self.key in text:
            raise _Again("the answer holds the key", malformed=True)
        known = all(isinstance(n, int) and 0 <= n < 2**40 for n in counts)
        # a reason that is none of these is no sign that the answer is whole
        return Completion(text, FINISH_REASONS.get(reason, CUT), *(counts if known else ()))

    def refusal(self, error: Any) -> Completion:
        """What a status means: a failure of this request, or an error that ends all or passes."""
        said = self.without_key(" ".join(str(error.message).split()))[:SHOWN]
        status = error.status_code
        if status in (401, 403):
            named = f"${self.server.key_variable}"
            state = "is not accepted" if self.key else "is not set"
            raise UserError(f"{self.server.name}: {named} {state} (status {status}: {said})")
        if status == 404:
            raise UserError(f"{self.server.name}: not found there (status 404: {said})")
        if getattr(error, "code", None) == "insufficient_quota":
            raise RunFailed(f"{self.server.name}: nothing left to pay with ({said})")
        if status in PASSING or status >= 500:
            raise _Again(f"status {status}", _retry_after(error.response.headers))
        return failure(f"status {status}: {said}")

    def without_key(self, said: str) -> str:
        return said.replace(self.key, "…") if self.key else said


def _retry_after(headers: Mapping[str, str]) -> float:
    try:
        return max(0.0, float(headers.get("retry-after", "")))
    except ValueError:  # absent, or a date
        return 0.0


class _Pace:
    """When the next call may be sent: at most so many a minute, and none while a server asks for a
    pause."""

    def __init__(self, per_minute: float) -> None:
        self.between = 60.0 / per_minute if per_minute else 0.0
        self.next, self.mutex = 0.0, threading.Lock()

    def turn(self) -> float:
        """0, and the turn is taken; or how many seconds are left until there may be one."""
        with self.mutex:
            left = self.next - time.monotonic()
            if left <= 0:
                self.next = time.monotonic() + self.between
            return max(0.0, left)

    def hold(self, seconds: float) -> None:
        with self.mutex:
            self.next = max(self.next, time.monotonic() + seconds)
