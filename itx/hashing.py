# SPDX-License-Identifier: Apache-2.0
"""Draws and digests: the same on any machine, in any process."""

import hashlib
from pathlib import Path
from typing import Any


def draw(*parts: Any) -> int:
    """64 bits that depend on the parts alone, for everything that is chosen at random in data."""
    return int.from_bytes(
        hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest(), "big"
    )


def digest(*parts: Any) -> str:
    """16 hexadecimal digits that stand for the parts, for keys and the names of files. Bytes count
    as they are, anything else as its text."""
    data = b"\x1f".join(p if isinstance(p, bytes) else str(p).encode() for p in parts)
    return hashlib.sha256(data).hexdigest()[:16]


def file_sha256(file: Path | str) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with open(file, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
