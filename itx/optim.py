# SPDX-License-Identifier: Apache-2.0
"""Optimizers and schedules from optax by name; tables of regexes say how parameters are treated.

`make` gives a transformation from gradients to a *direction*: clipped, preconditioned, decayed,
multiplied per parameter. The train step subtracts schedule(step, peak) times it, so the rate
depends on the step and the peak alone and is the same number that is logged.

Parameters are a flat dict {path: array}, e.g. "decoder/blocks/mlp/w_in" [layers, embed, mlp].
"""

import inspect
import math
import re
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import optax

from itx.config import OptimConfig
from itx.errors import UserError, check_known, did_you_mean

Names = dict[str, tuple[str, ...]]  # path -> logical axis names


def adamw(names: Names, b1=0.9, b2=0.999, eps=1e-8, nesterov=False) -> optax.GradientTransformation:
    return optax.scale_by_adam(b1=b1, b2=b2, eps=eps, nesterov=bool(nesterov))


def sgd(names: Names, momentum=0.0, nesterov=False) -> optax.GradientTransformation:
    return optax.trace(decay=momentum, nesterov=bool(nesterov)) if momentum else optax.identity()


def lion(names: Names, b1=0.9, b2=0.99) -> optax.GradientTransformation:
    return optax.scale_by_lion(b1=b1, b2=b2)


def adafactor(
    names: Names,
    decay_rate=0.8,
    clip_threshold=1.0,
    multiply_by_parameter_scale=True,
    min_dim_size_to_factor=128,
) -> optax.GradientTransformation:
    """optax.adafactor's chain without its learning rate; block statistics span stacked layers."""
    factored = optax.scale_by_factored_rms(
        decay_rate=decay_rate, min_dim_size_to_factor=int(min_dim_size_to_factor)
    )
    scale = optax.scale_by_param_block_rms() if multiply_by_parameter_scale else optax.identity()
    return optax.chain(factored, optax.clip_by_block_rms(clip_threshold), scale)


def muon(
    names: Names,
    beta=0.95,
    ns_steps=5,
    nesterov=True,
    consistent_rms=0.2,
    adam_b1=0.9,
    adam_b2=0.95,
    eps=1e-8,
) -> optax.GradientTransformation:
    """Muon on the matrices of the layers, Adam on embeddings, output layer, norms and biases.

    consistent_rms=0.2 gives its updates the root mean square of Adam's, so that one learning rate
    suits both (Liu et al. 2025, arXiv:2502.16982).
    """
    from optax import contrib

    dims = {p: d for p, axes in names.items() if (d := matrix_axes(axes)) is not None}

    def dims_of(params):  # the tree that optax.partition hands on masks the others
        return {p: dims.get(p, optax.MaskedNode()) for p in params}

    def same_rms(updates, _):
        def scaled(path, update):
            inputs, outputs = (math.prod(update.shape[i] for i in axes) for axes in dims[path])
            return update * (max(inputs, outputs) ** 0.5 * consistent_rms)

        return {p: scaled(p, u) if p in dims else u for p, u in updates.items()}

    matrices = optax.chain(
        contrib.scale_by_muon(
            ns_steps=int(ns_steps),
            beta=beta,
            eps=eps,
            nesterov=bool(nesterov),
            weight_dimension_numbers=dims_of,
        ),
        optax.stateless(same_rms),
    )
    others = optax.scale_by_adam(b1=adam_b1, b2=adam_b2, eps=eps)
    return optax.partition(
        {"muon": matrices, "adam": others},
        lambda params: {p: "muon" if p in dims else "adam" for p in params},
    )


def matrix_axes(axes: tuple[str, ...]) -> tuple | None:
    """Muon's dimension numbers of a parameter with these logical names; None: not a matrix.

    Input dimensions and output dimensions are flattened; stacked layers are matrices of their own.
    """
    from optax.contrib import MuonDimensionNumbers

    inner = [i for i, a in enumerate(axes) if a != "layers"]
    if len(inner) < 2 or {"vocab", "relpos", "rank", "prompt"} & set(axes) or "embed" not in axes:
        return None
    embed = (axes.index("embed"),)
    others = tuple(i for i in inner if i not in embed)
    reads = embed[0] == inner[0]  # from the stream: wq, wk, wv, w_in, w_gate; to it: wo, w_out
    return MuonDimensionNumbers(embed, others) if reads else MuonDimensionNumbers(others, embed)


