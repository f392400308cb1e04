# SPDX-License-Identifier: Apache-2.0
"""The making of the lock: tasks with their rates and what is left out, rows, and why others are not
there (itx/data/types.py says what each key holds)."""

import dataclasses
import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from itx import hashing, hub
from itx.config import DataConfig
from itx.data import cache, packing
from itx.data import lock as locks
from itx.data.order import ORDER_VERSION, Order
from itx.data.types import Lock, TaskEntry, VariantShares
from itx.errors import UserError
from itx.leaks import contamination
from itx.prepare import evaluation, jobs
from itx.prepare.jobs import Made
from itx.prepare.members import beside, mixtures_of, nested
from itx.prepare.types import Job, Plan
from itx.prepare.workers import Rates
from itx.tasks import fingerprint, names, registry, resolve
from itx.tasks.spec import MixtureSpec

# Settings that shape no lock, as those whose names begin with max_ do not.
_SHAPELESS = ("cache_dir", "workers", "root", "tfds_data_dir")
# Settings that a lock holds as they are.
HELD_AS_SET = (
    "mixture sequence_length target_length global_batch window_examples seed renderings weighting "
    "too_long".split()
)
SPARE_EPOCHS = 0.05  # windows vary by about so much


def _mixtures(plan: Plan) -> list[MixtureSpec]:
    """The mixtures of all phases, and those nested in them."""
    root = plan.config.data.root
    phases = [nested(name, root) for name in mixtures_of(plan.config)]
    return [registry.MIXTURES[name] for phase in phases for name in phase]


def file_of(plan: Plan) -> Path:
    """Where the lock of this very build is kept: a second run needs neither SeqIO nor the
    sources."""
    config, settings = plan.config, plan.settings
    shape = {
        k: v
        for k, v in dataclasses.asdict(config.data).items()
        if k not in _SHAPELESS and not k.startswith("max_")
    }
    specs = {(t := settings.task(j.variant)).name: t for j in plan.jobs}
    parts: list[Any] = [
        *(locks.LOCK_VERSION, ORDER_VERSION, contamination.SEARCH_VERSION, shape),
        *(config.model.architecture, config.model.prefix_lm, config.train.steps),
        *(config.eval.tasks, config.eval.split, config.eval.instructions, config.eval.retention),
        *((config.eval.every > 0,) if config.eval.every else ()),
        *(bool(config.model.pretrained), plan.unscored),
        [repr(mixture) for mixture in _mixtures(plan)],
        [fingerprint.of_scoring(specs[name]) for name in sorted(specs)],
        [jobs.folder(j, settings, plan.vocabulary.hash) for j in plan.jobs],
    ]
    if config.data.prompt_format == "chat" or any(spec.chat for spec in specs.values()):
        parts.append(settings.chat_template)  # the lock holds it
    if pins := hub.used():
        parts.append(pins)
    if plan.patches:
        parts.append(plan.patches)
    # The lock says why no text is measured, which depends on the files that are there.
    if config.model.pretrained:
        parts.append(evaluation.default_text(config, plan.members)[1])
    name = f"{hashing.draw(json.dumps(parts, sort_keys=True, default=str)):016x}.json"
    return Path(config.data.cache_dir) / "locks" / name


def untrained(plan: Plan) -> Lock:
    """The lock of a model that is scored without being trained: no task, and no row yet."""
    return _shape(plan) | _turns(plan)


def _turns(plan: Plan, conversations: bool = False) -> dict[str, Any]:
    """What a lock holds of a chat template, where prompts or conversations pass through it."""
    d = plan.config.data
    as_chat = d.prompt_format == "chat"
    held = {"chat": plan.settings.chat_template} if as_chat or conversations else {}
    if as_chat:
        held |= {k: getattr(d, k) for k in ("prompt_format", "system", "exemplars_as")}
    return held


