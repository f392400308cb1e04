# SPDX-License-Identifier: Apache-2.0
"""A lock and its cache copied from a store that answers late, partly, wrongly or not at all: what
arrives is what was written, or nothing has its name and a line says why."""

import hashlib
import json
import shutil

import pytest

from itx import cli, remote
from itx.data import fetch, verify
from itx.data import lock as locks
from itx.data.loader import Batches
from itx.errors import RunFailed, UserError
from tests.stores import CREDENTIALS, Flaky

URL = "flaky://bucket/cache"


@pytest.fixture
def store(sample_cache, monkeypatch):
    """The URL of a lock in a store that holds the sample cache, and the lock's file here."""
    Flaky.reset()
    monkeypatch.setattr(remote, "FIRST_PAUSE_SECONDS", 0.001)
    for file in sample_cache.rglob("*"):
        if file.is_file():
            name = f"/bucket/cache/{file.relative_to(sample_cache)}"
            with Flaky().open(name, "wb") as out:
                out.write(file.read_bytes())
    own = next(
        f for f in (sample_cache / "locks").iterdir() if locks.read(f)["mixture"] == "sample_held"
    )
    return f"{URL}/locks/{own.name}", own


def same_batches(to, own, sample_cache) -> bool:
    lock = locks.read(to / "locks" / own.name)
    pairs = (Batches(lock, to).batch(0), Batches(locks.read(own), sample_cache).batch(0))
    return all((pairs[0][k] == pairs[1][k]).all() for k in pairs[1])


@pytest.mark.parametrize("fault", ["", "429", "503", "truncated", "flipped", "slow"])
def test_what_arrives_is_what_was_written(
    fault, store, sample_cache, tmp_path, monkeypatch, capsys
):
    url, own = store
    if fault == "slow":
        monkeypatch.setattr(remote, "MAX_REQUEST_SECONDS", 0.2)
    Flaky.faults = {n: fault for n in range(2, 400, 50 if fault == "slow" else 7)} if fault else {}
    facts = fetch.fetch(url, tmp_path)
    assert same_batches(tmp_path, own, sample_cache)
    assert bool(facts["requests_made_again"]) == bool(fault) and Flaky.lists == 0
    if fault not in ("", "flipped"):
        assert "again in" in capsys.readouterr().err
    lock = locks.read(own)
    verify.of_lock(lock, tmp_path)
    for _, folder, _ in verify.entries(lock):
        for file in (sample_cache / folder).iterdir():
            assert (tmp_path / folder / file.name).read_bytes() == file.read_bytes()
    before = Flaky.requests
    Flaky.faults = {}
    again = fetch.fetch(url, tmp_path)
    assert again["folders"] == 0 and again["here_already"] > 3 and Flaky.requests - before == 2


@pytest.mark.parametrize("fault", ["429", "503", "truncated", "flipped"])
def test_a_store_that_stays_bad_gives_no_file(fault, store, tmp_path):
    url, _ = store
    fetch.Store(URL)  # the store itself is there
    Flaky.faults = {n: fault for n in range(60, 10_000)}
    with pytest.raises(
        (RunFailed, UserError), match="did not come in 7 requests|is not what was written"
    ):
        fetch.fetch(url, tmp_path)
    assert not (tmp_path / "locks").exists()
    for manifest in tmp_path.rglob("manifest.json"):
        verify.folder(manifest.parent)  # each folder that has its name is whole
    assert not list(tmp_path.rglob("*.part"))
    Flaky.faults = {}
    assert fetch.fetch(url, tmp_path)["folders"] > 0  # the same command goes on from there


def test_an_object_that_was_never_written_is_named(store, tmp_path, capsys):
    """The last write of a build was lost: no listing is needed to see it."""
    url, own = store
    task = locks.read(own)["tasks"][0]
    name = f"/bucket/cache/{task['folders'][0]}/piece_lengths.npy"
    del Flaky.store[name]
    before = Flaky.requests
    assert cli.main(["data", "fetch", url, "--to", str(tmp_path / "to")]) == 2
    said = capsys.readouterr().err
    assert f"{task['folders'][0]}/piece_lengths.npy cannot be read (FileNotFoundError" in said
    assert said.count("\n") == 1 and Flaky.requests > before
    assert not (tmp_path / "to").exists()


def test_a_refusal_is_not_asked_again(store, tmp_path):
    url, _ = store
    Flaky.faults = {"all": "403"}
    with pytest.raises(UserError, match="cannot be read .*status 403"):
        fetch.fetch(url, tmp_path)
    assert Flaky.requests == 1


@pytest.mark.parametrize("fault", CREDENTIALS)
def test_only_credentials_that_may_come_are_waited_for(fault, store, tmp_path):
    url, own = store
    Flaky.faults = {n: fault for n in (1, 2)}
    if fault == "no metadata server":
        assert fetch.fetch(url, tmp_path)["requests_made_again"] == 2
        return
    with pytest.raises(UserError, match=f"cannot be read .*{CREDENTIALS[fault].args[-1]}"):
        fetch.fetch(url, tmp_path)
    assert Flaky.requests == 1


