# SPDX-License-Identifier: Apache-2.0
"""Scores on dev while training (eval.every), and the checkpoint that they choose."""

import json
import os
import signal

import numpy as np
import pytest

from itx import cli, storage
from itx.checkpoint import Checkpoints
from itx.config import EvalConfig, RunConfig
from itx.config_check import check
from itx.data import lock as locks
from itx.errors import UserError
from itx.eval import dev
from itx.processes import Interrupts
from tests.samples import itx

RECIPE = """
import dataclasses
from tests.samples import config

def get_config(quick=False):
    made = config({cache!r})
    scored = dataclasses.replace(
        made.eval, before=False, instructions=False, max_examples=1, every=2, dev_examples=3
    )
    train = dataclasses.replace(made.train, steps=6, checkpoint_every=4, keep_checkpoints=1)
    return dataclasses.replace(made, train=train, eval=scored)
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory, sample_cache):
    """A recipe that scores dev every two steps, and its lock."""
    folder = tmp_path_factory.mktemp("dev")
    file = folder / "recipe.py"
    file.write_text(RECIPE.format(cache=str(sample_cache)))
    before = set((sample_cache / "locks").iterdir())
    itx("data", "build", file)
    (lock,) = set((sample_cache / "locks").iterdir()) - before
    return file, lock


def trained(recipe, run, *words) -> int:
    file, lock = recipe
    return cli.main(["train", str(file), "--run_dir", str(run), "--lock", str(lock), *words])


@pytest.fixture(scope="module")
def finished(tmp_path_factory, recipe):
    run = tmp_path_factory.mktemp("finished") / "run"
    assert trained(recipe, run) == 0
    return run


def looks(run) -> list[dict]:
    lines = [json.loads(x) for x in (run / "eval" / "dev.jsonl").read_text().splitlines()]
    return [{k: v for k, v in x.items() if k != "seconds"} for x in lines]


def test_rows_of_dev_are_validation_and_of_trained_tasks_alone(recipe):
    lock = locks.read(recipe[1])
    trained_tasks = {t["task"] for t in lock["tasks"]}
    assert {r["task"] for r in lock["dev"]} == trained_tasks
    assert {r["split"] for r in lock["dev"]} == {"validation"}
    assert {r["split"] for r in lock["evaluation"]} == {"test"}
    held_out = {r["task"] for r in lock["evaluation"]} - trained_tasks
    assert held_out and not held_out & {r["task"] for r in lock["dev"]}


def test_dev_is_scored_and_training_is_as_without_it(recipe, finished, tmp_path, capsys):
    assert [x["step"] for x in looks(finished)] == [2, 4, 6]
    rows = {r["name"] for r in locks.read(recipe[1])["dev"]}
    assert all(set(x["rows"]) == rows for x in looks(finished))
    # the last look is what `itx eval` would say of that checkpoint and these rows
    scores = storage.read_json(finished / "eval" / "6" / "dev" / "scores.json")
    assert {n: r["score"] for n, r in scores["rows"].items()} == looks(finished)[-1]["rows"]
    assert {r["examples"] for r in scores["rows"].values()} == {3}
    without = tmp_path / "without"
    assert trained(recipe, without, "--eval.every=0") == 0
    assert not (without / "eval" / "dev.jsonl").exists()
    own, other = (parameters(run, 6) for run in (finished, without))
    assert all(np.array_equal(own[p], other[p]) for p in own) and own.keys() == other.keys()
    report = storage.read_json(finished / "report.json")
    assert [x["step"] for x in report["dev"]] == [2, 4, 6]
    assert "on dev, 3 times" in (finished / "report.html").read_text("utf-8").replace("\n", " ")


def parameters(run, step) -> dict:
    import jax

    with Checkpoints(run / "checkpoints", read_only=True) as checkpoints:
        device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        specs = {
            name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device)
            for name, x in checkpoints.shapes(step).items()
        }
        return {p: np.asarray(x) for p, x in checkpoints.params(step, specs).items()}


@pytest.mark.parametrize("at", [2, 4])
def test_a_kill_while_dev_is_scored_loses_and_repeats_nothing(recipe, finished, tmp_path, at):
    run, score = tmp_path / "run", dev.Dev.score

    def killed(self, load, step, *rest):
        if step == at:
            raise KeyboardInterrupt
        score(self, load, step, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dev.Dev, "score", killed)
        assert trained(recipe, run) == 130
    before = looks(run) if (run / "eval" / "dev.jsonl").is_file() else []
    assert [x["step"] for x in before] == [2] * (at == 4)
    assert trained(recipe, run) == 0
    assert looks(run) == looks(finished)
    own, other = parameters(run, 6), parameters(finished, 6)
    assert all(np.array_equal(own[p], other[p]) for p in own)


def test_the_best_on_dev_is_kept_scored_and_reported(recipe, tmp_path, capsys):
    """The scores are drawn here: a model that trained six steps has none worth telling apart."""
    run, score = tmp_path / "run", dev.Dev.score
    means = {2: 0.1, 4: 0.7, 6: 0.7}

    def drawn(self, load, step, writers, say):
        score(self, load, step, writers, say)
        self.looks[-1]["mean"] = means[step]
        self.run.dev_jsonl.write_text("".join(json.dumps(x) + "\n" for x in self.looks))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dev.Dev, "score", drawn)
        assert trained(recipe, run, "--eval.keep_best=true") == 0
    assert "scored is step 4, the best of 3 on dev" in capsys.readouterr().out
    assert sorted(p.name for p in (run / "checkpoints").iterdir() if p.is_dir()) == ["4", "6"]
    report = storage.read_json(run / "report.json")
    assert report["steps"]["after"] == 4
    assert (run / "eval" / "4" / "scores.json").is_file()
    assert not (run / "eval" / "6" / "scores.json").exists()


def test_mistakes_are_named(recipe, tmp_path, capsys):
    with pytest.raises(UserError, match=r"eval\.keep_best=true needs eval\.every"):
        check(RunConfig(eval=EvalConfig(keep_best=True)))
    lock = {k: v for k, v in storage.read_object(recipe[1]).items() if k != "dev"}
    bare = tmp_path / "lock.json"
    storage.write_json(bare, storage.sealed(lock))
    assert trained((recipe[0], bare), tmp_path / "run") == 2
    assert "the data lock names no dev rows" in capsys.readouterr().err


def test_of_equal_scores_the_first_is_best_and_unscored_ones_are_none():
    at = [{"step": s, "mean": m} for s, m in ((2, None), (4, 0.5), (6, 0.5), (8, 0.4))]
    assert dev.best(at) == 4 and dev.best(at[:1]) is None and dev.best([]) is None
    assert dev.in_words(at, 8).endswith("the best: 0.500 at step 4")
    assert "no answer of dev could be scored" in dev.in_words(at, 2)


def test_a_signal_ends_the_process_at_once_where_all_is_saved():
    reached = []
    with pytest.raises(SystemExit) as ended, Interrupts() as interrupts:
        os.kill(os.getpid(), signal.SIGTERM)  # outside it is noted alone
        interrupts.seen = 0
        with interrupts.ending():
            os.kill(os.getpid(), signal.SIGTERM)
            reached.append("behind the signal")
    assert ended.value.code == 128 + signal.SIGTERM and not reached
    with pytest.raises(SystemExit), Interrupts() as interrupts:
        interrupts.seen = signal.SIGTERM  # it came before: nothing is begun
        with interrupts.ending():
            reached.append("inside")
    assert not reached
