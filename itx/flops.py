# SPDX-License-Identifier: Apache-2.0
"""FLOPs of a train step, counted from its program, and what devices could do at most.

Matrix products are counted, each at 2 × its multiplications; what else a step computes is small
beside them. Counted is what the model needs, as in Chowdhery et al. 2022 (arXiv:2204.02311,
appendix B): attention over whole rows, and nothing that is recomputed to save memory. So
`train.make_setup` hands in the step with XLA's attention and no rematerialisation.
"""

import math
from typing import Any

import jax
from jax.sharding import Mesh

# Dense bfloat16 peak of a device, in FLOP/s, from the makers' data sheets. A TPU v2 or v3 chip is
# two devices.
PEAK_FLOPS = {
    "TPU v2": 22.5e12,
    "TPU v3": 61.5e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA A100 80GB PCIe": 312e12,
    "NVIDIA L4": 121e12,
    "NVIDIA L40S": 362e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA B200": 2250e12,
}


def device_facts(mesh: Mesh) -> dict[str, Any]:
    """{"kind", "count", "peak_flops"} of a mesh's devices; the peak is that of all of them
    together, None where it is not known."""
    kind, count = mesh.devices.flat[0].device_kind, mesh.devices.size
    peak = PEAK_FLOPS.get(kind)
    return {"kind": kind, "count": count, "peak_flops": peak * count if peak else None}


def count(program: Any) -> float:
    """FLOPs of the matrix products of a closed jaxpr; ValueError for a program whose products
    cannot be counted."""
    return sum(map(_of_equation, program.jaxpr.eqns))


def _of_equation(equation: Any) -> float:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        return _of_product(equation)
    inner = [count(x) for x in _programs(params)]
    if not any(inner):
        return 0.0
    if name == "scan":
        return params["length"] * sum(inner)
    if name == "cond":  # one of its branches is taken: at most the costliest
        return max(inner)
    if name in ("while", "shard_map", "pallas_call"):
        raise ValueError(f"how often {name} computes its products does not stand in the program")
    return sum(inner)


def _of_product(equation: Any) -> float:
    left, right = (v.aval.shape for v in equation.invars)
    (contracted, _), (batched, _) = equation.params["dimension_numbers"]
    shared = math.prod(left[i] for i in (*contracted, *batched))
    kept = math.prod(right) // shared  # the other axes of the right operand
    return 2.0 * math.prod(left) * kept


def _programs(params: dict[str, Any]) -> list[Any]:
    """The programs within an equation. A function with a gradient of its own (custom_vjp) keeps
    those of the gradient as Python functions, which are no part of the program."""
    found = []
    for value in params.values():
        for x in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(x, jax.extend.core.ClosedJaxpr):
                found.append(x)
            elif isinstance(x, jax.extend.core.Jaxpr):
                found.append(jax.extend.core.ClosedJaxpr(x, ()))
    return found
