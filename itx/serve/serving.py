# SPDX-License-Identifier: Apache-2.0
"""A server on a socket, from its start to its last answer."""

import contextlib
import ipaddress
import logging
import queue
import socket
import threading
import time

import uvicorn

from itx.errors import RunFailed, UserError
from itx.serve.app import LOOPBACK, SEND_SECONDS, Access, App
from itx.serve.asks import Ask, Delta, Ticket
from itx.serve.engine import Engine
from itx.serve.fields import Reader
from itx.serve.lanes import Sizes
from itx.serve.meters import Meters
from itx.serve.steps import STEPS

BACKLOG = 512  # connections that the system holds before they are taken
START_SECONDS = 30.0
LOOK_SECONDS = 0.05  # between two looks whether a thread is ready or done
CLOSE_SECONDS = 5  # that connections have to end once all answers are written


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens; UserError where the address cannot be had."""
    if not 0 <= port < 2**16:
        raise UserError(f"--port {port}: a number from 0 to {2**16 - 1}")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        listener = socket.create_server(found[0][4][:2], family=found[0][0], backlog=BACKLOG)
    except OSError as e:
        raise UserError(f"--host {host} --port {port}: {e.strerror or e}") from e
    # a client that keeps a connection and reads nothing is let go, with what was to be sent to it
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        milliseconds = int(1000 * SEND_SECONDS)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
    return listener


def access(host: str, key: str, max_body_bytes: int) -> Access:
    """Who may ask a server at a host."""
    hosts = LOOPBACK if is_loopback(host) and not key else ()
    return Access(key, hosts, max_body_bytes)


class Serving:
    """A model behind HTTP, in two threads: one for the engine, one for the connections."""

    def __init__(
        self, reader: Reader, sizes: Sizes, places: int, access: Access, listener: socket.socket
    ):
        run, self.meters = reader.run, Meters()
        self.engine = Engine(run.runner.loaded, run.vocabulary, sizes, places, self.meters)
        self.app = App(self.engine, reader, access)
        self.listener = listener
        host, port = listener.getsockname()[:2]
        self.address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        # what uvicorn has to say goes to our own log: a request is counted, not printed
        logging.getLogger("uvicorn").setLevel(logging.CRITICAL)
        config = uvicorn.Config(
            self.app.asgi(),
            loop="asyncio",
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=CLOSE_SECONDS,
        )
        self.http = uvicorn.Server(config)
        self.thread = threading.Thread(
            target=self.http.run, args=([listener],), name="itx-http", daemon=True
        )

    @property
    def alive(self) -> bool:
        return self.thread.is_alive() and self.engine.thread.is_alive()

    def start(self) -> None:
        """Start both threads; returns when requests are taken."""
        self.engine.start()
        self.thread.start()
        until = time.monotonic() + START_SECONDS
        while not self.http.started:
            if not self.thread.is_alive() or time.monotonic() > until:
                raise RunFailed("the HTTP server did not start")
            time.sleep(LOOK_SECONDS)

    def warm(self) -> None:
        """Compile the programs of a lone short request, by asking for a few tokens."""
        done: queue.SimpleQueue[Delta] = queue.SimpleQueue()
        self.engine.submit([Ticket(Ask([0], 2 * STEPS), done.put)])
        while True:
            with contextlib.suppress(queue.Empty):
                delta = done.get(timeout=LOOK_SECONDS)
                if delta.failure:
                    raise RunFailed(f"the model cannot be asked: {self.engine.last_failed}")
                return
            if not self.alive:
                raise RunFailed("the engine ended before it had answered")

    def stop(self, seconds: float) -> dict[str, int]:
        """End: what waits is refused, what is being answered has some seconds. Returns how many
        requests were refused and given up, and what was counted."""
        refused = self.engine.close()
        self.engine.thread.join(seconds)
        given_up = self.engine.give_up()
        self.engine.thread.join()
        self.http.should_exit = True
        self.thread.join()
        self.app.readers.shutdown()
        self.listener.close()
        return {"refused_at_end": refused, "given_up_at_end": given_up, **self.meters.totals()}

    def said(self) -> str:
        """What was done, in words."""
        counts = self.meters.totals()
        return (
            f"answered {counts['requests']:,} requests with {counts['completion_tokens']:,} tokens"
        )
