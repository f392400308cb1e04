# SPDX-License-Identifier: Apache-2.0
"""Generation with a cache and ranking, against plain forward passes."""

import dataclasses
import functools
import json
import math
import types
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from itx import mesh as meshes
from itx import peft, restore
from itx.config import MeshConfig, PeftConfig
from itx.errors import UserError
from itx.eval import generate as gen
from itx.eval import rank as ranking
from itx.eval import reading, sampling, texts
from itx.eval.loaded import LoadedModel
from itx.eval.runner import Runner
from itx.eval.sampling import Sampling
from itx.models.transformer import Transformer
from itx.params import module_of, parameters, shapes_of
from tests import synthetic, tiny
from tests.models import test_hf as golden
from tests.synthetic import changed

MODELS = {**synthetic.models(), "prefix": tiny.decoder(prefix_lm=True)}


@functools.cache  # a program that initialises is compiled anew each time
def runner(name: str, devices: int = 1, folder: Path = Path("no-run")) -> Runner:
    """The model of a run folder that has no checkpoint; its `pretrained` is read if it is there."""
    cfg = synthetic.config(MODELS[name], eval={"batch_size": 16})
    mesh = meshes.make_mesh(MeshConfig(), jax.devices()[:devices])
    made = restore.load_model(synthetic.Folder(folder), cfg, synthetic.lock(), 0, mesh)
    # what starts at zero or one would hide
    hidden = {
        n: p
        for n, p in made.loaded.params.items()
        if n.split("/")[-1] in ("smear", "scale", "bq", "bk", "bv")
    }
    drawn = {
        n: p + 0.2 * jax.random.normal(jax.random.key(i), p.shape)
        for i, (n, p) in enumerate(hidden.items())
    }
    drawn = {n: jax.device_put(p, hidden[n].sharding) for n, p in drawn.items()}
    return changed(made, params={**made.loaded.params, **drawn})


def score(runner: Runner, prompt: list[int], answer: list[int]) -> np.ndarray:
    """log p of every token at each position of `answer` and behind it, from one full pass."""
    cfg = synthetic.config(runner.loaded.model)
    batch = synthetic.batch([[(prompt, answer, 0)]], cfg)
    logits = forward(runner.loaded.params, batch, graphdef=runner.loaded.graphdef)[
        0, : len(answer) + 1
    ]
    return np.asarray(jax.nn.log_softmax(logits))


@partial(jax.jit, static_argnames="graphdef")
def forward(params: dict, batch: dict, *, graphdef) -> jax.Array:
    return module_of(graphdef, params)(batch)


@pytest.mark.parametrize("name", list(MODELS))
def test_greedy_tokens_are_the_best_of_a_full_pass(name):
    r = runner(name)
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


ADAPTERS = {
    "": PeftConfig(),
    "lora": PeftConfig(method="lora", rank=2),
    "dora": PeftConfig(method="lora", rank=2, dora=True),
    "prefix": PeftConfig(method="prefix", length=3, prefix_hidden=8),
    "prompt": PeftConfig(method="prompt", length=3),
}


@pytest.mark.parametrize(
    "name, adapter", [*((n, "") for n in MODELS), *(("decoder", a) for a in ADAPTERS if a)]
)
def test_what_is_cast_and_taken_apart_before_the_loop_computes_the_same(name, adapter):
    r = runner(name)
    r = changed(r, model=dataclasses.replace(r.loaded.model, dtype="bfloat16"))
    abstract = shapes_of(
        lambda: Transformer(r.loaded.model, len(r.loaded.params["embedding"]), nnx.Rngs(0))
    )
    model = peft.add(module_of(nnx.graphdef(abstract), r.loaded.params), ADAPTERS[adapter], 0)
    graphdef, params = nnx.graphdef(model), parameters(model)
    params = {p: v if v.any() else v + 0.1 for p, v in params.items()}  # LoRA's b
    ready = reading.ready(params, graphdef=graphdef)
    layers = [
        {"/".join(p): v.get_value() for p, v in nnx.to_flat_state(layer)}
        for layer in ready["layers"]
    ]
    together = {
        f"decoder/blocks/{p}": jax.numpy.stack([layer[p] for layer in layers]) for p in layers[0]
    }
    used = {**params, **ready["params"], **together}
    assert (used["decoder/blocks/mlp/w_in"].dtype == "bfloat16") == (adapter != "dora")
    batch = synthetic.batch([[([5, 6, 7, 8], [9, 10, 11], 0)]], synthetic.config(r.loaded.model))
    a, b = (np.asarray(forward(p, batch, graphdef=graphdef)) for p in (params, used))
    assert np.array_equal(a, b) and a.std() > 0.1


