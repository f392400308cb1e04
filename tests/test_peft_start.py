# SPDX-License-Identifier: Apache-2.0
"""Training that goes on from an adapter's folder (`peft.adapter`), written by `peft`
(tests/golden/make_peft.py) or by `itx convert export`."""

import dataclasses
import json
import os
import signal
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from itx import checkpoint, cli, config, mesh, peft_files, pretrained, restore, train
from itx.errors import UserError
from tests import synthetic
from tests.test_peft_files import GOLDEN, base_of
from tests.trainer import contents

LOCK = synthetic.lock()
RECIPE = """
from itx.config import *
def get_config(quick=False):
    return RunConfig(model=ModelConfig(pretrained={base!r}), data=DataConfig(vocab="bytes"), peft=PeftConfig({peft}))
"""


def settled(folder: Path, name: str, *words: str, peft: str = "", base: str = ""):
    """(config, origins) of a recipe over the golden base, that goes on from a golden adapter."""
    adapter = GOLDEN / "peft" / name
    file = folder / "recipe.py"
    file.write_text(
        RECIPE.format(base=str(GOLDEN / "hf" / base if base else base_of(adapter)), peft=peft)
    )
    return pretrained.load_recipe(str(file), [f"--peft.adapter={adapter}", *words])


@pytest.mark.parametrize("name", ["llama_lora", "llama_projected", "gemma3_dora", "t5_v1_1_prompt"])
def test_the_folder_says_what_trains(name, tmp_path):
    made, origin = settled(tmp_path, name)
    folder = str(GOLDEN / "peft" / name)
    theirs = peft_files.read(folder, made.model).peft
    assert theirs != config.PeftConfig() and made.peft == dataclasses.replace(
        theirs, adapter=folder
    )
    assert origin["peft.method"] == origin["peft.targets"] == folder
    assert origin["peft.adapter"] == "command line"


@pytest.mark.parametrize(
    "name, words, why",
    [
        ("llama_lora", ["--peft.method=full"], "peft.method='full' .command line., but .* has 'lora'"),
        ("llama_lora", ["--peft.method=lora", "--peft.rank=4"], "peft.rank=4 .*has 2: leave it out"),
        ("llama_lora", ["--peft.method=lora", "--peft.alpha=4"], "peft.alpha=4.0 .*has 3"),
        ("llama_lora", ["--peft.method=lora", "--peft.dora=True"], "peft.dora=True .*has False"),
        ("llama_lora", ["--peft.method=lora", "--peft.targets=.*/wq"], "peft.targets=.*has"),
        ("llama_prefix", ["--peft.method=prefix", "--peft.length=9"], "peft.length=9 .*has 4"),
        ("llama_prefix", ["--peft.method=prefix", "--peft.prefix_hidden=6"], "prefix_hidden=6 .*has 0"),
        ("llama_lora", ["--peft.rank=2"], "this run's peft.method=full has none: give"),
    ],
)  # fmt: skip
def test_what_is_given_must_be_the_adapters_own(name, words, why, tmp_path):
    with pytest.raises(UserError, match=why):
        settled(tmp_path, name, *words)


def test_what_is_given_may_repeat_it(tmp_path):
    targets = "'.*/(wq|wk|wv|wo|w_gate|w_in|w_out)', 'head'"
    said = f"method='lora', rank=2, alpha=3.0, dropout=0.25, targets=({targets},)"
    made, origin = settled(tmp_path, "llama_lora", peft=said)
    assert made.peft.dropout == 0.25 and made.peft.targets[-1] == "head"
    assert {origin[f"peft.{n}"] for n in ("rank", "dropout", "targets")} == {
        str(tmp_path / "recipe.py")
    }
    assert origin["peft.rslora"] == str(GOLDEN / "peft" / "llama_lora")


def test_an_adapter_has_one_base_and_a_folder(tmp_path):
    with pytest.raises(UserError, match="an adapter for another base"):
        settled(tmp_path, "llama_lora", base="gemma3")
    with pytest.raises(UserError, match="an adapter is for one base; name it: model.pretrained="):
        settled(tmp_path, "llama_lora", "--model.pretrained=")
    with pytest.raises(UserError, match="nowhere holds no adapter"):
        settled(tmp_path, "llama_lora", "--peft.adapter=nowhere")
    with pytest.raises(UserError, match="only runs may lie in a store"):
        settled(tmp_path, "llama_lora", "--peft.adapter=gs://a/b")


