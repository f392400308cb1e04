# SPDX-License-Identifier: Apache-2.0
"""The grammar of names: `task[:zs|:fsK][:cot][:inv][:opt|:noopt][:tID][#r]`, in this order.

`rte` is `rte:zs#0`; `:opt` takes the wordings that list the options, `:noopt` the others; `:tID`
fixes the template whose id is `tID`; `#r` is rendering r. Names satisfy SeqIO's
`[\\w\\d\\.\\:_#]+`, ASCII only and to the end (SeqIO's own check admits a trailing newline).
"""

import re
from dataclasses import dataclass

from itx.errors import UserError

_VARIANT = re.compile(
    r"(?P<task>[A-Za-z0-9_.]+)(?::(?:zs|fs(?P<shots>[1-9]\d?)))?"
    r"(?P<cot>:cot)?(?P<inv>:inv)?(?P<options>:opt|:noopt)?"
    r"(?::(?P<template>t[0-9a-f]{6}))?(?:#(?P<rendering>\d+))?"
)


@dataclass(frozen=True)
class Variant:
    """A parsed name. `str(Variant("rte"))` is "rte"."""

    task: str
    shots: int = 0
    cot: bool = False
    inverted: bool = False
    options: str = ""  # "opt", "noopt" or all wordings
    template: str = ""
    rendering: int = 0

    def __str__(self) -> str:
        parts = [
            f":fs{self.shots}" if self.shots else "",
            ":cot" * self.cot,
            ":inv" * self.inverted,
            f":{self.options}" if self.options else "",
            f":{self.template}" if self.template else "",
            f"#{self.rendering}" if self.rendering else "",
        ]
        return self.task + "".join(parts)


def parse(name: str) -> Variant:
    m = _VARIANT.fullmatch(name)
    if m is None:
        raise UserError(
            f"name {name!r} is not task[:zs|:fsK][:cot][:inv][:opt|:noopt][:tID][#r] (in this "
            "order, ASCII)"
        )
    options, template = (m["options"] or "").removeprefix(":"), m["template"] or ""
    shots, rendering = int(m["shots"] or 0), int(m["rendering"] or 0)
    return Variant(m["task"], shots, bool(m["cot"]), bool(m["inv"]), options, template, rendering)


def check_name(name: str, what: str) -> str:
    """A task's or mixture's own name: ASCII letters, digits, `_` and `.`."""
    if not re.fullmatch(r"[A-Za-z0-9_.]+", name):
        raise UserError(
            f"{what} name {name!r}: only ASCII letters, digits, '_' and '.' are allowed"
        )
    return name
