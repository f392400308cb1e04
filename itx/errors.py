# SPDX-License-Identifier: Apache-2.0
"""The one error a person's mistake raises, and the words that suggest the nearest valid name."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake in a config, a task, a file or a command: one line, exit code 2, no traceback."""


class RunFailed(Exception):
    """A run that cannot go on as it is, though nothing it was told is wrong: one line, exit code 1, no traceback."""


def nearest(name: str, valid: Iterable[str], most: int = 3) -> list[str]:
    """The valid names most like `name`, best first."""
    return difflib.get_close_matches(name, list(valid), n=most, cutoff=0.4)


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """`; did you mean 'a' or 'b'?`, or the first valid names where none is near."""
    valid = list(valid)
    near = nearest(name, valid)
    if near:
        return "; did you mean " + " or ".join(repr(n) for n in near) + "?"
    if not valid:
        return "; none is registered"
    return "; valid: " + ", ".join(sorted(valid)[:8]) + (", …" if len(valid) > 8 else "")
