# SPDX-License-Identifier: Apache-2.0
"""The part of a cache key that stands for a task: its texts and the source of its functions."""

import dataclasses
import functools
import hashlib
import inspect
import re
import sys
import sysconfig
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from itx.eval import metrics
from itx.tasks.spec import CoT, Source, TaskSpec

_LIBRARIES = tuple({sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})


def _own(file: str | None) -> bool:
    """Whether a file is the user's or ours, rather than a library's."""
    return bool(file) and not file.startswith(_LIBRARIES) and "site-packages" not in file


def of_function(fn: Callable, seen: set[int] | None = None) -> list[str]:
    """Source texts of a function and of what it uses: own functions and modules, constants, closures."""
    seen = set() if seen is None else seen
    if isinstance(fn, functools.partial):
        return [*of_function(fn.func, seen), *of_value([fn.args, fn.keywords], seen)]
    fn = inspect.unwrap(fn)
    if id(fn) in seen:
        return []
    seen.add(id(fn))
    code = getattr(fn, "__code__", None)
    if code is None or not _own(code.co_filename):
        return [getattr(fn, "__qualname__", repr(fn))]
    try:
        out = [inspect.getsource(fn)]
    except OSError:
        out = [repr((code.co_code, code.co_consts))]
    names = list(code.co_names)
    for const in code.co_consts:
        if isinstance(const, types.CodeType):  # inner functions and comprehensions
            names += const.co_names
    values = {n: fn.__globals__[n] for n in names if n in fn.__globals__}
    values |= dict(zip(code.co_freevars, (c.cell_contents for c in fn.__closure__ or ()), strict=True))
    values |= {f"default {i}": d for i, d in enumerate(fn.__defaults__ or ())}
    values |= {f"default {n}": d for n, d in (fn.__kwdefaults__ or {}).items()}
    for name, value in sorted(values.items()):
        out += [name, *of_value(value, seen)]
    return out


def of_value(value: Any, seen: set[int] | None = None) -> list[str]:
    """Texts that change when the value does, for what task functions refer to."""
    seen = set() if seen is None else seen
    if isinstance(value, types.ModuleType):
        file = getattr(value, "__file__", None)
        return [Path(file).read_text(encoding="utf-8")] if _own(file) else [value.__name__]
    if isinstance(value, type):
        module = sys.modules.get(value.__module__)
        own = _own(getattr(module, "__file__", None))
        return [inspect.getsource(value) if own else value.__qualname__]
    if isinstance(value, re.Pattern):
        return [value.pattern if isinstance(value.pattern, str) else repr(value.pattern), str(value.flags)]
    if dataclasses.is_dataclass(value):
        if id(value) in seen:
            return []
        seen.add(id(value))
        fields = [(f.name, getattr(value, f.name)) for f in dataclasses.fields(value)]
        return [type(value).__qualname__, *(t for name, v in fields for t in (name, *of_value(v, seen)))]
    if callable(value):
        return of_function(value, seen)
    if isinstance(value, Mapping):
        return [t for k in value for t in (repr(k), *of_value(value[k], seen))]
    if isinstance(value, (list, tuple)):
        return [t for v in value for t in of_value(v, seen)]
    if isinstance(value, (set, frozenset)):
        return sorted(map(repr, value))
    if isinstance(value, (str, int, float, bool, bytes, type(None))):
        return [repr(value)]
    text = repr(value)  # arrays, dates, fractions, …; an address says nothing about the value
    return [type(value).__qualname__, re.sub(r" at 0x[0-9a-f]+", "", text)]


def of_task(spec: TaskSpec) -> str:
    """Hash of everything in a spec that shapes its renderings (the source's content has its own)."""
    cot = spec.cot or CoT(())
    source = [spec.source.kind, repr(spec.source.split_by_hash)] if isinstance(spec.source, Source) else []
    if source and spec.source.split_key:
        source += of_function(spec.source.split_key)
    parts = [
        spec.name, repr(spec.version), repr(spec.options), repr(spec.content),
        repr([spec.shot_separator, spec.balanced_shots, spec.chat, spec.option_styles, spec.shuffle_options]),
        repr([spec.templates, spec.heldout_templates, spec.inverted, tuple(cot.templates), tuple(cot.heldout_templates)]),
        *source, *of_function(spec.fields), *([spec.objective] if spec.objective else []),
    ]  # fmt: skip
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:16]


def of_scoring(spec: TaskSpec) -> list:
    """What else a lock takes from a spec: it shapes no rendering, but groups, scores and averages."""
    names = [metrics.name_of(m) for m in spec.metrics]
    return [spec.name, spec.version, spec.cluster, spec.origin, spec.neighbours, names, spec.primary,
            sorted(spec.tags.items()), spec.evaluation_only]  # fmt: skip
