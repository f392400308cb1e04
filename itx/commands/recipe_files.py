# SPDX-License-Identifier: Apache-2.0
"""`itx recipes ls | cp`: the recipes that come with itx, and a copy of one to change."""

import argparse
import ast
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

from itx import shipped, storage
from itx.errors import UserError, check_known
from itx.eval.tables import console, table
from itx.text import visible


def add_commands(add: Callable[..., argparse.ArgumentParser]) -> None:
    """The two commands, for the group that `add` adds to."""
    add("ls", "the recipes that come with itx", recipes_ls)
    copy = add("cp", "copy a recipe to a new file, to be changed", recipes_cp)
    copy.add_argument("name", help="a recipe that `itx recipes ls` lists")
    copy.add_argument(
        "to", nargs="?", type=storage.local, default=".", help="a new file or folder; default: here"
    )


def recipes_ls(args: Namespace) -> tuple[list[dict], int]:
    rows = [
        {"recipe": name, "file": str(file), "what": first_line(file)}
        for name, file in recipes().items()
    ]
    cells = [(r["recipe"], visible(r["what"])) for r in rows]
    head = ("recipe", "what it does")
    console().print(table("recipes", head, cells, left=head, fold=True))
    if rows:
        print(f"files: {visible(str(Path(rows[0]['file']).parent))}")
        print("itx recipes cp NAME copies one; its docstring says how it is run")
    return rows, 0


def recipes_cp(args: Namespace) -> tuple[dict, int]:
    known = recipes()
    name = Path(args.name).name.removesuffix(".py")
    check_known(name, known, f"no recipe {args.name!r}")
    to = Path(args.to)
    if to.is_dir():
        to = to / f"{name}.py"
    if to.suffix != ".py":
        raise UserError(f"{to}: a recipe is a Python file: {to.name}.py")
    if to.exists():
        raise UserError(f"{to} is there already, and is left as it is; give another name")
    beside = _to_copy_beside(name, known, to)
    for source, copy in [*beside, (known[name], to)]:
        with storage.whole_file(copy) as part:
            part.write_bytes(source.read_bytes())
    copies = [str(copy) for _, copy in beside]
    more = f", and {', '.join(copies)}, which it builds on" if copies else ""
    print(visible(f"{to}: {first_line(to)}{more}"))
    return {"recipe": name, "file": str(to), "builds_on": copies}, 0


def recipes() -> dict[str, Path]:
    """{name: file} of the recipes that come with itx."""
    files = {name: shipped.RECIPES / f"{name}.py" for name in shipped.recipe_names()}
    return {name: file for name, file in files.items() if _is_recipe(file)}


def _is_recipe(file: Path) -> bool:
    return any(
        isinstance(n, ast.FunctionDef) and n.name == "get_config" for n in _parsed(file).body
    )


def _parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def first_line(file: Path) -> str:
    """The first paragraph of a recipe's docstring, in a line."""
    text = (ast.get_docstring(_parsed(file)) or "").split("\n\n")[0]
    return " ".join(text.split())


def _neighbours(file: Path, known: dict[str, Path]) -> list[str]:
    """The recipes that a recipe imports, and those that they do."""
    found: list[str] = []
    for node in ast.walk(_parsed(file)):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        for name in set(names) & known.keys():
            found += [n for n in (name, *_neighbours(known[name], known)) if n not in found]
    return found


def _to_copy_beside(name: str, known: dict[str, Path], to: Path) -> list[tuple[Path, Path]]:
    """(recipe, copy) of what a recipe builds on and the folder of its copy lacks; UserError where
    another file of that name is there."""
    pairs = []
    for other in _neighbours(known[name], known):
        copy = to.parent / f"{other}.py"
        if not copy.exists():
            pairs.append((known[other], copy))
        elif copy.read_bytes() != known[other].read_bytes():
            raise UserError(
                f"{name} builds on {other}, and {copy} is another file than itx's; copy it to "
                "another folder"
            )
    return pairs
