# SPDX-License-Identifier: Apache-2.0
"""Sums that a text does, and whether they come out: `3 * 4 = 12`, `(2+1) × 5 = 15 apples`,
`1/4 of 20 = 5`.

An equation is an expression of numbers and signs before an equals sign, and a number behind it. A
number may be rounded to the decimals that it is written with, and a percent sign divides by 100.
What is no such expression (letters, units between numbers) is passed over, so that silence says
nothing. An expression that is cut on its left by what cannot be read is passed over too.
"""

import ast
import re
from collections.abc import Iterator
from fractions import Fraction

_NUMBER = r"(?:\d{1,3}(?:,\d{3})+|\d{1,15})(?:\.\d{1,15})?|\.\d{1,15}"
_PART = rf"[$€£¥₽]?\s?(?:{_NUMBER})(?:\s?%)?+"
_SIGNS = str.maketrans({"×": "*", "x": "*", "X": "*", "÷": "/", "−": "-", "–": "-", "·": "*"})
_EQUATION = re.compile(
    rf"(?<!\d)(?P<left>\(*\s*{_PART}(?:[\s()]*[-+*/×xX÷−–·][\s()]*{_PART}\)*)+)"
    rf"\s*=\s*(?P<right>-?\s?{_PART})(?!\s*[-+*/×÷−–·(]|[ \u00a0]\d{{3}}\b|\s?[xX]\s?\d|[\d,.]*\d)"
)
# before an expression: a sign, a number or a letter of which it would be the rest
_CUT = re.compile(r"(?:[-+*/×÷^·.,:]|[\w)]\s*|%\s*)$")
_WORD = re.compile(r"(?<!\d )(?<!\d)\b[^\W\d_]{2,}$")  # but not that of "1 and 1/4"
_TWICE = re.compile(rf"/\s*(?:{_NUMBER})\s*/")
MAX_SIGNS = 200


def wrong(said: str) -> list[str]:
    """The equations of a text that do not come out."""
    return [shown for shown, comes_out in equations(said) if not comes_out]


def equations(said: str) -> Iterator[tuple[str, bool]]:
    """(equation, whether it comes out) of each that can be read."""
    for m in _EQUATION.finditer(said):
        before = said[max(0, m.start() - 12) : m.start()]
        before = before.rstrip(" $€£¥₽")
        if _CUT.search(before) and not _WORD.search(before):
            continue
        value = _value(m["left"])
        if value is None:
            continue
        written = re.sub(r"[$€£¥₽,\s]", "", m["right"])
        yield m[0].strip(), _is(value, written)


def _value(expression: str) -> Fraction | None:
    """What an expression comes to; None where it is none."""
    plain = re.sub(r"[$€£¥₽,]", "", expression).translate(_SIGNS).strip()
    plain = re.sub(rf"({_NUMBER})\s?%", r"(\1/100)", plain)
    # of 3 / 1/4 nobody can tell which division comes first
    if len(plain) > MAX_SIGNS or _TWICE.search(plain) or plain.count("(") != plain.count(")"):
        return None
    try:
        return _of(ast.parse(re.sub(r"(?<![\d.])0+(?=\d)", "", plain), mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError):
        return None


def _of(node: ast.expr) -> Fraction:
    """The value of numbers and four signs; ValueError for anything else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return Fraction(str(node.value))
    if not isinstance(node, ast.BinOp):
        raise ValueError
    a, b = _of(node.left), _of(node.right)
    match node.op:
        case ast.Add():
            return a + b
        case ast.Sub():
            return a - b
        case ast.Mult():
            return a * b
        case ast.Div():
            return a / b
    raise ValueError


def _is(value: Fraction, written: str) -> bool:
    """Whether a value is a number as written, rounded or cut to its decimals."""
    shares = [Fraction(1)]
    if written.endswith("%"):  # a share, or a number of percent
        shares, written = [Fraction(1, 100), Fraction(1)], written[:-1]
    number, unit = Fraction(written), Fraction(1, 10 ** len(written.partition(".")[2]))
    return any(_rounds_to(abs(value / s), abs(number), unit) for s in shares) and (
        value * number >= 0
    )


def _rounds_to(value: Fraction, number: Fraction, unit: Fraction) -> bool:
    return -unit / 2 <= value - number < unit
