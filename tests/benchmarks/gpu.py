# SPDX-License-Identifier: Apache-2.0
"""A 1B decoder on one GPU: train steps beside transformers', decoding beside the card's bandwidth,
in one run.

    python -m tests.benchmarks.gpu [--torch PYTHON] [--out FOLDER] [--seconds N] [--small] [PART
    ...]

The model has the shape of Llama 3.2 1B and random weights. Each of PARTS is a process of its own,
so that one framework's memory is free before the next begins; one that fails is reported, and the
others go on. PYTHON runs the parts that need torch. Writes gpu.json beside this file and in FOLDER,
after each result. `--small`: a tiny model, to try the script without a GPU.
"""

import argparse
import json
import os
import selectors
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from itx import restore
from tests import synthetic

LENGTH, ROWS = 2048, 8
SEGMENTS = (0.45, 0.3, 0.15, 0.1)  # of a row; each row has them in another order
TARGET_SHARE = 0.4  # of each segment, at its end
WARM_UP, STEPS = 3, 10
PROMPT, NEW = 128, 256
BATCHES = (1, 16, 128)
MATRIX, COPIED = 8192, 2**30
HERE = Path(__file__)


# ---------------------------------------------------------------- what is measured


def median_of(
    run: Callable[[], object], wait: Callable[[object], object], times: int = 15, each: int = 10
) -> float:
    """Seconds of one call: the median over `times` groups of so many calls, which the device
    queues."""
    took = []
    for _ in range(times + 2):
        began = time.perf_counter()
        for _ in range(each):
            out = run()
        wait(out)
        took.append((time.perf_counter() - began) / each)
    return statistics.median(took[2:])


