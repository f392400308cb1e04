# SPDX-License-Identifier: Apache-2.0
"""What a model makes of a text, as one vector: the last layer's states, averaged."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from itx import mesh as meshes
from itx import movement
from itx.eval.loaded import Ids, LoadedModel
from itx.eval.rank import empty, put_ids
from itx.params import module_of

MIN_WIDTH, MAX_WIDTH = 32, 1024  # tokens of a row; a longer text is read as far as this
ROWS = 8


def vectors(loaded: LoadedModel, texts: Sequence[Ids]) -> np.ndarray:
    """float32 [texts, e], of length 1: the mean of the states of a text's tokens, in a decoder each
    weighted by its place, since later ones have seen more (Muennighoff, 2022, arXiv:2202.08904;
    Ivison et al., 2025, arXiv:2503.01807, select data so). A text without tokens is 0."""
    out = np.zeros((len(texts), loaded.model.embed_dim), np.float32)
    both = loaded.model.architecture == "encoder_decoder"
    head = [] if both else loaded.head
    ids = [[*head, *text][:MAX_WIDTH] for text in texts]
    widths = [max(MIN_WIDTH, 1 << (len(i) - 1).bit_length()) if i else 0 for i in ids]
    rows = ROWS * meshes.batch_parts(loaded.mesh)
    with movement.track("read", len(texts), "texts") as advance_by:
        for width in sorted(set(widths) - {0}):
            members = [i for i, w in enumerate(widths) if w == width]
            for begin in range(0, len(members), rows):
                part = members[begin : begin + rows]
                batch = empty({"encoder" if both else "decoder": width}, rows)
                for r, i in enumerate(part):
                    put_ids(batch, "encoder" if both else "decoder", r, 0, ids[i])
                placed = meshes.put(batch, loaded.mesh)
                with jax.set_mesh(loaded.mesh):
                    made = _means(loaded.params, placed, graphdef=loaded.graphdef, both=both)
                out[part] = np.asarray(made, np.float32)[: len(part)]
                advance_by(len(part))
    return out


@partial(jax.jit, static_argnames=("graphdef", "both"))
def _means(params: dict, batch: dict, *, graphdef: nnx.GraphDef, both: bool) -> Float[Array, "b e"]:
    model, side = module_of(graphdef, params), "encoder" if both else "decoder"
    segments, positions = batch[f"{side}_segment_ids"], batch[f"{side}_positions"]
    if both:
        states, segments = model.encode(batch["encoder_input_tokens"], segments, positions)
        weights = (segments > 0).astype(jnp.float32)
    else:
        if model.cfg.prefix_lm:
            batch = {**batch, "decoder_causal_attention": jnp.zeros_like(segments)}
        states = model.states(batch)
        weights = jnp.where(segments > 0, positions + 1, 0).astype(jnp.float32)
    sums = jnp.einsum("bl,ble->be", weights, states.astype(jnp.float32))
    return sums / jnp.maximum(jnp.linalg.norm(sums, axis=-1, keepdims=True), 1e-9)
