# SPDX-License-Identifier: Apache-2.0
"""Means of checkpoints, as run folders that can be scored, asked and exported.

    soup = (1 - b) · Σ wᵢ · tunedᵢ + b · base,   Σ wᵢ = 1

`base` is what the runs began from. An adapter is merged into its base first and the merged weights
are averaged: the mean of two LoRAs' factors would not be the mean of their products.
"""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp

from itx import config as configs
from itx import mesh as meshes
from itx import pretrained, restore, storage
from itx.checkpoint import Checkpoints
from itx.config import MeshConfig, PeftConfig, RunConfig
from itx.data.types import Lock
from itx.errors import UserError
from itx.params import Params, specs_of
from itx.pretrained import Begin
from itx.runs import RunFolder, read_config, read_lock, run_config
from itx.versions import code_version, versions

# settings of the model that may differ: what it began from, and how it is computed
MAY_DIFFER = ("pretrained", "dropout", "dtype", "remat", "attention")


class Part(NamedTuple):
    """A checkpoint that goes into a soup."""

    name: str  # as it was given
    begin: Begin
    config: RunConfig
    lock: Lock


def parts(names: list[str]) -> list[Part]:
    """The checkpoints of runs; UserError where one is none, or cannot be averaged with the
    first."""
    found = []
    for name in names:
        begin = pretrained.find(name)
        if begin.run is None:
            raise UserError(f"{name} is a Hugging Face folder: a soup is made of runs of one model")
        config = run_config(begin.run)
        if config.peft.method in ("prefix", "prompt"):
            raise UserError(
                f"{name}: a {config.peft.method} changes no weights, and there is no mean of it"
            )
        found.append(Part(name, begin, config, read_lock(begin.run)))
    same = next((n for i, n in enumerate(names) if n in names[:i]), None)
    if same is not None:
        raise UserError(f"{same} is given twice; --weights gives one of them more weight")
    for other in found[1:]:
        _check_alike(found[0], other)
    return found


def _check_alike(first: Part, other: Part) -> None:
    """UserError naming the first thing in which two runs are of different models."""
    both = f"{first.name} and {other.name} are runs of different models"
    ours, theirs = (dataclasses.asdict(p.config.model) for p in (first, other))
    for key, value in ours.items():
        if key not in MAY_DIFFER and theirs[key] != value:
            raise UserError(f"{both}: model.{key} is {value!r} and {theirs[key]!r}")
    if first.lock["vocabulary"]["hash"] != other.lock["vocabulary"]["hash"]:
        raise UserError(f"{both}: their vocabularies differ")
    methods = [p.config.peft.method for p in (first, other)]
    if methods[0] != methods[1]:
        raise UserError(
            f"{first.name} and {other.name}: peft.method is {methods[0]} and {methods[1]}; only "
            "runs of one method are averaged"
        )
    if methods[0] != "full" and _base_of(first) != _base_of(other):
        raise UserError(f"{first.name} and {other.name} are adapters over different bases")


def _base_of(part: Part) -> Any:
    """The fingerprint of an adapter's base, as its checkpoint keeps it."""
    with Checkpoints(part.begin.run.checkpoints, read_only=True) as checkpoints:
        return checkpoints.meta(part.begin.step).get("base")


def shares(weights: str, count: int) -> list[float]:
    """The weights `1,2,1` as shares that sum to 1; equal ones where none are given."""
    if not weights:
        return [1 / count] * count
    try:
        values = [float(w) for w in weights.split(",")]
    except ValueError as e:
        raise UserError(f"--weights {weights}: numbers between commas") from e
    if len(values) != count:
        raise UserError(f"--weights {weights}: {len(values)} weights for {count} runs")
    if not all(0 <= v < float("inf") for v in values) or not sum(values):
        raise UserError(f"--weights {weights}: each is at least 0, and not all are 0")
    return [v / sum(values) for v in values]


