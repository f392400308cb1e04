# SPDX-License-Identifier: Apache-2.0
"""`itx eval A B …`: models one after another, on the same questions, and then side by side."""

from argparse import Namespace
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from itx import pretrained
from itx.commands import compare, unbuilt
from itx.errors import UserError
from itx.runs import RunFolder, open_run, run_config, step_of
from itx.text import say

OF_ONE = ("step", "adapter", "out", "harness")  # options that speak of one model


def evaluate(args: Namespace, one: Callable[[Namespace], tuple[dict, int]]) -> tuple[dict, int]:
    """{"models": {model: facts}, "compared": what `itx compare` says of them, or None,
    "not_compared": why not, or ""}. Nothing is asked before every model was found.

    Args:
        one: scores a single model.
    """
    given = [f"--{name}" for name in OF_ONE if getattr(args, name)]
    if given:
        raise UserError(f"{given[0]} speaks of one model; score {args.run[0]} in a call of its own")
    names = Counter(map(unbuilt.name_of, args.run))
    twice = [model for model in args.run if names[unbuilt.name_of(model)] > 1]
    if twice:
        raise UserError(
            f"{twice[0]} and {twice[1]} would have their scores in one folder, for both are called "
            f"{unbuilt.name_of(twice[0])!r}; score them apart, each with an --out"
        )
    for model in args.run:
        asked = pretrained.asked(model, args.base)
        if pretrained.untrained(asked.model) is None:
            open_run(step_of(asked.model, None)[0])
    scored, code = {}, 0
    for model in args.run:
        say(f"model {len(scored) + 1} of {len(args.run)}: {model}")
        scored[model], of_model = one(Namespace(**{**vars(args), "run": model}))
        code = max(code, of_model)
    folders = [_folder(model, facts) for model, facts in scored.items()]
    if not all(folders):
        why = "scores of other splits or of --shots stand beside the folders' own"
        print(f"not compared in pairs: {why}")
        return {"models": scored, "compared": None, "not_compared": why}, code
    compared, of_comparison = compare.side_by_side(folders, rows=True)
    return {"models": scored, "compared": compared, "not_compared": ""}, max(code, of_comparison)


def _folder(model: str, facts: dict) -> str:
    """Where a model's own scores stand; "" where those of the call are others."""
    if "settings" not in facts:  # a run's own rows
        return model
    if set(facts["settings"]) != {"own"} or facts["folder"] == step_of(model, None)[0]:
        return ""
    own = run_config(RunFolder(Path(facts["folder"]))).eval.split
    return facts["folder"] if facts["split"] == own else ""
