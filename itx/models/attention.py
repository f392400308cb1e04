# SPDX-License-Identifier: Apache-2.0
"""Attention: who may look at whom (`bias`), the computation (`attend`), the projections.

`bias` is built once per forward pass, outside the loop over layers, from segment ids, positions and
the prefix; it holds 0 where a query may see a key and a large negative number elsewhere, plus the
T5 relative bias where the model has one. A platform's kernel (itx/models/kernels.py) needs segment
ids instead; the bias is then not used, and hence not computed.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from itx.config import ModelConfig
from itx.models import kernels
from itx.models.layers import RMSNorm, linear, logical, normal, residual_std, rotate, soft_cap

# Added to forbidden scores. Finite, so that a query that may see no key gets numbers, not NaN.
FORBIDDEN = -1e9

# Blocks of queries shorter than this cost more than they leave out (measured on 2 CPU cores).
SMALLEST_BLOCK = 64


def bias(
    q_segments: Int[Array, "b q"],
    k_segments: Int[Array, "b k"],
    q_positions: Int[Array, "b q"] | None = None,
    k_positions: Int[Array, "b k"] | None = None,
    prefix: Int[Array, "b k"] | None = None,
    branches: Int[Array, "b k"] | None = None,
    relative: Float[Array, "#b n q k"] | None = None,
    causal: bool = True,
    window: int = 0,
) -> Float[Array, "b h q k"]:
    """Additive bias [b, 1 or n, q, k]: a query sees keys of its own segment, and none of later
    positions where causal; two positions marked in `prefix` see each other both ways. With
    `branches` a query sees, of its segment, branch 0 and its own branch alone: several
    continuations (1, 2, …) of one prompt (0) stand in one row. With a window it sees none of the
    keys that stand so many positions back, in the prefix or not."""
    seen = q_segments[:, :, None] == k_segments[:, None, :]
    if causal:
        before = k_positions[:, None, :] <= q_positions[:, :, None]
        if prefix is not None:
            before |= (prefix[:, :, None] > 0) & (prefix[:, None, :] > 0)
        seen &= before
    if window:
        seen &= q_positions[:, :, None] - k_positions[:, None, :] < window
    if branches is not None:
        own = branches[:, :, None] == branches[:, None, :]
        seen &= own | (branches[:, None, :] == 0)
    out = jnp.where(seen, 0.0, FORBIDDEN)[:, None].astype(jnp.float32)
    return out if relative is None else out + relative


def attend(
    q: Float[Array, "b n q d"],
    k: Float[Array, "b g k d"],
    v: Float[Array, "b g k d"],
    bias: Float[Array, "b h q k"],
    scale: float,
    ordered: bool = False,
    cap: float = 0.0,
    window: int = 0,
) -> Float[Array, "b n q d"]:
    """softmax(cap(q k^T scale) + bias) v in plain XLA, softmax in float32; n is a multiple of g.

    `ordered` says that query i sees none of the keys behind i, nor those `window` places before it:
    the product is then taken over blocks of queries, each with the keys up to its end, which leaves
    out 3/8 of the work, and with a window more. Keys beyond as many as there are queries stand in
    front of all, and every query sees them.
    """
    length, front = q.shape[2], k.shape[2] - q.shape[2]
    block = -(-max(length // 4, SMALLEST_BLOCK) // 8) * 8
    if not ordered or length <= block:
        return _attend(q, k, v, bias, scale, cap)
    parts = []
    for i in range(0, length, block):
        h, j = max(0, i + 1 - window) if window else 0, min(i + block, length)
        keys, values, seen = (
            _keys(x, front, h, j, axis) for x, axis in ((k, 2), (v, 2), (bias[:, :, i:j], 3))
        )
        part = _attend(q[:, :, i:j], keys, values, seen, scale, cap)
        parts.append(part)
    return jnp.concatenate(parts, axis=2)


def _keys(x: Array, front: int, i: int, j: int, axis: int) -> Array:
    """The keys i to j behind those in front, and those in front."""
    own = jax.lax.slice_in_dim(x, front + i, front + j, axis=axis)
    return (
        jnp.concatenate([jax.lax.slice_in_dim(x, 0, front, axis=axis), own], axis) if front else own
    )


def _attend(q: Array, k: Array, v: Array, bias: Array, scale: float, cap: float = 0.0) -> Array:
    b, n, lq, d = q.shape
    g, lk = k.shape[1:3]
    grouped = (q * scale).reshape(b, g, n // g * lq, d)
    scores = jnp.einsum("bgqd,bgkd->bgqk", grouped, k, preferred_element_type=jnp.float32)
    scores = soft_cap(scores, cap)
    weights = jax.nn.softmax(scores.reshape(b, n, lq, lk) + bias, axis=-1).astype(v.dtype)
    out = jnp.einsum("bgqk,bgkd->bgqd", weights.reshape(b, g, n // g * lq, lk), v)
    return out.reshape(b, n, lq, d)


class Attention(nnx.Module):
    """Projections to queries, keys and values, and back; self attention and cross attention."""

    def __init__(self, cfg: ModelConfig, rngs: nnx.Rngs):
        e, n, g, d = cfg.embed_dim, cfg.num_heads, cfg.num_kv_heads, cfg.head_dim
        # T5 puts 1/sqrt(d) into the initialisation of the queries rather than into the scores
        q_std = e**-0.5 if cfg.scale_attention else (e * d) ** -0.5
        self.wq = normal(rngs, (e, n, d), q_std, ("embed", "heads", "head_dim"))
        self.wk = normal(rngs, (e, g, d), e**-0.5, ("embed", "kv_heads", "head_dim"))
        self.wv = normal(rngs, (e, g, d), e**-0.5, ("embed", "kv_heads", "head_dim"))
        self.wo = normal(rngs, (n, d, e), residual_std(cfg, n * d), ("heads", "head_dim", "embed"))
        bias = cfg.qkv_bias
        self.bq = (
            nnx.Param(jnp.zeros((n, d), jnp.float32), **logical(("heads", "head_dim")))
            if bias
            else None
        )
        self.bk = (
            nnx.Param(jnp.zeros((g, d), jnp.float32), **logical(("kv_heads", "head_dim")))
            if bias
            else None
        )
        self.bv = (
            nnx.Param(jnp.zeros((g, d), jnp.float32), **logical(("kv_heads", "head_dim")))
            if bias
            else None
        )
        self.q_norm = (
            RMSNorm(d, "head_dim", cfg.norm_eps, cfg.norm_plus_one) if cfg.qk_norm else None
        )
        self.k_norm = (
            RMSNorm(d, "head_dim", cfg.norm_eps, cfg.norm_plus_one) if cfg.qk_norm else None
        )
        self.scale = (cfg.query_scalar or d) ** -0.5 if cfg.scale_attention else 1.0
        self.cap = cfg.attention_cap

    def queries(
        self, x: Float[Array, "b q e"], rope: tuple | None, rows: Array | None = None
    ) -> Array:
        """[b, n, q, d]"""
        q = self._project(x, "wq", self.bq, rows)
        return rotate(q if self.q_norm is None else self.q_norm(q), rope)

    def keys_values(
        self, x: Float[Array, "b k e"], rope: tuple | None, rows: Array | None = None
    ) -> tuple:
        """Keys and values [b, g, k, d]"""
        k, v = self._project(x, "wk", self.bk, rows), self._project(x, "wv", self.bv, rows)
        return rotate(k if self.k_norm is None else self.k_norm(k), rope), v

    def _project(self, x: Array, name: str, b: nnx.Param | None, rows: Array | None) -> Array:
        y = linear(self, name, x, rows)
        return (y if b is None else y + b[...].astype(y.dtype)).swapaxes(1, 2)

    def __call__(
        self, q: Array, k: Array, v: Array, bias: Array, ordered: bool = False, window: int = 0,
        rows: Array | None = None,
    ) -> Float[Array, "b q e"]:  # fmt: skip
        return self.combine(attend(q, k, v, bias, self.scale, ordered, self.cap, window), rows)

    def by_kernel(
        self,
        kernel: str,
        q: Array,
        k: Array,
        v: Array,
        segments: Array,
        window: int,
        rows: Array | None = None,
    ) -> Float[Array, "b q e"]:
        return self.combine(
            kernels.attend(kernel, q, k, v, segments, self.scale, self.cap, window), rows
        )

    def combine(self, out: Float[Array, "b n q d"], rows: Array | None) -> Float[Array, "b q e"]:
        out = out.swapaxes(1, 2)
        return linear(self, "wo", out.reshape(*out.shape[:2], -1), rows)


def relative_bucket(
    distance: Int[Array, "..."], buckets: int, max_distance: int, bidirectional: bool
) -> Int[Array, "..."]:
    """T5's bucket of `distance` = key position - query position (Raffel et al. 2020, section 2.1).

    The first half of the buckets of a direction hold one distance each, the others grow
    logarithmically up to `max_distance`; all beyond share the last one. A causal stack has one
    direction (keys behind the query), a bidirectional one splits the buckets between both.
    """
    offset = jnp.zeros_like(distance)
    if bidirectional:
        buckets //= 2
        offset = jnp.where(distance > 0, buckets, 0)
        distance = jnp.abs(distance)
    else:
        distance = -jnp.minimum(distance, 0)
    exact = buckets // 2
    ratio = jnp.log(jnp.maximum(distance, exact).astype(jnp.float32) / exact)
    far = exact + (ratio / math.log(max_distance / exact) * (buckets - exact)).astype(jnp.int32)
    return offset + jnp.where(distance < exact, distance, jnp.minimum(far, buckets - 1))
