# SPDX-License-Identifier: Apache-2.0
"""`itx create review`: a page on which a person judges training rows, which writes a patch; `itx
create agreement`: how far two people's patches agree."""

import argparse
import dataclasses
from argparse import Namespace
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from itx import hashing, storage
from itx.analysis import found, page
from itx.commands import making
from itx.config import DataConfig
from itx.create import agreement, review
from itx.create.review import Shown
from itx.errors import UserError
from itx.eval.tables import console, table
from itx.prepare import patches
from itx.runs import RunFolder, named, run_config
from itx.storage import local
from itx.tasks import registry
from itx.text import visible

MOST_ROWS = 200  # that a page has where nobody says how many
Add = Callable[..., argparse.ArgumentParser]


def add_commands(add: Add) -> None:
    """The two commands of the group `create`."""
    option = add(
        "review", "a page on which a person judges training rows", create_page
    ).add_argument
    option("what", type=local, help="a task, the file of its training rows, or a run")
    option("--finding", metavar="N", help="of a run: the examples of a finding of `itx analyze`")
    option("--step", type=int, help="of a run: default: its newest analysis")
    option("--out", type=local, metavar="FILE", help="default: review-NAME.html")
    option("--editor", default="", metavar="NAME", help="who judges; the page asks where none is")
    option("--tags", default=",".join(review.TAGS), help="at most nine, between commas")
    option("--rows", type=int, default=MOST_ROWS, metavar="N", help="drawn by hash; 0: all")
    option("--patches", default="", metavar="FILES", help="already applied, between commas")
    option("--modules", default="tasks", help="comma-separated modules that register tasks")
    option("--root", type=local, default="", metavar="FOLDER", help="data.root; of a run: its own")
    pair = add("agreement", "how far two patches of the same rows agree", agree).add_argument
    pair("first", type=local, metavar="PATCH")
    pair("second", type=local, metavar="PATCH")


# ---- itx create review


def create_page(args: Namespace) -> tuple[dict, int]:
    if args.rows < 0:
        raise UserError(f"--rows {args.rows}: must be at least 0")
    run, _ = named(args.what)
    if run.is_begun():
        shown, title, left_out = _of_finding(args, run)
    elif args.finding:
        raise UserError(f"--finding: {args.what} is no run")
    else:
        shown, title, left_out = _of_task(args)
    if args.rows and len(shown) > args.rows:
        left_out.append(
            f"{len(shown) - args.rows:,} of {len(shown):,} rows are not shown; --rows 0 shows all"
        )
        shown = shown[: args.rows]
    facts = review.facts(shown, title, args.editor, making.names(args.tags), left_out)
    out = Path(args.out or f"review-{_plain(title)}.html")
    with storage.whole_file(out) as part:
        part.write_text(page.review(facts), encoding="utf-8")
    for line in left_out:
        print(visible(line))
    print(f"{len(shown):,} rows of {visible(title)}: open {out} in a browser")
    return {"file": str(out), **facts}, 0


def _plain(title: str) -> str:
    """A title as the name of a file."""
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in title)


def _of_task(args: Namespace) -> tuple[list[Shown], str, list[str]]:
    registry.load_modules(making.names(args.modules))
    spec = review.task_of(args.what, args.root)
    counts: Counter = Counter()
    given = tuple(making.names(args.patches))
    data = DataConfig(root=args.root, patches=given, skip_bad=True)
    items = review.training_items(spec, data, counts)
    by_hash = sorted(items, key=lambda i: hashing.draw("review", i.hash))
    left_out = [f"{n:,} records are no rows: {why}" for why, n in counts.items() if why != "read"]
    return [Shown(spec, item) for item in by_hash], spec.name, left_out


def _of_finding(args: Namespace, run: RunFolder) -> tuple[list[Shown], str, list[str]]:
    """The training rows that a finding is about, with why each is shown."""
    if args.patches:
        raise UserError("--patches: a run says itself which were applied (data.patches)")
    of = found.read(args.what, args.step)
    if not args.finding:
        said = "; ".join(f"{n}. {f['says']}" for n, f in enumerate(of.held["findings"], 1))
        raise UserError(f"--finding N: {run.path} has {said or 'no finding'}")
    finding, action = found.finding(of, args.finding)
    data = run_config(of.run).data
    data = dataclasses.replace(data, root=args.root or data.root)
    registry.load_modules(data.modules)
    wanted, untold = found.training_examples(of, data.cache_dir, action)
    notes = {
        key: f"labelled {s['label']!r}; the model would rather say {s['rather']!r}, by "
        f"{s['margin']:.1f} bits"
        for key, s in of.suspects.items()
    }
    shown, absent = [], 0
    for task in dict.fromkeys(e["task"] for e in wanted):
        spec = registry.task(task, data.root)
        items = {f"{i.hash:016x}": i for i in review.training_items(spec, data)}
        for content in (e["content"] for e in wanted if e["task"] == task):
            if content in items:
                shown.append(Shown(spec, items[content], notes.get((task, content), "")))
            else:
                absent += 1
    left_out = [f"not told of a training row, and passed over: {c}" for c in untold]
    left_out += [f"{absent} rows are no longer trained on"] * bool(absent)
    if not shown:
        raise UserError(
            f"finding {args.finding} of {run.path} is of {', '.join(finding['tasks'][:4])}, and no "
            "training row of these fits it"
        )
    return shown, f"{run.path.name}: {finding['text']}", left_out


# ---- itx create agreement


def agree(args: Namespace) -> tuple[dict, int]:
    for file in (args.first, args.second):
        if not Path(file).is_file():
            raise UserError(f"no file {file!r}")
    facts = agreement.facts(patches.read(args.first), patches.read(args.second))
    names = [e or f for e, f in zip(facts["editors"], facts["files"], strict=True)]
    print(
        visible(
            f"{names[0]} and {names[1]}: {facts['rows']:,} rows judged by both, "
            f"{facts['only'][0]:,} and {facts['only'][1]:,} by one alone"
        )
    )
    for name, label in (
        ("agreement", "agreement"),
        ("kappa", "Cohen's kappa"),
        ("ac1", "Gwet's AC1"),
    ):
        low, high = facts[name]["interval"]
        print(f"{label} {facts[name]['value']:.3f} [{low:.3f}, {high:.3f}]")
    out, head = console(), [visible(names[0]), *facts["verdicts"]]
    cells = [
        [verdict, *map(str, row)]
        for verdict, row in zip(facts["verdicts"], facts["table"], strict=True)
    ]
    out.print(table(f"rows; across: {visible(names[1])}", head, cells, left=head[:1]))
    if facts["fixed_by_both"]:
        print(f"fixed by both: {facts['fixed_by_both']}, alike: {facts['same_fix']}")
    for tag, (first, second, both) in facts["tags"].items():
        print(visible(f"tag {tag}: {first} and {second}, both {both}"))
    for x in facts["disagree"]:
        print(visible(f"apart: {x['task']} {x['id']}: {x['verdicts'][0]}, {x['verdicts'][1]}"))
    if facts["apart"] > len(facts["disagree"]):
        print(f"… and {facts['apart'] - len(facts['disagree'])} more")
    return facts, 0
