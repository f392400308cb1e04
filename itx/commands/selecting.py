# SPDX-License-Identifier: Apache-2.0
"""`itx create select`: the best rows of a version by a score, and a random arm beside them."""

from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from itx import hashing, peft
from itx.commands import making
from itx.commands.opened import opened
from itx.create import drift, judge, lineage, selection
from itx.create.judge import Grades
from itx.create.lineage import Made
from itx.create.row import Row
from itx.errors import RunFailed, UserError, check_known
from itx.eval import terminal
from itx.text import say, visible, words

RANDOM = "random"  # the arm's suffix, and why its other rows are not kept


def add_commands(add: Callable) -> None:
    make = add("select", "the best rows of a version, and a random arm of as many tokens", select)
    option = make.add_argument
    option("version", help="created.NAME.v1")
    making.add_place(make)
    option("--by", required=True, help=", ".join(selection.SELECTORS))
    option("--keep", type=int, required=True, metavar="N", help="rows")
    option("--seed", type=int, default=0, help="of the random arm and all else that is drawn")
    making.add_who(make)


def select(args: Namespace) -> tuple[dict, int]:
    check_known(args.by, selection.SELECTORS, f"--by: no selector {args.by!r}")
    place = lineage.folder(args.root, args.name)
    beside = lineage.folder(args.root, f"{args.name}_{RANDOM}")
    source = lineage.of_task(args.root, args.version)
    lineage.check(source)
    manifest = lineage.read_manifest(source)
    rows = [lineage.made_of(held) for held in lineage.lines(source / lineage.KEPT)]
    if not 0 < args.keep < len(rows):
        raise UserError(f"--keep {args.keep}: {args.version} has {len(rows):,} rows; keep fewer")
    grades, sizes, told = _scores(args, [m.row for m in rows], place)
    chosen = selection.chosen(args.by, grades.scores, sizes, args.keep, args.seed)
    if not chosen.rows:
        raise RunFailed(f"no row has a score by which it could be kept: {grades.notes}")
    facts = {
        "method": "select",
        "by": args.by,
        "keep": args.keep,
        "seed": args.seed,
        "of": args.version,
        "of_files": manifest["files"],
        **told,
        **{k: manifest[k] for k in ("origin", "licence", "cluster", "split") if k in manifest},
    }
    arms = []
    for name, to, taken in ((args.by, place, chosen.rows), (RANDOM, beside, chosen.random)):
        why_not = chosen.why_not if name == args.by else {}
        made = _arm(rows, taken, why_not, name)
        own = facts | {"arm": name, "tokens": sum(sizes[i] for i in taken)}
        scores = {rows[i].id: s for i, s in enumerate(grades.scores) if s is not None}
        arms.append(_written(to, made, own, {"scores": scores, "notes": grades.notes}))
    _print(arms, told["unit"], grades)
    return {"selected": arms[0], RANDOM: arms[1]}, 0


def _arm(rows: Sequence[Made], taken: list[int], why_not: dict[int, str], name: str) -> list[Made]:
    """The rows of an arm, as they were made, and the others with why they are none of it."""
    inside = set(taken)
    return [
        m if i in inside else m.without(f"not selected: {why_not.get(i, f'{name}: not drawn')}")
        for i, m in enumerate(rows)
    ]


def _written(place: Path, made: list[Made], facts: dict[str, Any], more: dict[str, Any]) -> dict:
    """The manifest of an arm's version, which is made where it is not there."""
    key = hashing.digest(*(f"{k}={v}" for k, v in facts.items()))
    if done := lineage.same(place, key):
        lineage.check(done)
        say(f"{done}: these settings have made it already")
        return lineage.read_manifest(done)
    place.mkdir(parents=True, exist_ok=True)
    kept = [m.row for m in made if not m.lineage.dropped]
    moved = drift.between([m.row for m in made], kept)
    return lineage.read_manifest(
        lineage.write(place, place.name, key, made, {**facts, **more, "drift": moved})
    )


def _scores(
    args: Namespace, rows: list[Row], place: Path
) -> tuple[Grades, list[int], dict[str, Any]]:
    """(scores, tokens of each row, what a manifest says of both)."""
    by_words = [len(words(row.whole)) for row in rows]
    if args.by in selection.BY_RULE:
        return selection.lengths(rows), by_words, {"unit": "words", "generator": {"kind": "rule"}}
    if args.by in selection.BY_JUDGE:
        with making.generator(args) as who:
            place.mkdir(parents=True, exist_ok=True)
            with making.asking(who, place / lineage.JOURNAL, making.budget(args)) as (ask, ledger):
                graded = judge.grades if args.by == "judge" else judge.compared
                grades = graded(ask, rows, not args.raw, args.seed)
                making.print_calls(ledger())
        return grades, by_words, {"unit": "words", "generator": who.facts()}
    if not args.model or args.server or args.replay:
        raise UserError(f"--by {args.by} reads a model of your own: give --model MODEL")
    model = opened(args.model, args.base)
    template = "" if args.raw else model.template
    run = terminal.Run(model.runner, model.vocabulary, template)

    def prompt(row: Row) -> list[int]:
        return run.ids([{"role": "user", "content": row.asked}])

    if args.by == "ifd":
        grades = selection.ifd(model.runner, model.vocabulary, prompt, rows)
    else:
        grades = selection.diversity(model.runner, model.vocabulary, rows, args.keep, args.seed)
    sizes = [len(model.vocabulary.encode(row.whole)) for row in rows]
    name = hashing.digest(peft.fingerprint(model.runner.loaded.params), template)
    return grades, sizes, {"unit": "tokens", "generator": {"kind": "model", "name": name}}


def _print(arms: list[dict], unit: str, grades: Grades) -> None:
    for note, n in grades.notes.items():
        print(f"  {n:>7,}  {visible(note)}")
    for manifest in arms:
        counts = manifest["counts"]
        print(
            f"{manifest['task']}: {counts['kept']:,} of {counts['made']:,} rows, "
            f"{manifest['tokens']:,} {unit}, by {manifest['arm']}"
        )
        making.print_drift(manifest)
    print("train on each with the same steps and seeds, and compare the runs: itx compare RUN RUN")
