# SPDX-License-Identifier: Apache-2.0
"""The one table of what may be done to a row. To add an operator: a function of a `Job` (steps.py)
and its line here."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from itx.create import choices, rationales, rewrites, rules
from itx.create.steps import Job, Outcome, Steps
from itx.errors import UserError, check_known


@dataclass(frozen=True)
class Operator:
    """does: what it does, for a person. rule: its outcome at once; asks: its steps with a
    generator; one of them. preserving: its row asks what the parent asks and has the same answer.
    new: its row must be unlike its parent and all others, as a row that is new; else only not the
    same."""

    does: str
    rule: Callable[[Job], Outcome] | None = None
    asks: Callable[[Job], Steps] | None = None
    preserving: bool = False
    new: bool = False


def _evolution(does: str, kind: str) -> Operator:
    return Operator(does, asks=rewrites.evolution(kind), new=True)


OPERATORS: dict[str, Operator] = {
    "typos": Operator("slips of the keyboard", rule=rules.typos, preserving=True),
    "frame": Operator("a sentence around the instruction", rule=rules.frame, preserving=True),
    "formats": Operator(
        "where the input stands, how names and points are set", rule=rules.formats, preserving=True
    ),
    "options": Operator(
        "options in another order and style", rule=choices.options, preserving=True
    ),
    "paraphrase": Operator(
        "the instruction in other words", asks=rewrites.paraphrase, preserving=True
    ),
    "back_translation": Operator(
        "into another language and back", asks=rewrites.back_translation, preserving=True
    ),
    "rationales": Operator("steps to the known answer (STaR)", asks=rationales.rationale),
    "inversion": Operator(
        "an instruction to which the output is the answer", asks=rewrites.inversion, new=True
    ),
    "magpie": Operator(
        "what a chat model takes for a question beside the row", asks=rewrites.magpie, new=True
    ),
    "evol_constraints": _evolution("one more condition, and a new answer", "constraints"),
    "evol_deepen": _evolution("more depth, and a new answer", "deepen"),
    "evol_concretize": _evolution("special for general, and a new answer", "concretize"),
    "evol_reasoning": _evolution("more steps of reasoning, and a new answer", "reasoning"),
    "evol_breadth": _evolution("something rarer of the field, and an answer", "breadth"),
}
RULES = tuple(name for name, o in OPERATORS.items() if o.rule)


def chosen(names: Sequence[str]) -> dict[str, Operator]:
    """The operators named, in this order; UserError for a name that is none."""
    for name in names:
        check_known(name, OPERATORS, f"no operator is called {name!r}")
    if not names or len(set(names)) < len(names):
        raise UserError("operators: name one or several, each once: " + ", ".join(OPERATORS))
    return {name: OPERATORS[name] for name in names}
