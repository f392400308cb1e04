# SPDX-License-Identifier: Apache-2.0
"""Who answers the requests of a command that makes data: its options, and what they choose."""

import argparse
import contextlib
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from itx import hashing, peft
from itx.commands.arguments import BASE
from itx.commands.opened import opened
from itx.create import journal
from itx.create.courier import Courier
from itx.create.generators import Generator
from itx.create.journal import Budget, Journal
from itx.create.own_model import OwnModel
from itx.create.self_instruct import Ask
from itx.create.server import Server
from itx.errors import UserError
from itx.eval import terminal
from itx.storage import local

# those that take a value
OPTIONS = (
    "model server replay replay_name base batch server_model key_variable concurrency "
    "requests_per_minute token_budget prompt_price completion_price"
).split()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    option = parser.add_argument
    who = parser.add_argument_group("who answers, one of them")
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


def is_named(args: Namespace) -> bool:
    """Whether anybody is to answer."""
    return any((args.model, args.server, args.replay))


def words(args: Namespace) -> list[str]:
    """The options that name who answers, for another command that takes them."""
    given = {name: getattr(args, name) for name in OPTIONS}
    told = [w for name, value in given.items() if value for w in (f"--{name}", str(value))]
    return [*told, *(["--raw"] if args.raw else [])]


def budget(args: Namespace) -> Budget:
    return Budget(args.token_budget, args.prompt_price, args.completion_price)


@contextlib.contextmanager
def generator(args: Namespace) -> Iterator[Generator]:
    """Who answers."""
    if sum(map(bool, (args.model, args.server, args.replay))) != 1:
        raise UserError("give one of --model MODEL, --server URL and --replay JOURNAL")
    if args.batch < 1:
        raise UserError(f"--batch {args.batch}: must be at least 1")
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
def asking(generator: Generator, file: Path, budget: Budget) -> Iterator[tuple[Ask, Any]]:
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
