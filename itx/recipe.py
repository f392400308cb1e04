# SPDX-License-Identifier: Apache-2.0
"""A recipe file and the command line's `--a.b=c` overrides become a RunConfig, with the origin of
each value."""

import contextlib
import glob
import importlib.util
import io
import json
import os
import sys
import traceback
from typing import Any, Literal, get_args, get_origin

from itx import shipped
from itx.config import RunConfig, as_tuples, changed, fields_by_name, flatten, to_dict
from itx.config_check import check
from itx.errors import UserError, did_you_mean


def load(
    file: str, overrides: list[str] = (), quick: bool = False
) -> tuple[RunConfig, dict[str, str]]:
    """The config of a recipe with `--a.b=c` overrides, and where each value comes from.

    What `model.pretrained` says of the model is not in it yet (itx/pretrained.py, `settle`).

    Args:
        file: a recipe file, or the name of a recipe that comes with itx.

    Returns:
        (config, origin), origin: dotted name -> "default" | the file | "command line".
    """
    file = _find(file)
    config = called(file, "get_config", quick)
    if not isinstance(config, RunConfig):
        raise UserError(f"{file}: get_config() returned {type(config).__name__}, not RunConfig")
    default, values = flatten(to_dict(RunConfig())), flatten(to_dict(config))
    origin = {name: "default" if v == default[name] else file for name, v in values.items()}
    for text in overrides:
        config, name = override(config, text)
        origin[name] = "command line"
    check(config)
    _check_used(config, origin)
    return config, origin


def called(file: str, function: str, quick: bool) -> Any:
    """What a function of a recipe's file gives: `get_config`, or a study's `get_study`. UserError
    for a mistake in the file, with its line."""
    spec = importlib.util.spec_from_file_location(f"itx_config_{os.path.basename(file)[:-3]}", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    beside = os.path.dirname(os.path.abspath(file))
    if beside not in sys.path:  # a recipe may build on its neighbour, as a script may
        sys.path.append(beside)
    try:
        # Not from Python's compiled copy, which would stand for a text of the same length that was
        # written within the same second.
        text = spec.loader.get_data(file)
        exec(spec.loader.source_to_code(text, file), module.__dict__)
        return getattr(module, function)(quick=quick)
    except UserError:
        raise
    except TypeError as e:  # mostly an unknown keyword of a dataclass
        name = str(e).split("unexpected keyword argument ")[-1].strip("'")
        valid = {part for k in fields_by_name() for part in k.split(".")}
        near = did_you_mean(name, valid) if "unexpected" in str(e) else ""
        raise UserError(f"{file}: {e}{near}") from e
    except Exception as e:  # an error in the recipe's own code
        lines = [f.lineno for f in traceback.extract_tb(e.__traceback__) if f.filename == file]
        if isinstance(e, SyntaxError):
            lines.append(e.lineno)
        where = f"{file}:{lines[-1]}" if lines else file
        raise UserError(f"{where}: {type(e).__name__}: {e}") from e


def _find(file: str) -> str:
    """The file of a recipe: what ends in .py is a file, anything else the name of a shipped one;
    UserError where there is none."""
    named = None if file.endswith(".py") else shipped.recipe(file)
    if named or (file.endswith(".py") and os.path.isfile(file)):
        return str(named or file)
    beside = glob.glob(os.path.join(os.path.dirname(file) or ".", "*.py"))
    near = did_you_mean(file, [*beside, *shipped.recipe_names()])
    if file.endswith(".py"):
        raise UserError(f"config file {file!r} is not there{near}")
    raise UserError(f"no recipe named {file!r} comes with itx, and a file ends in .py{near}")


def _check_used(config: RunConfig, origin: dict[str, str]) -> None:
    """UserError for a setting of another tuning method than the run's, which would do nothing. The
    recipe's own values are passed over where the command line chose the method."""
    meant = {"command line"} if origin["peft.method"] == "command line" else {*origin.values()}
    for name, f in fields_by_name().items():
        methods = f.metadata["methods"]
        is_set = origin[name] in meant - {"default"}
        if methods and is_set and config.peft.method not in methods:
            raise UserError(
                f"{name} is a setting of {' and '.join(methods)}; this run's "
                f"peft.method={config.peft.method} has none: give --peft.method={methods[0]} too, "
                "or leave it out"
            )


def override(config: RunConfig, text: str) -> tuple[RunConfig, str]:
    """Apply one `--a.b=c`; the key is checked here, the value by its type (tyro)."""
    key, equals, value = text.partition("=")
    name = key.removeprefix("--").replace("-", "_")
    known = fields_by_name()
    if not key.startswith("--") or name not in known:
        raise UserError(f"unknown setting {key!r}" + did_you_mean(name, known))
    if not equals:
        raise UserError(f"{key} needs a value: {key}=…")
    section, leaf = name.split(".")
    return changed(config, section, **{leaf: _parse(key, value, known[name].type)}), name


def _parse(key: str, text: str, kind: Any) -> Any:
    """The value of an override, by its field's type."""
    if kind is str:
        return text
    if get_origin(kind) is dict:
        try:
            return json.loads(text)
        except json.JSONDecodeError as e:
            raise UserError(f"{key}={text}: not a JSON object ({e})") from e
    if get_origin(kind) is Literal and text not in get_args(kind):
        raise UserError(f"{key}={text}: no such choice" + did_you_mean(text, get_args(kind)))
    if kind is bool:
        text = text.capitalize()
    many = get_origin(kind) is tuple
    args = text.split(",") if many and text else [] if many else [text]
    import tyro  # only where there is something to parse

    try:
        with contextlib.redirect_stderr(io.StringIO()):
            parsed = tyro.cli(kind, args=["--", *args], console_outputs=False)
    except SystemExit as e:
        article = "an" if kind is int else "a"
        raise UserError(
            f"{key}={text}: {text!r} is not {article} {getattr(kind, '__name__', kind)}"
        ) from e
    return as_tuples(parsed) if many else parsed
