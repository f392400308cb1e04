# SPDX-License-Identifier: Apache-2.0
"""What the losses of 2,000 tasks cost: segment sums beside products with one-hot vectors, and beside
the step that they are part of.

uv run python -m tests.benchmarks.task_sums      writes task_sums.json

All three are timed in turn in one process; figures are medians. The model is a decoder of 4 layers
of 128, rows of 8 × 512 tokens, all of them targets.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from itx import loss, train
from itx import mesh as meshes
from itx.config import DataConfig, MeshConfig, ModelConfig, RunConfig

FILE = Path(__file__).with_suffix(".json")
ROUNDS, ROWS, LENGTH, VOCAB, TASKS = 15, 8, 512, 1024, 2000


def one_hot(values: jax.Array, tasks: jax.Array) -> jax.Array:
    """The sums as they were computed before."""
    return jnp.einsum("bt,btk->k", values, jax.nn.one_hot(tasks, TASKS, dtype=jnp.float32))


def whole_step() -> Callable[[], object]:
    """A function that makes one step."""
    data = DataConfig(global_batch=ROWS, sequence_length=LENGTH, target_length=LENGTH)
    mesh = meshes.make_mesh(MeshConfig(), jax.devices()[:1])
    setup = train.make_setup(RunConfig(model=ModelConfig(), data=data), VOCAB, TASKS, mesh)
    draw, shape = np.random.default_rng(0), (ROWS, LENGTH)
    places = np.tile(np.arange(LENGTH, dtype=np.int32), (ROWS, 1))
    batch = {
        "decoder_input_tokens": draw.integers(0, VOCAB, shape, np.int32),
        "decoder_target_tokens": draw.integers(0, VOCAB, shape, np.int32),
        "decoder_segment_ids": np.ones(shape, np.int32),
        "decoder_positions": places,
        "decoder_loss_weights": np.ones(shape, np.float32),
        "loss_positions": places,
        "task_ids": draw.integers(0, TASKS, shape, np.int32),
    }
    placed, held = meshes.put(batch, mesh), list(setup.init())

    def step() -> object:
        with jax.set_mesh(mesh):
            held[0], metrics = setup.step(*held, placed)
        return held, metrics

    return step


def lines(facts: dict) -> list[str]:
    """Of the benchmarks' page."""
    ms = facts["milliseconds"]
    rows = [
        f"| {name} | {ms[name]:.2f} | {facts[f'share of a step, {name}']:.2%} |"
        for name in ms
        if name != "step"
    ]
    return [
        "## The losses of 2,000 tasks",
        "",
        f"`python -m tests.benchmarks.task_sums`: a step of {ms['step']:,.0f} ms (a decoder of 4 "
        "layers of 128, 8 rows of 512 tokens) on 2 cores that others worked on too, medians of "
        f"{ROUNDS} rounds in turn.",
        "",
        "| | ms | two of them, share of the step |",
        "|---|---|---|",
        *rows,
    ]


def main() -> None:
    draw = np.random.default_rng(1)
    values = jnp.asarray(draw.random((ROWS, LENGTH)), jnp.float32)
    tasks = jnp.asarray(draw.integers(0, TASKS, (ROWS, LENGTH)), jnp.int32)
    sums = {
        "one-hot products": jax.jit(one_hot),
        "segment sums": jax.jit(lambda v, t: loss.by_task(v, t, TASKS)),
    }
    np.testing.assert_allclose(*(f(values, tasks) for f in sums.values()), rtol=1e-5)
    work = {name: lambda f=f: f(values, tasks) for name, f in sums.items()}
    work["step"] = whole_step()
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(ROUNDS + 1):
        for name, run in work.items():
            began = time.perf_counter()
            jax.block_until_ready(run())
            seconds[name].append(time.perf_counter() - began)
    ms = {name: 1e3 * float(np.median(took[1:])) for name, took in seconds.items()}
    # a step has two of these sums: losses and weights
    shares = {f"share of a step, {name}": 2 * ms[name] / ms["step"] for name in sums}
    facts = {"milliseconds": ms, **shares}
    print(json.dumps(facts, indent=1))
    FILE.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
