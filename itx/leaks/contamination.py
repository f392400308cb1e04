# SPDX-License-Identifier: Apache-2.0
"""Which training records hold what evaluation asks: one search, for the build, the audit and `itx
eval`.

    every field of a training record: prompts, targets, turns, plain text ──► loose letters
    (itx/leaks/loose.py)
    inputs of evaluation                                                  ──► the same
        equal input                the strict content, or all letters of a field; of brief inputs a
                                   content field
        most of its words          MOST of a long input's own letters, in whatever pieces
                                   (itx/leaks/overlap.py)
        shared run of words        13 words of it in a row, where that is no boilerplate
        short input                4 to 12 words as whole words
                                   (itx/leaks/phrases.py)
        input in two parts         the same, a part here and a part there
        input beside its answer    shorter ones
    exemplars, which are training examples of the same task: by their content hashes

Found by construction in these forms; a paraphrase is not. What the search finds is kept in the
cache by what it depends on, so that the audit and a second evaluation do not search again.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from itx import storage
from itx.data import cache
from itx.errors import UserError
from itx.leaks import loose
from itx.leaks.finder import SHORT_WORDS, Asked, Finder

SEARCH_VERSION = 2  # raise it when a change in this search alters what is found
TESTED = ("copies verbatim or in another case, spacing, punctuation or look-alike letters, wrapped, split in two, in "
          "prompts, exemplars, targets, turns and plain text")  # fmt: skip

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
    forms = tuple(f for f in map(loose.loose, fields) if f)
    known = tuple(map(loose.loose, answers))
    out = [Asked(task, content, forms, known)]
    if loose.size(" ".join(forms))[0] >= SHORT_WORDS and any(map(loose.without_marks, fields)):
        out.append(
            Asked(
                task,
                content,
                tuple(f for f in (loose.without_marks(x) or loose.loose(x) for x in fields) if f),
                known,
            )
        )
    return out


def scored_rows(lock: dict) -> list[dict]:
    """What a lock's evaluation asks: its rows, and the texts that retention is measured on."""
    return [
        *lock["evaluation"],
        *({"task": t["name"], "folder": t["folder"]} for t in lock.get("retention", ())),
    ]


def found(lock: dict, cache_dir: str | Path, rows: Sequence[dict] | None = None) -> Found:
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


def _searched(lock: dict, where: Path, rows: Sequence[dict]) -> Found:
    """What is in the records themselves, from the cache where this very search was done before."""
    trained = [[t["name"], cache.manifest_hash(where / t["folders"][0])] for t in lock["tasks"]]
    scored = sorted({(r["task"], cache.manifest_hash(where / r["folder"])) for r in rows})
    digest = hashlib.sha256(json.dumps([SEARCH_VERSION, trained, scored]).encode()).hexdigest()[:16]
    kept = where / "leaks" / f"{digest}.json"
    if not kept.is_file():
        hits = search(
            [(t["name"], where / t["folders"][0]) for t in lock["tasks"]], asked_of(rows, where)
        )
        storage.write_json(
            kept, {name: [[i, *how] for i, how in sorted(of.items())] for name, of in hits.items()}
        )
    return {
        name: {i: (task, how) for i, task, how in of}
        for name, of in storage.read_json(kept).items()
    }


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
    """Of each variant (record, content of an evaluation input, how), equal inputs first; variants
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
    lock: dict, cache_dir: str | Path, rows: Sequence[dict], most: int = 0
) -> dict[str, float]:
    """Of each evaluation row the share of its first `most` contents (0: of all) that a record holds
    which the lock trains on, exemplars included; rows may be such as the lock does not know.
    `Untestable` where the cache cannot tell."""
    where = Path(cache_dir)
    asked = asked_of(rows, where)
    finder = Finder(asked)
    seen: set[int] = set()
    every = matches([(t["name"], where / t["folders"][0]) for t in lock["tasks"]], finder, asked)
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
        contents = list(dict.fromkeys(cache.Records(where / row["folder"]).content.tolist()))[
            : most or None
        ]
        out[row["name"]] = sum(c in seen or finder.same.get(c) in seen for c in contents) / max(
            1, len(contents)
        )
    return out
