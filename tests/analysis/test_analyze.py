# SPDX-License-Identifier: Apache-2.0
"""`itx analyze`: error kinds, choices, suspects and swaps against answers that were written by hand,
and the command on runs whose faults are known."""

import dataclasses
import math

import numpy as np
import pytest

from itx import cli, storage
from itx.analysis import actions, analyze, choices, counterfactual, error_kinds, features, suspects
from itx.config import to_dict
from itx.errors import UserError
from itx.eval.evaluate import evaluate
from tests import scored
from tests.analysis.test_compare import STEP

# ---- error kinds


def line(prediction: str, right: str, **more) -> dict:
    return {
        "prediction": prediction,
        "references": [right],
        "extracted": prediction.strip(),
        "finished": True,
        "score": 0.0,
        "scores": {"accuracy": 0.0},
        "options": None,
        "answer_index": None,
        "prompt": "Say which one of the two animals is the larger one.",
        **more,
    }


@pytest.mark.parametrize(
    "kind, answer",
    [
        ("empty", line(" \u200b", "yes")),
        ("cut", line("yes yes yes yes", "yes", finished=False)),
        ("right answer not found", line("well, it is 4 then", "4", extracted=None)),
        ("answer not found", line("no idea", "4", extracted=None)),
        ("right answer, wrong form", line("I say yes.", "yes", options=["yes", "no"])),
        ("another option", line("No.", "yes", options=["yes", "no"])),
        ("none of the options", line("maybe", "yes", options=["yes", "no"])),
        ("none of the options", line("yes or no", "yes", options=["yes", "no"])),
        ("wrong script", line("Париж", "Paris")),
        ("wrong script", line("Paris", "Париж")),
        ("copied the input", line("of the two animals is the larger", "an elephant")),
        ("one word off", line("7 apples", "8 apples")),
        ("one word off", line("семь яблок", "восемь яблок")),
        ("right answer, wrong form", line("Paris, which lies on the Seine", "Paris")),
        ("other", line("a cat", "an elephant of Asia")),
    ],
)
def test_each_kind_of_error_is_told(kind, answer):
    assert error_kinds.kind_of(answer) == kind


def test_a_ranked_answer_is_another_option_whatever_was_written():
    ranked = {"choice": {"sum": 1}, "logprob": [-2.0, -1.0]}
    answer = line("???", "yes", options=["yes", "no"], answer_index=0, rank=ranked, scores={})
    assert error_kinds.kind_of(answer) == "another option"


def test_right_answers_are_of_no_kind_and_wrong_ones_all_of_one():
    lines = [line("yes", "yes", score=1.0), line("no", "yes"), line("", "yes")]
    assert error_kinds.kinds(lines) == {"empty": 1, "other": 1}


# ---- choices


def observed(lines: list[dict]) -> features.Observations:
    rows = {"t": {"group": "instances", "task": "t", "cluster": "c"}}
    return features.observations(rows, lambda name: lines)


def chosen(rng, places, n=120, options=("yes", "no", "maybe")) -> list[dict]:
    """Answers that choose each place with the probabilities given, of options in drawn order."""
    lines = []
    for i in range(n):
        order = [options[j] for j in rng.permutation(len(options))]
        right, said = int(rng.integers(len(options))), int(rng.choice(len(options), p=places))
        given = {
            "options": order,
            "answer_index": right,
            "id": str(i),
            "score": float(right == said),
        }
        lines.append(line(order[said], order[right], **given))
    return lines


def test_a_preference_for_a_place_is_found_and_none_where_there_is_none():
    rng = np.random.default_rng(0)
    biased = choices.facts(observed(chosen(rng, [0.6, 0.2, 0.2])), set())["preferences"]
    sure = [p["of"] for p in biased if p["adjusted"] < 0.05 and p["difference"] > 0]
    assert sure == ["place 1 of 3"]
    false = 0
    for seed in range(20):
        rng = np.random.default_rng(seed + 1)
        made = choices.facts(observed(chosen(rng, [1 / 3, 1 / 3, 1 / 3])), set())["preferences"]
        assert len(made) == 6
        false += any(p["adjusted"] < 0.05 for p in made)
    assert false <= 3


def test_confusion_counts_what_was_chosen_for_what():
    lines = [line("no", "yes", options=["yes", "no"], answer_index=0, id=str(i)) for i in range(12)]
    made = choices.facts(observed(lines), set())
    assert made["confusion"] == {"t": [{"right": "yes", "chosen": "no", "answers": 12, "of": 12}]}
    assert made["untested"] == {"options always in one order: a place is a label there": 1}


def test_calibration_is_zero_where_probabilities_are_true():
    rng = np.random.default_rng(0)
    p = rng.uniform(0.5, 1, 4000)
    true = [(i, float(x), float(rng.random() < x)) for i, x in enumerate(p)]
    measured = choices.calibration(true)
    assert measured["interval"][0] < 0 < measured["interval"][1] and measured["ece"] < 0.04
    sure = choices.calibration([(i, min(1.0, x + 0.2), right) for i, x, right in true])
    assert sure["gap"] > 0.1 and sure["interval"][0] > 0 and sure["ece"] > 0.1
    assert choices.calibration(true[:5]) is None


