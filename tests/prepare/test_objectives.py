# SPDX-License-Identifier: Apache-2.0
"""Plain text: T5's span corruption to the bit, no token lost, and replay shares that build, audit
and weigh right."""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from itx import hashing
from itx.audit import audit as audits
from itx.data import cache
from itx.data import lock as locks
from itx.data.loader import Batches
from itx.data.vocabulary import Vocabulary, with_sentinels, without_sentinels
from itx.errors import UserError
from itx.prepare import (
    build,
    check,
    evaluation,
    examples,
    jobs,
    members,
    objectives,
    readers,
    render,
    types,
    vocab,
    workers,
)
from itx.prepare.types import Room
from itx.tasks import fingerprint, function, names, registry, resolve, text_task
from itx.tasks.spec import OBJECTIVES
from tests import samples, text_tasks
from tests.conftest import REPO, one_device

NAMES = ["text_lm", "text_prefix_lm#1", "text_span_corruption", "text_span_corruption#1"]


# ---- T5's numbers
# ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def conformance(shared):
    """(500 documents' ids, 240 rows) of AirIO's golden data: rows of 1024, 100 sentinels, seed
    94043."""
    folder = shared / "conformance" / "airio" / "span_corruption"

    def read(pattern, *features):
        (file,) = folder.glob(pattern)
        return [
            e for _, e in readers.read_tfrecord(file, {"features": {f: [int] for f in features}})
        ]

    return [e["targets"] for e in read("c4_tokenized*", "targets")], read(
        "c4_span*", "inputs", "targets"
    )


def test_span_corruption_is_t5s_to_the_bit(conformance):
    """From the documents and the seed alone: pools of 128 joined, cut to 1137, masked, replaced. No
    row differs."""
    documents, rows = conformance
    size = objectives.chunk_size("span_corruption", Room("encoder_decoder", 1024, 1024))
    joined = [[t for d in documents[i : i + 128] for t in d] for i in range(0, len(documents), 128)]
    chunks = [ids[a:b] for ids in joined for a, b in objectives.cut(len(ids), size, 1)]
    # tf.data.Dataset.random(seed): Philox under TensorFlow's default graph seed; SeqIO takes two of
    # them per map
    first, second = (
        objectives.philox((0, 0, s, 0), (87654321, 0), len(rows)).tolist() for s in (94047, 94048)
    )
    assert len(chunks) == len(rows) == 240
    for ids, row, seed in zip(chunks, rows, zip(first, second, strict=True), strict=True):
        mask = objectives.noise_mask(len(ids), seed)
        assert objectives.with_sentinels(np.array(ids), mask, 32100).tolist() == row["inputs"]
        assert objectives.with_sentinels(np.array(ids), ~mask, 32100).tolist() == row["targets"]


def test_lengths_are_those_of_random_spans_helper(conformance):
    both = [(512, 568, 114), (1024, 1137, 229)]  # inputs, tokens, targets, EOS included
    for inputs, tokens, targets in both:
        room = Room("encoder_decoder", inputs, targets)
        assert objectives.chunk_size("span_corruption", room) == tokens
        assert objectives.corrupted_lengths(tokens) == (inputs - 1, targets - 1)
        assert objectives.chunk_size("span_corruption", room._replace(targets=targets - 1)) < tokens
    for row in conformance[1]:
        n = sum(i < 32000 for part in row.values() for i in part)
        assert objectives.corrupted_lengths(n) == (len(row["inputs"]), len(row["targets"]))


@given(st.integers(2, 1500), st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)))
@settings(deadline=None)
def test_masks_have_the_noise_their_length_says_and_texts_can_be_read_back(n, seed):
    mask = objectives.noise_mask(n, seed)
    tokens, spans = objectives.noise_counts(n)
    starts = np.flatnonzero(np.diff(np.append(False, mask).astype(int)) == 1)
    assert (
        len(mask) == n
        and mask.sum() == tokens
        and len(starts) == spans
        and not mask[0]
        and mask[-1]
    )
    assert abs(tokens - 0.15 * n) <= 1 and abs(spans - tokens / 3) <= 1
    size = 3000
    ids = np.arange(n)
    inputs, targets = (objectives.with_sentinels(ids, m, size) for m in (mask, ~mask))
    assert (len(inputs), len(targets)) == objectives.corrupted_lengths(n)
    told: dict = {}
    for t in targets.tolist():
        if t >= 2000:
            told[t] = []
        else:
            told[next(reversed(told))].append(t)
    assert [x for t in inputs.tolist() for x in (told[t] if t >= 2000 else [t])] == ids.tolist()
    assert list(told) == [size - 1 - i for i in range(spans)]


