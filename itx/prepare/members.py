# SPDX-License-Identifier: Apache-2.0
"""What a run trains on: the variants of its mixture, of those of later phases, the tasks that are
added, and the text that is replayed."""

import itertools
import os
import sys
from collections import Counter

from itx.config import DataConfig, RunConfig
from itx.errors import UserError, check_known, did_you_mean
from itx.tasks import names, registry, resolve


def mixtures_of(config: RunConfig) -> list[str]:
    """The mixture (or task) of each phase."""
    return [config.data.mixture, *(name for _, name in config.data.phases)]


def members_of(config: RunConfig) -> list[str]:
    """Every variant that the mixtures of a run's phases train on, and the text that is replayed;
    [] where only SeqIO knows the mixture."""
    d = config.data
    # TFDS's own setting: set before the modules, which may import it; worker processes inherit it.
    if d.tfds_data_dir:
        os.environ["TFDS_DATA_DIR"] = d.tfds_data_dir
    registry.load_modules(d.modules)
    members = _variants(d.mixture, d.root)
    steps = [0, *(step for step, _ in d.phases)]
    if any(b <= a for a, b in itertools.pairwise(steps)):
        raise UserError(f"data.phases: steps must rise from above 0, not {steps[1:]}")
    mixture = registry.MIXTURES.get(d.mixture)
    held_out = dict(resolve.removed(mixture, d.root)) if mixture else {}
    for _, name in d.phases:
        later = _variants(name, d.root)
        if not later or not members:
            foreign = name if members else d.mixture
            raise UserError(
                f"data.phases: {foreign!r} is SeqIO's own; phases take itx's mixtures and tasks"
            )
        for member in later:
            if names.parse(member).task in held_out:
                raise UserError(
                    f"data.phases: {name!r} trains on {member!r}, which {d.mixture!r} holds out"
                )
        members = list(dict.fromkeys([*members, *later]))
    members += _added(d, members, held_out)
    return [*members, _replayed(d, members)] if d.replay else members


def beside(data: DataConfig) -> dict[str, float]:
    """{variant: share of the examples} of what is trained on beside the mixture."""
    return {**dict(data.added), **({data.replay_task: data.replay} if data.replay else {})}


def _added(data: DataConfig, members: list[str], held_out: dict[str, str]) -> list[str]:
    """The tasks of data.added, which must be in no mixture of the run and held out of none."""
    for name, share in data.added:
        where = f"data.added: {name!r}"
        if not members:
            raise UserError(
                f"{where}: {data.mixture!r} is SeqIO's own; added tasks go with itx's mixtures and "
                "tasks"
            )
        if name in registry.MIXTURES:
            raise UserError(f"{where} is a mixture; name its tasks, or nest it in data.mixture")
        variant = names.parse(name)
        spec = registry.task(name, data.root)
        if str(variant) != name:
            raise UserError(f"{where}: write {str(variant)!r}")
        if spec.evaluation_only:
            raise UserError(f"{where} is for evaluation only and must not be trained on")
        if spec.name in held_out:
            raise UserError(f"{where}: {data.mixture!r} holds it out ({held_out[spec.name]})")
        if name in members:
            raise UserError(
                f"{where} is in {data.mixture!r} already; data.rate_factors changes its share"
            )
        if not 0 < share < 1:
            raise UserError(f"{where} has {share}; a share is between 0 and 1")
    if repeated := [n for n, k in Counter(name for name, _ in data.added).items() if k > 1]:
        raise UserError(f"data.added: {repeated[0]!r} stands there twice")
    if sum(beside(data).values()) >= 1:
        raise UserError(
            f"data.added and data.replay: {sum(beside(data).values()):g} of the examples, which "
            "leaves nothing for the mixture"
        )
    return [name for name, _ in data.added]


def _replayed(data: DataConfig, members: list[str]) -> str:
    """data.replay_task, which must be a text task that is not in the mixture."""
    if not members:
        raise UserError(
            f"data.replay: {data.mixture!r} is SeqIO's own; replay goes with itx's mixtures and "
            "tasks"
        )
    name = str(names.parse(data.replay_task))
    if registry.task(name, data.root).kind != "text":
        texts = [t.name for t in registry.TASKS.values() if t.kind == "text"]
        near = did_you_mean(name, texts)
        raise UserError(f"data.replay_task: {name!r} is no text task{near}")
    if name in members:
        raise UserError(
            f"data.replay_task: {name!r} is in {data.mixture!r} already, with a share of its own"
        )
    return name


def with_factors(shares: list[dict[str, float]], data: DataConfig) -> list[dict[str, float]]:
    """The rates of each phase with those of data.rate_factors; each phase's sum stays 1."""
    factors = dict(data.rate_factors)
    if not factors:  # members that are tasks of SeqIO have names of another grammar
        return shares
    trained = {names.parse(variant).task for rates in shares for variant in rates}
    for task, factor in factors.items():
        check_known(task, trained, f"data.rate_factors: {task!r} is not trained on")
        if not 0 < factor < float("inf"):
            raise UserError(f"data.rate_factors: {task!r} has {factor}; a factor is above 0")
    out = []
    for rates in shares:
        new = {v: r * factors.get(names.parse(v).task, 1.0) for v, r in rates.items()}
        whole = sum(new.values())
        out.append({v: r / whole for v, r in new.items()})
    return out


def with_beside(shares: list[dict[str, float]], data: DataConfig) -> list[dict[str, float]]:
    """The rates of each phase with data.added and data.replay beside them; each phase's sum stays
    1."""
    more = beside(data)
    left = 1 - sum(more.values())
    return [{**{n: s * left for n, s in rates.items()}, **more} for rates in shares]


def _variants(name: str, root: str) -> list[str]:
    """What one mixture or task trains on, nested mixtures opened."""
    if not name:
        raise UserError("data.mixture is not set" + did_you_mean("", registry.MIXTURES))
    if name in registry.MIXTURES:
        specs = [registry.MIXTURES[mixture] for mixture in nested(name, root)]
        members = [m for spec in specs for m in resolve.members(spec, root)]
        return list(dict.fromkeys(m for m in members if m not in registry.MIXTURES))
    try:
        spec = registry.task(name, root)
    except UserError as e:
        if name.split(".")[0] in registry.FAMILIES:
            raise
        if "seqio" in sys.modules:  # the modules imported it and may have registered the name there
            return []
        near = did_you_mean(name, [*registry.MIXTURES, *registry.TASKS])
        raise UserError(f"unknown mixture or task {name!r}{near}") from e
    if spec.evaluation_only:
        raise UserError(f"task {name!r} is for evaluation only and must not be trained on")
    return [str(names.parse(name))]


def nested(name: str, root: str) -> list[str]:
    """A mixture and those nested in it, each once; [] for a task."""
    mixtures = [name] if name in registry.MIXTURES else []
    for mixture in mixtures:  # the list grows as it is gone through
        members = resolve.members(registry.MIXTURES[mixture], root)
        mixtures += [m for m in members if m in registry.MIXTURES and m not in mixtures]
    return mixtures
