# SPDX-License-Identifier: Apache-2.0
"""One Transformer for both architectures: a decoder, or an encoder and a decoder (T5).

Read `Transformer.states`, then `Stack`, then `Block` (block.py). A batch is a dict with SeqIO's
names (itx/data/loader.py). The layers of a stack are one `Block` with a leading axis `layers` on
every parameter. Logits are computed at `loss_positions` alone, and so is what the last layer does
behind its keys and values. decoding.py generates with the same stack.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from itx.config import ModelConfig
from itx.mesh import constrain, platform
from itx.models import attention, kernels
from itx.models.attention import relative_bucket
from itx.models.block import Block, Context
from itx.models.layers import (
    Rope,
    dropout,
    fold,
    in_front,
    linear,
    norm,
    normal,
    pick,
    project,
    rope_tables,
    soft_cap,
)
from itx.models.noise import Noise

# A loop over few layers is unrolled on a CPU, where each turn of a scan costs copies of weights,
# activations and gradients; elsewhere the scan keeps compilation short. Same sums either way.
UNROLL_LAYERS_ON_CPU = 12

# What the backward pass finds stored, by `model.remat`: products with weights have no batch
# dimension here (layers.project), those of attention have one
REMAT = {"full": None, "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable}


class Stack(nnx.Module):
    """Layers with a final norm, and the relative bias that they share.

    An adapter (itx/peft.py) may give it virtual tokens, as keys and values per layer (`prefix`, in
    a decoder) or as embeddings (`prompt`).
    """

    def __init__(self, cfg: ModelConfig, encoder: bool, rngs: nnx.Rngs):
        self.cfg, self.encoder = cfg, encoder
        self.num_layers = cfg.encoder_layers or cfg.num_layers if encoder else cfg.num_layers
        cross = cfg.architecture == "encoder_decoder" and not encoder

        @nnx.split_rngs(splits=self.num_layers)
        @nnx.vmap(in_axes=0, out_axes=0, transform_metadata={nnx.PARTITION_NAME: "layers"})
        def create(rngs):
            return Block(cfg, cross, rngs)

        self.blocks = create(rngs)
        self.final_norm = norm(cfg)
        shape = (cfg.relative_buckets, cfg.num_heads)
        relative = cfg.position == "t5_relative"
        self.relative_bias = normal(rngs, shape, 0.1, ("relpos", "heads")) if relative else None
        self.prefix = self.prompt = nnx.data(None)

    def __call__(
        self,
        x: Float[Array, "b l e"],
        ctx: Context,
        at: Int[Array, "b t"] | None = None,
        *,
        virtual: tuple[Array, Array] | None = None,
        unroll: bool | None = None,
        layers: list[nnx.State] | None = None,
        cache: list[dict] | None = None,
        slot: Array | None = None,
        keep: bool = False,
    ) -> tuple[Float[Array, "b l e"], Any]:
        """(stream behind all layers and the final norm, keys and values of each layer or None).

        Args:
            at: positions at which the stream is wanted; default: all.
            virtual: keys and values [layers, 1, g, p, d] of virtual tokens.
            unroll: whether to loop over the layers in Python rather than in a scan; default: by
                platform and number of layers.
            layers, cache, slot: each layer's parameters (`layers()`), earlier keys and values, and
                where in them the new ones go (`Block`); they are lists, so that the loop over
                generated tokens can update each in place.
            keep: whether to return keys and values.
        """
        graphdef, stacked = nnx.split(self.blocks)
        n = self.num_layers

        def layer(x, params, virtual, i, at=None, cache=None):
            x, new = nnx.merge(graphdef, params)(x, ctx, i, at, cache, slot, virtual)
            return x, new if keep else None

        if self.cfg.remat != "none" and not keep:
            layer = jax.checkpoint(layer, prevent_cse=False, policy=REMAT[self.cfg.remat])
        if unroll is None:
            unroll = bool(layers) or platform() == "cpu" and n <= UNROLL_LAYERS_ON_CPU
        pick_behind = at is not None
        if unroll:
            pick_behind &= ctx.dropout_keys is not None
            layers, kept = layers or self.layers(), []
            for i, params in enumerate(layers):
                front = jax.tree.map(lambda a, i=i: a[i], virtual)
                early = at if i == n - 1 and not pick_behind else None
                x, new = layer(x, params, front, i, early, cache and cache[i])
                kept.append(new)
        else:
            inputs = (stacked, virtual, jnp.arange(n, dtype=jnp.int32))
            x, kept = jax.lax.scan(lambda x, own: layer(x, *own), x, inputs)
        return self.final_norm(pick(x, at) if pick_behind else x), kept if keep else None

    def layers(self) -> list[nnx.State]:
        """Each layer's parameters."""
        state = nnx.state(self.blocks)
        return [jax.tree.map(lambda a, i=i: a[i], state) for i in range(self.num_layers)]

    def biases(
        self,
        q_segments: Array,
        k_segments: Array,
        q_positions: Array,
        k_positions: Array,
        prefix: Array | None = None,
        branches: Array | None = None,
        virtual: int = 0,
    ) -> dict[str, Float[Array, "b h q k"]]:
        """{"bias", and "sliding_bias" if layers slide} of this stack's self attention
        (itx/models/attention.py).

        `virtual` keys stand in front of the others, at the positions before a segment's first;
        every query sees them, whatever its window.
        """
        relative = None
        if self.relative_bias is not None:
            if branches is None and self.prompt is None and q_positions.shape == k_positions.shape:
                # Positions rise by one in a segment, so distances are those of places: one row
                # serves for all. It is copied to all rows by a product with ones, whose gradient is
                # a product too: XLA's sum over rows, the gradient of a broadcast, took a tenth of a
                # training step on a CPU.
                place = jnp.arange(k_positions.shape[1], dtype=jnp.int32)
                relative = self.relative((place[None, :] - place[:, None])[None])[0]
                relative = jnp.einsum("b,nqk->bnqk", jnp.ones(len(q_segments)), relative)
            else:
                relative = self.relative(k_positions[:, None, :] - q_positions[:, :, None])

        def masked(window):
            pairs = (q_segments, k_segments, q_positions, k_positions)
            causal = not self.encoder
            return attention.bias(*pairs, prefix, branches, relative, causal, window)

        biases = {"bias": masked(0)}
        if self.cfg.sliding_window:
            biases["sliding_bias"] = masked(self.cfg.sliding_window)
        if not virtual:
            return biases
        front = jnp.zeros((*biases["bias"].shape[:3], virtual), jnp.float32)
        if self.relative_bias is not None:
            place = jnp.arange(-virtual, 0, dtype=jnp.int32)
            front += self.relative(place - q_positions[:, :, None])
        return {name: jnp.concatenate([front, b], axis=-1) for name, b in biases.items()}

    def relative(self, distance: Int[Array, "b q k"]) -> Float[Array, "b n q k"]:
        """T5's bias of each distance."""
        buckets = self.cfg.relative_buckets
        bucket = relative_bucket(distance, buckets, self.cfg.relative_max_distance, self.encoder)
        # one-hot product: the gradient of a gather would be a slow scatter of b*q*k values
        onehot = jax.nn.one_hot(bucket, buckets, dtype=jnp.float32)
        return jnp.einsum("bqkr,rn->bnqk", onehot, self.relative_bias[...])

    def ropes(self, positions: Int[Array, "b l"]) -> dict[str, Rope]:
        """{"rope", and "sliding_rope" if layers slide}; {} without rotary positions."""
        cfg = self.cfg
        if cfg.position != "rope":
            return {}
        ropes = {"rope": rope_tables(positions, cfg.head_dim, cfg.rope_theta, cfg)}
        if cfg.sliding_window:
            theta = cfg.rope_theta_local
            local = rope_tables(positions, cfg.head_dim, theta) if theta else ropes["rope"]
            ropes["sliding_rope"] = local
        return ropes

    @property
    def virtual_tokens(self) -> int:
        """How many virtual tokens stand in front of every segment of a decoder."""
        if self.prefix is not None:
            return self.prefix.length
        return 0 if self.prompt is None or self.encoder else len(self.prompt[...])

    def virtual(self) -> tuple[Array, Array] | None:
        """Keys and values [layers, 1, g, p, d] of a decoder's virtual tokens, if it has any.

        Those of a prompt are computed once for the whole batch: no virtual token sees a row's own.
        """
        if not self.virtual_tokens or self.prefix is not None:
            return self.prefix() if self.virtual_tokens else None
        place = jnp.arange(self.virtual_tokens, dtype=jnp.int32)[None]
        one = jnp.ones_like(place)
        ctx = Context(**self.biases(one, one, place, place), **self.ropes(place), ordered=True)
        _, new = self(self.prompt[...].astype(self.cfg.dtype)[None], ctx, unroll=False, keep=True)
        return new["k"], new["v"]


