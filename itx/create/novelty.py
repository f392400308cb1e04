# SPDX-License-Identifier: Apache-2.0
"""Self-Instruct's novelty rule (Wang et al., 2023, arXiv:2212.10560): a new instruction is kept if
its ROUGE-L with every instruction of the pool is below 0.7.

pool        the seeds and every instruction accepted so far
likeness    ROUGE-L F1 of two texts of n and m words: 2 LCS / (n + m), LCS the length of their
            longest common subsequence of words. Words are those of itx/text.py, one character each
            in Chinese and its like, and on ASCII text those of rouge_score.
overlap     the number of words that two texts share, each as often as both have it. A common
            subsequence is part of it: LCS <= overlap.

The paper's program compares a candidate with all of the pool. `Pool` gives the same decisions and
compares with few, because it passes over an entry only where the likeness cannot reach the
threshold t:

1.  Length. LCS <= min(n, m), so likeness >= t needs m >= n t / (2 - t), and n >= m t / (2 - t).
2.  Prefix (Chaudhuri, Ganti and Kaushik, 2006; Bayardo, Ma and Srikant, 2007). likeness >= t needs
    overlap >= t (n + m) / 2, which by 1 is at least a = ceil(n t / (2 - t)) and at least
    b = ceil(m t / (2 - t)). Number equal words (the second "the" is another word than the first),
    so that a text is a set, and order all words. Then the first n - a + 1 words of one text and the
    first m - b + 1 of the other share a word: take the first shared word. At least a - 1 shared
    words come after it in the one text and b - 1 in the other, so it stands within both beginnings.
    An inverted index over the beginnings of entries, rarest words first, finds every such entry.
3.  Overlap of each entry that is left, counted exactly: likeness <= 2 overlap / (n + m).
4.  The longest common subsequence of what is left, the highest bound first, until no bound reaches
    the best likeness found.

All comparisons are of integers. A tie (likeness = t) counts as too like, as the paper's text says;
its program keeps it.
"""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from itx.errors import UserError
from itx.eval import rouge

MAX_LIKENESS = 0.7  # Self-Instruct's
MAX_DENOMINATOR = 10**6  # of a threshold, so that all products fit into 64 bits
MIN_REORDERED = 256  # entries of a pool that is ordered anew by how often its words occur


@dataclass(frozen=True)
class Nearest:
    """The entry of the pool that a text is most like, of several the one that was added first."""

    index: int  # of the entry, in the order in which they were added
    likeness: float  # ROUGE-L F1, between the threshold and 1


