# SPDX-License-Identifier: Apache-2.0
"""How fast one core reads, renders, encodes and writes: `uv run python -m tests.benchmarks.build
FOLDER`.

FOLDER is laid out as tasks/files.py says; T5's vocabulary there encodes. The examples are Alpaca's,
joined until they have the mean length asked for, written to JSON lines, and built by the job that
the build's workers run. Parts are timed by themselves on the same examples. Writes build.json
beside this file; prints a table.
"""

import gzip
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from itx import storage
from itx.data.vocabulary import Vocabulary
from itx.prepare import examples, fewshot, jobs, sources, types
from itx.tasks import instruction_task, jsonl, names
from tests.prepare.job_settings import job_settings

EXAMPLES = 20_000
TEMPLATES = [
    ("{request}", "{answer}"),
    ("{request}\nAnswer:", "{answer}"),
    ("Do what is asked below.\n\n{request}", "{answer}"),
]


def write(root: Path, out: Path, tokens: int, vocabulary: Vocabulary) -> None:
    """EXAMPLES rows of about so many tokens, prompt and answer together; all different."""
    with gzip.open(root / "alpaca" / "alpaca_sample.jsonl.gz", "rt", encoding="utf-8") as f:
        rows = [json.loads(line) for line in f]
    texts = [f"{r['instruction']} {r['input']} {r['output']}" for r in rows]
    at = 0
    with out.open("w", encoding="utf-8") as f:
        for i in range(EXAMPLES):
            words: list[str] = []
            # T5 takes 1.6 tokens for a word of these texts with their numbers
            while len(words) < tokens * 0.62:
                words += texts[at % len(texts)].split(" ")
                at += 1
            words = words[: int(tokens * 0.62)]
            cut = max(1, len(words) // 3)
            f.write(
                json.dumps(
                    {"q": f"{i} " + " ".join(words[cut:]), "a": " ".join(words[:cut]) or "x"},
                    ensure_ascii=False,
                )
                + "\n"
            )


def timed(work) -> tuple[float, object]:
    began = time.process_time()
    out = work()
    return time.process_time() - began, out


def measure(root: Path, tokens: int, file: Path) -> dict:
    vocabulary = Vocabulary(file)
    with tempfile.TemporaryDirectory() as folder:
        write(root, Path(folder) / "rows.jsonl", tokens, vocabulary)
        name = f"benchmark_{tokens}"
        spec = instruction_task(
            name, version=1, cluster="c", source=jsonl("rows.jsonl", split_by_hash={"train": 1.0}), templates=TEMPLATES,
            fields=lambda e: {"request": e["q"], "answer": e["a"]},
        )  # fmt: skip
        settings = job_settings(file, root=folder, cache_dir=f"{folder}/cache", eval_examples=200)
        whole, (_, manifest) = timed(lambda: jobs.run(types.Job(name, "train"), settings))
        n = manifest["input_tokens"] + manifest["target_tokens"]
        parts = {}
        parts["read"], _ = timed(
            lambda: sum(1 for _ in sources.open_source(spec.source, "", folder, 0, Counter()))
        )
        parts["read and split"], items = timed(
            lambda: list(examples.items(spec, "train", folder, 0, Counter()))
        )
        pairs = [(i, None) for i in items]
        parts["render and encode"], _ = timed(
            lambda: fewshot.render_all(spec, names.parse(name), pairs, 0, 0, vocabulary)
        )
        texts = [f"{i.values['request']} {i.values['answer']}" for i in items]
        parts["encode alone"], _ = timed(lambda: vocabulary.encode_batch(texts))
    return {"mean": n / manifest["records"], "tokens": n, "build": n / whole / 1e6,
            **{k: n / s / 1e6 for k, s in parts.items()}}  # fmt: skip


def main(root: str) -> None:
    file = Path(root) / "tokenizers" / "t5_32k" / "sentencepiece.model"
    found = [measure(Path(root), tokens, file) for tokens in (30, 200, 1000)]
    storage.write_json(Path(__file__).with_suffix(".json"), found)
    print("\n".join(lines(found)))


def lines(found: list[dict]) -> list[str]:
    """The facts as a part of a Markdown page."""
    parts = [k for k in found[0] if k not in ("mean", "tokens", "build")]
    return [
        "## Data: build", "",
        f"`python -m tests.benchmarks.build FOLDER`: {EXAMPLES:,} examples of Alpaca's words read from JSON lines, rendered, encoded "
        "with T5's SentencePiece model and written, by one process; M tokens a CPU second, and of each part alone.", "",
        f"| mean length | build | {' | '.join(parts)} |", "|---" * (2 + len(parts)) + "|",
        *(f"| {f['mean']:.0f} | {f['build']:.2f} | {' | '.join(f'{f[k]:.2f}' for k in parts)} |" for f in found),
    ]  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1])
