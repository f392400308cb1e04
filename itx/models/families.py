# SPDX-License-Identifier: Apache-2.0
"""Hugging Face's families as data: config.json <-> ModelConfig.

A family is an entry of FAMILIES. Its configuration is fields that only have another name (`keys`),
settings that all its members share (`fixed`), and the few things that several keys say together:
windows and rotary positions (rope.py). Files of transformers 4 and 5 are both read; what is written
both read, in the older form. names.py has the tensors' names.
"""

import dataclasses
from typing import Any, NamedTuple

from itx.config import ModelConfig
from itx.config_check import setting
from itx.errors import UserError, did_you_mean
from itx.models import rope, unsupported
from itx.models.names import table

# Fields of a ModelConfig that say how a run computes, not which model it is
OF_THE_RUN = ("pretrained", "prefix_lm", "dropout", "dtype", "remat", "attention")
ACTIVATIONS = table("""
    silu               silu
    gelu_pytorch_tanh  gelu
    gelu_new           gelu
    gelu               gelu_exact
    relu               relu
""")

# our field -> key of config.json
_KEYS = table("""
    vocab_size      vocab_size
    embed_dim       hidden_size
    num_layers      num_hidden_layers
    num_heads       num_attention_heads
    num_kv_heads    num_key_value_heads
    head_dim        head_dim
    mlp_dim         intermediate_size
    norm_eps        rms_norm_eps
    tie_embeddings  tie_word_embeddings
    mlp_activation  hidden_act
""")
_GEMMA_KEYS = _KEYS | table("""
    mlp_activation  hidden_activation
    query_scalar    query_pre_attn_scalar
    logit_cap       final_logit_softcapping
""")
_T5_KEYS = table("""
    vocab_size             vocab_size
    embed_dim              d_model
    encoder_layers         num_layers
    num_layers             num_decoder_layers
    num_heads              num_heads
    num_kv_heads           num_heads
    head_dim               d_kv
    mlp_dim                d_ff
    norm_eps               layer_norm_epsilon
    relative_buckets       relative_attention_num_buckets
    relative_max_distance  relative_attention_max_distance
""")
T5_ALIASES = table("""
    hidden_size          d_model
    num_attention_heads  num_heads
    num_hidden_layers    num_layers
    head_dim             d_kv
""")
T5_FEED_FORWARD = {"t5": "relu", "mt5": "gated-gelu"}  # where a file is silent

# our field -> its value where a file is silent, as in the classes of transformers
_LLAMA = {"norm_eps": 1e-6, "tie_embeddings": False, "mlp_activation": "silu"}
_QWEN = _LLAMA | {"num_kv_heads": 32}
_GEMMA = {  # a file may be silent: the text part of the hub's gemma-3-4b is
    "num_heads": 8,
    "num_kv_heads": 4,
    "head_dim": 256,
    "norm_eps": 1e-6,
    "tie_embeddings": True,
    "mlp_activation": "gelu_pytorch_tanh",
    "query_scalar": 256,
    "logit_cap": 0.0,
}
_T5 = {"norm_eps": 1e-6, "relative_buckets": 32, "relative_max_distance": 128}
_ALL_GEMMA = {
    "qk_norm": False,
    "norm_plus_one": True,
    "post_norms": True,
    "scale_embeddings": True,
    "scale_attention": True,
}

# Keys that are read besides those of fields
_ROPE_READS = (
    "rope_scaling rope_parameters rope_theta partial_rotary_factor original_max_position_embeddings"
    " layer_types hidden_act hidden_activation "
)
_QWEN_READS = _ROPE_READS + "use_sliding_window sliding_window max_window_layers "
_T5_READS = (
    "feed_forward_proj dense_act_fn is_gated_act tie_word_embeddings scale_decoder_outputs"
    " is_encoder_decoder hidden_size num_attention_heads num_hidden_layers head_dim"
)


class Family(NamedTuple):
    """What a model_type of config.json means."""

    classname: str  # in transformers
    keys: dict[str, str]  # our field -> key
    defaults: dict[str, Any]  # our field -> its value where a file is silent; others are required
    fixed: dict[str, Any]  # our field -> its value in all members
    reads: str  # further keys that `read` reads


