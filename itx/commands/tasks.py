# SPDX-License-Identifier: Apache-2.0
"""`itx tasks ls | show | check`: what is registered, how it renders, whether it holds together."""

import argparse
import contextlib
import itertools
import sys
from argparse import Namespace
from types import ModuleType
from typing import Any

from itx.commands.arguments import group
from itx.errors import UserError, did_you_mean
from itx.prepare import check, download, metric_audit, repeat
from itx.storage import local
from itx.tasks import registry, resolve
from itx.tasks.spec import TaskSpec
from itx.text import visible


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = group(parser)
    listing = add("ls", "every task and mixture", tasks_ls)
    show = add("show", "one task and its renderings", tasks_show)
    checking = add("check", "self-checks of templates, options and metrics", tasks_check)
    for p in (listing, show, checking):
        p.add_argument("name", nargs=None if p is show else "?", help="a task, variant or mixture")
        p.add_argument(
            "--modules", default="tasks", help="comma-separated modules that register tasks"
        )
        p.add_argument(
            "--root",
            type=local,
            default="",
            help="folder that relative source files stand under (data.root)",
        )
    checking.add_argument(
        "--download", action="store_true", help="let TFDS download the sets that are not prepared"
    )


def _load_modules(args: Namespace) -> None:
    registry.load_modules(args.modules.split(","))


def tasks_ls(args: Namespace) -> tuple[dict, int]:
    _load_modules(args)
    seqio, mixtures = _seqio(), []
    rows = [_facts(t) for t in _all_tasks(args.root)]
    if seqio:
        rows += [_seqio_facts(name, t, seqio) for name, t in seqio.own_tasks().items()]
        mixtures = [{"mixture": n, "members": m} for n, m in seqio.own_mixtures().items()]
    rows = [r for r in rows if args.name in (None, "", r["task"], r["cluster"])]
    if args.name and not rows:
        raise UserError(
            f"no task or cluster {args.name!r}"
            + did_you_mean(args.name, [*registry.TASKS, *(seqio.own_tasks() if seqio else ())])
        )
    for r in sorted(rows, key=lambda r: (r["cluster"], r["task"])):
        templates = f"{r['templates']}+{r['heldout_templates']} templates"
        metrics = ",".join(r["metrics"])
        marks = " ".join(k for k in ("cot", "inverted", "evaluation_only") if r[k])
        line = f"{r['cluster']:<20} {r['task']:<28} v{r['version']}  {templates}  {metrics}"
        print(f"{line}  {r['language']} {marks}".rstrip())
    for name, spec in sorted(registry.MIXTURES.items()):
        members = "holdout" if hasattr(spec.members, "clusters") else len(spec.members)
        mixtures.append({"mixture": name, "members": members})
    for m in [] if args.name else mixtures:
        print(f"mixture              {m['mixture']:<28} {m['members']}")
    for f in [] if args.root or args.name else sorted(registry.FAMILIES):
        print(f"family               {f}.*  (its members need --root)")
    return {"tasks": rows, "mixtures": mixtures}, 0


def _facts(task: TaskSpec) -> dict:
    """What `itx tasks ls` says of a task."""
    return {
        "task": task.name,
        "cluster": task.cluster,
        "version": task.version,
        "templates": len(task.templates),
        "heldout_templates": len(task.heldout_templates),
        "metrics": list(map(str, task.metrics)),
        "cot": task.cot is not None,
        "inverted": bool(task.inverted),
        "evaluation_only": task.evaluation_only,
        "language": task.tags.get("language", ""),
    }


def _seqio() -> ModuleType | None:
    """What lists and checks tasks that a module registered straight in SeqIO; None where no module
    imported SeqIO, which takes three seconds."""
    if "seqio" not in sys.modules:
        return None
    from itx.prepare import foreign

    return foreign


def _seqio_facts(name: str, task: Any, seqio: ModuleType) -> dict:
    """`_facts` of a task of SeqIO's own registry, which has one rendering."""
    return {
        "task": name,
        "cluster": "seqio",
        "version": "-",
        "templates": 1,
        "heldout_templates": 0,
        "metrics": seqio.scores_of(task),
        "cot": False,
        "inverted": False,
        "evaluation_only": "train" not in task.splits,
        "language": "",
    }


