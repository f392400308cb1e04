# SPDX-License-Identifier: Apache-2.0
"""A user's own SeqIO module (T5's style) builds, trains and is evaluated unchanged:
foreign_tasks.py.

SeqIO's side of each comparison is made by SeqIO alone, in foreign_probe.py.
"""

import json
import subprocess
import sys

import pytest

from itx import storage
from itx.data import cache
from itx.data import lock as locks
from itx.errors import UserError
from itx.eval import foreign, metrics, predictions
from itx.runs import RunFolder
from itx.tasks import registry
from tests import samples
from tests.conftest import REPO, one_device

SCORED = ("user.short:v1", "user.long")


@pytest.fixture(scope="module")
def vocabulary(sample_cache, sample_locks):
    return str(sample_cache / sample_locks["sample_held"]["vocabulary"]["file"])


@pytest.fixture(scope="module")
def run(tmp_path_factory, vocabulary):
    """(run folder, lock, cache folder) of a few steps of T5 on `user_mix`."""
    folder = tmp_path_factory.mktemp("foreign")
    recipe = samples.write_recipe(folder, folder / "cache", mixture="user_mix", architecture="encoder_decoder",
                                  modules=("tests.sample_tasks", "tests.text_tasks", "tests.prepare.foreign_tasks"), eval_examples=24, workers=1)  # fmt: skip
    samples.itx("train", recipe, "--run_dir", folder / "run", "--eval.split=validation", "--eval.max_examples=0",
                "--eval.before=False", "--eval.tasks=user.half,sample_even", "--eval.retention=text_prefix_lm", ITX_TEST_VOCABULARY=vocabulary)  # fmt: skip
    found = RunFolder(folder / "run")
    return found, locks.read(found.lock_json), folder / "cache"


@pytest.fixture(scope="module")
def lines(run):
    """{task: its lines with answers of which some are right, some wrong and some no label; and a
    likelihood}."""
    found = {}
    for name in SCORED:
        several = sorted(predictions.read_predictions(run[0], 6, name), key=lambda x: int(x["id"]))
        right = [x["references"][0] for x in several]
        answers = [
            right[i] if i % 3 else "nothing" if i % 2 else right[i - 1] for i in range(len(right))
        ]
        found[name] = [
            {**x, "prediction": a, "logprob": -float(x["id"])}
            for x, a in zip(several, answers, strict=True)
        ]
    return found


@pytest.fixture(scope="module")
def probe(lines, vocabulary, tmp_path_factory):
    folder = tmp_path_factory.mktemp("probe")
    storage.write_json(
        folder / "p.json",
        {n: {x["id"]: x["prediction"] for x in found} for n, found in lines.items()},
    )
    command = [
        sys.executable,
        "-m",
        "tests.prepare.foreign_probe",
        str(folder / "p.json"),
        str(folder / "cache"),
    ]
    environment = one_device() | {"ITX_TEST_VOCABULARY": vocabulary}
    done = subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_nested_mixture_is_mixed_at_seqios_rates(run, probe):
    got = {t["name"]: t["rate"] for t in run[1]["tasks"]}
    assert got == pytest.approx(probe["rates"])
    # of 320 in the inner one (one of two is capped at 200) 0.8, and what the outer one adds
    assert got == pytest.approx(
        {"user.short:v1": 0.8 * 200 / 320, "user.long": 0.8 * 120 / 320 + 0.1, "user.more": 0.1}
    )


def test_the_cache_holds_the_tokens_of_the_tasks_and_counts_empty_targets(run, probe):
    _, lock, folder = run
    for task in lock["tasks"]:
        records = cache.Records(folder / task["folders"][0])
        got = [
            [[*map(int, prompt), 1], [*map(int, target), 1]] for (prompt, _), (target, _) in records
        ]
        want = [pair for pair in probe["tokens"][task["name"]] if pair[1] != [1]]
        assert got == want and len(got) > 50
        empty = len(probe["tokens"][task["name"]]) - len(want)
        assert task["audit"]["skipped"].get("empty target", 0) == empty
        assert task["audit"]["read"] == task["audit"]["kept"] + sum(
            task["audit"]["skipped"].values()
        )
        assert (empty > 5) == (task["name"] == "user.more")
    # SeqIO's decoder rows keep the EOS that a Task puts behind its inputs
    assert probe["decoder"] == [
        [prompt, target[:-1]] for prompt, target in probe["tokens"]["user.long"]
    ]


@pytest.fixture(autouse=True)
def trusted():
    """This process names the modules of the metrics, as a recipe's data.modules does."""
    metrics.trust(["tests"])


