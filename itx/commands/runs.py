# SPDX-License-Identifier: Apache-2.0
"""`itx runs check`: whether a run folder is what was written."""

import argparse
from argparse import Namespace

from itx import run_check
from itx.commands.arguments import group
from itx.eval import tables
from itx.runs import open_run
from itx.storage import of_run
from itx.stored_run import here
from itx.text import visible


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = group(parser)
    check = add(
        "check",
        "read all of a run folder and say what is damaged; exit 1 where something is",
        runs_check,
    )
    check.add_argument("run", type=of_run, help="a run folder, or its URL in a store")


def runs_check(args: Namespace) -> tuple[dict, int]:
    run = open_run(here(args.run))
    rows = run_check.check(run)
    head = ("file", "state", "")
    cells = ([visible(row[key]) for key in ("file", "state", "what")] for row in rows)
    table = tables.table(f"what {visible(args.run)} holds", head, cells, left=head, fold=True)
    tables.console().print(table)
    damaged = [row["file"] for row in rows if row["state"] == run_check.DAMAGED]
    names = f": {visible(', '.join(damaged))}" if damaged else ""
    print(f"{len(damaged)} of {len(rows)} damaged{names}")
    return {"run": args.run, "damaged": len(damaged), "files": rows}, 1 if damaged else 0
