# SPDX-License-Identifier: Apache-2.0
"""What a run is scored on: the four groups that a mixture implies, and what the config adds.

instances   trained tasks, examples not trained on, training templates
templates   the same examples in held-out templates
tasks       held-out tasks of clusters that are trained
clusters    held-out clusters and their neighbours
instruction tasks that share their inputs: instruction kept, removed, swapped (an ablation)
            and of the first four groups and of `extra` such examples under all three
            instructions: no row, but what the instruction tells in bits
            (itx/eval/information.py)
dev         trained tasks on the validation split, where eval.every asks for scores while training
extra       config.eval.tasks
retention   config.eval.retention, which a model should still do after tuning; plain text among it
            is no row but measured in bits per byte (itx/eval/retention.py)
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from itx.config import RunConfig
from itx.data import cache
from itx.data.types import EvalRow, InformationEntry, TextEntry
from itx.errors import UserError, did_you_mean
from itx.eval import averages, metrics
from itx.prepare import objectives, render, sources, values
from itx.prepare.jobs import Made
from itx.prepare.types import EACH, Job, Room, Row, Settings
from itx.tasks import names, registry, resolve, templates
from itx.tasks.spec import SPLITS, TaskSpec

INFORMATION_GROUPS = ("instances", "templates", "tasks", "clusters", "extra")
DEV, DEV_SPLIT = "dev", "validation"  # the group of rows that are scored while training
MIN_FAMILY = 3  # tasks that share their inputs: one's instruction is swapped for another's


def relation(spec: TaskSpec, trained: list[TaskSpec]) -> str:
    """How a task relates to training: same task, same origin, same cluster or none."""
    if any(t.name == spec.name for t in trained):
        return "same task"
    if any(set(t.origin) & set(spec.origin) for t in trained):
        return "same origin"
    return "same cluster" if any(t.cluster == spec.cluster for t in trained) else "none"


def specs_of(names_: Iterable[str], root: str) -> list[TaskSpec]:
    """The tasks behind some names, each once."""
    return list({(t := registry.task(n, root)).name: t for n in names_}.values())


def rows(config: RunConfig, members: list[str]) -> list[Row]:
    """Every evaluation row of a run, in a fixed order."""
    root, split = config.data.root, config.eval.split
    trained = specs_of(members, root)
    planned = []
    for m in members:
        spec, variant = registry.task(m, root), names.parse(m)
        if variant.inverted or not spec.scored or not _has(spec, split):
            continue
        planned.append(Row(m, "instances", "same task", Job(m, split), spec))
        if render.choices(spec, variant, "heldout"):
            job = Job(m, split, "heldout")
            planned.append(Row(f"{m}@heldout", "templates", "same task", job, spec))
    planned += _dev_rows(config, members)
    planned += _held_out_rows(config, trained)
    for name in _named(config.eval.tasks, config):
        if not registry.task(name, root).scored:
            raise UserError(f"eval.tasks: {name!r} is plain text, which has no answer to score")
        planned.append(_further("eval.tasks", name, "eval", "extra", config, trained))
    for name in _named(config.eval.retention, config):
        if registry.task(name, root).scored:
            row = _further("eval.retention", name, "retention", "retention", config, trained)
            planned.append(row)
    if config.eval.instructions:
        planned += [*_ablations(trained, split), *_information(planned)]
    return planned


def _dev_rows(config: RunConfig, members: list[str]) -> list[Row]:
    """What is scored while training; UserError where there is nothing."""
    if not config.eval.every:
        return []
    found = []
    for m in members:
        spec = registry.task(m, config.data.root)
        if spec.scored and not names.parse(m).inverted and _has(spec, DEV_SPLIT):
            found.append(Row(m, DEV, "same task", Job(m, DEV_SPLIT), spec))
    if not found:
        raise UserError(
            f"eval.every={config.eval.every}: no trained task has a {DEV_SPLIT} split to be scored "
            "on while training; give one (split_by_hash=…), or leave eval.every out"
        )
    return found


def _further(
    setting: str, name: str, suffix: str, group: str, config: RunConfig, trained: list[TaskSpec]
) -> Row:
    """A row that a setting names."""
    spec, split = registry.task(name, config.data.root), config.eval.split
    if not _has(spec, split):
        raise UserError(f"{setting}: {name!r} has no {split} split")
    return Row(f"{name}@{suffix}", group, relation(spec, trained), Job(name, split), spec)


def _named(patterns: Iterable[str], config: RunConfig) -> list[str]:
    """The tasks that a setting names, families opened."""
    return [name for pattern in patterns for name in registry.expand(pattern, config.data.root)]


def default_text(config: RunConfig, members: list[str]) -> tuple[list[str], str]:
    """What retention is measured on where eval.retention names no text: data.replay_task, trained
    on or not; or none, and why. A recipe may name a text whose files not everybody has: unless it
    is replayed, that is no error."""
    d = config.data
    name = d.replay_task
    if not name:
        return [], "neither eval.retention nor data.replay_task names a text task, e.g. c4_demo.lm"
    try:
        spec = registry.task(name, d.root)
        if spec.kind != "text":
            raise UserError("it is no text task")
        room = Room(config.model.architecture, d.sequence_length, d.target_length)
        objectives.check(spec, room)
        split = _text_split(spec, config, members)
        if spec.source.kind != "function":
            for part, _, _ in sources.source_splits(spec.source, split):
                sources.parts(spec.source, part, d.root)
    except UserError as e:
        if d.replay:
            raise
        return [], f"data.replay_task={name}: {e}"
    return [name], ""


def _text_split(spec: TaskSpec, config: RunConfig, members: list[str]) -> str:
    """The split of a text that is scored, or all of one that is not trained on."""
    if _has(spec, config.eval.split):
        return config.eval.split
    if spec.name in members:
        raise UserError(
            f"the text {spec.name!r} is trained on and has no {config.eval.split} split to be "
            "measured on; give its source one (split_by_hash=…)"
        )
    return "train"


def texts(config: RunConfig, members: list[str]) -> list[Row]:
    """The plain texts of eval.retention. For a run from a pretrained model that names none, the
    `default_text`."""
    root = config.data.root
    named = [registry.task(name, root) for name in _named(config.eval.retention, config)]
    specs = [spec for spec in named if not spec.scored]
    if not specs and config.model.pretrained:
        specs = [registry.task(name, root) for name in default_text(config, members)[0]]
    return [
        Row(s.name, "retention", "text", Job(s.name, _text_split(s, config, members), "text"), s)
        for s in specs
    ]


def lock_texts(rows: list[Row], made: dict[Job, Made], settings: Settings) -> list[TextEntry]:
    """The lock's plain texts, which retention is measured on."""
    return [
        {
            "name": r.name,
            "objective": r.spec.objective,
            "split": r.job.split,
            **_place(made[r.job], settings),
        }
        for r in rows
    ]


