# SPDX-License-Identifier: Apache-2.0
"""`itx loop`: tune, evaluate, analyse, refine, tune again, for as long as it gets better.

    LOOP/round-0/            the run of the recipe, an ordinary run folder with its analysis
    LOOP/refined/round_1/v1/ what `itx create refine` made of round 0: patch, recipe, manifest
    LOOP/round-1/ …          the run of that recipe
    LOOP/logs/*.txt          what each command said
    LOOP/loop.json           the rounds, what each changed and cost, what got worse, why it ended
    LOOP/loop.html           the same to look at

Analysis, choice and stopping look at dev alone. A round counts as better where its run beats the
best one before it on the same dev questions in pairs (itx/analysis/rounds.py), over all tasks, or
on those that one of its actions was about while no group of questions got worse; the first that
does not ends the loop. Then the first run and the best are scored on test, once. Every stage leaves
whole files and is skipped where they are there: the same command goes on after a kill at any
moment.
"""

import argparse
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from itx import begin, pretrained, processes, storage
from itx.analysis import compare, found, page, rounds, words
from itx.analysis.actions import KINDS
from itx.commands import making, rates, stages
from itx.commands.arguments import command, with_recipe
from itx.create import refined
from itx.create.world import How
from itx.errors import RunFailed, UserError, check_known
from itx.eval import tables
from itx.runs import RunFolder
from itx.text import visible

DONE_ALONE = "drop,relabel"  # kinds that need nobody to answer
STAGES = ("train", "analyze", "refine")  # of a round, each with its own log


def add_arguments(parser: argparse.ArgumentParser) -> None:
    with_recipe(command(parser, run_loop))
    option = parser.add_argument
    option("--rounds", type=int, default=3, help="refinements at most (default %(default)s)")
    option("--loop_dir", type=storage.local, help="default: runs/<config>-loop[-quick]")
    option(
        "--actions",
        default=DONE_ALONE,
        metavar="KINDS",
        help="kinds that are carried out, between commas (default %(default)s); rates: no rounds, "
        "but a search for better rates of the mixture",
    )
    option("--relabel", default="", metavar="HOW", help="as of `itx create refine`; default: drop")
    option(
        "--train_examples",
        type=int,
        default=1000,
        metavar="N",
        help="of each task, whose labels are judged (default %(default)s)",
    )
    option("--rows", type=int, default=How.rows, help="that an action adds at most")
    option(
        "--control",
        action="store_true",
        help="a control arm: each round does as much to what a draw chooses",
    )
    option("--keep_test", action="store_true", help="do not look at test at the end")
    rates.add_options(option)
    making.add_who(parser)


def run_loop(args: Namespace) -> tuple[dict, int]:
    processes.die_with_starter()
    if args.rounds < 1:
        raise UserError(f"--rounds {args.rounds}: must be at least 1")
    kinds = making.names(args.actions)
    for kind in kinds:
        check_known(kind, [*KINDS, rates.KIND], f"--actions: no kind of action {kind!r}")
    if any(text.startswith("--eval.split=") for text in args.overrides):
        raise UserError("--eval.split: a loop chooses on validation, and looks at test at its end")
    name = Path(args.config).stem + "-loop" + ("-quick" if args.quick else "")
    name += "-control" if args.control else ""
    folder = Path(args.loop_dir) if args.loop_dir else Path("runs") / name
    recipe = [args.config, *args.overrides, *(["--quick"] if args.quick else []), *stages.OWN]
    if rates.KIND in kinds:
        return rates.search(args, folder, recipe)
    config, _ = pretrained.load_recipe(args.config, [*args.overrides, *stages.OWN], args.quick)
    begin.check_same_run(RunFolder(folder / "round-0"), config)  # before anything is begun
    facts: dict[str, Any] = {"folder": str(folder), "do": kinds, "control": args.control}
    facts |= {"rounds": [], "stopped": ""}
    for _ in _rounds(args, folder, recipe, kinds, facts):
        _write(folder, facts)  # after each step: a look at any time
    if not args.keep_test:
        runs = [facts["rounds"][i]["run"] for i in dict.fromkeys((0, facts["best"]))]
        facts["test"] = {run: stages.test(folder, run) for run in runs}
        _write(folder, facts)
    _print(facts)
    return facts, int(bool(facts.get("failed")))


