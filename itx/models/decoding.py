# SPDX-License-Identifier: Apache-2.0
"""Generation, token by token: keys and values of earlier tokens are kept in a cache.

`prefill` reads prompts that are padded on the left, so that all rows write the next token at the
same slot; `decode` adds one token per row to the cache. A cache is a list with a dict for each
layer: k, v [b, g, virtual tokens + slots, d], in an encoder-decoder also cross_k, cross_v
[b, g, k, d].
"""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from itx.models import attention
from itx.models.block import Context
from itx.models.transformer import Transformer, before

Cache = list[dict[str, Array]]


def prefill(
    model: Transformer,
    tokens: Int[Array, "b l"],
    starts: Int[Array, "b"],
    slots: int,
    layers: list[nnx.State],
    memory: Float[Array, "b k e"] | None = None,
    memory_segments: Int[Array, "b k"] | None = None,
) -> tuple[Float[Array, "b v"], Cache]:
    """(logits behind the last token, cache with room for `slots` tokens) of prompts that stand in
    [start, l) of their row. `layers`: `model.decoder.layers()`."""
    rows, l = tokens.shape
    positions = jnp.arange(l, dtype=jnp.int32)[None] - starts[:, None]
    segments = (positions >= 0).astype(jnp.int32)
    positions = jnp.maximum(positions, 0)
    # prefix language model: the prompt sees all of itself, as in training
    prefix = segments if model.cfg.prefix_lm and model.encoder is None else None
    n, virtual = model.decoder.virtual_tokens, model.decoder.virtual()
    biases = model.decoder.biases(segments, segments, positions, positions, prefix, virtual=n)
    ctx = _context(model, biases, positions + n, memory_segments)._replace(
        memory=memory, ordered=prefix is None, window=model.cfg.sliding_window
    )
    at = jnp.full((rows, 1), l - 1, jnp.int32)
    x = model.embed(tokens, before(tokens, positions, model.cfg.smear))
    x, cache = model.decoder(x, ctx, at, layers=layers, virtual=virtual, keep=True)
    room = ((0, 0), (0, 0), (0, slots - l), (0, 0))
    cache = [
        {name: a if name.startswith("cross") else jnp.pad(a, room) for name, a in layer.items()}
        for layer in cache
    ]
    return model.logits(x)[:, 0], cache


def decode(
    model: Transformer,
    tokens: Int[Array, "b"],
    previous: Int[Array, "b s"],
    slot: Int[Array, ""] | Int[Array, "b"],
    starts: Int[Array, "b"],
    layers: list[nnx.State],
    cache: Cache,
    memory_segments: Int[Array, "b k"] | None = None,
) -> tuple[Float[Array, "b v"], Cache]:
    """Write one token per row into `slot`, or into a slot of each row's own, behind its `previous`
    ones; (logits behind it, the cache with it). A row whose slot lies behind the cache writes
    nothing."""
    n = model.decoder.virtual_tokens
    place = jnp.arange(cache[0]["k"].shape[2] - n, dtype=jnp.int32)[None]
    positions = jnp.maximum(place - starts[:, None], 0)
    last = slot[:, None] if slot.ndim else slot
    seen = ((place >= starts[:, None]) & (place <= last)).astype(jnp.int32)
    q_positions = (slot - starts)[:, None]
    one = jnp.ones_like(q_positions)
    biases = model.decoder.biases(one, seen, q_positions, positions, virtual=n)
    ctx = _context(model, biases, q_positions + n, memory_segments)
    x = model.embed(tokens[:, None], previous[:, None])
    x, cache = model.decoder(x, ctx, layers=layers, cache=cache, slot=slot + n, keep=True)
    return model.logits(x)[:, 0], cache


def _context(
    model: Transformer, biases: dict, positions: Array, memory_segments: Array | None
) -> Context:
    memory_bias = None
    if memory_segments is not None:
        one = jnp.ones(positions.shape, jnp.int32)
        memory_bias = attention.bias(one, memory_segments, causal=False)
    return Context(**biases, **model.decoder.ropes(positions), memory_bias=memory_bias)