FAMILIES = {
    "t5": Family("T5ForConditionalGeneration", _T5_KEYS, _T5, {}, _T5_READS),
    "mt5": Family("MT5ForConditionalGeneration", _T5_KEYS, _T5, {}, _T5_READS),
    "llama": Family("LlamaForCausalLM", _KEYS, _LLAMA, {}, _ROPE_READS),
    "mistral": Family(
        "MistralForCausalLM",
        _KEYS,
        _LLAMA | {"num_kv_heads": 8},
        {},
        _ROPE_READS + "sliding_window",
    ),
    "qwen2": Family(  # its queries, keys and values always have biases
        "Qwen2ForCausalLM",
        _KEYS,
        _QWEN,
        {"qkv_bias": True},
        _QWEN_READS + "attention_bias qkv_bias",
    ),
    "qwen3": Family(
        "Qwen3ForCausalLM",
        _KEYS,
        _QWEN | {"head_dim": 128},
        {"qk_norm": True},
        _QWEN_READS + "qk_norm use_qk_norm",
    ),
    "gemma2": Family(
        "Gemma2ForCausalLM",
        _GEMMA_KEYS | {"attention_cap": "attn_logit_softcapping"},
        _GEMMA | {"attention_cap": 50.0, "logit_cap": 30.0},
        _ALL_GEMMA,
        _ROPE_READS + "sliding_window",
    ),
    # The class of Gemma 3 has attn_logit_softcapping and computes nothing of it.
    "gemma3_text": Family(
        "Gemma3ForCausalLM",
        _GEMMA_KEYS,
        _GEMMA | {"vocab_size": 262_208},
        _ALL_GEMMA | {"qk_norm": True},
        _ROPE_READS
        + "sliding_window sliding_window_pattern rope_local_base_freq qk_norm use_qk_norm",
    ),
}
# key -> the key that counts where it is absent
AS_MANY_AS = {"num_key_value_heads": "num_attention_heads", "num_decoder_layers": "num_layers"}
# A hundred times the deepest model: more is a mistake. It is checked before lists are made.
MAX_LAYERS = 10_000
# The keys of a model that also sees images which stand beside its text_config and count for it
OUTSIDE = "dtype torch_dtype bos_token_id eos_token_id pad_token_id tie_word_embeddings".split()


def is_nested(values: dict) -> bool:
    """Whether a config.json is that of a model which also sees images and has the text model as a
    part."""
    return values.get("model_type") == "gemma3"


def text_config(values: dict, place: str = "config.json") -> dict:
    """The settings of the text model: of a model that also sees images its part about text, with
    the keys that stand outside it for both."""
    if not is_nested(values):
        return values
    inner = values.get("text_config")
    if not isinstance(inner, dict):
        raise UserError(f"{place}: text_config={inner!r}; expected the settings of the text model")
    outside = {k: values[k] for k in OUTSIDE if values.get(k) is not None}
    return {"model_type": "gemma3_text", **inner, **outside}


def _is_t5(kind: str) -> bool:
    return FAMILIES[kind].keys is _T5_KEYS


def keys_read(kind: str) -> set[str]:
    """The keys of a family's config.json that `read` reads."""
    family = FAMILIES[kind]
    return {*family.keys.values(), *family.reads.split()}