def test_masks_are_drawn_evenly():
    """All ways to cut the noise into spans are equally likely, and every place is noise about as
    often."""
    masks = np.array([objectives.noise_mask(200, (i, 7)) for i in range(1000)])
    assert (masks.sum(1) == 30).all()
    by_place = masks[:, 20:180].mean(0)
    assert abs(by_place.mean() - 0.15) < 0.01 and by_place.std() < 0.02
    # 30 tokens in 10 spans: a first span of 1 in (28 choose 8) of the (29 choose 9) ways, 9 / 29
    begins = masks.argmax(1)
    ones = ~masks[np.arange(1000), begins + 1]
    assert abs(ones.mean() - 9 / 29) < 4 * np.sqrt(9 / 29 * 20 / 29 / 1000)
    assert len({m.tobytes() for m in masks}) == 1000


# ---- chunks and records
# ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vocabularies(tmp_path_factory):
    """(a vocabulary trained on the sample documents, the same with sentinels)"""
    folder = str(tmp_path_factory.mktemp("vocab"))
    file = vocab.train(["text_lm", "sample_first"], 400, "", 0, folder)
    return file, vocab.keep_with_sentinels(file, folder)


@pytest.fixture(scope="module")
def vocabulary(vocabularies):
    return Vocabulary(vocabularies[1])


ROOMS = [
    Room(a, n, t)
    for a, n, t in [
        ("decoder", 48, 40),
        ("decoder", 64, 12),
        ("encoder_decoder", 40, 24),
        ("decoder", 9, 5),
    ]
]
texts = st.text(st.characters(codec="utf-8"), max_size=200) | st.lists(
    st.sampled_from([*text_tasks.WORDS, *text_tasks.SCRIPTS, " ", "\n"]), max_size=60
).map(" ".join)


@given(texts, st.sampled_from(OBJECTIVES), st.sampled_from(ROOMS), st.integers(0, 3))
@settings(deadline=None, max_examples=150)
def test_no_token_of_a_document_is_lost_and_records_fit_their_row(
    vocabulary, document, objective, room, rendering
):
    if (objective, room.architecture) == ("lm", "encoder_decoder"):
        return
    spec = registry.task(f"text_{objective}")
    item = types.Item("7", {"text": document}, render.content_of(spec, {"text": document}), 5)
    counts = Counter({"read": 1})
    found = list(objectives.chunks(spec, [item], vocabulary, room, counts))
    assert counts["read"] == len(found) + sum(n for k, n in counts.items() if k != "read")
    ids = vocabulary.encode(document)
    least = objectives.MIN_TOKENS[objective]
    if len(ids) < least:
        assert not found
        return
    assert [t for i in found for t in i.values["tokens"]] == ids
    assert [i.id for i in found] == [f"7/{n}" for n in range(len(found))]
    assert (
        "".join("".join(i.content.split()) for i in found) == "".join(item.content.split())
        or len(found) > 1
    )
    for chunk in found:
        record = objectives.record(spec, chunk, rendering, 0, vocabulary.size, room)
        assert record == objectives.record(spec, chunk, rendering, 0, vocabulary.size, room)
        (prompt, read), (target, trained) = record
        assert not read and trained and target and (prompt or objective == "lm")
        if room.architecture == "decoder":
            assert len(prompt) + len(target) + 1 <= room.length and len(target) + 1 <= room.targets
        else:
            assert len(prompt) + 1 <= room.length and len(target) + 1 <= room.targets
        if objective != "span_corruption":
            assert prompt + target == chunk.values["tokens"]
        else:
            plain = [t for t in prompt + target if t < vocabulary.size - objectives.SENTINELS]
            assert sorted(plain) == sorted(chunk.values["tokens"])


