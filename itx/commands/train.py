# SPDX-License-Identifier: Apache-2.0
"""`itx train`: build -> audit -> score before -> tune -> score after -> report.

Each stage leaves whole files in the run folder and is skipped when they are there, so that the same
command resumes after a kill at any moment.
"""

import argparse
import contextlib
import functools
import os
import shlex
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from itx import (
    begin,
    checkpoint,
    goodput,
    hosts,
    hub,
    mesh,
    pretrained,
    processes,
    restore,
    storage,
    versions,
    writers,
)
from itx import config as configs
from itx import keeper as keepers
from itx import train as training
from itx.analysis import report
from itx.audit import audit as auditing
from itx.audit import printed
from itx.commands.arguments import command, with_recipe
from itx.commands.building import build_in_subprocess
from itx.config import RunConfig
from itx.data import lock as locks
from itx.data.loader import Batches
from itx.data.types import Lock
from itx.errors import UserError
from itx.eval import budget, dev, evaluate, fixed, information, metrics, retention, safety
from itx.goodput import Clock
from itx.keeper import Keeper
from itx.params import unbuilt_vocab_size
from itx.plan import peaks
from itx.restore import Setup
from itx.runs import RunFolder, default_run, read_lock
from itx.trainer_lock import TrainerLock

OF_A_HOST = ("data.cache_dir", "data.root")  # paths that may differ between hosts


