# SPDX-License-Identifier: Apache-2.0
"""What an executable's HLO text says: which instructions run how often, what they move between
chips, and what they read and write in HBM.

The text is one computation after another; an instruction names its result's type, its operands and
the computations that it calls:

    %all-gather.1 = bf16[4096,128]{1,0:T(8,128)S(1)} all-gather(%x), channel_id=7, replica_groups=…

S(1) in a layout is memory on the chip (VMEM) rather than HBM. How often a loop runs stands in
its condition and in what its body adds to the counter: TPU executables carry no trip count.
"""

import collections
import math
import re
from typing import NamedTuple

import numpy as np

from itx.errors import RunFailed

BYTES = {
    **dict.fromkeys(("token", "opaque"), 0),
    **dict.fromkeys(("s2", "u2"), 0.25),
    **dict.fromkeys(("s4", "u4", "f4e2m1fn"), 0.5),
    **dict.fromkeys(("pred", "s8", "u8", "f8e4m3", "f8e5m2", "f8e3m4", "f8e8m0fnu"), 1),
    **dict.fromkeys(("f8e4m3fn", "f8e4m3b11fnuz", "f8e4m3fnuz", "f8e5m2fnuz"), 1),
    **dict.fromkeys(("bf16", "f16", "s16", "u16"), 2),
    **dict.fromkeys(("f32", "s32", "u32"), 4),
    **dict.fromkeys(("f64", "s64", "u64", "c64"), 8),
    "c128": 16,
}
ARRAY = re.compile(r"\b([a-z]+\d*\w*)\[([\d,]*)\](\{[^{}]*\})?")
HEAD = re.compile(r"(?:ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
CALLED = re.compile(r"(?:calls|to_apply|body|condition)=%?([\w.\-]+)")
CALLED_MANY = re.compile(r"(?:branch_computations|called_computations)=\{([^}]*)\}")
COLLECTIVES = (
    *("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute"),
    "ragged-all-to-all",
)
# What goes between slices is sent through the host, by libtpu's Megascale runtime
MEGASCALE = re.compile(r'_xla_megascale_transfer_type="(\w+)"')


class Instruction(NamedTuple):
    name: str
    type: str  # of its result
    op: str
    inside: str  # what stands between its brackets
    rest: str  # what stands behind them

    @property
    def operands(self) -> list[str]:
        """Names of instructions of the same computation."""
        return re.findall(r"%([\w.\-]+)", self.inside)


class Module(NamedTuple):
    computations: dict[str, dict[str, Instruction]]  # {name: {name: instruction}}
    entry: str
    runs: dict[str, float]  # how often each computation runs in one call of the program
    assumed_loops: list[int]  # how often loops run of which the text does not tell it


class Collective(NamedTuple):
    """One collective operation of the program."""

    kind: str
    count: float  # how often it runs
    size: int  # bytes of the whole array that is gathered, reduced or sent
    moved: float  # bytes that a chip sends, by the textbook's ring, all runs together
    group: int  # devices that take part together
    crosses: bool  # whether a group spans several slices
    assumed: bool  # whether the text does not tell the groups, and all devices are taken for one


def parse(text: str, trips: int = 1) -> Module:
    """An executable's text.

    Args:
        trips: how often a loop runs whose condition compares with no constant.
    """
    computations: dict[str, dict[str, Instruction]] = {}
    entry = name = ""
    for line in text.splitlines():
        if not name and (head := HEAD.match(line)):
            name = head[1]
            entry = name if line.startswith("ENTRY") else entry
            computations[name] = {}
        elif line.startswith("}") and not line.startswith("}}"):  # }} ends a kernel's metadata
            name = ""
        elif name and (found := _instruction(line)):
            computations[name][found.name] = found
    return Module(computations, entry, *_runs(computations, entry, trips))


def _instruction(line: str) -> Instruction | None:
    match = re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = ", line)
    if not match:
        return None
    begin = match.end()
    end = _closing(line, begin) + 1 if line[begin] == "(" else line.index(" ", begin)
    op = re.match(r"\s*([\w\-]+)\(", line[end:])
    if not op:
        return None
    opening = end + op.end() - 1
    closing = _closing(line, opening)
    inside, rest = line[opening + 1 : closing], line[closing + 1 :]
    return Instruction(match[1], line[begin:end], op[1], inside, rest)


def _closing(line: str, opening: int) -> int:
    """The place of the bracket that closes the one at `opening`."""
    depth = 0
    for i in range(opening, len(line)):
        depth += (line[i] == "(") - (line[i] == ")")
        if not depth:
            return i
    return len(line) - 1


def called(instruction: Instruction) -> list[str]:
    """The computations that an instruction calls."""
    rest = instruction.rest.split(", metadata=")[0]
    many = [re.findall(r"[\w.\-]+", part) for part in CALLED_MANY.findall(rest)]
    return [*CALLED.findall(rest), *(name for names in many for name in names)]


def _runs(computations: dict, entry: str, trips: int) -> tuple[dict[str, float], list[int]]:
    """How often each computation runs; how often the loops do of which the text does not tell
    it."""
    runs: dict[str, float] = collections.defaultdict(float)
    assumed: dict[tuple[str, str], int] = {}

    def go(name: str, times: float) -> None:
        runs[name] += times
        for instruction in computations[name].values():
            again = times
            if instruction.op == "while":
                count, is_told = _trip_count(computations, instruction, trips)
                again *= count
                if not is_told:
                    assumed[name, instruction.name] = count
            for callee in called(instruction):
                if callee in computations:
                    go(callee, again)

    if entry:
        go(entry, 1.0)
    return runs, list(assumed.values())


def _trip_count(computations: dict, loop: Instruction, trips: int) -> tuple[int, bool]:
    """(how often a loop runs, whether the text tells it): `trips` without a bound, and as if its
    counter rose by one where its step cannot be read."""
    if known := re.search(r'known_trip_count":\{"n":"(\d+)"', loop.rest):
        return int(known[1]), True
    condition, body = (
        computations[re.search(rf"{part}=%?([\w.\-]+)", loop.rest)[1]]
        for part in ("condition", "body")
    )
    counter, bound = _compared(condition)
    if not bound:
        return trips, False
    end = list(body.values())[-1].operands  # what the next turn takes
    increment = body.get(end[counter]) if counter < len(end) else None
    by = [body[name] for name in increment.operands if name in body] if increment else []
    steps = [int(i.inside) for i in by if i.op == "constant" and i.inside.isdigit()]
    if increment is None or increment.op != "add" or len(steps) != 1 or not steps[0]:
        return bound, False
    return math.ceil(bound / steps[0]), True


def _compared(condition: dict[str, Instruction]) -> tuple[int, int]:
    """(which of the loop's values counts its turns, what it stays below); (0, 0) where that is no
    constant."""
    for instruction in condition.values():
        if instruction.op != "compare":
            continue
        sides = [condition[name] for name in instruction.operands if name in condition]
        counts = [re.search(r"index=(\d+)", i.rest) for i in sides if i.op == "get-tuple-element"]
        bounds = [int(i.inside) for i in sides if i.op == "constant" and i.inside.isdigit()]
        if counts and counts[0] and bounds:
            return int(counts[0][1]), bounds[0]
    return 0, 0


def size_of(type: str, where: int | None = None) -> int:
    """Bytes of the arrays of a type, unpadded; of one memory space alone (0: HBM). RunFailed where
    it has numbers of an unknown size."""
    total = 0
    for kind, dims, layout in ARRAY.findall(type):
        if kind not in BYTES:
            raise RunFailed(
                f"the compiler's program has {kind}[{dims}], numbers of an unknown size: BYTES in "
                "itx/plan/hlo.py needs a line for them"
            )
        space = re.search(r"S\((\d+)\)", layout)
        if where is None or where == (int(space[1]) if space else 0):
            total += math.ceil(BYTES[kind] * math.prod(int(d) for d in dims.split(",") if d))
    return total


# ---------------------------------------------------------------- between chips


def collectives(module: Module, devices: int, slices: int = 1) -> list[Collective]:
    """The collectives of a program on so many devices, slice by slice.

    Of an asynchronous one the parts (its start, the fusions that it hides behind, its end) each
    hold a copy; they share a channel and count once, as often as it starts: a fusion within a loop
    runs more often, and each time takes it a bit further.
    """
    fused = {c for i in _instructions(module) if i.op == "fusion" for c in called(i)}
    found: dict[tuple, tuple[Instruction, float]] = {}
    for place, instructions in module.computations.items():
        times = module.runs.get(place, 0.0)
        for instruction in instructions.values() if times else ():
            kind = instruction.op.removesuffix("-start")
            if between := MEGASCALE.search(instruction.rest) if kind == "send" else None:
                kind = between[1].lower().replace("_", "-")
            if kind not in COLLECTIVES:
                continue
            channel = re.search(r"channel_id=(\d+)", instruction.rest)
            key = (kind, channel[1] if channel and place in fused else (place, instruction.name))
            before = found.get(key, (None, math.inf))[1]
            found[key] = (instruction, min(before, times))
    return [
        _collective(kind, instruction, times, devices, slices)
        for (kind, _), (instruction, times) in found.items()
    ]


def _instructions(module: Module):
    return (i for instructions in module.computations.values() for i in instructions.values())


def _collective(
    kind: str, instruction: Instruction, times: float, devices: int, slices: int
) -> Collective:
    assumed = False
    if instruction.op == "send":  # one member of a group in each slice
        n, crosses = slices, True
        size = size_of("{}[{}]".format(*ARRAY.findall(instruction.type)[0][:2]))
    else:
        groups = _groups(instruction.rest, devices)
        assumed = groups is None
        groups = np.arange(devices)[None] if groups is None else groups
        n = groups.shape[1]
        of_slice = groups // max(1, devices // slices)
        crosses = bool((of_slice != of_slice[:, :1]).any())
        size = size_of(_result(instruction))
    if kind == "reduce-scatter":
        size *= n
    share = {"all-reduce": 2 * (n - 1) / n, "collective-permute": 1.0}.get(kind, (n - 1) / n)
    return Collective(kind, times, size, size * share * times, n, crosses, assumed)


def _result(instruction: Instruction) -> str:
    """The type of what a collective leaves behind on a device, of one array or several.

    That of an asynchronous one's start is (operands, results, counters of its own), as many results
    as operands; of an all-reduce's start it is the results alone, as XLA infers it.
    """
    op, arrays = instruction.op, ARRAY.findall(instruction.type)
    if not op.endswith("-start") or op == "all-reduce-start":
        return instruction.type
    many = len(instruction.operands)
    if not many or len(arrays) < 2 * many:
        raise RunFailed(
            f"the compiler's program has {op} of {many} arrays with the type {instruction.type}, "
            "and (operands, results, …) was expected: itx/plan/hlo.py does not know this form"
        )
    return " ".join("{}[{}]".format(*array[:2]) for array in arrays[many : 2 * many])


def _groups(rest: str, devices: int) -> np.ndarray | None:
    """int [groups, devices of one]: who takes part together; None where the text does not tell
    it."""
    if pairs := re.search(r"source_target_pairs=\{((?:\{\d+,\d+\},?)*)\}", rest):
        ids = [int(x) for x in re.findall(r"\d+", pairs[1])]
        return np.array(ids or [0, 0]).reshape(-1, 2)
    if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\] ?\{([^}]*)\}", rest):
        sizes = {name: int(n) for name, n in re.findall(r"'([^']+)'=(\d+)", mesh[1])}
        axes = re.findall(r"'([^']+)'", mesh[2])
        places = np.arange(math.prod(sizes.values())).reshape(tuple(sizes.values()))
        last = [list(sizes).index(a) for a in axes]
        order = [i for i in range(len(sizes)) if i not in last] + last
        return places.transpose(order).reshape(-1, math.prod(sizes[a] for a in axes))
    if iota := re.search(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", rest):
        dims = [int(d) for d in iota[3].split(",")]
        order = [int(d) for d in iota[4].split(",")] if iota[4] else range(len(dims))
        places = np.arange(math.prod(dims)).reshape(dims).transpose(list(order))
        return places.reshape(int(iota[1]), int(iota[2]))
    if given := re.search(r"replica_groups=\{((?:\{[\d,]+\},?)+)\}", rest):
        return np.array(
            [[int(x) for x in g.split(",")] for g in re.findall(r"\{([\d,]+)\}", given[1])]
        )
    return np.arange(devices)[None] if "replica_groups={}" in rest else None


# ---------------------------------------------------------------- HBM

# Instructions that name memory and move none
FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional"),
    *("call", "after-all", "partition-id", "iota", "async-start", "async-done", "custom-call-done"),
}
SLICES = ("dynamic-slice", "slice", "gather")


