# SPDX-License-Identifier: Apache-2.0
"""`itx create self-instruct`: new rows by a model, filtered, as a task; the other commands of the
group have files of their own."""

import argparse
from argparse import Namespace
from pathlib import Path

from itx import hashing
from itx.commands import augmenting, consistent, making, refine, review, selecting
from itx.commands.arguments import group
from itx.create import drift, lineage, seeds, self_instruct
from itx.create.row import Row
from itx.create.self_instruct import Settings
from itx.errors import RunFailed, UserError
from itx.text import say, visible


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = group(parser)
    make = add("self-instruct", "instructions and answers from seeds (Wang et al. 2023)", create)
    making.add_place(make)
    making.add_who(make)
    option = make.add_argument
    option("--seeds", default="en", help="a file, or en, ru or en,ru: those that come with itx")
    option("--wanted", type=int, default=Settings.wanted, help="rows to keep")
    option("--rounds", type=int, default=Settings.rounds, help="at most")
    option("--requests", type=int, default=Settings.requests, help="for instructions, a round")
    option("--seed", type=int, default=Settings.seed, help="of all that is drawn")
    option("--temperature", type=float, default=Settings.temperature, help="of instructions")
    option("--likeness", type=float, default=Settings.likeness, help="ROUGE-L that is too alike")
    making.add_filters(make)
    augmenting.add_commands(add)
    selecting.add_commands(add)
    consistent.add_commands(add)
    review.add_commands(add)
    refine.add_commands(add)


def create(args: Namespace) -> tuple[dict, int]:
    place = lineage.folder(args.root, args.name)
    shown = _seeds(args)
    settings = _settings(args)
    every = making.chosen_filters(args)
    asked = making.asked_by_evaluation(args)
    budget = making.budget(args)
    place.mkdir(parents=True, exist_ok=True)
    with making.generator(args) as generator:
        facts = {
            "method": "self-instruct",
            "method_version": self_instruct.SELF_INSTRUCT_VERSION,
            "generator": generator.facts(),
            "settings": vars(settings),
            "seeds": {"from": args.seeds, "count": len(shown), "digest": hashing.digest(*shown)},
            "filters": list(every),
            "languages": making.names(args.languages),
            "unsafe_words": hashing.digest(*making.unsafe_words(args)),
            "leaks_of": sorted({a.task for a in asked}),
        }
        key = hashing.digest(
            *(f"{k}={v}" for k, v in facts.items() if k != "generator"), generator.name
        )
        if done := lineage.same(place, key):
            lineage.check(done)
            say(f"{done}: these settings have made it already")
            return _told(lineage.read_manifest(done), done)
        with making.asking(generator, place / lineage.JOURNAL, budget) as (ask, ledger):
            result = self_instruct.run(
                ask, generator.name, shown, settings, every, asked, _progress
            )
            facts |= {
                "origin": [f"created_{args.name}", *_origin(args)],
                "licence": args.licence,
                "rounds": result.rounds,
                "notes": result.notes,
                "calls": ledger(),
            }
    kept = [m.row for m in result.made if not m.lineage.dropped]
    if not kept:
        counts = lineage.counts(result.made)
        raise RunFailed(f"no row is left; dropped: {counts['dropped']}; met: {result.notes}")
    facts["drift"] = drift.between([Row(s.instruction, s.input, s.output) for s in shown], kept)
    version = lineage.write(place, args.name, key, result.made, facts)
    return _told(lineage.read_manifest(version), version)


def _progress(rounds: int, kept: int) -> None:
    say(f"round {rounds}: {kept:,} rows are kept")


def _told(manifest: dict, version: Path) -> tuple[dict, int]:
    """The facts of a version, printed."""
    making.print_counts(manifest, version)
    for note, n in manifest["notes"].items():
        print(f"  {n:>7,}  {visible(note)}")
    making.print_calls(manifest["calls"])
    making.print_drift(manifest)
    return manifest, 0


def _seeds(args: Namespace) -> list[seeds.Seed]:
    names = making.names(args.seeds)
    if names and all(n in seeds.SHIPPED for n in names):
        return seeds.shipped(names)
    if not Path(args.seeds).is_file():
        raise UserError(f"--seeds {args.seeds}: no such file; en, ru and en,ru come with itx")
    return seeds.of_file(args.seeds)


def _origin(args: Namespace) -> list[str]:
    """The data sets that a seed file stands for, for leaks between kin."""
    shipped = all(n in seeds.SHIPPED for n in making.names(args.seeds))
    return [] if shipped else [Path(args.seeds).stem]


def _settings(args: Namespace) -> Settings:
    for name in ("wanted", "rounds", "requests", "batch"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name} {getattr(args, name)}: must be at least 1")
    chat = not args.raw
    return Settings(
        args.wanted, args.rounds, args.requests, args.seed, args.temperature, args.likeness, chat
    )
