# SPDX-License-Identifier: Apache-2.0
"""Which training records hold what evaluation asks: one search, for the build, the audit and `itx
eval`.

    every field of a training record: prompts, targets, turns, plain text, and the inputs of
    evaluation, become loose letters (itx/leaks/loose.py). An input is found in a record as

        equal input                the strict content, or all letters of a field; a brief input
                                   only as a content field
        most of its words          most of a long input's own letters (MIN_COPIED_SHARE), in
                                   whatever pieces (itx/leaks/overlap.py)
        shared run of words        13 words of it in a row, where that is no boilerplate
        short input                4 to 12 words as whole words (itx/leaks/phrases.py)
        input in two parts         the same, a part here and a part there
        input beside its answer    shorter ones

    exemplars, which are training examples of the same task, are found by their content hashes.

Found by construction in these forms; a paraphrase is not. What the search finds is kept in the
cache by what it depends on, so that the audit and a second evaluation do not search again.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from itx import hashing, storage
from itx.data import cache
from itx.data.types import Lock
from itx.errors import UserError
from itx.leaks import loose
from itx.leaks.finder import MIN_SHORT_WORDS, Asked, Finder

SEARCH_VERSION = 2  # raise it when a change in this search alters what is found
TESTED = (
    "copies verbatim or in another case, spacing, punctuation or look-alike letters, wrapped, "
    "split in two, in prompts, exemplars, targets, turns and plain text"
)

Match = tuple[int, int, str]  # record, content of the evaluation input, how
Hits = dict[int, tuple[str, str]]  # record -> (evaluation task, how)
Found = dict[str, Hits]  # trained variant -> …


class Untestable(UserError):
    """The cache does not hold the texts that were trained on."""


def asked_of(rows: Sequence[dict], cache_dir: str | Path) -> list[Asked]:
    """Everything that is scored, each content once; rows: {"task", "folder"}."""
    out: dict[int, list[Asked]] = {}
    for folder, task in {r["folder"]: r["task"] for r in rows}.items():
        if all(int(h) in out for h in np.unique(cache.Records(Path(cache_dir) / folder).content)):
            # inputs that another row has: the same task in other templates, or the same family
            continue
        for e in cache.iterate_examples(Path(cache_dir) / folder):
            content = int(e["content"], 16)
            if content not in out:
                fields = e.get("asked") or e["input_content"].split("\n")
                out[content] = spellings(task, content, fields, e.get("references", ()))
    return [asked for several in out.values() for asked in several]


def spellings(
    task: str, content: int, fields: Sequence[str], answers: Sequence[str] = ()
) -> list[Asked]:
    """An input in its loose form and, where that has other letters, in that of a copy without marks
    (`3.50`, `350`)."""
    known = tuple(map(loose.loose, answers))

    def asked(forms: Iterable[str]) -> Asked:
        return Asked(task, content, tuple(filter(None, forms)), known)

    out = [asked(map(loose.loose, fields))]
    unmarked = list(map(loose.without_marks, fields))
    if any(unmarked) and loose.size(" ".join(out[0].fields))[0] >= MIN_SHORT_WORDS:
        out.append(asked(u or loose.loose(f) for u, f in zip(unmarked, fields, strict=True)))
    return out


def scored_rows(lock: Lock) -> list[dict]:
    """What a lock's evaluation asks: its rows, and the texts that retention is measured on."""
    texts = lock.get("retention", ())
    return [
        *lock["evaluation"],
        *lock.get("dev", []),
        *({"task": t["name"], "folder": t["folder"]} for t in texts),
    ]


def found(lock: Lock, cache_dir: str | Path, rows: Sequence[dict] | None = None) -> Found:
    """The records of each trained variant that `rows` (default: all that the lock scores) ask,
    exemplars included.

    All renderings of a task hold the same inputs in the same order.
    """
    rows = scored_rows(lock) if rows is None else rows
    where = Path(cache_dir)
    out = _searched(lock, where, rows)
    for task in lock["tasks"]:
        hits = out[task["name"]]
        content = cache.Records(where / task["folders"][0]).content
        # exemplars are training examples of the same task: a record that shows a leaking one leaks
        # too
        leaking = {int(content[i]): row for i, (row, _) in hits.items()}
        for folder in task["folders"] if leaking else ():
            exemplars = cache.Records(where / folder).exemplars
            for i in np.flatnonzero(np.isin(exemplars, np.array(list(leaking), np.uint64)).any(1)):
                shown = next(int(h) for h in exemplars[i] if int(h) in leaking)
                hits.setdefault(int(i), (leaking[shown], "in an exemplar"))
    return out


