# SPDX-License-Identifier: Apache-2.0
"""The command `itx study`: what a kill or a failed run leaves of a study. All but one test replace
the process that trains a run by one that writes what it leaves. Statistics:
test_study_results.py; the studies themselves: tests/tasks/test_studies.py.

    uv run pytest -m slow tests/test_study.py
"""

import re
from pathlib import Path

import pytest

from itx import cli, processes, recipe, storage
from itx.commands import child
from itx.commands import study as command
from itx.config import to_dict
from itx.runs import RunFolder
from itx.study import purity
from tests import samples

TRIED = """
from itx.config import RunConfig, DataConfig, EvalConfig, TrainConfig
from itx.study.spec import Arm, Comparison, Draw, Measure, Study

def get_config(quick=False):
    return RunConfig(data=DataConfig(mixture="m"), train=TrainConfig(steps=5), eval=EvalConfig(tasks=("a", "b")))

def get_study(quick=False):
    return Study(
        name="tried", question="Is it so?",
        arms=(Arm("none", ("--train.steps=0",)), *(Arm(f"{n} of them", (f"--data.mixture=m{n}_{{draw}}",), place=n) for n in (1, 2, 4)),
              Arm("further", begins="4 of them")),
        draws=tuple(Draw(str(i), (f"--train.seed={i}",)) for i in range(4)),
        measures=(Measure("bits", "bits"), Measure("right", "score")),
        comparisons=(Comparison("1 of them", "4 of them", "better", "Others found it so"),), axis="them", log=True,
    )
"""


class Trainers:
    """Stands for the processes of a study's runs: writes what `itx train` leaves behind."""

    def __init__(self, folder, monkeypatch):
        self.file, self.folder = folder / "tried.py", folder / "studied"
        self.file.write_text(TRIED)
        self.trained, self.fail, self.kill = [], "", ""
        self.words = ["study", str(self.file), "--study_dir", str(self.folder)]
        monkeypatch.setattr(processes, "run_child", self.run)
        monkeypatch.setattr(child, "build_in_subprocess", lambda args: "lock.json")
        monkeypatch.setattr(command.locks, "read", lambda file: {"leaks": []})
        monkeypatch.setattr(command.locks, "shape_hash", lambda lock: "data")
        found = {"documents": 7, "skipped": {"repeated input": 5}, "instructions": 8, "short": 6}
        found["left_out"] = 0
        monkeypatch.setattr(purity, "check", lambda config, lock: found)

    def run(self, words, what, said, environment):
        assert "JAX_COMPILATION_CACHE_DIR" in environment and words[3] == "train"
        run = RunFolder(Path(words[words.index("--run_dir") + 1]))
        overrides = [w for w in words[5:] if w.startswith("--") and "." in w.split("=")[0]]
        config, _ = recipe.load(words[4], overrides)
        if run.path.name == self.kill:
            raise KeyboardInterrupt
        if self.fail and self.fail in run.path.name:
            said.write_text("data: ready\nitx: no finite loss\n")
            raise SystemExit(1)
        self.trained.append(run.path.name)
        if run.path.name == "study-base":
            storage.write_json(run.config_json, storage.sealed({"config": to_dict(config)}))
        sized = re.fullmatch(r"m(\d)_\d", config.data.mixture)
        size = int(sized[1]) if sized else 0
        value = size + config.train.seed / 10 + (0.01 * size * config.train.seed)
        rows = {
            f"{t}@eval": {"cluster": t, "score": value / 10, "examples": 99}
            for t in config.eval.tasks
        }
        steps = config.train.steps
        storage.write_json(run.scores_json(steps), storage.sealed({"rows": rows}))
        bits = {t: {"swapped": [value, value]} for t in config.eval.tasks}
        storage.write_json(run.information_json, storage.sealed({"after": bits}))
        mixture = {"input_tokens": 10 * steps, "target_tokens": steps}
        storage.write_json(run.audit_json, storage.sealed({"mixture": mixture}))
        storage.write_json(run.report_json, {})

    def facts(self) -> dict:
        return storage.read_object(self.folder / "study.json")


@pytest.fixture
def trainers(tmp_path, monkeypatch):
    return Trainers(tmp_path, monkeypatch)


