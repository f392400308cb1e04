# SPDX-License-Identifier: Apache-2.0
"""Evaluation inputs by the way in which each can be found, and the texts of training folders gone
through for them.

brief   under 4 words       a whole content field, or beside its answer (itx/leaks/phrases.py)
short   4 to 12 words       as whole words anywhere, or in two parts
long                        most of its own words, or 13 of them in a row (itx/leaks/overlap.py)
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from itx.data import cache
from itx.leaks import loose
from itx.leaks.grams import FIELD, Letters, Sought
from itx.leaks.overlap import (
    MAX_RUN_RECORDS,
    MIN_COPIED_SHARE,
    MIN_PARTIAL_SHARE,
    Windows,
    boilerplate,
)
from itx.leaks.phrases import ANCHOR, Short, beside_answers, segments

MIN_LONG_WORDS, MIN_SHORT_WORDS = 13, 4
MIN_LONG_LETTERS = 30  # of 13 words; where letters stand alone they are a short input
MIN_UNSPACED_LETTERS = 26  # of a long input in scripts without spaces
MIN_CERTAIN_WORDS = 8  # a shorter input may be a phrase that several origins use
MIN_PHRASE_ORIGINS = 3
CHUNK_LETTERS = 2_000_000  # of training text at once
MAX_SPELLINGS = 3  # contents that are the same letters; more are told apart by their marks alone
MAX_ANSWER_SHARE = 0.1  # an answer to more of a task's examples is a label, which stands anywhere
MAX_READ_LETTERS = 400  # of a record in which a brief input and its answer are looked for apart


@dataclass(frozen=True)
class Asked:
    """An evaluation input in its loose forms, one per field, and its answers'."""

    task: str
    content: int
    fields: tuple[str, ...]
    answers: tuple[str, ...]


def origins(folders: Sequence[Path]) -> np.ndarray:
    """int [folders], one number for all that share a data set; those that name none count as
    one."""
    group: dict[str, int] = {}
    of = [cache.read_manifest(f).get("origin") or ["(none named)"] for f in folders]
    for n, names in enumerate(of):
        old = {group[x] for x in names if x in group}
        group |= {x: n for x in [*names, *(x for x, g in group.items() if g in old)]}
    return np.array([group[names[0]] for names in of], np.int64)


