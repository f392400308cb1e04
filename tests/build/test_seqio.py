# SPDX-License-Identifier: Apache-2.0
"""SeqIO is the registry of record: its tasks yield the build's tokens, its rates are the lock's."""

import json
import subprocess
import sys

import pytest

from itx.data import cache
from itx.data import lock as locks
from tests import samples
from tests.conftest import REPO


@pytest.fixture(scope="module")
def probe(sample_cache, sample_locks):
    file = sample_cache / sample_locks["sample_held"]["vocabulary"]["file"]
    command = [
        sys.executable,
        "-m",
        "tests.build.seqio_probe",
        file,
        "sample_first",
        "sample_even:fs3",
        "sample_add:cot",
    ]
    done = subprocess.run(list(map(str, command)), cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def records(folder):
    return [[p[0][0].tolist(), [*p[1][0].tolist(), 1]] for p in cache.Records(folder)]


@pytest.mark.parametrize("name", ["sample_first", "sample_even:fs3", "sample_add:cot"])
def test_a_seqio_task_yields_the_tokens_of_the_build(probe, sample_cache, sample_locks, name):
    # both mixtures have their own vocabulary: build the task under the one that SeqIO was given
    lock = sample_locks["sample_mix" if name == "sample_add:cot" else "sample_held"]
    task = next(t for t in lock["tasks"] if t["name"] == name)
    want = records(sample_cache / task["folders"][0])
    got = probe["tokens"][name]
    assert len(got) == len(want) > 100
    if lock["mixture"] == "sample_held":
        assert got == want
    else:  # other vocabulary: other tokens, so equality above is not vacuous
        assert got != want


def test_prompts_equal_those_of_seqios_own_tokeniser(probe):
    """The same template written with seqio.preprocessors.tokenize: equal wherever ours drew that template."""
    ours = {tuple(p): t for p, t in probe["tokens"]["sample_first"]}
    native = {tuple(p): t for p, t in probe["tokens"]["native"]}
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
    assert records(tmp_path / "cache" / task["folders"][0]) == probe["tokens"]["native"]
