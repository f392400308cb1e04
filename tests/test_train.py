# SPDX-License-Identifier: Apache-2.0
"""The train step and the loop: invariances of the loss, resume, skipped steps, frozen
parameters."""

import dataclasses
import json
import os
import re
import shutil
import signal
from collections import Counter

import jax
import numpy as np
import pytest

from itx import checkpoint, loss, restore, train
from itx import mesh as meshes
from itx.config import MeshConfig
from itx.errors import UserError
from itx.log import TIMING, MetricsLog, read_lines
from tests import synthetic, tiny

LOCK = synthetic.lock()
NAMES = ["decoder", "t5"]
ALONE = MeshConfig(data=1)
# of tests whose point is the step's, which both architectures share
T5_SLOW = ["decoder", pytest.param("t5", marks=pytest.mark.slow)]


def mesh_of(devices: int = 1, **sizes):
    return meshes.make_mesh(MeshConfig(**sizes), jax.devices()[:devices])


def one_step(cfg, batch: dict, mesh=None):
    """(metrics, parameters) after one step from the seed."""
    mesh = mesh or mesh_of()
    state, frozen, setup = synthetic.init_state(cfg, LOCK, mesh)
    with jax.set_mesh(mesh):
        state, metrics = setup.step(state, frozen, meshes.put(batch, mesh))
    return jax.device_get(metrics), jax.device_get(state["params"]), state


@pytest.mark.parametrize("name", NAMES)
def test_packing_changes_neither_loss_nor_gradient(name):
    cfg = synthetic.config(synthetic.models()[name])
    some = synthetic.examples(8, 3)
    packed = synthetic.batch([some[:3], some[3:6], some[6:], *[[]] * 5], cfg)
    alone = synthetic.batch([[e] for e in some], cfg)
    assert packed["decoder_segment_ids"].max() == 3 and alone["decoder_segment_ids"].max() == 1
    synthetic.same_steps((cfg, packed, ALONE), (cfg, alone, ALONE))


@pytest.mark.parametrize("name", T5_SLOW)
def test_microbatches_change_nothing(name):
    cfg = synthetic.config(synthetic.models()[name])
    batch = synthetic.Batches(cfg).batch(0)
    weights = batch["decoder_loss_weights"].sum(1)
    assert len(set(weights.reshape(-1, 4).sum(0))) > 1  # a mean of means would be another number
    parts = dataclasses.replace(cfg, train=dataclasses.replace(cfg.train, microbatches=4))
    program = jax.make_jaxpr(train.make_setup(parts, *synthetic.sizes_of(LOCK), mesh_of()).step)
    state, frozen = train.make_setup(parts, *synthetic.sizes_of(LOCK), mesh_of()).specs
    assert "length=4" in str(program(state, frozen, batch))
    synthetic.same_steps((cfg, batch, ALONE), (parts, batch, ALONE))


MESHES = [{"data": 8}, {"fsdp": 4, "tensor": 2}, {"replica": 2, "fsdp": 2, "tensor": 2}]


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        pytest.param("decoder", MESHES[0], marks=pytest.mark.slow),
        ("decoder", MESHES[1]),
        pytest.param("decoder", MESHES[2], marks=pytest.mark.slow),
        ("t5", MESHES[2]),
    ],
)
def test_every_mesh_gives_the_same_step(name, sizes):
    model = dataclasses.replace(synthetic.models()[name], dropout=0.1)  # and the same dropout
    cfg = synthetic.config(model)
    batch = synthetic.Batches(cfg).batch(0)
    mesh = mesh_of(8, **({"data": 1} | sizes))
    specs, _ = train.make_setup(cfg, *synthetic.sizes_of(LOCK), mesh).specs
    wq = specs["params"]["decoder/blocks/attention/wq"].sharding
    split = {"fsdp", "tensor"} & {a for a, n in mesh.shape.items() if n > 1}
    assert len(wq.device_set) == 8 and wq.is_fully_replicated == (not split)
    synthetic.same_steps((cfg, batch, ALONE), (cfg, batch, MeshConfig(**({"data": 1} | sizes))))