def test_the_loop_over_tokens_casts_no_weight(monkeypatch):
    """XLA may take it out of the loop or not; where it does not, each token would read all weights
    in float32."""
    made = runner("decoder")
    abstract = shapes_of(
        lambda: Transformer(
            dataclasses.replace(made.loaded.model, dtype="bfloat16"),
            len(made.loaded.params["embedding"]),
            nnx.Rngs(0),
        )
    )
    advance, programs = gen.choose_tokens, []

    def seen(*args, **static):
        programs.append(jax.make_jaxpr(partial(advance, **static))(*args))
        return advance(*args, **static)

    monkeypatch.setattr(gen, "choose_tokens", seen)
    changed(made, graphdef=nnx.graphdef(abstract)).generate([[5, 6, 7]], 4)
    weight = min(
        v.size
        for p, v in made.loaded.params.items()
        if "/blocks/" in p and p.split("/")[-1].startswith("w")
    )
    within = [e for e in equations(programs[0].jaxpr) if e.primitive.name == "while"]
    read = [x.aval for e in within for x in e.invars]
    assert (
        len([x for x in read if x.dtype == "bfloat16" and x.ndim > 1])
        > 2 * made.loaded.model.num_layers
    )
    assert not [
        x for x in read if x.dtype == "float32" and x.size >= weight / made.loaded.model.num_layers
    ]


def equations(jaxpr):
    """All equations, those of inner programs too."""
    for e in jaxpr.eqns:
        yield e
        for inner in (x for x in e.params.values() if hasattr(x, "eqns") or hasattr(x, "jaxpr")):
            yield from equations(inner)


def test_generation_stops_at_eos():
    """With the id that greedy decoding takes as EOS, each answer ends where it first stands."""
    r = runner("decoder")
    prompts = [p for p, _, _ in synthetic.examples(6, seed=8)]
    free = [a["tokens"] for a in r.generate(prompts, 8)]
    eos = free[0][2]
    ended = changed(r, eos_id=eos).generate(prompts, 8)
    for a, b in zip(free, ended, strict=True):
        assert b["finished"] == (eos in a)
        assert b["tokens"] == (a[: a.index(eos)] if eos in a else a)
    assert ended[0]["finished"] and not all(a["finished"] for a in ended)


@pytest.mark.parametrize("how", [Sampling(), Sampling(beams=2)], ids=["greedy", "beams"])
def test_every_id_that_ends_the_pretrained_models_answers_ends_one(tmp_path, how):
    """generation_config.json names a list of ids where a chat model has an end of turn beside its
    end of text."""
    prompts = [p for p, _, _ in synthetic.examples(6, seed=8)]
    free = [a["tokens"] for a in runner("decoder").generate(prompts, 8)]
    first, second = free[0][2], next(i for i in free[1] if i != free[0][2])
    config = tmp_path / "pretrained" / "generation_config.json"
    config.parent.mkdir()
    config.write_text(json.dumps({"eos_token_id": [first, second]}))
    ended = runner("decoder", folder=tmp_path).generate(prompts, 8, how)
    assert not any({first, second} & set(a["tokens"]) for a in ended)
    if how == Sampling():
        for a, b in zip(free, ended, strict=True):
            at = min((a.index(i) for i in (first, second) if i in a), default=None)
            assert (b["tokens"], b["finished"]) == (a[:at], at is not None)
    config.write_text(json.dumps({"eos_token_id": "</s>"}))
    with pytest.raises(UserError, match="generation_config.json: eos_token_id is '</s>'"):
        runner.__wrapped__("decoder", folder=tmp_path)


