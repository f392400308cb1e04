# SPDX-License-Identifier: Apache-2.0
"""Evaluation with a model that recites: scores, chance, ablations, resuming, groups."""

import dataclasses
import json
from pathlib import Path

import pytest

from itx import config_check, storage
from itx.audit import baselines
from itx.data import cache
from itx.errors import UserError
from itx.eval import chance, predictions, summary, tables
from itx.eval.evaluate import evaluate, examples_of, limit, option_targets
from tests import scored


@pytest.fixture
def small(tmp_path):
    return scored.small_run(tmp_path)


def ask(small, answers=None, step=3, **evaluation):
    run, config, lock, vocab, right = small
    if evaluation:
        config = dataclasses.replace(config, eval=dataclasses.replace(config.eval, **evaluation))
    model = scored.Reciter(vocab, right if answers is None else answers)
    loads = []
    found = evaluate(lambda: loads.append(1) or model, lock, config, run, step, say=lambda _: None)
    return found, model, loads


def test_a_model_that_knows_the_answers_scores_one_and_another_none(small):
    found, model, loads = ask(small)
    rows = found["rows"]
    for name in ("first", "parity", "steps:cot", "second", "first@none"):
        assert rows[name]["score"] == 1.0 == rows[name]["corrected"], name
    assert rows["first@removed"]["score"] == 0.0  # this model knows whole prompts only
    assert len(loads) == 1 and len(model.calls) == 1 and len(model.ranked) == 1
    none, _, _ = ask(small, {}, step=4)
    assert {r["score"] for n, r in none["rows"].items() if n != "parity"} == {0.0}


def test_only_the_first_contents_are_asked_in_all_their_templates(small):
    run, config, lock, *_ = small
    found, model, _ = ask(small)
    row = found["rows"]["first"]
    assert (row["examples"], row["prompts"], row["max_examples"]) == (4, 8, 4)
    assert row["by_template"] == {t: {"score": 1.0, "prompts": 4} for t in ("t1", "t2")}
    asked = {tuple(p) for p in model.calls[0][0]}
    assert len(asked) == 8 + 4 + 4 + 4 + 4  # "none" shares its prompts with "first"
    everything = dataclasses.replace(config, eval=dataclasses.replace(config.eval, max_examples=0))
    assert len(examples_of(lock["evaluation"][0], everything, 1)) == 20
    # Wilson, 4 of 4: templates add no n
    assert row["interval"] == pytest.approx([0.5101, 1.0], abs=1e-4)


def test_lines_hold_what_the_model_was_asked_and_said(small):
    run, _, _, _, right = small
    right["t1: " + scored.pairs(1)[0][0]] = "a wrong word"
    found, *_ = ask(small)
    lines = predictions.read_predictions(run, 3, "first")
    assert found["rows"]["first"]["score"] == 7 / 8 and len(lines) == 8
    wrong = lines[0]
    assert wrong["prediction"] == "a wrong word" == wrong["extracted"] and wrong["score"] == 0.0
    assert {"id", "template", "prompt", "references", "finished"} <= set(
        wrong
    ) and "rank" not in wrong


def test_no_answer_and_the_limit_are_counted_apart(small):
    *_, right = small
    right["t1: say 0"] = "I do not know."
    right["t1: say 1"] = "The answer is 2. No, 5 it is\x00"
    right["t1: say 2"] = "well\x00"
    row = ask(small)[0]["rows"]["steps:cot"]
    assert (row["no_answer"], row["hit_limit"], row["score"]) == (2, 2, 0.25)


def test_ranking_is_the_primary_score_only_where_the_row_says_so(small):
    *_, right = small
    found, model, _ = ask(small)
    prompts, options = model.ranked[0]
    assert len(prompts) == 5  # four prompts and the neutral one, which all share
    assert {len(o) for o in options} == {2}
    row = found["rows"]["parity"]
    assert (
        row["metric"] == "rank" and row["rank"]["sum"] == 1.0 and row["metrics"]["accuracy"] == 1.0
    )
    assert set(row["rank"]) == set(summary.RANKINGS) and set(row["by_gold_position"]) == {"0", "1"}
    talks = {p: a.replace("even", "odd") if "number" in p else a for p, a in right.items()}
    other = ask(small, talks, step=5)[0]["rows"]["parity"]
    assert other["score"] == other["rank"]["sum"] == other["metrics"]["accuracy"] == 0.5


def test_options_take_the_form_of_the_target():
    line = {"options": ["yes", "no"], "answer_index": 1, "target": "So it is no."}
    assert option_targets(line) == ["So it is yes.", "So it is no."]
    assert option_targets({**line, "target": "no no"}) == ["yes", "no"]