def read(values: dict, place: str) -> ModelConfig:
    """The ModelConfig of a config.json; UserError if its family is unknown, or it sets what this
    model does not compute.

    `tie_embeddings` is only what the file says; whether the head is tied, the tensors say.
    """
    outer, values = values, text_config(values, place)
    kind = values.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        needs = "".join(f"; its {key} would need {need}" for key, need in unsupported.found(values))
        raise UserError(
            f"{place}: unknown architecture, model_type {kind!r}; those known are "
            f"{', '.join(FAMILIES)} and gemma3{needs}"
        )
    family = FAMILIES[kind]
    unsupported.check(values, keys_read(kind), place)
    if is_nested(outer):
        unsupported.check(outer, OUTSIDE, place)
        if values.get("final_logit_softcapping"):  # only the class of the text model alone reads it
            raise UserError(
                f"{place}: final_logit_softcapping in text_config, which transformers does not "
                "read there"
            )
    types = {f.name: f.type for f in dataclasses.fields(ModelConfig)} | {"mlp_activation": str}
    cfg: dict[str, Any] = {}
    for ours in family.keys:
        cfg[ours] = _field(values, ours, types[ours], cfg, place)
    layers, heads, kv_heads = cfg["num_layers"], cfg["num_heads"], cfg["num_kv_heads"]
    if max(layers, cfg.get("encoder_layers", 0)) > MAX_LAYERS:
        raise UserError(f"{place}: more than {MAX_LAYERS:,} layers ({family.keys['num_layers']})")
    if heads % kv_heads:
        raise UserError(f"{place}: {kv_heads} key/value heads do not divide {heads} heads")
    if _is_t5(kind):
        cfg |= _t5_settings(values, place)
    else:
        own, activation = family.keys["mlp_activation"], cfg["mlp_activation"]
        (other,) = {"hidden_act", "hidden_activation"} - {own}
        if values.get(other) not in (None, activation):
            raise UserError(
                f"{place}: {other}={values[other]!r}, but a {kind} reads {own}={activation!r}"
            )
        cfg["mlp_activation"] = _activation(activation, place)
        cfg |= {"architecture": "decoder", "mlp_gated": True, "position": "rope"}
        cfg |= rope.windows(values, kind, layers, place) | rope.read(values, kind, place)
    cfg |= {name: float(value) for name, value in cfg.items() if types[name] is float}
    return ModelConfig(**cfg | family.fixed)


def _field(values: dict, ours: str, type_: type, cfg: dict[str, Any], place: str) -> Any:
    """One setting of the model, or the class's own if the file is silent; null is a value, which
    few keys take. `cfg` holds the settings read so far."""
    kind = values["model_type"]
    key, default = FAMILIES[kind].keys[ours], FAMILIES[kind].defaults.get(ours)
    null = key in values and values[key] is None
    absent = values.get(key) is None
    if key.endswith("softcapping"):  # null: none
        default = 0.0 if key in values else default
    elif absent and key in AS_MANY_AS and (default is None or null and kind in rope.QWEN):
        key = AS_MANY_AS[key]
    elif key == "head_dim" and default is None:
        default = cfg["embed_dim"] // cfg["num_heads"]
    elif null and default is not None:
        raise UserError(
            f"{place}: {key}=None; expected a value, or no such key, which means {default!r}"
        )
    value = setting(values, key, type_, place, default)
    zero = key != "query_pre_attn_scalar"  # whether 0 is allowed
    if type_ is float and not (0 <= value < float("inf") and (value or zero)):
        least = "from 0" if zero else "above 0"
        raise UserError(f"{place}: {key}={value!r}; expected a number {least}")
    return value


def passed_over(values: dict, place: str = "config.json") -> list[str]:
    """Keys of a config.json that neither this reader nor transformers knows, so that they have no
    effect."""
    inner = text_config(values, place)
    kind = inner["model_type"]
    keys = unsupported.passed_over(inner, keys_read(kind))
    if not _is_t5(kind):
        keys += rope.passed_over(inner, kind)
    return keys + (unsupported.passed_over(values, OUTSIDE) if is_nested(values) else [])


def _activation(name: str, place: str) -> str:
    if name not in ACTIVATIONS:
        raise UserError(f"{place}: unknown activation {name!r}" + did_you_mean(name, ACTIVATIONS))
    return ACTIVATIONS[name]


def _t5_settings(values: dict, place: str) -> dict[str, Any]:
    for (
        alias,
        key,
    ) in T5_ALIASES.items():  # transformers' other name of the setting, which would win
        if values.get(alias) not in (None, values.get(key)):
            raise UserError(
                f"{place}: {alias}={values[alias]!r} and {key}={values.get(key)!r}, which name one "
                "setting"
            )
    kind, key = values["model_type"], "feed_forward_proj"
    default = None if key in values else T5_FEED_FORWARD[kind]
    feed_forward = setting(values, key, str, place, default)
    gated, _, name = feed_forward.rpartition("-")
    # transformers reads "gated-gelu" as the tanh form, and so were those models trained
    name = "gelu_new" if gated and name == "gelu" else name
    for key, right in (("dense_act_fn", name), ("is_gated_act", bool(gated))):
        if values.get(key) not in (None, right):
            raise UserError(
                f"{place}: {key}={values[key]!r} beside feed_forward_proj={feed_forward!r}, which "
                f"means {right!r}"
            )
    tied = values.get("tie_word_embeddings") is not False
    return {
        "architecture": "encoder_decoder",
        "position": "t5_relative",
        "scale_attention": False,
        "mlp_gated": bool(gated),
        "mlp_activation": _activation(name, place),
        "tie_embeddings": tied,
        "scale_logits": values.get("scale_decoder_outputs", tied) and kind == "t5",
        "encoder_layers": values["num_layers"],
    }


