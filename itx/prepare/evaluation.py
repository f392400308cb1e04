# SPDX-License-Identifier: Apache-2.0
"""What a run is scored on: the four groups that a mixture implies, and what the config adds.

instances   trained tasks, examples not trained on, training templates
templates   the same examples in held-out templates
tasks       held-out tasks of clusters that are trained
clusters    held-out clusters and their neighbours
instruction tasks that share their inputs: instruction kept, removed, swapped (an ablation)
extra       config.eval.tasks
retention   config.eval.retention, which a model should still do after tuning; of it plain text is
            no row but measured
            in bits per byte (itx/eval/retention.py)
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from itx.config import RunConfig
from itx.data import cache
from itx.errors import UserError, did_you_mean
from itx.eval import metrics
from itx.prepare import objectives, render, sources
from itx.prepare.jobs import Job, Settings
from itx.tasks import names, registry, resolve
from itx.tasks.spec import SPLITS, TaskSpec


@dataclass(frozen=True)
class Row:
    name: str
    group: str
    relation: str
    job: Job
    spec: TaskSpec
    seqio: dict | None = None  # of a Task registered straight in SeqIO: itx/eval/foreign.py


def relation(spec: TaskSpec, trained: list[TaskSpec]) -> str:
    """How a task relates to training: same task, same origin, same cluster or none."""
    if any(t.name == spec.name for t in trained):
        return "same task"
    if any(set(t.origin) & set(spec.origin) for t in trained):
        return "same origin"
    return "same cluster" if any(t.cluster == spec.cluster for t in trained) else "none"


def rows(config: RunConfig, members: list[str]) -> list[Row]:
    """Every evaluation row of a run, in a fixed order."""
    root, split = config.data.root, config.eval.split
    trained = list({(t := registry.task(m, root)).name: t for m in members}.values())
    out = []
    for m in members:
        spec, variant = registry.task(m, root), names.parse(m)
        # plain text: nothing to score
        if variant.inverted or spec.objective or not _has(spec, split):
            continue
        out.append(Row(m, "instances", "same task", Job(m, split), spec))
        if render.choices(spec, variant, "heldout"):
            out.append(
                Row(f"{m}@heldout", "templates", "same task", Job(m, split, "heldout"), spec)
            )
    out += _held_out(config, trained, split)
    for pattern in config.eval.tasks:
        for name in registry.expand(pattern, root):
            spec = registry.task(name, root)
            if spec.objective:
                raise UserError(f"eval.tasks: {name!r} is plain text, which has no answer to score")
            if not _has(spec, split):
                raise UserError(f"eval.tasks: {name!r} has no {split} split")
            out.append(
                Row(f"{name}@eval", "extra", relation(spec, trained), Job(name, split), spec)
            )
    for name in _retained(config):
        spec = registry.task(name, root)
        if not spec.objective:
            if not _has(spec, split):
                raise UserError(f"eval.retention: {name!r} has no {split} split")
            out.append(
                Row(
                    f"{name}@retention",
                    "retention",
                    relation(spec, trained),
                    Job(name, split),
                    spec,
                )
            )
    if config.eval.instructions:
        out += _ablations(trained, split)
    return out


def _retained(config: RunConfig) -> list[str]:
    """What eval.retention names."""
    return [
        name
        for pattern in config.eval.retention
        for name in registry.expand(pattern, config.data.root)
    ]


def default_text(config: RunConfig, members: list[str]) -> tuple[list[str], str]:
    """What retention is measured on where eval.retention names no text: data.replay_task, trained
    on or not; or none, and why. A recipe names one whose files not everybody has: without a replay
    that is no error."""
    d = config.data
    name, root = d.replay_task, d.root
    if not name:
        return [], "neither eval.retention nor data.replay_task names a text task, e.g. c4_demo.lm"
    try:
        spec = registry.task(name, root)
        if not spec.objective:
            raise UserError("it is no text task")
        objectives.check(
            spec, objectives.Room(config.model.architecture, d.sequence_length, d.target_length)
        )
        split = _text_split(spec, config, members)
        for part, _, _ in (
            render.source_splits(spec.source, split) if spec.source.kind != "function" else ()
        ):
            sources.parts(spec.source, part, root)
    except UserError as e:
        if d.replay:
            raise
        return [], f"data.replay_task={name}: {e}"
    return [name], ""


def _text_split(spec: TaskSpec, config: RunConfig, members: list[str]) -> str:
    """Of a text the split that is scored, or all of one that is not trained on."""
    if _has(spec, config.eval.split):
        return config.eval.split
    if spec.name in members:
        raise UserError(
            f"the text {spec.name!r} is trained on and has no {config.eval.split} split to be measured on; "
            "give its source one (split_by_hash=…)"
        )
    return "train"


def texts(config: RunConfig, members: list[str]) -> list[Row]:
    """The plain texts of eval.retention; of a run from a pretrained model that names none, the
    `default_text`."""
    specs = [registry.task(name, config.data.root) for name in _retained(config)]
    specs = [s for s in specs if s.objective]
    if not specs and config.model.pretrained:
        specs = [registry.task(name, config.data.root) for name in default_text(config, members)[0]]
    return [
        Row(s.name, "retention", "text", Job(s.name, _text_split(s, config, members), "text"), s)
        for s in specs
    ]


def lock_texts(
    found: list[Row], made: dict[Job, tuple[str, dict]], settings: Settings
) -> list[dict]:
    """The lock's plain texts, which retention is measured on."""
    return [{
        "name": r.name, "objective": r.spec.objective, "split": r.job.split, "folder": (folder := made[r.job][0]),
        "sha256": cache.manifest_hash(Path(settings.cache_dir) / folder),
    } for r in found]  # fmt: skip


