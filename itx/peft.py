# SPDX-License-Identifier: Apache-2.0
"""Parameter-efficient tuning: LoRA, DoRA, prefix and prompt tuning over a base that stays as it is.

`add` puts an adapter's parameters into a model; the train step is that of full tuning and differs
by one filter, `TRAINED`: the type of the parameters that train. A new method is an `nnx.Param`
subclass, a function that adds it and an entry there.

    LoRA    a module `wq_lora` beside the weight `wq`, which itx/models/layers.py's `linear` finds:
            x W + s x A B, s = alpha / rank (Hu et al. 2021); rsLoRA: s = alpha / sqrt(rank)
            (Kalajdzievski 2023);
            DoRA: m (x W + s x A B) / |W + s A B|, the norm over inputs, taken as a constant (Liu et
                al. 2024)
    prefix  keys and values in front of every segment in each layer of the decoder (Li and Liang
    2021) prompt  embeddings in front of every segment of the decoder, or of the encoder where there
    is
            one (Lester et al. 2021)

Positions count from the first virtual token on, as with Hugging Face's PEFT. Virtual tokens of a
decoder see each other alone, so a row needs them once however many segments are packed in it.
"""

import hashlib
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Key
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from itx import hashing, storage
from itx.config import ModelConfig, PeftConfig
from itx.config_check import setting
from itx.errors import UserError, did_you_mean
from itx.models import families
from itx.models.hf import MATRICES
from itx.models.layers import dropout, logical, project
from itx.models.transformer import Transformer
from itx.optim import matching
from itx.params import find, logical_names


class LoRAParam(nnx.Param):
    """A low-rank factor, or DoRA's magnitudes."""


class PrefixParam(nnx.Param):
    """Keys and values of a prefix, or what they are computed from."""


class PromptParam(nnx.Param):
    """Embeddings of virtual tokens."""


# method -> type of the parameters that train; all others are frozen, and have neither gradient nor
# optimizer state
TRAINED: dict[str, type[nnx.Variable]] = {
    "full": nnx.Param, "lora": LoRAParam, "prefix": PrefixParam, "prompt": PromptParam,
}  # fmt: skip

# a folder as Hugging Face's PEFT writes it; BASE is ours: the fingerprint of the parameters it was
# trained over
CONFIG, WEIGHTS, BASE = "adapter_config.json", "adapter_model.safetensors", "itx_base.json"
INNER = "base_model.model."  # where the base stands in PEFT's model


# ---------------------------------------------------------------- LoRA


