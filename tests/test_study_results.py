# SPDX-License-Identifier: Apache-2.0
"""What a study says of its runs' numbers: its statistics against SciPy's, what few draws of few
examples may prove, and what is refused before a run begins. The command: test_study.py."""

import dataclasses

import numpy as np
import pytest
from scipy import stats as reference

from itx import storage
from itx.analysis.compare import MIN_SEEDS
from itx.config import DataConfig, EvalConfig, RunConfig, TrainConfig
from itx.errors import UserError
from itx.runs import RunFolder
from itx.study import page, results, spec
from itx.study.spec import Arm, Comparison, Draw, Measure, Study


def tried(**more) -> Study:
    arms = (Arm("a"), Arm("b", place=1), Arm("c", place=2), Arm("d", place=4))
    return Study(
        name="tried", question="?", arms=arms, draws=tuple(Draw(str(i)) for i in range(5)),
        measures=(Measure("bits", "bits"), Measure("text", "text")),
        comparisons=(Comparison("a", "d", "better", "X"),), log=True, **more,
    )  # fmt: skip


def drawn_values(of: Study, shift: float) -> results.Values:
    rng = np.random.default_rng(3)
    return {
        (side, d.name): {m.name: float(rng.normal(shift * i, 0.3)) for m in of.measures}
        for i, side in enumerate(of.sides)
        for d in of.draws
    }


def test_differences_and_slopes_are_scipys():
    of = tried()
    values = drawn_values(of, 1.0)
    bits, text, slope, _ = results.tests(of, values, {})
    assert "source" in bits and "source" not in text and "first" not in slope
    a, d = ([values[side, str(i)]["bits"] for i in range(5)] for side in "ad")
    paired = reference.ttest_rel(d, a)
    assert bits["difference"] == pytest.approx(np.mean(d) - np.mean(a))
    assert bits["p"] == pytest.approx(paired.pvalue) and bits["verdict"] == "better"
    assert bits["interval"] == pytest.approx(list(paired.confidence_interval()))
    assert abs(bits["difference"] - (np.mean(d) - np.mean(a)) / 2) > 0.5
    error = np.std(np.subtract(d, a), ddof=1) / 5**0.5
    wanted = (reference.t.ppf(0.975, 4) + reference.t.ppf(0.8, 4)) * error
    assert bits["smallest"] == pytest.approx(wanted)
    assert text["verdict"] == "worse"  # more bits per byte
    slopes = [
        reference.linregress([0, 1, 2], [values[s, str(i)]["bits"] for s in "bcd"]).slope
        for i in range(5)
    ]
    assert slope["values"] == pytest.approx(slopes)
    assert slope["margin"] == bits["margin"] / 2  # two doublings
    assert bits["holm"] >= bits["p"]


def test_verdicts_need_draws_and_margins():
    close = {k: {m: x / 1e3 for m, x in v.items()} for k, v in drawn_values(tried(), 0).items()}
    assert {t["verdict"] for t in results.tests(tried(), close, {})} == {"equivalent"}
    few = dataclasses.replace(tried(), draws=tried().draws[: MIN_SEEDS - 1])
    found = results.tests(few, drawn_values(few, 9.0), {})
    assert {t["verdict"] for t in found} == {"unresolved"} and found[0]["difference"] > 9
    (alone, *_) = results.tests(tried(), {("a", "0"): {"bits": 1.0, "text": 1.0}}, {})
    assert alone["draws"] == 0 and "difference" not in alone


def scored(draws: int = 3) -> Study:
    """Bits and scores of two sides, and of a line of three places."""
    measures = (Measure("right", "score"), Measure("bits", "bits"))
    return dataclasses.replace(tried(), measures=measures, draws=tried().draws[:draws])


def alike(of: Study, gain: float, examples: int) -> tuple[results.Values, results.Examples]:
    """Each side scores `gain` above the one before it, in every draw."""
    at = [(n, side, d.name) for n, side in enumerate(of.sides) for d in of.draws]
    values = {(side, d): {"right": gain * n, "bits": gain * n} for n, side, d in at}
    return values, {(side, d): {"right": float(examples)} for _, side, d in at}


@pytest.mark.parametrize("gain", [0.0, 0.125])
def test_draws_that_agree_by_chance_prove_nothing(gain):
    """Eight examples of one task in each of three draws; of what no number of examples is known
    the reason is said."""
    of = scored()
    right, bits, slope, slope_of_bits = results.tests(of, *alike(of, gain, examples=8))
    for t in (right, slope):
        low, high = t["interval"]
        assert t["verdict"] == "unresolved" and "reason" not in t
        assert low < -t["margin"] and high > t["margin"] and t["smallest"] > t["margin"]
        assert t["p"] > 0.01
    for t in (bits, slope_of_bits):
        assert t["verdict"] == "unresolved" and t["reason"] == results.ALIKE
        assert "interval" not in t and "p" not in t
    facts = {"tests": [right, bits, slope, slope_of_bits], "runs": []}
    said = "\n".join([*page._sentences(facts), *page._tests(facts)])
    assert "Agrees" not in said and "Not resolved. X." in said
    assert "unresolved, since it is the same in every draw" in said
    assert f"| {gain * 3:+.3f} |" in said
    shown = results.sides(of, alike(of, gain, 8)[0])
    assert {s["measures"]["right"]["interval"] for s in shown} == {None}


