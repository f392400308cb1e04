# SPDX-License-Identifier: Apache-2.0
"""Where tasks and mixtures are registered and resolved, before SeqIO is imported.

`instruction_task` and `mixture` are what a task module calls. `members(mixture)` lists what a
mixture trains on, `removed(mixture)` what it holds out and why. The build registers the outcome in
SeqIO's own registries and reads names and rates back from there (itx/prepare/seqio_bridge.py).
"""

import importlib
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from itx.errors import UserError, did_you_mean
from itx.eval.metrics import SCORES
from itx.tasks import names, templates
from itx.tasks.spec import OBJECTIVES, SPLITS, Holdout, MixtureSpec, Source, TaskSpec

TASKS: dict[str, TaskSpec] = {}
MIXTURES: dict[str, MixtureSpec] = {}
FAMILIES: dict[str, Callable[[str], Sequence[TaskSpec]]] = {}
_FAMILY_CACHE: dict[tuple[str, str], dict[str, TaskSpec]] = {}


def _caller() -> str:
    """The module that called the caller (inspect.stack reads source files: 2 s for a hundred
    tasks)."""
    return sys._getframe(2).f_globals.get("__name__", "")


def instruction_task(
    name: str, *, version: int, cluster: str, source: Any, fields: Callable, **rest: Any
) -> TaskSpec:
    """Register one task; see TaskSpec for the fields. Returns the spec."""
    return _registered(
        make_task(
            name,
            version=version,
            cluster=cluster,
            source=source,
            fields=fields,
            module=_caller(),
            **rest,
        )
    )


def _registered(spec: TaskSpec) -> TaskSpec:
    name = spec.name
    if name in TASKS:
        raise UserError(
            f"task {name!r} of {spec.module} is already registered by {TASKS[name].module}"
        )
    if name in MIXTURES:
        raise UserError(
            f"task {name!r}: a mixture has this name (SeqIO would silently prefer the mixture)"
        )
    TASKS[name] = spec
    return spec


def chat_task(
    name: str, *, version: int, cluster: str, source: Any, fields: Callable, **rest: Any
) -> TaskSpec:
    """Register conversations: `fields` gives {"messages": …} (itx/tasks/chat.py); there are no
    templates."""
    for key in ("templates", "heldout_templates", "inverted", "cot", "options"):
        if key in rest:
            raise UserError(
                f"chat task {name!r}: no {key}; the run's data.chat_template writes conversations"
            )
    rest = {"metrics": ("rouge_l", "token_f1"), **rest, "chat": True}
    return _registered(
        make_task(
            name,
            version=version,
            cluster=cluster,
            source=source,
            fields=fields,
            module=_caller(),
            **rest,
        )
    )


def text_task(
    name: str,
    *,
    version: int,
    cluster: str,
    source: Any,
    fields: Callable,
    objective: str,
    **rest: Any,
) -> TaskSpec:
    """Register plain text: `fields` gives {"text": …}; `objective` says what of it is trained
    (itx/prepare/objectives.py).

    It is trained on only, as a share against forgetting: there is nothing to score.
    """
    for key in ("templates", "heldout_templates", "inverted", "cot", "options", "content", "chat"):
        if key in rest:
            raise UserError(f"text task {name!r}: no {key}; plain text is trained on as it is")
    for key in ("metrics", "primary", "evaluation_only"):
        if key in rest:
            raise UserError(
                f"text task {name!r}: no {key}; plain text is trained on and never scored"
            )
    if objective not in OBJECTIVES:
        raise UserError(
            f"text task {name!r}: objective={objective!r}"
            + did_you_mean(str(objective), OBJECTIVES)
        )
    rest = {**rest, "objective": objective, "content": ("text",), "metrics": ()}
    return _registered(
        make_task(
            name,
            version=version,
            cluster=cluster,
            source=source,
            fields=fields,
            module=_caller(),
            **rest,
        )
    )


def make_task(name: str, **rest: Any) -> TaskSpec:
    """A checked TaskSpec that is not registered (families return these)."""
    for key in ("templates", "heldout_templates", "inverted"):
        rest[key] = tuple(tuple(t) for t in rest.get(key, ()))
    for key in ("metrics", "origin", "neighbours"):
        rest[key] = tuple(rest.get(key, ("exact_match",) if key == "metrics" else ()))
    if "option_styles" in rest:
        rest["option_styles"] = tuple(rest["option_styles"])
    for key in ("options", "content"):
        rest[key] = None if rest.get(key) is None else tuple(rest[key])
    try:
        spec = TaskSpec(names.check_name(name, "task"), **rest)
    except TypeError as e:
        raise UserError(f"task {name!r}: {e}") from e
    _check(spec)
    return spec