class Finder:
    """Evaluation inputs, sorted by how they can be found."""

    def __init__(self, asked: Sequence[Asked]):
        alike: dict[str, list[Asked]] = {}
        for a in asked:
            alike.setdefault(_letters_of(["".join(a.fields)]), []).append(a)
        # inputs of a task that differ in nothing but marks, as rows of brackets do, are known by
        # their strict content alone
        told = {
            letters: of
            for letters, of in alike.items()
            if letters and len({a.content for a in of}) <= MAX_SPELLINGS
        }
        self.asked = [of[0] for of in told.values()]
        # the content that stands for it
        self.same = {a.content: of[0].content for of in told.values() for a in of}
        sizes = [loose.size("\n".join(a.fields)) for a in self.asked]
        words, letters, unspaced = np.array(sizes, np.int64).reshape(-1, 3).T
        unspaced = unspaced > 0
        least = np.where(unspaced, ANCHOR[True], ANCHOR[False])
        long_words = (words >= MIN_LONG_WORDS) & (letters >= MIN_LONG_LETTERS)
        long = np.where(unspaced, letters >= MIN_UNSPACED_LETTERS, long_words)
        brief = (letters < least) | (~unspaced & (words < MIN_SHORT_WORDS))
        self.words, self.is_brief = words, brief
        text = Letters.of(["\n".join(a.fields) for a in self.asked])
        tasks = {t: i for i, t in enumerate(dict.fromkeys(a.task for a in self.asked))}
        task = np.array([tasks[a.task] for a in self.asked], np.int64)
        firsts: dict[int, int] = {}
        owner = np.array(
            [firsts.setdefault(a.content, i) for i, a in enumerate(self.asked)], np.int64
        )
        self.long: list[Windows] = []
        self.short: list[Short] = []
        for without_spaces in (False, True):
            alike_script = unspaced == without_spaces
            if (wanted := long & alike_script).any():
                self.long.append(Windows.of(text, wanted, task, owner, without_spaces))
            if (wanted := ~long & ~brief & alike_script).any():
                self.short.append(Short.of(text, np.flatnonzero(wanted), without_spaces))
        whole = text.whole_fields()
        self.whole, self.whole_input = Sought(whole), np.argsort(whole)
        self.text = text
        self._brief(np.flatnonzero(brief), whole)

    def _brief(self, brief: np.ndarray, whole: np.ndarray) -> None:
        """Brief inputs with each answer that is no label."""
        times = Counter((a.task, answer) for a in self.asked for answer in set(a.answers))
        of_task = Counter(a.task for a in self.asked)
        rows = []
        for i in brief.tolist():
            asked = self.asked[i]
            letters = _letters_of(["".join(asked.fields)])
            most = max(1, MAX_ANSWER_SHARE * of_task[asked.task])
            for answer in dict.fromkeys(asked.answers):
                is_another = answer and _letters_of([answer]) != letters
                if is_another and times[asked.task, answer] <= most:
                    rows.append((i, answer))
        self.answers = [answer for _, answer in rows]
        self.brief = np.array([i for i, _ in rows], np.int64)
        self.brief_input = whole[self.brief]
        self.brief_answer = Letters.of(self.answers).whole_fields()
        self.brief_answers = Sought(self.brief_answer)

    # ---- the training side

    def matches(self, folders: Sequence[Path]) -> list[list[tuple[int, int, str]]]:
        """For each folder, (record, content of an input, how) of all that its texts hold."""
        sure: list[tuple[int, int, int, str]] = []  # folder, record, input, how
        phrases: list[tuple[int, int, int]] = []
        windows: list[list[tuple[np.ndarray, ...]]] = [[] for _ in self.long]
        records = np.array([cache.read_manifest(folder)["records"] for folder in folders], np.int64)
        for n, folder in enumerate(folders):
            own: list[list[tuple]] = [[] for _ in self.long]
            for fields, record, content in _chunks(folder):
                text = Letters.of(fields)
                more, maybe = self._chunk(fields, text, record, content)
                sure += [(n, *m) for m in more]
                phrases += [(n, *m) for m in maybe]
                for long, kept in zip(self.long, own, strict=True):
                    kept.append(
                        (fields, record, *long.matches(text, np.flatnonzero(text.word), record))
                    )
            for long, parts, kept in zip(self.long, own, windows, strict=True):
                of, window = (
                    np.concatenate([p[i] for p in parts]) if parts else np.zeros(0, np.int64)
                    for i in (2, 3)
                )
                sure += [(n, *m) for m in self._most(long, parts, window, int(records[n]))]
                kept.append((np.full(len(of), n), of, window))
        origin = origins(folders)
        sure += self._rare(windows, origin, records)
        sure += self._no_phrases(phrases, origin)
        out: list[dict[tuple[int, int], str]] = [{} for _ in folders]
        for n, i, source, how in sure:
            out[n].setdefault((i, self.asked[source].content), how)
        return [[(i, content, how) for (i, content), how in of.items()] for of in out]

    def _chunk(
        self, fields: Sequence[str], text: Letters, record: np.ndarray, content: np.ndarray
    ) -> tuple[list, list]:
        """([(record, input, how)], [(record, input)] of what may be phrases) of some records; long
        inputs apart."""
        starts = np.flatnonzero(text.word)
        sure = []
        whole = text.whole_fields()
        place, number = self.whole.find(whole)
        source = self.whole_input[number]
        counts = content[place] | ~self.is_brief[source]  # a brief answer or label is everywhere
        sure += _listed(record[place[counts]], source[counts], "equal words")
        phrases: list[tuple[int, int]] = []
        spans = segments(text, record) if self.short else None
        for short in self.short:
            at, source = short.whole_words(text, starts)
            phrases += zip(record[text.field[at]].tolist(), source.tolist(), strict=True)
            at, source = short.in_parts(text, spans)
            sure += _listed(record[text.field[at]], source, "input in two parts")
        if len(self.brief):
            at, which = beside_answers(text, record, self.brief_input, self.brief_answer)
            sure += _listed(record[text.field[at]], self.brief[which], "input beside its answer")
            place, number = self.brief_answers.find(whole)
            # labels of the training data
            often = np.bincount(number, minlength=len(self.brief_answers)) > MAX_RUN_RECORDS
            use = ~content[place] & ~often[number]
            sure += self._answered(fields, record, content, record[place[use]], number[use])
        return sure, phrases

    def _most(self, long: Windows, parts: list[tuple], every: np.ndarray, records: int) -> list:
        """[(record, input, how)] of a folder's records that hold most of a long input's own
        letters. parts: (fields, the record of each, record and window of each match)."""
        own, size = long.apart(every, records)
        found, how = [], "most of its words"
        for fields, record, matched, window in parts:
            first, source, share = long.coverage(matched, window, own, size)
            copied = share >= MIN_COPIED_SHARE
            found += _listed(matched[first[copied]], source[copied], how)
            last = np.append(first[1:], len(matched))
            for k in np.flatnonzero((share >= MIN_PARTIAL_SHARE) & ~copied):
                i = int(matched[first[k]])
                if self._in_pieces(long, own, window[first[k] : last[k]], fields, record, i):
                    found.append((i, int(source[k]), how))
        return found

    def _in_pieces(
        self,
        long: Windows,
        own: np.ndarray,
        window: np.ndarray,
        fields: Sequence[str],
        record: np.ndarray,
        i: int,
    ) -> bool:
        """Whether what no window covers of an input stands in record i in shorter pieces, so that
        MIN_COPIED_SHARE of its own letters is there."""
        source = int(self.text.field[long.at[window[0]]])
        begin, end = np.searchsorted(self.text.field, [source, source + 1])
        mine = np.diff(own)[begin:end] > 0
        covered = ~mine  # what is fixed needs none
        for at in long.at[window] - begin:
            covered[at : at + long.length] = True
        codes = self.text.codes[begin:end]
        said = _letters_of(fields[slice(*_span(record, i))])
        gaps = np.flatnonzero(np.diff(np.concatenate([[1], covered.astype(int), [1]])))
        least = long.length // 3
        for a, b in zip(gaps[::2], gaps[1::2], strict=True):
            if b - a >= least and codes[a:b].tobytes().decode("utf-32-le") in said:
                covered[a:b] = True
        return bool(covered[mine].sum() >= MIN_COPIED_SHARE * mine.sum())

    def _answered(
        self,
        fields: Sequence[str],
        record: np.ndarray,
        content: np.ndarray,
        of: np.ndarray,
        number: np.ndarray,
    ) -> list:
        """Brief inputs as words of the content of records that have their answer as a whole field,
        and only there."""
        rows: dict[int, list[int]] = {}
        for k, h in enumerate(self.brief_answer.tolist()):
            rows.setdefault(h, []).append(k)
        out = []
        for i, n in {(int(i), int(n)) for i, n in zip(of, number, strict=True)}:
            said = f" {_words(*(fields[j] for j in range(*_span(record, i)) if content[j]))} "
            if len(said) > MAX_READ_LETTERS:
                continue
            for k in rows[int(self.brief_answers.hashes[n])]:
                source = int(self.brief[k])
                question = f" {_words(*self.asked[source].fields)} "
                if question in said and f" {_words(self.answers[k])} " not in said:
                    out.append((i, source, "input beside its answer"))
        return out

    # ---- what needs all training data

    def _rare(self, windows: list[list[tuple]], origin: np.ndarray, records: np.ndarray) -> list:
        """Runs of 13 words that are no boilerplate."""
        out = []
        offset = np.concatenate([[0], np.cumsum(records)])
        task = np.repeat(np.arange(len(records)), records)
        for long, parts in zip(self.long, windows, strict=True):
            if not parts:
                continue
            folder, of, window = (np.concatenate(x) for x in zip(*parts, strict=True))
            everywhere = offset[folder] + of
            both = np.unique(np.stack([long.number[window], everywhere], 1), axis=0)
            common = boilerplate(both[:, 0], both[:, 1], task, origin, records)
            left = ~np.isin(long.number[window], common)
            record, source, letters = long.longest_run(everywhere[left], window[left])
            runs = letters >= long.run
            for r, s in zip(record[runs].tolist(), source[runs].tolist(), strict=True):
                n = int(task[r])
                out.append((n, r - int(offset[n]), s, "shared run of words"))
        return out

    def _no_phrases(self, phrases: list[tuple[int, int, int]], origin: np.ndarray) -> list:
        """Short inputs, those that are a phrase of several origins left out."""
        seen: dict[int, set[int]] = {}
        for n, _, source in phrases:
            seen.setdefault(source, set()).add(int(origin[n]))
        own = {
            source
            for source, origins in seen.items()
            if self.words[source] >= MIN_CERTAIN_WORDS or len(origins) < MIN_PHRASE_ORIGINS
        }
        return [(n, i, source, "short input") for n, i, source in phrases if source in own]


