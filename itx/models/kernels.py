# SPDX-License-Identifier: Apache-2.0
"""Attention by a platform's own kernel: Splash on TPU, cuDNN on GPU. `choose` says which, and where
none can do it.

Both compute what itx/models/attention.py computes in plain XLA, for rows as training has them:
segments stand one behind the other and positions rise by one, so that "not later" and "so many
back" may be read off the places in a row. What they cannot express stays with XLA: T5's bias, a
prompt that sees all of itself, branches, a cache.
"""

from typing import Any

import jax
from jaxtyping import Array, Float, Int

from itx import mesh as meshes
from itx.config import ModelConfig

LANES = 128  # Splash takes rows in blocks of a multiple of this
BLOCK = 512  # most of a block; larger ones do not fit a TPU core's memory beside 256 wide heads


def choose(cfg: ModelConfig, length: int, plain: bool) -> str:
    """ "splash", "cudnn" or "xla" for self attention over rows of a length.

    plain: nobody sees anything but what stands before it in its segment.
    """
    wanted = cfg.attention
    if wanted == "auto":
        wanted = {"tpu": "splash", "gpu": "cudnn"}.get(jax.default_backend(), "xla")
    if not plain or cfg.position != "rope" or cfg.architecture != "decoder":
        return "xla"
    if wanted == "splash" and length % LANES == 0:
        return "splash"
    small = cfg.dtype == "bfloat16" and cfg.head_dim % 8 == 0 and cfg.head_dim <= 128
    return (
        "cudnn"
        if wanted == "cudnn" and small and not cfg.attention_cap and length % 2 == 0
        else "xla"
    )


def attend(
    kernel: str, q: Float[Array, "b n l d"], k: Float[Array, "b g l d"], v: Float[Array, "b g l d"],
    segments: Int[Array, "b l"], scale: float, cap: float = 0.0, window: int = 0,
) -> Float[Array, "b n l d"]:  # fmt: skip
    """Causal attention inside segments, each device computing its own rows and heads."""

    def here(q: Array, k: Array, v: Array, segments: Array) -> Array:
        return {"splash": splash, "cudnn": cudnn}[kernel](q, k, v, segments, scale, cap, window)

    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return here(q, k, v, segments)
    kv = meshes.spec(("batch", "kv_heads", None, None), k.shape, mesh, meshes.ACTIVATIONS)
    heads = "heads" if kv[1] else None  # query heads go where their key heads are
    rows = meshes.spec(("batch", heads, None, None), q.shape, mesh, meshes.ACTIVATIONS)
    of_segments = meshes.spec(("batch", None), segments.shape, mesh, meshes.ACTIVATIONS)
    # a kernel's output says nothing of how it varies over the mesh
    split = jax.shard_map(
        here, mesh=mesh, in_specs=(rows, kv, kv, of_segments), out_specs=rows, check_vma=False
    )
    return split(q, k, v, segments)


def splash(
    q: Array,
    k: Array,
    v: Array,
    segments: Array,
    scale: float,
    cap: float,
    window: int,
    interpret: bool = False,
) -> Array:
    """Splash attention (JAX's Pallas kernel for TPU): blocks that the mask leaves empty are
    skipped."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    length = q.shape[2]
    shape = (length, length)
    mask = masks.LocalMask(shape, (window - 1, 0), 0) if window else masks.CausalMask(shape)
    block = next(b for b in range(min(BLOCK, length), 0, -LANES) if length % b == 0)
    sizes = dict.fromkeys(
        ("block_q", "block_kv", "block_q_dkv", "block_kv_dkv", "block_q_dq", "block_kv_dq"), block
    )
    kernel = kernels.make_splash_mha_single_device(
        masks.MultiHeadMask([mask] * q.shape[1]), block_sizes=kernels.BlockSizes(**sizes),
        attn_logits_soft_cap=cap or None, interpret=interpret or INTERPRET,
    )  # fmt: skip
    return jax.vmap(lambda q, k, v, s: kernel(q, k, v, segment_ids=kernels.SegmentIds(s, s)))(
        (q * scale).astype(q.dtype), k, v, segments
    )


INTERPRET = False  # run Splash without a TPU (tests)


def cudnn(
    q: Array,
    k: Array,
    v: Array,
    segments: Array,
    scale: float,
    cap: float,
    window: int,
    implementation: Any = "cudnn",
) -> Array:
    """cuDNN's fused attention; it takes the segments as a bias of the row's length squared, in the
    activations' type, and leaves out the blocks that lie behind a query or before its window."""
    mask = segments[:, None, :, None] == segments[:, None, None, :]
    q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
    out = jax.nn.dot_product_attention(
        q, k, v, mask=mask, scale=scale, is_causal=True, local_window_size=(window - 1, 0) if window else None,
        implementation=implementation,
    )  # fmt: skip
    return out.swapaxes(1, 2)
