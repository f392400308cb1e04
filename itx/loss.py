# SPDX-License-Identifier: Apache-2.0
"""The loss: sums over tokens, and the one division.

loss = sum(nll * w) / sum(w) over the global batch. `sums` gives the two sums (and per-task ones) of
any part of a batch; parts are added up, over microbatches and devices, before `mean` divides.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Sums = dict[str, Array]


def sums(
    logits: Float[Array, "b t v"],
    targets: Int[Array, "b t"],
    weights: Float[Array, "b t"],
    tasks: Int[Array, "b t"],
    num_tasks: int,
    z_loss: float = 0.0,
    label_smoothing: float = 0.0,
) -> Sums:
    """Weighted sums over tokens, in float32.

    {"objective": what is minimised, with z-loss and smoothing, "loss": sum nll * w,
     "weight": sum w, "correct": sum [argmax = target] * w, "task_loss" [k], "task_weight" [k]}
    """
    log_z = jax.nn.logsumexp(logits, axis=-1)
    gold = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    nll = log_z - gold
    objective = nll
    if label_smoothing:  # the target's share s is spread evenly over the vocabulary
        uniform = log_z - jnp.mean(logits, axis=-1)
        objective = (1.0 - label_smoothing) * objective + label_smoothing * uniform
    if z_loss:
        objective = objective + z_loss * log_z**2
    # a padded position (w = 0) may hold any logits: keep even a NaN there out of the sums
    objective, nll = (jnp.where(weights > 0, x, 0.0) for x in (objective, nll))
    correct = (jnp.argmax(logits, axis=-1) == targets).astype(jnp.float32)
    one_hot = jax.nn.one_hot(tasks, num_tasks, dtype=jnp.float32)  # [b, t, k]
    return {
        "objective": jnp.sum(objective * weights),
        "loss": jnp.sum(nll * weights),
        "weight": jnp.sum(weights),
        "correct": jnp.sum(correct * weights),
        "task_loss": jnp.einsum("bt,btk->k", nll * weights, one_hot),
        "task_weight": jnp.einsum("bt,btk->k", weights, one_hot),
    }


def mean(total: Array, weight: Array) -> Array:
    """The one division. No weight at all gives NaN, and a step with NaN is skipped and recorded."""
    return total / weight


def at_loss_positions(batch: dict[str, Array]) -> tuple[Array, Array, Array]:
    """Targets, weights and task ids [b, t] at `loss_positions`; padding (-1) weighs nothing."""
    at = batch["loss_positions"]
    take = jnp.maximum(at, 0)
    targets, weights, tasks = (
        jnp.take_along_axis(batch[k], take, axis=1)
        for k in ("decoder_target_tokens", "decoder_loss_weights", "task_ids")
    )
    return targets, jnp.where(at >= 0, weights, 0.0), tasks