@pytest.mark.parametrize(
    "sizes",
    [pytest.param({"data": 4, "tensor": 2}, marks=pytest.mark.slow), {"fsdp": 4, "tensor": 2}],
)
def test_loss_positions_bring_no_activations_together(monkeypatch, sizes):
    """Rows stay where they are: picking positions adds no all-gather and no all-to-all, in one part
    or in several, but for a weight's (two dimensions)."""
    cfg = synthetic.config(synthetic.models()["decoder"])
    some = synthetic.examples(16)
    batch = synthetic.batch([some[2 * i : 2 * i + 2] for i in range(8)], cfg)
    length = batch["decoder_positions"].shape[1]
    mesh = mesh_of(8, **sizes)
    state, frozen, setup = synthetic.init_state(cfg, LOCK, mesh)

    def moved(positions: np.ndarray, logits_bytes: int) -> Counter:
        monkeypatch.setattr(loss, "LOGITS_BYTES", logits_bytes)
        setup = train.make_setup(cfg, *synthetic.sizes_of(LOCK), mesh)  # compiled anew
        with jax.set_mesh(mesh):
            text = (
                setup.step.lower(
                    state, frozen, meshes.put({**batch, "loss_positions": positions}, mesh)
                )
                .compile()
                .as_text()
            )
        return Counter(re.findall(r"= (\w+\[[\d,]*\])\S* (all-gather|all-to-all)\(", text))

    everywhere = np.tile(np.arange(length, dtype=np.int32), (8, 1))
    before = moved(everywhere, 2**28)
    assert bool(before) == ("fsdp" in sizes)  # weights are gathered there
    for logits_bytes in (2**28, 4 * 3 * 128):
        added = moved(batch["loss_positions"][:, :16], logits_bytes) - before
        assert all(shape.count(",") == 1 for shape, _ in added) and added.total() <= 3


@pytest.mark.parametrize("name", T5_SLOW)
def test_logits_at_loss_positions_alone_give_the_loss_and_gradient_of_all(name):
    """Under a cap that the fullest row meets, with a row that has no target and rows that have
    few."""
    cfg = synthetic.config(
        synthetic.models()[name],
        optim={"name": "sgd", "warmup_steps": 0, "learning_rate": 100.0, "clip_norm": 0.0},
    )
    some = synthetic.examples(14, 5)
    batch = synthetic.batch(
        [some[:3], some[3:6], [], some[6:7], some[7:8], some[8:10], some[10:11], some[11:]], cfg
    )
    counts = (batch["loss_positions"] >= 0).sum(1)
    length = batch["decoder_positions"].shape[1]
    assert counts.min() == 0 and len(set(counts)) > 3 and counts.max() < length
    everywhere = np.tile(np.arange(length, dtype=np.int32), (len(counts), 1))
    every = one_step(cfg, {**batch, "loss_positions": everywhere})
    few = one_step(cfg, {**batch, "loss_positions": batch["loss_positions"][:, : counts.max()]})
    cut = one_step(cfg, {**batch, "loss_positions": batch["loss_positions"][:, : counts.max() - 1]})
    assert (
        cut[0]["weight"]
        < every[0]["weight"]
        == few[0]["weight"]
        == batch["decoder_loss_weights"].sum()
    )
    start = jax.device_get(
        synthetic.init_state(cfg, LOCK, mesh_of())[0]["params"]
    )  # the step is 100 times the gradient, beside which a parameter rounds off little
    np.testing.assert_allclose(few[0]["loss"], every[0]["loss"], rtol=1e-6)
    for path, x in start.items():
        one, other, less = (x - a[1][path] for a in (every, few, cut))
        size = np.abs(one).max()
        assert np.abs(less - one).max() > 1e-4 * size > 0, path
        np.testing.assert_allclose(other, one, atol=1e-6 * size, rtol=0, err_msg=path)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [{}, {"fsdp": 4, "tensor": 2}])
def test_memory_of_a_step_grows_with_loss_positions_as_the_formula_says(monkeypatch, sizes):
    """`loss.of_states`: by 2 to 3.2 times rows × positions × vocabulary × 4 bytes / devices, up to
    LOGITS_BYTES."""
    devices, vocabulary, positions = int(np.prod(list(sizes.values()) or [1])), 8192, 8
    cfg = synthetic.config(tiny.decoder(), optim={"name": "sgd", "warmup_steps": 0})
    lock = {**LOCK, "vocabulary": {"size": vocabulary, "hash": "0"}}
    batch, mesh = synthetic.Batches(cfg).batch(0), mesh_of(devices, **sizes)
    unit = 8 * positions * vocabulary * 4 / devices

    def memory(cap: int) -> float:
        setup, at = (
            train.make_setup(cfg, *synthetic.sizes_of(lock), mesh),
            np.tile(np.arange(cap, dtype=np.int32), (8, 1)),
        )
        with jax.set_mesh(mesh):
            step = setup.step.lower(*setup.specs, {**batch, "loss_positions": at}).compile()
        return step.memory_analysis().temp_size_in_bytes / unit

    assert 2.0 < memory(2 * positions) - memory(positions) < 3.2
    monkeypatch.setattr(loss, "LOGITS_BYTES", unit / 2)
    assert memory(4 * positions) - memory(2 * positions) < 0.4


