# SPDX-License-Identifier: Apache-2.0
"""One Transformer for both architectures: a decoder, or an encoder and a decoder (T5).

Read `Transformer.__call__`, then `Stack`, then `Block`. A batch is a dict with SeqIO's names
(itx/data/loader.py). The layers of a stack are one `Block` with a leading axis `layers` on every
parameter. Logits are computed at `loss_positions` alone, and so is what the last layer does
behind its keys and values.

Generation: `prefill` reads prompts that are padded on the left, so that all rows write the next
token at the same slot; `decode` adds one token per row to the cache.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from itx.config import ModelConfig
from itx.mesh import constrain
from itx.models import attention, kernels
from itx.models.attention import Attention, relative_bucket
from itx.models.layers import MLP, RMSNorm, dropout, linear, normal, project, rope_tables, soft_cap

# A loop over few layers is unrolled on a CPU, where each turn of a scan costs copies of weights,
# activations and gradients; elsewhere the scan keeps compilation short. Same sums either way.
UNROLL_LAYERS_ON_CPU = 12


# Salts of an adapter's dropout begin here, far behind those of the layers.
ADAPTER_SALT = 1_000_000


class Context(NamedTuple):
    """What all layers of a stack share in one forward pass."""

    bias: Array  # of self attention [b, 1|n, q, k]
    ordered: bool = False  # no query sees a key behind it in the row
    window: int = 0  # nor, in a sliding layer, one that stands so many places back; 0: it may
    rope: tuple[Array, Array] | None = None
    memory: Array | None = None  # the encoder's output [b, k, e]
    memory_bias: Array | None = None
    rows: Array | None = None  # one dropout key per global row
    # of self attention (itx/models/kernels.py), and the segment ids that another one takes
    kernel: str = "xla"
    segments: Array | None = None
    # bias and rope of the layers with a window, where there are some
    sliding_bias: Array | None = None
    sliding_rope: tuple[Array, Array] | None = None

    def at(self, sliding: Array | bool) -> tuple[Array, tuple | None]:
        """(bias, rope) of a layer that slides or not; which, may be a traced number."""
        ours, theirs = (self.sliding_bias, self.sliding_rope), (self.bias, self.rope)
        if isinstance(sliding, bool):
            return ours if sliding else theirs
        return jax.tree.map(lambda a, b: jnp.where(sliding, a, b), ours, theirs)


def slides(cfg: ModelConfig, layer: Array | int) -> Array | bool:
    """Whether a layer has a window; a plain bool where it can be."""
    if not cfg.sliding_window or not cfg.global_every:
        return bool(cfg.sliding_window)
    return (layer + 1) % cfg.global_every != 0


# What the backward pass finds stored, by `model.remat`: products with weights have no batch
# dimension here (layers.project), those of attention have one
REMAT = {"full": None, "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable}


class Block(nnx.Module):
    """Pre-norm self attention, cross attention where there is an encoder, and an MLP; Gemma's norms
    behind too."""

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
        cache: dict | None = None,
        slot: Array | None = None,
        virtual: tuple[Array, Array] | None = None,
    ) -> tuple[Float[Array, "b l e"], dict]:
        """Returns the new stream (at positions `at` where given) and this layer's keys and values.

        With `cache` the new keys and values are written into it at `slot` and all of it is seen.
        `virtual`: keys and values [1, g, p, d] of virtual tokens, put in front of the row's own.
        """
        # keys of the adapters' dropout, apart from those of the block's own
        rows = None if ctx.rows is None else fold(ctx.rows, ADAPTER_SALT + layer)
        h = self.attention_norm(x)
        sliding = slides(self.cfg, layer)
        bias, rope = ctx.at(sliding)
        new = dict(zip(("k", "v"), self.attention.keys_values(h, rope, rows), strict=True))
        if virtual is not None:
            new = {n: in_front(p[0], new[n]) for n, p in zip(new, virtual, strict=True)}
        if cache is not None:
            new = {n: jax.lax.dynamic_update_slice_in_dim(cache[n], new[n], slot, 2) for n in new}
        if at is not None:
            bias = pick_queries(bias, at)
            x, h = pick(x, at), pick(h, at)
            rope = None if rope is None else tuple(pick_queries(r, at) for r in rope)
        q = self.attention.queries(h, rope, rows)
        if ctx.kernel == "xla" or at is not None:
            window = ctx.window if sliding is True else 0  # a traced layer may be of either kind
            out = self.attention(
                q, new["k"], new["v"], bias, ctx.ordered and at is None, window, rows
            )
        else:

            def by_kernel(window: int) -> Array:
                return self.attention.by_kernel(
                    ctx.kernel, q, new["k"], new["v"], ctx.segments, window, rows
                )

            both = partial(by_kernel, ctx.window), partial(by_kernel, 0)
            out = both[not sliding]() if isinstance(sliding, bool) else jax.lax.cond(sliding, *both)
        out = out if self.attention_post_norm is None else self.attention_post_norm(out)
        x = x + self._drop(out, ctx, layer, 0)
        if self.cross is not None:
            cross_rows = None if rows is None else fold(rows, 1)
            if cache is not None and "cross_k" in cache:
                ck, cv = cache["cross_k"], cache["cross_v"]
            else:
                ck, cv = self.cross.keys_values(ctx.memory, None, cross_rows)
            q = self.cross.queries(self.cross_norm(x), None, cross_rows)
            x = x + self._drop(
                self.cross(q, ck, cv, ctx.memory_bias, rows=cross_rows), ctx, layer, 1
            )
            new |= {"cross_k": ck, "cross_v": cv}
        out = self.mlp(self.mlp_norm(x), rows)
        out = out if self.mlp_post_norm is None else self.mlp_post_norm(out)
        return x + self._drop(out, ctx, layer, 2), new

    def _drop(self, x: Array, ctx: Context, layer: Array | int, site: int) -> Array:
        return dropout(x, ctx.rows, 3 * layer + site + 1, self.rate)


def norm(cfg: ModelConfig) -> RMSNorm:
    return RMSNorm(cfg.embed_dim, "embed", cfg.norm_eps, cfg.norm_plus_one)


def pick(x: Array, at: Int[Array, "b t"]) -> Array:
    """x[b, at[b, t]] for x [b, l, …]."""
    return jax.vmap(lambda row, i: row[i])(x, at)


def fold(rows: Key[Array, "b"], n: int) -> Key[Array, "b"]:
    return jax.vmap(lambda key: jax.random.fold_in(key, n))(rows)


def pick_queries(x: Array, at: Int[Array, "b t"]) -> Array:
    """x[b, :, at[b, t]] for x [b, n, q, …]."""
    return pick(x.swapaxes(1, 2), at).swapaxes(1, 2)


def in_front(
    virtual: Float[Array, "*h p d"], x: Float[Array, "b *h l d"]
) -> Float[Array, "b *h pl d"]:
    """x behind the same virtual tokens in every row."""
    rows = jnp.broadcast_to(virtual.astype(x.dtype), (len(x), *virtual.shape))
    return jnp.concatenate([rows, x], axis=-2)


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
        def create(rngs: nnx.Rngs) -> Block:
            return Block(cfg, cross, rngs)

        self.blocks = create(rngs)
        self.final_norm = norm(cfg)
        shape = (cfg.relative_buckets, cfg.num_heads)
        relative = cfg.position == "t5_relative"
        self.relative_bias = normal(rngs, shape, 0.1, ("relpos", "heads")) if relative else None
        self.prefix = self.prompt = nnx.data(None)

    def biases(
        self,
        q_segments,
        k_segments,
        q_positions,
        k_positions,
        prefix=None,
        branches=None,
        virtual: int = 0,
    ) -> dict[str, Float[Array, "b h q k"]]:
        """{"bias", "sliding_bias" where layers slide}: of this stack's self attention
        (itx/models/attention.py).

        `virtual` keys stand in front of the others, at the positions before a segment's first;
        every query sees them, whatever its window.
        """
        relative = None
        if self.relative_bias is not None:
            if branches is None and self.prompt is None and q_positions.shape == k_positions.shape:
                # in a segment positions rise by one, so distances are those of places: one row for
                # all
                place = jnp.arange(k_positions.shape[1], dtype=jnp.int32)
                # to all rows by a product with ones, whose gradient is a product too: XLA's sum
                # over rows, the gradient of a broadcast, took a tenth of a training step on a CPU
                relative = self.relative((place[None, :] - place[:, None])[None])[0]
                relative = jnp.einsum("b,nqk->bnqk", jnp.ones(len(q_segments)), relative)
            else:
                relative = self.relative(k_positions[:, None, :] - q_positions[:, :, None])
        windows = {"bias": 0} | (
            {"sliding_bias": self.cfg.sliding_window} if self.cfg.sliding_window else {}
        )
        out = {
            name: attention.bias(
                q_segments, k_segments, q_positions, k_positions, prefix, branches, relative,
                causal=not self.encoder, window=window,
            ) for name, window in windows.items()
        }  # fmt: skip
        if not virtual:
            return out
        front = jnp.zeros((*out["bias"].shape[:3], virtual), jnp.float32)
        if self.relative_bias is not None:
            front += self.relative(
                jnp.arange(-virtual, 0, dtype=jnp.int32) - q_positions[:, :, None]
            )
        return {name: jnp.concatenate([front, b], axis=-1) for name, b in out.items()}

    def relative(self, distance: Int[Array, "b q k"]) -> Float[Array, "b n q k"]:
        """T5's bias of each distance."""
        bucket = relative_bucket(
            distance, self.cfg.relative_buckets, self.cfg.relative_max_distance, self.encoder
        )
        # one-hot product: the gradient of a gather would be a slow scatter of b*q*k values
        onehot = jax.nn.one_hot(bucket, self.cfg.relative_buckets, dtype=jnp.float32)
        return jnp.einsum("bqkr,rn->bnqk", onehot, self.relative_bias[...])

    def ropes(self, positions: Int[Array, "b l"]) -> dict[str, tuple[Array, Array]]:
        """{"rope", "sliding_rope" where layers slide}; {} without rotary positions."""
        cfg = self.cfg
        if cfg.position != "rope":
            return {}
        out = {"rope": rope_tables(positions, cfg.head_dim, cfg.rope_theta, cfg)}
        if cfg.sliding_window:
            local = (
                rope_tables(positions, cfg.head_dim, cfg.rope_theta_local)
                if cfg.rope_theta_local
                else out["rope"]
            )
            out["sliding_rope"] = local
        return out

    def virtual(self) -> tuple[int, tuple[Array, Array] | None]:
        """How many virtual tokens stand in front of every segment of a decoder, and their keys and
        values [layers, 1, g, p, d].

        Those of a prompt are computed once for the whole batch: no virtual token sees a row's own.
        """
        n = self.virtual_tokens
        if n == 0 or self.prefix is not None:
            return n, self.prefix() if n else None
        place = jnp.arange(n, dtype=jnp.int32)[None]
        one = jnp.ones_like(place)
        ctx = Context(**self.biases(one, one, place, place), **self.ropes(place), ordered=True)
        graphdef, state = nnx.split(self.blocks)

        def layer(x: Array, params: tuple[nnx.State, Array]) -> tuple[Array, tuple]:
            x, new = nnx.merge(graphdef, params[0])(x, ctx, params[1])
            return x, (new["k"], new["v"])

        x = self.prompt[...].astype(self.cfg.dtype)[None]
        return n, jax.lax.scan(layer, x, (state, jnp.arange(self.num_layers, dtype=jnp.int32)))[1]

    @property
    def virtual_tokens(self) -> int:
        if self.prefix is not None:
            return self.prefix.length
        return 0 if self.prompt is None or self.encoder else len(self.prompt[...])

    def __call__(
        self,
        x: Float[Array, "b l e"],
        ctx: Context,
        at: Int[Array, "b t"] | None = None,
        unroll: bool | None = None,
        virtual: tuple[Array, Array] | None = None,
    ) -> Float[Array, "b l e"]:
        """All layers and the final norm; the result stands at positions `at` where given."""
        graphdef, state = nnx.split(self.blocks)

        def layer(
            x: Array, params: nnx.State, virtual: tuple | None, i: Array | int, at=None
        ) -> Array:
            return nnx.merge(graphdef, params)(x, ctx, i, at, virtual=virtual)[0]

        if self.cfg.remat != "none":
            layer = jax.checkpoint(layer, prevent_cse=False, policy=REMAT[self.cfg.remat])
        n = self.num_layers
        if unroll is None:
            unroll = jax.default_backend() == "cpu" and n <= UNROLL_LAYERS_ON_CPU
        if not unroll:
            x, _ = jax.lax.scan(
                lambda x, p: (layer(x, *p), None),
                x,
                (state, virtual, jnp.arange(n, dtype=jnp.int32)),
            )
            x = x if at is None else pick(x, at)
        else:
            early = at is not None and ctx.rows is None
            for i in range(n):
                params = jax.tree.map(lambda a, i=i: a[i], (state, virtual))
                last = early and i == n - 1
                x = layer(x, *params, i, at if last else None)
            x = pick(x, at) if at is not None and not early else x
        return self.final_norm(x)

    def layers(self) -> list[nnx.State]:
        """Each layer's parameters, apart."""
        state = nnx.state(self.blocks)
        return [jax.tree.map(lambda a, i=i: a[i], state) for i in range(self.num_layers)]

    def cached(
        self,
        x: Array,
        ctx: Context,
        layers: list,
        cache: list | None,
        slot: Array | None,
        at=None,
        virtual=None,
    ) -> tuple[Array, list]:
        """As `__call__`, with the `layers` apart, and the keys and values of each: a list, so that
        the loop over generated tokens can update each in place. Those of virtual tokens stand in
        front."""
        graphdef = nnx.graphdef(self.blocks)
        out = []
        for i in range(self.num_layers):
            front = jax.tree.map(lambda a, i=i: a[i], virtual)
            block = nnx.merge(graphdef, layers[i])
            last = at is not None and i == self.num_layers - 1
            old = None if cache is None else cache[i]
            x, new = block(x, ctx, i, at if last else None, old, slot, front)
            out.append(new)
        return self.final_norm(x), out


