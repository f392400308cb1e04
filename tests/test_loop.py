# SPDX-License-Identifier: Apache-2.0
"""`itx loop`: when it goes on and when it ends, what it refuses, and the whole of it on a spoilt
slice, killed on its way.

    uv run pytest -m slow -s tests/test_loop.py
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from itx import cli, storage
from itx.analysis import rounds
from itx.commands import loop
from itx.errors import RunFailed
from tests.conftest import REPO, one_device
from tests.create.test_closed_loop import RECIPE


@pytest.fixture
def stages(monkeypatch, tmp_path):
    """The loop with its stages replaced: verdicts are given, and what was done is noted."""
    monkeypatch.chdir(tmp_path)
    Path("recipe.py").write_text(RECIPE)
    held = {"verdicts": ["better"] * 9, "actions": [[{"id": "a", "kind": "drop", "why": "x", "tasks": ["t"], "conditions": []}]] * 9, "done": [], "worse": []}  # fmt: skip
    done = held["done"]

    def refine(args, folder, run, number, actions):
        if "refuses" in held:
            raise RunFailed(held["refuses"])
        done.append(("refine", run.name, number))
        version = folder / "refined" / f"round_{number}" / "v1"
        version.mkdir(parents=True, exist_ok=True)
        changes = {"data.patches": [[], ["patch <b>.jsonl"]]}
        counts = {"t": {"in": 40, "out": 39, "rejected": 1}}
        manifest = {
            "changes": changes,
            "counts": counts,
            "reasons": {"rejected": 1},
            "left_out": {"b": "action b does not fit"},
        }
        storage.write_json(version / "manifest.json", storage.sealed(manifest))
        return version

    def beside(first, other, acted):
        done.append(("beside", Path(first).name, Path(other).name))
        assert acted == [{"why": "x", "tasks": ["t"], "conditions": []}]
        verdict = held["verdicts"].pop(0)
        return {"pairs": 9, "difference": 0.1, "interval": [0.0, 0.2], "p": 0.01, "over": "tasks", "verdict": verdict, "better": verdict == "better", "on": [], "untold": {}, "worse": held["worse"], "smallest": {"unseen tasks": 0.07}}  # fmt: skip

    monkeypatch.setattr("itx.commands.stages.train", lambda folder, run, recipe: done.append(("train", run.name, Path(recipe[0]).name)))  # fmt: skip
    monkeypatch.setattr(rounds, "score", lambda run: 0.5)
    monkeypatch.setattr(loop, "_actions", lambda *_: held["actions"].pop(0))
    monkeypatch.setattr(loop, "_refine", refine)
    monkeypatch.setattr(rounds, "beside", beside)
    monkeypatch.setattr("itx.commands.stages.test", lambda folder, run: done.append(("test", Path(run).name, "")) or {"score": 0.5, "score_interval": [0.4, 0.6]})  # fmt: skip
    return held


def ran(*words: str) -> tuple[int, dict]:
    code = cli.main(["loop", "recipe.py", "--loop_dir", "L", *words])
    return code, json.loads(Path("L/loop.json").read_text())


def test_it_ends_with_the_first_round_that_is_not_better(stages):
    stages["verdicts"] = ["better", "unresolved"]
    code, facts = ran("--rounds", "5")
    assert code == 0 and facts["best"] == 1 and facts["stopped"] == "round 2 is not better: unresolved"  # fmt: skip
    assert stages["done"] == [
        ("train", "round-0", "recipe.py"),
        ("refine", "round-0", 1),
        ("train", "round-1", "round_1_v1.py"),
        ("beside", "round-0", "round-1"),
        ("refine", "round-1", 2),
        ("train", "round-2", "round_2_v1.py"),
        ("beside", "round-1", "round-2"),
        ("test", "round-0", ""),
        ("test", "round-1", ""),
    ]
    assert list(facts["test"]) == ["L/round-0", "L/round-1"]


def test_the_page_shows_rounds_changes_losses_and_costs(stages, capsys):
    lost = {"slice": "unseen clusters", "pairs": 9, "difference": -0.25, "interval": [-0.4, -0.1], "holm": 0.01}  # fmt: skip
    stages["worse"].append(lost)
    storage.write_json(Path("L/logs/round-0-train.seconds.json"), {"seconds": 1234.5})
    ran("--rounds", "1")
    page = Path("L/loop.html").read_text(encoding="utf-8")
    for told in ("L/round-1", "data.patches", "patch &lt;b&gt;.jsonl", "1 rejected", "unseen clusters", "action b does not fit",
                 "-0.25", "0.07", "1,234", "--rounds 1 are done"):  # fmt: skip
        assert told in page, told
    assert "patch <b>" not in page
    assert "worse in L/round-1: unseen clusters, -0.250" in capsys.readouterr().out


def test_it_ends_with_its_rounds_or_its_actions(stages):
    code, facts = ran("--rounds", "2", "--keep_test")
    assert code == 0 and facts["best"] == 2 and facts["stopped"] == "--rounds 2 are done"
    assert "test" not in facts
    stages["actions"][:] = [[]]
    code, facts = ran()
    assert code == 0 and facts["best"] == 0 and "no action of drop, relabel is left" in facts["stopped"]  # fmt: skip
    assert list(facts["test"]) == ["L/round-0"]
    stages["actions"][:] = [
        [{"id": "a", "kind": "drop", "why": "x", "tasks": ["t"], "conditions": []}]
    ]
    stages["refuses"] = "itx create: no"
    code, facts = ran()
    assert code == 1 and facts["failed"] == "round 0 cannot be refined: itx create: no"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--rounds", "0"], "--rounds 0: must be at least 1"),
        (["--actions", "drp"], "no kind of action 'drp'; did you mean 'drop'"),
        (["--eval.split=test"], "a loop chooses on validation"),
        (["--train.stps=3"], "unknown setting '--train.stps'"),
    ],
)
def test_what_is_refused_leaves_nothing(stages, capsys, words, told):
    before = sorted(Path().iterdir())
    assert cli.main(["loop", "recipe.py", *words]) == 2
    assert told in capsys.readouterr().err and sorted(Path().iterdir()) == before


@pytest.mark.slow
def test_a_loop_that_is_killed_goes_on(tmp_path):
    """Killed by SIGKILL three times on its way; then to its end by the same command."""
    (tmp_path / "recipe.py").write_text(RECIPE.replace('"faulty"', '"faulty_2"'))
    command = [sys.executable, "-m", "itx.cli", "loop", "recipe.py", "--rounds", "2", "--loop_dir", "L", "--actions", "counterfactual pairs", "--rows", "400"]  # fmt: skip
    where = {"cwd": tmp_path, "env": one_device() | {"PYTHONPATH": str(REPO)}}
    for seconds in (8, 25, 40):
        killed = subprocess.Popen(
            command, **where, stdout=subprocess.DEVNULL, start_new_session=True
        )
        time.sleep(seconds)
        os.killpg(killed.pid, signal.SIGKILL)
        killed.wait()
    done = subprocess.run(command, **where, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    facts = json.loads((tmp_path / "L" / "loop.json").read_text())
    first, second = facts["rounds"][:2]
    # whether a gain is resolved is for the pairs to say: then, and only then, it is the best
    assert second["score"] > first["score"] and facts["stopped"]
    better = second["beside"]["verdict"] == "better"
    assert (facts["best"] >= 1) == better and (second["beside"]["interval"][0] > 0) == better
    assert len(list((tmp_path / "L" / "refined").glob("*/v*"))) == len(facts["rounds"]) - 1
    for run, of in facts["test"].items():
        looks = (tmp_path / run / "eval" / "test_looks.jsonl").read_text().splitlines()
        assert len(looks) == 1 and of["score"] > 0.5
    again = subprocess.run(command, **where, capture_output=True, text=True)
    assert again.returncode == 0 and json.loads((tmp_path / "L/loop.json").read_text()) == facts
