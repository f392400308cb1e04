# SPDX-License-Identifier: Apache-2.0
"""Where the time of a run goes: injected delays are found, a kill shows lost work and idle, and
FLOPs are those of the products."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import jax
import pytest

from itx import checkpoint, flops, goodput, train
from itx import config as configs
from itx import mesh as meshes
from itx.commands.train import _recorded as recorded
from itx.config import MeshConfig
from itx.plan import peaks
from itx.plan.chips import CHIPS
from tests import synthetic
from tests.conftest import REPO

LOCK = synthetic.lock()
DEVICE = {"kind": "a device", "count": 1, "peak_flops": None}
STEPS, EVERY = 12, 4
PAUSE = 0.15  # seconds before each batch of the run that is killed
BUSY = 0.5  # by how much a machine with other work may be late in all
MAX_SHARE, MAX_SECONDS = 0.01, 0.03  # how far a measured time may be from what was injected


def near(seconds: float) -> object:
    return pytest.approx(seconds, rel=MAX_SHARE, abs=MAX_SECONDS)


class Slow(synthetic.Batches):
    """Each batch takes `seconds` more; the process is killed before the one of `killed_at`."""

    def __init__(self, cfg, seconds: float, killed_at: int = -1):
        super().__init__(cfg)
        self.seconds, self.killed_at = seconds, killed_at

    def batch(self, step):
        time.sleep(self.seconds)
        if step == self.killed_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().batch(step)


def config(**more):
    return synthetic.config(
        train={"steps": STEPS, "log_every": 2, "checkpoint_every": EVERY, **more},
        optim={"warmup_steps": 0},
    )


def trained(folder: Path, batches: synthetic.Batches) -> dict:
    """Train in a folder as a command does; the summary."""
    clock = goodput.Clock()
    clock.open(folder / "goodput.jsonl", DEVICE)
    with clock.span("init"):
        mesh = meshes.make_mesh(MeshConfig(), jax.devices()[:1])
        setup = train.make_setup(batches.cfg, *synthetic.sizes_of(LOCK), mesh)
    train.train(batches.cfg, LOCK, batches, synthetic.Folder(folder), setup, clock=clock)
    clock.close(folder / "goodput.json", done=STEPS)
    return json.loads((folder / "goodput.json").read_text())


class Looks:
    """Looks at dev after each checkpoint, which answer nothing."""

    def __init__(self, *_):
        self.looks = []

    def due(self, step):
        return step > 0 and step % EVERY == 0

    def pinned(self):
        return set()

    def score(self, *_):
        self.looks.append({"seconds": 0.0})


def test_injected_delays_are_found_where_they_are(tmp_path, monkeypatch):
    """A slow loader, slow saves and slow looks at dev at once, of which each is another time."""
    took = dict.fromkeys(("data_wait", "save", "evaluation"), 0.0)

    def slow(category: str, seconds: float, inner):
        def work(*arguments):
            began = time.monotonic()
            time.sleep(seconds)
            result = inner(*arguments)
            took[category] += time.monotonic() - began
            return result

        return work

    looks, batches = Looks(), synthetic.Batches(config())
    saves = slow("save", 0.4, checkpoint.Checkpoints.save)
    monkeypatch.setattr(checkpoint.Checkpoints, "save", saves)
    monkeypatch.setattr(looks, "score", slow("evaluation", 0.7, looks.score))
    monkeypatch.setattr(batches, "batch", slow("data_wait", 0.1, batches.batch))
    monkeypatch.setattr(train.dev, "Dev", lambda *_: looks)
    began = time.monotonic()
    facts = trained(tmp_path, batches)
    wall = time.monotonic() - began
    assert took["data_wait"] > 1.2 and took["save"] > 1.2 and took["evaluation"] > 2.1
    for category, injected in took.items():
        assert facts["seconds"][category] == near(injected), category
    assert wall - 0.5 < facts["wall"] == sum(facts["seconds"].values()) <= wall
    assert facts["unattributed_share"] <= 0.01 and facts["seconds"]["compile"] > 0
    assert facts["seconds"]["lost_work"] == facts["seconds"]["idle"] == 0
    assert facts["steps"] == STEPS and facts["processes"] == 1


def test_a_kill_shows_lost_work_and_idle(tmp_path):
    """Killed before its tenth step, two steps behind a checkpoint that was saved after eight; the
    second start goes on from there a second later."""
    began = time.time()
    program = (
        "import sys; from pathlib import Path; from itx import goodput; from tests import "
        "test_goodput as t; goodput.MIN_LINE_SECONDS = 0.02; "
        "t.trained(Path(sys.argv[1]), t.Slow(t.config(), t.PAUSE, killed_at=11))"
    )
    first = subprocess.run([sys.executable, "-c", program, tmp_path], cwd=REPO, timeout=120)
    assert first.returncode == -signal.SIGKILL
    killed, file = time.time(), tmp_path / "goodput.jsonl"
    with open(file, "a") as out:
        out.write('{"at": 17')  # a line that was cut short
    held, _ = goodput.read(file)
    facts = goodput.summary(held)
    assert facts["steps"] == 11 and facts["lost_steps"] == 0 and facts["seconds"]["idle"] == 0
    time.sleep(1.0)
    again = time.time()
    facts = trained(tmp_path, Slow(config(), 0))
    seconds = facts["seconds"]
    assert facts["steps"] == STEPS and facts["lost_steps"] == 3 and facts["processes"] == 2
    # three batches, and the pause before the one that never came
    assert 3 * PAUSE <= seconds["lost_work"] <= 4 * PAUSE + BUSY
    assert 8 * PAUSE <= seconds["data_wait"] <= 8 * PAUSE + BUSY
    assert again - killed <= seconds["idle"] <= again - killed + BUSY
    assert facts["unattributed_share"] <= 0.01 and facts["unreadable_lines"] == 0
    assert facts["wall"] <= time.time() - began
    said = goodput.in_words(facts)
    assert "in 2 starts" in said and "3 steps were made twice" in said and "idle" in said
    assert "no peak known of a device" in said


def test_steps_before_a_return_are_lost_though_no_line_told_of_them(tmp_path, monkeypatch):
    """Three steps in a row without a finite loss end behind a checkpoint that is not good yet, and
    the clock writes no line by itself: all eight steps are lost, and three are left out."""
    monkeypatch.setattr(goodput, "MIN_LINE_SECONDS", 1000.0)
    batches = synthetic.Batches(config(max_skipped_in_a_row=3), bad_steps=(5, 6, 7))
    facts = trained(tmp_path, batches)
    lines, _ = goodput.read(tmp_path / "goodput.jsonl")
    assert [x["restored"] for x in lines if "restored" in x] == [0, 0]
    assert facts["lost_steps"] == 8 and facts["steps"] == STEPS - 3
    assert facts["seconds"]["idle"] == 0 < facts["seconds"]["lost_work"]


def test_each_moment_counts_once_and_a_name_must_be_known(monkeypatch):
    now = 100.0
    monkeypatch.setattr(goodput.time, "monotonic", lambda: now)
    clock = goodput.Clock(age=3.0)
    with clock.span("evaluation"):
        now = 101.0
        with clock.span("save"):
            now = 105.0
        now = 105.5
    now = 106.0
    with clock.span("step"):
        pass
    assert clock.seconds == {
        "init": 3.0,
        "evaluation": 1.5,
        "save": 4.0,
        "unattributed": 0.5,
        "step": 0.0,
    }
    with pytest.raises(KeyError), clock.span("steps"):
        pass


def test_a_run_that_is_done_has_no_idle_behind_it():
    ended = {"at": 100.0, "seconds": {"step": 10.0}, "begin": 90.0, "step": 5, "steps": 5}
    later = {"at": 500.0, "seconds": {"init": 1.0}, "begin": 499.0}
    assert goodput.summary([ended, later])["seconds"]["idle"] == 399.0
    assert goodput.summary([{**ended, "done": 5}, later])["seconds"]["idle"] == 0.0


class Ended(NamedTuple):
    """What `itx train` asks of a run folder and of a setup when it records the time of a run."""

    goodput_jsonl: Path
    goodput_json: Path
    mesh: jax.sharding.Mesh

    def steps(self) -> list[int]:
        return [STEPS]


@pytest.mark.parametrize("fails", [False, True])
def test_the_command_again_on_a_run_that_ended_records_nothing(tmp_path, fails):
    """Recorded by the command's own clock; the run whose end failed goes on, and waited."""
    mesh = meshes.make_mesh(MeshConfig(), jax.devices()[:1])
    run = Ended(tmp_path / "goodput.jsonl", tmp_path / "goodput.json", mesh)
    with contextlib.suppress(InterruptedError), recorded(goodput.Clock(), run, run, STEPS):
        if fails:
            raise InterruptedError
    assert goodput.is_done(run.goodput_jsonl, STEPS) is not fails
    before = run.goodput_jsonl.read_bytes(), run.goodput_json.read_bytes()
    time.sleep(0.2)
    with recorded(goodput.Clock(), run, run, STEPS):
        pass
    after = run.goodput_jsonl.read_bytes(), run.goodput_json.read_bytes()
    assert (after != before) is fails
    assert (json.loads(after[1])["seconds"]["idle"] > 0.1) is fails
    # more steps are asked of it: what lies between is no part of the run
    later = goodput.Clock()
    later.open(run.goodput_jsonl, DEVICE)
    later.close(run.goodput_json)
    starts, idle = (json.loads(run.goodput_json.read_text())[k] for k in ("processes", "seconds"))
    assert starts == (3 if fails else 2) and (idle["idle"] > 0) is fails


