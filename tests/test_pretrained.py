# SPDX-License-Identifier: Apache-2.0
"""Runs that begin from a model that `transformers` wrote: what they take from it, tuning it, handing it back."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from itx import cli, train
from itx import config as configs
from itx import mesh as meshes
from itx.config import MeshConfig
from itx.data import lock as locks
from itx.data.loader import Batches
from itx.errors import UserError
from itx.models import hf, presets, pretrained
from itx.runs import RunFolder
from tests import samples
from tests.conftest import REPO

GOLDEN = REPO / "tests" / "golden" / "hf"


def recipe(folder: Path, name: str) -> Path:
    architecture = "encoder_decoder" if name.startswith("t5") else "decoder"
    return samples.write_recipe(
        folder,
        folder / "cache",
        mixture="sample_mix",
        architecture=architecture,
        sequence_length=256,
        target_length=128,
    )


def tuned(name: str, folder: Path) -> tuple[Path, Path]:
    """(run folder, exported folder) of a few steps from a golden model; float32 all through."""
    run, out = folder / "run", folder / "out"
    words = [f"--model.pretrained={GOLDEN / name}", "--run_dir", run, "--eval.before=false"]
    samples.itx("train", recipe(folder, name), *words)
    samples.itx("convert", "export", run, out, "--dtype", "float32")
    return run, out


@pytest.mark.parametrize("name", ["qwen3", pytest.param("t5", marks=pytest.mark.slow)])
def test_a_model_of_transformers_is_tuned_and_comes_back(name, tmp_path, monkeypatch):
    run, out = tuned(name, tmp_path)
    config = configs.from_dict(json.loads((run / "config.json").read_text())["config"])
    cfg = hf.model_config(GOLDEN / name)
    assert hf.model_config(out) == cfg and config.model.embed_dim == cfg.embed_dim
    first, last = load_file(GOLDEN / name / hf.SINGLE), load_file(out / hf.SINGLE)
    assert first.keys() == last.keys()
    moved = [np.abs(last[k] - first[k].astype(np.float32)).max() for k in first]
    assert min(moved) > 0 and max(moved) < 0.3  # all were trained, from where they were
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (out / file).read_bytes() == (GOLDEN / name / file).read_bytes()
    generation = json.loads((GOLDEN / name / "generation_config.json").read_text())
    assert json.loads((out / "generation_config.json").read_text()) == generation | {"eos_token_id": 1}  # the run's EOS
    # the exported folder begins a run as the first one did, and so do the run and its checkpoint
    for begin in (out, run, run / "checkpoints" / "4"):
        again, origin = configs.load(str(recipe(tmp_path, name)), [f"--model.pretrained={begin}"])
        assert {**vars(again.model), "pretrained": ""} == {**vars(config.model), "pretrained": ""}
        assert origin["model.embed_dim"] == str(begin) and Path(again.data.vocab).name == "tokenizer.json"
    # resumed: the checkpoint is what counts, not the model it once began from
    longer, _ = configs.load(str(recipe(tmp_path, name)), [f"--model.pretrained={GOLDEN / name}", "--train.steps=7"])
    lock, mesh = locks.read(run / "data.lock.json"), meshes.make_mesh(MeshConfig(), jax.devices()[:1])
    monkeypatch.setattr(pretrained, "load", lambda *_: pytest.fail("it began anew"))
    train.train(longer, lock, Batches(lock, tmp_path / "cache"), RunFolder(run), train.setup(longer, lock, mesh))
    assert train.latest_step(RunFolder(run)) == 7


def test_import_and_export_by_command_give_the_tensors_back(tmp_path, capsys):
    for name in ("gemma3", "t5_v1_1"):
        made, out = tmp_path / name / "made", tmp_path / name / "out"
        assert (
            cli.main(["convert", "import", str(GOLDEN / name), str(made), "--json", str(tmp_path / "facts.json")]) == 0
        )
        facts = json.loads((tmp_path / "facts.json").read_text())
        assert f"{facts['parameters']:,} parameters, bfloat16 there" in capsys.readouterr().out
        assert cli.main(["convert", "export", str(made), str(out)]) == 0
        first, last = (load_file(d / hf.SINGLE) for d in (GOLDEN / name, out))
        assert {k: v.tobytes() for k, v in first.items()} == {k: v.tobytes() for k, v in last.items()}
    assert cli.main(["convert", "export", str(made), str(out)]) == 2
    assert "is there and not empty" in capsys.readouterr().err
    assert cli.main(["convert", "export", str(made), str(tmp_path / "facts.json")]) == 2
    assert "facts.json is a file, not a folder" in capsys.readouterr().err


def test_what_is_taken_from_the_model_and_what_stays_the_recipes(tmp_path):
    file = recipe(tmp_path, "qwen3")
    words = [f"--model.pretrained={GOLDEN / 'qwen3'}", "--model.remat=dots", "--model.rope_theta=123.0"]
    config, origin = configs.load(str(file), words)
    there = hf.model_config(GOLDEN / "qwen3")
    assert there != presets.tiny_decoder() and there.rope_theta != 123.0
    assert (config.model.num_layers, config.model.smear, config.model.vocab_size) == (3, 0, 320)
    assert (config.model.remat, config.model.rope_theta) == ("dots", 123.0)  # the command line's
    assert origin["model.rope_theta"] == "command line" and origin["model.num_layers"] == str(GOLDEN / "qwen3")
    assert config.data.vocab == str(GOLDEN / "qwen3" / "tokenizer.json")
    assert config.data.chat_template == str(GOLDEN / "qwen3" / "chat_template.jinja")
    given, origin = configs.load(str(file), [*words, "--data.vocab=bytes"])
    assert given.data.vocab == "bytes" and origin["data.vocab"] == "command line"


@pytest.mark.parametrize(
    "case, words",
    [
        ("no model", ["holds no model", "did you mean"]),
        ("no tokenizer", ["has no tokenizer.json", "data.vocab"]),
        ("truncated", ["truncated: expected", "found"]),
        ("missing", ["tensors are missing", "model.norm.weight"]),
        ("small embedding", ["model.vocab_size=300 is below the vocabulary's 312 ids of", "tokenizer.json"]),
    ],
)
def test_a_bad_folder_is_said_before_anything_is_trained(case, words, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(GOLDEN / "qwen3", folder)
    given = [f"--model.pretrained={folder}"]
    if case == "no model":
        given = [f"--model.pretrained={tmp_path / 'modell'}"]
    elif case == "no tokenizer":
        (folder / "tokenizer.json").unlink()
    elif case == "truncated":
        (folder / hf.SINGLE).write_bytes((folder / hf.SINGLE).read_bytes()[:-1])
    elif case == "missing":
        tensors = load_file(folder / hf.SINGLE)
        del tensors["model.norm.weight"]
        save_file(tensors, folder / hf.SINGLE)
    else:
        given.append("--model.vocab_size=300")
    with pytest.raises(UserError) as e:
        config, _ = configs.load(str(recipe(tmp_path, "qwen3")), given)
        pretrained.ready(config)
    assert all(w in str(e.value) for w in words), e.value
