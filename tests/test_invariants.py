# SPDX-License-Identifier: Apache-2.0
"""The design's invariants on the quickstart itself (its quick variant), one test or more each.

1, 8 and 9 are also tested on small data (tests/data, tests/prepare), 2 on kills
(tests/test_kill.py), 3 and 6 on small models (tests/test_train.py, tests/models).
"""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from itx import compared, recipe, storage
from itx import config as configs
from itx.begin import check_same_run
from itx.config import MeshConfig
from itx.data import cache
from itx.data import lock as locks
from itx.data.loader import Batches
from itx.data.vocabulary import Vocabulary
from itx.errors import UserError
from itx.prepare import new_lock
from itx.runs import RunFolder
from tests.conftest import REPO, one_device
from tests.synthetic import sizes_of
from tests.test_kill import curve, parameters


@pytest.fixture(scope="module")
def run(quickstart) -> RunFolder:
    return RunFolder(quickstart)


@pytest.fixture(scope="module")
def lock(run) -> dict:
    return locks.read(run.lock_json)


@pytest.fixture(scope="module")
def config(run, desk) -> configs.RunConfig:
    made = configs.from_dict(storage.read_json(run.config_json)["config"])
    return dataclasses.replace(
        made, data=dataclasses.replace(made.data, cache_dir=str(desk / "cache"))
    )


@pytest.fixture(scope="module")
def batches(lock, config) -> Batches:
    return Batches(lock, config.data.cache_dir)


# ---- 1: batch t is a function of (lock, t)


def test_1_a_batch_depends_on_the_lock_and_the_step_alone(lock, config, batches):
    steps = [0, 3, 11]
    first = [batches.batch(t) for t in steps]
    # from the file's text, last step first
    fresh = Batches(json.loads(json.dumps(lock)), config.data.cache_dir)
    again = [fresh.batch(t) for t in reversed(steps)][::-1]
    assert all((a[k] == b[k]).all() for a, b in zip(first, again, strict=True) for k in a)
    assert (first[0]["decoder_target_tokens"] != first[1]["decoder_target_tokens"]).any()
    other = Batches({**lock, "seed": lock["seed"] + 1}, config.data.cache_dir)
    assert (other.batch(0)["decoder_target_tokens"] != first[0]["decoder_target_tokens"]).any()