def test_learning_rates_share_one_program():
    """`itx sweep` compiles a step once for all of them; they differ in what the step does."""
    batch, programs, moved = None, set(), []
    for rate in (0.25, 0.5):
        cfg = synthetic.config(optim={"name": "sgd", "warmup_steps": 0, "learning_rate": rate})
        batch = batch or synthetic.Batches(cfg).batch(0)
        mesh = mesh_of()
        state, frozen, setup = synthetic.init_state(cfg, LOCK, mesh)
        begin = jax.device_get(state["params"])
        with jax.set_mesh(mesh):
            programs.add(setup.step.lower(state, frozen, batch).as_text())
            state, metrics = setup.step(state, frozen, batch)
        assert metrics["learning_rate"] == rate
        moved.append({p: v - begin[p] for p, v in jax.device_get(state["params"]).items()})
    assert len(programs) == 1
    for path, once in moved[0].items():
        assert np.abs(once).max() > 0
        np.testing.assert_allclose(moved[1][path], 2 * once, rtol=1e-3, atol=1e-6)


def test_dropout_is_drawn_per_step_and_row():
    model = dataclasses.replace(synthetic.models()["decoder"], dropout=0.1)
    cfg = synthetic.config(model, optim={"name": "sgd", "warmup_steps": 0})
    row = synthetic.examples(3, 5)
    batch = synthetic.batch([row] * 8, cfg)
    mesh = mesh_of()
    state, frozen, setup = synthetic.init_state(cfg, LOCK, mesh)
    halves = [
        dict(batch, decoder_loss_weights=batch["decoder_loss_weights"] * keep[:, None])
        for keep in np.eye(8, dtype=np.float32)[:2]
    ]
    losses = []
    for part in (*halves, halves[0]):
        with jax.set_mesh(mesh):
            state, metrics = setup.step(state, frozen, meshes.put(part, mesh))
        losses.append(float(metrics["loss"]))
    assert len(set(losses)) == 3


def read(folder: synthetic.Folder) -> list[dict]:
    lines = [json.loads(line) for line in read_lines(folder.metrics_jsonl)]
    return [{k: v for k, v in line.items() if k not in TIMING} for line in lines]


def fit(cfg, folder, **kwargs):
    batches = synthetic.Batches(cfg, **kwargs)
    state = train.train(
        cfg,
        LOCK,
        batches,
        folder,
        setup=train.make_setup(cfg, *synthetic.sizes_of(LOCK), mesh_of()),
    )
    return jax.device_get(state)


def same(a, b) -> bool:
    a, b = jax.tree.leaves(a), jax.tree.leaves(b)
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_resume_is_bitwise(tmp_path, monkeypatch):
    """Stopped by SIGTERM between two log lines and between two saves, then killed in a save."""
    cfg = synthetic.config(
        train={"steps": 7, "log_every": 3, "checkpoint_every": 4},
        optim={"name": "muon", "warmup_steps": 2},
    )
    whole, parts = synthetic.Folder(tmp_path / "a"), synthetic.Folder(tmp_path / "b")
    straight = fit(cfg, whole)

    class Stopping(synthetic.Batches):
        def batch(self, step):
            if step == 1:  # while the second batch is made
                os.kill(os.getpid(), signal.SIGTERM)
            return super().batch(step)

    with pytest.raises(SystemExit) as stopped:
        train.train(
            cfg,
            LOCK,
            Stopping(cfg),
            parts,
            setup=train.make_setup(cfg, *synthetic.sizes_of(LOCK), mesh_of()),
        )
    assert stopped.value.code == 128 + signal.SIGTERM
    assert checkpoint.Checkpoints(parts.checkpoints).latest() == 2 and read(parts) == []

    class Killed(Exception):
        pass

    save = checkpoint.Checkpoints.save

    def killed(self, step, *args):
        if step == 7:
            raise Killed
        save(self, step, *args)

    monkeypatch.setattr(checkpoint.Checkpoints, "save", killed)
    with pytest.raises(Killed):
        fit(cfg, parts)
    monkeypatch.setattr(checkpoint.Checkpoints, "save", save)
    assert [line["step"] for line in read(parts)] == [3, 6, 7]  # 6 and 7 are cut back now
    resumed = fit(cfg, parts)
    assert not same(
        straight["params"], jax.device_get(synthetic.init_state(cfg, LOCK, mesh_of())[0]["params"])
    )
    assert same(straight, resumed)
    assert read(whole) == read(parts) and [line["step"] for line in read(whole)] == [3, 6, 7]


