# SPDX-License-Identifier: Apache-2.0
"""What an instruction tells, in bits: against a model whose probabilities are a table, and through
build, run folder and report."""

import dataclasses
import math
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from itx import mesh as meshes
from itx import restore, storage
from itx.analysis import words
from itx.config import MeshConfig
from itx.data import cache
from itx.eval import averages, information, stats
from itx.eval.runner import Runner
from itx.prepare import evaluation, jobs, vocab
from itx.prepare.types import EACH, Job, Row
from itx.tasks import registry
from itx.tasks.spec import CoT
from tests import sample_tasks, synthetic, tiny  # noqa: F401  (sample_tasks registers)
from tests.prepare.job_settings import job_settings
from tests.synthetic import changed

ROWS = 128  # of the embedding: a multiple of 128


def chain(table: np.ndarray) -> Runner:
    """A decoder whose next token hangs on the last one alone, by `table` [last, next] of
    probabilities: layers add nothing, embeddings are unit vectors, the head is the table's log."""
    model = tiny.decoder(embed_dim=ROWS, smear=0, tie_embeddings=False, num_layers=1)
    cfg = synthetic.config(model, eval={"batch_size": 16})
    mesh = meshes.make_mesh(MeshConfig(), jax.devices()[:1])
    made = restore.load_model(synthetic.Folder(Path("no-run")), cfg, synthetic.lock(), 0, mesh)
    params = dict(made.loaded.params)
    for path, value in params.items():
        if path.endswith(("/wo", "/w_out")):
            params[path] = jnp.zeros_like(value)
    params["embedding"] = jnp.eye(ROWS)
    # RMSNorm makes a unit vector sqrt(ROWS) long
    params["decoder/final_norm/scale"] = jnp.full(ROWS, ROWS**-0.5)
    params["head"] = jnp.asarray(np.log(table), jnp.float32)
    return changed(made, params=params)


@pytest.fixture(scope="module")
def table() -> np.ndarray:
    drawn = np.random.default_rng(0).dirichlet(np.ones(ROWS), ROWS)
    return (drawn + 1e-4) / (drawn + 1e-4).sum(1, keepdims=True)


def test_bits_are_those_of_a_model_known_in_closed_form(table):
    """Its own instruction ends on token 20, the others on 30 and 40; the target is 5, 6, EOS."""
    prompts, target = [[7, 20], [7, 30], [9, 40]], [5, 6]
    other = ([[20], [20], [8, 8, 20]], [6])  # the instruction changes nothing that is read
    found = information.bits(chain(table), {"a": [(prompts, target)], "b": [other, other]})
    removed, swapped = (math.log2(table[20, 5] / table[last, 5]) for last in (30, 40))
    assert abs(removed) > 0.1 and abs(swapped) > 0.1 and abs(removed - swapped) > 0.1
    assert found["a"]["removed"] == pytest.approx([removed], abs=1e-3)
    assert found["a"]["swapped"] == pytest.approx([swapped], abs=1e-3)
    assert found["b"] == {
        "removed": pytest.approx([0.0, 0.0], abs=1e-5),
        "swapped": pytest.approx([0.0, 0.0], abs=1e-5),
    }


