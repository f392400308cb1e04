# SPDX-License-Identifier: Apache-2.0
"""Adapters as files: folders that Hugging Face's PEFT writes and reads.

`save` writes an adapter's parameters as PEFT does, `read` takes an adapter that PEFT or `save`
wrote. A folder holds adapter_config.json and adapter_model.safetensors.
"""

import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from itx import hashing, storage
from itx.config import ModelConfig, PeftConfig
from itx.config_check import setting
from itx.errors import UserError, check_known
from itx.models import families, names
from itx.models.hf import MATRICES
from itx.models.transformer import Transformer
from itx.params import shapes_of
from itx.peft import Prefix, add, trained

# a folder as Hugging Face's PEFT writes it; BASE is ours: the fingerprint of the parameters it was
# trained over
CONFIG, WEIGHTS, BASE = "adapter_config.json", "adapter_model.safetensors", "itx_base.json"
INNER = "base_model.model."  # where the base stands in PEFT's model
EMBEDDINGS = "prompt_embeddings"  # the only tensor of virtual tokens

Tensors = dict[str, np.ndarray]  # by names in PEFT, or by paths in our model
Read = tuple[PeftConfig, Tensors]  # tensors: parameters by our paths


class Adapter(NamedTuple):
    """An adapter as a folder holds it."""

    peft: PeftConfig
    params: Tensors  # by the paths of a model that `add` put it into
    base: str  # fingerprint of the base, "" where it is not told
    # {tensors of parts that see images, `#` standing for the layer: how many}
    left_out: dict[str, int] = {}


def _modules(cfg: ModelConfig, family: str) -> dict[str, str]:
    """{path of a matrix: the name of its module in transformers, `{}` standing for the layer}."""
    return {
        path: name.removesuffix(".weight")
        for path, name in families.tensor_names(cfg, family).items()
        if path.split("/")[-1] in MATRICES and not (path == "head" and cfg.tie_embeddings)
    }


def _layers(cfg: ModelConfig, path: str) -> list[int | None]:
    """Layers of a stacked parameter; [None] where it stands alone."""
    if "/blocks/" not in path:
        return [None]
    encoder = path.startswith("encoder/")
    return list(range(cfg.encoder_layers or cfg.num_layers if encoder else cfg.num_layers))


def _lora_tensors(
    cfg: ModelConfig, path: str, module: str
) -> Iterator[tuple[str, str, int | None]]:
    """(path of a LoRA's parameter, its name in PEFT behind INNER, layer) of a weight."""
    kinds = {"a": "lora_A.weight", "b": "lora_B.weight", "magnitude": "lora_magnitude_vector"}
    for layer in _layers(cfg, path):
        for kind, name in kinds.items():
            yield f"{path}_lora/{kind}", f"{module.format(layer)}.{name}", layer


def save(
    folder: Path | str,
    cfg: ModelConfig,
    peft: PeftConfig,
    params: dict,
    base: str,
    base_name: str,
    family: str = "",
) -> None:
    """Write an adapter's parameters as Hugging Face's PEFT does.

    Args:
        params: {path: array} of the model, or of the adapter alone.
        base: fingerprint of the base.
        base_name: the base's folder, or its name on the hub, for PEFT to find it.
        family: model_type of the base, if it came with one (families.tensor_names).
    """
    params = {
        path: np.asarray(jax.device_get(value), np.float32)
        for path, value in params.items()
        if "_lora/" in path or path.split("/")[1:2] in (["prefix"], ["prompt"])
    }
    if peft.method == "lora":
        settings, tensors = _write_lora(cfg, peft, params, family)
    else:
        write = {"prefix": _write_prefix, "prompt": _write_prompt}[peft.method]
        settings, embeddings = write(cfg, peft, params)
        tensors = {EMBEDDINGS: embeddings}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with storage.whole_file(folder / WEIGHTS) as part:
        save_file({n: np.ascontiguousarray(x) for n, x in tensors.items()}, part, {"format": "pt"})
    task = "SEQ_2_SEQ_LM" if cfg.architecture == "encoder_decoder" else "CAUSAL_LM"
    common = {"base_model_name_or_path": base_name, "inference_mode": True, "task_type": task}
    storage.write_json(folder / CONFIG, common | settings)
    storage.write_json(folder / BASE, {"fingerprint": base})


