# SPDX-License-Identifier: Apache-2.0
"""Loss on the same few examples of every trained task, before and after: did each task get better
at all?

The examples are the first contents of each task's `instances` row (its own split, never trained
on), in one template each; the loss is nats per target token, EOS included, as in training.
"""

from collections.abc import Callable
from pathlib import Path

from itx import movement
from itx.data import cache
from itx.data.types import Lock
from itx.eval import before_after
from itx.eval.loaded import Ids
from itx.eval.runner import Runner
from itx.runs import RunFolder

Pair = tuple[Ids, Ids]  # prompt ids, target ids


def fixed_losses(
    load: Callable[[], Runner],
    lock: Lock,
    cache_dir: str | Path,
    run: RunFolder,
    step: int,
    when: str,
    most: int,
) -> dict:
    """Adds {when: {row name: loss}} to the run's fixed-example file; `when` is "before" or "after",
    `most` the examples of each task (eval.fixed_examples)."""

    def measure() -> dict:
        rows = [r for r in lock["evaluation"] if r["group"] == "instances"]
        pairs = {r["name"]: fixed_examples(Path(cache_dir) / r["folder"], lock, most) for r in rows}
        with movement.shown(f"fixed examples {when} tuning"):
            return target_losses(load(), pairs)

    return before_after.once(run.fixed_json, when, [step, most], measure)


def target_losses(runner: Runner, pairs_of: dict[str, list[Pair]]) -> dict[str, float]:
    """{name: nats per target token, EOS included}, all asked together."""
    flat = [pair for pairs in pairs_of.values() for pair in pairs]
    answers = iter(runner.rank([p for p, _ in flat], [[t] for _, t in flat]))
    losses = {}
    for name, pairs in pairs_of.items():
        scores = [next(answers)[0] for _ in pairs]
        tokens = sum(len(t) + 1 for _, t in pairs)
        losses[name] = -sum(s["logprob"] for s in scores) / tokens
    return losses


def fixed_examples(folder: Path, lock: Lock, most: int | None) -> list[Pair]:
    """The first `most` examples (None: all) of an evaluation folder, each in the next template."""
    records, of_example = cache.Records(folder), {}
    for n, line in enumerate(cache.iterate_examples(folder)):
        if line["id"] not in of_example and len(of_example) == most:
            break
        of_example.setdefault(line["id"], []).append(n)
    pairs = []
    for i, places in enumerate(of_example.values()):
        n = places[i % len(places)]
        pairs.append(records.prompt_and_target(n, lock["eos_id"], lock["architecture"]))
    return pairs
