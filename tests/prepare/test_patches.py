# SPDX-License-Identifier: Apache-2.0
"""Patches of training rows: what the build does with each verdict, and what it refuses."""

import dataclasses
from collections import Counter

import numpy as np
import pytest

from itx import hashing
from itx.audit import audit as auditing
from itx.audit import printed
from itx.data import cache
from itx.data import lock as locks
from itx.data.vocabulary import Vocabulary
from itx.errors import UserError
from itx.prepare import again, build, examples, jobs, members, patches, types, vocab
from itx.prepare.patches import Entry
from itx.tasks import registry
from itx.tasks.chat import conversation
from itx.tasks.registry import chat_task, instruction_task
from itx.tasks.spec import function
from itx.text_format import chat
from tests import samples
from tests.prepare.job_settings import job_settings

OPTIONS = ("да", "нет")


def rows(split, root, seed):
    for i in range(40 if split == "train" else 12):
        yield {"text": f"{split}: вопрос {i} <|im_end|> </script>\u2028", "label": i % 2}


def talks(split, root, seed):
    for i in range(20):
        turns = [("user", f"say {i}"), ("assistant", f"it is {i}")]
        yield {"messages": [{"role": r, "content": c} for r, c in turns]}


@pytest.fixture(scope="module", autouse=True)
def tasks():
    """Two small tasks, which only this file knows."""
    instruction_task(
        "patched", version=1, cluster="c", source=function(rows, splits=("train", "validation")), options=OPTIONS,
        fields=lambda e: {"text": e["text"], "answer": e["label"]}, metrics=("accuracy",),
        templates=[("{text}\n{options}", "{answer}"), ("{text}?", "{answer}")],
    )  # fmt: skip
    chat_task("patched_talk", version=1, cluster="c", source=function(talks), fields=lambda e: e)
    yield
    for name in ("patched", "patched_talk"):
        del registry.TASKS[name]


def items(task="patched", split="train") -> list[types.Item]:
    return list(examples.items(registry.task(task), split, "", 0, Counter()))


def judged(item: types.Item, verdict: str, task="patched", **more) -> Entry:
    return Entry(task, verdict, item.id, f"{item.hash:016x}", patches.row_of(item.values), **more)


def written(folder, *entries: Entry, name="patch.jsonl") -> str:
    file = folder / name
    file.write_text(patches.text_of({"by": "review", "editor": "Анна"}, entries), encoding="utf-8")
    return str(file)


def settings_of(folder, *files: str, **data) -> types.Settings:
    file = vocab.keep_bytes(0, str(folder / "cache"))
    data = {"cache_dir": str(folder / "cache"), "patches": files, **data}
    return job_settings(file, chat_template=chat.PLAIN, **data)


def made(settings: types.Settings, job: types.Job) -> tuple[list[dict], dict]:
    """(the lines of a job's folder, its manifest)."""
    name, manifest = jobs.run(job, settings)
    return list(cache.iterate_examples(f"{settings.data.cache_dir}/{name}")), manifest


TRAIN = types.Job("patched", "train")


def test_each_verdict_does_what_it_says(tmp_path):
    first, second, third, fourth, fifth = items()[:5]
    new = {"text": "новый вопрос\u2028", "answer": 1}
    file = written(
        tmp_path,
        judged(first, "accept"),
        judged(second, "reject", tags=("опечатка",), why="nobody knows"),
        judged(third, "fix", changes={"/answer": 1, "/text": "другой вопрос"}),
        judged(fourth, "undecided", tags=("?",)),
        Entry("patched", "new", values=new),
    )
    before, plain = made(settings_of(tmp_path), TRAIN)
    after, manifest = made(settings_of(tmp_path, file), TRAIN)
    was, now = ({x["id"]: x for x in lines} for lines in (before, after))
    assert was.keys() - now.keys() == {second.id}
    (added,) = now.keys() - was.keys()
    assert "новый вопрос" in now[added]["prompt"] and now[added]["target"] == "нет"
    assert was[third.id]["target"] == "да" and now[third.id]["target"] == "нет"
    assert "другой вопрос" in now[third.id]["prompt"] and now[third.id]["content"] != was[third.id]["content"]  # fmt: skip
    untouched = was.keys() - {second.id, third.id}
    assert {first.id, fourth.id, fifth.id} < untouched and all(was[i] == now[i] for i in untouched)
    assert "patched" not in plain
    assert manifest["patched"] == {"accepted": 1, "rejected": 1, "fixed": 1, "undecided": 1, "added": 1}  # fmt: skip
    audit = manifest["audit"]
    assert audit == {"read": 41, "kept": 40, "skipped": {patches.REJECTED: 1}}


