# SPDX-License-Identifier: Apache-2.0
"""How two sides of an equality are compared (itx/checks.py): steps, curves, logits; and the largest
difference of theirs, relative to the largest value.
"""

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from itx import mesh as meshes
from itx import peft, train
from itx.config import MeshConfig, OptimConfig, RunConfig
from itx.data.loader import Batch
from itx.log import TIMING, read_metrics
from itx.params import Params, module_of
from itx.runs import RunFolder

# Sums in float32 in another order differ by some 1e-7 of their size for each time that they are
# added up again; a fault shows at 1e-3 and above.
MAX_LOSS, MAX_GRADIENT, MAX_LOGITS = 1e-5, 2e-4, 2e-5
# gradients below this share of the largest are rounding, as that of a key's bias, which softmax
# takes no note of
NOISE = 1e-3
MIN_CONTROL = 1e-3  # by which two sides differ where they must
# data, fsdp, tensor (and replica): the first is what the others are compared with
MESHES = {
    "1×1": MeshConfig(data=1),
    "data 8": MeshConfig(data=8),
    "fsdp 4 × tensor 2": MeshConfig(data=1, fsdp=4, tensor=2),
    "fsdp 2 × tensor 4": MeshConfig(data=1, fsdp=2, tensor=4),
    "replica 2 × fsdp 2 × tensor 2": MeshConfig(replica=2, data=1, fsdp=2, tensor=2),
}
# The step is then the gradient times the rate, which is large so that rounding parameters costs it
# nothing.
SGD = OptimConfig(
    name="sgd", learning_rate=100.0, schedule="constant", warmup_steps=0, clip_norm=0.0
)
Gradients = dict[str, np.ndarray]


class Finding(NamedTuple):
    """What a check found: `largest` is the largest difference, relative but for tolerance 0, NaN
    where nothing was tested."""

    invariant: int
    what: str
    largest: float
    tolerance: float
    where: str  # of the largest difference; why nothing was tested

    @property
    def state(self) -> str:
        if math.isnan(self.largest):
            return "not tested"
        return "ok" if self.largest <= self.tolerance else "FAILS"


def untested(invariant: int, what: str, why: str) -> Finding:
    return Finding(invariant, what, math.nan, 0.0, why)


def on_first_devices(sizes: MeshConfig) -> Mesh:
    """The mesh over as many of the devices as its axes take, none of them -1."""
    count = math.prod(getattr(sizes, axis) for axis in meshes.AXES)
    return meshes.make_mesh(sizes, jax.devices()[:count])


def one_step(
    config: RunConfig, sizes: tuple[int, int], batch: Batch, mesh: MeshConfig
) -> tuple[dict[str, np.ndarray], Gradients]:
    """(metrics, the summed gradient of each parameter that trains) of a step on so many devices,
    from the seed.

    Args:
        sizes: of the vocabulary, and how many tasks.
    """
    config = dataclasses.replace(config, mesh=mesh, optim=with_sgd(config.optim))
    devices = on_first_devices(mesh)
    setup = train.make_setup(config, *sizes, devices)
    state, frozen = setup.init()
    if config.peft.method != "full":  # zeros would leave half of an adapter without a gradient
        state["params"] = moved(state["params"])
    used = {len(x.sharding.device_set) for x in state["params"].values()}
    if used != {devices.size}:
        raise AssertionError(f"parameters stand on {used} devices, not on {devices.size}")
    before = jax.device_get(state["params"])
    if peft.prompted_encoder(config.model, config.peft):
        batch = peft.with_prompts(batch)
    with jax.set_mesh(devices):
        state, metrics = setup.step(state, frozen, meshes.put(batch, devices))
    metrics, after = jax.device_get((metrics, state["params"]))
    scale = metrics["weight"] / SGD.learning_rate
    return metrics, {p: scale * (before[p] - after[p]) for p in after}


def with_sgd(optim: OptimConfig) -> OptimConfig:
    """Plain SGD over what the run trains."""
    return dataclasses.replace(SGD, freeze=optim.freeze)


def moved(params: Params, size: float = 0.1) -> Params:
    """Parameters with noise added, the same on every mesh."""
    return {
        p: jax.device_put(x + size * jax.random.normal(jax.random.key(i), x.shape), x.sharding)
        for i, (p, x) in enumerate(params.items())
    }


