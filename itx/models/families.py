# SPDX-License-Identifier: Apache-2.0
"""Hugging Face's families as data: config.json <-> ModelConfig, and what each of our parameters is
called there.

A family is an entry of FAMILIES. Its configuration is fields that only have another name
(`fields`), settings that all its members share (`fixed`), and the few things that several keys say
together: windows and rotary positions. Files of transformers 4 and 5 are both read; what is written
both read, in the older form.
"""

import dataclasses
from typing import Any, NamedTuple

from itx.config import ModelConfig
from itx.config_check import setting
from itx.errors import UserError, did_you_mean
from itx.models import rope, unsupported

ACTIVATIONS = {
    "silu": "silu",
    "gelu_pytorch_tanh": "gelu",
    "gelu_new": "gelu",
    "gelu": "gelu_exact",
    "relu": "relu",
}
# Fields of a ModelConfig that say how a run computes, not which model it is
OF_THE_RUN = ("pretrained", "prefix_lm", "dropout", "dtype", "remat", "attention")

DECODER = {
    "embedding": "model.embed_tokens.weight",
    "head": "lm_head.weight",
    "decoder/final_norm/scale": "model.norm.weight",
    "decoder/blocks/attention_norm/scale": "model.layers.{}.input_layernorm.weight",
    "decoder/blocks/attention/wq": "model.layers.{}.self_attn.q_proj.weight",
    "decoder/blocks/attention/wk": "model.layers.{}.self_attn.k_proj.weight",
    "decoder/blocks/attention/wv": "model.layers.{}.self_attn.v_proj.weight",
    "decoder/blocks/attention/wo": "model.layers.{}.self_attn.o_proj.weight",
    "decoder/blocks/attention/bq": "model.layers.{}.self_attn.q_proj.bias",
    "decoder/blocks/attention/bk": "model.layers.{}.self_attn.k_proj.bias",
    "decoder/blocks/attention/bv": "model.layers.{}.self_attn.v_proj.bias",
    "decoder/blocks/attention/q_norm/scale": "model.layers.{}.self_attn.q_norm.weight",
    "decoder/blocks/attention/k_norm/scale": "model.layers.{}.self_attn.k_norm.weight",
    "decoder/blocks/mlp_norm/scale": "model.layers.{}.post_attention_layernorm.weight",
    "decoder/blocks/mlp/w_gate": "model.layers.{}.mlp.gate_proj.weight",
    "decoder/blocks/mlp/w_in": "model.layers.{}.mlp.up_proj.weight",
    "decoder/blocks/mlp/w_out": "model.layers.{}.mlp.down_proj.weight",
}
GEMMA = DECODER | {
    "decoder/blocks/attention_post_norm/scale": "model.layers.{}.post_attention_layernorm.weight",
    "decoder/blocks/mlp_norm/scale": "model.layers.{}.pre_feedforward_layernorm.weight",
    "decoder/blocks/mlp_post_norm/scale": "model.layers.{}.post_feedforward_layernorm.weight",
}


def _t5_stack(stack: str, mlp: int) -> dict[str, str]:
    ours, theirs = f"{stack}/blocks", f"{stack}.block.{{}}.layer"
    return {
        f"{stack}/final_norm/scale": f"{stack}.final_layer_norm.weight",
        f"{stack}/relative_bias": f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
        f"{ours}/attention_norm/scale": f"{theirs}.0.layer_norm.weight",
        **{f"{ours}/attention/w{x}": f"{theirs}.0.SelfAttention.{x}.weight" for x in "qkvo"},
        f"{ours}/mlp_norm/scale": f"{theirs}.{mlp}.layer_norm.weight",
        f"{ours}/mlp/w_gate": f"{theirs}.{mlp}.DenseReluDense.wi_0.weight",
        f"{ours}/mlp/w_in": f"{theirs}.{mlp}.DenseReluDense.wi_1.weight",
        f"{ours}/mlp/w_out": f"{theirs}.{mlp}.DenseReluDense.wo.weight",
    }


T5 = {
    "embedding": "shared.weight", "head": "lm_head.weight", **_t5_stack("encoder", 1), **_t5_stack("decoder", 2),
    "decoder/blocks/cross_norm/scale": "decoder.block.{}.layer.1.layer_norm.weight",
    **{f"decoder/blocks/cross/w{x}": f"decoder.block.{{}}.layer.1.EncDecAttention.{x}.weight" for x in "qkvo"},
}  # fmt: skip
T5_PLAIN = T5 | {
    f"{stack}/blocks/mlp/w_in": f"{stack}.block.{{}}.layer.{i}.DenseReluDense.wi.weight"
    for stack, i in (("encoder", 1), ("decoder", 2))
}