# A new optimizer is one entry: (names, **kwargs) -> direction of the step, learning rate left out.
OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adamw": adamw,
    "adafactor": adafactor,
    "sgd": sgd,
    "lion": lion,
    "muon": muon,
}


def make(
    config: OptimConfig, names: Names, frozen: Iterable[str] = ()
) -> optax.GradientTransformation:
    """Gradient -> direction for trainable parameters with these names; patterns may also match
    `frozen` ones. UserError for an unknown name, argument or pattern."""
    check_known(config.name, OPTIMIZERS, f"optim.name={config.name!r}")
    build, kwargs = OPTIMIZERS[config.name], dict(config.kwargs or {})
    known = list(inspect.signature(build).parameters)[1:]
    for key in kwargs:
        check_known(key, known, f"optim.kwargs: {config.name} has no {key!r}")
    paths = [*names, *frozen]
    chain = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    chain.append(build(names, **kwargs))
    if config.weight_decay:
        decayed = matching("optim.decay", config.decay, paths)
        mask = {p: p in decayed for p in names}
        if not any(mask.values()):
            raise UserError(
                f"optim.weight_decay={config.weight_decay}: optim.decay matches nothing that trains"
            )
        chain.append(optax.add_decayed_weights(config.weight_decay, mask=mask))
    if config.lr_multipliers:
        factors = first_match("optim.lr_multipliers", config.lr_multipliers, paths, 1.0)
        chain.append(optax.stateless(lambda u, _: {p: x * factors[p] for p, x in u.items()}))
    return optax.chain(*chain)


def schedule(config: OptimConfig, steps: int) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """(step, peak) -> learning rate: linear warm-up, then `config.schedule` until `decay_steps`.

    The peak is handed in, rather than read from `config`, so that one compiled step serves all.
    """
    warmup, final = config.warmup_steps, config.final_share
    end = config.decay_steps or steps
    decay = max(end - warmup, 1)
    cooldown = min(max(round(config.cooldown_share * end), 1), decay)
    after = {
        "constant": optax.constant_schedule,
        "cosine": lambda peak: optax.cosine_decay_schedule(peak, decay, final),
        "linear": lambda peak: optax.linear_schedule(peak, peak * final, decay),
        "wsd": lambda peak: _wsd(peak, decay, cooldown, final),
        "rsqrt": lambda peak: lambda t: peak * (max(warmup, 1) / (t + max(warmup, 1))) ** 0.5,
    }
    check_known(config.schedule, after, f"optim.schedule={config.schedule!r}")

    def rate(t: jax.Array, peak: jax.Array) -> jax.Array:
        rest = after[config.schedule](peak)
        if not warmup:
            return rest(t)
        # Step 0 already moves, at the rate peak / warmup; the peak is at step warmup - 1.
        return jnp.where(t < warmup, peak * (t + 1) / warmup, rest(t - warmup))

    return rate


def _wsd(peak: jax.Array, decay: int, cooldown: int, final: float) -> optax.Schedule:
    """Warm-up, stable, decay (Hu et al. 2024, arXiv:2404.06395): the peak, and over the last
    `cooldown` of `decay` steps a line down to peak × final."""
    return lambda t: (
        peak * (1.0 - (1.0 - final) * jnp.clip((t - (decay - cooldown)) / cooldown, 0.0, 1.0))
    )


def matching(key: str, patterns: Iterable[str], paths: Iterable[str]) -> set[str]:
    """Paths that some pattern matches in full; a pattern that matches none is a UserError."""
    paths, matched = list(paths), set()
    for pattern in patterns:
        try:
            hits = [p for p in paths if re.fullmatch(pattern, p)]
        except re.error as e:
            raise UserError(f"{key}: {pattern!r} is not a regular expression ({e})") from e
        if not hits:
            raise UserError(
                f"{key}: {pattern!r} matches no parameter" + did_you_mean(pattern, paths)
            )
        matched.update(hits)
    return matched


def first_match(
    key: str, table: Iterable[tuple[str, float]], paths: Iterable[str], default: float
) -> dict[str, float]:
    """{path: value of the first pattern that matches it}, `default` if none does."""
    values = dict.fromkeys(paths, default)
    for pattern, value in reversed(list(table)):
        values.update(dict.fromkeys(matching(key, [pattern], values), float(value)))
    return values
