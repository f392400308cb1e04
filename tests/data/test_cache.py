# SPDX-License-Identifier: Apache-2.0
"""A cache folder that is not what was written is named before anything is trained, and made again
by a build."""

import json
import os
import shutil
import stat
import time
from pathlib import Path

import numpy as np
import pytest

from itx import hashing, storage
from itx.data import cache
from itx.data.lock import LockedData
from itx.errors import UserError
from itx.eval.evaluate import evaluate
from tests import scored
from tests.samples import itx, write_recipe


@pytest.fixture
def copied(tmp_path, sample_cache, sample_locks) -> tuple[Path, dict]:
    """A cache of one's own, and a lock of it."""
    shutil.copytree(sample_cache, tmp_path / "cache")
    # what is found later was not there before
    LockedData(sample_locks["sample_mix"], tmp_path / "cache")
    return tmp_path / "cache", json.loads(json.dumps(sample_locks["sample_mix"]))


def change_array(file: Path, change) -> None:
    """Write another array of the same shape; size and times stay."""
    before = file.stat()
    array = np.load(file)
    change(array)
    np.save(file, array)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_size == before.st_size


def zero_half(array):
    assert array[: len(array) // 2].any()
    array[: len(array) // 2] = 0


def beyond(array):
    array[-1] = 60_000


def flip(array):
    array[0] ^= 1


def swap_two(array):
    i = np.flatnonzero(array != array[0])[0]
    array[[0, i]] = array[[i, 0]]


def cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-2])


def edit_manifest(file: Path) -> None:
    storage.write_json(file, {**storage.read_json(file), "cluster": "another"})


def replaced_by_another(file: Path) -> None:
    """By a file of the same size and times that was there all along, by renaming alone."""
    other = file.with_suffix(".other")
    shutil.copy2(file, other)
    change_array_of = np.load(other.rename(other.with_suffix(".npy")))
    np.save(other.with_suffix(".npy"), change_array_of[::-1].copy())
    os.replace(other.with_suffix(".npy"), file)


def through_a_hard_link(file: Path) -> None:
    link = file.parent.parent.parent.parent / "link.npy"
    os.link(file, link)
    change_array(link, zero_half)
    link.unlink()


FAULTS = {
    "half a shard of zeros": ("tokens-00000.npy", lambda f: change_array(f, zero_half)),
    "a deleted shard": ("tokens-00000.npy", Path.unlink),
    "a token beyond the vocabulary": ("tokens-00000.npy", lambda f: change_array(f, beyond)),
    "one bit of a token": ("tokens-00000.npy", lambda f: change_array(f, flip)),
    "a shard with another of its size in its place": ("tokens-00000.npy", replaced_by_another),
    "a change through a hard link": ("tokens-00000.npy", through_a_hard_link),
    "a shard more": ("tokens-00001.npy", lambda f: np.save(f, np.zeros(3, np.uint16))),
    "two lengths that changed places": ("piece_lengths.npy", lambda f: change_array(f, swap_two)),
    "flipped lengths": ("piece_lengths.npy", lambda f: change_array(f, flip)),
    "flipped marks of what is trained": ("piece_trained.npy", lambda f: change_array(f, flip)),
    "a file that ends early": ("record_pieces.npy", cut_short),
    "an empty file": ("content.npy", lambda f: f.write_bytes(b"")),
    "a folder in a file's place": ("template.npy", lambda f: (f.unlink(), f.mkdir())),
    "texts": ("examples.jsonl.gz", cut_short),
    "an edited manifest": ("manifest.json", edit_manifest),
    "a deleted manifest": ("manifest.json", Path.unlink),
    "a manifest that ends early": ("manifest.json", cut_short),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("of", ["training", "evaluation"])
def test_a_damaged_file_is_one_line_with_its_name_and_what_makes_it_again(copied, fault, of):
    folder, lock = copied
    where = (
        lock["tasks"][-1]["folders"][0] if of == "training" else lock["evaluation"][-1]["folder"]
    )
    name, damage = FAULTS[fault]
    damage(folder / where / name)
    with pytest.raises(UserError) as raised:
        LockedData(lock, folder)
    said = str(raised.value)
    assert (
        str(folder / where / name) in said
        and "`itx data build CONFIG`" in said
        and "\n" not in said
    )


def again(folder: Path, where: str, lock: dict) -> None:
    """Give a folder's manifest, and the lock, the hashes of the files as they are now: nothing but
    their sense is left."""
    manifest = storage.read_json(folder / where / "manifest.json")
    manifest["files"] = {n: hashing.file_sha256(folder / where / n) for n in manifest["files"]}
    storage.write_json(folder / where / "manifest.json", manifest)
    lock["tasks"][0]["sha256"][0] = cache.manifest_hash(folder / where)


@pytest.mark.parametrize(
    "name, change, words",
    [
        ("tokens-00000.npy", beyond, "holds the token 60000, and the vocabulary ends at"),
        ("piece_lengths.npy", flip, "does not add up to the"),
        ("record_pieces.npy", lambda a: a.__setitem__(1, 0), "into "),
        ("record_pieces.npy", lambda a: a.__setitem__(-1, a[-1] + 1), "into "),
    ],
)
def test_what_contradicts_itself_is_told_though_every_hash_is_right(copied, name, change, words):
    folder, lock = copied
    where = lock["tasks"][0]["folders"][0]
    change_array(folder / where / name, change)
    again(folder, where, lock)
    with pytest.raises(UserError) as raised:
        LockedData(lock, folder)
    assert str(folder / where / name) in str(raised.value) and words in str(raised.value)


def test_a_token_beyond_the_vocabulary_is_not_written():
    with pytest.raises(UserError, match="the token 70 is not in the vocabulary, which ends at 49"):
        cache.Columns.of([[([1, 70], False), ([2], True)]], [0], [0], 50)
    assert cache.Columns.of([[([1, 49], False), ([2], True)]], [0], [0], 50).tokens.tolist() == [
        1,
        49,
        2,
    ]


def test_files_are_hashed_once_and_again_when_they_change(copied, monkeypatch):
    folder, lock = copied
    hashed, sha256, clock = [], hashing.file_sha256, time.time
    monkeypatch.setattr(
        hashing, "file_sha256", lambda file: hashed.append(Path(file).parent) or sha256(file)
    )
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder.parent / "home"))
    # what is new might change within a tick of the clock
    monkeypatch.setattr(time, "time", lambda: clock() + 60)
    files = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    every = {folder / f for t in lock["tasks"] for f in t["folders"]} | {
        folder / r["folder"] for r in lock["evaluation"]
    }
    LockedData(lock, folder)
    assert every <= set(hashed)
    hashed.clear()
    LockedData(lock, folder)
    assert not every & set(hashed)
    first = folder / lock["tasks"][0]["folders"][0]
    os.utime(first / "content.npy")
    LockedData(lock, folder)
    assert every & set(hashed) == {first}
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == {**files, first / "content.npy": (
        first / "content.npy").stat().st_mtime_ns}  # fmt: skip
    assert all(
        p.is_relative_to(folder.parent / "home" / "itx")
        for p in (folder.parent / "home").rglob("*")
        if p.is_file()
    )


