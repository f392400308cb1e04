# SPDX-License-Identifier: Apache-2.0
"""The server as its clients see it: OpenAI's own, and ours."""

import asyncio
import dataclasses
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import openai
import pytest

from itx import cli
from itx.create.generators import CUT, STOPPED, Message, Request
from itx.create.journal import Journal, ask
from itx.create.server import Server
from itx.eval.sampling import Sampling
from itx.eval.texts import texts
from itx.serve import app, serving
from tests.conftest import REPO, one_device
from tests.serve.served import SIZES, TEXTS, client, rests, run, serving_of

TALK = [{"role": "user", "content": t} for t in TEXTS[:3]]
ASKED = {"model": "small", "max_tokens": 12, "temperature": 0}


@pytest.fixture(scope="module")
def server():
    with serving_of(run()) as one:
        yield one


@pytest.fixture(scope="module")
def asked(server):
    with client(server) as one:
        yield one


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


# ---- answers


@pytest.mark.parametrize("text", TEXTS[:3])
def test_a_completion_is_what_generate_writes_streamed_or_not(asked, text):
    want = texts(run().runner, run().vocabulary, [run().vocabulary.encode(text)], 12)[0]
    whole = asked.completions.create(prompt=text, **ASKED)
    choice = whole.choices[0]
    assert (choice.text, choice.finish_reason) == (want["text"], "length")
    assert whole.usage.completion_tokens == len(want["tokens"]) == 12
    assert whole.usage.prompt_tokens == len(run().vocabulary.encode(text))
    chunks = list(asked.completions.create(prompt=text, stream=True, **ASKED))
    assert "".join(c.choices[0].text for c in chunks) == want["text"] and len(chunks) > 1
    assert [c.choices[0].finish_reason for c in chunks][-2:] == [None, "length"]


def test_a_conversation_is_asked_through_the_chat_template(asked):
    talk = [TALK[0], {"role": "assistant", "content": "Да."}, TALK[1]]
    want = run().answers([talk])[0]  # at most 64 tokens, as the terminal's
    parts = [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in talk]
    for messages in (talk, parts):
        how = ASKED | {"max_tokens": 64, "messages": messages}
        whole = asked.chat.completions.create(**how)
        assert whole.choices[0].message.content == want["text"]
    options = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = list(asked.chat.completions.create(**how, **options))
    told = [c.choices[0].delta.content or "" for c in chunks if c.choices]
    assert "".join(told) == want["text"] and chunks[-1].usage == whole.usage
    assert chunks[0].choices[0].delta.role == "assistant"
    alone = asked.chat.completions.create(**ASKED | {"messages": talk[-1:]})
    assert alone.usage.prompt_tokens < whole.usage.prompt_tokens


