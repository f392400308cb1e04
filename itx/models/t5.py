# SPDX-License-Identifier: Apache-2.0
"""What T5's config.json says otherwise than a decoder's: the MLP in one key, and settings by two
names."""

from typing import Any

from itx.config import ModelConfig
from itx.config_check import setting
from itx.errors import UserError
from itx.models.family import Family
from itx.models.names import table, words

ALIASES = table("""
    hidden_size          d_model
    num_attention_heads  num_heads
    num_hidden_layers    num_layers
    head_dim             d_kv
""")
# Keys that are read besides those of fields
READS = ALIASES.keys() | words("""
    feed_forward_proj dense_act_fn is_gated_act tie_word_embeddings scale_decoder_outputs
    is_encoder_decoder
""")


def read(values: dict, family: Family, place: str) -> dict[str, Any]:
    """The settings that several keys say together; its activation by the name that it has there."""
    # transformers' other name of a setting would win
    for alias, key in ALIASES.items():
        if values.get(alias) not in (None, values.get(key)):
            raise UserError(
                f"{place}: {alias}={values[alias]!r} and {key}={values.get(key)!r}, which name one "
                "setting"
            )
    key = "feed_forward_proj"
    default = None if key in values else family.feed_forward
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
        "mlp_gated": bool(gated),
        "mlp_activation": name,
        "tie_embeddings": tied,
        "scale_logits": values.get("scale_decoder_outputs", tied),
        "encoder_layers": values["num_layers"],
    }


def write(cfg: ModelConfig, activation: str) -> dict[str, Any]:
    """The keys of config.json that `read` reads."""
    gated = "gated-" + activation.removesuffix("_pytorch_tanh")
    return {
        "num_layers": cfg.encoder_layers or cfg.num_layers,
        "is_encoder_decoder": True,
        "feed_forward_proj": gated if cfg.mlp_gated else activation,
        "tie_word_embeddings": cfg.tie_embeddings,
        "scale_decoder_outputs": cfg.scale_logits,
    }