# Parts that see images, which no text passes through
IMAGES = r"(model\.)?(vision_tower|multi_modal_projector)\..*"
# Tensors that a file may hold besides the model's: copies of others, constants, and the parts that
# see images
COPIES = (
    r"(en|de)coder\.embed_tokens\.weight", r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",
    r".*rotary_emb\.inv_freq", IMAGES,
)  # fmt: skip
# Where the text model stands inside one that also sees images: their prefix -> the text model's own
INSIDE = (
    ("language_model.model.", "model."),
    ("language_model.lm_head.", "lm_head."),
    ("model.language_model.", "model."),
)
# ... and what the class calls it that such a folder is loaded as: modules of it are named so,
# whatever its file has
NESTED = ("model.", "model.language_model.")


def outside(name: str) -> str:
    """The name of a tensor as the text model alone has it."""
    for inner, plain in INSIDE:
        if name.startswith(inner):
            return plain + name.removeprefix(inner)
    return name


def inside(name: str) -> str:
    """The name, in the class of the whole, of a module of the text model."""
    plain, inner = NESTED
    return inner + name.removeprefix(plain) if name.startswith(plain) else name


# our field -> (key there, its value where the file has none)
_LLAMA = {
    "vocab_size": ("vocab_size", None), "embed_dim": ("hidden_size", None),
    "num_layers": ("num_hidden_layers", None), "num_heads": ("num_attention_heads", None),
    "num_kv_heads": ("num_key_value_heads", None), "head_dim": ("head_dim", None),
    "mlp_dim": ("intermediate_size", None), "norm_eps": ("rms_norm_eps", 1e-6),
    "tie_embeddings": ("tie_word_embeddings", False), "mlp_activation": ("hidden_act", "silu"),
}  # fmt: skip
_QWEN = _LLAMA | {"num_kv_heads": ("num_key_value_heads", 32)}
_GEMMA = _LLAMA | {
    # what the classes of transformers hold where a file is silent, as the text part of the hub's
    # gemma-3-4b is
    "num_heads": ("num_attention_heads", 8), "num_kv_heads": ("num_key_value_heads", 4),
    "head_dim": ("head_dim", 256), "tie_embeddings": ("tie_word_embeddings", True),
    "mlp_activation": ("hidden_activation", "gelu_pytorch_tanh"), "query_scalar": ("query_pre_attn_scalar", 256),
    # a cap of scores is Gemma 2's alone: the class of Gemma 3 has the key and computes nothing of
    # it
    "logit_cap": ("final_logit_softcapping", 0.0),
}  # fmt: skip
_T5 = {
    "vocab_size": ("vocab_size", None), "embed_dim": ("d_model", None), "encoder_layers": ("num_layers", None),
    "num_layers": ("num_decoder_layers", None), "num_heads": ("num_heads", None),
    "num_kv_heads": ("num_heads", None), "head_dim": ("d_kv", None), "mlp_dim": ("d_ff", None),
    "norm_eps": ("layer_norm_epsilon", 1e-6), "relative_buckets": ("relative_attention_num_buckets", 32),
    "relative_max_distance": ("relative_attention_max_distance", 128),
}  # fmt: skip
T5_ALIASES = {
    "hidden_size": "d_model", "num_attention_heads": "num_heads", "num_hidden_layers": "num_layers", "head_dim": "d_kv",
}  # fmt: skip
T5_FEED_FORWARD = {"t5": "relu", "mt5": "gated-gelu"}  # where a file is silent
_ALL_GEMMA = {
    "qk_norm": False, "norm_plus_one": True, "post_norms": True, "scale_embeddings": True, "scale_attention": True,
}  # fmt: skip


class Family(NamedTuple):
    """model_type of config.json -> this."""

    classname: str  # in transformers
    fields: dict[str, tuple[str, Any]]
    fixed: dict[str, Any]


