# SPDX-License-Identifier: Apache-2.0
"""Metrics sent to services: the same lines as metrics.jsonl, and no failure of theirs ends a
run."""

import importlib.util
import json
import sys
import types

import pytest

from itx import cli, config_check, writers
from itx.errors import UserError
from tests import samples, synthetic
from tests.test_train import fit


class Fake(types.ModuleType):
    """A service with wandb's three functions; `fails` says at which call of which it raises."""

    def __init__(self, name: str, **fails):
        super().__init__(name)
        self.began, self.lines, self.ended, self.fails = [], [], 0, fails
        self.__spec__ = types.SimpleNamespace(origin="here")

    def _call(self, what: str, number: int) -> None:
        if number in self.fails.get(what, ()):
            raise ConnectionError("no\nnetwork \x1b[2J")

    def init(self, **settings):
        self._call("init", len(self.began))
        self.began.append(settings)

    def log(self, values, step):
        self.lines.append((step, values))
        self._call("log", len(self.lines))

    def finish(self):
        self.ended += 1
        self._call("finish", self.ended)


def settings(*names, **train):
    steps = {"steps": 4, "log_every": 1, "checkpoint_every": 2, **train}
    return synthetic.config(train={"writers": names, **steps})


def logged(run) -> list:
    lines = map(json.loads, run.metrics_jsonl.read_text().splitlines())
    return [(x.pop("step"), x) for x in lines]


@pytest.fixture
def service(monkeypatch):
    def install(name="wandb", **fails):
        fake = Fake(name, **fails)
        monkeypatch.setitem(sys.modules, name, fake)
        return fake

    return install


def test_services_get_the_lines_of_metrics_jsonl(tmp_path, service):
    both = service("wandb"), service("trackio")
    run = synthetic.Folder(tmp_path / "first")
    fit(settings("wandb", "trackio"), run)
    assert len(logged(run)) == 4
    for fake in both:
        assert fake.lines == logged(run) and fake.ended == 1
        (began,) = fake.began
        assert began["project"] == "itx" and began["resume"] == "allow"
        assert began["config"]["train.steps"] == 4 and began["name"].startswith("first-")
    assert both[0].began[0]["dir"] == str(run.path) and "dir" not in both[1].began[0]


def test_a_run_that_goes_on_goes_on_there_too(tmp_path, service, monkeypatch):
    fake = service()
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    run = synthetic.Folder(tmp_path / "first")
    fit(settings("wandb", steps=2), run)
    fit(settings("wandb", steps=4), run)
    fit(settings("wandb", steps=2), synthetic.Folder(tmp_path / "second"))
    ids = [b["id"] for b in fake.began]
    assert ids[0] == ids[1] != ids[2] and fake.began[0]["project"] == "mine"
    assert [step for step, _ in fake.lines] == [1, 2, 3, 4, 1, 2]


@pytest.mark.parametrize(
    ("fails", "told", "lost"),
    [
        ({"log": (2, 3)}, ["step 2 is lost there (ConnectionError: no network"], 2),
        ({"init": (0,)}, ["it cannot begin (ConnectionError: no network"], 4),
        ({"finish": (1,)}, ["it did not end well (ConnectionError"], 0),
    ],
)
def test_a_service_that_fails_is_counted_and_said_and_training_goes_on(
    tmp_path, service, capsys, fails, told, lost
):
    service(**fails)
    run, plain = synthetic.Folder(tmp_path / "run"), synthetic.Folder(tmp_path / "plain")
    fit(settings("wandb"), run)
    said = [x for x in capsys.readouterr().err.splitlines() if x.startswith("wandb: ")]
    counts = [f"wandb: {lost} of 4 lines are lost there; metrics.jsonl holds all"] * bool(lost)
    assert len(said) == len(told) + len(counts)
    for line, part in zip(said, [*told, *counts], strict=True):
        assert part in line and "\x1b" not in line
    fit(settings(), plain)
    losses = [[v["train/loss"] for _, v in logged(r)] for r in (run, plain)]
    assert losses[0] == losses[1] and len(losses[0]) == 4


