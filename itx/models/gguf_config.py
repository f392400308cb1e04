# SPDX-License-Identifier: Apache-2.0
"""A GGUF file's metadata and tensors as those of Hugging Face's model.

An entry of ARCHITECTURES says which family an architecture of llama.cpp is, and which key of
config.json each of its keys is. Some things a file does not say: llama.cpp knows them by the
architecture or the number of layers, and so they stand here. A key that is neither read nor known
to have no effect is refused: it would change what the model computes.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from itx.errors import UserError, did_you_mean
from itx.models import families, names, rope
from itx.models.gguf import File

_KEYS = names.table("""
    context_length                    max_position_embeddings
    embedding_length                  hidden_size
    block_count                       num_hidden_layers
    feed_forward_length               intermediate_size
    attention.head_count              num_attention_heads
    attention.head_count_kv           num_key_value_heads
    attention.layer_norm_rms_epsilon  rms_norm_eps
    rope.freq_base                    rope_theta
""")
_GEMMA2 = _KEYS | names.table("""
    attention.sliding_window  sliding_window
    attn_logit_softcapping    attn_logit_softcapping
    final_logit_softcapping   final_logit_softcapping
""")
_GEMMA3 = _KEYS | names.table("""
    attention.sliding_window  sliding_window
    final_logit_softcapping   final_logit_softcapping
    rope.freq_base_swa        rope_local_base_freq
""")
_T5 = names.table("""
    context_length                    n_positions
    embedding_length                  d_model
    block_count                       num_layers
    decoder_block_count               num_decoder_layers
    feed_forward_length               d_ff
    attention.head_count              num_heads
    attention.key_length              d_kv
    attention.layer_norm_rms_epsilon  layer_norm_epsilon
    attention.relative_buckets_count  relative_attention_num_buckets
    decoder_start_token_id            decoder_start_token_id
""")
# What llama.cpp takes where a file is silent; every other key is required
_DEFAULTS = {"rope_theta": 10_000.0}
_GEMMA2_DEFAULTS = _DEFAULTS | {
    "sliding_window": 4096,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
}
_GEMMA3_DEFAULTS = {
    "rope_theta": 10_000.0,
    "rope_local_base_freq": 10_000.0,
    "final_logit_softcapping": None,
    "sliding_window": None,
}
_OPTIONAL = ("max_position_embeddings", "n_positions", "num_key_value_heads", "num_decoder_layers")


class Architecture(NamedTuple):
    """What an architecture of llama.cpp is here."""

    model_type: str
    keys: dict[str, str]  # its key -> key of config.json
    defaults: dict[str, Any]  # key of config.json -> its value where a file is silent
    fixed: dict[str, Any]  # more of config.json, in all members
    largest: int = 0  # layers of the member that scales its queries by embedding / heads


_GEMMA_ACTIVATION = {"hidden_activation": "gelu_pytorch_tanh"}
ARCHITECTURES = {
    "llama": Architecture("llama", _KEYS, _DEFAULTS, {"hidden_act": "silu"}),
    "qwen2": Architecture("qwen2", _KEYS, _DEFAULTS, {"hidden_act": "silu"}),
    "qwen3": Architecture("qwen3", _KEYS, _DEFAULTS, {"hidden_act": "silu"}),
    "gemma2": Architecture("gemma2", _GEMMA2, _GEMMA2_DEFAULTS, _GEMMA_ACTIVATION, 46),
    "gemma3": Architecture("gemma3_text", _GEMMA3, _GEMMA3_DEFAULTS, _GEMMA_ACTIVATION, 62),
    # also mT5 and v1.1, whose head is not tied: nothing else of them differs
    "t5": Architecture("t5", _T5, {"decoder_start_token_id": 0}, {"is_encoder_decoder": True}),
}
# Keys below the architecture that are read in a place of their own
_READ = (
    "attention.key_length attention.value_length rope.dimension_count vocab_size"
    " attention.sliding_window attention.sliding_window_pattern attention.layer_norm_epsilon"
    " rope.scaling.type rope.scaling.factor rope.scaling.original_context_length rope.scale_linear"
    " rope.scaling.attn_factor rope.scaling.yarn_attn_factor rope.scaling.yarn_beta_fast"
    " rope.scaling.yarn_beta_slow rope.scaling.yarn_ext_factor rope.scaling.yarn_log_multiplier"
).split()
# Keys with the only value that they may have
_NEUTRAL = {
    "expert_count": 0,
    "expert_used_count": 0,
    "attention.causal": True,
    "attention.clamp_kqv": 0,
    "use_parallel_residual": False,
}
_NO_EFFECT = ("rope.scaling.finetuned", "tensor_data_layout")
# Their key -> ours, of YaRN, which itx.models.rope refuses or reads
_YARN = names.table("""
    rope.scaling.original_context_length  original_max_position_embeddings
    rope.scaling.yarn_attn_factor         attention_factor
    rope.scaling.yarn_beta_fast           beta_fast
    rope.scaling.yarn_beta_slow           beta_slow
