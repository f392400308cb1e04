# SPDX-License-Identifier: Apache-2.0
"""`itx create self-instruct`: new rows by a model, filtered, as a task. The group's commands on
rows that are there stand in review.py."""

import argparse
import contextlib
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from itx import hashing, peft
from itx.commands import review
from itx.commands.arguments import BASE, group
from itx.commands.opened import opened
from itx.create import filters, journal, lineage, seeds, self_instruct
from itx.create.courier import Courier
from itx.create.generators import Generator
from itx.create.journal import Budget, Journal
from itx.create.own_model import OwnModel
from itx.create.self_instruct import Ask, Settings
from itx.create.server import Server
from itx.errors import RunFailed, UserError
from itx.eval import terminal
from itx.leaks import contamination
from itx.leaks.finder import Asked
from itx.runs import open_run, read_lock, run_config
from itx.storage import local
from itx.text import say, visible

LICENCE = "unknown"  # of what a model writes, unless its user says more


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = group(parser)
    review.add_arguments(add)
    make = add("self-instruct", "instructions and answers from seeds (Wang et al. 2023)", create)
    option = make.add_argument
    option("--name", required=True, help="the task is created.NAME.v1, of a next making …v2")
    option("--root", type=local, default=".", help="folder of the data (data.root); default: here")
    who = make.add_argument_group("who answers, one of them")
    who.add_argument("--model", type=local, default="", help="as `itx generate` takes it")
    who.add_argument("--server", default="", metavar="URL", help="e.g. http://127.0.0.1:8000/v1")
    who.add_argument("--replay", type=local, default="", metavar="JOURNAL", help="a recording")
    option("--replay_name", default="", help="who answered, where a recording has several")
    option("--base", type=local, default="", metavar="MODEL", help=BASE)
    option("--raw", action="store_true", help="texts to continue, without a chat template")
    option("--batch", type=int, default=32, help="requests that a model answers at a time")
    option("--server_model", default="", metavar="NAME", help="the model that the server has")
    option("--key_variable", default="OPENAI_API_KEY", help="environment variable with the key")
    option("--concurrency", type=int, default=8, help="calls of a server at a time")
    option("--requests_per_minute", type=float, default=0.0, help="0: no bound")
    option(
        "--token_budget", type=int, default=0, help="read and written, of all calls; 0: no bound"
    )
    option("--prompt_price", type=float, default=0.0, help="of a million tokens read")
    option("--completion_price", type=float, default=0.0, help="of a million tokens written")
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
    budget = Budget(args.token_budget, args.prompt_price, args.completion_price)
    place.mkdir(parents=True, exist_ok=True)
    with _generator(args) as generator:
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
        with _asking(args, generator, place / lineage.JOURNAL, budget) as (ask, ledger):
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
    for name in ("wanted", "rounds", "requests", "batch"):
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


@contextlib.contextmanager
def _generator(args: Namespace) -> Iterator[Generator]:
    """Who answers."""
    if sum(map(bool, (args.model, args.server, args.replay))) != 1:
        raise UserError("give one of --model MODEL, --server URL and --replay JOURNAL")
    if args.replay:
        yield journal.recorded(args.replay, args.replay_name)
        return
    if args.server:
        if not args.server_model:
            raise UserError("--server: --server_model NAME is missing")
        yield Server(
            args.server,
            args.server_model,
            args.key_variable,
            args.concurrency,
            args.requests_per_minute,
        )
        return
    model = opened(args.model, args.base)
    template = "" if args.raw else model.template
    if not args.raw and not template:
        raise UserError(f"--model {args.model} has no chat template: give --raw")
    name = f"model {hashing.digest(peft.fingerprint(model.runner.loaded.params), template)}"
    yield OwnModel(terminal.Run(model.runner, model.vocabulary, template), name, args.batch)


@contextlib.contextmanager
def _asking(
    args: Namespace, generator: Generator, file: Path, budget: Budget
) -> Iterator[tuple[Ask, Any]]:
    """(a function that answers requests, a function that gives the ledger). Calls of a server are
    made by a courier."""
    if isinstance(generator, Server):
        with Courier(generator, file, budget) as courier:
            yield courier.ask, lambda: _ledger(file, budget)
        return
    with Journal(file) as kept:
        yield (
            lambda requests: journal.ask(kept, generator, requests, budget),
            lambda: kept.ledger(budget),
        )


def _ledger(file: Path, budget: Budget) -> dict:
    with Journal(file, reads_only=True) as kept:
        return kept.ledger(budget)
