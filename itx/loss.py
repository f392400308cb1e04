# SPDX-License-Identifier: Apache-2.0
"""The loss: sums over tokens, and the one division.

loss = sum(nll * w) / sum(w) over the global batch. `sums` gives the two sums (and per-task ones) of
any part of a batch; parts are added up, over microbatches and devices, before `mean` divides.
`of_states` gives the same from the last layer's output, and never holds the logits of all
positions.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from itx import mesh as meshes
from itx.models.layers import fold
from itx.models.noise import Noise
from itx.models.transformer import Transformer

Sums = dict[str, Array]
# Float32 logits that a device holds at once: more are computed in parts. A GPU takes GPU_FACTOR
# times as many, for there each part's pass over the table's gradient shows (H200: 33 parts took
# 6 % of a step).
LOGITS_BYTES, GPU_FACTOR = 2**28, 4


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
    # The gold logit is found by comparison. A gather's gradient would be a scatter, and a gather
    # would bring a split vocabulary together.
    place = jnp.arange(logits.shape[-1], dtype=jnp.int32)
    gold = jnp.sum(jnp.where(place == targets[..., None], logits, 0.0), axis=-1)
    nll = log_z - gold
    objective = nll
    if label_smoothing:  # the target's share s is spread evenly over the vocabulary
        uniform = log_z - jnp.mean(logits, axis=-1)
        objective = (1.0 - label_smoothing) * objective + label_smoothing * uniform
    if z_loss:
        objective = objective + z_loss * log_z**2
    # a padded position (w = 0) may hold any logits: keep even a NaN there out of the sums
    objective, nll = (jnp.where(weights > 0, x, 0.0) for x in (objective, nll))
    # whether argmax is the target, without argmax, which takes a tenth of the head's time on a CPU
    equal = logits == gold[..., None]
    above = (logits > gold[..., None]) | (equal & (place < targets[..., None]))
    correct = (~jnp.any(above, axis=-1)).astype(jnp.float32)
    return {
        "objective": jnp.sum(objective * weights),
        "loss": jnp.sum(nll * weights),
        "weight": jnp.sum(weights),
        "correct": jnp.sum(correct * weights),
        "task_loss": by_task(nll * weights, tasks, num_tasks),
        "task_weight": by_task(weights, tasks, num_tasks),
    }


def by_task(
    values: Float[Array, "b t"], tasks: Int[Array, "b t"], num_tasks: int
) -> Float[Array, "k"]:
    """The sum of the values of each task."""
    return jax.ops.segment_sum(values.reshape(-1), tasks.reshape(-1), num_tasks)


def of_states(
    unembed: Callable[[Array, Array], Array],
    x: Float[Array, "b t e"],
    table: Float[Array, "e v"],
    targets: Int[Array, "b t"],
    weights: Float[Array, "b t"],
    tasks: Int[Array, "b t"],
    trains: bool = True,
    **settings,
) -> Sums:
    """`sums` of the logits unembed(x, table); `settings` are its other arguments, `trains` says
    whether the table trains.

    If a device would hold more than LOGITS_BYTES of them, positions are taken in parts, and each
    part's gradient is computed with its sums: the logits are computed once, and a part's are gone
    when the next begins.

    Memory: about c × min(LOGITS_BYTES, 4 × b × t × v / devices) bytes on each device, where c,
    between 2 and 3.2 as XLA reports it, counts the logits, their gradient and what a split
    vocabulary moves; t is the positions that carry loss, so a step whose cap is 40 % of the row
    needs 40 % of what one with the logits of all positions does.
    """
    b, t, _ = x.shape
    devices, groups = meshes.active()
    max_bytes = LOGITS_BYTES * (GPU_FACTOR if meshes.platform() == "gpu" else 1)
    parts = math.ceil(4 * b * t * table.shape[1] / devices / max_bytes)
    if parts <= 1 or b % groups:
        logits = meshes.constrain(unembed(x, table), "batch", "length", "vocab")
        return sums(logits, targets, weights, tasks, **settings)
    width = math.ceil(t / parts)
    table = meshes.constrain(table, None, "vocab")  # brought together once, not in each part

    def cut(a):
        """[b, t, …] -> [parts, groups, b / groups, width, …]; added places weigh nothing."""
        a = jnp.pad(a, ((0, 0), (0, parts * width - t), *((0, 0),) * (a.ndim - 2)))
        a = jnp.moveaxis(a.reshape(groups, b // groups, parts, width, *a.shape[2:]), 2, 0)
        return meshes.constrain(a, None, "batch", *[None] * (a.ndim - 2))

    def of_part(table, x, labels):
        part_sums = sums(unembed(x, table), *labels, **settings)
        return part_sums["objective"], part_sums

    return summed_parts(of_part, trains)(table, cut(x), tuple(map(cut, (targets, weights, tasks))))


def summed_parts(of_part: Callable, trains: bool) -> Callable[[Array, Array, tuple], Sums]:
    """A function (table, x, labels) -> sums over all parts, with a gradient of its own, which the
    forward pass computes along with the sums. Only the objective is ever differentiated.

    `of_part`: (table, x, labels) of one part -> (objective, sums); x and each label are [parts,
    groups, …] outside it. The table's gradient stays apart for each group until the parts are done,
    so it is summed over devices once.
    """

    def zeros(table, *parts: Any):
        first = jax.tree.map(lambda a: a[0, 0], parts)
        shapes = jax.eval_shape(lambda: of_part(table, *first)[1])
        return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

    def add(total, of_groups):
        return jax.tree.map(lambda a, b: a + b.sum(0), total, of_groups)

    def split(a):
        return meshes.constrain(a, "batch", None, "vocab")

    @jax.custom_vjp
    def run(table, x, labels):
        def one(total, part):
            return add(total, jax.vmap(of_part, (None, 0, 0))(table, *part)[1]), None

        return jax.lax.scan(one, zeros(table, x, labels), (x, labels))[0]

    def forward(table, x, labels):
        which = (1, 0) if trains else (1,)
        gradient = jax.vmap(jax.grad(of_part, which, has_aux=True), (None, 0, 0))

        def one(carry, part):
            total, of_table = carry
            (of_x, *part_of_table), part_sums = gradient(table, *part)
            of_table = [split(a + b) for a, b in zip(of_table, part_of_table, strict=True)]
            return (add(total, part_sums), of_table), of_x

        none = [split(jnp.zeros((x.shape[1], *table.shape), jnp.float32))] if trains else []
        carry, of_x = jax.lax.scan(one, (zeros(table, x, labels), none), (x, labels))
        total, of_table = carry
        return total, (of_table[0].sum(0).astype(table.dtype) if trains else None, of_x)

    def backward(gradients, given):
        scale = given["objective"]
        return *jax.tree.map(lambda g: (g * scale).astype(g.dtype), gradients), None

    run.defvjp(forward, backward)
    return run


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


def batch_sums(
    model: Transformer,
    batch: dict[str, Array],
    dropout_keys: Key[Array, "b"] | None = None,
    trains: bool = False,
    noise: Noise | None = None,
    **settings,
) -> Sums:
    """The sums of a batch; `trains` says that the output table does, `settings` are those of
    `sums`."""
    states, labels = model.states(batch, dropout_keys, noise=noise), at_loss_positions(batch)
    if model.head_adapter is not None:  # an adapter trains instead of the table: all logits at once
        return sums(model.logits(states, fold(dropout_keys, 3)), *labels, **settings)
    return of_states(model.unembed, states, model.table, *labels, trains=trains, **settings)