@pytest.mark.parametrize("name", list(MODELS))
def test_rank_is_the_sum_of_log_softmax(name):
    r = runner(name)
    some = synthetic.examples(7, seed=9)
    prompts = [p for p, _, _ in some]
    options = [[t, [9, *t], [*t, 5, 6]] for _, t, _ in some]
    for prompt, group, scores in zip(prompts, options, r.rank(prompts, options), strict=True):
        assert len({s["logprob"] for s in scores}) == len(scores)
        for option, got in zip(group, scores, strict=True):
            table = score(r, prompt, option)
            want = [*option, synthetic.EOS]
            assert got["tokens"] == len(want)
            np.testing.assert_allclose(
                got["logprob"], table[range(len(want)), want].sum(), atol=1e-4
            )
            assert got["greedy"] == (table.argmax(-1) == want).all()


@pytest.mark.parametrize("name", list(MODELS))
def test_what_was_generated_is_ranked_as_greedy(name):
    r = runner(name)
    prompts = [p for p, _, _ in synthetic.examples(3, seed=7)]
    wrote = [a["tokens"] for a in r.generate(prompts, 4)]
    assert all(wrote)
    others = [[*ids[:-1], ids[-1] + 1] for ids in wrote]
    both = [list(pair) for pair in zip(wrote, others, strict=True)]
    told = r.rank(prompts, both, eos=False)
    assert [[s["greedy"] for s in group] for group in told] == [[True, False]] * 3


def test_many_devices_give_the_same_answers():
    one, eight = runner("decoder"), runner("decoder", devices=8)
    assert one.loaded.mesh.devices.size == 1 and eight.loaded.mesh.devices.size == 8
    prompts = [p for p, _, _ in synthetic.examples(11, seed=10)]
    assert one.generate(prompts, 4) == eight.generate(prompts, 4)


# ---- against transformers (tests/golden/make_generation.py)

GENERATION = json.loads((golden.GOLDEN.parent / "generation.json").read_text())
NAMES = {"num_beams": "beams"}  # theirs: ours


@functools.cache
def golden_runner(name: str, eos: int) -> Runner:
    cfg, params, _ = golden.golden(name)
    mesh = meshes.make_mesh(MeshConfig(), jax.devices()[:1])
    graphdef = nnx.graphdef(golden.model_of(cfg, params))
    both = cfg.architecture == "encoder_decoder"
    return Runner(
        LoadedModel(
            graphdef=graphdef,
            params=params,
            mesh=mesh,
            model=cfg,
            bos_id=0 if both else -1,
            eos_id=eos,
            pad_id=0,
        )
    )


@pytest.mark.parametrize("name", GENERATION["models"])
@pytest.mark.parametrize("setting", GENERATION["settings"])
def test_answers_are_those_of_transformers(name, setting):
    """All prompts in one ragged batch; there they were asked one by one."""
    found = GENERATION["models"][name]
    how = Sampling(**{NAMES.get(k, k): v for k, v in GENERATION["settings"][setting].items()})
    got = golden_runner(name, found["eos"]).generate(found["prompts"], GENERATION["new"], how)
    assert [a["tokens"] for a in got] == found["answers"][setting]
    assert [a["finished"] for a in got] == [
        len(a) < GENERATION["new"] for a in found["answers"][setting]
    ]


def test_the_settings_differ_in_what_they_answer():
    for found in GENERATION["models"].values():
        assert len({json.dumps(a) for a in found["answers"].values()}) >= 4
    every = [
        a
        for found in GENERATION["models"].values()
        for some in found["answers"].values()
        for a in some
    ]
    assert {len(a) for a in every} >= {0, 1, 2, 3, 5, 6, 10}