class Pool:
    """Texts, and which of them a new text is too like.

    A text without words is like nothing, as ROUGE-L has it: leave empty texts out before.
    """

    def __init__(self, threshold: float = MAX_LIKENESS, texts: Iterable[str] = ()) -> None:
        """An empty pool, or one of texts that are added unasked; UserError for a threshold that is
        not above 0 and at most 1, or has more than six decimals."""
        exact = Fraction(str(threshold))
        if not 0 < exact <= 1 or exact.denominator > MAX_DENOMINATOR:
            raise UserError(
                f"threshold={threshold}: must be above 0, at most 1, with at most six decimals"
            )
        self._threshold = exact
        self._words: list[list[str]] = []  # of each entry
        self._lengths = _Numbers()  # of each entry, in words
        self._starts = _Numbers()  # where each entry's ids begin in `_ids_of_entries`
        self._ids_of_entries = _Numbers()
        self._ids: dict[str | tuple[str, int], int] = {}  # of each numbered word
        self._ranks: list[int] = []  # the place of each id in the order, rarest first
        self._entries_with: list[array] = []  # for each id the entries that begin with it (2)
        self._reorder_at = MIN_REORDERED
        for text in texts:
            self.add(text)

    def __len__(self) -> int:
        return len(self._words)

    def admit(self, text: str) -> Nearest | None:
        """Add a text unless the pool has one that it is too like, which is returned."""
        words = rouge.words(text)
        found = self._nearest(words)
        if found is None:
            self._add(words)
        return found

    def nearest(self, text: str) -> Nearest | None:
        """The entry that a text is most like, if the likeness reaches the threshold."""
        return self._nearest(rouge.words(text))

    def add(self, text: str) -> None:
        """Add a text, whatever the pool holds."""
        self._add(rouge.words(text))

    def _nearest(self, words: list[str]) -> Nearest | None:
        known = [i for w in _numbered(words) if (i := self._ids.get(w)) is not None]
        # A word that no entry has stands before all others in the order.
        beginning = self._beginning(len(words)) - (len(words) - len(known))
        first = sorted(known, key=self._ranks.__getitem__)[: max(0, beginning)]
        lists = [np.frombuffer(e, np.int64) for i in first if (e := self._entries_with[i])]
        if not lists:
            return None
        entries = np.unique(np.concatenate(lists))
        del lists  # an array that is looked at cannot grow
        entries = entries[
            self._reaches(2 * np.minimum(self._lengths[entries], len(words)), entries, len(words))
        ]
        overlaps = self._overlaps(known, entries)
        reach = self._reaches(2 * overlaps, entries, len(words))
        return self._most_like(words, entries[reach], overlaps[reach])

    def _reaches(self, twice: np.ndarray, entries: np.ndarray, n: int) -> np.ndarray:
        """For each entry whether twice / (n + its words) reaches the threshold."""
        t = self._threshold
        return twice * t.denominator >= t.numerator * (self._lengths[entries] + n)

    def _overlaps(self, known: list[int], entries: np.ndarray) -> np.ndarray:
        """For each entry how many of the ids it holds."""
        if not len(entries):
            return np.zeros(0, np.int64)
        sizes = self._lengths[entries]
        before = np.cumsum(sizes) - sizes
        places = np.arange(sizes.sum()) + np.repeat(self._starts[entries] - before, sizes)
        wanted = np.zeros(len(self._ids), bool)
        wanted[known] = True
        return np.add.reduceat(wanted[self._ids_of_entries[places]], before, dtype=np.int64)

    def _most_like(
        self, words: list[str], entries: np.ndarray, overlaps: np.ndarray
    ) -> Nearest | None:
        """The first of the entries with the highest likeness, if it reaches the threshold."""
        sums = self._lengths[entries] + len(words)
        best, best_entry = self._threshold, -1
        for at in np.argsort(-overlaps / sums, kind="stable"):
            entry, total = int(entries[at]), int(sums[at])
            if Fraction(2 * int(overlaps[at]), total) < best:
                break
            likeness = Fraction(2 * rouge.lcs_length(self._words[entry], words), total)
            if likeness > best or likeness == best and not 0 <= best_entry < entry:
                best, best_entry = likeness, entry
        return Nearest(best_entry, float(best)) if best_entry >= 0 else None

    def _add(self, words: list[str]) -> None:
        ids = []
        for word in _numbered(words):
            if word not in self._ids:
                self._ids[word] = len(self._ids)
                # A new word comes before all others: the order of these stays.
                self._ranks.append(-len(self._ids))
                self._entries_with.append(array("q"))
            ids.append(self._ids[word])
        self._index(len(self._words), ids)
        self._words.append(words)
        self._starts.extend([len(self._ids_of_entries)])
        self._lengths.extend([len(words)])
        self._ids_of_entries.extend(ids)
        if len(self._words) >= self._reorder_at:
            self._reorder()

    def _index(self, entry: int, ids: list[int]) -> None:
        for i in sorted(ids, key=self._ranks.__getitem__)[: self._beginning(len(ids))]:
            self._entries_with[i].append(entry)

    def _beginning(self, n: int) -> int:
        """How many of a text's n words, rarest first, it shares one of with any text that it is too
        like: n - ceil(n t / (2 - t)) + 1."""
        t = self._threshold
        return n + (-n * t // (2 - t)) + 1 if n else 0

    def _reorder(self) -> None:
        """Order words by the number of entries that have them, and index all entries anew. As this
        happens when the pool has doubled, it costs each entry a constant."""
        used = self._ids_of_entries[:]
        counts = np.bincount(used, minlength=len(self._ids))
        order = np.argsort(counts, kind="stable")
        ranks = np.empty(len(order), np.int64)
        ranks[order] = np.arange(len(order))
        self._ranks = ranks.tolist()
        self._entries_with = [array("q") for _ in self._ids]
        ends = np.cumsum(self._lengths[:])[:-1]
        for entry, ids in enumerate(np.split(used, ends)):
            self._index(entry, ids.tolist())
        self._reorder_at = 2 * len(self._words)


class _Numbers:
    """A NumPy array of integers that grows at its end."""

    def __init__(self) -> None:
        self._held = np.zeros(64, np.int64)
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, at: np.ndarray | slice) -> np.ndarray:
        return self._held[: self._size][at]

    def extend(self, numbers: list[int]) -> None:
        end = self._size + len(numbers)
        if end > len(self._held):
            self._held = np.concatenate([self._held, np.zeros(max(end, len(self._held)), np.int64)])
        self._held[self._size : end] = numbers
        self._size = end


def _numbered(words: list[str]) -> list[str | tuple[str, int]]:
    """The words, all different: the second time a word stands there it is (word, 1), and so on."""
    seen: dict[str, int] = {}
    out: list[str | tuple[str, int]] = []
    for word in words:
        again = seen[word] = seen.get(word, -1) + 1
        out.append((word, again) if again else word)
    return out