class LoRA(nnx.Module):
    """What stands beside a weight w [(layers,) *in, *out]: a [(layers,) *in, r], b [(layers,) r,
    *out]."""

    def __init__(
        self,
        w: Array,
        axes: tuple[str, ...],
        reads: int,
        peft: PeftConfig,
        salt: int,
        rngs: nnx.Rngs,
    ):
        """`reads`: how many dimensions of w are its input."""
        stacked = axes[:1] == ("layers",)
        first = reads + stacked  # of the output's dimensions
        lead, inputs, outputs = w.shape[:stacked], w.shape[stacked:first], w.shape[first:]
        bound = math.prod(inputs) ** -0.5  # uniform and zero: LoRA's own initialisation
        a = jax.random.uniform(
            rngs.params(), (*lead, *inputs, peft.rank), jnp.float32, -bound, bound
        )
        self.a = LoRAParam(a, **logical((*axes[:first], "rank")))
        b = jnp.zeros((*lead, peft.rank, *outputs), jnp.float32)
        self.b = LoRAParam(b, **logical((*axes[:stacked], "rank", *axes[first:])))
        self.scale = peft.alpha / (math.sqrt(peft.rank) if peft.rslora else peft.rank)
        self.rate, self.salt = peft.dropout, salt
        self.magnitude = nnx.data(None)
        if peft.dora:
            norms = layerwise(self, "norm", stacked, w)
            self.magnitude = LoRAParam(norms, **logical((*axes[:stacked], *axes[first:])))

    def __call__(
        self, x: Float[Array, "b l e"], w: Array, rows: Key[Array, "b"] | None = None
    ) -> Array:
        """x w and what the adapter adds. W + A B is never formed."""
        low = project(project(dropout(x, rows, self.salt, self.rate), self.a[...]), self.b[...])
        out = project(x, w) + self.scale * low
        if self.magnitude is None:
            return out
        return out * (self.magnitude[...] / jax.lax.stop_gradient(self.norm(w))).astype(x.dtype)

    def norm(self, w: Array) -> Float[Array, "*out"]:
        """|W + s A B| over the inputs, from |W|², W·AB and |AB|², which need no matrix of W's
        size."""
        r = self.a.shape[-1]
        a, b = self.a[...].reshape(-1, r), self.b[...].reshape(r, -1)
        flat = w.astype(jnp.float32).reshape(len(a), -1)
        cross = jnp.sum((a.T @ flat) * b, axis=0)
        low = jnp.sum(b * ((a.T @ a) @ b), axis=0)
        square = jnp.sum(flat * flat, axis=0) + 2 * self.scale * cross + self.scale**2 * low
        return jnp.sqrt(square).reshape(self.b.shape[1:])

    def merged(self, w: Array) -> tuple[Array, Array]:
        """The weight with the adapter in it, and the norm that `unmerged` needs with DoRA (else
        1)."""
        norm = jnp.ones(self.b.shape[1:]) if self.magnitude is None else self.norm(w)
        factor = 1.0 if self.magnitude is None else self.magnitude[...] / norm
        return ((w + self._product(w)) * factor).astype(w.dtype), norm

    def unmerged(self, w: Array, norm: Array) -> Array:
        """The weight that `merged` was given, up to rounding."""
        factor = 1.0 if self.magnitude is None else self.magnitude[...] / norm
        return (w / factor - self._product(w)).astype(w.dtype)

    def _product(self, w: Array) -> Array:
        r = self.a.shape[-1]
        return self.scale * (self.a[...].reshape(-1, r) @ self.b[...].reshape(r, -1)).reshape(
            w.shape
        )


def layerwise(lora: LoRA, method: str, stacked: bool, *arrays: Array) -> Any:
    """A method of a LoRA, layer by layer where they are stacked."""
    graphdef, state = nnx.split(lora)

    def one(state: nnx.State, *arrays: Array) -> Any:
        return getattr(nnx.merge(graphdef, state), method)(*arrays)

    return (jax.vmap(one) if stacked else one)(state, *arrays)


def targets(model: nnx.Module, peft: PeftConfig) -> dict[str, tuple[str, ...]]:
    """{path: logical axes} of the weights that `peft.targets` matches."""
    axes = logical_names(model)
    found = matching("peft.targets", peft.targets, axes)
    wrong = sorted(p for p in found if p.split("/")[-1] not in MATRICES)
    if wrong:
        raise UserError(
            f"peft.targets: {', '.join(peft.targets)} also matches {wrong[0]}"
            + (f" and {len(wrong) - 1} more" if len(wrong) > 1 else "")
            + f"; LoRA is for the matrices {', '.join(MATRICES)}"
        )
    return {p: axes[p] for p in axes if p in found}


def add_lora(model: nnx.Module, peft: PeftConfig, rngs: nnx.Rngs) -> None:
    for salt, (path, axes) in enumerate(targets(model, peft).items()):
        module, name = find(model, path)
        w = getattr(module, name)[...]
        setattr(module, f"{name}_lora", LoRA(w, axes, MATRICES[name], peft, salt, rngs))


def loras(model: nnx.Module) -> Iterator[tuple[str, nnx.Module, str, LoRA]]:
    """(path of the weight, the module that holds it, its name there, its LoRA)."""
    for path in logical_names(model):
        if path.split("/")[-1] in MATRICES:
            module, name = find(model, path)
            if getattr(module, f"{name}_lora", None) is not None:
                yield path, module, name, getattr(module, f"{name}_lora")


def merge(model: nnx.Module) -> dict[str, tuple[LoRA, Array]]:
    """Put every LoRA into its weight and take it off; returns what `unmerge` needs to undo it."""
    undo = {}
    for path, module, name, lora in list(loras(model)):
        w = getattr(module, name)
        w[...], norm = layerwise(lora, "merged", "/blocks/" in path, w[...])
        delattr(module, f"{name}_lora")
        undo[path] = (lora, norm)
    return undo