def test_a_row_ranked_without_options_is_an_error(small):
    run, config, lock, vocab, right = small
    lock["evaluation"][0]["primary"] = "rank"
    with pytest.raises(UserError, match="'first'.*no options"):
        ask(small)


def test_chance(small):
    rows = ask(small)[0]["rows"]
    assert rows["parity"]["chance"] == 0.5 and rows["parity"]["chance_from"] == "options"
    # always "red" (commonest in training, first of equals by name …) measured on all ten contents
    run, config, lock, *_ = small
    folder = chance.training_folder(lock["evaluation"][0], lock, Path(config.data.cache_dir))
    constant = chance.commonest([e["references"][0] for e in cache.iterate_examples(folder)])
    share = sum(a == constant for _, a in scored.pairs(1, 10)) / 10
    assert (
        rows["first"]["chance"] == share
        and rows["first"]["chance_from"] == "commonest training answer"
    )
    held = [c.split()[1] for c, _ in scored.pairs(1, 10)]
    most = max(held.count(h) for h in held)
    assert rows["second"]["chance"] == (most - 1) / 9 > 0
    assert rows["second"]["chance_from"] == "commonest answer of the row"
    assert chance.commonest(["B", "a.", "A", "b", "A"]) == "a."
    assert chance.leave_one_out([{"references": [str(i)]} for i in range(5)]) == 0.0


def test_groups_are_never_pooled_and_easy_tasks_are_left_out(small):
    run, *_ = small
    found, *_ = ask(small)
    keys = [(g["group"], g["kind"]) for g in found["groups"]]
    assert keys == [
        ("instances", ""),
        ("tasks", "new argument"),
        ("instruction", "none"),
        ("instruction", "removed"),
    ]
    whole = found["groups"][0]
    assert whole["clusters"] == {"parity": 1.0, "pick": 1.0} and whole["tasks"] == 3
    assert found["groups"][1]["method"] == "Wilson, one task"
    storage.write_json(run.audit_json, {"easy": {"first": "because"}})
    marked, _, loads = ask(small)
    group = marked["groups"][0]
    assert group["easy"] == ["first"] and "first" not in group["rows"] and not loads
    assert marked["rows"]["first"]["easy"] and not marked["rows"]["second"]["easy"]
    # nothing else is in these
    instruction = [g for g in marked["groups"] if g["group"] == "instruction"]
    assert [(g["tasks"], g["all_easy"]) for g in instruction] == [
        (1, True),
        (1, True),
    ] and not group["all_easy"]


def test_variants_of_one_task_count_as_one_task(small):
    run, config, lock, vocab, right = small
    twin = {**lock["evaluation"][0], "name": "first:cot", "variant": "first:cot"}
    lock["evaluation"].append(twin)
    found, *_ = ask(small)
    assert found["groups"][0]["tasks"] == 3 and len(found["groups"][0]["rows"]) == 4


def test_limits_follow_the_gold_targets(small):
    _, config, lock, *_ = small
    row = {"max_target_tokens": 9}
    by_row, by_most = "eval.limit_factor", "eval.max_new_tokens"
    assert limit(row, config) == {"limit": 16, "limit_from": by_row}
    assert limit({"max_target_tokens": 30}, config) == {"limit": 16, "limit_from": by_most}
    longer = dataclasses.replace(config, eval=dataclasses.replace(config.eval, max_new_tokens=64))
    assert (
        limit({"max_target_tokens": 30}, longer)["limit"] == 48
        and limit(row, longer)["limit"] == 16
    )
    lock["evaluation"][0]["max_target_tokens"] = 30
    assert ask(small)[0]["rows"]["first"]["limit_below_gold"]


def test_the_limit_is_a_setting_and_a_row_says_how_many_answers_it_cut(small, capsys):
    *_, right = small
    assert "limit_factor" in vars(small[1].eval)
    right["t1: " + scored.pairs(1)[0][0]] = "red red red\x00"
    found, model, _ = ask(small, step=6, max_new_tokens=96)
    row = found["rows"]["first"]
    assert (row["hit_limit"], row["limit"], row["limit_from"]) == (1, 16, "eval.limit_factor")
    longer, asked, _ = ask(small, step=7, max_new_tokens=96, limit_factor=9.0)
    assert longer["rows"]["first"]["limit"] > 16 and set(model.calls[0][1]) != set(
        asked.calls[0][1]
    )
    most = ask(small, step=8, max_new_tokens=8)[0]["rows"]["first"]
    assert (most["limit"], most["limit_from"]) == (8, "eval.max_new_tokens")
    tables.print_scores(found)
    # the row without its instruction changed asks the same prompt
    assert (
        "2 answers of 2 rows were cut at their row's limit; --eval.limit_factor"
        in capsys.readouterr().out
    )
    with pytest.raises(UserError, match="eval.limit_factor=0.5: must be at least 1"):
        config_check.check(
            dataclasses.replace(small[1], eval=dataclasses.replace(small[1].eval, limit_factor=0.5))
        )