FAMILIES = {
    "t5": Family("T5ForConditionalGeneration", _T5, {}),
    "mt5": Family("MT5ForConditionalGeneration", _T5, {}),
    "llama": Family("LlamaForCausalLM", _LLAMA, {}),
    "mistral": Family("MistralForCausalLM", _LLAMA | {"num_kv_heads": ("num_key_value_heads", 8)}, {}),
    "qwen2": Family("Qwen2ForCausalLM", _QWEN, {"qkv_bias": True}),
    "qwen3": Family("Qwen3ForCausalLM", _QWEN | {"head_dim": ("head_dim", 128)}, {"qk_norm": True}),
    "gemma2": Family(
        "Gemma2ForCausalLM", _GEMMA | {"attention_cap": ("attn_logit_softcapping", 50.0),
                                       "logit_cap": ("final_logit_softcapping", 30.0)}, _ALL_GEMMA),
    "gemma3_text": Family(
        "Gemma3ForCausalLM", _GEMMA | {"vocab_size": ("vocab_size", 262_208)}, _ALL_GEMMA | {"qk_norm": True}),
}  # fmt: skip
# where there is none
AS_MANY_AS = {"num_key_value_heads": "num_attention_heads", "num_decoder_layers": "num_layers"}
# A hundred times the deepest model: more is a mistake, and lists of layers are made before any
# check.
MOST_LAYERS = 10_000
# Keys that are read besides those of `fields`
_OF_ROPE = {
    "rope_scaling",
    "rope_parameters",
    "rope_theta",
    "partial_rotary_factor",
    "original_max_position_embeddings",
}
_OF_QWEN = {"use_sliding_window", "sliding_window", "max_window_layers"}
_OF_T5 = {"feed_forward_proj", "dense_act_fn", "is_gated_act", "tie_word_embeddings", "scale_decoder_outputs",
          "is_encoder_decoder"}  # fmt: skip
READ = {
    # always has them
    "llama": set(), "mistral": {"sliding_window"}, "qwen2": _OF_QWEN | {"attention_bias", "qkv_bias"},
    "qwen3": _OF_QWEN | {"qk_norm", "use_qk_norm"}, "gemma2": {"sliding_window"},
    "gemma3_text": {"sliding_window", "sliding_window_pattern", "rope_local_base_freq", "qk_norm", "use_qk_norm"},
}  # fmt: skip


# What a model that also sees images says outside the part about text
OUTSIDE = (
    "dtype",
    "torch_dtype",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "tie_word_embeddings",
)


def is_nested(values: dict) -> bool:
    """Whether a config.json is of a model that also sees images, the text model being a part of
    it."""
    return values.get("model_type") == "gemma3"


def text_config(values: dict, where: str = "config.json") -> dict:
    """Of a model that also sees images the part about text, with what stands outside it for
    both."""
    if not is_nested(values):
        return values
    inner = values.get("text_config")
    if not isinstance(inner, dict):
        raise UserError(f"{where}: text_config={inner!r}; expected the settings of the text model")
    return {
        "model_type": "gemma3_text",
        **inner,
        **{k: values[k] for k in OUTSIDE if values.get(k) is not None},
    }


def keys_read(kind: str) -> set[str]:
    """Keys of a config.json that `read` reads, of this family."""
    family = FAMILIES[kind]
    own = {key for key, _ in family.fields.values()}
    if family.fields is _T5:
        return own | _OF_T5 | set(T5_ALIASES)
    return own | READ[kind] | _OF_ROPE | {"layer_types", "hidden_act", "hidden_activation"}


def read(values: dict, where: str) -> ModelConfig:
    """The ModelConfig of a config.json; UserError where it is none of a known family, or says what
    we cannot do.

    Where the head is tied is what the tensors say: `tie_embeddings` is only what the file says.
    """
    outer, values = values, text_config(values, where)
    kind = values.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        needs = "".join(f"; its {key} would need {need}" for key, need in unsupported.found(values))
        raise UserError(
            f"{where}: unknown architecture, model_type {kind!r}; those known are {', '.join(FAMILIES)} and gemma3{needs}"
        )
    family = FAMILIES[kind]
    unsupported.check(values, keys_read(kind), where)
    if is_nested(outer):
        unsupported.check(outer, OUTSIDE, where)
        if values.get("final_logit_softcapping"):  # only the class of the text model alone reads it
            raise UserError(
                f"{where}: final_logit_softcapping in text_config, which transformers does not read there"
            )
    kinds = {f.name: f.type for f in dataclasses.fields(ModelConfig)} | {"mlp_activation": str}
    found: dict[str, Any] = {}
    for ours in family.fields:
        found[ours] = _field(values, ours, kinds[ours], found, where)
    if max(found["num_layers"], found.get("encoder_layers", 0)) > MOST_LAYERS:
        raise UserError(
            f"{where}: more than {MOST_LAYERS:,} layers ({family.fields['num_layers'][0]})"
        )
    if found["num_heads"] % found["num_kv_heads"]:
        raise UserError(
            f"{where}: {found['num_kv_heads']} key/value heads do not divide {found['num_heads']} heads"
        )
    if family.fields is _T5:
        found |= _t5_settings(values, where)
    else:
        own, other = sorted(
            ("hidden_act", "hidden_activation"),
            key=lambda k: k != family.fields["mlp_activation"][0],
        )
        if values.get(other) not in (None, found["mlp_activation"]):
            raise UserError(
                f"{where}: {other}={values[other]!r}, but a {kind} reads {own}={found['mlp_activation']!r}"
            )
        found["mlp_activation"] = _activation(found["mlp_activation"], where)
        found |= {"architecture": "decoder", "mlp_gated": True, "position": "rope"}
        found |= rope.windows(values, kind, found["num_layers"], where) | rope.read(
            values, kind, where
        )
    found |= {name: float(value) for name, value in found.items() if kinds[name] is float}
    return ModelConfig(**found | family.fixed)


