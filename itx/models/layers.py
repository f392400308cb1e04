# SPDX-License-Identifier: Apache-2.0
"""The small parts of a block: norm, MLP, rotary positions, dropout, initialisers.

Letters for dimensions, here and in attention.py, block.py and transformer.py:
    b batch    l length   q, k query and key length   t loss positions   e embed
    n heads    g kv_heads d head_dim    p virtual tokens    f mlp         v vocab

Parameters are kept in float32 and cast to the activations' type where they are used. Each carries
logical axis names (`out_sharding=`), which itx/mesh.py maps to mesh axes.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from itx.config import ModelConfig

ACTIVATIONS = {
    "silu": jax.nn.silu,
    "relu": jax.nn.relu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=True),  # T5 1.1's and Gemma's is the tanh form
    "gelu_exact": lambda x: jax.nn.gelu(x, approximate=False),
}

Rope = tuple[Array, Array]  # cos and sin of each position's angles, [b, 1, l, d / 2] each


def logical(axes: tuple[str, ...]) -> dict:
    """Metadata that names a parameter's axes. itx/mesh.py places the parameter, not NNX."""
    return {"out_sharding": axes, "eager_sharding": False}


def normal(rngs: nnx.Rngs, shape: tuple[int, ...], std: float, axes: tuple[str, ...]) -> nnx.Param:
    """A float32 parameter drawn from N(0, std^2)."""
    return nnx.Param(jax.random.normal(rngs.params(), shape, jnp.float32) * std, **logical(axes))


def project(x: Float[Array, "*b e"], w: Float[Array, "..."]) -> Float[Array, "..."]:
    """Contract x's last axis with the leading axes of w whose product equals it, as one product of
    two matrices.

    XLA's CPU backend takes three times as long for a product with a batch dimension (measured,
    8,192 tokens, 128 x 384); elsewhere the two are the same.
    """
    e = x.shape[-1]
    inputs = next(i for i in range(1, w.ndim + 1) if math.prod(w.shape[:i]) == e)
    y = x.reshape(-1, e) @ w.astype(x.dtype).reshape(e, -1)
    return y.reshape(*x.shape[:-1], *w.shape[inputs:])


def linear(
    module: nnx.Module, name: str, x: Float[Array, "*b e"], dropout_keys: Key[Array, "b"] | None
) -> Array:
    """x times the module's weight `name`, with what an adapter adds to it (itx/peft.py).

    Every matrix of a model is applied here. `dropout_keys` turn an adapter's dropout on, as in
    `dropout`.
    """
    adapter = getattr(module, f"{name}_lora", None)
    w = getattr(module, name)[...]
    return project(x, w) if adapter is None else adapter(x, w, dropout_keys)


class RMSNorm(nnx.Module):
    """x / rms(x) * scale, without a mean and without a bias, computed in float32.

    plus_one: the factor is 1 + scale. The 1 is not added into the parameter, for that would round
    what a checkpoint holds.
    """

    def __init__(self, dim: int, axis: str, eps: float, plus_one: bool = False):
        first = jnp.zeros if plus_one else jnp.ones
        self.scale = nnx.Param(first((dim,), jnp.float32), **logical((axis,)))
        self.eps, self.plus_one = eps, plus_one

    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
        y = x.astype(jnp.float32)
        y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + self.eps)
        scale = 1.0 + self.scale[...] if self.plus_one else self.scale[...]
        return (y * scale).astype(x.dtype)


def norm(cfg: ModelConfig, dim: int = 0, axis: str = "embed") -> RMSNorm:
    """The model's norm, over the residual stream or over another axis of `dim` values."""
    return RMSNorm(dim or cfg.embed_dim, axis, cfg.norm_eps, cfg.norm_plus_one)


class MLP(nnx.Module):
    """act(x W_in) W_out, or act(x W_gate) * (x W_in) W_out with a gate."""

    def __init__(self, cfg: ModelConfig, rngs: nnx.Rngs):
        e, f = cfg.embed_dim, cfg.mlp_dim
        self.w_gate = normal(rngs, (e, f), e**-0.5, ("embed", "mlp")) if cfg.mlp_gated else None
        self.w_in = normal(rngs, (e, f), e**-0.5, ("embed", "mlp"))
        self.w_out = normal(rngs, (f, e), residual_std(cfg, f), ("mlp", "embed"))
        self.activation = cfg.mlp_activation

    def __call__(
        self, x: Float[Array, "b l e"], dropout_keys: Key[Array, "b"] | None
    ) -> Float[Array, "b l e"]:
        act = ACTIVATIONS[self.activation]
        h = linear(self, "w_in", x, dropout_keys)
        gated = self.w_gate is not None
        h = act(linear(self, "w_gate", x, dropout_keys)) * h if gated else act(h)
        return linear(self, "w_out", h, dropout_keys)


