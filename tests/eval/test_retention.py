# SPDX-License-Identifier: Apache-2.0
"""Bits per byte against a hand computation, and a run that replays and reports what it kept."""

import dataclasses
import json
import math
import re
from collections import Counter
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from itx import mesh as meshes
from itx import peft
from itx.analysis.printed import retention_lines
from itx.config import MeshConfig, PeftConfig
from itx.config_check import check
from itx.data import lock as locks
from itx.data.loader import Batches
from itx.data.vocabulary import Vocabulary
from itx.errors import UserError
from itx.eval.loaded import LoadedModel
from itx.eval.retention import bits_per_byte
from itx.eval.runner import Runner
from itx.leaks import contamination
from itx.models import small
from itx.models.transformer import Transformer
from itx.params import module_of, parameters
from itx.prepare import members, objectives, types
from itx.prepare.evaluation import default_text, texts
from itx.prepare.types import Room
from itx.tasks import registry
from itx.tasks.spec import jsonl
from tests import samples, tiny

RUSSIAN = "Привет, мир! Как дела? Всё хорошо — 你好 🙂."
MODELS = {
    "decoder": tiny.decoder(),
    "prefix_lm": tiny.decoder(prefix_lm=True),
    "t5": tiny.t5(),
}


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory) -> Vocabulary:
    """Bytes of a byte-level BPE without BOS; sentinels behind them."""
    return Vocabulary(
        Path(small.folder("flan_t5_base", str(tmp_path_factory.mktemp("small")))) / "tokenizer.json"
    )


def runner(cfg, bos_id: int = 0, method: str = "full") -> Runner:
    """A random model whose adapter is moved off its start."""
    model = Transformer(cfg, 384, nnx.Rngs(0))
    adapter = PeftConfig(method=method, length=3)
    model = peft.add(model, adapter, 0)
    params = {
        p: v + 0.3 * jax.random.normal(jax.random.key(i), v.shape)
        if "_lora/" in p or "prefix" in p
        else v
        for i, (p, v) in enumerate(parameters(model).items())
    }
    mesh = meshes.make_mesh(MeshConfig(), jax.devices()[:2])
    return Runner(LoadedModel(nnx.graphdef(model), params, mesh, cfg, bos_id, 1, 0, peft=adapter))


def by_hand(run: Runner, prompt: list[int], target: list[int]) -> float:
    """Bits of a target, a token at a time, by whole forward passes over a row without padding."""
    both = run.loaded.model.architecture == "encoder_decoder"
    before = [run.loaded.bos_id] if both else [*run.loaded.head, *prompt]
    tokens = [*before, *target]

    def side(name: str, ids: list[int]) -> dict:
        one = jnp.ones((1, len(ids)), jnp.int32)
        return {
            f"{name}_input_tokens": jnp.asarray([ids], jnp.int32),
            f"{name}_segment_ids": one,
            f"{name}_positions": jnp.arange(len(ids), dtype=jnp.int32)[None],
        }

    batch = side("decoder", tokens[:-1]) | (side("encoder", [*prompt, 1]) if both else {})
    if run.loaded.model.prefix_lm:
        batch["decoder_causal_attention"] = (jnp.arange(len(tokens) - 1) < len(before))[
            None
        ].astype(jnp.int32)
    logits = jax.jit(lambda p, b: module_of(run.loaded.graphdef, p)(b))(run.loaded.params, batch)
    logp = np.asarray(jax.nn.log_softmax(logits[0].astype(jnp.float32)), np.float64)
    scored = range(max(len(before), 1), len(tokens))
    return -sum(logp[i - 1, tokens[i]] for i in scored) / math.log(2)


@pytest.mark.parametrize(
    ("name", "bos", "method"),
    [
        ("decoder", 0, "full"),
        ("decoder", -1, "full"),
        ("prefix_lm", 0, "full"),
        ("t5", 0, "full"),
        ("decoder", 0, "lora"),
        ("decoder", 0, "prefix"),
    ],
)
def test_bits_per_byte_are_those_computed_by_hand(vocabulary, name, bos, method):
    run, chunks, said = (
        runner(MODELS[name], bos, method),
        [],
        [("Hello there, ", "world. And more."), ("", RUSSIAN)],
    )
    if name in ("prefix_lm", "t5"):
        said[1] = RUSSIAN[:7], RUSSIAN[7:]
    bits = size = 0
    for prompt, target in said:
        ids = vocabulary.encode(prompt), vocabulary.encode(target)
        chunks.append((*ids, [1] * len(ids[1])))  # a token is a byte
        bits += by_hand(run, *ids)
        size += len(target.encode("utf-8")) - (bos < 0 and not prompt)
    found = bits_per_byte(run.loaded, chunks)
    # Russian: two bytes a letter
    assert found["bytes"] == found["tokens"] == size > len("".join(t for _, t in said))
    assert found["bits_per_byte"] == pytest.approx(bits / size, rel=1e-5)
    if method != "full":  # the adapter takes part
        assert bits_per_byte(runner(MODELS[name], bos).loaded, chunks)["bits"] != pytest.approx(
            bits, rel=1e-3
        )


