# SPDX-License-Identifier: Apache-2.0
"""What all readers share: the rows that they yield, and texts, plain or .gz, line by line."""

import gzip
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from itx.errors import UserError

UTF8_BOM = b"\xef\xbb\xbf"
DAMAGED_GZIP = (EOFError, zlib.error, gzip.BadGzipFile)


@dataclass(frozen=True)
class Bad:
    """A record that cannot be used: the reason it is counted under, and the details for the
    error."""

    reason: str
    detail: str


Rows = Iterator[tuple[str, dict | Bad]]  # (label of the row, its record)
Options = Mapping[str, Any]  # of a source: what its reader needs
Reader = Callable[[Path, Options], Rows]  # (file or folder, options) -> its rows


def opened(path: Path) -> BinaryIO:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")


def damaged(path: Path, e: Exception, after: str = "") -> UserError:
    return UserError(f"{path.name}: cut off or damaged gzip{after} ({e})")


def bad_utf8(e: UnicodeDecodeError, place: str) -> Bad:
    return Bad("bad utf-8", f"byte 0x{e.object[e.start]:02x} at byte {e.start + 1} of {place}")


def lines(path: Path, blank: bool = False) -> Iterator[tuple[int, bytes]]:
    """(row, bytes) of every line (blank ones where wanted), without its line end; .gz is opened as
    such."""
    row = 0
    try:
        with opened(path) as f:
            for row, line in enumerate(f, 1):  # noqa: B007  row is used below
                line = line.removeprefix(UTF8_BOM) if row == 1 else line
                if blank or line.strip():
                    yield row, line.rstrip(b"\r\n")
    except DAMAGED_GZIP as e:
        raise damaged(path, e, f" after row {row}") from e