def soft_cap(x: Array, cap: float) -> Array:
    """cap tanh(x / cap), which leaves small values nearly unchanged; cap 0: x."""
    return cap * jnp.tanh(x / cap) if cap else x


def residual_std(cfg: ModelConfig, fan_in: int) -> float:
    """Standard deviation of a matrix that writes to the residual stream.

    1/sqrt(2 layers) keeps the stream's variance near 1 at initialisation (GPT-2, section 2.3).
    """
    return (fan_in * 2 * cfg.num_layers) ** -0.5


def rope_tables(
    positions: Int[Array, "b l"], head_dim: int, theta: float, scaling: ModelConfig | None = None
) -> tuple[Float[Array, "b 1 l d2"], Float[Array, "b 1 l d2"]]:
    """cos and sin of each position's angles; frequencies are scaled as the config `scaling`
    says."""
    frequency = theta ** (-jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
    if scaling is not None:
        frequency = scaled_frequency(frequency, scaling)
    angle = positions.astype(jnp.float32)[:, None, :, None] * frequency
    return jnp.cos(angle), jnp.sin(angle)


def scaled_frequency(frequency: Float[Array, "d2"], cfg: ModelConfig) -> Float[Array, "d2"]:
    """RoPE's frequencies for a longer context.

    linear: all of them divided by the factor (Chen et al. 2023, arXiv 2306.15595). llama3: long
    waves divided, short ones kept, and between the two thresholds a mean of both, weighted linearly
    in original length / wavelength (Llama 3.1's reference code, `apply_scaling`).
    """
    if cfg.rope_scaling == "none":
        return frequency
    divided = frequency / cfg.rope_factor
    if cfg.rope_scaling == "linear":
        return divided
    turns = cfg.rope_original_length * frequency / (2 * math.pi)  # in the original length
    undivided = (turns - cfg.rope_low_factor) / (cfg.rope_high_factor - cfg.rope_low_factor)
    undivided = jnp.clip(undivided, 0.0, 1.0)  # share of the mean
    return undivided * frequency + (1.0 - undivided) * divided


def rotate(x: Float[Array, "b n l d"], rope: Rope | None) -> Float[Array, "b n l d"]:
    """Rotary embedding in the half-rotation layout (Llama's; not interleaved)."""
    if rope is None:
        return x
    cos, sin = (r.astype(x.dtype) for r in rope)
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def dropout(
    x: Float[Array, "b l e"], keys: Key[Array, "b"] | None, salt: Array | int, rate: float
) -> Float[Array, "b l e"]:
    """Dropout with one random key per global row: independent of mesh, hosts and microbatches.
    Without keys: x."""
    if keys is None or rate == 0.0:
        return x
    keep = jax.vmap(
        lambda key, y: jax.random.bernoulli(jax.random.fold_in(key, salt), 1.0 - rate, y.shape)
    )(keys, x)
    return jnp.where(keep, x / (1.0 - rate), jnp.zeros((), x.dtype))


def fold(keys: Key[Array, "b"] | None, n: Array | int) -> Key[Array, "b"] | None:
    """Other keys, one for each of these; None stays None."""
    return None if keys is None else jax.vmap(lambda key: jax.random.fold_in(key, n))(keys)


def pick(x: Array, at: Int[Array, "b t"]) -> Array:
    """x[b, at[b, t]] for x [b, l, …]."""
    return jax.vmap(lambda row, i: row[i])(x, at)


def pick_queries(x: Array, at: Int[Array, "b t"]) -> Array:
    """x[b, :, at[b, t]] for x [b, n, q, …]."""
    return pick(x.swapaxes(1, 2), at).swapaxes(1, 2)


def in_front(
    virtual: Float[Array, "*h p d"], x: Float[Array, "b *h l d"]
) -> Float[Array, "b *h pl d"]:
    """x behind the same virtual tokens in every row."""
    repeated = jnp.broadcast_to(virtual.astype(x.dtype), (len(x), *virtual.shape))
    return jnp.concatenate([repeated, x], axis=-2)
