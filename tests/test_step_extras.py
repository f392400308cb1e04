# SPDX-License-Identifier: Apache-2.0
"""NEFTune, the average of the parameters, and traces: off they change nothing, on they do, and the
invariances of a step hold with them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from itx import checkpoint, restore, tracing
from itx import config as configs
from itx.errors import UserError
from itx.models.noise import Noise
from tests import synthetic
from tests.test_train import LOCK, fit, mesh_of, one_step, read, same

SGD = {"name": "sgd", "warmup_steps": 0}
ON = {"neftune_alpha": 15.0, "ema": 0.9}
NAMES = ["decoder", pytest.param("t5", marks=pytest.mark.slow)]


def config(name: str = "decoder", **trained):
    return synthetic.config(synthetic.models()[name], optim=SGD, train=trained)


def agree(one: tuple, other: tuple) -> None:
    """Two results of `one_step` are those of the same step; with SGD a step is the gradient."""
    for key in ("loss", "weight", "grad_norm", "task_loss", "task_weight", "tokens"):
        np.testing.assert_allclose(one[0][key], other[0][key], rtol=2e-5, atol=2e-5, err_msg=key)
    for path in one[1]:
        np.testing.assert_allclose(one[1][path], other[1][path], rtol=2e-4, atol=2e-6, err_msg=path)


# ---- NEFTune


def test_noise_is_as_large_as_the_segments_length_says():
    """Uniform in ± alpha / sqrt(L × width), and none on padding."""
    tokens = jnp.arange(64, dtype=jnp.int32)[None]
    segments = jnp.asarray([[1] * 4 + [2] * 36 + [0] * 24], jnp.int32)
    positions = jnp.asarray([[*range(4), *range(36), *[0] * 24]], jnp.int32)
    keys = jax.random.split(jax.random.key(0), 1)
    width = 256
    added = np.asarray(Noise(keys, 6.0).of(tokens, segments, positions, width, 0))[0]
    for place, length in ((slice(0, 4), 4), (slice(4, 40), 36)):
        bound = 6.0 / np.sqrt(length * width)
        part = added[place]
        assert 0.98 * bound < np.abs(part).max() <= bound
        # the norm of a segment's noise is alpha / sqrt(3), whatever its length
        assert np.linalg.norm(part) == pytest.approx(6.0 / np.sqrt(3), rel=0.05)
        assert np.abs(part.mean()) < 0.1 * bound
    assert (added[40:] == 0).all()
    others = np.asarray(
        Noise(jax.random.split(jax.random.key(1), 1), 6.0).of(tokens, segments, positions, width, 0)
    )[0]
    assert not np.allclose(added, others) and not np.allclose(added[0], added[4])


@pytest.mark.parametrize("name", NAMES)
def test_noise_knows_neither_packing_nor_parts_nor_mesh(name):
    off, on = config(name), config(name, neftune_alpha=15.0)
    some = synthetic.examples(8, 3)
    packed = synthetic.batch([some[:3], some[3:6], some[6:], *[[]] * 5], on)
    alone = synthetic.batch([[e] for e in some], on)
    reference = one_step(on, packed)
    assert not np.allclose(reference[0]["loss"], one_step(off, packed)[0]["loss"], rtol=1e-4)
    agree(reference, one_step(on, alone))
    agree(reference, one_step(configs.changed(on, "train", microbatches=4), packed))
    agree(reference, one_step(on, packed, mesh_of(8, replica=2, fsdp=2, tensor=2)))
    agree(reference, one_step(on, packed))


def test_noise_differs_from_step_to_step():
    cfg = config(neftune_alpha=15.0)
    frozen_rate = configs.changed(cfg, "optim", learning_rate=0.0)
    mesh = mesh_of()
    state, frozen, setup = synthetic.init_state(frozen_rate, LOCK, mesh)
    batch, losses = synthetic.Batches(cfg).batch(0), []
    for _ in range(2):
        with jax.set_mesh(mesh):
            state, metrics = setup.step(state, frozen, batch)
        losses.append(float(metrics["loss"]))
    assert losses[0] != losses[1]


# ---- the average


def test_the_average_is_that_of_the_steps_and_what_a_reader_finds(tmp_path, capsys):
    cfg = synthetic.config(optim={**SGD, "learning_rate": 0.1}, train={"steps": 3, "ema": 0.15})
    seen, folder = [], synthetic.Folder(tmp_path)
    mesh = mesh_of()
    state, frozen, setup = synthetic.init_state(cfg, LOCK, mesh)
    expected = jax.device_get(state["params"])
    for step in range(3):
        with jax.set_mesh(mesh):
            state, _ = setup.step(state, frozen, synthetic.Batches(cfg).batch(step))
        params = jax.device_get(state["params"])
        decay = min(0.15, (1 + step) / (10 + step))  # 0.1, then 0.15 twice
        expected = {p: decay * expected[p] + (1 - decay) * params[p] for p in params}
        seen.append(params)
    final = fit(cfg, folder)
    assert same(final["params"], seen[-1])
    for path, value in expected.items():
        np.testing.assert_allclose(final["ema"][path], value, rtol=1e-5, atol=1e-7)
    assert not same(final["ema"], final["params"])
    with checkpoint.Checkpoints(folder.checkpoints, read_only=True) as checkpoints:
        saved = checkpoints.params(3, setup.saved_specs)
    assert same(jax.device_get(saved), final["ema"])
    assert "exported is the average" in capsys.readouterr().err
    plain = configs.changed(cfg, "train", ema=0.0)
    alone = fit(plain, synthetic.Folder(tmp_path / "plain"))
    assert same(alone["params"], final["params"]) and "ema" not in alone
    assert "average" not in capsys.readouterr().err


def test_a_skipped_step_leaves_the_average_as_it_is():
    cfg = synthetic.config(train={"ema": 0.9})
    mesh = mesh_of()
    state, frozen, setup = synthetic.init_state(cfg, LOCK, mesh)
    before = jax.device_get(state["ema"])
    with jax.set_mesh(mesh):
        bad = synthetic.Batches(cfg, bad_steps=(0,)).batch(0)
        state, metrics = setup.step(state, frozen, bad)
        assert metrics["skipped"] and same(jax.device_get(state["ema"]), before)
        state, metrics = setup.step(state, frozen, synthetic.Batches(cfg).batch(1))
    assert not metrics["skipped"] and not same(jax.device_get(state["ema"]), before)


def test_resume_with_all_of_it_is_bitwise(tmp_path):
    cfg = synthetic.config(
        train={"steps": 6, "log_every": 2, "checkpoint_every": 2, **ON},
        optim={"name": "adamw", "warmup_steps": 1, "schedule": "wsd", "decay_steps": 6},
    )
    whole, parts = synthetic.Folder(tmp_path / "a"), synthetic.Folder(tmp_path / "b")
    straight = fit(cfg, whole)
    fit(configs.changed(cfg, "train", steps=4), parts)
    resumed = fit(cfg, parts)
    assert same(straight, resumed) and {"params", "ema"} < straight.keys()
    assert read(whole) == read(parts) and len(read(whole)) == 3
    assert read(whole)[0]["train/update_norm"] > 0


def test_a_run_without_the_average_cannot_go_on_with_it(tmp_path):
    cfg, folder = synthetic.config(), synthetic.Folder(tmp_path)
    fit(cfg, folder)
    with_it = configs.changed(cfg, "train", ema=0.9, steps=6)
    assert restore.shapes_by_name(
        restore.plan_model(with_it, synthetic.VOCAB)
    ) != restore.shapes_by_name(restore.plan_model(cfg, synthetic.VOCAB))
    with pytest.raises(UserError, match="not those of this config"):
        fit(with_it, folder)


# ---- traces


def test_a_trace_of_some_steps(tmp_path, capsys):
    cfg = synthetic.config(train={"profile": "2:3"})
    fit(cfg, synthetic.Folder(tmp_path))
    assert "a trace of the steps from 2 to 3: " in capsys.readouterr().err
    traces = list((tmp_path / "profile").rglob("*.xplane.pb"))
    assert len(traces) == 1 and traces[0].stat().st_size > 1000
    later = configs.changed(cfg, "train", steps=6)
    fit(later, synthetic.Folder(tmp_path))
    assert "training goes on at step 5: no trace" in capsys.readouterr().err
    assert list((tmp_path / "profile").rglob("*.xplane.pb")) == traces


@pytest.mark.parametrize("setting", ["5", "0:3", "7:3", "a:b", "1:2:3"])
def test_a_wrong_range_of_steps_is_refused(setting):
    with pytest.raises(UserError, match="give the first and the last step"):
        tracing.steps_of(setting)


# ---- the update's norm


def test_the_update_norm_is_how_far_a_step_moves():
    cfg = config()
    before = jax.device_get(synthetic.init_state(cfg, LOCK, mesh_of())[0]["params"])
    metrics, after, _ = one_step(cfg, synthetic.Batches(cfg).batch(0))
    moved = np.sqrt(sum(np.sum((after[p] - before[p]) ** 2) for p in before))
    assert moved > 0 and metrics["update_norm"] == pytest.approx(float(moved), rel=1e-4)
