# SPDX-License-Identifier: Apache-2.0
"""`itx create augment`: rows of rows that there are, by rules and by a model."""

import contextlib
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from itx import hashing
from itx.commands import making
from itx.create import augment, drift, lineage, operators, parents
from itx.create.augment import Settings
from itx.create.generators import Ask, Generator
from itx.errors import RunFailed, UserError, check_known
from itx.eval import metrics, tables
from itx.tasks import registry
from itx.text import say, visible


def add_commands(add: Callable) -> None:
    make = add("augment", "rows of a task, a version or a file, changed by operators", create)
    option = make.add_argument
    option("source", help="a task, created.NAME.v1, or a file as self-instruct's --seeds takes it")
    making.add_place(make)
    making.add_who(make)
    option(
        "--operators",
        default=",".join(operators.RULES),
        metavar="NAMES",
        help="default: all rules, %(default)s; by a model: "
        + ", ".join(name for name, o in operators.OPERATORS.items() if o.asks),
    )
    option("--modules", default="tasks", help="modules that register tasks; default: %(default)s")
    option("--rows", type=int, default=0, help="of the source, drawn by hash; 0: all")
    option("--copies", type=int, default=Settings.copies, help="of each operator on each row")
    option("--seed", type=int, default=Settings.seed, help="of all that is drawn")
    option("--temperature", type=float, default=Settings.temperature, help="of what is asked")
    option(
        "--metric", default="", help="that judges the answer of a rationale; default: the task's"
    )
    making.add_filters(make)


def create(args: Namespace) -> tuple[dict, int]:
    place = lineage.folder(args.root, args.name)
    chosen = operators.chosen(making.names(args.operators))
    settings = _settings(args)
    every = making.chosen_filters(args)
    source = _source(args)
    asked = making.asked_by_evaluation(args)
    with _generator(args, chosen) as generator:
        facts = {
            "method": "augment",
            "method_version": augment.AUGMENT_VERSION,
            "generator": generator.facts() if generator else {"kind": augment.RULES},
            "settings": vars(settings),
            "operators": list(chosen),
            "parents": {
                "from": args.source,
                "count": len(source.parents),
                "digest": source.digest,
                "left_out": source.left_out,
            },
            "filters": list(every),
            "languages": making.names(args.languages),
            "unsafe_words": hashing.digest(*making.unsafe_words(args)),
            "leaks_of": sorted({a.task for a in asked}),
        }
        name = generator.name if generator else augment.RULES
        key = hashing.digest(*(f"{k}={v}" for k, v in facts.items() if k != "generator"), name)
        if done := lineage.same(place, key):
            lineage.check(done)
            say(f"{done}: these settings have made it already")
            return _told(lineage.read_manifest(done), done)
        place.mkdir(parents=True, exist_ok=True)
        with _asking(args, generator, place) as (ask, ledger):
            result = augment.run(
                ask, name, source.parents, chosen, settings, every, asked, _progress
            )
            facts["calls"] = ledger()
    kept = [m.row for m in result.made if not m.lineage.dropped]
    if not kept:
        raise RunFailed(f"no row is left: {result.operators}")
    facts |= {
        "origin": [f"created_{args.name}", *source.origin],
        "cluster": source.cluster,
        "split": "parent",  # rows of one parent stand in the same split (tasks/created.py)
        "licence": args.licence,
        "operators": result.operators,
        "drift": drift.between([p.row for p in source.parents], kept),
    }
    version = lineage.write(place, args.name, key, result.made, facts)
    return _told(lineage.read_manifest(version), version)


def _progress(done: int, of: int, kept: int) -> None:
    say(f"{done:,} of {of:,} jobs are done, {kept:,} rows are kept")


def _told(manifest: dict, version: Path) -> tuple[dict, int]:
    making.print_counts(manifest, version)
    for why, n in manifest["parents"]["left_out"].items():
        print(f"  {n:>7,}  records of the source left out: {visible(why)}")
    rows = []
    for name, of in manifest["operators"].items():
        more = {k: n for k, n in of.items() if isinstance(n, int) and k not in _COUNTS}
        whys = [
            *of["dropped"].items(),
            *((f"{w}", n) for w, n in of["not applicable"].items()),
        ]
        told = [f"{n:,} {visible(why)}" for why, n in (*more.items(), *whys)]
        none = sum(of["not applicable"].values())
        dropped = sum(of["dropped"].values())
        counts = (f"{n:,}" for n in (of["jobs"], of["kept"], dropped, none))
        rows.append((name, "yes" if of["preserving"] else "no", *counts, "; ".join(told)))
    head = ("operator", "same meaning", "jobs", "kept", "dropped", "not applicable", "of these")
    tables.console().print(
        tables.table("operators", head, rows, left=("operator", "of these"), fold=True)
    )
    if manifest["calls"]:
        making.print_calls(manifest["calls"])
    making.print_drift(manifest)
    return manifest, 0


_COUNTS = ("jobs", "kept", "preserving")


def _source(args: Namespace) -> parents.Source:
    registry.load_modules(making.names(args.modules))
    metrics.trust(making.names(args.modules))
    source = parents.drawn(parents.of(args.source, args.root, args.seed), args.rows, args.seed)
    if args.metric:
        check_known(args.metric, metrics.SCORES, f"--metric: no metric {args.metric!r}")
        source = source.judged_by(args.metric)
    return source


def _settings(args: Namespace) -> Settings:
    for name, least in (("copies", 1), ("rows", 0), ("batch", 1)):
        if getattr(args, name) < least:
            raise UserError(f"--{name} {getattr(args, name)}: must be at least {least}")
    return Settings(args.copies, args.seed, args.temperature, not args.raw)


@contextlib.contextmanager
def _generator(args: Namespace, chosen: dict) -> Iterator[Generator | None]:
    """Who answers; None where rules do all."""
    asking = [name for name, o in chosen.items() if o.asks]
    named = args.model or args.server or args.replay
    if not asking:
        if named:
            raise UserError(f"{named}: nobody is asked, for {', '.join(chosen)} are rules")
        yield None
        return
    if not named:
        raise UserError(
            f"{', '.join(asking)} ask a model: give one of --model, --server and --replay"
        )
    if "magpie" in asking and (args.server or args.raw):
        raise UserError(
            "--operators magpie: a turn of the user is written by a --model with a chat template; "
            "neither a server nor --raw has one"
        )
    with making.generator(args) as generator:
        yield generator


@contextlib.contextmanager
def _asking(
    args: Namespace, generator: Generator | None, place: Path
) -> Iterator[tuple[Ask, Callable[[], dict[str, Any]]]]:
    if generator is None:
        yield (lambda requests: []), dict
        return
    with making.asking(generator, place / lineage.JOURNAL, making.budget(args)) as held:
        yield held
