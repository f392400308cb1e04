# SPDX-License-Identifier: Apache-2.0
"""SeqIO is the registry of record: its tasks yield the build's tokens, its rates are the lock's."""

import json
import os
import subprocess
import sys

import pytest

from itx.data import cache
from itx.data.loader import Batches
from itx.data.vocabulary import Vocabulary
from tests.conftest import REPO
from tests.data.test_vocabulary import TEXTS

TOKENIZER = REPO / "tests" / "golden" / "hf" / "qwen3" / "tokenizer.json"
# variants and the mixture that they are of: each mixture has its own vocabulary
NAMES = {"sample_first": "sample_held", "sample_first:inv": "sample_held", "sample_even:fs3": "sample_held",
         "sample_add:cot": "sample_mix"}  # fmt: skip
# the same rendering by another name, which holds the other vocabulary
ELSEWHERE = "sample_add:cot#0"


@pytest.fixture(scope="module")
def probe(sample_cache, sample_locks):
    files = {m: str(sample_cache / lock["vocabulary"]["file"]) for m, lock in sample_locks.items()}
    under = {n: files[m] for n, m in NAMES.items()} | {ELSEWHERE: files["sample_held"]}
    command = [
        sys.executable,
        "-m",
        "tests.prepare.seqio_probe",
        files["sample_held"],
        str(TOKENIZER),
    ]
    done = subprocess.run(
        [*command, *(f"{n}={f}" for n, f in under.items())],
        cwd=REPO,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def records(folder):
    """[[example id, prompt, target + EOS]]."""
    ids = [e["id"] for e in cache.iterate_examples(folder)]
    found = [[p[0][0].tolist(), [*p[1][0].tolist(), 1]] for p in cache.Records(folder)]
    return [[i, *f] for i, f in zip(ids, found, strict=True)]


@pytest.mark.parametrize("name", NAMES)
def test_a_seqio_task_yields_the_tokens_of_the_build(probe, sample_cache, sample_locks, name):
    task = next(t for t in sample_locks[NAMES[name]]["tasks"] if t["name"] == name)
    want = {i: tokens for i, *tokens in records(sample_cache / task["folders"][0])}
    got = {i: tokens for i, *tokens in probe["tokens"][name]}
    assert len(got) == len(probe["tokens"][name]) > 100 and got == want


def test_another_vocabulary_gives_other_tokens(probe):
    """Or equality above would say nothing."""
    one, other = (
        {i: tokens for i, *tokens in probe["tokens"][n]} for n in ("sample_add:cot", ELSEWHERE)
    )
    assert one.keys() == other.keys() and all(one[i] != other[i] for i in one)


@pytest.mark.parametrize("architecture", ["decoder", "encoder_decoder"])
def test_a_row_of_one_example_is_what_seqios_converter_makes_of_it(
    probe, sample_cache, sample_locks, architecture
):
    """Features, masks and positions of PrefixLMFeatureConverter and EncDecFeatureConverter, under
    `token` weighting."""
    lock = sample_locks["sample_held"]
    task = next(t for t in lock["tasks"] if t["name"] == "sample_first")
    lengths = (
        {"sequence_length": 64, "target_length": 24}
        if architecture == "decoder"
        else {"sequence_length": 40, "target_length": 24}
    )
    lock = {**lock, **lengths, "architecture": architecture, "prefix_lm": architecture == "decoder", "window_examples": 1,
            "tasks": [{**task, "rate": 1.0}], "global_batch": 1, "loss_positions": [24]}  # fmt: skip
    batches = Batches(lock, sample_cache)
    ours = batches.rows(list(range(task["examples"])))
    by_target = {}

    def key(row):
        return (
            tuple(row.get("encoder_input_tokens", ())),
            tuple(row["decoder_target_tokens"]),
        )

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
            # SeqIO's shift leaves the last EOS behind the end as an input, where nothing is trained
            # or seen
            stop = end if name == "decoder_input_tokens" else None
            assert mine[name][:stop] == pytest.approx(value[:stop]), name


def test_prompts_equal_those_of_seqios_own_tokeniser(probe):
    """The same template written with seqio.preprocessors.tokenize: equal wherever ours drew that
    template."""
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


def test_other_vocabularies_are_seqios_too(probe, tmp_path):
    (tmp_path / "bytes.json").write_text('{"extra_ids": 125}')
    for name, file in (("tokenizer", TOKENIZER), ("bytes", tmp_path / "bytes.json")):
        ours, theirs = Vocabulary(file), probe["other"][name]
        assert theirs["ids"] == theirs["tf"] == ours.encode_batch(TEXTS)
        assert theirs["decoded"] == theirs["decoded_tf"] == TEXTS and theirs["size"] == ours.size
    assert probe["other"]["kept"] == [
        Vocabulary(TOKENIZER).hash,
        Vocabulary(tmp_path / "bytes.json").hash,
    ]
    prompt, target = probe["other"]["task"]
    ours = Vocabulary(TOKENIZER)
    assert ours.decode(prompt).startswith("Give the second word: ") or ours.decode(prompt).endswith(
        "one?"
    )
    assert ours.decode(target[:-1]).startswith(" ") and target[-1] == ours.eos_id
    assert ours.answer(target[:-1]) in ours.decode(prompt).split()


def test_a_file_planted_under_a_guessable_name_is_not_read(sample_cache, sample_locks, tmp_path):
    """Another user of the machine can write in the folder for temporary files."""
    model = sample_cache / sample_locks["sample_held"]["vocabulary"]["file"]
    script = f"""
import hashlib, pathlib, tempfile, seqio, itx.tasks
from itx.prepare import seqio_bridge
from tests import sample_tasks
vocabulary = seqio.SentencePieceVocabulary({str(model)!r})
name = f"itx-{{hashlib.sha256(vocabulary.sp_model).hexdigest()[:16]}}.model"
planted = pathlib.Path(tempfile.gettempdir()) / name
planted.write_bytes(b"planted")
seen = []
seqio_bridge.registered = lambda name, settings: seen.append(pathlib.Path(settings.vocab).read_bytes())
seqio_bridge.get("x", vocabulary)
print("read", seen[0] != b"planted" and seen[0] == vocabulary.sp_model)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=REPO, env={**os.environ, "TMPDIR": str(tmp_path)},
                          capture_output=True, text=True)  # fmt: skip
    assert done.stdout.splitlines()[-1:] == ["read True"], done.stdout + done.stderr[-2000:]