def test_1_hosts_read_disjoint_parts_of_the_same_batch(lock, batches):
    whole = batches.batch(5)
    size = lock["global_batch"]
    for hosts in (2, 4):
        parts = [
            batches.batch(5, range(h * size // hosts, (h + 1) * size // hosts))
            for h in range(hosts)
        ]
        assert all((np.concatenate([p[k] for p in parts]) == v).all() for k, v in whole.items())


def test_1_nothing_but_data_shapes_the_lock(lock):
    """What may differ between hosts and legs of a run stands nowhere in the lock."""
    assert not {"steps", "mesh", "hosts", "workers", "cache_dir", "root"} & set(lock)


# ---- 3: one division, the same for packed, unpacked, microbatched and every mesh


def loss_of(config, lock, batch, mesh, microbatches=1) -> float:
    train = dataclasses.replace(config.train, microbatches=microbatches)
    config = dataclasses.replace(config, train=train)
    metrics, _ = compared.one_step(config, sizes_of(lock), batch, mesh)
    return float(metrics["objective"]) / float(metrics["weight"])


def test_3_the_loss_is_the_same_on_every_mesh_and_in_parts(config, lock, batches):
    batch = batches.batch(0)
    one = loss_of(config, lock, batch, MeshConfig(data=8))
    for mesh in (MeshConfig(data=1, fsdp=8), MeshConfig(data=2, fsdp=2, tensor=2)):
        assert loss_of(config, lock, batch, mesh) == pytest.approx(one, rel=1e-5)
    parts = loss_of(
        config, lock, {k: np.tile(v, (2, 1)) for k, v in batch.items()}, MeshConfig(data=8), 2
    )
    assert parts == pytest.approx(one, rel=1e-5)
    assert loss_of(config, lock, batches.batch(1), MeshConfig(data=8)) != pytest.approx(
        one, rel=1e-5
    )


def test_3_and_6_packed_rows_have_the_loss_of_separate_ones(config, lock, batches):
    batch = batches.batch(0)
    apart = compared.unpacked(batch, rows=8)
    assert len(apart["task_ids"]) > 2 * len(batch["task_ids"])  # they really were packed
    assert apart["decoder_loss_weights"].sum() == batch["decoder_loss_weights"].sum()
    mesh = MeshConfig(data=8)
    assert loss_of(config, lock, apart, mesh) == pytest.approx(
        loss_of(config, lock, batch, mesh), rel=1e-5
    )


# ---- 2: resume


def test_2_a_longer_run_begins_with_the_shorter_ones_batches(lock, config, batches):
    """The run made 20 steps; its lock gives the batches beyond without touching the earlier
    ones."""
    before = batches.batch(2)
    batches.batch(40)
    assert all(
        (before[k] == v).all() for k, v in Batches(lock, config.data.cache_dir).batch(2).items()
    )


def test_2_a_run_folder_belongs_to_its_config(run, config):
    config = configs.from_dict(storage.read_json(run.config_json)["config"])
    assert check_same_run(run, config) == []
    longer = recipe.override(config, "--train.steps=99")[0]
    assert (
        "train.steps was 20, is 99: the learning rate now ends there"
        in check_same_run(run, longer)[0]
    )
    planned = recipe.override(config, "--optim.decay_steps=20")[0]
    with pytest.raises(UserError, match="optim.decay_steps was 0, is 20"):  # a maths field
        check_same_run(run, planned)
    for text in ("--data.seed=5", "--optim.learning_rate=0.5"):
        with pytest.raises(
            UserError, match=f"belongs to another config: {text[2:].split('=')[0]} was"
        ):
            check_same_run(run, recipe.override(config, text)[0])
    allowed = recipe.override(
        recipe.override(config, "--optim.learning_rate=0.5")[0],
        "--resume.allow=optim.learning_rate",
    )[0]
    rate = config.optim.learning_rate
    assert rate != 0.5 and check_same_run(run, allowed) == [
        f"optim.learning_rate was {rate}, is 0.5"
    ]


# ---- 7: no TensorFlow, SeqIO or TFDS


def test_7_the_training_process_imported_neither_tensorflow_nor_seqio(quickstart, desk):
    modules = json.loads((desk / "modules.json").read_text())
    assert "jax" in modules and "itx.train" in modules and "itx.analysis.report" in modules
    assert not [
        m
        for m in modules
        if m.split(".")[0] in ("tensorflow", "seqio", "tensorflow_datasets", "tensorflow_text")
    ]


# ---- 8: nothing lost silently


def test_8_every_record_read_is_used_or_counted(lock, desk):
    assert len(lock["tasks"]) >= 15
    for task in lock["tasks"]:
        audit = task["audit"]
        assert audit["read"] == audit["kept"] + sum(audit["skipped"].values()) > 1000
        records = cache.Records(desk / "cache" / task["folders"][0])
        assert len(records) - len(task["excluded"][0]) == task["examples"] == audit["kept"]


def test_8_no_target_token_is_lost_on_the_way_to_a_batch(lock, batches):
    for step in range(3):
        batch = batches.batch(step)
        size = lock["global_batch"]
        want = got = 0
        for b in range(size):
            for task, record, rendering in batches.order.row(step * size + b):
                want += len(batches.data.records[task][rendering][record][-1][0]) + 1
            got += int((batch["decoder_loss_weights"][b] > 0).sum())
        assert got == want == int((batch["loss_positions"] >= 0).sum())


def test_9_no_evaluated_input_is_trained_on(lock, desk):
    held = [r for r in lock["evaluation"] if r["group"] != "instruction"]
    scored = {
        e["content"] for r in held for e in cache.iterate_examples(desk / "cache" / r["folder"])
    }
    trained = set()
    for task in lock["tasks"]:
        for folder, excluded in zip(task["folders"], task["excluded"], strict=True):
            kept = np.delete(cache.Records(desk / "cache" / folder).content, excluded)
            trained |= {f"{int(c):016x}" for c in kept}
    assert len(scored) > 1000 and len(trained) > 10_000
    assert not scored & trained


# ---- 10: the config cannot lie


def test_10_the_run_holds_what_it_was_made_of(run, lock):
    held = storage.read_json(run.config_json)
    assert configs.to_dict(configs.from_dict(held["config"])) == held["config"]
    assert set(held["origin"]) == set(configs.fields_by_name())
    assert held["origin"]["data.mixture"].endswith("quickstart.py")
    assert held["versions"]["jax"] == jax.__version__
    assert held["data_hash"] == locks.shape_hash(lock)
    assert Vocabulary(run.vocab_model).hash == lock["vocabulary"]["hash"]


def test_10_every_setting_is_used():
    """A field that no code reads would be a setting that lies."""
    code = "".join(p.read_text() for p in (REPO / "itx").rglob("*.py") if p.name != "config.py")
    short = {
        "model": ("model", "cfg"),
        "data": ("data", "d"),
        "optim": ("optim", "config"),
        "mesh": ("mesh",),
    }

    def used(name: str) -> bool:
        section, leaf = name.split(".")
        if section == "mesh":  # read by the names of the axes
            return f'"{leaf}"' in code
        if leaf in new_lock.HELD_AS_SET and f'lock["{leaf}"]' in code:
            return True  # a lock holds it as it is, and the code reads the lock
        return any(re.search(rf"\b{s}\.{leaf}\b", code) for s in short.get(section, (section,)))

    assert [n for n in configs.fields_by_name() if not used(n)] == []
    assert not used("train.nonsense") and not used("optim.smear")


def test_2_a_killed_run_goes_on_bit_for_bit(quickstart, desk):
    """SIGKILL behind the first checkpoint, the same command again: every line and parameter of the
    fixture's run.

    (tests/test_kill.py kills in every stage.)"""
    again = desk / "runs" / "killed"
    words = [
        "train",
        "configs/quickstart.py",
        "--quick",
        "--run_dir",
        str(again),
        "--eval.before=False",
    ]
    # checkpoints of the quick variant; what comes behind the last one is not needed
    for last in (10, 20):
        child = subprocess.Popen([sys.executable, "-m", "itx.cli", *words], cwd=desk, env=one_device(),
                                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)  # fmt: skip
        while child.poll() is None and not (again / "checkpoints" / str(last)).is_dir():
            time.sleep(0.01)
        assert child.poll() is None
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    assert curve(again) == curve(quickstart) and len(curve(again)) == 2
    a, b = parameters(again), parameters(quickstart)
    assert a.keys() == b.keys() and all(a[k].tobytes() == b[k].tobytes() for k in a)
    meta = json.loads(next((again / "checkpoints" / "20" / "meta").rglob("metadata")).read_text())
    assert meta["about"]["config"]["data"]["mixture"] == "toy_quick" and meta["lock"]["tasks"]
