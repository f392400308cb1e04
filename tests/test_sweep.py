# SPDX-License-Identifier: Apache-2.0
"""A sweep: its grid, the choice by held-in dev scores alone, and what a kill or a failed run leaves
of it. All but one test replace the process that trains a run by one that writes what it leaves."""

import json
from pathlib import Path

import pytest

from itx import cli, processes, storage
from itx.analysis import sweep
from itx.commands import child
from itx.config import to_dict
from itx.errors import RunFailed, UserError
from itx.pretrained import load_recipe
from itx.runs import RunFolder
from tests import samples

RATES = "--optim.learning_rate=1e-4,3e-4,1e-3"


@pytest.mark.parametrize(
    ("typed", "runs", "fixed"),
    [
        ([RATES, "--train.seed=1,2", "--train.steps=5"], 6, ["--train.steps=5"]),
        (["--data.mixture=a,b"], 2, []),
        (["--optim.name=sgd,adamw", "--eval.tasks=a,b"], 2, ["--eval.tasks=a,b"]),
    ],
)
def test_a_grid_is_every_combination_and_a_list_is_no_axis(typed, runs, fixed):
    points, same = sweep.grid(typed)
    assert len({p.name for p in points}) == len(points) == runs and same == fixed
    assert all("/" not in p.name for p in points)


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (["--train.steps=5"], "a sweep needs a setting with several values"),
        (["--eval.tasks=a,b"], "a sweep needs a setting with several values"),
        (["--train.seed=1,2,1"], "--train.seed=1,2,1: '1' stands there twice"),
        (["--train.seed=1,"], "a value is empty"),
    ],
)
def test_a_grid_that_cannot_be_meant(typed, told):
    with pytest.raises(UserError, match=told):
        sweep.grid(typed)


def test_seeds_are_repeats_and_the_best_mean_of_whole_repeats_is_chosen():
    points, _ = sweep.grid([RATES, "--train.seed=1,2"])
    high = {"1e-4": 0.4, "3e-4": 0.5, "1e-3": 0.6}
    scores = {
        p.name: high[p.values["optim.learning_rate"]] + 0.2 * int(p.values["train.seed"])
        for p in points
    }
    best = sweep.choose(points, scores)
    assert [r["choice"] for r in best if r["chosen"]] == ["optim.learning_rate=1e-3"]
    assert best[0]["mean"] == pytest.approx(0.9) and best[0]["most"] == pytest.approx(1.0)
    del scores[points[-1].name]  # a run of the best is not done: it cannot be chosen
    rows = sweep.choose(points, scores)
    assert [r["choice"] for r in rows if r["chosen"]] == ["optim.learning_rate=3e-4"]
    assert (rows[-1]["runs"], rows[-1]["of"]) == (1, 2)
    assert not any(r["chosen"] for r in sweep.choose(points, {}))


def test_runs_whose_values_leave_the_data_share_a_lock():
    points, _ = sweep.grid([RATES, "--data.seed=1,2", "--train.seed=1,2", "--peft.rank=1,2"])
    assert len({p.data for p in points}) == 4 and len(points) == 24


def test_a_curve_runs_along_the_first_axis_that_is_no_seed():
    points, _ = sweep.grid(["--train.seed=1,2", RATES, "--optim.name=sgd,adamw"])
    curves = sweep.curves(points, {p.name: 0.5 for p in points[1:]})
    assert curves["axis"] == "optim.learning_rate" and curves["values"] == ["1e-4", "3e-4", "1e-3"]
    assert curves["lines"]["optim.name=adamw"] == [[0.5, 0.5]] * 3
    assert curves["lines"]["optim.name=sgd"] == [[0.5], [0.5, 0.5], [0.5, 0.5]]


class Trainers:
    """Stands for the processes of a sweep's runs: writes what `itx train` leaves behind."""

    def __init__(self, recipe, monkeypatch):
        self.recipe, self.trained, self.fail, self.kill = str(recipe), [], {}, None
        self.built = 0
        monkeypatch.setattr(processes, "run_child", self.run)
        monkeypatch.setattr(child, "build_in_subprocess", self.build)

    def build(self, args):
        self.built += 1
        return "lock.json"

    def run(self, words, what, said, environment):
        assert "JAX_COMPILATION_CACHE_DIR" in environment and words[3:5] == ["train", self.recipe]
        overrides = [w for w in words[5:] if "." in w.split("=")[0] and w.startswith("--")]
        config, _ = load_recipe(self.recipe, overrides)
        run = RunFolder(Path(words[words.index("--run_dir") + 1]))
        name = run.path.name
        storage.write_json(run.config_json, storage.sealed({"config": to_dict(config)}))
        if name == self.kill:
            raise KeyboardInterrupt
        if name in self.fail:
            said.write_text(f"data: ready\nitx: {self.fail[name]}\n")
            raise SystemExit(1)
        self.trained.append(name)
        assert config.eval.split == "validation" and not config.eval.before
        rate = config.optim.learning_rate
        groups = [{"group": "tasks", "score": 1.0 - rate}, {"group": "instances", "score": rate}]
        scores = {"split": config.eval.split, "groups": groups}
        storage.write_json(run.scores_json(config.train.steps), storage.sealed(scores))
        storage.write_json(run.report_json, {})


