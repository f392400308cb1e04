# SPDX-License-Identifier: Apache-2.0
"""What makes two examples one: content fields and options as they stand; answers that disagree are
counted and named."""

import json
from collections import Counter

import pytest

from itx.data import cache
from itx.errors import UserError
from itx.prepare import examples, jobs, types, vocab
from itx.tasks import registry
from itx.tasks.registry import make_task
from itx.tasks.spec import SPLITS, function, jsonl
from tests import sample_tasks  # noqa: F401  (registers)
from tests.prepare.job_settings import job_settings

OPTIONS = ["red", "blue", "green"]


def task(fields=dict, source=None, **more):
    source = source or function(lambda split, root, seed: [], {"train": 1.0})
    return make_task(
        "t",
        version=1,
        cluster="c",
        source=source,
        fields=fields,
        templates=[("{text}", "{answer}")],
        **more,
    )


def kept(rows: list[dict], **more) -> tuple[list[dict], Counter]:
    """The examples of which `items` makes items, and what it counts."""
    counts: Counter = Counter()
    spec = task(source=function(lambda split, root, seed: rows, {"train": 1.0}), **more)
    return [i.values for i in examples.items(spec, "train", "", 0, counts)], counts


DIFFERENT = {
    "options": [
        {"text": "Which?", "options": [f"{n} and {m}" for m in range(3)], "answer": 1}
        for n in range(20)
    ],
    "options in another order": [
        {"text": "Which?", "options": o, "answer": "red"} for o in (OPTIONS, OPTIONS[::-1])
    ],
    "case": [{"text": t, "answer": "x"} for t in ("Polish it", "polish it", "POLISH IT")],
    "case of Cyrillic": [{"text": t, "answer": "x"} for t in ("Роман", "роман", "РОМАН")],
    "superscripts": [{"text": t, "answer": "x"} for t in ("2³ = ?", "23 = ?", "2₃ = ?")],
    "full width": [{"text": t, "answer": "x"} for t in ("ＡＢＣ 東京", "ABC 東京")],
    "indentation": [
        {"text": t, "answer": "x"} for t in ("if a:\n  b\n  c", "if a:\n  b\nc", "if a: b c")
    ],
    "minus signs": [{"text": t, "answer": "x"} for t in ("5 − 3", "5 - 3")],
    "a field that is a number": [{"text": "a", "n": n, "answer": "x"} for n in (1, 2)],
}
SAME = {
    "white space around": ["text", " text\n", "\ttext "],
    "composed and decomposed": ["café", "cafe\u0301"],
    "composed and decomposed Cyrillic": ["й", "и\u0306"],
}


@pytest.mark.parametrize("case", DIFFERENT)
def test_what_differs_is_kept(case):
    rows = DIFFERENT[case]
    found, counts = kept(rows)
    assert found == rows and len(rows) > 1 and counts == {"read": len(rows)}


@pytest.mark.parametrize("case", SAME)
def test_equal_texts_are_one(case):
    rows = [{"text": t, "options": OPTIONS, "answer": 2} for t in SAME[case]]
    found, counts = kept(rows)
    assert len(set(SAME[case])) == len(rows) > 1 and found == rows[:1]
    assert counts == {"read": len(rows), "repeated input": len(rows) - 1}


def test_examples_of_one_canonical_input_fall_into_one_split():
    """A split must not ask in capitals what another trains on."""
    rows = [
        {"text": t, "answer": "x"} for n in range(30) for t in (f"Sentence {n}", f"SENTENCE {n}")
    ]
    spec = task(source=function(lambda split, root, seed: rows, {"train": 0.5, "test": 0.5}))
    found = [
        [i.values["text"] for i in examples.items(spec, s, "", 0, Counter())]
        for s in ("train", "test")
    ]
    assert sorted(map(len, found)) != [0, 60] and sum(map(len, found)) == 60
    low = [{t.lower() for t in texts} for texts in found]
    assert not low[0] & low[1] and all(
        len(texts) == 2 * len(texts_low) for texts, texts_low in zip(found, low, strict=True)
    )


def test_answers_that_disagree_are_counted_by_themselves():
    rows = [
        {"text": t, "answer": a}
        for t, a in (("a", "yes"), ("b", "no"), ("a", "no"), ("a", "yes"), ("b", " no "))
    ]
    found, counts = kept(rows)
    assert found == rows[:2]
    assert counts == {"read": 5, "repeated input": 2, "another answer to a repeated input": 1}
    indices = [
        {"text": "a", "options": o, "answer": i}
        for o, i in ((OPTIONS, 0), (OPTIONS, "red"), (OPTIONS, 1))
    ]
    assert kept(indices)[1] == {
        "read": 3,
        "repeated input": 1,
        "another answer to a repeated input": 1,
    }
    several = [{"text": "a", "answer": a} for a in (["x", "y"], ["y", "x"], ["x"])]
    assert kept(several)[1] == {
        "read": 3,
        "repeated input": 1,
        "another answer to a repeated input": 1,
    }


def test_the_manifest_names_a_conflict(tmp_path, monkeypatch):
    rows = [
        {"text": f"letter number {i % 20}", "answer": "even" if i < 25 else "odd"}
        for i in range(30)
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    monkeypatch.setitem(registry.TASKS, "t", task(source=jsonl(dict.fromkeys(SPLITS, "a.jsonl"))))
    vocabulary = str(vocab.train(["sample_even"], 300, "", 0, str(tmp_path)))
    settings = job_settings(vocabulary, root=str(tmp_path), cache_dir=str(tmp_path / "cache"))
    for split in ("train", "test"):
        where, manifest = jobs.run(types.Job("t", split), settings)
        assert manifest["audit"]["skipped"] == {
            "repeated input": 5,
            "another answer to a repeated input": 5,
        }
        said = manifest["audit"]["first"]
        assert said == {
            "another answer to a repeated input": "a.jsonl:26 has 'odd' where a.jsonl:6 has 'even'"
        }
    assert len({e["id"] for e in cache.iterate_examples(tmp_path / "cache" / where)}) == 20


@pytest.mark.parametrize("damage", [None, "[]", "{"])
def test_a_folder_without_its_manifest_is_made_anew_and_a_damaged_one_is_named(tmp_path, damage):
    vocabulary = str(vocab.train(["sample_even"], 300, "", 0, str(tmp_path)))
    settings = job_settings(vocabulary, root=str(tmp_path), cache_dir=str(tmp_path / "cache"))
    job = types.Job("sample_even", "train")
    where, manifest = jobs.run(job, settings)
    file, failure = tmp_path / "cache" / where / "manifest.json", None
    before = file.read_bytes()
    file.unlink() if damage is None else file.write_text(damage)
    try:
        jobs.run(job, settings)
    except Exception as e:
        failure = e
    assert (failure is None) == (damage is None)
    if damage:
        assert isinstance(failure, UserError) and f"{file} is damaged" in str(failure)
        file.unlink()  # as the line says
    assert jobs.run(job, settings) == (where, manifest) and file.read_bytes() == before