def test_what_is_asked_is_never_patched(tmp_path):
    """Not the rows, and not the exemplars before them; training rows show patched exemplars."""
    whole = items()
    file = written(tmp_path, *(judged(i, "fix", changes={"/text": f"patched {i.id}"}) for i in whole))  # fmt: skip
    plain, patched = settings_of(tmp_path), settings_of(tmp_path, file)
    for job in (
        types.Job("patched", "validation"),
        types.Job("patched:fs2", "validation", "all"),
        types.Job("patched:fs2", "validation"),
    ):
        assert jobs.folder(job, plain, "v") == jobs.folder(job, patched, "v")
        # made under the patch, as a fresh cache would be
        fresh = settings_of(tmp_path / job.variant.replace(":", "") / job.templates, file)
        asked, _ = made(plain, job)
        assert asked and asked == made(fresh, job)[0]
    job = types.Job("patched:fs2", "train")
    assert jobs.folder(job, plain, "v") != jobs.folder(job, patched, "v")
    assert "patched train" not in str(made(plain, job)[0])
    assert all(x["prompt"].count("patched ") >= 3 for x in made(patched, job)[0])


def test_a_row_that_has_changed_is_refused(tmp_path):
    first, second = items()[:2]
    gone = dataclasses.replace(first, id="nowhere", hash=7, values={"text": "gone", "answer": 0})
    other = dataclasses.replace(second, values={**second.values, "answer": 0})
    for entry, told in (
        (judged(gone, "accept"), "no such example is trained on"),
        (judged(other, "reject"), f"{second.id}: it is now"),
    ):
        file = written(tmp_path, judged(first, "accept"), entry)
        with pytest.raises(UserError, match=f"1 of 2 rows of 'patched'.*line 3.*{told}"):
            jobs.run(TRAIN, settings_of(tmp_path / entry.id, file))
    # what an earlier patch has taken away is no longer there
    once = written(tmp_path, judged(first, "reject"), name="a.jsonl")
    twice = written(tmp_path, judged(first, "accept"), name="b.jsonl")
    with pytest.raises(UserError, match="b.jsonl: 1 of 1 rows"):
        jobs.run(TRAIN, settings_of(tmp_path, once, twice))


def test_patches_apply_in_order(tmp_path):
    first = items()[0]
    values = patches.changed(first.values, {"/answer": 1}, "")
    fixed = patches.made(registry.task("patched"), first.id, values, "")
    one = written(tmp_path, judged(first, "fix", changes={"/answer": 1}), name="a.jsonl")
    two = written(tmp_path, judged(fixed, "reject"), name="b.jsonl")
    lines, manifest = made(settings_of(tmp_path, one, two), TRAIN)
    assert first.id not in {x["id"] for x in lines} and manifest["patched"] == {"fixed": 1, "rejected": 1}  # fmt: skip
    with pytest.raises(UserError, match="no longer what was judged"):
        jobs.run(TRAIN, settings_of(tmp_path / "x", two, one))


def test_a_fix_that_makes_two_rows_one_is_counted(tmp_path):
    first, second, third = items()[:3]
    same = {"/text": first.values["text"]}
    file = written(tmp_path, judged(second, "fix", changes=same), judged(third, "fix", changes=same))  # fmt: skip
    lines, manifest = made(settings_of(tmp_path, file), TRAIN)
    skipped = manifest["audit"]["skipped"]
    assert skipped == {cache.CONFLICT: 1, cache.REPEATED: 1} and len(lines) == 38
    assert manifest["audit"]["first"][cache.CONFLICT].startswith(second.id)


def test_conversations_are_fixed_in_their_turns(tmp_path):
    first = items("patched_talk")[0]
    file = written(
        tmp_path,
        judged(first, "fix", task="patched_talk", changes={"/messages/1/content": "исправлено"}),
        Entry("patched_talk", "new", values=items("patched_talk")[1].values | {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]}),
    )  # fmt: skip
    lines, manifest = made(settings_of(tmp_path, file), types.Job("patched_talk", "train"))
    by_id = {x["id"]: x for x in lines}
    assert by_id[first.id]["target"] == "исправлено" and manifest["patched"] == {"fixed": 1, "added": 1}  # fmt: skip
    assert any(x["target"] == "hello" for x in lines)
    bad = judged(first, "fix", task="patched_talk", changes={"/messages/1/role": "robot"})
    with pytest.raises(UserError, match="it is no example of 'patched_talk'"):
        jobs.run(types.Job("patched_talk", "train"), settings_of(tmp_path, written(tmp_path, bad)))


