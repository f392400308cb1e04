# SPDX-License-Identifier: Apache-2.0
"""Which training records hold what evaluation asks: one search, for the build, the audit and `itx eval`.

    every field of a training record: prompts, targets, turns, plain text ──► loose letters (itx/loose.py)
    inputs of evaluation                                                  ──► the same
        equal input                the strict content, or all letters of a field; of brief inputs a content field
        most of its words          MOST of a long input's own letters, in whatever pieces      (itx/data/overlap.py)
        shared run of words        13 words of it in a row, where that is no boilerplate
        short input                4 to 12 words as whole words                                (itx/data/phrases.py)
        input in two parts         the same, a part here and a part there
        input beside its answer    shorter ones
    exemplars, which are training examples of the same task: by their content hashes

Found by construction in these forms; a paraphrase is not. What the search finds is kept in the cache by what it depends
on, so that the audit and a second evaluation do not search again.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from itx import loose, storage
from itx.data import cache
from itx.data.grams import FIELD, Letters, Sought
from itx.data.overlap import COMMON, MOST, SOME, Windows, boilerplate
from itx.data.phrases import ANCHOR, Short, beside_answers, segments
from itx.errors import UserError

SEARCH_VERSION = 1  # raise it when a change in this search alters what is found
LONG_WORDS, SHORT_WORDS = 13, 4
LEAST_LETTERS = 30  # of 13 words; where letters stand alone they are a short input
LONG_LETTERS = 26  # where scripts have no spaces
CERTAIN_WORDS = 8  # shorter inputs may be a phrase that several origins use
PHRASE_ORIGINS = 3
CHUNK_LETTERS = 2_000_000  # of training text at once
LABEL_SHARE = 0.1  # an answer to more of a task's examples is a label, which stands anywhere
READABLE = 400  # letters of a record in which a brief input and its answer are looked for apart
TESTED = ("copies verbatim or in another case, spacing, punctuation or look-alike letters, wrapped, split in two, in "
          "prompts, exemplars, targets, turns and plain text")  # fmt: skip

Hits = dict[int, tuple[str, str]]  # record -> (evaluation task, how)
Found = dict[str, Hits]  # trained variant -> …


@dataclass(frozen=True)
class Asked:
    """An evaluation input in its loose forms, one per field, and its answers'."""

    task: str
    content: int
    fields: tuple[str, ...]
    answers: tuple[str, ...]


class Untestable(UserError):
    """The cache does not hold the texts that were trained on."""


def asked_of(rows: Sequence[dict], cache_dir: str | Path) -> list[Asked]:
    """Everything that is scored, each content once; rows: {"task", "folder"}."""
    out: dict[int, Asked] = {}
    for folder, task in {r["folder"]: r["task"] for r in rows}.items():
        if all(int(h) in out for h in np.unique(cache.Records(Path(cache_dir) / folder).content)):
            continue  # inputs that another row has: the same task in other templates, or the same family
        for e in cache.iterate_examples(Path(cache_dir) / folder):
            content = int(e["content"], 16)
            if content not in out:
                fields = e.get("asked") or e["input_content"].split("\n")
                forms = tuple(f for f in map(loose.loose, fields) if f)
                out[content] = Asked(task, content, forms, tuple(map(loose.loose, e.get("references", ()))))
    return list(out.values())


def scored_rows(lock: dict) -> list[dict]:
    """What a lock's evaluation asks: its rows, and the texts that retention is measured on."""
    return [*lock["evaluation"], *({"task": t["name"], "folder": t["folder"]} for t in lock.get("retention", ()))]


def found(lock: dict, cache_dir: str | Path, rows: Sequence[dict] | None = None) -> Found:
    """The records of each trained variant that `rows` (default: all that the lock scores) ask, exemplars included.

    All renderings of a task hold the same inputs in the same order.
    """
    rows = scored_rows(lock) if rows is None else rows
    where = Path(cache_dir)
    out = _searched(lock, where, rows)
    for task in lock["tasks"]:
        hits = out[task["name"]]
        content = cache.Records(where / task["folders"][0]).content
        # exemplars are training examples of the same task: a record that shows a leaking one leaks too
        leaking = {int(content[i]): row for i, (row, _) in hits.items()}
        for folder in task["folders"] if leaking else ():
            exemplars = cache.Records(where / folder).exemplars
            for i in np.flatnonzero(np.isin(exemplars, np.array(list(leaking), np.uint64)).any(1)):
                shown = next(int(h) for h in exemplars[i] if int(h) in leaking)
                hits.setdefault(int(i), (leaking[shown], "in an exemplar"))
    return out


