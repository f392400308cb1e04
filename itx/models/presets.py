# SPDX-License-Identifier: Apache-2.0
"""Models by name: functions of a family's settings, and the table of published sizes. A new size is
one entry there."""

import dataclasses

from itx.config import ModelConfig
from itx.errors import UserError, did_you_mean


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
    """About 0.8 M parameters, T5-style; embeddings are tied because the vocabulary is most of
    it."""
    # scores are divided by sqrt(d): without it the rate that suits muon is too high for the queries
    return t5(128, 2, 4, 320, head_dim=32, tie_embeddings=True, scale_attention=True, smear=2)


def t5_1_0(
    embed_dim: int, num_layers: int, num_heads: int, mlp_dim: int, **settings
) -> ModelConfig:
    """T5 as first published: plain relu, the embedding table as output layer behind a division by
    its root width."""
    first = {
        "mlp_activation": "relu",
        "mlp_gated": False,
        "tie_embeddings": True,
        "scale_logits": True,
    }
    return t5(embed_dim, num_layers, num_heads, mlp_dim, **first, vocab_size=32_128, **settings)


def llama(
    embed_dim: int, num_layers: int, num_heads: int, num_kv_heads: int, mlp_dim: int, **settings
) -> ModelConfig:
    """Llama (Touvron et al. 2023) as Llama 3 has it; the settings of what came of it are
    differences from it."""
    return ModelConfig(**{
        "architecture": "decoder", "embed_dim": embed_dim, "num_layers": num_layers, "num_heads": num_heads,
        "num_kv_heads": num_kv_heads, "head_dim": 128, "mlp_dim": mlp_dim, "norm_eps": 1e-5,
        "rope_theta": 5e5, "tie_embeddings": False, "vocab_size": 128_256, **settings,
    })  # fmt: skip


def llama3_2(*sizes: int, **settings) -> ModelConfig:
    """Llama 3.2: tied, RoPE stretched 32 times."""
    return llama(*sizes, tie_embeddings=True, rope_scaling="llama3", rope_factor=32.0, **settings)


def qwen2_5(*sizes: int, rows: int = 151_936, tied: bool = True, **settings) -> ModelConfig:
    """Qwen 2.5 (arXiv 2412.15115): Llama with biases of queries, keys and values."""
    about = {
        "qkv_bias": True,
        "norm_eps": 1e-6,
        "rope_theta": 1e6,
        "vocab_size": rows,
        "tie_embeddings": tied,
    }
    return llama(*sizes, **about, **settings)


def qwen3(*sizes: int, tied: bool = True) -> ModelConfig:
    """Qwen 3 (arXiv 2505.09388): Llama with normalised queries and keys."""
    about = {
        "qk_norm": True,
        "norm_eps": 1e-6,
        "rope_theta": 1e6,
        "vocab_size": 151_936,
        "tie_embeddings": tied,
    }
    return llama(*sizes, **about)


def gemma(*sizes: int, **settings) -> ModelConfig:
    """What Gemma 2 and 3 share (arXiv 2408.00118, 2503.19786)."""
    about = {
        "head_dim": 256, "mlp_activation": "gelu", "norm_eps": 1e-6, "norm_plus_one": True, "post_norms": True,
        "scale_embeddings": True, "tie_embeddings": True, "query_scalar": 256.0,
    }  # fmt: skip
    return llama(*sizes, **about | settings)


def gemma2(*sizes: int, **settings) -> ModelConfig:
    """Gemma 2: soft caps, every other layer slides."""
    about = {
        "rope_theta": 1e4, "vocab_size": 256_000, "sliding_window": 4096, "global_every": 2,
        "attention_cap": 50.0, "logit_cap": 30.0,
    }  # fmt: skip
    return gemma(*sizes, **about, **settings)


def gemma3(*sizes: int, window: int, **settings) -> ModelConfig:
    """Gemma 3, its text model: normalised queries and keys, five of six layers slide and have a
    RoPE base of their own."""
    about = {
        "rope_theta": 1e6, "rope_theta_local": 1e4, "vocab_size": 262_144, "sliding_window": window,
        "global_every": 6, "qk_norm": True,
    }  # fmt: skip
    return gemma(*sizes, **about | settings)