BAD = {
    "": "line 1 is not JSON",
    "[]\n": "line 1 holds no object",
    "{}\n": "no 'patch' in its first line",
    '{"patch": 99}\n': "version 99; a patch of version 1",
    '{"patch": 1}\n{"task": "patched"': "line 2 is not JSON",
    '{"patch": 1}\n{"task": "patched", "verdict": "acept"}': "verdict 'acept'; did you mean 'accept'",
    '{"patch": 1}\n{"task": "patched", "verdict": "accept"}': "needs 'content'",
    '{"patch": 1}\n{"task": "patched", "verdict": "new"}': "needs 'values'",
    '{"patch": 1}\n{"task": 3, "verdict": "new", "values": {}}': "'task' is no text",
    '{"patch": 1}\n{"verdic": "new"}': "unknown key 'verdic'; did you mean 'verdict'",
    '{"patch": 1}\n{"task": "t", "content": "c", "row": "r", "verdict": "fix", "changes": {"/a": []}}': "no object of texts",
    '{"patch": 1}\n{"task": "t", "content": "c", "row": "r", "verdict": "accept", "tags": "a"}': "'tags' is no list",
    '{"patch": 1}\n' + 2 * '{"task": "t", "content": "c", "row": "r", "verdict": "accept"}\n': "lines 2 and 3 judge the same row",
}  # fmt: skip


@pytest.mark.parametrize("held", BAD, ids=BAD.values())
def test_a_file_that_is_no_patch_is_told(tmp_path, held):
    file = tmp_path / "p.jsonl"
    file.write_text(held)
    with pytest.raises(UserError, match=BAD[held]):
        patches.read(file)
    file.write_bytes(b"\xff\n")
    with pytest.raises(UserError, match="no text in UTF-8"):
        patches.read(file)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"/txt": "a"}, "nothing stands at '/txt'; did you mean '/text'"),
        ({"/answer": "да"}, "'/answer' holds int, not str"),
        ({"/answer": 2}, "label 2 is outside the options"),
        ({"text": "a"}, "nothing stands at 'text'"),
    ],
)
def test_a_change_that_fits_nothing_is_told(tmp_path, changes, told):
    file = written(tmp_path, judged(items()[0], "fix", changes=changes))
    with pytest.raises(UserError, match=f"patch.jsonl, line 2: {told}"):
        jobs.run(TRAIN, settings_of(tmp_path, file))


def test_a_patch_of_another_task_is_told(tmp_path):
    data = settings_of(tmp_path, written(tmp_path, judged(items()[0], "accept"))).data
    with pytest.raises(UserError, match="is of patched, and nothing of it is trained on"):
        patches.check(data, ["patched_talk"])
    both = written(tmp_path, judged(items()[0], "accept"), judged(items("patched_talk")[0], "reject", task="patched_talk"))  # fmt: skip
    data = dataclasses.replace(data, patches=(both,))
    (told,) = patches.check(data, ["patched"])
    assert told["untrained"] == {"patched_talk": 1} and told["editor"] == "Анна"
    assert told["sha256"] == hashing.file_sha256(both)
    data = dataclasses.replace(data, patches=(written(tmp_path, judged(items()[0], "accept", task="pached")),))  # fmt: skip
    with pytest.raises(UserError, match="unknown task 'pached'; did you mean 'patched'"):
        patches.check(data, ["patched"])
    with pytest.raises(UserError, match="data.patches: no file 'none.jsonl'"):
        patches.files(dataclasses.replace(data, patches=("none.jsonl",)))


def test_a_cached_folder_is_held_against_the_patch(tmp_path):
    """On a hit a sample is rendered again, patched rows with their patch."""
    whole = items()
    file = written(
        tmp_path,
        *(judged(i, "fix", changes={"/text": f"patched {i.id}"}) for i in whole[:30]),
        *(judged(i, "reject") for i in whole[30:35]),
        Entry("patched", "new", values={"text": "new", "answer": 0}),
    )
    settings = settings_of(tmp_path, file)
    jobs.run(TRAIN, settings)
    vocabulary = Vocabulary(settings.vocab)
    again.check([TRAIN], settings, vocabulary)
    # without the patch the same folder would be told
    key = jobs.folder(TRAIN, settings, vocabulary.hash)
    plain = settings.unpatched
    (tmp_path / "cache" / key).rename(tmp_path / "cache" / jobs.folder(TRAIN, plain, vocabulary.hash))  # fmt: skip
    with pytest.raises(UserError, match="is no longer what its cache holds"):
        again.check([TRAIN], plain, vocabulary)


def test_pointers_are_those_of_rfc_6901():
    values = {"a/b": {"~": ["x", "y"]}, "n": 1}
    assert patches.leaves(values) == {"/a~1b/~0/0": "x", "/a~1b/~0/1": "y", "/n": 1}
    for pointer, value in patches.leaves(values).items():
        new = patches.changed(values, {pointer: value * 2}, "")
        assert patches.leaves(new)[pointer] == value * 2 and new != values
    assert patches.row_of(values) != patches.row_of({**values, "n": 2})
    # whole numbers of another library stay numbers
    assert patches.changed({"a": np.int64(1), "t": "x"}, {"/a": 2}, "") == {"a": 2, "t": "x"}
    assert conversation([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])