@pytest.mark.parametrize(
    "found", GENERATION["filters"]["settings"], ids=lambda x: str([*x.values()][:3])
)
def test_filters_leave_the_probabilities_of_transformers(found):
    logits = np.array(GENERATION["filters"]["logits"], np.float32)
    how = Sampling(**{k: found[k] for k in ("temperature", "top_k", "top_p")})
    compiled, numbers = how.split()
    scores, ids = sampling.filtered(logits, compiled, numbers["temperature"], numbers["top_p"])
    p = np.asarray(jax.nn.softmax(scores))
    if ids is not None:
        every = np.zeros(logits.shape)
        np.put_along_axis(every, np.asarray(ids), p, axis=1)
        p = every
    np.testing.assert_allclose(p, found["probabilities"], atol=1e-6)


def test_a_penalty_is_that_of_transformers():
    held = GENERATION["filters"]
    logits, seen = np.array(held["logits"], np.float32), np.zeros((4, 61), bool)
    np.put_along_axis(seen, np.array(held["seen"]), True, axis=1)
    np.testing.assert_allclose(sampling.penalised(logits, seen, 1.7), held["penalised"], rtol=1e-6)


# ---- against passes without a cache

MODES = {
    "greedy": Sampling(),
    "temperature": Sampling(temperature=0.8, seed=1),
    "top_k": Sampling(temperature=1.0, top_k=4, seed=2),
    "top_p": Sampling(temperature=1.2, top_p=0.7, seed=3),
    "all": Sampling(temperature=0.9, top_k=20, top_p=0.9, repetition_penalty=1.4, seed=2**32 - 1),
    "penalty": Sampling(repetition_penalty=1.6),
    "beams": Sampling(beams=3, length_penalty=0.5, repetition_penalty=1.2),
}


select = jax.jit(sampling.select, static_argnums=0)


def uncached(
    r: Runner, prompt: list[int], how: Sampling, index: int, limit: int, longest: int
) -> list[int]:
    """The answer to one prompt by a full pass of prompt and answer for every token; EOS ends it.

    longest: tokens of the longest prompt; the passes of all prompts are of one shape.
    """
    both, k = r.loaded.model.architecture == "encoder_decoder", how.beams
    head = [r.loaded.bos_id] if both else prompt
    room = longest + limit

    def sides(ids: list[list[int]], name: str, width: int) -> dict:
        tokens = np.array([row + [0] * (width - len(row)) for row in ids])
        return golden.side(
            tokens, np.array([[1] * len(row) + [0] * (width - len(row)) for row in ids]), name
        )

    compiled, numbers = how.split()
    seen = np.zeros((1, len(r.loaded.params["embedding"])), bool)
    seen[0, head] = True
    state = sampling.begin(compiled, np.array([limit]), seen, limit, r.loaded.ends)
    keys = jax.random.fold_in(jax.random.key(how.seed), index)[None]
    rows: list[list[int]] = [[]] * k
    for n in range(limit):
        batch = sides([[*head, *row] for row in rows], "decoder", room)
        if both:
            batch |= sides([[*prompt, r.loaded.eos_id]] * k, "encoder", longest + 1)
        logits = forward(r.loaded.params, batch, graphdef=r.loaded.graphdef)[:, len(head) + n - 1]
        state, tokens, of = select(
            compiled, numbers, keys, state, logits, np.int32(n), np.array([limit]), r.loaded.ends
        )
        rows = [[*rows[i if of is None else int(of[i])], int(t)] for i, t in enumerate(tokens)]
        if state["done"][0]:
            break
    answer = np.asarray(state["answers"][0]).tolist()
    return answer[: answer.index(r.loaded.eos_id)] if r.loaded.eos_id in answer else answer


# the others: -m slow; a T5 in fewer modes stands in test_answers_are_those_of_transformers
SHOWN = ("gemma3",)


