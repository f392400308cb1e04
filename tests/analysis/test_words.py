# SPDX-License-Identifier: Apache-2.0
"""No sentence of a report that its run contradicts; what is not there is `-`; wrong forms are
counted, not scored below 0."""

import dataclasses
import html
import json
import re
from collections import Counter

import numpy as np
import pytest

from itx import storage
from itx.analysis import words
from itx.analysis.report import facts, report
from itx.audit.audit import audit
from itx.config import to_dict
from itx.eval import averages
from itx.eval.evaluate import evaluate
from tests import scored


def run_of(
    folder,
    *,
    pretrained="",
    method="full",
    before=True,
    after=4,
    rows=None,
    wrong_form=False,
    easy=(),
    holdout=True,
    lone=(),
):
    """A run folder in a state: scored before and after step 4, with these rows alone, with tasks
    that count as easy."""
    run, config, lock, vocab, right = scored.small_run(folder)
    lock["evaluation"] = [r for r in lock["evaluation"] if rows is None or r["name"] in rows]
    lock["holdout"] = lock["holdout"] if holdout else []
    for r in lock["evaluation"]:
        r["split"] = "validation" if r["name"] in lone else r["split"]
        r["primary"] = "generate" if wrong_form else r["primary"]
    model = dataclasses.replace(config.model, pretrained=pretrained)
    config = dataclasses.replace(
        config, model=model, peft=dataclasses.replace(config.peft, method=method)
    )
    storage.write_json(run.lock_json, lock)
    storage.write_json(
        run.config_json,
        {
            "file": "configs/some.py",
            "command": "itx train",
            "config": to_dict(config),
            "origin": {},
            "notes": [],
            "versions": {},
            "code": "abc",
            "data_hash": "def",
        },
    )
    found = audit(lock, config.data.cache_dir, config)
    storage.write_json(run.audit_json, {**found, "easy": dict.fromkeys(easy, "because")})
    lines = (
        [{"step": s, "train/loss": 5.0 - s, "train/skipped": 0} for s in (2, 4)] if after else []
    )
    run.metrics_jsonl.parent.mkdir(parents=True, exist_ok=True)
    run.metrics_jsonl.write_text("".join(json.dumps(x) + "\n" for x in lines))
    said = {p: f"I think {a}, perhaps" for p, a in right.items()} if wrong_form else right
    for step, answers in (*[(0, {})] * before, (after, said)):
        reciter = scored.Reciter(vocab, answers)
        evaluate(lambda reciter=reciter: reciter, lock, config, run, step, say=lambda _: None)
    return run


def texts(run, capsys) -> tuple[str, str]:
    """What the page and the terminal say."""
    report(run)
    page = re.sub(
        r"<style>.*?</style>|<script>.*?</script>|<[^>]+>",
        " ",
        run.report_html.read_text(encoding="utf-8"),
        flags=re.S,
    )
    return " ".join(html.unescape(page).split()), capsys.readouterr().out


def test_a_pretrained_run_did_not_begin_random(tmp_path, capsys):
    page, _ = texts(run_of(tmp_path, pretrained="models/small-base"), capsys)
    assert (
        "began random" not in page
        and "tune a pretrained model" not in page
        and "is noise" not in page
    )
    assert "It began from models/small-base, and “before” is that model as it was" in page


def test_a_run_from_scratch_did(tmp_path, capsys):
    page, _ = texts(run_of(tmp_path), capsys)
    assert (
        "Its weights began random, so “before” is noise" in page
        and "tune a pretrained model" in page
    )


RANDOM, PRETRAINED = "began random", "It began from models/base"


@pytest.mark.parametrize(
    "state, said, unsaid",
    [
        (
            {"before": False},
            [RANDOM, "not scored on these tasks"],
            ["is noise", "“before” is", "than before"],
        ),
        (
            {"pretrained": "models/base", "before": False},
            [PRETRAINED, "not scored on these tasks"],
            [RANDOM, "“before” is"],
        ),
        (
            {"pretrained": "models/base", "method": "lora"},
            [PRETRAINED, "Only a LoRA was trained"],
            [RANDOM],
        ),
        ({"method": "prefix"}, [RANDOM, "Only a prefix was trained"], [PRETRAINED]),
        (
            {"before": False, "after": 0},
            ["not tuned", "before tuning"],
            ["worked", "Better than", "One training run"],
        ),
        (
            {"rows": ["first", "parity"], "holdout": False},
            ["No task and no cluster", "Hold tasks or clusters out"],
            ["Unseen tasks", "flatter", "Score the tasks that were"],
        ),
        (
            {"rows": ["first", "parity"]},
            ["Score the tasks that were held out"],
            ["Hold tasks or clusters"],
        ),
        (
            {"rows": ["second"]},
            ["Unseen tasks and unseen clusters"],
            ["New examples of practised", "Unseen templates show"],
        ),
        ({"rows": ["first"]}, ["the choice of examples,"], ["clusters, tasks and examples,"]),
    ],
)
def test_each_state_of_a_run_is_said_as_it_is(tmp_path, state, said, unsaid):
    found = facts(run_of(tmp_path, **state))
    sentences = " ".join(
        [
            *found.get("claims", ()),
            *(s for several in found.get("summary", {}).values() for s in several),
        ]
    )
    assert [s for s in said if s not in sentences] == [] and [
        s for s in unsaid if s in sentences
    ] == []


