# SPDX-License-Identifier: Apache-2.0
"""`itx eval`: score a run's checkpoint, on its own rows or on further tasks, numbers of exemplars,
splits and adapters."""

import argparse
import dataclasses
import functools
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

from itx import config as configs
from itx import peft_files, restore
from itx.commands.arguments import command
from itx.commands.building import further_in_subprocess
from itx.config import RunConfig
from itx.data.types import EvalRow, Lock
from itx.errors import UserError, did_you_mean
from itx.eval import evaluate, metrics, tables
from itx.leaks import contamination
from itx.models import hf
from itx.params import embedding_rows
from itx.runs import RunFolder, chosen_step, open_run, read_lock, run_config
from itx.storage import local
from itx.text import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    option = command(parser, evaluate_run).add_argument
    option("run", type=local, help="a run folder")
    option("--step", type=int, help="default: the newest checkpoint")
    option(
        "--tasks",
        help="comma-separated rows of the run, or with the two below any tasks; default: all",
    )
    option(
        "--shots",
        help="numbers of exemplars, e.g. 0,5, from the training split; default: as trained",
    )
    option("--split", help="validation or test; default: the run's eval.split")
    option("--max_examples", type=int, help="default: the run's eval.max_examples")
    option(
        "--adapter",
        type=local,
        action="append",
        metavar="FOLDER",
        help="score this adapter over the run's base; several times",
    )
    option("--cache_dir", type=local, help="default: the run's data.cache_dir")
    option(
        "--modules",
        default="",
        help="comma-separated modules whose own metrics may run; a run folder cannot name any",
    )


def evaluate_run(args: Namespace) -> tuple[dict, int]:
    metrics.trust(args.modules.split(","))
    run = open_run(args.run)
    config = run_config(run)
    if args.max_examples is not None:
        config = configs.changed(config, "eval", max_examples=args.max_examples)
    if args.cache_dir:
        config = configs.changed(config, "data", cache_dir=args.cache_dir)
    lock = read_lock(run)
    if not Path(config.data.cache_dir).is_dir():
        raise UserError(
            f"no folder {config.data.cache_dir!r}, where the run's data are; give --cache_dir"
        )
    if args.shots is not None or args.split is not None:
        return _evaluate_settings(args, run, config, lock)
    if args.tasks:
        named = args.tasks.split(",")
        known = {n for r in lock["evaluation"] for n in (r["name"], r["task"])}
        for name in named:
            if name not in known:
                raise UserError(
                    f"--tasks: no evaluation row {name!r} in this run" + did_you_mean(name, known)
                )
        lock["evaluation"] = [r for r in lock["evaluation"] if {r["name"], r["task"]} & set(named)]
    scores = {}
    for folder, step, load in _evaluated(args, run, config, lock):
        scores[folder] = evaluate.evaluate(load, lock, config, run, step)
        tables.print_scores(scores[folder])
    return scores if args.adapter else scores[""], 0


def _evaluated(
    args: Namespace, run: RunFolder, config: RunConfig, lock: Lock
) -> list[tuple[str, int | str, Callable]]:
    """(an adapter's folder, the step that its scores stand under, what loads its model) of each
    `--adapter`, over one base that is loaded once: the run's model, or the base of an adapter's
    run. Without `--adapter` the run's own model alone, its folder ""."""
    own = config.peft.method != "full"
    if args.adapter and args.step and own:
        raise UserError(
            f"--step {args.step} with --adapter: {run.path} trains an adapter itself "
            f"({config.peft.method}), and its base, which is what is scored with another one, is "
            "the same at every step; leave --step out"
        )
    step = 0 if args.adapter and own else chosen_step(run, args.step)
    base = functools.cache(lambda: restore.load_model(run, config, lock, step))
    if not args.adapter:
        return [("", step, base)]
    rows = embedding_rows(config, lock["vocabulary"]["size"])
    family, evaluated = hf.family(run.pretrained), []
    for folder in dict.fromkeys(args.adapter):
        # a mistake shows before anything is built or asked
        for name, n in peft_files.read(folder, config.model, rows, family).left_out.items():
            say(
                f"{folder}: left out, for text passes through no part that sees images: "
                f"{n} × {name}"
            )
        name = f"{Path(folder).name}-{peft_files.key(folder)}-{step}"
        load = functools.cache(lambda folder=folder: restore.with_adapter(base(), folder))
        evaluated.append((folder, name, load))
    return evaluated


def _evaluate_settings(
    args: Namespace, run: RunFolder, config: RunConfig, lock: Lock
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
    config = configs.changed(config, "eval", split=split)
    request = {
        "config": configs.to_dict(config),
        "vocab": str(run.vocab_model),
        "evaluation": lock["evaluation"],
        "trained": [t["name"] for t in lock["tasks"]],
        "tasks": args.tasks.split(",") if args.tasks else [],
        "split": split,
        "shots": list(dict.fromkeys(map(int, words))),
    }
    answer = further_in_subprocess(request)
    for x in answer["skipped"]:
        print(f"not evaluated: {x['row']} ({x['reason']})")
    every = [r for rows in answer["settings"].values() for r in rows]
    shares, test = _trained_on(lock, config, every)
    for row in every:
        row["trained_on"] = shares.get(row["name"])
    scores = {}
    for folder, step, load in evaluated:
        settings = {}
        for shots, rows in answer["settings"].items():
            if rows:
                setting = split if shots == "own" else f"{split}-{shots}shots"
                place = dataclasses.replace(run, setting=setting)
                asked = {**lock, "evaluation": rows, "contamination": test}
                settings[shots] = evaluate.evaluate(load, asked, config, place, step)
        tables.print_settings(settings, split)
        scores[folder] = {"step": step, "split": split, "settings": settings}
        scores[folder]["skipped"] = answer["skipped"]
    return scores if args.adapter else scores[""], 0


def _trained_on(
    lock: Lock, config: RunConfig, rows: list[EvalRow]
) -> tuple[dict[str, float], dict[str, str]]:
    """({row: the share of its scored examples that was trained on}, {"tested_for", "untested": why
    that cannot be told, or ""})."""
    try:
        shares = contamination.trained_on(
            lock, config.data.cache_dir, rows, config.eval.max_examples
        )
    except contamination.Untestable as e:
        return {}, {"tested_for": "", "untested": str(e)}
    return shares, {"tested_for": contamination.TESTED, "untested": ""}
