# SPDX-License-Identifier: Apache-2.0
"""`itx data diff`: two versions of made data, or the locks of two runs, side by side."""

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

from itx.create import difference, drift, lineage
from itx.data import difference as of_data
from itx.data import lock as locks
from itx.data.types import Lock
from itx.errors import UserError
from itx.eval import tables
from itx.runs import RunFolder, read_lock, run_config
from itx.storage import local
from itx.text import visible


def add_commands(add: Callable) -> None:
    diff = add("diff", "two versions of made data, or two locks: rows that differ", data_diff)
    of = "created.NAME.v1, the folder of a version, a run folder, or a lock in its cache"
    diff.add_argument("first", type=local, help=of)
    diff.add_argument("second", type=local, help="another of the same kind")
    diff.add_argument("--root", type=local, default=".", help="folder of the data (data.root)")
    diff.add_argument("--check", action="store_true", help="exit code 1 where they differ")
    diff.add_argument(
        "--rows", type=int, default=3, metavar="N", help="of each kind to print (default 3)"
    )


def data_diff(args: Namespace) -> tuple[dict, int]:
    if args.rows < 0:
        raise UserError(f"--rows {args.rows}: must be at least 0")
    held = [_lock(args.first), _lock(args.second)]
    if all(held):
        facts = of_data.of_locks(*held[0], *held[1])
        _print_locks(facts, args)
    elif any(held):
        of_lock, other = (args.first, args.second)[:: 1 if held[0] else -1]
        raise UserError(f"{of_lock} has a lock, and {other} is a version: name two of a kind")
    else:
        versions = [difference.read(_version(p, args.root)) for p in (args.first, args.second)]
        facts = difference.facts(*versions)
        _print_versions(facts, *versions, args.rows)
    return facts, int(args.check and not facts["same"])


def _lock(path: str) -> tuple[Lock, str] | None:
    """(lock, cache) of a run folder or of a lock's file in a cache; None for another path."""
    run = RunFolder(Path(path))
    if run.is_begun():
        return read_lock(run), run_config(run).data.cache_dir
    if Path(path).is_file():
        return locks.read(path), str(Path(path).parents[1])
    return None


def _version(path: str, root: str) -> Path:
    if (Path(path) / lineage.MANIFEST).is_file():
        return Path(path)
    return lineage.of_task(root, path)


def _print_locks(facts: dict, args: Namespace) -> None:
    head = ("task", "records of the first", "of the second", "added", "removed")
    rows = [
        (name, *(f"{n:,}" for n in (*t["records"], t["added"], t["removed"])))
        for name, t in facts["tasks"].items()
    ]
    title = f"trained on: {args.first} and {args.second}"
    tables.console().print(tables.table(title, head, rows, left=("task",)))
    told = "the same batches" if facts["same"] else f"other batches: {facts['difference']}"
    print(visible(told))


def _print_versions(
    facts: dict, first: difference.Version, second: difference.Version, most: int
) -> None:
    for name, version in (("removed", first), ("added", second)):
        for state, ids in facts[name].items():
            _print_rows(f"{name}, {state} in {version.task}", ids, version, most)
    print(f"changed: {len(facts['changed']):,} rows that both have")
    for c in facts["changed"][:most]:
        print(visible(f"  {c['id']}: {c['was']} → {c['is']} ({', '.join(c['differs'])})"))
    print(f"edited: {len(facts['edited']):,} of the added rows stand for one that was removed")
    for c in facts["edited"][:most]:
        print(f"  {c['was']} → {c['is']}")
    head = ("", "", first.task, second.task)
    rows = [
        (name, visible(value), f"{a:,}", f"{b:,}")
        for name, counts in facts["counts"].items()
        for value, (a, b) in counts.items()
    ]
    tables.console().print(tables.table("counts", head, rows, left=("",)))
    cells = drift.cells(facts["drift"])
    tables.console().print(tables.table("kept rows", head, cells, left=("",)))
    print("the same rows" if facts["same"] else "the versions differ")


def _print_rows(title: str, ids: list[str], version: difference.Version, most: int) -> None:
    print(visible(f"{title}: {len(ids):,} rows"))
    for row in ids[:most]:
        held = version.rows[row]
        shown = " ".join(held["instruction"].split())
        print(visible(f"  {row}: {shown[:100]}{'…' if len(shown) > 100 else ''}"))
