# SPDX-License-Identifier: Apache-2.0
"""Which examples share a row: best fit on two known lengths.

A row has two capacities, because both kinds of model have two: encoder and decoder tokens, or
(decoder-only) tokens and loss positions.
"""

from collections.abc import Sequence

import numpy as np

MIN_LARGE_SHARE = 1 / 8  # of a row: examples from this size on are packed first, by falling size
SMALLEST_SHARE = 0.1  # of all tokens: the smallest examples that hold so many are packed last
MAX_LOST_SHARE = 0.003  # of all rows: so many more, and one, may be needed with a cap
# Different numbers of loss positions: the train step is compiled for each. In configs/real_mix.py
# the lowest serves 96 % of the steps, and rows have 27 % fewer loss positions than with one number.
MAX_CAPS = 4
MIN_CAP_RATIO = 1.25  # each cap is at least about so many times the one before
MAX_CAP_SHARE = 0.8  # of a row's loss positions: a larger cap saves too little
# room of the less filled side over what exact balance would give it
SLACKS = (1.0, 1.05, 1.1, 1.15, 1.2, 1.3, 1.4, 1.6)


def pack(
    lengths: np.ndarray, capacity: tuple[int, int], caps: Sequence[int] = ()
) -> tuple[np.ndarray, int]:
    """Assign examples to rows, each to the row with least space left that still holds it.

    Space is compared on the side of which the examples take more.

    Args:
        lengths: int [n, 2], what each example takes of the two capacities; none is above them.
        capacity: the two capacities of a row.
        caps: rising, the last is capacity[1]: a row's second capacity is the smallest cap that
            holds the example that opens it. Examples that need a higher cap go first, so that
            others fill what these leave.

    Returns:
        (row of each example, int64 [n]; number of rows). A row is opened only where no other has
        room. Ties go to the earlier example and row, so the outcome depends on the lengths and
        their order alone.
    """
    lengths = np.asarray(lengths)
    if not len(lengths):
        return np.zeros(0, np.int64), 0
    if (too_long := (lengths > capacity).any(1)).any():
        raise ValueError(f"example {int(too_long.argmax())} does not fit a row of {capacity}")
    cap_values = np.array(caps or capacity[1:])
    cap = np.searchsorted(cap_values, lengths[:, 1])  # index of the smallest that holds it
    room = np.stack([np.full(len(lengths), capacity[0]), cap_values[cap]], 1)
    share = lengths / room
    order = sequence(share)
    order = order[np.argsort(-cap[order], kind="stable")]
    load = share.sum(0)
    if load.argmax():  # the side that binds is the one measured exactly
        lengths, capacity, room = lengths[:, ::-1], capacity[::-1], room[:, ::-1]
    # where both sides bind, finer levels save looks at rows
    levels_per_octave = 2 if load.min() > 0.75 * load.max() else 1
    rows, count = _best_fit(lengths[order], room[order], capacity, levels_per_octave)
    out = np.empty(len(rows), np.int64)
    out[order] = rows
    return out, count


def _best_fit(
    lengths: np.ndarray, room: np.ndarray, capacity: tuple[int, int], levels_per_octave: int
) -> tuple[list[int], int]:
    """(row of each example, number of rows) of examples that are placed in turn.

    Open rows stand in lists by (level, first space left); the level is the logarithm of the second
    space left. In the integer `has_rows[level]`, bit f says whether a row has f of the first space
    left, so the tightest row is found without a look at the others, however many. lengths, room:
    int [n, 2], what an example takes, and what a row that it opens has.
    """
    min_first, min_second = lengths.min(0).tolist()
    octaves = np.log2(np.arange(1, capacity[1] + 2))
    level_of = np.floor(levels_per_octave * octaves).astype(int).tolist()
    levels = level_of[-1] + 1
    has_rows = [0] * levels
    open_rows: list[dict[int, list[int]]] = [{} for _ in range(levels)]
    second_left: list[int] = []  # of each row
    rows = []
    for example, new_row in zip(lengths.tolist(), room.tolist(), strict=True):
        first, second = example
        level = level_of[second]
        above = 0  # every row of a higher level has room for `second`
        for bits in has_rows[level + 1 :]:
            above |= bits
        above >>= first
        free = first + (above & -above).bit_length() - 1 if above else capacity[0] + 1
        row = -1
        # a row of the same level may have room: look at each that is tighter
        bits, f = has_rows[level] >> first, first
        while bits:
            skip = (bits & -bits).bit_length() - 1
            f += skip
            if f >= free:
                break
            for i, r in enumerate(open_rows[level][f]):  # noqa: B007
                if second_left[r] >= second:
                    free, row = f, r
                    break
            if row >= 0:
                break
            bits, f = bits >> skip + 1, f + 1
        if row < 0 and above:
            level = next(lv for lv in range(level + 1, levels) if has_rows[lv] >> free & 1)
            row, i = open_rows[level][free][0], 0
        if row >= 0:
            same = open_rows[level][free]
            del same[i]
            if not same:
                has_rows[level] ^= 1 << free
        else:
            row, free = len(second_left), new_row[0]
            second_left.append(new_row[1])
        rows.append(row)
        free -= first
        left = second_left[row] = second_left[row] - second
        if free >= min_first and left >= min_second:  # else it can hold nothing more
            level = level_of[left]
            open_rows[level].setdefault(free, []).append(row)
            has_rows[level] |= 1 << free
    return rows, len(second_left)


