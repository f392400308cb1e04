# SPDX-License-Identifier: Apache-2.0
"""How long a step takes and what a run costs, by a model: no TPU was measured.

The roofline (Williams et al. 2009, doi:10.1145/1498765.1498785) with four roofs: products of
matrices at the chip's peak, HBM, the network of a slice (ICI) and the one between slices (DCN),
each at its published rate. `at_best`: all four at once, the slowest decides. `in_turn`: the
networks wait for the chip, and it for them. Neither knows that a kernel stays below the peak; a
measured step lies rather above `at_best` than below it.
"""

from typing import Any

from itx.config import RunConfig
from itx.plan.chips import Topology


def seconds(facts: dict[str, Any], devices: int, topology: Topology) -> dict[str, float]:
    """Of one run of a program, from its facts (itx/plan/compiled.py)."""
    chip = topology.chip
    moved = {"ICI": 0.0, "DCN": 0.0}
    for row in facts["collectives"]:
        moved[row["network"]] += row["moved_bytes"]
    out = {
        "compute": facts["flops"] / devices / (chip.flops / chip.devices),
        "hbm": facts["hbm_bytes"] / (chip.hbm_rate / chip.devices),
        "ici": moved["ICI"] / (chip.ici_rate / chip.devices),
        "dcn": moved["DCN"] / (chip.dcn_rate / chip.devices),
    }
    at_best = max(out.values())
    in_turn = max(out["compute"], out["hbm"]) + out["ici"] + out["dcn"]
    return out | {"at_best": at_best, "in_turn": in_turn}


def cost(
    config: RunConfig, step: dict[str, float], topology: Topology, price: float | None
) -> dict[str, Any]:
    """Tokens an hour, hours and money of the run's steps, as (at best, in turn).

    price: of a chip for an hour, in whatever currency.
    """
    d = config.data
    both = config.model.architecture == "encoder_decoder"
    tokens = d.global_batch * (d.sequence_length + (d.target_length if both else 0))
    ends = [step[name] for name in ("at_best", "in_turn")]
    hours = [s * config.train.steps / 3600 for s in ends]
    return {
        "tokens_per_step": tokens,
        "tokens_per_hour": [tokens * 3600 / s for s in ends],
        "steps": config.train.steps,
        "hours": hours,
        "chip_hours": [h * topology.chips for h in hours],
        "price_per_chip_hour": price,
        "money": None if price is None else [h * topology.chips * price for h in hours],
    }
