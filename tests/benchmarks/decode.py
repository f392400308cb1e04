# SPDX-License-Identifier: Apache-2.0
"""CPU seconds of greedy decoding and of option ranking beside other evaluators', in one run.

    python -m tests.benchmarks.decode [--rounds N] [--steps N] [--peers FOLDER] [LABEL='COMMAND'
    ...]

The models are train_step.py's M1 and M2, with random weights, in float32. `decode`: 16 prompts of
256 (M1) or 128 (M2) tokens and 64 new ones, and no row ends early. `rank`: 64 prompts, 4 options
each, of the peers' lengths (medians 100 and
12 tokens). A peer's COMMAND prints `RESULT {"cpu_s": …}` for the same work; the label begins with
`m1 decode` and so on. Writes decode.json beside this file.
"""

import resource
import statistics
import time

from itx import restore
from itx.config import RunConfig
from tests.benchmarks.train_step import cpu, in_turns, shape_of

ROWS, NEW, PROMPT = 16, 64, {"m1": 256, "m2": 128}
OURS = ("m1 decode", "m2 decode", "m1 rank", "m2 rank")
END = 1


def questions() -> tuple[list[list[int]], list[list[list[int]]]]:
    """64 prompts and 4 options for each, as token ids; lengths are log-normal, cut to 8..400 and
    1..60."""
    import numpy as np

    draw = np.random.RandomState(0)

    def ids(median: float, sigma: float, low: int, high: int) -> list[int]:
        n = int(np.clip(draw.lognormal(np.log(median), sigma), low, high))
        return draw.randint(3, 32_000, n).tolist()

    return [ids(100, 0.8, 8, 400) for _ in range(64)], [
        [ids(12, 0.7, 1, 60) for _ in range(4)] for _ in range(64)
    ]


def one(name: str, steps: int) -> dict:
    """{"cpu_s", "wall_s": medians of a pass, "peak_mb"} of itx, in this process; the first pass
    compiles."""
    import numpy as np
    from flax import nnx

    from itx import mesh as meshes
    from itx.eval.loaded import LoadedModel
    from itx.eval.runner import Runner

    shape, what = name.split()
    config = RunConfig(model=shape_of(shape))
    mesh = meshes.make_mesh(config.mesh)
    lock = {"vocabulary": {"size": config.model.vocab_size}, "tasks": [{"name": "t"}]}
    _, abstract = restore.abstract_model(config, lock["vocabulary"]["size"])
    params = dict(restore.initialiser(config, lock["vocabulary"]["size"], mesh)())
    eos = -1 if what == "decode" else END
    runner = Runner(LoadedModel(
        graphdef=nnx.graphdef(abstract), params=params, mesh=mesh, model=config.model, bos_id=0, eos_id=eos, pad_id=0,
    ))  # fmt: skip
    if what == "decode":
        length = PROMPT[shape] - 1  # BOS, or the encoder's EOS, is one more
        prompts = np.random.RandomState(0).randint(3, 32_000, (ROWS, length)).tolist()

        def go() -> None:
            found = runner.generate(prompts, NEW)
            assert [len(f["tokens"]) for f in found] == [NEW] * ROWS
    else:
        prompts, options = questions()

        def go() -> None:
            found = runner.rank(prompts, options)
            assert all(np.isfinite(o["logprob"]) for row in found for o in row)

    used, took = [], []
    for _ in range(1 + steps):
        c, w = cpu(), time.perf_counter()
        go()
        used.append(cpu() - c)
        took.append(time.perf_counter() - w)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "cpu_s": statistics.median(used[1:]),
        "wall_s": statistics.median(took[1:]),
        "peak_mb": peak,
    }


def lines(facts: dict) -> list[str]:
    """The facts as a part of a Markdown page."""
    found = {
        name: statistics.median(r["cpu_s"] for r in runs) for name, runs in facts["found"].items()
    }
    out = [
        "## Decoding and ranking", "",
        f"`python -m tests.benchmarks.decode`: {facts['cores']} cores of {facts['processor']}, float32, medians of {facts['rounds']} "
        "rounds in turn, the models above. Decode: 16 prompts (256 tokens for M1, 128 for M2), 64 new tokens, greedy. Rank: 64 "
        "prompts of about 100 tokens with 4 options of about 12.", "",
        "| | CPU s | itx is faster by | peak memory, MB |", "|---|---|---|---|",
    ]  # fmt: skip
    for name in sorted(found, key=lambda n: (n.split()[:2], n not in OURS)):
        ours = found[" ".join(name.split()[:2])]
        runs = facts["found"][name]
        peak = statistics.median(r.get("peak_mb") or r.get("peak_rss_mb") or 0 for r in runs)
        times = "" if name in OURS else f"{found[name] / ours:.2f}"
        out.append(
            f"| {'itx ' if name in OURS else ''}{name} | {found[name]:.2f} | {times} | {peak:,.0f} |"
        )
    return out


def main() -> None:
    print("\n".join(lines(in_turns(__file__, OURS, one))))


if __name__ == "__main__":
    main()
