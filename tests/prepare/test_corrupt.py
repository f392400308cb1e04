# SPDX-License-Identifier: Apache-2.0
"""Corrupt inputs on their whole way into the cache: each is an error that names file, row or
example, or a counted skip."""

import dataclasses
import gzip
import json

import numpy as np
import pytest

from itx.data import cache
from itx.data import lock as locks
from itx.errors import UserError
from itx.prepare import evaluation, jobs, types, vocab
from itx.tasks import registry
from itx.tasks.spec import SPLITS, Source, csv, jsonl
from tests import bad_tasks, sample_tasks, samples  # noqa: F401  (register)
from tests.prepare.job_settings import job_settings

ROWS = [{"id": f"n{i}", "text": f"letter number {i}", "label": i % 2} for i in range(30)]
LONG = "even " * 2_000_000  # 10 MB of a word that the vocabulary has


def lines(*changed: tuple[int, dict | bytes]) -> bytes:
    """The rows as JSON lines, some (from 0) replaced."""
    texts = [json.dumps(r).encode() for r in ROWS]
    for i, new in changed:
        texts[i] = new if isinstance(new, bytes) else json.dumps(ROWS[i] | new).encode()
    return b"\n".join(texts) + b"\n"


TABLE = b"txt,label\n" + b"".join(f"{r['text']},{r['label']}\n".encode() for r in ROWS)
GZ = gzip.compress(lines(), mtime=0)
# (file, its bytes, what the error says, what data.skip_bad counts; None: an error in any case)
CASES = {
    "truncated gzip": ("a.jsonl.gz", GZ[: len(GZ) // 2], r"a\.jsonl\.gz: cut off or damaged gzip after row \d+", None),
    "half a JSON line": ("a.jsonl", lines()[:-20], r"a\.jsonl:30: broken JSON", {"broken JSON": 1}),
    "NUL bytes": ("a.jsonl", lines((6, b'{"text": "a\0b", "label": 0}')), r"a\.jsonl:7: broken JSON", {"broken JSON": 1}),
    "nothing but NUL": ("a.jsonl", lines((6, bytes(40))), r"a\.jsonl:7: broken JSON", {"broken JSON": 1}),
    "wrong column": ("a.csv", TABLE, r"a\.csv:2.* needs the field 'text'; did you mean 'txt'", {"unusable fields": 30}),
    "wrong field": ("a.jsonl", lines((4, b'{"txt": "a", "label": 0}')), r"a\.jsonl:5.* needs the field 'text'",
                    {"unusable fields": 1}),
    "empty target": ("a.jsonl", lines((3, {"label": " "})), r"example a\.jsonl:4: an empty answer", {"empty answer": 1}),
    "no target": ("a.jsonl", lines((3, {"label": None})), r"a\.jsonl:4.* no value \(None\) for 'answer'",
                  {"unusable fields": 1}),
    "label outside the options": ("a.jsonl", lines((3, {"label": 2})), r"example a\.jsonl:4: label 2 is outside the "
                                  r"options \('yes', 'no'\)", {"label outside the options": 1}),
    "label of no class": ("a.jsonl", lines((3, {"label": -1})), r"a\.jsonl:4: label -1 is outside the options",
                          {"label outside the options": 1}),
    "label of another set": ("a.jsonl", lines((3, {"label": "maybe"})), r"a\.jsonl:4: answer 'maybe' is not among",
                             {"label outside the options": 1}),
}  # fmt: skip


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    return str(vocab.train(["sample_even"], 300, "", 0, str(tmp_path_factory.mktemp("vocabulary"))))


@pytest.fixture
def build(tmp_path, vocabulary, monkeypatch):
    """A function: (file, bytes, source or None, skip_bad) -> (records, manifest) of a task's
    training split."""

    def make(file: str, data: bytes, source: Source | None = None, skip_bad: bool = False):
        (tmp_path / file).write_bytes(data)
        source = source or (csv if file.endswith(".csv") else jsonl)(dict.fromkeys(SPLITS, file))
        spec = dataclasses.replace(
            registry.task("sample_even"), name="corrupt", source=source, options=("yes", "no"),
            fields=lambda e: {"text": e["text"], "answer": int(e["label"]) if file.endswith(".csv") else e["label"]},
            templates=(("Is it so? {text}\n{options}", "{answer}"),),
        )  # fmt: skip
        monkeypatch.setitem(registry.TASKS, "corrupt", spec)
        settings = job_settings(
            vocabulary,
            modules=("tests.sample_tasks",),
            root=str(tmp_path),
            cache_dir=str(tmp_path / "cache"),
            skip_bad=skip_bad,
        )
        # it knows a split by its task and settings: files change between builds alone
        jobs._read_once.cache_clear()
        where, manifest = jobs.run(types.Job("corrupt", "train"), settings)
        return cache.Records(tmp_path / "cache" / where), manifest

    return make


def left_out(build, *given):
    """What `build` makes with data.skip_bad."""
    try:
        return build(*given, skip_bad=True)
    except Exception as e:
        pytest.fail(f"it is not left out: {e!r}")


@pytest.mark.parametrize("case", CASES)
def test_it_is_told_or_counted(build, tmp_path, case):
    file, data, says, counted = CASES[case]
    with pytest.raises(UserError, match=says):
        build(file, data)
    assert not list(tmp_path.rglob("manifest.json")) and not list(tmp_path.rglob("*.part"))
    if counted is None:
        with pytest.raises(UserError, match=says):
            build(file, data, skip_bad=True)
        return
    records, manifest = left_out(build, file, data)
    audit = manifest["audit"]
    assert (
        audit["skipped"] == counted
        and audit["read"] == 30
        and len(records) == 30 - sum(counted.values())
    )


def test_a_line_of_ten_megabytes_becomes_a_record_that_no_row_holds(build):
    records, manifest = build("a.jsonl", lines((7, {"text": LONG})))
    assert manifest["audit"]["read"] == 30 and len(records) == manifest["records"]
    size = locks.sizes(records.lengths, "decoder")
    lock = {"sequence_length": 256, "target_length": 32, "architecture": "decoder"}
    with pytest.raises(
        UserError,
        match=r"task corrupt: 1 of \d+ examples are longer than a row, e\.g\. record 7 takes",
    ):
        locks.check_fit("corrupt", size, lock | {"too_long": "error"})
    out, counts = locks.check_fit("corrupt", size, lock | {"too_long": "drop"})
    assert counts == {"longer than a row": 1} and np.flatnonzero(out).tolist() == [
        int(np.argmax(size[:, 0]))
    ]
    assert size[:, 0].max() > 10**6
    _, manifest = build("a.csv", b"text,label\nshort,0\n" + b"a" * 10**6 + b",1\n")
    assert manifest["audit"] == {"read": 2, "kept": 2, "skipped": {}}


def test_an_id_that_repeats_is_no_loss(build):
    source = Source("jsonl", dict.fromkeys(SPLITS, "a.jsonl"), options={"id": "id"})
    _, manifest = build("a.jsonl", lines(), source)
    _, doubled = build("a.jsonl", lines((7, {"id": "n3"}), (9, {"id": "n3"})), source)
    assert doubled["records"] == manifest["records"] and doubled["key"] != manifest["key"]
    _, repeated = build("a.jsonl", lines((7, ROWS[3]), (9, ROWS[3])), source)  # a whole row does
    assert repeated["audit"]["read"] == 30 and repeated["audit"]["skipped"]["repeated input"] == 2
    assert "repeated input" not in doubled["audit"]["skipped"]


def test_a_missing_split_is_told(tmp_path):
    with pytest.raises(UserError, match="task 'x': split 'tset'; did you mean 'test'"):
        registry.make_task("x", version=1, cluster="c", source=jsonl({"train": "a", "tset": "b"}), fields=dict,
                           templates=[("{a}", "{answer}")])  # fmt: skip
    config = samples.config(str(tmp_path), modules=("tests.sample_tasks", "tests.bad_tasks"))
    config = dataclasses.replace(
        config, eval=dataclasses.replace(config.eval, tasks=("bad_letters",), split="validation")
    )
    with pytest.raises(UserError, match="eval.tasks: 'bad_letters' has no validation split"):
        evaluation.rows(config, ["sample_even"])


NAN = float("nan")
# what `fields` gives, and what the error says of it and data.skip_bad counts it under
ODD = {
    "answer of white space": ({"answer": " \n\t"}, "an empty answer", "empty answer"),
    "answer without a form": ({"answer": "\u200b\ufeff"}, "an empty answer", "empty answer"),
    "empty list of answers": ({"answer": []}, "an empty answer", "empty answer"),
    "an empty one of several": ({"answer": ["a", " "]}, "an empty answer", "empty answer"),
    "no answer": ({"anwser": "a"}, "no 'answer'; did you mean 'anwser'", "no answer"),
    "None": ({"answer": None}, "no value (None) for 'answer'", "unusable fields"),
    "NaN as answer": ({"answer": NAN}, "answer nan is neither", "unusable answer"),
    "an index of nothing": ({"answer": 3}, "answer 3 is the index of an option, but there are none", "an index without options"),
    "a dict as answer": ({"answer": {"text": "a"}}, "answer {'text': 'a'} is neither", "unusable answer"),
    "None in a list of answers": ({"answer": ["a", None]}, "answer ['a', None] is neither", "unusable answer"),
    "a list in a slot": ({"text": ["a", "b"]}, "the field 'text' is ['a', 'b'], neither a text", "unusable field"),
    "a dict in a slot": ({"text": {"a": 1}}, "the field 'text' is {'a': 1}, neither a text", "unusable field"),
    "NaN in a slot": ({"text": NAN}, "the field 'text' is nan, which is no number", "unusable field"),
    "infinity in a slot": ({"text": -float("inf")}, "the field 'text' is -inf, which is no number", "unusable field"),
    "a truth value in a slot": ({"text": True}, "the field 'text' is True, neither a text", "unusable field"),
    "bytes in a slot": ({"text": b"a"}, "the field 'text' is b'a', neither a text", "unusable field"),
    "an empty slot": ({"text": "\u200b "}, "the field 'text' is empty", "empty field"),
    "a missing slot": ({"text": ...}, "needs the field 'text'", "missing field"),
    "None among the options": ({"options": ["a", None], "answer": 0}, "option 1 is None", "unusable options"),
    "NaN among the options": ({"options": ["a", NAN], "answer": 0}, "option 1 is nan", "unusable options"),
    "a list among the options": ({"options": [["a"], "b"], "answer": 1}, "option 0 is ['a']", "unusable options"),
    "a text as options": ({"options": "ab", "answer": 0}, "the options are 'ab', not a list", "unusable options"),
    "an empty option": ({"options": ["a", ""], "answer": 0}, "an empty text among the options", "unusable options"),
    "a set as content": ({"more": {1, 2}}, "a content field holds set", "unusable field"),
}  # fmt: skip


@pytest.fixture
def build_values(tmp_path, vocabulary, monkeypatch):
    """A function: (of each record what `fields` gives, skip_bad) -> the manifest of the training
    split."""

    def make(given: list[dict], skip_bad: bool = False) -> dict:
        (tmp_path / "a.jsonl").write_text(
            "".join(json.dumps({"n": n}) + "\n" for n in range(len(given)))
        )
        spec = dataclasses.replace(
            registry.task("sample_even"), name="odd", source=jsonl(dict.fromkeys(SPLITS, "a.jsonl")), options=None,
            fields=lambda e: given[e["n"]], templates=(("Is it so? {text}", "{answer}"),), heldout_templates=(),
            version=repr((given, skip_bad)),
        )  # fmt: skip
        monkeypatch.setitem(registry.TASKS, "odd", spec)
        settings = job_settings(
            vocabulary,
            root=str(tmp_path),
            cache_dir=str(tmp_path / "cache"),
            skip_bad=skip_bad,
        )
        jobs._read_once.cache_clear()
        where, manifest = jobs.run(types.Job("odd", "train"), settings)
        prompts = {e["prompt"] for e in cache.iterate_examples(tmp_path / "cache" / where)}
        assert prompts == {f"Is it so? letter {n}" for n in range(manifest["records"])}
        return manifest

    return make


@pytest.mark.parametrize("case", ODD)
def test_odd_values_are_told_with_row_and_field_or_counted(build_values, case):
    changed, says, reason = ODD[case]
    given = [{"text": f"letter {n}", "answer": "even"} for n in range(6)]
    assert build_values(given)["audit"] == {"read": 6, "kept": 6, "skipped": {}}
    odd = {k: v for k, v in {"text": "odd", "answer": "even", **changed}.items() if v is not ...}
    given.insert(3, odd if "anwser" not in changed else {"text": "odd", **changed})
    try:
        said = f"nothing, but reads {build_values(given)['audit']}"
    except Exception as e:
        said = f"{type(e).__name__}: {e}"
    assert (
        said.startswith("UserError: task 'odd', example a.jsonl:4: ")
        and says in said
        and "\n" not in said
    )
    audit = left_out(build_values, given)["audit"]
    assert audit.pop("first").keys() == {reason} and audit == {
        "read": 7,
        "kept": 6,
        "skipped": {reason: 1},
    }


def test_numbers_and_dates_stand_in_a_slot_as_they_are_written(build_values, tmp_path):
    import datetime
    import decimal

    import numpy as np

    for value, text in (
        (7, "7"), (0.5, "0.5"), (np.int64(7), "7"), (np.float64(0.5), "0.5"), (np.str_("seven"), "seven"),
        (decimal.Decimal("1.50"), "1.50"), (datetime.date(2024, 2, 29), "2024-02-29"),
    ):  # fmt: skip
        try:
            build_values([{"text": value, "answer": "even", "day": datetime.date(2024, 1, 1)}])
        except Exception as e:  # it tells the prompt that it made
            said = str(e)
        assert f"Is it so? {text}'" in said
