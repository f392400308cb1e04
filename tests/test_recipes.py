# SPDX-License-Identifier: Apache-2.0
"""The recipes of published models: their full size by shapes, and their quick variants from a
Hugging Face folder to training and back."""

import dataclasses
import json
import re

import jax
import numpy as np
import pytest

from itx import cli, mesh, peft_files, pretrained, restore
from itx import config as configs
from itx.config import MeshConfig, PeftConfig
from itx.data import lock as locks
from itx.data.vocabulary import Vocabulary
from itx.errors import UserError
from itx.models import hf, presets, small
from itx.runs import RunFolder
from tests import samples
from tests.conftest import REPO, SHARED

# recipe -> (preset, published parameters)
FULL = {
    "flan_t5_base": ("flan_t5_base", 247_577_856),
    "flan_t5_xl": ("flan_t5_xl", 2_849_757_184),
    "llama3_8b": ("llama3_1_8b", 8_030_261_248),
    "qwen3_4b": ("qwen3_4b", 4_022_468_096),
    "gemma3_4b": ("gemma3_4b", 3_880_263_168),  # the text model
}
ADAPTERS = {
    "flan_t5_xl_lora": "flan_t5_xl", "llama3_8b_lora": "llama3_8b", "qwen3_4b_lora": "qwen3_4b",
    "gemma3_4b_prefix": "gemma3_4b",
}  # fmt: skip
RECIPES = [*FULL, *ADAPTERS]
# of a family's matrices (inputs, outputs), and how many times a LoRA adapts each
WIDTHS = {
    # queries and values of 24 encoder layers, and of 24 decoder layers twice (self and cross)
    "flan_t5_xl_lora": [((2048, 2048), 2 * 72)],
    "llama3_8b_lora": [((4096, 4096), 64), ((4096, 1024), 64), ((4096, 14336), 96)],
    "qwen3_4b_lora": [((2560, 4096), 72), ((2560, 1024), 72), ((2560, 9728), 108)],
}


def file(name: str) -> str:
    return str(REPO / "configs" / f"{name}.py")


def full(name: str):
    return pretrained.load_recipe(file(name), absent=True)[0]


@pytest.mark.parametrize("name", RECIPES)
def test_full_size_by_shapes(name, tmp_path, capsys):
    config, facts = full(name), tmp_path / "size.json"
    preset, published = FULL[ADAPTERS.get(name, name)]
    assert cli.main(["train", file(name), "--dry-run", "--json", str(facts)]) == 0
    line, n = capsys.readouterr().out, json.loads(facts.read_text())
    print(name, line)
    assert (
        f"{n['trainable']:,} of {n['parameters']:,} parameters train" in line
        and "optimizer state" in line
    )
    found = {f.name: getattr(config.model, f.name) for f in dataclasses.fields(config.model)}
    settings = {k: found[k] for k in ("pretrained", "dropout", "dtype", "remat")}
    assert config.data.replay_task.startswith("c4_demo.")  # what retention is measured on
    assert config.model == presets.published(preset, **settings)
    assert (config.model.dtype, n["trainable_bytes"]) == (
        "bfloat16",
        4 * n["trainable"],
    )  # computed in one, kept in the other
    if name in FULL:
        assert n["parameters"] == n["trainable"] == published and n["frozen_bytes"] == 0
    else:
        assert n["parameters"] - n["trainable"] == published and n["frozen_bytes"] == 2 * published
        assert 0.002 < n["trainable"] / n["parameters"] < 0.04
    if name in WIDTHS:
        assert n["trainable"] == config.peft.rank * sum(
            times * sum(widths) for widths, times in WIDTHS[name]
        )
    # Adam's two moments; Adafactor's rows and columns of what it factors
    adam = 8 * n["trainable"]
    assert adam <= n["optimizer_bytes"] < adam + 1000 if config.optim.name == "adamw" else (
        0 < n["optimizer_bytes"] < adam / 4
    )  # fmt: skip


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapters_recipe_differs_by_data_alone(name):
    base, own = full(ADAPTERS[name]), full(name)
    assert own.peft != base.peft == PeftConfig()
    same = dataclasses.replace(own, peft=base.peft, optim=base.optim)
    rows = dataclasses.replace(own.data, global_batch=base.data.global_batch)
    # fewer rows a step may be taken in fewer parts
    parts = dataclasses.replace(own.train, microbatches=base.train.microbatches)
    assert dataclasses.replace(same, data=rows, train=parts) == base


@pytest.mark.parametrize("name", RECIPES)
def test_a_model_that_is_not_downloaded_is_named(name):
    with pytest.raises(UserError, match="checkpoints/.* holds no model: there is no such file"):
        pretrained.load_recipe(file(name))


@pytest.mark.parametrize("name", RECIPES)
def test_the_docstring_has_its_commands(name):
    text = (REPO / "configs" / f"{name}.py").read_text()
    assert re.findall(r"^    uv run itx train configs/(\w+)\.py (--\S+)", text, re.M) == [
        (name, "--quick"), (name, "--dry-run"),
    ]  # fmt: skip


