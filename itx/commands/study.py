# SPDX-License-Identifier: Apache-2.0
"""`itx study`: a question about tuning, asked of several runs that differ by what it names.

    STUDY/ARM.DRAW/       an ordinary run folder for each arm in each draw
    STUDY/logs/*.txt      what each command said
    STUDY/study.json      what was measured, study.md the same in words, study.svg its picture
    STUDY/compiled/       JAX's cache of compiled programs, which the runs share
    STUDY/../study-base/  the base that all studies share, pretrained by the first; what its
                          documents were searched for stands beside it in study-base.json

itx/study/spec.py says what a study is. A run that is done is not run again, and one that was killed
goes on: the same command resumes.
"""

import argparse
import dataclasses
import shlex
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from itx import begin, pretrained, processes, recipe, shipped, storage
from itx.commands import child, making
from itx.commands.arguments import command
from itx.config import RunConfig
from itx.data import lock as locks
from itx.data.types import Lock
from itx.errors import RunFailed, UserError, check_known, did_you_mean, did_you_mean_file
from itx.runs import RunFolder, read_lock
from itx.study import page, purity, results, spec
from itx.study.spec import BASE, Arm, Draw, Study
from itx.text import visible

BASE_RECIPE = shipped.STUDIES / "documents.py"
# What a run takes on two CPU cores, until one of the study is timed: seconds beside training (its
# build, start and evaluation took 40 CPU seconds), and training tokens a second of the base, which
# took 22,000 to 24,000 while little else ran.
BESIDE_SECONDS, TOKENS_A_SECOND = 60.0, 20_000


class Planned(NamedTuple):
    """A run of the study."""

    arm: Arm
    draw: Draw
    run: RunFolder
    overrides: list[str]
    config: RunConfig  # without what the base says

    @property
    def name(self) -> str:
        return self.run.path.name

    @property
    def steps(self) -> int:
        return self.config.train.steps

    @property
    def seconds(self) -> float:
        d = self.config.data
        return BESIDE_SECONDS + self.steps * d.global_batch * d.sequence_length / TOKENS_A_SECOND


def add_arguments(parser: argparse.ArgumentParser) -> None:
    option = command(parser, run_study).add_argument
    option(
        "study",
        type=storage.local,
        help=f"{', '.join(shipped.study_names())}, or a file with a get_study of yours; override "
        "settings of its runs with --a.b=c",
    )
    option("--quick", action="store_true", help="the study's quick variant, which proves nothing")
    option("--study_dir", type=storage.local, help="default: runs/study-<name>[-quick]")
    option("--only", metavar="ARMS", default="", help="arms that are made, between commas")
    option("--draws", type=int, metavar="N", help="the first N draws alone; default: all")
    option("--dry-run", action="store_true", help="list the runs and their time, and stop")
    option(
        "--page",
        type=storage.local,
        metavar="FILE",
        help="also put what study.md says between the study's two marks in this file",
    )


def run_study(args: Namespace) -> tuple[dict, int]:
    processes.die_with_starter()
    file = _file(args.study)
    study, all_draws = _study(args, file)
    quick = "-quick" if args.quick else ""
    folder = Path(args.study_dir or Path("runs") / f"study-{study.name}{quick}")
    base = RunFolder(folder.parent / f"study-base{quick}")
    if args.page:
        page.check_marks(Path(args.page), study.name, args.quick)
    plans = _plans(args, study, file, folder, base)
    made = Made(args, study, all_draws, file, folder, base, plans)
    chosen = _chosen(args, study)
    todo = [p for p in made.plans if p.arm.name in chosen and not results.is_done(p.run, p.steps)]
    if args.dry_run:
        return _listed(made, todo), 0
    for p in made.plans:
        if results.is_done(p.run, p.steps):
            made.attempt(p, made.read)
    if todo:
        _make_base(made)
    elif base.has_lock() and not _found_in(base):  # an older search, which counted less
        _search(made, read_lock(base))
    for number, p in enumerate(todo, 1):
        print(visible(f"run {number}/{len(todo)}: {p.name}"), flush=True)
        if made.attempt(p, lambda planned: _make(made, planned)):
            print(visible(f"  {page.numbers(made.values[p.name])}"), flush=True)
        made.write()  # after each run: a look at any time
        print(f"  {_minutes(sum(map(made.seconds_of, todo[number:])))} left", flush=True)
    facts = made.write()
    print(page.markdown(facts, picture=""))
    if args.page:
        page.put(Path(args.page), study.name, page.markdown(facts, picture=""))
    print(f"the same: {visible(str(folder / 'study.md'))}; picture: study.svg")
    return facts, int(bool(made.failed))