def test_damaged_lines_are_counted(tmp_path):
    file = tmp_path / "goodput.jsonl"
    file.write_text('{"at": 1, "seconds": {"step": 2}}\n{"at": "x"}\n[1]\n\n{"at": 3')
    lines, unreadable = goodput.read(file)
    assert len(lines) == 1 and unreadable == 3
    assert "3 lines of goodput.jsonl cannot be read" in goodput.in_words(
        goodput.summary(lines, unreadable)
    )
    clock = goodput.Clock()
    clock.open(file, DEVICE)  # of these only the line that was cut short is gone
    clock.close(tmp_path / "goodput.json")
    held = file.read_text()
    assert held.startswith('{"at": 1, "seconds": {"step": 2}}\n{"at": "x"}\n[1]\n\n{"at": ')
    assert held.count("\n") == 6 and goodput.read(file)[1] == 3
    assert json.loads((tmp_path / "goodput.json").read_text())["unreadable_lines"] == 3


def test_mfu_is_counted_flops_over_time_and_peak():
    step = {"at": 2.0, "seconds": {"step": 3.0, "data_wait": 1.0}, "step": 4, "steps": 4}
    device = {"kind": "TPU v4", "count": 2, "peak_flops": 2 * 275e12}
    begin = {"at": 0.0, "seconds": {}, "begin": 0.0, "device": device}
    facts = goodput.summary([begin, {**step, "flops": 275e12}])
    assert facts["mfu"] == pytest.approx(0.125)
    assert "MFU 12.5%" in goodput.in_words(facts)
    unknown = goodput.summary([{**begin, "device": DEVICE}, {**step, "flops": 275e12}])
    assert unknown["mfu"] is None and "no peak known of a device" in goodput.in_words(unknown)
    cpu = peaks.device_facts(meshes.make_mesh(MeshConfig(), jax.devices()[:2]))
    assert cpu == {"kind": "cpu", "count": 2, "peak_flops": None}
    assert peaks.peak_flops("TPU v5 lite") == 197e12 and peaks.peak_flops("TPU7x") == 2307e12 / 2
    assert {c.name for c in CHIPS} == set(peaks.TPU_KINDS.values())


@pytest.mark.parametrize("name", ["decoder", "t5"])
def test_a_step_counts_what_the_model_needs(name):
    """Nothing that is recomputed, and parts of a batch as much as the whole, but for products that
    have no batch (T5's relative bias)."""
    cfg = synthetic.config(synthetic.models()[name])
    batch = synthetic.Batches(cfg).batch(0)
    mesh = meshes.make_mesh(MeshConfig(), jax.devices()[:1])

    def counted(cfg) -> tuple[float, float]:
        """(the model's, those of the step as it is)."""
        setup = train.make_setup(cfg, *synthetic.sizes_of(LOCK), mesh)
        step, specs = setup.step, setup.specs
        with jax.set_mesh(mesh):
            return step.flops(*specs, batch), flops.matmul_flops(
                step.compiled.trace(*specs, batch, step.peak).jaxpr
            )

    own, whole = counted(cfg)
    assert own == whole > 0
    parts = counted(configs.changed(cfg, "train", microbatches=2))[0]
    assert parts == own if name == "decoder" else parts == pytest.approx(own, rel=0.02)
    again = counted(configs.changed(cfg, "model", remat="full"))
    assert again[0] == own < again[1]
