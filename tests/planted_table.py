# SPDX-License-Identifier: Apache-2.0
"""Write the table of itx/analysis/README.md: how often `itx analyze` finds a defect that was planted
into predictions, and how often it finds one where there is none.

    uv run python -m tests.planted_table [--worlds N]

Each world (tests/planted.py) has one defect of a kind and at a place that a seed draws, of at least
60 examples. It counts as found where a finding overlaps it (Jaccard at least 0.5); every other
finding is false.
"""

import argparse
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

from itx.analysis import features, slices
from tests import planted
from tests.readme_figures import put

EFFECTS = (0.05, 0.1, 0.15, 0.2, 0.3)
SETTINGS = {  # name: (whether the run is another one of the recipe, whether there is a reference)
    "the same answers": (False, True),
    "a rerun": (True, True),
    "none": (False, False),
}
FIRST_SEED = 1000


class Result(NamedTuple):
    kind: str
    found: bool
    first: bool
    findings: int
    false: int


def searched(base: planted.World, run: planted.World, referenced: bool) -> list[slices.Finding]:
    of = planted.observed(run)
    known = features.conditions(of, run.rows, run.tags)
    reference = planted.observed(base).scores if referenced else None
    return slices.find(of, known, reference).findings


def one(seed: int, effect: float, rerun: bool, referenced: bool) -> Result:
    """A world with a defect of `effect`, 0: with none."""
    base = planted.world(seed)
    run = planted.rerun(base, seed) if rerun else base
    if not effect:
        found = len(searched(base, run, referenced))
        return Result("", False, False, found, found)
    plant = planted.plants(base, seed)
    found = searched(base, planted.planted(run, plant, effect, seed), referenced)
    true = [planted.jaccard(f.holds, plant.inside) >= 0.5 for f in found]
    return Result(plant.kind, any(true), true[:1] == [True], len(found), true.count(False))


def table(worlds: int) -> list[str]:
    seeds = range(FIRST_SEED, FIRST_SEED + worlds)
    cells = [(s, e, *how) for how in SETTINGS.values() for e in (0.0, *EFFECTS) for s in seeds]
    with ProcessPoolExecutor() as pool:
        results = iter(pool.map(one, *zip(*cells, strict=True)))
    rows, kinds = [], {}
    for name in SETTINGS:
        clean = [next(results) for _ in seeds]
        row = [name, f"{sum(r.findings > 0 for r in clean)} of {worlds}"]
        for effect in EFFECTS:
            cell = [next(results) for _ in seeds]
            found, false = sum(r.found for r in cell), sum(r.false for r in cell)
            share = false / max(1, sum(r.findings for r in cell))
            row.append(
                f"{found / worlds:.0%} ({sum(r.first for r in cell) / worlds:.0%}), {share:.0%}"
            )
            if effect == 0.15:
                kinds[name] = (
                    Counter(r.kind for r in cell),
                    Counter(r.kind for r in cell if r.found),
                )
        rows.append("| " + " | ".join(row) + " |")
    head = "| reference | none planted: worlds with a finding | " + " | ".join(
        f"{e:.0%} worse" for e in EFFECTS
    )
    by_kind = [
        f"| {kind} | " + " | ".join(f"{found[kind]} of {all_[kind]}" for all_, found in kinds.values()) + " |"
        for kind in sorted(next(iter(kinds.values()))[0])
    ]  # fmt: skip
    return [
        head + " |", "|" + "---|" * (len(EFFECTS) + 2), *rows, "",
        "By kind of defect, 15 points worse, found of planted:", "",
        "| kind | " + " | ".join(SETTINGS) + " |", "|" + "---|" * (len(SETTINGS) + 1), *by_kind,
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--worlds", type=int, default=100)
    worlds = parser.parse_args().worlds
    text = [
        f"{worlds} worlds a cell, each of 720 examples of 12 tasks in 3 wordings; planted defects hold 60 examples or more. "
        "Found (found first), and the share of all findings that are false:",
        "", *table(worlds),
    ]  # fmt: skip
    put(
        "planted", f"uv run python -m tests.planted_table --worlds {worlds}", "\n".join(text) + "\n"
    )


if __name__ == "__main__":
    main()
