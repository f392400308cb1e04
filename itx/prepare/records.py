# SPDX-License-Identifier: Apache-2.0
"""What a reader yields: examples by row, and what cannot be used with the reason."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Bad:
    """A record that cannot be used: the reason it is counted under, and the details for the
    error."""

    reason: str
    detail: str


Rows = Iterator[tuple[str, dict | Bad]]  # (label of the row, its record)
Reader = Callable[[Path, Mapping[str, Any]], Rows]  # (file or folder, options) -> its rows
