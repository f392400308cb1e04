# SPDX-License-Identifier: Apache-2.0
"""What a person may type: either spelling, a value behind a space, the names of other programs; and
the line that a mistake gets."""

import json
import subprocess
import sys

import pytest
from huggingface_hub import constants

from itx import cli, command_line, errors, versions
from itx.config import fields_by_name
from itx.errors import UserError
from tests import samples
from tests.conftest import REPO, one_device

RECIPE = "recipe.py"


@pytest.fixture
def desk(tmp_path, monkeypatch):
    samples.write_recipe(tmp_path, tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(capfd, *words, code: int = 2) -> str:
    """The one line of a refused command, or what one that does its work prints."""
    assert cli.main(list(words)) == code
    out, err = capfd.readouterr()
    if code:
        assert err.count("\n") == 1 and err.startswith("itx: ") and not out
        return err.removeprefix("itx: ").strip()
    return out


def test_the_version_is_told_without_a_command(capfd):
    told = said(capfd, "--version", code=0).strip()
    assert told == versions.in_a_line() and told.startswith("itx 0.") and "JAX 0." in told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["trian", RECIPE], "no command 'trian'; did you mean 'train'"),
        (["data", "biuld", RECIPE], "no command 'data biuld'; did you mean 'build'"),
        ([], "itx needs a command: train, plan, sweep, data, config"),
        (["--versoin"], "unknown option '--versoin'; did you mean '--version'"),
        (["train"], "train: the following arguments are required: config (itx train --help says"),
        (["eval", "x", "--step", "abc"], "eval: argument --step: invalid int value: 'abc'"),
        (["generate", "x", "--promt", "a"], "unknown option '--promt'; did you mean '--prompt'"),
        (["generate", "x", "--max-tokens=9"], "here it is --max_new_tokens"),
        (["generate", "--model", "x"], "the run is given by itself, as in itx generate runs/"),
        (["eval", "x", "--num_fewshot", "5"], "here it is --shots"),
        (["eval", "x", "--limit", "5"], "here it is --max_examples"),
        (["train", RECIPE, "--output_dir", "x"], "here it is --run_dir"),
        (["train", RECIPE, "--lr=3"], "unknown option '--lr=3': here it is --optim.learning_rate"),
        (["train", RECIPE, "--batch-size", "3"], "here it is --data.global_batch"),
        (["train", RECIPE, "--model", "Q/q"], "here it is --model.pretrained"),
        (["train", RECIPE, "--epochs", "3"], "--train.steps (a run is counted in steps"),
        (
            ["train", RECIPE, "--seed", "3"],
            "here it is --train.seed or --data.seed or --data.suite",
        ),
        (["train", RECIPE, "--microbatches=2"], "here it is --train.microbatches"),
        (["train", RECIPE, "--resume"], "the same command goes on with its run by itself"),
        (["train", RECIPE, "--train.stepss=3"], "unknown setting '--train.stepss'; did you mean"),
        (["train", RECIPE, "--train.tensorboard"], "--train.tensorboard needs a value"),
        (["train", RECIPE, "--qiuck"], "unknown option '--qiuck'; did you mean '--quick'"),
        (
            ["train", RECIPE, "--stepps=3"],
            "unknown option '--stepps=3'; did you mean '--train.steps'",
        ),
        (["train", RECIPE, "--learning_rat=3"], "did you mean '--optim.learning_rate'"),
        (
            ["train", "smollm2_lora", "--dry-run"],
            "holds no model: there is no such file",
        ),
        (["train", RECIPE, "more"], "unknown argument 'more' (itx train --help lists"),
    ],
)
def test_a_word_that_is_unknown_here_is_a_line_with_the_right_one(desk, capfd, words, told):
    assert told in said(capfd, *words)


def test_every_name_of_the_tables_is_a_setting_or_an_option():
    """A table that names what is no longer there would send people on."""
    fields = fields_by_name()
    assert command_line.PEERS.keys() <= fields.keys()
    names = [n for text in command_line.PEERS.values() for n in text.split()]
    assert len(names) == len(set(names)), "a name stands for two settings"
    assert all(f in fields for several in command_line.SEVERAL.values() for f in several)
    assert command_line.NOTES.keys() <= {*names, *command_line.SEVERAL}
    assert command_line.ANYWAY.keys().isdisjoint(names)
    options: set[str] = set()
    for command in cli.COMMANDS:
        parser = cli._parser(command).commands.choices[command]
        inner = getattr(parser, "commands", None)
        for p in [parser, *(inner.choices.values() if inner else ())]:
            options.update(p.options)
    assert command_line.OPTIONS.keys() <= options