def _check(spec: TaskSpec) -> None:
    where = f"task {spec.name!r}"
    if isinstance(spec.source, Source):
        shares = spec.source.split_by_hash
        bad = [s for s in (shares or spec.source.files) if s not in (*SPLITS, "")]
        if bad:
            raise UserError(f"{where}: split {bad[0]!r}" + did_you_mean(bad[0], SPLITS))
        if shares and abs(sum(shares.values()) - 1) > 1e-6:
            raise UserError(f"{where}: split_by_hash sums to {sum(shares.values())}, not 1")
    if spec.templated and not spec.templates and not spec.cot:
        raise UserError(f"{where} has no templates")
    if spec.primary not in ("generate", "rank"):
        raise UserError(f"{where}: primary={spec.primary!r}; valid: 'generate', 'rank'")
    for key in ("templates", "heldout_templates", "inverted"):
        for template in getattr(spec, key):
            if len(template) != 2 or not all(isinstance(t, str) for t in template):
                raise UserError(
                    f"{where}: {key} holds {template!r}, not an (input, target) pair of texts"
                )
            for text in template:
                templates.slots(text)
            if template[0].endswith((" ", "\t")):
                raise UserError(
                    f"{where}: a prompt must not end in a space (a token would straddle it): {template[0]!r}"
                )
    for style in spec.option_styles:
        if style not in templates.OPTION_STYLES:
            raise UserError(
                f"{where}: option style {style!r}" + did_you_mean(style, templates.OPTION_STYLES)
            )
    if not spec.option_styles:
        raise UserError(
            f"{where}: option_styles is empty; valid: {', '.join(templates.OPTION_STYLES)}"
        )
    both = set(spec.templates) & set(spec.heldout_templates)
    if both:
        raise UserError(f"{where}: a held-out template is also a training template: {both.pop()!r}")
    for metric in spec.metrics:
        if isinstance(metric, str) and ":" not in metric and metric not in SCORES:
            raise UserError(f"{where}: unknown metric {metric!r}" + did_you_mean(metric, SCORES))
        # functools.partial fixes options of a function
        if (
            callable(metric)
            and getattr(getattr(metric, "func", metric), "__name__", "<lambda>") == "<lambda>"
        ):
            raise UserError(f"{where}: a metric is a name or a module-level function, not a lambda")


def mixture(name: str, members: Any, **rest: Any) -> MixtureSpec:
    """Register a mixture: a list of names (rates proportional to examples), a dict of weights, or
    `holdout(…)`."""
    names.check_name(name, "mixture")
    if name in MIXTURES or name in TASKS:
        raise UserError(
            f"mixture {name!r}: a {'mixture' if name in MIXTURES else 'task'} has this name already"
        )
    if isinstance(members, dict) and rest.get("maximum") is not None:
        raise UserError(f"mixture {name!r}: explicit weights and maximum= exclude each other")
    if not isinstance(members, (dict, Holdout)):
        members = tuple(members)
    variants = rest.get("variants", {"zs": 1.0})
    for v in variants:
        names.parse(f"x:{v}")
    if abs(sum(variants.values()) - 1) > 1e-6:
        raise UserError(f"mixture {name!r}: variants sum to {sum(variants.values())}, not 1")
    try:
        MIXTURES[name] = MixtureSpec(name, members, module=_caller(), **rest)
    except TypeError as e:
        raise UserError(f"mixture {name!r}: {e}") from e
    return MIXTURES[name]


def family(name: str, members: Callable[[str], Sequence[TaskSpec]]) -> None:
    """Register many tasks `name.xyz` that `members(root)` lists when first asked for under a data
    root."""
    if name in FAMILIES:
        raise UserError(f"family {name!r} is already registered")
    FAMILIES[name] = members


def _family(name: str, root: str) -> dict[str, TaskSpec]:
    key = (name, root)
    if key not in _FAMILY_CACHE:
        try:
            specs = FAMILIES[name](root)
        except UserError:
            raise
        except Exception as e:  # of the user's function: whatever it is, they are told where
            raise UserError(
                f"family {name!r} cannot list its tasks under {root!r}: {_failure(e)}"
            ) from e
        found = {s.name: s for s in specs}
        if len(found) < len(specs):
            raise UserError(f"family {name!r}: two members share a name")
        _FAMILY_CACHE[key] = found
    return _FAMILY_CACHE[key]