def test_every_run_is_made_once_and_each_begins_where_it_should(trainers, capfd):
    assert cli.main(trainers.words) == 0
    assert trainers.trained[0] == "study-base" and len(trainers.trained) == 1 + 5 * 4
    facts = trainers.facts()
    bits, right, *slopes = facts["tests"]
    assert right["verdict"] == "better" and right["difference"] == pytest.approx(0.3045)
    assert bits["verdict"] == "better" and bits["difference"] == pytest.approx(3 + 0.03 * 1.5)
    assert [s["measure"] for s in slopes] == ["bits", "right"] and slopes[0]["verdict"] == "better"
    assert all(r["values"] and r["seconds"] is not None for r in facts["runs"])
    assert {r["tokens"] for r in facts["runs"]} == {0, 55}
    text = (trainers.folder / "study.md").read_text()
    assert "Agrees. Others found it so." in text and "20 of 20 runs done" in text
    assert "searched 7 documents, none of which" in text and "6 shorter runs were not" in text
    assert "further records of the source: 5 (repeated input)" in text
    assert {round(r["examples"]["right"]) for r in facts["runs"]} == {2 * 99}
    assert b"<svg" in (trainers.folder / "study.svg").read_bytes()
    assert cli.main(trainers.words) == 0 and len(trainers.trained) == 21
    begins = {p.name: p.config.model.pretrained for p in plans_of(trainers)}
    assert begins["further.2"] == str(trainers.folder / "4_of_them.2")
    assert begins["1_of_them.2"] == str(trainers.folder.parent / "study-base")


def plans_of(trainers) -> list:
    args = cli._parser("study").parse_args(trainers.words)
    args.overrides = []
    of, _ = command._study(args, str(trainers.file))
    base = RunFolder(trainers.folder.parent / "study-base")
    return command._plans(args, of, str(trainers.file), trainers.folder, base)


def test_a_study_that_is_killed_goes_on_where_it_was(trainers, capfd):
    trainers.kill = "2_of_them.1"
    assert cli.main(trainers.words) == 130
    done = list(trainers.trained)
    assert done[-1] == "1_of_them.1" and len(trainers.facts()["runs"]) == 20
    assert sum(r["values"] is not None for r in trainers.facts()["runs"]) == len(done) - 1
    assert "Not run: 2_of_them.1" in (trainers.folder / "study.md").read_text()
    trainers.kill = ""
    assert cli.main(trainers.words) == 0
    assert len(trainers.trained) == len(set(trainers.trained)) == 21
    assert trainers.trained[: len(done)] == done
    first = trainers.facts()["runs"][0]
    assert first["run"] == "none.0" and first["seconds"] is not None  # timed before the kill
    assert not list(trainers.folder.glob("*.part"))


def test_a_run_that_fails_is_named_and_so_is_what_begins_from_it(trainers, capfd):
    trainers.fail = "4_of_them.3"
    assert cli.main(trainers.words) == 1
    failed = {r["run"]: r["failed"] for r in trainers.facts()["runs"] if r["failed"]}
    assert failed["4_of_them.3"].startswith("no finite loss (exit 1; all of it: ")
    assert failed["further.3"] == "4_of_them.3, which it begins from, is not done"
    assert len(failed) == 2 and trainers.facts()["tests"][0]["draws"] == 3
    assert "Failed: further.3: 4_of_them.3" in capfd.readouterr().out


def test_a_finished_run_that_lacks_a_measure_fails_alone(trainers, capfd):
    assert cli.main([*trainers.words, "--draws", "2"]) == 0
    run = RunFolder(trainers.folder / "2_of_them.1")
    storage.write_json(run.information_json, storage.sealed({"after": {}}))
    assert cli.main([*trainers.words, "--draws", "3"]) == 1
    assert len(trainers.trained) == 1 + 5 * 3  # the third draw is made, and nothing again
    failed = {r["run"]: r["failed"] for r in trainers.facts()["runs"] if r["failed"]}
    assert list(failed) == ["2_of_them.1"] and "no bits of a, b" in failed["2_of_them.1"]
    assert "2_of_them.1 failed: " in capfd.readouterr().err
    assert "Failed: 2_of_them.1" in (trainers.folder / "study.md").read_text()
    run.scores_json(5).write_text("{")  # damaged
    assert cli.main([*trainers.words, "--draws", "3"]) == 1


def test_documents_that_an_older_search_counted_less_of_are_searched_again(
    trainers, monkeypatch, capfd
):
    assert cli.main([*trainers.words, "--draws", "1"]) == 0
    searched = trainers.folder.parent / "study-base.json"
    old = {k: v for k, v in storage.read_object(searched).items() if k not in ("short", "sha256")}
    storage.write_json(searched, storage.sealed(old))
    assert cli.main([*trainers.words, "--draws", "1"]) == 0  # nothing to do, and no base is there
    assert "what they were searched for is not known" in (trainers.folder / "study.md").read_text()
    monkeypatch.setattr(RunFolder, "has_lock", lambda run: run.path.name == "study-base")
    monkeypatch.setattr(command, "read_lock", lambda run: {"leaks": []})
    assert cli.main([*trainers.words, "--draws", "1"]) == 0
    assert storage.read_object(searched)["short"] == 6 and len(trainers.trained) == 1 + 5
    assert "searched 7 documents" in (trainers.folder / "study.md").read_text()


