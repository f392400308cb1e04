# SPDX-License-Identifier: Apache-2.0
"""Seed tasks: those that come with itx, written by hand for it, or a user's own file.

A line of a seed file is {"instruction", "output"} and, if it has them, {"id", "input",
"is_classification"}; or Self-Instruct's own form, {"instruction", "instances": [{"input",
"output"}], "is_classification"}, of which the first instance is taken.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from itx import hashing, storage, text
from itx.errors import UserError, check_known

SHIPPED = ("en", "ru")


@dataclass(frozen=True)
class Seed:
    id: str
    instruction: str
    input: str
    output: str
    is_classification: bool


def shipped(languages: Sequence[str]) -> list[Seed]:
    """The seeds that come with itx in these languages."""
    out = []
    for language in languages:
        check_known(language, SHIPPED, f"no seeds in {language!r} come with itx")
        file = resources.files("itx.create").joinpath(f"seeds_{language}.jsonl")
        out += _read(file.read_text("utf-8"), file.name)
    return out


def of_file(path: str) -> list[Seed]:
    """The seeds of a user's file; UserError with the line that is none."""
    try:
        held = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as e:
        raise UserError(f"{path} is not UTF-8 (byte {e.start})") from e
    seeds = _read(held, path)
    if len({s.id for s in seeds}) < len(seeds):
        raise UserError(f"{path}: two seeds share an id")
    if not seeds:
        raise UserError(f"{path} holds no seeds")
    return seeds


def _read(held: str, where: str) -> list[Seed]:
    lines = enumerate(held.splitlines(), 1)
    return [_seed(line, f"{where}, line {n}") for n, line in lines if line.strip()]


def _seed(line: str, where: str) -> Seed:
    held = storage.object_of(line, where)
    instances = held.get("instances")
    if isinstance(instances, list) and instances and isinstance(instances[0], dict):
        held = {**held, **instances[0]}
    parts = [held.get("instruction"), held.get("input", ""), held.get("output")]
    if not all(isinstance(p, str) for p in parts) or text.blank(parts[0]) or text.blank(parts[2]):
        raise UserError(f'{where} has no texts "instruction" and "output"')
    return Seed(_id(held, parts), *parts, bool(held.get("is_classification", False)))


def _id(held: dict, parts: list[Any]) -> str:
    return str(held["id"]) if "id" in held else hashing.digest(*parts)
