# SPDX-License-Identifier: Apache-2.0
"""How a run may be laid out on its devices, ranked by shapes, the best compiled: `itx plan
--sweep`.

A layout is a split of the mesh (data, fsdp, tensor), `model.remat` and `train.microbatches`; the
mathematics of the run is the same in all. Of each split and each remat the fewest microbatches are
taken that are predicted to fit (fast.py): more of them gather the weights more often and save
nothing else.

Layouts are ranked by the seconds of a step that a model of two roofs gives: products of matrices
(counted in the jaxpr) at the chip's peak, and what travels between chips by the textbook's formulas
(Rajbhandari et al. 2020, arXiv:1910.02054, for weights and gradients split over devices; Shoeybi et
al. 2019, arXiv:1909.08053, for layers split over them) at the network's rate. HBM is left out: what
a program reads of it only the compiled program tells.
"""

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp

from itx import flops, restore
from itx.config import RunConfig
from itx.errors import UserError
from itx.params import unbuilt_vocab_size
from itx.plan import changes, costs, fast, memory, programs
from itx.plan.changes import Change
from itx.plan.plan import Asked

COMPILED = 3  # layouts that are compiled, the best by the model
REMATS = ("none", "dots", "full")
MAX_TENSOR = 16


class Ranked(NamedTuple):
    """A layout that is predicted to fit, with the model's seconds of a step."""

    asked: Asked
    settings: tuple[str, ...]
    seconds: dict[str, float]
    predicted_bytes: int


def splits(config: RunConfig, devices: int) -> Iterator[tuple[int, int, int]]:
    """(data, fsdp, tensor) of a slice's devices, by powers of two."""
    model = config.model
    for tensor in _powers(min(MAX_TENSOR, devices)):
        if devices % tensor or model.num_kv_heads % tensor or model.mlp_dim % tensor:
            continue
        rest = devices // tensor
        for data in _powers(rest):
            if rest % data == 0:
                yield data, rest // data, tensor


def _powers(most: int) -> list[int]:
    return [1 << k for k in range(most.bit_length()) if 1 << k <= most]


def ranked(asked: Asked, say: Callable[[str], None]) -> tuple[list[Ranked], dict[str, int]]:
    """(layouts that are predicted to fit, the fastest first, {why others are not among them: how
    many})."""
    config = asked.config
    devices = asked.mesh.size // asked.mesh.shape["replica"]
    count = functools.cache(lambda remat: _flops(asked, remat))
    found, out = [], dict.fromkeys(("training refuses it", "predicted not to fit"), 0)
    for split, remat in itertools.product(splits(config, devices), REMATS):
        own = _fitting(asked, split, remat, out)
        if own is not None:
            other, settings, peak = own
            seconds = step_seconds(other, count(remat))
            found.append(Ranked(other, settings, seconds, peak))
    say(
        f"{len(found)} layouts are predicted to fit; "
        + "; ".join(f"{k}: {n}" for k, n in out.items())
    )
    found.sort(key=lambda r: (r.seconds["in_turn"], r.predicted_bytes))
    return found, out


def _fitting(
    asked: Asked, split: tuple[int, int, int], remat: str, out: dict[str, int]
) -> tuple[Asked, tuple[str, ...], int] | None:
    """The layout with the fewest microbatches that is predicted to fit, and its peak."""
    data, fsdp, tensor = split
    layout = (f"--mesh.data={data}", f"--mesh.fsdp={fsdp}", f"--mesh.tensor={tensor}")
    accepted = False
    for microbatches in _powers(asked.config.data.global_batch):
        settings = (*layout, f"--model.remat={remat}", f"--train.microbatches={microbatches}")
        try:
            other = changes.changed(asked, Change(settings, ""))
        except UserError:
            continue
        accepted = True
        predicted = fast.predict(other)
        if fast.fits(other, predicted):
            return other, settings, predicted["peak_bytes"]
        if fast.ruled_out(other, predicted):
            break  # no number of microbatches makes the arguments smaller
    out["predicted not to fit" if accepted else "training refuses it"] += 1
    return None


