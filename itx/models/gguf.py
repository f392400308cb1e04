# SPDX-License-Identifier: Apache-2.0
"""GGUF files, llama.cpp's format: what the header says, and tensors that are read when asked.

A file is a header of values by name (`general.architecture`, `llama.block_count`), a list of
tensors, and their data. The data are mapped, and of a tensor only the rows that are asked for are
dequantised, by the package `gguf`. The header is read here: that package takes ten seconds over the
hundred thousand texts of a small vocabulary.
"""

import functools
import math
import mmap
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from itx.errors import UserError

MAGIC = b"GGUF"
VERSIONS = (2, 3)  # of the format; 3 differs from 2 only in that it may be big-endian
ALIGNMENT = 32  # of the data, where `general.alignment` says nothing
MAX_DIMENSIONS = 4  # of a tensor, as ggml allows
# Codes of the types of values; the arrays' and texts' are apart
STRING, ARRAY, BOOL = 8, 9, 7
NUMBERS = {
    **{0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4"},
    **{7: "<u1", 10: "<u8", 11: "<i8", 12: "<f8"},
}


class Tensor(NamedTuple):
    """A tensor of a file: `shape` as NumPy's, slowest first, `kind` such as "Q4_1"."""

    name: str
    shape: tuple[int, ...]
    kind: str
    begin: int  # of its data, in bytes from the file's begin
    row_bytes: int  # of its last dimension


class File:
    """A GGUF file. `values` and `tensors` are by name; UserError where it is not what it should
    be."""

    def __init__(self, path: Path | str):
        self.path = Path(path)
        try:
            with open(path, "rb") as f:
                self.size = f.seek(0, 2)
                self.data = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) if self.size else b""
        except OSError as e:
            raise UserError(f"{path}: {e.strerror or e}") from e
        header = _Header(self.data, self.path)
        header.check_version()
        tensors, values = header.number("<u8"), header.number("<u8")
        self.values: dict[str, Any] = {}
        for _ in range(values):
            name = header.text()
            if name in self.values:
                raise UserError(f"{path}: {name} stands twice in its header")
            self.values[name] = header.value(header.number("<u4"), name)
        if self.values.get("split.count", 1) > 1:
            raise UserError(
                f"{path} is one of {self.values['split.count']} parts of a model; llama.cpp's "
                "`llama-gguf-split --merge` makes one file of them"
            )
        infos = [header.tensor() for _ in range(tensors)]
        align = self.values.get("general.alignment", ALIGNMENT)
        if type(align) is not int or align < 1:
            raise UserError(f"{path}: general.alignment={align!r}; expected a number above 0")
        begin = -(-header.at // align) * align
        self.tensors = {t.name: t._replace(begin=begin + t.begin) for t in infos}
        if len(self.tensors) < len(infos):
            raise UserError(f"{path}: several of its tensors have one name")
        self._check_size()

    def _check_size(self) -> None:
        for t in self.tensors.values():
            end = t.begin + math.prod(t.shape[:-1]) * t.row_bytes
            if end > self.size:
                raise UserError(
                    f"{self.path}: truncated: its tensor {t.name} ends at byte {end:,}, the file "
                    f"has {self.size:,}"
                )

    def rows(self, name: str, index: Any = slice(None)) -> np.ndarray:
        """Rows of a tensor of at least two dimensions, or all of a vector, as float32."""
        t = self.tensors[name]
        count = math.prod(t.shape[:-1])
        held = np.frombuffer(self.data, np.uint8, count * t.row_bytes, t.begin)
        held = held.reshape(*t.shape[:-1], t.row_bytes)
        part = np.ascontiguousarray(held[index] if len(t.shape) > 1 else held)
        return dequantised(part, t.kind, f"{self.path}: {name}")


def dequantised(rows: np.ndarray, kind: str, where: str) -> np.ndarray:
    """The float32 values of rows of bytes."""
    import gguf

    try:
        return gguf.dequantize(rows, gguf.GGMLQuantizationType[kind])
    except NotImplementedError as e:
        raise UserError(
            f"{where} has the type {kind}, which the package gguf cannot read; known are "
            + ", ".join(readable_kinds())
        ) from e


def is_readable(kind: str) -> bool:
    return kind in readable_kinds()


@functools.cache
def readable_kinds() -> tuple[str, ...]:
    """The types of tensors that the package gguf reads, found out with a block of zeros each."""
    import gguf

    def reads(kind: gguf.GGMLQuantizationType) -> bool:
        try:
            gguf.dequantize(np.zeros((1, gguf.GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
        except NotImplementedError:
            return False
        return True

    return tuple(kind.name for kind in gguf.GGMLQuantizationType if reads(kind))


class _Header:
    """What is read of a file's begin, from `at` on."""

    def __init__(self, data: mmap.mmap | bytes, path: Path):
        self.data, self.path, self.at = data, path, 0

    def take(self, count: int) -> int:
        """Where the next `count` bytes begin, which are read by this; UserError where the file
        ends before."""
        begin, end = self.at, self.at + count
        if end > len(self.data):
            raise UserError(
                f"{self.path}: truncated: its header takes at least {end:,} bytes, the file has "
                f"{len(self.data):,}"
            )
        self.at = end
        return begin

    def number(self, kind: str) -> Any:
        return self.numbers(kind, 1)[0]

    def numbers(self, kind: str, count: int) -> list:
        begin = self.take(count * int(kind[2:]))
        return np.frombuffer(self.data, kind, count, begin).tolist()

    def text(self) -> str:
        begin = self.take(8)
        (count,) = struct.unpack_from("<Q", self.data, begin)
        begin = self.take(count)
        try:
            return self.data[begin : begin + count].decode("utf-8")
        except UnicodeDecodeError as e:
            raise UserError(f"{self.path}: a text at byte {begin:,} is not UTF-8 ({e})") from e

    def check_version(self) -> None:
        """UserError for a file that is no GGUF, or one of a form that is not read."""
        if self.data[:4] != MAGIC:
            raise UserError(f"{self.path} is no GGUF file: it does not begin with {MAGIC.decode()}")
        self.at = 4
        version = self.number("<u4")
        if version & 0xFFFF == 0 and version:
            raise UserError(f"{self.path} is big-endian: only little-endian GGUF files are read")
        if version not in VERSIONS:
            known = " and ".join(map(str, VERSIONS))
            raise UserError(f"{self.path} is GGUF of version {version}; known are {known}")

    def value(self, code: int, name: str) -> Any:
        if code == STRING:
            return self.text()
        if code == ARRAY:
            code, count = self.number("<u4"), self.number("<u8")
            if code == STRING:
                return [self.text() for _ in range(count)]
            values = self.numbers(self._kind(code, name), count)
            return [bool(v) for v in values] if code == BOOL else values
        value = self.number(self._kind(code, name))
        return bool(value) if code == BOOL else value

    def _kind(self, code: int, name: str) -> str:
        if code not in NUMBERS:
            raise UserError(f"{self.path}: {name} has a value of unknown type {code}")
        return NUMBERS[code]

    def tensor(self) -> Tensor:
        """An entry of the list of tensors; `begin` counts from the begin of all data."""
        import gguf

        name, dimensions = self.text(), self.number("<u4")
        if not 1 <= dimensions <= MAX_DIMENSIONS:
            raise UserError(f"{self.path}: {name} has {dimensions} dimensions")
        shape = tuple(reversed(self.numbers("<u8", dimensions)))
        code, begin = self.number("<u4"), self.number("<u8")
        try:
            kind = gguf.GGMLQuantizationType(code)
        except ValueError as e:
            raise UserError(
                f"{self.path}: {name} has a type of number {code}, which the package gguf does not "
                "know"
            ) from e
        block, size = gguf.GGML_QUANT_SIZES[kind]
        if shape[-1] % block:
            raise UserError(
                f"{self.path}: {name} has rows of {shape[-1]} values, and {kind.name} holds blocks "
                f"of {block}"
            )
        return Tensor(name, shape, kind.name, begin, shape[-1] // block * size)
