# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a row beside others: it stands there twice, almost twice, or it holds what an
evaluation asks."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from itx.create.novelty import Pool
from itx.create.row import Row
from itx.data import cache
from itx.eval import rouge
from itx.leaks import contamination
from itx.leaks.finder import Asked
from itx.prepare import exclude

MAX_ALIKE = 0.85  # ROUGE-L of whole rows, from which they are near duplicates
ORIGIN = "created"


class Duplicates:
    """The rows so far, and which of them a new one repeats: exactly (the same words) or almost (the
    same words in the same order but for one in seven). Decisions are exact (novelty.py)."""

    def __init__(self, alike: float = MAX_ALIKE) -> None:
        self._seen: dict[tuple[str, ...], str] = {}
        self._pool = Pool(alike)
        self._names: list[str] = []  # the row of each entry of the pool
        self._rows = 0

    def __call__(self, row: Row, name: str = "") -> dict[str, str]:
        """{"duplicate": …} or {"near duplicate": …}, with the name of the row that was first, or
        its number; {} and the row is remembered."""
        name, self._rows = name or f"row {self._rows}", self._rows + 1
        words = tuple(rouge.words(row.whole))
        if words in self._seen:
            return {"duplicate": f"of {self._seen[words]}"}
        near = self._pool.admit(row.whole)
        if near is not None:
            first = self._names[near.index]
            return {"near duplicate": f"of {first}, ROUGE-L {near.likeness:.2f}"}
        self._seen[words] = name
        self._names.append(name)
        return {}


def leaks(rows: Sequence[Row], asked: Sequence[Asked]) -> dict[int, str]:
    """{row: which task asks it, and how it was found}, by the search that a build leaves records
    out by (itx/leaks). `contamination.asked_of` gives what a lock's evaluation asks."""
    if not rows or not asked:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / ORIGIN
        _write(place, [exclude.texts(r.texts[:2], r.texts[2]) for r in rows])
        hits = contamination.search([(ORIGIN, place)], asked)[ORIGIN]
    return {i: f"{task}: {how}" for i, (task, how) in sorted(hits.items())}


def _write(folder: Path, texts: list[cache.Texts]) -> None:
    """A folder of a cache that holds texts to be searched, and two tokens for each in place of a
    record."""
    columns = cache.Columns.of(
        [[([1], False), ([2], True)]] * len(texts),
        # contents by which no row is known to an evaluation
        list(range(1, len(texts) + 1)),
        [0] * len(texts),
        vocab_size=3,
    )
    nameless = dict.fromkeys(("task", "variant", "split", "key", "vocabulary", "cluster"), "")
    counts = {"read": len(texts), "kept": len(texts), "skipped": {}}
    manifest = {**nameless, "rendering": 0, "templates": [""], "examples": len(texts)}
    cache.write(folder, columns, {**manifest, "audit": counts, "origin": [ORIGIN]}, [], texts)
