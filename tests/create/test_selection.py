# SPDX-License-Identifier: Apache-2.0
"""Scores of rows, and the random arm beside each selection."""

import json
import math
import random

import jax
import numpy as np
import pytest

from itx import cli
from itx.create import judge, lineage, selection
from itx.create.generators import Request, Scripted
from itx.create.journal import Journal, ask
from itx.create.lineage import Lineage, Made
from itx.create.row import Row
from itx.data.vocabulary import Vocabulary
from itx.eval import states
from itx.eval.runner import Runner
from itx.params import module_of
from tests import synthetic
from tests.conftest import REPO

VOCABULARY = REPO / "tests" / "golden" / "hf" / "qwen3" / "tokenizer.json"
ROWS = [
    Row(f"Name {n} birds of the {place}.", "", " ".join(["A crow and a jay."] * n))
    for n in (1, 2, 3, 4)
    for place in ("wood", "shore", "north")
]


@pytest.fixture(scope="module")
def model() -> tuple[Runner, Vocabulary]:
    vocabulary = Vocabulary(VOCABULARY)
    return synthetic.runner_over(vocabulary, context=200), vocabulary


# ---- the arms


def test_the_random_arm_has_as_many_tokens():
    draw = random.Random(0)
    for seed in range(200):
        sizes = [draw.randrange(1, 60) for _ in range(80)]
        scores = [float(s) for s in sizes]  # the longest are selected
        chosen = selection.chosen("length", scores, sizes, 12, seed)
        assert sorted(sizes[i] for i in chosen.rows) == sorted(sizes)[-12:]
        tokens = sum(sizes[i] for i in chosen.rows)
        assert abs(sum(sizes[i] for i in chosen.random) - tokens) <= 30  # half of a longest row
        assert len(set(chosen.random)) == len(chosen.random) > 12  # of shorter rows there are more
        assert set(chosen.why_not) == set(range(80)) - set(chosen.rows)
    arms = {tuple(selection.random_arm([5] * 20, 25, seed)) for seed in range(50)}
    assert all(len(arm) == 5 for arm in arms) and len(arms) > 40
    # a row's chance to be in it does not hang on its length
    sizes = [1, 9] * 50
    drawn = [i for seed in range(300) for i in selection.random_arm(sizes, 100, seed)]
    assert 0.85 < sum(i % 2 for i in drawn) / sum(i % 2 == 0 for i in drawn) < 1.15


def test_rows_without_a_score_and_misfits_are_told():
    chosen = selection.chosen("ifd", [0.2, None, 1.5, 0.9, 0.4], [3] * 5, 2, 0)
    assert chosen.rows == [3, 4]
    whys = {1: "ifd: no score", 2: "ifd: 1.500, not below 1", 0: "ifd: 0.200 is too low"}
    assert chosen.why_not == whys


# ---- by a model


def test_ifd_is_that_of_the_logits(model):
    """Against log-probabilities read off the model's logits, each text alone in a row."""
    runner, vocabulary = model
    loaded = runner.loaded
    network = module_of(loaded.graphdef, loaded.params)

    def mean_loss(before: list[int], target: list[int]) -> float:
        ids = np.array([[*before, *target]])
        batch = {
            "decoder_input_tokens": ids,
            "decoder_segment_ids": np.ones_like(ids),
            "decoder_positions": np.arange(ids.shape[1])[None],
        }
        with jax.set_mesh(loaded.mesh):
            logits = np.asarray(network(batch), np.float64)[0]
        logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        at = range(len(before) - 1, len(before) - 1 + len(target))
        return -float(np.mean([logp[p, t] for p, t in zip(at, target, strict=True)]))

    def prompt(row: Row) -> list[int]:
        return vocabulary.encode(row.asked)

    rows = [*ROWS[:5], Row("Name one.", "", "word " * 300)]
    grades = selection.ifd(runner, vocabulary, prompt, rows)
    assert grades.scores[5] is None and sum(grades.notes.values()) == 1
    alone = loaded.head or [loaded.eos_id]
    for row, score in zip(rows[:5], grades.scores, strict=False):
        target = vocabulary.encode(row.output)
        both = mean_loss([*loaded.head, *prompt(row)], target), mean_loss(alone, target)
        assert abs(both[0] - both[1]) > 1e-3
        assert score == pytest.approx(math.exp(both[0] - both[1]), rel=1e-3)


def test_vectors_do_not_hang_on_what_stands_beside(model):
    runner, vocabulary = model
    texts = [vocabulary.encode(row.whole) for row in ROWS] + [vocabulary.encode("word " * 60)]
    made = states.vectors(runner.loaded, texts)
    assert np.allclose(np.linalg.norm(made, axis=1), 1, atol=1e-5)
    for i in (0, 7, 12):
        alone = states.vectors(runner.loaded, [texts[i]])[0]
        assert np.allclose(alone, made[i], atol=1e-5)
    far = 1 - made @ made.T
    assert (far[~np.eye(len(made), dtype=bool)] > 1e-4).all()
    # of the model's own states, each token weighted by its place
    loaded, ids = runner.loaded, np.array([[*runner.loaded.head, *texts[3]]])
    batch = {
        "decoder_input_tokens": ids,
        "decoder_segment_ids": np.ones_like(ids),
        "decoder_positions": np.arange(ids.shape[1])[None],
    }
    with jax.set_mesh(loaded.mesh):
        own = np.asarray(module_of(loaded.graphdef, loaded.params).states(batch), np.float64)[0]
    mean = (own * np.arange(1, len(own) + 1)[:, None]).sum(0)
    assert np.allclose(mean / np.linalg.norm(mean), made[3], atol=1e-3)


