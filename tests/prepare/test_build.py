# SPDX-License-Identifier: Apache-2.0
"""The build: everything read is accounted for, nothing leaks, what exists is not made again."""

import contextlib
import dataclasses
from collections import Counter

import numpy as np
import pytest

from itx import hashing
from itx.data import cache
from itx.data import lock as locks
from itx.data.order import ORDER_VERSION, Order
from itx.errors import UserError
from itx.leaks import contamination
from itx.prepare import build, evaluation, examples, exclude, jobs, render, sources, types, vocab
from itx.prepare import workers as processes
from itx.prepare.members import members_of
from itx.prepare.types import Job
from itx.tasks import fingerprint, names, registry
from itx.tasks.spec import Source, function, halved, jsonl
from tests import sample_tasks, samples  # noqa: F401  (sample_tasks registers)
from tests.prepare.job_settings import job_settings
from tests.scored import MANIFEST

pytestmark = pytest.mark.smoke


def test_every_record_is_trained_on_or_counted(sample_locks):
    """Invariant 8: the source counts reads, each skip counts itself, and they add up."""
    for lock in sample_locks.values():
        for task in lock["tasks"]:
            audit = task["audit"]
            assert audit["read"] == audit["kept"] + sum(audit["skipped"].values())
            assert audit["kept"] == task["examples"] > 0
    reasons = {r for t in sample_locks["sample_mix"]["tasks"] for r in t["audit"]["skipped"]}
    assert {"another split", "cream comes first", "repeated input"} <= reasons


def test_splits_are_disjoint_and_shared_by_tasks_over_the_same_inputs():
    found = {}
    for name in ("sample_first", "sample_last"):
        for split in ("train", "validation", "test"):
            items = examples.items(registry.task(name), split, "", 0, Counter())
            found[name, split] = {i.content for i in items}
    assert all(found.values())
    for a, b in (("train", "test"), ("train", "validation"), ("validation", "test")):
        assert not found["sample_first", a] & found["sample_last", b]
    assert found["sample_first", "test"] == found["sample_last", "test"]


@pytest.mark.parametrize(
    "files, want",
    [
        ({"train"}, {"train": ("train", 0, 0.9), "validation": ("train", 0.9, 0.95), "test": ("train", 0.95, 1)}),
        ({"train", "test"}, {"train": ("train", 0, 0.95), "validation": ("train", 0.95, 1), "test": ("test", 0, 1)}),
        ({"train", "validation"}, {"train": ("train", 0, 1), "validation": ("validation", 0, 1)}),
        ({"validation", "test"}, {"validation": ("validation", 0, 1), "test": ("test", 0, 1)}),
        ({"test"}, {"test": ("test", 0, 1)}),
        ({"validation"}, {"test": ("validation", 0, 1)}),
        ({"train", "validation", "test"}, {s: (s, 0, 1) for s in ("train", "validation", "test")}),
    ],
)  # fmt: skip
def test_missing_splits_are_made_as_the_evaluation_rules_say(files, want):
    source = Source("jsonl", {f: f"{f}.jsonl" for f in files})
    for split in ("train", "validation", "test"):
        got = sources.source_splits(source, split)
        assert len(got) == (split in want)
        for name, low, high in got:
            assert (name, low, high) == (want[split][0], *map(pytest.approx, want[split][1:]))


def test_a_validation_split_is_halved_where_the_task_asks_for_it():
    source = jsonl({"train": "a.jsonl", "validation": "b.jsonl"})
    assert sources.splits(source) == {"train": "whole", "validation": "whole"}
    half = halved(source)
    assert sources.source_splits(half, "validation") == [("validation", 0.0, 0.5)]
    assert sources.source_splits(half, "test") == [("validation", 0.5, 1.0)]
    assert sources.splits(half) == {"train": "whole", "validation": "50% of validation, by hash",
                                   "test": "50% of validation, by hash"}  # fmt: skip
    assert sources.splits(jsonl("a.jsonl"))["test"] == "5% of train, by hash"
    for files in (
        {"train": "a.jsonl"},
        {"train": "a.jsonl", "validation": "b.jsonl", "test": "c.jsonl"},
    ):
        with pytest.raises(
            UserError, match="for a source with a validation split and no test split"
        ):
            halved(jsonl(files))


def test_one_file_is_the_training_split_unless_shares_are_given():
    assert jsonl("a.jsonl") == jsonl({"train": "a.jsonl"})
    shares = {"train": 0.7, "test": 0.3}
    assert sources.source_splits(jsonl("a.jsonl", split_by_hash=shares), "test") == [("", 0.7, 1.0)]