def unmerge(model: nnx.Module, undo: dict[str, tuple[LoRA, Array]]) -> None:
    """The model before `merge`, up to rounding."""
    for path, (lora, norm) in undo.items():
        module, name = find(model, path)
        w = getattr(module, name)
        w[...] = layerwise(lora, "unmerged", "/blocks/" in path, w[...], norm)
        setattr(module, f"{name}_lora", lora)


# ---------------------------------------------------------------- virtual tokens


class Prefix(nnx.Module):
    """Keys and values of `length` virtual tokens for every layer; with `hidden` they come from an
    MLP.

    k, v [layers, g, p, d]; or embedding [p, g d] -> tanh [p, hidden] -> [p, layers, (k, v), g, d].
    """

    def __init__(self, cfg: ModelConfig, length: int, hidden: int, rngs: nnx.Rngs):
        layers, g, d = cfg.num_layers, cfg.num_kv_heads, cfg.head_dim
        self.length, self.hidden = length, hidden

        def draw(shape: tuple, std: float, axes: tuple) -> PrefixParam:
            return PrefixParam(
                jax.random.normal(rngs.params(), shape, jnp.float32) * std, **logical(axes)
            )

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
    nothing = jnp.full((1, peft.length, model.cfg.smear), -1, jnp.int32)
    stack = model.decoder if model.encoder is None else model.encoder
    stack.prompt = PromptParam(
        model.embed(ids, nothing)[0].astype(jnp.float32), **logical(("prompt", "embed"))
    )


def prompted_encoder(model: ModelConfig, peft: PeftConfig) -> bool:
    """Whether every segment needs a copy of the virtual tokens: `encoder_prompts` in the batch."""
    return peft.method == "prompt" and model.architecture == "encoder_decoder"


