# SPDX-License-Identifier: Apache-2.0
"""Keys of a config.json beyond those that its family reads.

A key is refused for what it would need (`REFUSED`), or known to change no logit (`HARMLESS`), or
neither: then it is named when the model is loaded. REFUSED grows shorter as families are built: a
key that a family reads is not looked up here.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from itx.errors import UserError

# Values that switch a key off
OFF = (None, False, 0)  # 0 == False == 0.0
ONE = (None, 1)  # a factor that changes nothing
NONE = (None, {}, [])


class Refused(NamedTuple):
    keys: str  # regex of whole names
    needs: str  # what a model with such a key would need
    off: tuple = OFF  # values with which it needs nothing
    each: tuple = ()  # likewise, for each entry of a list


REFUSED = (
    Refused("attention_bias|attn_bias|qkv_bias|use_qkv_bias|o_bias", "biases in attention"),
    Refused("mlp_bias|ffn_bias|use_bias|bias", "biases in the MLP"),
    Refused("lm_head_bias|head_bias", "a bias of the output layer"),
    Refused("use_bidirectional_attention|bidirectional.*", "attention to what comes later"),
    Refused("is_causal", "attention to what comes later", (True,)),
    Refused(
        "add_cross_attention|cross_attention.*|is_encoder_decoder", "cross attention in a decoder"
    ),
    Refused("tie_encoder_decoder", "an encoder that is the decoder"),
    Refused(
        "partial_rotary_factor|rotary_pct|rotary_percent|rope_pct|rope_percent",
        "rotary positions of a part of a head",
        ONE,
    ),
    Refused(
        "rotary_dim|rotary_ndims|rope_dim|rotary_emb_dim", "rotary positions of a part of a head"
    ),
    Refused(
        "no_rope_layers?|no_rope_layer_interval|nope_.*|rope_layers?",
        "layers without positions (NoPE)",
        OFF,
        (1,),
    ),
    Refused("use_rope|rope|use_rotary.*", "layers without positions (NoPE)", (None, True)),
    Refused("(use_)?alibi.*", "ALiBi"),
    Refused(
        "rope_interleaved?|interleaved_rope|rope_interleave|rope_traditional",
        "rotary positions of neighbouring pairs",
    ),
    Refused("(use_)?mrope.*", "rotary positions along several axes", (*OFF, [])),
    Refused(
        "position_embedding_type", "other positions than rotary ones", (None, "rope", "rotary")
    ),
    Refused("(.*_)?(moe|experts?)(_.*)?|moe.*", "a mixture of experts (MoE)", (*OFF, [])),
    Refused("mlp_layer_types", "layers of several kinds", NONE, ("dense",)),
    Refused("(kv|q|o)_lora_rank|qk_(nope|rope)_head_dim|v_head_dim", "multi-head latent attention"),
    Refused(
        "(embedding|attention|residual|lm_head|key|query|value|mlp|ffn|logits?)"
        "_(multipliers?|scaling|scale)",
        "multipliers (as Granite's)",
        ONE,
    ),
    Refused(
        "scale_emb|embed_scale|scale_depth|scale_lm_head|output_multiplier.*|attn_scale|(use_)?mup.*"
        "|dim_model_base",
        "multipliers (as MiniCPM's)",
        (*ONE, False),
    ),
    Refused(
        ".*soft_?cap.*|logit_cap|.*_clip_value|clip_qkv|qkv_clip|swiglu_.*",
        "caps of values that this family has not",
    ),
    Refused("(use_)?qk_(layer)?_?norm.*|use_qk_norm", "a norm of queries and keys"),
    Refused(
        "norm_type|layer_?norm_type|normalization|normalization_type",
        "another norm",
        (None, "rmsnorm", "rms_norm", "RMSNorm"),
    ),
    Refused(
        "(use_)?parallel_(attn|residual|attention)|use_parallel.*", "attention and MLP side by side"
    ),
    Refused(
        "attention_chunk_size|attn_temperature_tuning|attention_sinks?|use_sinks?|sinks?_.*"
        "|blocksparse_.*",
        "other attention",
    ),
    Refused(
        "(linear|conv|ssm|mamba|recurrent)_.*|full_attention_interval|attn_layer_.*",
        "layers that are no attention",
        (*OFF, []),
    ),
    Refused(
        "num_kv_shared_layers|cla_.*|.*shared_kv.*|.*kv_shar.*", "layers that share keys and values"
    ),
    Refused(
        "altup_.*|laurel_.*|hidden_size_per_layer_input|vocab_size_per_layer_input"
        "|activation_sparsity_pattern",
        "Gemma 3n's layers",
        (*OFF, []),
    ),
    Refused(
        "per_layer_config|layer_configs?|block_configs?|pruned_heads", "layers that differ", NONE
    ),
    Refused(
        "quantization_config|compression_config|quantization", "weights that are quantised", NONE
    ),
)

# Regexes of keys that say how to train, generate, label or show, or what the file was written with
HARMLESS = r"""
    model_type architectures .*_version (torch_)?dtype _?name_or_path _commit_hash
    max_position_embeddings n_positions .*dropout.* .*_pdrop layerdrop initializer_.*
    .*_token_ids? .*_token_index use_cache pretraining_tp _?(attn|experts)_implementation.*
    cache_implementation chunk_size_feed_forward torchscript use_bfloat16 tf_legacy_loss
    output_(attentions|hidden_states|scores|past) return_dict.* use_return_dict id2label label2id
    num_labels problem_type finetuning_task task_specific_params tokenizer_class prefix is_decoder
    _sliding_window_pattern vision_config text_config mm_tokens_per_image
    (max|min)_(new_tokens|length) do_sample early_stopping num_beams num_beam_groups
    num_return_sequences temperature top_[kp] typical_p repetition_penalty length_penalty
    diversity_penalty encoder_no_repeat_ngram_size no_repeat_ngram_size bad_words_ids
    remove_invalid_values exponential_decay_length_penalty suppress_tokens begin_suppress_tokens
""".split()


def check(values: dict, read: Iterable[str], place: str) -> None:
    """UserError that names the first key that this model would not compute; `read`: keys that its
    family reads."""
    for key, needs in found(values, read):
        raise UserError(
            f"{place}: {key}={values[key]!r} would need {needs}, which a {values['model_type']} "
            "has not here"
        )


def found(values: dict, read: Iterable[str] = ()) -> list[tuple[str, str]]:
    """(key, what it would need) of every refused key that is not off."""
    keys = []
    for key, refused in _strange(values, read):
        if refused is not None and not _is_off(values[key], refused):
            keys.append((key, refused.needs))
    return sorted(keys)


def passed_over(values: dict, read: Iterable[str]) -> list[str]:
    """Keys that are neither read nor known: the classes of transformers do not read them either."""
    return sorted(key for key, refused in _strange(values, read) if refused is None)


def _strange(values: dict, read: Iterable[str]) -> Iterator[tuple[str, Refused | None]]:
    """(key, its entry of REFUSED if it has one) of the keys that are not read and not harmless."""
    for key in values.keys() - set(read):
        if not any(re.fullmatch(p, key) for p in HARMLESS):
            yield key, next((r for r in REFUSED if re.fullmatch(r.keys, key)), None)


def _is_off(value: Any, refused: Refused) -> bool:
    listed = isinstance(value, list) and bool(refused.each)
    return value in refused.off or listed and all(v in refused.each for v in value)
