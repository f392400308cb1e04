# SPDX-License-Identifier: Apache-2.0
"""Short inputs in training texts: as whole words, in two parts, and shorter ones with their answer.

short   4 to 12 words (5 to 25 characters in scripts without spaces): wherever its words stand as
        whole words; and in two parts, each a segment of its own (a field, a line, what stands
        between marks)
brief   shorter still: only as a whole field, or together with its answer
"""

from dataclasses import dataclass

import numpy as np

from itx.leaks.grams import Letters, Sought, pairs

# Letters at its beginning by which a short input is found, so many it has at least: [whether the
# script has no spaces]
ANCHOR = {False: 10, True: 5}
MAX_PART_SEGMENTS = 3  # of a part
MAX_GAP_LETTERS = 60  # between two parts in one field
MAX_ANSWER_SEGMENTS = 4  # from a brief input to its answer


@dataclass(frozen=True)
class Short:
    """Short inputs by the hash of their first letters; parts by the hash of each, with the input
    and the cut."""

    length: int
    sought: Sought
    number: np.ndarray  # of the anchor, sorted
    source: np.ndarray
    size: np.ndarray
    whole: np.ndarray
    cuts: Sought
    cut_number: np.ndarray  # of the part's hash, sorted
    cut_source: np.ndarray
    cut_at: np.ndarray  # which of the input's cuts
    cut_side: np.ndarray

    @classmethod
    def of(cls, letters: Letters, wanted: np.ndarray, unspaced: bool) -> "Short":
        """letters: every input a field; wanted: the numbers of those to take."""
        length = ANCHOR[unspaced]
        starts = np.searchsorted(letters.field, wanted, "left")
        ends = np.searchsorted(letters.field, wanted, "right")
        anchors, whole = letters.hashes(starts, length), letters.hashes(starts, ends - starts)
        sought = Sought(anchors)
        order = np.argsort(sought.numbers, kind="stable")
        # cuts: at every beginning of a word but the first
        at = np.flatnonzero(letters.word & np.isin(letters.field, wanted))
        i = np.searchsorted(starts, at, "right") - 1
        inner = at > starts[i]
        at, i = at[inner], i[inner]
        left, right = letters.hashes(starts[i], at - starts[i]), letters.hashes(at, ends[i] - at)
        cuts = Sought(np.concatenate([left, right]))
        by = np.argsort(cuts.numbers, kind="stable")
        return cls(
            length=length,
            sought=sought,
            number=sought.numbers[order],
            source=wanted[order],
            size=(ends - starts)[order],
            whole=whole[order],
            cuts=cuts,
            cut_number=cuts.numbers[by],
            cut_source=np.tile(wanted[i], 2)[by],
            cut_at=np.tile(at, 2)[by],
            cut_side=np.repeat([0, 1], len(at))[by],
        )

    def whole_words(self, text: Letters, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(place, input) of every short input that stands in the text as whole words."""
        at, hashes = text.runs(starts, self.length)
        place, number = self.sought.find(hashes)
        i, j = pairs(number, self.number)
        at, size = at[place][i], self.size[j]
        fits = at + size <= text.field_ends[at]
        at, size, j = at[fits], size[fits], j[fits]
        same = (text.hashes(at, size) == self.whole[j]) & text.word_ends[at + size]
        return at[same], self.source[j[same]]

    def in_parts(
        self, text: Letters, spans: tuple[np.ndarray, np.ndarray, np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """(place, input) of every short input whose two parts are spans of one record; `spans` of
        `segments`."""
        start, end, record = spans
        place, number = self.cuts.find(text.hashes(start, end - start))
        i, j = pairs(number, self.cut_number)
        place = place[i]
        key = np.stack([record[place], self.cut_at[j], self.cut_side[j]], 1)
        left, right = np.flatnonzero(key[:, 2] == 0), np.flatnonzero(key[:, 2] == 1)

        def joint(rows):
            return key[rows, 0] * (1 + key[:, 1].max(initial=0)) + key[rows, 1]

        right = right[np.argsort(joint(right), kind="stable")]
        a, b = pairs(joint(left), joint(right))
        a, b = left[a], right[b]
        s1, e1, s2, e2 = start[place[a]], end[place[a]], start[place[b]], end[place[b]]
        apart = np.maximum(s2 - e1, s1 - e2)
        other_field = text.field[s1] != text.field[s2]
        good = (apart >= 0) & (other_field | (apart <= MAX_GAP_LETTERS))
        return s1[good], self.cut_source[j[a[good]]]


def segments(text: Letters, record: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(beginnings, ends, records) of every run of up to MAX_PART_SEGMENTS segments within a field.

    record: int [fields], the record of each.
    """
    first, ends = text.spans(text.segment)
    starts, stops = [], []
    for n in range(MAX_PART_SEGMENTS):
        inside = np.arange(len(first) - n) if len(first) > n else np.arange(0)
        inside = inside[text.field[first[inside]] == text.field[first[inside + n]]]
        starts.append(first[inside])
        stops.append(ends[inside + n])
    start, stop = np.concatenate(starts), np.concatenate(stops)
    return start, stop, record[text.field[start]]


def beside_answers(
    text: Letters, record: np.ndarray, inputs: np.ndarray, answers: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(place, which) of every brief input that is a segment and whose answer is one of the
    MAX_ANSWER_SEGMENTS segments behind it.

    inputs, answers: their hashes, row by row.
    """
    first, ends = text.spans(text.segment)
    hashes = text.hashes(first, ends - first)
    order = np.argsort(inputs, kind="stable")
    place, _ = Sought(inputs).find(hashes)
    i, j = pairs(hashes[place], inputs[order])
    place, which = place[i], order[j]
    good = np.zeros(len(place), bool)
    for n in range(1, MAX_ANSWER_SEGMENTS + 1):
        near = np.minimum(place + n, len(first) - 1)
        same = (near > place) & (
            record[text.field[first[near]]] == record[text.field[first[place]]]
        )
        good |= same & (hashes[near] == answers[which])
    return first[place[good]], which[good]