def test_the_build_puts_each_example_under_three_instructions(sample_locks, sample_cache):
    """Of trained tasks in both kinds of wordings and of the held-out task: the same target behind
    each, the other task's instruction over the same words."""
    lock = sample_locks["sample_held"]
    by_name = {e["name"]: e for e in lock["information"]}
    groups = {name: e["group"] for name, e in by_name.items()}
    assert groups == {
        "sample_first": "instances",
        "sample_last": "instances",
        "sample_first@heldout": "templates",
        "sample_last@heldout": "templates",
        "sample_second": "tasks",
    }
    rows = {r["name"]: r for r in lock["evaluation"]}
    for name, entry in by_name.items():
        assert entry["task"] not in entry["others"] and len(entry["others"]) == 2
        folder = sample_cache / entry["folder"]
        lines = list(cache.iterate_examples(folder))
        triples = information.triples_of(folder, lock)
        assert len(lines) == 3 * len(triples) == 3 * cache.read_manifest(folder)["examples"]
        scored = {x["id"] for x in cache.iterate_examples(sample_cache / rows[name]["folder"])}
        word = {"sample_first": "first", "sample_last": "last", "sample_second": "second"}
        for own, none, swapped in zip(*[iter(lines)] * 3, strict=True):
            assert own["id"] == none["id"] == swapped["id"] and own["id"] in scored
            assert own["target"] == none["target"] == swapped["target"]
            assert word[entry["task"]] in own["prompt"]
            assert word[entry["others"][0]] in swapped["prompt"]
            assert not set(word.values()) & set(none["prompt"].split())
        records = cache.Records(folder)
        for n, (prompts, target) in enumerate(triples):
            assert len({tuple(p) for p in prompts}) == 3
            assert target == records[3 * n][-1][0].tolist()
    assert not any("information" in key for key in ("evaluation", "tasks"))
    assert {e["folder"] for e in by_name.values()}.isdisjoint(r["folder"] for r in rows.values())


def test_a_row_that_no_other_instruction_fits_is_named(tmp_path):
    """`right_claim` shows a passage and claims; what the family's other tasks ask about is not
    there."""
    file = vocab.train(["sample_first"], 300, "", 0, str(tmp_path))
    settings = job_settings(file, modules=("tasks.toy",), cache_dir=str(tmp_path))
    registry.load_modules(("tasks.toy",))
    made, rows = {}, []
    for task, others in (("right_claim", "thing_of,owner_of"), ("thing_of", "entails,colour_of")):
        job = Job(task, "test", "all", EACH, others)
        rows.append(Row(task, "clusters", "none", job, registry.task(task)))
        made[job] = jobs.run(job, settings)
    assert made[rows[1].job][1]["records"] == 3 * made[rows[1].job][1]["examples"] > 0
    assert evaluation.unfit(rows, made) == [
        "right_claim (no wording of thing_of, owner_of fits its inputs)"
    ]
    (entry,) = evaluation.lock_information(rows[1:], made, settings)
    swapped = list(cache.iterate_examples(tmp_path / entry["folder"]))[2]
    assert "colo" in swapped["prompt"]  # `entails` needs a claim, so the next stands in


def test_tasks_that_have_wordings_in_a_variant_alone_are_left_aside():
    """`:cot` may have held-out wordings, or all of a task's: the bare task is what is asked."""
    cot = CoT([("{words}? Reason.", "{rationale} So {answer}.")], [("{words}!", "{rationale} So {answer}.")])  # fmt: skip
    family = [registry.TASKS[f"sample_{n}"] for n in ("first", "last", "second")]
    bare = dataclasses.replace(family[0], heldout_templates=(), cot=cot)
    chains = dataclasses.replace(family[1], name="chains", templates=(), heldout_templates=(), cot=cot)  # fmt: skip
    planned = [
        Row(spec.name, group, "same task", Job(spec.name, "test", which), spec)
        for spec in (bare, chains, *family[1:])
        for group, which in (("instances", "train"), ("templates", "heldout"))
    ]
    found = [r.name for r in evaluation._information(planned)]
    assert found == ["sample_first", "sample_last", "sample_last@heldout", "sample_second", "sample_second@heldout"]  # fmt: skip


def entry(name, group="instances", cluster="c", grade=None):
    return {
        "name": name, "task": name, "others": ["o"], "cluster": cluster, "group": group, "grade": grade, "split": "test",
        "folder": f"{name}/x", "sha256": "0",
    }  # fmt: skip


