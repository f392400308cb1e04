# SPDX-License-Identifier: Apache-2.0
"""The part of a cache key that stands for a task: its texts, and the code and values that its
functions use.

    own       code of the user's: modules that are neither of the standard library, nor installed,
              nor of itx (whose changes RENDER_VERSION stands for), and the shipped registry. It is
              followed as far as it reaches: functions by their text and all that they name, classes
              with their bases, objects with their attributes, modules with what they import.
    other     code of libraries stands under its name.

Nothing in it depends on the process: no address, no order of a set. A value whose state cannot be
read is refused. What no reading of code can see (a file that is read at run time,
`globals()[name]`) is found by a build when it renders a sample of its cache again
(itx/prepare/again.py).
"""

import contextlib
import enum
import functools
import hashlib
import importlib.util
import re
import sys
import sysconfig
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from functools import cached_property
from pathlib import Path
from typing import Any

from itx import hashing, shipped
from itx.errors import UserError
from itx.eval import metrics
from itx.tasks import source_code
from itx.tasks.spec import CoT, TaskSpec

_LIBRARIES = tuple(
    {sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
)
_ITX = str(Path(__file__).resolve().parent.parent) + "/"
_SHIPPED = f"{shipped.TASKS}/"
_PLAIN = (str, int, float, complex, bool, bytes, type(None), type(...), type(NotImplemented))
_SEQUENCES, _SETS = (list, tuple), (set, frozenset)
# Locks and weak references say nothing about a rendering, and have no state that could be read.
_STATELESS = ("_thread", "weakref", "_weakref", "_weakrefset")
_DESCRIPTORS = (types.MemberDescriptorType, types.GetSetDescriptorType)
# Names of a class that say nothing of their own, or change while it is used.
_NOT_OF_CLASS = set(
    "__dict__ __weakref__ __doc__ __module__ __qualname__ __annotations__ __dataclass_fields__ "
    "__dataclass_params__ __match_args__ __abstractmethods__ _abc_impl __slotnames__ "
    "__firstlineno__ __static_attributes__ __orig_bases__ __parameters__ __type_params__ "
    "__annotate_func__ __annotations_cache__ __hash__ __subclasshook__".split()
)

# Attributes under which a library keeps functions of the user's, and its classes that do so.
_WRAPPED = ("__func__", "__wrapped__", "func", "fget", "fset", "fdel")
_WRAPPERS = (staticmethod, classmethod, property, cached_property)
# Builtins through which a function reaches names that do not stand in its code.
_DYNAMIC = {"globals", "vars", "eval", "exec", "__import__"}


def of_function(fn: Callable, packages: Set[str] = frozenset()) -> list[str]:
    """Texts that change when a function does, or anything of the user's that it uses.

    packages: names of top packages that are the user's wherever they are installed.
    """
    return [
        getattr(fn, "__qualname__", type(fn).__qualname__),
        Walk(packages).text(fn, "the function"),
    ]


def of_value(value: Any) -> list[str]:
    """Texts that change when the value does."""
    return [Walk().text(value, "the value")]


def package_of(value: Any) -> str:
    """The top package that a function, or the class of an object, was written in."""
    while isinstance(value, functools.partial):
        value = value.func
    name = getattr(value, "__module__", None) or type(value).__module__
    return name.partition(".")[0]


class Walk:
    """One walk from a value to all that it uses. The text of a value is itself, if it is plain, or
    a digest."""

    def __init__(self, packages: Set[str] = frozenset()):
        self.packages = packages - {"itx", "builtins"}
        self.known: dict[int, str] = {}
        self.alive: list[Any] = []  # the number of a value that is gone would be given to another
        self.within: set[int] = set()

    def own(self, file: str | None, module: str | None) -> bool:
        """Whether a file is the user's, rather than a library's or ours. The shipped registry
        counts as the user's, so that its cache keys are the same in a clone and a wheel."""
        if (module or "").partition(".")[0] in self.packages:
            return True
        if not file or file.startswith(_SHIPPED):
            return bool(file)
        others = (*_LIBRARIES, "<frozen", _ITX)
        return not file.startswith(others) and "site-packages" not in file

    def own_module(self, name: str) -> bool:
        file = getattr(sys.modules.get(name), "__file__", None)
        return name in ("__main__", "__mp_main__") or (file is not None and self.own(file, name))

    def text(self, value: Any, where: str) -> str:
        """where: how the value is reached, for the message of one that cannot be read."""
        if type(value) in _PLAIN:
            return f"{type(value).__name__} {value!r}"
        number = id(value)
        if number in self.known:
            return self.known[number]
        if number in self.within:  # a function that calls itself, say
            return f"around to {getattr(value, '__qualname__', type(value).__qualname__)}"
        self.alive.append(value)
        self.within.add(number)
        digest = hashlib.sha256()
        try:
            for part in self.parts(value, where):
                digest.update(f"{len(part)} {part}".encode(errors="surrogatepass"))
        except RecursionError as e:
            raise UserError(f"{where} is nested too deeply for a cache key") from e
        finally:
            self.within.discard(number)
        self.known[number] = digest.hexdigest()
        return self.known[number]

    def parts(self, value: Any, where: str) -> Iterator[str]:
        """The texts that a value's digest is made of."""
        kind = type(value)
        yield kind.__qualname__
        if isinstance(value, types.ModuleType):
            yield from self.of_module(value)
        elif isinstance(value, type):
            yield from self.of_class(value, where)
        elif kind is types.FunctionType:
            yield from self.of_code(value, where)
        elif kind in (dict, types.MappingProxyType, *_SEQUENCES, *_SETS):
            yield from self.of_container(value, where)
        elif kind is re.Pattern:
            yield from (repr(value.pattern), str(value.flags))
        elif kind.__module__ in _STATELESS or kind in _DESCRIPTORS:
            return
        elif self.own_module(kind.__module__):
            yield from self.of_instance(value, where)
        else:
            yield from self.of_library(value, where)

    def of_container(self, value: Any, where: str) -> Iterator[str]:
        if isinstance(value, _SETS):
            yield from sorted(self.text(v, f"an element of {where}") for v in value)
        elif isinstance(value, _SEQUENCES):
            yield from (self.text(v, f"{where}[{i}]") for i, v in enumerate(value))
        else:
            yield from self.of_items(value.items(), where)

    def of_items(self, pairs: Iterable[tuple[Any, Any]], where: str) -> Iterator[str]:
        for k, v in pairs:
            yield from (self.text(k, f"a key of {where}"), self.text(v, f"{where}[{k!r:.40}]"))

    def of_library(self, value: Any, where: str) -> Iterator[str]:
        """What a library made of the user's: a partial, a bound method, a property, an array, a
        date, …"""
        wrapped = [n for n in _WRAPPED if hasattr(value, n)]
        bound = getattr(value, "__self__", None)
        if wrapped and (callable(value) or isinstance(value, _WRAPPERS)):
            if isinstance(value, functools.partial):
                wrapped += ["args", "keywords"]
            yield from (self.text(getattr(value, n), f"{where}.{n}") for n in wrapped)
        elif callable(value) and isinstance(getattr(value, "__qualname__", None), str):
            yield from (str(getattr(value, "__module__", None)), value.__qualname__)
            if isinstance(bound, types.ModuleType):
                return
        else:
            yield from self.of_state(value, where)
            return
        if bound is not None:
            yield self.text(bound, f"{where}.__self__")

    def of_state(self, value: Any, where: str) -> Iterator[str]:
        """What pickle would keep."""
        try:
            state = value.__reduce_ex__(4)
        except Exception as e:  # whatever a library raises where there is no state to be had
            raise UserError(
                f"{where} is {type(value).__module__}.{type(value).__qualname__}, whose state "
                f"cannot be read ({e}); a cache key cannot stand for it: keep plain values there, "
                "or make it inside the function"
            ) from e
        if isinstance(state, str):
            yield from (type(value).__module__, state)
            return
        make, given, attributes, elements, pairs = (*state, *[None] * 5)[:5]
        for name, part in (("class", make), ("arguments", given), ("state", attributes)):
            yield self.text(part, f"the {name} of {where}")
        yield from (self.text(v, f"an element of {where}") for v in elements or ())
        yield from self.of_items(pairs or (), where)

    def of_instance(self, value: Any, where: str) -> Iterator[str]:
        """An object of the user's: its class, its attributes, and what it holds as a container or a
        number."""
        kind = type(value)
        yield self.text(kind, f"the class of {where}")
        names = set(getattr(value, "__dict__", ()))
        for c in kind.__mro__:
            names.update(_slots(c))
        # What cached_property keeps is made from the rest, at some time while the object is used.
        for c in kind.__mro__:
            names -= {n for n, v in vars(c).items() if isinstance(v, cached_property)}
        for name in sorted(n for n in names if hasattr(value, n)):
            yield from (name, self.text(getattr(value, name), f"{where}.{name}"))
        if isinstance(value, (dict, *_SEQUENCES, *_SETS)):
            yield from self.of_container(value, where)
        elif base := next((b for b in _PLAIN if isinstance(value, b)), None):
            yield base.__repr__(value)
        elif (
            not isinstance(value, enum.Enum) and kind.__reduce_ex__ is not object.__reduce_ex__
        ) or (kind.__reduce__ is not object.__reduce__ and not isinstance(value, BaseException)):
            # The state of a library's base class may not be in the attributes.
            yield from self.of_state(value, where)

    def of_class(self, kind: type, where: str) -> Iterator[str]:
        """A class of the user's: its bases, methods and attributes as they are now; of a library
        its name."""
        if not self.own_module(kind.__module__):
            yield from (kind.__module__, kind.__qualname__)
            return
        yield kind.__qualname__
        yield from (self.text(base, f"a base of {where}") for base in kind.__mro__[1:])
        yield self.text(type(kind), f"the metaclass of {where}")
        if fields := vars(kind).get("__dataclass_fields__"):
            for f in fields.values():
                yield f.name
                for given in (f.default, f.default_factory, f.init, f.kw_only):
                    yield self.text(given, f"the field {f.name} of {where}")
        for name, annotation in vars(kind).get("__annotations__", {}).items():
            yield f"{name}: {_address_free(annotation)}"
        for name, value in sorted(vars(kind).items()):
            if name not in _NOT_OF_CLASS and not _generated(kind, name, value):
                yield from (name, self.text(value, f"{where}.{name}"))

    def of_module(self, module: types.ModuleType) -> Iterator[str]:
        """A module of the user's: its text and that of all own modules which it imports, at
        whatever depth."""
        yield module.__name__ if not self.own_module(module.__name__) else ""
        yield from self.reach(module.__name__)

    def reach(self, module: str) -> list[str]:
        """The texts of own modules that are reached from one by imports, itself among them."""
        texts: dict[str, str] = {}
        waiting = [module]
        while waiting:
            name = waiting.pop()
            file = source_code.file_of(name)
            if name in texts or file is None or not self.own(file, name):
                continue
            changed_ns = Path(file).stat().st_mtime_ns
            texts[name], imported = source_code.imports_of(file, name, changed_ns)
            waiting += imported
        return [texts[n] for n in sorted(texts)]

    def of_code(self, fn: types.FunctionType, where: str) -> Iterator[str]:
        """A function: its text, what its names stand for, and what it was made with (closure,
        defaults, attributes)."""
        code, file = fn.__code__, fn.__code__.co_filename
        yield fn.__qualname__
        made_with = {f"default {i}": d for i, d in enumerate(fn.__defaults__ or ())}
        made_with |= {f"default of {n}": d for n, d in (fn.__kwdefaults__ or {}).items()}
        made_with |= vars(fn)
        for name, cell in zip(code.co_freevars, fn.__closure__ or (), strict=True):
            with contextlib.suppress(ValueError):  # a cell that nothing was put into
                made_with[name] = cell.cell_contents
        for name, value in sorted(made_with.items()):
            yield from (name, self.text(value, f"{where}: {name}"))
        if not self.own(file, fn.__module__):
            yield str(fn.__module__)
            return
        yield source_code.text_of(code, fn.__globals__) or _compiled(code)
        used = source_code.names_in(code)
        values = {n: fn.__globals__[n] for n in used.names if n in fn.__globals__}
        for level, name, parts in used.imports:
            values |= self.imported(level, name, parts, fn.__globals__)
        for name, value in sorted(values.items()):
            yield from (name, self.text(value, f"{where}: {name}"))
            if isinstance(value, types.ModuleType) and self.own_module(value.__name__):
                yield from self.attributes(value, used.attributes, f"{where}: {name}")
        # Names may be made at run time: then all that the module holds counts.
        if used.names & _DYNAMIC - set(fn.__globals__):
            yield from self.reach(fn.__module__)
            yield from self.held(fn.__globals__, where)

    def attributes(self, module: types.ModuleType, names: Set[str], where: str) -> Iterator[str]:
        """What a function may take from a module of the user's, by the names of attributes that
        stand in it."""
        for name in sorted(names & set(vars(module))):
            value = vars(module)[name]
            yield from (name, self.text(value, f"{where}.{name}"))
            if isinstance(value, types.ModuleType) and value is not module:
                if self.own_module(value.__name__):
                    yield from self.attributes(value, names - {name}, f"{where}.{name}")

    def held(self, module: Mapping[str, Any], where: str) -> Iterator[str]:
        """All plain data of a module."""
        for name, value in sorted(module.items()):
            if not name.startswith("__") and isinstance(
                value, (*_PLAIN, dict, *_SEQUENCES, *_SETS)
            ):
                yield from (name, self.text(value, f"{where}: {name}"))

    def imported(
        self, level: int, name: str, parts: Sequence[str], module: Mapping[str, Any]
    ) -> dict[str, Any]:
        """What an import within a function gives, of modules of the user's."""
        full = name
        if level:
            package = module.get("__package__") or ""
            full = importlib.util.resolve_name("." * level + name, package)
        if (file := source_code.file_of(full)) is None or not self.own(file, full):
            return {}
        try:
            imported = importlib.import_module(full)
        except ImportError:  # the function would be told the same
            return {}
        named = {f"{full}.{p}": getattr(imported, p) for p in parts if hasattr(imported, p)}
        return {full: imported, **named}


def _slots(kind: type) -> list[str]:
    names = vars(kind).get("__slots__", ())
    names = [names] if isinstance(names, str) else names
    private = f"_{kind.__name__.lstrip('_')}"
    return [
        private + n if n.startswith("__") and not n.endswith("__") else n
        for n in names
        if n not in _NOT_OF_CLASS
    ]


def _generated(kind: type, name: str, value: Any) -> bool:
    """Whether a method was written by dataclasses or namedtuple, whose code depends on Python's
    version alone."""
    file = getattr(getattr(value, "__code__", None), "co_filename", "")
    generates = "__dataclass_fields__" in vars(kind) or "_fields" in vars(kind)
    return generates and name.startswith("__") and file.startswith("<")


def _address_free(value: Any) -> str:
    return re.sub(r" at 0x[0-9a-f]+", "", value if isinstance(value, str) else repr(value))


def _compiled(code: types.CodeType) -> str:
    inner = [_compiled(c) for c in code.co_consts if isinstance(c, types.CodeType)]
    plain = tuple(c for c in code.co_consts if not isinstance(c, types.CodeType))
    constants = Walk().text(plain, "a constant")
    return repr([code.co_code, code.co_names, code.co_varnames, constants, inner])


def of_task(spec: TaskSpec) -> str:
    """Hash of everything in a spec that shapes its renderings (the source's content has its
    own)."""
    cot = spec.cot or CoT(())
    packages = {package_of(spec.fields), spec.module.partition(".")[0]} - {""}
    source = [spec.source.kind, repr(spec.source.split_by_hash)]
    try:
        walk = Walk(packages)
        functions = [walk.text(spec.fields, "fields")]
        if spec.source.split_key:
            functions.append(walk.text(spec.source.split_key, "split_key"))
    except UserError as e:
        raise UserError(f"task {spec.name!r}: {e}") from e
    style = [spec.shot_separator, spec.balanced_shots, spec.chat]
    cot_templates = [tuple(cot.templates), tuple(cot.heldout_templates)]
    return hashing.digest(
        spec.name,
        *map(repr, (spec.version, spec.options, spec.content)),
        [*style, spec.option_styles, spec.shuffle_options],
        [spec.templates, spec.heldout_templates, spec.inverted, *cot_templates],
        *source,
        *functions,
        *([spec.objective] if spec.objective else []),
    )


def of_scoring(spec: TaskSpec) -> list[Any]:
    """What else a lock takes from a spec: it shapes no rendering, but groups, scores and
    averages."""
    scores = [metrics.name_of(m) for m in spec.metrics]
    groups = [spec.name, spec.version, spec.cluster, spec.origin, spec.neighbours]
    return [*groups, scores, spec.primary, sorted(spec.tags.items()), spec.evaluation_only]
