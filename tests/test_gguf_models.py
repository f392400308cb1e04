# SPDX-License-Identifier: Apache-2.0
"""Models that no data of ours were built for: `itx generate` and `itx convert` take a Hugging Face
folder, a GGUF file and what was imported of either, and all answer the same."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from itx import cli, convert, pretrained
from itx.models import hf
from itx.runs import RunFolder, read_config
from tests.gguf_files import hugging_face, write
from tests.models.test_hf import GOLDEN


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def golden_tokenizer(folder: Path):
    """Writes the tokenizer of a golden folder as GGUF has it."""
    held = json.loads((folder / "tokenizer.json").read_text())
    vocab, merges = held["model"]["vocab"], held["model"]["merges"]

    def put(w) -> None:
        texts = sorted(vocab, key=vocab.get)
        special = {t["content"] for t in held["added_tokens"] if t["special"]}
        w.add_tokenizer_model("gpt2")
        w.add_tokenizer_pre("gpt-2")
        w.add_token_list(texts)
        w.add_token_types([3 if t in special else 1 for t in texts])
        w.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
        w.add_eos_token_id(1)
        w.add_pad_token_id(0)
        w.add_chat_template((folder / "chat_template.jinja").read_text())

    return put


@pytest.fixture
def three(tmp_path) -> dict[str, str]:
    """{what: its path}: one model three times."""
    folder = tmp_path / "hf"
    shutil.copytree(GOLDEN / "qwen3", folder)
    config, tensors = hugging_face(folder)
    rows = len(json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"])
    assert rows <= config["vocab_size"]
    put = golden_tokenizer(folder)

    def filled(w) -> None:
        put(w)
        kv, more = w.kv_data[0], config["vocab_size"] - rows
        kv["tokenizer.ggml.tokens"].value += [f"[PAD{rows + i}]" for i in range(more)]
        kv["tokenizer.ggml.token_type"].value += [5] * more

    file = write(tmp_path / "m.gguf", "qwen3", config, tensors, tokenizer=filled)
    convert.import_to(str(file), str(tmp_path / "imported"))
    return {"folder": str(folder), "file": str(file), "imported": str(tmp_path / "imported")}


def test_all_three_answer_the_same_through_the_chat_template(three, tmp_path, capsys):
    answers = {}
    for what, path in three.items():
        out = tmp_path / f"{what}.json"
        words = ["generate", path, "--prompt", "Дай слово: red", "--max_new_tokens", "9"]
        assert cli.main([*words, "--json", str(out)]) == 0, capsys.readouterr().err
        (answers[what],) = json.loads(out.read_text())
    assert cli.main([*words, "--raw", "--json", str(out)]) == 0
    (raw,) = json.loads(out.read_text())
    assert raw["answer"] != answers["folder"]["answer"]  # it is asked otherwise
    assert answers["file"] == answers["folder"] == answers["imported"]


def test_an_import_holds_the_files_weights_and_says_where_from(three, tmp_path):
    imported = pretrained.find(three["imported"])
    about = read_config(RunFolder(Path(three["imported"])))
    assert about["from"] == three["file"]
    for what in ("imported", "file"):
        to = tmp_path / f"out_{what}"
        convert.export(three[what], str(to), dtype="float32")
        out = load_file(to / hf.SINGLE)
        for name, value in hugging_face(Path(three["folder"]))[1].items():
            np.testing.assert_allclose(out[name], value, rtol=0, atol=2e-7, err_msg=name)
        for name in ("tokenizer.json", "chat_template.jinja", "generation_config.json"):
            assert (to / name).is_file()
    assert imported.run is not None


def test_origins_and_messages_name_the_gguf_file(three, tmp_path):
    recipe = tmp_path / "r.py"
    recipe.write_text(
        "from itx.config import ModelConfig, RunConfig\n\n\ndef get_config(quick):\n"
        f"    return RunConfig(model=ModelConfig(pretrained={three['file']!r}))\n"
    )
    config, origin = pretrained.load_recipe(str(recipe))
    assert origin["model.embed_dim"] == origin["data.vocab"] == three["file"]
    assert Path(config.data.vocab).name == "tokenizer.json" and config.data.chat_template


def test_what_a_model_without_steps_and_a_template_cannot_do_is_said(three, tmp_path, capsys):
    assert cli.main(["generate", three["file"], "--step", "5", "--prompt", "x"]) == 2
    assert "holds one model, and no steps" in capsys.readouterr().err
    (Path(three["folder"]) / "chat_template.jinja").unlink()
    assert cli.main(["generate", three["folder"], "--system", "s", "--prompt", "x"]) == 2
    assert "has no chat template" in capsys.readouterr().err
    (Path(three["folder"]) / hf.SINGLE).unlink()
    assert cli.main(["generate", three["folder"], "--prompt", "x"]) == 2
    assert "no weights at all" in capsys.readouterr().err
