# SPDX-License-Identifier: Apache-2.0
"""`itx eval`: score a run's checkpoint, on its own rows or on further tasks, numbers of exemplars,
splits and adapters."""

import argparse
import dataclasses
import functools
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

from itx import config as configs
from itx import peft, restore
from itx.commands.arguments import command
from itx.commands.building import further_in_subprocess
from itx.config import RunConfig
from itx.errors import UserError, did_you_mean
from itx.eval import evaluate, metrics, tables
from itx.leaks import contamination
from itx.params import embedding_rows
from itx.runs import RunFolder, chosen_step, open_run, read_lock, run_config
from itx.text import visible


def add_arguments(parser: argparse.ArgumentParser) -> None:
    command(parser, evaluate_run)
    parser.add_argument("run", help="a run folder")
    parser.add_argument("--step", type=int, help="default: the newest checkpoint")
    parser.add_argument(
        "--tasks",
        help="comma-separated rows of the run, or with the two below any tasks; default: all",
    )
    parser.add_argument(
        "--shots",
        help="numbers of exemplars, e.g. 0,5, from the training split; default: as trained",
    )
    parser.add_argument("--split", help="validation or test; default: the run's eval.split")
    parser.add_argument("--max_examples", type=int, help="default: the run's eval.max_examples")
    parser.add_argument(
        "--adapter",
        action="append",
        metavar="FOLDER",
        help="score this adapter over the run's base; several times",
    )
    parser.add_argument("--cache_dir", help="default: the run's data.cache_dir")
    parser.add_argument(
        "--modules",
        default="",
        help="comma-separated modules whose own metrics may run; a run folder cannot name any",
    )


def _run_config(run: RunFolder, **evaluation) -> RunConfig:
    """The config a run folder holds, with evaluation settings replaced."""
    config = run_config(run)
    given = {k: v for k, v in evaluation.items() if v is not None}
    return dataclasses.replace(config, eval=dataclasses.replace(config.eval, **given))


def evaluate_run(args: Namespace) -> tuple[dict, int]:
    metrics.trust(args.modules.split(","))
    run = open_run(args.run)
    config = _run_config(run, max_examples=args.max_examples)
    if args.cache_dir:
        config = dataclasses.replace(
            config, data=dataclasses.replace(config.data, cache_dir=args.cache_dir)
        )
    lock = read_lock(run)
    if not Path(config.data.cache_dir).is_dir():
        raise UserError(
            f"no folder {config.data.cache_dir!r}, where the run's data are; give --cache_dir"
        )
    if args.shots is not None or args.split is not None:
        return _evaluate_settings(args, run, config, lock)
    if args.tasks:
        wanted = args.tasks.split(",")
        known = {n for r in lock["evaluation"] for n in (r["name"], r["task"])}
        for name in wanted:
            if name not in known:
                raise UserError(
                    f"--tasks: no evaluation row {name!r} in this run" + did_you_mean(name, known)
                )
        lock["evaluation"] = [r for r in lock["evaluation"] if {r["name"], r["task"]} & set(wanted)]
    out = {}
    for folder, step, load in _evaluated(args, run, config, lock):
        out[folder] = evaluate.evaluate(load, lock, config, run, step)
        tables.print_scores(out[folder])
    return out if args.adapter else out[""], 0


def _evaluated(
    args: Namespace, run: RunFolder, config: RunConfig, lock: dict
) -> list[tuple[str, int | str, Callable]]:
    """(an adapter's folder, the step that its scores stand under, what loads its model) of each
    `--adapter`, over one base that is loaded once: the run's model, or the base of an adapter's
    run. Without any the run's own, as ""."""
    own = config.peft.method != "full"
    if args.adapter and args.step and own:
        raise UserError(
            f"--step {args.step} with --adapter: {run.path} trains an adapter itself ({config.peft.method}), and its "
            "base, which is what is scored with another one, is the same at every step; leave --step out"
        )
    step = 0 if args.adapter and own else chosen_step(run, args.step)
    base = functools.cache(lambda: restore.load_model(run, config, lock, step))
    if not args.adapter:
        return [("", step, base)]
    out = []
    for folder in dict.fromkeys(args.adapter):
        # a mistake shows before anything is built or asked
        for left, n in peft.read(
            folder, config.model, embedding_rows(config, lock["vocabulary"]["size"])
        ).left_out.items():
            print(
                f"itx: {visible(str(folder))}: left out, for text passes through no part that sees images: {n} × {left}",
                file=sys.stderr,
            )
        name = f"{Path(folder).name}-{peft.key(folder)}-{step}"
        out.append(
            (
                folder,
                name,
                functools.cache(lambda folder=folder: restore.with_adapter(base(), folder)),
            )
        )
    return out


def _evaluate_settings(
    args: Namespace, run: RunFolder, config: RunConfig, lock: dict
) -> tuple[dict, int]:
    """`--shots`, `--split`: each number of exemplars is a setting with a folder of its own below
    the run's scores."""
    splits, split = ("validation", "test"), args.split or config.eval.split
    if split not in splits:
        raise UserError(
            f"--split {split!r}: no split that is evaluated" + did_you_mean(split, splits)
        )
    words = args.shots.split(",") if args.shots is not None else []
    for word in words:
        if not word.isascii() or not word.isdigit() or len(word) > 2:
            raise UserError(
                f"--shots {args.shots}: {word!r} is not a number of exemplars from 0 to 99"
            )
    evaluated = _evaluated(args, run, config, lock)
    config = dataclasses.replace(config, eval=dataclasses.replace(config.eval, split=split))
    answer = further_in_subprocess({
        "config": configs.to_dict(config), "vocab": str(run.vocab_model), "evaluation": lock["evaluation"],
        "trained": [t["name"] for t in lock["tasks"]], "tasks": args.tasks.split(",") if args.tasks else [],
        "split": split, "shots": list(dict.fromkeys(map(int, words))),
    })  # fmt: skip
    for x in answer["skipped"]:
        print(f"not evaluated: {x['row']} ({x['reason']})")
    known, test = _trained_on(
        lock, config, [r for rows in answer["settings"].values() for r in rows]
    )
    out = {}
    for folder, step, load in evaluated:
        settings = {}
        for shots, rows in answer["settings"].items():
            if rows:
                place = dataclasses.replace(
                    run, setting=split if shots == "own" else f"{split}-{shots}shots"
                )
                rows = [{**r, "trained_on": known.get(r["name"])} for r in rows]
                settings[shots] = evaluate.evaluate(
                    load, {**lock, "evaluation": rows, "contamination": test}, config, place, step
                )
        tables.print_settings(settings, split)
        out[folder] = {
            "step": step,
            "split": split,
            "settings": settings,
            "skipped": answer["skipped"],
        }
    return out if args.adapter else out[""], 0


def _trained_on(
    lock: dict, config: RunConfig, rows: list[dict]
) -> tuple[dict[str, float], dict[str, str]]:
    """(of each row that the lock does not know the share of its scored examples that was trained
    on, {"tested_for", "untested": why that cannot be told, or ""})."""
    try:
        shares = contamination.trained_on(
            lock, config.data.cache_dir, rows, config.eval.max_examples
        )
    except contamination.Untestable as e:
        return {}, {"tested_for": "", "untested": str(e)}
    return shares, {"tested_for": contamination.TESTED, "untested": ""}
