# SPDX-License-Identifier: Apache-2.0
"""Templates: (input, target) pairs of format strings with named `{fields}`; filled strictly.

`{options}` is the list of options in a style drawn per rendering. A template's id is a hash of its
text, so adding or moving templates changes no other's id.
"""

import hashlib
import re
import string
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from itx.errors import UserError, did_you_mean
from itx.tasks.spec import Template
from itx.text import blank


def _lettered(mark: str) -> Callable[[Sequence[str]], tuple[str, tuple[str, ...]]]:
    def style(options: Sequence[str]) -> tuple[str, tuple[str, ...]]:
        n, letters = len(options), string.ascii_uppercase
        if n > len(letters):
            raise UserError(
                f"{n} options are more than there are letters; leave the style out of option_styles"
            )
        labels = tuple(mark.format(c) for c in letters[:n])
        return "\n".join(map(" ".join, zip(labels, options, strict=True))), labels

    return style


# The ways a list of options can stand in a prompt: options -> (text, what answers each of them). A
# task takes `option_styles` of these; with letters the answer is rewritten to the letter.
OPTION_STYLES: dict[str, Callable[[Sequence[str]], tuple[str, Sequence[str]]]] = {
    "inline": lambda options: ("Options: " + ", ".join(options), options),
    "list": lambda options: ("- " + "\n- ".join(options), options),
    "slashes": lambda options: ("(" + " / ".join(options) + ")", options),
    "(A)": _lettered("({})"),
    "A.": _lettered("{}."),
}


@cache
def template_id(template: Template) -> str:
    """`t` and six hex digits of the hash of both texts."""
    return "t" + hashlib.blake2b("\x1f".join(template).encode(), digest_size=3).hexdigest()


@cache
def slots(text: str) -> tuple[str, ...]:
    """The field names of a format string, in order; {{ and }} are literal braces."""
    try:
        parts = list(string.Formatter().parse(text))
    except ValueError as e:
        raise UserError(f"template {text!r}: {e}") from e
    for _, name, spec, conversion in parts:
        if name is not None and (not re.fullmatch(r"[^\W\d]\w*", name) or spec or conversion):
            raise UserError(
                f"template {text!r}: a slot is {{name}}, without format or index; found {name!r}"
            )
    return tuple(name for _, name, _, _ in parts if name is not None)


@cache
def _parts(text: str) -> tuple[tuple[str, str | None], ...]:
    return tuple((literal, name) for literal, name, _, _ in string.Formatter().parse(text))


def with_options(among: Sequence[Template], kind: str) -> list[Template]:
    """The templates whose input lists the options ("opt"), those whose input does not ("noopt"),
    or all ("")."""
    return [t for t in among if not kind or ("options" in slots(t[0])) == (kind == "opt")]


def fill(text: str, values: Mapping[str, Any], where: str = "") -> str:
    """The text with every slot replaced; an unknown or empty slot is an error that names it."""
    filled = []
    for literal, name in _parts(text):
        filled.append(literal)
        if name is None:
            continue
        if name not in values:
            near = did_you_mean(name, values)
            raise UserError(f"{where}: template {text!r} needs the field {name!r}{near}")
        value = values[name] if isinstance(values[name], str) else str(values[name])
        if blank(value):
            raise UserError(
                f"{where}: the field {name!r} is empty; template {text!r} would have a hole; "
                "--data.skip_bad=True counts and skips such examples"
            )
        filled.append(value)
    return "".join(filled)


def paraphrases(wordings: Sequence[str], body: str, target: str = "{answer}") -> list[Template]:
    """Several wordings of one instruction, in any language, as a template each: they take turns as
    `{instruction}`.

    >>> paraphrases(["Say it in French.", "Dis-le en français."], "{instruction}\n{text}")
    [('Say it in French.\n{text}', '{answer}'), ('Dis-le en français.\n{text}', '{answer}')]
    """
    if "instruction" not in slots(body):
        raise UserError(
            f"paraphrases: {body!r} has no {{instruction}} for the wordings to stand in"
        )
    if len(set(wordings)) < len(wordings):
        twice = max(wordings, key=list(wordings).count)
        raise UserError(f"paraphrases: a wording is there twice: {twice!r}")
    return [(body.replace("{instruction}", w), target) for w in wordings]


def answer_pattern(target: str) -> str | None:
    """The regex that reads `answer` back from a target such as
    `{rationale}\\nThe answer is {answer}.`

    It is made of the literal words around `{answer}` on its line; None where nothing stands before
    it, for then the whole text is the answer.
    """
    literals = _parts(target)
    for i, (literal, name) in enumerate(literals):
        if name != "answer":
            continue
        before = literal.rsplit("\n", 1)[-1].lstrip() if i else literal
        if i == 0 and not literal.strip():
            return None
        after = literals[i + 1][0].split("\n", 1)[0].strip() if i + 1 < len(literals) else ""
        end = rf"{re.escape(after)}(?=\s|$)" if after else r"(?:\n|$)"  # "3.5." is 3.5
        loose = r"\s+".join(re.escape(word) for word in before.split())
        return rf"{loose}\s*(.+?)\s*{end}"
    return None