class Made:
    """What is known of a study's runs while they are made."""

    def __init__(
        self,
        args: Namespace,
        study: Study,
        all_draws: int,
        file: str,
        folder: Path,
        base: RunFolder,
        plans: list[Planned],
    ):
        self.args, self.study, self.all_draws, self.file = args, study, all_draws, file
        self.folder, self.base, self.plans = folder, base, plans
        self.values: dict[str, dict[str, float]] = {}  # of a run that is done its measures
        self.examples: dict[str, dict[str, float]] = {}  # and how many examples are behind them
        self.failed: dict[str, str] = {}
        held = storage.read_object(folder / "study.json", "runs", absent={"runs": []})
        self.seconds = {r["run"]: r["seconds"] for r in held["runs"] if r["seconds"] is not None}

    def seconds_of(self, p: Planned) -> float:
        """That a run will take, by those of the study that were timed."""
        timed = [q for q in self.plans if q.name in self.seconds]
        if not timed:
            return p.seconds
        real = sum(self.seconds[q.name] for q in timed)
        return p.seconds * real / sum(q.seconds for q in timed)

    def attempt(self, p: Planned, action: Callable[[Planned], None]) -> bool:
        """Whether it went well; what failed is said, and kept for study.json."""
        try:
            action(p)
        except (RunFailed, UserError) as e:
            self.failed[p.name] = str(e)
            print(visible(f"  {p.name} failed: {e}"), file=sys.stderr, flush=True)
        return p.name not in self.failed

    def read(self, p: Planned) -> None:
        measures = self.study.measures
        values = results.measured(p.run, p.config, measures)
        self.examples[p.name] = results.examples(p.run, p.config, measures)
        self.values[p.name] = values

    def write(self) -> dict[str, Any]:
        done = {(p.arm.name, p.draw.name): p.name for p in self.plans if p.name in self.values}
        values = results.by_side(self.study, {at: self.values[n] for at, n in done.items()})
        examples = results.examples_by_side(
            self.study, {at: self.examples[n] for at, n in done.items()}
        )
        facts = {
            **_design(self),
            "runs": [
                {
                    "run": p.name,
                    "arm": p.arm.name,
                    "draw": p.draw.name,
                    "seconds": self.seconds.get(p.name),
                    "steps": p.steps,
                    "tokens": results.tokens(p.run) if p.name in self.values else None,
                    "values": self.values.get(p.name),
                    "examples": self.examples.get(p.name),
                    "failed": self.failed.get(p.name, ""),
                }
                for p in self.plans
            ],
            "sides": results.sides(self.study, values),
            "tests": results.tests(self.study, values, examples),
        }
        storage.write_json(self.folder / "study.json", storage.sealed(facts))
        with storage.whole_file(self.folder / "study.md") as part:
            part.write_text(page.markdown(facts, picture="study.svg"), encoding="utf-8")
        if values:
            with storage.whole_file(self.folder / "study.svg") as part:
                part.write_bytes(page.picture(facts))
        return facts


# ---- what is planned


def _file(name: str) -> str:
    """The file of a study: what ends in .py is a file, anything else a study that comes with
    itx."""
    path = Path(name) if name.endswith(".py") else shipped.STUDIES / f"{name}.py"
    known = shipped.study_names()
    if not name.endswith(".py") and name not in known:
        raise UserError(f"no study named {name!r}{did_you_mean(name, known)}")
    if not path.is_file():
        raise UserError(f"study file {name!r} is not there{did_you_mean_file(path)}")
    return str(path)


def _study(args: Namespace, file: str) -> tuple[Study, int]:
    """(the study, of the draws those that --draws means; how many draws it has)."""
    study = recipe.called(file, "get_study", args.quick)
    if not isinstance(study, Study):
        raise UserError(f"{file}: get_study() returned {type(study).__name__}, not Study")
    all_draws = len(study.draws)
    if args.draws is not None:
        if not 1 <= args.draws <= all_draws:
            raise UserError(f"--draws {args.draws}: the study has 1 to {all_draws}")
        study = dataclasses.replace(study, draws=study.draws[: args.draws])
    spec.check(study)
    for only in making.names(args.only):
        known = [*dict.fromkeys([*(arm.name for arm in study.arms), *study.sides])]
        check_known(only, known, f"--only: no arm {only!r}")
    return study, all_draws


def _plans(
    args: Namespace, study: Study, file: str, folder: Path, base: RunFolder
) -> list[Planned]:
    """Every run; a mistake in any setting, or a folder of another config, shows before one
    begins."""
    plans, chosen = [], _chosen(args, study)
    for draw in study.draws:
        for arm in study.arms:
            begins = base.path if arm.begins == BASE else folder / _run_name(arm.begins, draw)
            own = [
                *draw.overrides,
                *map(draw.filled, arm.overrides),
                f"--model.pretrained={begins}",
            ]
            if arm.name in chosen:
                _check_free(args.overrides, own, arm)
            overrides = [*args.overrides, *own]
            config, _ = recipe.load(file, overrides, args.quick)
            run = RunFolder(folder / _run_name(arm.name, draw))
            if run.is_begun():
                begin.check_same_run(run, pretrained.load_recipe(file, overrides, args.quick)[0])
            plans.append(Planned(arm, draw, run, overrides, config))
    return plans


