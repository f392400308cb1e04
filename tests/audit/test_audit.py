# SPDX-License-Identifier: Apache-2.0
"""The audit counts, finds planted leaks, and measures what the loader really yields."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
from rich.console import Console

from itx.audit import audit as audits
from itx.audit import judgement, mixture, printed, tasks
from itx.data import cache
from itx.data.loader import Batches
from itx.data.lock import LockedData
from itx.eval import tables
from tests import scored


@pytest.fixture
def small(tmp_path):
    _, config, lock, vocab, _ = scored.small_run(tmp_path)
    return lock, config, vocab


def measure(lock, config):
    return audits.audit(lock, config.data.cache_dir, config)


def test_a_sound_lock_passes(small):
    lock, config, _ = small
    facts = measure(lock, config)
    assert facts["errors"] == facts["warnings"] == [] == facts["leaks"]["left"]
    first = facts["tasks"]["first"]
    assert first["read"] == first["kept"] + sum(first["skipped"].values()) == 43
    assert first["skipped"] == {"empty": 3} and first["templates"] == 1
    for share in ("rate", "input_share", "target_share"):
        assert sum(f[share] for f in facts["tasks"].values()) == pytest.approx(1.0)
    assert set(facts["baselines"]) == {"first", "parity"}
    assert json.loads(json.dumps(facts)) == facts  # plain values only


def test_a_record_that_is_neither_kept_nor_skipped_is_an_error(small):
    lock, config, _ = small
    lock["tasks"][0]["audit"]["read"] += 1
    assert measure(lock, config)["errors"] == ["task first: 44 records read but 43 kept or skipped"]


def test_examples_and_tokens_are_those_of_the_batches(small):
    lock, config, _ = small
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, steps=12))
    batches = Batches(lock, config.data.cache_dir)
    steps = config.train.steps
    segments = targets = filled = 0
    for t in range(steps):
        batch = batches.batch(t)
        segments += int(batch["decoder_segment_ids"].max(1).sum())
        targets += int((batch["decoder_loss_weights"] > 0).sum())
        filled += int((batch["decoder_segment_ids"] > 0).sum())
    mixture = measure(lock, config)["mixture"]
    assert mixture["examples"] == segments > 0
    assert mixture["filled"] == filled / (steps * lock["global_batch"] * lock["sequence_length"])
    assert mixture["target_tokens"] == pytest.approx(targets, rel=0.03)


def test_epochs(small):
    lock, config, _ = small
    facts = measure(lock, config)
    first = facts["tasks"]["first"]
    assert first["effective_epochs"] == pytest.approx(
        facts["mixture"]["examples"] * 0.75 / 40, rel=0.02
    )
    longer = dataclasses.replace(config, train=dataclasses.replace(config.train, steps=60))
    warned = measure(lock, longer)
    assert warned["errors"] == [] and warned["warnings"][0].startswith("task first: ")
    strict = dataclasses.replace(longer, data=dataclasses.replace(longer.data, max_epochs=4.0))
    assert "data.max_epochs is 4" in measure(lock, strict)["errors"][0]


def test_unigram_entropy_by_counting_the_batches_tokens(small):
    lock, config, _ = small
    batches = Batches(lock, config.data.cache_dir)
    data = LockedData(lock, config.data.cache_dir)
    for weighting in ("token", "example", "task"):
        other = {**lock, "weighting": weighting}
        batches.lock = other
        # what the loader makes of task["target_tokens"], which these locks leave open
        for i in range(2):
            batches.weights[i] = 40 / sum(len(batches.segment(i, r, 0)[1]) for r in range(40))
        counts: dict[int, float] = {}
        for i, task in enumerate(lock["tasks"]):
            for record in range(40):
                _, target, weights = batches.segment(i, record, 0)
                for token, w in zip(target, weights, strict=True):
                    counts[token] = counts.get(token, 0.0) + w * task["rate"] / 40
        p = np.array(list(counts.values())) / sum(counts.values())
        assert mixture.unigram_entropy(other, data) == pytest.approx(
            float(-(p * np.log(p)).sum()), rel=1e-6
        ), weighting


def planted(tmp_path, evaluation: list[str], training: list[str], excluded=()):
    """A lock whose training folder holds `training` beside its own inputs."""
    _, config, lock, vocab, _ = scored.small_run(tmp_path)
    where, pad = scored.Path(config.data.cache_dir), scored.pairs(0, 40)
    mine = [scored.example(t, "red") for t in training] + [scored.example(c, a) for c, a in pad]
    lock["sequence_length"] = 256
    made = scored.folder(where, "planted/train/r0-c", mine, vocab)
    lock["tasks"].append(scored.task(made, "planted", "pick", 0.1, excluded=excluded))
    asked = scored.folder(
        where, "asked/test/r0-c", [scored.example(t, "red") for t in evaluation], vocab
    )
    lock["evaluation"].append(scored.row(asked, "asked", "pick", "extra"))
    return measure(lock, config)


def test_an_equal_input_is_found_however_short(tmp_path):
    facts = planted(tmp_path, ["one two"], ["one two"])
    pair = {"train": "planted", "evaluation": "asked", "how": "equal input", "records": 1}
    assert (
        facts["leaks"]["left"] == [pair]
        and "planted" in facts["errors"][0]
        and "asked" in facts["errors"][0]
    )


def test_what_the_build_left_out_is_no_leak(tmp_path):
    assert planted(tmp_path, ["one two"], ["one two"], excluded=[0])["leaks"]["left"] == []


@pytest.mark.parametrize(
    "script, length",
    [(lambda i: f"word{i} ", 13), (lambda i: chr(0x4E00 + i), 26)],
    ids=["words", "characters"],
)
def test_a_long_shared_run_is_found_and_a_shorter_one_is_not(tmp_path, script, length):
    """Of an input of which it is no large part."""

    def sentence(first: int, n: int) -> str:
        return "".join(script(i) for i in range(first, first + n)).strip()

    gap = " " if length == 13 else ""
    asked = gap.join([sentence(100, 4 * length), sentence(300, length)])
    longer = gap.join([sentence(500, 5), sentence(300, length), sentence(600, 40)])
    found = planted(tmp_path / "a", [asked], [longer])["leaks"]["left"]
    assert [(p["how"], p["records"]) for p in found] == [("shared run of words", 1)]
    cut = gap.join([sentence(500, 5), sentence(300, length // 2), sentence(600, 40)])
    assert planted(tmp_path / "b", [asked], [cut])["leaks"]["left"] == []


def test_a_phrase_of_many_training_inputs_is_no_leak_and_an_input_in_many_is(tmp_path):
    phrase = " ".join(f"word{i}" for i in range(13))
    often = [f"{phrase} and {c}" for c in "abcdefghijk"]
    longer = phrase + " " + " ".join(f"more{i}" for i in range(30))
    assert planted(tmp_path / "a", [longer], often)["leaks"]["left"] == []
    assert planted(tmp_path / "b", [longer], often[:2])["leaks"]["left"][0]["records"] == 2
    assert planted(tmp_path / "c", [phrase], often)["leaks"]["left"][0]["records"] == len(often)


def test_it_is_shown_and_imports_nothing_heavy(small, capsys):
    lock, config, _ = small
    lock["leaks"] = [{"train": "first", "evaluation": "held", "how": "equal input", "dropped": 7}]
    printed.print_audit(measure(lock, config))
    shown = capsys.readouterr().out
    assert "first" in shown and "empty 3" in shown and "7 training records left out" in shown
    code = (
        "import sys, itx.audit.audit, itx.eval.evaluate, itx.audit.baselines; "
        "print([m for m in ('jax', 'tensorflow', 'seqio', 'matplotlib') if m in sys.modules])"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip()
        == "[]"
    )


def test_unknown_tokens_and_missing_exemplars_are_told(small):
    lock, config, _ = small
    facts = measure(lock, config)
    first = facts["tasks"]["first"]
    assert (
        first["unknown_share"] == 0
        and first["template_share"] == [1.0, 1.0]
        and facts["warnings"] == []
    )
    for share, kind in ((0.05, "warnings"), (0.5, "errors")):
        tasks = {**facts["tasks"], "first": {**first, "unknown_share": share}}
        assert judgement.judge({**facts, "tasks": tasks}, config)[kind][0].startswith(
            f"task first: the vocabulary does not know {share:.1%} of its tokens"
        )
    few = {**first, "fewshot": {"asked": 4, "fewer": 12, "none": 3}}
    said = judgement.judge({**facts, "tasks": {**facts["tasks"], "first": few}}, config)["warnings"]
    assert said == ["task first: 12 renderings show fewer than 4 exemplars, 3 of them none"]


def test_lengths_that_fill_rows_better_are_proposed(small, capsys):
    lock, config, _ = small
    lock |= {
        "architecture": "encoder_decoder",
        "sequence_length": 128,
        "target_length": 128,
        "loss_positions": [128],
    }
    facts = measure(lock, config)
    pair = facts["mixture"]["lengths"]
    wanted = {k: pair[k] for k in ("sequence_length", "target_length")}
    assert wanted["sequence_length"] == 128 > wanted["target_length"] and facts["warnings"] == []
    printed.print_audit(facts)
    shown = " ".join(capsys.readouterr().out.split())
    assert all(f"data.{k}={v}" in shown for k, v in wanted.items())
    # every window's rows
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, steps=400))
    wanted["loss_positions"] = [wanted["target_length"]]
    now, better = measure(lock, config)["mixture"], measure(lock | wanted, config)["mixture"]
    assert better["lengths"] == {} and better["filled_sides"][1] > 2 * now["filled_sides"][1]
    assert better["filled_sides"][0] > now["filled_sides"][0] - 0.05


def test_the_loss_positions_of_the_steps_are_told(small, capsys):
    lock, config, _ = small
    lock |= {"target_length": 64, "loss_positions": [2, 4, 64]}
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, steps=12))
    facts = measure(lock, config)
    batches = Batches(lock, config.data.cache_dir)
    widths = [batches.batch(t)["loss_positions"].shape[1] for t in range(12)]
    told = facts["mixture"]["loss_positions"]
    assert told == {str(c): widths.count(c) / 12 for c in (2, 4, 64)} and len({*widths}) > 1
    printed.print_audit(facts)
    assert f"logits at 2 in {told['2']:.0%} of steps" in " ".join(capsys.readouterr().out.split())


def with_task(small_run, examples, name="more", rate=0.5, exemplars=(), empty=(), **manifest):
    """The run's lock with one more training task; `exemplars`: of each example, contents; `empty`:
    records without a target; manifest: more of what it says."""
    _, config, lock, vocab, _ = small_run
    where = scored.Path(config.data.cache_dir)
    records = [
        [
            (vocab.encode(e["prompt"]), False),
            ([] if i in empty else vocab.encode(e["target"]), True),
        ]
        for i, e in enumerate(examples)
    ]
    hashes = [int(e["content"], 16) for e in examples]
    shots = [
        tuple(int(scored.example(c, "x")["content"], 16) for c in shown) for shown in exemplars
    ]
    columns = cache.Columns.of(records, hashes, [0] * len(records), vocab.size, shots)
    folder = f"{name}/train/r0-x"
    cache.write(
        where / folder, columns, {**scored.MANIFEST, "templates": ["t1"], **manifest}, examples
    )
    made = {
        "folder": folder,
        "sha256": cache.manifest_hash(where / folder),
        "records": len(records),
    }
    return {**lock, "tasks": [*lock["tasks"], scored.task(made, name, "pick", rate)]}, config


def other_inputs(n: int) -> list[dict]:
    return [scored.example(f"more {i}", "red") for i in range(n)]


def test_repeated_and_shared_inputs(tmp_path):
    examples = other_inputs(8)
    # inputs of the task "first"
    theirs = [scored.example(c, "blue") for c, _ in scored.pairs(0, 4)]
    lock, config = with_task(
        scored.small_run(tmp_path), [*examples, *examples[:4], *theirs], repeated=4
    )
    facts = measure(lock, config)
    more, first = facts["tasks"]["more"], facts["tasks"]["first"]
    assert (more["repeated"], more["duplicate_share"], more["shared"]) == (4, 0.25, 4)
    assert (first["repeated"], first["duplicate_share"], first["shared"]) == (0, 0, 4)
    assert facts["tasks"]["parity"]["shared"] == 0 and facts["errors"] == []
    lock["tasks"][-1]["audit"] |= {
        "read": 32,
        "skipped": {"repeated input": 16},
    }  # what the build leaves out counts too
    facts = measure(lock, config)
    assert facts["tasks"]["more"]["duplicate_share"] == 20 / 32
    assert facts["errors"] == [
        "task more: 62.5% of its records repeat an input; data.max_duplicates is 0.5"
    ]
    lax = dataclasses.replace(config, data=dataclasses.replace(config.data, max_duplicates=0.7))
    assert measure(lock, lax)["errors"] == []


def test_faults_of_the_data_are_told_once_per_task_with_an_example(small):
    lock, config, _ = small
    first = {
        "another answer to a repeated input": "a:9 has 'x' where a:1 has 'y'",
        "empty answer": "a:7: an empty answer",
    }
    counts = {"another answer to a repeated input": 3, "empty answer": 1, "too short": 2}
    told = [x for x in measure(lock, config)["warnings"] if "e.g. a:" in x]
    assert told == []
    for of in (lock["tasks"][0], lock["evaluation"][0]):
        of["audit"] |= {
            "read": of["audit"]["read"] + 6,
            "skipped": of["audit"]["skipped"] | counts,
            "first": first,
        }
    facts = measure(lock, config)
    told = [x for x in facts["warnings"] if "e.g. a:" in x]
    assert facts["errors"] == [] and facts["tasks"]["first"]["duplicate_share"] > 0
    assert told == [
        f"{what}: {line}"
        for what in ("task first", f"evaluation task {lock['evaluation'][0]['task']}")
        for line in (
            "3 records give another answer to an input that was there before, and the first "
            "answer is kept, e.g. a:9 has 'x' where a:1 has 'y'",
            "1 records are left out (empty answer), e.g. a:7: an empty answer",
        )
    ]


def test_cut_prompts(small):
    lock, config, _ = small
    assert measure(lock, config)["tasks"]["first"]["cut_share"] == 0
    lock["tasks"][0]["audit"] |= {"cut": 30, "cut_tokens": 90}
    facts = measure(lock, config)
    assert facts["tasks"]["first"]["cut_share"] == 0.75
    assert facts["errors"] == [
        "task first: 75.0% of its examples are cut to fit a row; data.max_cut is 0.5"
    ]


def test_examples_without_a_target(tmp_path):
    lock, config = with_task(scored.small_run(tmp_path), other_inputs(9), empty=(2, 5))
    facts = measure(lock, config)
    assert facts["tasks"]["more"]["no_target"] == 2 and facts["tasks"]["first"]["no_target"] == 0
    assert facts["errors"] == ["task more: 2 examples have no token to train on before EOS"]


@pytest.mark.parametrize("architecture", ["decoder", "encoder_decoder"])
def test_eos_is_looked_for_in_what_the_loader_gives(small, monkeypatch, architecture):
    lock, config, _ = small
    lock["architecture"] = architecture
    first = measure(lock, config)["tasks"]["first"]
    assert first["eos_trained"] == first["pieces_loaded"] == tasks.LOADED_EXAMPLES
    true = Batches.segment

    def unweighted(self, task, record, rendering):
        prompt, ids, weights = true(self, task, record, rendering)
        return prompt, ids, weights * (np.arange(len(ids)) < len(ids) - (task == 0))

    monkeypatch.setattr(Batches, "segment", unweighted)
    facts = measure(lock, config)
    assert (
        facts["tasks"]["first"]["eos_trained"] == 0 and facts["tasks"]["parity"]["eos_trained"] > 0
    )
    assert facts["errors"] == [
        "task first: only 0 of 32 trained pieces end in EOS under the loss; the model would not "
        "learn to stop"
    ]
    # data.too_long asked for it
    lock["tasks"][0]["audit"] |= {"cut_targets": 3, "cut_target_tokens": 9}
    facts = measure(lock, config)
    assert facts["errors"] == [] and facts["warnings"][0].endswith(
        "under the loss, for targets are cut"
    )


def test_more_eos_under_the_loss_than_pieces_is_an_error(small):
    """A text of the data that is read as EOS would teach the model to stop within an answer."""
    lock, config, _ = small
    facts = measure(lock, config)
    first = facts["tasks"]["first"]
    assert (
        first["eos_trained"] == first["pieces_loaded"]
        and not judgement.judge(facts, config)["errors"]
    )
    doubled = {**first, "eos_trained": 2 * first["pieces_loaded"]}
    errors = judgement.judge({**facts, "tasks": {**facts["tasks"], "first": doubled}}, config)[
        "errors"
    ]
    assert [
        e for e in errors if e.startswith("task first: 64 EOS under the loss in 32 trained pieces")
    ]
    within = {**first, "eos_within": 3}  # of all its pieces, which the sample above need not show
    errors = judgement.judge({**facts, "tasks": {**facts["tasks"], "first": within}}, config)[
        "errors"
    ]
    assert [e for e in errors if e.startswith("task first: 3 EOS stand within its trained pieces")]


def test_exemplars_that_are_the_example_or_evaluations(tmp_path):
    run = scored.small_run(tmp_path)
    examples = other_inputs(6)
    shown = [["more 1", "more 2"], ["more 0"], ["more 2"], ["more 4"], ["more 5"], []]
    lock, config = with_task(run, examples, exemplars=shown)
    facts = measure(lock, config)
    assert facts["leaks"]["exemplars"] == [
        {"of": "task more", "how": "is the example itself", "records": 1}
    ]
    assert facts["errors"] == [
        "task more: 1 renderings show an exemplar that is the example itself"
    ]
    sound = [s if i != 2 else ["more 3"] for i, s in enumerate(shown)]
    lock, config = with_task(run, examples, name="sound", exemplars=sound)
    assert measure(lock, config)["errors"] == []
    # the same prompts in evaluation: they show what is asked elsewhere, and one of them what it
    # asks itself
    lock, config = with_task(run, examples, name="asked", exemplars=shown)
    folder = {k: lock["tasks"][-1][k][0] for k in ("sha256",)} | {
        "folder": lock["tasks"][-1]["folders"][0]
    }
    row = scored.row(
        {**folder, "templates": ["t1"], "max_target_tokens": 2}, "asked", "pick", "extra"
    )
    assert measure({**run[2], "evaluation": [*run[2]["evaluation"], row]}, config)["leaks"][
        "exemplars"
    ] == [
        {"of": "evaluation row asked", "how": "is an evaluation example", "records": 5},
        {"of": "evaluation row asked", "how": "is the example itself", "records": 1},
    ]


def test_the_share_removed_is_told_per_pair(small, capsys):
    lock, config, _ = small
    lock["leaks"] = [
        {"train": "first", "evaluation": e, "how": how, "dropped": n}
        for e, how, n in (
            ("held", "equal input", 7),
            ("held", "shared run of words", 1),
            ("other", "x", 2),
        )
    ]
    pairs = [
        {"train": "first", "evaluation": e, "removed": n, "share": n / 50}
        for e, n in (("held", 8), ("other", 2))
    ]
    facts = measure(lock, config)
    assert facts["leaks"]["pairs"] == pairs and facts["errors"] == []
    printed.print_audit(facts)
    shown = [
        [c.strip() for c in line.strip("│").split("│")]
        for line in capsys.readouterr().out.splitlines()
    ]
    assert ["first", "held", "8", "16.0%"] in shown
    strict = dataclasses.replace(
        config, data=dataclasses.replace(config.data, max_contamination=0.1)
    )
    assert measure(lock, strict)["errors"] == [
        "task first: 16.0% of its records are in evaluation task held and left out; "
        "data.max_contamination is 0.1"
    ]


def test_tables_fit_120_columns(small, capsys, monkeypatch):
    lock, config, _ = small
    lock["tasks"][0]["name"] = "ni.subtask045_miscellaneous_sentence_paraphrasing"
    monkeypatch.setattr(tables, "console", lambda: Console(width=120))
    printed.print_audit(measure(lock, config))
    lines = [line for line in capsys.readouterr().out.splitlines() if line and line[0] in "┏┃│└"]
    assert (
        len(lines) > 10 and max(map(len, lines)) == 120 and not any("…" in line for line in lines)
    )
