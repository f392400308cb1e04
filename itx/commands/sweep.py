# SPDX-License-Identifier: Apache-2.0
"""`itx sweep`: a grid of runs, each an ordinary run folder, and the settings chosen by held-in dev
scores.

    SWEEP/RUN/          a run folder of `itx train` for each combination of values
    SWEEP/logs/RUN.txt  what that command said
    SWEEP/sweep.json    the table, sweep.png its picture
    SWEEP/compiled/     JAX's cache of compiled programs, which the runs share

A run that is done is not run again, and one that was killed goes on: the same command resumes.
"""

import argparse
import math
import sys
from argparse import Namespace
from pathlib import Path
from typing import NamedTuple

from itx import begin, pretrained, processes, storage
from itx.analysis import plots, sweep
from itx.analysis.sweep import Point
from itx.commands import child
from itx.commands.arguments import command, with_recipe
from itx.config import RunConfig
from itx.errors import RunFailed, UserError
from itx.eval.tables import console, shown, table
from itx.runs import RunFolder
from itx.text import visible


class Planned(NamedTuple):
    """A run of the sweep, and what trains it."""

    point: Point
    run: RunFolder
    config: RunConfig
    overrides: list[str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    with_recipe(command(parser, run_sweep))
    parser.add_argument(
        "--sweep_dir", type=storage.local, help="default: runs/<config>-sweep[-quick]"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="list the runs and which are done, and stop"
    )


def run_sweep(args: Namespace) -> tuple[dict, int]:
    processes.die_with_starter()
    name = Path(args.config).stem + "-sweep" + ("-quick" if args.quick else "")
    folder = Path(args.sweep_dir) if args.sweep_dir else Path("runs") / name
    plans = _plans(args, folder)
    done = {p.point.name: score for p in plans if (score := _score(p)) is not None}
    print(f"{len(plans)} runs in {visible(str(folder))}, {len(done)} of them done")
    if args.dry_run:
        for p in plans:
            print(visible(f"{'done' if p.point.name in done else 'to do'}  {p.point.name}"))
        return {"runs": [p.point.name for p in plans], "done": list(done)}, 0
    failed: dict[str, str] = {}
    locks: dict[tuple, Path] = {}
    facts = _write(folder, plans, done, failed)
    for number, p in enumerate(plans, 1):
        if p.point.name in done:
            continue
        print(visible(f"run {number}/{len(plans)}: {p.point.name}"), flush=True)
        try:
            _train(args, p, locks, folder)
            score = _score(p)
            if score is None:
                raise RunFailed("it ended without scores")
            done[p.point.name] = score
            print(f"  {sweep.SPLIT} score of trained tasks: {shown(score)}", flush=True)
        except (RunFailed, UserError) as e:
            failed[p.point.name] = str(e)
            print(visible(f"  failed: {e}"), file=sys.stderr, flush=True)
        facts = _write(folder, plans, done, failed)  # after each run: a look at any time
    _print(facts, folder)
    return facts, 1 if failed else 0


def _plans(args: Namespace, folder: Path) -> list[Planned]:
    """Every run; a mistake in any value, or a folder of another config, shows before one begins."""
    for text in args.overrides:
        if text.startswith("--eval.split="):
            raise UserError(
                "--eval.split: a sweep chooses on validation, and looks at test never; score the "
                "run that you choose: itx eval RUN --split test"
            )
    points, fixed = sweep.grid(args.overrides)
    own = [f"--eval.split={sweep.SPLIT}"]
    if not any(text.startswith("--eval.before=") for text in fixed):
        own.append("--eval.before=False")  # the same for all seeds, and half of the evaluation
    plans = []
    for point in points:
        overrides = [*fixed, *point.overrides, *own]
        config, _ = pretrained.load_recipe(args.config, overrides, args.quick)
        run = RunFolder(folder / point.name)
        begin.check_same_run(run, config)
        plans.append(Planned(point, run, config, overrides))
    return plans


def _score(p: Planned) -> float | None:
    return sweep.dev_score(p.run, p.config.train.steps)


def _train(args: Namespace, p: Planned, locks: dict[tuple, Path], folder: Path) -> None:
    """One run in a process of its own; RunFailed with its last line where it fails."""
    key = p.point.data
    if key not in locks:
        locks[key] = child.built(
            Namespace(config=args.config, quick=args.quick, overrides=p.overrides)
        )
    words = ["train", args.config, *p.overrides, "--run_dir", str(p.run.path)]
    words += ["--lock", str(locks[key]), *(["--quick"] if args.quick else [])]
    log = folder / "logs" / f"{p.point.name}.txt"
    child.itx(log, words, child.compiled_in(folder / "compiled"))


def _write(
    folder: Path, plans: list[Planned], done: dict[str, float], failed: dict[str, str]
) -> dict:
    points = [p.point for p in plans]
    facts = {
        "group": sweep.GROUP,
        "split": sweep.SPLIT,
        "runs": [
            {
                "run": str(p.run.path),
                "values": p.point.values,
                "score": done.get(p.point.name),
                "failed": failed.get(p.point.name, ""),
            }
            for p in plans
        ],
        "choices": sweep.choose(points, done),
    }
    storage.write_json(folder / "sweep.json", storage.sealed(facts))
    if done:
        with storage.whole_file(folder / "sweep.png") as part:
            part.write_bytes(_picture(sweep.curves(points, done)))
    return facts


def _picture(curves: dict) -> bytes:
    """The scores along the first axis: on its scale where its values are numbers."""
    try:
        places = [float(v) for v in curves["values"]]
        numbers = all(map(math.isfinite, places))
    except ValueError:
        places, numbers = [], False
    if not numbers:
        places = list(map(float, range(len(curves["values"]))))
    lines = {
        label: list(zip(places, values, strict=True)) for label, values in curves["lines"].items()
    }
    wide = numbers and min(places) > 0 and max(places) / min(places) >= 8
    labels = (curves["axis"], f"{sweep.SPLIT} score, trained tasks")
    return plots.lines_with_points(lines, labels, None if numbers else curves["values"], log=wide)


def _print(facts: dict, folder: Path) -> None:
    cells = []
    for r in facts["choices"]:
        spread = "-" if r["mean"] is None else f"{r['least']:.3f} to {r['most']:.3f}"
        mean = "-" if r["mean"] is None else f"{r['mean']:.3f}"
        mark = "chosen" + " (tied)" * r["tied"] if r["chosen"] else ""
        cells.append((visible(r["choice"]), mean, spread, f"{r['runs']} of {r['of']}", mark))
    title = f"{facts['split']} scores of trained tasks, mean and range over seeds"
    head = ("settings", "mean", "range", "runs done", "")
    console().print(table(title, head, cells, left=("settings",), fold=True))
    for r in facts["runs"]:
        if r["failed"]:
            print(visible(f"failed: {r['run']}: {r['failed']}"))
    print(f"table and picture: {visible(str(folder / 'sweep.json'))}, sweep.png")