def _write_lora(
    cfg: ModelConfig, peft: PeftConfig, params: Tensors, family: str
) -> tuple[dict, Tensors]:
    """(settings, tensors) of a LoRA. PEFT's matrices are [out, in]: A is [rank, in], B [out,
    rank]."""
    shapes = {"a": (-1, peft.rank), "b": (peft.rank, -1), "magnitude": (-1,)}
    modules, tensors = _modules(cfg, family), {}
    weights = {path: m for path, m in modules.items() if f"{path}_lora/a" in params}
    for path, module in weights.items():
        for ours, name, layer in _lora_tensors(cfg, path, module):
            if ours in params:
                x = params[ours] if layer is None else params[ours][layer]
                tensors[INNER + name] = x.reshape(shapes[ours.split("/")[-1]]).T
    return {
        "peft_type": "LORA",
        "r": peft.rank,
        "lora_alpha": peft.alpha,
        "lora_dropout": peft.dropout,
        "bias": "none",
        "use_rslora": peft.rslora,
        "use_dora": peft.dora,
        "target_modules": _target_modules(weights, modules, families.is_nested(family)),
    }, tensors


def _target_modules(
    weights: dict[str, str], modules: dict[str, str], nested: bool = False
) -> list[str] | str:
    """The last parts of the modules' names; a regex of whole names where modules that are not
    adapted end alike (a T5's encoder and decoder, or a part that sees images)."""
    last = {module.split(".")[-1] for module in weights.values()}
    others = [m for path, m in modules.items() if path not in weights]
    if not nested and not any(module.split(".")[-1] in last for module in others):
        return sorted(last)
    return "|".join(re.escape(module).replace(r"\{\}", r"\d+") for module in weights.values())


def _write_prefix(cfg: ModelConfig, peft: PeftConfig, params: Tensors) -> tuple[dict, np.ndarray]:
    """(settings, embeddings [p, entries g d]).

    An encoder-decoder has four entries a layer in PEFT, two for cross attention, which it does not
    use. PEFT stores two a layer and reads them in fours, from the start again at the end; with
    twice the layers it reads what it should.
    """
    both = cfg.architecture == "encoder_decoder"
    g, d, layers = cfg.num_kv_heads, cfg.head_dim, cfg.num_layers
    prefix = nnx.eval_shape(lambda: Prefix(cfg, peft.length, peft.prefix_hidden, nnx.Rngs(0)))
    own = {tuple(p.split("/")[2:]): jnp.asarray(v) for p, v in params.items()}
    keys_values = nnx.merge(nnx.graphdef(prefix), nnx.from_flat_state(own))()
    entries = np.zeros((peft.length, layers, 4 if both else 2, g, d), np.float32)
    for i, x in enumerate(keys_values):  # [layers, 1, g, p, d]
        entries[:, :, i] = np.asarray(x)[:, 0].transpose(2, 0, 1, 3)
    return {
        "peft_type": "PREFIX_TUNING",
        "num_virtual_tokens": peft.length,
        "prefix_projection": False,
        "token_dim": g * d,
        "num_attention_heads": g,
        "num_layers": layers * (1 + both),
        "num_transformer_submodules": 1 + both,
        "encoder_hidden_size": g * d,
    }, entries.reshape(peft.length, -1)


def _write_prompt(cfg: ModelConfig, peft: PeftConfig, params: Tensors) -> tuple[dict, np.ndarray]:
    (prompt,) = params.values()
    return {
        "peft_type": "PROMPT_TUNING",
        "num_virtual_tokens": peft.length,
        "token_dim": cfg.embed_dim,
        "num_layers": cfg.num_layers,
        "num_attention_heads": cfg.num_heads,
        "num_transformer_submodules": 1,
        "prompt_tuning_init": "RANDOM",
    }, prompt


def same_in_peft(cfg: ModelConfig, peft: PeftConfig) -> int | None:
    """How many tokens of prompt and answer an exported adapter may have and still compute the same
    in PEFT; None: any number.

    Here every query sees the virtual tokens, whatever its window; in PEFT they have places in front
    of the row, which a window leaves behind.
    """
    if not cfg.sliding_window or peft.method not in ("prefix", "prompt"):
        return None
    return max(0, cfg.sliding_window - peft.length)


def key(folder: Path | str) -> str:
    """A short hash of an adapter's settings and weights."""
    both = "".join(hashing.file_sha256(Path(folder) / name) for name in (CONFIG, WEIGHTS))
    return hashlib.sha256(both.encode()).hexdigest()[:8]


