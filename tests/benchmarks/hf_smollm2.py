# SPDX-License-Identifier: Apache-2.0
"""transformers at what tests/benchmarks/smollm2.py asks of itx: `PYTHON hf_smollm2.py first | 1 |
16`, where PYTHON has torch, transformers and gguf. It imports nothing of itx."""

import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

MODELS, FILE = Path(__file__).parents[2] / "models", "SmolLM2-135M-Instruct.Q4_1.gguf"
QUESTION = "What is the capital of France?"
PROMPT, NEW, PASSES = 128, 64, 3


def load():
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(MODELS, gguf_file=FILE)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        MODELS, gguf_file=FILE, dtype=torch.float32
    )
    return tokenizer, model.eval()


def answer() -> None:
    tokenizer, model = load()
    turn = [{"role": "user", "content": QUESTION}]
    ids = tokenizer.apply_chat_template(
        turn, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    out = model.generate(**ids, max_new_tokens=NEW, do_sample=False)
    print(tokenizer.decode(out[0, ids["input_ids"].shape[1] :]))


def first() -> dict:
    began = time.perf_counter()
    said = subprocess.run([sys.executable, __file__, "answer"], check=True, stdout=subprocess.PIPE)
    assert b"Paris" in said.stdout, said.stdout
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    wall = time.perf_counter() - began
    return {
        "wall_s": wall,
        "cpu_s": used.ru_utime + used.ru_stime,
        "peak_mb": used.ru_maxrss / 1024,
    }


def batch(rows: int) -> dict:
    import torch

    _, model = load()
    ids = torch.tensor(
        [[100 + (7919 * (row * PROMPT + i)) % 40_000 for i in range(PROMPT)] for row in range(rows)]
    )
    took, used = [], []
    for _ in range(1 + PASSES):
        c, w = time.process_time(), time.perf_counter()
        with torch.inference_mode():
            out = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=NEW,
                min_new_tokens=NEW,
                do_sample=False,
            )
        assert out.shape == (rows, PROMPT + NEW)
        took.append(time.perf_counter() - w)
        used.append(time.process_time() - c)
    wall = statistics.median(took[1:])
    return {
        "wall_s": wall,
        "cpu_s": statistics.median(used[1:]),
        "tokens_per_second": rows * NEW / wall,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main() -> None:
    what = sys.argv[1]
    if what == "answer":
        answer()
    else:
        print("RESULT " + json.dumps(first() if what == "first" else batch(int(what))))


if __name__ == "__main__":
    main()
