# SPDX-License-Identifier: Apache-2.0
"""`itx create refine`: the actions of `itx analyze` carried out on a run's data and settings, those
that are named."""

import argparse
import contextlib
import dataclasses
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from itx import config_check, hashing, recipe, storage
from itx.analysis import found
from itx.analysis.actions import KINDS, Action
from itx.analysis.found import Found
from itx.commands import making
from itx.config import RunConfig, to_dict
from itx.create import control, refine, refined
from itx.create.world import RELABEL, How, World
from itx.errors import UserError, check_known
from itx.eval.tables import console, table
from itx.prepare import patches
from itx.runs import run_config
from itx.storage import local
from itx.tasks import registry
from itx.text import say, visible

Add = Callable[..., argparse.ArgumentParser]
TOLD = ("id", "kind", "tasks", "conditions", "why")  # of an action, in a manifest


def add_commands(add: Add) -> None:
    make = add("refine", "carry out what `itx analyze` proposed: a patch and a recipe", refine_run)
    make.set_defaults(quick=False)  # settings are taken as `--a.b=c`
    option = make.add_argument
    option("run", type=local, help="a run that was analysed; alone: its actions are listed")
    option("--actions", default="", metavar="1,3", help="by number or id; without: they are listed")
    option("--step", type=int, help="default: the newest analysis")
    option("--name", default="", help="of the refinement; default: the run folder's name")
    option("--root", type=local, default="", help="refined/NAME/vN is made here; default: here")
    option(
        "--relabel",
        default="",
        metavar="HOW",
        help="drop the rows, take the answer that the model would rather give, or ask who answers",
    )
    option("--rows", type=int, default=How.rows, help="that an action adds at most")
    option("--factor", type=float, default=How.factor, help="of a rate that is raised")
    option("--seed", type=int, default=How.seed, help="of all that is drawn")
    option(
        "--control",
        action="store_true",
        help="do as much to what a draw chooses: rows, other tasks' rates, other groups",
    )
    option(
        "--what_fits",
        action="store_true",
        help="leave out, with the reason, actions that cannot be carried out or that say otherwise "
        "than an earlier one",
    )
    making.add_who(make)


def refine_run(args: Namespace) -> tuple[dict, int]:
    of = found.read(args.run, args.step)
    if not args.actions and not args.overrides:
        return _listed(of)
    if any(text.startswith("--data.patches=") for text in args.overrides):
        raise UserError("--data.patches: a refinement adds its own patch to those of the run")
    chosen = _chosen(of, args.actions)
    how = _how(args)
    config = run_config(of.run)
    registry.load_modules(config.data.modules)
    name = args.name or "".join(c if c.isalnum() else "_" for c in of.run.path.resolve().name)
    place = refined.folder(args.root, name)
    with _asking(args, place) as (generator, ask, calls):
        key = _key(of, config, chosen, how, args, generator)
        if done := refined.same(place, key):
            say(f"{done}: this refinement was made already")
            return _told(storage.read_object(done / refined.MANIFEST, "name"), done), 0
        world = World(
            config,
            frozenset(t["task"] for t in of.lock["tasks"]),
            of.suspects,
            lambda action: found.training_examples(of, config.data.cache_dir, action),
            ask,
            how,
        )
        made, manifest = _refined(of, config, chosen, world, args, place)
        manifest |= {"generator": generator and generator.facts(), "calls": calls()}
    version, new, entries = made
    return _told(refined.write(version, key, new, entries, manifest), version), 0


