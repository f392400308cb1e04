# SPDX-License-Identifier: Apache-2.0
"""`itx eval`: score a run's checkpoint, on its own rows or on further tasks, numbers of exemplars,
splits and adapters; or any model on the tasks that are named."""

import argparse
import dataclasses
import functools
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import get_args

from itx import config as configs
from itx import hub, peft_files, pretrained, restore
from itx.analysis import report
from itx.commands import best_form, harness, several, unbuilt
from itx.commands.arguments import BASE, command
from itx.commands.building import further_in_subprocess
from itx.config import DataConfig, EvalConfig, ModelConfig, RunConfig
from itx.data.types import EvalRow, Lock
from itx.errors import UserError, check_known
from itx.eval import evaluate, metrics, tables
from itx.leaks import contamination
from itx.models import hf
from itx.params import embedding_rows
from itx.pretrained import Asked, Begin
from itx.runs import RunFolder, base_step, chosen_step, open_run, read_lock, run_config, step_of
from itx.storage import local, of_run
from itx.stored_run import here
from itx.text import say

SPLITS, FORMATS = (
    get_args(configs.fields_by_name()[name].type) for name in ("eval.split", "data.prompt_format")
)
MOST_EXAMPLES = EvalConfig().max_examples


def add_arguments(parser: argparse.ArgumentParser) -> None:
    option = command(parser, evaluate_run).add_argument
    option(
        "run",
        type=of_run,
        nargs="+",
        help="a run folder or RUN/checkpoints/STEP, or its URL in a store; a Hugging Face folder, "
        "a GGUF file, or an adapter's folder as PEFT writes it; several are compared in pairs",
    )
    option("--step", type=int, help="default: the newest checkpoint")
    option(
        "--tasks",
        help="comma-separated rows of the run, or any tasks and families (mmlu.*); default: the "
        "run's rows",
    )
    option(
        "--shots",
        help="numbers of exemplars, e.g. 0,5, from the training split; default: as trained",
    )
    option("--split", help="validation or test; default: the run's eval.split, else test")
    option(
        "--max_examples",
        type=int,
        metavar="N",
        help=f"of a task, 0: all; default: the run's eval.max_examples, else {MOST_EXAMPLES}",
    )
    option(
        "--adapter",
        type=local,
        action="append",
        metavar="FOLDER",
        help="score this adapter over the run's base; several times",
    )
    option("--base", type=local, default="", metavar="MODEL", help=BASE)
    option("--cache_dir", type=local, help="default: the run's data.cache_dir, else cache")
    option(
        "--modules",
        default="",
        help="comma-separated modules that register tasks, and whose own metrics may run; a run "
        "folder cannot name any",
    )
    option("--root", type=local, metavar="FOLDER", help="data.root; default: the run's")
    option(
        "--out",
        type=local,
        metavar="FOLDER",
        help="where scores of a model that is no run stand; default: runs/eval-<its name>",
    )
    option(
        "--prompt_format",
        choices=FORMATS,
        help="of a model that is no run; auto, the default: chat where it has a chat template",
    )
    option("--system", metavar="TEXT", help="what the system says, where prompts are turns")
    option(
        "--best_form",
        action="store_true",
        help='of a model that is no run: plain, chat, chat with "answer only", or 4 exemplars, '
        "whichever is best on the validation split",
    )
    option(
        "--harness",
        metavar="TASKS",
        help="comma-separated tasks of lm-evaluation-harness (extra lm-eval), all of each unless "
        "--max_examples says otherwise, with the exemplars that they name unless --shots does, "
        "in plain text unless --prompt_format=chat",
    )
    option(
        "--include_path",
        type=local,
        metavar="FOLDER",
        help="of --harness: more tasks, as YAML files; functions that these name are run",
    )


def evaluate_run(args: Namespace) -> tuple[dict, int]:
    args.run = list(map(here, args.run))
    if len(args.run) > 1:
        return several.evaluate(args, _evaluate_one)
    return _evaluate_one(Namespace(**{**vars(args), "run": args.run[0]}))


def _evaluate_one(args: Namespace) -> tuple[dict, int]:
    if args.harness is not None:
        return harness.evaluate(args)
    if args.include_path:
        raise UserError("--include_path names a folder of --harness's tasks; give --harness TASKS")
    modules = tuple(filter(None, args.modules.split(",")))
    metrics.trust(modules)
    hub.keep_in(args.cache_dir or DataConfig().cache_dir)
    asked = pretrained.asked(args.run, args.base)
    named = list(args.adapter or ())
    adapters = list(dict.fromkeys([*filter(None, [asked.adapter]), *named]))
    begin = pretrained.untrained(asked.model)
    if args.best_form:
        return _in_best_form(args, begin, asked, adapters, modules), 0
    if begin is not None:
        scores = _evaluate_model(args, begin, asked, adapters, modules)
    else:
        scores = _evaluate_of_run(args, asked.model, adapters, modules)
    return scores if named else next(iter(scores.values())), 0


