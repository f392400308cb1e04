# SPDX-License-Identifier: Apache-2.0
"""What the server does not do, said in OpenAI's shape of an error."""

import dataclasses
import json

import openai
import pytest

from tests.serve.served import ASKED, TALK, client, get, meter, post, run, serving_of

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
