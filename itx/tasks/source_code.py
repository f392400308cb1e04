# SPDX-License-Identifier: Apache-2.0
"""What Python code says of itself: the names in a function, its text, what a module imports.

Nothing is run for it, and no module of the user's is imported.
"""

import ast
import dis
import functools
import importlib.util
import linecache
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple


class Used(NamedTuple):
    """What stands in a function's code, inner functions included."""

    names: set[str]  # global ones
    attributes: set[str]
    imports: list[tuple[int, str, tuple[str, ...]]]  # level, module, names


def names_in(code: types.CodeType) -> Used:
    used = Used(set(), set(), [])
    before: list[Any] = [None, None]  # the values of the two instructions before
    for ins in dis.get_instructions(code):
        if ins.opname == "EXTENDED_ARG":
            continue
        if ins.opname in ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"):
            used.names.add(ins.argval)
        elif ins.opname in ("LOAD_ATTR", "LOAD_METHOD", "IMPORT_FROM"):
            used.attributes.add(ins.argval)
        elif ins.opname == "IMPORT_NAME":
            used.imports.append((before[0] or 0, ins.argval, tuple(before[1] or ())))
        before = [before[1], ins.argval]
    for const in code.co_consts:
        if isinstance(const, types.CodeType):  # inner functions, comprehensions, classes
            inner = names_in(const)
            used.names.update(inner.names)
            used.attributes.update(inner.attributes)
            used.imports.extend(inner.imports)
    return used


def file_of(module: str) -> str | None:
    """The file of a module's text, whether it is imported or not; None if it has none."""
    if file := getattr(sys.modules.get(module), "__file__", None):
        return file if file.endswith(".py") and Path(file).is_file() else None
    top, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if not rest:
        return spec.origin if spec.origin and spec.origin.endswith(".py") else None
    for folder in spec.submodule_search_locations or ():
        place = Path(folder).joinpath(*rest)
        for file in (place / "__init__.py", place.with_suffix(".py")):
            if file.is_file():
                return str(file)
    return None


@functools.lru_cache(maxsize=4096)
def imports_of(file: str, module: str, changed_ns: int) -> tuple[str, list[str]]:
    """(a module's text, names of what it may import, anywhere in it).

    Args:
        changed_ns: when the file was changed; it only says when to read it anew.
    """
    del changed_ns
    text = Path(file).read_text(encoding="utf-8")
    package = module if file.endswith("__init__.py") else module.rpartition(".")[0]
    imported = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            imported += [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            try:
                base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            except ImportError:
                continue
            imported += [base, *(f"{base}.{a.name}" for a in node.names)]
    # The __init__ of each parent runs, too.
    parents = [n.rsplit(".", i)[0] for n in imported for i in range(1, n.count(".") + 1)]
    return text, sorted({*imported, *parents})


@functools.lru_cache(maxsize=4096)
def _definitions(text: str) -> dict[int, list[tuple[str, str]]]:
    """{first line: [(name, text)]} of a module's functions and lambdas."""
    lines, by_line = text.splitlines(keepends=True), {}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            written = "".join(lines[first - 1 : node.end_lineno])
            by_line.setdefault(first, []).append((node.name, written))
        elif isinstance(node, ast.Lambda):
            written = ast.get_source_segment(text, node)
            by_line.setdefault(node.lineno, []).append(("<lambda>", written))
    return by_line


def text_of(code: types.CodeType, module: Mapping[str, Any]) -> str:
    """A function's text (of all lambdas that begin in its line); "" where there is none.

    Args:
        module: the names of the function's module.
    """
    linecache.checkcache(code.co_filename)
    text = "".join(linecache.getlines(code.co_filename, dict(module)))
    try:
        definitions = _definitions(text).get(code.co_firstlineno, ())
    except SyntaxError:  # it was edited since it was imported
        return ""
    return "\n".join(written for name, written in definitions if name == code.co_name)