def test_a_setting_is_the_same_behind_an_equals_sign_or_a_space():
    joined = command_line.joined(
        "train c --train.steps 5 --train.log-every=2 --mesh.data -1 --quick --train.tensorboard c2 "
        "--model.tie_embeddings False --data.root".split()
    )
    assert joined == (
        "train c --train.steps=5 --train.log_every=2 --mesh.data=-1 --quick --train.tensorboard c2 "
        "--model.tie_embeddings=False --data.root".split()
    )


def test_both_spellings_give_the_same_facts(desk, capfd):
    facts = []
    for words in (["--peft.method=lora", "--dry-run"], ["--peft.method", "lora", "--dry_run"], []):
        words = [*words, "--json", "facts.json"] if words else ["--dry-run", "--json", "facts.json"]
        said(capfd, "train", RECIPE, *words, code=0)
        facts.append(json.loads((desk / "facts.json").read_text()))
    assert facts[0] == facts[1] != facts[2]


def test_a_folder_of_runs_names_them(desk, capfd):
    (desk / "runs" / "a" / "checkpoints" / "3").mkdir(parents=True)
    (desk / "runs" / "b").mkdir()
    (desk / "runs" / "b" / "config.json").write_text("{}")
    (desk / "runs" / "notes").mkdir()
    for command in ("eval", "generate"):
        told = said(capfd, command, "runs")
        assert told == "runs holds runs and is none; did you mean 'runs/a' or 'runs/b'?"
    for i in range(9):
        (desk / "runs" / f"c{i}" / "checkpoints" / "1").mkdir(parents=True)
    assert said(capfd, "eval", "runs").endswith("'runs/c5' or one of 3 more?")


def test_a_name_of_the_hub_says_how_to_get_it(desk, capfd, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    line = "`hf download Qwen/Qwen3-0.6B --local-dir checkpoints/Qwen3-0.6B`"
    for words in (
        ["train", RECIPE, "--model.pretrained=Qwen/Qwen3-0.6B"],
        ["eval", "Qwen/Qwen3-0.6B"],
        ["generate", "Qwen/Qwen3-0.6B"],
    ):
        assert line in said(capfd, *words)
    (desk / "Qwen").mkdir()  # then it is a path, and only that is told
    for path in ("Qwen/Qwen3-0.6B", "runs/first", "./Qwen/x", "/Qwen/x", "Qwen", "Квен/модель"):
        assert errors.download_hint(path) == ""


def test_a_lock_or_a_root_that_is_missing_is_a_sentence(desk, capfd):
    told = said(capfd, "train", RECIPE, "--lock", "nope.json")
    assert told == (
        "nope.json: there is no data lock (`itx data build CONFIG` writes one and prints where)"
    )
    told = said(capfd, "tasks", "show", "alpaca")
    assert "data.root, which is not set: give --data.root=FOLDER (--root FOLDER of" in told


def test_tasks_of_seqios_own_are_listed_and_checked(sample_cache, sample_locks, tmp_path):
    """In one process, for the import of TensorFlow takes seconds."""
    code = (
        "import json, sys\n"
        "from itx import cli\n"
        "def facts(*words):\n"
        "    code = cli.main(['tasks', *words, '--modules', 'tests.prepare.foreign_tasks', '--json', 'facts.json'])\n"
        "    return code, json.load(open('facts.json'))\n"
        "said = [facts('ls'), facts('check', 'user.long'), facts('check', 'user.by_lambda'), facts('check', 'user.no_field')]\n"
        "json.dump(said, open('said.json', 'w'))"
    )
    vocabulary = sample_cache / sample_locks["sample_held"]["vocabulary"]["file"]
    environment = one_device() | {"ITX_TEST_VOCABULARY": str(vocabulary), "PYTHONPATH": str(REPO)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    listed, sound, unnamed, broken = json.loads((tmp_path / "said.json").read_text())
    rows = {r["task"]: r for r in listed[1]["tasks"]}
    assert rows["user.long"]["metrics"] == ["length_correlation", "mean_likelihood"]
    assert rows["user.no_train"]["evaluation_only"] and not rows["user.long"]["evaluation_only"]
    assert {"mixture": "user_mix", "members": 3} in listed[1]["mixtures"]
    assert sound == [0, [{"task": "user.long", "problems": []}]]
    assert unnamed[0] == 1 and "is a lambda" in unnamed[1][0]["problems"][0]
    assert broken[0] == 1 and "no such field" in broken[1][0]["problems"][0]
    assert "\n" not in broken[1][0]["problems"][0]


def test_a_mistake_of_the_parser_is_no_exit():
    with pytest.raises(UserError, match="data: argument"):
        parser = command_line.Parser(prog="itx data")
        parser.add_argument("--step", type=int)
        parser.parse_known_args(["--step", "x"])
