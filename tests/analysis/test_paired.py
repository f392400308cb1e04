# SPDX-License-Identifier: Apache-2.0
"""Paired comparison: against SciPy's tests, on runs without a difference, on planted ones."""

import dataclasses
import math

import numpy as np
import pytest
import scipy.stats

from itx import cli, storage
from itx.analysis import compare, paired, rounds
from itx.eval import predictions, stats
from tests.analysis.test_compare import STEP, made

# ---- the estimate


def nested(clusters: list[list[list[float]]]) -> paired.Nested:
    return {
        f"t{c}.{t}": (f"c{c}", np.array(values, float))
        for c, tasks in enumerate(clusters)
        for t, values in enumerate(tasks)
    }


def test_intervals_are_those_of_the_t_test_at_each_level():
    rng = np.random.default_rng(0)
    values = rng.uniform(-0.5, 0.5, (5, 2, 40))
    values += rng.uniform(-0.3, 0.3, (5, 1, 1)) + rng.uniform(-0.06, 0.06, (5, 2, 1))
    for several, over, units in (
        (values, "clusters", values.mean((1, 2))),
        (values[:1], "tasks", values[0].mean(1)),
        (values[:1, :1], "examples", values[0, 0]),
    ):
        found = paired.estimate(nested(several.tolist()))
        want = scipy.stats.ttest_1samp(units, 0)
        low, high = want.confidence_interval(0.95)
        assert found.over == over and found.df == len(units) - 1
        assert found.mean == pytest.approx(units.mean())
        if over == "examples":  # the spread of examples is what the floor is made of
            assert found.interval[0] <= low and found.interval[1] >= high
        else:
            assert found.interval == pytest.approx((max(-1.0, low), min(1.0, high)))
            assert found.p == pytest.approx(want.pvalue)


def test_nothing_that_differs_proves_little():
    """37 pairs without a difference allow one of some points; 10,000 hardly any."""
    few, many = (
        paired.estimate(nested([[[0.0] * n], [[0.0] * n], [[0.0] * n]])) for n in (12, 10_000)
    )
    assert few.interval[1] > 0.1 > 0.02 > many.interval[1] > 0
    assert paired.verdict(few.interval, 1.0, 0.05) == "unresolved"
    assert paired.verdict(many.interval, 1.0, 0.05) == "equivalent"
    one = paired.estimate(nested([[[1.0]]]))
    assert one.interval == (-1.0, 1.0) and one.p == 1.0 and one.smallest is None


def test_holm_is_the_published_example():
    """Four p values of Wikipedia's article on the method."""
    assert paired.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert paired.holm([]) == [] and paired.holm([0.7, 0.9]) == [1.0, 1.0]


def test_welch_is_scipys():
    rng = np.random.default_rng(3)
    x, y = rng.normal(0, 1, 3), rng.normal(1, 3, 5)
    mean, interval = stats.welch(x.tolist(), y.tolist())
    want = scipy.stats.ttest_ind(y, x, equal_var=False)
    assert mean == pytest.approx(y.mean() - x.mean())
    assert interval == pytest.approx(list(want.confidence_interval(0.95)))


def simulated(rng, gain: float, clusters=10, tasks=2, examples=20) -> paired.Estimate:
    """Two models whose answers to one example hang together, the other better by `gain`."""
    hard = rng.normal(0, 1, (clusters, tasks, examples)) + rng.normal(0, 0.7, (clusters, 1, 1))
    right = [
        hard + rng.normal(0, 0.7, hard.shape) < shift
        for shift in (0.0, scipy.stats.norm.ppf(0.5 + gain) * math.sqrt(1 + 0.49 + 0.49))
    ]
    return paired.estimate(nested((right[1].astype(float) - right[0]).tolist()))


def test_two_runs_of_one_model_are_seldom_told_apart():
    """Of 200 pairs with 100 slices each at most 5 % have any finding; and 95 % intervals hold."""
    rng = np.random.default_rng(1)
    pool = [simulated(rng, 0.0, clusters=int(rng.integers(2, 9)), examples=10) for _ in range(2000)]
    covered = np.mean([e.interval[0] <= 0 <= e.interval[1] for e in pool])
    assert covered >= 0.935
    with_any = 0
    for _ in range(200):
        some = [pool[i] for i in rng.integers(len(pool), size=100)]
        adjusted = paired.holm([e.p for e in some])
        verdicts = [
            paired.verdict(e.interval, p, 0.05) for e, p in zip(some, adjusted, strict=True)
        ]
        with_any += any(v in ("better", "worse") for v in verdicts)
    assert with_any <= 10


