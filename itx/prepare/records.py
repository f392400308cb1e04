# SPDX-License-Identifier: Apache-2.0
"""What a reader yields: examples by row, and what cannot be read with the reason."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Bad:
    """An unreadable record: the reason it is counted under, and the details for the error."""

    reason: str
    detail: str


Rows = Iterator[tuple[str, dict | Bad]]
Reader = Callable[[Path, Mapping[str, Any]], Rows]