def test_stop_strings_end_an_answer_and_are_never_told(asked):
    whole = asked.completions.create(prompt=TEXTS[0], **ASKED).choices[0].text
    stop = [whole[len(whole) // 2 :][:3], "never"]
    for stream in (False, True):
        found = asked.completions.create(prompt=TEXTS[0], stop=stop, stream=stream, **ASKED)
        if stream:
            chunks = list(found)
            text, finish = "".join(c.choices[0].text for c in chunks), chunks[-1].choices[0]
        else:
            text, finish = found.choices[0].text, found.choices[0]
        assert text == whole[: whole.index(stop[0])] and finish.finish_reason == "stop"


def test_a_seed_decides_what_is_drawn(asked):
    def drawn(**how) -> str:
        how = ASKED | {"temperature": 1.0, "top_p": 0.9} | how
        return asked.completions.create(prompt=TEXTS[1], **how).choices[0].text

    how = Sampling(temperature=1.0, top_p=0.9, seed=7)
    ids = run().vocabulary.encode(TEXTS[1])
    want = texts(run().runner, run().vocabulary, [ids], 12, how)[0]["text"]
    assert drawn(seed=7) == drawn(seed=7 + 2**32) == want != drawn(seed=8)
    assert len({drawn() for _ in range(3)}) == 3


def test_log_probabilities_in_both_shapes(asked):
    found = asked.completions.create(prompt=TEXTS[0], logprobs=2, **ASKED).choices[0]
    scores = found.logprobs
    assert "".join(scores.tokens).lstrip(" ") == found.text or "\ufffd" in "".join(scores.tokens)
    assert len(scores.tokens) == 12 and scores.text_offset[0] == 0
    for token, logprob, top in zip(
        scores.tokens, scores.token_logprobs, scores.top_logprobs, strict=True
    ):
        assert top[token] == logprob == max(top.values()) and len(top) <= 2
    how = ASKED | {"messages": TALK[:1], "logprobs": True}
    whole = asked.chat.completions.create(**how, top_logprobs=3).choices[0]
    chunks = list(asked.chat.completions.create(**how, top_logprobs=3, stream=True))
    streamed = [
        t for c in chunks if c.choices[0].logprobs for t in c.choices[0].logprobs.content or ()
    ]
    assert streamed == whole.logprobs.content and len(streamed) == 12
    assert all(len(t.top_logprobs) == 3 for t in streamed)
    assert not asked.chat.completions.create(**how).choices[0].logprobs.content[0].top_logprobs


def test_several_prompts_are_choices(asked):
    found = asked.completions.create(prompt=list(TEXTS[:3]), **ASKED)
    apart = [asked.completions.create(prompt=t, **ASKED) for t in TEXTS[:3]]
    assert [c.text for c in found.choices] == [a.choices[0].text for a in apart]
    ids = [run().vocabulary.encode(t) for t in TEXTS[:3]]
    chunks = list(asked.completions.create(prompt=ids, stream=True, **ASKED))
    for i, a in enumerate(apart):
        told = [c.choices[0].text for c in chunks if c.choices[0].index == i]
        assert "".join(told) == a.choices[0].text
    assert found.usage.completion_tokens == sum(a.usage.completion_tokens for a in apart)


def test_an_encoder_decoder_answers():
    """No server of speed does; a mixed batch, streamed and not."""
    model = run("t5")
    with serving_of(model) as server, client(server) as asked:
        ids = [model.vocabulary.encode(t) for t in TEXTS]
        want = [a["text"] for a in texts(model.runner, model.vocabulary, ids, 12)]
        found = asked.completions.create(prompt=list(TEXTS), **ASKED)
        assert [c.text for c in found.choices] == want and len(set(want)) > 3
        chunks = list(asked.completions.create(prompt=TEXTS[2], stream=True, **ASKED))
        assert "".join(c.choices[0].text for c in chunks) == want[2]
        with pytest.raises(openai.BadRequestError, match="with its EOS more than the context"):
            asked.completions.create(prompt="long " * 200, **ASKED)
        # the context bounds the prompt, not the answer
        longer = asked.completions.create(**ASKED | {"prompt": TEXTS[0], "max_tokens": 150})
        assert longer.choices[0].text.startswith(want[0])


# ---- refusals

BAD = [
    ({"n": 2}, "n is not supported", "n"),
    ({"best_of": 3}, "best_of is not supported", "best_of"),
    ({"logit_bias": {"5": 1}}, "logit_bias is not supported", "logit_bias"),
    ({"presence_penalty": 0.5}, "presence_penalty is not supported", "presence_penalty"),
    ({"echo": True}, "echo is not supported", "echo"),
    ({"temprature": 1}, "no field 'temprature' is known here; did you mean 'temperature'", None),
    ({"temperature": -1}, "temperature: a number from 0 to 2", "temperature"),
    ({"temperature": float("nan")}, "temperature: a number", "temperature"),
    ({"temperature": True}, "temperature: a number", "temperature"),
    ({"top_p": 0}, "top_p 0.0: above 0", "top_p"),
    ({"max_tokens": 0}, "max_tokens: a whole number of at least 1", "max_tokens"),
    ({"max_tokens": 1e99}, "max_tokens: a whole number", "max_tokens"),
    ({"max_tokens": 500}, "max_tokens 500: at most 160", "max_tokens"),
    ({"seed": "7"}, "seed: a whole number", "seed"),
    ({"stop": [""]}, "stop: texts of 1 to", "stop"),
    ({"stop": ["a"] * 17}, "stop: at most 16", "stop"),
    ({"logprobs": 9}, "logprobs: a whole number from 0 to 5", "logprobs"),
    ({"stream_options": {"include_usage": True}}, "needs stream: true", "stream_options"),
    ({"prompt": 3}, "prompt: a text, token ids", "prompt"),
    ({"prompt": []}, "an empty prompt", "prompt"),
    ({"prompt": [[-1]]}, "the model has no token -1", "prompt"),
    ({"prompt": "\ud800"}, "prompt is no Unicode text", "prompt"),
    ({"prompt": "long " * 200}, "more than the context of 160", None),
    ({"messages": []}, "no field 'messages' is known", "messages"),
]
BAD_TALK = [
    ({"tools": [{"type": "function"}]}, "tools is not supported", "tools"),
    ({"response_format": {"type": "json_object"}}, "response_format is not supp", None),
    ({"reasoning_effort": "low"}, "reasoning_effort is not supported", None),
    ({"messages": []}, "is no list of turns", "messages"),
    ({"messages": "hi"}, "messages is missing, or no list", "messages"),
    ({"messages": [{"role": "bot", "content": "a"}]}, "is no {", "messages"),
    ({"messages": [{"role": "user", "content": " "}]}, "is empty", "messages"),
    ({"messages": [*TALK[:1], {"role": "assistant", "content": "a"}]}, "nothing is left", None),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "reads text", None),
    ({"top_logprobs": 2}, "top_logprobs needs logprobs", "top_logprobs"),
    ({"max_completion_tokens": 3}, "differ: give one", "max_tokens"),
]


def test_what_cannot_be_done_is_refused_by_name(server):
    before = meter(server, "completion_tokens_total")
    kinds = (
        ("completions", {"prompt": "a"}, BAD),
        ("chat/completions", {"messages": TALK}, BAD_TALK),
    )
    for path, good, table in kinds:
        for fields, why, param in table:
            body = json.dumps({**ASKED, **good, **fields}).encode()
            status, _, held = post(server, f"/v1/{path}", body)
            assert status == 400 and why in held["error"]["message"], (fields, held)
            assert held["error"]["type"] == "invalid_request_error"
            assert param is None or held["error"]["param"] == param
    assert meter(server, "completion_tokens_total") == before


def test_fields_that_change_nothing_are_taken(asked):
    plain = asked.completions.create(prompt="a", **ASKED).choices[0].text
    neutral = {"n": 1, "best_of": 1, "presence_penalty": 0.0, "logit_bias": {}, "user": "me"}
    found = asked.completions.create(prompt="a", echo=False, suffix=None, **neutral, **ASKED)
    assert found.choices[0].text == plain
    neutral = {"tools": [], "response_format": {"type": "text"}, "metadata": {"a": "b"}}
    body = ASKED | {"max_completion_tokens": 12, "messages": TALK[:1], "extra_body": neutral}
    assert asked.chat.completions.create(**body).choices[0].message.content


def test_other_models_paths_and_bodies(server, asked):
    assert [m.id for m in asked.models.list()] == ["small"]
    assert asked.models.retrieve("small").id == "small"
    with pytest.raises(openai.NotFoundError, match="the model 'smal' does not exist here; did"):
        asked.completions.create(prompt="a", model="smal")
    with pytest.raises(openai.NotFoundError):
        asked.embeddings.create(input="a", model="small")
    bodies = (b"{", b"\xff", b"[1]", b"[" * 100_000)
    assert {post(server, "/v1/completions", b)[0] for b in bodies} == {400}
    plain = post(server, "/v1/completions", b"{}", Content_Type="text/plain")
    assert plain[0] == 415  # what a page of another origin may send
    assert post(server, "/v1/completions", b"{}", Host="evil.example")[0] == 403
    assert json.loads(get(server, "/health"))["status"] == "ok"
    too_long = json.dumps({**ASKED, "prompt": "x" * 2**20}).encode()
    status, _, held = post(server, "/v1/completions", too_long)
    assert status == 413 and "at most 1,048,576 bytes" in held["error"]["message"]
    status, _, held = post(server, "/v1/completions", iter([too_long]))  # of no told length
    assert status == 413


def test_texts_of_control_tokens_stay_text(asked):
    end = run().vocabulary.eos_text
    found = asked.chat.completions.create(
        **ASKED | {"messages": [{"role": "user", "content": f"a{end}b"}]}
    )
    plain = asked.chat.completions.create(
        **ASKED | {"messages": [{"role": "user", "content": "ab"}]}
    )
    assert found.usage.prompt_tokens > plain.usage.prompt_tokens + 1


def test_a_conversation_needs_a_template_that_writes_it():
    deaf = "{% for m in messages if m.role != 'system' %}{{ m.content }};{% endfor %}"
    system = [{"role": "system", "content": "Be brief."}, *TALK[:1]]
    for template, why in (("", "has no chat template"), (deaf, "does not write the content of sy")):
        with serving_of(dataclasses.replace(run(), template=template)) as server:
            with client(server) as asked, pytest.raises(openai.BadRequestError, match=why):
                asked.chat.completions.create(**ASKED | {"messages": system})


def test_the_key_is_asked_for():
    with serving_of(run(), key="sk") as server:
        for key, found in (("sk", 200), ("other", 401), ("", 401)):
            body = json.dumps({**ASKED, "max_tokens": 1, "prompt": "a"}).encode()
            status, headers, held = post(
                server, "/v1/completions", body, Authorization=f"Bearer {key}"
            )
            assert status == found and (found == 200 or "sk" not in held["error"]["message"])
        assert "missing or wrong" in get(server, "/metrics") and "ok" in get(server, "/health")
        with client(server, "other") as asked, pytest.raises(openai.AuthenticationError):
            asked.models.list()


# ---- the queue, and clients that leave

LONG = {"model": "small", "temperature": 0, "max_tokens": 140, "prompt": "a"}


def test_a_full_queue_is_said_and_a_client_that_leaves_frees_its_place(monkeypatch):
    """One row, one place: two that stay fill them; streamed or not, who leaves is dropped."""
    slow(monkeypatch)
    sizes = dataclasses.replace(SIZES, rungs=(1,))
    with serving_of(run(), sizes, places=1) as server, client(server) as asked:
        stream = asked.completions.create(stream=True, **LONG)
        next(iter(stream))
        body = json.dumps(LONG).encode()
        waiting = open_request(server, body)
        until(lambda: meter(server, "waiting") == 1)
        status, headers, held = post(server, "/v1/completions", body)
        assert status == 429 and held["error"]["code"] == "queue_full"
        assert 1 <= int(headers["retry-after"]) <= 60
        stream.close()
        waiting.close()
        assert rests(server) and meter(server, "cancelled_total") == 2
        assert meter(server, "answering") == meter(server, "open_requests") == 0
        assert meter(server, "completion_tokens_total") < 140  # neither was finished
        assert asked.completions.create(**LONG | {"max_tokens": 3}).choices[0].text


def test_a_request_with_the_same_key_is_computed_once(server):
    body = json.dumps({**LONG, "temperature": 1.0, "max_tokens": 30}).encode()
    before = meter(server, "prompt_tokens_total")
    found: list = []
    both = [
        threading.Thread(
            target=lambda: found.append(
                post(server, "/v1/completions", body, Idempotency_Key="k1")[2]["choices"]
            )
        )
        for _ in range(2)
    ]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    again = post(server, "/v1/completions", body, Idempotency_Key="k1")[2]["choices"]
    assert found == [again, again]
    assert meter(server, "prompt_tokens_total") == before + 1
    assert meter(server, "repeated_total") == 2
    other = json.dumps({**LONG, "max_tokens": 2}).encode()
    assert post(server, "/v1/completions", other, Idempotency_Key="k1")[0] == 422


def test_our_own_client_is_answered(server, tmp_path):
    """`itx create --server`: what it asks of a server of any make."""
    asks = [
        Request(messages=(Message("user", TEXTS[1]),), max_tokens=8, temperature=1.0, seed=5),
        Request(prompt=TEXTS[0], max_tokens=3, seed=1),
        Request(prompt=TEXTS[0], max_tokens=8, stop=("a", "e", "i")),
    ]
    with Journal(tmp_path / "j.sqlite") as journal:
        found = ask(journal, Server(server.address + "/v1", "small"), asks)
    assert [a.finish for a in found[:2]] == [CUT, CUT] and found[2].finish in (CUT, STOPPED)
    assert [a.completion_tokens for a in found[:2]] == [8, 3]
    ids = run().ids([{"role": "user", "content": TEXTS[1]}])
    assert found[0].prompt_tokens == len(ids)


def test_the_end_refuses_what_waits_and_finishes_what_is_answered(monkeypatch):
    slow(monkeypatch)
    sizes = dataclasses.replace(SIZES, rungs=(1,))
    with serving_of(run(), sizes) as server, client(server) as asked:
        want = asked.completions.create(**LONG).choices[0].text
        stream = asked.completions.create(stream=True, **LONG)
        told = [next(iter(stream)).choices[0].text]
        waiting = open_request(server, json.dumps(LONG).encode())
        until(lambda: meter(server, "waiting") == 1)
        ended: dict = {}
        thread = threading.Thread(target=lambda: ended.update(server.stop(30)))
        thread.start()
        told += [c.choices[0].text for c in stream]
        assert b"503" in waiting.recv(100)
        waiting.close()
        thread.join()
        assert "".join(told) == want
        assert (ended["refused_at_end"], ended["given_up_at_end"]) == (1, 0)


@pytest.mark.parametrize("reads", [2, 5])
def test_a_client_that_does_not_read_on_is_let_go(server, monkeypatch, reads):
    """A connection that takes no more: its row is freed, and nothing waits for it."""
    monkeypatch.setattr(app, "SEND_SECONDS", 0.2)
    sent: list[dict] = []
    body = json.dumps({**LONG, "stream": True}).encode()
    given = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict:
        return given.pop() if given else await asyncio.sleep(60)

    async def send(message: dict) -> None:
        if len(sent) == reads:
            await asyncio.sleep(60)
        sent.append(message)

    before = meter(server, "cancelled_total")
    headers = [(b"content-type", b"application/json"), (b"host", b"127.0.0.1")]
    scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": headers}
    asyncio.run(server.app.asgi()({**scope, "query_string": b""}, receive, send))
    assert rests(server) and len(sent) == reads and meter(server, "open_requests") == 0
    assert meter(server, "cancelled_total") - before <= 1
    assert 'status="499"' in get(server, "/metrics")


def test_a_defect_of_the_server_is_said(server, monkeypatch, capsys):
    def wrong(*_):
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(app.Replies, "whole", wrong)
    status, _, held = post(server, "/v1/completions", json.dumps({**ASKED, "prompt": "a"}).encode())
    assert status == 500 and "its log says why" in held["error"]["message"]
    assert "/v1/completions failed: ZeroDivisionError: a defect" in capsys.readouterr().err
    assert rests(server)


def slow(monkeypatch) -> None:
    """Steps take a while, so that a request is met in the midst of its answer."""
    from itx.serve.lanes import Lane

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


def until(holds, seconds: float = 20) -> None:
    last = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < last
        time.sleep(0.02)


# ---- the command


def test_the_command_serves_until_it_is_told(tmp_path):
    """A Hugging Face folder; the key from the environment; Ctrl-C ends it with 130."""
    folder = REPO / "tests" / "golden" / "hf" / "t5"
    command = [sys.executable, "-m", "itx.cli", "serve", str(folder), "--port", "0", "--rows", "4"]
    command += ["--key_variable", "MINE", "--json", str(tmp_path / "facts.json")]
    environment = one_device() | {"MINE": "secret"}
    with subprocess.Popen(
        command, cwd=REPO, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as child:
        try:
            told = child.stdout.readline().decode()
            assert "t5 answers at http://127.0.0.1:" in told, told
            address = told.split(" at ")[1].split(";")[0]
            with openai.OpenAI(base_url=address, api_key="secret", max_retries=0) as asked:
                found = asked.completions.create(prompt="a b", model="t5", max_tokens=3)
                assert found.usage.completion_tokens <= 3
            os.kill(child.pid, signal.SIGINT)
            rest = child.stdout.read().decode()
            assert child.wait(30) == 130 and "t5 answered 1 requests" in rest
            assert "secret" not in told + rest
        finally:
            child.kill()
    assert json.loads((tmp_path / "facts.json").read_text())["requests"] == 1


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--rows", "8,1"], "--rows 8,1: numbers of at least 1 that rise"),
        (["--port", "99999"], "--port 99999: a number from 0 to 65535"),
        (["--key_variable", "NOWHERE"], "$NOWHERE is not set"),
        (["--queue", "-1"], "--queue -1"),
        (["--cache_gib", "0"], "--cache_gib 0.0: must be above 0"),
        (["--port", "0"], "nowhere is not a run folder"),
    ],
)
def test_mistakes_on_the_command_line_are_named(capsys, words, why):
    assert cli.main(["serve", "nowhere", *words]) == 2
    assert why in capsys.readouterr().err


def test_a_taken_port_is_named(capsys, server):
    port = server.listener.getsockname()[1]
    assert cli.main(["serve", "nowhere", "--port", str(port)]) == 2
    assert f"--port {port}: Address already in use" in capsys.readouterr().err


def test_which_hosts_are_this_machine():
    assert all(map(serving.is_loopback, ("127.0.0.1", "::1", "localhost", "127.8.8.8")))
    assert not any(map(serving.is_loopback, ("0.0.0.0", "::", "example.org", "")))
    assert serving.access("127.0.0.1", "", 1).hosts and not serving.access("0.0.0.0", "", 1).hosts
