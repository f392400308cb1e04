# SPDX-License-Identifier: Apache-2.0
"""eval.max_seconds: how many examples are asked is fixed beforehand, by time alone, and once."""

import dataclasses

import pytest

from itx import storage
from itx.analysis import report, words
from itx.eval import budget, predictions
from itx.eval.evaluate import evaluate, examples_of, scored_rows
from tests import scored


@pytest.fixture
def small(tmp_path):
    return scored.small_run(tmp_path)


@pytest.fixture
def clock(monkeypatch):
    """Seconds that each pass over a first example takes, in turn; the last one ever after."""
    held = {"seconds": [9.0, 2.0], "now": 0.0, "passes": 0}

    def timed(ask):
        ask()
        held["passes"] += 1
        seconds = held["seconds"][0] if len(held["seconds"]) == 1 else held["seconds"].pop(0)
        return lambda: seconds

    monkeypatch.setattr(budget, "_timed", timed)
    return held


def ask(small, answers=None, step=3, **evaluation):
    run, config, lock, vocab, right = small
    config = dataclasses.replace(config, eval=dataclasses.replace(config.eval, max_examples=0, **evaluation))  # fmt: skip
    said: list[str] = []
    model = scored.Reciter(vocab, right if answers is None else answers)
    return evaluate(lambda: model, lock, config, run, step, say=said.append), config, said


def ids_asked(small, step=3):
    run, _, lock, *_ = small
    return {r["name"]: {x["id"] for x in predictions.read_whole(run, step, r["name"])} for r in lock["evaluation"]}  # fmt: skip


def test_the_first_examples_by_hash_are_asked_and_a_smaller_budget_asks_some_of_them(small, clock):
    run, _, lock, *_ = small
    clock["seconds"] = [2.0]
    wide, config, said = ask(small, max_seconds=15)
    assert {r["examples"] for r in wide["rows"].values()} == {7}
    assert any("so 7 are asked of all" in line for line in said)
    many = ids_asked(small)
    every = dataclasses.replace(config, eval=dataclasses.replace(config.eval, max_examples=7))
    for row in scored_rows(lock, every):
        assert many[row["name"]] == {x["id"] for x in examples_of(row, every, 1)}
    narrow, *_ = ask(small, step=4, max_seconds=5)
    few = ids_asked(small, 4)
    assert {r["examples"] for r in narrow["rows"].values()} == {2}
    assert all(few[name] < many[name] for name in many)


def test_the_number_is_fixed_once_whatever_is_answered(small, clock):
    """Before and after tuning, by a model that is always right and one that never is, and for an
    evaluation that goes on after a kill."""
    run, *_ = small
    before, *_ = ask(small, {}, step=0, max_seconds=6)
    passes = clock["passes"]
    clock["seconds"] = [1.0]  # the machine is faster now
    after, *_ = ask(small, step=4, max_seconds=6)
    assert clock["passes"] == passes == 2
    assert {r["examples"] for s in (before, after) for r in s["rows"].values()} == {3}
    predictions.predictions_file(run, 4, "first").unlink()
    again, *_ = ask(small, step=4, max_seconds=6)
    assert clock["passes"] == passes and again["rows"] == after["rows"]
    assert again["budget"]["seconds"] == after["budget"]["seconds"] is not None


def test_all_are_asked_where_there_is_time_and_one_where_there_is_none(small, clock):
    clock["seconds"] = [1.0]
    every, _, said = ask(small, max_seconds=1000)
    assert every["rows"]["first"]["examples"] == 10 and clock["passes"] == 1
    assert any("so all are asked" in line for line in said)
    one, _, said = ask(small, step=4, max_seconds=0.5)
    assert {r["examples"] for r in one["rows"].values()} == {1}
    assert any("more than there is; one is asked, of all" in line for line in said)
    free, *_ = ask(small, step=5)
    assert "budget" not in free and clock["passes"] == 3


def test_what_was_left_out_is_counted_and_whether_the_time_was_kept_is_said(small, clock):
    run, _, lock, *_ = small
    ask(small, max_seconds=6)
    scores = storage.read_object(run.scores_json(3), "budget", "rows")
    left = report.limits(lock, scores["rows"], scores["budget"])
    assert left["eval.max_examples"] == 0 and left["asked"] == 3 * left["tasks"]
    assert left["eval.max_seconds"] == left["examples"] - left["data.eval_examples"] - left["asked"] > 0  # fmt: skip
    both = report.limits(lock, scores["rows"], {**scores["budget"], "most": 5})
    assert both["eval.max_seconds"] == 2 * left["tasks"] and both["eval.max_examples"] > 0
    held = scores["budget"]
    assert held["examples"] == 3 and 0 < held["seconds"] < 6
    for seconds, told in ((99.0, "more than it"), (1.0, "within it"), (None, "is not known")):
        none = {"unscored": [], "uninformed": [], "halved": []}
        said = words.scope({"limits": left, "budget": {**held, "seconds": seconds}, **none})
        assert f"eval.max_seconds left out {left['eval.max_seconds']}" in said[0]
        assert told in said[1] and "left 3 examples of each row" in said[1]