def test_chunks_hold_the_text_they_stand_for(vocabulary):
    document = " ".join(text_tasks.SCRIPTS * 9)
    item = types.Item("1", {"text": document}, "whole", 1)
    found = list(
        objectives.chunks(registry.task("text_lm"), [item], vocabulary, Room("decoder", 40, 33))
    )
    assert len(found) > 3 and [len(i.values["tokens"]) for i in found[:-1]] == [32] * (
        len(found) - 1
    )
    assert "".join("".join(i.content.split()) for i in found) == "".join(
        render.text.normalise(document).split()
    )
    assert len({i.hash for i in found}) > 3 and all(
        i.hash == hashing.draw("content", i.content) for i in found
    )


@given(st.integers(1, 400), st.integers(3, 50), st.integers(1, 2))
def test_cuts_are_whole_and_never_too_short(length, size, least):
    found = objectives.cut(length, size, least)
    assert [found[0][0], *(b for _, b in found)] == [0, *(a for a, _ in found[1:]), length]
    assert all(least <= b - a <= size for a, b in found) or length < least
    assert all(b - a == size for a, b in found[:-2])


def test_renderings_see_other_spans_of_the_same_chunks(vocabulary):
    room = Room("decoder", 128, 64)
    for objective in ("prefix_lm", "span_corruption"):
        spec = registry.task(f"text_{objective}")
        items = list(examples.items(spec, "train", "", 0, Counter()))
        chunks = list(objectives.chunks(spec, items, vocabulary, room))
        long = [c for c in chunks if len(c.values["tokens"]) > 20]
        made = {key: [objectives.record(spec, c, *key, vocabulary.size, room) for c in long]
                for key in ((0, 0), (1, 0), (0, 1))}  # fmt: skip
        for key in ((1, 0), (0, 1)):
            assert sum(a != b for a, b in zip(made[0, 0], made[key], strict=True)) > 0.8 * len(long)
        other = dataclasses.replace(spec, name="other")
        assert made[0, 0] != [
            objectives.record(other, c, 0, 0, vocabulary.size, room) for c in long
        ]


def test_prefixes_end_anywhere_that_leaves_a_target_that_fits():
    spec, chunk = (
        registry.task("text_prefix_lm"),
        types.Item("a/0", {"tokens": list(range(10))}, "", 0),
    )
    for targets, want in ((64, range(1, 10)), (5, range(6, 10))):
        found = Counter(
            len(objectives.record(spec, chunk, r, 0, 100, Room("decoder", 64, targets))[0][0])
            for r in range(2000)
        )
        assert set(found) == set(want) and min(found.values()) > 0.7 * 2000 / len(want)


def test_what_cannot_be_is_refused(vocabularies, vocabulary):
    spec = {o: registry.task(f"text_{o}") for o in OBJECTIVES}
    room = Room("encoder_decoder", 64, 64)
    item = types.Item("1", {"text": "red blue"}, "", 1)
    none = Vocabulary(vocabularies[0])
    for objective, *how, message in (
        (
            "lm",
            vocabulary,
            room,
            "for this run's encoder-decoder take 'prefix_lm' or 'span_corruption'",
        ),
        ("span_corruption", none, room, r"no sentinels .* extra_ids=100\)"),
        (
            "prefix_lm",
            vocabulary,
            Room("decoder", 64, 1),
            "no text fits rows of 64 tokens, 1 of targets",
        ),
        ("span_corruption", vocabulary, Room("decoder", 3, 8), "no text fits rows of 3 tokens"),
        ("lm", vocabulary, Room("decoder", 2, 8), "no text fits"),
    ):
        with pytest.raises(UserError, match=message):
            list(objectives.chunks(spec[objective], [item], *how))
    with pytest.raises(UserError, match="example 1: 'text' is int, no text"):
        list(
            objectives.chunks(
                spec["lm"], [types.Item("1", {"text": 3}, "", 1)], vocabulary, types.Room()
            )
        )
    counts = Counter({"read": 2})
    marked = [item, types.Item("2", {"text": "red <extra_id_3> blue"}, "", 2)]
    made = list(objectives.chunks(spec["span_corruption"], marked, vocabulary, room, counts))
    # the text of a sentinel in a document is text: no id of it is a sentinel's, and the document is
    # kept
    assert len(made) == 2 and all(
        i < vocabulary.size - 100 for m in made for i in m.values["tokens"]
    )
    assert counts == {"read": 2}
    # no more spans than sentinels: a vocabulary with few of them has short chunks
    assert (
        objectives.noise_counts(
            objectives.chunk_size("span_corruption", Room("decoder", 9999, 9999), 10)
        )[1]
        == 10
    )


