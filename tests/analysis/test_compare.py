# SPDX-License-Identifier: Apache-2.0
"""Runs side by side: their own scores, and every way in which they differ."""

import dataclasses
import json

import pytest

from itx import cli, storage
from itx.analysis import compare
from itx.config import to_dict
from itx.errors import UserError
from itx.eval import safety
from itx.eval.evaluate import evaluate
from tests import scored

STEP = 4


def made(folder, forgets: int = 0, long: bool = False, max_examples: int = 4, **settings):
    """A scored run whose model lacks some answers, or says more than it was asked."""
    run, config, lock, vocab, right = scored.small_run(folder)
    answers = dict(right)
    for prompt in list(answers)[:forgets]:
        answers[prompt] = "blue red white"
    if long:
        answers = {p: f"{a} {a} {a}\x00" for p, a in answers.items()}
    train = dataclasses.replace(config.train, **settings)
    evaluation = dataclasses.replace(config.eval, max_examples=max_examples)
    config = dataclasses.replace(config, train=train, eval=evaluation)
    storage.write_json(run.lock_json, storage.sealed(lock))
    about = {"config": to_dict(config), "versions": {"jax": "1"}, "code": "abc"}
    storage.write_json(run.config_json, storage.sealed(about))
    evaluate(lambda: scored.Reciter(vocab, answers), lock, config, run, STEP, say=lambda t: None)
    return run


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compared")
    return {
        "good": made(folder / "good"),
        "poor": made(folder / "poor", forgets=20, seed=3),
        "long": made(folder / "long", long=True),
    }


def paths(runs, *names):
    return [str(runs[n].path) for n in names]


def test_what_chat_models_decline_stands_side_by_side(tmp_path, capsys):
    for name, count in (("one", 2), ("other", 50)):
        run = made(tmp_path / name)
        answers = {
            p["id"]: {k: {"text": "", "declined": "no" * (i < count)} for k in safety.KINDS}
            for i, p in enumerate(safety.requests())
        }
        held = {"after": {"answers": answers, "left_out": {}}}
        storage.write_json(run.safety_json, storage.sealed(held))
    assert cli.main(["compare", str(tmp_path / "one/run"), str(tmp_path / "other/run")]) == 0
    told = capsys.readouterr().out
    line = next(x for x in told.splitlines() if "that it should decline" in x)
    assert " 4% " in line and " 100% " in line


def test_scores_are_those_of_each_run_and_groups_stay_apart(runs):
    facts = compare.facts(paths(runs, "good", "poor"))
    names = [r["name"] for r in facts["runs"]]
    assert names == ["good/run", "poor/run"] and not facts["left_out"]
    groups = {}
    for name, key in zip(names, ("good", "poor"), strict=True):
        held = storage.read_json(runs[key].scores_json(STEP))
        assert {(g["group"], g["kind"]) for g in held["groups"]} == {
            (g["group"], g["kind"]) for g in facts["groups"]
        }
        for g in held["groups"]:
            groups[name, g["group"], g["kind"]] = g
    for g in facts["groups"]:
        assert g["same_questions"]
        for name in names:
            held = groups[name, g["group"], g["kind"]]
            assert g["scores"][name]["score"] == held["score"]
            assert g["scores"][name]["score_interval"] == held["score_interval"]
    instances = next(g for g in facts["groups"] if g["group"] == "instances")["scores"]
    assert instances["good/run"]["score"] > instances["poor/run"]["score"] + 0.1
    row = next(r for r in facts["rows"] if r["row"] == "second")
    assert row["metric"] == "exact_match" and set(row["scores"]) == {*names}


def test_answers_are_measured_and_cut_ones_counted(runs):
    facts = compare.facts(paths(runs, "good", "long"))
    group = next(g for g in facts["groups"] if g["group"] == "tasks")["answers"]
    short, long = group["good/run"], group["long/run"]
    assert short["cut"] == 0 < long["cut"] == long["answers"] == short["answers"]
    assert long["characters"] > 2.5 * short["characters"] > 0


def test_what_differs_is_named_and_nothing_else(runs, tmp_path):
    facts = compare.facts(paths(runs, "good", "poor"))
    assert set(facts["settings"]) == {"train.seed", "data.cache_dir"}
    assert facts["settings"]["train.seed"] == {"good/run": 0, "poor/run": 3}
    assert facts["data"] == []
    other = made(tmp_path / "other")
    lock = storage.read_json(other.lock_json)
    lock = {k: v for k, v in lock.items() if k != storage.SEAL} | {"seed": 9}
    lock["evaluation"][0]["sha256"] = "0" * 64
    del lock["evaluation"][-1]
    storage.write_json(other.lock_json, storage.sealed(lock))
    facts = compare.facts([str(runs["good"].path), str(other.path)])
    (data,) = facts["data"]
    assert data["batches"] == "seed was 0, is 9"
    assert data["questions"] == (
        "1 row of good/run alone (first@removed); 1 row with other examples (first)"
    )
    same = {g["label"]: g["same_questions"] for g in facts["groups"]}
    assert not same["new examples, trained tasks"] and same["unseen tasks, new argument"]


def test_a_run_that_is_missing_or_unfinished_is_a_line(runs, tmp_path, capfd):
    begun = made(tmp_path / "begun")
    (begun.path / "eval" / str(STEP)).rename(begun.path / "eval" / "0")
    words = ["compare", *paths(runs, "good", "poor"), str(begun.path), "nowhere", "--rows"]
    assert cli.main([*words, "--json", str(tmp_path / "said.json")]) == 1
    out, err = capfd.readouterr()
    assert not err
    assert f"left out: {begun.path}: unfinished: only step 0 is scored" in out
    assert "left out: nowhere: nowhere is not a run folder" in out
    assert "unseen tasks" in out and "train.seed" in out and "good/run" in out
    assert "the same batches and the same questions" in out
    left = json.loads((tmp_path / "said.json").read_text())["left_out"]
    assert [x["run"] for x in left] == [str(begun.path), "nowhere"]
    with pytest.raises(UserError, match="fewer than two runs to compare .nowhere: nowhere is not"):
        compare.facts([*paths(runs, "good"), "nowhere"])


def test_a_folder_of_runs_and_a_step_may_be_named(runs, tmp_path):
    (tmp_path / "runs").mkdir()
    for name, run in runs.items():
        (tmp_path / "runs" / name).symlink_to(run.path)
    facts = compare.facts([str(tmp_path / "runs")])
    assert [r["name"] for r in facts["runs"]] == ["good", "long", "poor"]
    step = str(runs["good"].path / "checkpoints" / "3")
    facts = compare.facts([*paths(runs, "poor", "long"), step])
    assert facts["left_out"] == [{"run": step, "why": "step 3 is not scored; scored: 4"}]


@pytest.mark.parametrize("what", ["scores", "predictions"])
def test_damaged_files_are_refused(tmp_path, runs, what):
    run = made(tmp_path / "damaged")
    file = run.scores_json(STEP)
    if what == "predictions":
        file = next((run.eval_dir(STEP) / "predictions").glob("second*.jsonl"))
    file.write_text(file.read_text().replace("0", "1", 1))
    with pytest.raises(UserError, match="damaged"):
        compare.facts([*paths(runs, "good"), str(run.path)])