def flips(rng, sizes: list[int], gains: list[float], noise: float = 0.15) -> paired.Nested:
    """Answers of tasks of their own clusters that change either way by chance, some for the better."""
    found = {}
    for n, (size, gain) in enumerate(zip(sizes, gains, strict=True)):
        shares = [noise, 1 - 2 * noise - gain, noise + gain]
        found[f"t{n}"] = (f"c{n}", rng.choice([-1.0, 0.0, 1.0], size=size, p=shares))
    return found


def test_of_fixed_tasks_the_interval_covers_as_it_should():
    """Tasks of unequal size and gain, which are all that is asked about: only examples vary. The
    interval over clusters asks another question, and is far wider."""
    rng, sizes, gains = np.random.default_rng(0), [150, 60, 30], [0.3, 0.0, 0.0]
    covered, found, widths = 0, [0, 0], [[], []]
    for _ in range(400):
        values = flips(rng, sizes, gains)
        both = paired.estimate_on(values), paired.estimate(values)
        low, high = both[0].interval
        covered += low <= 0.1 <= high
        for i, e in enumerate(both):
            found[i] += e.interval[0] > 0
            widths[i].append(e.interval[1] - e.interval[0])
    assert 0.93 <= covered / 400 <= 0.99
    assert found[0] > 2 * found[1] and np.mean(widths[0]) < np.mean(widths[1]) / 2
    alike = [paired.estimate_on(flips(rng, sizes, [0.0] * 3)) for _ in range(400)]
    assert sum(e.p <= 0.05 for e in alike) / 400 <= 0.07


def test_of_one_fixed_task_it_is_the_t_test():
    rng = np.random.default_rng(1)
    values = flips(rng, [80], [0.2])
    own, (_, v) = paired.estimate_on(values), values["t0"]
    tested = scipy.stats.ttest_1samp(v, 0)
    assert own.df == 79 and own.mean == v.mean() and tested.pvalue <= own.p < 3 * tested.pvalue
    assert paired.estimate_on({"t": ("c", np.array([1.0]))}).interval == (-1.0, 1.0)


def test_the_smallest_difference_is_found_four_times_in_five():
    rng = np.random.default_rng(2)
    smallest = np.median([simulated(rng, 0.0).smallest for _ in range(100)])
    found = [simulated(rng, smallest).p < 0.05 for _ in range(400)]
    assert 0.70 < np.mean(found) < 0.92
    assert np.mean([simulated(rng, smallest / 4).p < 0.05 for _ in range(200)]) < 0.3


# ---- runs


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("paired")
    return {
        "good": made(folder / "good", max_examples=0),
        "again": made(folder / "again", max_examples=0),
        "poor": made(folder / "poor", forgets=60, seed=3, max_examples=0),
        "long": made(folder / "long", long=True, max_examples=0),
    }


def slices_of(runs, first, other, **more):
    facts = compare.facts([str(runs[n].path) for n in (first, other)], **more)
    return {s["slice"]: s for s in facts["paired"][facts["runs"][1]["name"]]}


def test_a_run_beside_itself_and_beside_a_worse_one(runs):
    same, worse = slices_of(runs, "good", "again"), slices_of(runs, "good", "poor", rows=True)
    for s in same.values():
        assert s["difference"] == 0 and s["verdict"] in ("unresolved", "equivalent")
        assert s["pairs"] > 0 and s["matched_difference"] == 0
    rows = storage.read_json(runs["poor"].scores_json(STEP))["rows"]
    good = storage.read_json(runs["good"].scores_json(STEP))["rows"]
    for name, row in rows.items():
        assert worse[name]["difference"] == pytest.approx(row["score"] - good[name]["score"])
        assert worse[name]["pairs"] == row["examples"]
    assert {s["verdict"] for s in worse.values()} <= {"worse", "unresolved"}
    assert "worse" in {s["verdict"] for s in worse.values()}
    back = slices_of(runs, "poor", "good", rows=True)
    for name, s in worse.items():
        assert back[name]["difference"] == pytest.approx(-s["difference"])
        assert (back[name]["verdict"] == "better") == (s["verdict"] == "worse")


