# SPDX-License-Identifier: Apache-2.0
"""Many clients at once: every answer is the one of a client alone, and nothing is left behind."""

import collections
import gc
import json
import os
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

from itx.eval.sampling import Sampling
from itx.eval.texts import texts
from itx.serve.app import READERS
from itx.serve.lanes import Sizes
from tests.serve.served import CONTEXT, TEXTS, client, open_request, rests, run, serving_of

CLIENTS, REQUESTS = 100, 3  # and what each asks
SIZES = Sizes(rungs=(1, 8, 32), cache_bytes=2**30, longest=CONTEXT, first=32)
KINDS = ("whole", "streamed", "slow", "leaves")


def drawn_requests(seed: int) -> list[dict]:
    r = random.Random(seed)
    out = []
    for _ in range(CLIENTS * REQUESTS):
        words = " ".join(r.choice(TEXTS) for _ in range(r.randint(1, 2)))
        how = {"temperature": 0.0} if r.random() < 0.6 else {"temperature": 1.0, "seed": 3}
        if how["temperature"] and r.random() < 0.5:
            how["top_p"] = 0.8
        out.append({"prompt": words, "max_tokens": r.choice((4, 16, 48)), **how})
    return out


def wanted(name: str, requests: list[dict]) -> list[str]:
    """The answer to each, as `itx generate` gives it to that prompt alone."""
    asked, out = run(name), [""] * len(requests)
    groups: dict[tuple, list[int]] = collections.defaultdict(list)
    for i, r in enumerate(requests):
        groups[r["temperature"], r.get("top_p", 1.0), r.get("seed", 0)].append(i)
    for (temperature, top_p, seed), places in groups.items():
        found = texts(
            asked.runner,
            asked.vocabulary,
            [asked.vocabulary.encode(requests[i]["prompt"]) for i in places],
            [requests[i]["max_tokens"] for i in places],
            Sampling(temperature=temperature, top_p=top_p, seed=seed),
            draws=[0] * len(places),
        )
        for i, answer in zip(places, found, strict=True):
            out[i] = answer["text"]
    return out


def left_behind() -> tuple[int, int]:
    """(open files, threads) of this process."""
    gc.collect()
    return len(os.listdir("/proc/self/fd")), threading.active_count()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["decoder", "t5"])
def test_a_hundred_clients_get_their_own_answers(name):
    """uv run pytest -m slow -n 0 tests/serve/test_load.py (a minute or two each)"""
    requests = drawn_requests(1)
    want = wanted(name, requests)
    assert len(set(want)) > 30
    counts: collections.Counter = collections.Counter()

    def one_client(c: int) -> list[str]:
        """The requests whose answer was another."""
        r, wrong = random.Random(c), []
        with client(server) as asked:
            for i in range(c * REQUESTS, (c + 1) * REQUESTS):
                kind = r.choice(KINDS)
                got = one_request(asked, kind, requests[i], r)
                counts[kind] += 1
                is_right = want[i].startswith(got) if kind == "leaves" else got == want[i]
                wrong += [] if is_right else [f"{kind} {requests[i]}: {got!r}, not {want[i]!r}"]
        return wrong

    with serving_of(run(name), SIZES, places=CLIENTS) as server:
        with client(server) as asked:  # what a first request leaves open stays
            asked.completions.create(model="small", **requests[0])
        before, began = left_behind(), time.monotonic()
        with ThreadPoolExecutor(CLIENTS) as pool:
            wrong = [w for found in pool.map(one_client, range(CLIENTS)) for w in found]
        seconds = time.monotonic() - began
        assert not wrong, wrong[:3]
        assert rests(server) and all(counts[kind] > 20 for kind in KINDS)
        totals = server.meters.totals()
        until = time.monotonic() + 10
        files, threads = before[0], before[1] + READERS - 1  # one reader has read the first request
        while left_behind() > (files, threads) and time.monotonic() < until:
            time.sleep(0.1)
        after = left_behind()
        assert after[0] <= files and after[1] <= threads, (before, after)
    print(f"{name}: {dict(counts)}, {totals}, {seconds:.1f} s")


def one_request(asked: openai.OpenAI, kind: str, request: dict, r: random.Random) -> str:
    """The text that a client of a kind gets; of one that leaves what it got until then."""
    if kind == "whole":
        return asked.completions.create(model="small", **request).choices[0].text
    stream = asked.completions.create(model="small", stream=True, **request)
    told, stays = [], r.randint(0, 3) if kind == "leaves" else 10**9
    try:
        for n, chunk in enumerate(stream):
            if n >= stays:
                break
            told.append(chunk.choices[0].text)
            if kind == "slow":
                time.sleep(r.random() / 4)
    finally:
        stream.close()
    return "".join(told)


@pytest.mark.slow
def test_a_client_that_never_reads_holds_up_nobody():
    """uv run pytest -m slow -n 0 tests/serve/test_load.py: 20 connections ask for streams and read
    nothing, while another client is answered."""
    body = {"model": "small", "prompt": "a", "temperature": 0, "max_tokens": 140, "stream": True}
    with serving_of(run(), SIZES, places=CLIENTS) as server, client(server) as asked:
        want = asked.completions.create(model="small", prompt="b", max_tokens=20, temperature=0)
        held = [open_request(server, json.dumps(body).encode()) for _ in range(20)]
        for _ in range(3):
            found = asked.completions.create(
                model="small", prompt="b", max_tokens=20, temperature=0
            )
            assert found.choices[0].text == want.choices[0].text
        done = rests(server, 60)  # their rows are done with, read or not
        for one in held:
            one.close()
        assert done
