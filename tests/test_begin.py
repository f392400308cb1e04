# SPDX-License-Identifier: Apache-2.0
"""A change that a run refuses leaves its folder as it was, and an export refuses what is not the
config's."""

import json
import os
import re
import shutil
import sys
from importlib import metadata

import pytest

from itx import cli, restore
from itx.trainer_lock import TrainerLock
from tests.trainer import contents


@pytest.fixture
def run(adapter_run, tmp_path):
    desk, source = adapter_run
    return desk, shutil.copytree(source, tmp_path / "run")


def test_a_second_trainer_is_refused_while_the_first_one_works(run, capfd):
    desk, folder = run
    seen = []

    def meanwhile():
        capfd.readouterr()
        before = contents(folder)
        code, told = desk.train(folder), capfd.readouterr().err.splitlines()
        seen.append(
            (code, told[-1], {n for n, held in before.items() if contents(folder).get(n) != held})
        )

    assert desk.train(folder, meanwhile=meanwhile) == 130
    ((code, told, changed),) = seen
    assert (
        code == 2
        and f"{folder} is being trained by process {os.getpid()} on " in told
        and len(told.split("; ")) == 1
    )
    assert changed <= {"trainer.lock"}  # a beat
    assert desk.train(folder) == 130 and "trainer.lock" not in contents(folder)


def test_an_evaluation_beside_a_trainer_writes_scores_alone(run, monkeypatch):
    _, folder = run
    # a save in progress
    (folder / "checkpoints" / "8.orbax-checkpoint-tmp" / "params").mkdir(parents=True)

    class Mute:
        def generate(self, prompts, limits):
            return [{"tokens": [], "finished": True} for _ in prompts]

        def rank(self, prompts, options):
            return [[{"logprob": 0.0, "tokens": 1} for _ in several] for several in options]

    monkeypatch.setattr(restore, "load_model", lambda *_: Mute())
    with TrainerLock(folder):
        before = contents(folder)
        code = cli.main(
            ["eval", str(folder), "--tasks", "sample_even", "--modules", "tests.sample_tasks"]
        )
        after = contents(folder)
    changed = {n for n in before.keys() | after.keys() if before.get(n) != after.get(n)}
    assert code == 0 and "eval/6/scores.json" in changed
    assert not {n for n in changed if not n.startswith("eval") and n != "trainer.lock"}


def allowed(name: str, value) -> list[str]:
    return [f"--{name}={value}", f"--resume.allow={name}"]


REFUSED = {
    "other data": (["--data.seed=5"], "data.seed"),
    "another rank": (["--peft.rank=16"], "peft.rank was 4, is 16"),
    "another rank, allowed": (allowed("peft.rank", 16), "peft.rank was 4, is 16"),
    "another method, allowed": (
        allowed("peft.method", "prefix"),
        "peft.method was 'lora', is 'prefix'",
    ),
    "another width of the base, allowed": (allowed("model.mlp_dim", 56), "model.mlp_dim was"),
    "another vocabulary, allowed": (allowed("model.vocab_size", 640), "model.vocab_size was"),
    "another optimizer, allowed": (
        allowed("optim.name", "sgd"),
        "optim.name was 'adamw', is 'sgd'",
    ),
    "another tree of its state, allowed": (
        allowed("optim.clip_norm", 0.0),
        "optim.clip_norm was 1.0, is 0.0",
    ),
    "another base, allowed": (allowed("train.seed", 5), "over another base"),
    "fewer steps than are trained": (
        ["--train.steps=4"],
        "trained to step 6, beyond train.steps=4",
    ),
    "the quick variant": (["--quick"], "trained to step 6, beyond train.steps=4"),
    "a cache that is not there": (["--data.cache_dir=nowhere"], "nowhere"),
}


@pytest.mark.parametrize("change", REFUSED)
def test_a_refused_change_writes_nothing(change, run, capfd):
    desk, folder = run
    words, said = REFUSED[change]
    before = contents(folder)
    assert len(before) > 10
    code, told = desk.train(folder, *words), capfd.readouterr().err.splitlines()
    after = contents(folder)
    assert [n for n in before.keys() | after.keys() if before.get(n) != after.get(n)] == []
    assert code == 2 and said in told[-1] and "resume.allow" not in told[-1]