""")
GEMMA_PATTERN = {"gemma2": 2, "gemma3": 6}  # every so many-th layer has no window
ROPE_FREQS, EMBEDDING, HEAD = "rope_freqs.weight", "token_embd.weight", "output.weight"
# Llama 3's parameters that a tensor of frequencies is tried against
LOW, HIGH = 1.0, 4.0
LENGTHS = (8192, *(2**n for n in range(4, 21) if n != 13))
FACTORS = (8.0, 32.0, 16.0, 4.0, 2.0)


def architecture(file: File) -> str:
    """The name of a file's architecture; UserError for one that is not known here."""
    name = file.values.get("general.architecture")
    if name not in ARCHITECTURES:
        raise UserError(
            f"{file.path}: unknown architecture {name!r}; those known are "
            f"{', '.join(ARCHITECTURES)} (Mistral's is llama, mT5's t5)"
        )
    return name


def config(file: File) -> dict[str, Any]:
    """The config.json of a file's model."""
    name = architecture(file)
    arch, given = ARCHITECTURES[name], _given(file, name)
    out: dict[str, Any] = {"model_type": arch.model_type, **arch.fixed}
    for theirs, ours in arch.keys.items():
        if theirs in given:
            out[ours] = _one(given[theirs], f"{name}.{theirs}", file)
        elif ours in arch.defaults:
            out[ours] = arch.defaults[ours]
        elif ours not in _OPTIONAL:
            raise UserError(f"{file.path}: {name}.{theirs} is missing")
    table = file.tensors.get(EMBEDDING)
    if table is None or len(table.shape) != 2:
        raise UserError(f"{file.path}: it has no matrix {EMBEDDING}, so it holds no language model")
    out["vocab_size"] = table.shape[0]
    out["tie_word_embeddings"] = HEAD not in file.tensors
    if name == "t5":
        out |= _t5(file, given)
    else:
        out |= _heads(file, name, given, out)
        out |= _rope(file, name, given, out)
        out |= _windows(file, name, given, out)
    families.read(out, str(file.path))  # refuses what no family computes
    return out | {"torch_dtype": weights_type(file)}


def _given(file: File, name: str) -> dict[str, Any]:
    """The values below the architecture, by their keys without it; UserError for one that would
    change the model in an unknown way."""
    prefix = f"{name}."
    given = {k.removeprefix(prefix): v for k, v in file.values.items() if k.startswith(prefix)}
    read = {*ARCHITECTURES[name].keys, *_READ, *_NEUTRAL, *_NO_EFFECT}
    for key, value in given.items():
        if key not in read:
            raise UserError(
                f"{file.path}: {prefix}{key}={_short(value)} is not known here and may change what "
                "the model computes" + did_you_mean(key, read)
            )
        if key in _NEUTRAL and value != _NEUTRAL[key]:
            raise UserError(
                f"{file.path}: {prefix}{key}={_short(value)}, which this model does not compute; "
                f"expected {_NEUTRAL[key]!r}"
            )
    return given


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 60 else text[:57] + "..."


def _one(value: Any, key: str, file: File) -> Any:
    """A number; of a list, which has one for each layer, the one that all are."""
    if isinstance(value, list):
        if len(set(value)) != 1:
            raise UserError(
                f"{file.path}: {key}={_short(value)} differs by layer, which this model does not "
                "compute"
            )
        value = value[0]
    if type(value) not in (int, float):
        raise UserError(f"{file.path}: {key}={_short(value)}; expected a number")
    # a float32 that stands for a decimal number, such as 1e-05
    return float(str(np.float32(value))) if isinstance(value, float) else value