def test_a_killed_evaluation_goes_on_and_a_whole_one_is_not_asked_again(small):
    run, *_ = small
    first, _, _ = ask(small)
    assert ask(small)[2] == []  # nothing is missing: no model is loaded
    file = predictions.predictions_file(run, 3, "first")
    whole = file.read_text()
    file.write_text(whole[: len(whole) // 2])  # a kill left half a file
    again, model, loads = ask(small)
    assert (
        len(loads) == 1
        and len(model.calls[0][0]) == 8
        and file.read_text() == whole
        and again == first
    )
    file.with_suffix(".done.json").unlink()  # a kill between the lines and their key
    assert ask(small)[2] == [1] and ask(small)[2] == []
    assert not list(run.path.rglob("*.part"))


def test_another_setting_or_other_data_are_asked_anew(small):
    run, config, lock, *_ = small
    ask(small)
    found, model, loads = ask(small, max_examples=5)
    assert loads and found["rows"]["first"]["examples"] == 5
    row = lock["evaluation"][0]
    folder = Path(config.data.cache_dir) / row["folder"]
    row["sha256"] = "another"
    with pytest.raises(UserError, match="manifest.json is not what the lock names"):
        ask(small, max_examples=5)
    storage.write_json(folder / "manifest.json", {**cache.read_manifest(folder), "key": "another"})
    row["sha256"] = cache.manifest_hash(folder)
    _, model, _ = ask(small, max_examples=5)
    assert len(model.calls[0][0]) == 10


def test_a_part_of_the_rows_leaves_the_others_standing(small):
    run, config, lock, vocab, right = small
    everything, *_ = ask(small)
    lock["evaluation"] = lock["evaluation"][:1]
    part, _, _ = ask(small, {}, max_examples=2)
    assert set(part["rows"]) == set(everything["rows"])
    assert (
        part["rows"]["first"]["score"] == 0.0
        and part["rows"]["second"] == everything["rows"]["second"]
    )


def test_looks_at_the_test_split_are_logged(small):
    run, *_ = small
    ask(small)
    ask(small)
    ask(small, step=4)
    looks = [json.loads(line) for line in run.test_log.read_text().splitlines()]
    assert looks == [{"step": 3, "rows": 6}, {"step": 4, "rows": 6}]


def test_nearest_neighbours():
    train = ("the cat sat here", "12 plus 34", "北京是中国的首都")
    assert baselines.nearest(
        train, ("a cat sat", "13 plus 34", "首都是北京", ""), (-1,) * 4
    ).tolist() == [0, 1, 2, 0]
    assert baselines.nearest(train, train, (-1, -1, -1)).tolist() == [0, 1, 2]
    assert 0 not in baselines.nearest(train, train[:1], (0,))


def test_a_task_that_copying_solves_is_easy():
    row = {"primary": "generate", "metrics": ["exact_match"]}
    copied = [scored.example(f"word{i} number {i}", f"word{i % 7}") for i in range(40)]
    near = [scored.example(e["input_content"] + " again", e["references"][0]) for e in copied[:20]]
    found = baselines.of_task(row, copied, near, 0.5, 20)
    assert (
        found["neighbour"] == 1.0
        and "nearest training" in found["easy"]
        and found["commonest"] < 0.5
    )
    apart = [
        scored.example(e["input_content"] + " again", f"other{i}")
        for i, e in enumerate(copied[:20])
    ]
    assert baselines.of_task(row, copied, apart, 0.5, 20)["easy"] == ""
    # filled up with training examples, not with themselves
    few = baselines.of_task(row, copied, near[:1], 0.5, 20)
    assert few["examples"] == 20 and few["neighbour"] < 0.5
    options = ["no", "yes"]  # 0.6 of "yes" is 0.2 above the chance of two options
    skewed = [scored.example(f"is it {i}", options[i % 5 > 1], options=options) for i in range(50)]
    found = baselines.of_task({**row, "primary": "rank"}, skewed, skewed[:20], 0.5, 20)
    assert found["commonest"] == pytest.approx(0.2)
    assert baselines.of_task(row, [], near, 0.5, 20) is None
