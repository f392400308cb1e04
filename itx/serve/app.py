# SPDX-License-Identifier: Apache-2.0
"""The server's HTTP: who may ask, how much, and what becomes of a request whose client leaves."""

import asyncio
import contextlib
import hmac
import json
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from itx import hashing
from itx.serve import replies
from itx.serve.asks import Delta, Ticket
from itx.serve.engine import FAILED, Closed, Engine, Full
from itx.serve.fields import Body, Reader, Refused
from itx.serve.repeats import Repeats
from itx.serve.replies import Replies
from itx.text import say

KEY_HEADER, AGAIN_HEADER = "authorization", "idempotency-key"
BODY_SECONDS, SEND_SECONDS = 30.0, 60.0  # that a client may take to send, and to read on
LOOPBACK = ("127.0.0.1", "localhost", "::1")
SHOWN = 200  # characters of an error
READERS = 2  # threads that make token ids of requests
MAX_KEY_CHARACTERS = 200  # of an Idempotency-Key
KINDS = {
    401: "authentication_error",
    404: "not_found_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
}


@dataclass(frozen=True)
class Access:
    """Who may ask. key: "" lets everybody; hosts: that a browser may name (none: any)."""

    key: str = ""
    hosts: tuple[str, ...] = ()
    max_body_bytes: int = 2**20


class Gone(Exception):
    """The client has left."""


class App:
    """The endpoints over one engine."""

    def __init__(self, engine: Engine, reader: Reader, access: Access):
        self.engine, self.reader, self.access = engine, reader, access
        self.meters, self.created = engine.meters, int(time.time())
        self.repeats = Repeats()
        # templates and vocabularies take their time: connections do not wait for them
        self.readers = ThreadPoolExecutor(READERS, "itx-reader")

    def asgi(self) -> Starlette:
        routes = [
            Route("/health", self.plain(self.health, open_to_all=True)),
            Route("/metrics", self.plain(self.metrics)),
            Route("/v1/models", self.plain(self.models)),
            Route("/v1/models/{name:path}", self.plain(self.model)),
            Route("/v1/completions", self.answering(chat=False), methods=["POST"]),
            Route("/v1/chat/completions", self.answering(chat=True), methods=["POST"]),
        ]
        handlers = {HTTPException: self.no_route, Exception: self.broken}
        return Starlette(routes=routes, exception_handlers=handlers)

    # ---- what costs nothing

    def plain(self, answer: Callable[[Request], Response], open_to_all: bool = False) -> Callable:
        async def endpoint(request: Request) -> Response:
            try:
                self.check_access(request, open_to_all)
                response = answer(request)
            except Refused as e:
                response = refusal(e)
            self.count(request, response.status_code)
            return response

        return endpoint

    def health(self, request: Request) -> Response:
        engine = self.engine
        alive = engine.thread.is_alive() and not engine.closing
        status = "ok" if alive and not engine.last_failed else "failing" if alive else "closing"
        held = {"status": status, "model": self.reader.name}
        return reply(held | {"waiting": len(engine.waiting)}, 200 if status == "ok" else 503)

    def metrics(self, request: Request) -> Response:
        return Response(self.meters.text(), media_type="text/plain; version=0.0.4")

    def models(self, request: Request) -> Response:
        return reply({"object": "list", "data": [self.card()]})

    def model(self, request: Request) -> Response:
        if request.path_params["name"] != self.reader.name:
            raise Refused("no such model here; see /v1/models", "model", "model_not_found", 404)
        return reply(self.card())

    def card(self) -> dict[str, Any]:
        return {
            "id": self.reader.name,
            "object": "model",
            "created": self.created,
            "owned_by": "itx",
            "max_model_len": self.engine.loaded.context or None,
        }

    async def no_route(self, request: Request, error: HTTPException) -> Response:
        self.count(request, error.status_code)
        why = f"{request.method} {request.url.path}: {error.detail.lower()}"
        return refusal(Refused(why, status=error.status_code))

    async def broken(self, request: Request, error: Exception) -> Response:
        return refusal(self.defect(request, error))

    def defect(self, request: Request, error: Exception) -> Refused:
        """What is answered where the server itself is wrong; its log says more."""
        told = " ".join(str(error).split())[:SHOWN]
        say(f"{request.url.path} failed: {type(error).__name__}: {told}")
        return Refused("the server failed; its log says why", status=500)

    def count(self, request: Request, status: int) -> None:
        known = request.scope.get("endpoint") is not None
        path = "/v1/models" if "name" in request.path_params else request.url.path
        self.meters.requests.labels(path if known else "other", str(status)).inc()

    def check_access(self, request: Request, open_to_all: bool = False) -> None:
        """Refused without the key, and for another host than the loopback where a key is not asked
        for: a page in a browser of this machine may else ask under a name of its own."""
        host = request.url.hostname or ""
        if self.access.hosts and host not in self.access.hosts:
            raise Refused(f"the host {host!r} is not this machine's own", status=403)
        if open_to_all or not self.access.key:
            return
        given = request.headers.get(KEY_HEADER, "").encode("utf-8", "replace")
        if not hmac.compare_digest(given, f"Bearer {self.access.key}".encode()):
            raise Refused("the API key is missing or wrong", None, "invalid_api_key", 401)

    # ---- answers

    def answering(self, chat: bool) -> Callable:
        async def endpoint(request: Request) -> Any:
            return Answering(self, request, chat)

        return endpoint

    async def read_body(self, request: Request) -> dict:
        """A request's JSON object, of bounded size, in bounded time."""
        kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
        if kind != "application/json":  # a page of another origin may not send this kind unasked
            raise Refused("Content-Type must be application/json", status=415)
        most = self.access.max_body_bytes
        too_long = Refused(f"a request has at most {most:,} bytes", status=413)
        if request.headers.get("content-length", "0").isdigit():
            if int(request.headers.get("content-length", "0")) > most:
                raise too_long
        data = bytearray()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for part in request.stream():
                    data += part
                    if len(data) > most:
                        raise too_long
            held = json.loads(data)
        except TimeoutError as e:
            raise Refused("the request did not arrive in time", status=408) from e
        except (ValueError, RecursionError) as e:
            raise Refused(f"the request is not JSON: {e}") from e
        if not isinstance(held, dict):
            raise Refused("the request is no JSON object")
        return held