def test_scores_are_those_of_seqios_evaluator(run, lines, probe):
    _, lock, _ = run
    rows = {r["name"]: r for r in lock["evaluation"]}
    assert rows.keys() == {*SCORED, "user.half@eval", "sample_even@eval"} and lock["unscored"] == [
        "user.more (no metric_fns)"
    ]
    for name in SCORED:
        got = foreign.values(rows[name], lines[name])
        assert got == pytest.approx(probe["values"][name], rel=1e-6)
        right = foreign.values(
            rows[name], [{**x, "prediction": x["references"][0]} for x in lines[name]]
        )
        assert got != pytest.approx(right)
    assert set(probe["values"]["user.long"]) == {
        "length_correlation",
        "mean_length",
        "mean_likelihood",
    }


def test_the_run_scored_what_it_predicted(run, lines):
    """scores.json holds SeqIO's values over the set; an example's score is 0 to 1, whatever the
    metric's scale."""
    folder, lock, _ = run
    scores = storage.read_json(folder.scores_json(6))["rows"]
    long, short = (r for r in lock["evaluation"] if r["group"] == "instances")
    for row in (long, short):
        predicted = predictions.read_predictions(folder, 6, row["name"])
        assert scores[row["name"]]["metrics"] == pytest.approx(foreign.values(row, predicted))
        assert len(predicted) == 24 == scores[row["name"]]["examples"]
    assert all(x["logprob"] < 0 for x in predictions.read_predictions(folder, 6, "user.long"))
    assert (short["seqio"]["scale"], long["seqio"]["scale"]) == (100.0, None)
    for row in (short, long):  # a part of them is right, under either way
        right = [x["prediction"] == x["references"][0] for x in lines[row["name"]]]
        assert [foreign.score(row, x) for x in lines[row["name"]]] == right and 0 < sum(
            right
        ) < len(right)


def test_eval_tasks_names_tasks_of_seqio_and_our_own(run, probe):
    rows = {r["name"]: r for r in run[1]["evaluation"]}
    assert storage.read_json(run[0].scores_json(6))["rows"].keys() == rows.keys()
    assert "seqio" in rows["user.half@eval"] and "seqio" not in rows["sample_even@eval"]
    half = rows["user.half@eval"]
    assert (half["group"], half["relation"], half["audit"]) == (
        "extra",
        "none",
        {"read": 16, "kept": 16, "skipped": {}},
    )
    assert probe["parts"] == {  # a split that is declared is whole
        "user.long": ["train", "validation", "test"],
        "user.half": ["train", "validation", None],
        "user.more": ["train", None, None],
    }


def test_a_text_of_ours_is_measured_beside_tasks_of_seqio(run):
    found, lock, _ = run
    assert [t["name"] for t in lock["retention"]] == ["text_prefix_lm"] and "unretained" not in lock
    assert storage.read_json(found.retention_json)["after"]["text_prefix_lm"]["bytes"] > 1000


def test_training_and_evaluation_imported_no_seqio(run):
    """The modules that score are imported, the one that registers is not."""
    code = (
        "import sys\nfrom itx.cli import main\n"
        f"code = main(['eval', {str(run[0].path)!r}, '--step', '6', '--modules', 'tests'])\n"
        "assert 'tests.prepare.foreign_scores' in sys.modules\n"
        "assert not {'tests.prepare.foreign_tasks', 'seqio', 'tensorflow'} & set(sys.modules)\nsys.exit(code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPO, env=one_device(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_functions_that_scoring_cannot_call_and_tasks_that_cannot_be_read_are_told_before_training(
    probe,
):
    said = probe["refused"]
    for name in ("by_tensorflow", "by_late_import"):
        assert f"task 'user.{name}'" in said[name] and "imports neither" in said[name]
    assert (
        "task 'user.by_lambda': tests.prepare.foreign_tasks:<lambda> is a lambda"
        in said["by_lambda"]
    )
    assert (
        "task 'user.by_wrong_label': tests.prepare.foreign_scores:label_index fails: AssertionError"
        in said["by_wrong_label"]
    )
    assert said["no_field"].startswith(
        "task 'user.no_field': its train split cannot be read: KeyError"
    )
    assert "'no such field'" in said["no_field"]
    assert said["no_train"] == "task 'user.no_train' has no train split, only validation"
    assert "mixture 'user_no_size': the rate of 'user.no_size' is unknown" in said["user_no_size"]
    assert "unknown mixture or task 'user_mixture'; did you mean 'user_mix'" in said["user_mixture"]


@pytest.mark.parametrize("text, said", [
    ("import numpy\nimport nowhere_to_be_found\n", "line 2: ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
    ("x = 1\ny = undefined\n", "line 2: NameError: name 'undefined' is not defined"),
    ("x = (\n", "line 1: SyntaxError"),
])  # fmt: skip
def test_a_module_that_fails_at_import_is_named_with_the_line(tmp_path, monkeypatch, text, said):
    (tmp_path / "broken_module.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match="data.modules: 'broken_module' fails at import") as e:
        registry.load_modules(["broken_module"])
    assert said in str(e.value) and "broken_module.py" in str(e.value)
