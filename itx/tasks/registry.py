# SPDX-License-Identifier: Apache-2.0
"""Where tasks and mixtures are registered and found by name, before SeqIO is imported.

A task module calls `instruction_task`, `chat_task`, `text_task`, `family` and `mixture`;
`task(name)` finds a spec. What a mixture trains on is worked out in resolve.py.
"""

import dataclasses
import functools
import importlib
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from itx import shipped
from itx.errors import UserError, check_known, did_you_mean
from itx.eval.metrics import SCORES
from itx.tasks import names, templates
from itx.tasks.spec import OBJECTIVES, SPLITS, Holdout, MixtureSpec, Source, TaskSpec

TASKS: dict[str, TaskSpec] = {}
MIXTURES: dict[str, MixtureSpec] = {}
FAMILIES: dict[str, Callable[[str], Sequence[TaskSpec]]] = {}
# Only templates can write these, which conversations and plain text do without.
_TEMPLATED = ("templates", "heldout_templates", "inverted", "cot", "options")


def _caller() -> str:
    """The module that called the caller (inspect.stack reads source files: 2 s for a hundred
    tasks)."""
    return sys._getframe(2).f_globals.get("__name__", "")


def instruction_task(name: str, **settings: Any) -> TaskSpec:
    """Register one task, which templates write.

    Args:
        settings: the fields of TaskSpec; version, cluster, source and fields must be given.
    """
    return _registered(make_task(name, module=_caller(), **settings))


def chat_task(name: str, **settings: Any) -> TaskSpec:
    """Register conversations: `fields` gives {"messages": …} (itx/tasks/chat.py); there are no
    templates."""
    why = "the run's data.chat_template writes conversations"
    _refuse(f"chat task {name!r}", settings, _TEMPLATED, why)
    settings = {"metrics": ("rouge_l", "token_f1"), **settings, "chat": True}
    return _registered(make_task(name, module=_caller(), **settings))


def text_task(name: str, *, objective: str, **settings: Any) -> TaskSpec:
    """Register plain text: `fields` gives {"text": …}; `objective` says what of it is trained
    (itx/prepare/objectives.py).

    It is only trained on, as a share against forgetting: there is nothing to score.
    """
    where = f"text task {name!r}"
    why = "plain text is trained on as it is"
    _refuse(where, settings, (*_TEMPLATED, "content", "chat"), why)
    why = "plain text is trained on and never scored"
    _refuse(where, settings, ("metrics", "primary", "evaluation_only"), why)
    check_known(str(objective), OBJECTIVES, f"{where}: objective={objective!r}")
    settings = {**settings, "objective": objective, "content": ("text",), "metrics": ()}
    return _registered(make_task(name, module=_caller(), **settings))


def _refuse(where: str, settings: dict[str, Any], without: Sequence[str], why: str) -> None:
    for key in without:
        if key in settings:
            raise UserError(f"{where}: no {key}; {why}")


def _registered(spec: TaskSpec) -> TaskSpec:
    name = spec.name
    if name in TASKS:
        first = TASKS[name].module
        raise UserError(f"task {name!r} of {spec.module} is already registered by {first}")
    if name in MIXTURES:
        raise UserError(
            f"task {name!r}: a mixture has this name (SeqIO would silently prefer the mixture)"
        )
    TASKS[name] = spec
    return spec


def make_task(name: str, **settings: Any) -> TaskSpec:
    """A checked TaskSpec that is not registered (families return these)."""
    for key in ("templates", "heldout_templates", "inverted"):
        settings[key] = tuple(tuple(t) for t in settings.get(key, ()))
    settings.setdefault("metrics", ("exact_match",))
    for key in ("metrics", "origin", "neighbours", "option_styles", "options", "content"):
        if settings.get(key) is not None:
            settings[key] = tuple(settings[key])
    known = [f.name for f in dataclasses.fields(TaskSpec) if f.name != "name"]
    for key in settings:
        check_known(key, known, f"task {name!r}: a task takes no {key!r}")
    try:
        spec = TaskSpec(names.check_name(name, "task"), **settings)
    except TypeError as e:
        raise UserError(f"task {name!r}: {e}") from e
    _check(spec)
    return spec


def _check(spec: TaskSpec) -> None:
    where = f"task {spec.name!r}"
    if not isinstance(spec.source, Source):
        kind = type(spec.source).__name__
        raise UserError(f"{where}: a source is jsonl(…) or another of itx.tasks, not {kind}")
    shares = spec.source.split_by_hash
    unknown = [s for s in (shares or spec.source.files) if s not in (*SPLITS, "")]
    if unknown:
        raise UserError(f"{where}: split {unknown[0]!r}" + did_you_mean(unknown[0], SPLITS))
    if shares and abs(sum(shares.values()) - 1) > 1e-6:
        raise UserError(f"{where}: split_by_hash sums to {sum(shares.values())}, not 1")
    if spec.templated and not spec.templates and not spec.cot:
        raise UserError(f"{where} has no templates")
    if spec.primary not in ("generate", "rank"):
        raise UserError(f"{where}: primary={spec.primary!r}; valid: 'generate', 'rank'")
    for key in ("templates", "heldout_templates", "inverted"):
        for template in getattr(spec, key):
            _check_template(where, key, template)
    styles = templates.OPTION_STYLES
    for style in spec.option_styles:
        check_known(style, styles, f"{where}: option style {style!r}")
    if not spec.option_styles:
        raise UserError(f"{where}: option_styles is empty; valid: {', '.join(styles)}")
    both = set(spec.templates) & set(spec.heldout_templates)
    if both:
        raise UserError(f"{where}: a held-out template is also a training template: {both.pop()!r}")
    for metric in spec.metrics:
        if isinstance(metric, str) and ":" not in metric and metric not in SCORES:
            raise UserError(f"{where}: unknown metric {metric!r}" + did_you_mean(metric, SCORES))
        function = getattr(metric, "func", metric)  # functools.partial fixes options of a function
        if callable(metric) and getattr(function, "__name__", "<lambda>") == "<lambda>":
            raise UserError(f"{where}: a metric is a name or a module-level function, not a lambda")


