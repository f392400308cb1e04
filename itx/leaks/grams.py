# SPDX-License-Identifier: Apache-2.0
"""Many loose texts (itx/leaks/loose.py) as arrays: the letters of all of them end to end, where
words, segments and fields begin, and the hash of any run of letters at the cost of one subtraction.

A run's hash is that of its letters alone, so that gaps may differ. It is a polynomial in 64 bits,
mixed at the end.
"""

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from itx.data.order import mixed
from itx.text import UNSPACED

FIELD = "\x01"  # between fields, which no run crosses
_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, so that it has an inverse modulo 2 ** 64
_INVERSE = np.uint64(pow(0x9E3779B97F4A7C15, -1, 2**64))
_EDGES = np.array(
    sorted(e for p in re.findall(".-.|.", UNSPACED) for e in (ord(p[0]), ord(p[-1]) + 1)), np.uint32
)
_TABLE_BITS = 22  # a table of 4 MB says of most runs at once that they are not looked for


@functools.lru_cache(maxsize=2)
def _powers(n: int) -> tuple[np.ndarray, np.ndarray]:
    """uint64 [n] twice: the powers of the base and of its inverse."""
    out = []
    for base in (_BASE, _INVERSE):
        steps = np.full(n, base, np.uint64)
        steps[0] = 1
        out.append(np.cumprod(steps, dtype=np.uint64))
    return out[0], out[1]


@dataclass(frozen=True)
class Letters:
    """The letters of some texts' fields.

    codes: uint32 [n], code points. word, segment: bool [n], whether a word, or a segment (what
    stands between two gaps of more than a space), begins at this letter. field: int32 [n], its
    field, counted over all texts.
    """

    codes: np.ndarray
    word: np.ndarray
    segment: np.ndarray
    field: np.ndarray

    @classmethod
    def of(cls, fields: Sequence[str]) -> "Letters":
        """The letters of loose forms, a field each."""
        raw = np.frombuffer(FIELD.join(fields).encode("utf-32-le"), np.uint32)
        gap = (raw == 32) | (raw == 10) | (raw == 1)
        hard = (raw == 10) | (raw == 1)

        def before(flags):
            return np.concatenate([[True], flags[:-1]]) if len(flags) else flags

        kept = ~gap
        codes, word, segment = raw[kept], before(gap)[kept], before(hard)[kept]
        field = np.cumsum(raw == 1, dtype=np.int32)[kept]
        # scripts without spaces: each of their letters is a word
        if len(codes) and codes.max() >= 0x0E01:
            alone = np.zeros(len(codes), bool)
            maybe = np.flatnonzero(codes >= 0x0E01)
            # ranges do not overlap: an even number of edges is at or below a letter that is in none
            alone[maybe] = np.searchsorted(_EDGES, codes[maybe], "right") % 2 == 1
            word = word | alone | np.concatenate([[False], alone[:-1]])
        return cls(codes, word, segment, field)

    def __len__(self) -> int:
        return len(self.codes)

    @cached_property
    def _sums(self) -> np.ndarray:
        """uint64 [n + 1], of the letters' values times the powers of the base, up to each
        letter."""
        values = mixed(self.codes + np.uint64(1)) * _powers(_room(len(self)))[0][: len(self)]
        return np.concatenate([np.zeros(1, np.uint64), np.cumsum(values, dtype=np.uint64)])

    @cached_property
    def field_ends(self) -> np.ndarray:
        """Where the field of each letter ends; int64 [n]."""
        starts, ends = self.spans(self._new_field)
        return np.repeat(ends, ends - starts)

    @cached_property
    def word_ends(self) -> np.ndarray:
        """bool [n + 1], whether a word ends before this place."""
        return np.append(self.word, True) | np.append(self._new_field, True)

    @cached_property
    def _new_field(self) -> np.ndarray:
        return np.diff(self.field, prepend=-1) > 0

    def spans(self, begins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(starts, ends) of what begins at some letters, bool [n], and ends where the next does."""
        starts = np.flatnonzero(begins)
        return starts, np.append(starts[1:], len(self))[: len(starts)]

    def whole_fields(self) -> np.ndarray:
        """The hash of every field that is not empty."""
        starts, ends = self.spans(self._new_field)
        return self.hashes(starts, ends - starts)

    def hashes(self, starts: np.ndarray, lengths: np.ndarray | int) -> np.ndarray:
        """uint64, of the runs of `lengths` letters at `starts`; they must end within the texts."""
        sums = self._sums
        return mixed((sums[starts + lengths] - sums[starts]) * _powers(_room(len(self)))[1][starts])

    def runs(self, at: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
        """(those of the places `at` from which `length` letters stand in one field, the hashes of
        these)."""
        at = at[at + length <= self.field_ends[at]]
        return at, self.hashes(at, length)


def _room(n: int) -> int:
    """Lengths in few steps, so that powers are worked out seldom."""
    return 1 << max(10, int(n).bit_length())


class Sought:
    """A set of hashes, asked for many that are mostly not in it."""

    def __init__(self, hashes: np.ndarray):
        # `numbers`: the place of each that is given among the different ones
        self.hashes, self.numbers = np.unique(hashes.astype(np.uint64), return_inverse=True)
        self._shift = np.uint64(64 - _TABLE_BITS)
        self._table = np.zeros(1 << _TABLE_BITS, bool)
        self._table[self.hashes >> self._shift] = True

    def __len__(self) -> int:
        return len(self.hashes)

    def find(self, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(places of those that are in the set, their numbers in `self.hashes`)."""
        if not len(self.hashes):
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        maybe = np.flatnonzero(self._table[hashes >> self._shift])
        number = np.searchsorted(self.hashes, hashes[maybe])
        number[number == len(self.hashes)] = 0
        there = self.hashes[number] == hashes[maybe]
        return maybe[there], number[there]


def pairs(left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All (i, j) with left[i] == right[j]; `right` is sorted."""
    first, last = np.searchsorted(right, left, "left"), np.searchsorted(right, left, "right")
    count = last - first
    i = np.repeat(np.arange(len(left)), count)
    j = (
        np.arange(count.sum())
        - np.repeat(np.cumsum(count) - count, count)
        + np.repeat(first, count)
    )
    return i, j
