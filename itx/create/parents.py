# SPDX-License-Identifier: Apache-2.0
"""The rows that new ones are made of: of a registered task, of a version of made data, or of a file
as seeds.py reads it.

A task gives its training split alone, each example once, in a wording that is drawn; what its
fields or its templates cannot use is counted. With its rows go the names of the data sets that it
was made from, and its cluster: where these are held out, so is what was made of them.
"""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from itx import hashing
from itx.create import lineage, seeds
from itx.create.row import Row
from itx.create.steps import Choice, Parent
from itx.errors import UserError
from itx.eval import metrics
from itx.prepare import examples, render, values
from itx.prepare.types import Item
from itx.tasks import names, registry, templates
from itx.tasks.spec import TaskSpec


class Source(NamedTuple):
    parents: list[Parent]
    origin: tuple[str, ...]  # names of data sets
    cluster: str
    left_out: dict[str, int]  # {why a record of the source is no parent: how many}

    def judged_by(self, metric: str) -> "Source":
        return self._replace(parents=[dataclasses.replace(p, metric=metric) for p in self.parents])

    @property
    def digest(self) -> str:
        return hashing.digest(*self.parents)


def of(name: str, root: str, seed: int) -> Source:
    """The parents that a name stands for; UserError where it is no file, version or task."""
    if Path(name).is_file():
        return of_file(name)
    if name.partition(".")[0] == lineage.FOLDER:
        return of_version(lineage.of_task(root, name))
    return of_task(registry.task(name, root), root, seed)


def drawn(source: Source, rows: int, seed: int) -> Source:
    """So many of the parents (0: all of them), drawn by hash, in the order in which they stand."""
    if not rows:
        return source
    by_hash = sorted(source.parents, key=lambda p: hashing.draw(seed, "parent", p.id))
    taken = {p.id for p in by_hash[:rows]}
    return source._replace(parents=[p for p in source.parents if p.id in taken])


def of_file(path: str) -> Source:
    held = [
        Parent(s.id, Row(s.instruction, s.input, s.output), (s.output,))
        for s in seeds.of_file(path)
    ]
    return Source(held, (Path(path).stem,), lineage.CLUSTER, {})


def of_version(version: Path) -> Source:
    """The rows that a version keeps."""
    lineage.check(version)
    manifest = lineage.read_manifest(version)
    held = [_of_line(line) for line in lineage.lines(version / lineage.KEPT)]
    return Source(held, tuple(manifest["origin"]), manifest.get("cluster", lineage.CLUSTER), {})


def _of_line(held: dict) -> Parent:
    row = Row(held["instruction"], held["input"], held["output"])
    return Parent(held["lineage"]["id"], row, (row.output,))


def of_task(spec: TaskSpec, root: str, seed: int) -> Source:
    """A task's training split."""
    if not spec.templated:
        raise UserError(f"task {spec.name!r} has no templates: rows are made of instruction tasks")
    if spec.evaluation_only:
        raise UserError(f"task {spec.name!r} is for evaluation only: no training rows of its rows")
    counts: Counter[str] = Counter()
    items = examples.items(spec, "train", root, seed, counts, skip_bad=True)
    held = [_of_item(spec, item, seed) for item in items]
    if not held:
        raise UserError(f"task {spec.name!r} has no training example: {dict(counts)}")
    left_out = {why: n for why, n in sorted(counts.items()) if why != "read"}
    return Source(held, (*spec.origin, spec.name), spec.cluster, left_out)


def _of_item(spec: TaskSpec, item: Item, seed: int) -> Parent:
    variant = names.parse(spec.name)
    direct = spec.templates or spec.cot.templates
    r = render.render(spec, variant, item, 0, seed, direct)
    choice = None
    if r.options is not None and r.answer_index is not None:
        choice = _choice(spec, item, r.prompt, r.options, r.answer_index)
    row = Row(r.prompt, "", r.target, choice.options if choice else ())
    metric = "exact_match" if spec.primary == "rank" else metrics.name_of(spec.metrics[0])
    parent = Parent(f"{spec.name}/{item.id}", row, r.references, metric, choice)
    return _with_reasoning(spec, item, parent, seed)


def _choice(
    spec: TaskSpec, item: Item, prompt: str, called: Sequence[str], right: int
) -> Choice | None:
    """The list of options as it stands in a prompt; None where it stands there not once."""
    given = values.answers(spec, item.values)
    if not isinstance(given, values.Answers) or given.options is None:
        return None
    by_text = set(called) == set(given.options)
    shown = tuple(called) if by_text else _behind(prompt, called, given.options)
    if len(set(shown)) != len(given.options):
        return None
    for style in templates.OPTION_STYLES.values():
        listed, answers = style(shown)
        if tuple(answers) == tuple(called) and prompt.count(listed) == 1:
            return Choice(shown, right, listed, tuple(called))
    return None


def _behind(prompt: str, labels: Sequence[str], options: Sequence[str]) -> tuple[str, ...]:
    """The option that stands behind each label, the longest where one begins another."""
    behind = ([o for o in options if f"{label} {o}" in prompt] for label in labels)
    return tuple(max(found, key=len) for found in behind if found)


def _with_reasoning(spec: TaskSpec, item: Item, parent: Parent, seed: int) -> Parent:
    """With the task's own wording that asks for a rationale, if it has one whose last line says the
    answer."""
    if spec.cot is None:
        return parent
    given = dataclasses.replace(item, values={"rationale": "-", **item.values})
    usable = [t for t in spec.cot.templates if templates.answer_pattern(t[1])]
    if not usable:
        return parent
    r = render.render(spec, names.parse(f"{spec.name}:cot"), given, 0, seed, usable)
    target = next(t[1] for t in usable if templates.template_id(t) == r.template)
    closing = next(line for line in target.split("\n") if "{answer}" in line)
    if templates.slots(closing) != ("answer",):
        return parent
    return dataclasses.replace(parent, reasoned=r.prompt, closing=closing)
