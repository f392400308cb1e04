# SPDX-License-Identifier: Apache-2.0
"""The train step: (state, frozen, batch, peak) -> (state, metrics).

The state is a dict {"params": {path: array}, "opt_state": …, "step": int32}, with train.ema also
{"ema": {path: array}}, the average of the parameters, which is what is evaluated. Parameters that
do not train (frozen by name, or the base under an adapter) stand apart in `frozen` {path: array}:
gradients and the optimizer's state exist for the others alone. loss = sum(nll * w) / sum(w) over
the global batch, divided once.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from itx import loss, optim
from itx.config import RunConfig
from itx.models.noise import Noise
from itx.params import Params, module_of
from itx.restore import Metrics, ModelPlan, State

NOISE_SALT = 2**31 - 1  # beyond the rows that dropout's keys are folded with


def make_step(
    plan: ModelPlan, config: RunConfig, num_tasks: int
) -> Callable[[State, Params, dict, jax.Array], tuple[State, Metrics]]:
    """The train step, not yet compiled: (state, frozen, batch, peak learning rate) -> (state,
    metrics).

    metrics: sums over the batch {"loss", "weight", "correct", "task_loss" [k], "task_weight" [k],
    "tokens", "cells"} and {"grad_norm", "update_norm", "learning_rate", "skipped"}.
    """
    train, tx = config.train, plan.tx
    rate = optim.schedule(config.optim, train.steps)
    more = {"z_loss": train.z_loss, "label_smoothing": train.label_smoothing}

    def objective(params, frozen, batch):
        batch = dict(batch)
        keys, noise_keys = (batch.pop(f"{name}_keys", None) for name in ("dropout", "noise"))
        noise = None if noise_keys is None else Noise(noise_keys, train.neftune_alpha)
        model = module_of(plan.graphdef, {**frozen, **params})
        trains = ("embedding" if model.head is None else "head") in params
        settings = {"trains": trains, "num_tasks": num_tasks, **more}
        sums = loss.batch_sums(model, batch, keys, noise=noise, **settings)
        return sums["objective"], sums

    def step(state, frozen, batch, peak):
        params = state["params"]
        batch = {**batch, **random_keys(config, state["step"], len(batch["task_ids"]))}
        grads, sums = summed_gradients(objective, params, frozen, batch, train.microbatches)
        grads = jax.tree.map(lambda g: loss.mean(g, sums["weight"]), grads)
        grad_norm = optax.tree.norm(grads)
        ok = jnp.isfinite(grad_norm) & jnp.isfinite(loss.mean(sums["objective"], sums["weight"]))
        direction, opt_state = tx.update(grads, state["opt_state"], params)
        lr = jnp.asarray(rate(state["step"], peak), jnp.float32)
        moved = jax.tree.map(lambda p, u: p - lr * u, params, direction)
        # a step without a finite loss and gradient changes nothing but the count of steps
        old = {k: v for k, v in state.items() if k != "step"}
        new = {"params": moved, "opt_state": opt_state}
        if train.ema:
            new["ema"] = averaged(state["ema"], moved, state["step"], train.ema)
        new = jax.tree.map(lambda n, o: jnp.where(ok, n, o), new, old)
        segments = [v for k, v in batch.items() if k.endswith("segment_ids")]
        tokens = sum(jnp.sum(s > 0, dtype=jnp.int32) for s in segments)
        metrics = {"grad_norm": grad_norm, "learning_rate": lr, "skipped": ~ok, "tokens": tokens}
        metrics["update_norm"] = lr * optax.tree.norm(direction)
        return {**new, "step": state["step"] + 1}, {**sums, **metrics}

    return step


def random_keys(config: RunConfig, step: jax.Array, rows: int) -> dict[str, jax.Array]:
    """{"dropout_keys", "noise_keys"} [b] of a step, those that the config asks for: dropout's
    differ by row, and noise tells segments apart itself (itx/models/noise.py)."""
    key, keys = jax.random.fold_in(jax.random.key(config.train.seed), step), {}
    if config.model.dropout or config.peft.dropout:
        row = jnp.arange(rows, dtype=jnp.int32)
        keys["dropout_keys"] = jax.vmap(lambda r: jax.random.fold_in(key, r))(row)
    if config.train.neftune_alpha:
        own = jax.random.fold_in(key, NOISE_SALT)
        keys["noise_keys"] = jnp.broadcast_to(own, (rows,))
    return keys


def averaged(average: Params, params: Params, step: jax.Array, decay: float) -> Params:
    """The exponential moving average after a step. It decays faster over the first steps, by (1 +
    t) / (10 + t), as in TensorFlow's ExponentialMovingAverage: else the parameters that a run
    begins from would stay in it for long."""
    rest = 1.0 - jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda a, p: a + rest.astype(a.dtype) * (p - a), average, params)


def summed_gradients(
    objective: Callable, params: Params, frozen: Params, batch: dict, microbatches: int
) -> tuple[Params, loss.Sums]:
    """Gradient of the summed objective and the sums, over `microbatches` parts of the batch."""
    gradient = jax.grad(objective, has_aux=True)
    if microbatches == 1:
        return gradient(params, frozen, batch)
    # part i holds rows i, i + m, i + 2m, …: every device keeps the rows it has
    parts = jax.tree.map(lambda x: x.reshape(-1, microbatches, *x.shape[1:]).swapaxes(0, 1), batch)
    first = jax.tree.map(lambda x: x[0], parts)
    shapes = jax.eval_shape(gradient, params, frozen, first)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

    def add(total, part):
        return jax.tree.map(jnp.add, total, gradient(params, frozen, part)), None

    return jax.lax.scan(add, zeros, parts)[0]