def test_a_run_that_refused_changes_is_still_opened_by_its_own_command(run, capfd):
    desk, folder = run
    assert [
        desk.train(folder, *words) for words in (allowed("peft.rank", 16), ["--train.steps=4"])
    ] == [2, 2]
    capfd.readouterr()
    assert desk.train(folder) == 130 and "resumed at step 6" in capfd.readouterr().err
    # what shapes no array is offered, and accepted
    assert desk.train(folder, "--optim.learning_rate=0.5") == 2
    assert "or allow it: --resume.allow=optim.learning_rate" in capfd.readouterr().err
    assert desk.train(folder, *allowed("optim.learning_rate", 0.5)) == 130
    assert "changed on resume: optim.learning_rate was 0.003, is 0.5" in capfd.readouterr().err


def test_an_export_refuses_arrays_that_are_not_the_configs(run, tmp_path, capfd):
    _, folder = run
    held = json.loads((folder / "config.json").read_text())
    words = ["convert", "export", str(folder), str(tmp_path / "out")]
    for section, field, value in (
        ("peft", "rank", 16),
        ("peft", "rank", 2),
        ("peft", "targets", [".*/wq"]),
    ):
        wrong = {
            **held,
            "config": {**held["config"], section: {**held["config"][section], field: value}},
        }
        wrong.pop("seal", None)
        (folder / "config.json").write_text(json.dumps(wrong))
        for more in ([], ["--merge"]):
            code, told = cli.main([*words, *more]), capfd.readouterr().err
            assert (code, (tmp_path / "out").exists()) == (2, False)
            assert told.count("\n") == 1 and "params are not those of this config" in told, more
    (folder / "config.json").write_text(json.dumps(held))
    assert cli.main(words) == 0 and (tmp_path / "out").is_dir()


def lost(file) -> None:
    file.unlink()


def truncated(file) -> None:
    file.write_bytes(file.read_bytes()[:200])


def a_changed_digit(file) -> None:
    """It parses as before."""
    text = file.read_text()
    at = (
        text.index('"learning_rate": 0.003') + 20
        if "learning_rate" in text
        else text.index('"max_target_tokens": ') + 21
    )
    file.write_text(text[:at] + ("8" if text[at] != "8" else "7") + text[at + 1 :])
    json.loads(file.read_text())


@pytest.mark.parametrize("harm", [lost, truncated, a_changed_digit], ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", ["config.json", "data.lock.json"])
def test_a_lost_or_damaged_config_or_lock_comes_from_the_checkpoint(
    name, harm, run, tmp_path, capfd
):
    desk, folder = run
    whole = json.loads((folder / name).read_text())
    harm(folder / name)
    before = contents(folder)
    assert cli.main(["convert", "export", str(folder), str(tmp_path / "out")]) == 0
    assert contents(folder) == before  # a reader restores nothing
    assert desk.train(folder) == 130
    told = capfd.readouterr().err
    said = [line for line in told.splitlines() if str(folder / name) in line]
    assert len(said) == 1 and "what the checkpoint of step 6 keeps of it is used" in said[0]
    held = json.loads((folder / name).read_text())
    volatile = ("command", "notes", "seal")
    assert {k: v for k, v in held.items() if k not in volatile} == {
        k: v for k, v in whole.items() if k not in volatile
    }


def test_a_lost_config_without_a_checkpoint_is_a_line(run, capfd):
    desk, folder = run
    shutil.rmtree(folder / "checkpoints")
    for harm, said in (
        (truncated, "config.json is not what a run writes"),
        (lost, "not a run folder (no config.json)"),
    ):
        harm(folder / "config.json")
        assert desk.train(folder) == 2 and said in capfd.readouterr().err.splitlines()[-1]


def test_a_resume_names_every_library_and_the_code_that_changed(run, tmp_path, monkeypatch, capfd):
    desk, folder = run
    assert (
        desk.train(folder) == 130 and "resumed in another environment" not in capfd.readouterr().err
    )
    real, git = metadata.version, tmp_path / "git"
    changed = ("jax", "flax", "optax", "orbax-checkpoint", "grain")
    monkeypatch.setattr(metadata, "version", lambda name: "99.1" if name in changed else real(name))
    monkeypatch.setattr(sys, "version", "3.99.0 (changed)")
    git.write_text("#!/bin/sh\ncase $* in *rev-parse*) echo feedbeef0000;; esac\n")
    git.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert desk.train(folder) == 130
    (said,) = [
        line for line in capfd.readouterr().err.splitlines() if "another environment" in line
    ] or [""]
    for name, now in (
        *((n, "99.1") for n in changed),
        ("python", "3.99.0"),
        ("code", "feedbeef0000"),
    ):
        assert re.search(rf"\b{name}: \S+ -> {now}\b", said), name