def make(plan: Plan, shares: list[Rates], made: dict[Job, Made]) -> Lock:
    """The lock of what was made; shares: the rates of each phase."""
    config, d = plan.config, plan.config.data
    lock = _shape(plan)
    begins = [step for step, _ in d.phases]
    for name, rate in mean_rates(shares, begins, config.train.steps).items():
        if any(s.get(name, 0) > 0 for s in shares):
            renderings = [Job(name, "train", rendering=r) for r in range(d.renderings)]
            folders = [made[j] for j in renderings if j in made]
            lock["tasks"].append(task_entry(name, rate, folders, lock, d))
    trained = {t["task"] for t in lock["tasks"]}
    # `itx generate` is to ask as the run was trained.
    lock |= _turns(plan, any(s.chat for name, s in registry.TASKS.items() if name in trained))
    if d.targets != "own":
        lock["targets"] = d.targets
    if plan.patches:
        lock["patch_files"] = plan.patches
    if d.rate_factors:
        lock["factors"] = dict(d.rate_factors)
    if d.added:
        lock["added"] = dict(d.added)
    if d.replay:
        lock |= {"replay": d.replay, "replay_task": d.replay_task}
    if d.phases:
        lock["phases"] = [
            {"step": step, "rates": [rates.get(t["name"], 0.0) for t in lock["tasks"]]}
            for step, rates in zip([0, *begins], shares, strict=True)
        ]
    if lock["architecture"] == "decoder":
        order, _ = _first_rendering(lock, d)
        sizes = order.size(*order.window(0).segments.T)
        lock["loss_positions"] = packing.loss_caps(sizes, order.capacity)
    if d.mixture in registry.MIXTURES:
        removed = resolve.removed(registry.MIXTURES[d.mixture], d.root)
        lock["holdout"] = [{"task": t, "reason": why} for t, why in removed]
    lock["left_out"] = [
        {"mixture": mixture.name, "task": t, "reason": why}
        for mixture in _mixtures(plan)
        for t, why in resolve.left_out(mixture, d.root)
    ]
    variants = [variant_shares(mixture, lock["tasks"], d.root) for mixture in _mixtures(plan)]
    lock["variants"] = [v for v in variants if v is not None]
    return lock | _scored(plan, made, [t["name"] for t in lock["tasks"]])


def _shape(plan: Plan) -> Lock:
    """A lock's settings, and no task yet."""
    config, d, vocabulary = plan.config, plan.config.data, plan.vocabulary
    architecture = config.model.architecture
    file = Path(plan.settings.vocab)
    return {
        "version": locks.LOCK_VERSION,
        "order_version": ORDER_VERSION,
        "architecture": architecture,
        "prefix_lm": config.model.prefix_lm,
        "pad_id": vocabulary.pad_id,
        "bos_id": vocabulary.first_id(architecture),
        "eos_id": vocabulary.eos_id,
        "vocabulary": {
            "file": str(file.relative_to(d.cache_dir)),
            "hash": vocabulary.hash,
            "size": vocabulary.size,
            "files": {p.name: hashing.file_sha256(p) for p in sorted(file.parent.iterdir())},
        },
        **{key: getattr(d, key) for key in HELD_AS_SET},
        "loss_positions": [d.target_length],
        "tasks": [],
        "evaluation": [],
        "holdout": [],
        **({"hub": pins} if (pins := hub.used()) else {}),
    }


def _scored(plan: Plan, made: dict[Job, Made], trained: list[str]) -> dict[str, Any]:
    """The lock's rows and texts, and what is not scored."""
    # A small set may leave a split nothing: such a row is named, and not scored.
    scored = [r for r in plan.rows if made[r.job][1]["examples"]]
    asked = [r for r in scored if r.spec.scored and not r.is_information]
    rows, dev = [r for r in asked if not r.is_dev], [r for r in asked if r.is_dev]
    dev = [dataclasses.replace(r, group="instances") for r in dev]
    texts = [r for r in scored if not r.spec.scored]
    empty = [r.name for r in plan.rows if r not in scored and not r.is_information]
    information = [r for r in scored if r.is_information]
    unfit = evaluation.unfit(information, made)
    information = [r for r in information if made[r.job][1]["records"]]
    entries = {
        "unscored": [*plan.unscored, *empty],
        "uninformed": unfit,
        "information": evaluation.lock_information(information, made, plan.settings),
        "evaluation": evaluation.lock_rows(rows, made, plan.settings),
        **({"dev": evaluation.lock_rows(dev, made, plan.settings)} if dev else {}),
        "retention": evaluation.lock_texts(texts, made, plan.settings),
    }
    if plan.config.model.pretrained and not texts:
        why = ""
        if all(r.spec.scored for r in plan.rows):  # no text was named
            why = evaluation.default_text(plan.config, trained)[1]
        entries["unretained"] = why or "the text that is to be kept has no example"
    return entries


def _first_rendering(lock: Lock, data: DataConfig) -> tuple[Order, locks.LockedData]:
    """The order of a lock's data in which the first rendering stands in for every epoch's: the
    others may not be made yet, and a longer run, which has more of them, is to have the same."""
    locked = locks.LockedData(lock, data.cache_dir)
    return Order({**lock, "renderings": 1}, locked.usable, locked.sizes), locked