def card(small: bool) -> None:
    """The bfloat16 matmul rate and the bandwidth of a copy, through JAX."""
    import jax
    import jax.numpy as jnp

    n, cells = (256, 2**16) if small else (MATRIX, COPIED // 4)
    a, b = (jax.random.normal(jax.random.key(i), (n, n), jnp.bfloat16) for i in range(2))
    x = jax.random.normal(jax.random.key(2), (cells,), jnp.float32)
    multiply, move = jax.jit(jnp.matmul), jax.jit(lambda x: x + 1)
    rates = {
        "matmul_flops": 2 * n**3 / median_of(lambda: multiply(a, b), jax.block_until_ready),
        "copy_bytes": 2 * x.nbytes / median_of(lambda: move(x), jax.block_until_ready),
    }
    give("card", device=jax.devices()[0].device_kind, jax=jax.__version__, **rates)


def card_torch(small: bool) -> None:
    """The same through torch."""
    import torch

    cuda = torch.cuda.is_available()
    place, wait = ("cuda", lambda _: torch.cuda.synchronize()) if cuda else ("cpu", lambda _: None)
    n, cells = (256, 2**16) if small else (MATRIX, COPIED // 4)
    a, b = (torch.randn(n, n, device=place, dtype=torch.bfloat16) for _ in range(2))
    x = torch.randn(cells, device=place)
    y = torch.empty_like(x)
    rates = {
        "matmul_flops": 2 * n**3 / median_of(lambda: a @ b, wait),
        "copy_bytes": 2 * x.nbytes / median_of(lambda: y.copy_(x), wait),
    }
    give("card torch", torch=torch.__version__, **rates)


def shape(small: bool, **settings):
    """The model, with these settings."""
    import dataclasses

    from itx.models import presets

    model = presets.published("llama3_2_1b", dtype="bfloat16", **settings)
    tiny = {
        "embed_dim": 64,
        "num_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_dim": 16,
        "mlp_dim": 128,
    }
    return dataclasses.replace(model, **tiny, vocab_size=512) if small else model


def segments_of(rows: int, length: int) -> list[list[int]]:
    """Lengths of the segments of each row."""
    cut = [int(length * share) for share in SEGMENTS[1:]]
    lengths = [length - sum(cut), *cut]
    return [lengths[i % len(lengths) :] + lengths[: i % len(lengths)] for i in range(rows)]


def step_flops(
    layers: int, weights: int, head: int, width: int, segments: list[list[int]], logits: int
) -> float:
    """Floating-point operations of a step: 6 for each weight of the layers and token, 6 for each
    weight of the head and position with logits, and attention's two products forward and four
    backward over the pairs of a causal segment, half of length²; the lookup of embeddings counts
    nothing, nor does what is computed again."""
    tokens = sum(map(sum, segments))
    pairs = sum(n * n / 2 for row in segments for n in row)
    return 6.0 * (weights * tokens + head * logits) + 6 * 2 * layers * width * pairs


def train_itx(
    small: bool, remat: str, attention: str, shares: tuple[str, ...], rows: int = ROWS
) -> None:
    """A train step as `itx train` makes it: float32 parameters, gradients and Adam, computed in
    bfloat16."""
    import jax
    import numpy as np

    from itx import mesh as meshes
    from itx.config import DataConfig, OptimConfig, RunConfig, TrainConfig

    length = 64 if small else LENGTH
    model = shape(small, remat=remat, attention=attention)
    config = RunConfig(
        model=model, data=DataConfig(global_batch=rows, sequence_length=length, target_length=length),
        optim=OptimConfig(name="adamw", learning_rate=1e-4, warmup_steps=0), train=TrainConfig(steps=1000),
    )  # fmt: skip
    segments = segments_of(rows, length)
    ids = np.random.default_rng(0).integers(3, model.vocab_size, (rows, length), dtype=np.int32)
    place = np.stack([np.concatenate([np.arange(n) for n in row]) for row in segments]).astype(
        np.int32
    )
    left = np.stack([np.concatenate([np.arange(n)[::-1] / n for n in row]) for row in segments])
    mesh = meshes.make_mesh(config.mesh)
    state, frozen, setup = synthetic.init_state(
        config, {"vocabulary": {"size": model.vocab_size}, "tasks": [{"name": "t"}]}, mesh
    )
    head = model.vocab_size * model.embed_dim
    weights = sum(
        x.size for p, x in state["params"].items() if p.startswith("decoder/blocks/") and x.ndim > 2
    )
    width = model.num_heads * model.head_dim
    for share in shares:
        targets = left < (TARGET_SHARE if share == "40%" else 1)
        cap = -(-int(targets.sum(1).max()) // 8) * 8
        at = np.full((rows, cap), -1, np.int32)
        for row, found in zip(at, targets, strict=True):
            row[: found.sum()] = np.flatnonzero(found)
        batch = {
            "decoder_input_tokens": np.where(place == 0, 0, np.roll(ids, 1, 1)), "decoder_target_tokens": ids,
            "decoder_positions": place, "task_ids": np.zeros_like(ids), "loss_positions": at,
            "decoder_segment_ids": np.cumsum(place == 0, axis=1, dtype=np.int32),
            "decoder_loss_weights": targets.astype(np.float32),
        }  # fmt: skip
        took = []
        with jax.set_mesh(mesh):
            on_device = meshes.put(batch, mesh)
            began = time.perf_counter()
            step = setup.step.lower(state, frozen, on_device).compile()
            compiled, held = time.perf_counter() - began, step.memory_analysis()
            for _ in range(WARM_UP + STEPS):
                began = time.perf_counter()
                state, metrics = step(state, frozen, on_device)
                jax.block_until_ready((state, metrics))
                took.append(time.perf_counter() - began)
        loss = float(metrics["loss"] / metrics["weight"])
        assert np.isfinite(loss) and loss < 15 and not metrics["skipped"], loss
        flops = step_flops(model.num_layers, weights, head, width, segments, rows * cap)
        give(
            f"itx {share} {remat} {attention}", rows=rows, tokens=rows * length, wall_s=statistics.median(took[WARM_UP:]),
            flops=flops, logits=rows * cap, loss=loss, compile_s=compiled,
            peak_bytes=held.argument_size_in_bytes + held.temp_size_in_bytes,
        )  # fmt: skip


def train_torch(small: bool) -> None:
    """transformers' model of the same shape: SDPA, fused AdamW, gradients clipped as itx does;
    logits everywhere.

    `packed` computes what itx does; `causal` takes each row for one segment, where SDPA needs no
    mask.
    """
    import numpy as np
    import torch
    import transformers

    cuda = torch.cuda.is_available()
    place = "cuda" if cuda else "cpu"
    length = 64 if small else LENGTH
    sizes = (512, 64, 128, 2, 4, 2, 16) if small else (128_256, 2048, 8192, 16, 32, 8, 64)
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
             "num_key_value_heads", "head_dim")  # fmt: skip
    config = transformers.LlamaConfig(
        **dict(zip(names, sizes, strict=True)), rms_norm_eps=1e-5, tie_word_embeddings=True,
        max_position_embeddings=131_072, attn_implementation="sdpa",
    )  # fmt: skip
    vocab, width, _, layers, *_ = sizes

    def measure(weights_in: torch.dtype, packed: bool, rows: int) -> None:
        torch.manual_seed(0)
        with torch.device(place):
            model = transformers.LlamaForCausalLM(config).to(weights_in).train()
        assert model.config._attn_implementation == "sdpa"
        count = sum(
            p.numel() for n, p in model.named_parameters() if ".layers." in n and p.ndim > 1
        )
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.0, fused=True)
        segments = segments_of(rows, length) if packed else [[length]] * rows
        ids = torch.as_tensor(
            np.random.default_rng(0).integers(3, vocab, (rows, length)), device=place
        )
        positions = [np.concatenate([np.arange(n) for n in row]) for row in segments]
        more = (
            {"position_ids": torch.as_tensor(np.stack(positions), device=place)} if packed else {}
        )
        took = []
        for _ in range(WARM_UP + STEPS):
            began = time.perf_counter()
            with torch.autocast(place, torch.bfloat16, enabled=weights_in == torch.float32):
                loss = model(input_ids=ids, labels=ids, use_cache=False, **more).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            value = loss.item()  # waits
            took.append(time.perf_counter() - began)
        assert np.isfinite(value) and value < 15, value
        give(
            f"transformers {'float32' if weights_in == torch.float32 else 'bfloat16'} {'packed' if packed else 'causal'}",
            rows=rows, tokens=rows * length, wall_s=statistics.median(took[WARM_UP:]), loss=value,
            flops=step_flops(layers, count, vocab * width, width, segments, rows * length),
            peak_bytes=torch.cuda.max_memory_allocated() if cuda else 0, transformers=transformers.__version__,
        )  # fmt: skip

    for weights_in, packed in (
        (torch.float32, True),
        (torch.float32, False),
        (torch.bfloat16, False),
    ):
        rows = ROWS
        while rows:
            try:
                measure(weights_in, packed, rows)
                break
            except torch.cuda.OutOfMemoryError:
                print(f"{rows} rows do not fit", flush=True)
            torch.cuda.empty_cache()  # outside the handler, which holds the frames of what failed
            torch.cuda.reset_peak_memory_stats()
            rows //= 2
        if cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


def decode_itx(small: bool) -> None:
    """Greedy decoding as `itx generate` and `itx eval` do it; no row ends early."""
    import numpy as np
    from flax import nnx

    from itx import mesh as meshes
    from itx.config import RunConfig
    from itx.eval.loaded import LoadedModel
    from itx.eval.runner import Runner

    config = RunConfig(model=shape(small))
    model = config.model
    mesh = meshes.make_mesh(config.mesh)
    lock = {"vocabulary": {"size": model.vocab_size}, "tasks": [{"name": "t"}]}
    _, abstract = restore.abstract_model(config, lock["vocabulary"]["size"])
    params = dict(restore.initialiser(config, lock["vocabulary"]["size"], mesh)())
    runner = Runner(
        LoadedModel(
            graphdef=nnx.graphdef(abstract),
            params=params,
            mesh=mesh,
            model=model,
            bos_id=0,
            eos_id=-1,
            pad_id=0,
        )
    )
    prompt, new = (15, 16) if small else (PROMPT - 1, NEW)  # BOS is one more
    # in bfloat16; the embedding is also the head
    weights = 2 * sum(x.size for x in params.values())
    # of a row, halfway
    cache = 2 * 2 * model.num_layers * model.num_kv_heads * model.head_dim * (prompt + 1 + new / 2)
    for batch in BATCHES:
        prompts = np.random.RandomState(0).randint(3, model.vocab_size, (batch, prompt)).tolist()
        took = []
        for _ in range(4):
            began = time.perf_counter()
            found = runner.generate(prompts, new)
            took.append(time.perf_counter() - began)
            assert [len(f["tokens"]) for f in found] == [new] * batch
        give(
            f"decode {batch}", wall_s=statistics.median(took[1:]), new=new, prompt=prompt + 1, compile_s=took[0],
            bytes=weights + batch * cache,
        )  # fmt: skip


def give(name: str, **result) -> None:
    print("RESULT " + json.dumps({"name": name, **result}), flush=True)


# name -> (what runs, whether it needs torch); the first matter most
PARTS: dict[str, tuple[Callable[[bool], None], bool]] = {
    "card": (card, False),
    "card-torch": (card_torch, True),
    "train": (lambda small: train_itx(small, "dots", "auto", ("all", "40%")), False),
    "transformers": (train_torch, True),
    "decode": (decode_itx, False),
    "train-no-remat": (lambda small: train_itx(small, "none", "auto", ("all",)), False),
    "train-xla": (lambda small: train_itx(small, "dots", "xla", ("all",)), False),
}


# ---------------------------------------------------------------- the run


def run_part(command: list[str], seconds: float, cache: str, keep: Callable[[dict], None]) -> str:
    """Run a part and `keep` its results as they come; "" or why it ended early."""
    # JAX takes three quarters of the memory by default; parts that draw the same weights compile
    # that once
    env = {
        "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.92",
        "JAX_COMPILATION_CACHE_DIR": cache,
        **os.environ,
    }
    with tempfile.TemporaryFile("w+") as errors:
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=env)
        waits = selectors.DefaultSelector()
        waits.register(child.stdout, selectors.EVENT_READ)
        end, line = time.monotonic() + seconds, " "
        while line and (left := end - time.monotonic()) > 0:
            if waits.select(left):
                line = child.stdout.readline()
                print("  " + line, end="", flush=True) if line else None
                if line.startswith("RESULT "):
                    keep(json.loads(line[7:]))
        if line:
            child.kill()
        for late in child.stdout:  # what was written, and not read before the end
            if late.startswith("RESULT ") and late.endswith("\n"):
                keep(json.loads(late[7:]))
        code = child.wait()
        errors.seek(0)
        said = errors.read().strip().splitlines()
    if line:
        return f"not done after {seconds:.0f} s"
    if code:
        print("\n".join(said[-20:]), flush=True)
        return f"exit {code}: " + next(
            (s[:300] for s in reversed(said) if "Error" in s or "error" in s), ""
        )
    return ""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--torch", default=sys.executable, metavar="PYTHON")
    parser.add_argument("--out", type=Path, metavar="FOLDER")
    parser.add_argument(
        "--seconds", type=float, default=540.0, help="a part that has not begun by then is left out"
    )
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    args = parser.parse_args()
    if args.only:
        PARTS[args.only][0](args.small)
        return
    if unknown := [p for p in args.parts if p not in PARTS]:
        parser.error(f"no part {unknown[0]!r}; there are {', '.join(PARTS)}")
    facts: dict = {"small": args.small, "found": {}, "failed": {}}
    files = [] if args.small else [HERE.with_suffix(".json")]
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        files.append(args.out / "gpu.json")

    def keep(result: dict | None = None) -> None:
        if result:
            facts["found"][result.pop("name")] = result
        for file in files:
            file.write_text(json.dumps(facts, indent=1) + "\n")

    cache = tempfile.TemporaryDirectory()
    end = time.monotonic() + args.seconds
    for part in args.parts or PARTS:
        began = time.monotonic()
        python = args.torch if PARTS[part][1] else sys.executable
        command = [
            python,
            "-m",
            "tests.benchmarks.gpu",
            "--only",
            part,
            *(["--small"] if args.small else []),
        ]
        print(part, flush=True)
        left = end - began
        why = run_part(command, left, cache.name, keep) if left > 0 else "no time was left"
        print(f"{part}: {why or 'done'}, {time.monotonic() - began:.0f} s", flush=True)
        if why:
            facts["failed"][part] = why
            keep()
    cache.cleanup()
    print("\n".join(lines(facts)), flush=True)


