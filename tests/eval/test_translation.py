# SPDX-License-Identifier: Apache-2.0
"""Metrics of a whole set (BLEU, chrF): equal to sacrebleu, scored over a row, with intervals;
ROUGE's variants and stems."""

import functools
import itertools
import json
import random
from pathlib import Path

import numpy as np
import pytest

from itx.audit import baselines
from itx.errors import UserError
from itx.eval import chance, metrics, predictions, stats, summary
from itx.eval.evaluate import evaluate
from itx.runs import RunFolder
from tests import scored

GOLDEN = Path(__file__).parents[1] / "golden" / "rouge.json"
WORDS = "the a cat sat on mat , . Он пришёл домой поздно and dogs ran over it".split()


def set_of_answers(n: int = 24, references: int = 3) -> tuple[list[list[str]], list[str]]:
    """References, up to so many of each, and answers that are right in about two words of three."""
    draw = random.Random(3)
    wanted = [
        [
            " ".join(draw.choices(WORDS, k=draw.randint(2, 14)))
            for _ in range(draw.randint(1, references))
        ]
        for _ in range(n)
    ]
    return wanted, [
        " ".join(w if draw.random() < 0.7 else draw.choice(WORDS) for w in r[0].split())
        for r in wanted
    ]


def test_bleu_and_chrf_are_sacrebleus_corpus_scores():
    assert {"bleu", "chrf"} <= set(metrics.METRICS)
    import sacrebleu

    wanted, said = set_of_answers()
    streams = list(itertools.zip_longest(*wanted))
    for ours, theirs in (
        (metrics.bleu(wanted, said)["bleu"], sacrebleu.corpus_bleu(said, streams)),
        (
            metrics.bleu(wanted, said, tokenize="char")["bleu"],
            sacrebleu.corpus_bleu(said, streams, tokenize="char"),
        ),
        (metrics.chrf(wanted, said)["chrf"], sacrebleu.corpus_chrf(said, streams)),
        (
            metrics.chrf(wanted, said, word_order=2)["chrf"],
            sacrebleu.corpus_chrf(said, streams, word_order=2),
        ),
    ):
        assert 100 * ours == pytest.approx(theirs.score, abs=1e-9) and 0.2 < ours < 0.9
    mean_of_answers = np.mean(
        [metrics.SCORES["bleu"](r, p) for r, p in zip(wanted, said, strict=True)]
    )
    # a set's score is no mean
    assert abs(mean_of_answers - metrics.bleu(wanted, said)["bleu"]) > 0.01


def test_chinese_and_japanese_are_cut_into_words_unless_told_otherwise():
    """As one word per sentence, a translation of nine right characters in ten would score
    nothing."""
    assert "bleu" in metrics.METRICS
    for reference, said, tokenizer in (
        ("今天的天气非常好，我们去公园。", "今天的天气非常好，他们去公园。", "tok:zh"),
        ("彼は昨日ここに来ましたと言った。", "彼は昨日ここに来ましたと話した。", "tok:char"),
        ("Он вчера пришёл домой поздно.", "Он вчера пришёл домой рано.", "tok:13a"),
    ):
        found = metrics.set_metric("bleu", [[reference]])
        assert (
            tokenizer in found.signature([[reference]])
            and found.of_set([[reference]], [said]) > 0.5
        )
    chinese = (["今天的天气非常好，我们去公园。"], ["今天的天气非常好，他们去公园。"])
    assert (
        metrics.bleu(*chinese, tokenize="13a")["bleu"]
        < 0.5
        < metrics.bleu(*chinese, tokenize="zh")["bleu"]
    )
    with pytest.raises(UserError, match=r"unknown tokenize='zn'; did you mean 'zh'"):
        metrics.bleu(*chinese, tokenize="zn")