def _field(values: dict, ours: str, type_: type, found: dict, where: str) -> Any:
    """One setting of the model, or the class's own where the file is silent; null is a value, which
    few keys take."""
    kind = values["model_type"]
    key, default = FAMILIES[kind].fields[ours]
    null = key in values and values[key] is None
    if key.endswith("softcapping"):  # null: none
        default = default if key not in values else 0.0
    elif (
        values.get(key) is None
        and key in AS_MANY_AS
        and (default is None or null and kind in ("qwen2", "qwen3"))
    ):
        key = AS_MANY_AS[key]
    elif key == "head_dim" and default is None:
        default = found["embed_dim"] // found["num_heads"]
    elif null and default is not None:
        raise UserError(
            f"{where}: {key}=None; expected a value, or no such key, which means {default!r}"
        )
    value = setting(values, key, type_, where, default)
    least = "above 0" if key == "query_pre_attn_scalar" else "from 0"
    if type_ is float and not (0 <= value < float("inf") and (value or least == "from 0")):
        raise UserError(f"{where}: {key}={value!r}; expected a number {least}")
    return value


def passed_over(values: dict, where: str = "config.json") -> list[str]:
    """Keys of a config.json that neither this reader nor transformers knows: nothing that they say
    has an effect."""
    inner = text_config(values, where)
    kind = inner["model_type"]
    keys = unsupported.passed_over(inner, keys_read(kind))
    if FAMILIES[kind].fields is not _T5:
        keys += rope.passed_over(inner, kind)
    return keys + (unsupported.passed_over(values, OUTSIDE) if is_nested(values) else [])


def _activation(name: str, where: str) -> str:
    if name not in ACTIVATIONS:
        raise UserError(f"{where}: unknown activation {name!r}" + did_you_mean(name, ACTIVATIONS))
    return ACTIVATIONS[name]


def _t5_settings(values: dict, where: str) -> dict:
    for alias, key in T5_ALIASES.items():  # another name of the same setting there, which would win
        if values.get(alias) not in (None, values.get(key)):
            raise UserError(
                f"{where}: {alias}={values[alias]!r} and {key}={values.get(key)!r}, which name one setting"
            )
    silent = "feed_forward_proj" not in values
    said = setting(
        values,
        "feed_forward_proj",
        str,
        where,
        T5_FEED_FORWARD[values["model_type"]] if silent else None,
    )
    gated, _, name = said.rpartition("-")
    # transformers reads "gated-gelu" as the tanh form, and so were those models trained
    name = "gelu_new" if gated and name == "gelu" else name
    for key, right in (("dense_act_fn", name), ("is_gated_act", bool(gated))):
        if values.get(key) not in (None, right):
            raise UserError(
                f"{where}: {key}={values[key]!r} beside feed_forward_proj={said!r}, which means {right!r}"
            )
    tied = values.get("tie_word_embeddings") is not False
    scaled = values.get("scale_decoder_outputs", tied) and values["model_type"] == "t5"
    return {
        "architecture": "encoder_decoder", "position": "t5_relative", "scale_attention": False,
        "mlp_gated": bool(gated), "mlp_activation": _activation(name, where), "tie_embeddings": tied,
        "scale_logits": scaled, "encoder_layers": values["num_layers"],
    }  # fmt: skip