def test_a_lock_that_is_damaged_in_the_store_is_not_promised(store, tmp_path, capsys):
    url, own = store
    name = f"/bucket/cache/locks/{own.name}"
    Flaky().pipe_file(name, Flaky().cat_file(name).replace(b"sample_held", b"sample_hold"))
    assert cli.main(["data", "fetch", url, "--to", str(tmp_path / "to")]) == 2
    said = capsys.readouterr().err
    assert f"{own.name} is not what was written, in the last of 7 requests too" in said
    assert "goes on from there" not in said and not (tmp_path / "to").exists()


@pytest.mark.parametrize("longer", [b"", b"\n\n\n"])
def test_a_lock_that_is_written_anew_meanwhile_comes_whole(longer, store, tmp_path, monkeypatch):
    """Between the question for its size and the one for its content a writer puts another."""
    url, own = store
    name, inner = f"/bucket/cache/locks/{own.name}", Flaky.cat_file
    sound, count = Flaky().cat_file(name) + longer, iter(range(1000))
    Flaky().pipe_file(name, sound[: len(sound) // 2])

    def cat_file(self, path, **more):
        if next(count) == 0:
            self.pipe_file(name, sound)
        return inner(self, path, **more)

    monkeypatch.setattr(Flaky, "cat_file", cat_file)
    facts = fetch.fetch(url, tmp_path)
    assert facts["requests_made_again"] == 1 and locks.read(facts["lock"]) == locks.read(own)


def test_a_server_that_does_not_say_a_size_is_told(store, tmp_path, monkeypatch, capsys):
    url, own = store
    monkeypatch.setattr(Flaky, "info", lambda *_, **more: {"name": "x", "size": None})
    assert cli.main(["data", "fetch", url, "--to", str(tmp_path / "to")]) == 2
    said = capsys.readouterr().err
    assert f"{own.name}: the store does not say how many bytes it has" in said
    assert said.count("\n") == 1


def test_a_changed_object_is_refused(store, tmp_path):
    url, own = store
    task = locks.read(own)["tasks"][0]
    name = f"/bucket/cache/{task['folders'][0]}/tokens-00000.npy"
    data = bytearray(Flaky().cat_file(name))
    data[-1] ^= 1
    with Flaky().open(name, "wb") as out:
        out.write(bytes(data))
    with pytest.raises(UserError, match="tokens-00000.npy is not what was written"):
        fetch.fetch(url, tmp_path)
    assert not (tmp_path / task["folders"][0]).exists() and not (tmp_path / "locks").exists()


def test_a_disk_that_is_too_small_is_told_before_anything_is_copied(store, tmp_path, monkeypatch):
    url, _ = store
    small = shutil.disk_usage(tmp_path)._replace(free=remote.MIN_FREE_BYTES + 1000)
    monkeypatch.setattr(remote.shutil, "disk_usage", lambda _: small)
    with pytest.raises(UserError, match="GB are to be copied there, and its disk has 0.3 GB free"):
        fetch.fetch(url, tmp_path / "to")
    assert not (tmp_path / "to").exists()


@pytest.mark.parametrize("bad", ["../../outside", "/etc/passwd"])
def test_a_lock_leads_nowhere_else(bad, store, tmp_path):
    from itx import storage

    url, own = store
    lock = locks.read(own)
    lock["tasks"][0]["folders"][0] = bad
    with Flaky().open(f"/bucket/cache/locks/{own.name}", "wb") as out:
        out.write(json.dumps(storage.sealed(lock)).encode())
    with pytest.raises(UserError, match="outside of its folder"):
        fetch.fetch(url, tmp_path / "to")
    assert not (tmp_path / "to").exists()


def test_a_lock_that_cannot_be_compared_is_refused(store, tmp_path):
    url, own = store
    with Flaky().open(f"/bucket/cache/locks/{own.name}", "wb") as out:
        out.write(json.dumps(locks.read(own)).encode())
    with pytest.raises(UserError, match="has no hash of its own"):
        fetch.fetch(url, tmp_path / "to")


def test_blocks_are_read_in_order_and_put_together(store, tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "BLOCK_BYTES", 7)
    with Flaky().open("/bucket/cache/x", "wb") as out:
        out.write(bytes(range(100)))
    Flaky.requests, Flaky.faults = 0, {5: "truncated", 9: "503"}
    seen: list[int] = []
    of_it = hashlib.sha256(bytes(range(100))).hexdigest()
    reader = remote.Store(URL)
    reader.copy("x", tmp_path / "x", of_it, seen.append)
    assert (tmp_path / "x").read_bytes() == bytes(range(100)) and sum(seen) == 100
    assert reader.repeated == 2 and Flaky.requests == 1 + 15 + 2


def test_a_url_of_no_known_kind_is_one_line(tmp_path, capsys):
    assert cli.main(["data", "fetch", "nowhere://bucket/locks/x.json", "--to", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "nowhere" in said and said.count("\n") == 1
    assert cli.main(["data", "fetch", "memory://bucket/x.json"]) == 2
    assert "give the URL of a data lock" in capsys.readouterr().err
