# SPDX-License-Identifier: Apache-2.0
"""One trainer per run folder, readers beside it, and locks of trainers that are gone."""

import json
import os
import subprocess
import sys
import threading
import time

import pytest

from itx import cli, trainer_lock
from itx.errors import UserError
from itx.trainer_lock import TrainerLock

HOLD = """
import sys, time
from pathlib import Path
from itx.trainer_lock import TrainerLock
with TrainerLock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def elsewhere(tmp_path):
    """A process that holds the lock of a folder."""
    folder = tmp_path / "run"
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout.readline() == "held\n"
    yield folder, child
    child.kill()
    child.communicate()


def test_another_trainer_is_refused_in_a_line_until_the_first_is_gone_even_by_sigkill(elsewhere):
    folder, child = elsewhere
    before = (folder / trainer_lock.NAME).read_bytes()
    for attempt in (TrainerLock(folder).check, TrainerLock(folder).__enter__):
        with pytest.raises(
            UserError, match=f"is being trained by process {child.pid} on .* .since 20"
        ) as refused:
            attempt()
        assert "\n" not in str(refused.value) and "--run_dir" in str(refused.value)
    assert (
        json.loads(before)["owner"]
        == json.loads((folder / trainer_lock.NAME).read_bytes())["owner"]
    )
    child.kill()
    child.wait()
    began = time.monotonic()
    with TrainerLock(folder):
        assert time.monotonic() - began < trainer_lock.PATIENCE_SECONDS / 3
    assert not list(folder.iterdir())  # it was there before: it stays


def test_a_process_number_of_another_namespace_tells_nothing(elsewhere):
    folder, _ = elsewhere
    file = folder / trainer_lock.NAME
    file.write_text(json.dumps({**json.loads(file.read_text()), "process": 999_999_999}))
    with pytest.raises(UserError, match="process 999999999"):
        TrainerLock(folder).__enter__()


def left_by_another_machine(folder) -> dict:
    record = {
        "host": "far",
        "process": 7,
        "since": "then",
        "machine": "another kernel",
        "owner": "x",
        "beats": 1,
    }
    folder.mkdir()
    (folder / trainer_lock.NAME).write_text(json.dumps(record))
    return record


@pytest.mark.parametrize("held", ["a record", "{broken", "[]"])
def test_a_lock_that_a_restart_or_another_machine_left_is_taken_over_when_nothing_beats(
    held, tmp_path, monkeypatch, capfd
):
    monkeypatch.setattr(trainer_lock, "PATIENCE_SECONDS", 0.3)
    left_by_another_machine(tmp_path / "run")
    if held != "a record":
        (tmp_path / "run" / trainer_lock.NAME).write_text(held)
    with TrainerLock(tmp_path / "run"):
        assert os.listdir(tmp_path / "run") == [trainer_lock.NAME]
    told = capfd.readouterr().err.splitlines()
    assert (
        len(told) == 2
        and ("process 7 on far" in told[0]) == (held == "a record")
        and "taken over" in told[1]
    )


def test_a_trainer_of_another_machine_that_still_beats_is_not_disturbed(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer_lock, "PATIENCE_SECONDS", 20.0)
    record = left_by_another_machine(tmp_path / "run")
    file = tmp_path / "run" / trainer_lock.NAME
    beat = threading.Timer(0.2, lambda: file.write_text(json.dumps({**record, "beats": 2})))
    beat.start()
    with pytest.raises(UserError, match="being trained by process 7 on far"):
        TrainerLock(tmp_path / "run").__enter__()
    beat.join()
    assert json.loads(file.read_text()) == {**record, "beats": 2}


def test_a_trainer_that_slept_while_another_machine_took_over_ends(tmp_path):
    code = HOLD.replace("from itx.trainer_lock import TrainerLock", "from itx import trainer_lock\n"
                        "from itx.trainer_lock import TrainerLock\ntrainer_lock.BEAT_SECONDS = 0.1")  # fmt: skip
    command = [sys.executable, "-c", code, str(tmp_path / "run")]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert child.stdout.readline() == "held\n"
        record = {
            "host": "far",
            "process": 7,
            "since": "then",
            "machine": "another kernel",
            "owner": "x",
            "beats": 1,
        }
        deadline = time.monotonic() + 60
        while child.poll() is None and time.monotonic() < deadline:  # a beat may just overwrite it
            (tmp_path / "run" / trainer_lock.NAME).write_text(json.dumps(record))
            time.sleep(0.02)
        assert child.poll() == 2 and "was taken over by process 7 on far" in child.communicate()[1]
    finally:
        child.kill()
        child.communicate()


def test_a_folder_that_cannot_be_written_is_a_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        TrainerLock(tmp_path / "file" / "run").__enter__()
    assert cli.main(["eval", str(tmp_path / "file" / "run")]) == 2