def write(cfg: ModelConfig, kind: str) -> dict[str, Any]:
    """The config.json of a model as one of this family; whether it says all that `cfg` says,
    `family_of` checks."""
    family = FAMILIES[kind]
    out: dict[str, Any] = {"architectures": [family.classname], "model_type": kind}
    out |= {key: getattr(cfg, ours) for ours, key in family.keys.items()}
    activation = next(theirs for theirs, ours in ACTIVATIONS.items() if ours == cfg.mlp_activation)
    if _is_t5(kind):
        gated = "gated-" + activation.removesuffix("_pytorch_tanh")
        return out | {
            "num_layers": cfg.encoder_layers or cfg.num_layers,
            "is_encoder_decoder": True,
            "feed_forward_proj": gated if cfg.mlp_gated else activation,
            "tie_word_embeddings": cfg.tie_embeddings,
            "scale_decoder_outputs": cfg.scale_logits,
        }
    out[family.keys["mlp_activation"]] = activation
    out |= {key: out[key] or None for key in out if key.endswith("softcapping")}
    if "query_pre_attn_scalar" in out:  # a whole number in transformers
        scalar = cfg.query_scalar or float(cfg.head_dim)
        out["query_pre_attn_scalar"] = int(scalar) if scalar.is_integer() else scalar
    out |= rope.write(cfg)
    gemma, qwen = kind.startswith("gemma"), kind in rope.QWEN
    if kind == "gemma3_text":
        out["rope_local_base_freq"] = cfg.rope_theta_local or cfg.rope_theta
    if kind != "llama":
        # Gemma's class makes a mask of its window even where no layer slides
        out["sliding_window"] = cfg.sliding_window or (rope.WINDOW if gemma else None)
    if qwen:
        out["use_sliding_window"] = bool(cfg.sliding_window)
    if gemma or qwen:
        out["layer_types"] = [rope.FULL if full else rope.SLIDING for full in global_layers(cfg)]
    return out


def global_layers(cfg: ModelConfig) -> tuple[bool, ...]:
    """For each layer, whether it has no window."""
    every = cfg.global_every if cfg.sliding_window else 1
    return tuple(bool(every) and (i + 1) % every == 0 for i in range(cfg.num_layers))


def _same(cfg: ModelConfig) -> dict[str, Any]:
    """The fields of the model, those without effect set alike, for `family_of` to compare."""
    fields = {k: v for k, v in dataclasses.asdict(cfg).items() if k not in OF_THE_RUN}
    fields["encoder_layers"] = cfg.encoder_layers or cfg.num_layers
    fields["global_every"] = global_layers(cfg)
    if cfg.architecture == "decoder":
        local = cfg.rope_theta_local or cfg.rope_theta
        fields |= {"relative_buckets": 0, "relative_max_distance": 0, "encoder_layers": 0}
        fields["query_scalar"] = cfg.query_scalar or float(cfg.head_dim)
        fields["rope_theta_local"] = local if cfg.sliding_window else 0.0
    else:
        fields |= {k: 0 for k in fields if k.startswith("rope_")}
    if cfg.rope_scaling != "llama3":
        fields |= {"rope_low_factor": 0, "rope_high_factor": 0, "rope_original_length": 0}
    return fields


def family_of(cfg: ModelConfig, preferred: str | None = None) -> str:
    """The model_type under which Hugging Face computes what `cfg` does: `preferred`, or the first
    that reads back the same.

    UserError that names what no family has.
    """
    if cfg.prefix_lm:
        raise UserError(
            "model.prefix_lm: Hugging Face's decoders read a prompt from left to right, so it "
            "cannot be exported"
        )
    cfg = dataclasses.replace(cfg, vocab_size=cfg.vocab_size or 1)  # 0: the vocabulary's size
    nearest = None
    for kind in [preferred] if preferred in FAMILIES else FAMILIES:
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