def test_a_rendering_is_a_function_of_seed_task_example_and_number():
    spec, variant = registry.task("sample_first"), names.parse("sample_first")
    items = list(examples.items(spec, "train", "", 0, Counter()))
    first, again = ([render.render(spec, variant, i, 0, 0) for i in items] for _ in range(2))
    assert first == again
    # epoch 0 mixes
    assert {r.template for r in first} == {render.templates.template_id(t) for t in spec.templates}
    for change in ((1, 0), (0, 1)):
        assert first != [render.render(spec, variant, i, *change) for i in items]
    for item in items[:20]:  # as many renderings as templates: each once
        assert len({render.render(spec, variant, item, r, 0).template for r in range(2)}) == 2


def test_option_order_is_drawn_and_the_answer_follows():
    spec, variant = registry.task("sample_even"), names.parse("sample_even")
    found = [
        render.render(spec, variant, i, 0, 0)
        for i in examples.items(spec, "train", "", 0, Counter())
    ]
    assert {r.options for r in found} == {("even", "odd"), ("odd", "even")}
    assert all(r.options[r.answer_index] == r.target for r in found)


@pytest.mark.parametrize(
    "values, message",
    [
        ({"answer": -1}, r"label -1 is outside the options \('even', 'odd'\)"),
        ({"answer": "evn"}, "'evn' is not among the options"),
        ({"anwser": 1}, "no 'answer'; did you mean 'anwser'"),
        ({"answer": None}, "neither"),
        ({"answer": []}, "empty answer"),
    ],
)
def test_a_wrong_answer_names_task_and_example(values, message):
    spec = registry.task("sample_even")
    with pytest.raises(UserError, match=f"task 'sample_even', example 7: .*{message}"):
        render.answers(spec, values, "task 'sample_even', example 7")


def test_a_missing_field_names_the_row_and_the_nearest():
    spec = dataclasses.replace(
        registry.task("sample_add"),
        source=function(lambda *_: [{"a": 1, "bb": 2}], {"train": 1.0}),
        name="broken",
    )
    with pytest.raises(UserError, match="task 'broken', example 0: .*'b'; did you mean 'bb'"):
        list(examples.items(spec, "train", "", 0, Counter()))
    counts = Counter()
    assert list(examples.items(spec, "train", "", 0, counts, skip_bad=True)) == []
    assert counts == {"read": 1, "unusable fields": 1}


def test_held_out_things_are_in_no_training_rendering(sample_locks, sample_cache):
    lock = sample_locks["sample_held"]
    assert {t["task"] for t in lock["tasks"]} == {
        "sample_first",
        "sample_last",
        "sample_add",
        "sample_even",
    }
    groups = {r["name"]: r["group"] for r in lock["evaluation"]}
    assert groups["sample_second"] == "tasks" and groups["sample_first@heldout"] == "templates"
    held = {
        render.templates.template_id(t)
        for n in samples_all()
        for t in registry.task(n).heldout_templates
    }
    for task in lock["tasks"]:
        assert not held & set(cache.read_manifest(sample_cache / task["folders"][0])["templates"])
    for row in lock["evaluation"]:
        used = set(cache.read_manifest(sample_cache / row["folder"])["templates"])
        assert (row["group"] == "templates") <= (used <= held)


def samples_all() -> list[str]:
    return ["sample_first", "sample_last", "sample_second", "sample_add", "sample_even"]


def test_no_evaluated_input_is_trained_on(sample_locks, sample_cache):
    """Invariant 9 on content hashes, and the same test finds a leak where there is one."""
    for lock in sample_locks.values():
        scored = {
            e["content"]
            for r in lock["evaluation"]
            for e in cache.iterate_examples(sample_cache / r["folder"])
        }
        for task in lock["tasks"]:
            records = cache.Records(sample_cache / task["folders"][0])
            kept = np.delete(records.content, task["excluded"][0])
            assert not scored & {f"{int(c):016x}" for c in kept}


