# SPDX-License-Identifier: Apache-2.0
"""`itx create self-instruct`: new rows by a model, filtered, as a task. The group's commands on
rows that are there stand in review.py."""

import argparse
from argparse import Namespace
from pathlib import Path

from itx import hashing
from itx.commands import answering, refine, review
from itx.commands.arguments import group
from itx.create import filters, lineage, seeds, self_instruct
from itx.create.self_instruct import Settings
from itx.errors import RunFailed, UserError
from itx.leaks import contamination
from itx.leaks.finder import Asked
from itx.runs import open_run, read_lock, run_config
from itx.storage import local
from itx.text import say, visible

LICENCE = "unknown"  # of what a model writes, unless its user says more


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = group(parser)
    review.add_arguments(add)
    refine.add_arguments(add)
    make = add("self-instruct", "instructions and answers from seeds (Wang et al. 2023)", create)
    option = make.add_argument
    option("--name", required=True, help="the task is created.NAME.v1, of a next making …v2")
    option("--root", type=local, default=".", help="folder of the data (data.root); default: here")
    answering.add_arguments(make)
    option("--seeds", default="en", help="a file, or en, ru or en,ru: those that come with itx")
    option("--wanted", type=int, default=Settings.wanted, help="rows to keep")
    option("--rounds", type=int, default=Settings.rounds, help="at most")
    option("--requests", type=int, default=Settings.requests, help="for instructions, a round")
    option("--seed", type=int, default=Settings.seed, help="of all that is drawn")
    option("--temperature", type=float, default=Settings.temperature, help="of instructions")
    option("--likeness", type=float, default=Settings.likeness, help="ROUGE-L that is too alike")
    option("--languages", default="", metavar="en,ru", help="those of texts; default: any")
    option("--without", default="", metavar="NAMES", help="filters to leave out")
    option("--unsafe_words", type=local, default="", metavar="FILE", help="a list of one's own")
    option("--leaks", type=local, default="", metavar="RUN", help="drop what this run evaluates on")
    option("--licence", default=LICENCE, help="kept in the manifest, with the task")


# ---- itx create self-instruct


def create(args: Namespace) -> tuple[dict, int]:
    place = lineage.folder(args.root, args.name)
    shown = _seeds(args)
    settings = _settings(args)
    every = _filters(args)
    asked = _asked(args)
    budget = answering.budget(args)
    place.mkdir(parents=True, exist_ok=True)
    with answering.generator(args) as generator:
        facts = {
            "method": "self-instruct",
            "method_version": self_instruct.SELF_INSTRUCT_VERSION,
            "generator": generator.facts(),
            "settings": vars(settings),
            "seeds": {"from": args.seeds, "count": len(shown), "digest": hashing.digest(*shown)},
            "filters": list(every),
            "languages": _names(args.languages),
            "unsafe_words": hashing.digest(*_unsafe_words(args)),
            "leaks_of": sorted({a.task for a in asked}),
        }
        key = hashing.digest(
            *(f"{k}={v}" for k, v in facts.items() if k != "generator"), generator.name
        )
        if done := lineage.same(place, key):
            lineage.check(done)
            say(f"{done}: these settings have made it already")
            return _told(lineage.read_manifest(done), done)
        with answering.asking(generator, place / lineage.JOURNAL, budget) as (ask, ledger):
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
    if not any(not m.lineage.dropped for m in result.made):
        counts = lineage.counts(result.made)
        raise RunFailed(f"no row is left; dropped: {counts['dropped']}; met: {result.notes}")
    version = lineage.write(place, args.name, key, result.made, facts)
    return _told(lineage.read_manifest(version), version)


def _progress(rounds: int, kept: int) -> None:
    say(f"round {rounds}: {kept:,} rows are kept")


def _told(manifest: dict, version: Path) -> tuple[dict, int]:
    """The facts of a version, printed."""
    counts = manifest["counts"]
    print(f"{manifest['task']}: {counts['kept']:,} of {counts['made']:,} rows are kept; {version}")
    for reason, n in counts["dropped"].items():
        print(f"  {n:>7,}  dropped: {visible(reason)}")
    for note, n in manifest["notes"].items():
        print(f"  {n:>7,}  {visible(note)}")
    calls = manifest["calls"]
    price = f", price {calls['price']:.4f}" if calls["price"] else ""
    print(
        f"calls: {calls['answers']:,} answers, {calls['attempts']}; "
        f"{calls['prompt_tokens']:,} tokens read, {calls['completion_tokens']:,} written{price}"
    )
    return manifest, 0


def _names(listed: str) -> list[str]:
    return [name for name in listed.split(",") if name]


def _seeds(args: Namespace) -> list[seeds.Seed]:
    names = _names(args.seeds)
    if names and all(n in seeds.SHIPPED for n in names):
        return seeds.shipped(names)
    if not Path(args.seeds).is_file():
        raise UserError(f"--seeds {args.seeds}: no such file; en, ru and en,ru come with itx")
    return seeds.of_file(args.seeds)


def _origin(args: Namespace) -> list[str]:
    """The data sets that a seed file stands for, for leaks between kin."""
    return [] if all(n in seeds.SHIPPED for n in _names(args.seeds)) else [Path(args.seeds).stem]


def _settings(args: Namespace) -> Settings:
    for name in ("wanted", "rounds", "requests"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name} {getattr(args, name)}: must be at least 1")
    chat = not args.raw
    return Settings(
        args.wanted, args.rounds, args.requests, args.seed, args.temperature, args.likeness, chat
    )


def _unsafe_words(args: Namespace) -> tuple[str, ...]:
    if not args.unsafe_words:
        return filters.shipped_unsafe_words()
    return filters.unsafe_words_of(Path(args.unsafe_words).read_text(encoding="utf-8"))


def _filters(args: Namespace) -> dict[str, filters.Filter]:
    every = filters.every(_names(args.languages), _unsafe_words(args))
    return filters.chosen(every, _names(args.without))


def _asked(args: Namespace) -> list[Asked]:
    if not args.leaks:
        return []
    run = open_run(args.leaks)
    lock, where = read_lock(run), run_config(run).data.cache_dir
    return contamination.asked_of(contamination.scored_rows(lock), where)
