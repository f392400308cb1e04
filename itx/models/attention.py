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
from itx.models.layers import Rope, linear, logical, norm, normal, residual_std, rotate, soft_cap

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
    """Additive bias [b, 1 or n, q, k]: 0 where a query sees a key, else FORBIDDEN; plus `relative`.

    A query sees keys of its own segment; if causal, none of later positions.

    Args:
        prefix: two positions marked here see each other both ways.
        branches: several continuations (1, 2, …) of one prompt (0) stand in one row; a query sees,
            of its segment, branch 0 and its own branch alone.
        window: in tokens; a query sees no key that stands this many positions back or more, in
            the prefix or not. 0: no window.
    """
    seen = q_segments[:, :, None] == k_segments[:, None, :]
    if causal:
        not_later = k_positions[:, None, :] <= q_positions[:, :, None]
        if prefix is not None:
            not_later |= (prefix[:, :, None] > 0) & (prefix[:, None, :] > 0)
        seen &= not_later
    if window:
        seen &= q_positions[:, :, None] - k_positions[:, None, :] < window
    if branches is not None:
        own = branches[:, :, None] == branches[:, None, :]
        seen &= own | (branches[:, None, :] == 0)
    mask = jnp.where(seen, 0.0, FORBIDDEN)[:, None].astype(jnp.float32)
    return mask if relative is None else mask + relative


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

    `ordered`: query i sees no key behind i, and none `window` places before it. The product is
    then taken over blocks of queries, each with the keys up to its end, which leaves out 3/8 of the
    work, and with a window more. If there are more keys than queries, the surplus stands in front,
    and every query sees it.
    """
    length, surplus = q.shape[2], k.shape[2] - q.shape[2]
    block = -(-max(length // 4, SMALLEST_BLOCK) // 8) * 8
    if not ordered or length <= block:
        return _attend(q, k, v, bias, scale, cap)
    blocks = []
    for start in range(0, length, block):
        stop = min(start + block, length)
        first_key = max(0, start + 1 - window) if window else 0
        keys, values, block_bias = (
            _front_and_slice(x, surplus, first_key, stop, axis)
            for x, axis in ((k, 2), (v, 2), (bias[:, :, start:stop], 3))
        )
        blocks.append(_attend(q[:, :, start:stop], keys, values, block_bias, scale, cap))
    return jnp.concatenate(blocks, axis=2)


def _front_and_slice(x: Array, surplus: int, start: int, stop: int, axis: int) -> Array:
    """The `surplus` keys in front, and keys start to stop of those behind them."""
    part = jax.lax.slice_in_dim(x, surplus + start, surplus + stop, axis=axis)
    if not surplus:
        return part
    return jnp.concatenate([jax.lax.slice_in_dim(x, 0, surplus, axis=axis), part], axis)


def _attend(q: Array, k: Array, v: Array, bias: Array, scale: float, cap: float) -> Array:
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
        heads, kv_heads = ("heads", "head_dim"), ("kv_heads", "head_dim")
        # T5 puts 1/sqrt(d) into the initialisation of the queries rather than into the scores
        q_std = e**-0.5 if cfg.scale_attention else (e * d) ** -0.5
        self.wq = normal(rngs, (e, n, d), q_std, ("embed", *heads))
        self.wk = normal(rngs, (e, g, d), e**-0.5, ("embed", *kv_heads))
        self.wv = normal(rngs, (e, g, d), e**-0.5, ("embed", *kv_heads))
        self.wo = normal(rngs, (n, d, e), residual_std(cfg, n * d), (*heads, "embed"))

        def zeros(count, axes):
            value = jnp.zeros((count, d), jnp.float32)
            return nnx.Param(value, **logical(axes)) if cfg.qkv_bias else None

        self.bq, self.bk, self.bv = zeros(n, heads), zeros(g, kv_heads), zeros(g, kv_heads)
        self.q_norm = norm(cfg, d, "head_dim") if cfg.qk_norm else None
        self.k_norm = norm(cfg, d, "head_dim") if cfg.qk_norm else None
        self.scale = (cfg.query_scalar or d) ** -0.5 if cfg.scale_attention else 1.0
        self.cap = cfg.attention_cap

    def queries(
        self, x: Float[Array, "b q e"], rope: Rope | None, dropout_keys: Array | None
    ) -> Float[Array, "b n q d"]:
        q = self._project(x, "wq", self.bq, dropout_keys)
        return rotate(q if self.q_norm is None else self.q_norm(q), rope)

    def keys_values(
        self, x: Float[Array, "b k e"], rope: Rope | None, dropout_keys: Array | None
    ) -> tuple[Float[Array, "b g k d"], Float[Array, "b g k d"]]:
        k = self._project(x, "wk", self.bk, dropout_keys)
        v = self._project(x, "wv", self.bv, dropout_keys)
        return rotate(k if self.k_norm is None else self.k_norm(k), rope), v

    def _project(
        self, x: Array, name: str, b: nnx.Param | None, dropout_keys: Array | None
    ) -> Array:
        y = linear(self, name, x, dropout_keys)
        return (y if b is None else y + b[...].astype(y.dtype)).swapaxes(1, 2)

    def combine(
        self, heads: Float[Array, "b n q d"], dropout_keys: Array | None
    ) -> Float[Array, "b q e"]:
        """From the heads' results back to the residual stream."""
        heads = heads.swapaxes(1, 2)
        return linear(self, "wo", heads.reshape(*heads.shape[:2], -1), dropout_keys)


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
