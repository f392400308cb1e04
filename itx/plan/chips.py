# SPDX-License-Identifier: Apache-2.0
"""What a TPU chip can do and hold: the one table of published figures, and the names of slices.

A figure of a chip is shared by its JAX devices (`Chip.devices`; the two cores of a tpu7x are two
devices, those of a v5p are one).
"""

import math
import re
from typing import NamedTuple

from itx.errors import UserError, did_you_mean

GB, GIB, TERA = 1e9, 2**30, 1e12
DOCS = "https://docs.cloud.google.com/tpu/docs/"


class Chip(NamedTuple):
    """A generation of chips; figures are of one chip, from `source` if no other is named."""

    name: str  # as libtpu's topologies are called
    aliases: tuple[str, ...]
    source: str
    flops: float  # products and sums of bfloat16 per second, at peak
    hbm_bytes: float  # as published
    # What the compiler lets the programs of one *device* take: "available HBM" of its error
    # CompileTimeHbmOom in libtpu 0.0.50.1
    usable_bytes: float
    hbm_rate: float  # bytes per second
    # Bytes per second that it sends to other chips of its slice when all its links work: half of
    # the published figure, which counts both directions
    ici_rate: float
    dcn_rate: float  # bytes per second to other slices: the network of a host or pod over its chips
    counted: int  # a name such as v5p-128 counts so many for each chip (TensorCores or chips)
    devices: int  # JAX devices per chip
    dimensions: int  # of the torus
    largest: int  # chips of a slice


CHIPS = (
    Chip(
        *("v5e", ("v5litepod", "v5lite"), DOCS + "v5e"),
        *(197 * TERA, 16 * GIB, 15.75 * GIB, 819 * GB, 200 * GB),
        6.4e12 / 8 / 256,  # "data center network bandwidth per Pod" of 256 chips
        *(1, 1, 2, 256),
    ),
    Chip(
        *("v5p", (), DOCS + "v5p"),
        *(459 * TERA, 95 * GIB, 95.73 * GIB, 2765 * GB, 600 * GB),
        50e9 / 8,  # "data center network (DCN) bandwidth per chip"
        *(2, 1, 3, 6144),
    ),
    Chip(
        *("v6e", ("trillium",), DOCS + "v6e"),
        *(918 * TERA, 32 * GIB, 31.24 * GIB, 1638 * GB, 400 * GB),
        25.6e12 / 8 / 256,  # "data center network bandwidth per Pod" of 256 chips
        *(1, 1, 2, 256),
    ),
    Chip(
        *("tpu7x", ("v7x", "v7", "ironwood"), DOCS + "tpu7x"),
        *(2307 * TERA, 192 * GIB, 94.74 * GIB, 7380 * GB, 600 * GB),
        100e9 / 8,  # "data center network (DCN) bandwidth per chip"
        *(2, 2, 3, 9216),
    ),
)

# The shapes that Google Cloud lists for a number of chips, by the torus's dimensions
SHAPES = {
    2: ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
    3: (
        *("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16"),
        *("8x16x16", "16x16x16", "16x16x24"),
    ),
}


class Topology(NamedTuple):
    """Slices of chips, all of one shape."""

    chip: Chip
    shape: tuple[int, ...]
    slices: int = 1

    @property
    def name(self) -> str:
        """As libtpu calls one slice: v5e:4x4."""
        return f"{self.chip.name}:{'x'.join(map(str, self.shape))}"

    @property
    def chips(self) -> int:
        return math.prod(self.shape) * self.slices

    def __str__(self) -> str:
        several = f"{self.slices} slices of " if self.slices > 1 else ""
        return f"{several}{self.name} ({self.chips} chips)"


def topology(name: str, slices: int = 1) -> Topology:
    """The slices that a name means; UserError for one that means none.

    >>> topology("v5litepod-16").name, topology("v5p-128").name, topology("tpu7x-8").name
    ('v5e:4x4', 'v5p:4x4x4', 'tpu7x:2x2x1')
    """
    if slices < 1:
        raise UserError(f"--slices={slices}: a run takes at least one")
    match = re.fullmatch(r"([a-z0-9]+)([:=_-])([0-9]+(?:x[0-9]+)*)", name.strip().lower())
    kind, sign, size = match.groups() if match else (name.lower(), "", "")
    chip = next((c for c in CHIPS if kind in (c.name, *c.aliases)), None)
    if chip is None or not size:
        raise UserError(f"--topology={name}: no such TPU" + did_you_mean(name.lower(), names()))
    if sign == "-" and "x" not in size:
        return Topology(chip, _shape(chip, name, int(size)), slices)
    shape = tuple(map(int, size.split("x")))
    of_chip = [f"{chip.name}:{s}" for s in SHAPES[chip.dimensions]]
    if len(shape) != chip.dimensions:
        raise UserError(
            f"--topology={name}: a slice of {chip.name} has {chip.dimensions} dimensions"
            + did_you_mean(name, of_chip)
        )
    if not 0 < math.prod(shape) <= chip.largest:
        raise UserError(
            f"--topology={name}: {math.prod(shape)} chips, and a slice of {chip.name} has 1 to "
            f"{chip.largest}"
        )
    return Topology(chip, shape, slices)


def names() -> list[str]:
    """Every name of a slice that is listed, in both forms."""
    return [
        name
        for chip in CHIPS
        for shape in SHAPES[chip.dimensions]
        for name in (f"{chip.name}:{shape}", f"{chip.name}-{_count(shape) * chip.counted}")
    ]


def _count(shape: str) -> int:
    return math.prod(map(int, shape.split("x")))


def _shape(chip: Chip, name: str, number: int) -> tuple[int, ...]:
    """The shape that is listed for a name's number; UserError where none is."""
    by_number = {_count(s) * chip.counted: s for s in SHAPES[chip.dimensions]}
    by_number = {n: s for n, s in by_number.items() if n <= chip.largest * chip.counted}
    if number not in by_number:
        near = sorted(by_number, key=lambda n: abs(math.log(n / max(number, 1))))[:2]
        what = "TensorCores" if chip.counted > 1 else "chips"
        raise UserError(
            f"--topology={name}: no slice of {chip.name} with {number} {what} is listed; near are "
            + " and ".join(f"{chip.name}-{n} ({chip.name}:{by_number[n]})" for n in sorted(near))
        )
    return tuple(map(int, by_number[number].split("x")))