@pytest.mark.parametrize(
    "name", [n if n in SHOWN else pytest.param(n, marks=pytest.mark.slow) for n in golden.FAMILIES]
)
def test_every_mode_of_every_family_is_that_without_a_cache(name):
    """Three prompts, one longer than a window, in one batch and in batches of one row; each alone
    without a cache."""
    r = golden_runner(name, 11)
    draw = np.random.default_rng(5)
    prompts = [draw.integers(12, 61, n).tolist() for n in (13, 4, 8)]
    assert not r.loaded.model.sliding_window or len(prompts[0]) > 2 * r.loaded.model.sliding_window
    answers = {}
    for mode, how in MODES.items():
        got = [a["tokens"] for a in r.generate(prompts, 6, how)]
        longest = max(map(len, prompts))
        assert got == [uncached(r, p, how, i, 6, longest) for i, p in enumerate(prompts)], mode
        answers[mode] = got
        if mode in ("all", "beams"):
            alone = changed(r, batch_size=1)
            assert [a["tokens"] for a in alone.generate(prompts, 6, how)] == got
    assert len({json.dumps(a) for a in answers.values()}) >= 5
    # as at the end of a file (tests/conftest.py): these are more programs than most files'
    jax.clear_caches()


@pytest.mark.parametrize("name", list(MODELS))
def test_drawn_answers_depend_on_prompt_and_seed_alone(name):
    r = runner(name)
    prompts = [p for p, _, _ in synthetic.examples(5, seed=7)]
    prompts[3] = prompts[0]
    how = Sampling(temperature=1.5, seed=4)
    got = r.generate(prompts, 8, how)
    assert got == changed(r, batch_size=1).generate(prompts, 8, how)
    assert got[0] == r.generate(prompts[:1], 8, how)[0] != got[3]
    assert got != r.generate(prompts, 8, dataclasses.replace(how, seed=5))


def test_another_temperature_or_seed_is_the_same_program():
    r = runner("decoder")
    r.generate([[5, 6]], 4, Sampling(temperature=1.0, top_p=0.9))
    before = gen.choose_tokens._cache_size(), gen.read_prompts._cache_size()
    r.generate([[5, 6, 7]], 3, Sampling(temperature=0.3, top_p=0.2, seed=9))
    assert (gen.choose_tokens._cache_size(), gen.read_prompts._cache_size()) == before
    r.generate([[5, 6]], 4, Sampling(temperature=1.0, top_k=3))
    assert gen.choose_tokens._cache_size() == before[0] + 1


# ---- looking on


def test_a_watched_answer_is_the_same_and_may_be_stopped():
    r = runner("decoder")
    prompts = [p for p, _, _ in synthetic.examples(4, seed=10)]
    free = r.generate(prompts, 9)
    looks: dict[int, list] = {i: [] for i in range(4)}

    def look(i: int, ids: list[int]) -> bool:
        looks[i].append(ids)
        return i == 1 and len(ids) >= 3

    got = r.generate(prompts, 9, watch=look, every=2)
    for i, seen in looks.items():
        want = free[i]["tokens"]
        assert all(want[: len(ids)] == ids for ids in seen) and [len(s) for s in seen][:2] == [1, 3]
        assert got[i]["tokens"] == (want[:3] if i == 1 else want)