def sequence(share: np.ndarray) -> np.ndarray:
    """In which sequence examples are packed: large ones by falling size, then most as they come,
    the smallest last.

    Size weighs the side that binds. Were all sorted, examples with long prompts for their size
    would meet in rows that are full on one side and half empty on the other; as they come, long and
    short targets even out.

    Args:
        share: float [n, 2], what each example takes of a row's two capacities.
    """
    load = share.sum(0)
    size = share @ (load / load.max()) ** 4
    order = np.argsort(-size, kind="stable")
    large = int((size > MIN_LARGE_SHARE).sum())
    small = int(np.searchsorted(size[order].cumsum(), (1 - SMALLEST_SHARE) * size.sum()))
    order[large:small] = np.sort(order[large:small])
    return order


def _up(number: float, multiple: int) -> int:
    """The next multiple of a number, upwards."""
    return -(-int(np.ceil(number)) // multiple) * multiple


def loss_caps(lengths: np.ndarray, capacity: tuple[int, int], multiple: int = 8) -> list[int]:
    """How many loss positions the rows of a decoder may have: up to MAX_CAPS numbers, rising to
    capacity[1].

    Logits are computed at so many positions of every row of a batch, used or not. The first number
    is the smallest cap that needs at most 0.3 % more rows (MAX_LOST_SHARE) than no cap: packing
    then spreads the targets evenly over rows, and most rows use nearly all of it. Rows of examples
    with longer targets have a higher cap, in even ratios.

    Args:
        lengths: int [n, 2], tokens and target tokens of examples in the mixture's shares.
        capacity: tokens and most loss positions of a row.
    """
    max_rows = pack(lengths, capacity)[1] * (1 + MAX_LOST_SHARE) + 1
    even = capacity[0] * lengths[:, 1].mean() / lengths[:, 0].mean()  # positions of a full row
    for slack in SLACKS:
        least = _up(even * slack, multiple)
        if least > MAX_CAP_SHARE * capacity[1]:
            break
        ratio = capacity[1] / least
        n = max(1, min(MAX_CAPS - 1, int(np.log(ratio) / np.log(MIN_CAP_RATIO))))
        between = [_up(least * ratio ** (i / n), multiple) for i in range(n)]
        caps = sorted({*(c for c in between if c < capacity[1]), capacity[1]})
        if pack(lengths, capacity, caps)[1] <= max_rows:
            return caps
    return [capacity[1]]


def fill(lengths: np.ndarray, capacity: tuple[int, int]) -> np.ndarray:
    """float [2]: share of each capacity that packed examples of `lengths` [n, 2] fill."""
    return lengths.sum(0, dtype=np.int64) / (pack(lengths, capacity)[1] * np.array(capacity, float))


def length_pair(
    lengths: np.ndarray, capacity: tuple[int, int], multiple: int = 8
) -> tuple[int, int]:
    """Capacities of an encoder-decoder row that examples fill on both sides.

    The longer capacity stays with the side that has more tokens. The other follows from the means,
    with as much slack as fills the most places when the examples are packed: two sides in exact
    balance both close rows early.

    Args:
        lengths: int [n, 2], examples in the mixture's shares, e.g. those of a window.
        capacity: the capacities now; the longer one is kept.
    """
    means, longest = lengths.mean(0), lengths.max(0)
    more = int(means.argmax())  # the side that has more tokens
    kept = max(*capacity, int(longest[more]))
    candidates = []
    for slack in SLACKS:
        needed = max(kept * means[1 - more] / means[more] * slack, longest[1 - more])
        other = min(kept, _up(needed, multiple))
        sides = (kept, other) if more == 0 else (other, kept)
        candidates.append((float(fill(lengths, sides) @ sides / sum(sides)), -other))
    other = -max(candidates)[1]  # the shorter one where two fill alike
    return (kept, other) if more == 0 else (other, kept)
