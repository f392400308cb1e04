# SPDX-License-Identifier: Apache-2.0
"""Which examples share a row: best fit on two known lengths.

A row has two capacities, because both kinds of model have two: encoder and decoder tokens, or
(decoder-only) tokens and loss positions.
"""

from collections.abc import Sequence

import numpy as np

LARGE = 1 / 8  # of a row: from here on the larger go first
SMALLEST = 0.1  # of all tokens, in the smallest examples: they fill what gaps are left
LOST = 0.003  # of all rows: so many more, and one, may be needed with fewer loss positions
MOST_CAPS = 4  # numbers of loss positions: the train step is compiled for each
APART = 1.25  # each of them is at least about so many times the one before
WORTH = 0.8  # of a row's loss positions: a cap above it saves too little
# of the side that is less filled, over exact balance
SLACKS = (1.0, 1.05, 1.1, 1.15, 1.2, 1.3, 1.4, 1.6)


def pack(
    lengths: np.ndarray, capacity: tuple[int, int], caps: Sequence[int] = ()
) -> tuple[np.ndarray, int]:
    """Assign examples to rows, each to the row with least space left that still holds it.

    "Least" is of the side of which the examples take more, here the first. Open rows stand in lists
    by (logarithm of the second space left, first space left); the bits of one integer per level of
    the second say which lists have rows, so the tightest is found without a look at the others,
    however many.

    Args:
        lengths: int [n, 2], what each example takes of the two capacities; none is above them.
        capacity: the two capacities of a row.
        caps: rising, the last is capacity[1]: a row's second capacity is the least of them that
            holds the example that
            opens it. Examples that need a higher one go first, so that others fill what these
            leave.

    Returns:
        (row of each example, int64 [n]; number of rows). A row is opened only where no other has
        room. Ties go to the earlier example and row, so the outcome depends on the lengths and
        their order alone.
    """
    lengths = np.asarray(lengths)
    if not len(lengths):
        return np.zeros(0, np.int64), 0
    if (lengths > capacity).any():
        raise ValueError(
            f"example {int((lengths > capacity).any(1).argmax())} does not fit a row of {capacity}"
        )
    caps = np.array(caps or capacity[1:])
    needed = np.searchsorted(caps, lengths[:, 1])
    room = np.stack([np.full(len(lengths), capacity[0]), caps[needed]], 1)
    share = lengths / room
    order = sequence(share)
    order = order[np.argsort(-needed[order], kind="stable")]
    load = share.sum(0)
    if load.argmax():  # the side that binds is the one measured exactly
        lengths, capacity, room = lengths[:, ::-1], capacity[::-1], room[:, ::-1]
    smallest = lengths.min(0).tolist()
    # levels: where both bind, finer ones save looks at rows
    octave = 2 if load.min() > 0.75 * load.max() else 1
    level_of = np.floor(octave * np.log2(np.arange(1, capacity[1] + 2))).astype(int).tolist()
    levels = level_of[-1] + 1
    there = [0] * levels  # bit f: a row of this level has f of the first space left
    open_rows: list[dict[int, list[int]]] = [{} for _ in range(levels)]
    second: list[int] = []  # second space left of each row
    rows = []
    for (a, b), (new_a, new_b) in zip(lengths[order].tolist(), room[order].tolist(), strict=True):
        level = level_of[b]
        above = 0  # every row of a higher level has room for b
        for bits in there[level + 1 :]:
            above |= bits
        above >>= a
        free = a + (above & -above).bit_length() - 1 if above else capacity[0] + 1
        row = -1
        # rows of b's own level may have: look at each that is tighter
        bits, f = there[level] >> a, a
        while bits:
            skip = (bits & -bits).bit_length() - 1
            f += skip
            if f >= free:
                break
            for i, r in enumerate(open_rows[level][f]):  # noqa: B007
                if second[r] >= b:
                    free, row = f, r
                    break
            if row >= 0:
                break
            bits >>= skip + 1
            f += 1
        if row < 0 and above:
            level = next(lv for lv in range(level + 1, levels) if there[lv] >> free & 1)
            row, i = open_rows[level][free][0], 0
        if row >= 0:
            same = open_rows[level][free]
            del same[i]
            if not same:
                there[level] ^= 1 << free
        else:
            row, free = len(second), new_a
            second.append(new_b)
        rows.append(row)
        free -= a
        left = second[row] = second[row] - b
        if free >= smallest[0] and left >= smallest[1]:  # else it can hold nothing more
            level = level_of[left]
            open_rows[level].setdefault(free, []).append(row)
            there[level] |= 1 << free
    out = np.empty(len(rows), np.int64)
    out[order] = rows
    return out, len(second)


