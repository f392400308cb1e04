# SPDX-License-Identifier: Apache-2.0
"""Exemplars: from training alone, never the example itself, as many as asked or counted as
fewer."""

import dataclasses
import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from itx import hashing
from itx.audit import leaks
from itx.data import cache
from itx.leaks import contamination
from itx.prepare import examples, exclude, fewshot, types
from itx.tasks import names, registry
from itx.tasks.spec import function
from tests import sample_tasks  # noqa: F401  (registers)
from tests.scored import MANIFEST

pytestmark = pytest.mark.smoke


def items_of(name, split="train"):
    return list(examples.items(registry.task(name), split, "", 0, Counter()))


def small(rows):
    spec = registry.task("sample_add")
    return dataclasses.replace(spec, source=function(lambda *_: rows, {"train": 1.0}))


def shown(rendered):
    """The exemplars column of a cache."""
    return cache.Columns.of(
        [[([1], True)]] * len(rendered),
        *[[0] * len(rendered)] * 2,
        9,
        [r.exemplars for r in rendered],
    ).exemplars


@pytest.mark.parametrize("count", [1, 3, 5])
def test_exemplars_are_different_training_examples_other_than_the_example(count):
    spec = registry.task("sample_even")
    train, test = items_of("sample_even"), items_of("sample_even", "test")
    pool = fewshot.pool(spec, train)
    known = {i.hash for i in train}
    for item in [*train[:60], *test]:
        chosen = [i.hash for i in fewshot.choose(pool, item, count, 7)]
        assert (
            len(chosen) == len(set(chosen)) == count
            and item.hash not in chosen
            and set(chosen) <= known
        )
    different = {tuple(i.hash for i in fewshot.choose(pool, item, count, 7)) for item in train[:60]}
    assert len(different) > 30
    assert [fewshot.choose(pool, i, count, 7) for i in train] != [
        fewshot.choose(pool, i, count, 8) for i in train
    ]


def test_the_pool_is_bounded_and_does_not_follow_the_order_of_reading():
    train = items_of("sample_even")
    spec = registry.task("sample_even")
    assert fewshot.pool(spec, train) == fewshot.pool(spec, train[::-1])
    many = [
        types.Item(str(i), {"answer": 0}, str(i), hashing.draw(i)) for i in range(3 * fewshot.POOL)
    ]
    kept = fewshot.pool(spec, many)["even"]
    assert len(kept) == fewshot.POOL and max(i.hash for i in kept) < 2**64 * 0.4


def test_balanced_exemplars_take_the_labels_in_turn_and_do_not_tell_the_answer():
    spec = registry.task("sample_even")
    assert spec.balanced_shots
    train = items_of("sample_even")
    pool = fewshot.pool(spec, train)
    assert set(pool) == {"even", "odd"}
    first, said = Counter(), lambda i: i.values["answer"]
    for item in train:
        labels = [said(i) for i in fewshot.choose(pool, item, 4, 0)]
        assert sorted(labels) == [0, 0, 1, 1]
        first[said(item), labels[0]] += 1
    assert all(n > len(train) / 8 for n in first.values()) and len(first) == 4
    plain = fewshot.pool(dataclasses.replace(spec, balanced_shots=False), train)
    assert {sum(said(i) for i in fewshot.choose(plain, item, 4, 0)) for item in train} >= {
        0,
        1,
        2,
        3,
        4,
    }


def test_three_examples_with_a_duplicate_give_fewer_and_never_the_example():
    rows = [{"a": 1, "b": 2}, {"a": 1, "b": 2}, {"a": 3, "b": 4}, {"a": 5, "b": 6}]
    spec, counts = small(rows), Counter()
    items = list(examples.items(spec, "train", "", 0, counts))
    assert len(items) == 3 and counts["repeated input"] == 1
    pool = fewshot.pool(spec, items)
    for item in items:
        chosen = fewshot.choose(pool, item, 5, 0)
        assert {i.hash for i in chosen} == {i.hash for i in items} - {item.hash}
    lone = items[:1]
    assert fewshot.choose(fewshot.pool(spec, lone), lone[0], 2, 0) == []


@settings(max_examples=60, deadline=None)
@given(
    pairs=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=14),
    shots=st.integers(1, 5),
    balanced=st.booleans(),
    rendering=st.integers(0, 2),
)
def test_no_exemplar_is_the_example_or_of_another_split_however_small_or_repetitive_the_set(
    pairs, shots, balanced, rendering
):
    rows = [{"a": a, "b": b} for a, b in pairs]
    source = function(lambda *_: rows, {"train": 0.6, "validation": 0.2, "test": 0.2})
    spec = dataclasses.replace(registry.task("sample_even"), source=source, balanced_shots=balanced)
    items = {
        s: list(examples.items(spec, s, "", 0, Counter())) for s in ("train", "validation", "test")
    }
    of = {i.hash: (i.values["a"], i.values["b"]) for found in items.values() for i in found}
    assert set(of.values()) == set(pairs) and len(of) == len(set(pairs))
    pool, train = fewshot.pool(spec, items["train"]), {of[i.hash] for i in items["train"]}
    every = [i for found in items.values() for i in found]
    variant = names.parse(f"sample_even:fs{shots}")
    rendered, _ = fewshot.render_all(
        spec, variant, [(i, None) for i in every], rendering, 0, Letters(), pool
    )
    for item, r in zip(every, rendered, strict=True):
        others = train - {of[item.hash]}
        shown = [of[h] for h in r.exemplars]
        assert len(set(shown)) == len(shown) == min(shots, len(others)) and set(shown) <= others
        asked = re.findall(r"Is (\d+) \+ (\d+) even", r.prompt)  # as the model reads it
        assert [(int(a), int(b)) for a, b in asked] == [*shown, of[item.hash]]


