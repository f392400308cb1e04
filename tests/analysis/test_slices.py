# SPDX-License-Identifier: Apache-2.0
"""The slice finder: its test against SciPy's and against permutations drawn, planted defects found,
and nothing found where nothing is wrong."""

import numpy as np
import pytest
import scipy.stats

from itx.analysis import features, slices
from itx.eval import permutation
from tests import planted


def test_moments_are_those_of_permutations_that_are_drawn():
    rng = np.random.default_rng(0)
    stratum = np.repeat([0, 1, 2], [30, 12, 7])
    x = (rng.random(49) < 0.3).astype(float)
    y = (rng.random(49) < 0.85).astype(float)
    found = permutation.moments(x, y, stratum, np.arange(49))
    sums = []
    for _ in range(20_000):
        mixed = np.concatenate([rng.permutation(y[stratum == s]) for s in range(3)])
        centre = np.bincount(stratum, weights=mixed) / np.bincount(stratum)
        share = np.bincount(stratum, weights=x) / np.bincount(stratum)
        sums.append(float((x - share[stratum]) @ (mixed - centre[stratum])))
    assert np.var(sums) == pytest.approx(found.variance, rel=0.05)
    assert scipy.stats.skew(sums) == pytest.approx(found.skewness, abs=0.08)
    assert abs(found.skewness) > 0.1  # else the third moment would not have been tested


def test_p_is_fishers_where_failures_are_rare():
    """9 of 60 wrong inside a slice, 1 of 1,000 outside: the normal distribution claims far too
    much."""
    x = np.repeat([1.0, 0.0], [60, 1000])
    y = np.ones(1060)
    y[:9] = y[-1] = 0
    found = permutation.moments(x, y, np.zeros(1060, int), np.arange(1060))
    exact = scipy.stats.fisher_exact([[51, 9], [999, 1]], alternative="less").pvalue
    ours = found.p()
    assert scipy.stats.norm.cdf(found.z) < exact / 1e4
    assert exact / 10 < ours < exact * 1e4


def test_the_difference_is_that_of_means_within_strata():
    """Simpson's: the slice holds most of a hard task, and is no worse within either task."""
    task = np.repeat([0, 1], [100, 100])
    x = np.concatenate([np.repeat([1.0, 0.0], [80, 20]), np.repeat([1.0, 0.0], [20, 80])])
    y = np.concatenate([np.tile([1.0, 0, 0, 0, 0], 20), np.tile([1.0, 1, 1, 1, 0], 20)])
    assert y[x == 1].mean() < y[x == 0].mean() - 0.3
    assert permutation.moments(x, y, task, task).difference == pytest.approx(0)


def found_in(world, reference=None):
    of = planted.observed(world)
    known = features.conditions(of, world.rows, world.tags)
    return slices.find(of, known, None if reference is None else planted.observed(reference).scores)


@pytest.mark.parametrize("seed", range(6))
def test_a_planted_defect_is_found_first_beside_a_rerun(seed):
    base = planted.world(seed)
    plant = planted.plants(base, seed + 40)
    spoilt = planted.planted(planted.rerun(base, seed), plant, 0.3, seed)
    found = found_in(spoilt, base).findings
    assert found and planted.jaccard(found[0].holds, plant.inside) >= 0.5, (plant.kind, found[:2])
    assert found[0].difference < -0.1 and found[0].interval[1] < 0


def test_reruns_of_one_recipe_are_clean():
    """Some answers of each differ, and tasks are a little better or worse."""
    for seed in range(2):
        base = planted.world(seed)
        again = planted.rerun(base, seed)
        differ = planted.observed(base).scores != planted.observed(again).scores
        assert 0.02 < differ.mean() < 0.2
        assert not found_in(again, base).findings


def test_a_world_without_a_defect_is_clean_without_a_reference():
    for seed in range(2):
        assert not found_in(planted.world(seed)).findings