def read(folder: Path | str, cfg: ModelConfig, rows: int = 0, family: str = "") -> Adapter:
    """An adapter that PEFT or `save` wrote, for a model of this config; UserError where it is for
    another.

    rows: of the embedding, where the config does not say it; family: the model_type that the model
    came with, if any.
    """
    folder = Path(folder)
    try:
        settings, tensors = storage.read_json(folder / CONFIG), load_file(folder / WEIGHTS)
    except (OSError, ValueError, SafetensorError) as e:
        raise UserError(f"{folder} holds no adapter: {CONFIG} and {WEIGHTS} ({e})") from e
    if not isinstance(settings, dict):
        kind = type(settings).__name__
        raise UserError(f"{folder / CONFIG}: expected a JSON object, found {kind}")
    base = _fingerprint(folder / BASE)
    tensors = {n: np.asarray(x, np.float32) for n, x in tensors.items()}
    kind = settings.get("peft_type")
    readers = {
        "LORA": partial(_read_lora, family=family),
        "PREFIX_TUNING": _read_prefix,
        "PROMPT_TUNING": _read_prompt,
    }
    check_known(str(kind), readers, f"{folder}: an adapter of type {kind!r}")
    left_out = Counter()
    if kind == "LORA":
        tensors, left_out = _of_text(tensors, folder)
    peft, params = readers[kind](settings, tensors, cfg, folder)
    rows = rows or cfg.vocab_size
    model = shapes_of(lambda: add(Transformer(cfg, rows, nnx.Rngs(0)), peft, 0))
    expected = {path: variable.shape for path, variable in trained(model, peft).items()}
    for path in sorted(expected.keys() | params.keys()):
        shape = params[path].shape if path in params else "absent"
        if shape != expected.get(path):
            ours = expected.get(path)
            raise _other_base(folder, f"{path} is {shape} there, {ours} in this model")
    return Adapter(peft, params, base, dict(left_out))


def _other_base(folder: Path, why: str) -> UserError:
    return UserError(f"{folder}: an adapter for another base: {why}")


def _of_text(tensors: Tensors, folder: Path) -> tuple[Tensors, Counter]:
    """A LoRA's tensors by the names that a text model alone has, and the counts of those left out:
    they adapt parts that see images, since `target_modules` such as q_proj match there too, and
    what text computes is the same without them."""
    of_text, left_out = {}, Counter()
    for name, x in tensors.items():
        plain = names.outside(name.removeprefix(INNER)) if name.startswith(INNER) else name
        if re.fullmatch(names.IMAGES, plain):
            left_out[re.sub(r"\d+", "#", plain)] += 1
            continue
        if plain in of_text:
            raise UserError(f"{folder}: {name!r} is there by two names")
        of_text[plain] = x
    if left_out and not of_text:
        raise UserError(
            f"{folder}: it adapts only parts that see images, first {next(iter(tensors))!r}"
        )
    return of_text, left_out