def _heads(file: File, name: str, given: dict, out: dict) -> dict[str, Any]:
    """{"num_key_value_heads", "head_dim"}, and how Gemma scales its queries."""
    heads, embed = out["num_attention_heads"], out["hidden_size"]
    if min(heads, embed) < 1:
        raise UserError(f"{file.path}: {name} of {heads} heads, {embed} wide")
    head_dim = given.get("attention.key_length", embed // heads)
    for key in ("attention.value_length", "rope.dimension_count"):
        if given.get(key, head_dim) != head_dim:
            raise UserError(
                f"{file.path}: {name}.{key}={given[key]!r} beside heads of {head_dim}; this model "
                "computes only equal ones"
            )
    rows = file.tensors[EMBEDDING].shape[0]
    if given.get("vocab_size", rows) != rows:
        raise UserError(
            f"{file.path}: {name}.vocab_size={given['vocab_size']!r}, but {EMBEDDING} has {rows} "
            "rows"
        )
    settings = {"head_dim": head_dim, "num_key_value_heads": out.get("num_key_value_heads", heads)}
    largest = ARCHITECTURES[name].largest
    if largest:
        scaled = out["num_hidden_layers"] == largest
        settings["query_pre_attn_scalar"] = embed // heads if scaled else head_dim
    return settings


def _rope(file: File, name: str, given: dict, out: dict) -> dict[str, Any]:
    """{"rope_scaling"}: what `rope.scaling.*` says, or Llama 3's parameters behind its tensor."""
    kind = given.get("rope.scaling.type", "none")
    factor = given.get("rope.scaling.factor", given.get("rope.scale_linear", 0))
    if kind == "none" and "rope.scale_linear" in given:
        kind = "linear"
    scaling: dict[str, Any] = {"rope_type": kind, "factor": factor}
    if kind == "yarn":
        scaling |= {ours: given[theirs] for theirs, ours in _YARN.items() if theirs in given}
    if given.get("rope.scaling.attn_factor", 1.0) != 1.0:
        raise UserError(
            f"{file.path}: {name}.rope.scaling.attn_factor={given['rope.scaling.attn_factor']!r}, "
            "which this model does not compute; expected 1.0"
        )
    if ROPE_FREQS in file.tensors:
        if kind != "none":
            raise UserError(f"{file.path}: RoPE of type {kind!r} beside the tensor {ROPE_FREQS}")
        return {"rope_scaling": _llama3(file, out)}
    return {"rope_scaling": None if kind == "none" else scaling}


def _llama3(file: File, out: dict) -> dict[str, Any] | None:
    """The parameters of Llama 3's scaling that make the tensor of a file, by which each frequency
    is divided; UserError where none that is known does."""
    head_dim = out.get("head_dim", out["hidden_size"] // out["num_attention_heads"])
    found = file.rows(ROPE_FREQS).ravel()
    if found.size == head_dim // 2 and np.all(found == 1):
        return None
    largest = float(str(found.max())) if found.size else 0.0
    for factor in (largest, *FACTORS):
        for length in LENGTHS:
            made = llama3_divisors(out["rope_theta"], head_dim, factor, LOW, HIGH, length)
            if found.shape == made.shape and np.allclose(found, made, rtol=1e-4):
                return {
                    "rope_type": "llama3",
                    "factor": factor,
                    "low_freq_factor": LOW,
                    "high_freq_factor": HIGH,
                    "original_max_position_embeddings": length,
                }
    raise UserError(
        f"{file.path}: {ROPE_FREQS} is not what Llama 3's scaling gives with low_freq_factor "
        f"{LOW:g}, high_freq_factor {HIGH:g} and any usual factor and length"
    )


def llama3_divisors(
    theta: float, head_dim: int, factor: float, low: float, high: float, length: int
) -> np.ndarray:
    """What Llama 3's scaling divides each frequency by: 1 for short waves, `factor` for long ones,
    and between the two lengths a mean."""
    turns = length * theta ** -(np.arange(0, head_dim, 2) / head_dim) / (2 * math.pi)
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    return 1 / ((1 - smooth) / factor + smooth)


def _windows(file: File, name: str, given: dict, out: dict) -> dict[str, Any]:
    """{"sliding_window", "layer_types"} of a family that has windows, and Mistral's."""
    window = given.get("attention.sliding_window", out.get("sliding_window"))
    pattern = given.get("attention.sliding_window_pattern", GEMMA_PATTERN.get(name, 0))
    if name == "llama" and window:
        return {"model_type": "mistral", "sliding_window": window}
    if name not in GEMMA_PATTERN:
        if window:
            raise UserError(
                f"{file.path}: {name}.attention.sliding_window={window!r}, which llama.cpp does "
                "not read in this architecture"
            )
        return {}
    layers = out["num_hidden_layers"]
    if isinstance(pattern, list):  # for each layer, whether it slides
        slides = [bool(p) for p in pattern]
    else:
        slides = [pattern != 0 and (i + 1) % pattern != 0 for i in range(layers)]
    if not window:
        slides = [False] * layers
    types = [rope.SLIDING if s else rope.FULL for s in slides]
    return {"sliding_window": window, "layer_types": types}


def _t5(file: File, given: dict) -> dict[str, Any]:
    if "dec.blk.1.attn_rel_b.weight" in file.tensors:
        raise UserError(
            f"{file.path}: it has relative positions of its own in each layer, as umT5 has; this "
            "model computes only T5 and mT5"
        )
    eps = given.get("attention.layer_norm_epsilon")
    if eps not in (None, given["attention.layer_norm_rms_epsilon"]):
        raise UserError(f"{file.path}: t5.attention.layer_norm_epsilon={eps!r} is another than rms")
    # llama.cpp takes a gate for GELU, and none for ReLU
    gated = "dec.blk.0.ffn_gate.weight" in file.tensors
    tied = HEAD not in file.tensors  # T5 v1.0 alone
    return {
        "feed_forward_proj": "gated-gelu" if gated else "relu",
        "scale_decoder_outputs": tied,
    }


def weights_type(file: File) -> str:
    """The type of the matrices, where they have one that is not quantised; else "float32", which
    holds their values exactly."""
    kinds = {t.kind for t in file.tensors.values() if len(t.shape) > 1}
    plain = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
    return plain.get(next(iter(kinds)), "float32") if len(kinds) == 1 else "float32"


# ---- tensors -------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=8)
def _name_map(name: str, layers: int) -> Any:
    import gguf

    arch = next(a for a, known in gguf.MODEL_ARCH_NAMES.items() if known == name)
    return gguf.get_tensor_name_map(arch, layers)


def tensor_names(file: File, own: Sequence[str], layers: int) -> dict[str, str]:
    """{Hugging Face's name: the file's} of the names `own`, in a model of so many layers."""
    known = _name_map(architecture(file), layers)
    out = {}
    for name in own:
        theirs = known.get_name(name, try_suffixes=(".weight", ".bias"))
        if theirs is not None:
            out[name] = theirs
    return out


def original_rows(file: File, name: str, rows: np.ndarray) -> np.ndarray:
    """Which rows of a file's tensor are those of Hugging Face's: llama.cpp's Llama has the two
    halves of each head, which a rotation pairs, side by side."""
    is_head = name.endswith((".attn_q.weight", ".attn_k.weight"))
    if architecture(file) != "llama" or not is_head:
        return rows
    values = file.values
    key = "head_count_kv" if ".attn_k." in name else "head_count"
    heads = values.get(f"llama.attention.{key}", values["llama.attention.head_count"])
    heads = heads[0] if isinstance(heads, list) else heads
    head_dim = file.tensors[name].shape[0] // heads
    head, within = np.divmod(rows, head_dim)
    half, at = np.divmod(within, head_dim // 2)
    return head * head_dim + 2 * at + half


def shift(file: File, name: str) -> float:
    """What a file's tensor has more than Hugging Face's: Gemma's norms are stored with the 1 that
    its classes add."""
    gemma = architecture(file) in GEMMA_PATTERN
    return 1.0 if gemma and name.endswith("norm.weight") else 0.0
