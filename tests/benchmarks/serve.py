# SPDX-License-Identifier: Apache-2.0
"""Tokens a second of `itx serve` at 1, 8 and 32 requests at a time, beside `Runner.generate` over the
same prompts in one batch, in the same process.

    uv run itx recipes fetch smollm2
    uv run python -m tests.benchmarks.serve models/SmolLM2-135M-Instruct.Q4_1.gguf

Writes serve.json. Each is taken ROUNDS times in turn, and the best counts: the machine may do other
work. Greedy, 64 tokens each, no end within them (the ends are taken out of the model), programs
compiled before.
"""

import dataclasses
import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai

from itx.commands.opened import opened
from itx.eval import terminal
from itx.eval.runner import Runner
from itx.serve import serving
from itx.serve.fields import Reader
from itx.serve.lanes import Sizes
from itx.serve.serving import Serving

AT_ONCE, TOKENS, ROUNDS = (1, 8, 32), 64, 3
SUBJECTS = (
    "rain iron bread salt gold tea glass wool ink paper silk amber coal honey milk rice".split()
)
NEVER = 2**30  # an id that no vocabulary has


def prompts(count: int) -> list[str]:
    return [f"Number {i} of my notes is about {SUBJECTS[i % 16]}:" for i in range(count)]


def main(file: str) -> None:
    model = opened(file)
    loaded = dataclasses.replace(model.runner.loaded, eos_id=NEVER, more_ends=(), context=1024)
    run = terminal.Run(Runner(loaded), model.vocabulary)
    reader = Reader(run, "model", "", 1024, 1024)
    sizes = Sizes(AT_ONCE, 4 * 2**30, 1024)
    listener = serving.listening("127.0.0.1", 0)
    server = Serving(reader, sizes, 64, serving.access("127.0.0.1", "", 2**20), listener)
    server.start()
    client = openai.OpenAI(base_url=server.address + "/v1", api_key="none", max_retries=0)

    def one(prompt: str) -> str:
        how = {"model": "model", "max_tokens": TOKENS, "temperature": 0}
        return client.completions.create(prompt=prompt, **how).choices[0].text

    def served(count: int) -> tuple[float, list[str]]:
        with ThreadPoolExecutor(count) as pool:
            began = time.monotonic()
            found = list(pool.map(one, prompts(count)))
            return time.monotonic() - began, found

    def generated(count: int) -> tuple[float, list[str]]:
        ids = [run.vocabulary.encode(p) for p in prompts(count)]
        began = time.monotonic()
        answers = run.runner.generate(ids, TOKENS)
        seconds = time.monotonic() - began
        return seconds, [run.vocabulary.answer(a["tokens"]) for a in answers]

    rows = {}
    for count in AT_ONCE:
        server_seconds, runner_seconds, load = [], [], os.getloadavg()[0]
        for n in range(ROUNDS + 1):
            (ours, texts), (theirs, want) = served(count), generated(count)
            if n:  # the first compiles
                server_seconds.append(ours)
                runner_seconds.append(theirs)
        rows[count] = {
            "server_tokens_per_second": round(count * TOKENS / min(server_seconds), 1),
            "runner_tokens_per_second": round(count * TOKENS / min(runner_seconds), 1),
            "ratio": round(min(runner_seconds) / min(server_seconds), 2),
            "same_answers": sum(a == b for a, b in zip(texts, want, strict=True)),
            "load_before": round(load, 1),
        }
        print(count, rows[count], flush=True)
    client.close()
    server.stop(10)
    facts = {"cores": os.cpu_count(), "tokens": TOKENS, "rounds": ROUNDS, "at_once": rows}
    (Path(__file__).parent / "serve.json").write_text(json.dumps(facts, indent=1) + "\n")


def lines(found: dict) -> list[str]:
    """The facts as a part of a Markdown page."""
    return [
        "## A server", "",
        f"`python -m tests.benchmarks.serve FILE`: SmolLM2-135M-Instruct from its GGUF file, {found['cores']} cores of AMD EPYC, float32, "
        f"{found['tokens']} greedy tokens, best of {found['rounds']} rounds in turn. Runner: the same prompts in one batch, without HTTP.", "",
        "| requests at once | itx serve, tokens a second | Runner | ratio | answers that are the Runner's |", "|--:" * 5 + "|",
        *(f"| {n} | {r['server_tokens_per_second']} | {r['runner_tokens_per_second']} | {r['ratio']} | {r['same_answers']} of {n} |"
          for n, r in found["at_once"].items()),
    ]  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1])