@pytest.mark.parametrize("objective", ["lm", "prefix_lm", "span_corruption"])
def test_bytes_are_those_of_the_text(vocabulary, objective):
    """Of every chunk, also where a letter is cut in two; a sentinel stands for none."""
    registry.load_modules(["tests.text_tasks"])
    spec, room = registry.task(f"text_{objective}"), Room("decoder", 24, 16)
    item = types.Item("0", {"text": RUSSIAN}, RUSSIAN, 1)
    chunks = list(objectives.chunks(spec, [item], vocabulary, room, Counter(), sized=True))
    assert len(chunks) > 2 and sum(sum(c.values["bytes"]) for c in chunks) == len(RUSSIAN.encode())
    for c in chunks:
        prompt, target = (ids for ids, _ in objectives.record(spec, c, 0, 0, vocabulary.size, room))
        sizes = objectives.target_bytes(spec, c, 0, room)
        assert len(sizes) == len(target)
        sentinels = [t >= vocabulary.size - 100 for t in target]
        assert [n for n, s in zip(sizes, sentinels, strict=True) if s] == [0] * sum(sentinels)
        assert any(sentinels) == (objective == "span_corruption")
        if objective != "span_corruption":
            assert sum(sizes) == sum(c.values["bytes"][len(prompt) :])


def test_a_run_from_a_pretrained_model_replays_and_reports(tmp_path):
    """By command, with LoRA: the share of the examples, its place in the lock, both numbers in the
    report."""
    modules = "--data.modules=tests.text_tasks"
    words = [
        "--data.replay=0.2",
        "--data.replay_task=text_kept",
        modules,
        "--peft.method=lora",
        "--eval.before=false",
        "--data.vocab=bytes",
        f"--model.pretrained={small.folder('llama3_1_8b', str(tmp_path))}",
    ]
    recipe = samples.write_recipe(
        tmp_path, tmp_path / "cache", mixture="sample_mix", sequence_length=256, target_length=128
    )
    run = tmp_path / "run"
    samples.itx("train", recipe, "--run_dir", run, *words)
    lock = json.loads((run / "data.lock.json").read_text())
    rates = {t["name"]: t["rate"] for t in lock["tasks"]}
    assert rates["text_kept"] == pytest.approx(0.2) and sum(rates.values()) == pytest.approx(1)
    assert (lock["replay"], lock["replay_task"]) == (0.2, "text_kept")
    assert [(t["name"], t["split"]) for t in lock["retention"]] == [("text_kept", "test")]
    (trained,) = (t for t in lock["tasks"] if t["name"] == "text_kept")
    out = set(trained["excluded"][0])  # what shares a run of words with the text that is scored
    assert out == set(contamination.found(lock, tmp_path / "cache")["text_kept"])
    # were it the text that is trained on
    same = lock | {"retention": [{"name": "x", "folder": trained["folders"][0]}]}
    assert (
        len(contamination.found(same, tmp_path / "cache")["text_kept"])
        == trained["examples"] + len(out)
        > 20
    )
    batches = Batches(lock, tmp_path / "cache")
    drawn = Counter(lock["tasks"][t]["name"] for t in batches.order.window(0).segments[:, 0])
    assert abs(drawn["text_kept"] - 0.2 * drawn.total()) <= 1 and drawn.total() > 100
    rows = [
        {lock["tasks"][t]["name"] for t, *_ in batches.order.row(r)}
        for r in range(6 * lock["global_batch"])
    ]
    # long texts: more of the rows
    assert 0.2 < sum("text_kept" in row for row in rows) / len(rows) <= 1
    report = json.loads((run / "report.json").read_text())
    before, after = (report["retention"][k]["text_kept"] for k in ("before", "after"))
    assert (
        before["bytes"] == after["bytes"] > 1000
        and before["bits_per_byte"] != after["bits_per_byte"]
    )
    # random weights over 384 ids: about log2 384 for a byte
    assert 5 < before["bits_per_byte"] < 12
    page = (run / "report.html").read_text()
    assert 'id="retention"' in page and f"{after['bits_per_byte']:.3f}" in page


def test_a_report_says_where_retention_was_not_measured():
    assert retention_lines(None) == []
    assert retention_lines({"unretained": "no text"}) == ["retention: not measured, for no text"]
    text = {"bits_per_byte": 1.5, "bytes": 2000, "objective": "lm"}
    assert retention_lines({"after": {"a": text}}) == [
        "retention on a: 1.500 bits per byte (2,000 bytes, lm)"
    ]