def load_modules(modules: Sequence[str]) -> None:
    """Import the modules that register tasks (`data.modules`)."""
    for module in modules:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as e:
            if e.name and (module + ".").startswith(e.name + "."):
                here = [
                    p.stem
                    for p in Path.cwd().iterdir()
                    if p.suffix == ".py" or (p / "__init__.py").is_file()
                ]
                raise UserError(
                    f"data.modules: no module named {module!r} on the path or in this folder{did_you_mean(module, here)}"
                ) from e
            raise _broken(module, e) from e
        except UserError:
            raise
        except Exception as e:  # of the user's module: whatever it is, they are told where
            raise _broken(module, e) from e


def _broken(module: str, e: Exception) -> UserError:
    return UserError(f"data.modules: {module!r} fails at import, {_failure(e)}")


def _failure(e: Exception) -> str:
    """An exception in the user's code as one line: the last line outside Python and its packages
    that led there, and what it says."""
    frames = [
        f for f in traceback.extract_tb(e.__traceback__) if not f.filename.startswith("<frozen")
    ]
    own = [f for f in frames if not f.filename.startswith((sys.prefix, sys.base_prefix))] or frames
    at = (
        (e.filename, e.lineno) if isinstance(e, SyntaxError) else (own[-1].filename, own[-1].lineno)
    )
    return f"{at[0]} line {at[1]}: {type(e).__name__}: {e}"


def task(name: str, root: str = "") -> TaskSpec:
    """The spec behind a name or variant name; `ni.task123` is looked up in its family under
    `root`."""
    base = names.parse(name).task
    if base in TASKS:
        return TASKS[base]
    prefix = base.split(".")[0]
    valid = list(TASKS)
    if prefix in FAMILIES:
        found = _family(prefix, root)
        if base in found:
            return found[base]
        valid = list(found)
    raise UserError(
        f"unknown task {base!r}" + did_you_mean(base, [*valid, *(f"{f}.…" for f in FAMILIES)])
    )


def expand(name: str, root: str = "") -> list[str]:
    """`ni.*` becomes the family's members, any other name itself."""
    if name.endswith(".*"):
        prefix = name[:-2]
        if prefix not in FAMILIES:
            raise UserError(
                f"unknown family {name!r}" + did_you_mean(name, [f"{f}.*" for f in FAMILIES])
            )
        return sorted(_family(prefix, root))
    return [name]


def supports(spec: TaskSpec, variant: names.Variant) -> bool:
    """Whether a task has what a variant needs (inverted templates, chain of thought, wordings with
    or without options)."""
    if not spec.templated:
        return variant == names.Variant(spec.name)
    if variant.inverted and not spec.inverted:
        return False
    if variant.cot and spec.cot is None:
        return False
    found = (
        spec.inverted if variant.inverted else spec.cot.templates if variant.cot else spec.templates
    )
    return bool(templates.with_options(found, variant.options))


def removed(spec: MixtureSpec, root: str = "") -> list[tuple[str, str]]:
    """(task, reason) for every task that the mixture's `holdout` takes out of training."""
    if not isinstance(spec.members, Holdout):
        return []
    hold = spec.members
    pool = _pool(spec, root)
    clusters = {t.cluster for t in pool.values()}
    for cluster in hold.clusters:
        if cluster not in clusters:
            raise UserError(
                f"mixture {spec.name!r}: unknown cluster {cluster!r}"
                + did_you_mean(cluster, clusters)
            )
    out: dict[str, str] = {}
    for name in hold.tasks:
        if name not in pool:
            raise UserError(
                f"mixture {spec.name!r}: unknown held-out task {name!r}" + did_you_mean(name, pool)
            )
    for t in pool.values():
        if t.cluster in hold.clusters:
            out[t.name] = f"cluster {t.cluster} is held out"
        elif t.name in hold.tasks:
            out[t.name] = "held out by name"
    beside = {
        n: t.cluster for t in pool.values() if t.cluster in hold.clusters for n in t.neighbours
    }
    kin = {o: t.name for t in pool.values() if t.name in out for o in t.origin}
    for t in pool.values():
        if t.name in out:
            continue
        if t.cluster in beside:
            out[t.name] = f"cluster {t.cluster} is a neighbour of {beside[t.cluster]}"
        elif any(o in kin for o in t.origin):
            shared = next(o for o in t.origin if o in kin)
            out[t.name] = f"made from {shared}, as is {kin[shared]}"
    return sorted(out.items())


