# SPDX-License-Identifier: Apache-2.0
"""The recipes on the machines that they are meant for, by `itx plan`: tests/benchmarks/plan.json.

    nice -n 10 uv run python -m tests.plan_table              # what is missing of these versions
    nice -n 10 uv run python -m tests.plan_table llama 8b     # the rows whose name has these words
    uv run python -m tests.plan_table --page                  # what --fast says of the rows that
                                                              # are there; writes the page's table

One compilation runs at a time: minutes each, up to 4 GiB. Every row is written as soon as it is
known, so that a call that was ended goes on where it was.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from itx.plan.chips import GIB
from itx.plan.plan import environment
from tests.readme_figures import put

REPO = Path(__file__).resolve().parents[1]
FILE = REPO / "tests" / "benchmarks" / "plan.json"
EVALUATION = "forward,rank,prefill,decode"

# name: (recipe, topology, what else is given). Batches are those that the figures are of
# where a row says so, else the recipe's.
MACHINES = {
    "Llama 3.1 8B full, 16 rows": (
        "llama3_8b",
        "v5e:4x4",
        ["--data.global_batch=16", "--train.microbatches=1"],
    ),
    "FLAN-T5 XL full": ("flan_t5_xl", "v5e:4x4", []),
    "Llama 3.1 8B LoRA, 4 rows": ("llama3_8b_lora", "v5e:2x2", ["--data.global_batch=4"]),
    "Qwen 3 4B LoRA": ("qwen3_4b_lora", "v6e:2x4", []),
    "Gemma 3 4B prefix, 4 rows": (
        "gemma3_4b_prefix",
        "v5e:2x2",
        ["--data.global_batch=4", "--train.microbatches=1"],
    ),
    "Llama 3.1 8B full, 32 rows, two slices": (
        "llama3_8b",
        "v5e:4x4",
        ["--slices=2", "--data.global_batch=32", "--train.microbatches=1"],
    ),
    "Llama 3.1 8B full in one part": ("llama3_8b", "v5e:4x4", ["--train.microbatches=1"]),
    "Llama 3.1 8B LoRA as it is": ("llama3_8b_lora", "v5e:2x2", []),
    "Gemma 3 4B prefix as it is": ("gemma3_4b_prefix", "v5e:2x2", []),
    "FLAN-T5 XL LoRA": ("flan_t5_xl_lora", "v5e:2x2", []),
}
# The training steps first: if time is short, they matter most.
ROWS = {
    **{f"{name}: train": (*row, "train") for name, row in MACHINES.items()},
    **{
        f"{name}: evaluation": (*row, EVALUATION)
        for name, row in MACHINES.items()
        if not any(said in name for said in ("as it is", "one part", "slices"))
    },
}


def measure(name: str) -> dict:
    """What `itx plan` says of a row."""
    recipe, topology, more, programs = ROWS[name]
    words = [f"configs/{recipe}.py", f"--topology={topology}", f"--programs={programs}", *more]
    return {"command": " ".join(["itx plan", *words]), **facts([*words, "--max_seconds=0"])}


def predict(name: str) -> int:
    """What `itx plan --fast` says of a row's training step, in bytes."""
    recipe, topology, more, _ = ROWS[name]
    words = [f"configs/{recipe}.py", f"--topology={topology}", "--fast", *more]
    return facts(words, capture_output=True)["predicted"]["peak_bytes"]


def facts(words: list[str], **how: bool) -> dict:
    """What `itx plan` writes with these words; exit code 1 says that something does not fit."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "plan.json"
        command = [sys.executable, "-m", "itx.cli", "plan", *words, f"--json={out}"]
        subprocess.run(command, cwd=REPO, check=False, **how)
        return json.loads(out.read_text("utf-8"))


def page(rows: dict[str, dict]) -> str:
    """The table of itx/plan/README.md."""
    lines = [
        "| run | machine | program | peak GiB | of | fits | flops | GB sent by a device | "
        "at best s | compiled in s | host GiB | --fast: GiB |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        for p in row["programs"]:
            fits = "yes" if p["fits"] else "no"
            machine = row["topology"] + (f" x {row['slices']}" if row["slices"] > 1 else "")
            cells = [name.rpartition(": ")[0], machine, p["program"]]
            if "peak_bytes" in p:
                sent = sum(c["moved_bytes"] for c in p["collectives"]) / 1e9
                cells += [f"{p['peak_bytes'] / GIB:.2f}", f"{p['limit_bytes'] / GIB:.2f}", fits]
                cells += [f"{p['flops']:.3g}", f"{sent:.1f}", f"{p['seconds']['at_best']:.2f}"]
            else:
                cells += ["-", f"{p.get('limit_bytes', 0) / GIB:.2f}", fits, "-", "-", "-"]
            took, host = p.get("compile_seconds", 0), p.get("host_peak_bytes", 0)
            cells += [f"{took:.0f}", f"{host / GIB:.1f}", _predicted(row, p)]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _predicted(row: dict, program: dict) -> str:
    """What --fast says of a training step, and its error where the compiler knows the peak."""
    predicted = row.get("predicted_bytes")
    if predicted is None or program["program"] != "train":
        return ""
    if "peak_bytes" not in program:
        return f"{predicted / GIB:.2f}"
    return f"{predicted / GIB:.2f} ({predicted / program['peak_bytes'] - 1:+.0%})"


def main(words: list[str]) -> None:
    held = json.loads(FILE.read_text("utf-8")) if FILE.is_file() else {"rows": {}}
    if words == ["--page"]:
        for name, row in held["rows"].items():
            if name.endswith(": train"):
                row["predicted_bytes"] = predict(name)
        FILE.write_text(json.dumps(held, indent=1) + "\n", "utf-8")
        put("plan", "nice -n 10 uv run python -m tests.plan_table", page(held["rows"]) + "\n")
        return
    for name in ROWS:
        if not all(w.lower() in name.lower() for w in words):
            continue
        mine = held["rows"].get(name, {}).get("environment", {})
        if all(mine.get(k) == environment()[k] for k in ("jax", "libtpu")):
            continue
        print(f"== {name}", flush=True)
        held["rows"][name] = measure(name)
        FILE.write_text(json.dumps(held, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