def test_stop_strings_cut_the_text_wherever_they_stand():
    """A vocabulary of letters, two to a token: a stop string may split one."""
    r = runner("decoder")
    words = [chr(ord("а") + i % 32) + chr(ord("a") + i % 26) for i in range(synthetic.VOCAB)]
    vocabulary = types.SimpleNamespace(answer=lambda ids: "".join(words[i % 61] for i in ids))
    prompts = [p for p, _, _ in synthetic.examples(3, seed=8)]
    free = [a["tokens"] for a in r.generate(prompts, 20)]
    text = vocabulary.answer(free[0])
    for at, length in ((21, 1), (20, 2), (21, 2), (22, 5)):
        stop = text[at : at + length]
        at = text.index(stop)
        got = texts.texts(r, vocabulary, prompts, 20, stop=(stop, "☃"))
        assert got[0]["text"] == text[:at] and got[0]["stop"] == stop and got[0]["finished"]
        assert got[0]["tokens"] == free[0][: -(-(at + length) // 2)]
        for ids, answer in zip(free[1:], got[1:], strict=True):
            assert answer["text"] == vocabulary.answer(ids).partition(stop)[0]
    beams = Sampling(beams=2)
    whole = vocabulary.answer(r.generate(prompts, 20, beams)[0]["tokens"])
    assert (
        texts.texts(r, vocabulary, prompts, 20, beams, stop=(whole[3:5],))[0]["text"]
        == whole.partition(whole[3:5])[0]
    )
    with pytest.raises(UserError, match="empty stop string"):
        texts.texts(r, vocabulary, prompts, 20, stop=("a", ""))


def test_a_stream_never_takes_back_what_it_wrote():
    r = runner("decoder")
    letters = [f"{i:02}" for i in range(synthetic.VOCAB)]
    half = types.SimpleNamespace(  # an odd token's second letter is not whole before the next token
        answer=lambda ids: (
            "".join(letters[i % 61] for i in ids)[: -1 if ids and ids[-1] % 2 else None]
            + ("\ufffd" if ids and ids[-1] % 2 else "")
        )
    )
    seen: list[str] = []
    how = Sampling(temperature=2.0, seed=3)
    free = half.answer(r.generate([[7, 8, 9]], 12, how)[0]["tokens"])
    stop = free[13:17]
    got = texts.texts(
        r, half, [[7, 8, 9]], 12, how, stop=(stop,), stream=lambda i, text: seen.append(text)
    )[0]
    assert got["text"] == free.partition(stop)[0] and len(set(seen)) > 4
    assert all(b.startswith(a) for a, b in zip(seen, [*seen[1:], got["text"]], strict=True))


def test_a_stream_over_bytes_of_characters_begins_with_what_it_wrote():
    """Where a tokenizer falls back to bytes, the bytes of a run are one text or, until the last is
    there, none at all."""
    r = runner("decoder")
    text = "你好，мир 🙂 naïve".encode()

    def answer(ids: list[int]) -> str:
        raw = (text * 2)[: len(ids)]
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return "\ufffd" * len(raw)

    seen: list[str] = []
    how = Sampling(temperature=2.0, seed=3)
    vocabulary = types.SimpleNamespace(answer=answer)
    got = texts.texts(r, vocabulary, [[7, 8, 9]], 18, how, stream=lambda i, t: seen.append(t))[0]
    assert len(got["tokens"]) == 18 and len(set(seen)) > 4
    assert all(b.startswith(a) for a, b in zip(seen, seen[1:], strict=False))


def test_what_is_not_settled_is_held_back():
    assert texts.settled("ab\ufffd", ()) == "ab"
    assert (
        texts.settled("one\nTw", ("\nTwo",)) == "one"
        and texts.settled("one\nTx", ("\nTwo",)) == "one\nTx"
    )
    assert (
        texts.cut("abcd", ("b", "abc")) == ("a", "b") == texts.cut("ab", ("b", "abc"))
    )  # as if it came letter by letter
    assert texts.cut("a b c", ("c", "b")) == ("a ", "b") and texts.cut("a", ("b",)) == ("a", None)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"temperature": -0.1}, "temperature=-0.1: must be 0"),
        ({"top_k": 3}, "need a temperature above 0"),
        ({"temperature": 1.0, "top_p": 0.0}, "top_p=0.0: must be above 0"),
        ({"temperature": 1e-38}, "temperature=1e-38: must be 0"),
        ({"temperature": 1e-46}, "temperature=1e-46: must be 0"),
        ({"temperature": math.inf}, "temperature=inf: must be 0"),
        ({"temperature": math.nan}, "temperature=nan: must be 0"),
        ({"repetition_penalty": math.inf}, "repetition_penalty=inf: must be above 0"),
        ({"beams": 2, "length_penalty": math.nan}, "length_penalty=nan: must be a finite number"),
        ({"beams": 0}, "beams=0: must be at least 1"),
        ({"beams": 2, "temperature": 1.0}, "beams are searched, not drawn"),
        ({"length_penalty": 2.0}, "needs beams above 1"),
        ({"repetition_penalty": 0.0}, "repetition_penalty=0.0"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_settings_that_make_no_sense_are_named(settings, match):
    with pytest.raises(UserError, match=match):
        Sampling(**settings)


def test_a_ranking_of_an_empty_prompt_needs_bos():
    r = runner("decoder")
    assert r.rank([[5], []], [[[3]], [[4]]])[1][0]["tokens"] == 2
    with pytest.raises(UserError, match="rank: prompt 1 is empty"):
        changed(r, bos_id=-1).rank([[5], []], [[[3]], [[4]]])


def test_a_prompt_that_is_too_long_or_empty_is_named():
    r = changed(runner("decoder"), context=12)
    assert len(r.generate([[5] * 7], 4)) == 1  # with BOS just as long
    with pytest.raises(
        UserError, match="prompt 1 has 8 tokens, with 4 new ones more than the context of 12"
    ):
        r.generate([[5] * 7, [5] * 8], 4)
    with pytest.raises(UserError, match="prompt 0 has 12 tokens, with its EOS"):
        changed(runner("t5"), context=12).generate([[5] * 12], 40)
    with pytest.raises(UserError, match="prompt 1 is empty"):
        changed(r, bos_id=-1).generate([[5], []], 4)
    with pytest.raises(UserError, match="beams are known at the end alone"):
        r.generate([[5]], 4, Sampling(beams=2), watch=lambda i, ids: False)


def test_buckets_weigh_compilation_against_padding():
    sizes = np.array([16] * 100 + [32] * 3 + [96] * 100)
    assert [(w, len(i)) for w, i in gen.buckets(sizes, 1000)] == [(16, 100), (96, 103)]
    assert [w for w, _ in gen.buckets(sizes, 10)] == [16, 32, 96]
    assert [w for w, _ in gen.buckets(sizes, 10**6)] == [96]
    assert gen.buckets(np.array([], np.int64), 10) == []


def test_a_larger_model_is_compiled_for_more_lengths():
    """A shape costs a layer's compilation for each layer; what padding costs grows with the
    parameters. The prompts are SmolLM2's of the embedded suite: 38 to 74 tokens."""
    r = runner("decoder")
    size = sum(x.size for x in r.loaded.params.values())
    assert gen.compilation_tokens(r.loaded) == math.ceil(
        gen.COMPILATION_ON_CPU * r.loaded.model.num_layers / size
    )
    lengths = [38 + i % 37 for i in range(476)]

    def widths(params, layers):
        model = dataclasses.replace(r.loaded.model, num_layers=layers)
        arrays = {"w": jax.ShapeDtypeStruct((params,), np.float32)}
        loaded = dataclasses.replace(r.loaded, params=arrays, model=model)
        return {w for _, (_, w, _) in gen.plan(lengths, np.full(476, 16), loaded)}

    assert widths(10**6, 4) == {80}
    assert widths(135 * 10**6, 30) == {64, 80}
    assert widths(10**10, 30) == {48, 64, 80}


def test_a_conversation_is_compiled_for_few_lengths():
    """Each turn asks a longer prompt, alone: a row, whose slots are powers of two."""
    r = runner("decoder")
    prompts = [[2 + j % 59 for j in range(9 * turn)] for turn in range(1, 13)]
    before = gen.read_prompts._cache_size(), gen.choose_tokens._cache_size()
    alone = [r.generate([p], 5)[0] for p in prompts]
    added = gen.read_prompts._cache_size() - before[0], gen.choose_tokens._cache_size() - before[1]
    assert max(added) <= 4  # 16, 32, 64 and 128 slots; multiples of 16 would be 7
    shapes = [gen.plan([n], np.full(1, 5), r.loaded)[0][1] for n in (1, 15, 16, 100, 127, 128)]
    assert [(rows, width) for rows, width, _ in shapes] == [
        (1, 16),
        (1, 16),
        (1, 32),
        (1, 128),
        (1, 128),
        (1, 256),
    ]
    assert alone == r.generate(prompts, 5)


def test_long_prompts_go_in_smaller_batches(monkeypatch):
    """As many rows as memory has room for; the answers are the same."""
    r = runner("t5")
    # of three rows of 64
    monkeypatch.setattr(gen, "MAX_SCORES_BYTES", 4 * r.loaded.model.num_heads * 64**2 * 3)
    prompts = [[2 + (7 * i + j) % 59 for j in range(63 if i % 2 else 15)] for i in range(12)]
    shapes = [shape for _, shape in gen.plan([len(p) for p in prompts], np.full(12, 4), r.loaded)]
    assert {(rows, width) for rows, width, _ in shapes} == {(3, 64)}  # few enough for one width
    small = r.generate(prompts, 4)
    monkeypatch.undo()
    assert {
        rows for _, (rows, _, _) in gen.plan([len(p) for p in prompts], np.full(12, 4), r.loaded)
    } == {16}
    assert small == r.generate(prompts, 4)


def test_rows_of_a_ranking_leave_few_empty():
    r = changed(runner("decoder"), batch_size=256)
    assert [ranking.batch_rows(n, 256, 128, r.loaded) for n in (1, 5, 19, 33, 100)] == [
        4,
        8,
        20,
        20,
        28,
    ]
    assert (
        ranking.batch_rows(100, 256, 2**20, r.loaded)
        < 4
        < ranking.batch_rows(100, 256, 2**15, r.loaded)
    )
    # of SmolLM2's size an empty row takes longer than a compilation
    arrays = {
        "embedding": np.zeros((64, 1), np.int8),
        "w": jax.ShapeDtypeStruct((135 * 10**6,), "f4"),
    }
    large = dataclasses.replace(
        r.loaded, params=arrays, model=dataclasses.replace(r.loaded.model, num_layers=30)
    )
    assert [ranking.batch_rows(n, 1600, 128, large) for n in (1, 5, 19, 33)] == [1, 5, 20, 17]
    assert ranking.batch_rows(5, 256, 128, large) == 8
    eight = runner("decoder", devices=8)
    assert [ranking.batch_rows(n, 256, 128, eight.loaded) for n in (0, 1, 19)] == [8, 8, 8]


def test_short_prompts_of_a_large_model_are_not_ranked_in_long_rows():
    """Where they pay for a compilation; of a small model all stand in rows of one width."""
    lengths = np.array([40] * 400 + [300] * 2 + [700] * 30 + [1500] * 2)
    r = runner("decoder")
    assert [len(g) for g in ranking.alike(lengths, r.loaded)] == [434]
    arrays = {"w": jax.ShapeDtypeStruct((135 * 10**6,), "f4")}
    model = dataclasses.replace(r.loaded.model, num_layers=30)
    large = dataclasses.replace(r.loaded, params=arrays, model=model)
    groups = ranking.alike(lengths, large)
    assert [sorted(set(lengths[g].tolist())) for g in groups] == [[40], [300, 700], [1500]]
    assert sorted(np.concatenate(groups).tolist()) == list(range(434))
    assert ranking.alike(lengths[:0], large) == []


def test_a_ranking_in_rows_of_several_widths_is_the_same(monkeypatch):
    r = runner("decoder")
    prompts = [[2 + (7 * i + j) % 59 for j in range(300 if i % 3 else 15)] for i in range(9)]
    options = [[[5, 6], [7]] for _ in prompts]
    whole = r.rank(prompts, options)
    monkeypatch.setattr(ranking, "compilation_tokens", lambda loaded: 1)
    assert len(ranking.alike(np.array([len(p) for p in prompts]), r.loaded)) == 2
    for group, other in zip(whole, r.rank(prompts, options), strict=True):
        for a, b in zip(group, other, strict=True):
            assert a["greedy"] == b["greedy"] and a["tokens"] == b["tokens"]
            np.testing.assert_allclose(a["logprob"], b["logprob"], atol=1e-4)


def test_bad_limits_are_named():
    r = runner("decoder")
    with pytest.raises(UserError, match="2 prompts but 1 limits"):
        r.generate([[3], [4]], [5])
    with pytest.raises(UserError, match="at least 1"):
        r.generate([[3]], 0)
    assert r.generate([], 5) == [] and r.rank([], []) == []