# ---- tasks
# -------------------------------------------------------------------------------------------


def new(monkeypatch, **rest):
    monkeypatch.delitem(registry.TASKS, "x", raising=False)
    how = {"objective": "lm", **rest}
    spec = text_task(
        "x",
        version=1,
        cluster="c",
        source=function(text_tasks.documents),
        fields=text_tasks.text_fields,
        **how,
    )
    monkeypatch.setitem(registry.TASKS, "x", registry.TASKS.pop("x"))
    return spec


def test_text_tasks_refuse_what_they_cannot_use(monkeypatch):
    for rest, message in (
        (
            {"templates": [("a", "b")]},
            "text task 'x': no templates; plain text is trained on as it is",
        ),
        ({"options": ["a"]}, "no options"),
        ({"metrics": ["accuracy"]}, "no metrics; plain text is trained on and never scored"),
        (
            {"objective": "span_coruption"},
            "objective='span_coruption'; did you mean 'span_corruption'",
        ),
    ):
        with pytest.raises(UserError, match=message):
            new(monkeypatch, **rest)
    spec = new(monkeypatch)
    assert resolve.supports(spec, names.parse("x"))
    assert not any(
        resolve.supports(spec, names.parse(f"x:{v}")) for v in ("fs2", "cot", "inv", "noopt")
    )
    assert len({fingerprint.of_task(new(monkeypatch, objective=o)) for o in OBJECTIVES}) == 3


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_tasks_are_shown_in_words_and_check_out(objective):
    spec = registry.task(f"text_{objective}")
    (shown,) = check.show(spec, spec.name, "")["renderings"]
    assert (
        not check.check(spec, "")
        and shown["template"] == objective
        and ("<extra_id_0>" in shown["prompt"]) == (objective == "span_corruption")
    )
    assert bool(shown["prompt"]) == (objective != "lm") and shown["target"]


def test_text_tasks_are_not_evaluated():
    config = samples.config("cache", "replay_decoder", modules=("tests.text_tasks",))
    rows = evaluation.rows(config, members.members_of(config))
    assert rows and not any(r.spec.objective for r in rows)
    with pytest.raises(UserError, match="eval.tasks: 'text_lm' is plain text"):
        evaluation.rows(
            dataclasses.replace(config, eval=dataclasses.replace(config.eval, tasks=("text_lm",))),
            [],
        )


def test_real_documents_lose_nothing(shared):
    """C4 under T5's own vocabulary; and the shipped replay mixture, whose share is a part of its
    examples."""
    registry.load_modules(["tasks.files"])
    file = shared / "tokenizers" / "t5_32k" / "sentencepiece.model"
    sp = Vocabulary(file)
    spec = registry.task("c4_demo.lm")
    counts: Counter = Counter()
    items = list(examples.items(spec, "train", str(shared), 0, counts))
    assert (
        counts["read"] == 300
        and len(items) + counts["another split"] > 290
        and 10 < counts["another split"] < 50
    )
    found = list(objectives.chunks(spec, items, sp, Room("decoder", 512, 512), counts))
    assert sum(len(i.values["tokens"]) for i in found) == sum(
        len(sp.encode(i.values["text"])) for i in items
    )
    assert counts["read"] == len(found) + sum(n for k, n in counts.items() if k != "read") > 400
    assert resolve.members(registry.MIXTURES["real_mix_replay"]) == {
        "real_mix": 0.95,
        "c4_demo.lm": 0.05,
    }


