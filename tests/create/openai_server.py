# SPDX-License-Identifier: Apache-2.0
"""A server with the interface of OpenAI on this machine, which counts what it is asked and fails as
it is told."""

import contextlib
import hashlib
import http.server
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

Reply = tuple[int, dict[str, str], bytes]


def said(body: dict) -> str:
    """What is asked, and the answer's text: a function of the request."""
    asked = body["prompt"] if "prompt" in body else body["messages"][-1]["content"]
    digest = hashlib.sha256(f"{asked}/{body['seed']}".encode()).hexdigest()[:8]
    return f"answer {digest} to {asked}"


def answer(text: Any, chat: bool = True, finish: str = "stop", usage: Any = None) -> Reply:
    choice: dict = {"index": 0, "finish_reason": finish}
    choice |= {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
    usage = {"prompt_tokens": 7, "completion_tokens": 5} if usage is None else usage
    held = {"id": "x", "object": "chat.completion", "choices": [choice], "usage": usage}
    return 200, {"Content-Type": "application/json"}, json.dumps(held).encode()


@dataclass
class Served:
    """What was asked. computed: work done for a request, by what was asked; received: HTTP calls."""

    fault: Callable[[int, dict], Reply | None] = lambda n, body: None
    seconds: float = 0.0  # that an answer takes
    knows_keys: bool = False  # computes a request with the same Idempotency-Key once
    received: int = 0
    computed: Counter = field(default_factory=Counter)
    headers: list[dict] = field(default_factory=list)
    bodies: list[dict] = field(default_factory=list)
    at_once: int = 0  # now, and the most there were
    most_at_once: int = 0
    times: list[float] = field(default_factory=list)
    _known: dict = field(default_factory=dict)
    _mutex: Any = field(default_factory=threading.Lock)

    def reply(self, path: str, headers: dict, body: dict) -> Reply:
        with self._mutex:
            n = self.received
            self.received += 1
            self.headers.append(headers)
            self.bodies.append(body)
            self.times.append(time.monotonic())
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            return self.fault(n, body) or self._answer(path, headers, body)
        finally:
            with self._mutex:
                self.at_once -= 1

    def _answer(self, path: str, headers: dict, body: dict) -> Reply:
        key = headers.get("idempotency-key") if self.knows_keys else None
        with self._mutex:
            done, first = self._known.get(key), key not in self._known or key is None
            if first:
                self.computed[said(body)] += 1
                done = self._known[key] = threading.Event()
        if first:
            time.sleep(self.seconds)
            done.set()
        else:
            done.wait()
        return answer(said(body), chat="chat" in path)


@contextlib.contextmanager
def serving(served: Served) -> Iterator[str]:
    """The address of a server that answers as `served` does."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            code, headers, data = served.reply(
                self.path, {k.lower(): v for k, v in self.headers.items()}, body
            )
            with contextlib.suppress(OSError):  # a client that is gone
                if code == 0:  # the connection is cut
                    self.close_connection = True
                    return self.connection.shutdown(socket.SHUT_RDWR)
                self.send_response(code)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