def lock_information(
    rows: list[Row], made: dict[Job, Made], settings: Settings
) -> list[InformationEntry]:
    """Where the lock finds what an instruction tells."""
    return [
        {
            "name": r.name,
            "task": r.spec.name,
            "others": r.job.others,
            "cluster": r.spec.cluster,
            "group": r.group,
            "grade": r.relation if r.group == "extra" else r.spec.tags.get("grade"),
            "split": r.job.split,
            **_place(made[r.job], settings),
        }
        for r in rows
    ]


def unfit(rows: list[Row], made: dict[Job, Made]) -> list[str]:
    """The rows whose examples have inputs that no other task's instruction asks about, each with
    the reason."""
    return [
        f"{r.name} (no wording of {', '.join(r.job.others)} fits its inputs)"
        for r in rows
        if not made[r.job][1]["records"]
    ]


def _place(made: Made, settings: Settings) -> dict[str, str]:
    folder, _ = made
    path = Path(settings.data.cache_dir) / folder
    return {"folder": folder, "sha256": cache.manifest_hash(path)}


def no_split(split: str, declared: Iterable[str]) -> str:
    """Why a task is not scored on a split, and on which it would be."""
    others = [s for s in SPLITS if s in declared]
    hint = next((f": --eval.split={s}" for s in others if s != "train"), "")
    return f"no {split} split, only {' and '.join(others)}{hint}"


def without_split(config: RunConfig, members: list[str]) -> list[str]:
    """The trained and held-out tasks that have nothing to be scored on, each with the splits that
    it has."""
    split = config.eval.split
    return [
        f"{t.name} ({no_split(split, sources.splits(t.source))})"
        for t in specs_of([*members, *_held_out(config)], config.data.root)
        if t.scored and not _has(t, split)
    ]


def _has(spec: TaskSpec, split: str) -> bool:
    return bool(sources.source_splits(spec.source, split))


def _held_out(config: RunConfig) -> list[str]:
    """The tasks that the mixture holds out."""
    mixture = registry.MIXTURES.get(config.data.mixture)
    return [name for name, _ in resolve.removed(mixture, config.data.root)] if mixture else []


def _held_out_rows(config: RunConfig, trained: list[TaskSpec]) -> Iterator[Row]:
    split, clusters = config.eval.split, {t.cluster for t in trained}
    for spec in specs_of(_held_out(config), config.data.root):
        if spec.scored and _has(spec, split):
            group = "tasks" if spec.cluster in clusters else "clusters"
            job = Job(spec.name, split, "all")
            yield Row(spec.name, group, relation(spec, trained), job, spec)


