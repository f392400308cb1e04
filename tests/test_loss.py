# SPDX-License-Identifier: Apache-2.0
"""The loss against its definition, and what it must not depend on."""

import contextlib
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from itx import loss
from itx import mesh as meshes
from itx.config import MeshConfig


def inputs():
    r = np.random.default_rng(0)
    logits = r.normal(size=(2, 3, 5)).astype(np.float32) * 3
    targets = np.array([[1, 4, 0], [2, 2, 3]], np.int32)
    weights = np.array([[1.0, 0.5, 0.0], [2.0, 0.0, 1.0]], np.float32)
    tasks = np.array([[0, 0, 1], [1, 1, 1]], np.int32)
    return logits, targets, weights, tasks


def by_hand(logits, targets, weights, z_loss=0.0, smoothing=0.0):
    total = 0.0
    for i in np.ndindex(targets.shape):
        z = np.log(np.exp(logits[i].astype(np.float64)).sum())
        share = np.full(5, smoothing / 5)
        share[targets[i]] += 1 - smoothing
        total += weights[i] * (-(share * (logits[i] - z)).sum() + z_loss * z * z)
    return total


def test_sums_are_the_definition():
    logits, targets, weights, tasks = inputs()
    s = loss.sums(*map(jnp.asarray, (logits, targets, weights, tasks)), num_tasks=3)
    np.testing.assert_allclose(s["loss"], by_hand(logits, targets, weights), rtol=1e-5)
    assert float(s["objective"]) == float(s["loss"]) and float(s["weight"]) == 4.5
    np.testing.assert_allclose(s["task_weight"], [1.5, 3.0, 0.0])
    np.testing.assert_allclose(s["task_loss"].sum(), s["loss"], rtol=1e-5)
    np.testing.assert_allclose(
        s["task_loss"][0], by_hand(logits[:1], targets[:1], weights[:1]), rtol=1e-5
    )
    np.testing.assert_allclose(s["correct"], ((logits.argmax(-1) == targets) * weights).sum())


@pytest.mark.parametrize(("z_loss", "smoothing"), [(0.1, 0.0), (0.0, 0.2), (0.1, 0.2)])
def test_z_loss_and_smoothing_change_the_objective_alone(z_loss, smoothing):
    logits, targets, weights, tasks = inputs()
    s = loss.sums(*map(jnp.asarray, (logits, targets, weights, tasks)), 3, z_loss, smoothing)
    np.testing.assert_allclose(s["loss"], by_hand(logits, targets, weights), rtol=1e-5)
    want = by_hand(logits, targets, weights, z_loss, smoothing)
    np.testing.assert_allclose(s["objective"], want, rtol=1e-5)
    assert abs(want - float(s["loss"])) > 0.1


def test_a_place_without_weight_cannot_spoil_the_sums():
    logits, targets, weights, tasks = inputs()
    logits[0, 2] = np.nan  # weight 0
    s = loss.sums(*map(jnp.asarray, (logits, targets, weights, tasks)), 3)
    assert np.isfinite(float(s["objective"])) and np.isfinite(s["task_loss"]).all()
    logits[0, 1] = np.nan  # weight 0.5
    assert np.isnan(
        float(loss.sums(*map(jnp.asarray, (logits, targets, weights, tasks)), 3)["loss"])
    )


def test_loss_positions_pick_and_pad():
    batch = {
        "decoder_target_tokens": jnp.asarray([[5, 6, 7, 8]]),
        "decoder_loss_weights": jnp.asarray([[0.0, 2.0, 0.0, 3.0]]),
        "task_ids": jnp.asarray([[0, 1, 1, 2]]),
        "loss_positions": jnp.asarray([[1, 3, -1]]),
    }
    targets, weights, tasks = loss.at_loss_positions(batch)
    np.testing.assert_array_equal(targets[0, :2], [6, 8])
    np.testing.assert_array_equal(weights, [[2.0, 3.0, 0.0]])
    np.testing.assert_array_equal(tasks[0, :2], [1, 2])


@pytest.mark.parametrize("t", [12, 13])
@pytest.mark.parametrize("mesh", [None, (1, 1), (4, 2)])
def test_logits_in_parts_give_the_same_sums_and_gradients(monkeypatch, mesh, t):
    """13 positions do not divide into parts; z-loss and smoothing are on; the table is tied to
    other use."""
    b, e, v = 4, 8, 24
    r = np.random.default_rng(0)
    x, table = (jnp.asarray(r.normal(size=s), jnp.float32) for s in ((b, t, e), (e, v)))
    targets = jnp.asarray(r.integers(0, v, (b, t)), jnp.int32)
    weights = jnp.asarray(r.choice([0.0, 0.5, 2.0], (b, t)), jnp.float32)
    tasks = jnp.asarray(r.integers(0, 3, (b, t)), jnp.int32)
    held = []

    def unembed(x, table):
        held.append(x.shape)
        return (x @ table).astype(jnp.float32)

    def objective(x, table):
        more = {"num_tasks": 3, "z_loss": 0.01, "label_smoothing": 0.1}
        sums = loss.of_states(unembed, x, table, targets, weights, tasks, **more)
        return 3.0 * sums["objective"] + jnp.sum(table), sums

    def run():
        held.clear()
        return jax.jit(jax.value_and_grad(objective, (0, 1), has_aux=True))(x, table)

    devices = 1 if mesh is None else math.prod(mesh)
    with (
        contextlib.nullcontext()
        if mesh is None
        else jax.set_mesh(
            meshes.make_mesh(MeshConfig(data=mesh[0], tensor=mesh[1]), jax.devices()[:devices])
        )
    ):
        whole = run()
        assert held == [(b, t, e)]
        # three positions of every row
        monkeypatch.setattr(loss, "LOGITS_BYTES", 4 * b * 3 * v // devices)
        parts = run()
        assert {s[-2] for s in held} == {3}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6, atol=2e-6), whole, parts)


def test_a_frozen_table_has_no_gradient_in_parts(monkeypatch):
    b, t, e, v = 2, 8, 6, 20
    r = np.random.default_rng(0)
    x, table = (jnp.asarray(r.normal(size=s), jnp.float32) for s in ((b, t, e), (e, v)))
    targets, tasks = jnp.asarray(r.integers(0, v, (b, t))), jnp.zeros((b, t), jnp.int32)
    monkeypatch.setattr(loss, "LOGITS_BYTES", 4 * b * 3 * v)

    def of_x(trains):
        def objective(x):
            settings = {"num_tasks": 1, "trains": trains}
            return loss.of_states(
                jnp.matmul, x, table, targets, jnp.ones((b, t)), tasks, **settings
            )["objective"]

        return jax.grad(objective)

    np.testing.assert_allclose(of_x(True)(x), of_x(False)(x), rtol=1e-6)
    shape = f"f32[1,{e},{v}]"  # one for each group of devices
    assert shape in str(jax.make_jaxpr(of_x(True))(x)) and shape not in str(
        jax.make_jaxpr(of_x(False))(x)
    )
