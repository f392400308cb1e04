# SPDX-License-Identifier: Apache-2.0
"""CPU seconds of a train step beside other trainers' on the same shapes, in one run.

    python -m tests.benchmarks.train_step [--rounds N] [--steps N] [--peers FOLDER] [LABEL='COMMAND'
    ...]

M1 is a T5 1.1 of the small size's dimensions (8 rows of 256 + 64 tokens), M2 a Llama of 8 layers (4
rows of 512), both in float32. Each measurement is a process of its own; all take turns, so that a
slow spell of the machine hits every one. itx is measured with logits everywhere (`all`), at loss
positions where 40 % of the tokens are targets (`40%`), and with a LoRA of rank 16 on every matrix
of the layers, again with logits everywhere (`lora`). A peer's COMMAND prints a line `RESULT
{"cpu_s": …}`; `{peers}` in it stands for FOLDER. Writes train_step.json beside this file.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from itx import malloc, storage
from itx.config import DataConfig, ModelConfig, OptimConfig, PeftConfig, RunConfig, TrainConfig
from itx.models import presets
from tests import synthetic

SHAPES = {"m1": (8, 256, 64), "m2": (4, 512, 512)}  # rows, tokens, targets at most
TARGET_SHARE = 0.4
WARM_UP = 4  # by then the process has what memory it will keep
OURS = ("m1 all", "m2 all", "m2 40%", "m2 lora")


def cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def shape_of(name: str) -> ModelConfig:
    """The model of m1 or m2."""
    if name == "m1":
        return presets.t5(512, 8, 6, 1024, vocab_size=32_128)
    return ModelConfig(
        embed_dim=512, num_layers=8, num_heads=8, num_kv_heads=4, head_dim=64, mlp_dim=1408, vocab_size=32_000,
        tie_embeddings=False,
    )  # fmt: skip


def one(name: str, steps: int) -> dict:
    """{"cpu_s", "wall_s" medians of a step, "peak_mb"} of itx, in this process."""
    import jax
    import numpy as np

    from itx import mesh as meshes

    shape, _, share = name.partition(" ")
    rows, length, room = SHAPES[shape]
    model = shape_of(shape)
    targets = room if share != "40%" else int(length * TARGET_SHARE)
    cap = -(-targets // 8) * 8
    config = RunConfig(
        model=model, data=DataConfig(global_batch=rows, sequence_length=length, target_length=room),
        optim=OptimConfig(name="adafactor" if shape == "m1" else "adamw", warmup_steps=0), train=TrainConfig(steps=1000),
        peft=PeftConfig(method="lora", rank=16, alpha=32.0) if share == "lora" else PeftConfig(),
    )  # fmt: skip
    draw = np.random.default_rng(0)
    width = room if shape == "m1" else length
    ids = draw.integers(3, 32_000, (rows, width), dtype=np.int32)
    place = np.tile(np.arange(width, dtype=np.int32), (rows, 1))
    batch = {
        "decoder_input_tokens": np.roll(ids, 1, 1), "decoder_target_tokens": ids, "decoder_positions": place,
        "decoder_segment_ids": np.ones_like(ids), "task_ids": np.zeros_like(ids),
        "decoder_loss_weights": (place >= width - targets).astype(np.float32),
        "loss_positions": np.pad(place[:, width - targets :], ((0, 0), (0, cap - targets)), constant_values=-1),
    }  # fmt: skip
    if shape == "m1":
        source = draw.integers(3, 32_000, (rows, length), dtype=np.int32)
        batch |= {"encoder_input_tokens": source, "encoder_segment_ids": np.ones_like(source),
                  "encoder_positions": np.tile(np.arange(length, dtype=np.int32), (rows, 1))}  # fmt: skip
    mesh = meshes.make_mesh(config.mesh)
    lock = {"vocabulary": {"size": model.vocab_size}, "tasks": [{"name": "t"}]}
    state, frozen, setup = synthetic.init_state(config, lock, mesh)
    used, took = [], []
    with jax.set_mesh(mesh):
        on_device = meshes.put(batch, mesh)
        for _ in range(WARM_UP + steps):
            c, w = cpu(), time.perf_counter()
            state, metrics = setup.step(state, frozen, on_device)
            jax.block_until_ready((state, metrics))
            used.append(cpu() - c)
            took.append(time.perf_counter() - w)
    loss = float(metrics["loss"] / metrics["weight"])
    assert np.isfinite(loss) and loss < 15
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"cpu_s": statistics.median(used[WARM_UP:]), "wall_s": statistics.median(took[WARM_UP:]), "peak_mb": peak,
            "cap": cap, "length": width}  # fmt: skip


def result(command: str | list[str], **more) -> dict:
    done = subprocess.run(
        command, shell=isinstance(command, str), capture_output=True, text=True, **more
    )
    found = [line[7:] for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if done.returncode or not found:
        raise SystemExit(f"{command}\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}")
    return json.loads(found[-1])


def in_turns(file: str, ours: tuple[str, ...], one: Callable[[str, int], dict]) -> dict:
    """{name: its results} of itx and the peers named on the command line, one process each, all
    taking turns.

    Also written to the JSON file of the benchmark `file`, whose module runs `one(name, steps)`
    itself under --only.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--peers", default="")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("commands", nargs="*", metavar="LABEL=COMMAND")
    args = parser.parse_args()
    if args.only:
        print("RESULT " + json.dumps(one(args.only, args.steps)))
        raise SystemExit
    peers = dict(c.split("=", 1) for c in args.commands)
    found: dict[str, list[dict]] = {name: [] for name in (*ours, *peers)}
    here = [
        sys.executable,
        "-m",
        f"tests.benchmarks.{Path(file).stem}",
        "--steps",
        str(args.steps),
        "--only",
    ]
    # malloc's pages of 2 MB for peers too, as `itx` starts itself with them
    both = {"JAX_PLATFORMS": "cpu", malloc.TUNABLES: malloc.HUGE_PAGES}
    for _ in range(args.rounds):
        for name in found:
            if name in peers:
                command = peers[name].replace("{peers}", args.peers)
                environment = {**os.environ, **both}
                found[name].append(result(command, cwd=args.peers or None, env=environment))
            else:
                environment = {**os.environ, **both, "XLA_FLAGS": ""}
                found[name].append(result([*here, name], env=environment))
            print(name, found[name][-1], flush=True)
    from tests.benchmarks.data_plane import processor

    facts = {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "rounds": args.rounds,
        "malloc": both[malloc.TUNABLES],
        "found": found,
    }
    storage.write_json(Path(file).with_suffix(".json"), facts)
    return facts