def test_planted_leaks_are_dropped_and_counted(tmp_path):
    long = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    texts = ["a short input", long, f"before {long} after", "something else altogether"]
    hashes = [hashing.draw("content", t) for t in texts]

    def folder(name, which, examples):
        records = [[([5, 6], False), ([7], True)] for _ in which]
        rows = [exclude.texts(texts[i], ()) for i in which]
        columns = cache.Columns.of(records, [hashes[i] for i in which], [0] * len(which), 100)
        cache.write(tmp_path / name, columns, MANIFEST, examples, rows)

    folder("train", [0, 2, 3], [])
    folder(
        "test",
        [0, 1],
        [{"content": f"{hashes[i]:016x}", "input_content": texts[i]} for i in (0, 1)],
    )
    task = {
        "name": "t",
        "folders": ["train"],
        "excluded": [[]],
        "examples": 3,
        "audit": {"kept": 3, "skipped": {}},
    }
    lock = {"tasks": [task], "evaluation": [{"folder": "test", "task": "e"}]}
    exclude.exclude(lock, contamination.found(lock, tmp_path))
    assert task["excluded"] == [[0, 1]] and task["audit"]["kept"] == task["examples"] == 1
    assert {(x["how"], x["dropped"]) for x in lock["leaks"]} == {
        ("equal input", 1),
        ("most of its words", 1),
    }
    folder("all", [0], [])
    task = {
        "name": "t",
        "folders": ["all"],
        "excluded": [[]],
        "examples": 1,
        "audit": {"kept": 1, "skipped": {}},
    }
    lock = {"tasks": [task], "evaluation": [{"folder": "test", "task": "e"}]}
    with pytest.raises(UserError, match="task t: no training example is left"):
        exclude.exclude(lock, contamination.found(lock, tmp_path))


def test_a_key_changes_with_what_shapes_the_folder_and_with_nothing_else(tmp_path, monkeypatch):
    settings = job_settings("", modules=("tests.sample_tasks",), cache_dir=str(tmp_path))

    def changed_settings(**data):
        return dataclasses.replace(settings, data=dataclasses.replace(settings.data, **data))

    job, other = Job("sample_first", "train"), Job("sample_last", "train")
    base = jobs.key(job, settings, "v")
    moved = dataclasses.replace(changed_settings(cache_dir="elsewhere"), vocab="elsewhere")
    assert jobs.key(job, moved, "v") == base
    # evaluation only
    assert jobs.key(job, changed_settings(eval_examples=3), "v") == base
    spec = registry.TASKS["sample_first"]
    changed = [
        jobs.key(job, settings, "w"),
        jobs.key(job, changed_settings(render_seed=1), "v"),
        jobs.key(job, changed_settings(suite_seed=1), "v"),
        jobs.key(dataclasses.replace(job, rendering=1), settings, "v"),
        jobs.key(other, settings, "v"),
    ]
    monkeypatch.setitem(
        registry.TASKS, "sample_first", dataclasses.replace(spec, templates=spec.templates[:1])
    )
    changed.append(jobs.key(job, settings, "v"))
    assert len({base, *changed}) == len(changed) + 1


@pytest.mark.parametrize("variant", ["sample_even", "sample_even:fs3"])
def test_train_examples_bounds_what_is_rendered_shown_and_searched(tmp_path, monkeypatch, variant):
    """The first by content hash are kept, the rest is counted; exemplars, of an evaluation split
    too, are drawn from those that are kept."""
    file, most = vocab.train(["sample_first"], 300, "", 0, str(tmp_path)), 12
    encoded = []
    records_of = jobs.records_of
    monkeypatch.setattr(
        jobs, "records_of", lambda w, items: encoded.append(len(items)) or records_of(w, items)
    )
    held, keys, tests = {}, set(), {}
    for train_examples in (0, most, 10**6):
        settings = job_settings(
            file,
            modules=("tests.sample_tasks",),
            cache_dir=str(tmp_path),
            train_examples=train_examples,
        )
        where, manifest = jobs.run(Job(variant, "train"), settings)
        keys.add(where)
        records = cache.Records(tmp_path / where)
        held[train_examples] = records.content
        audit = manifest["audit"]
        assert audit["read"] == audit["kept"] + sum(audit["skipped"].values())
        beyond = len(held[0]) - most if train_examples == most else 0
        assert audit["skipped"].get("beyond data.train_examples", 0) == beyond
        assert (
            len(list(cache.iterate_texts(records.folder))) == manifest["examples"] == len(records)
        )
        test, _ = jobs.run(Job(variant, "test"), settings)
        tests[train_examples] = test
        shown = cache.Records(tmp_path / test).exemplars
        for exemplars in (records.exemplars, shown):
            assert np.isin(exemplars[exemplars > 0], records.content).all()
    assert len(keys) == 3 and len(held[0]) > 2 * most == 2 * encoded[2]
    assert sorted(held[most]) == sorted(held[0])[:most]
    assert set(held[0]) == set(held[10**6])
    assert len(set(tests.values())) == (1 if variant == "sample_even" else 3)


