# SPDX-License-Identifier: Apache-2.0
"""What answers without a model score: the commonest training answer, and the nearest training
neighbour's.

A task where either scores above 0.5 (corrected for the number of options) is easy: a model that
does well on it has not shown that it follows the instruction.
"""

from functools import lru_cache

import numpy as np

from itx import text
from itx.eval import metrics, stats, summary

# counts changes of what this file computes: results are kept in the cache (itx/audit/audit.py)
VERSION = 2
# beside words: runs of this many characters, so that numbers and cut words have neighbours
CHARACTERS = 3


def of_task(row: dict, train: list[dict], test: list[dict], easy: float, most: int) -> dict | None:
    """{"commonest", "neighbour": corrected scores, "examples", "easy": why or ""}; None without
    data.

    A small test set is filled up to `most` with training examples, whose neighbours are the others.
    """
    if len(train) < 2 or not test:
        return None
    own = [-1] * len(test) + list(range(len(train)))
    test = [*test, *train][:most]
    judge, references = metrics.of_row(row), [e["references"] for e in test]
    chance = float(np.mean([1 / len(e["options"]) if e["options"] else 0.0 for e in test]))
    constant = summary.commonest([e["references"][0] for e in train])
    asked = tuple(e["input_content"] for e in test)
    near = nearest(tuple(e["input_content"] for e in train), asked, tuple(own[: len(test)]))
    copied = [train[i]["references"][0] for i in near]
    scores = {
        "commonest": metrics.of_answers(judge, references, [constant] * len(test)),
        "neighbour": metrics.of_answers(judge, references, copied),
    }
    out = {k: stats.corrected(v, chance) for k, v in scores.items()}
    why = {
        "commonest": f"always “{constant}” scores",
        "neighbour": "the nearest training example's answer scores",
    }
    best = max(out, key=out.__getitem__)
    reason = f"{why[best]} {out[best]:.2f} corrected" if out[best] > easy else ""
    return {**out, "examples": len(test), "training_examples": len(train), "easy": reason}


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