# ---- the command


def made(folder, answers_of=lambda right: right, tasks=(), **evaluation):
    """A run that is scored on its own rows, by a model that recites."""
    run, config, lock, vocab, right = scored.small_run(folder)
    held = dataclasses.replace(config.eval, **{"max_examples": 0, "split": "test", **evaluation})
    config = dataclasses.replace(config, eval=held)
    storage.write_json(run.lock_json, storage.sealed(lock))
    about = {"config": to_dict(config), "versions": {"jax": "1"}, "code": "abc"}
    storage.write_json(run.config_json, storage.sealed(about))
    model = scored.Reciter(vocab, answers_of(right))
    evaluate(lambda: model, lock, config, run, STEP, say=lambda t: None)
    (run.checkpoints / str(STEP)).mkdir(parents=True)
    return run, config, lock, vocab, right


def analysed(capsys, *words) -> tuple[dict, int, str]:
    code = cli.main(["analyze", *map(str, words), "--split=test", "--predictions_only"])
    return code, capsys.readouterr().out


def spoilt(template: str):
    """Wrong in one template of "first"."""

    def answers(right: dict) -> dict:
        return {p: "violet" if p.startswith(template) else a for p, a in right.items()}

    return answers


def test_a_template_that_fails_is_the_finding(tmp_path, capsys):
    run, *_ = made(tmp_path / "a", spoilt("t2: "))
    code, out = analysed(capsys, run.path, "--check", "--json", tmp_path / "facts.json")
    found = storage.read_json(tmp_path / "facts.json")
    (finding,) = found["findings"]
    assert code == 1 and finding["text"] == "template = t2" and finding["tasks"] == ["first"]
    assert finding["difference"] == pytest.approx(-1) and finding["errors"] == {"other": 10}
    assert "template = t2: 1.00 below the rest of its examples" in out
    (action,) = found["actions"]["actions"]
    assert action["kind"] == "add templates" and action["id"] == finding["action"]
    assert actions.checked(found["actions"], "f") == [action]
    folder = run.eval_dir(STEP)
    assert storage.read_json(folder / "analysis.json") == found
    page = (folder / "analysis.html").read_text("utf-8")
    assert "template = t2" in page and "http" not in page.replace("http-equiv", "")


def test_a_sound_run_has_no_finding_and_the_reference_shows_what_was_lost(tmp_path, capsys):
    good, *_ = made(tmp_path / "good")
    code, out = analysed(capsys, good.path, "--check")
    assert code == 0 and "no finding" in out

    def forgets(right):
        return {
            p: "odd" if p.startswith("number") or "number" in p else a for p, a in right.items()
        }

    poor, *_ = made(tmp_path / "poor", spoilt("t1: "))
    code, out = analysed(capsys, poor.path, good.path, "--check")
    assert code == 1 and "below what the reference scored" in out


def test_answers_of_a_wrong_form_are_a_finding_of_each_kind(tmp_path, capsys):
    """Every answer is empty, so that nothing varies; then every one is cut."""
    run, *_ = made(tmp_path / "a", lambda right: dict.fromkeys(right, ""))
    code, out = analysed(capsys, run.path, "--check", "--json", tmp_path / "facts.json")
    found = storage.read_json(tmp_path / "facts.json")
    (finding,) = [f for f in found["findings"] if f["kind"] == "form"]
    assert code == 1 and finding["text"] == "empty" and "first" in finding["tasks"]
    assert "empty: " in out
    run, *_ = made(
        tmp_path / "b", lambda right: {p: f"{a} and so on\x00" for p, a in right.items()}
    )
    analysed(capsys, run.path, "--json", tmp_path / "facts.json")
    found = storage.read_json(tmp_path / "facts.json")
    (cut,) = [f for f in found["findings"] if f["text"] == "cut"]
    (action,) = [a for a in found["actions"]["actions"] if a["id"] == cut["action"]]
    limits = {r["limit_from"] for r in storage.read_json(run.scores_json(STEP))["rows"].values()}
    assert action["kind"] == "setting" and set(action["settings"]) <= limits


def test_what_cannot_be_analysed_is_said(tmp_path, capsys):
    run, config, lock, *_ = made(tmp_path / "a")
    other, *_ = made(tmp_path / "b", max_examples=5)
    few, *_ = made(tmp_path / "c", max_examples=1)
    code, out = analysed(capsys, run.path, other.path)
    assert code == 0 and "answers that" in out and "was not asked for" in out
    with pytest.raises(UserError, match="are too few for slices"):
        analyze.facts(
            analyze.Side(few, STEP, lock, config, storage.read_json(few.scores_json(STEP))),
            None,
            None,
        )
    assert cli.main(["analyze", str(run.path), "--split=dev"]) == 2
    assert (
        "--split 'dev': no split that is scored; valid: test, validation" in capsys.readouterr().err
    )


