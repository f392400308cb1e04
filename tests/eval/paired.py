# SPDX-License-Identifier: Apache-2.0
"""Whether one of two models scores above the other on the same examples."""

from collections.abc import Sequence

import numpy as np

from itx.eval.stats import t_interval


def paired(a: Sequence[float], b: Sequence[float], samples: int = 10_000, seed: int = 0) -> dict:
    """Does b score above a on the same examples? Sign-flip test of the mean difference.

    `smallest_detectable` is the difference found with 80 % power at 5 %: 2.8 standard errors
    (1.96 + 0.84). "Not resolved" (p > 0.05) is a result.
    """
    d = np.asarray(b, float) - np.asarray(a, float)
    if len(d) == 0:
        return {"difference": 0.0, "p": 1.0, "interval": None, "smallest_detectable": None, "n": 0}
    rng = np.random.default_rng(seed)
    moved = d[d != 0]
    signs = rng.integers(2, size=(samples, len(moved)), dtype=np.int8) * 2 - 1
    beyond = (np.abs(signs @ moved) >= abs(moved.sum()) - 1e-9).sum() if len(moved) else samples
    error = float(d.std(ddof=1) / np.sqrt(len(d))) if len(d) > 1 else None
    return {
        "difference": float(d.mean()),
        "p": float((beyond + 1) / (samples + 1)),
        "interval": t_interval(d),
        "smallest_detectable": None if error is None else 2.8 * error,
        "n": len(d),
    }