def add_arguments(parser: argparse.ArgumentParser) -> None:
    with_recipe(command(parser, train))
    parser.add_argument(
        "--run_dir",
        type=storage.of_run,
        help="default: runs/<config>[-quick]; gs://BUCKET/… or s3://BUCKET/… keeps it in a store",
    )
    parser.add_argument(
        "--scratch",
        type=storage.local,
        default="",
        metavar="FOLDER",
        help="where the folder of a run in a store lies on this machine; default: the user's cache",
    )
    parser.add_argument(
        "--lock",
        type=storage.local,
        help="train from this data lock and its cache; nothing is built",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print what trains and what it takes, and stop"
    )
    several = parser.add_argument_group(
        "several processes", "needed only where the environment does not name them (tpu/README.md)"
    )
    several.add_argument(
        "--coordinator", default="", metavar="HOST:PORT", help="where process 0 listens"
    )
    several.add_argument(
        "--processes", type=int, default=0, metavar="N", help="how many there are; 1: train alone"
    )
    several.add_argument(
        "--process", type=int, default=-1, metavar="I", help="which of them this is, from 0"
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
    with hosts.joined(args.coordinator, args.processes, args.process):
        facts = _train(args)
    return facts, 0


def _train(args: Namespace) -> dict | None:
    """The report's facts, on the writer."""
    clock = goodput.of_this_process()
    with contextlib.ExitStack() as kept, contextlib.ExitStack() as beginning:
        beginning.enter_context(clock.span("init"))
        keeper = kept.enter_context(keepers.opened(_run_dir(args), args.scratch))
        return _checked(args, keeper, clock, beginning)


def _checked(
    args: Namespace, keeper: Keeper, clock: Clock, beginning: contextlib.ExitStack
) -> dict | None:
    """Check all that can be wrong, close `beginning`, and train; the report's facts, on the
    writer."""
    run = RunFolder(keeper.path)
    if run.is_begun() and run.has_lock():  # it goes on with the files that it began with
        hub.use(read_lock(run).get("hub", {}))
    config, origin = pretrained.load_recipe(args.config, args.overrides, args.quick)
    metrics.trust(config.data.modules)
    if config.train.deterministic:  # read by XLA when JAX starts
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_deterministic_ops=true"
    begin.check_same_run(run, config)
    writers.check_installed(config)
    if hosts.is_writer():
        TrainerLock(run.path).check()  # a second trainer is told before it builds
    if config.model.pretrained:
        restore.check_ready(config)
    with clock.span("build"):
        lock_file = _lock_file(args, run)
    lock = locks.read(lock_file)
    locks.check_config(lock, config, lock_file)
    hosts.check_same(lambda: _what_shapes_a_run(config, lock))
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
    hosts.barrier("the settings are checked")  # before the writer takes the folder
    with TrainerLock(run.path) if hosts.is_writer() else contextlib.nullcontext():
        notes = begin.check(run, config, lock, setup)  # another trainer may have ended in between
        hosts.barrier("the run folder is checked")
        about = None
        if hosts.is_writer():
            about = begin.write(run, config, origin, lock, args, notes)
            storage.write_json(run.audit_json, storage.sealed(facts))
        keeper.begin()
        keeper.refresh()
        _check_shared(run, about)
        beginning.close()
        with _recorded(clock, run, setup, config.train.steps):
            return _train_in(run, config, facts, batches, setup, about, clock, keeper)


@contextlib.contextmanager
def _recorded(clock: Clock, run: RunFolder, setup: Setup, steps: int) -> Iterator[None]:
    """Inside, the run folder keeps what time goes to; not of a run that is done, where the same
    command shows the report again."""
    if run.steps()[-1:] == [steps] and goodput.is_done(run.goodput_jsonl, steps):
        yield
        return
    clock.open(run.goodput_jsonl, peaks.device_facts(setup.mesh))
    ended = {}
    try:
        yield
        ended = {"done": steps}
    finally:
        clock.close(run.goodput_json, **ended)


def _lock_file(args: Namespace, run: RunFolder) -> Path:
    """The data lock's file. One process alone builds what is missing; several need what is
    built, for a build of each would write the same files and take the others' time."""
    if args.lock:
        return Path(args.lock)
    if hosts.count() == 1:
        return build_in_subprocess(args)
    if run.lock_json.is_file():
        return run.lock_json
    words = [args.config, *(["--quick"] if args.quick else []), *args.overrides]
    raise UserError(
        f"{hosts.count()} processes train on data that are built: say once "
        f"`itx data build {shlex.join(words)}`, and give each of them --lock with the file that "
        "it prints"
    )


def _what_shapes_a_run(config: RunConfig, lock: Lock) -> dict[str, Any]:
    """{name: value} of what must be alike on all processes."""
    fields = configs.flatten(configs.to_dict(config))
    return {
        "the code's version": versions.code_version(),
        "the data lock": locks.shape_hash(lock),
        **{name: value for name, value in fields.items() if name not in OF_A_HOST},
    }


def _check_shared(run: RunFolder, about: dict | None) -> None:
    """UserError where a process does not see the run folder that the writer has begun."""
    seal = hosts.broadcast(lambda: about[storage.SEAL])
    try:
        seen = storage.read_json(run.config_json)[storage.SEAL]
    except (OSError, ValueError, KeyError):
        seen = None
    if seen != seal:
        raise UserError(
            f"--run_dir: {run.path} is not the folder that process 0 has begun: it must lie on "
            "storage that all processes share"
        )


def _train_in(
    run: RunFolder,
    config: RunConfig,
    facts: dict,
    batches: Batches,
    setup: Setup,
    about: dict | None,
    clock: Clock,
    keeper: Keeper,
) -> dict | None:
    """The stages that write into a run folder, which this process holds.

    Args:
        facts: the audit's.
        about: what config.json holds, on the writer.

    Returns:
        The report's facts, on the writer.
    """
    lock, order, steps = batches.lock, batches.order, config.train.steps

    def score(step: int, when: str) -> None:
        load = functools.cache(lambda: restore.load_model(run, config, lock, step))
        evaluate.evaluate(load, lock, config, run, step)
        at = (load, lock, config.data.cache_dir, run, step, when)
        fixed.fixed_losses(*at, config.eval.fixed_examples)
        asked = evaluate.scored_rows(lock, config)
        information.information(*at, budget.examples(run, config, asked))
        retention.retention(*at)
        safety.safety(load, lock, config, run, step, when)

    with clock.span("evaluation"):
        _score_before(run, config, lock, score)
    entropy = facts["mixture"]["unigram_entropy"]
    told = {"entropy": entropy, "clock": clock, "keeper": keeper}
    training.train(config, lock, batches, run, setup, about, **told)
    with clock.span("save"):
        keeper.refresh()  # all processes score the last checkpoint
    with clock.span("report"):
        taken, trained = order.counts(steps * lock["global_batch"]), None
        if skipped := {step - 1 for step in checkpoint.skips(run.checkpoints)["skipped"]}:
            trained = order.distinct([t for t in range(steps) if t not in skipped])
        if hosts.is_writer():
            uses = auditing.with_uses(facts, taken, trained)
            storage.write_json(run.audit_json, storage.sealed(uses))
    final = steps
    with clock.span("evaluation"):
        if config.eval.keep_best:
            final = hosts.broadcast(lambda: dev.best(dev.looks_of(run))) or steps
            print(f"scored is step {final}, the best of {len(dev.looks_of(run))} on dev")
        score(final, "after")
    if not hosts.is_writer():
        return None
    clock.line()  # the report tells of the time up to here
    with clock.span("report"):
        report.report(run, final)
        print(f"report: {run.report_html}")
        return storage.read_json(run.report_json)


def _score_before(
    run: RunFolder, config: RunConfig, lock: Lock, score: Callable[[int, str], None]
) -> None:
    """Score the model before tuning; of a pretrained one at least what tuning may cost, which is
    known only beside what was there."""
    if config.eval.before:
        score(0, "before")
    elif config.model.pretrained:
        load = functools.cache(lambda: restore.load_model(run, config, lock, 0))
        retention.retention(load, lock, config.data.cache_dir, run, 0, "before")
        safety.safety(load, lock, config, run, 0, "before")
        if any(r["group"] == "retention" for r in lock["evaluation"]):
            evaluate.evaluate(load, lock, config, run, 0, only="retention")


def _dry_run(args: Namespace) -> tuple[dict, int]:
    """How much trains, by shapes alone. A model that is still to be downloaded is the one that the
    recipe names."""
    config, _ = pretrained.load_recipe(args.config, args.overrides, args.quick, absent=True)
    shapes = restore.plan_model(config, unbuilt_vocab_size(config)).shapes
    print(training.about_size(*shapes))
    return training.sizes(*shapes), 0


def _restarting(args: Namespace) -> int:
    words = sys.argv[1:]
    at = next(i for i, w in enumerate(words) if w.startswith("--restarts"))
    words = words[:at] + words[at + (1 if "=" in words[at] else 2) :]
    command = [sys.executable, "-m", "itx.cli", *words]
    newest = functools.partial(keepers.newest_checkpoint, _run_dir(args), args.scratch)
    return processes.Supervisor(command, args.restarts, newest).run()


def _run_dir(args: Namespace) -> str:
    return args.run_dir or str(default_run(args.config, args.quick))
