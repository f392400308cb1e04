# SPDX-License-Identifier: Apache-2.0
"""The folder of a refinement of a run.

    ROOT/refined/NAME/journal.sqlite   what a generator was asked, of all versions
    ROOT/refined/NAME/v1/patch.jsonl   what changes of the training rows (itx/prepare/patches.py);
                                       absent where none does
                         NAME_v1.py    a recipe: the run's settings with what changes of them
                         manifest.json parent, actions, counts in and out, what was done and why

A version is never changed: the same run, actions and choices give the same version, others the next
number.
"""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from itx import config as configs
from itx import hashing, storage
from itx.config import RunConfig
from itx.create import lineage
from itx.create.world import World
from itx.errors import UserError
from itx.prepare import patches
from itx.prepare.patches import Entry, Patch
from itx.tasks.spec import TaskSpec

REFINED_VERSION = 1  # raise it when actions are carried out otherwise
FOLDER, PATCH, MANIFEST, JOURNAL = "refined", "patch.jsonl", "manifest.json", "journal.sqlite"


def folder(root: str, name: str) -> Path:
    """The folder of a name; UserError for one that no recipe can have."""
    if not lineage.NAME.fullmatch(name):
        raise UserError(f"--name {name!r}: letters, digits and _ alone, for a recipe is named so")
    return Path(root) / FOLDER / name


def next_version(place: Path) -> Path:
    return place / f"v{max(lineage.versions(place), default=0) + 1}"


def same(place: Path, key: str) -> Path | None:
    """The version that was made of the same, if there is one; UserError where it is damaged."""
    for version in lineage.versions(place).values():
        manifest = storage.read_object(version / MANIFEST, "key", "files")
        if manifest["key"] == key:
            for file, sha256 in manifest["files"].items():
                path = version / file
                if not path.is_file() or hashing.file_sha256(path) != sha256:
                    raise UserError(f"{path} is damaged: it is not what was written")
            return version
    return None


def recipe_of(version: Path) -> Path:
    return version / f"{version.parent.name}_{version.name}.py"


# ---- what changes


def counted(entries: Sequence[Entry], world: World) -> dict[str, dict[str, int]]:
    """{task: {"in", "out", and what happens to its rows}}, by applying the entries as the build
    does; UserError where they do not apply."""
    found = {}
    for task in sorted({e.task for e in entries}):
        spec: TaskSpec = world.spec(task)
        own = Patch("the refinement", {}, tuple(e for e in entries if e.task == task))
        before, lost = world.items(task), Counter()
        done = patches.applied(spec, before, [own], lost, {})
        lost.pop("read", None)
        lost.pop(patches.REJECTED, None)  # told as rejected
        found[task] = {"in": len(before), "out": len(done.items), **done.counts, **lost}
        if not done.items:
            raise UserError(f"task {task!r}: no training row would be left")
    return found


def changed_config(config: RunConfig, patch: Path | None, factors: dict[str, float]) -> RunConfig:
    """The run's config with a further patch, and factors of rates beside those it has."""
    data = config.data
    own = dict(data.rate_factors)
    rates = {**own, **{task: own.get(task, 1.0) * f for task, f in factors.items()}}
    more = (str(patch),) if patch else ()
    return configs.changed(
        config,
        "data",
        patches=(*data.patches, *more),
        rate_factors=tuple(sorted(rates.items())),
    )


def differences(old: RunConfig, new: RunConfig) -> dict[str, list[Any]]:
    """{setting: [before, after]}."""
    before, after = (configs.flatten(configs.to_dict(c)) for c in (old, new))
    return {name: [before[name], after[name]] for name in after if before[name] != after[name]}


def recipe_text(config: RunConfig, says: str) -> str:
    """A recipe file of a config: what differs from the defaults."""
    default, sections, names = RunConfig(), [], []
    for section in dataclasses.fields(RunConfig):
        own, usual = getattr(config, section.name), getattr(default, section.name)
        values = [
            f"            {f.name}={getattr(own, f.name)!r},"
            for f in dataclasses.fields(own)
            if getattr(own, f.name) != getattr(usual, f.name)
        ]
        if values:
            kind = type(own).__name__
            names.append(kind)
            sections.append("\n".join([f"        {section.name}={kind}(", *values, "        ),"]))
    imported = ", ".join(sorted([*names, "RunConfig"]))
    body = "\n".join(sections)
    return (
        f'"""{says}"""\n\nfrom itx.config import {imported}\n\n\n'
        f"def get_config(quick: bool = False) -> RunConfig:\n    return RunConfig(\n{body}\n    )\n"
    )


# ---- the folder


def write(
    version: Path, key: str, config: RunConfig, entries: Sequence[Entry], facts: dict[str, Any]
) -> dict[str, Any]:
    """The version, whole or not at all; its manifest.

    Args:
        config: of the recipe, with the patch that is written here.
    """
    name = f"{version.parent.name}.{version.name}"
    with storage.whole_folder(version) as part:
        if entries:
            head = {"by": "refine", "editor": f"refinement {name}", "key": key}
            (part / PATCH).write_text(patches.text_of(head, entries), encoding="utf-8")
        says = f"Refinement {name}, written by `itx create refine`: manifest.json says of what."
        recipe = part / recipe_of(version).name
        recipe.write_text(recipe_text(config, says), encoding="utf-8")
        files = {p.name: hashing.file_sha256(p) for p in sorted(part.iterdir())}
        manifest = {
            "version": REFINED_VERSION,
            "name": name,
            "key": key,
            **facts,
            "files": files,
        }
        storage.write_json(part / MANIFEST, storage.sealed(manifest))
    return manifest