def before(tokens: Int[Array, "b l"], positions: Int[Array, "b l"], n: int) -> Int[Array, "b l n"]:
    """The n tokens before each in its segment, nearest first; -1 where the segment has none."""
    back = [jnp.where(positions > s, jnp.roll(tokens, s + 1, axis=1), -1) for s in range(n)]
    return jnp.stack(back, -1) if back else jnp.zeros((*tokens.shape, 0), jnp.int32)


class Transformer(nnx.Module):
    """Embedding, encoder where there is one, decoder, output layer."""

    def __init__(self, cfg: ModelConfig, vocab_size: int, rngs: nnx.Rngs):
        self.cfg = cfg
        e = cfg.embed_dim
        # Tied: rows of norm 1 give logits of variance 1. Untied, or logits scaled down: embeddings
        # of variance 1.
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
        rows: Key[Array, "b"] | None = None,
        unroll: bool | None = None,
    ) -> Float[Array, "b t e"]:
        """What the last layer leaves at `loss_positions` (-1 stands for none: anything), or at all
        where not given.

        `rows` turns dropout on: one random key per row of the batch.
        """
        memory = memory_bias = None
        e_rows, d_rows = (None, None) if rows is None else (fold(rows, 1), fold(rows, 2))
        d_segments, d_positions = batch["decoder_segment_ids"], batch["decoder_positions"]
        if self.encoder is not None:
            prompts = None if self.encoder.prompt is None else batch["encoder_prompts"]
            memory, e_segments = self.encode(
                batch["encoder_input_tokens"], batch["encoder_segment_ids"], batch["encoder_positions"],
                e_rows, unroll, prompts,
            )  # fmt: skip
            memory_bias = attention.bias(d_segments, e_segments, causal=False)
        previous = batch.get("decoder_previous_tokens")
        if previous is None:
            previous = before(batch["decoder_input_tokens"], d_positions, self.cfg.smear)
        x = self.embed(batch["decoder_input_tokens"], previous, d_rows)
        prefix = batch["decoder_causal_attention"] if self.cfg.prefix_lm else None
        branches = batch.get("decoder_branches")  # itx/eval/rank.py: options of one prompt
        n, virtual = self.decoder.virtual()
        biases = self.decoder.biases(
            d_segments, d_segments, d_positions, d_positions, prefix, branches, n
        )
        ctx = Context(
            **biases, **self.decoder.ropes(d_positions + n), ordered=prefix is None,
            # branches: places are not positions
            window=self.cfg.sliding_window if branches is None else 0,
            kernel=kernels.choose(self.cfg, d_segments.shape[1], prefix is None and branches is None and not n),
            segments=d_segments, memory=memory, memory_bias=memory_bias, rows=d_rows,
        )  # fmt: skip
        at = batch.get("loss_positions")
        if self.encoder is not None:
            # nearly every position of an encoder-decoder's target row is a loss position
            x = self.decoder(x, ctx, None, unroll, virtual)
            x = x if at is None else pick(x, jnp.maximum(at, 0))
        else:
            x = self.decoder(x, ctx, None if at is None else jnp.maximum(at, 0), unroll, virtual)
        return x

    def embed(
        self, tokens: Int[Array, "b l"], previous: Int[Array, "b l s"], rows: Array | None = None
    ) -> Array:
        """Embeddings; with `smear` also a learned image of each of the previous tokens' (-1: there
        is none).

        A token that carries its predecessors gives a single layer what finding "the word after X"
        takes, as smeared keys do in Olsson et al. 2022, "In-context learning and induction heads",
        where they bring the abrupt onset of copying forward. It matters for small models trained
        from scratch.
        """
        table = self.embedding[...].astype(self.cfg.dtype)
        x = table[tokens]
        for s in range(self.cfg.smear):
            there = (previous[..., s] >= 0)[..., None]
            x = x + project(
                jnp.where(there, table[jnp.maximum(previous[..., s], 0)], 0), self.smear[...][s]
            )
        if self.cfg.scale_embeddings:
            x = x * jnp.asarray(self.cfg.embed_dim**0.5, x.dtype)
        return dropout(constrain(x, "batch", "length", None), rows, 0, self.cfg.dropout)

    def encode(
        self, tokens, segments, positions, rows=None, unroll: bool | None = None, prompts=None
    ) -> tuple[Float[Array, "b l e"], Int[Array, "b l"]]:
        """The encoder's output and the segment that each place of it belongs to.

        Where the encoder has virtual tokens, a copy of them stands in front for each segment that
        `prompts` [b, s] names (default: 1), since they see the segment and not only are seen.
        """
        x = self.embed(tokens, before(tokens, positions, self.cfg.smear), rows)
        if self.encoder.prompt is not None:
            prompts = jnp.ones((len(tokens), 1), jnp.int32) if prompts is None else prompts
            table = self.encoder.prompt[...]
            n, copies = len(table), prompts.shape[1]
            place = jnp.tile(jnp.arange(n, dtype=jnp.int32), (len(tokens), copies))
            x = in_front(jnp.tile(table, (copies, 1)), x)
            segments = jnp.concatenate([jnp.repeat(prompts, n, axis=1), segments], axis=1)
            positions = jnp.concatenate([place, positions + n], axis=1)
        biases = self.encoder.biases(segments, segments, positions, positions)
        ctx = Context(**biases, **self.encoder.ropes(positions), rows=rows)
        return self.encoder(x, ctx, None, unroll), segments

    def logits(self, x: Float[Array, "b t e"], rows: Array | None = None) -> Float[Array, "b t v"]:
        return constrain(self.unembed(x, self.table, rows), "batch", "length", "vocab")

    @property
    def table(self) -> Float[Array, "e v"]:
        """What makes logits of states."""
        return self.embedding[...].T if self.head is None else self.head[...]

    @property
    def head_adapter(self) -> nnx.Module | None:
        return getattr(self, "head_lora", None)

    def unembed(
        self, x: Float[Array, "b t e"], table: Float[Array, "e v"], rows: Array | None = None
    ) -> Array:
        if self.cfg.scale_logits:
            x = x * self.cfg.embed_dim**-0.5
        out = project(x, table) if self.head_adapter is None else linear(self, "head", x, rows)
        return soft_cap(out.astype(jnp.float32), self.cfg.logit_cap)

    def prefill(
        self,
        tokens: Int[Array, "b l"],
        starts: Int[Array, "b"],
        slots: int,
        layers: list,
        memory: Array | None = None,
        memory_segments: Array | None = None,
    ) -> tuple[Float[Array, "b v"], list]:
        """Read prompts that stand in [start, l) of their row; logits behind the last token.

        Returns the cache too: for each layer keys and values with room for `slots` tokens, behind
        those of virtual tokens.
        """
        l = tokens.shape[1]
        index = jnp.arange(l, dtype=jnp.int32)[None]
        positions = index - starts[:, None]
        segments = (positions >= 0).astype(jnp.int32)
        positions = jnp.maximum(positions, 0)
        # prefix language model: the prompt sees all of itself, as in training
        prefix = segments if self.cfg.prefix_lm and self.encoder is None else None
        n, virtual = self.decoder.virtual()
        biases = self.decoder.biases(segments, segments, positions, positions, prefix, virtual=n)
        ctx = self._decoder_context(biases, positions + n, memory, memory_segments)
        ctx = ctx._replace(ordered=prefix is None, window=self.cfg.sliding_window)
        at = jnp.full((tokens.shape[0], 1), l - 1, jnp.int32)
        x, cache = self.decoder.cached(
            self.embed(tokens, before(tokens, positions, self.cfg.smear)),
            ctx,
            layers,
            None,
            None,
            at,
            virtual,
        )
        pad = ((0, 0), (0, 0), (0, slots - l), (0, 0))
        cache = [
            {n: a if n.startswith("cross") else jnp.pad(a, pad) for n, a in layer.items()}
            for layer in cache
        ]
        return self.logits(x)[:, 0], cache

    def decode(
        self,
        tokens: Int[Array, "b"],
        previous: Int[Array, "b s"],
        slot: Int[Array, ""],
        starts: Int[Array, "b"],
        layers: list,
        cache: list,
        memory_segments: Array | None = None,
    ) -> tuple[Float[Array, "b v"], list]:
        """Add one token per row at `slot`, behind `previous`; logits behind it and the cache with
        it."""
        n = self.decoder.virtual_tokens
        slots = cache[0]["k"].shape[2] - n
        index = jnp.arange(slots, dtype=jnp.int32)[None]
        positions = jnp.maximum(index - starts[:, None], 0)
        seen = ((index >= starts[:, None]) & (index <= slot)).astype(jnp.int32)
        q_positions = (slot - starts)[:, None]
        biases = self.decoder.biases(
            jnp.ones_like(q_positions), seen, q_positions, positions, virtual=n
        )
        ctx = self._decoder_context(biases, q_positions + n, None, memory_segments)
        x = self.embed(tokens[:, None], previous[:, None])
        x, cache = self.decoder.cached(x, ctx, layers, cache, slot + n)
        return self.logits(x)[:, 0], cache

    def _decoder_context(self, biases, positions, memory, memory_segments) -> Context:
        memory_bias = None
        if memory_segments is not None:
            ones = jnp.ones(positions.shape, jnp.int32)
            memory_bias = attention.bias(ones, memory_segments, causal=False)
        return Context(
            **biases, **self.decoder.ropes(positions), memory=memory, memory_bias=memory_bias
        )