def farthest(pairs: Iterator[tuple[str, float]]) -> tuple[float, str]:
    """(largest difference, its name); a value that is no number is the largest."""
    worst, where = 0.0, ""
    for name, difference in pairs:
        if not difference <= worst:
            worst, where = (math.inf if math.isnan(difference) else difference), name
    return worst, where


def relative(a: Any, b: Any, floor: float = 0.0) -> float:
    """The largest difference of two arrays, as a share of the largest value of `a` or of `floor`;
    infinite where a value of either is no number."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if not (np.isfinite(a).all() and np.isfinite(b).all() and math.isfinite(floor)):
        return math.inf
    size = max(np.abs(a).max(initial=0.0), floor)
    difference = np.abs(a - b).max(initial=0.0)
    return float(difference / size) if size else (0.0 if difference == 0 else math.inf)


def differ(a: Any, b: Any) -> bool:
    """Whether two arrays differ as they must for a check to mean anything; values that are no
    numbers show nothing."""
    return bool(np.isfinite(a).all() and np.isfinite(b).all()) and relative(a, b) >= MIN_CONTROL


def steps(name: str, one: tuple, other: tuple) -> list[Finding]:
    """Loss and gradient of two steps (`one_step`)."""
    sums = ("loss", "weight", "correct", "task_loss", "task_weight", "tokens")
    loss = farthest((k, relative(one[0][k], other[0][k])) for k in sums)
    largest = max(np.abs(g).max() for g in one[1].values())
    gradient = farthest((p, relative(g, other[1][p], NOISE * largest)) for p, g in one[1].items())
    return [
        Finding(3, f"{name}: loss", loss[0], MAX_LOSS, loss[1]),
        Finding(3, f"{name}: gradient", gradient[0], MAX_GRADIENT, gradient[1]),
    ]


def without_dropout(config: RunConfig) -> RunConfig:
    """What is drawn for a row is another thing where its examples stand in other rows."""
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, dropout=0.0),
        peft=dataclasses.replace(config.peft, dropout=0.0),
    )


def unpacked(batch: Batch, rows: int = 1) -> Batch:
    """Every example of a batch in a row of its own, in a number of rows that `rows` divides."""
    out: dict[str, list[np.ndarray]] = {key: [] for key in batch}
    for b, segments in enumerate(batch["decoder_segment_ids"]):
        for s in range(1, int(segments.max()) + 1):
            at = {"decoder": segments == s}
            if "encoder_segment_ids" in batch:
                at["encoder"] = batch["encoder_segment_ids"][b] == s
            for key, values in batch.items():
                row = np.full_like(values[b], -1 if key == "loss_positions" else 0)
                if key == "loss_positions":
                    places = np.flatnonzero(batch["decoder_loss_weights"][b][at["decoder"]] > 0)
                    row[: len(places)] = places
                else:
                    mine = at["encoder" if key.startswith("encoder") else "decoder"]
                    held = values[b][mine]
                    row[: len(held)] = 1 if key.endswith("segment_ids") else held
                out[key].append(row)
    missing = -len(out["task_ids"]) % rows
    for key, found in out.items():
        found += [np.full_like(found[0], -1 if key == "loss_positions" else 0)] * missing
    return {key: np.stack(found) for key, found in out.items()}


def most_segments(batch: Batch) -> int:
    return int(batch["decoder_segment_ids"].max())


def logits(graphdef: nnx.GraphDef, params: Params, batch: dict) -> np.ndarray:
    """[b, l, v], on one device."""
    return np.asarray(jax.jit(lambda p, b: module_of(graphdef, p)(b))(params, batch))


def curve(folder: Path) -> list[dict[str, float]]:
    """What metrics.jsonl holds, without what differs from run to run."""
    lines = read_metrics(RunFolder(folder).metrics_jsonl)
    return [{k: v for k, v in line.items() if k not in TIMING} for line in lines]


def curves(a: list[dict], b: list[dict]) -> tuple[float, str]:
    """(largest relative difference of a metric of two runs, which)."""
    if [x.keys() for x in a] != [x.keys() for x in b] or not a:
        return math.inf, f"{len(a)} and {len(b)} lines, or other metrics"
    return farthest(
        (f"{k} of step {x['step']}", relative(x[k], y[k], 1e-6))
        for x, y in zip(a, b, strict=True)
        for k in x
    )