def _chosen(args: Namespace, study: Study) -> set[str]:
    """The arms that --only means: by their names or sides, and what they begin from."""
    only = making.names(args.only)
    chosen = {a.name for a in study.arms if not only or {a.name, a.compared_as} & {*only}}
    for arm in reversed(study.arms):  # an arm begins from an earlier one
        if arm.name in chosen:
            chosen.add(arm.begins)
    return chosen


def _check_free(typed: list[str], own: list[str], arm: Arm) -> None:
    """UserError for a setting that makes the arm what it is: with another value the arms would
    differ by something else than what the study asks about."""
    names = {text.partition("=")[0].replace("-", "_") for text in own}
    for text in typed:
        if text.partition("=")[0].replace("-", "_") in names:
            raise UserError(
                f"{text}: the arm {arm.name!r} sets this itself; leave it out, or the arm by --only"
            )


def _run_name(arm: str, draw: Draw) -> str:
    return f"{quote(arm, safe=' ').replace(' ', '_')}.{draw.name}"


def _design(made: Made) -> dict[str, Any]:
    """What stands in study.json beside the numbers."""
    study, config = made.study, made.plans[0].config
    words = ["itx", *sys.argv[1:]]
    return {
        "study": study.name,
        "question": study.question,
        "command": shlex.join(words),
        "quick": made.args.quick,
        "overrides": made.args.overrides,
        "draws": [d.name for d in study.draws],
        "all_draws": made.all_draws,
        "measures": [{"name": m.name, "kind": m.kind, "margin": m.within} for m in study.measures],
        "axis": study.axis,
        "log": study.log,
        "notes": study.notes,
        "examples": config.eval.max_examples,
        "split": config.eval.split,
        "base": _found_in(made.base),
    }


def _listed(made: Made, todo: list[Planned]) -> dict[str, Any]:
    """Prints every run of the study with its time."""
    runs = []
    for p in made.plans:
        state = "done" if results.is_done(p.run, p.steps) else "to do" if p in todo else "left out"
        seconds = made.seconds.get(p.name) if state == "done" else made.seconds_of(p)
        runs.append({"run": p.name, "state": state, "seconds": seconds})
        print(visible(f"{state:8}  {_minutes(seconds or 0.0):>12}  {p.name}"))
    if not results.is_done(made.base, _base_config(made.args).train.steps):
        print("to do     the base, which all studies share")
    seconds = sum(map(made.seconds_of, todo))
    print(f"{len(todo)} of {len(runs)} runs to do, {_minutes(seconds)}")
    return {"runs": runs, "seconds": seconds}


def _minutes(seconds: float) -> str:
    return f"about {max(1, round(seconds / 60))} min"


# ---- what is made


def _base_config(args: Namespace) -> RunConfig:
    return recipe.load(str(BASE_RECIPE), (), args.quick)[0]


def _searched(base: RunFolder) -> Path:
    """The file that says what the base's documents were searched for."""
    return base.path.parent / f"{base.path.name}.json"


def _found_in(base: RunFolder) -> dict[str, Any]:
    """What the search found; {} where there was none, or one that counted less."""
    found = storage.read_object(_searched(base), absent={})
    return found if found.keys() >= purity.FACTS else {}


def _make_base(made: Made) -> None:
    """The base, and the proof that no document of it instructs, unless they are there."""
    args, base, config = made.args, made.base, _base_config(made.args)
    begin.check_same_run(base, config)
    recipe_of = Namespace(config=str(BASE_RECIPE), quick=args.quick, overrides=[])
    _search(made, read_lock(base) if base.has_lock() else locks.read(child.built(recipe_of)))
    if not results.is_done(base, config.train.steps):
        print(f"the base: {config.train.steps:,} steps", flush=True)
        words = ["train", str(BASE_RECIPE), "--run_dir", str(base.path)]
        words += ["--quick"] if args.quick else []
        log = base.path.parent / f"{base.path.name}.txt"
        child.itx(log, words, child.compiled_in(made.folder / "compiled"))


def _search(made: Made, lock: Lock) -> None:
    """Searches the base's documents for instructions, unless these documents were."""
    data = locks.shape_hash(lock)
    if _found_in(made.base).get("data") != data:
        found = {"data": data, **purity.check(_base_config(made.args), lock)}
        storage.write_json(_searched(made.base), storage.sealed(found))
        print(page.searched(found), flush=True)


def _make(made: Made, p: Planned) -> None:
    """One run in a process of its own; RunFailed where it fails, or what it begins from did."""
    if p.arm.begins != BASE and (parent := _run_name(p.arm.begins, p.draw)) not in made.values:
        raise RunFailed(f"{parent}, which it begins from, is not done")
    words = ["train", made.file, *p.overrides, "--run_dir", str(p.run.path)]
    words += ["--quick"] if made.args.quick else []
    began = time.monotonic()
    log = made.folder / "logs" / f"{p.name}.txt"
    child.itx(log, words, child.compiled_in(made.folder / "compiled"))
    if not results.is_done(p.run, p.steps):
        raise RunFailed("it ended without scores")
    made.seconds[p.name] = time.monotonic() - began
    made.read(p)
