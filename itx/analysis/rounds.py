# SPDX-License-Identifier: Apache-2.0
"""What `itx loop` says of its rounds: each beside the best before it, what was changed, what that
cost, and what was forgotten."""

from pathlib import Path
from typing import Any

from itx import storage
from itx.analysis import compare, sweep
from itx.errors import RunFailed
from itx.eval import tables
from itx.runs import RunFolder

OF_SLICE = ("pairs", "difference", "interval", "p", "over", "verdict")
OF_LOSS = ("slice", "pairs", "difference", "interval", "holm")
OF_CHANGE = ("changes", "counts", "reasons")  # of a refinement's manifest


def score(run: Path) -> float | None:
    """Of trained tasks on dev."""
    steps = compare.scored_steps(RunFolder(run))
    return sweep.dev_score(RunFolder(run), steps[-1]) if steps else None


def beside(first: str, other: str, tasks: list[str]) -> dict[str, Any]:
    """A run beside another on the dev questions of trained tasks; "on", the same on the tasks that
    the actions in between were about, None where no question of these is shared; of all groups
    those that got worse after Holm, and the drop that each could have hidden with a probability of
    one in five: "worse": [slice], "smallest": {group: difference, None where nothing tells}.

    "better": the verdict over all tasks is; or that on the tasks of the actions is, and no group
    got worse. A mended task is one of many: over all, its gain is seldom told from chance.
    """
    facts = compare.facts([first, other])
    label = tables.label(sweep.GROUP, "")
    (slices,) = facts["paired"].values()
    asked = [s for s in slices if s["pairs"]]
    own = next((s for s in asked if s["slice"].startswith(label)), None)
    if own is None:
        raise RunFailed(f"{first} and {other} have no dev question in common")
    worse = [{k: s[k] for k in OF_LOSS} for s in asked if s["verdict"] == "worse"]
    on = compare.on_tasks(first, other, tasks, sweep.GROUP) if tasks else {"pairs": 0}
    aimed = {k: on[k] for k in OF_SLICE} | {"tasks": tasks} if on["pairs"] else None
    mended = aimed is not None and aimed["verdict"] == "better" and not worse
    return {
        **{k: own[k] for k in OF_SLICE},
        "better": own["verdict"] == "better" or mended,
        "on": aimed,
        "worse": worse,
        "smallest": {s["slice"]: s["smallest"] for s in asked},
    }


def kept(run: Path) -> dict[str, Any]:
    """Of a run's report: {"retention": {text: bits per byte}, "declined": {kind: share}}."""
    held = storage.read_object(RunFolder(run).report_json, absent={})
    texts = (held.get("retention") or {}).get("after", {})
    requests = (held.get("safety") or {}).get("groups", ())
    return {
        "retention": {name: t["bits_per_byte"] for name, t in texts.items()},
        "declined": {
            g["kind"]: g["after"]["declined"]
            for g in requests
            if not g["language"] and "after" in g
        },
    }


def changed(manifest: dict[str, Any]) -> dict[str, Any]:
    """What a refinement changed: settings, rows in and out of each task, actions by what they
    did."""
    return {k: manifest[k] for k in OF_CHANGE}