class Answering:
    """One request to complete, as an ASGI application: it looks for the client's leaving while it
    waits for the engine, and while it writes."""

    def __init__(self, app: App, request: Request, chat: bool):
        self.app, self.request, self.chat = app, request, chat
        self.arrived, self.began = time.monotonic(), False  # to stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app, status = self.app, 499  # what nginx counts where the client has left
        app.meters.open.inc()
        try:
            app.check_access(self.request)
            held = await app.read_body(self.request)
            read = app.reader.chat if self.chat else app.reader.completions
            body = await asyncio.get_running_loop().run_in_executor(app.readers, read, held)
            work = self.streamed(body, send) if body.stream else self.whole(body, held)
            response = await or_gone(work, receive)
            if response is not None:
                status = response.status_code
                await within(response(scope, receive, send))
            else:
                status = 200
        except Refused as e:
            status = e.status
            await within(refusal(e)(scope, receive, send))
        except (Gone, ClientDisconnect, TimeoutError):
            pass
        except Exception as e:
            defect = app.defect(self.request, e)
            status = defect.status
            if not self.began:
                await within(refusal(defect)(scope, receive, send))
        finally:
            app.meters.open.dec()
            app.meters.whole.observe(time.monotonic() - self.arrived)
            app.count(self.request, status)

    def submit(self, body: Body) -> tuple[list[Ticket], asyncio.Queue]:
        """The asks in the engine, and the queue that their deltas come by: (prompt, delta)."""
        queue: asyncio.Queue = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def teller(i: int) -> Callable[[Delta], None]:
            def tell(delta: Delta) -> None:
                with contextlib.suppress(RuntimeError):  # the loop has ended: nobody is left
                    loop.call_soon_threadsafe(queue.put_nowait, (i, delta))

            return tell

        tickets = [Ticket(ask, teller(i)) for i, ask in enumerate(body.asks)]
        try:
            self.app.engine.submit(tickets)
        except Full as e:
            raise Busy(str(e), e.seconds) from e
        except Closed as e:
            raise Refused("the server is shutting down", status=503) from e
        return tickets, queue

    async def whole(self, body: Body, held: dict) -> Response:
        """The answer in one piece; one for all requests with the same Idempotency-Key."""
        key = self.request.headers.get(AGAIN_HEADER, "")
        if not key:
            return reply(await self.answer(body))
        if len(key) > MAX_KEY_CHARACTERS:
            raise Refused(f"{AGAIN_HEADER}: at most {MAX_KEY_CHARACTERS} characters")
        digest = hashing.digest(self.chat, json.dumps(held, sort_keys=True))
        held_answer, repeated = await self.app.repeats.once(key, digest, lambda: self.answer(body))
        if repeated:
            self.app.meters.repeated.inc()
        return reply(held_answer)

    async def answer(self, body: Body) -> dict:
        tickets, queue = self.submit(body)
        try:
            found: dict[int, Delta] = {}
            while len(found) < len(tickets):
                i, delta = await queue.get()
                if delta.failure:
                    raise failed(delta)
                found[i] = delta
            replies = Replies(self.chat, self.app.reader.name, body, self.app.reader.run.vocabulary)
            return replies.whole([found[i] for i in range(len(tickets))])
        finally:
            for ticket in tickets:
                ticket.cancel()

    async def streamed(self, body: Body, send: Send) -> None:
        """The answer as server-sent events."""
        tickets, queue = self.submit(body)
        made = Replies(self.chat, self.app.reader.name, body, self.app.reader.run.vocabulary)
        try:
            # the first delta decides between an answer and a refusal
            i, delta = await queue.get()
            if delta.failure:
                raise failed(delta)
            headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
            headers.append((b"cache-control", b"no-cache"))
            self.began = True
            await within(send({"type": "http.response.start", "status": 200, "headers": headers}))
            for chunk in made.opening():
                await write(send, replies.event(chunk))
            last: dict[int, Delta] = {}
            while True:
                if delta.failure:  # the status is sent: the stream says it, and does not end well
                    await write(send, replies.event(replies.error(delta.failure, KINDS[500])))
                    break
                await write(send, replies.event(made.chunk(i, delta)))
                if delta.finish is not None:
                    last[i] = delta
                if len(last) == len(tickets):
                    if body.usage:
                        await write(send, replies.event(made.usage_chunk(list(last.values()))))
                    await write(send, replies.DONE)
                    break
                i, delta = await queue.get()
            await write(send, b"", more=False)
        finally:
            for ticket in tickets:
                ticket.cancel()


