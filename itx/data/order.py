# SPDX-License-Identifier: Apache-2.0
"""Row r of the training data as a pure function of the lock: mixing, shuffling, packing.

    window w    the examples whose place in the mixture falls in [w·B, (w+1)·B), B = window_examples.
                Task i has placed round(rate_i·n) examples when n are placed in all, so its total never
                strays from its share by one example, and any window is known without the ones before.
    place k     of task i is epoch e and index j, counted over epochs of the task's usable records;
                the record is permutation(seed, task, e)(j), its rendering e mod `renderings`.
    rows        the window's examples packed (packing.py), then permuted. Windows share no row.

To find row r one needs the number of rows of the windows before: laid out once, in order, and kept.
"""

import hashlib
from functools import lru_cache

import numpy as np

from itx.data.packing import pack
from itx.errors import UserError

ORDER_VERSION = 1


def _key(*parts) -> int:
    return int.from_bytes(hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest(), "big")


def permutation(index: np.ndarray, n: int, key: int) -> np.ndarray:
    """Where a keyed permutation of range(n) sends `index`, in O(1) memory.

    A four-round Feistel network on the least even number of bits that holds n, walked until the value
    falls below n (cycle walking: Black and Rogaway, "Ciphers with arbitrary finite domains", 2002).
    """
    if n <= 1:
        return np.zeros_like(index)
    half = max(1, (int(n - 1).bit_length() + 1) // 2)
    mask = np.uint64((1 << half) - 1)
    out = index.astype(np.uint64)
    todo = np.ones(len(out), bool)
    keys = [np.uint64(_key(key, r)) for r in range(4)]
    while todo.any():
        left, right = out[todo] >> np.uint64(half), out[todo] & mask
        for k in keys:
            left, right = right, left ^ (_mix(right ^ k) & mask)
        out[todo] = (left << np.uint64(half)) | right
        todo = out >= n
    return out.astype(np.int64)


def _mix(x: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


class Order:
    """Rows by number. `usable[i][r]`: record numbers of task i's rendering r that may be trained on;
    `sizes[i][r]`: int [records, 2], what each record takes of a row's two capacities."""

    def __init__(self, lock: dict, usable: list[list[np.ndarray]], sizes: list[list[np.ndarray]]):
        self.lock, self.usable, self.sizes = lock, usable, sizes
        self.rates = np.array([t["rate"] for t in lock["tasks"]], float)
        self.names = [t["name"] for t in lock["tasks"]]
        self.capacity = (lock["sequence_length"], lock["target_length"])
        self.starts = [0]  # row number at which each window begins, as far as laid out
        self.window = lru_cache(maxsize=4)(self._window)

    def place(self, task: int, k: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(record, epoch) of the task's places k: epochs run through the renderings in turn."""
        record = np.empty(len(k), np.int64)
        epoch = np.empty(len(k), np.int64)
        start, e = 0, 0
        while start <= k[-1]:
            rendering = e % self.lock["renderings"]
            if rendering >= len(self.usable[task]):
                raise UserError(f"task {self.names[task]}: rendering {rendering} is not in the lock; "
                                "train with more steps only after `itx data build` with them")  # fmt: skip
            usable = self.usable[task][rendering]
            if not len(usable):
                raise UserError(f"task {self.names[task]}: rendering {rendering} has no usable record")
            here = (k >= start) & (k < start + len(usable))
            if here.any():
                j = permutation(k[here] - start, len(usable), _key(self.lock["seed"], self.names[task], e))
                record[here], epoch[here] = usable[j], e
            start, e = start + len(usable), e + 1
        return record, epoch

    def placed(self, windows: int) -> np.ndarray:
        """Examples of each task in the first so many windows."""
        return np.floor(self.rates * self.lock["window_examples"] * windows + 0.5).astype(np.int64)

    def examples(self, w: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(task, record, epoch) of window w's examples, tasks in turn."""
        low, high = self.placed(w), self.placed(w + 1)
        parts = []
        for i in np.flatnonzero(high > low):
            record, epoch = self.place(i, np.arange(low[i], high[i]))
            parts.append((np.full(len(record), i), record, epoch))
        return tuple(np.concatenate(p) for p in zip(*parts, strict=True))

    def _window(self, w: int) -> list[list[tuple[int, int, int]]]:
        """Window w's rows in order; a row is a list of (task, record, rendering)."""
        task, record, epoch = self.examples(w)
        rendering = epoch % self.lock["renderings"]
        lengths = np.array([self.sizes[t][r][i] for t, i, r in zip(task, record, rendering, strict=True)])
        # shuffled first, so that among equal lengths the rows mix tasks
        shuffled = permutation(np.arange(len(task)), len(task), _key(self.lock["seed"], "mix", w))
        rows, n = pack(lengths[shuffled], self.capacity)
        to = permutation(np.arange(n), n, _key(self.lock["seed"], "rows", w))
        out: list[list] = [[] for _ in range(n)]
        for example, row in zip(shuffled, to[rows], strict=True):
            out[row].append((int(task[example]), int(record[example]), int(rendering[example])))
        return out

    def row(self, r: int) -> list[tuple[int, int, int]]:
        """Row r as a list of (task, record, rendering)."""
        while self.starts[-1] <= r:
            self.starts.append(self.starts[-1] + len(self.window(len(self.starts) - 1)))
        w = int(np.searchsorted(self.starts, r, side="right")) - 1
        return self.window(w)[r - self.starts[w]]

    def counts(self, rows: int) -> np.ndarray:
        """Examples of each task in the first `rows` rows: of whole windows by the rates, then row by row."""
        if rows == 0:
            return np.zeros(len(self.rates), np.int64)
        self.row(rows - 1)
        whole = int(np.searchsorted(self.starts, rows, side="right")) - 1
        out = self.placed(whole)
        if rows > self.starts[whole]:
            for row in self.window(whole)[: rows - self.starts[whole]]:
                for task, _, _ in row:
                    out[task] += 1
        return out