def hbm_bytes(module: Module) -> float:
    """Bytes that one device reads and writes in HBM, about: each instruction reads its operands and
    writes its result. Of an operand that is only sliced the slices count, and of a result that is
    an array with a part replaced the part."""
    fused = {c for i in _instructions(module) if i.op == "fusion" for c in called(i)}
    applied = {
        m for i in _instructions(module) for m in re.findall(r"to_apply=%?([\w.\-]+)", i.rest)
    }
    return sum(
        times * sum(_moved(module, instructions, i) for i in instructions.values())
        for place, instructions in module.computations.items()
        if (times := module.runs.get(place, 0.0)) and place not in fused | applied
    )


def _moved(module: Module, around: dict[str, Instruction], instruction: Instruction) -> int:
    op, result = instruction.op, instruction.type
    if op in FREE or op.endswith("-done") or "AllocateBuffer" in instruction.rest:
        return 0
    operands = [around[name].type for name in instruction.operands if name in around]
    if op == "copy-start":
        return sum(size_of(t, 0) for t in operands)
    if op in SLICES or op == "slice-start":
        return size_of(result, 0) if op in SLICES else size_of(_second(result))
    if op == "dynamic-update-slice":
        return 2 * size_of(operands[1], 0)
    if op.endswith("-start"):
        return 2 * sum(size_of(t, 0) for t in operands)
    if op != "fusion":
        return size_of(result, 0) + sum(size_of(t, 0) for t in operands)
    body = module.computations[called(instruction)[0]]
    inputs = {int(i.inside): i for i in body.values() if i.op == "parameter"}
    read = sum(_read(body, inputs[k], t) for k, t in enumerate(operands) if k in inputs)
    replaced = [i for i in body.values() if i.op == "dynamic-update-slice"]
    written = size_of(result, 0)
    for i in replaced:  # in place: neither read nor written but for the part
        whole, part = (size_of(body[name].type) for name in i.operands[:2])
        written -= min(written, whole) - part
    return read + max(0, written)


def _second(type: str) -> str:
    return ["{}[{}]".format(*m[:2]) for m in ARRAY.findall(type)][1]


def _read(body: dict[str, Instruction], parameter: Instruction, type: str) -> int:
    users = [i for i in body.values() if parameter.name in i.operands]
    if users and all(i.op in SLICES for i in users):
        return sum(size_of(i.type) for i in users) if size_of(type, 0) else 0
    if users and all(
        i.op == "dynamic-update-slice" and i.operands[0] == parameter.name for i in users
    ):
        return 0
    return size_of(type, 0)
