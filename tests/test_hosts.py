# SPDX-License-Identifier: Apache-2.0
"""Several processes train as one does, and end together (itx/hosts.py): CPU processes with
collectives over gloo.

uv run pytest -m slow tests/test_hosts.py     signals, crashes, kills, other numbers of processes
"""

import json
import os
import shutil
import signal
import time
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest

from itx import compared, hosts, mesh
from itx.commands import train as command
from itx.errors import RunFailed, UserError
from itx.runs import RunFolder
from tests.pod import Pod
from tests.test_kill import curve

MAX_RELATIVE_DIFFERENCE = 1e-5  # of a metric, between one process and several
SLURM = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "a[1-4]"}
SLURM |= {"SLURM_PROCID": "1", "SLURM_LOCALID": "0"}
OPEN_MPI = {"OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1:34911"}
OPEN_MPI |= {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}
MAX_SECONDS = 60.0  # from a fault to the end of the last process


@pytest.fixture
def pod(tmp_path, sample_cache, sample_locks) -> Pod:
    return Pod(tmp_path, sample_cache, lock_file(sample_cache), steps=6)


@pytest.fixture
def long_pod(tmp_path, sample_cache) -> Pod:
    return Pod(tmp_path, sample_cache, lock_file(sample_cache), steps=20)


def lock_file(cache):
    files = (cache / "locks").iterdir()
    return next(f for f in files if json.loads(f.read_text())["mixture"] == "sample_held")


def largest_difference(one, other) -> float:
    """Between the metrics of two runs, relative."""
    a, b = map(compared.curve, (one, other))
    assert len(a) > 3
    return compared.curves(a, b)[0]


def files(run) -> set[str]:
    """What a run folder holds, without the arrays' own files, whose names Orbax chooses."""
    paths = (p.relative_to(run) for p in run.rglob("*") if p.is_file())
    return {str(p) for p in paths if p.parts[0] not in ("checkpoints", "tensorboard")}


def meta(run, step) -> dict:
    return json.loads((run / "checkpoints" / str(step) / "meta" / "metadata").read_text())


def predictions(run) -> dict:
    found = {}
    for file in run.rglob("predictions/*.jsonl"):
        lines = [json.loads(x) for x in file.read_text("utf-8").splitlines()]
        found[file.name] = [
            (x["id"], x["prediction"], x["score"], x.get("rank", {}).get("choice")) for x in lines
        ]
    return found


def test_two_processes_train_and_score_as_one_does(pod, capsys):
    two = pod.start("two", "--mesh.data=1", "--mesh.fsdp=-1", devices=2)
    one = pod.start("one", processes=1, devices=2)
    assert pod.ended("two", two) == [0, 0], pod.said("two", 0) + pod.said("two", 1)
    assert pod.ended("one", one) == [0], pod.said("one", 0)
    one, two = pod.folder / "one", pod.folder / "two"
    environments = [meta(run, 6)["environment"] for run in (one, two)]
    assert [(e["processes"], e["devices"]) for e in environments] == [(1, 2), (2, 4)]
    difference = largest_difference(one, two)
    with capsys.disabled():
        print(f"\nlargest relative difference of a metric: {difference:.2e}")
    assert difference < MAX_RELATIVE_DIFFERENCE
    assert predictions(one) == predictions(two) and len(predictions(one)) > 5
    scores = [json.loads((run / "eval/6/scores.json").read_text()) for run in (one, two)]
    assert scores[0]["rows"] == scores[1]["rows"] and scores[0]["groups"] == scores[1]["groups"]
    assert files(one) == files(two) and "report.json" in files(two)
    assert "report:" in pod.said("two", 0) and "report:" not in pod.said("two", 1)


@pytest.mark.slow
@pytest.mark.parametrize("process", [0, 1])
def test_sigterm_to_one_process_saves_once_and_stops_all(long_pod, process):
    started = long_pod.start("run", seconds=0.25)
    long_pod.wait_for_step("run", 5, started)
    began = time.monotonic()
    started[process].send_signal(signal.SIGTERM)
    assert long_pod.ended("run", started) == [143, 143], long_pod.said("run", 0)
    assert time.monotonic() - began < MAX_SECONDS
    run = long_pod.folder / "run"
    saved = sorted(int(p.name) for p in (run / "checkpoints").iterdir() if p.name.isdigit())
    assert saved[-1] == len(curve(run)) and f"stopped after step {saved[-1]}" in long_pod.said(
        "run", 0
    )
    whole = long_pod.trained("peace")
    assert curve(long_pod.trained("run")) == curve(whole)
    digests = [meta(x, 20)["digests"] for x in (run, whole)]  # of the bytes of each array
    assert digests[0] == digests[1] and {"params", "opt_state"} <= digests[0].keys()