# Published models, by the names they have there. Rows of T5's embedding are what its checkpoints
# hold. t5: embed, layers, heads, mlp; all others: embed, layers, heads, kv heads, mlp
_T5_1_1 = {"small": (512, 8, 6, 1024), "base": (768, 12, 12, 2048), "large": (1024, 24, 16, 2816),
           "xl": (2048, 24, 32, 5120), "xxl": (4096, 24, 64, 10240)}  # fmt: skip
PUBLISHED: dict[str, ModelConfig] = {
    "t5_small": t5_1_0(512, 6, 8, 2048),
    "t5_base": t5_1_0(768, 12, 12, 3072),
    "t5_large": t5_1_0(1024, 24, 16, 4096),
    "t5_3b": t5_1_0(1024, 24, 32, 16384, head_dim=128),
    "t5_11b": t5_1_0(1024, 24, 128, 65536, head_dim=128),
    **{f"{name}_{size}": t5(*dims, vocab_size=rows) for name, rows in (("t5_v1_1", 32_128), ("flan_t5", 32_128),
       ("mt5", 250_112)) for size, dims in _T5_1_1.items()},
    "llama3_1_8b": llama(4096, 32, 32, 8, 14336, rope_scaling="llama3", rope_factor=8.0),
    "llama3_2_1b": llama3_2(2048, 16, 32, 8, 8192, head_dim=64),
    "llama3_2_3b": llama3_2(3072, 28, 24, 8, 8192),
    "qwen2_5_0_5b": qwen2_5(896, 24, 14, 2, 4864, head_dim=64),
    "qwen2_5_1_5b": qwen2_5(1536, 28, 12, 2, 8960),
    "qwen2_5_3b": qwen2_5(2048, 36, 16, 2, 11008),
    "qwen2_5_7b": qwen2_5(3584, 28, 28, 4, 18944, rows=152_064, tied=False),
    "qwen3_0_6b": qwen3(1024, 28, 16, 8, 3072),
    "qwen3_1_7b": qwen3(2048, 28, 16, 8, 6144),
    "qwen3_4b": qwen3(2560, 36, 32, 8, 9728),
    "qwen3_8b": qwen3(4096, 36, 32, 8, 12288, tied=False),
    "gemma2_2b": gemma2(2304, 26, 8, 4, 9216),
    "gemma2_9b": gemma2(3584, 42, 16, 8, 14336),
    "gemma3_270m": gemma3(640, 18, 4, 1, 2048, window=512),
    "gemma3_1b": gemma3(1152, 26, 4, 1, 6912, window=512),
    "gemma3_4b": gemma3(2560, 34, 8, 4, 10240, window=1024, vocab_size=262_208, rope_scaling="linear", rope_factor=8.0),
    "mistral_7b": llama(4096, 32, 32, 8, 14336, rope_theta=1e4, vocab_size=32_000, sliding_window=4096),
}  # fmt: skip


def published(name: str, **settings) -> ModelConfig:
    """A published model's configuration, e.g. published("qwen3_4b", remat="dots"), with other
    settings on top."""
    if name not in PUBLISHED:
        raise UserError(f"no published model {name!r}" + did_you_mean(name, PUBLISHED))
    return dataclasses.replace(PUBLISHED[name], **settings)


def tiny_decoder(**settings) -> ModelConfig:
    """For tests: a decoder whose every dimension differs from the others."""
    return ModelConfig(**{
        "architecture": "decoder", "embed_dim": 32, "num_layers": 2, "num_heads": 4,
        "num_kv_heads": 2, "head_dim": 8, "mlp_dim": 48, "qk_norm": True, "smear": 2, **settings,
    })  # fmt: skip


def tiny_gemma(**settings) -> ModelConfig:
    """For tests: the same decoder with all that Gemma, Qwen 2.5 and Llama 3 add to it, and three
    layers of two kinds."""
    return tiny_decoder(**{
        "num_layers": 3, "smear": 0, "sliding_window": 5, "global_every": 2, "rope_theta_local": 100.0,
        "rope_scaling": "linear", "rope_factor": 4.0, "qkv_bias": True, "query_scalar": 11.0, "attention_cap": 2.0,
        "logit_cap": 3.0, "scale_embeddings": True, "norm_plus_one": True, "post_norms": True,
        "mlp_activation": "gelu", **settings,
    })  # fmt: skip


def tiny_t5(**settings) -> ModelConfig:
    """For tests: an encoder-decoder of the same size."""
    return t5(32, 2, 4, 48, **{"head_dim": 8, "smear": 1, **settings})
