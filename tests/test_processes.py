# SPDX-License-Identifier: Apache-2.0
"""How a run ends and is started again, with recipes that crash, wait or are stopped before anything
is imported."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest

from tests import samples
from tests.conftest import REPO, one_device

# Each start writes a line to starts.txt. What it does then is `act`.
RECIPE = """
import os, pathlib, signal, time
here = pathlib.Path(__file__).parent
with open(here / "starts.txt", "a") as out:
    out.write(f"{{os.getpid()}}\\n")
starts = len((here / "starts.txt").read_text().split())
{act}
"""
CRASH = "os._exit(7)"


def recipe(folder, act):
    (folder / "recipe.py").write_text(RECIPE.format(act=act))
    return folder / "recipe.py"


def starts(folder):
    file = folder / "starts.txt"
    return [int(line) for line in file.read_text().split()] if file.is_file() else []


def supervised(folder, act, times):
    words = ["train", recipe(folder, act), "--restarts", times, "--run_dir", folder / "run"]
    command = [sys.executable, "-m", "itx.cli", *map(str, words)]
    return subprocess.Popen(command, cwd=REPO, env=one_device(), stderr=subprocess.PIPE, text=True)


def wait_for(true, seconds=20.0):
    until = time.monotonic() + seconds
    while not (found := true()) and time.monotonic() < until:
        time.sleep(0.05)
    return found


def living(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_starts_are_counted_by_what_they_gain(tmp_path):
    """A crash that gained a checkpoint costs no restart; the text names no start that there will
    not be."""
    gain = "(here / 'run' / str(starts)).mkdir(parents=True) if starts < 3 else None"
    # a program of its own: a trainer would refuse checkpoints without a lock beside them
    command = [sys.executable, str(recipe(tmp_path, f"{gain}\n{CRASH}"))]
    supervisor = f"""
import pathlib, sys
from itx.processes import Supervisor, newest_checkpoint
run = pathlib.Path({str(tmp_path / "run")!r})
sys.exit(Supervisor({command}, 1, lambda: newest_checkpoint(run)).run())
"""
    ended = subprocess.run(
        [sys.executable, "-c", supervisor], cwd=REPO, stderr=subprocess.PIPE, text=True
    )
    said = ended.stderr
    assert ended.returncode == 7 and len(starts(tmp_path)) == 4, said
    assert said.count("steps were gained") == 2, said
    assert "3 of 2" not in said and "2 of 1" not in said


def test_a_crash_without_gain_is_tried_as_often_as_asked(tmp_path):
    child = supervised(tmp_path, CRASH, 2)
    said = child.communicate()[1]
    assert child.returncode == 7 and len(starts(tmp_path)) == 3, said
    assert re.findall("new start in (.*)\n", said) == [
        "1 s (1 of 2 without a step gained)", "2 s (2 of 2 without a step gained)"
    ]  # fmt: skip


def test_a_stopped_child_is_not_started_again(tmp_path):
    """Outside the training loop SIGTERM ended the child as a signal does, which looked like a
    crash."""
    child = supervised(tmp_path, "os.kill(os.getpid(), signal.SIGTERM); time.sleep(5)", 1)
    said = child.communicate()[1]
    assert (child.returncode, len(starts(tmp_path))) == (143, 1), said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_supervisor_hands_a_signal_on(tmp_path, number):
    """Ctrl-C in a terminal reaches the child by itself as well; `kill -INT` does not."""
    child = supervised(tmp_path, "time.sleep(60)", 1)
    assert wait_for(lambda: starts(tmp_path))
    time.sleep(0.5)
    child.send_signal(number)
    ended = wait_for(lambda: child.poll() is not None, 10.0)
    child.kill()
    child.communicate()
    assert ended and child.returncode == 128 + number and len(starts(tmp_path)) == 1


def test_the_pause_before_a_start_can_be_stopped(tmp_path):
    child = supervised(tmp_path, CRASH, 5)
    first = child.stderr.readline()
    assert "exit 7" in first
    child.send_signal(signal.SIGTERM)
    said = child.communicate()[1]
    assert (child.returncode, len(starts(tmp_path))) == (143, 1), said


def test_the_child_ends_with_its_supervisor(tmp_path):
    child = supervised(tmp_path, "time.sleep(60)", 1)
    assert wait_for(lambda: starts(tmp_path))
    child.kill()
    child.wait()  # not communicate: a child that goes on holds the pipe open
    child.stderr.close()
    (pid,) = starts(tmp_path)
    try:
        assert wait_for(lambda: not living(pid), 5.0), "the child goes on without its supervisor"
    finally:
        if living(pid):
            os.kill(pid, signal.SIGKILL)


def itx(folder, *words, **environment):
    """The command with its temporary files in `folder`/tmp, in a session of its own."""
    (folder / "tmp").mkdir(exist_ok=True)
    environment = one_device() | {"TMPDIR": str(folder / "tmp")} | environment
    command = [sys.executable, "-m", "itx.cli", *map(str, words)]
    return subprocess.Popen(
        command,
        cwd=REPO,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


SIGNALS = [signal.SIGTERM, signal.SIGINT]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_second_signal_ends_what_no_handler_reaches(tmp_path, number):
    """Like a compiler, the hash runs for a minute and more without a look at Python's handlers."""
    act = "import hashlib; hashlib.pbkdf2_hmac('sha512', b'a', b'b', 2 * 10**8)"
    child = itx(tmp_path, "train", recipe(tmp_path, act), "--run_dir", tmp_path / "run")
    try:
        assert wait_for(lambda: starts(tmp_path))
        time.sleep(0.5)
        child.send_signal(number)
        time.sleep(1.0)
        assert child.poll() is None  # the first alone has to wait
        child.send_signal(number)
        ended = wait_for(lambda: child.poll() is not None, 5.0)
    finally:
        child.kill()
        child.communicate()
    assert ended and child.returncode == 128 + number


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_a_signal_ends_a_build_with_all_that_it_started(tmp_path, number):
    """Neither processes nor temporary files are left, and no tracker of resources complains. As
    from a terminal, Ctrl-C reaches every process."""
    written = samples.write_recipe(tmp_path, tmp_path / "cache")
    child = itx(tmp_path, "train", written, "--run_dir", tmp_path / "run")
    assert wait_for(lambda: list(tmp_path.glob("cache/*/*/r*/manifest.json")), 60.0)
    before = time.monotonic()
    if number == signal.SIGINT:
        os.killpg(child.pid, number)
    else:
        child.send_signal(number)
    said = child.communicate()[1]
    assert child.returncode == 128 + number, said
    assert (
        "resource_tracker" not in said
        and "Traceback" not in said
        and "the same command resumes" in said
    )
    assert list((tmp_path / "tmp").iterdir()) == []
    assert time.monotonic() - before < 10.0