def no_split(split: str, declared: Iterable[str]) -> str:
    """Why a task is not scored on a split, and on which it would be."""
    others = [s for s in SPLITS if s in declared]
    asked = next((f": --eval.split={s}" for s in others if s != "train"), "")
    return f"no {split} split, only {' and '.join(others)}{asked}"


def without_split(config: RunConfig, members: list[str]) -> list[str]:
    """The trained and held-out tasks that have nothing to be scored on, each with the splits that
    it has."""
    mixture = registry.MIXTURES.get(config.data.mixture)
    held = [name for name, _ in resolve.removed(mixture, config.data.root)] if mixture else []
    specs = {(t := registry.task(n, config.data.root)).name: t for n in [*members, *held]}
    return [f"{name} ({no_split(config.eval.split, render.splits(t.source))})" for name, t in specs.items()
            if not t.objective and not _has(t, config.eval.split)]  # fmt: skip


def _has(spec: TaskSpec, split: str) -> bool:
    return bool(render.source_splits(spec.source, split))


def _held_out(config: RunConfig, trained: list[TaskSpec], split: str) -> list[Row]:
    mixture = registry.MIXTURES.get(config.data.mixture)
    out = []
    seen = {t.cluster for t in trained}
    for name, _ in resolve.removed(mixture, config.data.root) if mixture else ():
        spec = registry.task(name, config.data.root)
        if spec.objective or not _has(spec, split):
            continue
        group = "tasks" if spec.cluster in seen else "clusters"
        out.append(Row(name, group, relation(spec, trained), Job(name, split, "all"), spec))
    return out


def _ablations(trained: list[TaskSpec], split: str) -> list[Row]:
    """Trained tasks that share their inputs with two others: with, without and with a wrong
    instruction."""
    families: dict[str, list[TaskSpec]] = {}
    for spec in sorted(trained, key=lambda t: t.name):
        if "inputs" in spec.tags and spec.templated and _has(spec, split):
            families.setdefault(spec.tags["inputs"], []).append(spec)
    out = []
    for family in families.values():
        if len(family) < 3:
            continue
        for i, spec in enumerate(family):
            other = family[(i + 1) % len(family)].name
            for ablation in ("none", "removed", "swapped"):
                job = Job(
                    spec.name, split, "train", ablation, other if ablation == "swapped" else ""
                )
                out.append(Row(f"{spec.name}@{ablation}", "instruction", "same task", job, spec))
    return out


def lock_rows(
    found: list[Row], made: dict[Job, tuple[str, dict]], settings: Settings
) -> list[dict]:
    """The lock's evaluation entries: all that scoring needs, so that it needs no task module."""
    out = []
    for row in found:
        folder, manifest = made[row.job]
        spec = row.spec
        variant = row.job.variant if row.seqio else str(names.parse(row.job.variant))
        options = spec.options if "options" not in manifest["templates"] else None
        out.append({
            "name": row.name, "task": spec.name, "variant": variant, "cluster": spec.cluster,
            "group": row.group, "grade": spec.tags.get("grade"), "relation": row.relation,
            "split": row.job.split, "folder": folder,
            "sha256": cache.manifest_hash(Path(settings.cache_dir) / folder),
            "examples": manifest["examples"], "records": manifest["records"],
            "metrics": [metrics.name_of(m) for m in spec.metrics], "primary": spec.primary,
            "max_target_tokens": manifest["max_target_tokens"], "templates": manifest["templates"],
            "tags": dict(spec.tags), "inputs": spec.tags.get("inputs"), "ablation": row.job.ablation or None,
            "audit": manifest["audit"], **({"halved": True} if not row.seqio and spec.source.halve else {}), "options": None if options is None else list(options),
            **({"seqio": row.seqio} if row.seqio else {}),
            # a base model, which never learned our EOS, goes on with a next exemplar
            **({"shots": k, "stop": spec.shot_separator} if row.group == "retention" and (k := names.parse(variant).shots)
               else {}),
        })  # fmt: skip
    names_ = [r["name"] for r in out]
    for name in names_:
        if names_.count(name) > 1:
            raise UserError(
                f"evaluation row {name!r} is named twice" + did_you_mean(name, set(names_) - {name})
            )
    return out
