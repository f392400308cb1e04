# SPDX-License-Identifier: Apache-2.0
"""`itx analyze`: where a run fails on dev, by itself or beside another, and what may help."""

import argparse
import dataclasses
import functools
from argparse import Namespace
from collections.abc import Callable

from itx import config as configs
from itx import restore, storage
from itx.analysis import analyze, page
from itx.analysis.analyze import Model, Side
from itx.commands import evaluate as evaluations
from itx.commands.arguments import command
from itx.config import RunConfig
from itx.data.types import Lock
from itx.errors import UserError, check_known
from itx.eval import budget, evaluate, metrics
from itx.eval.runner import Runner
from itx.eval.tables import console, table
from itx.runs import RunFolder, chosen_step, open_run, step_of
from itx.storage import local
from itx.text import say, visible

TRAIN_EXAMPLES = 100
Load = Callable[[], Runner]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    option = command(parser, analyze_run).add_argument
    option("run", type=local, help="a run folder or RUN/checkpoints/STEP")
    option(
        "reference",
        type=local,
        nargs="?",
        metavar="OTHER",
        help="a run that was asked the same: then a finding is a slice where RUN does worse than "
        "OTHER; RUN/checkpoints/0 is the model before tuning",
    )
    option("--step", type=int, help="default: the newest checkpoint")
    option(
        "--split",
        default="validation",
        help="default: validation. What test shows may choose neither data nor settings; a look at "
        "it is counted",
    )
    option("--tasks", help="comma-separated rows of the run, or any tasks; default: the run's rows")
    option(
        "--max_examples",
        type=int,
        metavar="N",
        help="of a task, 0: all; default: the run's eval.max_examples",
    )
    option(
        "--train_examples",
        type=int,
        default=TRAIN_EXAMPLES,
        metavar="N",
        help="of each trained task, whose labels the model judges; 0: none (default %(default)s)",
    )
    option(
        "--predictions_only",
        action="store_true",
        help="ask the model nothing but the evaluation rows: no losses, no training labels, no "
        "counterfactual pairs",
    )
    option("--check", action="store_true", help="exit with 1 where there is a finding")
    option("--cache_dir", type=local, help="default: the run's data.cache_dir")
    option("--modules", default="", help="comma-separated modules that register tasks")
    option("--root", type=local, metavar="FOLDER", help="data.root; default: the run's")


def analyze_run(args: Namespace) -> tuple[dict, int]:
    check_known(args.split, evaluations.SPLITS, f"--split {args.split!r}: no split that is scored")
    metrics.trust(filter(None, args.modules.split(",")))
    if args.split == "test":
        say("findings on test may choose neither data nor settings: test is then no test any more")
    side, load = _side(args, args.run, args.step)
    reference = _side(args, args.reference, None)[0] if args.reference else None
    model = None
    if not args.predictions_only:
        model = Model(load, _earlier(side), args.train_examples)
    found = analyze.facts(side, reference, model)
    folder = side.run.eval_dir(side.step)
    storage.write_json(folder / "analysis.json", found)
    with storage.whole_file(folder / "analysis.html") as part:
        part.write_text(page.analysis(found), encoding="utf-8")
    _print(found)
    print(f"{folder / 'analysis.html'}")
    return found, int(args.check and bool(found["findings"]))


def _side(args: Namespace, path: str, step: int | None) -> tuple[Side, Load]:
    """A run whose rows of the split are scored, and what loads its model."""
    path, step = step_of(path, step)
    run = open_run(path)
    config, lock = evaluations.settings_of_run(args, run)
    step = chosen_step(run, step)
    asked, place, config = _asked(args, run, config, lock)
    if not asked["evaluation"]:
        raise UserError(f"{run.path}: no row of the {args.split} split to analyse")
    load = functools.cache(lambda: restore.load_model(run, config, lock, step))
    scores = evaluate.evaluate(load, asked, config, place, step)
    most = budget.examples(place, config, evaluate.scored_rows(asked, config))
    config = configs.changed(config, "eval", max_examples=most, max_seconds=0.0)
    return Side(place, step, asked, config, scores), load


def _asked(
    args: Namespace, run: RunFolder, config: RunConfig, lock: Lock
) -> tuple[Lock, RunFolder, RunConfig]:
    """(the lock with the rows that are asked, where their scores stand, the config)."""
    own = evaluations.rows_named(lock, args.tasks)
    if own is not None and args.split == config.eval.split:
        return {**lock, "evaluation": own}, run, config
    modules = tuple(filter(None, args.modules.split(",")))
    answer, config = evaluations.further_of_run(
        run, config, lock, args.split, modules, args.tasks, None
    )
    rows = [row for rows in answer["settings"].values() for row in rows]
    return {**lock, "evaluation": rows}, dataclasses.replace(run, setting=args.split), config


def _earlier(side: Side) -> list[Load]:
    """What loads the checkpoint half way, where there is one: a label is doubted that two of them
    doubt."""
    before = [s for s in side.run.steps() if s < side.step]
    if not before:
        return []
    step = min(before, key=lambda s: abs(2 * s - side.step))
    return [lambda: restore.load_model(side.run, side.config, side.lock, step)]


def _print(found: dict) -> None:
    out = console()
    reference = found["reference"]
    beside = f", beside {reference['run']} at step {reference['step']}" if reference else ""
    print(
        visible(
            f"{found['answers']} answers to {found['examples']} examples of {found['split']} at "
            f"step {found['step']}{beside}"
        )
    )
    for reason, n in found["left_out"].items():
        print(visible(f"not analysed: {n} {reason}"))
    tested = found["search"]["tested"]
    print(
        "slices tested: "
        + ", ".join(f"{n:,} {kind}" for kind, n in tested.items())
        + "".join(f"; not tested: {n:,} ({why})" for why, n in found["search"]["untested"].items())
    )
    for reason, n in found["search"]["explained"].items():
        print(f"sure slices that are no findings of their own: {n:,} ({reason})")
    if more := found["search"]["more"]:
        print(f"{more:,} more slices fall short as surely: look again when these are mended")
    by_id = {a["id"]: a for a in found["actions"]["actions"]}
    cells = [
        (str(n), visible(f["says"]), str(f["examples"]), by_id[f["action"]]["kind"])
        for n, f in enumerate(found["findings"], 1)
    ]
    if cells:
        head = ("", "finding", "examples", "what may help")
        out.print(
            table("findings, the surest first", head, cells, left=head[1:2] + head[3:], fold=True)
        )
    else:
        print("no finding")
    errors = [
        (
            task,
            f"{e['wrong']} of {e['answers']}",
            ", ".join(f"{n} {k}" for k, n in e["kinds"].items()),
        )
        for task, e in found["errors"].items()
        if e["wrong"]
    ]
    head = ("task", "wrong", "how")
    out.print(table("wrong answers", head, errors, left=("task", "how"), fold=True))