def test_k_center_takes_the_farthest():
    vectors = np.random.default_rng(0).normal(size=(60, 5))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    taken = selection.k_center(vectors, 20, 3)
    assert len(set(taken)) == 20
    for n in range(1, 20):
        distance = (1 - vectors @ vectors[taken[:n]].T).min(1)
        assert distance[taken[n]] == pytest.approx(distance.max())
    spread = (1 - vectors @ vectors[taken].T).min(1).max()
    drawn = [np.random.default_rng(s).permutation(60)[:20] for s in range(50)]
    assert spread < min((1 - vectors @ vectors[d].T).min(1).max() for d in drawn)


# ---- by a judge


@pytest.mark.parametrize(
    ("said", "grade"),
    [("7", 7), (" 10/10", 10), ("Grade: 3.", 3), ("Оценка: 8", 8), ("评分：9分", 9), ("11", None), ("0", None), ("4.5", None), ("good", None), ("", None)],
)  # fmt: skip
def test_reading_grades(said, grade):
    assert judge.read_grade(said) == grade


def test_grades_are_those_of_the_judge(tmp_path):
    def grading(request: Request) -> str:
        crows = request.messages[-1].content.count("crow")
        return "no idea" if crows == 4 else f"Grade: {crows}"

    with Journal(tmp_path / "j.sqlite") as kept:
        grades = judge.grades(lambda r: ask(kept, Scripted(grading), r), ROWS, True, 0)
    assert grades.scores == [1.0] * 3 + [2.0] * 3 + [3.0] * 3 + [None] * 3
    assert grades.notes == {"no grade: the answer holds no number from 1 to 10": 3}


def test_pairs_in_both_orders(tmp_path):
    def better(request: Request) -> str:
        first, second = request.messages[-1].content.split("\n\nB.\n")
        a, b = first.count("crow"), second.count("crow")
        return "A" if a >= b else "B"  # of equals the first

    def first_always(request: Request) -> str:
        return "A"

    for n, (judging, biased) in enumerate(((better, False), (first_always, True))):
        with Journal(tmp_path / f"{n}.sqlite") as kept:
            made = judge.compared(lambda r: ask(kept, Scripted(judging), r), ROWS, True, 0)  # noqa: B023
        met = judge.pairs(len(ROWS), 0)
        assert sum(made.notes.values()) == len(met)
        if biased:
            assert set(made.scores) == {0.5}
            assert made.notes == {"pairs decided by the order": len(met)}
        else:
            crows = [row.output.count("crow") for row in ROWS]
            for i in range(len(ROWS)):
                wins = [
                    (crows[i] > crows[j]) + 0.5 * (crows[i] == crows[j])
                    for a, b in met
                    if i in (a, b) and (j := a + b - i) >= 0
                ]
                assert made.scores[i] == pytest.approx(np.mean(wins))
            assert made.notes["pairs decided by the order"] > 0
    assert {i for pair in met for i in pair} == set(range(len(ROWS)))


# ---- the command


def test_a_selection_and_its_random_arm(tmp_path, capsys):
    came = Lineage(("seed",), "small", {}, operator="frame", preserving=True)
    facts = {"origin": ["rows"], "licence": "unknown", "method": "augment", "split": "parent"}
    facts["cluster"] = "birds"
    lineage.write(tmp_path / "created/x", "x", "k", [Made(row, came) for row in ROWS], facts)
    line = ["create", "select", "created.x.v1", "--root", str(tmp_path), "--name", "best"]
    line += ["--by", "length", "--keep", "3"]
    assert cli.main([*line, "--json", str(tmp_path / "facts.json")]) == 0
    told = json.loads((tmp_path / "facts.json").read_text())
    best, drawn = told["selected"], told["random"]
    assert (best["task"], drawn["task"]) == ("created.best.v1", "created.best_random.v1")
    assert best["counts"]["kept"] == 3 and drawn["counts"]["kept"] > 3
    assert abs(best["tokens"] - drawn["tokens"]) <= 13
    kept = list(lineage.lines(tmp_path / "created/best/v1/kept.jsonl"))
    assert all(h["output"].count("crow") == 4 for h in kept)
    # as they were made, with the cluster and the origin of their source
    assert all(h["lineage"]["operator"] == "frame" and h["lineage"]["preserving"] for h in kept)
    assert best["cluster"] == "birds" and best["origin"] == ["rows"] and best["split"] == "parent"
    assert best["counts"]["dropped"] == {"not selected": 9}
    assert cli.main(line) == 0
    assert "have made it already" in capsys.readouterr().err
    assert cli.main(["tasks", "check", "created.best.v1", "--root", str(tmp_path)]) == 0
    assert (
        cli.main(["data", "diff", "created.best.v1", "created.x.v1", "--root", str(tmp_path)]) == 0
    )


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--by", "lenght", "--keep", "3"], "no selector 'lenght'; did you mean 'length'"),
        (["--by", "length", "--keep", "12"], "created.x.v1 has 12 rows; keep fewer"),
        (["--by", "ifd", "--keep", "3"], "reads a model of your own: give --model MODEL"),
        (["--by", "judge", "--keep", "3"], "give one of --model MODEL, --server URL"),
    ],
)
def test_what_is_refused_leaves_nothing(more, told, tmp_path, capsys):
    facts = {"origin": [], "licence": "unknown", "method": "augment"}
    came = Lineage(("seed",), "small", {})
    lineage.write(tmp_path / "created/x", "x", "k", [Made(row, came) for row in ROWS], facts)
    line = ["create", "select", "created.x.v1", "--root", str(tmp_path), "--name", "best", *more]
    assert cli.main(line) == 2
    assert told in capsys.readouterr().err
    assert [p.name for p in (tmp_path / "created").iterdir()] == ["x"]
