# SPDX-License-Identifier: Apache-2.0
"""What all readers share: the rows that they yield, and texts, plain or .gz, line by line."""

import contextlib
import gzip
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from itx.errors import UserError

UTF8_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Bad:
    """A record that cannot be used: the reason it is counted under, and the details for the
    error."""

    reason: str
    detail: str


Rows = Iterator[tuple[str, dict | Bad]]  # (label of the row, its record)
Options = Mapping[str, Any]  # of a source: what its reader needs
Reader = Callable[[Path, Options], Rows]  # (file or folder, options) -> its rows


@contextlib.contextmanager
def opened(path: Path, after: Callable[[], str] = str) -> Iterator[BinaryIO]:
    """A file, .gz as what it holds; UserError where that is damaged. after: says how far it was
    read."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as f:
            yield f
    except (EOFError, zlib.error, gzip.BadGzipFile) as e:
        raise UserError(f"{path.name}: cut off or damaged gzip{after()} ({e})") from e


def bad_utf8(e: UnicodeDecodeError, place: str) -> Bad:
    return Bad("bad utf-8", f"byte 0x{e.object[e.start]:02x} at byte {e.start + 1} of {place}")


def lines(path: Path, blank: bool = False) -> Iterator[tuple[int, bytes]]:
    """(row, bytes) of every line (blank ones where wanted), without its line end; .gz is opened as
    such."""
    row = 0
    with opened(path, lambda: f" after row {row}") as f:
        for row, line in enumerate(f, 1):
            line = line.removeprefix(UTF8_BOM) if row == 1 else line
            if blank or line.strip():
                yield row, line.rstrip(b"\r\n")