def _all_tasks(root: str) -> list[TaskSpec]:
    families = registry.FAMILIES if root else ()
    members = [registry.task(n, root) for f in families for n in registry.expand(f"{f}.*", root)]
    return [*registry.TASKS.values(), *members]


def tasks_show(args: Namespace) -> tuple[dict, int]:
    _load_modules(args)
    if args.name in registry.MIXTURES:
        return _show_mixture(args)
    facts = check.show(registry.task(args.name, args.root), args.name, args.root)
    for key, value in facts["task"].items():
        print(f"{key:<12} {visible(str(value))}")
    for r in facts["renderings"]:
        print(
            f"--- {r['template']} ({r['kind']})\n{visible(r['prompt'])}\n⟦{visible(r['target'])}⟧"
        )
    return facts, 0


def _show_mixture(args: Namespace) -> tuple[dict, int]:
    spec = registry.MIXTURES[args.name]
    facts = {
        "mixture": args.name,
        "members": resolve.members(spec, args.root),
        "held out": dict(resolve.removed(spec, args.root)),
        "left out": dict(resolve.left_out(spec, args.root)),
    }
    for name, share in facts["members"].items():
        print(f"{name:<32} {'' if share is None else share}")
    for how in ("held out", "left out"):
        for name, why in facts[how].items():
            print(f"{how}: {name:<22} {why}")
    return facts, 0


def tasks_check(args: Namespace) -> tuple[list[dict], int]:
    _load_modules(args)
    seqio = _seqio()
    foreign = seqio.own_tasks() if seqio else {}
    if args.name in foreign:
        specs, foreign = [], {args.name: foreign[args.name]}
    elif args.name:
        specs, foreign = [registry.task(args.name, args.root)], {}
    else:
        specs = _all_tasks(args.root)
    rows = []
    modules = tuple(args.modules.split(","))
    others = repeat.other_processes(modules, args.root, check.read)
    with others if specs else contextlib.nullcontext() as others:
        for spec in specs:
            skipped = _why_skipped(spec, args)
            problems = [] if skipped else check.check(spec, args.root, others)
            row: dict[str, Any] = {"task": spec.name}
            if args.name and not skipped:  # all tasks at once would take long
                row["examples"], further = check.read_all(spec, args.root)
                problems = list(dict.fromkeys([*problems, *further]))
            audited = {} if skipped or problems else check.audit_metrics(spec, args.root)
            for metric, found in audited.items():
                problems += metric_audit.problems(metric, found)
            row |= {"problems": problems, "metrics": audited}
            rows.append(row | {"skipped": skipped} if skipped else row)
            _print_checked(rows[-1])
    if specs and not args.name:
        print(
            f"of each task its first {check.EXAMPLES} examples; `itx tasks check NAME` reads all "
            "of one"
        )
    for name, task in foreign.items():
        rows.append({"task": name, "problems": seqio.problems(task)})
        _print_checked(rows[-1])
    return rows, 1 if any(r["problems"] for r in rows) else 0


def _print_checked(row: dict) -> None:
    word = "skip" if "skipped" in row else "FAIL" if row["problems"] else "ok  "
    lines = [
        *row["problems"],
        *([f"{row['examples']:,} examples read"] if "examples" in row else []),
        *itertools.starmap(metric_audit.line, row.get("metrics", {}).items()),
    ]
    print(f"{word} {row['task']}" + "".join(f"\n     {visible(line)}" for line in lines))


def _why_skipped(spec: TaskSpec, args: Namespace) -> str:
    """Why a task cannot be checked, "" where it can; with --download its TFDS set is prepared."""
    absent = download.missing(spec)
    if absent and args.download:
        download.prepare(spec.source.options["name"])
    if args.name:
        return ""
    if absent and not args.download:
        return "its TFDS set is not prepared: --download does that"
    of_files = spec.source.kind != "tfds" and spec.source.files
    return "its files need --root" if of_files and not args.root else ""
