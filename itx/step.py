# SPDX-License-Identifier: Apache-2.0
"""The train step: (state, frozen, batch, peak) -> (state, metrics).

The state is a dict {"params": {path: array}, "opt_state": …, "step": int32}. Parameters that do not
train (frozen by name, or the base under an adapter) stand apart in `frozen` {path: array}:
gradients and the optimizer's state exist for the others alone. loss = sum(nll * w) / sum(w) over
the global batch, divided once.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from itx import loss, optim
from itx.config import RunConfig
from itx.params import Params, module_of
from itx.restore import Metrics, ModelPlan, State


def make_step(
    plan: ModelPlan, config: RunConfig, num_tasks: int
) -> Callable[[State, Params, dict, jax.Array], tuple[State, Metrics]]:
    """The train step, not yet compiled: (state, frozen, batch, peak learning rate) -> (state,
    metrics).

    metrics: sums over the batch {"loss", "weight", "correct", "task_loss" [k], "task_weight" [k],
    "tokens", "cells"} and {"grad_norm", "learning_rate", "skipped"}.
    """
    train, tx = config.train, plan.tx
    rate = optim.schedule(config.optim, train.steps)
    more = {"z_loss": train.z_loss, "label_smoothing": train.label_smoothing}

    def objective(params, frozen, batch):
        batch = dict(batch)
        keys = batch.pop("dropout_keys", None)
        model = module_of(plan.graphdef, {**frozen, **params})
        trains = ("embedding" if model.head is None else "head") in params
        sums = loss.batch_sums(model, batch, keys, trains=trains, num_tasks=num_tasks, **more)
        return sums["objective"], sums

    def step(state, frozen, batch, peak):
        params = state["params"]
        if config.model.dropout or config.peft.dropout:
            key = jax.random.fold_in(jax.random.key(train.seed), state["step"])
            row = jnp.arange(len(batch["task_ids"]), dtype=jnp.int32)
            batch = {**batch, "dropout_keys": jax.vmap(lambda r: jax.random.fold_in(key, r))(row)}
        grads, sums = summed_gradients(objective, params, frozen, batch, train.microbatches)
        grads = jax.tree.map(lambda g: loss.mean(g, sums["weight"]), grads)
        grad_norm = optax.tree.norm(grads)
        ok = jnp.isfinite(grad_norm) & jnp.isfinite(loss.mean(sums["objective"], sums["weight"]))
        direction, opt_state = tx.update(grads, state["opt_state"], params)
        lr = jnp.asarray(rate(state["step"], peak), jnp.float32)
        moved = jax.tree.map(lambda p, u: p - lr * u, params, direction)
        # a step without a finite loss and gradient changes nothing but the count of steps
        old = {"params": params, "opt_state": state["opt_state"]}
        new = {"params": moved, "opt_state": opt_state}
        new = jax.tree.map(lambda n, o: jnp.where(ok, n, o), new, old)
        segments = [v for k, v in batch.items() if k.endswith("segment_ids")]
        tokens = sum(jnp.sum(s > 0, dtype=jnp.int32) for s in segments)
        metrics = {"grad_norm": grad_norm, "learning_rate": lr, "skipped": ~ok, "tokens": tokens}
        return {**new, "step": state["step"] + 1}, {**sums, **metrics}

    return step


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
