# SPDX-License-Identifier: Apache-2.0
r"""A real model from its GGUF file: seconds until the first answer, and tokens a second, beside
transformers in one run.

    uv run itx recipes fetch smollm2
    uv run python -m tests.benchmarks.smollm2 --peers tests/benchmarks \
        'hf first=PYTHON hf_smollm2.py first' 'hf batch 1=PYTHON hf_smollm2.py 1' \
        'hf batch 16=PYTHON hf_smollm2.py 16'

PYTHON is one with torch, transformers and gguf. SmolLM2-135M-Instruct, float32, greedy. `first`:
wall seconds of a whole command that answers one question, from a cold start. `batch N`: N prompts
of 128 tokens, 64 new ones and no row ends early; wall seconds of a pass once it has been made.
Writes smollm2.json beside this file.
"""

import dataclasses
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

from itx import pretrained, restore
from itx.eval.runner import Runner
from tests.benchmarks.decode import NEW
from tests.benchmarks.train_step import cpu, in_turns

MODEL = "models/SmolLM2-135M-Instruct.Q4_1.gguf"
QUESTION = "What is the capital of France?"
PROMPT = 128
OURS = ("first", "batch 1", "batch 16")
REPO = Path(__file__).parents[2]


def prompts(rows: int) -> list[list[int]]:
    """Token ids, the same on every machine, none of them a special one."""
    return [
        [100 + (7919 * (row * PROMPT + i)) % 40_000 for i in range(PROMPT)] for row in range(rows)
    ]


def first() -> dict:
    began = time.perf_counter()
    command = [sys.executable, "-m", "itx.cli", "generate", MODEL, "--prompt", QUESTION]
    said = subprocess.run(
        [*command, "--max_new_tokens", str(NEW)], cwd=REPO, check=True, stdout=subprocess.PIPE
    )
    assert b"Paris" in said.stdout, said.stdout
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "wall_s": time.perf_counter() - began,
        "cpu_s": used.ru_utime + used.ru_stime,
        "peak_mb": used.ru_maxrss / 1024,
    }


def one(name: str, steps: int) -> dict:
    """{"wall_s", "cpu_s", "peak_mb"}, and of a batch {"tokens_per_second"}; of itx."""
    if name == "first":
        return first()
    begin = pretrained.untrained(str(REPO / MODEL))
    assert begin is not None
    loaded = restore.load_untrained(begin)[0].loaded
    runner = Runner(dataclasses.replace(loaded, eos_id=-1, more_ends=(), context=0))
    asked = prompts(int(name.split()[1]))
    used, took = [], []
    for _ in range(1 + steps):
        c, w = cpu(), time.perf_counter()
        found = runner.generate(asked, NEW)
        assert [len(f["tokens"]) for f in found] == [NEW] * len(asked)
        used.append(cpu() - c)
        took.append(time.perf_counter() - w)
    wall = statistics.median(took[1:])
    return {
        "wall_s": wall,
        "cpu_s": statistics.median(used[1:]),
        "tokens_per_second": len(asked) * NEW / wall,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def lines(facts: dict) -> list[str]:
    """The facts as a part of a Markdown page."""
    median = {
        name: {key: statistics.median(r[key] for r in runs) for key in runs[0]}
        for name, runs in facts["found"].items()
    }
    out = [
        "## A real model", "",
        f"`python -m tests.benchmarks.smollm2`: SmolLM2-135M-Instruct from its GGUF file, {facts['cores']} cores of "
        f"{facts['processor']}, float32, medians of {facts['rounds']} rounds in turn. first: wall seconds of a command that "
        f"answers a question, from its start; batch: new tokens a second behind prompts of {PROMPT} tokens, {NEW} each, greedy.", "",
        "| | wall s | new tokens a second | itx is faster by | peak memory, MB |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for name in sorted(median, key=lambda n: (OURS.index(n.removeprefix("hf ")), n not in OURS)):
        found, ours = median[name], median[name.removeprefix("hf ")]
        times = "" if name in OURS else f"{found['wall_s'] / ours['wall_s']:.2f}"
        rate = f"{found['tokens_per_second']:.1f}" if "tokens_per_second" in found else ""
        label = f"itx {name}" if name in OURS else name
        out.append(
            f"| {label} | {found['wall_s']:.1f} | {rate} | {times} | {found['peak_mb']:,.0f} |"
        )
    return out


def main() -> None:
    print("\n".join(lines(in_turns(__file__, OURS, one))))


if __name__ == "__main__":
    main()
