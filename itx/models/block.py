# SPDX-License-Identifier: Apache-2.0
"""One block, which is one layer of a stack (itx/models/transformer.py), and what all layers of a
stack share in a forward pass (`Context`)."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from itx.config import ModelConfig
from itx.models import kernels
from itx.models.attention import Attention, attend
from itx.models.layers import MLP, Rope, dropout, fold, in_front, norm, pick, pick_queries

# Salts of an adapter's dropout begin here, far behind those of the layers.
ADAPTER_SALT = 1_000_000


class Context(NamedTuple):
    """What all layers of a stack share in one forward pass."""

    bias: Array  # of self attention [b, 1|n, q, k]
    ordered: bool = False  # no query sees a key behind it in the row
    window: int = 0  # of sliding layers, in tokens, if places in a row are positions; 0: not known
    rope: Rope | None = None
    memory: Array | None = None  # the encoder's output [b, k, e]
    memory_bias: Array | None = None  # of cross attention [b, 1, q, k]
    dropout_keys: Array | None = None  # one for each global row; None: no dropout
    kernel: str = "xla"  # of self attention (itx/models/kernels.py)
    segments: Array | None = None  # segment ids [b, l], for another kernel than XLA
    sliding_bias: Array | None = None  # bias and rope of the sliding layers, if there are any
    sliding_rope: Rope | None = None

    def of_layer(self, sliding: Array | bool) -> tuple[Array, Rope | None]:
        """(bias, rope) of a layer; `sliding` may be a traced bool."""
        local, full = (self.sliding_bias, self.sliding_rope), (self.bias, self.rope)
        if isinstance(sliding, bool):
            return local if sliding else full
        return jax.tree.map(lambda a, b: jnp.where(sliding, a, b), local, full)


def slides(cfg: ModelConfig, layer: Array | int) -> Array | bool:
    """Whether a layer has a window; a plain bool if all layers are alike or `layer` is an int."""
    if not cfg.sliding_window or not cfg.global_every:
        return bool(cfg.sliding_window)
    return (layer + 1) % cfg.global_every != 0


def written(
    cache: Float[Array, "b g k d"], new: Float[Array, "b g 1 d"], slot: Array
) -> Float[Array, "b g k d"]:
    """Earlier keys or values with the new ones at a slot, which all rows share or each has of its
    own [b]; one behind the last is left out."""
    if not slot.ndim:
        return jax.lax.dynamic_update_slice_in_dim(cache, new, slot, 2)
    return cache.at[jnp.arange(len(cache)), :, slot].set(new[:, :, 0], mode="drop")


class Block(nnx.Module):
    """Pre-norm self attention, cross attention if there is an encoder, and an MLP; Gemma's norms
    behind each too."""

    def __init__(self, cfg: ModelConfig, cross: bool, rngs: nnx.Rngs):
        self.attention_norm = norm(cfg)
        self.attention = Attention(cfg, rngs)
        self.attention_post_norm = norm(cfg) if cfg.post_norms else None
        self.cross_norm = norm(cfg) if cross else None
        self.cross = Attention(cfg, rngs) if cross else None
        self.mlp_norm = norm(cfg)
        self.mlp = MLP(cfg, rngs)
        self.mlp_post_norm = norm(cfg) if cfg.post_norms else None
        self.cfg, self.rate = cfg, cfg.dropout

    def __call__(
        self,
        x: Float[Array, "b l e"],
        ctx: Context,
        layer: Array | int = 0,
        at: Int[Array, "b t"] | None = None,
        cache: dict[str, Array] | None = None,
        slot: Array | None = None,
        virtual: tuple[Array, Array] | None = None,
    ) -> tuple[Float[Array, "b l e"], dict[str, Array]]:
        """The new stream (only at positions `at` if given), and this layer's keys and values: k, v
        [b, g, k, d], and those of cross attention as cross_k, cross_v.

        Args:
            cache: earlier keys and values, into which the new ones are `written` at `slot`; all of
                it is seen.
            virtual: keys and values [1, g, p, d] of virtual tokens, put in front of the row's own.
        """
        # keys of the adapters' dropout, apart from those of the block's own
        adapter_keys = fold(ctx.dropout_keys, ADAPTER_SALT + layer)
        sliding, h = slides(self.cfg, layer), self.attention_norm(x)
        bias, rope = ctx.of_layer(sliding)
        new = dict(zip("kv", self.attention.keys_values(h, rope, adapter_keys), strict=True))
        if virtual is not None:
            new = {n: in_front(p[0], new[n]) for n, p in zip("kv", virtual, strict=True)}
        if cache is not None:
            new = {n: written(cache[n], new[n], slot) for n in "kv"}
        if at is not None:
            bias, x, h = pick_queries(bias, at), pick(x, at), pick(h, at)
            rope = None if rope is None else tuple(pick_queries(r, at) for r in rope)
        q = self.attention.queries(h, rope, adapter_keys)
        heads = self._attend(q, new, bias, ctx, sliding, whole=at is None)
        out = self.attention.combine(heads, adapter_keys)
        out = out if self.attention_post_norm is None else self.attention_post_norm(out)
        x = x + self._drop(out, ctx, layer, 0)
        if self.cross is not None:
            keys = fold(adapter_keys, 1)
            if cache is None:
                ck, cv = self.cross.keys_values(ctx.memory, None, keys)
            else:
                ck, cv = cache["cross_k"], cache["cross_v"]
            q = self.cross.queries(self.cross_norm(x), None, keys)
            heads = attend(q, ck, cv, ctx.memory_bias, self.cross.scale, cap=self.cross.cap)
            out = self.cross.combine(heads, keys)
            x = x + self._drop(out, ctx, layer, 1)
            new |= {"cross_k": ck, "cross_v": cv}
        out = self.mlp(self.mlp_norm(x), adapter_keys)
        out = out if self.mlp_post_norm is None else self.mlp_post_norm(out)
        return x + self._drop(out, ctx, layer, 2), new

    def _attend(
        self, q: Array, new: dict, bias: Array, ctx: Context, sliding: Array | bool, whole: bool
    ) -> Float[Array, "b n q d"]:
        """Self attention by the context's kernel; in plain XLA unless the queries are `whole`."""
        k, v, scale, cap = new["k"], new["v"], self.attention.scale, self.attention.cap
        if ctx.kernel == "xla" or not whole:
            window = ctx.window if sliding is True else 0  # a traced layer may be of either kind
            return attend(q, k, v, bias, scale, ctx.ordered and whole, cap, window)

        def by_kernel(window):
            return kernels.attend(ctx.kernel, q, k, v, ctx.segments, scale, cap, window)

        both = partial(by_kernel, ctx.window), partial(by_kernel, 0)
        return both[not sliding]() if isinstance(sliding, bool) else jax.lax.cond(sliding, *both)

    def _drop(self, x: Array, ctx: Context, layer: Array | int, site: int) -> Array:
        return dropout(x, ctx.dropout_keys, 3 * layer + site + 1, self.rate)