class Letters:
    """A vocabulary whose tokens are characters."""

    def encode_batch(self, texts):
        return [[ord(c) for c in t] for t in texts]

    following = encode_batch


def test_exemplars_stand_before_the_prompt_in_its_template_and_style():
    spec, variant = registry.task("sample_even"), names.parse("sample_even:fs2")
    train = items_of("sample_even")
    pool = fewshot.pool(spec, train)
    pairs = [(i, None) for i in train[:20]]
    rendered, _ = fewshot.render_all(spec, variant, pairs, 0, 0, Letters(), pool)
    bare, _ = fewshot.render_all(spec, names.parse("sample_even"), pairs, 0, 0, Letters())
    for with_shots, without in zip(rendered, bare, strict=True):
        assert (
            with_shots.prompt.endswith("\n\n" + without.prompt)
            and with_shots.target == without.target
        )
        first, second, own = with_shots.prompt.split("\n\n")
        assert own == without.prompt
        for exemplar in (first, second):
            assert exemplar.startswith("Is ") and exemplar.split()[-1] in ("even", "odd")
    assert fewshot.counts(shown(rendered), variant) == {"asked": 2, "fewer": 0, "none": 0}
    assert fewshot.counts(shown(bare), names.parse("sample_even")) == {}


def test_exemplars_fall_away_until_the_example_fits():
    spec, variant = registry.task("sample_even"), names.parse("sample_even:fs3")
    train = items_of("sample_even")
    pool = fewshot.pool(spec, train)
    pairs = [(i, None) for i in train[:40]]
    whole, records = fewshot.render_all(spec, variant, pairs, 0, 0, Letters(), pool)

    def size(record):
        return sum(len(ids) for ids, _ in record) + 2

    budget = sorted(map(size, records))[20] - 1
    fitted, cut = fewshot.render_all(spec, variant, pairs, 0, 0, Letters(), pool, budget)
    given = [len(r.exemplars) for r in fitted]
    assert all(size(r) <= budget for r in cut) and 2 in given and 3 in given
    for a, b in zip(whole, fitted, strict=True):
        assert b.exemplars == a.exemplars[: len(b.exemplars)]  # the last fall away first
        assert a.target == b.target
    assert fewshot.counts(shown(fitted), variant)["fewer"] == sum(n < 3 for n in given) > 0
    none, _ = fewshot.render_all(spec, variant, pairs, 0, 0, Letters(), pool, 1)
    assert fewshot.counts(shown(none), variant) == {"asked": 3, "fewer": 40, "none": 40}


def test_evaluation_shows_training_examples_and_training_shows_no_evaluated_ones(
    sample_locks, sample_cache
):
    lock = sample_locks["sample_held"]
    task = next(t for t in lock["tasks"] if t["name"] == "sample_even:fs3")
    train = cache.Records(sample_cache / task["folders"][0])
    row = next(r for r in lock["evaluation"] if r["name"] == "sample_even:fs3")
    test = cache.Records(sample_cache / row["folder"])
    assert train.exemplars.shape == (len(train), 3) and (train.exemplars > 0).all()
    for records in (train, test):
        assert np.isin(records.exemplars, train.content).all()
        assert not (records.exemplars == records.content[:, None]).any()
    assert cache.read_manifest(train.folder)["fewshot"] == {"asked": 3, "fewer": 0, "none": 0}


def test_a_record_that_shows_a_leaking_exemplar_is_left_out_and_seen(tmp_path):
    """Records 0..3; 3 is evaluated, and 1 shows it."""

    def folder(name, texts, exemplars):
        hashes = [hashing.draw("content", t) for t in texts]
        examples = [
            {"content": f"{h:016x}", "input_content": t} for h, t in zip(hashes, texts, strict=True)
        ]
        records = [[([5, 6], False), ([7], True)] for _ in texts]
        shown = [tuple(hashing.draw("content", e) for e in es) for es in exemplars]
        columns = cache.Columns.of(records, hashes, [0] * len(texts), 100, shown)
        cache.write(
            tmp_path / name,
            columns,
            {**MANIFEST, "templates": ["t"]},
            examples,
            [exclude.texts(t, ()) for t in texts],
        )

    folder("train", ["a", "b", "c", "d"], [("b", "c"), ("c", "d"), ("a", "b"), ("a",)])
    folder("test", ["d"], [()])
    task = {
        "name": "t",
        "folders": ["train"],
        "excluded": [[]],
        "examples": 4,
        "audit": {"skipped": {}, "kept": 4},
    }
    lock = {"tasks": [task], "evaluation": [{"folder": "test", "task": "e"}]}
    found = contamination.found(lock, tmp_path)
    assert found == {"t": {3: ("e", "equal input"), 1: ("e", "in an exemplar")}}

    def data(usable):
        return type(
            "Data", (), {"records": [[cache.Records(tmp_path / "train")]], "usable": [[usable]]}
        )

    left = leaks.leaks_left(lock, data(np.array([0, 1, 2])), tmp_path)
    assert left == [{"train": "t", "evaluation": "e", "how": "in an exemplar", "records": 1}]
    exclude.exclude(lock, found)
    assert task["excluded"] == [[1, 3]] and task["audit"]["skipped"] == {
        "in evaluation (equal input)": 1, "in evaluation (in an exemplar)": 1,
    }  # fmt: skip
    assert leaks.leaks_left(lock, data(np.array([0, 2])), tmp_path) == []