@pytest.fixture
def trainers(tmp_path, monkeypatch):
    recipe = samples.write_recipe(tmp_path, tmp_path / "cache")
    made = Trainers(recipe, monkeypatch)
    made.folder = tmp_path / "swept"
    made.words = ["sweep", made.recipe, RATES, "--train.seed=1,2", "--sweep_dir", str(made.folder)]
    return made


def test_every_run_is_made_once_and_the_choice_looks_at_held_in_scores(trainers, capfd):
    assert cli.main(trainers.words) == 0
    assert len(trainers.trained) == 6 and trainers.built == 1
    held = json.loads((trainers.folder / "sweep.json").read_text())
    # the unseen tasks score best at the lowest rate, and are not looked at
    assert [r["choice"] for r in held["choices"] if r["chosen"]] == ["optim.learning_rate=1e-3"]
    assert all(r["score"] == float(r["values"]["optim.learning_rate"]) for r in held["runs"])
    assert (trainers.folder / "sweep.png").read_bytes()[:4] == b"\x89PNG"
    out = capfd.readouterr().out
    assert "chosen" in out and "2 of 2" in out
    assert cli.main(trainers.words) == 0
    assert len(trainers.trained) == 6 and "6 of them done" in capfd.readouterr().out
    assert cli.main([*trainers.words, "--optim.clip_norm", "0.5"]) == 2
    assert "belongs to another config: optim.clip_norm" in capfd.readouterr().err


def test_a_sweep_that_is_killed_goes_on_where_it_was(trainers):
    points, _ = sweep.grid(trainers.words[2:4])
    trainers.kill = points[3].name
    assert cli.main(trainers.words) == 130
    assert trainers.trained == [p.name for p in points[:3]]
    trainers.kill = None
    assert cli.main(trainers.words) == 0
    assert trainers.trained == [p.name for p in points]
    assert not list(trainers.folder.glob("*.part"))


def test_a_run_that_fails_is_named_and_the_others_go_on(trainers, capfd):
    points, _ = sweep.grid(trainers.words[2:4])
    trainers.fail = {points[0].name: "more than a quarter of the steps had no finite loss"}
    assert cli.main([*trainers.words, "--json", str(trainers.folder / "facts.json")]) == 1
    assert trainers.trained == [p.name for p in points[1:]]
    facts = json.loads((trainers.folder / "facts.json").read_text())
    failed = {r["run"]: r["failed"] for r in facts["runs"] if r["failed"]}
    (line,) = failed.values()
    assert line.startswith("more than a quarter of the steps had no finite loss (exit 1; all of it")
    out, err = capfd.readouterr()
    assert line in out and line in err
    assert [r["choice"] for r in facts["choices"] if r["chosen"]] == ["optim.learning_rate=1e-3"]


def test_a_mistake_in_any_value_shows_before_a_run_begins(trainers, capfd):
    words = [*trainers.words[:2], "--optim.schedule=cosine,cosin", *trainers.words[4:]]
    assert cli.main(words) == 2
    assert "optim.schedule=cosin: no such choice" in capfd.readouterr().err
    assert cli.main([*trainers.words, "--eval.split=test"]) == 2
    assert "a sweep chooses on validation" in capfd.readouterr().err
    assert not trainers.trained and not trainers.folder.exists()


def test_a_dry_run_lists_the_runs_and_makes_none(trainers, capfd):
    assert cli.main([*trainers.words, "--dry_run"]) == 0
    assert capfd.readouterr().out.count("to do  ") == 6 and not trainers.folder.exists()


def test_scores_of_a_damaged_file_or_of_no_dev_examples_are_refused(tmp_path):
    run = RunFolder(tmp_path)
    assert sweep.dev_score(run, 4) is None
    storage.write_json(run.report_json, {})
    for groups in ([], [{"group": "tasks", "score": 1.0}]):
        scores = {"split": "validation", "groups": groups}
        storage.write_json(run.scores_json(4), storage.sealed(scores))
        with pytest.raises(UserError, match="no validation examples of its trained tasks"):
            sweep.dev_score(run, 4)
    storage.write_json(run.scores_json(4), {**scores, storage.SEAL: "other"})
    with pytest.raises(UserError, match="is damaged"):
        sweep.dev_score(run, 4)


def test_what_a_child_says_goes_to_a_file(tmp_path):
    words = ["sh", "-c", "echo $COLOUR; echo $COLOUR >&2; exit 3"]
    with pytest.raises(SystemExit, match="3"):
        processes.run_child(words, "it", tmp_path / "log.txt", {"COLOUR": "red"})
    assert (tmp_path / "log.txt").read_text() == "red\nred\n"
    with pytest.raises(RunFailed, match="it was ended by SIGKILL"):
        processes.run_child(["sh", "-c", "kill -9 $$"], "it", tmp_path / "log.txt")


@pytest.mark.slow
def test_a_real_sweep(tmp_path):
    recipe = samples.write_recipe(tmp_path, tmp_path / "cache", mixture="sample_held")
    words = ["sweep", recipe, "--optim.learning_rate=1e-3,3e-3", "--sweep_dir", tmp_path / "swept"]
    samples.itx(*words)
    held = json.loads((tmp_path / "swept" / "sweep.json").read_text())
    assert all(r["score"] is not None for r in held["runs"])
    assert len(list((tmp_path / "cache" / "locks").iterdir())) == 1
    assert "2 of them done" in samples.itx(*words).stdout
    assert samples.itx("compare", tmp_path / "swept").returncode == 0
