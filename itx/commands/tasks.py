# SPDX-License-Identifier: Apache-2.0
"""`itx tasks ls | show | check`: what is registered, how it renders, whether it holds together."""

import argparse
from argparse import Namespace
from typing import Any

from itx.commands.arguments import group
from itx.errors import UserError, did_you_mean
from itx.prepare import check, download, repeat
from itx.tasks import registry, resolve
from itx.tasks.spec import TaskSpec
from itx.text import visible


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = group(parser)
    for name, help, work in (
        ("ls", "every task and mixture", tasks_ls),
        ("show", "one task and its renderings", tasks_show),
        ("check", "self-checks of templates, options and metrics", tasks_check),
    ):
        p = add(name, help, work)
        p.add_argument(
            "name", nargs="?" if name != "show" else None, help="a task, variant or mixture"
        )
        p.add_argument(
            "--modules", default="tasks", help="comma-separated modules that register tasks"
        )
        p.add_argument(
            "--root", default="", help="folder that relative source files stand under (data.root)"
        )
        if name == "check":
            p.add_argument(
                "--download",
                action="store_true",
                help="let TFDS download the sets that are not prepared",
            )


def _load_modules(args: Namespace) -> None:
    registry.load_modules(args.modules.split(","))


def tasks_ls(args: Namespace) -> tuple[Any, int]:
    _load_modules(args)
    rows = [
        {"task": t.name, "cluster": t.cluster, "version": t.version, "templates": len(t.templates),
         "heldout_templates": len(t.heldout_templates), "metrics": [str(m) for m in t.metrics],
         "cot": t.cot is not None, "inverted": bool(t.inverted), "evaluation_only": t.evaluation_only,
         "language": t.tags.get("language", "")}
        for t in _all_tasks(args.root) if not args.name or args.name in (t.name, t.cluster)
    ]  # fmt: skip
    if args.name and not rows:
        raise UserError(
            f"no task or cluster {args.name!r}" + did_you_mean(args.name, registry.TASKS)
        )
    for r in sorted(rows, key=lambda r: (r["cluster"], r["task"])):
        marks = [k for k in ("cot", "inverted", "evaluation_only") if r[k]]
        print(f"{r['cluster']:<20} {r['task']:<28} v{r['version']}  {r['templates']}+{r['heldout_templates']} templates  "
              f"{','.join(r['metrics'])}  {r['language']} {' '.join(marks)}".rstrip())  # fmt: skip
    mixtures = [{"mixture": m, "members": "holdout" if hasattr(s.members, "clusters") else len(s.members)}
                for m, s in sorted(registry.MIXTURES.items())]  # fmt: skip
    for m in [] if args.name else mixtures:
        print(f"mixture              {m['mixture']:<28} {m['members']}")
    for f in [] if args.root or args.name else sorted(registry.FAMILIES):
        print(f"family               {f}.*  (its members need --root)")
    return {"tasks": rows, "mixtures": mixtures}, 0


def _all_tasks(root: str) -> list[TaskSpec]:
    members = (
        [registry.task(n, root) for f in registry.FAMILIES for n in registry.expand(f"{f}.*", root)]
        if root
        else []
    )
    return [*registry.TASKS.values(), *members]


def tasks_show(args: Namespace) -> tuple[Any, int]:
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


def _show_mixture(args: Namespace) -> tuple[Any, int]:
    spec = registry.MIXTURES[args.name]
    facts = {"mixture": args.name, "members": resolve.members(spec, args.root),
             "held out": dict(resolve.removed(spec, args.root)),
             "left out": dict(resolve.left_out(spec, args.root))}  # fmt: skip
    for name, share in facts["members"].items():
        print(f"{name:<32} {'' if share is None else share}")
    for how in ("held out", "left out"):
        for name, why in facts[how].items():
            print(f"{how}: {name:<22} {why}")
    return facts, 0


def tasks_check(args: Namespace) -> tuple[Any, int]:
    _load_modules(args)
    specs = [registry.task(args.name, args.root)] if args.name else _all_tasks(args.root)
    rows = []
    with repeat.other_processes(tuple(args.modules.split(",")), args.root, check.read) as others:
        for spec in specs:
            absent = download.missing(spec)
            if absent and args.download:
                download.prepare(spec.source.options["name"])
            skipped = ""
            if absent and not args.download and not args.name:
                skipped = "its TFDS set is not prepared: --download does that"
            elif not args.root and not args.name and getattr(spec.source, "kind", "") != "tfds":
                skipped = "its files need --root" if getattr(spec.source, "files", None) else ""
            rows.append(
                {
                    "task": spec.name,
                    "problems": [] if skipped else check.check(spec, args.root, others),
                }
            )
            rows[-1] |= {"skipped": skipped} if skipped else {}
            found = rows[-1]
            word = "skip" if found.get("skipped") else "FAIL" if found["problems"] else "ok  "
            print(f"{word} {spec.name}" + "".join(f"\n     {p}" for p in found["problems"]))
    return rows, 1 if any(r["problems"] for r in rows) else 0
