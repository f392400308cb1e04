# SPDX-License-Identifier: Apache-2.0
"""Generation with a cache and ranking, against plain forward passes."""

import dataclasses
from functools import partial

import jax
import numpy as np
import pytest

from itx import mesh as meshes
from itx import train
from itx.config import MeshConfig
from itx.errors import UserError
from itx.eval import generate as gen
from itx.models import presets
from tests import synthetic

MODELS = {**synthetic.models(), "prefix": presets.tiny_decoder(prefix_lm=True)}


def runner(name: str, tmp_path, devices: int = 1) -> gen.Runner:
    cfg = synthetic.config(MODELS[name], eval={"batch_size": 16})
    mesh = meshes.make_mesh(MeshConfig(), jax.devices()[:devices])
    made = train.load_model(synthetic.Folder(tmp_path), cfg, synthetic.lock(), 0, mesh)
    # what starts at zero or one would hide
    hidden = {n: p for n, p in made.params.items() if n.split("/")[-1] in ("smear", "scale", "bq", "bk", "bv")}
    drawn = {n: p + 0.2 * jax.random.normal(jax.random.key(i), p.shape) for i, (n, p) in enumerate(hidden.items())}
    drawn = {n: jax.device_put(p, hidden[n].sharding) for n, p in drawn.items()}
    return dataclasses.replace(made, params={**made.params, **drawn})


def score(runner: gen.Runner, prompt: list[int], answer: list[int]) -> np.ndarray:
    """log p of every token at each position of `answer` and behind it, from one full pass."""
    cfg = synthetic.config(runner.model)
    batch = synthetic.batch([[(prompt, answer, 0)]], cfg)
    logits = forward(runner.params, batch, graphdef=runner.graphdef)[0, : len(answer) + 1]
    return np.asarray(jax.nn.log_softmax(logits))


@partial(jax.jit, static_argnames="graphdef")
def forward(params: dict, batch: dict, *, graphdef) -> jax.Array:
    return train.merge(graphdef, params)(batch)


@pytest.mark.parametrize("name", list(MODELS))
def test_greedy_tokens_are_the_best_of_a_full_pass(name, tmp_path):
    r = runner(name, tmp_path)
    prompts = [p for p, _, _ in synthetic.examples(5, seed=7)]
    prompts[0] = prompts[0] * 3  # lengths differ, so rows are padded
    limits = [6, 3, 6, 1, 5]
    answers = r.generate(prompts, limits)
    assert len({tuple(a["tokens"]) for a in answers}) > 1
    for prompt, limit, answer in zip(prompts, limits, answers, strict=True):
        ids = answer["tokens"]
        assert len(ids) == limit or (answer["finished"] and len(ids) < limit)
        best = score(r, prompt, ids).argmax(-1)
        assert best[: len(ids)].tolist() == ids
        if answer["finished"]:
            assert best[len(ids)] == synthetic.EOS


def test_generation_stops_at_eos(tmp_path):
    """With the id that greedy decoding takes as EOS, each answer ends where it first stands."""
    r = runner("decoder", tmp_path)
    prompts = [p for p, _, _ in synthetic.examples(6, seed=8)]
    free = [a["tokens"] for a in r.generate(prompts, 8)]
    eos = free[0][2]
    ended = gen.Runner(**{**vars(r), "eos_id": eos}).generate(prompts, 8)
    for a, b in zip(free, ended, strict=True):
        assert b["finished"] == (eos in a)
        assert b["tokens"] == (a[: a.index(eos)] if eos in a else a)
    assert ended[0]["finished"] and not all(a["finished"] for a in ended)


@pytest.mark.parametrize("name", list(MODELS))
def test_rank_is_the_sum_of_log_softmax(name, tmp_path):
    r = runner(name, tmp_path)
    some = synthetic.examples(7, seed=9)
    prompts = [p for p, _, _ in some]
    options = [[t, [9, *t], [*t, 5, 6]] for _, t, _ in some]
    for prompt, group, scores in zip(prompts, options, r.rank(prompts, options), strict=True):
        assert len({s["logprob"] for s in scores}) == len(scores)
        for option, got in zip(group, scores, strict=True):
            table = score(r, prompt, option)
            want = [*option, synthetic.EOS]
            assert got["tokens"] == len(want)
            np.testing.assert_allclose(got["logprob"], table[range(len(want)), want].sum(), atol=1e-4)


def test_many_devices_give_the_same_answers(tmp_path):
    one, eight = runner("decoder", tmp_path), runner("decoder", tmp_path, devices=8)
    assert one.mesh.devices.size == 1 and eight.mesh.devices.size == 8
    prompts = [p for p, _, _ in synthetic.examples(11, seed=10)]
    assert one.generate(prompts, 4) == eight.generate(prompts, 4)


def test_buckets_weigh_compilation_against_padding():
    sizes = np.array([16] * 100 + [32] * 3 + [96] * 100)
    assert [(w, len(i)) for w, i in gen.buckets(sizes, 1000)] == [(16, 100), (96, 103)]
    assert [w for w, _ in gen.buckets(sizes, 10)] == [16, 32, 96]
    assert [w for w, _ in gen.buckets(sizes, 10**6)] == [96]
    assert gen.buckets(np.array([], np.int64), 10) == []


def test_bad_limits_are_named(tmp_path):
    r = runner("decoder", tmp_path)
    with pytest.raises(UserError, match="2 prompts but 1 limits"):
        r.generate([[3], [4]], [5])
    with pytest.raises(UserError, match="at least 1"):
        r.generate([[3]], 0)
    assert r.generate([], 5) == [] and r.rank([], []) == []
