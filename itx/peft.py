# SPDX-License-Identifier: Apache-2.0
"""Parameter-efficient tuning: LoRA, DoRA, prefix and prompt tuning over a base that stays as it is.

`add` puts an adapter's parameters into a model; the train step is that of full tuning and differs
by one filter, `TRAINED`: the type of the parameters that train. A new method is an `nnx.Param`
subclass, a function that adds it and an entry there.

    LoRA    a module `wq_lora` beside the weight `wq`, which itx/models/layers.py's `linear` finds:
            x W + s x A B, s = alpha / rank (Hu et al. 2021); rsLoRA: s = alpha / sqrt(rank)
            (Kalajdzievski 2023); DoRA: m (x W + s x A B) / |W + s A B|, the norm over inputs, taken
            as a constant (Liu et al. 2024)
    prefix  keys and values in front of every segment in each layer of the decoder (Li and Liang
            2021)
    prompt  embeddings in front of every segment of the encoder, or of the decoder if there is no
            encoder (Lester et al. 2021)

Positions count from the first virtual token on, as with Hugging Face's PEFT. Virtual tokens of a
decoder see each other alone, so a row needs them once however many segments are packed in it.
peft_files.py holds the folders that PEFT writes and reads.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Key

from itx import hashing
from itx.config import ModelConfig, PeftConfig
from itx.errors import UserError
from itx.models.hf import MATRICES
from itx.models.layers import dropout, logical, project
from itx.optim import matching
from itx.params import find, logical_names, variables


class LoRAParam(nnx.Param):
    """A low-rank factor, or DoRA's magnitudes."""


class PrefixParam(nnx.Param):
    """Keys and values of a prefix, or what they are computed from."""


class PromptParam(nnx.Param):
    """Embeddings of virtual tokens."""


# method -> type of the parameters that train; all others are frozen, and have neither gradient nor
# optimizer state
TRAINED: dict[str, type[nnx.Variable]] = {
    "full": nnx.Param,
    "lora": LoRAParam,
    "prefix": PrefixParam,
    "prompt": PromptParam,
}


# ---------------------------------------------------------------- LoRA


class LoRA(nnx.Module):
    """An adapter of a weight w [(layers,) *in, *out]: a [(layers,) *in, r], b [(layers,) r, *out],
    with DoRA also magnitude [(layers,) *out]."""

    def __init__(
        self,
        w: Array,
        axes: tuple[str, ...],
        inputs: int,
        peft: PeftConfig,
        salt: int,
        rngs: nnx.Rngs,
    ):
        """`axes`: logical names of w's; `inputs`: how many dimensions of w are its input."""
        stacked = axes[:1] == ("layers",)
        first_output = inputs + stacked
        lead, ins = w.shape[:stacked], w.shape[stacked:first_output]
        bound = math.prod(ins) ** -0.5  # uniform and zero: LoRA's own initialisation
        shape = (*lead, *ins, peft.rank)
        a = jax.random.uniform(rngs.params(), shape, jnp.float32, -bound, bound)
        self.a = LoRAParam(a, **logical((*axes[:first_output], "rank")))
        b = jnp.zeros((*lead, peft.rank, *w.shape[first_output:]), jnp.float32)
        self.b = LoRAParam(b, **logical((*axes[:stacked], "rank", *axes[first_output:])))
        self.scale = peft.alpha / (math.sqrt(peft.rank) if peft.rslora else peft.rank)
        self.rate, self.salt = peft.dropout, salt
        self.magnitude = nnx.data(None)
        if peft.dora:
            norms = layerwise(self, "norm", stacked, w)
            names = (*axes[:stacked], *axes[first_output:])
            self.magnitude = LoRAParam(norms, **logical(names))

    def __call__(
        self, x: Float[Array, "b l e"], w: Array, dropout_keys: Key[Array, "b"] | None
    ) -> Array:
        """x w and what the adapter adds. W + A B is never formed."""
        dropped = dropout(x, dropout_keys, self.salt, self.rate)
        low = project(project(dropped, self.a[...]), self.b[...])
        out = project(x, w) + self.scale * low
        if self.magnitude is None:
            return out
        return out * (self.magnitude[...] / jax.lax.stop_gradient(self.norm(w))).astype(x.dtype)

    def factors(self) -> tuple[Float[Array, "i r"], Float[Array, "r o"]]:
        """A and B of one layer as matrices."""
        r = self.a.shape[-1]
        return self.a[...].reshape(-1, r), self.b[...].reshape(r, -1)

    def norm(self, w: Array) -> Float[Array, "*out"]:
        """|W + s A B| over the inputs, from |W|², W·AB and |AB|², which need no matrix of W's
        size."""
        a, b = self.factors()
        flat = w.astype(jnp.float32).reshape(len(a), -1)
        cross = jnp.sum((a.T @ flat) * b, axis=0)
        low = jnp.sum(b * ((a.T @ a) @ b), axis=0)
        square = jnp.sum(flat * flat, axis=0) + 2 * self.scale * cross + self.scale**2 * low
        return jnp.sqrt(square).reshape(self.b.shape[1:])

    def merged(self, w: Array) -> Array:
        """The weight with the adapter in it."""
        a, b = self.factors()
        whole = w + self.scale * (a @ b).reshape(w.shape)
        if self.magnitude is not None:
            whole = whole * (self.magnitude[...] / self.norm(w))
        return whole.astype(w.dtype)