def _fingerprint(file: Path) -> str:
    """The fingerprint of the base that an adapter of ours was trained over; "" without the file."""
    if not file.is_file():
        return ""
    try:
        return str(storage.read_json(file)["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise UserError(f"{file} is not what itx writes ({type(e).__name__}: {e})") from e


# Settings of PEFT's LoraConfig that change what is computed and are not supported here
UNSUPPORTED = (
    "rank_pattern alpha_pattern modules_to_save layer_replication trainable_token_indices "
    "alora_invocation_tokens arrow_config kasa_config use_bdlora use_qalora target_parameters "
    "velora_config monteclora_config"
).split()
# Initialisations that leave the base as it is; pissa, olora, corda, loftq and lora_ga take part of
# its weights away.
OVER_THE_BASE = (True, False, None, "gaussian", "eva", "orthogonal", "mica")


def _read_lora(
    settings: dict, tensors: Tensors, cfg: ModelConfig, folder: Path, family: str
) -> Read:
    for name in UNSUPPORTED:
        if settings.get(name):
            raise UserError(f"{folder}: {name}={settings[name]!r} is not supported")
    if settings.get("init_lora_weights", True) not in OVER_THE_BASE:
        raise UserError(
            f"{folder}: init_lora_weights={settings['init_lora_weights']!r}: its base's weights "
            "are others than they were; save it with PEFT's "
            "path_initial_model_for_weight_conversion"
        )
    if settings.get("bias", "none") != "none" or settings.get("lora_bias"):
        raise UserError(f"{folder}: LoRA with biases is not supported")
    file = str(folder / CONFIG)  # a setting that is absent there has the default of PEFT's class
    rank = setting(settings, "r", int, file, 8)
    params = _lora_params(tensors, cfg, rank, folder, family)
    alpha = float(setting(settings, "lora_alpha", float, file, 8))
    dropout = float(setting(settings, "lora_dropout", float, file, 0.0))
    if not math.isfinite(alpha) or alpha == 0:
        raise UserError(
            f"{file}: lora_alpha={settings['lora_alpha']!r}; expected a finite number, and 0 would "
            "add nothing"
        )
    if not 0 <= dropout < 1:
        raise UserError(
            f"{file}: lora_dropout={settings['lora_dropout']!r}; expected a share, at least 0 and "
            "below 1"
        )
    rslora, dora = (setting(settings, key, bool, file, False) for key in ("use_rslora", "use_dora"))
    targets = tuple(re.escape(p.removesuffix("_lora/a")) for p in params if p.endswith("/a"))
    peft = PeftConfig(
        "lora", rank=rank, alpha=alpha, dropout=dropout, rslora=rslora, dora=dora, targets=targets
    )
    return peft, params


def _lora_params(
    tensors: Tensors, cfg: ModelConfig, rank: int, folder: Path, family: str
) -> Tensors:
    """{path: parameter} of a LoRA, its layers stacked; UserError for a tensor that the model has no
    place for."""
    # where the head is adapted, PEFT writes the base's own weight too
    left = {n: x for n, x in tensors.items() if not n.endswith(".base_layer.weight")}
    d, heads, kv_heads = cfg.head_dim, cfg.num_heads, cfg.num_kv_heads
    outputs = {"wq": (heads, d), "wk": (kv_heads, d), "wv": (kv_heads, d)}
    params: Tensors = {}
    for path, module in _modules(cfg, family).items():
        name, layers = path.split("/")[-1], {}
        output = outputs.get(name, (-1,))
        inputs = (heads, d) if name == "wo" else (-1,)
        shapes = {"a": (*inputs, rank), "b": (rank, *output), "magnitude": output}
        for ours, theirs, _ in _lora_tensors(cfg, path, module):
            if theirs in left:
                layers.setdefault(ours, []).append(left.pop(theirs).T)
        for ours, found in layers.items():
            if len(found) != (count := len(_layers(cfg, path))):
                raise UserError(f"{folder}: {ours} is in {len(found)} of {count} layers only")
            try:
                stacked = np.stack([x.reshape(shapes[ours.split("/")[-1]]) for x in found])
            except ValueError as e:
                raise _other_base(folder, f"{ours}: {e}") from e
            params[ours] = stacked if "/blocks/" in path else stacked[0]
    if left or not params:
        first = repr(INNER + next(iter(left))) if left else "such weight"
        raise _other_base(folder, f"this model has no {first}")
    return params


def _embeddings(settings: dict, tensors: Tensors, folder: Path, halves: int = 1) -> np.ndarray:
    """The virtual tokens' embeddings [p, e]; the file may repeat their rows up to `halves`
    times."""
    if list(tensors) != [EMBEDDINGS]:
        raise UserError(
            f"{folder}: expected {EMBEDDINGS} alone, found {', '.join(sorted(tensors))}"
        )
    flat = tensors[EMBEDDINGS]
    if flat.ndim != 2:
        raise UserError(f"{folder}: {EMBEDDINGS} has shape {flat.shape}; expected two sizes")
    rows = len(flat)
    length = setting(settings, "num_virtual_tokens", int, str(folder / CONFIG), rows)
    if rows not in [length * n for n in range(1, halves + 1)]:
        raise UserError(f"{folder}: num_virtual_tokens={length}, but {EMBEDDINGS} has {rows} rows")
    return flat[:length]


def _read_prefix(settings: dict, tensors: Tensors, cfg: ModelConfig, folder: Path) -> Read:
    flat, file = _embeddings(settings, tensors, folder), str(folder / CONFIG)
    g, d, layers = cfg.num_kv_heads, cfg.head_dim, cfg.num_layers
    entries, rest = divmod(flat.shape[1], g * d)
    their_heads = setting(settings, "num_attention_heads", int, file, g)
    their_layers = setting(settings, "num_layers", int, file, max(entries // 2, 1))
    if rest or their_heads != g or entries != 2 * their_layers:
        raise _other_base(
            folder,
            f"{their_layers} layers of {their_heads} heads in {flat.shape[1]} values there, "
            f"{layers} of {g} × {d} in this model",
        )
    step = 4 if cfg.architecture == "encoder_decoder" else 2  # entries a layer: `_write_prefix`
    if entries not in (step * layers, 2 * layers):
        raise _other_base(folder, f"{entries // 2} layers there, {layers} here")
    at = np.arange(layers) * step % entries
    split = flat.reshape(len(flat), entries, g, d).transpose(1, 2, 0, 3)  # [entries, g, p, d]
    params = {"decoder/prefix/k": split[at], "decoder/prefix/v": split[at + 1]}
    return PeftConfig("prefix", length=len(flat)), params


def _read_prompt(settings: dict, tensors: Tensors, cfg: ModelConfig, folder: Path) -> Read:
    flat = _embeddings(settings, tensors, folder, halves=2)  # a second half is never used
    stack = "encoder" if cfg.architecture == "encoder_decoder" else "decoder"
    return PeftConfig("prompt", length=len(flat)), {f"{stack}/prompt": flat}