def _check_template(where: str, key: str, template: tuple) -> None:
    if len(template) != 2 or not all(isinstance(t, str) for t in template):
        raise UserError(f"{where}: {key} holds {template!r}, not an (input, target) pair of texts")
    for text in template:
        templates.slots(text)
    if template[0].endswith((" ", "\t")):
        raise UserError(
            f"{where}: a prompt must not end in a space (a token would straddle it): "
            f"{template[0]!r}"
        )


def mixture(name: str, members: Any, **settings: Any) -> MixtureSpec:
    """Register a mixture.

    Args:
        members: a list of names (rates proportional to examples), a dict of weights, or
            `holdout(…)`.
        settings: further fields of MixtureSpec.
    """
    names.check_name(name, "mixture")
    where = f"mixture {name!r}"
    if name in MIXTURES or name in TASKS:
        kind = "mixture" if name in MIXTURES else "task"
        raise UserError(f"{where}: a {kind} has this name already")
    if isinstance(members, dict) and settings.get("maximum") is not None:
        raise UserError(f"{where}: explicit weights and maximum= exclude each other")
    if not isinstance(members, (dict, Holdout)):
        members = tuple(members)
    variants = settings.get("variants", {"zs": 1.0})
    for variant in variants:
        names.parse(f"x:{variant}")
    if abs(sum(variants.values()) - 1) > 1e-6:
        raise UserError(f"{where}: variants sum to {sum(variants.values())}, not 1")
    try:
        MIXTURES[name] = MixtureSpec(name, members, module=_caller(), **settings)
    except TypeError as e:
        raise UserError(f"{where}: {e}") from e
    return MIXTURES[name]


def family(name: str, members: Callable[[str], Sequence[TaskSpec]]) -> None:
    """Register many tasks `name.xyz`, which `members(root)` lists when one is first asked for
    under a data root."""
    if name in FAMILIES:
        raise UserError(f"family {name!r} is already registered")
    FAMILIES[name] = members


def family_folder(name: str, inside: str, root: str) -> Path:
    """The folder under data.root that a family reads; UserError where there is none."""
    folder = Path(root) / inside
    if not root or not folder.is_dir():
        raise UserError(f"{name}: no folder {inside!r} in data.root={root!r}")
    return folder


@functools.cache
def _family(name: str, root: str) -> dict[str, TaskSpec]:
    try:
        specs = FAMILIES[name](root)
    except UserError:
        raise
    except Exception as e:  # the user's function may raise anything: they are told where
        raise UserError(
            f"family {name!r} cannot list its tasks under {root!r}: {_failure(e)}"
        ) from e
    by_name = {s.name: s for s in specs}
    if len(by_name) < len(specs):
        raise UserError(f"family {name!r}: two members share a name")
    return by_name


def load_modules(modules: Sequence[str]) -> None:
    """Import the modules that register tasks (`data.modules`)."""
    shipped.put_tasks_on_path()
    for module in modules:
        try:
            importlib.import_module(module)
        except UserError:
            raise
        except Exception as e:  # the user's module may raise anything: they are told where
            absent = e.name if isinstance(e, ModuleNotFoundError) else None
            if absent and (module + ".").startswith(absent + "."):
                raise UserError(
                    f"data.modules: no module named {module!r} on the path or in this folder"
                    + did_you_mean(module, _modules_here())
                ) from e
            raise UserError(f"data.modules: {module!r} fails at import, {_failure(e)}") from e


def _modules_here() -> list[str]:
    """Names of the modules and packages in the current folder."""
    entries = Path.cwd().iterdir()
    return [p.stem for p in entries if p.suffix == ".py" or (p / "__init__.py").is_file()]


def _failure(e: Exception) -> str:
    """An exception in the user's code as one line: the last line outside Python and its packages
    that led there, and what it says."""
    if isinstance(e, SyntaxError):
        file, line = e.filename, e.lineno
    else:
        frames = traceback.extract_tb(e.__traceback__)
        frames = [f for f in frames if not f.filename.startswith("<frozen")]
        libraries = (sys.prefix, sys.base_prefix)
        own = [f for f in frames if not f.filename.startswith(libraries)] or frames
        file, line = own[-1].filename, own[-1].lineno
    return f"{file} line {line}: {type(e).__name__}: {e}"


def task(name: str, root: str = "") -> TaskSpec:
    """The spec behind a name or variant name; `ni.task123` is looked up in its family under
    `root`."""
    base = names.parse(name).task
    if base in TASKS:
        return TASKS[base]
    prefix = base.split(".")[0]
    known = _family(prefix, root) if prefix in FAMILIES else TASKS
    if base in known:
        return known[base]
    near = did_you_mean(base, [*known, *(f"{f}.…" for f in FAMILIES)])
    raise UserError(f"unknown task {base!r}{near}")


def expand(name: str, root: str = "") -> list[str]:
    """`ni.*` becomes the family's members, any other name itself."""
    if not name.endswith(".*"):
        return [name]
    prefix = name[:-2]
    if prefix not in FAMILIES:
        near = did_you_mean(name, [f"{f}.*" for f in FAMILIES])
        raise UserError(f"unknown family {name!r}{near}")
    return sorted(_family(prefix, root))