def layerwise(lora: LoRA, method: str, stacked: bool, *arrays: Array) -> Any:
    """A method of a LoRA, layer by layer where they are stacked."""
    graphdef, state = nnx.split(lora)

    def one(state, *arrays: Array):
        return getattr(nnx.merge(graphdef, state), method)(*arrays)

    return (jax.vmap(one) if stacked else one)(state, *arrays)


def targets(model: nnx.Module, peft: PeftConfig) -> dict[str, tuple[str, ...]]:
    """{path: logical axes} of the weights that `peft.targets` matches."""
    axes = logical_names(model)
    paths = matching("peft.targets", peft.targets, axes)
    if wrong := sorted(p for p in paths if p.split("/")[-1] not in MATRICES):
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise UserError(
            f"peft.targets: {', '.join(peft.targets)} also matches {wrong[0]}{more}; LoRA is for "
            f"the matrices {', '.join(MATRICES)}"
        )
    return {p: axes[p] for p in axes if p in paths}


def add_lora(model: nnx.Module, peft: PeftConfig, rngs: nnx.Rngs) -> None:
    for salt, (path, axes) in enumerate(targets(model, peft).items()):
        module, name = find(model, path)
        w = getattr(module, name)[...]
        setattr(module, f"{name}_lora", LoRA(w, axes, MATRICES[name], peft, salt, rngs))


def merge(model: nnx.Module) -> None:
    """Put every LoRA into its weight and take it off."""
    for path in [p for p in logical_names(model) if p.split("/")[-1] in MATRICES]:
        module, name = find(model, path)
        lora = getattr(module, f"{name}_lora", None)
        if lora is not None:
            w = getattr(module, name)
            w[...] = layerwise(lora, "merged", "/blocks/" in path, w[...])
            delattr(module, f"{name}_lora")


# ---------------------------------------------------------------- virtual tokens


class Prefix(nnx.Module):
    """Keys and values of `length` virtual tokens for every layer; with `hidden` they come from an
    MLP.

    k, v [layers, g, p, d]; or embedding [p, g d] -> tanh [p, hidden] -> [p, layers, (k, v), g, d].
    """

    def __init__(self, cfg: ModelConfig, length: int, hidden: int, rngs: nnx.Rngs):
        layers, g, d = cfg.num_layers, cfg.num_kv_heads, cfg.head_dim
        self.length, self.hidden = length, hidden

        def draw(shape, std, axes):
            value = jax.random.normal(rngs.params(), shape, jnp.float32) * std
            return PrefixParam(value, **logical(axes))

        if not hidden:
            axes = ("layers", "kv_heads", "prefix", "head_dim")
            self.k, self.v = (draw((layers, g, length, d), 0.02, axes) for _ in "kv")
            return
        self.embedding = draw((length, g * d), 1.0, ("prefix", "kv"))
        self.w_1 = draw((g * d, hidden), (g * d) ** -0.5, ("kv", "prefix_hidden"))
        self.b_1 = draw((hidden,), 0.0, ("prefix_hidden",))
        axes = ("layers", "pair", "kv_heads", "head_dim")
        self.w_2 = draw((hidden, layers, 2, g, d), 0.02 * hidden**-0.5, ("prefix_hidden", *axes))
        self.b_2 = draw((layers, 2, g, d), 0.0, axes)

    def __call__(self) -> tuple[Float[Array, "layers 1 g p d"], Float[Array, "layers 1 g p d"]]:
        if not self.hidden:
            return self.k[...][:, None], self.v[...][:, None]
        h = jnp.tanh(self.embedding[...] @ self.w_1[...] + self.b_1[...])
        both = project(h, self.w_2[...]) + self.b_2[...]  # [p, layers, 2, g, d]
        k, v = both.transpose(2, 1, 3, 0, 4)
        return k[:, None], v[:, None]