def test_measurements_are_kept_and_bounded(tmp_path, monkeypatch):
    """The first examples of a row alone, once for a step and a bound."""
    asked = []

    def rank(prompts, options):
        asked.append(len(prompts))
        return [[{"logprob": -len(p) * math.log(2), "tokens": 1}] for p in prompts]

    triples = {"a": [([[1], [1, 1], [1, 1, 1]], [5])] * 4, "b": [([[1], [1], [1]], [5])]}
    monkeypatch.setattr(
        information, "triples_of", lambda folder, lock: triples[Path(folder).parent.name]
    )
    run = types.SimpleNamespace(information_json=tmp_path / "information.json")
    lock = {"information": [entry("a"), entry("b", "clusters", "d", "new operation")]}
    runner = types.SimpleNamespace(rank=rank)

    def measure(step, when, most):
        return information.information(lambda: runner, lock, "", run, step, when, most)

    held = measure(0, "before", 2)
    assert asked == [9] and measure(0, "before", 2) == held and asked == [9]
    told = {kind: np.round(bits, 9).tolist() for kind, bits in held["before"]["a"].items()}
    assert told == {"removed": [1.0] * 2, "swapped": [2.0] * 2}
    held = measure(7, "after", 0)
    assert asked == [9, 15] and len(held["after"]["a"]["swapped"]) == 4
    assert information.information(lambda: runner, {}, "", run, 0, "before", 2) == {}
    assert storage.is_intact(storage.read_json(run.information_json))
    of_rows = information.of_rows(held, lock["information"])
    assert [r["row"] for r in of_rows] == ["a", "b"]
    assert of_rows[0]["after"] == {"removed": pytest.approx(1.0), "swapped": pytest.approx(2.0)}


def test_averages_are_over_tasks_then_clusters_with_the_gain_of_each_example():
    rng = np.random.default_rng(1)
    entries = [entry(f"t{i}", cluster=f"c{i % 3}") for i in range(6)]
    entries.append(entry("u", "clusters", "z", "new operation"))
    names = [e["name"] for e in entries]
    before = {n: {k: rng.normal(0, 1, 5).tolist() for k in information.AGAINST} for n in names}
    after = {
        n: {k: [x + 3 + i for x in v] for k, v in before[n].items()} for i, n in enumerate(names)
    }
    groups = information.averages({"before": before, "after": after}, entries)
    assert [(g["group"], g["kind"], g["examples"]) for g in groups] == [
        ("instances", "", 30),
        ("clusters", "new operation", 5),
    ]
    gain = groups[0]["gain"]["swapped"]
    points = [(3 + 0 + 3 + 3) / 2, (3 + 1 + 3 + 4) / 2, (3 + 2 + 3 + 5) / 2]
    assert gain["mean"] == pytest.approx(np.mean(points))
    assert gain["interval"] == pytest.approx(list(stats.t_interval(points)))
    assert gain["interval"][1] > 1  # bits, unlike scores, have no ceiling
    means = {e["name"]: np.mean(after[e["name"]]["removed"]) for e in entries[:6]}
    by_cluster = [np.mean([means[f"t{i}"], means[f"t{i + 3}"]]) for i in range(3)]
    assert groups[0]["after"]["removed"]["mean"] == pytest.approx(np.mean(by_cluster))
    assert groups[1]["after"]["removed"]["interval"] is None  # a single cluster
    only = information.averages({"after": after}, entries)
    assert "gain" not in only[0] and "before" not in only[0]
    assert averages.place_of(("clusters", "new operation")) > averages.place_of(("instances", ""))


def test_a_gain_in_scores_without_one_in_information_is_called_a_gain_in_form():
    def group(low, high):
        mean = {"mean": (low + high) / 2, "interval": [low, high]}
        both = {"swapped": mean, "removed": mean}
        named = {"group": "instances", "kind": "", "label": "new examples", "examples": 4}
        return {**named, "before": both, "after": both, "gain": both}

    scored = {
        "group": "instances", "kind": "", "label": "new examples", "says": "above chance", "before": {"score": 0.1},
        "after": {"score_interval": [0.4, 0.6]},
    }  # fmt: skip
    for (low, high), said in (((-1, 2), True), ((0.5, 2), False)):
        told = words._format_alone([scored], {"information": {"groups": [group(low, high)]}})
        assert bool(told) == said and all("form alone" in t for t in told)
    assert words._format_alone([{**scored, "before": {"score": 0.5}}], {"information": {"groups": [group(-1, 2)]}}) == []  # fmt: skip
    assert words._format_alone([scored], {"information": None}) == []
