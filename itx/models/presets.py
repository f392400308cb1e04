# SPDX-License-Identifier: Apache-2.0
"""Model sizes by name: functions that return a `ModelConfig`. A new size is one function here."""

from itx.config import ModelConfig


def quickstart_decoder() -> ModelConfig:
    """About 0.6 M parameters, decoder-only: RoPE, RMS norm, SwiGLU, tied embeddings.

    Two layers, because what a CPU can do in four minutes is bounded by steps, not by depth; prefix
    attention and smeared embeddings, because from random weights copying must be learnt first.
    """
    return ModelConfig(
        architecture="decoder", embed_dim=128, num_layers=2, num_heads=4, num_kv_heads=4,
        head_dim=32, mlp_dim=384, mlp_activation="silu", mlp_gated=True, position="rope",
        scale_attention=True, tie_embeddings=True, prefix_lm=True, smear=2,
    )  # fmt: skip


def t5(embed_dim: int, num_layers: int, num_heads: int, mlp_dim: int, **settings) -> ModelConfig:
    """T5 1.1 (Raffel et al. 2020, and the T5 1.1 notes): relative bias, gated gelu, untied."""
    return ModelConfig(**{
        "architecture": "encoder_decoder", "embed_dim": embed_dim, "num_layers": num_layers,
        "num_heads": num_heads, "num_kv_heads": num_heads, "head_dim": 64, "mlp_dim": mlp_dim,
        "mlp_activation": "gelu", "mlp_gated": True, "position": "t5_relative",
        "scale_attention": False, "tie_embeddings": False, **settings,
    })  # fmt: skip


def quickstart_t5() -> ModelConfig:
    """About 0.8 M parameters, T5-style; embeddings are tied because the vocabulary is most of it."""
    # scores are divided by sqrt(d): without it the rate that suits muon is too high for the queries
    return t5(128, 2, 4, 320, head_dim=32, tie_embeddings=True, scale_attention=True, smear=2)


def t5_small() -> ModelConfig:
    """T5 1.1 small: 77 M parameters with the 32k vocabulary."""
    return t5(512, 8, 6, 1024, vocab_size=32_128)


def tiny_decoder(**settings) -> ModelConfig:
    """For tests: a decoder whose every dimension differs from the others."""
    return ModelConfig(**{
        "architecture": "decoder", "embed_dim": 32, "num_layers": 2, "num_heads": 4,
        "num_kv_heads": 2, "head_dim": 8, "mlp_dim": 48, "qk_norm": True, "smear": 2, **settings,
    })  # fmt: skip


def tiny_t5(**settings) -> ModelConfig:
    """For tests: an encoder-decoder of the same size."""
    return t5(32, 2, 4, 48, **{"head_dim": 8, "smear": 1, **settings})
