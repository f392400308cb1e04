# SPDX-License-Identifier: Apache-2.0
"""Hugging Face's families as data: config.json <-> ModelConfig.

A family is an entry of FAMILIES, which holds all that is said of it by name (family.py). Its
configuration is fields that only have another name (`keys`), settings that all its members share
(`fixed`), and the few things that several keys say together: windows and rotary positions
(rope.py). Files of transformers 4 and 5 are both read; what is written both read, in the older
form.
"""

import dataclasses
from typing import Any

from itx.config import ModelConfig
from itx.config_check import setting
from itx.errors import UserError, check_known
from itx.models import names, rope, t5, unsupported
from itx.models.family import Family
from itx.models.names import table, words

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
_ALL_T5 = {
    "architecture": "encoder_decoder",
    "position": "t5_relative",
    "scale_attention": False,
}
_ALL_GEMMA = {
    "qk_norm": False,
    "norm_plus_one": True,
    "post_norms": True,
    "scale_embeddings": True,
    "scale_attention": True,
}

# Keys that are read besides those of fields. Of a decoder DECODER_READS are read always, if only to
# see that they agree with what its class computes.
DECODER_READS = words("""
    rope_scaling rope_parameters rope_theta partial_rotary_factor original_max_position_embeddings
    layer_types hidden_act hidden_activation
""")
_QWEN_READS = words("use_sliding_window sliding_window max_window_layers layer_types")
_GEMMA_READS = words("sliding_window layer_types")
_QK_NORM_READS = words("qk_norm use_qk_norm")
_T5_FAMILY = Family(
    "T5ForConditionalGeneration",
    _T5_KEYS,
    _T5,
    _ALL_T5,
    names.T5,
    t5.READS,
    ungated=names.T5_UNGATED,
    feed_forward="relu",
)
_LLAMA_FAMILY = Family("LlamaForCausalLM", _KEYS, _LLAMA, {}, names.LLAMA)

FAMILIES = {
    "t5": _T5_FAMILY,
    "mt5": _T5_FAMILY._replace(
        classname="MT5ForConditionalGeneration",
        fixed=_ALL_T5 | {"scale_logits": False},
        feed_forward="gated-gelu",
    ),
    "llama": _LLAMA_FAMILY,
    "mistral": _LLAMA_FAMILY._replace(
        classname="MistralForCausalLM",
        defaults=_LLAMA | {"num_kv_heads": 8},
        reads=words("sliding_window"),
        full_every=0,
    ),
    "qwen2": _LLAMA_FAMILY._replace(  # its queries, keys and values always have biases
        classname="Qwen2ForCausalLM",
        defaults=_QWEN,
        fixed={"qkv_bias": True},
        reads=_QWEN_READS | words("attention_bias qkv_bias"),
        null_kv_heads=True,
    ),
    "qwen3": _LLAMA_FAMILY._replace(
        classname="Qwen3ForCausalLM",
        defaults=_QWEN | {"head_dim": 128},
        fixed={"qk_norm": True},
        reads=_QWEN_READS | _QK_NORM_READS,
        null_kv_heads=True,
    ),
    "gemma2": Family(
        "Gemma2ForCausalLM",
        _GEMMA_KEYS | {"attention_cap": "attn_logit_softcapping"},
        _GEMMA | {"attention_cap": 50.0, "logit_cap": 30.0},
        _ALL_GEMMA,
        names.GEMMA,
        _GEMMA_READS,
        full_every=2,
    ),
    # The class of Gemma 3 has attn_logit_softcapping and computes nothing of it.
    "gemma3_text": Family(
        "Gemma3ForCausalLM",
        _GEMMA_KEYS,
        _GEMMA | {"vocab_size": 262_208},
        _ALL_GEMMA | {"qk_norm": True},
        names.GEMMA,
        _GEMMA_READS | _QK_NORM_READS | {"sliding_window_pattern", "rope_local_base_freq"},
        full_every=6,
        theta=1e6,
        local_theta=1e4,
        part_of="gemma3",
    ),
}
# key -> the key that counts where it is absent
AS_MANY_AS = {"num_key_value_heads": "num_attention_heads", "num_decoder_layers": "num_layers"}
# A hundred times the deepest model: more is a mistake. It is checked before lists are made.
MAX_LAYERS = 10_000
# The keys of a model that also sees images which stand beside its text_config and count for it
OUTSIDE = "dtype torch_dtype bos_token_id eos_token_id pad_token_id tie_word_embeddings".split()


def _nested() -> dict[str, str]:
    """{model_type of a model that also sees images: that of its text model}."""
    return {f.part_of: kind for kind, f in FAMILIES.items() if f.part_of}


def is_nested(kind: Any) -> bool:
    """Whether a model_type is that of a model which also sees images and has the text model as a
    part."""
    return kind in [*_nested()]


def text_config(values: dict, place: str = "config.json") -> dict:
    """The settings of the text model: of a model that also sees images its part about text, with
    the keys that stand outside it for both."""
    if not is_nested(values.get("model_type")):
        return values
    inner = values.get("text_config")
    if not isinstance(inner, dict):
        raise UserError(f"{place}: text_config={inner!r}; expected the settings of the text model")
    outside = {k: values[k] for k in OUTSIDE if values.get(k) is not None}
    return {"model_type": _nested()[values["model_type"]], **inner, **outside}