def translations(folder) -> tuple:
    """A run whose one row is a translation: two templates, five contents, answers that are partly
    right."""
    run, where = RunFolder(folder / "run"), folder / "cache"
    vocab = scored.vocabulary(run.vocab_model)
    pairs = [
        (f"{a} {b}", f"So it is {a} of {b}. Name {b} the {a}")
        for a, b in itertools.pairwise(scored.COLOURS[:6])
    ]
    examples = [scored.example(c, a, template=t) for c, a in pairs for t in ("t1", "t2")]
    made = scored.folder(where, "to_lumo/test/r0-b", examples, vocab)
    row = scored.row(
        made, "to_lumo", "translation", "tasks", grade="new argument", metrics=["bleu", "chrf"]
    )
    lock = scored.lock([], [row], vocab)
    said = {
        e["prompt"]: e["references"][0].replace("Name", "even" if i % 3 else "Name it")
        for i, e in enumerate(examples)
    }
    return run, scored.config(where, max_examples=0), lock, scored.Reciter(vocab, said)


def test_a_row_is_scored_as_a_whole_and_its_answers_one_by_one(tmp_path):
    assert "bleu" in metrics.METRICS
    import sacrebleu

    run, config, lock, model = translations(tmp_path)
    found = evaluate(lambda: model, lock, config, run, 3, say=lambda _: None)
    row, lines = found["rows"]["to_lumo"], predictions.read_predictions(run, 3, "to_lumo")
    said, wanted = [x["prediction"] for x in lines], [[x["references"][0] for x in lines]]
    assert 100 * row["score"] == pytest.approx(sacrebleu.corpus_bleu(said, wanted).score, abs=1e-9)
    assert row["metrics"]["bleu"] == row["score"] != row["metrics"]["chrf"]
    assert 100 * row["metrics"]["chrf"] == pytest.approx(
        sacrebleu.corpus_chrf(said, wanted).score, abs=1e-9
    )
    assert row["score"] != pytest.approx(np.mean([x["score"] for x in lines]), abs=1e-3)
    assert "tok:13a" in row["signatures"]["bleu"] and row["interval_from"] == "bootstrap"
    low, high = row["interval"]
    assert 0 <= low < row["score"] < high <= 1 and (row["examples"], row["prompts"]) == (5, 10)
    (group,) = found["groups"]
    assert group["mean"] == pytest.approx(row["corrected"]) and group["score"] == pytest.approx(
        row["score"]
    )
    again = summary.write_scores(run, 3, [], lock, config)  # a row that is kept needs no lock
    assert again["groups"] == found["groups"]


def test_chance_is_what_one_answer_scores_on_the_whole_set(tmp_path):
    assert "bleu" in metrics.METRICS
    row = {"primary": "generate", "metrics": ["bleu"]}
    wanted, said = set_of_answers(references=1)
    asked = [{"references": r} for r in wanted]
    constant = metrics.bleu(wanted, [wanted[0][0]] * len(wanted))["bleu"]
    assert chance.commonest_score(wanted[0][0], row, asked) == constant > 0
    records = [
        {"references": r, "options": None, "input_content": f"number {i}"}
        for i, r in enumerate(wanted)
    ]
    found = baselines.of_task(row, records[:12], records[12:], easy=0.5, most=12)
    right = [r[0] for r in wanted[12:]]
    assert found["commonest"] in [metrics.bleu(right, [a] * 12)["bleu"] for (a,) in wanted[:12]]


def test_the_interval_is_that_of_resampled_sets():
    assert hasattr(stats, "influences")
    wanted, said = set_of_answers(60, 1)
    counted = metrics.set_metric("bleu", wanted)
    counts = counted.counts(wanted, said)
    value, (low, high) = stats.of_counts(counts, counted.score)
    rng = np.random.default_rng(9)
    drawn = [rng.integers(60, size=60) for _ in range(300)]
    again = [counted.of_set([wanted[i] for i in d], [said[i] for i in d]) for d in drawn]
    assert (low, high) == pytest.approx(np.quantile(again, [0.025, 0.975]), abs=0.02)
    added = stats.influences(counts, counted.score)  # what averages over tasks take
    assert np.mean(added) == pytest.approx(value) == counted.of_set(wanted, said)
    assert np.std(added, ddof=1) / 60**0.5 == pytest.approx(np.std(again), rel=0.2)
    assert stats.of_counts(counts[:1], counted.score)[1] == (0.0, 1.0)