def with_prompts(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The batch and `encoder_prompts` [b, s]: the segments that get a copy of the encoder's virtual
    tokens.

    s is a power of two, so that few shapes are compiled, and the same on all processes.
    """
    most = np.int32(max(1, batch["encoder_segment_ids"].max()))
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        most = multihost_utils.process_allgather(most).max()
    named = np.arange(1, 1 + (1 << int(most - 1).bit_length()), dtype=np.int32)
    return {**batch, "encoder_prompts": np.tile(named, (len(batch["encoder_segment_ids"]), 1))}


# ---------------------------------------------------------------- all methods


ADD: dict[str, Callable] = {"lora": add_lora, "prefix": add_prefix, "prompt": add_prompt}


def add(model: nnx.Module, peft: PeftConfig, seed: int) -> nnx.Module:
    """The model with a fresh adapter in it, drawn from the seed."""
    if peft.method != "full":
        # a stream of its own: the base's begins at the bare seed
        ADD[peft.method](model, peft, nnx.Rngs(jax.random.fold_in(jax.random.key(seed), len(ADD))))
    return model


def trained(model: nnx.Module, peft: PeftConfig) -> list[str]:
    """Paths of the parameters that train."""
    flat = nnx.to_flat_state(nnx.state(model, TRAINED[peft.method]))
    return ["/".join(map(str, p)) for p, _ in flat]


def cast(model: nnx.Module, dtype: str) -> nnx.Module:
    """The model with its parameters in this type, which a frozen base may have."""
    return nnx.merge(nnx.graphdef(model), jax.tree.map(lambda x: x.astype(dtype), nnx.state(model)))


@jax.jit
def _sums(params: dict[str, Array]) -> dict[str, Array]:
    def one(x: Array) -> Array:
        bits = (
            jax.lax.bitcast_convert_type(x.astype(jnp.bfloat16), jnp.uint16)
            .astype(jnp.uint32)
            .ravel()
        )
        return jnp.sum(bits * (2 * jnp.arange(bits.size, dtype=jnp.uint32) + 1), dtype=jnp.uint32)

    return jax.tree.map(one, params)


def fingerprint(params: dict[str, Array]) -> str:
    """A hash of parameters rounded to bfloat16, the same on every mesh: one sum of bits each, by
    place, modulo 2^32."""
    sums = {p: int(s) for p, s in sorted(jax.device_get(_sums(params)).items())}
    return hashlib.sha256(repr(sums).encode()).hexdigest()[:16]


# ---------------------------------------------------------------- Hugging Face's PEFT


class Adapter(NamedTuple):
    """An adapter as a folder holds it."""

    peft: PeftConfig
    params: dict[str, np.ndarray]  # by the paths of a model that `add` put it into
    base: str  # fingerprint of the base, "" where it is not told
    # {tensors of parts that see images, `#` standing for the layer: how many}
    left_out: dict[str, int] = {}


def _modules(cfg: ModelConfig) -> dict[str, str]:
    """{path of a matrix: the name of its module there, `{}` standing for the layer}."""
    names = families.tensor_names(cfg)
    out = {p: n.removesuffix(".weight") for p, n in names.items() if p.split("/")[-1] in MATRICES}
    return {p: n for p, n in out.items() if p != "head" or not cfg.tie_embeddings}


def _layers(cfg: ModelConfig, path: str) -> list[int | None]:
    """Layers of a stacked parameter; [None] where it stands alone."""
    if "/blocks/" not in path:
        return [None]
    encoder = path.startswith("encoder/")
    return list(range(cfg.encoder_layers or cfg.num_layers if encoder else cfg.num_layers))


def _lora_tensors(cfg: ModelConfig, path: str) -> Iterator[tuple[str, str, int | None]]:
    """(path of a LoRA's parameter, its name there behind INNER, layer) of a weight."""
    kinds = {"a": "lora_A.weight", "b": "lora_B.weight", "magnitude": "lora_magnitude_vector"}
    for layer in _layers(cfg, path):
        module = _modules(cfg)[path].format(layer)
        for kind, name in kinds.items():
            yield f"{path}_lora/{kind}", f"{module}.{name}", layer


def save(
    folder: Path | str,
    cfg: ModelConfig,
    peft: PeftConfig,
    params: dict,
    base: str,
    base_name: str,
    nested: bool = False,
) -> None:
    """Write an adapter's parameters as Hugging Face's PEFT does.

    Args:
        params: {path: array} of the model, or of the adapter alone.
        base: fingerprint of the base; base_name: where PEFT finds it, a folder or a name on the
            hub.
        nested: the base there is part of a model that also sees images, which calls its modules
            otherwise.
    """
    params = {
        p: np.asarray(jax.device_get(v), np.float32) for p, v in params.items() if _is_adapters(p)
    }
    both = cfg.architecture == "encoder_decoder"
    g, d, e, layers = cfg.num_kv_heads, cfg.head_dim, cfg.embed_dim, cfg.num_layers
    about: dict[str, Any] = {
        "base_model_name_or_path": base_name, "inference_mode": True,
        "task_type": "SEQ_2_SEQ_LM" if both else "CAUSAL_LM",
    }  # fmt: skip
    if peft.method == "lora":
        tensors = {}
        weights = [p for p in _modules(cfg) if f"{p}_lora/a" in params]
        for path in weights:
            for ours, name, layer in _lora_tensors(cfg, path):
                if ours in params:
                    x = params[ours] if layer is None else params[ours][layer]
                    # there [out, in]: A is [rank, in] and B [out, rank]
                    shape = {"a": (-1, peft.rank), "b": (peft.rank, -1), "magnitude": (-1,)}[
                        ours.split("/")[-1]
                    ]
                    tensors[INNER + (families.inside(name) if nested else name)] = x.reshape(
                        shape
                    ).T
        about |= {
            "peft_type": "LORA", "r": peft.rank, "lora_alpha": peft.alpha, "lora_dropout": peft.dropout, "bias": "none",
            "use_rslora": peft.rslora, "use_dora": peft.dora, "target_modules": _target_modules(cfg, weights, nested),
        }  # fmt: skip
    elif peft.method == "prefix":
        prefix = nnx.eval_shape(lambda: Prefix(cfg, peft.length, peft.prefix_hidden, nnx.Rngs(0)))
        own = {tuple(p.split("/")[2:]): jnp.asarray(v) for p, v in params.items()}
        k, v = (
            np.asarray(x)[:, 0] for x in nnx.merge(nnx.graphdef(prefix), nnx.from_flat_state(own))()
        )
        # An encoder-decoder has four entries a layer there, two for cross attention, which it does
        # not use. PEFT lays two a layer and reads them in fours, from the start again at the end:
        # with twice the layers it does not.
        entries = np.zeros((peft.length, layers, 4 if both else 2, g, d), np.float32)
        entries[:, :, 0], entries[:, :, 1] = k.transpose(2, 0, 1, 3), v.transpose(2, 0, 1, 3)
        tensors = {"prompt_embeddings": entries.reshape(peft.length, -1)}
        about |= {
            "peft_type": "PREFIX_TUNING", "num_virtual_tokens": peft.length, "prefix_projection": False,
            "token_dim": g * d, "num_attention_heads": g, "num_layers": layers * (1 + both),
            "num_transformer_submodules": 1 + both, "encoder_hidden_size": g * d,
        }  # fmt: skip
    else:
        (prompt,) = params.values()
        tensors = {"prompt_embeddings": prompt}
        about |= {
            "peft_type": "PROMPT_TUNING", "num_virtual_tokens": peft.length, "token_dim": e, "num_layers": layers,
            "num_attention_heads": cfg.num_heads, "num_transformer_submodules": 1, "prompt_tuning_init": "RANDOM",
        }  # fmt: skip
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with storage.whole_file(folder / WEIGHTS) as part:
        save_file({n: np.ascontiguousarray(x) for n, x in tensors.items()}, part, {"format": "pt"})
    storage.write_json(folder / CONFIG, about)
    storage.write_json(folder / BASE, {"fingerprint": base})


def same_in_peft(cfg: ModelConfig, peft: PeftConfig) -> int | None:
    """Up to how many tokens of prompt and answer an exported adapter's model is the same in PEFT;
    None: any number.

    Virtual tokens are seen from outside a window too; there they have places in front of the row,
    which a window leaves behind as any others.
    """
    if not cfg.sliding_window or peft.method not in ("prefix", "prompt"):
        return None
    return max(0, cfg.sliding_window - peft.length)


def _is_adapters(path: str) -> bool:
    return "_lora/" in path or path.split("/")[1:2] in (["prefix"], ["prompt"])


def _target_modules(cfg: ModelConfig, weights: list[str], nested: bool = False) -> list[str] | str:
    """The last parts of the modules' names; a regex of them all where others end alike (a T5's
    encoder and decoder, or a part that sees images)."""
    modules = _modules(cfg)
    if nested:
        modules = {p: families.inside(m) for p, m in modules.items()}
    last = {modules[p].split(".")[-1] for p in weights}
    if not nested and sorted(p for p, m in modules.items() if m.split(".")[-1] in last) == sorted(
        weights
    ):
        return sorted(last)
    return "|".join(re.escape(modules[p]).replace(r"\{\}", r"\d+") for p in weights)


def key(folder: Path | str) -> str:
    """Of what an adapter's folder says and holds."""
    both = "".join(hashing.file_sha256(Path(folder) / name) for name in (CONFIG, WEIGHTS))
    return hashlib.sha256(both.encode()).hexdigest()[:8]


def read(folder: Path | str, cfg: ModelConfig, rows: int = 0) -> Adapter:
    """An adapter that PEFT or `save` wrote, for a model of this config; UserError where it is for
    another.

    `rows` of the embedding, where the config does not say it.
    """
    folder = Path(folder)
    try:
        about, tensors = storage.read_json(folder / CONFIG), load_file(folder / WEIGHTS)
    except (OSError, ValueError, SafetensorError) as e:
        raise UserError(f"{folder} holds no adapter: {CONFIG} and {WEIGHTS} ({e})") from e
    if not isinstance(about, dict):
        raise UserError(f"{folder / CONFIG}: expected a JSON object, found {type(about).__name__}")
    base = _fingerprint(folder / BASE)
    tensors = {n: np.asarray(x, np.float32) for n, x in tensors.items()}
    kind = about.get("peft_type")
    readers = {"LORA": _read_lora, "PREFIX_TUNING": _read_prefix, "PROMPT_TUNING": _read_prompt}
    if not isinstance(kind, str) or kind not in readers:
        raise UserError(f"{folder}: an adapter of type {kind!r}" + did_you_mean(str(kind), readers))
    left_out = Counter()
    if kind == "LORA":
        tensors, left_out = _of_text(tensors, folder)
    peft, params = readers[kind](about, tensors, cfg, folder)
    model = nnx.eval_shape(
        lambda: add(Transformer(cfg, rows or cfg.vocab_size, nnx.Rngs(0)), peft, 0)
    )
    shapes = {
        "/".join(map(str, p)): v.shape
        for p, v in nnx.to_flat_state(nnx.state(model, TRAINED[peft.method]))
    }
    for path in sorted(shapes.keys() | params.keys()):
        ours, theirs = shapes.get(path), params[path].shape if path in params else "absent"
        if ours != theirs:
            raise UserError(
                f"{folder}: an adapter for another base: {path} is {theirs} there, {ours} in this model"
            )
    return Adapter(peft, params, base, dict(left_out))


def _of_text(tensors: dict[str, np.ndarray], folder: Path) -> tuple[dict[str, np.ndarray], Counter]:
    """A LoRA's tensors by the names that a text model alone has, without those of parts that see
    images, which are
    counted: `target_modules` such as q_proj match there too, and what text computes is the same
    without them."""
    out, left_out = {}, Counter()
    for name, x in tensors.items():
        plain = families.outside(name.removeprefix(INNER)) if name.startswith(INNER) else name
        if re.fullmatch(families.IMAGES, plain):
            left_out[re.sub(r"\d+", "#", plain)] += 1
            continue
        if plain in out:
            raise UserError(f"{folder}: {name!r} is there by two names")
        out[plain] = x
    if left_out and not out:
        raise UserError(
            f"{folder}: it adapts only parts that see images, first {next(iter(tensors))!r}"
        )
    return out, left_out


def _fingerprint(file: Path) -> str:
    """Of the base that an adapter of ours was trained over; "" where the file is not there."""
    if not file.is_file():
        return ""
    try:
        return str(storage.read_json(file)["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise UserError(f"{file} is not what itx writes ({type(e).__name__}: {e})") from e


# what PEFT's LoraConfig may say that changes what is computed, and is not done here
OTHER_LORAS = (
    "rank_pattern", "alpha_pattern", "modules_to_save", "layer_replication", "trainable_token_indices",
    "alora_invocation_tokens", "arrow_config", "kasa_config", "use_bdlora", "use_qalora", "target_parameters",
    "velora_config", "monteclora_config",
)  # fmt: skip
# initialisations that leave the base as it is; pissa, olora, corda, loftq and lora_ga take part of
# its weights away
OVER_THE_BASE = (True, False, None, "gaussian", "eva", "orthogonal", "mica")


def _read_lora(
    about: dict, tensors: dict, cfg: ModelConfig, folder: Path
) -> tuple[PeftConfig, dict]:
    for name in OTHER_LORAS:
        if about.get(name):
            raise UserError(f"{folder}: {name}={about[name]!r} is not supported")
    if about.get("init_lora_weights", True) not in OVER_THE_BASE:
        raise UserError(
            f"{folder}: init_lora_weights={about['init_lora_weights']!r}: its base's weights are others than they were; "
            "save it with PEFT's path_initial_model_for_weight_conversion"
        )
    if about.get("bias", "none") != "none" or about.get("lora_bias"):
        raise UserError(f"{folder}: LoRA with biases is not supported")
    # where the head is a target, PEFT writes the base's own weight too
    left = {n: x for n, x in tensors.items() if not n.endswith(".base_layer.weight")}
    params: dict[str, np.ndarray] = {}
    where = str(folder / CONFIG)  # what is absent there is as in PEFT's class
    rank = setting(about, "r", int, where, 8)
    g, n, d = cfg.num_kv_heads, cfg.num_heads, cfg.head_dim
    heads = {"wq": (n, d), "wk": (g, d), "wv": (g, d)}
    for path in _modules(cfg):
        name, found = path.split("/")[-1], {}
        for ours, theirs, _ in _lora_tensors(cfg, path):
            if theirs in left:
                found.setdefault(ours, []).append(left.pop(theirs).T)
        for ours, layers in found.items():
            if len(layers) != len(_layers(cfg, path)):
                raise UserError(
                    f"{folder}: {ours} is in {len(layers)} of {len(_layers(cfg, path))} layers only"
                )
            inputs = (n, d) if name == "wo" else (-1,)
            shape = {
                "a": (*inputs, rank),
                "b": (rank, *heads.get(name, (-1,))),
                "magnitude": heads.get(name, (-1,)),
            }
            try:
                stacked = np.stack([x.reshape(shape[ours.split("/")[-1]]) for x in layers])
            except ValueError as e:
                raise UserError(f"{folder}: an adapter for another base: {ours}: {e}") from e
            params[ours] = stacked if "/blocks/" in path else stacked[0]
    if left or not params:
        first = repr(INNER + next(iter(left))) if left else "such weight"
        raise UserError(f"{folder}: an adapter for another base: this model has no {first}")
    alpha, dropout = (
        float(setting(about, key, float, where, d))
        for key, d in (("lora_alpha", 8), ("lora_dropout", 0.0))
    )
    if not math.isfinite(alpha) or alpha == 0:
        raise UserError(
            f"{where}: lora_alpha={about['lora_alpha']!r}; expected a finite number, and 0 would add nothing"
        )
    if not 0 <= dropout < 1:
        raise UserError(
            f"{where}: lora_dropout={about['lora_dropout']!r}; expected a share, at least 0 and below 1"
        )
    return PeftConfig(
        method="lora", rank=rank, alpha=alpha, dropout=dropout,
        rslora=setting(about, "use_rslora", bool, where, False), dora=setting(about, "use_dora", bool, where, False),
        targets=tuple(re.escape(p.removesuffix("_lora/a")) for p in params if p.endswith("/a")),
    ), params  # fmt: skip


def _embeddings(tensors: dict, folder: Path) -> np.ndarray:
    if list(tensors) != ["prompt_embeddings"]:
        raise UserError(
            f"{folder}: expected prompt_embeddings alone, found {', '.join(sorted(tensors))}"
        )
    if tensors["prompt_embeddings"].ndim != 2:
        raise UserError(
            f"{folder}: prompt_embeddings has shape {tensors['prompt_embeddings'].shape}; expected two sizes"
        )
    return tensors["prompt_embeddings"]


def _length(about: dict, rows: int, folder: Path, halves: int = 1) -> int:
    """How many virtual tokens an adapter has, of rows that are theirs once or, up to `halves`, as
    often."""
    length = setting(about, "num_virtual_tokens", int, str(folder / CONFIG), rows)
    if rows not in [length * n for n in range(1, halves + 1)]:
        raise UserError(
            f"{folder}: num_virtual_tokens={length}, but prompt_embeddings has {rows} rows"
        )
    return length


def _read_prefix(
    about: dict, tensors: dict, cfg: ModelConfig, folder: Path
) -> tuple[PeftConfig, dict]:
    flat, g, d = _embeddings(tensors, folder), cfg.num_kv_heads, cfg.head_dim
    _length(about, len(flat), folder)
    entries, rest = divmod(flat.shape[1], g * d)
    heads = setting(about, "num_attention_heads", int, str(folder / CONFIG), g)
    layers = setting(about, "num_layers", int, str(folder / CONFIG), max(entries // 2, 1))
    if rest or heads != g or entries != 2 * layers:
        raise UserError(
            f"{folder}: an adapter for another base: {layers} layers of {heads} heads in {flat.shape[1]} values there, "
            f"{cfg.num_layers} of {g} × {d} in this model"
        )
    step = 4 if cfg.architecture == "encoder_decoder" else 2
    if entries not in (step * cfg.num_layers, 2 * cfg.num_layers):  # see `save`
        raise UserError(
            f"{folder}: an adapter for another base: {entries // 2} layers there, {cfg.num_layers} here"
        )
    at = [step * layer % entries for layer in range(cfg.num_layers)]  # see `save`
    split = flat.reshape(len(flat), entries, g, d).transpose(1, 2, 0, 3)  # [entries, g, p, d]
    params = {"decoder/prefix/k": split[at], "decoder/prefix/v": split[[i + 1 for i in at]]}
    return PeftConfig(method="prefix", length=len(flat)), params


def _read_prompt(
    about: dict, tensors: dict, cfg: ModelConfig, folder: Path
) -> tuple[PeftConfig, dict]:
    flat = _embeddings(tensors, folder)
    # a second half, of an encoder-decoder's, is never used
    flat = flat[: _length(about, len(flat), folder, 2)]
    stack = "encoder" if cfg.architecture == "encoder_decoder" else "decoder"
    return PeftConfig(method="prompt", length=len(flat)), {f"{stack}/prompt": flat}
