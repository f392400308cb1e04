# SPDX-License-Identifier: Apache-2.0
"""`itx config` and `itx recipes`: what there is to look up, whole and as it is."""

import dataclasses
import json

import pytest

from itx import cli, recipe
from itx.commands import config as look_up
from itx.config import KINDS, fields_by_name
from tests.conftest import REPO


def asked(capfd, tmp_path, *words, code: int = 0):
    """(what a command prints, its facts), or the line that it is refused with."""
    file = tmp_path / "facts.json"
    assert cli.main([*words, "--json", str(file)]) == code
    out, err = capfd.readouterr()
    return (out, json.loads(file.read_text())) if not code else err


def test_every_setting_is_told_once_with_all_that_its_field_holds(capfd, tmp_path):
    out, facts = asked(capfd, tmp_path, "config")
    fields = fields_by_name()
    assert [f["setting"] for f in facts] == list(fields)
    assert {f["kind"] for f in facts} == {*KINDS} == {*look_up.KINDS}
    for fact in facts:
        field = fields[fact["setting"]]
        assert fact["meaning"] == field.metadata["doc"] and fact["meaning"]
        assert fact["default"] == json.loads(json.dumps(field.default))
        assert fact["methods"] == list(field.metadata["methods"])
        assert " ".join(fact["setting"].split(".")[1:]) in out


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("train.steps", ["optimizer steps in all", "1000", "int, at least 0", "free: may change"]),
        ("optim.schedule", ["constant | cosine | linear | rsqrt", "maths: shapes the update"]),
        ("data.replay", ["float, at least 0, below 1", "data: shapes the batches"]),
        ("data.skip-bad", ["True | False", "False"]),
        ("peft.rank", ["int, at least 1, with peft.method=lora"]),
        ("lr", ["--optim.learning_rate=…"]),
        ("renderings", ["--data.renderings=…"]),
    ],
)
def test_one_setting(capfd, tmp_path, typed, told):
    out, facts = asked(capfd, tmp_path, "config", typed)
    assert len(facts) == 1 and all(part in out for part in told), out


def test_a_group_and_a_name_of_several(capfd, tmp_path):
    _, facts = asked(capfd, tmp_path, "config", "mesh")
    assert [f["setting"] for f in facts] == [n for n in fields_by_name() if n.startswith("mesh.")]
    out, facts = asked(capfd, tmp_path, "config", "seed")
    assert [f["setting"] for f in facts] == ["train.seed", "data.seed", "data.suite_seed"]
    assert "initialisation" in out and "order of examples" in out


def test_a_near_miss_is_told(capfd, tmp_path):
    assert "did you mean 'train.steps'" in asked(capfd, tmp_path, "config", "train.stps", code=2)
    assert "did you mean 'optim'" in asked(capfd, tmp_path, "config", "optimm", code=2)


def test_bounds_that_are_told_are_those_that_are_held(capfd, tmp_path):
    """A value at the bound is taken and one beyond is not: the words are no second copy."""
    for name in fields_by_name():
        fact = look_up.facts(name)
        if fact["type"] not in ("int", "float") or fact["at_least"] is None:
            continue
        section, leaf = name.split(".")
        for value, good in ((fact["at_least"], True), (fact["at_least"] - 1, False)):
            try:
                recipe.check(_with(section, leaf, value))
                assert good, name
            except look_up.UserError as e:
                assert not good or not str(e).startswith(f"{name}={value}: must be"), name


def _with(section, leaf, value):
    config = look_up.RunConfig()
    group = dataclasses.replace(getattr(config, section), **{leaf: value})
    return dataclasses.replace(config, **{section: group})


# ---- recipes


def test_recipes_are_listed_with_their_first_words(capfd, tmp_path):
    out, facts = asked(capfd, tmp_path, "recipes", "ls")
    files = sorted(p.stem for p in (REPO / "configs").glob("*.py"))
    assert [f["recipe"] for f in facts] == files and all(f["what"] for f in facts)
    words = {f["recipe"]: f["what"] for f in facts}
    assert words["quickstart"].startswith("The main job on the embedded suite")
    assert all(name in out for name in files)


def test_a_copy_is_a_recipe_of_its_own(capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out, facts = asked(capfd, tmp_path, "recipes", "cp", "quickstart", "mine.py")
    assert out.startswith("mine.py: The main job") and facts["builds_on"] == []
    assert (tmp_path / "mine.py").read_bytes() == (REPO / "configs/quickstart.py").read_bytes()
    assert recipe.load("mine.py")[0] == recipe.load(str(REPO / "configs/quickstart.py"))[0]
    (tmp_path / "mine.py").write_text("my work")
    told = asked(capfd, tmp_path, "recipes", "cp", "configs/quickstart.py", "mine.py", code=2)
    assert "mine.py is there already" in told and (tmp_path / "mine.py").read_text() == "my work"


def test_what_a_recipe_builds_on_comes_along_and_never_over_another_file(
    capfd, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    _, facts = asked(capfd, tmp_path, "recipes", "cp", "qwen3_4b_lora", ".")
    names = {"llama3_8b", "llama3_8b_lora", "qwen3_4b"}
    assert {f.removesuffix(".py") for f in facts["builds_on"]} == names
    assert {p.stem for p in tmp_path.glob("*.py")} == {*names, "qwen3_4b_lora"}
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "llama3_8b.py").write_text("another")
    told = asked(capfd, tmp_path, "recipes", "cp", "qwen3_4b", "other", code=2)
    assert "other/llama3_8b.py is another file than itx's" in told
    assert [p.name for p in (tmp_path / "other").iterdir()] == ["llama3_8b.py"]


def test_mistakes_with_recipes(capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "did you mean 'quickstart'" in asked(
        capfd, tmp_path, "recipes", "cp", "quikstart", code=2
    )
    told = asked(capfd, tmp_path, "recipes", "cp", "quickstart", "mine", code=2)
    assert "a recipe is a Python file: mine.py" in told
