# SPDX-License-Identifier: Apache-2.0
"""A run on a topology: each of its programs is compiled, and told is whether it fits, what it takes
and about how long."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

from jax.sharding import Mesh

from itx import restore, train, versions
from itx.config import RunConfig
from itx.params import unbuilt_vocab_size
from itx.plan import compiled, costs, devices, memory, programs
from itx.plan.chips import GIB, Topology

# What runs while the training state stays: scores on dev (itx/eval/dev.py). Losses of texts are
# taken before training and after it.
OF_DEV = ("rank", "prefill", "decode")


class Asked(NamedTuple):
    """What is planned: a run on these devices."""

    config: RunConfig
    topology: Topology
    mesh: Mesh


def ask(config: RunConfig, topology: Topology, say: Callable[[str], None]) -> Asked:
    """The run on a topology; UserError where training would refuse it: a batch that its devices
    and microbatches do not divide."""
    config, mesh, lines = devices.mesh_of(config, topology)
    train.check_divisible(config, mesh)
    for line in lines:
        say(line)
    return Asked(config, topology, mesh)


def plan(asked: Asked, names: list[str], say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Facts of each program of `names`, in their order (itx/plan/compiled.py)."""
    held = bytes_beside_dev(asked) if asked.config.eval.every else 0
    facts: list[dict[str, Any]] = []
    before = None
    wanted = [n for n in programs.NAMES if n in names or n == "prefill" and "decode" in names]
    for name in wanted:
        if name == "decode" and before is None:
            facts.append(_skipped(name, "its prompts' program (prefill) does not fit"))
            continue
        began = time.monotonic()
        program = programs.trace(name, asked.config, asked.mesh, before)
        own, before_or_none = compiled.compile_program(
            name,
            program,
            asked.topology,
            layers_of(asked.config),
            held if name in OF_DEV else 0,
        )
        before = before_or_none if name == "prefill" else before
        if "hbm_bytes" in own:
            own["seconds"] = costs.seconds(own, program.mesh.size, asked.topology)
        own["total_seconds"] = round(time.monotonic() - began, 1)
        facts.append(own)
        say(in_a_line(own))
    return facts


def _skipped(name: str, reason: str) -> dict[str, Any]:
    return {"program": name, "fits": False, "reason": reason, "skipped": True}


def in_a_line(facts: dict[str, Any]) -> str:
    """A program's verdict as it is known."""
    took = f"compiled in {facts['compile_seconds']:.0f} s"
    if "peak_bytes" not in facts:
        return f"{facts['program']}: does not fit ({facts['reason']})"
    verdict = "fits" if facts["fits"] else f"does not fit ({facts['reason']})"
    return f"{facts['program']}: {facts['peak_bytes'] / GIB:.2f} GiB, {verdict}; {took}"


def layers_of(config: RunConfig) -> list[int]:
    """How many layers the model's stacks have."""
    model = config.model
    return sorted({model.num_layers, model.encoder_layers or model.num_layers})


def bytes_beside_dev(asked: Asked) -> int:
    """Bytes of a device that training holds while dev is scored, beside the parameters that are
    asked: those lie in the same memory where the layout for generation leaves a parameter as
    training splits it, and else are a copy."""
    config = programs.without_files(asked.config)
    plan = restore.plan_model(config, unbuilt_vocab_size(config))
    state, frozen = restore.state_specs(plan, asked.mesh)
    placed = programs.abstract_loaded(config, asked.mesh).params
    shared = {
        p: spec
        for p, spec in {**frozen, **restore.evaluated(state)}.items()
        if spec.sharding.is_equivalent_to(placed[p].sharding, len(spec.shape))
    }
    held = memory.argument_bytes({"state": state, "frozen": frozen, "shared": shared})
    return held["state"] + held["frozen"] - held["shared"]


def environment() -> dict[str, str]:
    """The versions that the figures are of."""
    libraries = {name: versions.version_of(name) for name in ("jax", "libtpu")}
    return {"code": versions.code_version(), **libraries}
