# SPDX-License-Identifier: Apache-2.0
"""How far two people agree on the rows that both judged, from their patches.

categories   accept, reject, fix. Rows that are only tagged, and new pairs, were not judged by both
agreement    share of the rows with the same verdict
kappa        (agreement - expected) / (1 - expected), expected from each one's own shares of the
             verdicts (Cohen, 1960): 0 by chance
AC1          the same with another chance, sum p (1 - p) / (categories - 1) over the mean shares
             (Gwet, 2008): kappa falls where nearly all rows have one verdict, AC1 does not
interval     95 %, the bootstrap over rows
"""

from typing import Any

import numpy as np

from itx.errors import UserError
from itx.eval import stats
from itx.prepare.patches import Entry, Patch

JUDGED = ("accept", "reject", "fix")
MOST_SHOWN = 50  # rows that they disagree about


def facts(one: Patch, other: Patch) -> dict[str, Any]:
    """{"rows", "only": [rows that one alone judged, …], "table", "agreement", "kappa", "ac1",
    "same_fix", "fixed_by_both", "tags": {tag: [rows of one, of the other, of both]},
    "disagree": […]}; UserError where no row was judged by both."""
    first, second = _judged(one), _judged(other)
    both = [key for key in first if key in second]
    if not both:
        raise UserError(
            f"{one.file} and {other.file} have judged no row in common; a row that has changed in "
            "between is another row"
        )
    pairs = np.array(
        [(JUDGED.index(first[k].verdict), JUDGED.index(second[k].verdict)) for k in both]
    )
    table = np.zeros((len(JUDGED), len(JUDGED)), int)
    np.add.at(table, tuple(pairs.T), 1)
    fixed = [k for k in both if first[k].verdict == second[k].verdict == "fix"]
    apart = [k for k in both if first[k].verdict != second[k].verdict]
    return {
        "files": [one.file, other.file],
        "editors": [str(p.head.get("editor", "")) for p in (one, other)],
        "rows": len(both),
        "only": [len(first) - len(both), len(second) - len(both)],
        "verdicts": list(JUDGED),
        "table": table.tolist(),
        **_measures(table),
        "fixed_by_both": len(fixed),
        "same_fix": sum(first[k].changes == second[k].changes for k in fixed),
        "tags": _tags([first[k] for k in both], [second[k] for k in both]),
        "apart": len(apart),
        "disagree": [_apart(first[k], second[k]) for k in apart[:MOST_SHOWN]],
    }


def _judged(patch: Patch) -> dict[tuple[str, str], Entry]:
    return {(e.task, e.row): e for e in patch.entries if e.verdict in JUDGED}


def _apart(first: Entry, second: Entry) -> dict[str, Any]:
    said = [first.verdict, second.verdict]
    return {"task": first.task, "id": first.id, "content": first.content, "verdicts": said}


def _tags(first: list[Entry], second: list[Entry]) -> dict[str, list[int]]:
    found = {}
    for tag in sorted({t for e in (*first, *second) for t in e.tags}):
        own, others = ([tag in e.tags for e in side] for side in (first, second))
        shared = sum(a and b for a, b in zip(own, others, strict=True))
        found[tag] = [sum(own), sum(others), shared]
    return found


def of_tables(counts: np.ndarray) -> dict[str, np.ndarray]:
    """{"agreement", "kappa", "ac1"}, each float [tables], of int [tables, categories, categories].
    Where chance leaves no room (each gave one verdict, the same), full agreement is 1."""
    shares = counts / counts.sum((1, 2), keepdims=True)
    agreement = np.trace(shares, axis1=1, axis2=2)
    rows, columns = shares.sum(2), shares.sum(1)
    mean = (rows + columns) / 2
    found = {"agreement": agreement}
    chances = {
        "kappa": (rows * columns).sum(1),
        "ac1": (mean * (1 - mean)).sum(1) / (counts.shape[1] - 1),
    }
    for name, chance in chances.items():
        room = chance < 1
        found[name] = np.where(room, (agreement - chance) / np.where(room, 1 - chance, 1), 1.0)
    return found


def _measures(table: np.ndarray) -> dict[str, dict[str, Any]]:
    """Each of `of_tables` with its interval. Resampled rows of a table have multinomial counts."""
    n, size = int(table.sum()), len(table)
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(n, table.ravel() / n, size=stats.RESAMPLES).reshape(-1, size, size)
    resampled, own = of_tables(drawn), of_tables(table[None])
    ends = [stats.TAIL_95, 1 - stats.TAIL_95]
    return {
        name: {
            "value": float(own[name][0]),
            # of a single row nothing is known
            "interval": np.quantile(values, ends).tolist() if n > 1 else [-1.0, 1.0],
        }
        for name, values in resampled.items()
    }