def test_a_task_of_one_split_is_scored_on_that_one_and_it_is_said(tmp_path, capsys):
    """eval.split is test; a lone validation split is scored too, but never called test."""
    run = run_of(tmp_path, lone=("parity", "steps:cot"))
    page, terminal = texts(run, capsys)
    assert "Scored on the splits test (4 rows) and validation (2 rows)" in page
    assert "scored on the splits test (4 rows) and validation (2 rows)" in " ".join(
        terminal.split()
    )


def test_without_an_audit_nothing_is_said_of_easy_tasks(tmp_path, capsys):
    run = run_of(tmp_path, rows=["first"])
    run.audit_json.unlink()
    page, _ = texts(run, capsys)
    assert "0 easy tasks" not in page and "which tasks are easy is not known" in page


def test_scores_of_an_earlier_version_are_reported(tmp_path):
    """What they do not hold is `-` and no error."""
    run = run_of(tmp_path)
    for step in (0, 4):
        scores = storage.read_json(run.scores_json(step))
        scores.pop(storage.SEAL)  # they had none
        for g in scores["groups"]:
            for key in (
                "score_interval",
                "score_clusters",
                "lift",
                "lift_interval",
                "excess",
                "excess_interval",
                "none_of_options",
                "all_easy",
            ):
                g.pop(key, None)
        for r in scores["rows"].values():
            for key in ("none_of_options", "limit_from", "interval_from"):
                r.pop(key, None)
        storage.write_json(run.scores_json(step), scores)
    found = report(run)
    assert found["groups"][0]["after"]["score"] == 1.0 and found["summary"]["next"]


def test_where_all_tasks_are_easy_all_are_shown(tmp_path, capsys):
    run = run_of(tmp_path, easy=("first", "parity", "steps"))
    page, terminal = texts(run, capsys)
    (group,) = [
        g for g in storage.read_json(run.report_json)["groups"] if g["group"] == "instances"
    ]
    assert (group["after"]["score"], group["after"]["tasks"]) == (1.0, 3)
    assert (
        "no task is left" not in page
        and "only easy tasks are left of: new examples, trained tasks" in page
    )
    assert "only easy tasks are left of" in " ".join(terminal.split())
    part = run_of(tmp_path / "part", easy=("first",))
    (group,) = [g for g in facts(part)["groups"] if g["group"] == "instances"]
    assert group["after"]["tasks"] == 2 and not group["after"]["all_easy"]


def test_wrong_forms_are_a_column_and_no_score_below_nothing(tmp_path, capsys):
    """Answers to two-option questions in a form that none of the options has: corrected for chance
    they score -1."""
    run = run_of(tmp_path, wrong_form=True, rows=["parity"])
    page, terminal = texts(run, capsys)
    assert not re.search(r"[-−]\d\.\d\d", page + terminal)
    assert "none of the options" in page and "100%" in page and "100%" in terminal
    row = storage.read_json(run.report_json)["rows"][0]
    assert (
        row["corrected"] == -1.0
        and row["none_of_options"] == 1.0
        and (row["score"], row["chance"]) == (0.0, 0.5)
    )
    assert any("none of the options: read the outputs" in s for s in facts(run)["summary"]["next"])


def test_no_right_answer_at_all_is_below_chance_whatever_the_clusters_chances_are():
    """Corrected for chance such clusters score -1 and -3: so far apart that two of them were called
    `not resolved`."""
    rows = {
        n: {
            "task": n,
            "cluster": n,
            "group": "clusters",
            "grade": "new operation",
            "chance": c,
            "easy": False,
            "ablation": None,
            "relation": "none",
            "score": 0.0,
        }
        for n, c in (("a", 0.5), ("b", 0.75))
    }
    (group,) = averages.averages(rows, {"a": [0.0] * 30, "b": [0.0] * 30})
    assert group["interval"][1] > 0 and group["mean"] == -2.0
    assert group["lift_interval"][1] < -0.5 and words.says(group) == "below chance"
    (group,) = averages.averages(rows, {"a": [1.0] * 30, "b": [1.0] * 30})
    assert group["lift"] == group["mean"] == 1.0 and words.says(group) == "above chance"
    (group,) = averages.averages(rows, {"a": [1.0] * 30, "b": [0.0] * 30})
    assert words.says(group) == "not resolved from chance"