def _searched(lock: dict, where: Path, rows: Sequence[dict]) -> Found:
    """What is in the records themselves, from the cache where this very search was done before."""
    trained = [[t["name"], cache.manifest_hash(where / t["folders"][0])] for t in lock["tasks"]]
    scored = sorted({(r["task"], cache.manifest_hash(where / r["folder"])) for r in rows})
    digest = hashlib.sha256(json.dumps([SEARCH_VERSION, trained, scored]).encode()).hexdigest()[:16]
    kept = where / "leaks" / f"{digest}.json"
    if not kept.is_file():
        hits = search([(t["name"], where / t["folders"][0]) for t in lock["tasks"]], asked_of(rows, where))
        storage.write_json(kept, {name: [[i, *how] for i, how in sorted(of.items())] for name, of in hits.items()})
    return {name: {i: (task, how) for i, task, how in of} for name, of in storage.read_json(kept).items()}


def search(trained: Sequence[tuple[str, Path]], asked: Sequence[Asked]) -> Found:
    """The search itself. trained: (variant, its folder); variants whose texts are the same are read once."""
    alike: dict[str, list[tuple[str, Path]]] = {}
    for name, folder in trained:
        files = cache.read_manifest(folder)["files"]
        if cache.TEXTS not in files:
            raise Untestable(f"{folder} has no {cache.TEXTS}, for an earlier itx made it")
        alike.setdefault(files[cache.TEXTS], []).append((name, folder))
    finder = Finder(asked)
    by_text = finder.hits([folder for (_, folder), *_ in alike.values()])
    strict = {a.content: a.task for a in asked}
    known = np.array(sorted(strict), np.uint64)
    out: Found = {}
    for same, hits in zip(alike.values(), by_text, strict=True):
        for name, folder in same:
            content = cache.Records(folder).content
            equal = {int(i): (strict[int(content[i])], "equal input") for i in np.flatnonzero(np.isin(content, known))}
            out[name] = {**hits, **equal}
    return {name: out[name] for name, _ in trained}


def origins(folders: Sequence[Path]) -> np.ndarray:
    """int [folders], one number for all that share a data set; those that name none count as one."""
    group: dict[str, int] = {}
    of = [cache.read_manifest(f).get("origin") or ["(none named)"] for f in folders]
    for n, names in enumerate(of):
        old = {group[x] for x in names if x in group}
        group |= {x: n for x in [*names, *(x for x, g in group.items() if g in old)]}
    return np.array([group[names[0]] for names in of], np.int64)