@pytest.mark.parametrize("name", ["llama_lora", "t5_v1_1_prompt"])
def test_training_begins_from_it_and_resumes_bitwise(name, tmp_path):
    made, _ = settled(tmp_path, name)
    cfg = dataclasses.replace(
        synthetic.config(optim={"warmup_steps": 1}), model=made.model, peft=made.peft
    )
    devices = mesh.make_mesh(config.MeshConfig(data=1), jax.devices()[:1])
    setup = train.make_setup(cfg, *synthetic.sizes_of(LOCK), devices)
    theirs = peft_files.read(made.peft.adapter, made.model).params
    first = jax.device_get(setup.init()[0]["params"])
    assert first.keys() == theirs.keys()
    assert all(np.array_equal(first[p], theirs[p]) for p in theirs)

    class Stopping(synthetic.Batches):
        def batch(self, step):
            if step == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().batch(step)

    straight, parts = synthetic.Folder(tmp_path / "a"), synthetic.Folder(tmp_path / "b")
    whole = jax.device_get(train.train(cfg, LOCK, synthetic.Batches(cfg), straight, setup=setup))
    with pytest.raises(SystemExit):
        train.train(cfg, LOCK, Stopping(cfg), parts, setup=setup)
    again = jax.device_get(train.train(cfg, LOCK, synthetic.Batches(cfg), parts, setup=setup))
    pairs = zip(jax.tree.leaves(whole), jax.tree.leaves(again), strict=True)
    assert all(np.array_equal(a, b) for a, b in pairs)
    assert not any(np.array_equal(first[p], x) for p, x in whole["params"].items())
    with checkpoint.Checkpoints(parts.checkpoints) as checkpoints:
        assert set(checkpoints.shapes(4)) == set(theirs)  # the adapter alone
    # the score before tuning is the given adapter's
    before = restore.load_model(parts, cfg, LOCK, 0, devices).loaded
    assert before.peft == dataclasses.replace(made.peft, adapter="")
    assert all(np.array_equal(before.params[p], theirs[p]) for p in theirs)
    peft_files.save(tmp_path / "out", cfg.model, cfg.peft, again["params"], "", "somewhere")
    read = peft_files.read(tmp_path / "out", cfg.model)
    assert all(np.array_equal(read.params[p], x) for p, x in again["params"].items())


def test_a_run_goes_on_from_what_itx_exported_and_is_exported_again(adapter_run, tmp_path, capsys):
    trainer, base = adapter_run  # its LoRA, merged, is part of the base here
    over, export = [f"--model.pretrained={base}"], ["convert", "export"]
    assert trainer.train(tmp_path / "first", "--quick", *over) == 130
    assert cli.main([*export, str(tmp_path / "first"), str(tmp_path / "adapter")]) == 0
    given = [f"--peft.adapter={tmp_path / 'adapter'}"]
    second = tmp_path / "second"
    elsewhere = [f"--model.pretrained={base / 'checkpoints' / '4'}", *given]
    capsys.readouterr()
    assert trainer.train(second, "--quick", *elsewhere) == 2 and not second.exists()
    assert "was trained over another base: the parameters differ" in capsys.readouterr().err
    assert trainer.train(second, "--quick", *over, *given) == 130
    held = json.loads((second / "config.json").read_text())
    assert held["config"]["peft"]["rank"] == 4
    assert held["origin"]["peft.dora"] == str(tmp_path / "adapter")
    before = contents(second)
    assert trainer.train(second, "--quick", *over) == 2  # where it began is part of what it is
    assert "peft.adapter was" in capsys.readouterr().err and contents(second) == before
    assert cli.main([*export, str(second), str(tmp_path / "again")]) == 0
    one, two = (load_file(tmp_path / n / peft_files.WEIGHTS) for n in ("adapter", "again"))
    assert one.keys() == two.keys() and not any(np.array_equal(one[k], two[k]) for k in one)
    bases = [json.loads((tmp_path / n / peft_files.BASE).read_text()) for n in ("adapter", "again")]
    assert bases[0] == bases[1]
