# SPDX-License-Identifier: Apache-2.0
"""Scores of single answers and of sets; the extractor of written-out reasoning."""

import json

import pytest

from itx.errors import UserError
from itx.eval import metrics, predictions, rouge
from itx.eval.metrics import SCORES, extract
from itx.runs import RunFolder
from itx.tasks.templates import answer_pattern


@pytest.mark.parametrize(
    "name, reference, right, wrong",
    [
        ("exact_match", "Париж", "«париж».", "Берлин"),
        ("exact_match", "A", "(a)", "the a"),
        ("exact_match", "-5", "\u22125", "5"),
        ("exact_match", "A", "a)", "b)"),
        ("exact_match", "Париж", "**Париж**.", "**Берлин**"),
        ("exact_match", "f(x)", "__f(x)__", "f"),
        ("accuracy", "not entailed", "Not entailed.", "entailed"),
        ("exact_string", "ABC!", " ABC! ", "abc!"),
        ("contains", "Париж", "Столица Франции - Париж.", "Столица Германии - Берлин."),
        ("contains", "北京", "首都是北京。", "首都是南京。"),
        ("numeric", "60 км/ч", "Скорость 60,0 км/ч.", "65 км/ч"),
        ("numeric", "1234.5", "it is 1 234,5", "it is 1234"),
        ("numeric", "0", "0.", "no number"),
        ("rouge_l", "the cat sat", "The cat sat.", "dogs run"),
        ("token_f1", "红色的猫", "红色的猫。", "狗"),
        ("squad_f1", "the cat", "cat", "dog"),
    ],
)
def test_right_and_wrong_answers(name, reference, right, wrong):
    assert right != reference
    assert SCORES[name]([reference], right) == 1.0
    assert SCORES[name]([reference], wrong) == 0.0
    # the best reference counts
    assert SCORES[name](["unlike anything 77", reference], right) == 1.0


@pytest.mark.parametrize(
    "reference, right, wrong",
    [
        ("1000000", "1,000,000.0", "1000001"),
        ("0", "0.0", "0.0000001"),
        ("9" * 20, "9" * 20, "9" * 19 + "8"),
        ("2.5", "2.5000001", "2.50001"),
        ("0.000002", "2e-6", "0.0000021"),
    ],
)
def test_whole_numbers_are_met_exactly_and_others_relatively(reference, right, wrong):
    assert SCORES["numeric"]([reference], right) == 1.0
    assert SCORES["numeric"]([reference], wrong) == 0.0


def test_no_two_rows_share_a_file_of_predictions(tmp_path):
    run = RunFolder(tmp_path)
    names = ["x:cot", "x_cot", "x%3Acot", "x/cot", "x@T1", "x:fs4#1"]
    files = {predictions.predictions_file(run, 3, name) for name in names}
    assert len(files) == len(names) and {f.parent for f in files} == {
        run.eval_dir(3) / "predictions"
    }


def test_articles_are_left_out_by_squad_alone():
    assert SCORES["squad_f1"](["the cat"], "a cat") == 1.0
    assert SCORES["token_f1"](["the cat"], "a cat") == 0.5
    assert SCORES["exact_match"](["A"], "") == 0.0


def test_rouge_l_by_hand():
    """Lin (2004): "police killed the gunman" and "police kill the gunman" share 3 words of 4 and 4
    in order."""
    assert SCORES["rouge_l"](
        ["police killed the gunman"], "police kill the gunman"
    ) == pytest.approx(0.75)
    assert SCORES["rouge_l"](
        ["police killed the gunman"], "the gunman kill police"
    ) == pytest.approx(0.5)
    assert SCORES["rouge_l"](["Столица Франции Париж"], "Париж") == pytest.approx(0.5)
    assert SCORES["rouge_l"](["北京是首都"], "北京首都") == pytest.approx(8 / 9)
    assert SCORES["rouge_l"](["a"], "") == 0.0


def test_lcs_against_the_textbook_table():
    import random

    def table(a, b):
        rows = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
        for i, x in enumerate(a):
            for j, y in enumerate(b):
                rows[i + 1][j + 1] = (
                    rows[i][j] + 1 if x == y else max(rows[i][j + 1], rows[i + 1][j])
                )
        return rows[-1][-1]

    draw = random.Random(0)
    for _ in range(200):
        a, b = (draw.choices("abcd", k=draw.randint(0, 90)) for _ in range(2))
        assert rouge.lcs_length(a, b) == table(a, b)


