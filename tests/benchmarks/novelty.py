# SPDX-License-Identifier: Apache-2.0
"""How long Self-Instruct's novelty rule takes on 100,000 candidates: `uv run python -m
tests.benchmarks.novelty FOLDER`.

FOLDER is laid out as tasks/files.py says. Candidates are the instructions of Alpaca and Dolly, and
further ones made of these: half of them a real instruction in which a fifth to two thirds of the
words are another instruction's, half the beginning of one instruction with the end of another. All
are put in an order that is drawn. The quadratic rule is timed on a sample of pairs. One process,
one thread. Writes novelty.json beside this file; prints a table.
"""

import gzip
import json
import random
import sys
import time
from pathlib import Path

from itx import storage
from itx.create.novelty import Pool
from itx.eval import rouge

COUNTS = (10_000, 100_000)
PAIRS = 100_000


def real(root: Path) -> list[str]:
    with gzip.open(root / "alpaca" / "alpaca_sample.jsonl.gz", "rt", encoding="utf-8") as f:
        lines = [*f, *(root / "dolly" / "dolly_3k_sample.jsonl").read_text("utf-8").splitlines()]
    return [json.loads(line)["instruction"] for line in lines]


def candidates(texts: list[str], count: int) -> list[str]:
    draw = random.Random(0)
    out = list(texts)
    while len(out) < 100_000:
        words, other = draw.choice(texts).split(), draw.choice(texts).split()
        if not words or not other:
            continue
        if draw.random() < 0.5:
            for i in draw.sample(range(len(words)), round(draw.uniform(0.2, 0.67) * len(words))):
                words[i] = draw.choice(other)
        else:
            words = words[: draw.randrange(1, len(words) + 1)]
            words += other[draw.randrange(len(other)) :]
        out.append(" ".join(words))
    draw.shuffle(out)
    return out[:count]


def measure(texts: list[str]) -> dict:
    pool = Pool()
    began, cpu = time.perf_counter(), time.process_time()
    rejected = sum(pool.admit(text) is not None for text in texts)
    return {
        "candidates": len(texts),
        "rejected": rejected,
        "words": sum(len(rouge.words(t)) for t in texts) / len(texts),
        "wall seconds": time.perf_counter() - began,
        "CPU seconds": time.process_time() - cpu,
    }


def seconds_a_pair(texts: list[str]) -> float:
    """Of the quadratic rule: a longest common subsequence of words that are split already."""
    draw = random.Random(1)
    words = [rouge.words(t) for t in texts]
    pairs = [(draw.choice(words), draw.choice(words)) for _ in range(PAIRS)]
    began = time.process_time()
    for a, b in pairs:
        rouge.lcs_length(a, b)
    return (time.process_time() - began) / PAIRS


def main(root: str) -> None:
    texts = real(Path(root))
    found = {
        "real": len(texts),
        "seconds a pair": seconds_a_pair(texts),
        "runs": [measure(candidates(texts, count)) for count in COUNTS],
    }
    storage.write_json(Path(__file__).with_suffix(".json"), found)
    print("\n".join(lines(found)))


def lines(found: dict) -> list[str]:
    """The facts as a part of a Markdown page."""

    def quadratic(run: dict) -> float:
        kept = run["candidates"] - run["rejected"]
        return found["seconds a pair"] * kept * run["candidates"] / 2

    return [
        "## Data creation: novelty", "",
        f"`python -m tests.benchmarks.novelty FOLDER`: ROUGE-L below 0.7 with every instruction accepted before, decided exactly "
        f"(itx/create/novelty.py), one thread. Candidates: {found['real']:,} real instructions and mixtures of these. The quadratic "
        f"rule's time is its number of pairs times {found['seconds a pair'] * 1e6:.1f} µs, the measured time of one.", "",
        "| candidates | mean words | rejected | wall s | CPU s | quadratic rule, CPU s |", "|---" * 6 + "|",
        *(f"| {r['candidates']:,} | {r['words']:.0f} | {r['rejected']:,} | {r['wall seconds']:.1f} | {r['CPU seconds']:.1f} | "
          f"{quadratic(r):,.0f} |" for r in found["runs"]),
    ]  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1])