def add_prefix(model: nnx.Module, peft: PeftConfig, rngs: nnx.Rngs) -> None:
    model.decoder.prefix = Prefix(model.cfg, peft.length, peft.prefix_hidden, rngs)


def add_prompt(model: nnx.Module, peft: PeftConfig, rngs: nnx.Rngs) -> None:
    """Virtual tokens begin as randomly drawn pieces of the vocabulary."""
    ids = jax.random.randint(rngs.params(), (1, peft.length), 0, len(model.embedding[...]))
    no_previous = jnp.full((1, peft.length, model.cfg.smear), -1, jnp.int32)
    prompt = model.embed(ids, no_previous)[0].astype(jnp.float32)
    stack = model.decoder if model.encoder is None else model.encoder
    stack.prompt = PromptParam(prompt, **logical(("prompt", "embed")))


def prompted_encoder(model: ModelConfig, peft: PeftConfig) -> bool:
    """Whether every segment needs a copy of the virtual tokens: `encoder_prompts` in the batch."""
    return peft.method == "prompt" and model.architecture == "encoder_decoder"


def with_prompts(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The batch and `encoder_prompts` [b, s]: the segments that get a copy of the encoder's virtual
    tokens.

    s is a power of two, so that few shapes are compiled, and the same on all processes.
    """
    segments = batch["encoder_segment_ids"]
    count = np.int32(max(1, segments.max()))
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        count = multihost_utils.process_allgather(count).max()
    prompts = np.arange(1, 1 + (1 << int(count - 1).bit_length()), dtype=np.int32)
    return {**batch, "encoder_prompts": np.tile(prompts, (len(segments), 1))}


# ---------------------------------------------------------------- all methods


ADD: dict[str, Callable] = {"lora": add_lora, "prefix": add_prefix, "prompt": add_prompt}


def add(model: nnx.Module, peft: PeftConfig, seed: int) -> nnx.Module:
    """The model with a fresh adapter in it, drawn from the seed."""
    if peft.method != "full":
        # a stream of its own: the base's begins at the bare seed
        ADD[peft.method](model, peft, nnx.Rngs(jax.random.fold_in(jax.random.key(seed), len(ADD))))
    return model


def trained(model: nnx.Module, peft: PeftConfig) -> dict[str, nnx.Variable]:
    """{path: variable} of the parameters that train."""
    return variables(model, TRAINED[peft.method])


def cast(model: nnx.Module, dtype: str) -> nnx.Module:
    """The model with its parameters in this type, which a frozen base may have."""
    return nnx.merge(nnx.graphdef(model), jax.tree.map(lambda x: x.astype(dtype), nnx.state(model)))


@jax.jit
def _sums(params: dict[str, Array]) -> dict[str, Array]:
    def one(x):
        bits = jax.lax.bitcast_convert_type(x.astype(jnp.bfloat16), jnp.uint16)
        bits = bits.astype(jnp.uint32).ravel()
        return jnp.sum(bits * (2 * jnp.arange(bits.size, dtype=jnp.uint32) + 1), dtype=jnp.uint32)

    return jax.tree.map(one, params)


def fingerprint(params: dict[str, Array]) -> str:
    """A hash of parameters rounded to bfloat16, the same on every mesh: for each parameter the sum
    of its bits, weighted by place, modulo 2^32."""
    sums = {p: int(s) for p, s in sorted(jax.device_get(_sums(params)).items())}
    return hashing.digest(repr(sums))