def test_a_signal_behind_the_last_step_is_not_lost(tmp_path):
    """It comes when the loop has asked for the last time; nothing that follows training may
    begin."""
    cfg, folder = synthetic.config(), synthetic.Folder(tmp_path)

    class Late(synthetic.Batches):
        def iterate(self, start, stop, rows=None):
            yield from super().iterate(start, stop, rows)
            os.kill(os.getpid(), signal.SIGTERM)

    code = None
    try:
        train.train(
            cfg,
            LOCK,
            Late(cfg),
            folder,
            setup=train.make_setup(cfg, *synthetic.sizes_of(LOCK), mesh_of()),
        )
    except SystemExit as e:
        code = e.code
    assert code == 143 and checkpoint.Checkpoints(folder.checkpoints).latest() == 4


def test_metrics_are_means_over_the_interval(tmp_path):
    folders = [synthetic.Folder(tmp_path / n) for n in "ab"]
    every = synthetic.config(train={"steps": 4, "log_every": 1, "checkpoint_every": 4})
    pairs = synthetic.config(train={"steps": 4, "log_every": 2, "checkpoint_every": 4})
    fit(every, folders[0])
    fit(pairs, folders[1])
    single, double = read(folders[0]), read(folders[1])
    weights = [synthetic.Batches(every).batch(i)["decoder_loss_weights"].sum() for i in range(2)]
    mean = np.average([single[0]["train/loss"], single[1]["train/loss"]], weights=weights)
    assert single[0]["train/loss"] != single[1]["train/loss"]
    assert double[0]["step"] == 2 and double[0]["train/loss"] == pytest.approx(mean, rel=1e-6)
    tasks = {k for k in double[0] if k.startswith("train/loss/")}
    assert tasks == {"train/loss/task_0", "train/loss/task_1", "train/loss/task_2"}
    assert 0 < double[0]["data/non_padding_fraction"] < 1


def test_a_bad_step_is_skipped_and_recorded(tmp_path):
    cfg = synthetic.config()
    folder = synthetic.Folder(tmp_path)
    batch = synthetic.Batches(cfg, bad_steps=(0,)).batch(0)
    before = jax.device_get(synthetic.init_state(cfg, LOCK, mesh_of())[0])
    metrics, params, state = one_step(cfg, batch)
    assert metrics["skipped"] and same(params, before["params"])
    assert same(state["opt_state"], before["opt_state"]) and int(state["step"]) == 1
    fit(cfg, folder, bad_steps=(1, 2))  # steps 2 and 3
    assert [line["train/skipped"] for line in read(folder)] == [0, 1, 2, 2]
    assert "train/loss" not in read(folder)[1] and "train/loss" in read(folder)[3]
    assert checkpoint.Checkpoints(folder.checkpoints).meta(4)["skipped"] == [2, 3]


def test_frozen_parameters_do_not_move_and_cost_no_memory(tmp_path):
    cfg = synthetic.config(optim={"freeze": ("embedding", r".*/attention/.*"), "warmup_steps": 1})
    folder = synthetic.Folder(tmp_path)
    state, frozen, _ = synthetic.init_state(cfg, LOCK, mesh_of())
    before = jax.device_get({**frozen, **state["params"]})
    assert set(frozen) & set(state["params"]) == set() and "embedding" in frozen
    size = sum(x.size for x in jax.tree.leaves(state["opt_state"]))
    assert size == 2 * sum(x.size for x in state["params"].values()) + 1  # Adam: two and a count
    fit(cfg, folder)
    after = jax.device_get(restore.load_model(folder, cfg, LOCK, mesh=mesh_of()).loaded.params)
    for path in before:
        assert np.array_equal(before[path], after[path]) == (path in frozen), path
    with pytest.raises(UserError, match=r"optim.freeze: 'embeding' matches no parameter"):
        synthetic.init_state(synthetic.config(optim={"freeze": ("embeding",)}), LOCK, mesh_of())