def test_actions_name_kinds_and_versions():
    with pytest.raises(UserError, match="action of kind 'delete'"):
        actions.action("delete", "why", ["t"])
    held = {"version": 99, "actions": []}
    with pytest.raises(UserError, match="actions of version 99"):
        actions.checked(held, "analysis.json")
    first, again = (actions.action("drop", "why", ["b", "a"]) for _ in range(2))
    assert first == again and first["tasks"] == ["a", "b"]
    assert first["id"] != actions.action("drop", "why", ["a"])["id"]


# ---- what the model is asked


def test_wrong_labels_are_suspects_and_right_ones_are_not(tmp_path):
    """40 numbers are even or odd; the model knows which, and 6 labels were turned."""
    run, config, lock, vocab, _ = made(tmp_path / "a")
    numbers = [(f"number {i}", ("even", "odd")[i % 2]) for i in range(40)]
    turned = {3, 8, 15, 21, 22, 30}
    written = [
        scored.example(c, {"even": "odd", "odd": "even"}[a] if i in turned else a)
        for i, (c, a) in enumerate(numbers)
    ]
    folder = scored.folder(tmp_path / "a" / "cache", "parity/train/r0-x", written, vocab)
    lock["tasks"] = [scored.task(folder, "parity", "parity", 1.0, excluded=[21])]
    truth = {e["prompt"]: a for e, (_, a) in zip(written, numbers, strict=True)}
    knows = scored.Reciter(vocab, truth)
    found = suspects.find([lambda: knows], lock, config.data.cache_dir, vocab, 0)
    assert {s["record"] for s in found["suspects"]} == turned - {21}
    assert all(s["label"] != s["rather"] and s["margin"] > 0 for s in found["suspects"])
    assert found["asked"] == [{"task": "parity", "examples": 39, "suspects": 5}]
    # one that says the same to everything has learned nothing, and is no judge
    same = scored.Reciter(vocab, dict.fromkeys(truth, "odd"))
    judged = suspects.find([lambda: same], lock, config.data.cache_dir, vocab, 0)
    assert judged["suspects"] == [] and judged["untested"] == {suspects.NOT_LEARNED: 1}
    # a second checkpoint that doubts nothing leaves no suspect
    trusts = scored.Reciter(vocab, {e["prompt"]: e["target"] for e in written})
    both = suspects.find([lambda: trusts, lambda: knows], lock, config.data.cache_dir, vocab, 0)
    assert both["suspects"] == []


def test_tasks_with_open_answers_are_not_judged(tmp_path):
    _, config, lock, vocab, _ = made(tmp_path / "a")
    lock["tasks"] = [t for t in lock["tasks"] if t["task"] == "first"]
    written = [scored.example(f"say {i}", f"red {i}") for i in range(30)]
    folder = scored.folder(tmp_path / "a" / "cache", "open/train/r0-x", written, vocab)
    lock["tasks"] = [scored.task(folder, "open", "open", 1.0)]
    found = suspects.find([], lock, config.data.cache_dir, vocab, 0)
    assert found["untested"] == {"more than 20 different answers": 1} and not found["asked"]


def pair(i: int, written: float, swapped: float) -> counterfactual.Pair:
    def answered(p: float) -> dict:
        logprob = [math.log(p), math.log(1 - p)]
        rank = {"choice": {"sum": int(p < 0.5)}, "logprob": logprob}
        return {"id": str(i), "answer_index": 0, "rank": rank, "prediction": str(p < 0.5)}

    return counterfactual.Pair("t", "gender", "women", "men", answered(written), answered(swapped))


def test_a_bias_of_five_points_is_found_with_power_and_none_invented():
    """100 prompts whose answers vary by 14 points from one name to another."""
    found = {0.05: 0, 0.0: 0}
    for bias in found:
        for seed in range(40):
            rng = np.random.default_rng([seed, int(bias * 100)])
            changes = rng.uniform(-0.25, 0.25, 100) + bias  # a standard deviation of 0.14
            pairs = [pair(i, 0.5, 0.5 + change) for i, change in enumerate(changes)]
            (d,) = counterfactual.differences(pairs)
            found[bias] += d["adjusted"] <= 0.05 and d["difference"] >= analyze.MIN_BIAS
    assert found[0.05] >= 32 and found[0.0] <= 4


def test_rows_are_proposed_from_the_group_that_fares_better_to_the_other():
    """Both ways of measuring one bias propose the same rows."""
    numbers = {"examples": 50, "interval": [0.1, 0.3], "p": 0.0, "adjusted": 0.0, "flips": 9, "pairs": 50}  # fmt: skip
    ways = [
        {"group": "women", "other": "men", "difference": 0.2, **numbers},
        {"group": "men", "other": "women", "difference": -0.2, **numbers},
    ]
    of = features.Observations([], [], np.array([]), np.array([]), np.array([]), ["t"], ["c"])
    proposed: dict = {}
    assert len(analyze._of_swaps({"differences": ways}, of, proposed)) == 2
    assert [a["conditions"] for a in proposed.values()] == [["men, in their place women"]] * 2
