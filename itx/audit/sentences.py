# SPDX-License-Identifier: Apache-2.0
"""Sentences about a run's data that the build, the audit and the report share."""

from collections import Counter
from pathlib import Path

from itx.data import cache
from itx.data.types import Lock, VariantShares

MIN_LOST_SHARE = 0.01  # of a task's targets; the audit's table has smaller shares too
MAX_NAMED = 4  # kinds of what is lost, and tasks, in one sentence
MAX_LINES = 8  # that a build prints


def of_task(name: str, manifest: dict) -> list[str]:
    """What a task's manifest says under "said" and "decoded"."""
    lines = [f"task {name}: {n:,} {what}" for what, n in manifest.get("said", {}).items()]
    if lost_share(manifest) >= MIN_LOST_SHARE:
        decoded = manifest["decoded"]
        kinds = [f"{what} ({n:,})" for what, n in decoded["losses"].items()]
        lines.append(
            f"task {name}: {decoded['lost']:,} of {decoded['examples']:,} targets (drawn by hash) "
            f"do not come back from the vocabulary; they lose {first_of(kinds, MAX_NAMED)}"
        )
    return lines


def lost_share(manifest: dict) -> float:
    """The share of targets, drawn by hash, that the vocabulary does not give back as they were."""
    decoded = manifest.get("decoded") or {"examples": 0, "lost": 0}
    return decoded["lost"] / max(1, decoded["examples"])


def first_of(names: list[str], most: int) -> str:
    """The first names; `, …` says that there are more."""
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")


def of_variants(mixture: VariantShares) -> str:
    """The shares asked and got of a mixture whose tasks lack some of the variants that it asks
    for."""
    lacking = ", ".join(
        f"{_named(tasks)} no wording for :{v}" for v, tasks in mixture["without"].items()
    )
    shares = ", ".join(
        f":{v} {share:.1%} asked, {mixture['got'][v]:.1%} got"
        for v, share in mixture["asked"].items()
    )
    return (
        f"mixture {mixture['mixture']}: {lacking}; their other variants have its share ({shares})"
    )


def _named(tasks: list[str]) -> str:
    more = len(tasks) - MAX_NAMED
    named = ", ".join(tasks[:MAX_NAMED]) + (f" and {more} more" if more > 0 else "")
    return f"{named} {'has' if len(tasks) == 1 else 'have'}"


def of_build(lock: Lock, cache_dir: str | Path) -> list[str]:
    """The shares of variants that are not as asked, the first sentences of a lock's tasks and how
    many more the audit has."""
    lines = []
    for task in lock["tasks"]:
        manifest = cache.read_manifest(Path(cache_dir) / task["folders"][0])
        lines += of_task(task["name"], manifest)
    shares = [of_variants(v) for v in lock.get("variants", ())]
    more = len(lines) - MAX_LINES
    rest = [f"{more:,} more of such; itx data audit has all"] if more > 0 else []
    return [*shares, *lines[:MAX_LINES], *rest]


def accounts(facts: dict) -> str:
    """One sentence in which every record read is found again; `facts` are the audit's."""
    tasks = facts["tasks"].values()

    def total(key: str) -> int:
        return sum(f.get(key, 0) for f in tasks)

    skipped: Counter = Counter()
    for f in tasks:
        skipped.update(f["skipped"])
    kept = f"{total('kept'):,} usable"
    if all("used" in f for f in tasks):
        only_skipped = total("only_skipped")
        lost = f" + {only_skipped:,} in skipped batches alone" if only_skipped else ""
        kept = (
            f"{total('used'):,} trained on{lost} + {total('not_reached'):,} usable but not reached "
            f"in {facts['mixture']['steps']:,} steps"
        )
    cut = "".join(
        f"; {total(count):,} {what} lost {total(tokens):,} tokens to fit a row"
        for what, count, tokens in (
            ("prompts", "cut", "cut_tokens"),
            ("targets", "cut_targets", "cut_target_tokens"),
        )
        if total(count)
    )
    left_out = f"{sum(skipped.values()):,} skipped ({reasons(skipped)})"
    return f"{total('read'):,} records read = {kept} + {left_out}{cut}."


def reasons(skipped: dict[str, int]) -> str:
    return ", ".join(f"{reason} {n:,}" for reason, n in sorted(skipped.items())) or "none"
