# SPDX-License-Identifier: Apache-2.0
"""What takes long says that it goes on, and how long it takes at its present pace."""

import importlib.util
import re
import subprocess
import sys
import time

import pytest

from itx import log
from tests.conftest import REPO


class Clock:
    """time.monotonic, set by hand."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


def lines_of(
    progress: log.Progress, clock: Clock, seconds: list[float], capsys, begin: int = 0
) -> list[str]:
    """What is said of steps that take so long each, with a loss for every tenth."""
    for step, took in enumerate(seconds, begin + 1):
        clock.now += took
        progress.update(step, *((2.5, 1000.0) if step % 10 == 0 else ()))
    return capsys.readouterr().err.splitlines()


def left(line: str) -> float:
    return float(re.search(r"([\d.]+) s left", line)[1])


def test_the_time_left_is_that_of_the_present_pace(monkeypatch, capsys):
    """A compilation of 300 s and quick first steps say nothing of the slow ones that are to
    come."""
    clock = Clock(monkeypatch)
    progress = log.Progress(0, 1000)
    said = lines_of(progress, clock, [300.0] + [0.5] * 199, capsys)
    # 1.6 times as much with the compilation in it
    assert left(said[-1]) == pytest.approx(0.5 * 800, rel=0.1)
    said = lines_of(progress, clock, [2.0] * 100, capsys, 200)
    # 1.3 s a step over the whole session
    assert left(said[-1]) == pytest.approx(2.0 * 700, rel=0.1)


def test_a_line_comes_between_two_log_lines_too(monkeypatch, capsys):
    """log_every may be many minutes of steps."""
    clock = Clock(monkeypatch)
    said = lines_of(log.Progress(0, 1000), clock, [20.0] * 9, capsys)
    assert len(said) == 9 and "loss" in said[-1]


def test_what_is_tracked_says_how_far_it_is(monkeypatch, capsys):
    assert importlib.util.find_spec("itx.movement")
    from itx import movement

    monkeypatch.setattr(movement, "EVERY_SECONDS", 0.02)
    with movement.track("generated", 100, "answers") as advance:
        advance(50)
        time.sleep(0.1)
    assert capsys.readouterr().err == ""  # nobody asked for it
    with movement.shown("evaluate step 3"), movement.track("generated", 1000, "answers") as advance:
        time.sleep(0.1)
        advance(500)
        time.sleep(0.1)
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "evaluate step 3: generated 0 of 1,000 answers, time left not known yet"
    assert re.fullmatch(r"evaluate step 3: generated 500 of 1,000 answers, \d+ s left", said[-1])
    time.sleep(0.1)
    assert capsys.readouterr().err == ""  # it is over


def test_evaluation_and_ranking_are_tracked(monkeypatch):
    assert importlib.util.find_spec("itx.movement")
    import contextlib

    from itx import movement
    from tests import synthetic
    from tests.eval.test_generate import runner

    counts = {}

    @contextlib.contextmanager
    def track(does, total, unit):
        yield lambda n: counts.__setitem__(does, (counts.get(does, (0,))[0] + n, total))

    monkeypatch.setattr(movement, "track", track)
    some = synthetic.examples(7, seed=9)
    made = runner("decoder")
    made.generate([p for p, _, _ in some], 4)
    made.rank([p for p, _, _ in some], [[t] for _, t, _ in some])
    assert counts == {"generated": (7, 7), "ranked": (7, 7)}


def test_a_call_that_holds_pythons_lock_is_said_to_go_on():
    """As the training of a vocabulary does: no other thread of the process runs. The sign ends with
    it."""
    assert importlib.util.find_spec("itx.movement")
    code = (
        "import ctypes, itx.movement as m\nm.EVERY_SECONDS = 0.05\n"
        "with m.alive('vocabulary: training 8,000 pieces'):\n    ctypes.PyDLL(None).usleep(900_000)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPO)
    said = done.stderr.splitlines()
    assert done.returncode == 0 and len(said) > 2
    assert all(
        re.fullmatch(r"vocabulary: training 8,000 pieces, \d+ s so far", line) for line in said
    )


def test_a_vocabularys_training_says_that_it_goes_on(monkeypatch, tmp_path):
    assert importlib.util.find_spec("itx.movement")
    import contextlib

    from itx import movement
    from itx.prepare import vocab

    told = []
    monkeypatch.setattr(
        movement, "alive", lambda label: told.append(label) or contextlib.nullcontext()
    )
    monkeypatch.setattr(vocab, "texts", lambda *_: [f"text {i} of words" for i in range(300)])
    assert vocab.train([], 300, "", 0, str(tmp_path)).is_file()
    assert told == ["vocabulary: training 300 pieces"]
