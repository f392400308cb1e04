# SPDX-License-Identifier: Apache-2.0
"""`itx plan`: whether a run fits named TPUs and what it takes, by their compiler, without a TPU.

Exit codes: 0 all programs fit, 1 one does not, 2 a mistake in what was asked.
"""

import argparse
import time
from argparse import Namespace
from typing import Any

from itx import config as configs
from itx import pretrained
from itx.commands.arguments import command, with_recipe
from itx.errors import UserError, check_known
from itx.plan import changes, chips, costs, devices, fast, printed, programs, sweep
from itx.plan import plan as planning
from itx.plan.plan import Asked

MAX_SECONDS = 900.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    with_recipe(command(parser, plan))
    parser.add_argument(
        "--topology",
        required=True,
        metavar="NAME",
        help="chips of a slice: v5e:4x4, or a name such as v5litepod-16, v5p-128, v6e-8, tpu7x-8",
    )
    parser.add_argument("--slices", type=int, default=1, metavar="N", help="slices of that shape")
    parser.add_argument(
        "--programs",
        metavar="NAMES",
        help=f"which programs are compiled, behind commas; default: {','.join(programs.NAMES)}",
    )
    parser.add_argument(
        "--fast",
        action="store_true",
        help="predict the training step's peak by shapes, without the compiler (itx/plan/fast.py)",
    )
    parser.add_argument(
        "--max_seconds",
        type=float,
        metavar="S",
        help="if the training step does not fit, and with --sweep: no change of settings is "
        f"compiled after so many seconds; 0: none is; default: {MAX_SECONDS:g}",
    )
    parser.add_argument(
        "--sweep",
        action="store_true",
        help="rank splits of the mesh, remat and microbatches by a model, compile the best "
        f"{sweep.COMPILED} (itx/plan/sweep.py)",
    )
    parser.add_argument(
        "--price_per_chip_hour", type=float, metavar="MONEY", help="what a chip costs for an hour"
    )


def plan(args: Namespace) -> tuple[dict[str, Any], int]:
    topology = chips.topology(args.topology, args.slices)
    _check_fast(args)
    asked_for = ",".join(programs.NAMES) if args.programs is None else args.programs
    names = [n for n in asked_for.split(",") if n]
    for name in names:
        check_known(name, programs.NAMES, f"--programs: no program {name!r}")
    if not names:
        raise UserError(f"--programs names none; valid: {', '.join(programs.NAMES)}")
    if args.price_per_chip_hour is not None and args.price_per_chip_hour < 0:
        raise UserError(f"--price_per_chip_hour={args.price_per_chip_hour:g}: is below 0")
    devices.use_no_accelerator()
    config, _ = pretrained.load_recipe(args.config, args.overrides, args.quick, absent=True)
    if args.sweep:  # chooses them
        config = configs.changed(config, "train", microbatches=1)
    asked = planning.ask(config, topology, print)
    print(f"{topology}, mesh {dict(asked.mesh.shape)}")
    facts = _about(asked)
    if args.fast:
        facts["predicted"] = fast.predict(asked)
        facts["fits"] = fast.fits(asked, facts["predicted"])
        printed.print_prediction(facts["predicted"], topology.chip)
        return facts, 0 if facts["fits"] else 1
    max_seconds = MAX_SECONDS if args.max_seconds is None else args.max_seconds
    if args.sweep:
        return _swept(asked, max_seconds, facts)
    facts |= _compiled(asked, names, args.price_per_chip_hour)
    printed.print_plan(facts)
    if not all(own["fits"] for own in facts["programs"] if own["program"] == "train"):
        facts["changes"] = changes.proposals(asked, max_seconds, print)
        printed.print_changes(facts["changes"], topology.chip)
    return facts, 0 if all(own["fits"] for own in facts["programs"]) else 1


def _swept(asked: Asked, max_seconds: float, facts: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """Layouts of the training step; exit code 1 where none of those compiled fits."""
    found, out = sweep.ranked(asked, print)
    facts |= {"sweep": sweep.compiled(found, max_seconds, time.monotonic, print), "left_out": out}
    printed.print_sweep(facts["sweep"], asked.topology.chip)
    return facts, 0 if any(own["verdict"] == "fits" for own in facts["sweep"]) else 1


def _check_fast(args: Namespace) -> None:
    """UserError where --fast or --sweep stands beside what it does not do."""
    for name in ("programs", "max_seconds", "price_per_chip_hour"):
        if args.fast and getattr(args, name) is not None:
            raise UserError(
                f"--{name} beside --fast: --fast predicts the training step's memory and compiles "
                "nothing; leave out one of them"
            )
    for name in ("fast", "programs", "price_per_chip_hour"):
        if args.sweep and getattr(args, name) not in (None, False):
            raise UserError(
                f"--{name} beside --sweep: --sweep ranks layouts of the training step and compiles "
                "the best; leave out one of them"
            )


def _about(asked: Asked) -> dict[str, Any]:
    return {
        "topology": asked.topology.name,
        "slices": asked.topology.slices,
        "chips": asked.topology.chips,
        "mesh": dict(asked.mesh.shape),
        "environment": planning.environment(),
    }


def _compiled(asked: Asked, names: list[str], price: float | None) -> dict[str, Any]:
    """Every program's facts and, from the training step's, the cost of the run."""
    own = planning.plan(asked, names, print)
    facts: dict[str, Any] = {"programs": own}
    step = next((p["seconds"] for p in own if p["program"] == "train" and "seconds" in p), None)
    if step:
        facts["cost"] = costs.cost(asked.config, step, asked.topology, price)
    return facts
