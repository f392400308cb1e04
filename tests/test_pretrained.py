# SPDX-License-Identifier: Apache-2.0
"""Runs that begin from a model that `transformers` wrote: what they take from it, tuning it,
handing it back."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from itx import cli, convert, pretrained, restore, train
from itx import config as configs
from itx import mesh as meshes
from itx.config import MeshConfig
from itx.data import lock as locks
from itx.data.loader import Batches
from itx.data.vocabulary import Vocabulary
from itx.errors import UserError
from itx.models import hf
from itx.processes import newest_checkpoint
from itx.runs import RunFolder
from itx.text_format.chat import template_text
from tests import samples, scored, tiny
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
    # the run's EOS
    assert json.loads((out / "generation_config.json").read_text()) == generation | {
        "eos_token_id": 1
    }
    lock = json.loads((run / "data.lock.json").read_text())
    template = (GOLDEN / name / "chat_template.jinja").read_text()
    assert (lock["prompt_format"], lock["chat"]) == ("chat", template)
    # the exported folder begins a run as the first one did, and so do the run and its checkpoint
    for begin in (out, run, run / "checkpoints" / "4"):
        again, origin = pretrained.load_recipe(
            str(recipe(tmp_path, name)), [f"--model.pretrained={begin}"]
        )
        assert {**vars(again.model), "pretrained": ""} == {**vars(config.model), "pretrained": ""}
        assert (
            origin["model.embed_dim"] == str(begin)
            and Path(again.data.vocab).name == "tokenizer.json"
        )
    # resumed: the checkpoint is what counts, not the model it once began from
    longer, _ = pretrained.load_recipe(
        str(recipe(tmp_path, name)), [f"--model.pretrained={GOLDEN / name}", "--train.steps=7"]
    )
    lock, mesh = (
        locks.read(run / "data.lock.json"),
        meshes.make_mesh(MeshConfig(), jax.devices()[:1]),
    )
    monkeypatch.setattr(restore, "load_pretrained", lambda *_: pytest.fail("it began anew"))
    train.train(
        longer,
        lock,
        Batches(lock, tmp_path / "cache"),
        RunFolder(run),
        train.make_setup(longer, lock["vocabulary"]["size"], len(lock["tasks"]), mesh),
    )
    assert newest_checkpoint(RunFolder(run).checkpoints) == 7


def test_import_and_export_by_command_give_the_tensors_back(tmp_path, capsys):
    for name in ("gemma3", "t5_v1_1"):
        made, out = tmp_path / name / "made", tmp_path / name / "out"
        assert (
            cli.main(
                [
                    "convert",
                    "import",
                    str(GOLDEN / name),
                    str(made),
                    "--json",
                    str(tmp_path / "facts.json"),
                ]
            )
            == 0
        )
        facts = json.loads((tmp_path / "facts.json").read_text())
        assert f"{facts['parameters']:,} parameters, bfloat16 there" in capsys.readouterr().out
        assert cli.main(["convert", "export", str(made), str(out)]) == 0
        first, last = (load_file(d / hf.SINGLE) for d in (GOLDEN / name, out))
        assert {k: v.tobytes() for k, v in first.items()} == {
            k: v.tobytes() for k, v in last.items()
        }
    assert cli.main(["convert", "export", str(made), str(out)]) == 2
    assert "is there and not empty" in capsys.readouterr().err
    for size in ("nan", "inf", "0"):
        assert (
            cli.main(["convert", "export", str(made), str(tmp_path / "new"), "--shard_gb", size])
            == 2
        )
        assert f"--shard_gb {float(size)}: must be above 0" in capsys.readouterr().err
    assert cli.main(["convert", "export", str(made), str(tmp_path / "facts.json" / "out")]) == 2
    assert "facts.json is a file, not a folder" in capsys.readouterr().err
    for held, words in (
        ("{}", "neither"),
        ("[]", "no JSON object"),
        ('{"config": {}}', "has no checkpoint"),
    ):
        (tmp_path / "empty").mkdir(exist_ok=True)
        (tmp_path / "empty" / "config.json").write_text(held)
        assert cli.main(["convert", "export", str(tmp_path / "empty"), str(tmp_path / "new")]) == 2
        assert words in capsys.readouterr().err
    assert cli.main(["convert", "export", str(made), str(tmp_path / "facts.json")]) == 2
    assert "facts.json is a file, not a folder" in capsys.readouterr().err


def test_a_gemma_that_sees_images_comes_back_in_its_type_with_its_ends(tmp_path):
    """As the hub has gemma-3-4b-it: the text model inside, its type and the ends of an answer
    outside."""
    folder, made, out = (tmp_path / n for n in ("model", "made", "out"))
    shutil.copytree(GOLDEN / "gemma3", folder)
    inner = hf.read_config(folder)
    outside = {
        "torch_dtype": inner.pop("dtype", None) or inner.pop("torch_dtype"),
        "eos_token_id": [1, 106],
    }
    assert outside["torch_dtype"] == "bfloat16"
    held = {"model_type": "gemma3", **outside, "text_config": {**inner, "eos_token_id": 1}}
    (folder / hf.CONFIG).write_text(json.dumps(held))
    tensors = load_file(folder / hf.SINGLE)
    save_file(
        {n.replace("model.", "language_model.model.", 1): v for n, v in tensors.items()},
        folder / hf.SINGLE,
    )
    assert cli.main(["convert", "import", str(folder), str(made)]) == 0
    assert cli.main(["convert", "export", str(made), str(out)]) == 0
    back, written = load_file(out / hf.SINGLE), hf.read_config(out)
    assert {k: v.tobytes() for k, v in tensors.items()} == {k: v.tobytes() for k, v in back.items()}
    assert {k: written[k] for k in outside} == outside


@pytest.mark.parametrize("padded", [True, False])
def test_special_ids_are_exported_as_the_tokenizer_has_them(padded, tmp_path):
    """A tokenizer without a pad token gives no pad_token_id: the id that fills our rows is a token
    of its own there."""
    shutil.copytree(GOLDEN / "qwen3", tmp_path / "model")
    file = tmp_path / "model" / "tokenizer_config.json"
    held = json.loads(file.read_text())
    assert hf.read_config(tmp_path / "model")["pad_token_id"] is None
    file.write_text(json.dumps({k: v for k, v in held.items() if padded or k != "pad_token"}))
    convert.import_to(str(tmp_path / "model"), str(tmp_path / "run"))
    run = RunFolder(tmp_path / "run")
    vocabulary = Vocabulary(run.vocab_model)
    ids = {"pad_id": vocabulary.pad_id, "bos_id": -1, "eos_id": vocabulary.eos_id}
    run.lock_json.write_text(json.dumps(scored.lock([], [], vocabulary, **ids)))
    convert.export(str(run.path), str(tmp_path / "out"))
    written = hf.read_config(tmp_path / "out")
    assert written["eos_token_id"] == vocabulary.eos_id and written.get("bos_token_id") is None
    assert written.get("pad_token_id") == (vocabulary.model.pad_id if padded else None)
    assert (vocabulary.model.pad_id >= 0) == padded and vocabulary.pad_id >= 0


def test_a_head_that_is_a_copy_of_the_embedding_is_tied(tmp_path):
    """T5 1.0 as some files hold it; where the configuration says that it is not tied, a copy is a
    head of its own."""
    folder = tmp_path / "model"
    shutil.copytree(GOLDEN / "t5", folder)
    tensors, held = load_file(folder / hf.SINGLE), hf.read_config(folder)
    cfg = hf.model_config(folder)
    assert cfg.tie_embeddings and "lm_head.weight" not in tensors
    save_file(tensors | {"lm_head.weight": tensors["shared.weight"].copy()}, folder / hf.SINGLE)
    assert hf.model_config(folder) == cfg
    (folder / hf.CONFIG).write_text(json.dumps(held | {"tie_word_embeddings": False}))
    assert not hf.model_config(folder).tie_embeddings
    (folder / hf.CONFIG).write_text(json.dumps(held))
    save_file(tensors | {"lm_head.weight": tensors["shared.weight"] + 1}, folder / hf.SINGLE)
    assert not hf.model_config(folder).tie_embeddings


def test_what_is_taken_from_the_model_and_what_stays_the_recipes(tmp_path):
    file = recipe(tmp_path, "qwen3")
    words = [
        f"--model.pretrained={GOLDEN / 'qwen3'}",
        "--model.remat=dots",
        "--model.rope_theta=123.0",
    ]
    config, origin = pretrained.load_recipe(str(file), words)
    there = hf.model_config(GOLDEN / "qwen3")
    assert there != tiny.decoder() and there.rope_theta != 123.0
    assert (config.model.num_layers, config.model.smear, config.model.vocab_size) == (3, 0, 320)
    assert (config.model.remat, config.model.rope_theta) == ("dots", 123.0)  # the command line's
    assert origin["model.rope_theta"] == "command line" and origin["model.num_layers"] == str(
        GOLDEN / "qwen3"
    )
    assert config.data.vocab == str(GOLDEN / "qwen3" / "tokenizer.json")
    assert config.data.chat_template == str(GOLDEN / "qwen3" / "chat_template.jinja")
    folder = shutil.copytree(GOLDEN / "qwen3", tmp_path / "model")
    (folder / "chat_template.jinja").unlink()
    assert not json.loads((folder / "tokenizer_config.json").read_text()).get("chat_template")
    assert (
        pretrained.load_recipe(str(file), [f"--model.pretrained={folder}"])[0].data.chat_template
        == ""
    )
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    named = pretrained.load_recipe(str(file), [f"--model.pretrained={folder}"])[
        0
    ].data.chat_template
    assert template_text(named, "") == "{{ messages }}"
    given, origin = pretrained.load_recipe(str(file), [*words, "--data.vocab=bytes"])
    assert given.data.vocab == "bytes" and origin["data.vocab"] == "command line"


def test_a_model_with_a_chat_template_is_asked_in_turns(tmp_path):
    """In its own form, unless the recipe says plain, or it has no template."""
    file, words = recipe(tmp_path, "qwen3"), [f"--model.pretrained={GOLDEN / 'qwen3'}"]
    config, origin = pretrained.load_recipe(str(file), words)
    assert config.data.prompt_format == "chat"
    assert origin["data.prompt_format"] == str(GOLDEN / "qwen3")
    plain, _ = pretrained.load_recipe(str(file), [*words, "--data.prompt_format=plain"])
    assert plain.data.prompt_format == "plain"
    folder = shutil.copytree(GOLDEN / "qwen3", tmp_path / "model")
    (folder / "chat_template.jinja").unlink()
    bare, _ = pretrained.load_recipe(str(file), [f"--model.pretrained={folder}"])
    assert bare.data.prompt_format == "auto"  # plain, for nothing says otherwise


@pytest.mark.parametrize(
    "case, words",
    [
        ("no model", ["holds no model", "did you mean"]),
        ("no tokenizer", ["has no tokenizer.json", "data.vocab"]),
        ("truncated", ["truncated: expected", "found"]),
        ("missing", ["tensors are missing", "model.norm.weight"]),
        ("no model_type", ["config.json has neither a 'model_type'"]),
        ("broken tokenizer_config", ["tokenizer_config.json: no readable JSON"]),
        (
            "tokenizer_config is a list",
            ["tokenizer_config.json: expected a JSON object, found list"],
        ),
        (
            "small embedding",
            ["model.vocab_size=300 is below the vocabulary's 312 ids of", "tokenizer.json"],
        ),
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
    elif case == "no model_type":
        (folder / hf.CONFIG).write_text(json.dumps({"hidden_size": 24}))
    elif "tokenizer_config" in case:
        (folder / "chat_template.jinja").unlink()
        (folder / "tokenizer_config.json").write_text("[]" if "list" in case else '{"chat_temp')
    else:
        given.append("--model.vocab_size=300")
    with pytest.raises(UserError) as e:
        config, _ = pretrained.load_recipe(str(recipe(tmp_path, "qwen3")), given)
        restore.check_ready(config)
    assert all(w in str(e.value) for w in words), e.value
