# SPDX-License-Identifier: Apache-2.0
"""Small models of random weights behind the server, in this process."""

import contextlib
import functools
import http.client
import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import openai

from itx import mesh as meshes
from itx import restore
from itx.config import MeshConfig
from itx.data.vocabulary import Vocabulary
from itx.eval import terminal
from itx.serve import serving
from itx.serve.fields import Reader
from itx.serve.lanes import Lane, Sizes
from itx.serve.serving import Serving
from itx.text_format import chat
from tests import synthetic, tiny
from tests.conftest import REPO
from tests.synthetic import changed

VOCABULARY = REPO / "tests" / "golden" / "hf" / "qwen3" / "tokenizer.json"
CONTEXT = 160
# First lane of 32 places: answers of some length move to the next
SIZES = Sizes(rungs=(4,), cache_bytes=2**30, longest=CONTEXT, first=32)
TEXTS = ("The sun is", "Столица России — это", "法国的首都是", "a b c d e f g h i j k l m n", "x")
TALK = [{"role": "user", "content": text} for text in TEXTS[:3]]
ASKED = {"model": "small", "max_tokens": 12, "temperature": 0}
MODELS = {"decoder": tiny.decoder, "t5": tiny.t5, "prefix": lambda: tiny.decoder(prefix_lm=True)}


@functools.cache
def run(name: str = "decoder") -> terminal.Run:
    """A model whose answers differ from prompt to prompt, asked as a conversation or not."""
    vocabulary, cfg = Vocabulary(VOCABULARY), MODELS[name]()
    lock = {
        "vocabulary": {"size": vocabulary.size},
        "bos_id": vocabulary.first_id(cfg.architecture),
        "eos_id": vocabulary.eos_id,
        "pad_id": vocabulary.pad_id,
    }
    mesh = meshes.make_mesh(MeshConfig(), jax.devices()[:1])
    folder = synthetic.Folder(Path("no-run"))
    runner = restore.load_model(folder, synthetic.config(cfg), lock, 0, mesh)
    # of random weights the residual stream is mostly the last token's embedding, and answers would
    # repeat it
    params = {p: v * (1 if "embedding" in p else 3) for p, v in runner.loaded.params.items()}
    return terminal.Run(changed(runner, context=CONTEXT, params=params), vocabulary, chat.PLAIN)


@contextlib.contextmanager
def serving_of(
    run: terminal.Run, sizes: Sizes = SIZES, places: int = 64, key: str = ""
) -> Iterator[Serving]:
    listener = serving.listening("127.0.0.1", 0)
    access = serving.access("127.0.0.1", key, 2**20)
    server = Serving(Reader(run, "small", "", CONTEXT, CONTEXT), sizes, places, access, listener)
    server.start()
    try:
        yield server
    finally:
        server.stop(10)
    assert not server.thread.is_alive() and not server.engine.thread.is_alive()


def client(server: Serving, key: str = "none", **how) -> openai.OpenAI:
    address = server.address + "/v1"
    return openai.OpenAI(base_url=address, api_key=key, max_retries=0, timeout=120, **how)


def rests(server: Serving, seconds: float = 10) -> bool:
    """Whether, within that time, no request is left in the engine and its memory."""
    engine, until = server.engine, time.monotonic() + seconds
    while time.monotonic() < until:
        held = (engine.waiting, engine.writers, engine.parked, engine.lanes)
        if not any(map(len, held)) and not engine.answering:
            return True
        time.sleep(0.02)
    return False


def post(server, path: str, body: bytes, **headers) -> tuple[int, dict, dict]:
    """(status, headers, JSON) of a request as it is."""
    connection = http.client.HTTPConnection(server.address.removeprefix("http://"), timeout=60)
    headers = {"Content-Type": "application/json"} | {
        k.replace("_", "-"): v for k, v in headers.items()
    }
    connection.request("POST", path, body, headers)
    response = connection.getresponse()
    found = response.status, dict(response.headers), json.loads(response.read())
    connection.close()
    return found


def get(server, path: str) -> str:
    connection = http.client.HTTPConnection(server.address.removeprefix("http://"), timeout=60)
    connection.request("GET", path)
    text = connection.getresponse().read().decode()
    connection.close()
    return text


def meter(server, name: str) -> float:
    lines = get(server, "/metrics").splitlines()
    return sum(float(x.rsplit(" ", 1)[1]) for x in lines if x.startswith(f"itx_serve_{name}"))


def slow(monkeypatch) -> None:
    """Steps take a while, so that a request is met in the midst of its answer."""
    step = Lane.step

    def slower(lane):
        time.sleep(0.05)
        return step(lane)

    monkeypatch.setattr(Lane, "step", slower)


def open_request(server, body: bytes) -> socket.socket:
    """A connection over which a completion has been asked for."""
    host, port = server.listener.getsockname()[:2]
    connection = socket.create_connection((host, port), 30)
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    return connection


def until(holds: Callable[[], bool], seconds: float = 20) -> None:
    last = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < last
        time.sleep(0.02)