def test_a_conjunction_is_named_as_such_and_explains_its_parts():
    base = planted.world(3)
    facts = [f["label"] == 1 and f["place"] == 0 for f in base.facts]
    plant = planted.Plant("label and place", np.array(facts))
    found = found_in(planted.planted(base, plant, 0.5, 0), base).findings
    assert len(found) == 1
    assert {c.feature for c in found[0].conditions} == {"label", "place of the right option"}
    assert "label = no" in found[0].explains


def test_two_defects_are_two_findings():
    base = planted.world(5)
    persons = np.array([f["person"] == "she" for f in base.facts])
    wordings = np.array([f["task"] == "task04" and f["style"] == "Task" for f in base.facts])
    spoilt = planted.planted(base, planted.Plant("", persons), 0.3, 0)
    spoilt = planted.planted(spoilt, planted.Plant("", wordings), 0.4, 1)
    found = found_in(spoilt, base).findings
    for plant in (persons, wordings):
        assert max(planted.jaccard(f.holds, plant) for f in found) >= 0.5


def test_what_cannot_be_tested_is_counted():
    """That a whole task is harder is no finding without a reference; with one it is."""
    base = planted.world(7)
    task = np.array([f["task"] == "task02" for f in base.facts])
    spoilt = planted.planted(base, planted.Plant("task", task), 0.4, 0)
    alone, beside = found_in(spoilt), found_in(spoilt, base)
    assert alone.untested["whole tasks, without a reference"] > 0 and not alone.findings
    assert [f.text for f in beside.findings] == ["task = task02"]


def test_conditions_hold_of_enough_examples_and_no_set_twice():
    world = planted.world(1)
    of = planted.observed(world)
    made = features.conditions(of, world.rows, world.tags)
    known = made.found
    assert made.untested[features.SAME_ANSWERS] > 0
    assert len({c.holds.tobytes() for c in known}) == len(known)
    for c in known:
        assert features.enough(of, c.holds) and not c.holds.all()
    texts = {c.text for c in known}
    assert {
        "label = yes",
        "script of the prompt = Cyrillic",
        "names women",
        "task = task00",
    } <= texts


def test_words_beyond_those_that_are_tested_are_counted(monkeypatch):
    world = planted.world(1)
    of = planted.observed(world)
    every = features.conditions(of, world.rows, world.tags)
    words = [c for c in every.found if c.kind == features.WORD]
    assert features.TOO_MANY_WORDS not in every.untested and len(words) > 20
    monkeypatch.setattr(features, "MAX_WORDS", 20)
    fewer = features.conditions(of, world.rows, world.tags)
    assert fewer.untested[features.TOO_MANY_WORDS] >= len(words) - 20


def test_slices_beyond_the_shown_findings_are_counted(monkeypatch):
    base = planted.world(5)
    persons = np.array([f["person"] == "she" for f in base.facts])
    cyrillic = np.array([f["cyrillic"] for f in base.facts])
    spoilt = planted.planted(base, planted.Plant("", persons), 0.5, 0)
    spoilt = planted.planted(spoilt, planted.Plant("", cyrillic), 0.5, 1)
    whole = found_in(spoilt, base)
    assert len(whole.findings) == 2 and whole.more == 0
    monkeypatch.setattr(slices, "MAX_FINDINGS", 1)
    first = found_in(spoilt, base)
    assert len(first.findings) == 1 and first.more > 0


@pytest.mark.parametrize("seed", range(3))
def test_beside_a_strong_defect_nothing_else_is_found(seed):
    """Many slices overlap a strong defect and are sure with it; what a rerun varies besides is not
    found for that."""
    base = planted.world(2003 + seed)
    plant = planted.plants(base, 2003 + seed)
    spoilt = planted.planted(planted.rerun(base, 2003 + seed), plant, 0.3, 2003 + seed)
    searched = found_in(spoilt, base)
    assert [planted.jaccard(f.holds, plant.inside) >= 0.5 for f in searched.findings] == [True]
    assert sum(searched.explained.values()) >= 5