@pytest.mark.slow
def test_an_exception_on_one_process_ends_all_and_is_named(long_pod):
    started = long_pod.start("run", seconds=0.25, raises=[1, 7])
    long_pod.wait_for_step("run", 4, started)
    began = time.monotonic()
    assert long_pod.ended("run", started) == [1, 1]
    assert time.monotonic() - began < MAX_SECONDS
    (line,) = [x for x in long_pod.said("run", 0).splitlines() if "process 1 of 2" in x]
    assert (
        "ended this run: ArithmeticError: planted in a step (" in line and "train.py, line" in line
    )
    assert "Traceback" in long_pod.said("run", 1) and "Traceback" not in long_pod.said("run", 0)


@pytest.mark.slow
def test_two_processes_whose_disks_are_their_own_keep_a_run_in_a_store(pod):
    """SIGTERM to one, then fresh disks: the run is that of two processes that share a folder."""
    store = str(pod.folder / "store")
    started = pod.start("run", seconds=1.0, store=store)
    pod.wait_for_step("run", 3, started)
    started[1].send_signal(signal.SIGTERM)
    assert pod.ended("run", started) == [143, 143], pod.said("run", 0) + pod.said("run", 1)
    assert "stopped after step" in pod.said("run", 0)
    for process in (0, 1):
        shutil.rmtree(pod.disk("run", process))
    started = pod.start("run", store=store)
    assert pod.ended("run", started) == [0, 0], pod.said("run", 0) + pod.said("run", 1)
    assert "resumed at step" in pod.said("run", 0)
    whole, own = pod.trained("peace"), pod.place("run", 0)
    assert curve(own) == curve(whole) and meta(own, 6)["digests"] == meta(whole, 6)["digests"]
    assert files(own) == files(whole) and predictions(own) == predictions(whole)
    assert not (pod.place("run", 1) / "report.json").exists()  # process 1 took what it needs


@pytest.mark.slow
@pytest.mark.parametrize("process", [0, 1])
def test_a_killed_process_ends_the_others(long_pod, process, capsys):
    started = long_pod.start("run", seconds=0.25)
    long_pod.wait_for_step("run", 5, started)
    began = time.monotonic()
    started[process].kill()
    codes = long_pod.ended("run", started)
    seconds = time.monotonic() - began
    assert codes[process] == -9 and codes[1 - process] not in (0, -9), codes
    with capsys.disabled():
        print(f"\nthe other process ended {seconds:.1f} s later with {codes[1 - process]}")
        print(long_pod.said("run", 1 - process)[-600:])
    assert seconds < MAX_SECONDS
    assert curve(long_pod.trained("run"))[-1]["step"] == 20


@pytest.mark.slow
@pytest.mark.parametrize("process", [0, 1])
def test_with_restarts_a_killed_process_costs_no_more_than_steps(long_pod, process):
    started = long_pod.start("run", "--restarts=2")
    long_pod.wait_for_step("run", 5, started)
    (trainer,) = (
        Path(f"/proc/{started[process].pid}/task/{started[process].pid}/children")
        .read_text()
        .split()
    )
    os.kill(int(trainer), signal.SIGKILL)
    assert long_pod.ended("run", started) == [0, 0], long_pod.said("run", 0)
    assert "a new start in" in long_pod.said("run", 0) and "resumed at" in long_pod.said("run", 0)
    assert curve(long_pod.folder / "run")[-1]["step"] == 20


