# SPDX-License-Identifier: Apache-2.0
"""What may be done about a finding, as data: `itx analyze` writes it, refinement carries it out.

An action says what to do and why, never how: it names tasks, conditions and examples, and holds no
code and no path.
"""

from typing import TypedDict

from itx import hashing
from itx.errors import UserError, check_known

ACTIONS_VERSION = 2  # raise it when the meaning of a key changes

# kind -> what refinement does
KINDS = {
    "drop": "leave the named training examples out",
    "relabel": "ask for the named training examples' labels again, and keep, correct or drop them",
    "reweight": "raise the rate of the named tasks in the mixture",
    "add templates": "write further templates of the named tasks",
    "generate": "generate training examples of the named tasks for which the conditions hold",
    "balance": "give each label, or each place of the right option, an equal share in training",
    "counterfactual pairs": "add training examples with the group's terms swapped for another's",
    "setting": "change a setting of the recipe",
}


class ActionExample(TypedDict):
    task: str
    content: str  # hash of the example's content, as the cache holds it


class Action(TypedDict):
    """One thing to do."""

    version: int  # ACTIONS_VERSION
    id: str  # hash of all else: the same proposal has the same id
    kind: str  # of KINDS
    tasks: list[str]
    conditions: list[str]  # of the slice, for people and for generators' prompts
    examples: list[ActionExample]  # for drop and relabel
    settings: dict[str, str]  # {dotted name: value}, for setting
    why: str  # a sentence


class Actions(TypedDict):
    """The part of analysis.json that refinement reads."""

    version: int
    run: str
    data: str  # hash of what the run was trained on (itx/data/lock.py, `shape_hash`)
    step: int
    split: str
    actions: list[Action]


def action(
    kind: str,
    why: str,
    tasks: list[str],
    conditions: list[str] | None = None,
    examples: list[ActionExample] | None = None,
    settings: dict[str, str] | None = None,
) -> Action:
    check_known(kind, KINDS, f"action of kind {kind!r}")
    parts = (kind, sorted(tasks), conditions or [], examples or [], settings or {}, why)
    return {
        "version": ACTIONS_VERSION,
        "id": hashing.digest(repr(parts)),
        "kind": kind,
        "tasks": sorted(tasks),
        "conditions": conditions or [],
        "examples": examples or [],
        "settings": settings or {},
        "why": why,
    }


def checked(held: Actions, file: str) -> list[Action]:
    """The actions of a file; UserError where another version wrote them."""
    if held.get("version") != ACTIONS_VERSION:
        raise UserError(
            f"{file}: actions of version {held.get('version')!r}, and this is version "
            f"{ACTIONS_VERSION}: `itx analyze` writes them anew"
        )
    return held["actions"]


# feature of a condition -> what helps where a slice of it alone, or of tasks by it, falls short
OF_FEATURE = {
    "template": "add templates",
    "place of the right option": "balance",
    "label": "balance",
}


def for_slice(features: list[str], groups: bool) -> str:
    """The kind of action for a slice of these features.

    Args:
        groups: whether a condition names a group of people.
    """
    if groups:
        return "counterfactual pairs"
    # whatever else a slice is made of, examples of it are what is missing
    narrow = [f for f in features if f not in ("task", "cluster")]
    if not narrow:
        return "reweight"
    return OF_FEATURE.get(narrow[0], "generate") if len(narrow) == 1 else "generate"
