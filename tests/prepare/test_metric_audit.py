# SPDX-License-Identifier: Apache-2.0
"""The metrics audit: what each metric forgives and lets pass, and metrics with planted faults."""

import dataclasses
import json
import re

import pytest

from itx import cli
from itx.errors import UserError
from itx.eval import metrics
from itx.prepare import check, metric_audit
from itx.tasks import registry
from itx.tasks.spec import jsonl
from tests import sample_tasks  # noqa: F401  (it registers)

WORDS = [["Paris"], ["the old town"], ["Köln"], ["New York"], ["Париж"], ["北京"]]
NUMBERS = [["1200"], ["-7"], ["3"], ["45000"], ["2.5"]]

# ---- planted faults


def always(targets, predictions):
    return {"always": 1.0}


def cased(targets, predictions):
    return {"cased": float(predictions[0].strip("“”*`(). \t\n") == targets[0])}


def first_word(targets, predictions):
    """Right by its first word alone."""
    first = (predictions[0].split() or [""])[0]
    return {"first_word": float(metrics.SCORES["exact_match"](targets, first))}


@pytest.fixture(autouse=True)
def trusted(monkeypatch):
    monkeypatch.setattr(metrics, "_TRUSTED_PACKAGES", {"tasks", "tests", __name__})


def kept(name, answers=WORDS):
    found = metric_audit.audit(name, answers)
    return {
        kind: {what for what, (tried, ones) in found[kind].items() if ones == tried}
        for kind in found
    }, found


def test_every_edit_and_every_wrong_answer_is_tried():
    tried = {kind: {} for kind in ("edits", "wrong")}
    for answers in (WORDS, NUMBERS):
        for kind, counts in metric_audit.audit("exact_match", answers).items():
            tried[kind] |= counts
    assert tried["edits"].keys() == metric_audit.EDITS.keys() and len(tried["edits"]) == 12
    assert tried["wrong"].keys() == metric_audit.WRONG.keys() and len(tried["wrong"]) == 12


def test_what_the_metrics_forgive_and_let_pass():
    own, _ = kept("exact_match")
    assert set(metric_audit.EDITS) - own["edits"] == {"article", "unit", "thousands separators"}
    assert not own["wrong"]
    own, _ = kept("numeric", NUMBERS)
    assert {"unit", "thousands separators", "bold", "full width"} <= own["edits"]
    assert not {"nothing", "a refusal", "another example's", "the next number"} & own["wrong"]
    own, _ = kept("exact_string")
    assert not {"case", "final stop", "quotes"} & own["edits"] and not own["wrong"]
    own, _ = kept("squad_f1")
    assert "article" in own["edits"]
    own, _ = kept("contains")
    assert {"both", "the denial"} <= own["wrong"] and not set(metric_audit.NEVER) & own["wrong"]


@pytest.mark.parametrize("plant, seen", [("always", "nothing"), ("cased", ""), ("first_word", "")])
def test_planted_faults_are_seen(plant, seen):
    name = f"{__name__}:{plant}"
    own, found = kept(name)
    said = metric_audit.problems(name, found)
    assert bool(said) == bool(seen) and all(seen in said[0] for _ in said)
    if plant == "always":
        assert own["wrong"] == set(found["wrong"]) and len(said) == len(metric_audit.NEVER)
        assert "gives 1 to nothing in 6 of 6 examples" in said[0]
    if plant == "cased":
        assert "case" not in own["edits"] and "bold" in own["edits"] and not own["wrong"]
        assert "(but not: case" in metric_audit.line(name, found)
    if plant == "first_word":  # `Paris or …`
        counts = found["wrong"]["both"]
        assert 0 < counts[1] and "(but not: both" in metric_audit.line(name, found)


def test_a_task_that_is_named_is_read_to_its_end(tmp_path):
    """A record that the first examples do not show."""
    rows = [{"text": f"message {i}", "label": i % 2} for i in range(400)]
    for broken, said in (
        ({"txt": "x", "label": 1}, "example t.jsonl:301: fields() needs the field 'text'"),
        ({"text": "x", "label": 7}, "example t.jsonl:301: label 7 is outside the options"),
        ({"text": " ", "label": 1}, "example t.jsonl:301"),
        (rows[300], ""),
    ):
        lines = [json.dumps(row) for row in [*rows[:300], broken, *rows[301:]]]
        (tmp_path / "t.jsonl").write_text("\n".join(lines) + "\n")
        spec = registry.make_task(
            "late", version=1, cluster="c", source=jsonl("t.jsonl"), options=("no", "yes"), metrics=("accuracy",),
            fields=of_label, templates=[("Is it? {text}", "{answer}"), ("{text}: well?", "{answer}")],
        )  # fmt: skip
        found, problems = check.read_all(spec, str(tmp_path))
        assert (len(problems) == 1 and said in problems[0]) if said else problems == []
        assert found == 400 or said
    with pytest.raises(UserError, match="a task takes no 'option'; did you mean 'options'"):
        registry.make_task("late", version=1, cluster="c", source=jsonl("t.jsonl"), option=("a",))


def of_label(e):
    return {"text": e["text"], "answer": e["label"]}


def test_sound_metrics_raise_no_alarm():
    for name in metrics.SCORES:
        for answers in (WORDS, NUMBERS):
            assert metric_audit.problems(name, metric_audit.audit(name, answers)) == [], name


def test_tasks_check_prints_it_and_refuses_a_metric_that_passes_anything(
    monkeypatch, tmp_path, capsys
):
    said = tmp_path / "said.json"
    words = [
        "tasks",
        "check",
        "sample_first",
        "--modules",
        "tests.sample_tasks",
        "--json",
        str(said),
    ]
    assert cli.main(words) == 0
    out = capsys.readouterr().out
    assert "metric exact_match: 8 of 9 harmless edits keep the score (but not: article)" in out
    assert re.search(r"\d examples read\n", out)
    (row,) = json.loads(said.read_text())
    assert row["metrics"]["exact_match"]["wrong"]["another example's"][1] == 0
    spoilt = dataclasses.replace(registry.TASKS["sample_first"], metrics=(always,))
    monkeypatch.setitem(registry.TASKS, "sample_first", spoilt)
    assert cli.main(words) == 1
    assert "gives 1 to a refusal in" in capsys.readouterr().out