def _rounds(
    args: Namespace, folder: Path, recipe: list[str], kinds: list[str], facts: dict[str, Any]
) -> Iterator[None]:
    """Puts each round into the facts, and at last why the loop ended and which round is best;
    yields after each."""
    facts["best"] = 0
    changed: dict[str, Any] = {}
    for number in range(args.rounds + 1):
        run = folder / f"round-{number}"
        stages.train(folder, run, recipe)
        own = {
            "run": str(run),
            "recipe": recipe[0],
            "score": rounds.score(run),
            "kept": rounds.kept(run),
            **changed,
        }
        facts["rounds"].append(own)
        if number:
            best = facts["rounds"][facts["best"]]["run"]
            since = [a for r in facts["rounds"][facts["best"] :] for a in r.get("acted", ())]
            own["beside"] = {"run": best, **rounds.beside(best, str(run), since)}
            print(
                visible(f"round {number}: {words.beside(own['beside'])} beside {best}"), flush=True
            )
            if not own["beside"]["better"]:
                facts["stopped"] = f"round {number} is not better: {own['beside']['verdict']}"
                break
            facts["best"] = number
        if number == args.rounds:
            facts["stopped"] = f"--rounds {args.rounds} are done"
            break
        yield
        actions = _actions(args, folder, run, kinds)
        own["actions"] = [a["why"] for a in actions]
        own["acted"] = [{k: a[k] for k in ("why", "tasks", "conditions")} for a in actions]
        if not actions:
            facts["stopped"] = f"round {number}: no action of {', '.join(kinds)} is left"
            break
        try:
            version = _refine(args, folder, run, number + 1, actions)
        except RunFailed as e:
            facts["stopped"] = facts["failed"] = f"round {number} cannot be refined: {e}"
            break
        recipe = [str(refined.recipe_of(version)), *stages.OWN]
        manifest = storage.read_object(version / refined.MANIFEST, *rounds.OF_CHANGE)
        changed = {"because": own["actions"], "changed": rounds.changed(manifest)}
    yield


# ---- the stages, each a command of its own


def _actions(args: Namespace, folder: Path, run: Path, kinds: list[str]) -> list[dict]:
    """What the analysis of a run proposes, of these kinds."""
    if not any(run.glob("eval/**/analysis.json")):
        words = ["analyze", str(run), "--train_examples", str(args.train_examples)]
        stages.itx(folder, f"{run.name}-analyze", *words)
    return [a for a in found.read(str(run), None).actions if a["kind"] in kinds]


def _refine(args: Namespace, folder: Path, run: Path, number: int, actions: list[dict]) -> Path:
    """The folder of a refinement. The same refinement is made once."""
    told = folder / "logs" / f"{run.name}-refine.json"
    relabel = args.relabel or ("ask" if making.is_anybody(args) else "drop")
    words = ["create", "refine", str(run), "--name", f"round_{number}", "--root", str(folder)]
    words += ["--actions", ",".join(a["id"] for a in actions), "--relabel", relabel]
    words += ["--rows", str(args.rows), *making.who_again(args), "--json", str(told)]
    words += ["--what_fits", *(["--control"] if args.control else [])]
    stages.itx(folder, f"{run.name}-refine", *words)
    return Path(storage.read_json(told)["folder"])


def _cost(folder: Path, run: Path) -> dict[str, Any]:
    """{"steps" that it was trained, "seconds": {stage: of those that ran to their end}}."""
    taken = {stage: stages.seconds(folder, f"{run.name}-{stage}") for stage in STAGES}
    taken = {stage: seconds for stage, seconds in taken.items() if seconds is not None}
    steps = compare.scored_steps(RunFolder(run))
    return {"steps": steps[-1] if steps else 0, "seconds": taken}


# ---- what it says


def _write(folder: Path, facts: dict[str, Any]) -> None:
    for r in facts["rounds"]:
        r["cost"] = _cost(folder, Path(r["run"]))
    storage.write_json(folder / "loop.json", facts)
    with storage.whole_file(folder / "loop.html") as part:
        part.write_text(page.loop(facts), encoding="utf-8")


def _print(facts: dict[str, Any]) -> None:
    cells = [
        (
            str(n),
            tables.shown(r["score"]),
            words.beside(r["beside"]) if "beside" in r else "-",
            str(len(r.get("actions", ()))),
        )
        for n, r in enumerate(facts["rounds"])
    ]
    head = ("round", "dev", "beside the best before", "actions then")
    tables.console().print(tables.table("the loop", head, cells, left=head[2:3]))
    print(visible(f"ended: {facts['stopped']}"))
    print(visible(f"best: {facts['rounds'][facts['best']]['run']}"))
    for r in facts["rounds"]:
        for lost in r.get("beside", {}).get("worse", ()):
            print(visible(f"worse in {r['run']}: {lost['slice']}, {lost['difference']:+.3f}"))
    print(visible(f"all of it: {Path(facts['folder']) / 'loop.html'}"))
    for run, of in facts.get("test", {}).items():
        if of:
            print(visible(f"test of {run}: {tables.shown(of['score'], of['score_interval'])}"))
