# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that are damaged, and readers beside a trainer's save."""

import errno
import gc
import random
import shutil
import subprocess
import sys
from collections import Counter

import jax
import numpy as np
import pytest

from itx import checkpoint, restore, train
from itx import mesh as meshes
from itx.config import MeshConfig
from itx.errors import UserError
from tests import synthetic
from tests.conftest import REPO

LOCK = synthetic.lock()
# Orbax drops its other reads where one of them fails
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning",
    "ignore:coroutine.*never awaited:RuntimeWarning",
)


@pytest.fixture(autouse=True)
def dropped_reads_go_here():
    """They are collected within the test that they are of, not within another file's."""
    yield
    gc.collect()


def config():
    return synthetic.config(train={"steps": 4, "checkpoint_every": 2, "log_every": 1})


def fit(folder):
    cfg = config()
    setup = train.make_setup(
        cfg, *synthetic.sizes_of(LOCK), meshes.make_mesh(MeshConfig(), jax.devices()[:1])
    )
    return jax.device_get(train.train(cfg, LOCK, synthetic.Batches(cfg), folder, setup=setup))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run, and the state that it ended with."""
    folder = tmp_path_factory.mktemp("trained")
    yield folder, fit(synthetic.Folder(folder))
    gc.collect()  # here, where Orbax may drop them, and not within another file's tests


def largest(step, item):
    return max((p for p in (step / item).rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def flip(file):
    """One bit of the middle byte."""
    held = bytearray(file.read_bytes())
    held[len(held) // 2] ^= 1
    file.write_bytes(held)


def emptied(step):
    shutil.rmtree(step)
    step.mkdir()


FAULTS = {
    "params flipped": lambda step: flip(largest(step, "params")),
    "optimizer flipped": lambda step: flip(largest(step, "opt_state")),
    "meta flipped": lambda step: flip(largest(step, "meta")),
    "truncated": lambda step: largest(step, "params").write_bytes(
        largest(step, "params").read_bytes()[:100]
    ),
    "deleted": lambda step: largest(step, "opt_state").unlink(),
    "empty": emptied,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_checkpoint_is_named_and_set_aside_and_the_one_before_is_used(
    fault, trained, tmp_path, capsys
):
    source, straight = trained
    folder = synthetic.Folder(shutil.copytree(source, tmp_path / "run"))
    step = folder.checkpoints / "4"
    assert step.is_dir()
    FAULTS[fault](step)
    failure = None
    try:
        resumed = fit(folder)
    except Exception as e:
        failure = e
    assert failure is None
    told = capsys.readouterr()
    assert "damaged" in told.out + told.err and str(step) in (told.out + told.err).replace("\n", "")
    assert (folder.checkpoints / "4.damaged").is_dir() and step.is_dir()
    assert jax.tree.all(jax.tree.map(np.array_equal, straight, resumed))


def harmed(step, other, draw) -> str:
    """One file of a step's folder is changed, cut, emptied, removed, or taken from another step;
    returns what was done."""
    file = draw.choice(sorted(p for p in step.rglob("*") if p.is_file() and p.stat().st_size))
    held = bytearray(file.read_bytes())
    how = draw.choice(["flip"] * 6 + ["cut", "zero", "remove", "swap"])
    if how == "flip":
        held[draw.randrange(len(held))] ^= 1 << draw.randrange(8)
    elif how == "cut":
        held = held[: draw.randrange(len(held))]
    elif how == "zero":
        held = bytes(len(held))
    elif how == "swap":
        twin = other / file.relative_to(step)
        held = (
            twin if twin.is_file() else largest(other, file.relative_to(step).parts[0])
        ).read_bytes()
    file.unlink() if how == "remove" else file.write_bytes(held)
    return f"{how} {file.relative_to(step)}"


def test_no_random_damage_is_restored_silently(trained, tmp_path):
    """A file that nothing needs may be damaged; whatever is restored is what was saved."""
    source, straight = trained
    setup = train.make_setup(
        config(), *synthetic.sizes_of(LOCK), meshes.make_mesh(MeshConfig(), jax.devices()[:1])
    )
    draw, seen, wrong = random.Random(0), Counter(), []
    damage = getattr(checkpoint, "Damaged", ())
    for _ in range(60):  # the store names its files at random, so which are drawn differs
        folder = shutil.copytree(source / "checkpoints", tmp_path / "checkpoints")
        did = harmed(folder / "4", folder / "2", draw)
        try:
            with checkpoint.Checkpoints(folder) as checkpoints:
                step = checkpoints.meta(4)["step"]
                restored = jax.device_get(restore.restore(checkpoints, 4, setup)[0])
        except damage:
            seen["named"] += 1
        except Exception as e:
            wrong.append((did, repr(e)))
        else:
            if step != 4 or not jax.tree.all(jax.tree.map(np.array_equal, straight, restored)):
                wrong.append((did, "restored"))
        shutil.rmtree(folder)
    assert wrong == [] and seen["named"] > 6


def test_the_folder_of_another_step_is_damage(trained, tmp_path):
    source, straight = trained
    folder = synthetic.Folder(shutil.copytree(source, tmp_path / "run"))
    shutil.rmtree(folder.checkpoints / "4")
    shutil.copytree(folder.checkpoints / "2", folder.checkpoints / "4")
    assert jax.tree.all(jax.tree.map(np.array_equal, straight, fit(folder)))
    assert (folder.checkpoints / "4.damaged").is_dir()


def test_what_the_system_refuses_is_no_damage(trained, tmp_path, monkeypatch):
    source, _ = trained
    folder = synthetic.Folder(shutil.copytree(source, tmp_path / "run"))
    store = checkpoint.Checkpoints(folder.checkpoints)
    for error in (
        PermissionError(errno.EACCES, "Permission denied"),
        OSError(errno.EIO, "Input/output error"),
        ValueError("PERMISSION_DENIED: reading [os_error_code='13']"),
        RuntimeError("a bug"),
    ):

        def fail(*_, error=error, **__):
            raise error

        monkeypatch.setattr(store.manager, "restore", fail)
        with pytest.raises(type(error)) as raised:
            store.meta(4)
        assert raised.value is error


def test_a_checkpoint_that_names_no_data_is_a_line(tmp_path):
    folder = synthetic.Folder(tmp_path)
    setup = train.make_setup(
        config(), *synthetic.sizes_of(LOCK), meshes.make_mesh(MeshConfig(), jax.devices()[:1])
    )
    state, _ = setup.init()
    with checkpoint.Checkpoints(folder.checkpoints) as checkpoints:
        checkpoints.save(2, state["params"], state["opt_state"], {"step": 2})
    failure = None
    try:
        fit(folder)
    except Exception as e:
        failure = e
    assert isinstance(failure, UserError) and "does not say which data it was trained on" in str(
        failure
    )


def test_an_honest_checkpoint_is_neither_named_nor_set_aside(trained, tmp_path, capsys):
    source, straight = trained
    folder = synthetic.Folder(shutil.copytree(source, tmp_path / "run"))
    resumed = fit(folder)
    told = capsys.readouterr()
    assert "damaged" not in told.out + told.err and not list(folder.checkpoints.glob("*damaged*"))
    assert jax.tree.all(jax.tree.map(np.array_equal, straight, resumed))


def test_readers_leave_a_save_in_progress_and_refuse_what_is_damaged(trained, tmp_path):
    source, _ = trained
    folder = synthetic.Folder(shutil.copytree(source, tmp_path / "run"))
    saving = folder.checkpoints / "6.orbax-checkpoint-tmp"
    (saving / "params.orbax-checkpoint-tmp").mkdir(parents=True)
    mesh = meshes.make_mesh(MeshConfig(), jax.devices()[:1])
    assert restore.load_model(folder, config(), LOCK, mesh=mesh).loaded.step == 4
    assert (saving / "params.orbax-checkpoint-tmp").is_dir()
    flip(largest(folder.checkpoints / "4", "params"))
    before = sorted(folder.checkpoints.rglob("*"))
    with pytest.raises(UserError, match="4 is damaged"):
        restore.load_model(folder, config(), LOCK, mesh=mesh)
    assert sorted(folder.checkpoints.rglob("*")) == before


def test_an_optimizer_that_holds_nothing_is_saved_and_resumed(tmp_path):
    """Plain SGD has no state."""
    cfg = synthetic.config(optim={"name": "sgd"}, train={"steps": 2, "checkpoint_every": 1})
    setup = train.make_setup(
        cfg, *synthetic.sizes_of(LOCK), meshes.make_mesh(MeshConfig(), jax.devices()[:1])
    )
    failure = None
    try:
        for _ in range(2):
            train.train(cfg, LOCK, synthetic.Batches(cfg), synthetic.Folder(tmp_path), setup=setup)
    except Exception as e:
        failure = e
    assert failure is None


FULL = """
import resource, sys
import jax.numpy as jnp
from pathlib import Path
from itx.checkpoint import Checkpoints
with Checkpoints(Path(sys.argv[1])) as checkpoints:
    params = {f"layer_{i}": jnp.arange(5000.0) * i for i in range(30)}
    resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))
    try:
        checkpoints.save(1, params, None, {"step": 1})
    except Exception as e:
        print(type(e).__name__)
"""


def test_what_a_save_raises_is_not_printed_as_well(tmp_path):
    """A limit on the size of files stands for a full disk."""
    done = subprocess.run(
        [sys.executable, "-B", "-c", FULL, str(tmp_path)], capture_output=True, text=True, cwd=REPO
    )
    assert done.returncode == 0 and done.stdout.strip() in ("ValueError", "OSError"), done.stderr
    assert "Traceback" not in done.stderr


def test_digests_do_not_depend_on_the_mesh():
    array = np.arange(64, dtype=np.float32).reshape(8, 8)
    mesh = jax.make_mesh((4, 2), ("a", "b"))
    for spec in (("a", "b"), ("b", "a"), (None, "a")):
        split = jax.device_put(array, jax.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec)))
        assert checkpoint.digest(split) == checkpoint.digest(array)
    assert checkpoint.digest(array) != checkpoint.digest(array.T)