def test_rates_times_factors():
    shares = [{"a": 0.2, "a:cot": 0.2, "b": 0.6}]
    data = samples.config("", rate_factors=(("a", 3.0),)).data
    (rates,) = members.with_factors(shares, data)
    assert rates == pytest.approx({"a": 1 / 3, "a:cot": 1 / 3, "b": 1 / 3})
    assert members.with_factors(shares, samples.config("").data) == shares
    for factors, told in (((("c", 2.0),), "'c' is not trained on"), ((("a", 0.0),), "above 0")):
        data = samples.config("", rate_factors=factors).data
        with pytest.raises(UserError, match=told):
            members.with_factors(shares, data)


def test_tasks_beside_the_mixture(tmp_path):
    def config(mixture: str = "sample_mix", **data):
        data = {"modules": ("tests.sample_tasks",), **data}
        return samples.config(str(tmp_path), mixture, **data)

    added = (("sample_first", 0.25),)
    assert members.members_of(config("sample_add", added=added)) == ["sample_add", "sample_first"]
    both = config("sample_add", added=added, replay=0.25, replay_task="t").data
    (rates,) = members.with_beside([{"sample_add": 1.0}], both)
    assert rates == {"sample_add": 0.5, "sample_first": 0.25, "t": 0.25}
    shares = [{"a": 0.3, "b": 0.7}]
    assert members.with_beside(shares, config().data) == shares
    refused = {
        (("sample_first", 1.5),): "a share is between 0 and 1",
        (("sample_add", 0.1),): "is in 'sample_add' already",
        (("sample_mix", 0.1),): "is a mixture",
        (("sample_frist", 0.1),): "sample_first",
        (("sample_first", 0.1), ("sample_first", 0.1)): "stands there twice",
        (("sample_first", 0.6), ("sample_last", 0.5)): "leaves nothing for the mixture",
    }
    for given, said in refused.items():
        with pytest.raises(UserError, match=said):
            members.members_of(config("sample_add", added=given))
    with pytest.raises(UserError, match="holds it out"):
        members.members_of(config("sample_held", added=(("sample_second", 0.1),)))


def test_the_lock_names_the_patch(tmp_path, sample_cache, capsys):
    """Through the whole build, in processes of their own: rates follow the factor, and the lock
    says which file was applied and what it did."""
    registry.load_modules(("tests.sample_tasks",))
    spec = registry.task("sample_add")
    first, second = list(examples.items(spec, "train", "", 0, Counter()))[:2]
    file = written(
        tmp_path,
        judged(first, "reject", task="sample_add"),
        judged(second, "fix", task="sample_add", changes={"/answer": "1000000"}),
        # as many examples as before: SeqIO, which takes long to import, need not be asked for rates
        Entry("sample_add", "new", values={"a": 70, "b": 1, "rationale": "70 and 1 make 71.", "answer": "71"}),
    )  # fmt: skip
    named = {
        "patches": (file,),
        "rate_factors": (("sample_add", 2.0),),
        "added": (("sample_even", 0.125),),
    }
    config = samples.config(str(sample_cache), "sample_mix", **named)
    made = build.build(config).lock
    lock = locks.read(made)
    made.unlink()  # other tests read the two that were there
    printed.print_audit(auditing.audit(lock, str(sample_cache), config))
    told = capsys.readouterr().out
    assert (
        "by Анна: 3 rows judged" in told
        and "patches of 1 tasks: 1 added, 1 fixed, 1 rejected" in told
    )
    (told,) = lock["patch_files"]
    assert told["file"] == file and told["sha256"] == hashing.file_sha256(file) and told["entries"] == 3  # fmt: skip
    locks.check_config(lock, config, "lock")
    for without, said in (
        ("patches", "made with the patches"),
        ("rate_factors", "the factors"),
        ("added", "the added"),
    ):
        with pytest.raises(UserError, match=said):
            locks.check_config(
                lock, samples.config("", "sample_mix", **{**named, without: ()}), "lock"
            )
    tasks = {t["name"]: t for t in lock["tasks"]}
    assert tasks["sample_add"]["patched"] == tasks["sample_add:cot"]["patched"] == {"rejected": 1, "fixed": 1, "added": 1}  # fmt: skip
    assert "patched" not in tasks["sample_first"]
    assert tasks["sample_add"]["rate"] > tasks["sample_first"]["rate"]
    assert tasks["sample_even"]["rate"] == lock["added"]["sample_even"] == 0.125
    assert sum(t["rate"] for t in tasks.values()) == pytest.approx(1)
