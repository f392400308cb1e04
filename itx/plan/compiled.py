# SPDX-License-Identifier: Apache-2.0
"""A program is compiled for its devices, and what the compiler then says of it.

The facts of a program, as --json has them:

    program, shape, mesh, fits, reason (why not)
    peak_bytes      most HBM of a device that is in use at once; `parts` names it
    held_bytes      what the run keeps besides, and this program does not read
    limit_bytes     what the compiler lets a device's programs take
    flops           products of matrices, of all devices (itx/flops.py)
    hbm_bytes       read and written by a device (itx/plan/hlo.py)
    collectives     [{kind, network, operations, runs, moved_bytes}]: sent by a device
    assumed         {loops: [runs], groups}: loops of which the program's text does not tell how
                    often they run, with the number that counts; collectives of which it does not
                    tell the groups, and all devices count as one
    compile_seconds, host_peak_bytes (of this process so far)
"""

import re
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax

from itx import flops, movement
from itx.errors import RunFailed
from itx.plan import devices, hlo, memory
from itx.plan.chips import GIB, Topology
from itx.plan.programs import Program

# The compiler's words where a program takes more memory than there is
NO_ROOM = re.compile(r"RESOURCE_EXHAUSTED|CompileTimeHbmOom")


def compile_program(
    name: str, program: Program, topology: Topology, layers: list[int], held: int = 0
) -> tuple[dict[str, Any], Any]:
    """(facts, the executable or None where it does not fit); RunFailed where the compiler fails for
    another reason than memory, of which nothing follows.

    Args:
        layers: of the model's stacks.
        held: bytes of a device that the run holds beside the program's own arguments.
    """
    arguments = memory.argument_bytes(program.arguments)
    facts = {
        "program": name,
        "shape": program.shape,
        "mesh": {axis: n for axis, n in program.mesh.shape.items() if n > 1},
        "limit_bytes": topology.chip.usable_bytes,
        "flops": flops.matmul_flops(program.traced.jaxpr, program.trips),
    }
    began = time.monotonic()
    with (
        tempfile.TemporaryDirectory() as folder,
        movement.alive(f"compiling {name}"),
        devices.kept_out_of_the_cache(),
    ):
        try:
            executable = program.traced.lower().compile({"xla_dump_to": folder})
        except jax.errors.JaxRuntimeError as e:
            if not NO_ROOM.search(str(e)):
                raise RunFailed(f"{name}: {refusal(e)}") from e
            facts |= {"fits": False, "reason": refusal(e), "arguments": arguments}
            return facts | _efforts(began), None
        facts |= _efforts(began)
        shapes = memory.shapes_of(program.arguments, layers)
        temporaries = memory.peak_parts(Path(folder), shapes)
    facts |= _memory_facts(executable, arguments, temporaries, held)
    over = facts["peak_bytes"] + facts["held_bytes"] - facts["limit_bytes"]
    facts["fits"], facts["reason"] = over <= 0, ""
    if over > 0:
        facts["reason"] = (
            f"the program takes {facts['peak_bytes'] / GIB:.2f} GiB and the run holds "
            f"{facts['held_bytes'] / GIB:.2f} GiB besides, {over / GIB:.2f} GiB too much"
        )
    module = hlo.parse(executable.as_text(), program.trips)
    found = hlo.collectives(module, program.mesh.size, topology.slices)
    facts |= {"hbm_bytes": hlo.hbm_bytes(module), "collectives": summed(found)}
    facts["assumed"] = {
        "loops": module.assumed_loops,
        "groups": sum(c.assumed for c in found),
    }
    return facts, executable


def refusal(error: Exception) -> str:
    """The compiler's reason in one line."""
    said = " ".join(str(error).split()).partition(" See https")[0]
    no_room = said.partition("RESOURCE_EXHAUSTED: ")[2]
    return no_room or f"the compiler fails: {said[:300]}"


def _efforts(began: float) -> dict[str, float]:
    unit = 1 if sys.platform == "darwin" else 1024  # what getrusage counts in
    return {
        "compile_seconds": round(time.monotonic() - began, 1),
        "host_peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
    }


def _memory_facts(
    executable: Any, arguments: dict[str, int], temporaries: dict[str, int], held: int
) -> dict[str, Any]:
    """Sizes on a device. The program's arguments leave out arrays that it does not read."""
    stats = executable.memory_analysis()
    whole = sum(arguments.values())
    read = stats.argument_size_in_bytes
    not_read = max(0, whole - read)
    if not_read and "parameters" in arguments:  # decode reads what `reading.ready` made of them
        kept = max(0, arguments["parameters"] - not_read)
        arguments = {**arguments, "parameters": kept}
    peak = stats.peak_memory_in_bytes
    rest = memory.unnamed(temporaries, peak - sum(arguments.values()))
    return {
        "peak_bytes": peak,
        "parts": {name: size for name, size in (arguments | rest).items() if size},
        "argument_bytes": read,
        "output_bytes": stats.output_size_in_bytes,
        "aliased_bytes": stats.alias_size_in_bytes,
        "temporary_bytes": peak - read,
        "code_bytes": stats.generated_code_size_in_bytes,
        "held_bytes": held + not_read,
    }


def summed(found: list[hlo.Collective]) -> list[dict[str, Any]]:
    """Collectives by kind and network, those that move most first."""
    rows: dict[tuple, dict] = {}
    for c in found:
        network = "DCN" if c.crosses else "ICI"
        row = rows.setdefault(
            (c.kind, network),
            {"kind": c.kind, "network": network, "operations": 0, "runs": 0, "moved_bytes": 0.0},
        )
        row["operations"] += 1
        row["runs"] += c.count
        row["moved_bytes"] += c.moved
    return sorted(rows.values(), key=lambda row: -row["moved_bytes"])
