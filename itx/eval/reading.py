# SPDX-License-Identifier: Apache-2.0
"""Prompts are read into a cache of keys and values, behind which tokens are generated."""

from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from itx.models import decoding
from itx.models.transformer import Transformer, before
from itx.params import module_of


class Read(NamedTuple):
    """A batch of prompts that a model has read."""

    logits: Float[Array, "b v"]  # behind the last token
    cache: decoding.Cache
    previous: Int[Array, "b s"]  # what stands before the first new token, nearest first
    starts: Int[Array, "b"]  # where a decoder's prompt begins in its row; 0 behind an encoder
    segments: Int[Array, "b k"] | None  # of what the encoder left
    tokens: Int[Array, "b w"]  # what the decoder has read; behind an encoder BOS alone
    place: Int[Array, "b w"]  # of each of these tokens in its prompt; below 0: padding


def ready(params: dict, *, graphdef: nnx.GraphDef) -> dict:
    """The parameters as the loop over tokens reads them, {"params": those outside the decoder's
    layers, "layers": those of each}: in the activations' type, as every product with a weight takes
    it (layers.project), and apart.

    Whether XLA takes either out of the loop depends on the platform; a weight cast for each token
    is read in float32, written and read again. It is not compiled as one program: of SmolLM2's 30
    layers that took 8 s of a core, and taking each array apart by itself takes 0.8 s.

    What is computed in float32 stays so: norms, T5's bias, a prefix's MLP, and with DoRA
    (|W + s A B|) all of it.
    """
    dtype = module_of(graphdef, params).cfg.dtype
    if dtype == "bfloat16" and not any(p.endswith("/magnitude") for p in params):
        exact = {p for p in params if p.endswith(("/scale", "/relative_bias")) or "/prefix/" in p}
        params = {p: v if p in exact else v.astype(dtype) for p, v in params.items()}
    outside = {p: v for p, v in params.items() if "/blocks/" not in p}
    return {"params": outside, "layers": module_of(graphdef, params).decoder.layers()}


def read(
    model: Transformer,
    tokens: Int[Array, "b l"],
    starts: Int[Array, "b"],
    slots: int,
    bos: int,
    layers: list[nnx.State],
    memory_slots: int = 0,
) -> Read:
    """Read prompts, padded on the left up to `starts`.

    Args:
        slots: that the cache has for new tokens.
        layers: `model.decoder.layers()` (`ready`).
        memory_slots: an encoder's prompts are padded on the right up to so many, once it has read
            them.
    """
    b, width = tokens.shape
    place = jnp.arange(width, dtype=jnp.int32)[None] - starts[:, None]
    memory = segments = None
    if model.encoder is not None:
        segments = (place >= 0).astype(jnp.int32)
        memory, segments = model.encode(tokens, segments, jnp.maximum(place, 0))
        if (more := memory_slots - memory.shape[1]) > 0:
            memory = jnp.pad(memory, ((0, 0), (0, more), (0, 0)))
            segments = jnp.pad(segments, ((0, 0), (0, more)))
        tokens, starts, width = jnp.full((b, 1), bos, jnp.int32), jnp.zeros_like(starts), 1
        place = jnp.zeros((b, 1), jnp.int32)
    logits, cache = decoding.prefill(model, tokens, starts, width + slots, layers, memory, segments)
    back = before(tokens, jnp.maximum(place, 0), model.cfg.smear)
    previous = jnp.concatenate([tokens[:, -1:], back[:, -1]], 1)[:, : model.cfg.smear]
    return Read(logits, cache, previous, starts, segments, tokens, place)
