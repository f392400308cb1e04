# SPDX-License-Identifier: Apache-2.0
"""What names a cache must not change by itself, and must change with what it stands for."""

import dataclasses
import functools
import re
from collections import Counter
from types import SimpleNamespace

import pytest

from itx.errors import UserError
from itx.prepare import examples, jobs, members, new_lock, types, vocab
from itx.tasks import fingerprint, registry
from itx.tasks.registry import make_task
from itx.tasks.spec import function
from tasks import natural_instructions
from tests import (
    sample_tasks,  # noqa: F401  (registers)
    samples,
)


def test_a_vocabulary_is_the_same_file_each_time(tmp_path):
    first, second = (
        vocab.train(["sample_first"], 300, "", 0, str(tmp_path / n)).read_bytes()
        for n in ("a", "b")
    )
    other = vocab.train(["sample_add"], 300, "", 0, str(tmp_path / "c")).read_bytes()
    assert first == second != other


def test_a_fingerprint_sees_regexes_partials_and_keyword_defaults():
    def uses(pattern):
        return lambda e: pattern.search(e["a"])

    def plain(e, *, k=1):
        return k

    one, two = re.compile("a"), re.compile("b")
    assert fingerprint.of_function(uses(one)) == fingerprint.of_function(uses(re.compile("a")))
    assert fingerprint.of_function(uses(one)) != fingerprint.of_function(uses(two))

    def of(k):
        return fingerprint.of_function(functools.partial(plain, k=k))

    assert of(1) == of(1) != of(2)
    before = fingerprint.of_function(plain)
    plain.__kwdefaults__ = {"k": 2}
    assert fingerprint.of_function(plain) != before


def spec_of(fields):
    rows = [{"a": str(i)} for i in range(5)]
    source = function(lambda split, root, seed: rows, {"train": 1.0})
    return make_task(
        "t", version=1, cluster="c", source=source, fields=fields, templates=[("{a}", "{answer}")]
    )


@pytest.mark.parametrize(
    "found, message",
    [
        ({"a": None, "answer": "x"}, r"task 't', example 0: fields\(\) .*None.*'a'"),
        (None, r"fields\(\) .*gave NoneType"),
        (ZeroDivisionError("no"), r"ZeroDivisionError: no; the example is \{'a': '0'\}"),
    ],
)
def test_values_that_cannot_be_used_are_told_or_counted(found, message):
    def fields(e):
        if isinstance(found, Exception):
            raise found
        return found

    with pytest.raises(UserError, match=message):
        list(examples.items(spec_of(fields), "train", "", 0, Counter()))
    counts = Counter()
    assert list(examples.items(spec_of(fields), "train", "", 0, counts, skip_bad=True)) == []
    assert counts == {"read": 5, "unusable fields": 5}


def test_an_empty_list_of_values_is_counted():
    counts = Counter()
    assert list(examples.items(spec_of(lambda e: []), "train", "", 0, counts)) == []
    assert counts == {"read": 5, "fields() gave nothing": 5}


def test_a_broken_line_of_the_index_is_an_error(tmp_path):
    folder = tmp_path / natural_instructions.NI_FOLDER
    folder.mkdir()
    (folder / "tasks").mkdir()
    (folder / "tasks" / "t.json").write_text('{"Definition": "Do.", "Instances": []}')
    (folder / "index.jsonl").write_text(
        '{"task": "t", "category": "c", "source": [], "format": "v2"}\n{"format": "v2", \n'
    )
    with pytest.raises(UserError, match="natural_instructions/index.jsonl:2: broken JSON"):
        natural_instructions.ni_members(str(tmp_path))
    (folder / "index.jsonl").write_text('{"format": "v2", "tsk": "x"}\n')
    with pytest.raises(UserError, match="index.jsonl:1: no 'task'; did you mean 'tsk'"):
        natural_instructions.ni_members(str(tmp_path))


def plan_of(config, *trained):
    vocabulary = SimpleNamespace(hash="hash")
    return types.Plan(
        config, jobs.settings_of(config, "vocab.model"), vocabulary, list(trained), [], []
    )


@pytest.mark.parametrize(
    "edit",
    [
        {"metrics": ("numeric",)},
        {"cluster": "another"},
        {"primary": "rank"},
        {"origin": ("elsewhere",)},
    ],
)
def test_an_edit_of_what_scores_and_groups_makes_a_new_lock_from_the_same_folders(
    tmp_path, monkeypatch, edit
):
    config = samples.config(str(tmp_path), "sample_mix")
    plan = plan_of(config, "sample_even")
    settings = plan.settings
    (job,) = plan.jobs

    def name():
        return new_lock.file_of(plan)

    folder = jobs.folder(job, settings, "hash")
    before, spec = name(), registry.TASKS["sample_even"]
    assert name() == before and any(getattr(spec, k) != v for k, v in edit.items())
    monkeypatch.setitem(registry.TASKS, "sample_even", dataclasses.replace(spec, **edit))
    assert name() != before and jobs.folder(job, settings, "hash") == folder


def test_an_edit_of_a_nested_mixture_makes_a_new_lock(tmp_path, monkeypatch):
    for name, listed in (
        ("inner", ["sample_first", "sample_last"]),
        ("outer", ["inner", "sample_add"]),
    ):
        monkeypatch.setitem(registry.MIXTURES, name, dataclasses.replace(
            registry.MIXTURES["sample_mix"], name=name, members=tuple(listed)))  # fmt: skip
    config = samples.config(str(tmp_path), "outer")

    def name():
        return new_lock.file_of(plan_of(config))

    before = name()
    assert members.nested("outer", "") == ["outer", "inner"] and name() == before
    inner = registry.MIXTURES["inner"]
    monkeypatch.setitem(
        registry.MIXTURES,
        "inner",
        dataclasses.replace(inner, members={"sample_first": 0.9, "sample_last": 0.1}),
    )
    assert name() != before


def test_phases_are_checked_and_average_over_the_run(tmp_path):
    def config(*phases, mixture="sample_mix"):
        return samples.config(str(tmp_path), mixture, phases=phases)

    assert members.members_of(config((5, "sample_held"))) == members.members_of(config()) + [
        m
        for m in members.members_of(config(mixture="sample_held"))
        if m not in members.members_of(config())
    ]
    for phases, mixture, message in (
        (
            ((5, "sample_mix"), (5, "sample_mix")),
            "sample_mix",
            r"steps must rise from above 0, not \[5, 5\]",
        ),
        (((0, "sample_mix"),), "sample_mix", "steps must rise from above 0"),
        (
            ((5, "sample_mixx"),),
            "sample_mix",
            "unknown mixture or task 'sample_mixx'; did you mean 'sample_mix'",
        ),
        (
            ((5, "sample_mix"),),
            "sample_held",
            "'sample_mix' trains on 'sample_second', which 'sample_held' holds out",
        ),
    ):
        with pytest.raises(UserError, match=message):
            members.members_of(config(*phases, mixture=mixture))
    shares = [{"a": 1.0}, {"a": 0.25, "b": 0.75}]
    assert new_lock.mean_rates(shares, [60], 100) == {"a": 0.6 + 0.4 * 0.25, "b": 0.4 * 0.75}
    # not reached, and in the lock all the same
    assert new_lock.mean_rates(shares, [60], 50) == {"a": 1.0, "b": 0.0}
    assert new_lock.mean_rates(shares[:1], [], 100) == {"a": 1.0}