def test_rouge_l_agrees_with_the_t5_test_data(shared):
    """Every text is one line, where rougeLsum is rougeL; the expected value is a bootstrap's
    median."""
    folder = shared / "conformance" / "t5_rouge"
    if not folder.is_dir():
        pytest.skip("conformance/t5_rouge is absent")
    targets, predictions = (
        (folder / f"{n}_large.txt").read_text().split("\n") for n in ("target", "prediction")
    )
    expected = json.loads((folder / "expected_bootstrap_results.json").read_text())["rougeLsum"]
    lines = [(t, p) for t, p in zip(targets, predictions, strict=True) if t]
    found = metrics.rouge_l(*zip(*lines, strict=True))["rouge_l"]
    assert 100 * found == pytest.approx(expected, abs=0.1)
    shuffled = metrics.rouge_l([t for t, _ in lines], [p for _, p in lines[1:] + lines[:1]])[
        "rouge_l"
    ]
    assert 100 * shuffled < expected - 10


def test_sets_of_answers_as_seqio_calls_them():
    assert metrics.exact_match(["a", ["b", "c"], "d"], ["A.", "c", "e"]) == {
        "exact_match": pytest.approx(2 / 3)
    }
    assert metrics.numeric(targets=["1,5"], predictions=["1.5"]) == {"numeric": 1.0}
    assert set(metrics.METRICS) == set(SCORES)
    with pytest.raises(ValueError):
        metrics.accuracy(["a", "b"], ["a"])


def half(targets, predictions):
    return {"half": 0.5 if targets == predictions else 0.0}


def test_metrics_by_name_and_by_module():
    metrics.trust(["tests.eval"])
    assert metrics.resolve("rouge_l") is metrics.rouge_l
    assert metrics.per_example("itx.eval.metrics:contains") is SCORES["contains"]
    mine = metrics.per_example(f"{half.__module__}:half")
    assert mine(["a"], "a") == 0.5 and mine(["a"], "b") == 0.0
    with pytest.raises(UserError, match="did you mean 'exact_match'"):
        metrics.resolve("exact_mach")
    with pytest.raises(UserError, match="nowhere:f"):
        metrics.resolve("nowhere:f")


@pytest.mark.parametrize("function", ["score", "os.system", "Other"])
def test_what_a_lock_names_is_no_code_to_run(tmp_path, monkeypatch, function):
    """A module that the user did not name is not imported; of one that is trusted only its own
    functions are called."""
    name = f"code_of_a_stranger_{function.replace('.', '_')}"
    ran = tmp_path / "ran"
    (tmp_path / f"{name}.py").write_text(
        f"import os, pathlib\npathlib.Path({str(ran)!r}).touch()\n"
        "class Other: pass\ndef score(targets, predictions):\n    return {'score': 1.0}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    refused = False
    try:
        metrics.resolve(f"{name}:{function}")
    except UserError:
        refused = True
    assert refused and not ran.exists()
    metrics.trust([name])
    if function == "score":
        assert metrics.resolve(f"{name}:score")(["a"], ["b"]) == {"score": 1.0} and ran.exists()
    else:
        with pytest.raises(UserError, match="not a function that"):
            metrics.resolve(f'{name}:{function} [["true"], {{}}]')


def test_a_lock_that_names_a_shell_runs_none():
    with pytest.raises(UserError, match="pty:spawn"):
        metrics.resolve('pty:spawn [[["/bin/true"]], {}]')


def test_the_answer_is_the_last_match_of_the_target_pattern():
    pattern = answer_pattern("{rationale}\nThe answer is {answer}.")
    assert extract(pattern, "3 + 4.5 make 7.5.\nThe answer is 7.5.") == "7.5"
    assert extract(pattern, "The answer is 3. No.\nThe answer is 4.") == "4"
    assert extract(pattern, "It must be 4.") is None
    assert (
        extract(answer_pattern("{rationale}\nОтвет: {answer}."), "120 / 2 = 60.\nОтвет: 60 км/ч.")
        == "60 км/ч"
    )
    assert extract(None, " whole text ") == "whole text"
