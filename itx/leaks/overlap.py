# SPDX-License-Identifier: Apache-2.0
"""Long inputs against training texts: how much of an input stands in a record, and what of it
counts.

A window is a run of WINDOW letters from the beginning of a word. What stands in several inputs of
one evaluation task is its instruction and no input's own (`fixed`); nor is what stands in many
records of a training task, where an input has letters beside it (`apart`). A record that holds most
of an input's own letters is a copy however often it occurs. Windows that training data of different
origins have in common, or several records of one task, are boilerplate: they prove no copy by
themselves.
"""

from dataclasses import dataclass

import numpy as np

from itx.leaks.grams import Letters, Sought, pairs

# Letters, in scripts with spaces (about 5 words) and in others: [whether it has none]
WINDOW = {False: 24, True: 12}
# A window in so many of an evaluation task's inputs, and in this share of them, is its instruction.
MIN_FIXED_INPUTS, MIN_FIXED_SHARE = 3, 0.1
MIN_OWN_LETTERS = 10  # letters of its own that an input needs for this test
MIN_COPIED_SHARE = 0.8  # of an input's own letters, in a record that is a copy of it
MIN_PARTIAL_SHARE = 0.35  # from here on the rest is looked for in shorter pieces
# Letters in a row that are a copy where they are rare, 13 words: [whether the script has no spaces]
MIN_RUN = {False: 56, True: 26}
MAX_RUN_RECORDS = 10  # a run in more training records than this is a phrase
# In so many of a training task's records, and in this share of them, a run alone proves nothing.
MIN_SHARED_RECORDS, MIN_SHARED_SHARE = 3, 0.02
# In so many of a training task's records, and in this share, a window is that task's instruction …
MIN_USUAL_RECORDS, MIN_USUAL_SHARE = 5, 0.08
# … if this share of an input's own letters is left beside it: a passage is no instruction.
MIN_LEFT_SHARE = 0.1


