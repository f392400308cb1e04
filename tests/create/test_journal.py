# SPDX-License-Identifier: Apache-2.0
"""Killed anywhere, asking goes on, and the server counts no call twice."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from itx.create.courier import Courier
from itx.create.generators import Message, Request
from itx.create.journal import Journal
from itx.create.server import Server
from itx.errors import RunFailed, UserError
from tests.conftest import REPO
from tests.create.asker import CONCURRENCY
from tests.create.openai_server import Served, said, serving


def start(address: str, folder: Path, count: int) -> subprocess.Popen:
    """The asking process, in a session of its own. Its old numbers are gone first."""
    (folder / "pids").unlink(missing_ok=True)
    command = [sys.executable, "-m", "tests.create.asker", address, str(folder), str(count)]
    environment = {k: v for k, v in os.environ.items() if "proxy" not in k.lower()}
    return subprocess.Popen(command, cwd=REPO, env=environment, start_new_session=True)


def courier_of(folder: Path) -> int:
    """The number of the courier's process, 0 where there is none yet."""
    held = (folder / "pids").read_text() if (folder / "pids").exists() else ""
    return int(held.split()[1]) if " " in held else 0


def end(number: int) -> None:
    if number:
        try:
            os.kill(number, signal.SIGKILL)
        except ProcessLookupError:
            pass


def killed_again_and_again(
    served: Served,
    folder: Path,
    count: int,
    kills: int,
    both: bool = False,
    signals=(signal.SIGKILL,),
    seed: int = 0,
) -> int:
    """How many of the kills fell while calls were made; then the work is left to end."""
    draw, fell = random.Random(seed), 0
    with serving(served) as address:
        for _ in range(kills):
            before = served.received
            process = start(address, folder, count)
            # so many calls further, and some time within a call
            until = before + draw.randrange(0, max(2, count // (kills + 1)))
            while served.received <= until and process.poll() is None:
                time.sleep(0.005)
            time.sleep(draw.random() * 2 * served.seconds)
            courier = courier_of(folder)
            fell += process.poll() is None
            process.send_signal(draw.choice(signals))
            if both:
                end(courier)
            process.wait()
        assert start(address, folder, count).wait() == 0
    return fell


def lines(folder: Path) -> list[str]:
    return (folder / "answers.jsonl").read_text(encoding="utf-8").splitlines()


def expected(count: int) -> list[str]:
    """What a run that nobody disturbed writes."""
    out = []
    for i in range(count):
        request = Request(messages=(Message("user", f"Question {i}"),), seed=i)
        out.append(json.dumps([request.digest, said({"prompt": f"Question {i}", "seed": i})]))
    return out


def check_kills(folder: Path, count: int, kills: int, **how) -> None:
    """The asking process is killed; the courier ends what is in flight. The server knows no keys of
    requests, so that a call made twice would be computed twice."""
    served = Served(seconds=0.06)
    fell = killed_again_and_again(served, folder, count, kills, **how)
    assert fell >= kills * 0.8
    assert served.received == count and set(served.computed.values()) == {1}
    with Journal(folder / "journal.sqlite", reads_only=True) as kept:
        ledger = kept.ledger()
        assert ledger["attempts"] == {"answered": count} and ledger["answers"] == count
    assert lines(folder) == expected(count)


def test_the_asking_process_is_killed(tmp_path):
    check_kills(tmp_path, count=40, kills=3)


@pytest.mark.slow
def test_the_asking_process_is_told_to_end(tmp_path):
    check_kills(tmp_path, count=24, kills=1, signals=(signal.SIGTERM,), seed=1)


@pytest.mark.slow
def test_100_kills(tmp_path):
    signals = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
    check_kills(tmp_path, count=1500, kills=100, signals=signals, seed=2)


def check_kills_of_both(folder: Path, count: int, kills: int, knows_keys: bool) -> None:
    """Both processes are killed, as a machine that stops does. What was in flight is sent again, at
    most CONCURRENCY calls each time, and the journal says so; a server that knows keys computes
    nothing twice, and another no more than what was sent again."""
    served = Served(seconds=0.06, knows_keys=knows_keys)
    fell = killed_again_and_again(served, folder, count, kills, both=True, seed=3)
    again = served.received - count
    assert fell and 0 < again <= fell * CONCURRENCY
    with Journal(folder / "journal.sqlite", reads_only=True) as kept:
        attempts = kept.ledger()["attempts"]
    assert attempts["answered"] == count
    # an attempt may be written down and not have left yet
    assert again <= attempts["in flight"] <= fell * CONCURRENCY
    twice = served.computed.total() - count
    assert twice == 0 if knows_keys else twice == again
    assert lines(folder) == expected(count)


def test_both_processes_are_killed(tmp_path):
    check_kills_of_both(tmp_path, 24, 1, False)


@pytest.mark.slow
@pytest.mark.parametrize("knows_keys", [True, False])
def test_both_are_killed_50_times(knows_keys, tmp_path):
    check_kills_of_both(tmp_path, 900, 50, knows_keys)


def asked(count: int) -> list[Request]:
    return [Request(messages=(Message("user", f"Question {i}"),)) for i in range(count)]


def test_a_courier_tells_what_went_wrong_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "*")
    down: dict[int, tuple] = {2: (401, {}, b"{}"), 3: (500, {}, b"{}")}
    served = Served(lambda n, body: down.get(n))
    with serving(served) as address:
        server = Server(address, "small", concurrency=1, max_attempts=1)
        with Courier(server, tmp_path / "journal.sqlite") as courier:
            assert len(courier.ask(asked(2))) == 2
            with pytest.raises(UserError, match="status 401"):
                courier.ask(asked(5))
            with pytest.raises(RunFailed, match="status 500"):
                courier.ask(asked(5))
            assert len(courier.ask(asked(5))) == 5
            assert served.received == 7
            end(courier._process.pid)
            with pytest.raises(RunFailed, match="ended by itself .*the same command goes on"):
                courier.ask(asked(6))


def test_a_courier_that_cannot_open_its_journal(tmp_path):
    (tmp_path / "journal.sqlite").write_bytes(b"no journal at all, of some length" * 200)
    with Courier(Server("http://127.0.0.1:9/v1", "m"), tmp_path / "journal.sqlite") as courier:
        with pytest.raises(UserError, match="is damaged"):
            courier.ask(asked(1))