def write(cfg: ModelConfig, kind: str) -> dict:
    """The config.json of a model as one of this family; whether it says all that `cfg` says,
    `family_of` checks."""
    family = FAMILIES[kind]
    out: dict[str, Any] = {"architectures": [family.classname], "model_type": kind}
    out |= {key: getattr(cfg, ours) for ours, (key, _) in family.fields.items()}
    back = {ours: theirs for theirs, ours in reversed(ACTIVATIONS.items())}
    if family.fields is _T5:
        name = back[cfg.mlp_activation]
        out |= {
            "num_layers": cfg.encoder_layers or cfg.num_layers, "is_encoder_decoder": True,
            "feed_forward_proj": ("gated-" + name.removesuffix("_pytorch_tanh")) if cfg.mlp_gated else name,
            "tie_word_embeddings": cfg.tie_embeddings, "scale_decoder_outputs": cfg.scale_logits,
        }  # fmt: skip
        return out
    key = family.fields["mlp_activation"][0]
    out[key] = back[cfg.mlp_activation]
    out |= {key: out[key] or None for key in out if key.endswith("softcapping")}
    if "query_pre_attn_scalar" in out:  # there a whole number
        scalar = cfg.query_scalar or float(cfg.head_dim)
        out["query_pre_attn_scalar"] = int(scalar) if scalar.is_integer() else scalar
    scaling = {"none": None, "linear": {"rope_type": "linear", "factor": cfg.rope_factor}, "llama3": {
        "rope_type": "llama3", "factor": cfg.rope_factor, "low_freq_factor": cfg.rope_low_factor,
        "high_freq_factor": cfg.rope_high_factor, "original_max_position_embeddings": cfg.rope_original_length,
    }}  # fmt: skip
    out |= {"rope_theta": cfg.rope_theta, "rope_scaling": scaling[cfg.rope_scaling]}
    if kind == "gemma3_text":
        out["rope_local_base_freq"] = cfg.rope_theta_local or cfg.rope_theta
    if kind != "llama":
        # Gemma's class makes a mask of its window even where no layer slides
        out["sliding_window"] = cfg.sliding_window or (
            rope.WINDOW if kind.startswith("gemma") else None
        )
    if kind in ("qwen2", "qwen3"):
        out["use_sliding_window"] = bool(cfg.sliding_window)
    if kind in ("gemma2", "gemma3_text", "qwen2", "qwen3"):
        out["layer_types"] = [
            "full_attention" if full else "sliding_attention" for full in global_layers(cfg)
        ]
    return out


def global_layers(cfg: ModelConfig) -> tuple[bool, ...]:
    """Of each layer whether it sees all that stands before it."""
    every = cfg.global_every if cfg.sliding_window else 1
    return tuple(bool(every) and (i + 1) % every == 0 for i in range(cfg.num_layers))


def _same(cfg: ModelConfig) -> dict:
    """What `family_of` compares: the fields of the model, those without effect put at rest."""
    out = {k: v for k, v in dataclasses.asdict(cfg).items() if k not in OF_THE_RUN}
    out["encoder_layers"] = out["encoder_layers"] or out["num_layers"]
    out["global_every"] = global_layers(cfg)
    if cfg.architecture == "decoder":
        out |= {"relative_buckets": 0, "relative_max_distance": 0, "encoder_layers": 0}
        out["query_scalar"] = out["query_scalar"] or float(cfg.head_dim)
        out["rope_theta_local"] = (
            cfg.rope_theta_local or cfg.rope_theta if cfg.sliding_window else 0.0
        )
    else:
        out |= {k: 0 for k in out if k.startswith("rope_")}
    if cfg.rope_scaling != "llama3":
        out |= {"rope_low_factor": 0, "rope_high_factor": 0, "rope_original_length": 0}
    return out


def family_of(cfg: ModelConfig, wanted: str | None = None) -> str:
    """The model_type under which Hugging Face computes what `cfg` does: `wanted`, or the first that
    reads back the same.

    UserError that names what no family has.
    """
    if cfg.prefix_lm:
        raise UserError(
            "model.prefix_lm: Hugging Face's decoders read a prompt from left to right, so it cannot be exported"
        )
    cfg = dataclasses.replace(cfg, vocab_size=cfg.vocab_size or 1)  # 0: the vocabulary's size
    nearest = None
    for kind in [wanted] if wanted in FAMILIES else FAMILIES:
        try:
            theirs = _same(read(write(cfg, kind), kind))
        except (UserError, KeyError):
            continue
        off = {k: (v, theirs[k]) for k, v in _same(cfg).items() if theirs[k] != v}
        if not off:
            return kind
        if nearest is None or len(off) < len(nearest[1]):
            nearest = (kind, off)
    kind, off = nearest
    wrong = ", ".join(f"model.{k}={ours!r} (there {theirs!r})" for k, (ours, theirs) in off.items())
    raise UserError(
        f"no Hugging Face model computes this one; the nearest, {kind!r}, differs in {wrong}"
    )


def tensor_names(cfg: ModelConfig) -> dict[str, str]:
    """Our path -> the name there, `{}` standing for the layer."""
    if cfg.architecture == "encoder_decoder":
        return T5 if cfg.mlp_gated else T5_PLAIN
    return GEMMA if cfg.post_norms else DECODER