def test_checkpoint_restores_bit_for_bit_on_another_mesh(tmp_path):
    cfg = synthetic.config(optim={"name": "adafactor", "kwargs": {"min_dim_size_to_factor": 8}})
    one, many = mesh_of(), mesh_of(8, fsdp=4, tensor=2)
    state, frozen, setup = synthetic.init_state(cfg, LOCK, many)
    with jax.set_mesh(many):
        state, _ = setup.step(state, frozen, meshes.put(synthetic.Batches(cfg).batch(0), many))
    checkpoints = checkpoint.Checkpoints(tmp_path / "c")
    here = checkpoint.environment(many)
    checkpoints.save(1, {**state["params"], **frozen}, state["opt_state"], {"environment": here})
    restored, _ = restore.restore(
        checkpoints, 1, train.make_setup(cfg, *synthetic.sizes_of(LOCK), one)
    )
    assert same(jax.device_get(state), jax.device_get(restored))
    split = [x for x in jax.tree.leaves(state["opt_state"]) if not x.sharding.is_fully_replicated]
    assert split and all(
        len(x.sharding.device_set) == 1 for x in jax.tree.leaves(restored["params"])
    )
    told = checkpoint.differences(checkpoints.meta(1)["environment"], checkpoint.environment(one))
    assert "mesh" in told and "float tolerance" in told
    assert checkpoint.differences(here, checkpoint.environment(many)) is None
    with pytest.raises(UserError, match="no checkpoint of step 9; there are: 1"):
        checkpoints.params(9, {})
    other = synthetic.config(dataclasses.replace(cfg.model, mlp_dim=56))
    with pytest.raises(UserError, match="not those of this config"):
        restore.restore(checkpoints, 1, train.make_setup(other, *synthetic.sizes_of(LOCK), one))


def test_metrics_file_is_cut_back_and_loses_a_broken_line(tmp_path):
    file = tmp_path / "metrics.jsonl"
    with MetricsLog(file, 0) as log:
        for step in (1, 2, 3):
            log.write(step, {"x": step / 10})
    with open(file, "a") as out:
        out.write('{"step": 4, "x"')
    with MetricsLog(file, 2):
        pass
    assert file.read_text() == '{"step": 1, "x": 0.1}\n{"step": 2, "x": 0.2}\n'


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory):
    run = synthetic.Folder(tmp_path_factory.mktemp("two_steps"))
    fit(synthetic.config(train={"steps": 2, "log_every": 1, "checkpoint_every": 2}), run)
    return run.path


@pytest.mark.parametrize("damage", ["nothing", "a digit", "zeros", "no file", "fewer lines"])
def test_what_a_resume_finds_changed_in_the_metrics_is_said(damage, two_steps, tmp_path, capsys):
    """The lines are known by the digest that the checkpoint holds; training itself does not read
    them."""
    run = synthetic.Folder(shutil.copytree(two_steps, tmp_path / "run"))
    file = run.metrics_jsonl
    sound = file.read_bytes()
    lines = sound.splitlines(keepends=True)
    harmed = {
        "nothing": sound,
        "a digit": sound.replace(b'"train/tokens": ', b'"train/tokens": 1'),
        "zeros": sound[: len(lines[0]) + 9] + bytes(len(lines[1]) - 9),
        "no file": b"",
        "fewer lines": lines[0],
    }[damage]
    file.write_bytes(harmed)
    assert len(lines) == 2 and (harmed == sound) == (damage == "nothing")
    if damage == "no file":
        file.unlink()
    capsys.readouterr()
    fit(synthetic.config(train={"steps": 3, "log_every": 1, "checkpoint_every": 2}), run)
    assert ("metrics.jsonl" in capsys.readouterr().err) == (damage != "nothing")
    fit(synthetic.config(train={"steps": 4, "log_every": 1, "checkpoint_every": 2}), run)
    # said once: the next checkpoint knows what is left
    assert "metrics.jsonl" not in capsys.readouterr().err


def test_user_errors_name_the_setting():
    with pytest.raises(UserError, match="data.global_batch=8 is not divisible by 3"):
        train.make_setup(
            synthetic.config(train={"microbatches": 3}), *synthetic.sizes_of(LOCK), mesh_of()
        )
    with pytest.raises(UserError, match="model.vocab_size=5 is below"):
        train.make_setup(
            synthetic.config(dataclasses.replace(synthetic.models()["t5"], vocab_size=5)),
            *synthetic.sizes_of(LOCK),
            mesh_of(),
        )
    told = "mesh.replica=1, mesh.data=3, mesh.fsdp=1, mesh.tensor=1 take 3 device.* there are 8: "
    with pytest.raises(UserError, match=told):
        mesh_of(8, data=3)
    with pytest.raises(UserError, match="take a multiple of 3 device.* there are 8: "):
        mesh_of(8, data=-1, tensor=3)
    with pytest.raises(UserError, match="^mesh.data=0: the size of a mesh axis is at least 1"):
        mesh_of(8, data=0)
    with pytest.raises(UserError, match="^mesh.data=-1 and mesh.fsdp=-1: "):
        mesh_of(8, data=-1, fsdp=-1)
