# SPDX-License-Identifier: Apache-2.0
"""`itx doctor`: whether the equalities that a run rests on (itx/checks.py) hold for a person's own
config, on a CPU."""

import argparse
import os
import time
from argparse import Namespace
from pathlib import Path

import jax

from itx import checks, pretrained, processes, storage
from itx.commands.arguments import command, with_recipe
from itx.commands.building import build_in_subprocess
from itx.compared import Finding
from itx.data import lock as locks
from itx.errors import check_known
from itx.eval import metrics, tables
from itx.shrunk import shrunk
from itx.text import visible

DEVICES = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    with_recipe(command(parser, doctor))
    parser.add_argument(
        "--lock", type=storage.local, help="the data of this lock and its cache; nothing is built"
    )
    parser.add_argument(
        "--checks",
        default="",
        metavar="NAME,NAME",
        help=f"only these of {', '.join(checks.CHECKS)}",
    )


def doctor(args: Namespace) -> tuple[dict, int]:
    names = args.checks.split(",") if args.checks else list(checks.CHECKS)
    for name in names:
        check_known(name, checks.CHECKS, f"--checks={name}")
    with processes.temporary_home() as folder:
        _eight_cpu_devices(folder)
        return _doctor(args, names)


def _doctor(args: Namespace, names: list[str]) -> tuple[dict, int]:
    config, _ = pretrained.load_recipe(args.config, args.overrides, args.quick)
    metrics.trust(config.data.modules)
    lock_file = Path(args.lock) if args.lock else build_in_subprocess(args)
    lock = locks.read(lock_file)
    locks.check_config(lock, config, lock_file)
    began = time.monotonic()
    run = shrunk(config, lock)
    for note in run.notes:
        print(visible(note))
    found = checks.run_all(run, names, lambda name: print(f"checking {name}", flush=True))
    seconds = time.monotonic() - began
    print_findings(found)
    failed = [f.what for f in found if f.state == "FAILS"]
    untested = sum(f.state == "not tested" for f in found)
    names_of = f": {visible('; '.join(failed))}" if failed else ""
    print(
        f"{len(failed)} of {len(found)} equalities fail{names_of}; {untested} not tested; "
        f"{seconds:.0f} s"
    )
    rows = [{**f._asdict(), "state": f.state} for f in found]
    for row in rows:  # JSON knows neither
        if row["state"] == "not tested" or row["largest"] == float("inf"):
            row["largest"] = None
    facts = {"checks": rows, "shrunk": run.notes, "seconds": seconds, "failed": failed}
    return facts, 1 if failed else 0


def _eight_cpu_devices(folder: Path) -> None:
    """Before JAX starts, as it does where a recipe makes its small model: the CPU alone, as eight
    devices, compiled quickly, and what several checks run compiled once."""
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_backend_optimization_level=0".strip()
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", DEVICES)
    if not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", str(folder / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def print_findings(found: list[Finding]) -> None:
    head = ("invariant", "what must be equal", "largest difference", "tolerance", "state", "where")
    cells = (
        [
            str(f.invariant),
            visible(f.what),
            "-" if f.state == "not tested" else f"{f.largest:.1e}",
            "-" if f.state == "not tested" else f"{f.tolerance:.0e}" if f.tolerance else "0",
            f.state,
            visible(f.where),
        ]
        for f in found
    )
    left = ("what must be equal", "state", "where")
    title = "relative differences; tolerance 0: bit for bit"
    tables.console().print(tables.table(title, head, cells, left=left, fold=True))
