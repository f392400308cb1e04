# SPDX-License-Identifier: Apache-2.0
"""NEFTune: noise on the embeddings while training (Jain et al. 2023, arXiv:2310.05914).

Each number of an embedding gets alpha / sqrt(L × width) times a number drawn evenly from (-1, 1); L
is the length of the segment itself, so that packing changes neither its size nor its value. What is
drawn depends on the step's key, on what the segment's tokens are, and on the place in it: not on
where the segment stands, the mesh, or microbatches. (Equal segments of one step get equal noise.)
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key


class Noise(NamedTuple):
    keys: Key[Array, "b"]  # for each row the step's key, the same on all
    alpha: float

    def of(
        self,
        tokens: Int[Array, "b l"],
        segments: Int[Array, "b l"],
        positions: Int[Array, "b l"],
        width: int,
        salt: int,
    ) -> Float[Array, "b l e"]:
        """What is added to the embeddings; 0 where no segment is (segment 0). `salt` keeps the
        encoder and the decoder apart."""

        def of_row(key, tokens, segments, positions):
            is_token = segments > 0
            words = jnp.where(is_token, mixed(tokens, positions), jnp.uint32(0))
            most = len(tokens) + 1
            names = jax.ops.segment_sum(words, segments, most)[segments]
            lengths = jax.ops.segment_sum(is_token.astype(jnp.float32), segments, most)[segments]
            size = jnp.where(is_token, self.alpha / jnp.sqrt(jnp.maximum(lengths, 1) * width), 0)

            def draw(name, position):
                own = jax.random.fold_in(jax.random.fold_in(key, name), position)
                return jax.random.uniform(own, (width,), jnp.float32, -1.0, 1.0)

            return jax.vmap(draw)(names, positions) * size[:, None]

        keys = jax.vmap(lambda key: jax.random.fold_in(key, salt))(self.keys)
        return jax.vmap(of_row)(keys, tokens, segments, positions)


def mixed(tokens: Array, positions: Array) -> Array:
    """A hash of each token and its place, whose sum over a segment names the segment. The last
    steps are the finaliser of MurmurHash3 (public domain)."""
    x = tokens.astype(jnp.uint32) * jnp.uint32(0x9E3779B1)
    x = x ^ (positions.astype(jnp.uint32) * jnp.uint32(0xC2B2AE3D) + jnp.uint32(0x27D4EB2F))
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
