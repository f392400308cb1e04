# SPDX-License-Identifier: Apache-2.0
"""`itx create consistency`: whether a model answers rows as it answers the rows that they were made
of."""

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

from itx.commands import making
from itx.create import consistency, lineage, parents
from itx.create.consistency import Pair
from itx.errors import RunFailed, UserError
from itx.eval import metrics, tables
from itx.storage import local
from itx.tasks import registry


def add_commands(add: Callable) -> None:
    make = add("consistency", "whether a model answers rows as it answers their parents", measure)
    option = make.add_argument
    option("version", help="created.NAME.v1, as `itx create augment` makes it")
    option("--root", type=local, default=".", help="folder of the data (data.root); default: here")
    option("--modules", default="tasks", help="modules that register tasks; default: %(default)s")
    making.add_who(make)


def measure(args: Namespace) -> tuple[dict, int]:
    version = lineage.of_task(args.root, args.version)
    pairs, without = _pairs(args, version)
    if not pairs:
        raise RunFailed(f"{args.version} has no row that keeps the meaning of its parent")
    with making.generator(args) as who:
        # the journal of the version: what was answered once is not asked again
        file = version.parent / lineage.JOURNAL
        with making.asking(who, file, making.budget(args)) as (ask, ledger):
            found = consistency.measured(ask, pairs, not args.raw)
            making.print_calls(ledger())
    head = (
        "operator",
        "pairs",
        "same answer",
        "parent right",
        "row right",
        "lost",
        "won",
        "unknown",
    )
    rows = [
        (
            name,
            f"{c['pairs']:,}",
            tables.shown(c["same"], c["interval"]),
            tables.shown(c["parent_right"]),
            tables.shown(c["row_right"]),
            f"{c['lost']:,}",
            f"{c['won']:,}",
            f"{c['unknown'] + c['without_answer']:,}",
        )
        for name, c in found.items()
    ]
    title = f"{args.version}: answers to rows and to their parents, 95 %"
    tables.console().print(tables.table(title, head, rows, left=("operator",)))
    if without:
        print(f"{without:,} rows left out: their operators do not keep the meaning")
    return {"version": args.version, "operators": found, "left_out": without}, 0


def _pairs(args: Namespace, version: Path) -> tuple[list[Pair], int]:
    """(each row that keeps the meaning with its parent, how many others there are)."""
    lineage.check(version)
    manifest = lineage.read_manifest(version)
    if manifest["method"] != "augment":
        raise UserError(f"{args.version} was made by {manifest['method']}, not by augment")
    registry.load_modules(making.names(args.modules))
    metrics.trust(making.names(args.modules))
    told = manifest["parents"]
    seed = manifest["settings"]["seed"]
    source = parents.of(told["from"], args.root, seed)
    rows = {p.id: p.row for p in source.parents}
    held = [lineage.made_of(h) for h in lineage.lines(version / lineage.KEPT)]
    kept = [m for m in held if m.lineage.preserving]
    gone = {p for m in kept for p in m.lineage.parents} - rows.keys()
    if gone:
        raise UserError(
            f"{told['from']} has changed: {len(gone):,} parents are not there any more, "
            f"{min(gone)} first"
        )
    pairs = [Pair(rows[m.lineage.parents[0]], m.row, m.lineage.operator) for m in kept]
    return pairs, len(held) - len(kept)
