# SPDX-License-Identifier: Apache-2.0
"""What several commands take, and how a group of commands is made.

An argument that is a path says so itself: `type=local`.
"""

import argparse
from collections.abc import Callable
from typing import Any

from itx.storage import local

BASE = "what an adapter's folder is an adapter of; default: what its adapter_config.json names"
Work = Callable[[argparse.Namespace], tuple[Any, int]]  # (facts for --json, exit code)


def group(parser: argparse.ArgumentParser) -> Callable[[str, str, Work], argparse.ArgumentParser]:
    """`add(name, help, work)` for each command of a group."""
    commands = parser.add_subparsers(dest="subcommand", required=True, metavar="COMMAND")

    def add(name: str, help: str, work: Work) -> argparse.ArgumentParser:
        return command(
            commands.add_parser(name, help=help, description=help, allow_abbrev=False), work
        )

    return add


def command(parser: argparse.ArgumentParser, work: Work) -> argparse.ArgumentParser:
    """A parser whose command does `work`."""
    parser.add_argument(
        "--json", type=local, metavar="FILE", help="also write the same facts as JSON"
    )
    parser.set_defaults(work=work, parser=parser)
    return parser


def with_recipe(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """A command over a recipe, whose values `--a.b=c` overrides (cli.py)."""
    parser.add_argument(
        "config",
        type=local,
        help="a recipe's file (configs/quickstart.py), or the name of one that comes with itx "
        "(quickstart); override its values with --a.b=c",
    )
    parser.add_argument("--quick", action="store_true", help="the recipe's quick variant")
    return parser