def test_enough_examples_resolve_what_does_not_differ_between_draws():
    of = scored(draws=5)
    right, *_ = results.tests(of, *alike(of, 0.0, examples=2000))
    assert right["verdict"] == "equivalent" and right["interval"][1] > 0
    right, _, slope, _ = results.tests(of, *alike(of, 0.2, examples=2000))
    assert right["verdict"] == slope["verdict"] == "better"
    low, high = right["interval"]
    assert low < 0.6 < high


def test_the_least_error_is_that_of_examples_which_differ_one_way():
    """Where the share of differing examples is certain, the variance of one is s - s**2."""
    of = scored()
    values, examples = alike(of, 0.1, examples=10**9)  # a, d: 0.3 apart
    right, _, slope, _ = results.tests(of, values, examples)
    error = ((0.3 - 0.3**2) / (3 * 10**9)) ** 0.5
    student = reference.t.ppf(0.975, 2)
    assert right["interval"][1] - 0.3 == pytest.approx(student * error, rel=1e-3)
    # of three places one apart the slope is half the difference of the outer two, which is 0.2
    error = ((0.2 - 0.2**2) / (3 * 10**9)) ** 0.5 / 2
    assert slope["interval"][1] - 0.1 == pytest.approx(student * error, rel=1e-3)


def test_effective_numbers_of_examples(tmp_path):
    """Two clusters, of 8 examples and of two tasks of 4 and 100: as the weights of examples say."""
    run, measures = RunFolder(tmp_path), scored().measures
    rows = {
        f"{name}@eval": {"cluster": cluster, "score": 0.0, "examples": n}
        for name, cluster, n in (("a", "x", 8), ("b", "y", 4), ("c", "y", 100))
    }
    storage.write_json(run.scores_json(5), storage.sealed({"rows": rows}))
    config = RunConfig(
        data=DataConfig(mixture="m"),
        train=TrainConfig(steps=5),
        eval=EvalConfig(tasks=("a", "b", "c")),
    )
    weights = [1 / 2 / 8] * 8 + [1 / 4 / 4] * 4 + [1 / 4 / 100] * 100
    assert sum(weights) == pytest.approx(1)
    known = results.examples(run, config, measures)
    assert known == {"right": pytest.approx(1 / sum(w * w for w in weights))}
    of = dataclasses.replace(tried(), arms=(Arm("x", side="a"), Arm("y", side="a"), Arm("d")))
    both = {("x", "0"): {"right": 8.0}, ("y", "0"): {"right": 8.0}, ("x", "1"): {"right": 8.0}}
    assert results.examples_by_side(of, both) == {("a", "0"): {"right": 16.0}}


@pytest.mark.parametrize(
    ("gain", "spread", "told"), [(0.0, 0.01, True), (3.0, 0.01, False), (0.0, 3.0, False)]
)
def test_a_gain_in_score_is_one_in_format_where_information_is_shown_not_to_gain(
    gain, spread, told
):
    """Not where the information is unresolved, which is absence of evidence."""
    of = dataclasses.replace(tried(), measures=(Measure("bits", "bits"), Measure("right", "score")))
    values = {
        (side, str(i)): {
            "bits": gain * n + spread * n * (-1) ** i,
            "right": 0.3 * n + i / 10 + i * n / 100,
        }
        for n, side in enumerate(of.sides)
        for i in range(5)
    }
    tests = results.tests(of, values, {})
    assert tests[1]["verdict"] == "better"
    facts = {"tests": tests, "runs": []}
    said = [line for line in page._sentences(facts) if "a gain in format" in line]
    assert len(said) == told


def test_a_side_of_several_arms_is_their_mean_once_all_are_done():
    of = dataclasses.replace(tried(), arms=(Arm("x", side="a"), Arm("y", side="a"), Arm("d")))
    runs = {("x", "0"): {"bits": 1.0, "text": 0.0}, ("y", "0"): {"bits": 2.0, "text": 1.0}, ("x", "1"): {"bits": 5.0, "text": 5.0}}  # fmt: skip
    assert results.by_side(of, runs) == {("a", "0"): {"bits": 1.5, "text": 0.5}}


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"arms": ()}, "no arm"),
        ({"arms": (Arm("a"), Arm("a"))}, "arm 'a' is there twice"),
        ({"arms": (Arm("a", begins="d"), Arm("d"))}, "arm 'a' begins from 'd'"),
        ({"comparisons": (Comparison("a", "e", "better", ""),)}, "no side 'e'"),
        ({"comparisons": (Comparison("a", "d", "better", "", "byts"),)}, "no measure 'byts'"),
        ({"arms": (Arm("a", place=0), Arm("d", place=2))}, "arm 'a' has place 0, which has no log"),
        ({"arms": (Arm("a", place=-1), Arm("d"))}, "arm 'a' has place -1"),
    ],
)
def test_a_study_that_cannot_be_meant(changed, told):
    with pytest.raises(UserError, match=told):
        spec.check(dataclasses.replace(tried(), **changed))