def check_base(found: list[Part]) -> None:
    """UserError where the runs have no base in common to go back to."""
    names = {p.config.model.pretrained for p in found}
    if names == {""}:
        raise UserError(
            "--with_base: these runs began from random weights, which hold nothing to keep"
        )
    if len(names) > 1:
        raise UserError(f"--with_base: the runs began from different models: {sorted(names)}")


def plain(part: Part) -> RunConfig:
    """The config of a run as that of a plain model, all of whose parameters are its own."""
    return dataclasses.replace(part.config, peft=PeftConfig())


def mean(found: list[Part], weights: list[float]) -> Params:
    """The weighted mean of the checkpoints' parameters, summed in float32, one read at a time."""
    first = found[0]
    config, size = plain(first), first.lock["vocabulary"]["size"]
    mesh = meshes.make_mesh(MeshConfig(data=1, fsdp=-1))
    specs = specs_of(restore.abstract_model(config, size)[1], mesh)
    total: Params = {}
    for part, weight in zip(found, weights, strict=True):
        params = restore.load_pretrained(str(part.begin.folder), config.model, specs)
        total = {p: _plus(total.get(p), weight, x) for p, x in params.items()}
    return {p: x.astype(specs[p].dtype) for p, x in total.items()}


def base(found: list[Part]) -> Params:
    """The parameters that the runs began from."""
    config, size = plain(found[0]), found[0].lock["vocabulary"]["size"]
    mesh = meshes.make_mesh(MeshConfig(data=1, fsdp=-1))
    return restore.initialiser(config, size, mesh)()


def between(tuned: Params, original: Params, share: float) -> Params:
    """(1 - share) · tuned + share · original."""
    return {
        p: _plus((1 - share) * x.astype(jnp.float32), share, original[p]).astype(x.dtype)
        for p, x in tuned.items()
    }


def _plus(total: Any, weight: float, x: Any) -> Any:
    term = weight * x.astype(jnp.float32)
    return term if total is None else total + term


def facts(found: list[Part], weights: list[float], base_share: float) -> dict[str, Any]:
    """What a soup is made of, as its config.json keeps it."""
    made_of = [
        {"run": str(p.begin.run.path), "step": p.begin.step, "weight": w}
        for p, w in zip(found, weights, strict=True)
    ]
    return {
        "runs": made_of,
        "base": found[0].config.model.pretrained if base_share else "",
        "base_share": base_share,
        "merged": found[0].config.peft.method != "full",
    }


def is_written(out: Path, made_of: dict[str, Any]) -> bool:
    """Whether a folder holds this soup already; UserError where it holds something else."""
    if not out.exists() or out.is_dir() and not any(out.iterdir()):
        return False
    run = RunFolder(out)
    if run.config_json.is_file() and read_config(run).get("soup") == made_of and run.steps():
        return True
    raise UserError(f"{out} is there already and holds something else; give another --out")


def write(out: Path, found: list[Part], params: Params, made_of: dict[str, Any]) -> RunFolder:
    """The soup as a run folder with one checkpoint, whole or absent: the lock, the vocabulary and
    the settings are the first run's."""
    first, source = found[0], found[0].begin.run
    step = max(1, *(p.begin.step for p in found))  # step 0 is the model before tuning
    about = {
        **{k: v for k, v in read_config(source).items() if k != storage.SEAL},
        "config": configs.to_dict(plain(first)),
        "versions": versions(),
        "code": code_version(),
        "soup": made_of,
    }
    with storage.whole_folder(out) as place:
        run = RunFolder(place)
        for folder in (source.vocab_model.parent, source.pretrained):
            if folder.is_dir():
                storage.copy_folder(folder, place / folder.name)
        if source.audit_json.is_file():  # which tasks are easy stands in it
            (place / source.audit_json.name).write_bytes(source.audit_json.read_bytes())
        storage.write_json(run.lock_json, storage.sealed(first.lock))
        with Checkpoints(run.checkpoints, keep=None) as checkpoints:
            meta = {"step": step, "about": storage.sealed(about), "lock": first.lock}
            checkpoints.save(step, params, None, meta)
        storage.write_json(run.config_json, storage.sealed(about))
    return RunFolder(out)
