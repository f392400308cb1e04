# SPDX-License-Identifier: Apache-2.0
"""Row r of the training data as a pure function of the lock: mixing, shuffling, packing.

    window w    the examples whose place in the mixture falls in [w·B, (w+1)·B), B =
                window_examples. Task i has placed round(rate_i·n) examples when n are placed in
                all, so its total never strays from its share by one example, and any window is
                known without the ones before.
    phases      where the lock has them, a window has the rates of the last phase whose step its
                first row reaches: rates change at the first window that begins at the step or
                behind it.
    place k     of task i is epoch e and index j, counted over epochs of the task's usable records;
                the record is permutation(seed, task, e)(j), its rendering e mod `renderings`.
    rows        the window's examples packed (packing.py), then permuted. Windows share no row.
                Where the lock has several `loss_positions`, rows that need as many stand in the
                same steps, and the steps are permuted.

To find row r one needs the number of rows of the windows before: laid out once, in order, and kept.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from itx.data.packing import pack
from itx.data.types import Lock
from itx.errors import UserError
from itx.hashing import draw

# 2: packing takes the row with least space left on the side that binds; 3: loss_positions
ORDER_VERSION = 3
# batches whose records are counted together: few enough to be held, more are no faster
COUNTED_BATCHES = 256


@lru_cache(maxsize=1 << 16)
def _round_keys(key: int) -> tuple[int, ...]:
    return tuple(draw(key, r) for r in range(4))


def permutation(
    index: np.ndarray, n: int | np.ndarray, key: int | list[int], group: np.ndarray | None = None
) -> np.ndarray:
    """Where a keyed permutation of range(n) sends `index`, in O(1) memory.

    A four-round Feistel network on the least even number of bits that holds n, walked until the
    value falls below n (cycle walking: Black and Rogaway, "Ciphers with arbitrary finite domains",
    2002).

    Args:
        index: int [m].
        n, key: of the permutation; with `group` int [m], several of each, and permutation group[i]
            sends index[i].

    Returns:
        int64 [m].
    """
    if group is None:
        group, n, key = np.zeros(len(index), np.int64), np.array([n]), [key]
    n = np.asarray(n)
    bits = np.array([max(1, (int(m - 1).bit_length() + 1) // 2) for m in n.tolist()], np.uint64)
    keys = np.array([_round_keys(k) for k in key], np.uint64).reshape(-1, 4)
    half, limit = bits[group], n.astype(np.uint64)[group]
    mask = (np.uint64(1) << half) - np.uint64(1)
    out = np.asarray(index).astype(np.uint64)
    todo = np.arange(len(out))
    while len(todo):
        h, m, g = half[todo], mask[todo], group[todo]
        left, right = out[todo] >> h, out[todo] & m
        for r in range(4):
            left, right = right, left ^ (mixed(right ^ keys[g, r]) & m)
        moved = (left << h) | right
        out[todo] = moved
        todo = todo[moved >= limit[todo]]
    return out.astype(np.int64)


def mixed(x: np.ndarray) -> np.ndarray:
    """uint64: the finaliser of SplitMix64 (Steele, Lea and Flood, 2014), in which every bit depends
    on every bit."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _end_to_end(of_tasks: list[list[np.ndarray]], renderings: int) -> np.ndarray:
    """int32: the arrays of the first so many renderings of each task."""
    return np.concatenate([x for of_task in of_tasks for x in of_task[:renderings]]).astype(
        np.int32
    )


@dataclass(frozen=True)
class Window:
    """The packed rows of a window, in order."""

    segments: np.ndarray  # int32 [n, 3]: (task, record, rendering)
    starts: np.ndarray  # int [rows + 1]: row i has segments starts[i]:starts[i + 1]
    loss_tokens: np.ndarray  # int64 [rows]: how much of the second capacity each row takes

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, i: int) -> np.ndarray:
        return self.segments[self.starts[i] : self.starts[i + 1]]