def _ablations(trained: list[TaskSpec], split: str) -> Iterator[Row]:
    """Trained tasks that share their inputs with two others: with, without and with a wrong
    instruction."""
    for spec, other in _others(t for t in trained if _has(t, split)):
        for ablation in averages.ABLATIONS:
            job = Job(spec.name, split, "train", ablation, other if ablation == "swapped" else "")
            yield Row(f"{spec.name}@{ablation}", "instruction", "same task", job, spec)


def _others(specs: Iterable[TaskSpec]) -> Iterator[tuple[TaskSpec, str]]:
    """Each task that shares its inputs with two others, and these, between commas, in the order in
    which their instructions are tried: first those that ask about nothing which its own wordings
    lack, each time from the next by name on."""
    families: dict[str, dict[str, TaskSpec]] = {}
    for spec in sorted(specs, key=lambda t: t.name):
        if "inputs" in spec.tags and spec.templates:  # not of chains of thought alone
            families.setdefault(spec.tags["inputs"], {})[spec.name] = spec
    for family in families.values():
        members = list(family)
        if len(members) >= MIN_FAMILY:
            for i, name in enumerate(members):
                further = [*members[i + 1 :], *members[:i]]
                further.sort(key=lambda o: not _asks_within(family[o], family[name]))
                yield family[name], ",".join(further)


def _asks_within(other: TaskSpec, spec: TaskSpec) -> bool:
    """Whether some wording of `other` needs only slots that wordings of `spec` have too."""
    own = set(values.slots([*spec.templates, *spec.heldout_templates]))
    return any(set(templates.slots(t[0])) <= own for t in other.templates)


def _information(planned: list[Row]) -> Iterator[Row]:
    """The examples of rows, each once, under their own instruction, none, and another's."""
    measured = [r for r in planned if r.group in INFORMATION_GROUPS and not r.seqio]
    others = {spec.name: other for spec, other in _others(r.spec for r in measured)}
    seen = set()
    for row in measured:
        name = f"{row.spec.name}@heldout" if row.job.templates == "heldout" else row.spec.name
        # a variant may have held-out wordings where the bare task has none
        worded = row.job.templates != "heldout" or row.spec.heldout_templates
        if row.spec.name in others and worded and name not in seen:
            seen.add(name)
            job = replace(
                row.job, variant=row.spec.name, ablation=EACH, other=others[row.spec.name]
            )
            yield Row(name, row.group, row.relation, job, row.spec)


def lock_rows(rows: list[Row], made: dict[Job, Made], settings: Settings) -> list[EvalRow]:
    """The lock's evaluation entries: all that scoring needs, so that it needs no task module."""
    entries = [_lock_row(row, made[row.job], settings) for row in rows]
    names_ = [r["name"] for r in entries]
    for name in names_:
        if names_.count(name) > 1:
            near = did_you_mean(name, set(names_) - {name})
            raise UserError(f"evaluation row {name!r} is named twice{near}")
    return entries


def _lock_row(row: Row, made: Made, settings: Settings) -> EvalRow:
    manifest, spec = made[1], row.spec
    variant = row.job.variant if row.seqio else str(names.parse(row.job.variant))
    more: dict[str, Any] = {}
    if not row.seqio and spec.source.halve:
        more["halved"] = True
    more["options"] = None
    if spec.options is not None and "options" not in manifest["templates"]:
        more["options"] = list(spec.options)
    if row.seqio:
        more["seqio"] = row.seqio
    more |= {k: True for k in ("verified", "reasons") if getattr(spec, k)}
    if spec.stop:
        more["stop"] = spec.stop
    # A base model, which never learned our EOS, goes on with a next exemplar.
    if row.group == "retention":
        more |= exemplars_of(variant, spec)
    return {
        "name": row.name,
        "task": spec.name,
        "variant": variant,
        "cluster": spec.cluster,
        "group": row.group,
        "grade": spec.tags.get("grade"),
        "relation": row.relation,
        "split": row.job.split,
        **_place(made, settings),
        "examples": manifest["examples"],
        "records": manifest["records"],
        "metrics": [metrics.name_of(m) for m in spec.metrics],
        "primary": spec.primary,
        "max_target_tokens": manifest["max_target_tokens"],
        "templates": manifest["templates"],
        "tags": dict(spec.tags),
        "inputs": spec.tags.get("inputs"),
        "ablation": row.job.ablation or None,
        "audit": manifest["audit"],
        **more,
    }


def exemplars_of(variant: str, spec: TaskSpec) -> dict[str, Any]:
    """How many exemplars stand in a row's prompts, and where an answer ends that goes on with
    another."""
    shots = names.parse(variant).shots
    return {"shots": shots, "stop": spec.shot_separator} if shots else {}
