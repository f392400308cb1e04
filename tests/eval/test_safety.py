# SPDX-License-Identifier: Apache-2.0
"""What a chat model declines, before and after: the requests, the comparison by hand, the finding
and what it proposes, and a model that is asked."""

from types import SimpleNamespace

import pytest
from scipy.stats import binomtest

from itx import recipe
from itx.analysis import analyze, printed, words
from itx.config import RunConfig, changed
from itx.eval import safety
from itx.tasks import registry

KINDS = ("refuse", "harmless")


def answers(declined: dict[str, int]) -> dict:
    """What a model says that declines the first so many of each kind."""
    held = {
        p["id"]: {k: {"text": f"answer {i}", "declined": "no" * (i < declined[k])} for k in KINDS}
        for i, p in enumerate(safety.requests())
    }
    return {"answers": held, "left_out": {}}


def test_requests_come_in_pairs_of_both_languages():
    pairs = safety.requests()
    assert [p["language"] for p in pairs] == ["en"] * 25 + ["ru"] * 25
    texts = [p[k] for p in pairs for k in KINDS]
    assert len({p["id"] for p in pairs}) == 50 and len(set(texts)) == 100
    for p in pairs:
        cyrillic = [any("а" <= c <= "я" for c in p[k].lower()) for k in KINDS]
        assert cyrillic == [p["language"] == "ru"] * 2


def test_no_demonstration_is_asked():
    registry.load_modules(("tasks",))
    spec = registry.task("safety_demonstrations", "")
    rows = [spec.fields(x)["messages"] for x in spec.source.make("train", "", 0)]
    asked = {p[k] for p in safety.requests() for k in KINDS}
    assert len(rows) == 48 and not asked & {m["content"] for row in rows for m in row}


def test_shares_and_changes_by_hand():
    before, after = answers({"refuse": 40, "harmless": 5}), answers({"refuse": 30, "harmless": 5})
    after["answers"]["ru-25"]["refuse"]["declined"] = "no"  # one is newly declined
    found = {
        (f["kind"], f["language"]): f for f in safety.averages({"before": before, "after": after})
    }
    both = found["refuse", ""]
    assert both["requests"] == 50
    assert (both["before"]["declined"], both["after"]["declined"]) == (0.8, 0.62)
    assert (both["lost"], both["gained"]) == (10, 1)
    assert both["p"] == pytest.approx(binomtest(1, 11).pvalue) and both["p"] < 0.05
    assert found["refuse", "en"]["lost"] == 0 and found["refuse", "ru"]["lost"] == 10
    assert found["harmless", ""]["p"] == 1.0
    assert [f["kind"] for f in safety.eroded(list(found.values()))] == ["refuse"]
    changes = safety.changed({"before": before, "after": after}, "refuse")
    assert len(changes) == 11 and changes[-1]["id"] == "ru-25"


@pytest.mark.parametrize(
    "before, after, kinds",
    [
        ({"refuse": 40, "harmless": 5}, {"refuse": 20, "harmless": 5}, ["refuse"]),
        ({"refuse": 40, "harmless": 5}, {"refuse": 40, "harmless": 20}, ["harmless"]),
        ({"refuse": 20, "harmless": 20}, {"refuse": 40, "harmless": 5}, []),  # both got better
        ({"refuse": 40, "harmless": 5}, {"refuse": 37, "harmless": 7}, []),  # not significant
    ],
)
def test_what_got_worse_is_a_finding_with_demonstrations(before, after, kinds, tmp_path):
    held = {"before": answers(before), "after": answers(after)}
    of_kinds = safety.averages(held)
    assert [f["kind"] for f in safety.eroded(of_kinds)] == kinds
    told = list(words._eroded({"groups": of_kinds}))
    assert len(told) == len(kinds)
    run = SimpleNamespace(safety_json=tmp_path / "safety.json")
    analyze.storage.write_json(run.safety_json, analyze.storage.sealed(held))
    config, proposed = RunConfig(), {}
    for share in (0.05, 0.1, 0.2, 0.2) if "refuse" in kinds else (0.05, 0.025):
        side = SimpleNamespace(run=run, config=config)
        proposed.clear()
        found = analyze._of_safety(side, proposed)
        assert [f["kind"] for f in found] == ["safety"] * len(kinds)
        for f in found:
            done = proposed[f["action"]]
            assert done["kind"] == "setting"
            config, _ = recipe.override(config, "--data.added=" + done["settings"]["data.added"])
            assert config.data.added == (("safety_demonstrations", share),)


def test_who_is_not_asked_and_why():
    pretrained = changed(RunConfig(), "model", pretrained="a folder")
    asked = {"chat": "a template"}
    assert safety.unasked(asked, pretrained) == ""
    off = changed(pretrained, "eval", safety=False)
    for lock, config in ((asked, off), (asked, RunConfig()), ({}, pretrained)):
        why = safety.unasked(lock, config)
        assert why and safety.safety(None, lock, config, None, 0, "before") == {}
        assert printed.safety_lines({"unasked": why}) == [
            f"requests to decline: not asked, for {why}"
        ]
    assert printed.safety_lines(None) == []
