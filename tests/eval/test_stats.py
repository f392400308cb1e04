# SPDX-License-Identifier: Apache-2.0
"""Intervals against known values, and whether they cover."""

import numpy as np
import pytest

from itx.eval import stats
from tests.eval.paired import paired


@pytest.mark.parametrize(
    "hits, n, low, high",
    # Newcombe (1998), "Two-sided confidence intervals for the single proportion", table I, method 3
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_has_the_published_values(hits, n, low, high):
    assert stats.wilson(hits / n, n) == (
        pytest.approx(low, abs=5e-5),
        pytest.approx(high, abs=5e-5),
    )


def test_wilson_ends_at_the_ends():
    for n in range(1, 60):
        assert stats.wilson(0.0, n)[0] == 0.0 and stats.wilson(1.0, n)[1] == 1.0
    assert stats.wilson(0.0, 0) == (0.0, 1.0)


def test_student_has_the_published_values():
    # mean 3, s = sqrt(2.5), t(0.975, 4) = 2.776
    low, high = stats.t_interval([1, 2, 3, 4, 5])
    assert (low, high) == (
        pytest.approx(3 - 2.776 * 2.5**0.5 / 5**0.5, abs=1e-3),
        pytest.approx(4.963, abs=1e-3),
    )
    assert stats.t_interval([1.0]) is None


def test_correction_for_chance_keeps_negatives():
    assert stats.corrected(0.75, 0.5) == 0.5 and stats.corrected(0.5, 0.5) == 0.0
    assert stats.corrected(0.0, 0.5) == -1.0 and stats.corrected(1.0, 0.25) == 1.0
    assert stats.corrected(1.0, 1.0) == 0.0


def test_averages_go_over_tasks_then_clusters():
    tasks = {"a1": ("a", np.ones(4)), "a2": ("a", np.ones(9)), "b": ("b", np.zeros(2))}
    found = stats.average(tasks)
    assert found["mean"] == 0.5 and found["clusters"] == {"a": 1.0, "b": 0.0}  # not 2/3, not 13/15
    assert found["method"] == "t over clusters" and found["interval"][1] == 1.0
    assert stats.average({"a": ("a", np.ones(3))})["interval"] is None
    assert stats.average({})["mean"] is None
    many = {f"t{i}": (f"c{i}", np.arange(8) % 2) for i in range(stats.MIN_CLUSTERS)}
    assert stats.average(many)["method"] == "hierarchical bootstrap"
    assert stats.average(many) == stats.average(many)


def test_the_bootstrap_is_as_wide_as_what_varies():
    rng = np.random.default_rng(0)
    same = [[rng.integers(0, 2, 50)] for _ in range(20)]
    low, high = stats.bootstrap(same)
    # examples alone: 20 · 50 coins, about ± 1.96 · 0.5 / sqrt(1000); clusters drawn again nearly
    # double the variance
    assert 0.05 < high - low < 0.13
    apart = [[np.full(50, float(c % 2))] for c in range(20)]
    wide = np.subtract(*stats.bootstrap(apart)[::-1])
    assert wide == pytest.approx(2 * 1.96 * 0.5 / 20**0.5, rel=0.15) and wide > 2 * (high - low)


def test_the_bootstrap_covers_the_truth():
    """Clusters with means of their own, 12 of them: a percentile interval should hold 0.5 in about
    92 % of draws."""
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(100):
        means = np.clip(rng.normal(0.5, 0.15, 12), 0, 1)
        clusters = [[rng.random(20) < m for _ in range(2)] for m in means]
        low, high = stats.bootstrap(clusters, samples=400)
        hits += low <= 0.5 <= high
    assert 84 <= hits <= 100


def test_paired_differences():
    rng = np.random.default_rng(2)
    a = rng.integers(0, 2, 200).astype(float)
    b = np.maximum(a, rng.random(200) < 0.2)
    better, nothing = paired(a, b), paired(a, a)
    assert (
        better["p"] < 0.001 and better["difference"] == (b - a).mean() and better["interval"][0] > 0
    )
    assert nothing["p"] == 1.0 and nothing["difference"] == 0.0
    assert paired(b, a)["difference"] == -better["difference"]
    noise = paired(a, rng.permutation(a))
    assert noise["p"] > 0.05 and noise["smallest_detectable"] > abs(noise["difference"])
