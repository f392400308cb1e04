# SPDX-License-Identifier: Apache-2.0
"""What the devices that are here could do at most, for the use of them that goodput.json tells."""

from typing import Any

from jax.sharding import Mesh

from itx.plan.chips import CHIPS, TERA

# device_kind -> the chip's name in CHIPS
TPU_KINDS = {
    "TPU v5 lite": "v5e",
    "TPU v5e": "v5e",
    "TPU v5": "v5p",
    "TPU v5p": "v5p",
    "TPU v6 lite": "v6e",
    "TPU v6e": "v6e",
    "TPU7x": "tpu7x",
}
# Dense bfloat16 products and sums per second of other devices, from the makers' data sheets
OTHER_PEAKS = {
    "TPU v4": 275 * TERA,
    "NVIDIA A100-SXM4-40GB": 312 * TERA,
    "NVIDIA A100-SXM4-80GB": 312 * TERA,
    "NVIDIA A100 80GB PCIe": 312 * TERA,
    "NVIDIA L4": 121 * TERA,
    "NVIDIA L40S": 362 * TERA,
    "NVIDIA H100 80GB HBM3": 989 * TERA,
    "NVIDIA H200": 989 * TERA,
    "NVIDIA B200": 2250 * TERA,
}
_PEAKS = {kind: c.flops / c.devices for kind, n in TPU_KINDS.items() for c in CHIPS if c.name == n}


def peak_flops(kind: str) -> float | None:
    """Of one device of this device_kind; None where it is not known."""
    return {**OTHER_PEAKS, **_PEAKS}.get(kind)


def device_facts(mesh: Mesh) -> dict[str, Any]:
    """{"kind", "count", "peak_flops"} of a mesh's devices; the peak is that of all of them
    together."""
    kind, count = mesh.devices.flat[0].device_kind, mesh.devices.size
    peak = peak_flops(kind)
    return {"kind": kind, "count": count, "peak_flops": peak * count if peak else None}