def keys_read(family: Family) -> set[str]:
    """The keys of a family's config.json that `read` reads."""
    always = () if family.is_encoder_decoder else DECODER_READS
    return {*family.keys.values(), *family.reads, *always}


def tensor_names(cfg: ModelConfig, kind: str) -> dict[str, str]:
    """{our path: the name of the tensor, `{}` standing for the layer} of a model; of one that also
    sees images, as the class that it is loaded as has them.

    kind: the model_type that it came with; "": it was begun from random weights, and has the names
    of the first family of its structure.
    """
    if is_nested(kind):
        text = tensor_names(cfg, _nested()[kind])
        return {path: names.inside(name) for path, name in text.items()}
    family = FAMILIES.get(kind) or next(
        f
        for f in FAMILIES.values()
        if f.is_encoder_decoder == (cfg.architecture == "encoder_decoder")
        and f.fixed.get("post_norms", False) == cfg.post_norms
    )
    return family.tensors | ({} if cfg.mlp_gated else family.ungated)


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
            f"{', '.join(FAMILIES)} and {', '.join(_nested())}{needs}"
        )
    family = FAMILIES[kind]
    unsupported.check(values, keys_read(family), place)
    if outer is not values:
        unsupported.check(outer, OUTSIDE, place)
        if values.get("final_logit_softcapping"):  # only the class of the text model alone reads it
            raise UserError(
                f"{place}: final_logit_softcapping in text_config, which transformers does not "
                "read there"
            )
    types = {f.name: f.type for f in dataclasses.fields(ModelConfig)} | {"mlp_activation": str}
    cfg: dict[str, Any] = {}
    for ours in family.keys:
        cfg[ours] = _field(values, family, ours, types[ours], cfg, place)
    layers, heads, kv_heads = cfg["num_layers"], cfg["num_heads"], cfg["num_kv_heads"]
    if max(layers, cfg.get("encoder_layers", 0)) > MAX_LAYERS:
        raise UserError(f"{place}: more than {MAX_LAYERS:,} layers ({family.keys['num_layers']})")
    if heads % kv_heads:
        raise UserError(f"{place}: {kv_heads} key/value heads do not divide {heads} heads")
    if family.is_encoder_decoder:
        cfg |= t5.read(values, family, place)
    else:
        own, activation = family.keys["mlp_activation"], cfg["mlp_activation"]
        (other,) = {"hidden_act", "hidden_activation"} - {own}
        if values.get(other) not in (None, activation):
            raise UserError(
                f"{place}: {other}={values[other]!r}, but a {kind} reads {own}={activation!r}"
            )
        cfg |= rope.windows(values, family, layers, place) | rope.read(values, family, place)
    cfg["mlp_activation"] = _activation(cfg["mlp_activation"], place)
    cfg |= {name: float(value) for name, value in cfg.items() if types[name] is float}
    return ModelConfig(**cfg | family.fixed)


def _field(
    values: dict, family: Family, ours: str, type_: type, cfg: dict[str, Any], place: str
) -> Any:
    """One setting of the model, or the class's own if the file is silent; null is a value, which
    few keys take. `cfg` holds the settings read so far."""
    key, default = family.keys[ours], family.defaults.get(ours)
    null = key in values and values[key] is None
    absent = values.get(key) is None
    if key.endswith("softcapping"):  # null: none
        default = 0.0 if key in values else default
    elif absent and key in AS_MANY_AS and (default is None or null and family.null_kv_heads):
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
    family = FAMILIES[inner["model_type"]]
    keys = unsupported.passed_over(inner, keys_read(family))
    if not family.is_encoder_decoder:
        keys += rope.passed_over(inner, family)
    return keys + (unsupported.passed_over(values, OUTSIDE) if inner is not values else [])


def _activation(name: str, place: str) -> str:
    check_known(name, ACTIVATIONS, f"{place}: unknown activation {name!r}")
    return ACTIVATIONS[name]


def write(cfg: ModelConfig, kind: str) -> dict[str, Any]:
    """The config.json of a model as one of this family; whether it says all that `cfg` says,
    `family_of` checks."""
    family = FAMILIES[kind]
    out: dict[str, Any] = {"architectures": [family.classname], "model_type": kind}
    out |= {key: getattr(cfg, ours) for ours, key in family.keys.items()}
    activation = next(theirs for theirs, ours in ACTIVATIONS.items() if ours == cfg.mlp_activation)
    if family.is_encoder_decoder:
        return out | t5.write(cfg, activation)
    out[family.keys["mlp_activation"]] = activation
    out |= {key: out[key] or None for key in out if key.endswith("softcapping")}
    if "query_pre_attn_scalar" in out:  # a whole number in transformers
        scalar = cfg.query_scalar or float(cfg.head_dim)
        out["query_pre_attn_scalar"] = int(scalar) if scalar.is_integer() else scalar
    out |= rope.write(cfg)
    # A class with layers of both kinds makes a mask of its window even where no layer slides
    window = cfg.sliding_window or (rope.WINDOW if family.full_every > 1 else None)
    written = {
        "rope_local_base_freq": cfg.rope_theta_local or cfg.rope_theta,
        "sliding_window": window,
        "use_sliding_window": bool(cfg.sliding_window),
        "layer_types": [rope.FULL if full else rope.SLIDING for full in global_layers(cfg)],
    }
    return out | {key: value for key, value in written.items() if key in family.reads}


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