# ---- vocabularies, SeqIO and whole builds
# ------------------------------------------------------------


@pytest.fixture(scope="module")
def made(vocabularies, tmp_path_factory):
    """(the probe's facts, {architecture: (config, cache)}), made side by side. SeqIO takes 5 s to
    import, so one of the two builds has its rates, which are the mixture's weights, without it."""
    builds = {}
    for architecture in ("decoder", "encoder_decoder"):
        folder = tmp_path_factory.mktemp(architecture)
        arguments = {"mixture": f"replay_{architecture}", "architecture": architecture, "workers": 1,
                     "modules": ("tests.text_tasks",)}  # fmt: skip
        recipe = samples.write_recipe(folder, folder / "cache", **arguments)
        builds[architecture] = (
            samples.config(str(folder / "cache"), **arguments),
            folder / "cache",
            recipe,
        )
    begun = [
        ["itx.cli", "data", "build", builds["decoder"][2]],
        ["tests.prepare.objectives_probe", *vocabularies, *NAMES],
    ]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    running = [
        subprocess.Popen([sys.executable, "-m", *map(str, c)], cwd=REPO, env=one_device(), **pipes)
        for c in begun
    ]
    with pytest.MonkeyPatch.context() as patch:
        weights = resolve.members(registry.MIXTURES["replay_encoder_decoder"])
        patch.setattr(
            workers, "seqio_rates", lambda *_: contextlib.nullcontext(lambda examples: [weights])
        )
        build.build(builds["encoder_decoder"][0])
    ended = [p.communicate() for p in running]
    assert not any(p.returncode for p in running), ended
    return json.loads(ended[-1][0].splitlines()[-1]), builds


def test_sentinels_are_seqios(made, vocabularies, vocabulary):
    facts, plain = made[0], Vocabulary(vocabularies[0])
    assert facts["same_bytes"] and facts["size"] == vocabulary.size == plain.size + 100
    assert facts["ids"] == {
        "▁<extra_id_0>": vocabulary.size - 1,
        "▁<extra_id_99>": vocabulary.size - 100,
    }
    assert objectives.sentinels(vocabulary) == 100 and objectives.sentinels(plain) == 0
    plain_data, data = (f.read_bytes() for f in vocabularies)
    assert (
        with_sentinels(data)
        == data
        != plain_data
        == without_sentinels(data)
        == without_sentinels(plain_data)
    )
    for e in text_tasks.documents("", "", 0):  # other text has the ids it had
        assert plain.encode(e["text"]) == vocabulary.encode(e["text"])


def test_sentinels_leave_a_tokenizers_other_files_beside_it(vocabularies, tmp_path):
    file = tmp_path / "spiece.model"
    file.write_bytes(vocabularies[0].read_bytes())
    (tmp_path / "tokenizer_config.json").write_text('{"extra_ids": 100}')
    kept = vocab.keep_with_sentinels(
        vocab.keep_given(str(file), "", str(tmp_path / "cache")), str(tmp_path / "cache")
    )
    assert (
        kept.read_bytes() == vocabularies[1].read_bytes() and kept.parent != vocabularies[1].parent
    )
    assert (kept.parent / "tokenizer_config.json").read_text() == '{"extra_ids": 100}'


def test_noise_is_drawn_as_tensorflow_shuffles(made):
    values = np.arange(1500)
    for seed, want in zip(text_tasks.SEEDS, made[0]["shuffled"], strict=True):
        assert objectives._shuffled(values, seed).tolist() == want


@pytest.mark.parametrize("name", NAMES)
def test_a_seqio_task_yields_the_records(made, vocabulary, name):
    spec, room = registry.task(name), Room(*text_tasks.ROOM)
    items = examples.items(spec, "train", "", 0, Counter())
    rendering = names.parse(name).rendering
    want = [(c.id, *objectives.record(spec, c, rendering, 0, vocabulary.size, room))
            for c in objectives.chunks(spec, items, vocabulary, room)]  # fmt: skip
    assert (
        made[0]["tokens"][name] == [[i, p, [*t, 1]] for i, (p, _), (t, _) in want]
        and len(want) > 60
    )