def _span(record: np.ndarray, i: int) -> tuple[int, int]:
    """The first field of record i, and the one behind its last."""
    return int(np.searchsorted(record, i, "left")), int(np.searchsorted(record, i, "right"))


def _listed(record: np.ndarray, source: np.ndarray, how: str) -> list[tuple[int, int, str]]:
    pairs = zip(record.tolist(), source.tolist(), strict=True)
    return [(*pair, how) for pair in dict.fromkeys(pairs)]


def _words(*fields: str) -> str:
    return " ".join(fields).replace("\n", " ")


def _letters_of(fields: Sequence[str]) -> str:
    return FIELD.join(fields).replace(" ", "").replace("\n", "")


def _chunks(folder: Path) -> Iterator[tuple[list[str], np.ndarray, np.ndarray]]:
    """(loose fields that are not empty, the record of each, whether it is content) of a folder's
    texts, whole records at a time."""
    fields: list[str] = []
    record: list[int] = []
    content: list[bool] = []
    room = CHUNK_LETTERS
    for i, parts in enumerate(cache.iterate_texts(folder)):
        for part, of in zip((True, False), parts, strict=True):
            fields += of
            record += [i] * len(of)
            content += [part] * len(of)
            room -= sum(map(len, of))
        if room < 0:
            yield fields, np.array(record), np.array(content)
            fields, record, content, room = [], [], [], CHUNK_LETTERS
    if fields:
        yield fields, np.array(record), np.array(content)