# ---- ROUGE: figures of rouge_score 0.1.2 (tests/golden/rouge.json: reference, answer, stemmed, F1
# of each kind)

KINDS = {"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_l": "rougeL", "rouge_lsum": "rougeLsum"}


def test_rouge_is_that_of_rouge_score(golden_rouge):
    assert set(KINDS) <= set(metrics.METRICS)
    kinds = {(x["stem"], kind) for x in golden_rouge for kind in KINDS if x[KINDS[kind]] > 0}
    assert kinds == set(itertools.product(("", "english"), KINDS))
    assert any(x["rougeL"] != x["rougeLsum"] for x in golden_rouge)
    for x in golden_rouge:
        for ours, theirs in KINDS.items():
            score = metrics.per_example(
                metrics.name_of(functools.partial(metrics.METRICS[ours], stem=x["stem"]))
            )
            assert score(["", x["reference"]], x["answer"]) == pytest.approx(x[theirs], abs=1e-9), (
                ours,
                x,
            )


@pytest.fixture
def golden_rouge():
    return json.loads(GOLDEN.read_text(encoding="utf-8"))


@pytest.mark.parametrize("kind", ["rouge_1", "rouge_2", "rouge_lsum"])
def test_rouge_agrees_with_the_t5_test_data(shared, kind):
    """The expected value is the median of a bootstrap's resamples, which are drawn without a
    seed."""
    assert kind in metrics.METRICS
    folder = shared / "conformance" / "t5_rouge"
    if not folder.is_dir():
        pytest.skip("conformance/t5_rouge is absent")
    targets, predictions = (
        (folder / f"{n}_large.txt").read_text().split("\n") for n in ("target", "prediction")
    )
    expected = json.loads((folder / "expected_bootstrap_results.json").read_text())[KINDS[kind]]
    lines = [(t, p) for t, p in zip(targets, predictions, strict=True) if t]
    found = metrics.METRICS[kind](*zip(*lines, strict=True))[kind]
    assert 100 * found == pytest.approx(expected, abs=0.1)


def test_stems_of_other_languages_and_of_none():
    assert "rouge_1" in metrics.METRICS
    pair = (["кошки бежали быстро"], ["кошка бежала быстро"])
    assert metrics.rouge_1(*pair) == {"rouge_1": pytest.approx(1 / 3)}
    assert metrics.rouge_1(*pair, stem="russian") == {"rouge_1": 1.0}
    with pytest.raises(UserError, match="stem='rusian' .*did you mean 'russian'"):
        metrics.rouge_1(*pair, stem="rusian")


def test_options_travel_by_name_and_unknown_ones_are_refused():
    stemmed = "itx.eval.metrics:rouge_l " + json.dumps([[], {"stem": "english"}])
    assert metrics.per_example(stemmed)(["running dogs"], "run dog") == 1.0
    assert metrics.name_of(functools.partial(metrics.rouge_l, stem="english")) == stemmed
    assert metrics.shown(stemmed) == "rouge_l, stem=english"
    for wrong in ('rouge_l [[], {"sten": "x"}]', "rouge_l [[1], {}]", "rouge_l nonsense"):
        with pytest.raises(UserError, match="rouge_l"):
            metrics.resolve(wrong)


def test_translations_are_scored_as_translations():
    from itx.tasks import registry
    from tasks import natural_instructions, translation

    for name in translation.PAIRS:
        assert registry.TASKS[name].metrics == ("chrf", "bleu"), name
    document = {
        "Definition": ["Translate."],
        "Instances": [{"input": "one", "output": ["ein ganz langer Satz"], "id": "1"}],
    }
    entry = {"task": "task1_x", "category": "Translation", "source": ["wmt"]}
    assert natural_instructions.ni_task(entry, document).metrics == ("chrf", "bleu")
    other = natural_instructions.ni_task(entry | {"category": "Paraphrasing"}, document)
    assert "rouge_l" in other.metrics
