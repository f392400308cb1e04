# SPDX-License-Identifier: Apache-2.0
"""A family is one entry of FAMILIES: with a made-up one, other tensors' names and keys of its own, a
model and a LoRA go out and in again."""

import json

import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from itx import cli, peft, peft_files, restore
from itx.config import PeftConfig
from itx.errors import UserError
from itx.models import families, hf
from itx.models.transformer import Transformer
from itx.runs import RunFolder, read_lock, run_config
from tests.models.test_hf import GOLDEN
from tests.test_peft_files import run_of

OTHER = "transformer.h."  # where Llama has model.layers.


def other_name(name: str) -> str:
    return name.replace("model.layers.", OTHER).replace("lm_head.", "output.")


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """A folder of the made-up family: Mistral's maths and weights under other names, and windows
    that every third layer has not."""
    mistral = families.FAMILIES["mistral"]
    made_up = mistral._replace(
        classname="MadeUpForCausalLM",
        keys=mistral.keys | {"embed_dim": "width"},
        tensors={path: other_name(name) for path, name in mistral.tensors.items()},
        reads=mistral.reads | {"layer_types"},
        full_every=3,
        theta=5e5,
    )
    monkeypatch.setitem(families.FAMILIES, "made_up", made_up)
    source = hf.read_config(GOLDEN / "mistral")
    source |= {"model_type": "made_up", "width": source.pop("hidden_size")}
    source = {k: v for k, v in source.items() if not k.startswith("rope")}
    folder = tmp_path / "made_up"
    folder.mkdir()
    (folder / hf.CONFIG).write_text(json.dumps(source))
    tensors = load_file(GOLDEN / "mistral" / hf.SINGLE)
    save_file({other_name(n): x for n, x in tensors.items()}, folder / hf.SINGLE)
    return folder


def test_a_model_of_a_new_family_goes_out_and_in_again(folder, tmp_path):
    cfg, mistral = hf.model_config(folder), hf.model_config(GOLDEN / "mistral")
    assert (
        (cfg.rope_theta, cfg.global_every)
        == (5e5, 3)
        != (
            mistral.rope_theta,
            mistral.global_every,
        )
    )
    assert cli.main(["convert", "import", str(folder), str(tmp_path / "run")]) == 0
    assert cli.main(["convert", "export", str(tmp_path / "run"), str(tmp_path / "out")]) == 0
    written = hf.read_config(tmp_path / "out")
    assert (written["model_type"], written["architectures"]) == ("made_up", ["MadeUpForCausalLM"])
    assert "width" in written and "hidden_size" not in written and "layer_types" in written
    assert hf.model_config(tmp_path / "out") == cfg
    theirs, ours = (load_file(f / hf.SINGLE) for f in (folder, tmp_path / "out"))
    assert theirs.keys() == ours.keys() and any(n.startswith(OTHER) for n in ours)
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value)


def test_a_lora_over_a_new_family_goes_out_and_in_again(folder, tmp_path):
    cfg = hf.model_config(folder)
    method = PeftConfig(method="lora", rank=2, targets=(".*/w[qv]",))
    model = peft.add(Transformer(cfg, cfg.vocab_size, nnx.Rngs(0)), method, 0)
    r = np.random.default_rng(0)
    params = {
        path: r.standard_normal(variable.shape).astype(np.float32)
        for path, variable in peft.trained(model, method).items()
    }
    run = RunFolder(run_of(peft_files.Adapter(method, params, ""), folder, tmp_path / "run"))
    out = tmp_path / "out"
    assert cli.main(["convert", "export", str(run.path), str(out)]) == 0
    tensors = load_file(out / peft_files.WEIGHTS)
    assert len(tensors) == 2 * 2 * cfg.num_layers
    assert all(name.startswith(f"{peft_files.INNER}{OTHER}") for name in tensors)
    with pytest.raises(
        UserError, match="adapter for another base: this model has no .*transformer"
    ):
        peft_files.read(out, cfg, family="mistral")

    (out / peft_files.BASE).unlink()  # the made-up run has no fingerprint of its base
    base = restore.load_model(run, run_config(run), read_lock(run), 0)
    adapted = restore.with_adapter(base, str(out))
    for path, value in params.items():
        np.testing.assert_array_equal(adapted.loaded.params[path], value)
    prompts, options = [[5, 6, 7]], [[[3], [4, 5]]]
    before, after = (runner.rank(prompts, options)[0][0]["logprob"] for runner in (base, adapted))
    assert abs(before - after) > 0.01