def _in_best_form(
    args: Namespace,
    begin: Begin | None,
    asked: Asked,
    adapters: list[str],
    modules: tuple[str, ...],
) -> dict:
    if begin is None:
        raise UserError(f"--best_form: {asked.model} is a run, which is asked as it was trained")
    if len(adapters) > 1:
        raise UserError("--best_form: give one adapter at a time, for each has a form of its own")
    has_template = bool(pretrained.chat_template(begin))
    return best_form.evaluate(
        args, has_template, lambda own: _evaluate_model(own, begin, asked, adapters, modules)
    )


def _evaluate_model(
    args: Namespace, begin: Begin, asked: Asked, adapters: list[str], modules: tuple[str, ...]
) -> dict[str, dict]:
    """Scores of a model that no run made, by adapter."""
    if args.step:
        raise UserError(f"--step {args.step}: {asked.model} holds one model, and no steps")
    if not args.tasks:
        raise UserError(f"--tasks: {asked.model} is no run with rows of its own; name tasks: bbh.*")
    run, config = unbuilt.settled(args, begin, asked, modules)
    _check_adapters(adapters, config.model, config.model.vocab_size, pretrained.model_family(begin))
    own = unbuilt.own_split(run, config)
    answer = further(config, [], [], "", args.tasks, args.shots)
    lock = answer["lock"]
    unbuilt.write(run, config, lock)
    evaluated = _evaluated(adapters, run, config, lock, 0)
    scores = _evaluate_settings(answer, evaluated, run, config, lock, own)
    print(f"scores: {run.path}")
    return scores


def settings_of_run(args: Namespace, run: RunFolder) -> tuple[RunConfig, Lock]:
    """(a run's settings with those that `--max_examples`, `--cache_dir` and `--root` change, its
    lock, whose commits of the hub are used from here on)."""
    config, lock = run_config(run), read_lock(run)
    if args.max_examples is not None:
        most = {"max_examples": args.max_examples, "max_seconds": 0.0}
        config = configs.changed(config, "eval", **most)
    given = {k: v for k in ("cache_dir", "root") if (v := getattr(args, k))}
    hub.use(lock.get("hub", {}))
    return configs.changed(config, "data", **given), lock


def rows_named(lock: Lock, tasks: str | None) -> list[EvalRow] | None:
    """The rows of a lock that `--tasks` names, by their names or their tasks'; None where it names
    others too."""
    if not tasks:
        return lock["evaluation"]
    wanted = set(tasks.split(","))
    if wanted - {n for r in lock["evaluation"] for n in (r["name"], r["task"])}:
        return None
    return [r for r in lock["evaluation"] if {r["name"], r["task"]} & wanted]


def further_of_run(
    run: RunFolder,
    config: RunConfig,
    lock: Lock,
    split: str,
    modules: tuple[str, ...],
    tasks: str | None,
    shots: str | None,
) -> tuple[dict, RunConfig]:
    """(rows that a run was not built for, see `further`; its settings with the split and the
    modules)."""
    config = configs.changed(config, "eval", split=split)
    config = configs.changed(config, "data", modules=(*config.data.modules, *modules))
    trained = [t["name"] for t in lock["tasks"]]
    vocab = str(run.vocab_model)
    return further(config, lock["evaluation"], trained, vocab, tasks, shots), config


def _evaluate_of_run(
    args: Namespace, path: str, adapters: list[str], modules: tuple[str, ...]
) -> dict[str, dict]:
    """Scores of a run's checkpoint, by adapter."""
    path, args.step = step_of(path, args.step)
    run = open_run(path)
    for option in ("out", "prompt_format", "system"):
        if getattr(args, option) is not None:
            raise UserError(
                f"--{option}: {path} is a run, which is asked as it was trained, and whose scores "
                "stand in its folder"
            )
    config, lock = settings_of_run(args, run)
    if not Path(config.data.cache_dir).is_dir():
        raise UserError(
            f"no folder {config.data.cache_dir!r}, where the run's data are; give --cache_dir"
        )
    rows = embedding_rows(config, lock["vocabulary"]["size"])
    _check_adapters(adapters, config.model, rows, hf.family(run.pretrained))
    step = base_step(run, args.step) if adapters else chosen_step(run, args.step)
    evaluated = _evaluated(adapters, run, config, lock, step)
    own = rows_named(lock, args.tasks)
    if own is None or args.shots is not None or args.split is not None:
        split = args.split or config.eval.split
        answer, config = further_of_run(run, config, lock, split, modules, args.tasks, args.shots)
        return _evaluate_settings(answer, evaluated, run, config, lock)
    lock["evaluation"] = own
    scores = {}
    for folder, step, load in evaluated:
        scores[folder] = evaluate.evaluate(load, lock, config, run, step)
        tables.print_scores(scores[folder])
    if beyond := report.limits(lock, scores[evaluated[0][0]]["rows"])["data.eval_examples"]:
        print(
            f"{beyond:,} examples of the evaluation splits are not in the cache, for the data were "
            "built with data.eval_examples; --max_examples reaches none of them"
        )
    return scores