@dataclass(frozen=True)
class Windows:
    """The windows of some long inputs, those that are fixed left out; sorted by number.

    number: of the window's hash in `sought`; at: its place in the letters; own: [letters + 1], how
    many letters before a place are not fixed; ordinal: of the window among all word beginnings.
    """

    length: int
    run: int
    letters: Letters
    sought: Sought
    number: np.ndarray
    at: np.ndarray
    ordinal: np.ndarray
    own: np.ndarray
    size: np.ndarray  # [fields], own letters of each input

    @classmethod
    def of(
        cls,
        letters: Letters,
        wanted: np.ndarray,
        task: np.ndarray,
        owner: np.ndarray,
        unspaced: bool,
    ) -> "Windows":
        """letters: every input a field; wanted: bool [inputs], those to take; task, owner: int
        [inputs], spellings of one content share an owner."""
        length = WINDOW[unspaced]
        at, hashes = letters.runs(np.flatnonzero(letters.word & wanted[letters.field]), length)
        sought = Sought(hashes)
        number = sought.numbers
        source = letters.field[at]
        # how many different inputs of a task have each window
        inputs = np.unique(np.stack([number, task[source], owner[source]], 1), axis=0)
        keys, count = np.unique(inputs[:, :2], axis=0, return_counts=True)
        of_task = np.bincount(task[np.unique(owner)], minlength=task.max(initial=0) + 1)
        least = np.maximum(MIN_FIXED_INPUTS, MIN_FIXED_SHARE * of_task)
        fixed_keys = keys[count >= least[keys[:, 1]]]
        span = len(of_task)
        fixed = np.isin(number * span + task[source], fixed_keys[:, 0] * span + fixed_keys[:, 1])
        free = _uncovered(len(letters), at[fixed], length)
        own = np.concatenate([[0], np.cumsum(free)])
        size = np.bincount(letters.field[free], minlength=len(wanted))
        ordinal = np.cumsum(letters.word)[at]
        use = ~fixed & (size[source] >= MIN_OWN_LETTERS)
        order = np.argsort(number[use], kind="stable")
        return cls(
            length,
            MIN_RUN[unspaced],
            letters,
            sought,
            *(x[use][order] for x in (number, at, ordinal)),
            own,
            size,
        )

    def matches(
        self, text: Letters, starts: np.ndarray, record: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """(record, index into `at`) of every window that a record holds, each once, by record,
        input and place.

        starts: where words begin in the text; record: of each of its fields.
        """
        at, hashes = text.runs(starts, self.length)
        place, number = self.sought.find(hashes)
        found = np.unique(np.stack([record[text.field[at[place]]], number], 1), axis=0)
        i, j = pairs(found[:, 1], self.number)
        of = found[i, 0]
        order = np.lexsort((self.at[j], of))  # places rise with inputs
        return of[order], j[order]

    def apart(self, window: np.ndarray, records: int) -> tuple[np.ndarray, np.ndarray]:
        """(own, size) without the windows that many of so many records of one task have; inputs of
        which next to nothing would be left keep theirs. window: every match in the task, once per
        record."""
        number, count = np.unique(self.number[window], return_counts=True)
        usual = number[(count >= MIN_USUAL_RECORDS) & (count >= MIN_USUAL_SHARE * records)]
        if not len(usual):
            return self.own, self.size
        at = self.at[np.isin(self.number, usual)]
        free = np.diff(self.own) > 0
        left = free & _uncovered(len(free), at, self.length)
        size = np.bincount(self.letters.field[left], minlength=len(self.size))
        nothing = (size < MIN_OWN_LETTERS) | (size < MIN_LEFT_SHARE * self.size)
        left = np.where(nothing[self.letters.field], free, left)
        return np.concatenate([[0], np.cumsum(left)]), np.where(nothing, self.size, size)

    def coverage(
        self, record: np.ndarray, window: np.ndarray, own: np.ndarray, size: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """For each pair (record, input) in `matches`: (its first match, the input, the share of its
        own letters found)."""
        at = self.at[window]
        source = self.letters.field[at]
        first, last = _runs(record, source)
        end = at + self.length
        until = np.minimum(end, np.concatenate([at[1:], [0]]))
        until[last] = end[last]
        covered = np.add.reduceat(own[until] - own[at], first)
        return first, source[first], covered / size[source[first]]

    def longest_run(
        self, record: np.ndarray, window: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(record, input, letters) of runs of windows that follow each other, from matches that are
        left."""
        at, ordinal = self.at[window], self.ordinal[window]
        source = self.letters.field[at]
        first, last = _runs(record, source, ordinal - np.arange(len(ordinal)))
        return record[first], source[first], at[last] + self.length - at[first]


def _uncovered(letters: int, at: np.ndarray, length: int) -> np.ndarray:
    """bool [letters]: those that stand in no window of `length` letters at these places."""
    edges = np.zeros(letters + 1, np.int64)
    np.add.at(edges, at, 1)
    np.add.at(edges, at + length, -1)
    return np.cumsum(edges[:-1]) == 0


def _runs(*columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(first, last) row of each run of rows that are equal in all columns; no record is below 0."""
    first = np.flatnonzero(np.any([np.diff(c, prepend=-1) != 0 for c in columns], 0))
    return first, np.append(first[1:], len(columns[0]))[: len(first)] - 1


def boilerplate(
    number: np.ndarray,
    record: np.ndarray,
    task: np.ndarray,
    origin: np.ndarray,
    records: np.ndarray,
) -> np.ndarray:
    """The numbers of windows that prove nothing by themselves: they stand in more than
    MAX_RUN_RECORDS records, in data of two origins, or in several records of a task.

    number, record: each pair once; task, origin: of each record's task; records: [tasks], how many
    there are.
    """
    if not len(number):
        return number
    of = task[record]
    windows, count = np.unique(number, return_counts=True)
    out = [windows[count > MAX_RUN_RECORDS]]
    both = np.unique(np.stack([number, origin[of]], 1), axis=0)
    windows, count = np.unique(both[:, 0], return_counts=True)
    out.append(windows[count > 1])
    both, count = np.unique(np.stack([number, of], 1), axis=0, return_counts=True)
    out.append(
        both[(count >= MIN_SHARED_RECORDS) & (count >= MIN_SHARED_SHARE * records[both[:, 1]]), 0]
    )
    return np.unique(np.concatenate(out))
