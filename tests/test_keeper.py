# SPDX-License-Identifier: Apache-2.0
"""A run in a store: whatever the store does and whenever the machine is lost, a fresh machine goes
on from a whole checkpoint, and the run is that of an undisturbed one."""

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from itx import claim, cli, keeper, remote, stored_run, train
from itx.errors import UserError
from itx.remote import Store
from tests.conftest import REPO, one_device
from tests.stores import Flaky, OnDisk
from tests.test_kill import curve
from tests.trainer import contents

URL = "flaky://bucket/runs/a"
KILLS = 16


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Calling it makes the machine a fresh one, whose disk is empty; gives the disk."""
    Flaky.reset()
    monkeypatch.setattr(remote, "FIRST_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(claim, "PATIENCE_SECONDS", 0.05)
    monkeypatch.setattr(keeper, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(keeper, "MAX_OUTAGE_SECONDS", 0.0)
    count = iter(range(100))

    def fresh():
        disk = tmp_path / f"disk{next(count)}"
        monkeypatch.setenv("XDG_CACHE_HOME", str(disk))
        Flaky.faults = {}
        return disk

    fresh()
    return fresh


def meta(run, step) -> dict:
    return json.loads((run / "checkpoints" / str(step) / "meta" / "metadata").read_text())


def same_run(run, other) -> None:
    """The arrays of the last checkpoint, and every logged line, are the same bit for bit."""
    assert meta(run, 6)["digests"] == meta(other, 6)["digests"]
    assert curve(run) == curve(other) and len(curve(run)) == 3


def trained(disk):
    (folder,) = (disk / "itx" / "stores").glob("*-trained-0")
    return folder / "run" / "a"


def index() -> stored_run.Index:
    return stored_run.newest(Store(URL))


def check_store() -> None:
    """All that the newest index names is there, as it says, and nothing else is."""
    Flaky.faults = {}
    held = index()
    root = "/bucket/runs/a/"
    names = {n.removeprefix(root) for n in Flaky.store if n.startswith(root + "files/")}
    assert held.objects() <= names and names - held.objects() <= set(held.leftover)
    for path, file in held.files.items():
        data = Flaky.store[root + stored_run.object_name(path, file)].getvalue()
        assert stored_run.File(len(data), hashlib.sha256(data).hexdigest()) == file


def machine_ends_at(request: int) -> None:
    """From that request on the store answers nothing any more: the machine is gone."""
    Flaky.requests = 0
    Flaky.faults = dict.fromkeys(range(request, request + 10_000), "403")


def test_a_fresh_machine_goes_on_from_the_store(machine, adapter_run):
    trainer, whole = adapter_run
    first, seen = machine(), []
    Flaky.requests = 0
    assert trainer.train(URL) == 130
    needed = Flaky.requests
    check_store()
    same_run(trained(first), whole)
    here = contents(trained(first))
    assert {p for p, data in here.items() if data is not None} == set(index().files)
    assert not [n for n in Flaky.store if "/trainer/" in n] and Flaky.lists == 0
    draw = random.Random(0)
    for moment in sorted(draw.sample(range(needed // 10, needed), 3)):
        Flaky.reset()
        machine()
        machine_ends_at(moment)
        assert trainer.train(URL) in (2, 130)  # 130: evaluation was reached, and ended it
        check_store()
        steps = {stored_run.step_of(p) for p in index().files} - {None}
        seen.append(max(steps, default=0))
        disk = machine()
        assert trainer.train(URL) == 130
        check_store()
        same_run(trained(disk), whole)
    assert len(set(seen)) > 1, seen  # not always before or behind all checkpoints


# ---- whatever the store does


def steps_there() -> set[int]:
    return {stored_run.step_of(p) for p in index().files} - {None}


@pytest.fixture
def offered(monkeypatch):
    """Whenever the store changes, all that its newest index names is there."""
    seen = set()

    def check():
        numbers = [n for n in Flaky.store if "/index/" in n]
        if not numbers:
            return
        held = json.loads(Flaky.store[max(numbers)].getvalue() or b"{}")
        if "files" not in held:  # cut short, and about to be written again
            return
        for path, (size, sha256) in held["files"].items():
            name = stored_run.object_name(path, stored_run.File(size, sha256))
            assert Flaky.store[f"/bucket/runs/a/{name}"].size == size
        seen.add(tuple(sorted({s for p in held["files"] if (s := stored_run.step_of(p))})))

    for name in ("pipe_file", "rm_file"):
        inner = getattr(Flaky, name)

        def checked(self, *arguments, inner=inner, **more):
            inner(self, *arguments, **more)
            check()

        monkeypatch.setattr(Flaky, name, checked)
    return seen


def test_a_store_that_fails_now_and_then_changes_nothing(
    machine, adapter_run, offered, monkeypatch
):
    """A tenth of all requests meets a fault, while the run is put and while it is brought."""
    trainer, whole = adapter_run
    monkeypatch.setattr(remote, "MAX_TRIES", 12)
    faults, draw = "429 503 late truncated flipped lost stale".split(), random.Random(1)
    for steps in ("--train.keep_checkpoints=1", "--train.steps=6"):
        disk = machine()
        Flaky.faults = {n: draw.choice(faults) for n in range(20_000) if draw.random() < 0.1}
        assert trainer.train(URL, "--train.keep_checkpoints=1", steps) == 130
        check_store()
        kept = {int(p.name) for p in (trained(disk) / "checkpoints").iterdir()}
        assert steps_there() == kept == {2, 6}  # 2 may be returned to
    same_run(trained(disk), whole)
    assert {(2,), (2, 4), (2, 6)} <= offered  # what goes here goes there


def test_what_is_damaged_in_the_store_is_named_and_the_one_before_is_used(
    machine, adapter_run, capsys
):
    trainer, whole = adapter_run
    assert trainer.train(URL) == 130
    held = index()
    for start in ("checkpoints/6/params/", "config.json"):
        path = next(p for p in held.files if p.startswith(start))
        name = f"/bucket/runs/a/{stored_run.object_name(path, held.files[path])}"
        data = Flaky.store[name].getvalue()
        Flaky().pipe_file(name, data[:-1] + bytes([data[-1] ^ 1]))
    capsys.readouterr()
    disk = machine()
    assert trainer.train(URL) == 130
    said = capsys.readouterr().err
    assert "another hash; the checkpoint of step 6 is left out" in said
    assert "config.json is not there; what the checkpoint of step 4 keeps of it is used" in said
    assert "resumed at step 4" in said
    check_store()
    same_run(trained(disk), whole)


def test_a_refused_command_leaves_the_store_as_it_was(machine, adapter_run, capsys):
    trainer, _ = adapter_run
    assert trainer.train(URL, "--train.seed=x") == 2 and not Flaky.store
    assert trainer.train(URL, "--train.steps=2") == 130
    before = {name: file.getvalue() for name, file in Flaky.store.items()}
    for _ in (None, machine()):
        assert trainer.train(URL, "--train.steps=2", "--train.seed=7") == 2
        assert "belongs to another config: train.seed was 0, is 7" in capsys.readouterr().err
        assert {name: file.getvalue() for name, file in Flaky.store.items()} == before


# ---- one folder, one run


def test_a_folder_that_is_no_copy_of_the_store_is_refused(machine, adapter_run, capsys):
    trainer, _ = adapter_run
    first = machine()
    assert trainer.train(URL, "--train.steps=2", f"--scratch={first}") == 130
    second = machine()
    assert trainer.train(URL, "--train.steps=4", f"--scratch={second}") == 130
    before = {name: file.getvalue() for name, file in Flaky.store.items()}
    capsys.readouterr()
    assert trainer.train(URL, f"--scratch={first}") == 2
    assert f"was left behind: {URL} has gone on elsewhere" in capsys.readouterr().err
    (record,) = second.glob("*/stored.json")
    record.unlink()
    assert trainer.train(URL, f"--scratch={second}") == 2
    assert f"holds something else than {URL}; move that folder away" in capsys.readouterr().err
    assert {name: file.getvalue() for name, file in Flaky.store.items()} == before
    Flaky.reset()
    assert trainer.train(URL, f"--scratch={first}") == 2
    assert f"is a copy of what {URL} no longer holds" in capsys.readouterr().err
    assert not Flaky.store


def test_two_runs_with_one_url_are_told_apart(machine, tmp_path, monkeypatch):
    monkeypatch.setattr(claim, "BEAT_SECONDS", 0.01)
    monkeypatch.setattr(claim, "PATIENCE_SECONDS", 5.0)
    ended = []
    monkeypatch.setattr(claim, "end_process", lambda code: ended.append(code))
    first, second = (claim.Claim(Store(URL), tmp_path / name) for name in "ab")
    first.take(stored_run.newest(first.store))
    with pytest.raises(UserError, match="is being trained by process .* stop it there, or give"):
        second.take(stored_run.newest(second.store))
    first.is_over.set()  # it sleeps
    first.thread.join()
    monkeypatch.setattr(claim, "PATIENCE_SECONDS", 0.05)
    second.take(stored_run.newest(second.store))
    assert second.index.number == 2 and not ended
    first.write(first.index)
    assert ended == [2]
    second.leave()
    assert stored_run.newest(Store(URL)).number == 1  # as it was: nothing was written


def test_of_two_that_begin_at_once_the_store_chooses_one(machine, tmp_path):
    claims = [claim.Claim(Store(URL), tmp_path / name) for name in "ab"]
    found = stored_run.newest(Store(URL))
    claims[0].take(found)
    with pytest.raises(UserError, match="is being trained by"):
        claims[1].take(found)
    claims[0].leave()
    assert not Flaky.store


def test_a_request_that_was_given_up_cannot_undo_a_later_one(machine, tmp_path, monkeypatch):
    """A write of the index hangs, is given up and made again; then it arrives."""
    monkeypatch.setattr(remote, "MAX_REQUEST_SECONDS", 0.1)
    one = claim.Claim(Store(URL), tmp_path)
    one.take(stored_run.Index())
    Flaky.faults = {Flaky.requests + 2: "slow"}
    one.write(replace(one.index, version="1"))
    assert one.store.abandoned == 1
    one.write(replace(one.index, version="2"))
    time.sleep(1.1)  # it arrives
    assert json.loads(Flaky.store["/bucket/runs/a/index/000001.json"].getvalue())["version"] == "1"
    assert stored_run.newest(Store(URL)).version == "2"
    one.leave()
    assert not [n for n in Flaky.store if "/trainer/" in n]


# ---- what is read, and how it ends


def test_sigterm_while_training_has_the_last_checkpoint_in_the_store(
    machine, adapter_run, monkeypatch
):
    trainer, whole = adapter_run
    inner, steps = train.take_step, iter(range(100))

    def take_step(*arguments):
        if next(steps) == 4:
            signal.raise_signal(signal.SIGTERM)
        return inner(*arguments)

    monkeypatch.setattr(train, "take_step", take_step)
    put = Flaky.put_file

    def slowly(self, *arguments, **more):
        time.sleep(0.01)
        put(self, *arguments, **more)

    monkeypatch.setattr(Flaky, "put_file", slowly)
    with pytest.raises(SystemExit) as ended:
        trainer.train(URL)
    assert ended.value.code == 143 and steps_there() == {2, 4, 5}
    check_store()
    monkeypatch.setattr(train, "take_step", inner)
    disk = machine()
    assert trainer.train(URL) == 130
    same_run(trained(disk), whole)


def test_a_store_that_does_not_answer_at_the_end_is_no_success(machine, adapter_run, monkeypatch):
    trainer, _ = adapter_run
    monkeypatch.setattr(remote, "MAX_TRIES", 2)

    def away(*_):
        Flaky.faults = {"all": "503"}

    monkeypatch.setattr(train, "stop", away)
    inner = train.take_step
    monkeypatch.setattr(train, "take_step", lambda *a: (away(), inner(*a))[1])
    assert trainer.train(URL) == 1


def test_readers_take_a_copy_and_write_nothing(machine, adapter_run, tmp_path, capsys):
    trainer, whole = adapter_run
    assert trainer.train(URL) == 130
    before = {name: file.getvalue() for name, file in Flaky.store.items()}
    machine()
    said = tmp_path / "said.json"
    assert cli.main(["runs", "check", URL, "--json", str(said)]) == 0
    rows = {row["file"]: row["state"] for row in json.loads(said.read_text())["files"]}
    assert {f"checkpoints/{step}" for step in (2, 4, 6)} <= rows.keys()
    assert set(rows.values()) == {"ok"}
    requests = Flaky.requests
    assert cli.main(["runs", "check", URL]) == 0
    assert Flaky.requests - requests < 20  # what is here is not brought again
    assert cli.main(["compare", URL, str(whole)]) in (1, 2)  # neither is scored
    machine()
    for number, run in enumerate((f"{URL}/checkpoints/4", str(whole / "checkpoints" / "4"))):
        assert cli.main(["convert", "export", run, str(tmp_path / f"out{number}")]) == 0
    weights = [(tmp_path / f"out{i}" / "adapter_model.safetensors").read_bytes() for i in (0, 1)]
    assert weights[0] == weights[1]
    assert not list(tmp_path.glob("disk*/itx/stores/*-read/run/a/checkpoints/6"))[1:]
    assert cli.main(["runs", "check", "flaky://bucket/runs/none"]) == 2
    assert "holds no run: nothing was put there" in capsys.readouterr().err
    assert {name: file.getvalue() for name, file in Flaky.store.items()} == before


@pytest.mark.parametrize("command", ["runs check", "train configs/quickstart.py --quick --run_dir"])
def test_a_store_of_no_known_kind_is_one_line(command, machine, capsys):
    assert cli.main([*command.split(), "nowhere://bucket/runs/a"]) == 2
    said = capsys.readouterr().err
    assert "nowhere://bucket/runs/a: " in said and said.count("\n") == 1
    assert not list(machine().parent.glob("disk*"))


@pytest.mark.slow
def test_a_machine_lost_at_any_moment_costs_no_step_that_the_store_has(
    tmp_path, adapter_run, capsys, monkeypatch
):
    """SIGKILL at KILLS random moments of a run, evaluation included, each time with the disk.

    uv run pytest -m slow tests/test_keeper.py     eight minutes on two cores
    """
    trainer, _ = adapter_run
    words = ["train", str(trainer.recipe), *trainer.words]
    objects = tmp_path / "store"

    def start(number: int, *where: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "tests.stores", str(objects), "0.01", *words, *where]
        if where[0] == "--run_dir":
            command.append(f"--scratch={tmp_path / f'disk{number}'}")
        with open(tmp_path / f"{number}.txt", "wb") as out:
            return subprocess.Popen(
                command, cwd=REPO, env=one_device(), stdout=out, stderr=out, start_new_session=True
            )

    def anew() -> None:
        shutil.rmtree(objects, ignore_errors=True)
        monkeypatch.setattr(Flaky, "store", OnDisk(objects))

    def finished(number: int) -> None:
        """A start that nothing disturbs ends the run, which is that of a local folder."""
        assert start(number, "--run_dir", URL).wait() == 0, (tmp_path / f"{number}.txt").read_text()
        check_store()
        (run,), whole = (tmp_path / f"disk{number}").glob("*/run/a"), tmp_path / "peace"
        same_run(run, whole)
        assert compared_scores(run) == compared_scores(whole) and compared_scores(whole)

    assert start(-1, f"--run_dir={tmp_path / 'peace'}").wait() == 0
    anew()
    began = time.monotonic()
    finished(-2)
    seconds, draw, seen, last = time.monotonic() - began, random.Random(2), [], 0
    anew()
    for number in range(KILLS):
        process = start(number, "--run_dir", URL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(
                draw.uniform(0.2, 1.4) * seconds
            )  # kills come late where others compute too
        if (ended := process.poll()) is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        assert ended in (None, 0), (tmp_path / f"{number}.txt").read_text()[-3000:]
        check_store()
        there = max(steps_there(), default=0)
        seen.append((ended, there, len(index().files), len(index().leftover)))
        assert there >= last, f"a step that the store had is gone: {seen}"
        last = there
        if there == 6 or number == KILLS - 1:
            finished(1000 + number)
            anew()
            last = 0
    with capsys.disabled():
        print(f"\nundisturbed {seconds:.1f} s; (exit, step, files, left over) at each kill: {seen}")
    assert sum(ended is None for ended, *_ in seen) >= KILLS // 2
    assert len({there for _, there, *_ in seen}) > 2


def compared_scores(run) -> dict:
    """{file: rows and groups} of all scores of a run."""
    files = {f.relative_to(run): json.loads(f.read_text()) for f in run.glob("eval/*/scores.json")}
    return {file: (scores["rows"], scores["groups"]) for file, scores in files.items()}
