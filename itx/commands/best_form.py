# SPDX-License-Identifier: Apache-2.0
"""`itx eval MODEL --best_form`: a model that no run of ours tuned is scored in the form that it
does best in, so that what tuning is measured against is not a form that the model is bad at.

The forms are tried on dev, and one is chosen by the mean over tasks of scores corrected for chance;
test is then looked at once, in that form. Each form has a folder of its own.
"""

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from itx.commands import unbuilt
from itx.errors import UserError
from itx.eval.tables import console, shown, table

DEV = "validation"
ANSWER_ONLY = "Answer with the answer alone, without an explanation."


class Form(NamedTuple):
    name: str
    chat: bool
    system: str = ""
    shots: str | None = None


FORMS = (
    Form("plain", False),
    Form("chat", True),
    Form("chat, answer only", True, ANSWER_ONLY),
    Form("plain, 4 exemplars", False, shots="4"),
    Form("chat, 4 exemplars", True, shots="4"),
)
Score = Callable[[Namespace], dict[str, dict]]  # what `itx eval` gives for its arguments


def evaluate(args: Namespace, has_template: bool, score: Score) -> dict:
    """{"form", "forms": {name: mean on dev}, and the facts of the chosen one}.

    Args:
        score: scores a model with these arguments; {adapter, or "": facts}.
    """
    given = ("prompt_format", "system", "shots")
    for option in given:
        if getattr(args, option) is not None:
            raise UserError(f"--{option}: --best_form chooses it; leave one of the two out")
    if args.split == DEV:
        raise UserError(f"--split {DEV}: --best_form chooses there, and scores another split")
    tried: dict[str, float] = {}
    for form in FORMS:
        if has_template or not form.chat:
            (facts,) = score(_in_form(args, form, DEV)).values()
            if (mean := _mean(facts)) is not None:
                tried[form.name] = mean
    if not tried:
        raise UserError(
            f"--best_form: none of {args.tasks} has a {DEV} split with examples to choose by"
        )
    name = max(tried, key=tried.__getitem__)
    chosen = next(f for f in FORMS if f.name == name)
    cells = [(n, shown(mean), "chosen" if n == name else "") for n, mean in tried.items()]
    title = f"forms on {DEV}: mean over tasks, corrected for chance"
    console().print(table(title, ("form", "score", ""), cells, left=("form",)))
    (facts,) = score(_in_form(args, chosen, args.split or "test")).values()
    return {"form": name, "forms": tried, **facts}


def _in_form(args: Namespace, form: Form, split: str) -> Namespace:
    place = Path(args.out or Path("runs") / f"eval-{unbuilt.name_of(args.run)}")
    slug = form.name.replace(", ", "-").replace(" ", "-")
    return Namespace(
        **{
            **vars(args),
            "prompt_format": "chat" if form.chat else "plain",
            "system": form.system or None,
            "shots": form.shots,
            "split": split,
            "out": str(place.with_name(f"{place.name}-{slug}")),
        }
    )


def _mean(facts: dict) -> float | None:
    """Over the tasks of all groups; None where nothing was scored."""
    groups = [g for s in facts["settings"].values() for g in s["groups"] if g["mean"] is not None]
    tasks = sum(g["tasks"] for g in groups)
    return sum(g["mean"] * g["tasks"] for g in groups) / tasks if tasks else None
