# SPDX-License-Identifier: Apache-2.0
"""Chat templates are programs of strangers: they reach nothing, and what they may do is bounded.

A rendering has a budget of characters: those that the template builds or looks at, and some for
each turn of a loop and each call. It is counted, not timed: the same conversation passes on any
machine, in any thread. A step that would exceed it is refused before it is taken, so that memory is
bounded as well.

    loops, macros         a character for each that their body writes, beside STEP or CALL
    + * ** % ~ in ==      their operands; a product, a power and a width before they are made
    filters, methods      what they are given, what they would make, what they gave
"""

import contextlib
import contextvars
import functools
import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jinja2
from jinja2 import nodes, runtime
from jinja2.sandbox import ImmutableSandboxedEnvironment

from itx.data.vocabulary import CONTENT_BEGIN, CONTENT_END

BUDGET = 5_000_000  # characters of a rendering: about a second of work
PER_CHARACTER = 200  # and for each that the conversation has: templates of today take about 20
# Characters that a turn of a loop counts as, and a call or a filter: each takes about as long.
STEP, CALL = 10, 50
MAX_BITS = 4096  # that a whole number may have
NUMBER = re.compile(r"\d+")
# Filters that look at a value's own length alone; others may write it out whole.
SHALLOW = frozenset(
    "attr batch count d default dictsort first groupby items last length list map max min random "
    "reject rejectattr reverse select selectattr slice sort unique".split()
)
# Tests that take as long as their value is
LONG_TESTS = frozenset("in eq equalto == ne != lt le gt ge lower upper".split())
# Loops are given to this filter, and operands to that one; no template can write these names.
TURNS, SEEN = " turns", " seen"


class TooMuch(Exception):
    """A template exceeded its budget."""

    def __init__(self) -> None:
        super().__init__("it exceeds what a rendering may do, in loops or in texts that it builds")


class _Left:
    """What is left of a rendering's budget."""

    def __init__(self, characters: int):
        self.characters = characters

    def spend(self, characters: int) -> None:
        self.characters -= characters
        if self.characters < 0:
            raise TooMuch


_left: contextvars.ContextVar[_Left] = contextvars.ContextVar("left")


def _spend(characters: int) -> None:
    if left := _left.get(None):  # none while a template is compiled
        left.spend(characters)


def _length(value: Any) -> int:
    return len(value) if isinstance(value, (str, list, tuple, dict, set, range)) else 1


def measured(value: Any, most: int = 0) -> int:
    """Characters of a value written out, about; TooMuch as soon as there are more than what is
    left, or `most`."""
    left = _left.get(None)
    most = most or (left.characters if left else BUDGET)
    waiting, size = [value], 0
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            waiting += [*one.keys(), *one.values()]
        elif isinstance(one, (list, tuple, set)):
            waiting += one
        size += STEP
        if isinstance(one, str):
            size += len(one)
        elif isinstance(one, int):
            size += one.bit_length() // 3
        if size + STEP * len(waiting) > most:
            raise TooMuch
    return size


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset("+ - * ** % / //".split())
    static = 0  # characters that the template itself writes

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if isinstance(left, int) and isinstance(right, int):
            a, b = left.bit_length(), right.bit_length()
            bits = {"*": a + b, "**": a * max(0, right)}.get(operator, 0)
            if bits > MAX_BITS:
                raise TooMuch
        elif operator == "*":
            for value, times in ((left, right), (right, left)):
                if isinstance(times, int) and not isinstance(value, (int, float)):
                    _spend(_length(value) * max(0, times))
        elif operator == "%" and isinstance(left, str):
            _spend(_formatted(left, right))
        _spend(_length(left) + _length(right))
        return super().call_binop(context, operator, left, right)

    def call(self, context: Any, obj: Any, *args: Any, **named: Any) -> Any:
        owner = getattr(getattr(obj, "__wrapped__", obj), "__self__", None)
        if isinstance(owner, str):
            _spend(CALL + cost(obj.__name__, owner, (*args, *named.values())))
        elif isinstance(obj, (runtime.Macro, runtime.BlockReference, runtime.LoopContext)):
            _spend(4 * CALL + self.static + sum(map(_length, args)))
        else:
            _spend(CALL + _length(owner))
        result = super().call(context, obj, *args, **named)
        _spend(_length(result))
        return result


def cost(name: str, value: Any, more: tuple) -> int:
    """Characters that a filter or a method of a text takes and gives at most."""
    size = _length(value) if name in SHALLOW else measured(value)
    numbers = sum(abs(x) for x in more if isinstance(x, int))
    texts = sum(measured(x) for x in more if isinstance(x, (str, list, tuple, dict)))
    size += texts
    match name:
        case "replace" if more:
            occurrences = str(value).count(str(more[0])) if str(more[0]) else _length(value) + 1
            return size + occurrences * measured(more[1:2])
        case "join":  # a method of what joins, or a filter of what is joined
            joins, joined = more[:1], value
            if isinstance(value, str) and more:
                joins, joined = value, more[:1]
            if isinstance(joined, tuple) and joined:
                joined = joined[0]
            return size + measured(joins) * (1 + _length(joined))
        case "format" | "format_map":
            return size + _formatted(str(value), more)
        case "indent":
            return size + (numbers + texts + 4) * (1 + str(value).count("\n"))
        case "wordwrap":
            return 20 * size * (1 + texts)
        case "tojson":
            return size * (1 + numbers + texts)
        case "expandtabs":
            return size + str(value).count("\t") * (numbers or 8)
        case "center" | "ljust" | "rjust" | "zfill" | "batch" | "slice":
            return size + numbers
        case "translate":
            return size * (1 + texts)
        case "sum":
            return size * (1 + _length(value) * bool(more))
        case "sort" | "dictsort" | "unique" | "groupby" | "min" | "max":
            return 20 * size
    return size