def _check_adapters(adapters: list[str], cfg: ModelConfig, rows: int, family: str) -> None:
    """A mistake in an adapter shows before anything is built or asked."""
    for folder in adapters:
        for name, n in peft_files.read(folder, cfg, rows, family).left_out.items():
            say(
                f"{folder}: left out, for text passes through no part that sees images: "
                f"{n} × {name}"
            )


def _evaluated(
    adapters: list[str], run: RunFolder, config: RunConfig, lock: Lock, step: int
) -> list[tuple[str, int | str, Callable]]:
    """(an adapter's folder, the step that its scores stand under, what loads its model) of each
    adapter, over one base that is loaded once: the model of `step`. Without adapters that model
    alone, its folder ""."""
    base = functools.cache(lambda: restore.load_model(run, config, lock, step))
    if not adapters:
        return [("", step, base)]
    evaluated = []
    for folder in adapters:
        name = f"{Path(folder).name}-{peft_files.key(folder)}-{step}"
        load = functools.cache(lambda folder=folder: restore.with_adapter(base(), folder))
        evaluated.append((folder, name, load))
    return evaluated


def further(
    config: RunConfig,
    rows: list[EvalRow],
    trained: list[str],
    vocab: str,
    tasks: str | None,
    shots: str | None,
) -> dict:
    """Rows of `--tasks`, `--shots` and the config's split (itx/prepare/further.py)."""
    words = shots.split(",") if shots is not None else []
    for word in words:
        if not word.isascii() or not word.isdigit() or len(word) > 2:
            raise UserError(f"--shots {shots}: {word!r} is not a number of exemplars from 0 to 99")
    split = config.eval.split
    check_known(split, SPLITS, f"--split {split!r}: no split that is evaluated")
    request = {
        "config": configs.to_dict(config),
        "vocab": vocab,
        "evaluation": rows,
        "trained": trained,
        "tasks": tasks.split(",") if tasks else [],
        "split": split,
        "shots": list(dict.fromkeys(map(int, words))),
    }
    answer = further_in_subprocess(request)
    for x in answer["skipped"]:
        print(f"not evaluated: {x['row']} ({x['reason']})")
    return answer


def _evaluate_settings(
    answer: dict,
    evaluated: list[tuple[str, int | str, Callable]],
    run: RunFolder,
    config: RunConfig,
    lock: Lock,
    own_split: str = "",
) -> dict[str, dict]:
    """Each number of exemplars is a setting with a folder of its own below the run's scores;
    own_split: the one whose rows without `--shots` are the folder's own scores."""
    split = config.eval.split
    shares, test = _trained_on(
        lock, config, [r for rows in answer["settings"].values() for r in rows]
    )
    scores = {}
    for folder, step, load in evaluated:
        settings = {}
        for shots, rows in answer["settings"].items():
            if rows:
                for row in rows:
                    row["trained_on"] = shares.get(row["name"])
                setting = split if shots == "own" else f"{split}-{shots}shots"
                setting = "" if shots == "own" and split == own_split else setting
                place = dataclasses.replace(run, setting=setting)
                asked = {**lock, "evaluation": rows, "contamination": test}
                settings[shots] = evaluate.evaluate(load, asked, config, place, step)
        tables.print_settings(settings, split, "as named" if own_split else "shots as trained")
        scores[folder] = {"step": step, "split": split, "settings": settings}
        scores[folder] |= {"skipped": answer["skipped"], "folder": str(run.path)}
    return scores


def _trained_on(
    lock: Lock, config: RunConfig, rows: list[EvalRow]
) -> tuple[dict[str, float], dict[str, str]]:
    """({row: the share of its scored examples that was trained on}, {"tested_for", "untested": why
    that cannot be told, or ""})."""
    if not lock["tasks"]:
        return {}, {"tested_for": "", "untested": "no data of ours trained this model"}
    try:
        shares = contamination.trained_on(
            lock, config.data.cache_dir, rows, config.eval.max_examples
        )
    except contamination.Untestable as e:
        return {}, {"tested_for": "", "untested": str(e)}
    return shares, {"tested_for": contamination.TESTED, "untested": ""}
