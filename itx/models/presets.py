# SPDX-License-Identifier: Apache-2.0
"""Models by name: functions of a family's settings, and the table of published sizes. A new size is
one entry in the table."""

import dataclasses

from itx.config import ModelConfig
from itx.errors import check_known


def quickstart_decoder() -> ModelConfig:
    """About 0.6 M parameters, decoder-only, with ModelConfig's defaults: RoPE, RMS norm, SwiGLU,
    tied embeddings.

    Two layers, because what a CPU can do in four minutes is bounded by steps, not by depth; prefix
    attention and smeared embeddings, because from random weights copying must be learnt first.
    """
    sizes = {"embed_dim": 128, "num_heads": 4, "num_kv_heads": 4, "head_dim": 32, "mlp_dim": 384}
    return ModelConfig(num_layers=2, **sizes, prefix_lm=True, smear=2)


def quickstart_t5() -> ModelConfig:
    """About 0.8 M parameters, T5-style; embeddings are tied because the vocabulary is most of
    it."""
    # scores are divided by sqrt(d): without it the rate that suits muon is too high for the queries
    return t5(128, 2, 4, 320, head_dim=32, tie_embeddings=True, scale_attention=True, smear=2)


def t5(embed_dim: int, num_layers: int, num_heads: int, mlp_dim: int, **settings) -> ModelConfig:
    """T5 1.1 (Raffel et al. 2020, and the T5 1.1 notes): relative bias, gated gelu, untied."""
    t5_1_1 = ModelConfig(
        architecture="encoder_decoder",
        embed_dim=embed_dim,
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=64,
        mlp_dim=mlp_dim,
        mlp_activation="gelu",
        position="t5_relative",
        scale_attention=False,
        tie_embeddings=False,
    )
    return dataclasses.replace(t5_1_1, **settings)


def t5_1_0(*sizes: int, **settings) -> ModelConfig:
    """T5 as first published: plain relu; the embedding table is the output layer, behind a division
    by the square root of its width."""
    plain = {"mlp_activation": "relu", "mlp_gated": False, "vocab_size": 32_128}
    return t5(*sizes, **plain, tie_embeddings=True, scale_logits=True, **settings)


def llama(
    embed_dim: int, num_layers: int, num_heads: int, num_kv_heads: int, mlp_dim: int, **settings
) -> ModelConfig:
    """Llama (Touvron et al. 2023) as Llama 3 has it; later families are differences from it."""
    llama3 = ModelConfig(
        embed_dim=embed_dim,
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=128,
        mlp_dim=mlp_dim,
        norm_eps=1e-5,
        rope_theta=5e5,
        tie_embeddings=False,
        vocab_size=128_256,
    )
    return dataclasses.replace(llama3, **settings)


def llama3_2(*sizes: int, **settings) -> ModelConfig:
    """Llama 3.2: tied, RoPE stretched 32 times."""
    return llama(*sizes, tie_embeddings=True, rope_scaling="llama3", rope_factor=32.0, **settings)


def qwen(*sizes: int, tied: bool = True, rows: int = 151_936, **settings) -> ModelConfig:
    """What Qwen 2.5 and 3 share; rows: of the embedding."""
    return llama(
        *sizes, norm_eps=1e-6, rope_theta=1e6, vocab_size=rows, tie_embeddings=tied, **settings
    )


def qwen2_5(*sizes: int, **settings) -> ModelConfig:
    """Qwen 2.5 (arXiv 2412.15115): Llama with biases of queries, keys and values."""
    return qwen(*sizes, qkv_bias=True, **settings)


def qwen3(*sizes: int, **settings) -> ModelConfig:
    """Qwen 3 (arXiv 2505.09388): Llama with normalised queries and keys."""
    return qwen(*sizes, qk_norm=True, **settings)


def gemma(*sizes: int, **settings) -> ModelConfig:
    """What Gemma 2 and 3 share (arXiv 2408.00118, 2503.19786)."""
    return llama(
        *sizes,
        norm_eps=1e-6,
        norm_plus_one=True,
        post_norms=True,
        scale_embeddings=True,
        tie_embeddings=True,
        head_dim=256,
        query_scalar=256.0,
        mlp_activation="gelu",
        **settings,
    )


def gemma2(*sizes: int, **settings) -> ModelConfig:
    """Gemma 2: soft caps, every other layer slides."""
    return gemma(
        *sizes,
        sliding_window=4096,
        global_every=2,
        rope_theta=1e4,
        attention_cap=50.0,
        logit_cap=30.0,
        vocab_size=256_000,
        **settings,
    )


def gemma3(*sizes: int, window: int, rows: int = 262_144, **settings) -> ModelConfig:
    """Gemma 3, its text model: normalised queries and keys, five of six layers slide and have a
    RoPE base of their own."""
    return gemma(
        *sizes,
        sliding_window=window,
        global_every=6,
        rope_theta=1e6,
        rope_theta_local=1e4,
        qk_norm=True,
        vocab_size=rows,
        **settings,
    )


# Published models, by the names they have there. Rows of T5's embedding are what its checkpoints
# hold. t5: embed, layers, heads, mlp; all others: embed, layers, heads, kv heads, mlp
_T5_1_1 = {
    "small": (512, 8, 6, 1024),
    "base": (768, 12, 12, 2048),
    "large": (1024, 24, 16, 2816),
    "xl": (2048, 24, 32, 5120),
    "xxl": (4096, 24, 64, 10240),
}
_T5_1_1_ROWS = {"t5_v1_1": 32_128, "flan_t5": 32_128, "mt5": 250_112}
_STRETCHED = {"rope_scaling": "linear", "rope_factor": 8.0}
_WINDOW = {"sliding_window": 4096}
PUBLISHED: dict[str, ModelConfig] = {
    "t5_small": t5_1_0(512, 6, 8, 2048),
    "t5_base": t5_1_0(768, 12, 12, 3072),
    "t5_large": t5_1_0(1024, 24, 16, 4096),
    "t5_3b": t5_1_0(1024, 24, 32, 16384, head_dim=128),
    "t5_11b": t5_1_0(1024, 24, 128, 65536, head_dim=128),
    **{
        f"{name}_{size}": t5(*sizes, vocab_size=rows)
        for name, rows in _T5_1_1_ROWS.items()
        for size, sizes in _T5_1_1.items()
    },
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
    "gemma3_4b": gemma3(2560, 34, 8, 4, 10240, window=1024, rows=262_208, **_STRETCHED),
    "mistral_7b": llama(4096, 32, 32, 8, 14336, rope_theta=1e4, vocab_size=32_000, **_WINDOW),
}


def published(name: str, **settings) -> ModelConfig:
    """A published model's configuration, e.g. published("qwen3_4b", remat="dots"), with other
    settings on top."""
    check_known(name, PUBLISHED, f"no published model {name!r}")
    return dataclasses.replace(PUBLISHED[name], **settings)
