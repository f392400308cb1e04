# SPDX-License-Identifier: Apache-2.0
"""How made rows differ from the rows that they were made of: labels, languages, alphabets, groups
of people, lengths, and how instructions begin.

What the audit counts of a task (audit/biases.py) is counted here by the same code. Of each side
MAX_RECORDS rows are read, drawn by hash. `moved` is the total variation distance of two shares: 0
where they are the same, 1 where they have nothing in common; of labels it is None where answers are
open on either side (of few rows: where most answers differ).
"""

from collections import Counter
from collections.abc import Sequence
from typing import TypedDict

import numpy as np

from itx import hashing, languages, text
from itx.audit import biases
from itx.create.row import Row

MAX_SHOWN = 5  # values of a kind in a table, those that moved most
QUANTILES = (0.1, 0.5, 0.9)
Shares = dict[str, float]


class Side(TypedDict):
    """What there is of some rows; every share is of those that were read."""

    rows: int
    read: int
    labels: Shares
    languages: Shares  # "": too short to tell
    scripts: Shares
    groups: Shares  # groups that a row's question names
    first_words: Shares  # of instructions
    instruction_words: list[float]  # QUANTILES
    output_words: list[float]


class Drift(TypedDict):
    before: Side
    after: Side
    moved: dict[str, float | None]


KINDS = ("labels", "languages", "scripts", "groups", "first_words")


def side(rows: Sequence[Row]) -> Side:
    by_hash = sorted(rows, key=lambda r: hashing.draw("drift", *r.texts))
    read = by_hash[: biases.MAX_RECORDS]
    counted = biases.of_texts([r.asked for r in read], [r.output.strip() for r in read])
    first = (next(iter(text.words(r.instruction)), "") for r in read)
    return Side(
        rows=len(rows),
        read=len(read),
        labels=counted["labels"] if 2 * len(counted["labels"]) <= len(read) else {},
        languages=_shares(Counter(languages.language_of(r.whole)[0] for r in read)),
        scripts=counted["scripts"],
        groups=counted["groups"],
        first_words=_shares(Counter(first)),
        instruction_words=_quantiles([len(text.words(r.instruction)) for r in read]),
        output_words=_quantiles([len(text.words(r.output)) for r in read]),
    )


def _shares(counts: Counter[str]) -> Shares:
    return {value: n / counts.total() for value, n in counts.most_common()}


def _quantiles(lengths: list[int]) -> list[float]:
    return [float(q) for q in np.quantile(lengths, QUANTILES)] if lengths else []


def between(before: Sequence[Row], after: Sequence[Row]) -> Drift:
    one, other = side(before), side(after)
    moved: dict[str, float | None] = {}
    for kind in KINDS:
        # of groups a row may name several, so that their shares are no distribution
        if kind == "groups":
            moved[kind] = max(map(abs, _differences(one[kind], other[kind]).values()), default=0.0)
        elif kind == "labels" and not (one[kind] and other[kind]):
            moved[kind] = None
        else:
            moved[kind] = sum(map(abs, _differences(one[kind], other[kind]).values())) / 2
    return {"before": one, "after": other, "moved": moved}


def _differences(one: Shares, other: Shares) -> Shares:
    return {v: other.get(v, 0.0) - one.get(v, 0.0) for v in {**one, **other}}


def cells(drift: Drift) -> list[tuple[str, str, str, str]]:
    """(what, value, before, after): for a table, of each kind what moved most."""
    one, other = drift["before"], drift["after"]
    rows = [("rows", "", f"{one['rows']:,}", f"{other['rows']:,}")]
    for kind in ("instruction_words", "output_words"):
        of = [" / ".join(f"{q:.0f}" for q in s[kind]) or "-" for s in (one, other)]
        rows.append((kind.replace("_", " "), "10 / 50 / 90 %", *of))
    for kind in KINDS:
        if drift["moved"][kind] is None:
            continue
        differ = _differences(one[kind], other[kind])
        most = sorted(differ, key=lambda v: (-abs(differ[v]), -one[kind].get(v, 0.0), v))
        for value in most[:MAX_SHOWN]:
            shares = [f"{s[kind].get(value, 0.0):.0%}" for s in (one, other)]
            rows.append((kind.replace("_", " "), text.visible(value) or "(none)", *shares))
    return rows
