# SPDX-License-Identifier: Apache-2.0
"""What wordings share."""

import re
from collections.abc import Iterable


def literals(template: tuple[str, str], word: str = r"\w+") -> list[list[str]]:
    """The words of a template's input between its slots."""
    return [re.findall(word, part.lower()) for part in re.split(r"\{\w+\}", template[0])]


def runs(
    templates: Iterable[tuple[str, str]], word: str = r"\w+", n: int = 4
) -> set[tuple[str, ...]]:
    """Runs of n words of the inputs, outside slots."""
    parts = [part for t in templates for part in literals(t, word)]
    return {tuple(part[i : i + n]) for part in parts for i in range(len(part) - n + 1)}