def more_renderings(plan: Plan, lock: Lock) -> list[Job]:
    """The renderings beyond the first that the run's epochs need: ceil(epochs), at most
    data.renderings."""
    d = plan.config.data
    order, locked = _first_rendering(lock, d)
    per_row = d.window_examples / len(order.window(0))
    # Windows vary: one window and SPARE_EPOCHS are to spare.
    examples = per_row * d.global_batch * plan.config.train.steps + d.window_examples
    more = []
    for task, usable in zip(lock["tasks"], locked.usable, strict=True):
        epochs = examples * task["rate"] / max(1, len(usable[0])) + SPARE_EPOCHS
        numbers = range(1, min(math.ceil(epochs), d.renderings))
        more += [Job(task["name"], "train", rendering=r) for r in numbers]
    return more


def variant_shares(spec: MixtureSpec, tasks: list[TaskEntry], root: str) -> VariantShares | None:
    """What is trained of the variants that a mixture asks for; None where no task lacks one."""
    lacking = resolve.without(spec, root)
    if not lacking:
        return None
    rates = {t["name"]: t["rate"] for t in tasks}
    bare = {t["task"] for t in tasks}
    trained = {
        v: sum(rates.get(str(names.parse(f"{t}:{v}")), 0.0) for t in bare) for v in spec.variants
    }
    whole = sum(trained.values()) or 1.0
    without = {v: [t for t, have in lacking.items() if v not in have] for v in spec.variants}
    return {
        "mixture": spec.name,
        "asked": dict(spec.variants),
        "got": {v: rate / whole for v, rate in trained.items()},
        "without": {v: ts for v, ts in without.items() if ts},
    }


def mean_rates(shares: list[Rates], begins: list[int], steps: int) -> Rates:
    """Each variant's share of the examples over the run: each phase counts by its steps, the phases
    after the first beginning at `begins`."""
    if not begins:
        return shares[0]
    edges = [0, *(min(b, steps) for b in begins), steps]
    parts = [(b - a) / max(1, steps) for a, b in itertools.pairwise(edges)]
    variants = sorted({name for share in shares for name in share})
    return {
        n: sum(p * share.get(n, 0.0) for p, share in zip(parts, shares, strict=True))
        for n in variants
    }


def task_entry(
    name: str, rate: float, folders: list[Made], lock: Lock, data: DataConfig
) -> TaskEntry:
    """One task of the lock: where it lies, its rate, what of it is left out and why.

    Args:
        folders: one for each rendering, the first first.
    """
    manifest = folders[0][1]
    mixture = registry.MIXTURES.get(data.mixture)
    most = mixture.max_examples if mixture and name not in beside(data) else None
    excluded, skipped, cut = [], dict(manifest["audit"]["skipped"]), {}
    # Where no record was made, no rendering has one.
    for rendering, (folder, _) in enumerate(folders if manifest["records"] else ()):
        records = cache.Records(Path(data.cache_dir) / folder)
        size = locks.sizes(records.lengths, lock["architecture"])
        out, reasons = locks.check_fit(name, size, lock)
        if most and (~out).sum() > most:
            ranked = np.argsort(np.where(out, np.uint64(2**64 - 1), records.content), kind="stable")
            beyond = np.zeros(len(out), bool)
            beyond[ranked[most:]] = True
            reasons["beyond max_examples"] = int((beyond & ~out).sum())
            out |= beyond
        if rendering == 0:
            skipped |= reasons
            cut = _cut(locks.lost(size, lock)[~out])
        excluded.append(np.flatnonzero(out).tolist())
    n = manifest["records"] - len(excluded[0]) if excluded else 0
    if n == 0:
        raise UserError(f"task {name}: no training example is left; skipped: {skipped}")
    names_ = [folder for folder, _ in folders]
    return {
        "name": name,
        "task": manifest["task"],
        "cluster": manifest["cluster"],
        "rate": rate,
        "examples": n,
        "folders": names_,
        "sha256": [cache.manifest_hash(Path(data.cache_dir) / f) for f in names_],
        "excluded": excluded,
        "audit": {**manifest["audit"], "skipped": skipped, "kept": n, **cut},
        **({"patched": manifest["patched"]} if "patched" in manifest else {}),
    }


def _cut(lost: np.ndarray) -> dict[str, int]:
    """What an audit says of the tokens that prompts and targets lose to fit a row; lost: int
    [n, 2]."""
    cut = {}
    for (examples, tokens), n in zip(
        (("cut", "cut_tokens"), ("cut_targets", "cut_target_tokens")), lost.T, strict=True
    ):
        if n.any():
            cut |= {examples: int((n > 0).sum()), tokens: int(n.sum())}
    return cut