def test_a_text_that_could_be_replayed_is_measured_without_a_replay(tmp_path, monkeypatch):
    """Recipes name one: who has its file sees what tuning cost, who has not reads why it is not
    measured."""
    registry.load_modules(["tests.text_tasks"])
    there = registry.TASKS["text_kept"]
    absent = dataclasses.replace(
        there, name="text_absent", source=jsonl({"train": "nowhere/text.jsonl"})
    )
    monkeypatch.setitem(registry.TASKS, absent.name, absent)

    def config(task: str, pretrained: str = "somewhere", **data):
        made = samples.config(
            str(tmp_path), modules=("tests.text_tasks",), replay_task=task, **data
        )
        return dataclasses.replace(
            made, model=dataclasses.replace(made.model, pretrained=pretrained)
        )

    def found(made):
        return [(r.name, r.job.split) for r in texts(made, ["sample_first"])]

    assert (
        found(config("text_kept")) == [("text_kept", "test")]
        and found(config("text_kept", pretrained="")) == []
    )
    assert default_text(config("text_kept"), [])[1] == ""
    named = dataclasses.replace(config("text_kept").eval, retention=("text_lm",))
    assert found(dataclasses.replace(config("text_kept"), eval=named)) == [("text_lm", "train")]
    for task, words in (
        ("", "neither eval.retention nor data.replay_task names a text task"),
        ("text_absent", "data.replay_task=text_absent: .*data.root, which is not set"),
        ("text_gone", "data.replay_task=text_gone: .*text_"),
        ("sample_first", "data.replay_task=sample_first: it is no text task"),
    ):
        assert found(config(task)) == [] and re.search(words, default_text(config(task), [])[1]), (
            task
        )
    t5 = dataclasses.replace(
        config("text_kept"), model=dataclasses.replace(tiny.t5(), pretrained="somewhere")
    )
    assert (
        found(t5) == [] and "objective 'lm' is for decoder-only models" in default_text(t5, [])[1]
    )
    with pytest.raises(UserError, match="data.root, which is not set"):
        texts(config("text_absent", replay=0.1), ["sample_first"])
    # what would be scored is what must be there: the split, or all of a text that is not trained on
    files = {"train": str(tmp_path / "train.jsonl"), "test": str(tmp_path / "test.jsonl")}
    halves = dataclasses.replace(there, name="text_halves", source=jsonl(files))
    monkeypatch.setitem(registry.TASKS, halves.name, halves)
    (tmp_path / "train.jsonl").write_text('{"text": "a"}\n')
    assert (
        found(config("text_halves")) == []
        and "test.jsonl" in default_text(config("text_halves"), [])[1]
    )
    (tmp_path / "train.jsonl").rename(tmp_path / "test.jsonl")
    assert found(config("text_halves")) == [("text_halves", "test")]
    assert default_text(config("text_lm"), []) == (["text_lm"], "")  # it has no split for that
    assert texts(config("text_lm"), ["text_lm"]) == []  # but the mixture itself trains on all of it
    assert (
        "'text_lm' is trained on and has no test split"
        in default_text(config("text_lm"), ["text_lm"])[1]
    )


def test_replay_is_refused_where_it_cannot_be_meant(tmp_path):
    def config(mixture: str = "sample_mix", **data):
        return samples.config(str(tmp_path), mixture, modules=("tests.text_tasks",), **data)

    with pytest.raises(UserError, match="data.replay=1.5: a share"):
        check(config(replay=1.5, replay_task="text_lm"))
    with pytest.raises(UserError, match="data.replay=0.1 needs data.replay_task"):
        check(config(replay=0.1))
    with pytest.raises(UserError, match="'sample_first' is no text task; valid: .*text_kept"):
        members.members_of(config(replay=0.1, replay_task="sample_first"))
    with pytest.raises(UserError, match="is in 'replay_decoder' already"):
        members.members_of(config("replay_decoder", replay=0.1, replay_task="text_lm"))
    assert members.with_beside(
        [{"a": 0.25, "b": 0.75}], config(replay=0.2, replay_task="c").data
    ) == [{"a": pytest.approx(0.2), "b": pytest.approx(0.6), "c": 0.2}]
    # a lock from elsewhere, without replay and with another's
    given = {"architecture": "decoder", "prefix_lm": False}
    locks.check_config(given, config(), "lock")
    for lock in (given, given | {"replay": 0.2, "replay_task": "text_prefix_lm"}):
        with pytest.raises(UserError, match="lock: made with data.replay"):
            locks.check_config(lock, config(replay=0.2, replay_task="text_lm"), "lock")
    kept = dataclasses.replace(config().eval, retention=("text_lm",))
    run = dataclasses.replace(config(), eval=kept)
    # not trained on: all of it
    assert [r.job.split for r in texts(run, ["sample_first"])] == ["train"]
    with pytest.raises(UserError, match="'text_lm' is trained on and has no test split"):
        texts(run, ["text_lm"])