def main() -> None:
    print("\n".join(lines(in_turns(__file__, OURS, one))))


def lines(facts: dict) -> list[str]:
    """The facts as a part of a Markdown page."""
    found = {
        name: min(statistics.median(r["cpu_s"] for r in runs), 1e9)
        for name, runs in facts["found"].items()
    }
    memory = "malloc takes pages of 2 MB, for all alike (itx/malloc.py)."
    if not facts.get("malloc"):
        memory = "Measured while itx still kept the memory that a step frees, in fragments."
    out = [
        "## Train step", "",
        f"`python -m tests.benchmarks.train_step`: {facts['cores']} cores of {facts['processor']}, float32, medians of "
        f"{facts['rounds']} rounds in turn; CPU seconds a step, and the speed relative to itx with logits everywhere. M1: T5 1.1, 8 + 8 "
        "layers of 512/1024, 8 rows of 256 + 64 tokens, Adafactor. M2: Llama-like, 8 layers of 512, 4 rows of 512 tokens, AdamW; "
        f"40 %: so many of the tokens are targets. Peers compute the logits of all tokens. {memory}", "",
        "| | CPU s a step | speed, itx with all logits = 1 | peak memory, MB |", "|---|---|---|---|",
    ]  # fmt: skip
    for name, runs in facts["found"].items():
        base = found[f"{name[:2]} all"]
        peak = statistics.median(r.get("peak_mb") or r.get("peak_rss_mb") or 0 for r in runs)
        label = f"itx {name}" if name in OURS else name
        out.append(f"| {label} | {found[name]:.2f} | {base / found[name]:.2f} | {peak:,.0f} |")
    runs = facts["found"]["m2 40%"]
    share = runs[0]["cap"] / runs[0]["length"]
    bound = 1 / (0.6 + 0.4 * share)
    out += [
        "",
        f"Were 40 % of a step of M2 the logits and their gradient, the bound at {share:.0%} of the positions would be {bound:.2f}.",
    ]
    return out


if __name__ == "__main__":
    main()
