# SPDX-License-Identifier: Apache-2.0
"""What the commands that make rows share: who answers, which filters look, what is told of a
version."""

import argparse
import contextlib
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from itx import hashing, peft
from itx.commands.arguments import BASE
from itx.commands.opened import opened
from itx.create import drift, filters, journal
from itx.create.courier import Courier
from itx.create.generators import Ask, Generator
from itx.create.journal import Budget, Journal
from itx.create.own_model import OwnModel
from itx.create.server import Server
from itx.errors import UserError
from itx.eval import tables, terminal
from itx.leaks import contamination
from itx.leaks.finder import Asked
from itx.runs import open_run, read_lock, run_config
from itx.storage import local
from itx.text import visible

LICENCE = "unknown"  # of what a model writes, unless its user says more


def add_place(make: argparse.ArgumentParser) -> None:
    """Where the version goes."""
    option = make.add_argument
    option("--name", required=True, help="the task is created.NAME.v1, of a next making …v2")
    option("--root", type=local, default=".", help="folder of the data (data.root); default: here")


def add_who(make: argparse.ArgumentParser) -> None:
    """Who answers, and what it may cost."""
    option = make.add_argument
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


# those of `add_who` that take a value
WHO = (
    "model server replay replay_name base batch server_model key_variable concurrency "
    "requests_per_minute token_budget prompt_price completion_price"
).split()


def is_anybody(args: Namespace) -> bool:
    """Whether anybody is to answer."""
    return any((args.model, args.server, args.replay))


def who_again(args: Namespace) -> list[str]:
    """The options of `add_who` as they were given, for another command that takes them."""
    given = {name: getattr(args, name) for name in WHO}
    told = [w for name, value in given.items() if value for w in (f"--{name}", str(value))]
    return [*told, *(["--raw"] if args.raw else [])]


def add_filters(make: argparse.ArgumentParser) -> None:
    """Which rows are kept, and what is said of them."""
    option = make.add_argument
    option("--languages", default="", metavar="en,ru", help="those of texts; default: any")
    option("--without", default="", metavar="NAMES", help="filters to leave out")
    option("--unsafe_words", type=local, default="", metavar="FILE", help="a list of one's own")
    option("--leaks", type=local, default="", metavar="RUN", help="drop what this run evaluates on")
    option("--licence", default=LICENCE, help="kept in the manifest, with the task")


def names(listed: str) -> list[str]:
    return [name for name in listed.split(",") if name]


def unsafe_words(args: Namespace) -> tuple[str, ...]:
    if not args.unsafe_words:
        return filters.shipped_unsafe_words()
    return filters.unsafe_words_of(Path(args.unsafe_words).read_text(encoding="utf-8"))


def chosen_filters(args: Namespace) -> dict[str, filters.Filter]:
    every = filters.every(names(args.languages), unsafe_words(args))
    return filters.chosen(every, names(args.without))


def asked_by_evaluation(args: Namespace) -> list[Asked]:
    if not args.leaks:
        return []
    run = open_run(args.leaks)
    lock, where = read_lock(run), run_config(run).data.cache_dir
    return contamination.asked_of(contamination.scored_rows(lock), where)


@contextlib.contextmanager
def generator(args: Namespace) -> Iterator[Generator]:
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
def asking(who: Generator, file: Path, budget: Budget) -> Iterator[tuple[Ask, Any]]:
    """(a function that answers requests, a function that gives the ledger). Calls of a server are
    made by a courier."""
    if isinstance(who, Server):
        with Courier(who, file, budget) as courier:
            yield courier.ask, lambda: _ledger(file, budget)
        return
    with Journal(file) as kept:
        yield (
            lambda requests: journal.ask(kept, who, requests, budget),
            lambda: kept.ledger(budget),
        )


def _ledger(file: Path, budget: Budget) -> dict:
    with Journal(file, reads_only=True) as kept:
        return kept.ledger(budget)


def budget(args: Namespace) -> Budget:
    return Budget(args.token_budget, args.prompt_price, args.completion_price)


def print_counts(manifest: dict, version: Path) -> None:
    """How many rows a version keeps, and why the others were dropped."""
    counts = manifest["counts"]
    print(f"{manifest['task']}: {counts['kept']:,} of {counts['made']:,} rows are kept; {version}")
    for reason, n in counts["dropped"].items():
        print(f"  {n:>7,}  dropped: {visible(reason)}")


def print_calls(calls: dict) -> None:
    price = f", price {calls['price']:.4f}" if calls["price"] else ""
    print(
        f"calls: {calls['answers']:,} answers, {calls['attempts']}; "
        f"{calls['prompt_tokens']:,} tokens read, {calls['completion_tokens']:,} written{price}"
    )


def print_drift(manifest: dict) -> None:
    """What the kept rows have less or more of than the rows that they were made of."""
    if "drift" not in manifest:  # made before versions had it
        return
    moved = manifest["drift"]["moved"]
    told = (f"{kind.replace('_', ' ')} {m:.2f}" for kind, m in moved.items() if m is not None)
    head = ("", "value", "before", "after")
    title = f"drift, 0 none to 1: {', '.join(told)}"
    tables.console().print(
        tables.table(title, head, drift.cells(manifest["drift"]), left=("", "value"))
    )