def test_small_models_are_of_their_families(tmp_path):
    seen = set()
    for preset, _ in FULL.values():
        cfg, whole = small.config(preset), presets.published(preset)
        folder = small.folder(preset, str(tmp_path))
        assert folder == small.folder(preset, str(tmp_path))  # made once
        back = hf.model_config(folder)
        sizes = ("vocab_size", "embed_dim", "num_layers", "num_heads", "num_kv_heads", "head_dim", "mlp_dim",
                 "encoder_layers", "sliding_window", "query_scalar")  # fmt: skip
        kept = {k: v for k, v in dataclasses.asdict(whole).items() if k not in sizes}
        assert {k: v for k, v in dataclasses.asdict(cfg).items() if k not in sizes} == kept
        assert back.architecture == whole.architecture and bool(back.sliding_window) == bool(
            whole.sliding_window
        )
        seen.add(hf.read_config(folder)["model_type"])
    assert seen == {"t5", "llama", "qwen3", "gemma3_text"}


PROMPTS = ["What is the sum of 12 and 3?", "Какой сегодня день?", "Reverse: one two three"]


def answers(runner, vocabulary) -> np.ndarray:
    """Log-probabilities of some answers."""
    options = [vocabulary.following(["15", "пятница", "three two one"])] * len(PROMPTS)
    found = runner.rank(vocabulary.encode_batch(PROMPTS), options)
    return np.array([[o["logprob"] for o in of_prompt] for of_prompt in found])


ROWS = ("--data.sequence_length=512", "--data.target_length=256")
SLOW = {
    "gemma3_4b_prefix",
    "flan_t5_base",
    "flan_t5_xl",
    "flan_t5_xl_lora",
    "llama3_8b",
    "llama3_8b_lora",
    "qwen3_4b",
    "qwen3_4b_lora",
    "gemma3_4b",
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in RECIPES]
)
def test_a_quick_variant_trains_is_exported_and_read_back(name, tmp_path):
    """On real data where they are, else on the embedded suite."""
    run, out = RunFolder(tmp_path / "run"), tmp_path / "out"
    text = f"c4_demo.{'span_corruption' if 't5' in name else 'lm'}"
    real = ["--data.mixture=instruction_1100", "--data.replay=0.05", f"--data.replay_task={text}"]
    data = [f"--data.root={SHARED}", *real] if SHARED.is_dir() else []
    samples.itx("train", file(name), "--quick", "--train.steps=6", "--train.log_every=1", "--run_dir", run.path,
                *data, *ROWS, cwd=tmp_path)  # fmt: skip
    lines = [json.loads(x) for x in run.metrics_jsonl.read_text().splitlines()]
    assert lines[-1]["step"] == 6 and lines[-1]["train/loss"] < lines[0]["train/loss"]
    if data:  # what is replayed is also what retention is measured on, its held-out part
        kept = json.loads(run.retention_json.read_text())
        assert kept["before"].keys() == kept["after"].keys() == {text}
        assert kept["before"][text]["bits_per_byte"] != kept["after"][text]["bits_per_byte"] > 1

    held = configs.from_dict(json.loads(run.config_json.read_text())["config"])
    config = dataclasses.replace(
        held,
        model=dataclasses.replace(held.model, pretrained=str(tmp_path / held.model.pretrained)),
    )
    assert hf.is_folder(config.model.pretrained)
    lock, one = locks.read(run.lock_json), mesh.make_mesh(MeshConfig(), jax.devices()[:1])
    vocabulary = Vocabulary(run.vocab_model)
    base = restore.load_model(run, config, lock, 0, one)
    before, after = (
        answers(base, vocabulary),
        answers(restore.load_model(run, config, lock, mesh=one), vocabulary),
    )
    assert np.abs(after - before).min() > 1e-3
    method = config.peft.method
    words = [] if method != "full" else ["--dtype", "float32"]
    said = samples.itx("convert", "export", run.path, out, *words, cwd=tmp_path).stdout
    # 8 virtual tokens and a window of 32 (itx/models/small.py)
    assert ("beyond 24 tokens of prompt and answer it computes something else in PEFT" in said) == (
        method == "prefix"
    )
    if method != "full":
        assert {p.name for p in out.iterdir()} >= {peft_files.CONFIG, peft_files.WEIGHTS}
        np.testing.assert_allclose(
            answers(restore.with_adapter(base, str(out)), vocabulary), after, rtol=1e-4
        )
    if method == "lora":
        out = tmp_path / "merged"
        samples.itx(
            "convert", "export", run.path, out, "--merge", "--dtype", "float32", cwd=tmp_path
        )
    if method != "prefix":
        model = dataclasses.replace(config.model, pretrained=str(out))
        assert hf.model_config(out) == hf.model_config(config.model.pretrained)
        whole = dataclasses.replace(config, model=model, peft=PeftConfig())
        np.testing.assert_allclose(
            answers(restore.load_model(run, whole, lock, 0, one), vocabulary), after, rtol=1e-4
        )