class Order:
    """Packed rows by number.

    Args:
        usable: usable[i][r] holds the numbers of the records of task i's rendering r that may be
            trained on.
        sizes: sizes[i][r] int [records, 2], what each record takes of a row's two capacities.
    """

    def __init__(self, lock: Lock, usable: list[list[np.ndarray]], sizes: list[list[np.ndarray]]):
        if lock["order_version"] != ORDER_VERSION:
            raise UserError(
                f"the data lock is of order version {lock['order_version']}, this itx lays rows "
                f"out by version {ORDER_VERSION}: build the data again, or use the itx that made "
                "the lock"
            )
        self.lock = lock
        self.rates = np.array([t["rate"] for t in lock["tasks"]], float)
        phases = lock.get("phases") or [{"step": 0, "rates": self.rates}]
        # the row at which each phase begins
        self.phase_rows = np.array([p["step"] for p in phases]) * lock["global_batch"]
        self.phase_rates = np.array([p["rates"] for p in phases], float)
        self.names = [t["name"] for t in lock["tasks"]]
        self.capacity = (lock["sequence_length"], lock["target_length"])
        self.caps = lock["loss_positions"]
        self.starts = [0]  # row number at which each window begins, as far as laid out
        self.window = lru_cache(maxsize=4)(self._window)
        # All renderings stand end to end in `usable` and `sizes`; [tasks, renderings]: how many
        # usable records each has, where they begin, where its sizes begin.
        renderings = lock["renderings"]
        self.n = np.zeros((len(usable), renderings), np.int64)
        self.usable_at, self.sizes_at = self.n.copy(), self.n.copy()
        self.usable = _end_to_end(usable, renderings)
        self.sizes = _end_to_end(sizes, renderings)
        at = size_at = 0
        for i, of_task in enumerate(usable):
            for r, (u, s) in enumerate(zip(of_task[:renderings], sizes[i], strict=False)):
                self.n[i, r], self.usable_at[i, r], self.sizes_at[i, r] = len(u), at, size_at
                at, size_at = at + len(u), size_at + len(s)
        self.built = list(map(len, usable))  # renderings of each task that are in the lock

    def place(self, task: np.ndarray, k: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(record, epoch), int64 [m], of places k [m] of tasks `task` [m]: epochs run through the
        renderings in turn."""
        ends = self.n.cumsum(1)
        missing = (self.n == 0).any(1)
        for i in np.unique(task[missing[task]]).tolist():
            r = int((self.n[i] == 0).argmax())
            if k[task == i].max() >= ends[i, r]:
                why = "has no usable record"
                if r >= self.built[i]:
                    why = (
                        "is not in the lock; train with more steps only after `itx data build` "
                        "with them"
                    )
                raise UserError(f"task {self.names[i]}: rendering {r} {why}")
        cycle, within = np.divmod(k, ends[task, -1])
        rendering = (within[:, None] >= ends[task]).sum(1)
        epoch = cycle * self.n.shape[1] + rendering
        j = within - ends[task, rendering] + self.n[task, rendering]
        pairs, group = np.unique(epoch * len(self.names) + task, return_inverse=True)
        epochs, tasks = np.divmod(pairs, len(self.names))
        drawn = zip(tasks.tolist(), epochs.tolist(), strict=True)
        key = [draw(self.lock["seed"], self.names[i], e) for i, e in drawn]
        j = permutation(j, self.n[tasks, epochs % self.n.shape[1]], key, group)
        return self.usable[self.usable_at[task, rendering] + j].astype(np.int64), epoch

    def size(self, task: np.ndarray, record: np.ndarray, rendering: np.ndarray) -> np.ndarray:
        """int32 [m, 2], what examples take of a row's two capacities."""
        return self.sizes[self.sizes_at[task, rendering] + record]

    def placed(self, windows: int) -> np.ndarray:
        """int64 [tasks]: examples of each task in the first so many windows."""
        if len(self.phase_rows) > 1:
            share = self._by_phase(windows) @ self.phase_rates
        else:
            share = self.phase_rates[0] * windows
        return np.floor(share * self.lock["window_examples"] + 0.5).astype(np.int64)

    def _by_phase(self, windows: int) -> np.ndarray:
        """int [phases]: how many of the first so many windows each phase has."""
        self._lay_out(windows)
        phase = np.searchsorted(self.phase_rows, self.starts[:windows], side="right") - 1
        return np.bincount(phase, minlength=len(self.phase_rows))

    def _lay_out(self, windows: int) -> None:
        """Count rows until it is known where so many windows begin."""
        while len(self.starts) < windows:
            self.starts.append(self.starts[-1] + len(self.window(len(self.starts) - 1)))

    def examples(self, w: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(task, record, epoch) of window w's examples, tasks in turn."""
        low, high = self.placed(w), self.placed(w + 1)
        count = high - low
        task = np.repeat(np.arange(len(low)), count)
        first = np.cumsum(count) - count
        return task, *self.place(task, np.arange(len(task)) + (low - first)[task])

    def _window(self, w: int) -> Window:
        task, record, epoch = self.examples(w)
        rendering = epoch % self.lock["renderings"]
        # shuffled first, so that among equal lengths the rows mix tasks
        shuffled = permutation(np.arange(len(task)), len(task), draw(self.lock["seed"], "mix", w))
        task, record, rendering = task[shuffled], record[shuffled], rendering[shuffled]
        size = self.size(task, record, rendering)
        rows, n = pack(size, self.capacity, self.caps)
        rows = self._places(w, np.bincount(rows, size[:, 1], n))[rows]
        order = np.argsort(rows, kind="stable")
        starts = np.concatenate([[0], np.bincount(rows, minlength=n).cumsum()])
        loss_tokens = np.bincount(rows, size[:, 1], n).astype(np.int64)
        segments = np.stack([task, record, rendering], 1)[order].astype(np.int32)
        return Window(segments, starts, loss_tokens)

    def _places(self, w: int, loss_tokens: np.ndarray) -> np.ndarray:
        """Where the packed rows of window w stand in it: anywhere, except that rows which need
        equal caps stand in the same steps, so that few steps compute as many logits as the longest
        targets need."""
        n = len(loss_tokens)
        drawn = permutation(np.arange(n), n, draw(self.lock["seed"], "rows", w))
        if len(self.caps) == 1:
            return drawn
        self._lay_out(w + 1)
        step = (self.starts[w] + np.arange(n)) // self.lock["global_batch"]
        steps = int(step[-1] - step[0]) + 1
        turn = permutation(step - step[0], steps, draw(self.lock["seed"], "steps", w))
        out = np.empty(n, np.int64)
        by_cap = np.lexsort((drawn, np.searchsorted(self.caps, loss_tokens)))
        out[by_cap] = np.argsort(turn, kind="stable")
        return out

    def _find(self, r: int) -> tuple[Window, int]:
        """The window that row r is in, and its number there."""
        while self.starts[-1] <= r:
            self._lay_out(len(self.starts) + 1)
        w = bisect_right(self.starts, r) - 1
        return self.window(w), r - self.starts[w]

    def row(self, r: int) -> list[tuple[int, int, int]]:
        """Row r as a list of (task, record, rendering)."""
        window, i = self._find(r)
        return [tuple(s) for s in window[i].tolist()]

    def rows(self, numbers: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """(segments int32 [n, 3] of these rows in turn, how many each has)."""
        parts = [window[i] for window, i in map(self._find, numbers)]
        return np.concatenate(parts), np.array([len(p) for p in parts])

    def cap(self, numbers: Sequence[int]) -> int:
        """The smallest of the lock's `loss_positions` that holds what each of these rows has."""
        most = max(int(window.loss_tokens[i]) for window, i in map(self._find, numbers))
        return next(c for c in self.caps if c >= most)

    def distinct(self, steps: Sequence[int]) -> np.ndarray:
        """int [tasks]: how many records of each task the batches of these steps hold, each counted
        once."""
        size, keys = self.lock["global_batch"], [np.zeros(0, np.int64)]
        for i in range(0, len(steps), COUNTED_BATCHES):
            several = steps[i : i + COUNTED_BATCHES]
            rows = [row for step in several for row in range(step * size, (step + 1) * size)]
            segments, _ = self.rows(rows)
            keys.append(np.unique(segments[:, 0].astype(np.int64) << 32 | segments[:, 1]))
        return np.bincount(np.unique(np.concatenate(keys)) >> 32, minlength=len(self.names))

    def steps_with(
        self, records: Sequence[tuple[int, int, int]], steps: Sequence[int]
    ) -> list[int]:
        """Those of the steps whose batches hold one of the records (task, record, rendering), one
        entry for each time."""
        size, wanted, found = self.lock["global_batch"], np.array(records, np.int32), []
        for i in range(0, len(steps) if len(wanted) else 0, COUNTED_BATCHES):
            several = steps[i : i + COUNTED_BATCHES]
            numbers = [row for step in several for row in range(step * size, (step + 1) * size)]
            segments, count = self.rows(numbers)
            step_of = np.repeat(np.repeat(several, size), count)
            hits = (segments[:, None] == wanted[None]).all(2).any(1)
            found += step_of[hits].tolist()
        return found

    def counts(self, rows: int) -> np.ndarray:
        """int64 [tasks]: examples of each task in the first `rows` rows. Whole windows are counted
        by the rates, the last one row by row."""
        if rows == 0:
            return np.zeros(len(self.rates), np.int64)
        window, i = self._find(rows - 1)
        whole = bisect_right(self.starts, rows - 1) - 1
        part = window.segments[: window.starts[i + 1], 0]
        return self.placed(whole) + np.bincount(part, minlength=len(self.rates))