def _refined(
    of: Found,
    config: RunConfig,
    chosen: list[Action],
    world: World,
    args: Namespace,
    place: Path,
) -> tuple[tuple[Path, RunConfig, list[patches.Entry]], dict[str, Any]]:
    """((folder, config, entries) of the new version, its facts); nothing is written."""
    made = refine.together(chosen, world, args.what_fits)
    if made.left_out and not made.actions:
        raise UserError("; ".join(made.left_out.values()))
    whole = control.control(made, world) if args.control else made.whole
    entries, factors, settings, counts, _ = whole
    version = refined.next_version(place)
    patch = version / refined.PATCH if entries else None
    new = refined.changed_config(config, patch, factors)
    for text in [*(f"--{n}={v}" for n, v in settings.items()), *args.overrides]:
        new, _ = recipe.override(new, text)
    config_check.check(new)
    changes = refined.differences(config, new)
    if not changes:
        raise UserError(
            f"{of.run.path}: these actions change nothing ({_said(counts) or 'nothing was done'})"
        )
    return (version, new, entries), {
        "parent": {
            "run": str(of.run.path),
            "step": of.held["step"],
            "split": of.held["split"],
            "data": of.held["actions"]["data"],
            "config": hashing.digest(repr(sorted(to_dict(config).items()))),
            "analysis": hashing.file_sha256(of.file),
        },
        "how": dataclasses.asdict(world.how) | {"control": args.control},
        "actions": [
            {**{k: a[k] for k in TOLD}, "done": dict(o.counts), "notes": o.notes}
            for a, o in zip(made.actions, made.done, strict=True)
        ],
        "left_out": made.left_out,
        "counts": refined.counted(entries, world),
        "reasons": dict(counts),
        "changes": changes,
    }


# ---- what was asked for


def _chosen(of: Found, named: str) -> list[Action]:
    ids = [a["id"] for a in of.actions]
    places = [found.numbered(n.strip(), ids, "action") for n in named.split(",") if n.strip()]
    return [of.actions[i] for i in dict.fromkeys(places)]


def _how(args: Namespace) -> How:
    if args.relabel:
        check_known(args.relabel, RELABEL, f"--relabel {args.relabel!r}")
    for name in ("rows", "batch"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name} {getattr(args, name)}: must be at least 1")
    if not 0 < args.factor < float("inf"):
        raise UserError(f"--factor {args.factor}: a factor is above 0")
    return How(args.relabel, args.rows, args.factor, args.seed, not args.raw)


@contextlib.contextmanager
def _asking(args: Namespace, place: Path) -> Iterator[tuple[Any, Any, Callable[[], dict | None]]]:
    """(who answers or None, what asks them or None, what gives the ledger of the calls)."""
    if not making.is_anybody(args):
        yield None, None, lambda: None
        return
    with making.generator(args) as generator:
        place.mkdir(parents=True, exist_ok=True)
        budget = making.budget(args)
        with making.asking(generator, place / refined.JOURNAL, budget) as (ask, ledger):
            yield generator, ask, ledger


def _key(
    of: Found, config: RunConfig, chosen: list[Action], how: How, args: Namespace, generator: Any
) -> str:
    """What stands for the same refinement."""
    parts = [a["id"] for a in chosen]
    return hashing.digest(
        *(refined.REFINED_VERSION, of.held["actions"]["data"], repr(to_dict(config))),
        *(hashing.file_sha256(of.file), repr(how), args.control, repr(args.overrides)),
        str(args.what_fits),
        *(generator.name if generator else "", *parts),
    )


# ---- what is told


def _listed(of: Found) -> tuple[dict, int]:
    cells = [
        (str(n), a["kind"], visible(", ".join(a["tasks"][:3])), visible(a["why"]), KINDS[a["kind"]])
        for n, a in enumerate(of.actions, 1)
    ]
    print(visible(f"{of.file}: {len(cells)} actions"))
    if cells:
        head = ("", "action", "tasks", "why", "what it does")
        console().print(table("actions", head, cells, left=head[1:], fold=True))
        print(f"itx create refine {of.run.path} --actions 1 carries out the first")
    return {"file": str(of.file), "actions": of.actions}, 0


def _said(counts: dict[str, int]) -> str:
    return ", ".join(f"{n:,} {what}" for what, n in counts.items())


def _told(manifest: dict[str, Any], version: Path) -> dict[str, Any]:
    print(visible(f"{manifest['name']} of {manifest['parent']['run']}: {version}"))
    for action in manifest["actions"]:
        print(visible(f"{action['kind']}: {_said(action['done']) or 'nothing'}"))
        for note in action["notes"]:
            print(visible(f"  {note}"))
    for why in manifest["left_out"].values():
        print(visible(f"left out: {why}"))
    for task, n in manifest["counts"].items():
        rest = _said({k: v for k, v in n.items() if k not in ("in", "out")})
        print(visible(f"{task}: {n['in']:,} rows in, {n['out']:,} out ({rest})"))
    for name, (before, after) in manifest["changes"].items():
        print(visible(f"{name}: {before!r} -> {after!r}"))
    print(f"next: itx train {refined.recipe_of(version)}")
    return {"folder": str(version), **manifest}
