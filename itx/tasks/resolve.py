# SPDX-License-Identifier: Apache-2.0
"""What a mixture trains on (`members`), holds out (`removed`) and leaves out (`left_out`), and why.

The build registers the outcome in SeqIO's own registries and reads names and rates back from there
(itx/prepare/seqio_bridge.py).
"""

from itx.errors import UserError, check_known
from itx.tasks import names, templates
from itx.tasks.registry import MIXTURES, TASKS, expand, task
from itx.tasks.spec import Holdout, MixtureSpec, TaskSpec


def supports(spec: TaskSpec, variant: names.Variant) -> bool:
    """Whether a task has what a variant needs (inverted templates, chain of thought, wordings with
    or without options)."""
    if not spec.templated:
        return variant == names.Variant(spec.name)
    if variant.cot and spec.cot is None:
        return False
    plain = spec.cot.templates if variant.cot else spec.templates
    wordings = spec.inverted if variant.inverted else plain
    return bool(templates.with_options(wordings, variant.options))


def removed(spec: MixtureSpec, root: str = "") -> list[tuple[str, str]]:
    """(task, reason) for every task that the mixture's `holdout` takes out of training."""
    hold = spec.members
    if not isinstance(hold, Holdout):
        return []
    pool = _pool(hold, root)
    clusters = {t.cluster for t in pool.values()}
    for what, names_, known in (
        ("cluster", hold.clusters, clusters),
        ("held-out task", hold.tasks, pool),
    ):
        for name in names_:
            check_known(name, known, f"mixture {spec.name!r}: unknown {what} {name!r}")
    reasons: dict[str, str] = {}
    neighbours: dict[str, str] = {}  # {cluster: the held-out cluster that it is a neighbour of}
    for t in pool.values():
        if t.cluster in hold.clusters:
            reasons[t.name] = f"cluster {t.cluster} is held out"
            neighbours |= dict.fromkeys(t.neighbours, t.cluster)
        elif t.name in hold.tasks:
            reasons[t.name] = "held out by name"
    kin = {origin: name for name in reasons for origin in pool[name].origin}
    for t in pool.values():
        if t.name in reasons:
            continue
        shared = next((origin for origin in t.origin if origin in kin), None)
        if t.cluster in neighbours:
            held_out = neighbours[t.cluster]
            reasons[t.name] = f"cluster {t.cluster} is a neighbour of {held_out}"
        elif shared is not None:
            reasons[t.name] = f"made from {shared}, as is {kin[shared]}"
    return sorted(reasons.items())


def _pool(hold: Holdout, root: str) -> dict[str, TaskSpec]:
    """The tasks that a holdout starts from."""
    if hold.among is None:
        return dict(TASKS)
    return {n: task(n, root) for name in hold.among for n in expand(name, root)}


def _listed(spec: MixtureSpec, root: str) -> list[tuple[str, float]]:
    """(name, weight) of what a mixture lists, families opened, held-out tasks taken out."""
    if isinstance(spec.members, Holdout):
        gone = dict(removed(spec, root))
        pool = _pool(spec.members, root).items()
        return [(n, 1.0) for n, t in pool if n not in gone and not t.evaluation_only]
    weights = spec.members if isinstance(spec.members, dict) else dict.fromkeys(spec.members, 1.0)
    # A family's tasks for evaluation only stay out (Natural Instructions' official test tasks).
    return [
        (n, weight)
        for name, weight in weights.items()
        for n in expand(name, root)
        if not (name.endswith(".*") and task(n, root).evaluation_only)
    ]


def _bare(spec: MixtureSpec, root: str) -> list[TaskSpec]:
    """The tasks that a mixture lists by their own names, which take all of its variants."""
    listed = [n for n, _ in _listed(spec, root)]
    return [task(n, root) for n in listed if n not in MIXTURES and ":" not in n]


def _usable(spec: MixtureSpec, t: TaskSpec) -> dict[str, float]:
    """The mixture's variants that a task has, and their shares."""
    return {v: s for v, s in spec.variants.items() if supports(t, names.parse(f"{t.name}:{v}"))}


def left_out(spec: MixtureSpec, root: str = "") -> list[tuple[str, str]]:
    """(task or family, reason) of what a mixture lists and does not train on: tasks that a
    `partial` one cannot use, those of a family that are for evaluation only, and what a task names
    as unread in its tags."""
    bare = _bare(spec, root)
    why = f"it has no wording for {' or '.join(':' + v for v in spec.variants)}"
    reasons = [(t.name, why) for t in bare if spec.partial and not _usable(spec, t)]
    listed = (spec.members.among or ()) if isinstance(spec.members, Holdout) else spec.members
    for name in (n for n in listed if n.endswith(".*")):
        scored_only = [task(n, root).evaluation_only for n in expand(name, root)]
        if n := sum(scored_only):
            reasons.append(
                (name, f"{n:,} of its {len(scored_only):,} tasks are for evaluation only")
            )
    return reasons + [(t.name, t.tags["unread"]) for t in bare if "unread" in t.tags]


def without(spec: MixtureSpec, root: str = "") -> dict[str, list[str]]:
    """{task: the mixture's variants that it has} for tasks that have some and lack others:
    `members` gives these their shares of the others as well."""
    usable = {t.name: list(_usable(spec, t)) for t in _bare(spec, root)}
    return {n: have for n, have in usable.items() if 0 < len(have) < len(spec.variants)}


def members(spec: MixtureSpec, root: str = "") -> dict[str, float | None]:
    """Variant name -> its part: a weight (dict members) or its share of its task's proportional
    rate.

    With a dict the values are weights; otherwise each task's `variants` shares, which sum to 1 per
    task. A nested mixture name stays itself, with None.
    """
    where = f"mixture {spec.name!r}"
    parts: dict[str, float | None] = {}

    def put(name: str, weight: float | None) -> None:
        if name in parts:
            raise UserError(f"{where}: {name!r} is in it twice")
        parts[name] = weight

    for name, weight in _listed(spec, root):
        if name in MIXTURES:
            put(name, weight if isinstance(spec.members, dict) else None)
            continue
        t = task(name, root)
        if t.evaluation_only:
            raise UserError(f"{where}: {name!r} is for evaluation only and must not be trained on")
        if name != t.name:  # a variant named outright
            variant = names.parse(name)
            if not supports(t, variant):
                raise UserError(f"{where}: task {t.name!r} has no templates for {name!r}")
            put(str(variant), weight)
            continue
        usable = _usable(spec, t)
        if not usable and not spec.partial:  # `left_out` tells of a partial mixture's
            raise UserError(
                f"{where}: task {name!r} has none of the variants {list(spec.variants)}"
            )
        for v, share in usable.items():
            put(str(names.parse(f"{name}:{v}")), weight * share / sum(usable.values()))
    return parts