def test_examples_done_at_once_change_no_byte(tmp_path, monkeypatch):
    written = []
    file = vocab.train(["sample_first"], 300, "", 0, str(tmp_path))
    for chunk in (4096, 7):
        monkeypatch.setattr(jobs, "CHUNK", chunk)
        settings = job_settings(
            file, modules=("tests.sample_tasks",), cache_dir=str(tmp_path / str(chunk))
        )
        for variant, split in (("sample_even:fs3", "train"), ("sample_add", "test")):
            where, manifest = jobs.run(types.Job(variant, split), settings)
            assert manifest["records"] > 7
            written.append((where, sorted(manifest["files"].items())))
    assert written[:2] == written[2:]


def test_any_number_of_processes_writes_the_same_bytes(tmp_path):
    written = []
    for workers in (1, 2, 3):
        folder = tmp_path / str(workers)
        config = samples.config(str(folder), workers=workers)
        plan = build.plan_of(config, members_of(config))
        with processes.pool(workers) as pool:
            made = processes.collect(
                processes.submit(pool, plan.jobs, plan.settings), lambda *_: None
            )
            assert len(pool._processes) == workers and len(made) == len(set(plan.jobs)) > 10
        files = sorted(f for f in folder.rglob("*") if f.is_file())
        written.append({str(f.relative_to(folder)): f.read_bytes() for f in files})
    assert written[0] == written[1] == written[2] and len(written[0]) > 100


@pytest.mark.parametrize("variant", ["", ":fs2"])
def test_a_thousand_examples_of_epoch_0_use_all_templates_within_binomial_bounds(
    tmp_path, monkeypatch, variant
):
    spec, n = registry.TASKS["sample_add"], 7
    seven = dataclasses.replace(
        spec, name="sample_seven", templates=tuple((f"Form {k}. {{a}} + {{b}}", "{answer}") for k in range(n)),
        source=function(lambda *_: ({"a": a, "b": b} for a in range(50) for b in range(50)), {"train": 1.0}),
    )  # fmt: skip
    monkeypatch.setitem(registry.TASKS, "sample_seven", seven)
    file = vocab.train(["sample_add"], 300, "", 0, str(tmp_path))
    where, manifest = jobs.run(
        Job(f"sample_seven{variant}", "train"),
        job_settings(file, modules=("tests.sample_tasks",), cache_dir=str(tmp_path)),
    )
    records = cache.Records(tmp_path / where)
    sizes = locks.sizes(records.lengths, "decoder")[:, :2]
    lock = {"tasks": [{"name": "t", "rate": 1.0}], "seed": 0, "window_examples": 2048, "renderings": 1, "global_batch": 8,
            "sequence_length": 256, "target_length": 64, "order_version": ORDER_VERSION, "loss_positions": [64]}  # fmt: skip
    taken = Order(lock, [[np.arange(2500)]], [[sizes]]).window(0).segments[:1000, 1]
    assert len(set(taken.tolist())) == 1000 and len(manifest["templates"]) == n
    used = np.bincount(records.template[taken], minlength=n)
    assert np.abs(used - 1000 / n).max() < 4 * (1000 / n * (1 - 1 / n)) ** 0.5
    assert len(set(used.tolist())) > 1  # drawn, not dealt out in turn


def test_a_fingerprint_sees_helpers_and_constants():
    text = "def helper(x):\n    return x {}\nLIMIT = {}\ndef fields(e):\n    return helper(e) + LIMIT\n"

    def of(*parts):
        import linecache

        source, name = text.format(*parts), f"<{parts}>"
        linecache.cache[name] = (len(source), None, source.splitlines(True), name)
        scope = {}
        exec(compile(source, name, "exec"), scope)
        return fingerprint.of_function(scope["fields"])

    assert of("+ 1", 3) == of("+ 1", 3)
    assert of("+ 1", 3) != of("+ 2", 3)
    assert of("+ 1", 3) != of("+ 1", 4)


def test_a_second_build_makes_nothing_and_needs_no_seqio(sample_cache, tmp_path):
    before = {p: p.stat().st_mtime_ns for p in sample_cache.rglob("*")}
    recipe = samples.write_recipe(tmp_path, sample_cache, mixture="sample_held")
    (tmp_path / "seqio.py").write_text("raise ImportError('SeqIO must not be imported')")
    samples.itx("data", "build", recipe, PYTHONPATH=str(tmp_path))
    assert {p: p.stat().st_mtime_ns for p in sample_cache.rglob("*")} == before


