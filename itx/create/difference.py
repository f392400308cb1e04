# SPDX-License-Identifier: Apache-2.0
"""Two versions of made data: which rows came, went and changed, known by the ids of their lineage.

A row's id is a digest of its texts. So a row that was edited is another row; it is told as `edited`
where the new one says that the old one is its parent, or where both were made by the same requests.

    added, removed   ids that one of the versions has, kept or dropped
    changed          ids that both have: kept in one alone, dropped for another reason, or of
                     another origin
"""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from itx.create import drift, lineage
from itx.create.row import Row

KEPT = "kept"
# of a row's lineage, what makes it another origin
ORIGIN = ("parents", "generator", "made_by", "operator", "preserving", "verdicts")


class Version(NamedTuple):
    """The lines of a version by id; of an id that was kept and met again, the one that is kept."""

    task: str
    rows: dict[str, dict[str, Any]]
    lines: list[dict[str, Any]]

    def state(self, row: str) -> str:
        return self.rows[row]["lineage"]["dropped"] or KEPT

    @property
    def kept(self) -> list[Row]:
        return [_row(held) for held in self.lines if not held["lineage"]["dropped"]]


def read(version: Path) -> Version:
    """UserError where its files are not what its manifest says."""
    lineage.check(version)
    lines = [h for f in (lineage.KEPT, lineage.DROPPED) for h in lineage.lines(version / f)]
    rows: dict[str, dict[str, Any]] = {}
    for held in lines:
        rows.setdefault(held["lineage"]["id"], held)
    return Version(lineage.read_manifest(version)["task"], rows, lines)


def _row(held: dict[str, Any]) -> Row:
    return Row(held["instruction"], held["input"], held["output"])


def facts(first: Version, second: Version) -> dict[str, Any]:
    """What differs, as JSON has it."""
    added = [row for row in second.rows if row not in first.rows]
    removed = [row for row in first.rows if row not in second.rows]
    changed = [
        {"id": row, "was": first.state(row), "is": second.state(row), "differs": what}
        for row in first.rows
        if row in second.rows and (what := _differs(first.rows[row], second.rows[row]))
    ]
    return {
        "first": first.task,
        "second": second.task,
        "same": not (added or removed or changed),
        "added": _by_state(second, added),
        "removed": _by_state(first, removed),
        "changed": changed,
        "edited": _edited(first, removed, second, added),
        "counts": {
            name: _pairs(count(first.lines), count(second.lines)) for name, count in COUNTS.items()
        },
        "drift": drift.between(first.kept, second.kept),
    }


def _differs(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """What of two lines with the same texts differs."""
    a, b = one["lineage"], other["lineage"]
    return [key for key in ("dropped", *ORIGIN) if a.get(key) != b.get(key)]


def _by_state(version: Version, rows: Iterable[str]) -> dict[str, list[str]]:
    out: dict[str, list[str]] = {KEPT: [], "dropped": []}
    for row in rows:
        out[KEPT if version.state(row) == KEPT else "dropped"].append(row)
    return out


def _edited(
    first: Version, removed: list[str], second: Version, added: list[str]
) -> list[dict[str, str]]:
    """Pairs of a row that went and the one that came in its place."""
    gone = set(removed)
    asked = {key: row for row in removed if (key := _requests(first.rows[row]))}
    out = []
    for row in added:
        held = second.rows[row]
        parent = next((p for p in held["lineage"]["parents"] if p in gone), None)
        if was := parent or asked.get(_requests(held)):
            out.append({"was": was, "is": row})
    return out


def _requests(held: dict[str, Any]) -> tuple:
    """What a row was made by; () for one that nobody was asked for."""
    came = held["lineage"]
    requests = tuple(made["request"] for made in came["made_by"].values() if "request" in made)
    return (tuple(came["parents"]), came.get("operator", ""), requests) if requests else ()


def _of_kept(key: str, unknown: str):
    def count(lines: list[dict[str, Any]]) -> Counter[str]:
        kept = (h["lineage"] for h in lines if not h["lineage"]["dropped"])
        return Counter(came.get(key) or unknown for came in kept)

    return count


def _reasons(lines: list[dict[str, Any]]) -> Counter[str]:
    whys = (h["lineage"]["dropped"].partition(": ")[0] for h in lines)
    return Counter(why for why in whys if why)


def _verdicts(lines: list[dict[str, Any]]) -> Counter[str]:
    return Counter(name for h in lines for name in h["lineage"]["verdicts"])


# what is counted of both versions, each a function of lines
COUNTS = {
    "kept, by generator": _of_kept("generator", "nobody"),
    "kept, by operator": _of_kept("operator", "a new row"),
    "dropped, by reason": _reasons,
    "found, by filter": _verdicts,
}


def _pairs(one: Counter[str], other: Counter[str]) -> dict[str, list[int]]:
    return {name: [one[name], other[name]] for name in sorted({*one, *other})}
