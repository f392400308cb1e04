# SPDX-License-Identifier: Apache-2.0
"""SeqIO is the registry of record: its tasks yield the build's tokens, its rates are the lock's."""

import json
import subprocess
import sys

import pytest

from itx.data import cache
from itx.data import lock as locks
from itx.data.loader import Batches
from itx.data.vocabulary import Vocabulary
from tests import samples
from tests.conftest import REPO
from tests.data.test_vocabulary import TEXTS

TOKENIZER = REPO / "tests" / "golden" / "hf" / "qwen3" / "tokenizer.json"
NAMES = ["sample_first", "sample_first:inv", "sample_even:fs3", "sample_add:cot"]


@pytest.fixture(scope="module")
def probe(sample_cache, sample_locks):
    file = sample_cache / sample_locks["sample_held"]["vocabulary"]["file"]
    command = [sys.executable, "-m", "tests.build.seqio_probe", file, TOKENIZER, *NAMES]
    done = subprocess.run(list(map(str, command)), cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def records(folder):
    """[[example id, prompt, target + EOS]]."""
    ids = [e["id"] for e in cache.read_examples(folder)]
    found = [[p[0][0].tolist(), [*p[1][0].tolist(), 1]] for p in cache.Records(folder)]
    return [[i, *f] for i, f in zip(ids, found, strict=True)]


@pytest.mark.parametrize("name", NAMES)
def test_a_seqio_task_yields_the_tokens_of_the_build(probe, sample_cache, sample_locks, name):
    # both mixtures have their own vocabulary: build the task under the one that SeqIO was given
    lock = sample_locks["sample_mix" if name == "sample_add:cot" else "sample_held"]
    task = next(t for t in lock["tasks"] if t["name"] == name)
    want = {i: tokens for i, *tokens in records(sample_cache / task["folders"][0])}
    got = {i: tokens for i, *tokens in probe["tokens"][name]}
    assert got.keys() == want.keys() and len(got) == len(probe["tokens"][name]) > 100
    if lock["mixture"] == "sample_held":
        assert got == want
    else:  # other vocabulary: other tokens, so equality above is not vacuous
        assert got != want


@pytest.mark.parametrize("architecture", ["decoder", "encoder_decoder"])
def test_a_row_of_one_example_is_what_seqios_converter_makes_of_it(probe, sample_cache, sample_locks, architecture):
    """Features, masks and positions of PrefixLMFeatureConverter and EncDecFeatureConverter, under `token` weighting."""
    lock = sample_locks["sample_held"]
    task = next(t for t in lock["tasks"] if t["name"] == "sample_first")
    lengths = (
        {"sequence_length": 64, "target_length": 24}
        if architecture == "decoder"
        else {"sequence_length": 40, "target_length": 24}
    )
    lock = {**lock, **lengths, "architecture": architecture, "prefix_lm": architecture == "decoder", "window_examples": 1,
            "tasks": [{**task, "rate": 1.0}], "global_batch": 1}  # fmt: skip
    batches = Batches(lock, sample_cache)
    ours = batches.rows(list(range(task["examples"])))
    by_target = {}
    key = lambda row: (tuple(row.get("encoder_input_tokens", ())), tuple(row["decoder_target_tokens"]))  # noqa: E731
    for b in range(task["examples"]):
        row = {k: v[b].tolist() for k, v in ours.items()}
        by_target[key(row)] = row
    excluded = set(task["excluded"][0])
    found = [row for i, row in enumerate(probe["converted"][architecture]) if i not in excluded]
    assert len(found) > 40 and len({key(row) for row in found}) > 40
    for row in found:
        mine = by_target[key(row)]
        assert row.keys() <= mine.keys()
        end = 1 + max(i for i, t in enumerate(row["decoder_target_tokens"]) if t)
        for name, value in row.items():
            # SeqIO's shift leaves the last EOS behind the end as an input, where nothing is trained or seen
            stop = end if name == "decoder_input_tokens" else None
            assert mine[name][:stop] == pytest.approx(value[:stop]), name


def test_prompts_equal_those_of_seqios_own_tokeniser(probe):
    """The same template written with seqio.preprocessors.tokenize: equal wherever ours drew that template."""
    ours = {tuple(p): t for _, p, t in probe["tokens"]["sample_first"]}
    native = {tuple(p): t for _, p, t in probe["tokens"]["native"]}
    both = set(ours) & set(native)
    assert len(both) > 50 and set(ours) != set(native)
    assert all(ours[p] == native[p] for p in both)


def test_a_name_holds_one_vocabulary(probe):
    assert probe["refused"] == "'sample_last:fs2' is registered in SeqIO with another vocabulary"


def test_rates_of_the_lock_are_seqios(probe, sample_locks):
    lock = sample_locks["sample_held"]
    assert {t["name"]: t["rate"] for t in lock["tasks"]} == pytest.approx(probe["rates"])
    assert len(set(probe["rates"].values())) > 2
    assert "sample_second" not in probe["registered"]


def test_a_task_registered_straight_in_seqio_builds(probe, sample_cache, sample_locks, tmp_path):
    file = sample_cache / sample_locks["sample_held"]["vocabulary"]["file"]
    recipe = samples.write_recipe(tmp_path, tmp_path / "cache", mixture="native", modules=("tests.build.native_tasks",))
    samples.itx("data", "build", recipe, ITX_TEST_VOCABULARY=str(file))
    (lock_file,) = (tmp_path / "cache" / "locks").iterdir()
    (task,) = locks.read(lock_file)["tasks"]
    got = [tokens for _, *tokens in records(tmp_path / "cache" / task["folders"][0])]
    assert got == [tokens for _, *tokens in probe["tokens"]["native"]]


def test_other_vocabularies_are_seqios_too(probe, tmp_path):
    (tmp_path / "bytes.json").write_text('{"extra_ids": 125}')
    for name, file in (("tokenizer", TOKENIZER), ("bytes", tmp_path / "bytes.json")):
        ours, theirs = Vocabulary(file), probe["other"][name]
        assert theirs["ids"] == theirs["tf"] == ours.encode_batch(TEXTS)
        assert theirs["decoded"] == theirs["decoded_tf"] == TEXTS and theirs["size"] == ours.size
    assert probe["other"]["kept"] == [Vocabulary(TOKENIZER).hash, Vocabulary(tmp_path / "bytes.json").hash]
    prompt, target = probe["other"]["task"]
    ours = Vocabulary(TOKENIZER)
    assert ours.decode(prompt).startswith("Give the second word: ") or ours.decode(prompt).endswith("one?")
    assert ours.decode(target[:-1]).startswith(" ") and target[-1] == ours.eos_id
    assert ours.answer(target[:-1]) in ours.decode(prompt).split()
