# SPDX-License-Identifier: Apache-2.0
"""How a run begins or goes on: everything is checked first, and only then is anything written into
its folder."""

import shlex
import sys
from argparse import Namespace
from pathlib import Path

from itx import config as configs
from itx import pretrained, restore, storage, tracing, trainer_lock
from itx.checkpoint import Checkpoints, Damaged
from itx.config import RunConfig
from itx.data import lock as locks
from itx.data import verify
from itx.data.types import Lock
from itx.errors import UserError, check_known
from itx.restore import Setup
from itx.runs import RunFolder, read_config, read_lock, run_config
from itx.versions import code_version, versions

# beginnings of notes on fields whose change may give an adapter another base
OF_THE_BASE = ("model.", "train.seed ")
ENDING_SCHEDULES = ("cosine", "linear", "wsd")  # without optim.decay_steps they end at train.steps


def check_same_run(run: RunFolder, config: RunConfig) -> list[str]:
    """A run folder belongs to one config: data fields never change, maths fields only where
    allowed, and never those that shape the arrays which its checkpoints hold.

    Returns a note for every allowed change; raises UserError naming the first field that may not
    differ.
    """
    tracing.steps_of(config.train.profile)
    if run.path.exists() and not run.path.is_dir():
        raise UserError(f"--run_dir: {run.path} is a file, not a folder")
    names = [p.name for p in run.path.iterdir()] if run.path.exists() else []
    if all(name.endswith(".part") or name == trainer_lock.NAME for name in names):
        return []  # nothing, or what a kill left before the first file
    if not run.is_begun():
        raise UserError(
            f"{run.path} is not empty and not a run folder (no config.json); give another --run_dir"
        )
    old = configs.flatten(read_config(run)["config"])
    new = configs.flatten(configs.to_dict(config))
    kinds = {name: f.metadata["kind"] for name, f in configs.fields_by_name().items()}
    for name in config.resume.allow:
        check_known(name, kinds, f"resume.allow: unknown field {name!r}")
    notes = []
    for name, value in new.items():
        if name not in old or old[name] == value:
            continue
        change = f"{name} was {old[name]!r}, is {value!r}"
        ends_with_run = not config.optim.decay_steps and config.optim.schedule in ENDING_SCHEDULES
        if name == "train.steps" and ends_with_run:
            notes.append(
                f"{change}: the learning rate now ends there, and no longer as it was planned"
            )
        if kinds[name] == "free":
            continue
        way = ""
        if kinds[name] == "maths":
            if _changes_shapes(run, config, name):
                way = ", for its checkpoints hold arrays of other shapes"
            elif name in config.resume.allow:
                notes.append(change)
                continue
            else:
                way = f", or allow it: --resume.allow={name}"
        raise UserError(
            f"{run.path} belongs to another config: {change}; give another --run_dir{way}"
        )
    return notes


def _changes_shapes(run: RunFolder, config: RunConfig, name: str) -> bool:
    """Whether the run would have other arrays, in parameters or optimizer, with this one field as
    `config` has it."""
    if not run.has_lock():
        return False
    old, vocab_size = run_config(run), read_lock(run)["vocabulary"]["size"]

    def shapes(config: RunConfig) -> dict:
        return restore.shapes_by_name(restore.plan_model(config, vocab_size))

    section, leaf = name.split(".")
    value = getattr(getattr(config, section), leaf)
    try:
        return shapes(configs.changed(old, section, **{leaf: value})) != shapes(old)
    except UserError:  # it cannot be so alone, but only together with other fields
        return True


def check(run: RunFolder, config: RunConfig, lock: Lock, setup: Setup) -> list[str]:
    """`check_same_run`; UserError also where the run was begun on other data, or where training
    cannot go on from its newest sound checkpoint.

    Args:
        setup: what the run has besides its state, with the shapes that its checkpoints must hold.
    """
    notes = check_same_run(run, config)
    if run.has_lock():
        locks.check_same(read_lock(run), lock, run.path)
    vocabulary = _vocabulary(config, lock)
    if not run.vocab_model.is_file() and not vocabulary.is_file():
        raise UserError(f"the lock's vocabulary is not in the cache: {vocabulary}")
    if run.vocab_model.is_file():
        verify.vocabulary(
            run.vocab_model.parent, lock, f"copy the files of {vocabulary.parent} there"
        )
    if not run.checkpoints.is_dir():
        return notes
    with Checkpoints(run.checkpoints, read_only=True) as checkpoints:
        for step in filter(None, reversed(checkpoints.steps())):
            try:
                meta = restore.check_fits(checkpoints, step, setup, lock)
            except Damaged:  # training names it, sets it aside and uses the one before
                continue
            if step > config.train.steps:
                raise UserError(
                    f"{run.path} is trained to step {step}, beyond train.steps="
                    f"{config.train.steps}: give at least --train.steps={step}, or another "
                    "--run_dir"
                )
            of_base = any(note.startswith(OF_THE_BASE) for note in notes)
            if of_base and len(setup.plan.saved) < len(setup.plan.names):
                restore.check_base(meta, setup.init()[1], setup.plan.saved)
            break
    return notes


def _vocabulary(config: RunConfig, lock: Lock) -> Path:
    return Path(config.data.cache_dir) / lock["vocabulary"]["file"]


def write(
    run: RunFolder,
    config: RunConfig,
    origin: dict[str, str],
    lock: Lock,
    args: Namespace,
    notes: list[str],
) -> dict:
    """Write the run's config, lock and vocabulary, which are checked; returns what config.json
    holds.

    config.json comes first: it is what makes a folder a run folder, so that a kill in between is no
    trouble.
    """
    for note in notes:
        print(f"changed on resume: {note}", file=sys.stderr)
    old_notes = read_config(run).get("notes", []) if run.is_begun() else []
    about = storage.sealed(
        {
            "file": args.config,
            "quick": args.quick,
            "overrides": args.overrides,
            "command": shlex.join(["itx", *sys.argv[1:]]),
            "config": configs.to_dict(config),
            "origin": origin,
            "versions": versions(),
            "code": code_version(),
            "data_hash": locks.shape_hash(lock),
            "notes": old_notes + notes,
        }
    )
    storage.write_json(run.config_json, about)
    keep_data(run, config, lock)
    return about


def keep_data(run: RunFolder, config: RunConfig, lock: Lock) -> None:
    """Write a run's lock, its vocabulary, and what it takes over of a pretrained model's folder."""
    storage.write_json(run.lock_json, storage.sealed(lock))
    if config.model.pretrained:
        pretrained.keep(config.model.pretrained, run.pretrained)
    if not run.vocab_model.is_file():
        storage.copy_folder(_vocabulary(config, lock).parent, run.vocab_model.parent)
    if lock.get("chat"):  # what an export and a run that begins from this one find
        with storage.whole_file(run.chat_template) as part:
            part.write_text(lock["chat"], encoding="utf-8")