def test_a_cache_and_a_home_that_cannot_be_written_are_read(copied, monkeypatch):
    folder, lock = copied
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/no such folder")
    for path in (folder, *folder.rglob("*")):
        path.chmod(path.stat().st_mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))
    try:
        assert LockedData(lock, folder).records
        change = folder / lock["tasks"][0]["folders"][0] / "content.npy"
        change.chmod(0o644)
        change_array(change, flip)
        with pytest.raises(UserError, match="content.npy"):
            LockedData(lock, folder)
    finally:
        for path in (folder, *folder.rglob("*")):
            path.chmod(path.stat().st_mode | stat.S_IWUSR)


def test_training_stops_and_a_build_makes_it_again(copied, tmp_path):
    folder, lock = copied
    recipe = write_recipe(tmp_path, folder, mixture="sample_mix")
    asked = ("data", "batch", recipe, "--step=3", "--rows=2")
    before = itx(*asked).stdout.partition("\n")[2]  # behind the line that tells how long it took
    shard = folder / lock["tasks"][0]["folders"][0] / "tokens-00000.npy"
    vocabulary = folder / lock["vocabulary"]["file"]
    content = vocabulary.read_bytes()
    change_array(shard, zero_half)
    vocabulary.write_bytes(content[:-40] + bytes(40))
    done = itx("train", recipe, "--run_dir", tmp_path / "run", check=2)
    assert str(vocabulary) in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()
    vocabulary.write_bytes(content)
    done = itx(*asked, check=2)
    assert str(shard) in done.stderr.splitlines()[-1] and "`itx data build CONFIG`" in done.stderr
    vocabulary.write_bytes(content[:-40] + bytes(40))
    told = [
        line
        for line in itx("data", "build", recipe).stderr.splitlines()
        if line.startswith("mended: ")
    ]
    assert len(told) == 2 and str(vocabulary) in told[0] and str(shard) in told[1]
    assert itx(*asked).stdout.partition("\n")[2] == before != ""


def test_the_vocabulary_of_a_run_is_checked_against_its_lock(tmp_path):
    run, config, lock, vocab, right = scored.small_run(tmp_path)
    lock["vocabulary"]["files"] = {run.vocab_model.name: hashing.file_sha256(run.vocab_model)}

    def ask(step):
        return evaluate(
            lambda: scored.Reciter(vocab, right), lock, config, run, step, say=lambda _: None
        )

    ask(1)
    sound = run.vocab_model.read_bytes()
    run.vocab_model.write_bytes(sound[:-30] + bytes([sound[-30] ^ 1]) + sound[-29:])
    with pytest.raises(UserError) as raised:
        ask(2)
    assert str(run.vocab_model) in str(raised.value) and "lock names" in str(raised.value)
    run.vocab_model.write_bytes(sound)
    ask(2)