class Busy(Refused):
    """Refused for now: 429 with Retry-After."""

    def __init__(self, why: str, seconds: float):
        super().__init__(why, None, "queue_full", 429)
        self.seconds = seconds


def failed(delta: Delta) -> Refused:
    return Refused(delta.failure, status=500 if delta.failure == FAILED else 503)


async def or_gone(work: Awaitable[Any], receive: Receive) -> Any:
    """The result of `work`, unless the client leaves first: then it is cancelled, and Gone."""

    async def left() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    tasks = [asyncio.ensure_future(work), asyncio.ensure_future(left())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if tasks[0].done():
            return tasks[0].result()
        raise Gone
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def within(sending: Awaitable[None]) -> None:
    """Send, unless the client does not read on in time: TimeoutError."""
    async with asyncio.timeout(SEND_SECONDS):
        await sending


async def write(send: Send, data: bytes, more: bool = True) -> None:
    await within(send({"type": "http.response.body", "body": data, "more_body": more}))


def reply(held: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(replies.as_json(held), status, headers, media_type="application/json")


def refusal(error: Refused) -> Response:
    kind = KINDS.get(error.status, "invalid_request_error")
    headers = {}
    if isinstance(error, Busy):
        headers["Retry-After"] = f"{error.seconds:.0f}"
    elif error.status == 503:
        headers["Retry-After"] = "1"
    elif error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    held = replies.error(str(error), kind, error.param, error.code)
    return reply(held, error.status, headers)
