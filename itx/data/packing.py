# SPDX-License-Identifier: Apache-2.0
"""Which examples share a row: best-fit decreasing on two known lengths.

A row has two capacities, because both kinds of model have two: encoder and decoder tokens, or
(decoder-only) tokens and loss positions.
"""

import numpy as np


def pack(lengths: np.ndarray, capacity: tuple[int, int]) -> tuple[np.ndarray, int]:
    """Assign examples to rows, longest first, each to the fullest row that still holds it.

    Args:
        lengths: int [n, 2], what each example takes of the two capacities; none is above them.
        capacity: the two capacities of a row.

    Returns:
        (row of each example, int32 [n]; number of rows). Ties go to the earlier example and row, so the
        outcome depends on the lengths and their order alone.
    """
    n = len(lengths)
    share = lengths / np.asarray(capacity, float)
    if n and share.max() > 1:
        raise ValueError(f"example {int(share.max(1).argmax())} does not fit a row of {capacity}")
    order = np.argsort(-share.max(1), kind="stable")
    rows = np.zeros(n, np.int32)
    free = np.empty((n, 2), np.int64)  # rows never outnumber examples
    free[:] = capacity
    used = 0
    full = 0  # rows before this one can hold nothing more
    smallest = lengths.min(0) if n else np.zeros(2)
    for i in order:
        left = free[full:used] - lengths[i]
        fits = (left >= 0).all(1)
        if fits.any():
            # the tightest fit, measured on the capacity that will bind
            row = full + int(np.where(fits, left[:, 0] / capacity[0] + left[:, 1] / capacity[1], np.inf).argmin())
        else:
            row, used = used, used + 1
        free[row] -= lengths[i]
        rows[i] = row
        while full < used and (free[full] < smallest).any():
            full += 1
    return rows, used