def test_seqio_is_asked_once_about_the_same_mixture_and_numbers(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    asked = []

    @contextlib.contextmanager
    def asking(mixtures, settings):
        asked.append(list(mixtures))
        yield lambda examples: [{n: 1 / len(examples) for n in examples} for _ in mixtures]

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(processes, "_asking", asking)

    def rates(mixture, **examples):
        with processes.seqio_rates([mixture], job_settings()) as answer:
            return answer(examples)

    first = rates("sample_mix", a=3, b=3, c=4)
    assert first == rates("sample_mix", a=3, b=3, c=4) == [dict.fromkeys("abc", 1 / 3)]
    assert asked == [["sample_mix"]]
    rates("sample_held", a=3, b=3, c=4)
    assert rates("sample_mix", a=3, b=5) == [dict.fromkeys("ab", 1 / 2)]  # other numbers
    spec = registry.MIXTURES["sample_mix"]
    monkeypatch.setitem(
        registry.MIXTURES, "sample_mix", dataclasses.replace(spec, temperature=spec.temperature + 1)
    )
    rates("sample_mix", a=3, b=5)
    assert asked == [["sample_mix"], ["sample_held"], ["sample_mix"], ["sample_mix"]]
    for file in (tmp_path / "itx" / "rates").iterdir():  # a damaged answer is asked for again
        file.write_text("{")
    assert rates("sample_mix", a=3, b=5) == [dict.fromkeys("ab", 1 / 2)] and len(asked) == 5
    for file in (tmp_path / "itx" / "rates").iterdir():  # another number is damage too
        file.write_text(file.read_text().replace("0.5", "0.6"))
    assert rates("sample_mix", a=3, b=5) == [dict.fromkeys("ab", 1 / 2)] and len(asked) == 6
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(processes.storage.Path, "home", homeless)  # nothing can be kept
    assert rates("sample_mix", a=3, b=5) == [dict.fromkeys("ab", 1 / 2)] and len(asked) == 7


def test_relations_are_named():
    config = samples.config("unused", mixture="sample_held")
    rows = {r.name: r for r in evaluation.rows(config, members_of(config))}
    assert rows["sample_first"].relation == "same task"
    assert rows["sample_second"].relation == "same cluster"
    config = samples.config("unused", mixture="sample_no_parity")
    rows = {r.name: r for r in evaluation.rows(config, members_of(config))}
    assert (rows["sample_even"].relation, rows["sample_even"].group) == ("none", "clusters")


def test_an_unknown_mixture_suggests_the_nearest(tmp_path):
    recipe = samples.write_recipe(tmp_path, tmp_path / "cache", mixture="sample_hold")
    done = samples.itx("data", "build", recipe, check=2)
    assert "unknown mixture or task 'sample_hold'; did you mean 'sample_held'" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("style, labels", [("(A)", ("(A)", "(B)")), ("A.", ("A.", "B."))])
def test_with_letters_the_answer_is_the_letter_in_every_style(style, labels):
    spec = dataclasses.replace(registry.task("sample_even"), option_styles=(style,))
    variant, items = (
        names.parse("sample_even"),
        list(examples.items(spec, "train", "", 0, Counter())),
    )
    found = [render.render(spec, variant, i, 0, 0) for i in items]
    assert {r.target for r in found} == set(labels) and {r.options for r in found} == {labels}
    for item, r in zip(items, found, strict=True):
        assert r.options[r.answer_index] == r.target == r.references[0]
        # the letter stands before the option that is right
        text = spec.options[item.values["answer"]]
        assert f"{r.target} {text}" in r.prompt.splitlines()
    # without a list in the prompt there are no letters to answer with
    bare = ("Even or odd: {a} + {b}?", "{answer}")
    assert render.render(spec, variant, items[0], 0, 0, [bare]).target in spec.options
    with pytest.raises(UserError, match="'sample_even': option style 'letters'"):
        registry.make_task(
            **{f.name: getattr(spec, f.name) for f in dataclasses.fields(spec)}
            | {"option_styles": ("letters",)}
        )


def test_more_options_than_letters_is_an_error():
    spec = dataclasses.replace(
        registry.task("sample_even"), option_styles=("(A)",), options=tuple(map(str, range(27)))
    )
    item = next(examples.items(spec, "train", "", 0, Counter()))
    with pytest.raises(UserError, match="27 options are more than there are letters"):
        render.render(spec, names.parse("sample_even"), item, 0, 0)