def sequence(share: np.ndarray) -> np.ndarray:
    """In which sequence examples are packed: large ones by falling size, then most as they come,
    the smallest last.

    Size weighs the side that binds. Were all sorted, examples with long prompts for their size
    would meet in rows that are full on one side and half empty on the other; as they come, long and
    short targets even out.
    """
    load = share.sum(0)
    size = share @ (load / load.max()) ** 4
    order = np.argsort(-size, kind="stable")
    large = int((size > LARGE).sum())
    small = int(np.searchsorted(size[order].cumsum(), (1 - SMALLEST) * size.sum()))
    order[large:small] = np.sort(order[large:small])
    return order


def loss_caps(lengths: np.ndarray, capacity: tuple[int, int], multiple: int = 8) -> list[int]:
    """How many loss positions the rows of a decoder may have: up to MOST_CAPS numbers, rising to
    capacity[1].

    Logits are computed at so many positions of every row of a batch, used or not. The first is the
    least at which examples need no more rows than without it, but for LOST: packing then spreads
    the targets evenly over rows, and most rows use nearly all of it. Rows of examples with longer
    targets have a higher one, in even ratios.

    Args:
        lengths: int [n, 2], tokens and target tokens of examples in the mixture's shares.
        capacity: tokens and most loss positions of a row.
    """
    most = pack(lengths, capacity)[1] * (1 + LOST) + 1
    even = capacity[0] * lengths[:, 1].mean() / lengths[:, 0].mean()  # of a full row
    for slack in SLACKS:
        least = -(-int(np.ceil(even * slack)) // multiple) * multiple
        if least > WORTH * capacity[1]:
            break
        whole = capacity[1] / least
        n = max(1, min(MOST_CAPS - 1, int(np.log(whole) / np.log(APART))))
        between = {
            -(-int(np.ceil(least * whole ** (i / n))) // multiple) * multiple for i in range(n)
        }
        caps = sorted({*(c for c in between if c < capacity[1]), capacity[1]})
        if pack(lengths, capacity, caps)[1] <= most:
            return caps
    return [capacity[1]]


def fill(lengths: np.ndarray, capacity: tuple[int, int]) -> np.ndarray:
    """float [2]: share of each capacity that packed examples of `lengths` [n, 2] fill."""
    return lengths.sum(0, dtype=np.int64) / (
        pack(lengths, capacity)[1] * np.asarray(capacity, float)
    )


def length_pair(
    lengths: np.ndarray, capacity: tuple[int, int], multiple: int = 8
) -> tuple[int, int]:
    """Capacities of an encoder-decoder row that examples fill on both sides.

    The longer capacity stays with the side that has more tokens. The other follows from the means,
    with as much slack as fills the most places when the examples are packed: two sides in exact
    balance both close rows early.

    Args:
        lengths: int [n, 2], examples in the mixture's shares, e.g. those of a window.
        capacity: the capacities now, the longer of which is kept.
    """
    means, longest = lengths.mean(0), lengths.max(0)
    more = int(means.argmax())
    kept = max(*capacity, int(longest[more]))
    best = (-1.0, 0)
    for slack in SLACKS:
        wanted = max(kept * means[1 - more] / means[more] * slack, longest[1 - more])
        other = min(kept, -(-int(np.ceil(wanted)) // multiple) * multiple)
        sides = (kept, other) if more == 0 else (other, kept)
        filled = float(fill(lengths, sides) @ sides / sum(sides))
        best = max(best, (filled, -other))
    return (kept, -best[1]) if more == 0 else (-best[1], kept)