def _searched(lock: Lock, where: Path, rows: Sequence[dict]) -> Found:
    """The hits in the records themselves; the cache keeps them for the next such search."""
    trained = [[t["name"], cache.manifest_hash(where / t["folders"][0])] for t in lock["tasks"]]
    scored = sorted({(r["task"], cache.manifest_hash(where / r["folder"])) for r in rows})
    key = hashing.digest(json.dumps([SEARCH_VERSION, trained, scored]))
    file = where / "leaks" / f"{key}.json"
    if not file.is_file():
        found = search(first_folders(lock, where), asked_of(rows, where))
        lines = {name: [[i, *hit] for i, hit in sorted(h.items())] for name, h in found.items()}
        storage.write_json(file, lines)
    lines = storage.read_json(file)
    return {name: {i: (task, how) for i, task, how in hits} for name, hits in lines.items()}


def first_folders(lock: Lock, cache_dir: Path) -> list[tuple[str, Path]]:
    """(variant, the folder of its first rendering) of each trained task."""
    return [(t["name"], cache_dir / t["folders"][0]) for t in lock["tasks"]]


def search(trained: Sequence[tuple[str, Path]], asked: Sequence[Asked]) -> Found:
    """The search itself. trained: (variant, its folder)."""
    task = {a.content: a.task for a in asked}
    out: Found = {}
    for name, hits in matches(trained, Finder(asked), asked).items():
        out[name] = {}
        for i, content, how in hits:
            out[name].setdefault(i, (task[content], how))
    return out


def matches(
    trained: Sequence[tuple[str, Path]], finder: Finder, asked: Sequence[Asked]
) -> dict[str, list[Match]]:
    """{variant: (record, content of an evaluation input, how), …}, equal inputs first; variants
    whose texts are the same are read once."""
    alike: dict[str, list[tuple[str, Path]]] = {}
    for name, folder in trained:
        if not folder.is_dir():
            raise Untestable(f"{folder} is not there")
        files = cache.read_manifest(folder)["files"]
        if cache.TEXTS not in files:
            raise Untestable(f"{folder} has no {cache.TEXTS}, for an earlier itx made it")
        alike.setdefault(files[cache.TEXTS], []).append((name, folder))
    by_text = finder.matches([folder for (_, folder), *_ in alike.values()])
    known = np.array(sorted({a.content for a in asked}), np.uint64)
    out = {}
    for same, hits in zip(alike.values(), by_text, strict=True):
        for name, folder in same:
            content = cache.Records(folder).content
            equal = np.flatnonzero(np.isin(content, known)).tolist()
            out[name] = [*((i, int(content[i]), "equal input") for i in equal), *hits]
    return {name: out[name] for name, _ in trained}


def trained_on(
    lock: Lock, cache_dir: str | Path, rows: Sequence[dict], most: int = 0
) -> dict[str, float]:
    """{row: the share of its first `most` contents (0: of all) that a record holds which the lock
    trains on, exemplars included}; the lock need not know the rows. `Untestable` where the cache
    cannot tell."""
    where = Path(cache_dir)
    asked = asked_of(rows, where)
    finder = Finder(asked)
    seen: set[int] = set()
    every = matches(first_folders(lock, where), finder, asked)
    for task in lock["tasks"]:
        content = cache.Records(where / task["folders"][0]).content
        shown = [np.zeros(0, np.uint64)]
        for folder, left_out in zip(task["folders"], task["excluded"], strict=True):
            exemplars = cache.Records(where / folder).exemplars
            shown.append(np.delete(exemplars, left_out, 0).reshape(-1))
        shown = set(np.unique(np.concatenate(shown)).tolist())
        gone = set.intersection(*map(set, task["excluded"]))
        seen |= {c for i, c, _ in every[task["name"]] if i not in gone or int(content[i]) in shown}
    out = {}
    for row in rows:
        content = cache.Records(where / row["folder"]).content.tolist()
        contents = list(dict.fromkeys(content))[: most or None]
        trained = sum(c in seen or finder.same.get(c) in seen for c in contents)
        out[row["name"]] = trained / max(1, len(contents))
    return out
