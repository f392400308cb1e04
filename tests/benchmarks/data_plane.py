# SPDX-License-Identifier: Apache-2.0
"""The data plane's speed, fill and memory, with SeqIO's packed converters on the same tokens beside
it.

    python -m tests.benchmarks.data_plane [--quick] [--out FILE]

Synthetic mixtures of four tasks at mean lengths 30, 200 and 1000, on one core, each thing measured
in CPU seconds (a busy machine changes them little). Writes data_plane.json beside this file, or
FILE.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

from itx import storage
from itx.data import cache, packing
from itx.data import lock as locks
from itx.data.loader import Batches
from itx.data.order import ORDER_VERSION

VOCABULARY = 32_000
TASKS = 4
ROWS = {30: 1024, 200: 1024, 1000: 4096}  # tokens of a row at each mean length
BATCH = 32
WINDOW = 16_384
WINDOWS = {30: 24, 200: 6, 1000: 2}  # whole windows that the loader is measured over
COMMAND = "python -m tests.benchmarks.data_plane"


def lengths(seed: int, n: int, mean: int, row: int) -> np.ndarray:
    """int64 [n, 2], prompt and target with its EOS: log-normal, a quarter of the tokens targets,
    none trimmed."""
    draw = np.random.default_rng(seed)
    whole = np.clip(draw.lognormal(np.log(mean) - 0.18, 0.6, n), 4, row).astype(int)
    target = np.clip((whole * draw.beta(2, 6, n)).astype(int), 2, row // 4)
    return np.stack([np.clip(whole - target, 1, row * 3 // 4 - 1), target], 1)


def write_folder(folder: Path, size: np.ndarray, seed: int) -> None:
    """A cache folder of two-piece records."""
    n = len(size)
    pieces = (size - [0, 1]).reshape(-1).astype(np.int32)  # EOS is not in the cache
    tokens = np.random.default_rng(seed).integers(2, VOCABULARY, pieces.sum(), dtype=np.uint16)
    cache.write(folder, cache.Columns(
        tokens, pieces, np.tile([False, True], n), np.full(n, 2), np.arange(n, dtype=np.uint64), np.zeros(n, np.int16),
        np.zeros((n, 0), np.uint64),
    ), {}, [])  # fmt: skip


def make_lock(root: Path, mean: int, examples: int, architecture: str) -> dict:
    """A mixture of TASKS tasks with `examples` in all; its folders are shared by both
    architectures."""
    row, tasks, sizes = ROWS[mean], [], []
    for i in range(TASKS):
        folder, size = root / f"{mean}_{examples}_{i}", lengths(i, examples // TASKS, mean, row)
        if not folder.exists():
            write_folder(folder, size, i)
        sizes.append(size)
        tasks.append({"name": f"t{i}", "rate": 1 / TASKS, "examples": len(size), "folders": [folder.name],
                      "sha256": [cache.manifest_hash(folder)], "excluded": [[]]})  # fmt: skip
    lock = {
        "version": locks.LOCK_VERSION, "order_version": ORDER_VERSION, "architecture": architecture, "prefix_lm": True,
        "bos_id": 0, "eos_id": 1, "pad_id": 0, "sequence_length": row, "target_length": row, "global_batch": BATCH,
        "window_examples": WINDOW, "seed": 0, "renderings": 1, "weighting": "token", "too_long": "error",
        "tasks": tasks, "evaluation": [], "vocabulary": {"hash": "v", "size": VOCABULARY},
        "loss_positions": packing.loss_caps(np.concatenate(sizes)[:: max(1, examples // WINDOW)], (row, row)),
    }  # fmt: skip
    if architecture == "encoder_decoder":
        # the encoder has an EOS too
        sample = np.concatenate(sizes)[:: max(1, examples // WINDOW)] + [1, 0]
        longest = np.concatenate(sizes).max(0)
        pair = packing.length_pair(np.concatenate([sample, [longest]]), (row, row))
        lock |= {"sequence_length": pair[0], "target_length": pair[1], "loss_positions": [pair[1]]}
    return lock


def consume(batches) -> dict:
    """{tokens, cpu, wall, fill} of an iterator of batches."""
    tokens, shares = 0, []
    cpu, wall = time.process_time(), time.perf_counter()
    for batch in batches:
        there = {
            k.split("_")[0]: (int(np.count_nonzero(v)), v.size)
            for k, v in batch.items()
            if k.endswith("_segment_ids")
        }
        tokens += sum(n for n, _ in there.values())
        shares.append({k: n / places for k, (n, places) in there.items()})
    return {"tokens": tokens, "cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall,
            "fill": {k: float(np.mean([s[k] for s in shares])) for k in shares[0]}}  # fmt: skip


def ours(lock: dict, root: Path) -> dict:
    """The loader as training uses it, Grain's thread included; "layout": CPU seconds of its order
    alone."""
    order = Batches(lock, root).order
    cpu = time.process_time()
    rows = sum(
        len(order.window(w)) for w in range(sum(t["examples"] for t in lock["tasks"]) // WINDOW)
    )
    cpu = time.process_time() - cpu
    return consume(Batches(lock, root).iterate(0, rows // BATCH)) | {"layout": cpu}


def layout(root: Path, mean: int, examples: int) -> dict:
    """Seconds and extra memory of laying out so many examples, in a process of its own: {cpu, wall,
    megabytes}."""
    lock = make_lock(root, mean, examples, "decoder")
    storage.write_json(root / "layout.json", lock)
    done = subprocess.run([sys.executable, "-m", "tests.benchmarks.data_plane", "--layout", str(root)],
                          capture_output=True, text=True, check=True)  # fmt: skip
    return json.loads(done.stdout)


def lay_out(root: Path) -> None:
    lock = storage.read_json(root / "layout.json")
    before = resident()
    cpu, wall = time.process_time(), time.perf_counter()
    order, w, n = Batches(lock, root).order, 0, 0
    while n < sum(t["examples"] for t in lock["tasks"]):
        n, w = n + len(order.window(w).segments), w + 1
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall, "examples": n,
                      "megabytes": peak - before}))  # fmt: skip


def resident() -> float:
    """MB now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def storages(lock: dict, root: Path, reads: int) -> list[dict]:
    """Random records of one task by batched calls of 512: the flat token file, and ArrayRecord with
    group_size:1."""
    from array_record.python import array_record_module as array_record

    batches = Batches(lock, root)
    at, records = batches.index, batches.data.records[0][0]
    file = root / f"{lock['tasks'][0]['folders'][0]}.array_record"
    writer = array_record.ArrayRecordWriter(str(file), "group_size:1")
    for i in range(len(records)):
        writer.write(np.concatenate([ids for ids, _ in records[i]]).tobytes())
    writer.close()
    reader = array_record.ArrayRecordReader(str(file))
    draw = np.random.default_rng(0)
    numbers = [draw.integers(0, len(records), 512) for _ in range(max(1, reads // 512))]
    begin, end = at.starts[at.pieces[:-1]], at.starts[at.pieces[1:]]

    def flat(some):
        return at.tokens(begin[some], end[some])

    def by_record(some):
        return np.concatenate([np.frombuffer(r, np.uint16) for r in reader.read(some.tolist())])

    assert (flat(numbers[0]) == by_record(numbers[0])).all()
    out = []
    size = (root / lock["tasks"][0]["folders"][0] / "tokens-00000.npy").stat().st_size
    for name, read, stored in (
        ("flat", flat, size),
        ("ArrayRecord", by_record, file.stat().st_size),
    ):
        cpu = time.process_time()
        tokens = sum(len(read(some)) for some in numbers)
        out.append(
            {
                "storage": name,
                "rate": tokens / (time.process_time() - cpu),
                "bytes": float(stored / at.first_token[1]),
            }
        )
    reader.close()
    return out


def seqio(runs: list[tuple[dict, Path, float]]) -> list[dict[str, dict]]:
    """The same mixtures through SeqIO, from its cache and from memory, in one process that has
    TensorFlow."""
    spec = json.dumps([{"lock": lock, "root": str(root), "seconds": s} for lock, root, s in runs])
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.seqio_packed"],
        input=spec,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1])


def processor() -> str:
    names = [
        x.split(":")[1].strip()
        for x in Path("/proc/cpuinfo").read_text().splitlines()
        if x.startswith("model name")
    ]
    return names[0] if names else "unknown"


def share(fill: dict[str, float]) -> str:
    return " / ".join(f"{f:.3f}" for _, f in sorted(fill.items(), reverse=True))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="little data: does it run?")
    parser.add_argument("--out", default=str(Path(__file__).with_suffix(".json")))
    parser.add_argument("--layout", help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # subprocesses too
    if args.layout:
        lay_out(Path(args.layout))
        return
    with tempfile.TemporaryDirectory() as folder:
        facts = measure(Path(folder), args.quick)
    storage.write_json(args.out, facts)
    print("\n".join(lines(facts)))


def measure(root: Path, quick: bool) -> dict:
    """Everything, as plain values."""
    cases = [(make_lock(root, mean, WINDOW * (1 if quick else n), architecture), mean)
             for mean, n in WINDOWS.items() for architecture in ("decoder", "encoder_decoder")]  # fmt: skip
    laid = [
        layout(root, mean, 50_000 if quick else 1_000_000) | {"mean": mean} for mean in (30, 200)
    ]
    measured = [ours(lock, root) for lock, _ in cases]
    stored = [
        [mean, *storages(lock, root, 2_000 if quick else 50_000)] for lock, mean in cases[::2]
    ]
    theirs = seqio([(lock, root, 0.2 if quick else 8.0) for lock, _ in cases])
    shape = ("architecture", "sequence_length", "target_length")
    return {
        "command": COMMAND + " --quick" * quick, "processor": processor(), "python": sys.version.split()[0],
        "versions": {n: version(n) for n in ("numpy", "seqio", "tensorflow-cpu", "array_record")},
        "loader": [{"mean": mean, **{k: lock[k] for k in shape}, "itx": mine, "seqio": other}
                   for (lock, mean), mine, other in zip(cases, measured, theirs, strict=True)],
        "layout": laid, "storage": stored,
    }  # fmt: skip


def lines(facts: dict) -> list[str]:
    """The facts as a part of a Markdown page."""
    v = facts["versions"]
    out = [
        "## Data: loader", "",
        f"`{facts['command']}`: one run on one core of {facts['processor']}, Python {facts['python']}, NumPy {v['numpy']}, SeqIO "
        f"{v['seqio']}, TensorFlow {v['tensorflow-cpu']}, ArrayRecord {v['array_record']}. Rates are tokens (no padding) by CPU "
        "second.", "",
        f"Mixtures of {TASKS} tasks, lengths log-normal, a quarter of the tokens targets, batches of {BATCH} rows, windows of "
        f"{WINDOW:,} examples. Ours: `Batches.iterate` from the memory-mapped cache to finished batches; mixing, order, packing and "
        "Grain's thread included; encoder-decoder rows have the length pair that `length_pair` proposes. SeqIO: the same tokens, "
        "mixture and lengths, `get_dataset(shuffle=True)` with `PrefixLMFeatureConverter(pack=True)` or "
        "`EncDecFeatureConverter(pack=True)`, one thread, from TFRecord files as SeqIO caches them, and from tensors in memory, "
        "where it reads and parses nothing. Fill: share of places with a token (encoder / decoder).", "",
        "| rows | mean length | itx, M tokens/s | of it layout | SeqIO, M tokens/s | ratio | SeqIO from memory | ratio "
        "| itx fill | SeqIO fill |", "|---|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for x in facts["loader"]:
        mine, other = x["itx"], x["seqio"]
        ours_, cached, memory = (
            y["tokens"] / y["cpu"] / 1e6 for y in (mine, other["cache"], other["memory"])
        )
        rows = f"decoder-only {x['sequence_length']}"
        if x["architecture"] == "encoder_decoder":
            rows = f"encoder {x['sequence_length']}, decoder {x['target_length']}"
        out.append(f"| {rows} | {x['mean']} | {ours_:.1f} | {mine['layout'] / mine['cpu']:.0%} | {cached:.3f} | {ours_ / cached:.0f}x "
                   f"| {memory:.3f} | {ours_ / memory:.0f}x | {share(mine['fill'])} | {share(other['cache']['fill'])} |")  # fmt: skip
    return out + [
        "", "## Data: layout", "",
        f"Opening the lock's {TASKS} caches and laying out every window, in a process of its own; memory is its peak above what it "
        "had before.", "",
        "| examples | mean length | CPU s | wall s | extra memory, MB |", "|---|---|---|---|---|",
        *(f"| {x['examples']:,} | {x['mean']} | {x['cpu']:.1f} | {x['wall']:.1f} | {x['megabytes']:.0f} |" for x in facts["layout"]),
        "", "## Data: storage", "",
        "Random records, 512 a call, from files that the page cache holds: slices of the mapped flat token file, and ArrayRecord "
        "written with `group_size:1` and read with one `read([…])` a call.", "",
        "| mean length | flat, M tokens/s | bytes a token | ArrayRecord, M tokens/s | bytes a token | ratio |",
        "|---|---|---|---|---|---|",
        *(f"| {mean} | {a['rate'] / 1e6:.1f} | {a['bytes']:.2f} | {b['rate'] / 1e6:.2f} | {b['bytes']:.2f} "
          f"| {a['rate'] / b['rate']:.0f}x |" for mean, a, b in facts["storage"]),
    ]  # fmt: skip


if __name__ == "__main__":
    main()