def test_a_base_of_another_recipe_is_refused_and_other_documents_are_searched(trainers, capfd):
    assert cli.main([*trainers.words, "--draws", "1"]) == 0
    searched, base = (trainers.folder.parent / name for name in ("study-base.json", "study-base"))
    storage.write_json(searched, storage.sealed({**storage.read_object(searched), "data": "old"}))
    assert cli.main([*trainers.words, "--draws", "2"]) == 0
    assert storage.read_object(searched)["data"] == "data"
    held = storage.read_object(RunFolder(base).config_json)["config"]
    held["data"]["seed"] = 3
    storage.write_json(RunFolder(base).config_json, storage.sealed({"config": held}))
    assert cli.main(trainers.words) == 2
    assert "belongs to another config: data.seed" in capfd.readouterr().err
    assert len(trainers.trained) == 11


def test_only_some_arms_and_draws(trainers, capfd):
    assert cli.main([*trainers.words, "--only", "further", "--draws", "2"]) == 0
    assert trainers.trained == [
        "study-base",
        "4_of_them.0",
        "further.0",
        "4_of_them.1",
        "further.1",
    ]
    text = (trainers.folder / "study.md").read_text()
    assert "4 of 10 runs done" in text and "Not run: none.0, 1_of_them.0" in text
    assert "Not resolved. Others found it so." in text and "not run" in text
    capfd.readouterr()
    assert cli.main([*trainers.words, "--dry_run"]) == 0
    out = capfd.readouterr().out
    assert out.count("done      ") == 4 and "16 of 20 runs to do, about" in out
    assert len(trainers.trained) == 5


def test_settings_of_all_runs_are_none_that_an_arm_sets(trainers, capfd):
    words = [*trainers.words, "--draws", "1", "--train.steps=3"]
    assert cli.main(words) == 2
    assert "--train.steps=3: the arm 'none' sets this itself" in capfd.readouterr().err
    assert cli.main([*trainers.words, "--train.seed=3"]) == 2 and not trainers.trained
    assert cli.main([*words, "--only", "1 of them,further"]) == 0
    steps = {r["run"]: r["steps"] for r in trainers.facts()["runs"] if r["values"]}
    assert steps == {"1_of_them.0": 3, "4_of_them.0": 3, "further.0": 3}
    assert "Settings of all runs: `--train.steps=3`" in (trainers.folder / "study.md").read_text()


def test_a_page_takes_what_was_found_in_between_its_marks(trainers, tmp_path, capfd):
    wanted = tmp_path / "page.md"
    wanted.write_text("# Results\n<!-- study tried -->\nNot run.\n<!-- end study tried -->\nEnd.\n")
    assert cli.main([*trainers.words, "--page", str(wanted)]) == 0
    text = wanted.read_text()
    assert text.startswith("# Results\n<!-- study tried -->\n**Is it so?**") and text.endswith(
        "<!-- end study tried -->\nEnd.\n"
    )
    assert "Not run." not in text and "| 4 of them | 4 |" in text
    assert cli.main([*trainers.words, "--quick", "--page", str(wanted)]) == 2
    assert "a quick variant are no results" in capfd.readouterr().err
    wanted.write_text("# Results\n")
    assert cli.main([*trainers.words, "--page", str(wanted)]) == 2
    assert "needs a line <!-- study tried -->" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["clutsers"], "no study named 'clutsers'; did you mean 'clusters'"),
        (["there.py"], "study file 'there.py' is not there"),
        (["clusters", "--only", "8 cluster"], "no arm '8 cluster'; did you mean '8 clusters'"),
        (["clusters", "--draws", "6"], "--draws 6: the study has 1 to 5"),
        (["clusters", "--train.stps=3"], "unknown setting '--train.stps'"),
        (["quickstart.py"], "study file 'quickstart.py' is not there"),
    ],
)
def test_what_is_refused_leaves_nothing(words, told, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["study", *words]) == 2
    assert told in capfd.readouterr().err and not list(tmp_path.iterdir())


@pytest.mark.slow  # minutes: the quick base and two runs, for real
def test_a_real_study(tmp_path):
    words = ("study", "clusters", "--quick", "--draws", "1", "--only", "not tuned,2 clusters")
    samples.itx(*words, cwd=tmp_path)
    folder = tmp_path / "runs" / "study-clusters-quick"
    runs = {r["run"]: r for r in storage.read_object(folder / "study.json")["runs"]}
    assert runs["not_tuned.0"]["values"] and runs["2_clusters.0"]["values"]
    assert runs["not_tuned.0"]["values"] != runs["2_clusters.0"]["values"]
    assert "not_tuned.0\n" not in samples.itx(*words, cwd=tmp_path).stdout
    assert samples.itx("compare", folder).returncode == 0