def lines(facts: dict) -> list[str]:
    """The facts as a part of a Markdown page."""
    found = facts["found"]
    if "card" not in found:
        return ["## GPU", "", "The card was not measured."]
    of, theirs = found["card"], found.get("card torch", {})
    out = [
        "## GPU", "",
        f"`python -m tests.benchmarks.gpu`: one {of['device']}, JAX {of['jax']}. Measured in the same run: a bfloat16 "
        f"matrix product of {MATRIX}³ at {of['matmul_flops'] / 1e12:,.0f} TFLOP/s through JAX"
        + (f" ({theirs['matmul_flops'] / 1e12:,.0f} through torch {theirs['torch']})" if theirs else "")
        + f", a copy at {of['copy_bytes'] / 1e12:.2f} TB/s read and written"
        + (f" ({theirs['copy_bytes'] / 1e12:.2f})" if theirs else "") + ".",
        "",
    ]  # fmt: skip
    training = {k: v for k, v in found.items() if k.startswith(("itx", "transformers"))}
    if training:
        out += [
            f"Train step: Llama 3.2 1B's shape, random weights, rows of {LENGTH} tokens in {len(SEGMENTS)} segments, "
            f"Adam; medians of {STEPS} steps. itx: float32 parameters and moments, bfloat16 activations; logits "
            "everywhere (`all`) or at 40 % of the positions, `model.remat`, `model.attention` (auto: cuDNN). "
            "transformers: SDPA, fused AdamW; float32 parameters under autocast, or all in bfloat16; `packed` "
            "as itx, `causal` with a row as one segment. FLOP: 6 a token and weight of the layers, 6 a position with "
            "logits and weight of the head, 12 × layers × width × length² / 2 a segment for attention.", "",
            "| | rows | ms a step | tokens a second | model TFLOP/s | of the matmul rate | peak GB |",
            "|---|---|---|---|---|---|---|",
        ]  # fmt: skip
    for name, r in training.items():
        rate, measured = (
            r["flops"] / r["wall_s"],
            (of if name.startswith("itx") else theirs or of)["matmul_flops"],
        )
        out.append(
            f"| {name} | {r['rows']} | {r['wall_s'] * 1e3:,.0f} | {r['tokens'] / r['wall_s']:,.0f} | {rate / 1e12:,.0f} "
            f"| {rate / measured:.0%} | {r['peak_bytes'] / 1e9:,.0f} |"
        )
    decoding = {k: v for k, v in found.items() if k.startswith("decode")}
    if decoding:
        first = next(iter(decoding.values()))
        out += [
            *([""] if training else []),
            f"Greedy decoding of the same model in bfloat16: prompts of {first['prompt']} tokens, {first['new']} new ones; "
            "times include reading the prompts. The bound is the bytes of the weights and of the keys and values halfway, "
            "over the copy's rate.", "",
            "| prompts at once | ms a step | bound, ms | of the bound | new tokens a second |", "|---|---|---|---|---|",
        ]  # fmt: skip
    for name, r in decoding.items():
        took, bound, batch = (
            r["wall_s"] / r["new"],
            r["bytes"] / of["copy_bytes"],
            int(name.split()[1]),
        )
        out.append(
            f"| {batch} | {took * 1e3:.2f} | {bound * 1e3:.2f} | {bound / took:.0%} | {batch / took:,.0f} |"
        )
    # what a run cannot say of itself, written into gpu.json by hand
    for note in facts.get("notes", []):
        out += ["", note]
    if facts["failed"]:
        out += [
            "",
            "Not measured: "
            + "; ".join(f"{part} ({why})" for part, why in facts["failed"].items())
            + ".",
        ]
    return out


if __name__ == "__main__":
    main()
