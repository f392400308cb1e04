# SPDX-License-Identifier: Apache-2.0
"""Invariant 10: the config cannot lie."""

import dataclasses
import glob
import os
import sys

import pytest

from itx import config as configs
from itx.config import KINDS, RunConfig, fields_by_name, flatten, from_dict, to_dict
from itx.errors import UserError
from itx.pretrained import load_recipe
from itx.recipe import load, override

pytestmark = pytest.mark.smoke

RECIPE = "from itx.config import *\ndef get_config(quick=False):\n    return RunConfig({body})\n"


def recipe(tmp_path, body=""):
    file = tmp_path / "recipe.py"
    file.write_text(RECIPE.replace("{body}", body))
    return str(file)


def test_every_field_says_what_a_change_means():
    for name, f in fields_by_name().items():
        assert f.metadata.get("kind") in KINDS, f"{name} has no kind"
        assert f.metadata["doc"]


@pytest.mark.parametrize(
    "text, name, value",
    [
        ("--train.steps=5", "train.steps", 5),
        ("--optim.learning_rate=1e-2", "optim.learning_rate", 0.01),
        ("--data.root=a b", "data.root", "a b"),
        ("--data.modules=a,b", "data.modules", ("a", "b")),
        ("--model.prefix_lm=true", "model.prefix_lm", True),
        ("--model.architecture=encoder_decoder", "model.architecture", "encoder_decoder"),
        ('--optim.kwargs={"b1": 0.5}', "optim.kwargs", {"b1": 0.5}),
        ("--mesh.data=-1", "mesh.data", -1),
    ],
)
def test_overrides_are_read_by_type(text, name, value):
    assert flatten(dataclasses.asdict(RunConfig()))[name] != value or name == "mesh.data"
    config, changed = override(RunConfig(), text)
    assert changed == name
    assert flatten(dataclasses.asdict(config))[name] == value


@pytest.mark.parametrize(
    "text, message",
    [
        ("--train.stps=5", "unknown setting '--train.stps'; did you mean 'train.steps'"),
        ("--steps=5", "unknown setting '--steps'"),
        ("--train.steps", "needs a value"),
        ("--train.steps=abc", "--train.steps=abc: .* is not an int"),
        ("--model.architecture=decder", "did you mean 'decoder'"),
        ("--optim.kwargs={b1}", "not a JSON object"),
    ],
)
def test_a_wrong_override_is_one_line(text, message, capfd):
    with pytest.raises(UserError, match=message) as e:
        override(RunConfig(), text)
    assert "\n" not in str(e.value)
    assert capfd.readouterr() == ("", "")


def test_origin_names_where_each_value_came_from(tmp_path):
    file = recipe(tmp_path, "train=TrainConfig(steps=7)")
    config, origin = load(file, ["--train.seed=3"])
    assert (config.train.steps, config.train.seed) == (7, 3)
    assert origin["train.steps"] == file
    assert origin["train.seed"] == "command line"
    assert origin["train.log_every"] == "default"


@pytest.mark.parametrize(
    "body, message",
    [
        ("train=TrainConfig(stps=7)", "stps.*did you mean 'steps'"),
        ("trian=TrainConfig()", "trian.*did you mean 'train'"),
    ],
)
def test_a_wrong_recipe_names_the_field(tmp_path, body, message):
    with pytest.raises(UserError, match=message):
        load(recipe(tmp_path, body))


def test_a_recipe_is_read_as_it_stands(tmp_path, monkeypatch):
    """Python's own compiled copy would stand for a text of the same length and second."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    file, text = (
        tmp_path / "recipe.py",
        (
            "from itx.config import RunConfig, TrainConfig\n"
            "def get_config(quick=False):\n    return RunConfig(train=TrainConfig(steps=%d))\n"
        ),
    )
    for steps in (3, 4):
        file.write_text(text % steps)
        os.utime(file, (10**9, 10**9))
        assert load(str(file))[0].train.steps == steps
    assert sorted(tmp_path.iterdir()) == [file]  # nothing is written beside it


def test_a_missing_recipe_names_the_nearest(tmp_path):
    recipe(tmp_path)
    with pytest.raises(UserError, match="did you mean .*recipe.py"):
        load(str(tmp_path / "recpe.py"))


def test_a_config_survives_its_file():
    config, _ = override(RunConfig(), "--optim.freeze=a,b")
    assert config != RunConfig()
    assert from_dict(to_dict(config)) == config
    with pytest.raises(UserError, match="unknown setting train.stps"):
        from_dict({"train": {"stps": 1}})


@pytest.mark.parametrize("file", sorted(glob.glob("configs/**/*.py", recursive=True)))
@pytest.mark.parametrize("quick", [False, True])
def test_shipped_recipes_load(file, quick, tmp_path, monkeypatch):
    file = os.path.abspath(file)
    monkeypatch.chdir(tmp_path)  # where small models are made
    try:
        config, _ = load_recipe(file, quick=quick, absent=True)
    except UserError as e:  # the recipe knows of its model only where it lies
        assert "smollm2" in file and "there is no such file" in str(e)
        config, _ = load(file, [], quick)
    assert config.data.mixture
    assert configs.from_dict(to_dict(config)) == config


@pytest.mark.parametrize(
    "body, message",
    [
        (
            'data=DataConfig(too_long="dorp")',
            "data.too_long='dorp': no such choice; did you mean 'drop'",
        ),
        ('train=TrainConfig(steps="200")', "train.steps='200': not a int"),
        ("train=TrainConfig(log_every=0)", "train.log_every=0: must be at least 1"),
        ("model=ModelConfig(num_heads=4, num_kv_heads=3)", "num_kv_heads=3 does not divide"),
        (
            'model=ModelConfig(architecture="encoder_decoder", prefix_lm=True)',
            "prefix_lm is for decoders",
        ),
        ("optim=OptimConfig(kwargs=5)", "optim.kwargs=5"),
        ("train=1/0", "recipe.py:3: ZeroDivisionError"),
        ("train=(", "recipe.py:3: SyntaxError"),
    ],
)
def test_a_value_that_cannot_be_meant_is_told(tmp_path, body, message):
    with pytest.raises(UserError, match=message):
        load(recipe(tmp_path, body))