@pytest.mark.slow
def test_a_run_goes_on_with_other_numbers_of_processes(long_pod, capsys):
    """1 -> 2 -> 1; the learning rate does not depend on where each ends."""
    constant = "--optim.schedule=constant"
    long_pod.trained("run", "--train.steps=8", constant, processes=1, devices=2)
    long_pod.trained("run", "--train.steps=14", constant, processes=2, devices=1)
    assert "resumed at step 8" in long_pod.said("run", 0)
    assert "processes: 1 -> 2" in long_pod.said("run", 0)
    run = long_pod.trained("run", "--train.steps=20", constant, processes=1, devices=2)
    assert "processes: 2 -> 1" in long_pod.said("run", 0)
    whole = long_pod.trained("whole", "--train.steps=20", constant, processes=1, devices=2)
    difference = largest_difference(whole, run)
    with capsys.disabled():
        print(f"\nlargest relative difference of a metric: {difference:.2e}")
    assert difference < MAX_RELATIVE_DIFFERENCE


def test_one_process_is_the_writer_and_agrees_with_itself():
    assert hosts.is_writer() and hosts.count() == 1
    assert hosts.agreed(True) and not hosts.agreed(False)
    assert hosts.broadcast(lambda: {"a": [1]}) == {"a": [1]}
    assert hosts.stop(15) == 15 and hosts.stop(0) == 0
    x = np.arange(3)
    assert hosts.gather(x) is x
    hosts.barrier("nobody else")
    with hosts.joined(total=1):
        assert hosts.count() == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("localhost:1", 2), "go together"),
        (("", 2, 0), "go together"),
        (("localhost", 2, 0), "HOST:PORT"),
        (("localhost:1", 2, 2), "count from 0 to 1"),
    ],
)
def test_flags_that_name_no_process_are_refused(arguments, told):
    with pytest.raises(UserError, match=told), hosts.joined(*arguments):
        pass


def test_what_a_device_holds_is_cut_out_of_rows_with_gaps():
    whole = np.arange(8 * 3 * 2).reshape(8, 3, 2)
    rows = np.array([1, 2, 5, 6])
    for index in [(slice(1, 3),), (slice(5, 7), slice(0, 2)), (slice(5, 6), slice(None))]:
        assert np.array_equal(mesh.held(whole[rows], rows, index), whole[index])
        assert np.array_equal(mesh.held(whole, None, index), whole[index])
    assert not np.array_equal(whole[rows][1:3], whole[1:3])  # gaps matter


@pytest.mark.parametrize(
    ("environment", "several"),
    [
        ({}, False),
        (SLURM | {"SLURM_NTASKS": "4"}, True),
        (SLURM | {"SLURM_NTASKS": "1"}, False),
        (OPEN_MPI | {"OMPI_COMM_WORLD_SIZE": "2"}, True),
        (OPEN_MPI | {"OMPI_COMM_WORLD_SIZE": "1"}, False),
    ],
)
def test_an_environment_says_whether_there_are_several(monkeypatch, environment, several):
    for name in (*SLURM, *OPEN_MPI, "SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert hosts._environment_names_several() is several


def test_settings_that_differ_between_processes_are_named(monkeypatch):
    class Two(hosts.Group):
        def collected(self, name, value, seconds):
            return [value, {**value, "train.seed": 2}]

    monkeypatch.setattr(hosts, "_group", Two(None, 0, 2))
    with pytest.raises(UserError, match="train.seed is 1 on process 0 and 2 on process 1"):
        hosts.check_same(lambda: {"data.seed": 1, "train.seed": 1})
    hosts.check_same(lambda: {"train.seed": 2})


def test_a_barrier_names_who_is_missing(monkeypatch):
    """A store in which process 1 of 3 has come and process 2 has not."""

    class Store:
        def __init__(self):
            self.held = {"itx/the middle/1/of/1": "null"}

        def key_value_set(self, key, value):
            self.held[key] = value

        def key_value_dir_get(self, key):
            return [(name, value) for name, value in self.held.items() if name.startswith(key)]

    monkeypatch.setattr(hosts, "_group", hosts.Group(Store(), 0, 3))
    with pytest.raises(RunFailed, match="'the middle': missing is process 2$"):
        hosts.barrier("the middle", 0.05)


def test_several_processes_do_not_build(monkeypatch, tmp_path):
    monkeypatch.setattr(hosts, "_group", hosts.Group(None, 0, 2))
    args = Namespace(lock=None, config="my recipe.py", quick=True, overrides=["--data.seed=3"])
    with pytest.raises(UserError, match=r"`itx data build 'my recipe.py' --quick --data.seed=3`"):
        command._lock_file(args, RunFolder(tmp_path))
