# SPDX-License-Identifier: Apache-2.0
"""What a manifest says of the examples that are trained on, as sentences for the build and the
audit."""

from pathlib import Path

from itx.data import cache

# share of targets that do not come back from which a task is named; the audit's table has each
MANY_LOST = 0.01
NAMED = 4  # kinds of what is lost
LINES = 8  # that a build prints


def sentences(name: str, manifest: dict) -> list[str]:
    """Of one task: what its manifest's "said" and "decoded" hold."""
    out = [f"task {name}: {n:,} {what}" for what, n in manifest.get("said", {}).items()]
    if lost_share(manifest) >= MANY_LOST:
        found = manifest["decoded"]
        kinds = [f"{what} ({n:,})" for what, n in found["losses"].items()]
        lost = ", ".join(kinds[:NAMED]) + (", …" if len(kinds) > NAMED else "")
        of = f"{found['lost']:,} of {found['examples']:,} targets (drawn by hash) do not come back from the vocabulary"
        out.append(f"task {name}: {of}; they lose {lost}")
    return out


def of_variants(found: dict) -> str:
    """Of a mixture whose tasks lack some of the variants that it asks for: the shares asked and
    got."""
    lacking = ", ".join(
        f"{_some(tasks)} no wording for :{v}" for v, tasks in found["without"].items()
    )
    shares = ", ".join(
        f":{v} {share:.1%} asked, {found['got'][v]:.1%} got" for v, share in found["asked"].items()
    )
    return f"mixture {found['mixture']}: {lacking}; their other variants have its share ({shares})"


def _some(tasks: list[str]) -> str:
    named = ", ".join(tasks[:NAMED]) + (
        f" and {len(tasks) - NAMED} more" if len(tasks) > NAMED else ""
    )
    return f"{named} {'has' if len(tasks) == 1 else 'have'}"


def lost_share(manifest: dict) -> float:
    found = manifest.get("decoded") or {"examples": 0, "lost": 0}
    return found["lost"] / max(1, found["examples"])


def of_build(lock: dict, cache_dir: str | Path) -> list[str]:
    """The shares of variants that are not as asked, the first sentences of a lock's tasks and how
    many more the audit has."""
    shares = [of_variants(v) for v in lock.get("variants", ())]
    found = [line for t in lock["tasks"]
             for line in sentences(t["name"], cache.read_manifest(Path(cache_dir) / t["folders"][0]))]  # fmt: skip
    more = len(found) - LINES
    return [
        *shares,
        *found[:LINES],
        *([f"{more:,} more of such; itx data audit has all"] if more > 0 else []),
    ]