@pytest.mark.parametrize("score", [0.0, 1.0])
def test_few_examples_of_which_none_or_all_are_right_do_not_make_one_sure(score):
    rows = {
        n: {
            "task": n,
            "cluster": n,
            "group": "tasks",
            "grade": "new operation",
            "chance": 0.6,
            "easy": False,
            "ablation": None,
            "relation": "none",
            "score": score,
        }
        for n in "ab"
    }
    (few,) = averages.averages(rows, {n: [score] for n in rows})
    assert (
        words.says(few) == "not resolved from chance"
        and few["score_interval"][1] - few["score_interval"][0] > 0.5
    )
    (many,) = averages.averages(rows, {n: [score] * 100 for n in rows})
    assert words.says(many) == ("above chance" if score else "below chance")
    assert many["score_interval"][1] - many["score_interval"][0] < 0.05


def test_half_of_the_answers_in_a_wrong_form(tmp_path):
    run = run_of(tmp_path, rows=["parity"])
    row = storage.read_json(run.scores_json(4))["rows"]["parity"]
    assert row.get("none_of_options", 0) is None  # ranked: no option is written
    run = run_of(tmp_path / "other", wrong_form=True, rows=["first"])
    assert facts(run)["rows"][0]["none_of_options"] is None  # no options


def test_what_was_learned_and_what_was_not(tmp_path):
    found = facts(run_of(tmp_path))
    assert "summary" in found
    assert any(
        "Better than before and than chance: new examples, trained tasks (" in s
        for s in found["summary"]["learned"]
    )
    same = facts(run_of(tmp_path / "same", pretrained="models/base", after=4, wrong_form=True))
    assert same["summary"]["learned"] == ["Nothing that these scores show."]
    assert any("ot above chance" in s for s in same["summary"]["not learned"])


def test_what_the_scores_do_not_stand_for_is_said(tmp_path, capsys):
    whole, cut = run_of(tmp_path / "whole"), run_of(tmp_path / "cut")
    lock = storage.read_json(cut.lock_json)
    of_task = {}
    for row in lock["evaluation"]:  # its split had seven more examples
        row["audit"] = {**row["audit"], "skipped": {"beyond data.eval_examples": 7}}
        of_task.setdefault(row["task"], row["examples"])
    lock["unscored"] = [f"task{n} (no test split, only train)" for n in range(6)]
    lock["evaluation"][0]["halved"] = True
    storage.write_json(cut.lock_json, lock)
    n, examples = len(of_task), sum(of_task.values())
    limited = f"{4 * n} were asked: "
    said = [
        f"Of {examples + 7 * n} examples of {n} evaluation tasks {limited}data.eval_examples left "
        f"out {7 * n}, eval.max_examples left out {examples - 4 * n}.",
        "6 tasks or rows are not scored: task0 (no test split, only train), ",
        "1 tasks or rows are scored on half of a validation split, as they ask: "
        + lock["evaluation"][0]["task"],
    ]
    for run, is_said in ((whole, False), (cut, True)):
        for text in texts(run, capsys):
            flat = " ".join(text.split())
            assert [sentence in flat for sentence in said] == [is_said] * 3
            assert (
                f"Of {examples} examples of {n} evaluation tasks {limited}eval.max_examples" in flat
            ) != is_said


@pytest.mark.parametrize(("gain", "least", "most"), [(0.0, 0, 5), (0.4, 30, 60)])
def test_of_one_answer_a_task_guesses_are_seldom_judged_and_a_gain_is_mostly_seen(
    gain, least, most
):
    """37 tasks in 14 clusters, an answer each: most rows without chance's share of right answers have
    none at all. 60 models that guess, and 60 that know 40 % of what guesses miss."""
    rng = np.random.default_rng(3)
    told = Counter()
    for _ in range(60):
        chances = rng.choice([0.02, 0.1, 0.2, 0.33, 0.5], 37)
        right = {f"t{t}": [float(rng.random() < c + gain * (1 - c))] for t, c in enumerate(chances)}
        rows = {
            f"t{t}": {"task": f"t{t}", "cluster": f"c{t % 14}", "group": "instances", "grade": None, "chance": float(c),
                      "easy": False, "ablation": None, "relation": "same task", "score": right[f"t{t}"][0]}
            for t, c in enumerate(chances)
        }  # fmt: skip
        (group,) = averages.averages(rows, right)
        told[words.says(group)] += 1
    assert least <= told["above chance"] <= most and told["below chance"] <= 5, told
