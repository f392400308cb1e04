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


def file_sha256(file: Path | str) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with open(file, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
