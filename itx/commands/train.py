# SPDX-License-Identifier: Apache-2.0
"""`itx train`: build -> audit -> score before -> tune -> score after -> report.

Each stage leaves whole files in the run folder and is skipped when they are there, so that the same
command resumes after a kill at any moment.
"""

import argparse
import contextlib
import functools
import os
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import jax

from itx import begin, checkpoint, hub, mesh, pretrained, processes, restore, storage, writers
from itx import train as training
from itx.analysis import report
from itx.audit import audit as auditing
from itx.audit import printed
from itx.commands.arguments import command, with_recipe
from itx.commands.building import build_in_subprocess
from itx.config import RunConfig
from itx.data import lock as locks
from itx.data.loader import Batches
from itx.data.vocabulary import BYTE_EXTRA_IDS, BYTES, Bytes, Vocabulary
from itx.errors import UserError
from itx.eval import dev, evaluate, fixed, information, metrics, retention
from itx.restore import Setup
from itx.runs import RunFolder, default_run, read_lock
from itx.trainer_lock import TrainerLock


def add_arguments(parser: argparse.ArgumentParser) -> None:
    with_recipe(command(parser, train))
    parser.add_argument("--run_dir", type=storage.local, help="default: runs/<config>[-quick]")
    parser.add_argument(
        "--lock",
        type=storage.local,
        help="train from this data lock and its cache; nothing is built",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print what trains and what it takes, and stop"
    )
    parser.add_argument(
        "--restarts",
        type=int,
        default=0,
        metavar="N",
        help="start again up to N times after a crash",
    )


def train(args: Namespace) -> tuple[Any, int]:
    """The main job; with --restarts it runs in a child process that is started again after a
    crash."""
    if args.restarts:
        return None, _restarting(args)  # the child writes --json
    processes.die_with_starter()
    if args.dry_run:
        return _dry_run(args)
    run = _run_folder(args)
    if run.is_begun() and run.has_lock():  # it goes on with the files that it began with
        hub.use(read_lock(run).get("hub", {}))
    config, origin = pretrained.load_recipe(args.config, args.overrides, args.quick)
    metrics.trust(config.data.modules)
    if config.train.deterministic:  # read by XLA when JAX starts
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_deterministic_ops=true"
    begin.check_same_run(run, config)
    writers.check_installed(config)
    TrainerLock(run.path).check()  # a second trainer is told before it builds
    if config.model.pretrained:
        restore.check_ready(config)
    lock_file = Path(args.lock) if args.lock else build_in_subprocess(args)
    lock = locks.read(lock_file)
    locks.check_config(lock, config, lock_file)
    facts = auditing.audit(lock, config.data.cache_dir, config)
    printed.print_audit(facts, tasks=False)
    if facts["errors"]:
        raise UserError(f"the audit fails: {facts['errors'][0]}")
    # a mistake in the settings shows before anything is written
    devices = mesh.make_mesh(config.mesh)
    setup = training.make_setup(config, lock["vocabulary"]["size"], len(lock["tasks"]), devices)
    batches = Batches(lock, config.data.cache_dir)
    begin.check(run, config, lock, setup)
    if config.peft.adapter and not run.is_begun():
        setup.init()  # an adapter of another base is refused before anything is written
    with TrainerLock(run.path) if jax.process_index() == 0 else contextlib.nullcontext():
        notes = begin.check(run, config, lock, setup)  # another trainer may have ended in between
        about = begin.write(run, config, origin, lock, args, notes)
        storage.write_json(run.audit_json, storage.sealed(facts))
        return _train_in(run, config, facts, batches, setup, about), 0


def _train_in(
    run: RunFolder,
    config: RunConfig,
    facts: dict,
    batches: Batches,
    setup: Setup,
    about: dict,
) -> dict:
    """The stages that write into a run folder, which this process holds.

    Args:
        facts: the audit's.
        about: what config.json holds.

    Returns:
        The report's facts.
    """
    lock, order, steps = batches.lock, batches.order, config.train.steps

    def score(step: int, when: str) -> None:
        load = functools.cache(lambda: restore.load_model(run, config, lock, step))
        evaluate.evaluate(load, lock, config, run, step)
        at = (load, lock, config.data.cache_dir, run, step, when)
        fixed.fixed_losses(*at, config.eval.fixed_examples)
        information.information(*at, config.eval.max_examples)
        retention.retention(*at)

    if config.eval.before:
        score(0, "before")
    elif config.model.pretrained:  # what tuning may cost is known only beside what was there
        load = functools.cache(lambda: restore.load_model(run, config, lock, 0))
        retention.retention(load, lock, config.data.cache_dir, run, 0, "before")
        if kept := [r for r in lock["evaluation"] if r["group"] == "retention"]:
            evaluate.evaluate(load, {**lock, "evaluation": kept}, config, run, 0)
    entropy = facts["mixture"]["unigram_entropy"]
    training.train(config, lock, batches, run, setup, about, entropy=entropy)
    taken, trained = order.counts(steps * lock["global_batch"]), None
    if skipped := {step - 1 for step in checkpoint.skips(run.checkpoints)["skipped"]}:
        trained = order.distinct([t for t in range(steps) if t not in skipped])
    storage.write_json(run.audit_json, storage.sealed(auditing.with_uses(facts, taken, trained)))
    final = steps
    if config.eval.keep_best:
        final = dev.best(dev.looks_of(run)) or steps
        print(f"scored is step {final}, the best of {len(dev.looks_of(run))} on dev")
    score(final, "after")
    report.report(run, final)
    print(f"report: {run.report_html}")
    return storage.read_json(run.report_json)


def _dry_run(args: Namespace) -> tuple[dict, int]:
    """How much trains, by shapes alone. A model that is still to be downloaded is the one that the
    recipe names."""
    config, _ = pretrained.load_recipe(args.config, args.overrides, args.quick, absent=True)
    d, size = config.data, config.data.vocab_size
    if d.vocab == BYTES:
        size = Bytes(BYTE_EXTRA_IDS).size
    elif d.vocab and not config.model.vocab_size:
        size = Vocabulary(storage.given_file(d.vocab, d.root, "data.vocab")).size
    size = min(size, config.model.vocab_size or size)
    shapes = restore.plan_model(config, size).shapes
    print(training.about_size(*shapes))
    return training.sizes(*shapes), 0


def _restarting(args: Namespace) -> int:
    words = sys.argv[1:]
    at = next(i for i, w in enumerate(words) if w.startswith("--restarts"))
    words = words[:at] + words[at + (1 if "=" in words[at] else 2) :]
    command = [sys.executable, "-m", "itx.cli", *words]
    return processes.Supervisor(command, args.restarts, _run_folder(args).checkpoints).run()


def _run_folder(args: Namespace) -> RunFolder:
    return RunFolder(Path(args.run_dir) if args.run_dir else default_run(args.config, args.quick))