def test_a_round_is_better_on_what_was_acted_on(runs):
    """The runs have few clusters, so that over all of them nothing is told from chance."""
    good, poor = (str(runs[n].path) for n in ("good", "poor"))
    rows = storage.read_json(runs["poor"].scores_json(STEP))["rows"]
    first = next(iter(rows))
    aim = {"why": "a task", "tasks": [rows[first]["task"]], "conditions": []}
    mended = rounds.beside(poor, good, [aim])
    assert mended["verdict"] == "unresolved" and not mended["worse"] and mended["better"]
    assert [s["verdict"] for s in mended["on"]] == ["better"] and not mended["untold"]
    # in one template, fewer questions
    template = predictions.read_whole(runs["poor"], STEP, first)[0]["template"]
    part = {**aim, "why": "in part", "conditions": [f"template = {template}"]}
    both = rounds.beside(poor, good, [aim, part])["on"]
    assert 0 < both[1]["pairs"] <= both[0]["pairs"]
    # many actions are many tests
    many = rounds.beside(poor, good, [aim] * 40)["on"]
    assert many[0]["holm"] == pytest.approx(min(1.0, 40 * mended["on"][0]["holm"]))
    every = sorted({r["task"] for r in rows.values()})
    untold = {
        "none of its questions is shared": {**aim, "tasks": ["another"]},
        "it is about all questions": {**aim, "tasks": every},
        "of a question it cannot be told: men, in their place women": {**aim, "conditions": ["men, in their place women"]},
    }  # fmt: skip
    for why, other in untold.items():
        held = rounds.beside(poor, good, [other])
        assert not held["better"] and held["on"] == [] and held["untold"] == {"a task": why}
    assert not rounds.beside(poor, good, [])["better"]
    assert not rounds.beside(good, poor, [aim])["better"]
    assert not rounds.beside(good, str(runs["again"].path), [aim])["better"]


def test_answers_that_were_cut_widen_the_interval_and_decide_nothing(runs):
    cut = slices_of(runs, "good", "long", rows=True)
    judged = [s for s in cut.values() if s["unknown"]]
    assert judged
    for s in judged:
        assert s["difference"] < 0 and s["verdict"] == "unresolved" and s["interval"][1] >= 0
    narrow = [
        s["interval"][1] - s["interval"][0] for s in slices_of(runs, "good", "again").values()
    ]
    assert max(narrow) < max(s["interval"][1] - s["interval"][0] for s in judged)


def test_recipes_need_three_seeds_each(runs, tmp_path, capsys):
    def seeded(name, forgets, steps, seed):
        return made(tmp_path / name / str(seed), forgets=forgets + seed, seed=seed, steps=steps)

    few = [seeded("a", 0, 4, s) for s in range(3)]
    other = [seeded("b", 40, 5, s) for s in range(3)]
    facts = compare.facts([str(r.path) for r in (*few, *other)])
    (recipe,) = facts["recipes"]
    assert recipe["runs"] == [3, 3]
    group = next(g for g in recipe["groups"] if g["label"].startswith("new examples"))
    assert group["difference"] < 0 and group["interval"][1] < 0
    words = [
        "compare",
        *(str(r.path) for r in (few[0], *other)),
        "--json",
        str(tmp_path / "x.json"),
    ]
    assert cli.main(words) == 0
    out = capsys.readouterr().out
    assert "nothing is said below 3 seeds of each" in out and "unresolved" in out
    assert cli.main(["compare", *words[1:3], "--margin", "2"]) == 2


def test_what_the_instruction_tells_stands_beside_it(tmp_path, capsys):
    folders = [made(tmp_path / name) for name in ("a", "b")]
    for bits, run in enumerate(folders):
        lock = storage.read_json(run.lock_json)
        lock = {k: v for k, v in lock.items() if k != storage.SEAL}
        row = {
            "name": "r",
            "task": "r",
            "others": ["o"],
            "cluster": "c",
            "group": "instances",
            "grade": None,
        }
        lock["information"] = [row | {"split": "test", "folder": "f", "sha256": "0"}]
        storage.write_json(run.lock_json, storage.sealed(lock))
        values = {"r": {"removed": [0.0, 0.0], "swapped": [bits + 0.5, bits + 1.5]}}
        storage.write_json(run.information_json, storage.sealed({"after": values, "steps": {}}))
    words = ["compare", *(str(r.path) for r in folders), "--json", str(tmp_path / "said.json")]
    assert cli.main(words) == 0
    told = storage.read_json(tmp_path / "said.json")["information"]["new examples, trained tasks"]
    assert [of["mean"] for of in told.values()] == [1.0, 2.0]
    assert "bits that its own instruction tells" in capsys.readouterr().out


