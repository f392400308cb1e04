# SPDX-License-Identifier: Apache-2.0
"""What stands in a device's HBM when most does: arguments by their shardings, temporaries by the
compiler's own assignment of buffers.

The compiler writes two files: which value has which place in memory, and from which instruction to
which it lives. The values that live at the peak are named by their shape: a value as large as a
parameter's part of a device is its gradient (float32) or a copy for products (bfloat16), one whose
first axis is the layers was kept for the backward pass, one with the vocabulary as an axis belongs
to the output layer.
"""

import collections
import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import jax

from itx.plan.hlo import ARRAY

MIN_BYTES = 2**16  # smaller values are counters and tokens of synchronisation: not named
REST = "activations and the rest"


class Shapes(NamedTuple):
    """What a value's shape is compared with."""

    parts: frozenset  # (sizes of a parameter's part on a device, sorted)
    layers: frozenset  # numbers of layers
    vocab: frozenset  # sizes of the vocabulary axis, whole and split


def argument_bytes(arguments: dict[str, Any]) -> dict[str, int]:
    """{what it is: bytes on a device} of trees of specs."""
    return {name: sum(map(_shard_bytes, jax.tree.leaves(tree))) for name, tree in arguments.items()}


def _shard(spec: Any) -> tuple[int, ...]:
    return spec.sharding.shard_shape(spec.shape) if spec.sharding else spec.shape


def _shard_bytes(spec: Any) -> int:
    return math.prod(_shard(spec)) * spec.dtype.itemsize


def shapes_of(arguments: dict[str, Any], layers: list[int]) -> Shapes:
    """What the values of a program with these arguments are compared with."""
    leaves = [
        (path, leaf)
        for name, tree in arguments.items()
        if "parameters" in name
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    ]
    rows = {leaf.shape[0] for path, leaf in leaves if "embedding" in str(path[-1:])}
    vocab = {s for n in rows for s in (n, *(_shard(leaf)[i] for _, leaf in leaves
             for i, m in enumerate(leaf.shape) if m == n))}  # fmt: skip
    parts = frozenset(_sizes(_shard(leaf)) for _, leaf in leaves if len(leaf.shape) > 1)
    return Shapes(parts, frozenset(layers), frozenset(vocab))


def _sizes(dims: tuple[int, ...]) -> tuple[int, ...]:
    """The axes of an array whatever their order, without those of length 1."""
    return tuple(sorted(d for d in dims if d > 1))


def peak_parts(folder: Path, shapes: Shapes) -> dict[str, int]:
    """{what it is: bytes} of the temporaries at their peak, from the compiler's files; {} where it
    wrote none."""
    assigned = next(folder.rglob("*-buffer-assignment.txt"), None)
    lived = next(folder.rglob("*-live-range.txt"), None)
    if not assigned or not lived:
        return {}
    lives = _lives(lived.read_text("utf-8", "replace"))
    values = [v for v in _values(assigned.read_text("utf-8", "replace")) if v[0] in lives]
    parts: dict[str, int] = collections.defaultdict(int)
    for type, size in _at_peak(values, lives):
        parts[_name(type, shapes)] += size
    return dict(parts)


def _values(text: str) -> list[tuple[str, str, int, int, int]]:
    """(name, type, allocation, offset, bytes) of values among HBM's temporaries."""
    out, allocation, is_temporary = [], 0, False
    for line in text.splitlines():
        if head := re.match(r"allocation (\d+): ", line):
            allocation = int(head[1])
            is_temporary = "preallocated-temp" in line and "color" not in line
        elif is_temporary and (
            found := re.match(r" value: <\d+ (.*) @\d+> \(size=(\d+),offset=(\d+)\): (.*)", line)
        ):
            name = found[1].removesuffix(" (phi)")
            name = name if name.endswith("}") else name + "{}"
            if int(found[2]) >= MIN_BYTES:
                out.append((name, found[4], allocation, int(found[3]), int(found[2])))
    return out


def _lives(text: str) -> dict[str, tuple[int, int]]:
    """{value's name: (first instruction, last)}."""
    text = text.partition("BufferLiveRange:")[2].partition("Live ranges at")[0]
    found = re.findall(r"^\s+(\S+\{[\d,]*\}):(\d+)-(\d+)$", text, re.M)
    return {name: (int(begin), int(end)) for name, begin, end in found}


def _at_peak(values: list[tuple], lives: dict[str, tuple[int, int]]) -> list[tuple[str, int]]:
    """(type, bytes) of what lives when most does; values in one place count once."""
    best, most = [], 0
    for moment in sorted({lives[v[0]][0] for v in values}):
        alive = [v for v in values if lives[v[0]][0] <= moment <= lives[v[0]][1]]
        kept, total, ends = [], 0, {}
        for _, type, allocation, offset, size in sorted(alive, key=lambda v: (v[2], v[3], -v[4])):
            new = offset + size - max(offset, ends.get(allocation, 0))
            if new > 0:
                kept.append((type, new))
                total += new
                ends[allocation] = offset + size
        if total > most:
            best, most = kept, total
    return best


def _name(type: str, shapes: Shapes) -> str:
    kind, dims, _ = ARRAY.findall(type)[0]
    dims = tuple(int(d) for d in dims.split(",") if d)
    if _sizes(dims) in shapes.parts:
        return "gradients" if kind == "f32" else "copies of weights for products"
    if shapes.vocab & {*dims}:
        return "output layer and embedding"
    if dims and dims[0] in shapes.layers and len(dims) > 2:
        return "kept for the backward pass"
    return REST


def unnamed(parts: dict[str, int], total: int) -> dict[str, int]:
    """The parts, largest first, with what is left of the total under `REST`."""
    parts = dict(parts)
    parts[REST] = parts.get(REST, 0) + total - sum(parts.values())
    return dict(sorted(parts.items(), key=lambda kv: -kv[1]))
