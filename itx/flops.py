# SPDX-License-Identifier: Apache-2.0
"""Floating-point operations of a program, counted in its jaxpr: products of matrices, 2 m n k each,
with the bodies of loops as often as they run.

XLA's own count (`cost_analysis`) takes the body of a loop once, and nothing within a Pallas kernel.
What the model of a run needs is counted in the step with XLA's attention and no rematerialisation
(`train.make_setup`), as in Chowdhery et al. 2022 (arXiv:2204.02311, appendix B): attention over
whole rows, and nothing that is recomputed to save memory.
"""

import math
from typing import Any


def matmul_flops(jaxpr: Any, trips: int = 1) -> float:
    """Of all devices together.

    Args:
        jaxpr: a ClosedJaxpr or Jaxpr.
        trips: how often the body of a while loop runs, for which a jaxpr gives no number.
    """
    return sum(_of(eqn, trips) for eqn in getattr(jaxpr, "jaxpr", jaxpr).eqns)


def _of(eqn: Any, trips: int) -> float:
    name, params = eqn.primitive.name, eqn.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        inner = math.prod(eqn.invars[0].aval.shape[i] for i in contracted)
        return 2.0 * inner * math.prod(eqn.outvars[0].aval.shape)
    if name == "scan":
        return params["length"] * matmul_flops(params["jaxpr"], trips)
    if name == "while":
        return trips * matmul_flops(params["body_jaxpr"], trips)
    if name == "cond":
        return max(matmul_flops(branch, trips) for branch in params["branches"])
    inside = sum(matmul_flops(j, trips) for j in _jaxprs(params))
    if name == "shard_map":  # its shapes are those of one device
        return params["mesh"].size * inside
    if name == "pallas_call":  # its jaxpr is that of one place of the grid
        return math.prod(params["grid_mapping"].grid) * inside
    return inside


def _jaxprs(params: dict) -> list:
    """The jaxprs that an equation calls."""
    values = [x for v in params.values() for x in (v if isinstance(v, tuple | list) else [v])]
    return [v for v in values if hasattr(getattr(v, "jaxpr", v), "eqns")]