def _pool(spec: MixtureSpec, root: str) -> dict[str, TaskSpec]:
    if spec.members.among is not None:
        listed = [n for name in spec.members.among for n in expand(name, root)]
        return {n: task(n, root) for n in listed}
    return dict(TASKS)


def _listed(spec: MixtureSpec, root: str) -> list[tuple[str, float]]:
    """(name, weight) of what a mixture lists, families opened, held-out tasks taken out."""
    if isinstance(spec.members, Holdout):
        gone = dict(removed(spec, root))
        return [
            (n, 1.0)
            for n, t in _pool(spec, root).items()
            if n not in gone and not t.evaluation_only
        ]
    weights = spec.members if isinstance(spec.members, dict) else dict.fromkeys(spec.members, 1.0)
    # of a family those for evaluation only stay out (the official test tasks of Natural
    # Instructions)
    return [(n, weight) for name, weight in weights.items() for n in expand(name, root)
            if not (name.endswith(".*") and task(n, root).evaluation_only)]  # fmt: skip


def _usable(spec: MixtureSpec, t: TaskSpec) -> dict[str, float]:
    """The mixture's variants that a task has, and their shares."""
    return {v: s for v, s in spec.variants.items() if supports(t, names.parse(f"{t.name}:{v}"))}


def left_out(spec: MixtureSpec, root: str = "") -> list[tuple[str, str]]:
    """(task or family, reason) of what a mixture lists and does not train on: tasks that a
    `partial` one cannot use, those of a family that are for evaluation only, and what a task names
    as unread in its tags."""
    bare = [n for n, _ in _listed(spec, root) if n not in MIXTURES and ":" not in n]
    why = f"it has no wording for {' or '.join(':' + v for v in spec.variants)}"
    out = [(n, why) for n in bare if spec.partial and not _usable(spec, task(n, root))]
    listed = (spec.members.among or ()) if isinstance(spec.members, Holdout) else spec.members
    for name in (n for n in listed if n.endswith(".*")):
        of = [task(n, root) for n in expand(name, root)]
        if only := sum(t.evaluation_only for t in of):
            out.append((name, f"{only:,} of its {len(of):,} tasks are for evaluation only"))
    return [
        *out,
        *((n, task(n, root).tags["unread"]) for n in bare if "unread" in task(n, root).tags),
    ]


def without(spec: MixtureSpec, root: str = "") -> dict[str, list[str]]:
    """{task: the mixture's variants that it has}, of those that have some and lack others:
    `members` gives these their shares of the others as well."""
    bare = [n for n, _ in _listed(spec, root) if n not in MIXTURES and ":" not in n]
    found = {n: list(_usable(spec, task(n, root))) for n in bare}
    return {n: have for n, have in found.items() if 0 < len(have) < len(spec.variants)}


def members(spec: MixtureSpec, root: str = "") -> dict[str, float | None]:
    """Variant name -> its part: a weight (dict members) or its share of its task's proportional
    rate.

    With a dict the values are weights; otherwise each task's `variants` shares, which sum to 1 per
    task. A nested mixture name stays itself, with None.
    """
    explicit = isinstance(spec.members, dict)
    listed = _listed(spec, root)
    out: dict[str, float | None] = {}

    def put(name: str, weight: float | None) -> None:
        if name in out:
            raise UserError(f"mixture {spec.name!r}: {name!r} is in it twice")
        out[name] = weight

    for name, weight in listed:
        if name in MIXTURES:
            put(name, weight if explicit else None)
            continue
        t = task(name, root)
        if t.evaluation_only:
            raise UserError(
                f"mixture {spec.name!r}: {name!r} is for evaluation only and must not be trained on"
            )
        if name != t.name:  # a variant named outright
            variant = names.parse(name)
            if not supports(t, variant):
                raise UserError(
                    f"mixture {spec.name!r}: task {t.name!r} has no templates for {name!r}"
                )
            put(str(variant), weight)
            continue
        usable = _usable(spec, t)
        if not usable and spec.partial:
            continue  # `left_out` says so
        if not usable:
            raise UserError(
                f"mixture {spec.name!r}: task {name!r} has none of the variants {list(spec.variants)}"
            )
        for v, share in usable.items():
            put(str(names.parse(f"{name}:{v}")), weight * share / sum(usable.values()))
    return out
