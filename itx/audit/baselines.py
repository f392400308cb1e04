# SPDX-License-Identifier: Apache-2.0
"""What answers without a model score: the commonest training answer, and the nearest training
neighbour's.

A task where either scores above MIN_EASY_SCORE (corrected for the number of options) is easy: a
model that does well on it has not shown that it follows the instruction.
"""

import json
from functools import lru_cache
from pathlib import Path
from typing import TypedDict

import numpy as np

from itx import hashing, storage, text
from itx.data import cache
from itx.data.types import EvalRow, Lock
from itx.eval import metrics, stats
from itx.eval.chance import commonest
from itx.tasks import fingerprint

VERSION = 2  # raise it when what this file computes changes: results are kept in the cache
MAX_EXAMPLES = 200  # of each task
MIN_EASY_SCORE = 0.5
# beside words: runs of this many characters, so that numbers and cut words have neighbours
CHARACTERS = 3


class Baseline(TypedDict):
    commonest: float  # these two are scores corrected for chance
    neighbour: float
    examples: int
    training_examples: int
    easy: str  # why, or ""


def of_lock(lock: Lock, cache_dir: Path) -> dict[str, Baseline]:
    """{task: baselines} of every trained task that has an evaluation row of its own and examples.

    They are kept in the cache by what they depend on: a run that goes on need not wait for them.
    """
    folders = {t["name"]: t["folders"][0] for t in lock["tasks"]}
    baselines: dict[str, Baseline | None] = {}
    for row in lock["evaluation"]:
        task, trained = row["task"], folders.get(row["variant"])
        if row["group"] != "instances" or task in baselines or not trained:
            continue
        metric = metrics.of_row(row)
        judge = fingerprint.of_function(metrics.per_example(metric))
        parts = [VERSION, trained, row["folder"], row["primary"], metric, judge]
        parts += [MIN_EASY_SCORE, MAX_EXAMPLES]
        key = hashing.digest(json.dumps(parts))
        file = cache_dir / "baselines" / f"{key}.json"
        if not file.is_file():
            test = {e["id"]: e for e in cache.iterate_examples(cache_dir / row["folder"])}
            train = list(cache.iterate_examples(cache_dir / trained))
            measured = of_task(row, train, list(test.values()), MIN_EASY_SCORE, MAX_EXAMPLES)
            storage.write_json(file, measured)
        baselines[task] = storage.read_json(file)
    return {task: baseline for task, baseline in baselines.items() if baseline}


def of_task(
    row: EvalRow, train: list[dict], test: list[dict], easy: float, most: int
) -> Baseline | None:
    """None without data. A small test set is filled up to `most` examples with training examples,
    whose neighbours are the others."""
    if len(train) < 2 or not test:
        return None
    own = [-1] * len(test) + list(range(len(train)))
    test = [*test, *train][:most]
    judge, references = metrics.of_row(row), [e["references"] for e in test]
    chance = float(np.mean([1 / len(e["options"]) if e["options"] else 0.0 for e in test]))
    constant = commonest([e["references"][0] for e in train])
    near = nearest(
        tuple(e["input_content"] for e in train),
        tuple(e["input_content"] for e in test),
        tuple(own[: len(test)]),
    )
    answers = {
        "commonest": [constant] * len(test),
        "neighbour": [train[i]["references"][0] for i in near],
    }
    scores = {
        kind: stats.corrected(metrics.of_answers(judge, references, said), chance)
        for kind, said in answers.items()
    }
    why = {
        "commonest": f"always “{constant}” scores",
        "neighbour": "the nearest training example's answer scores",
    }
    best = max(scores, key=scores.__getitem__)
    reason = f"{why[best]} {scores[best]:.2f} corrected" if scores[best] > easy else ""
    return {**scores, "examples": len(test), "training_examples": len(train), "easy": reason}


def features(content: str) -> set[str]:
    """The words of a text and its runs of three characters."""
    plain = text.normalise(content)
    return {*text.words(plain), *("\x00" + "".join(g) for g in text.ngrams(plain, CHARACTERS))}


@lru_cache(maxsize=32)  # tasks of one family have the same inputs
def nearest(train: tuple[str, ...], test: tuple[str, ...], own: tuple[int, ...]) -> np.ndarray:
    """For each test text the training text that shares most with it (Jaccard; of equals the first).

    Args:
        own: where the test text is a training text, its place there, which does not count; else -1.
    """
    from scipy.sparse import csr_array

    columns: dict[str, int] = {}
    asked = [features(t) for t in test]
    for f in asked:
        for x in f:
            columns.setdefault(x, len(columns))
    known = [features(t) for t in train]

    def matrix(sets: list[set[str]]) -> csr_array:
        cells = [[columns[x] for x in s if x in columns] for s in sets]
        starts = np.cumsum([0, *map(len, cells)])
        flat = np.array([c for row in cells for c in row], np.int64)
        return csr_array(
            (np.ones(len(flat), np.float32), flat, starts), (len(sets), max(1, len(columns)))
        )

    common = (matrix(asked) @ matrix(known).T).toarray()
    union = (
        np.array([len(s) for s in asked])[:, None]
        + np.array([len(s) for s in known])[None]
        - common
    )
    like = common / np.maximum(union, 1)
    for i, place in enumerate(own):
        if place >= 0:
            like[i, place] = -1.0
    return np.argmax(like, axis=1)
