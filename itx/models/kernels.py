# SPDX-License-Identifier: Apache-2.0
"""Attention by a platform's own kernel: Splash on TPU, cuDNN on GPU. `choose` says which, or that
none can do it.

Both compute what itx/models/attention.py computes in plain XLA, for rows as training has them:
segments stand one behind the other and positions rise by one, so that "not later" and "so many
back" may be read off the places in a row. What they cannot express stays with XLA: T5's bias, a
prompt that sees all of itself, branches, a cache.
"""

import jax
from jaxtyping import Array, Float, Int

from itx import mesh as meshes
from itx.config import ModelConfig

LANES = 128  # Splash takes rows in blocks of a multiple of this
MAX_BLOCK = 512  # larger ones do not fit a TPU core's memory beside 256 wide heads
INTERPRET = False  # run Splash without a TPU (tests)


def choose(cfg: ModelConfig, length: int, plain: bool) -> str:
    """ "splash", "cudnn" or "xla" for self attention over rows of a length.

    plain: attention is causal within a segment: no prefix, no branches, no virtual tokens.
    """
    kernel = cfg.attention
    if kernel == "auto":
        kernel = {"tpu": "splash", "gpu": "cudnn"}.get(meshes.platform(), "xla")
    if not plain or cfg.position != "rope" or cfg.architecture != "decoder":
        return "xla"
    small = cfg.dtype == "bfloat16" and cfg.head_dim % 8 == 0 and cfg.head_dim <= 128
    able = {
        "splash": length % LANES == 0,
        "cudnn": small and not cfg.attention_cap and length % 2 == 0,
    }
    return kernel if able.get(kernel) else "xla"


def attend(
    kernel: str,
    q: Float[Array, "b n l d"],
    k: Float[Array, "b g l d"],
    v: Float[Array, "b g l d"],
    segments: Int[Array, "b l"],
    scale: float,
    cap: float = 0.0,
    window: int = 0,
) -> Float[Array, "b n l d"]:
    """Causal attention inside segments, each device computing its own rows and heads."""

    def own(q, k, v, segments):
        return {"splash": splash, "cudnn": cudnn}[kernel](q, k, v, segments, scale, cap, window)

    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return own(q, k, v, segments)

    def spec(x, *names: str | None):
        return meshes.spec(names, x.shape, mesh, meshes.ACTIVATIONS)

    kv = spec(k, "batch", "kv_heads", None, None)
    queries = spec(q, "batch", "heads" if kv[1] else None, None, None)  # where their key heads are
    # a kernel's output says nothing of how it varies over the mesh
    return jax.shard_map(
        own,
        mesh=mesh,
        in_specs=(queries, kv, kv, spec(segments, "batch", None)),
        out_specs=queries,
        check_vma=False,
    )(q, k, v, segments)


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
    block = next(b for b in range(min(MAX_BLOCK, length), 0, -LANES) if length % b == 0)
    forward = ("block_q", "block_kv")
    backward = ("block_q_dkv", "block_kv_dkv", "block_q_dq", "block_kv_dq")
    kernel = kernels.make_splash_mha_single_device(
        masks.MultiHeadMask([mask] * q.shape[1]),
        block_sizes=kernels.BlockSizes(**dict.fromkeys((*forward, *backward), block)),
        attn_logits_soft_cap=cap or None,
        interpret=interpret or INTERPRET,
    )
    return jax.vmap(lambda q, k, v, s: kernel(q, k, v, segment_ids=kernels.SegmentIds(s, s)))(
        (q * scale).astype(q.dtype), k, v, segments
    )


def cudnn(
    q: Array,
    k: Array,
    v: Array,
    segments: Array,
    scale: float,
    cap: float,
    window: int,
    implementation: str = "cudnn",
) -> Array:
    """cuDNN's fused attention. It takes the segments as a bias of the row's length squared, in the
    activations' type, and leaves out the blocks that lie behind a query or before its window."""
    mask = segments[:, None, :, None] == segments[:, None, None, :]
    window_size = (window - 1, 0) if window else None
    out = jax.nn.dot_product_attention(
        *(x.swapaxes(1, 2) for x in (q, k, v)),
        mask=mask,
        scale=scale,
        is_causal=True,
        local_window_size=window_size,
        implementation=implementation,
    )
    return out.swapaxes(1, 2)
