# SPDX-License-Identifier: Apache-2.0
"""The server as its clients see it: OpenAI's own, and ours."""

import asyncio
import dataclasses
import json
import threading

import openai
import pytest

from itx.create.generators import CUT, STOPPED, Message, Request
from itx.create.journal import Journal, ask
from itx.create.server import Server
from itx.eval.sampling import Sampling
from itx.eval.texts import texts
from itx.serve import app
from tests.serve.served import (
    ASKED,
    SIZES,
    TALK,
    TEXTS,
    client,
    get,
    meter,
    open_request,
    post,
    rests,
    run,
    serving_of,
    slow,
    until,
)


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