def test_seqio_mixes_the_share_and_wants_sentinels(made):
    rates = made[0]["rates"]
    assert rates["text_lm"] == pytest.approx(0.1) and rates[
        "text_span_corruption"
    ] == pytest.approx(0.1)
    assert sum(rates.values()) == pytest.approx(1) and "no sentinels" in made[0]["refused"]


@pytest.mark.parametrize("architecture", ["decoder", "encoder_decoder"])
def test_a_replay_mixture_builds_and_adds_up(made, architecture):
    config, folder, _ = made[1][architecture]
    (file,) = (folder / "locks").iterdir()
    lock = locks.read(file)
    sp = Vocabulary(folder / lock["vocabulary"]["file"])
    assert objectives.sentinels(sp) == 100 and lock["vocabulary"]["size"] == sp.size
    facts = audits.audit(lock, folder, config)
    assert not facts["errors"]
    tasks = {t["name"]: t for t in lock["tasks"]}
    text = {n: t for n, t in tasks.items() if n.startswith("text_")}
    assert len(text) == 2 and all(t["rate"] == pytest.approx(0.1) for t in text.values())
    assert not any(r["task"].startswith("text_") for r in lock["evaluation"])
    for name, t in tasks.items():
        assert t["audit"]["read"] == t["audit"]["kept"] + sum(t["audit"]["skipped"].values()), name
        assert t["audit"]["kept"] == len(cache.Records(folder / t["folders"][0])) - len(
            t["excluded"][0]
        )
    assert all(
        t["audit"]["read"] > 62 and t["audit"]["skipped"]["no text"] == 1 for t in text.values()
    )
    assert "longer than a row" not in {k for t in text.values() for k in t["audit"]["skipped"]}
    check_batches(Batches(lock, folder), lock, sp)


def check_batches(batches, lock, sp):
    """Loss weights: 1 on the target and its EOS alone, whichever task; targets of span corruption
    begin with <extra_id_0>."""
    seen: Counter = Counter()
    for t in range(6):
        batch = batches.batch(t)
        for b in range(lock["global_batch"]):
            for s in range(1, batch["decoder_segment_ids"][b].max() + 1):
                here = batch["decoder_segment_ids"][b] == s
                name = lock["tasks"][batch["task_ids"][b][here][0]]["name"]
                ids, weights = (
                    batch["decoder_target_tokens"][b][here],
                    batch["decoder_loss_weights"][b][here],
                )
                trained = ids[weights > 0].tolist()
                assert (
                    set(weights.tolist()) <= {0.0, 1.0}
                    and trained[-1] == sp.eos_id
                    and sp.eos_id not in trained[:-1]
                )
                assert (np.diff(weights) >= 0).all()  # the prompt, then what is trained
                if name == "text_lm":
                    assert (weights == 1).all()
                elif name.startswith("text_"):
                    both = lock["architecture"] == "encoder_decoder"
                    assert (weights == 1).all() == both
                    assert (trained[0] == sp.size - 1) == (name == "text_span_corruption")
                seen[name] += 1
    assert all(seen[t["name"]] for t in lock["tasks"] if t["name"].startswith("text_"))


def test_an_estimate_and_a_second_run_need_no_seqio(made):
    config, folder, _ = made[1]["encoder_decoder"]
    facts = build.estimate(config)["tasks"]["text_span_corruption"]
    lock = locks.read(build.build(config).lock)
    where = next(t["folders"][0] for t in lock["tasks"] if t["name"] == "text_span_corruption")
    assert facts["records"] == len(cache.Records(folder / where))
    assert facts["new_bytes"] == 0 and "seqio" not in sys.modules
    job = types.Job("text_lm", "train")
    with pytest.raises(UserError, match="objective 'lm' is for decoder-only models"):
        jobs.key(job, jobs.settings_of(config, os.devnull), "")
