# SPDX-License-Identifier: Apache-2.0
"""`itx config`: every setting with its meaning, default, kind and the values that it takes."""

import argparse
import dataclasses
from argparse import Namespace
from typing import Any, Literal, get_args, get_origin

from itx.command_line import setting_names
from itx.commands.arguments import command
from itx.config import RunConfig, fields_by_name
from itx.errors import UserError, did_you_mean
from itx.eval.tables import console, table

# what a change means for a run that goes on (itx/config.py)
KINDS = {
    "data": "shapes the batches: a run that goes on refuses another value",
    "maths": "shapes the update: a run that goes on refuses another value unless resume.allow "
    "names it",
    "free": "may change whenever a run goes on",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    command(parser, show_settings).add_argument(
        "field", nargs="?", help="a setting (train.steps), a group (optim) or a bare name (steps)"
    )


def show_settings(args: Namespace) -> tuple[list[dict], int]:
    names = _named(args.field) if args.field else list(fields_by_name())
    rows = [facts(name) for name in names]
    if len(rows) == 1:
        _print_one(rows[0])
        return rows, 0
    for section in dict.fromkeys(r["setting"].partition(".")[0] for r in rows):
        _print_section(section, [r for r in rows if r["setting"].startswith(f"{section}.")])
    for kind, meaning in KINDS.items():
        print(f"{kind:<6} {meaning}")
    return rows, 0


def _named(typed: str) -> list[str]:
    """The settings that a name means: its own, those of its group, or those of that bare name."""
    fields, name = fields_by_name(), typed.replace("-", "_")
    sections = [f.name for f in dataclasses.fields(RunConfig)]
    if name in fields:
        return [name]
    if name.removesuffix(".") in sections:
        return [n for n in fields if n.startswith(f"{name.removesuffix('.')}.")]
    if found := setting_names(name):
        return found
    raise UserError(f"no setting {typed!r}" + did_you_mean(name, [*fields, *sections]))


def facts(name: str) -> dict[str, Any]:
    """What `itx config` says of a setting."""
    f = fields_by_name()[name]
    choices = list(get_args(f.type)) if get_origin(f.type) is Literal else None
    if f.type is bool:
        choices = [True, False]
    return {
        "setting": name,
        "meaning": f.metadata["doc"],
        "default": f.default,
        "kind": f.metadata["kind"],
        "type": _type(f.type),
        "choices": choices,
        "at_least": 0 if f.metadata["share"] else f.metadata["at_least"],
        "below": 1 if f.metadata["share"] else None,
        "methods": list(f.metadata["methods"]),
    }


def _type(kind: Any) -> str:
    """A field's type in words: of a tuple what stands between its commas."""
    if get_origin(kind) is Literal:
        return "one of the choices"
    if get_origin(kind) is dict:
        return "a JSON object of numbers"
    if get_origin(kind) is tuple:
        inner, *more = get_args(kind)
        if get_origin(inner) is tuple:
            return f"pairs of {' and '.join(t.__name__ for t in get_args(inner))}, in a recipe"
        return f"{inner.__name__}, several behind commas" if more else inner.__name__
    return kind.__name__


def allowed(row: dict) -> str:
    """The values that a setting takes, in words."""
    words = [" | ".join(map(str, row["choices"])) if row["choices"] else row["type"]]
    if row["at_least"] is not None:
        words.append(f"at least {row['at_least']}")
    if row["below"] is not None:
        words.append(f"below {row['below']}")
    if row["methods"]:
        words.append(f"with peft.method={' or '.join(row['methods'])}")
    return ", ".join(words)


def _written(value: Any) -> str:
    """A default as the command line would have it."""
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "(none)"
    return "(none)" if value in (None, "") else str(value)


def _print_one(row: dict) -> None:
    told = {
        "meaning": row["meaning"],
        "default": _written(row["default"]),
        "values": allowed(row),
        "kind": f"{row['kind']}: {KINDS[row['kind']]}",
    }
    print(f"--{row['setting']}=…")
    for key, value in told.items():
        print(f"  {key:<8} {value}")


def _print_section(section: str, rows: list[dict]) -> None:
    cells = [
        (
            r["setting"].partition(".")[2],
            _written(r["default"]),
            r["kind"],
            allowed(r),
            r["meaning"],
        )
        for r in rows
    ]
    head = ("setting", "default", "kind", "values", "meaning")
    console().print(table(f"--{section}.…", head, cells, left=head, fold=True))