def test_a_board_shows_clusters_and_the_tasks_drawn_from_most(tmp_path, capsys):
    tasks = [
        {"name": f"task_{n:02d}", "cluster": f"cluster_{n % 2}", "rate": (n + 1) / 1830}
        for n in range(60)
    ]
    config = settings(tensorboard=True)
    line = {f"train/loss/{t['name']}": 1.0 for t in tasks} | {
        "train/loss": 1.0,
        "train/cluster_loss/cluster_0": 2.0,
        "train/cluster_loss/cluster_1": 3.0,
    }

    def shown(number: int) -> set[str]:
        """The names of the values that reach the files of a board."""
        place, names = tmp_path / str(number), set()
        lock = {"tasks": tasks[:number]}
        (board,) = writers.opened(config, lock, tmp_path, place, 0, print)
        inner = board.writer.board
        inner.add_scalar = lambda name, *_: names.add(name)
        board.write(1, line)
        board.close()
        return names

    assert shown(50) == {name for name in line if not name.startswith("train/loss/task_5")}
    assert capsys.readouterr().out == ""
    assert shown(60) == {name for name in line if not name.startswith("train/loss/task_0")}
    assert "curves of every cluster and of 50 of 60 tasks" in capsys.readouterr().out


def test_a_clusters_loss_is_that_of_its_tokens(tmp_path):
    run = synthetic.Folder(tmp_path)
    fit(settings(steps=1), run)
    ((_, line),) = logged(run)
    weights = [0.0] * 3
    batch = synthetic.Batches(settings()).batch(0)
    for task in range(3):
        weights[task] = batch["decoder_loss_weights"][batch["task_ids"] == task].sum()
    losses = [line[f"train/loss/task_{n}"] for n in range(3)]
    both = (losses[0] * weights[0] + losses[2] * weights[2]) / (weights[0] + weights[2])
    assert losses[0] != pytest.approx(losses[2], rel=1e-4)
    assert line["train/cluster_loss/cluster_0"] == pytest.approx(both, rel=1e-6)
    assert line["train/cluster_loss/cluster_1"] == losses[1]


def test_tensorboard_is_a_writer_too(tmp_path, monkeypatch, capsys):
    run = synthetic.Folder(tmp_path / "run")
    fit(settings(tensorboard=True, steps=2), run)
    assert [f for f in run.tensorboard.iterdir() if "tfevents" in f.name]

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writers.TensorBoard, "write", full)
    fit(settings(tensorboard=True, steps=4), run)
    assert len(logged(run)) == 4
    assert "tensorboard: 2 of 2 lines are lost there" in capsys.readouterr().err


def test_a_missing_package_is_a_line_before_anything_is_built(tmp_path, capfd, monkeypatch):
    recipe = samples.write_recipe(tmp_path, tmp_path / "cache")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    words = ["train", str(recipe), "--run_dir", str(tmp_path / "run"), "--train.writers=trackio"]
    assert cli.main(words) == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1 and "`uv pip install trackio`" in err
    assert not (tmp_path / "cache").exists() and not (tmp_path / "run").exists()


def test_a_folder_of_a_services_name_is_no_package(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(config_check, "WRITERS", ("itx_no_such_service",))
    with pytest.raises(UserError, match="the package itx_no_such_service is not installed"):
        writers.check_installed(settings("itx_no_such_service"))
    (tmp_path / "itx_no_such_service").mkdir()
    importlib.invalidate_caches()
    assert importlib.util.find_spec("itx_no_such_service") is not None
    with pytest.raises(UserError, match="is not installed"):
        writers.check_installed(settings("itx_no_such_service"))


def test_an_unknown_service_is_refused():
    with pytest.raises(UserError, match="train.writers=wandbb: no such service; did you mean 'wan"):
        config_check.check(settings("wandbb"))