def before(tokens: Int[Array, "b l"], positions: Int[Array, "b l"], n: int) -> Int[Array, "b l n"]:
    """The n tokens before each in its segment, nearest first; -1 where the segment has none."""
    back = [jnp.where(positions > s, jnp.roll(tokens, s + 1, axis=1), -1) for s in range(n)]
    return jnp.stack(back, -1) if back else jnp.zeros((*tokens.shape, 0), jnp.int32)


class Transformer(nnx.Module):
    """Embedding, an encoder for some, decoder, output layer."""

    def __init__(self, cfg: ModelConfig, vocab_size: int, rngs: nnx.Rngs):
        self.cfg = cfg
        e = cfg.embed_dim
        # Tied: embeddings of norm 1 give logits of variance 1. Untied, or logits scaled down:
        # embeddings of variance 1.
        std = e**-0.5 if cfg.tie_embeddings and not cfg.scale_logits else 1.0
        self.embedding = normal(rngs, (vocab_size, e), std, ("vocab", "embed"))
        both = cfg.architecture == "encoder_decoder"
        # smear starts near nothing: the model begins much as one without it
        smeared = ("layers", "embed", "smeared")
        self.smear = normal(rngs, (cfg.smear, e, e), 0.1 * e**-0.5, smeared) if cfg.smear else None
        self.encoder = Stack(cfg, True, rngs) if both else None
        self.decoder = Stack(cfg, False, rngs)
        tied, shape = cfg.tie_embeddings, (e, vocab_size)
        self.head = None if tied else normal(rngs, shape, e**-0.5, ("embed", "vocab"))

    def __call__(self, batch: dict[str, Array], *more, **settings) -> Float[Array, "b t v"]:
        """Logits of the `states`."""
        return self.logits(self.states(batch, *more, **settings))

    def states(
        self,
        batch: dict[str, Array],
        dropout_keys: Key[Array, "b"] | None = None,
        unroll: bool | None = None,
        noise: Noise | None = None,
    ) -> Float[Array, "b t e"]:
        """The last layer's output at `loss_positions` (-1 is padding, where it is anything), or
        everywhere if the batch has none.

        `dropout_keys`: one random key for each row of the batch; without them no dropout. `noise`
        is put on the embeddings.
        """
        cfg, memory, memory_bias = self.cfg, None, None
        segments, positions = batch["decoder_segment_ids"], batch["decoder_positions"]
        if self.encoder is not None:
            names = ("input_tokens", "segment_ids", "positions")
            prompts = None if self.encoder.prompt is None else batch["encoder_prompts"]
            memory, memory_segments = self.encode(
                *(batch[f"encoder_{n}"] for n in names),
                fold(dropout_keys, 1),
                unroll,
                prompts,
                noise,
            )
            memory_bias = attention.bias(segments, memory_segments, causal=False)
        keys, tokens = fold(dropout_keys, 2), batch["decoder_input_tokens"]
        previous = batch.get("decoder_previous_tokens")
        if previous is None:
            previous = before(tokens, positions, cfg.smear)
        added = noise and noise.of(tokens, segments, positions, cfg.embed_dim, 2)
        x = self.embed(tokens, previous, keys, added)
        prefix = batch["decoder_causal_attention"] if cfg.prefix_lm else None
        branches = batch.get("decoder_branches")  # itx/eval/rank.py: options of one prompt
        n = self.decoder.virtual_tokens
        virtual = self.decoder.virtual()
        biases = self.decoder.biases(segments, segments, positions, positions, prefix, branches, n)
        causal = prefix is None and branches is None and not n
        ctx = Context(
            **biases,
            **self.decoder.ropes(positions + n),
            ordered=prefix is None,
            window=0 if branches is not None else cfg.sliding_window,
            kernel=kernels.choose(cfg, segments.shape[1], causal),
            segments=segments,
            memory=memory,
            memory_bias=memory_bias,
            dropout_keys=keys,
        )
        at = batch.get("loss_positions")
        at = None if at is None else jnp.maximum(at, 0)
        # Nearly every position of an encoder-decoder's target row is a loss position: its last
        # layer computes all.
        early = at if self.encoder is None else None
        x, _ = self.decoder(x, ctx, early, unroll=unroll, virtual=virtual)
        return x if at is None or early is not None else pick(x, at)

    def embed(
        self,
        tokens: Int[Array, "b l"],
        previous: Int[Array, "b l s"],
        keys: Array | None = None,
        added: Float[Array, "b l e"] | None = None,
    ) -> Float[Array, "b l e"]:
        """Embeddings; with `smear` also a learned image of each of the previous tokens' (-1: there
        is none). `keys` turn dropout on; `added` is noise.

        A token that carries its predecessors gives a single layer what finding "the word after X"
        takes, as smeared keys do in Olsson et al. 2022, "In-context learning and induction heads",
        where they bring the abrupt onset of copying forward. It matters for small models trained
        from scratch.
        """
        table = self.embedding[...].astype(self.cfg.dtype)
        x = table[tokens]
        for s in range(self.cfg.smear):
            earlier = previous[..., s]
            vectors = jnp.where((earlier >= 0)[..., None], table[jnp.maximum(earlier, 0)], 0)
            x = x + project(vectors, self.smear[...][s])
        if self.cfg.scale_embeddings:
            x = x * jnp.asarray(self.cfg.embed_dim**0.5, x.dtype)
        if added is not None:
            x = x + added.astype(x.dtype)
        return dropout(constrain(x, "batch", "length", None), keys, 0, self.cfg.dropout)

    def encode(
        self,
        tokens: Int[Array, "b l"],
        segments: Int[Array, "b l"],
        positions: Int[Array, "b l"],
        keys: Array | None = None,
        unroll: bool | None = None,
        prompts: Int[Array, "b s"] | None = None,
        noise: Noise | None = None,
    ) -> tuple[Float[Array, "b l e"], Int[Array, "b l"]]:
        """The encoder's output and the segment that each place of it belongs to.

        If the encoder has virtual tokens, a copy of them stands in front for each segment that
        `prompts` names (default: 1), since they not only are seen, but also see the segment.
        """
        added = noise and noise.of(tokens, segments, positions, self.cfg.embed_dim, 1)
        x = self.embed(tokens, before(tokens, positions, self.cfg.smear), keys, added)
        if self.encoder.prompt is not None:
            prompts = jnp.ones((len(tokens), 1), jnp.int32) if prompts is None else prompts
            table = self.encoder.prompt[...]
            n, copies = len(table), prompts.shape[1]
            place = jnp.tile(jnp.arange(n, dtype=jnp.int32), (len(tokens), copies))
            x = in_front(jnp.tile(table, (copies, 1)), x)
            segments = jnp.concatenate([jnp.repeat(prompts, n, axis=1), segments], axis=1)
            positions = jnp.concatenate([place, positions + n], axis=1)
        biases = self.encoder.biases(segments, segments, positions, positions)
        ctx = Context(**biases, **self.encoder.ropes(positions), dropout_keys=keys)
        return self.encoder(x, ctx, unroll=unroll)[0], segments

    def logits(self, x: Float[Array, "b t e"], keys: Array | None = None) -> Float[Array, "b t v"]:
        return constrain(self.unembed(x, self.table, keys), "batch", "length", "vocab")

    @property
    def table(self) -> Float[Array, "e v"]:
        """The matrix that makes logits of states."""
        return self.embedding[...].T if self.head is None else self.head[...]

    @property
    def head_adapter(self) -> nnx.Module | None:
        return getattr(self, "head_lora", None)

    def unembed(
        self, x: Float[Array, "b t e"], table: Float[Array, "e v"], keys: Array | None = None
    ) -> Float[Array, "b t v"]:
        if self.cfg.scale_logits:
            x = x * self.cfg.embed_dim**-0.5
        out = project(x, table) if self.head_adapter is None else linear(self, "head", x, keys)
        return soft_cap(out.astype(jnp.float32), self.cfg.logit_cap)