def _formatted(form: str, values: Any) -> int:
    """Characters of a format that is filled, at most: its widths, and every slot with all of the
    values."""
    widths = [int(n[:9]) for n in NUMBER.findall(form)]
    given = values if isinstance(values, (list, tuple)) else (values,)
    if re.search(r"\*|\{[^}]*\{", form):  # a width may be one of the values
        widths += [abs(v) for v in given if isinstance(v, int)]
    return len(form) + sum(widths) + (form.count("%") + form.count("{")) * measured(values)


@jinja2.pass_context
def _turns(context: Any, values: Iterable, written: int) -> Iterator:
    """A loop's values; each turn may write what its body holds."""
    for value in values:
        _spend(STEP + written)
        yield value


@jinja2.pass_context
def _seen(context: Any, value: Any) -> Any:
    if isinstance(value, (str, list, tuple, dict, set)):
        _spend(measured(value))
    return value


def _written(value: Any) -> Any:
    """Each value that is written passes here."""
    _spend(measured(value))
    return value


def _bounded(name: str, filtered: Callable) -> Callable:
    """A filter that pays for what it does."""
    wants = getattr(getattr(filtered, "jinja_pass_arg", None), "name", "")
    passed = {
        "context": lambda c: (c,),
        "eval_context": lambda c: (c.eval_ctx,),
        "environment": lambda c: (c.environment,),
    }
    before = passed.get(wants, lambda c: ())

    @jinja2.pass_context  # so that none is evaluated while the template is compiled
    def paid(context: Any, value: Any, *args: Any, **named: Any) -> Any:
        _spend(CALL + cost(name, value, (*args, *named.values())))
        out = filtered(*before(context), value, *args, **named)
        _spend(_length(out))
        return out

    return paid


def _looking(test: Callable) -> Callable:
    """A test that pays for what it looks at."""

    def paid(value: Any, *args: Any, **named: Any) -> bool:
        _spend(CALL + measured(value) + measured([args, named]))
        return test(value, *args, **named)

    return paid


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    """The filter as transformers has it; the marks of contents stay what they are."""
    how = {"indent": indent, "separators": separators, "sort_keys": sort_keys}
    text = json.dumps(value, ensure_ascii=False, **how)
    if not ensure_ascii:
        return text
    others = f"[^\\x00-\\x7f{CONTENT_BEGIN}{CONTENT_END}]"
    return re.sub(others, lambda m: json.dumps(m[0])[1:-1], text)


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def compiled(template: str, strict: bool = False) -> jinja2.Template:
    """The program of a template's text; jinja2.TemplateSyntaxError where it is none. strict: what
    is not there is an error."""
    undefined = jinja2.StrictUndefined if strict else jinja2.Undefined
    environment = _Environment(
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=undefined,
        finalize=_written,
        extensions=["jinja2.ext.loopcontrols"],
    )
    environment.tests |= {n: _looking(environment.tests[n]) for n in LONG_TESTS}
    filters = {**environment.filters, "tojson": _to_json}
    environment.filters = {n: _bounded(n, f) for n, f in filters.items()}
    environment.filters |= {TURNS: _turns, SEEN: _seen}
    environment.globals["raise_exception"] = _raise
    environment.globals.pop("lipsum")  # makes text out of nothing
    program = environment.parse(template)
    _metered(program, environment)
    return jinja2.Template.from_code(
        environment, environment.compile(program), environment.make_globals(None)
    )


def _metered(program: nodes.Template, environment: _Environment) -> None:
    """Put the filters that count before a program's loops and operands."""

    def through(name: str, node: nodes.Expr, *args: Any) -> nodes.Filter:
        filtered = nodes.Filter(node, name, [nodes.Const(a) for a in args], [], None, None)
        filtered.set_lineno(node.lineno)
        filtered.set_environment(environment)
        return filtered

    seen = functools.partial(through, SEEN)
    environment.static = _static(program)
    kinds = (nodes.For, nodes.Compare, nodes.Concat, nodes.Getitem)
    for node in list(program.find_all(kinds)):
        match node:
            case nodes.For():
                node.iter = through(TURNS, node.iter, _static(node))
            case nodes.Compare():
                node.expr = seen(node.expr)
                for operand in node.ops:
                    operand.expr = seen(operand.expr)
            case nodes.Concat():
                node.nodes = [seen(n) for n in node.nodes]
            case nodes.Getitem() if isinstance(node.arg, nodes.Slice):
                node.node = seen(node.node)


def _static(node: nodes.Node) -> int:
    """Characters that stand in a part of a template."""
    size = 0
    for part in node.find_all((nodes.TemplateData, nodes.Const)):
        text = part.data if isinstance(part, nodes.TemplateData) else part.value
        size += len(text) if isinstance(text, str) else 0
    return size


@contextlib.contextmanager
def budget(given: Any) -> Iterator[None]:
    """Within it a template may do what a conversation of that size needs."""
    token = _left.set(_Left(BUDGET + PER_CHARACTER * measured(given, 2**60)))
    try:
        yield
    finally:
        _left.reset(token)