class Finder:
    """Evaluation inputs, sorted by how they can be found."""

    def __init__(self, asked: Sequence[Asked]):
        unique: dict[str, Asked] = {}
        ambiguous: set[str] = set()  # inputs that differ in nothing but marks, as rows of brackets do
        for a in asked:
            letters = "".join(a.fields).replace(" ", "").replace("\n", "")
            if letters in unique and unique[letters].task == a.task and unique[letters].content != a.content:
                ambiguous.add(letters)
            unique.setdefault(letters, a)
        self.asked = [a for letters, a in unique.items() if letters and letters not in ambiguous]
        sizes = [loose.size("\n".join(a.fields)) for a in self.asked]
        words, letters, unspaced = (
            np.array([s[i] for s in sizes], t) for i, t in ((0, np.int64), (1, np.int64), (2, bool))
        )
        least = np.where(unspaced, ANCHOR[True], ANCHOR[False])
        long = np.where(unspaced, letters >= LONG_LETTERS, (words >= LONG_WORDS) & (letters >= LEAST_LETTERS))
        brief = (letters < least) | (~unspaced & (words < SHORT_WORDS))
        self.words, self.is_brief = words, brief
        text = Letters.of(["\n".join(a.fields) for a in self.asked])
        tasks = {t: i for i, t in enumerate(dict.fromkeys(a.task for a in self.asked))}
        task = np.array([tasks[a.task] for a in self.asked], np.int64)
        groups = [u for u in (False, True) if (unspaced == u).any()]
        self.long = [
            Windows.of(text, long & (unspaced == u), task, u) for u in groups if (long & (unspaced == u)).any()
        ]
        short = ~long & ~brief
        self.short = [
            Short.of(text, np.flatnonzero(short & (unspaced == u)), u)
            for u in groups
            if (short & (unspaced == u)).any()
        ]
        starts = np.flatnonzero(np.diff(text.field, prepend=-1))
        ends = np.append(starts[1:], len(text))
        whole = text.hashes(starts, ends - starts) if len(starts) else np.zeros(0, np.uint64)
        order = np.argsort(whole)
        self.whole, self.whole_input = Sought(whole), order
        self.text = text
        self._brief(np.flatnonzero(brief), whole)

    def _brief(self, brief: np.ndarray, whole: np.ndarray) -> None:
        """Brief inputs with each answer that is no label."""
        times: dict[tuple[str, str], int] = {}
        of_task: dict[str, int] = {}
        for a in self.asked:
            of_task[a.task] = of_task.get(a.task, 0) + 1
            for answer in set(a.answers):
                times[a.task, answer] = times.get((a.task, answer), 0) + 1
        rows = [
            (int(i), answer) for i in brief for answer in dict.fromkeys(self.asked[i].answers)
            if answer and _letters_of([answer]) != _letters_of(self.asked[i].fields) and times[self.asked[i].task, answer] <= max(1, LABEL_SHARE * of_task[self.asked[i].task])
        ]  # fmt: skip
        answers = Letters.of([answer for _, answer in rows])
        starts = np.flatnonzero(np.diff(answers.field, prepend=-1))
        self.brief = np.array([i for i, _ in rows], np.int64)
        self.brief_input = whole[self.brief] if len(rows) else np.zeros(0, np.uint64)
        ends = np.append(starts[1:], len(answers))
        self.brief_answer = answers.hashes(starts, ends - starts) if len(rows) else np.zeros(0, np.uint64)
        self.brief_answers, self.answers = Sought(self.brief_answer), [answer for _, answer in rows]

    # ---- the training side -------------------------------------------------------------------------

    def hits(self, folders: Sequence[Path]) -> list[Hits]:
        """Of each folder's texts."""
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
                    kept.append((fields, record, *long.matches(text, np.flatnonzero(text.word), record)))
            for long, parts, kept in zip(self.long, own, windows, strict=True):
                of, window = (np.concatenate([p[i] for p in parts]) if parts else np.zeros(0, np.int64) for i in (2, 3))
                sure += [(n, *m) for m in self._most(long, parts, window, int(records[n]))]
                kept.append((np.full(len(of), n), of, window))
        origin = origins(folders)
        sure += self._rare(windows, origin, records)
        sure += self._no_phrases(phrases, origin)
        out: list[Hits] = [{} for _ in folders]
        for n, i, source, how in sure:
            out[n].setdefault(i, (self.asked[source].task, how))
        return out

    def _chunk(
        self, fields: Sequence[str], text: Letters, record: np.ndarray, content: np.ndarray
    ) -> tuple[list, list]:
        """([(record, input, how)], [(record, input)] of what may be phrases) of some records; long inputs apart."""
        starts = np.flatnonzero(text.word)
        sure = []
        begins = np.flatnonzero(np.diff(text.field, prepend=-1))
        whole = text.hashes(begins, np.append(begins[1:], len(text)) - begins) if len(begins) else begins
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
            often = np.bincount(number, minlength=len(self.brief_answers)) > COMMON  # labels of the training data
            use = ~content[place] & ~often[number]
            sure += self._answered(fields, record, content, record[place[use]], number[use])
        return sure, phrases

    def _most(self, long: Windows, parts: list[tuple], window: np.ndarray, records: int) -> list:
        """[(record, input, how)] of a folder's records that hold most of a long input's own letters."""
        own, size = long.apart(window, records)
        found = []
        for fields, record, of, matched in parts:
            first, source, share = long.coverage(of, matched, own, size)
            found += _listed(of[first[share >= MOST]], source[share >= MOST], "most of its words")
            for k in np.flatnonzero((share >= SOME) & (share < MOST)):
                stop = first[k + 1] if k + 1 < len(first) else len(of)
                if self._in_pieces(long, own, matched[first[k] : stop], fields, record, int(of[first[k]])):
                    found.append((int(of[first[k]]), int(source[k]), "most of its words"))
        return found

    def _in_pieces(
        self, long: Windows, own: np.ndarray, window: np.ndarray, fields: Sequence[str], record: np.ndarray, i: int
    ) -> bool:
        """Whether what no window covers stands in the record in shorter pieces, so that MOST is there."""
        source = int(self.text.field[long.at[window[0]]])
        begin, end = np.searchsorted(self.text.field, [source, source + 1])
        mine = np.diff(own)[begin:end] > 0
        covered = ~mine  # what is fixed needs none
        for at in long.at[window] - begin:
            covered[at : at + long.length] = True
        codes = self.text.codes[begin:end]
        said = _letters_of(fields[np.searchsorted(record, i, "left") : np.searchsorted(record, i, "right")])
        edges = np.flatnonzero(np.diff(np.concatenate([[1], covered.astype(int), [1]])))
        least = long.length // 3
        for a, b in zip(edges[::2], edges[1::2], strict=True):
            if b - a >= least and codes[a:b].tobytes().decode("utf-32-le") in said:
                covered[a:b] = True
        return bool(covered[mine].sum() >= MOST * mine.sum())

    def _answered(
        self, fields: Sequence[str], record: np.ndarray, content: np.ndarray, of: np.ndarray, number: np.ndarray
    ) -> list:
        """Brief inputs as words of the content of records that have their answer as a whole field, and only there."""
        rows: dict[int, list[int]] = {}
        for k, h in enumerate(self.brief_answer.tolist()):
            rows.setdefault(h, []).append(k)
        out = []
        for i, n in {(int(i), int(n)) for i, n in zip(of, number, strict=True)}:
            first, last = np.searchsorted(record, i, "left"), np.searchsorted(record, i, "right")
            said = f" {' '.join(fields[j] for j in range(first, last) if content[j])} ".replace("\n", " ")
            if len(said) > READABLE:
                continue
            for k in rows[int(self.brief_answers.hashes[n])]:
                source = int(self.brief[k])
                if f" {_words(*self.asked[source].fields)} " in said and f" {_words(self.answers[k])} " not in said:
                    out.append((i, source, "input beside its answer"))
        return out

    # ---- what needs all training data --------------------------------------------------------------

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
            for r, s in zip(record[letters >= long.run].tolist(), source[letters >= long.run].tolist(), strict=True):
                n = int(task[r])
                out.append((n, r - int(offset[n]), s, "shared run of words"))
        return out

    def _no_phrases(self, phrases: list[tuple[int, int, int]], origin: np.ndarray) -> list:
        """Short inputs, those that are a phrase of several origins left out."""
        seen: dict[int, set[int]] = {}
        for n, _, source in phrases:
            seen.setdefault(source, set()).add(int(origin[n]))
        return [
            (n, i, source, "short input") for n, i, source in phrases
            if self.words[source] >= CERTAIN_WORDS or len(seen[source]) < PHRASE_ORIGINS
        ]  # fmt: skip


def _listed(record: np.ndarray, source: np.ndarray, how: str) -> list[tuple[int, int, str]]:
    return [(r, s, how) for r, s in dict.fromkeys(zip(record.tolist(), source.tolist(), strict=True))]


def _words(*fields: str) -> str:
    return " ".join(fields).replace("\n", " ")


def _letters_of(fields: Sequence[str]) -> str:
    return FIELD.join(fields).replace(" ", "").replace("\n", "")


def _chunks(folder: Path) -> Iterator[tuple[list[str], np.ndarray, np.ndarray]]:
    """(loose fields that are not empty, the record of each, whether it is content) of a folder's texts, whole records at
    a time."""
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