def test_rows_that_asked_something_else_are_not_paired(runs, tmp_path):
    other = made(tmp_path / "other")
    lock = storage.read_json(other.lock_json)
    lock = {k: v for k, v in lock.items() if k != storage.SEAL}
    for row in lock["evaluation"]:
        row["sha256"] = "0" * 64
    storage.write_json(other.lock_json, storage.sealed(lock))
    found = compare.facts([str(runs["good"].path), str(other.path)])
    (slices,) = found["paired"].values()
    assert slices and all(s["pairs"] == 0 and "verdict" not in s for s in slices)


def test_ranked_rows_and_sets_have_no_unknown_answers():
    line = {"id": "1", "template": "t", "score": 0.0, "finished": False, "extracted": None, "prediction": "x"}  # fmt: skip
    for row, unknown in (({"metric": "exact_match"}, 2), ({"metric": "rank"}, 0)):
        (pair,) = paired.pairs(row, [line], [line])
        assert pair.unknown == unknown and pair.difference == 0
        assert (pair.worst, pair.best) == ((-1, 1) if unknown else (0, 0))
    right = dict(line, score=1.0)  # it was cut, and is right all the same
    (pair,) = paired.pairs({"metric": "exact_match"}, [line], [right])
    assert (pair.difference, pair.worst, pair.best, pair.unknown) == (1.0, 0.0, 1.0, 1)
    assert dataclasses.is_dataclass(pair) is False


def _believed(p: float, number: int) -> dict:
    """A ranked line whose right option, the first of two, has probability p."""
    logprob = [math.log(p), math.log(1 - p)]
    return {"id": f"{number:03}", "template": 0, "answer_index": 0, "finished": True, "extracted": "x",
            "prediction": "x", "score": float(p > 0.5), "rank": {"logprob": logprob}}  # fmt: skip


def test_probabilities_tell_what_no_single_answer_shows_and_nothing_where_nothing_changed():
    """Answers stay as right as they were while the right option's probability rises by 0.2; and of
    200 pairs of runs that differ by noise alone few are called better by either measure."""
    row = {"r": {"task": "t", "cluster": "c", "group": "instances", "metric": "accuracy"}}

    def verdicts(first, other):
        sides = [lambda _, own=own: [_believed(p, i) for i, p in enumerate(own)] for own in (first, other)]  # fmt: skip
        found = list(rounds._measured("why", row, sides))
        ps = paired.holm([s["p"] for s in found])
        return {s["measure"]: paired.verdict(s["interval"], p, 0.05) for s, p in zip(found, ps, strict=True)}  # fmt: skip

    rng = np.random.default_rng(5)
    low = rng.uniform(0.55, 0.7, 50)
    told = verdicts(low, low + 0.2)
    assert told[rounds.PROBABILITY] == "better" and told[rounds.SCORE] != "better"
    false = 0
    for _ in range(200):
        base = rng.uniform(0.2, 0.8, 50)
        noisy = (np.clip(base + rng.normal(0, 0.15, 50), 0.01, 0.99) for _ in range(2))
        false += "better" in verdicts(*noisy).values()
    assert false <= 12, false  # 2.5 % on this side, and three standard deviations


def test_answers_that_were_written_are_judged_by_score_alone():
    row = {"r": {"task": "t", "cluster": "c", "group": "instances", "metric": "accuracy"}}
    written = [{k: v for k, v in _believed(0.9, i).items() if k != "rank"} for i in range(4)]
    found = list(rounds._measured("why", row, [lambda _: written] * 2))
    assert [(s["measure"], s["pairs"]) for s in found] == [(rounds.SCORE, 4), (rounds.PROBABILITY, 0)]  # fmt: skip