def _flops(asked: Asked, remat: str) -> float:
    """Of a step of all devices, which neither the mesh nor the microbatches change."""
    own = changes.changed(asked, Change((f"--model.remat={remat}",), ""))
    return flops.matmul_flops(programs.trace("train", own.config, own.mesh).traced.jaxpr)


def step_seconds(asked: Asked, step_flops: float) -> dict[str, float]:
    """costs.seconds of the model's figures, without HBM."""
    sent = [{"network": n, "moved_bytes": b} for n, b in sent_bytes(asked).items()]
    facts = {"flops": step_flops, "hbm_bytes": 0.0, "collectives": sent}
    return costs.seconds(facts, asked.mesh.size, asked.topology)


def sent_bytes(asked: Asked) -> dict[str, float]:
    """Bytes that a device sends in a step, by network, as rings would have it.

    Weights that fsdp splits are gathered for the forward and the backward pass, and once more where
    layers are computed again; gradients are scattered; what data and replicas hold alike is summed.
    Each layer that tensor splits sums its output twice a pass.
    """
    config, shape = asked.config, asked.mesh.shape
    fsdp, data, replica, tensor = (shape[axis] for axis in ("fsdp", "data", "replica", "tensor"))
    plan = restore.plan_model(config, unbuilt_vocab_size(config))
    state, frozen = restore.state_specs(plan, asked.mesh)
    itemsize = jnp.dtype(config.model.dtype).itemsize
    # of a device: its own part, and what it computes with once fsdp's parts are together
    weights = _numbers({**state["params"], **frozen}) * fsdp * itemsize
    gradients = _numbers(state["params"]) * fsdp * itemsize
    passes = 3 if config.model.remat == "full" else 2
    micro = config.train.microbatches
    over_fsdp = (passes * weights + gradients) * (fsdp - 1) / fsdp
    over_data = 2 * gradients / fsdp * (data - 1) / data
    over_tensor = passes * 2 * _activations(asked) * 2 * (tensor - 1) / tensor
    return {
        "ICI": micro * (over_fsdp + over_data) + over_tensor,
        "DCN": 2 * gradients / fsdp * (replica - 1) / replica,
    }


def _numbers(params: dict[str, Any]) -> float:
    """How many numbers of these parameters a device holds."""
    own = {path: spec for path, spec in params.items() if len(spec.shape) > 1}
    sizes = memory.argument_bytes(own)
    return sum(sizes[path] / spec.dtype.itemsize for path, spec in own.items())


def _activations(asked: Asked) -> float:
    """Bytes that the outputs of all layers have on a device in a step, all microbatches of it."""
    config = asked.config
    rows = fast.rows_per_device(config, asked.mesh) * config.train.microbatches
    places = sum(
        layers * length * (2 if crossed else 1)
        for layers, length, crossed in fast.stacks_of(config)
    )
    return rows * places * config.model.embed_dim * jnp.dtype(config.model.dtype).itemsize


def compiled(
    found: list[Ranked], max_seconds: float, clock: Callable[[], float], say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """[{"settings", "seconds", "predicted_bytes", "verdict", "peak_bytes"}], in the order of the
    ranking. Layouts are compiled until COMPILED of them fit; none begins after `max_seconds`."""
    told, fitting, began = [], 0, clock()
    for own in found:
        facts: dict[str, Any] = {
            "settings": list(own.settings),
            "seconds": own.seconds,
            "predicted_bytes": own.predicted_bytes,
        }
        told.append(facts)
        if fitting == COMPILED:
            facts["verdict"] = f"not compiled: {COMPILED} faster ones fit"
        elif clock() - began >= max_seconds:
            facts["verdict"] = f"not compiled: --max_seconds={max_seconds:g} were over"
        else:
            say(f"compiling {' '.join(own.settings)}")
            facts |= changes.by_compiler(own.asked, say)
            fitting += facts["verdict"] == "fits"
    return told
