# SPDX-License-Identifier: Apache-2.0
"""Settings of tiny models."""

from itx.config import ModelConfig
from itx.models import presets


def decoder(**settings) -> ModelConfig:
    """A decoder whose every dimension differs from the others."""
    sizes = {"num_heads": 4, "num_kv_heads": 2, "head_dim": 8, "mlp_dim": 48}
    rest = {"embed_dim": 32, "num_layers": 2, **sizes, "qk_norm": True, "smear": 2}
    return ModelConfig(**{"architecture": "decoder", **rest, **settings})


def gemma(**settings) -> ModelConfig:
    """The same decoder with all that Gemma, Qwen 2.5 and Llama 3 add to it, and three layers of two
    kinds."""
    windows = {"sliding_window": 5, "global_every": 2, "rope_theta_local": 100.0}
    rope = {"rope_scaling": "linear", "rope_factor": 4.0}
    attention = {"qkv_bias": True, "query_scalar": 11.0, "attention_cap": 2.0, "logit_cap": 3.0}
    norms = {"scale_embeddings": True, "norm_plus_one": True, "post_norms": True}
    more = {"num_layers": 3, "smear": 0, "mlp_activation": "gelu"}
    return decoder(**{**windows, **rope, **attention, **norms, **more, **settings})


def t5(**settings) -> ModelConfig:
    """An encoder-decoder of the same size."""
    return presets.t5(32, 2, 4, 48, **{"head_dim": 8, "smear": 1, **settings})
