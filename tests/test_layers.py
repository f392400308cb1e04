# SPDX-License-Identifier: Apache-2.0
"""Who may import whom: the table of layers in itx/README.md, held by every import there is, in
functions too."""

import ast
import re
from pathlib import Path

import pytest

from tests.conftest import REPO

# Imports within functions: libraries that take long to load, or that not every machine has.
# Everything else is imported at the head of a file.
HEAVY = {
    "array_record", "fsspec", "gguf", "google_crc32c", "grain", "huggingface_hub", "jax", "matplotlib", "nltk", "numpy", "openai", "optax.contrib", "orbax", "py3langid", "pyarrow", "readline",
    "rich", "sacrebleu", "scipy", "sentencepiece", "tensorboardX", "tensorflow_datasets", "tokenizers", "tyro",
}  # fmt: skip
# Of our own only what imports SeqIO, and TensorFlow with it, lm-evaluation-harness, or Starlette and
# uvicorn at its head.
OWN_HEAVY = {
    *("itx.prepare.foreign", "itx.prepare.seqio_bridge"),
    *("itx.eval.harness", "itx.eval.harness_tasks"),
    "itx.serve.serving",
}
# `itx.tasks` is what a task module imports. Its `get` hands a task to SeqIO, with the writing side
# above it.
FACADE = "itx.tasks"


def modules(root: Path) -> dict[str, Path]:
    """{dotted name: file} of a package."""
    names = {
        ".".join(p.relative_to(root).with_suffix("").parts): p for p in (root / "itx").rglob("*.py")
    }
    return {name.removesuffix(".__init__"): p for name, p in names.items()}


def imports(file: Path) -> list[tuple[str, int, bool]]:
    """(what is imported, line, whether within a function) of a file; of `from a import b` both a.b
    and a."""
    out = []

    def visit(node: ast.AST, inside: bool) -> None:
        if isinstance(node, ast.Import):
            out.extend((alias.name, node.lineno, inside) for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: imports are absolute"
            out.extend((f"{node.module}.{alias.name}", node.lineno, inside) for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(
                child,
                inside or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)),
            )

    visit(ast.parse(file.read_text("utf-8")), False)
    return out


def arrows(root: Path) -> dict[str, dict[str, int]]:
    """{module: {module of ours that it imports: line}}."""
    known = modules(root)
    out: dict[str, dict[str, int]] = {name: {} for name in known}
    for name, file in known.items():
        for target, line, _ in imports(file):
            target = target if target in known else target.rpartition(".")[0]
            if target in known and target != name:
                out[name].setdefault(target, line)
    return out


def circle(graph: dict[str, dict[str, int]]) -> list[str]:
    """Modules that import each other in a circle; [] where there is none."""
    done: set[str] = set()

    def search(name: str, way: list[str]) -> list[str]:
        if name in way:
            return way[way.index(name) :] + [name]
        if name in done:
            return []
        for target in graph[name]:
            if found := search(target, [*way, name]):
                return found
        done.add(name)
        return []

    return next((found for name in graph if (found := search(name, []))), [])


def layers() -> list[list[str]]:
    """The patterns of each row of the table, lowest first."""
    text = (REPO / "itx" / "README.md").read_text("utf-8")
    table = text.split("<!-- layers -->")[1].split("<!-- /layers -->")[0]
    rows = [line.split("|")[2] for line in table.splitlines() if line.startswith("|")][2:]
    return [re.findall(r"`([\w.*]+)`", row) for row in rows]


def layer_of(name: str, table: list[list[str]]) -> int:
    """The row of a module; `models.*` stands for the files of a folder that no other row names."""
    short = name.removeprefix("itx.")
    exact = [i for i, row in enumerate(table) if short in row]
    folder = [i for i, row in enumerate(table) if f"{short.rpartition('.')[0]}.*" in row]
    found = exact or folder
    assert len(found) == 1, f"{name} stands in {len(found)} rows of the table in itx/README.md"
    return found[0]


def wrong_arrows(root: Path) -> list[str]:
    """Imports of a higher layer, in words."""
    table, known = layers(), modules(root)
    packages = {name for name, p in known.items() if p.name == "__init__.py"} - {FACADE}
    level = {name: layer_of(name, table) for name in known if name not in packages}
    return [
        f"{name} (layer {level[name]}) imports {target} (layer {level[target]}), line {line}"
        for name, targets in arrows(root).items()
        for target, line in targets.items()
        if name in level and target in level and level[target] > level[name]
    ]


def test_no_circle_and_no_arrow_upwards():
    graph = arrows(REPO)
    assert sum(map(len, graph.values())) > 300
    assert circle(graph) == []
    assert wrong_arrows(REPO) == []


def test_packages_import_nothing():
    """An __init__.py that imports would load a whole folder with each of its files; `itx.tasks` is
    a person's door."""
    for name, file in modules(REPO).items():
        if file.name == "__init__.py" and name != FACADE:
            assert imports(file) == [], name


def test_imports_within_functions_are_heavy_libraries():
    within = []
    for name, file in modules(REPO).items():
        for target, line, inside in imports(file):
            heavy = any(target == h or target.startswith(f"{h}.") for h in (*HEAVY, *OWN_HEAVY))
            if inside and not heavy:
                within.append(f"{name}, line {line}: {target}")
    assert within == []


@pytest.mark.parametrize(
    ("file", "line", "told"),
    [
        ("itx/data/order.py", "from itx import train", "imports itx.train"),
        ("itx/errors.py", "def f():\n    from itx.storage import sealed", "circle"),
        (
            "itx/models/layers.py",
            "def f():\n    from itx.eval import runner",
            "imports itx.eval.runner",
        ),
    ],
)
def test_a_forbidden_import_is_caught(tmp_path, file, line, told):
    """Planted in a copy, at the head of a file and within a function."""
    for name in modules(REPO).values():
        place = tmp_path / name.relative_to(REPO)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(name.read_text("utf-8"), "utf-8")
    assert wrong_arrows(tmp_path) == [] and circle(arrows(tmp_path)) == []
    (tmp_path / file).write_text((tmp_path / file).read_text("utf-8") + f"\n\n{line}\n", "utf-8")
    if told == "circle":
        assert {"itx.errors", "itx.storage"} <= set(circle(arrows(tmp_path)))
    else:
        assert any(told in found for found in wrong_arrows(tmp_path))
