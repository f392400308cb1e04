# SPDX-License-Identifier: Apache-2.0
"""The score of a row that knows nothing: a drawn option, or always the commonest answer."""

from collections import Counter
from functools import lru_cache
from pathlib import Path

from itx import text
from itx.config import RunConfig
from itx.data import cache
from itx.data.types import EvalRow, Lock
from itx.eval import metrics, stats


def chance_of(row: EvalRow, lock: Lock, config: RunConfig) -> tuple[float, str]:
    """(level, where it comes from): max(mean of 1/options, what always saying the commonest answer
    scores).

    Measured on all examples that the cache keeps for the row, not only on those asked: two examples
    would make every answer the commonest.
    """
    cache_dir = Path(config.data.cache_dir)
    of_row = examples(cache_dir / row["folder"])
    options = stats.mean(1 / len(x["options"]) if x["options"] else 0.0 for x in of_row)
    constant, why = leave_one_out(of_row), "commonest answer of the row"
    if trained := training_folder(row, lock, cache_dir):
        constant = commonest_score(_commonest_of(trained), row, of_row)
        why = "commonest training answer"
    return max((options, "options"), (constant, why), key=lambda pair: pair[0])


@lru_cache(maxsize=1024)  # a folder's name holds the hash of its content
def examples(folder: Path) -> list[dict]:
    """{"references", "options"} of each example of an evaluation row, once."""
    first: dict[str, dict] = {}
    for line in cache.iterate_examples(folder):
        first.setdefault(line["id"], {k: line[k] for k in ("references", "options")})
    return list(first.values())


def training_folder(row: EvalRow, lock: Lock, cache_dir: Path) -> Path | None:
    """Where the row's own training data lie; None for a task that is not trained on."""
    variants = [
        t
        for t in lock["tasks"]
        if t["task"] == row["task"] and "inv" not in t["name"].split(":")[1:]
    ]
    own = min(variants, key=lambda t: t["name"] != row["variant"], default=None)
    return cache_dir / own["folders"][0] if own else None


@lru_cache(maxsize=1024)
def _commonest_of(folder: Path) -> str:
    return commonest([e["references"][0] for e in cache.iterate_examples(folder)])


def commonest(answers: list[str]) -> str:
    """The commonest answer as it was first written; of equals the first in order."""
    counts = Counter(text.normalise(a, answer=True) for a in answers)
    key = min(counts, key=lambda a: (-counts[a], a))
    return next(a for a in answers if text.normalise(a, answer=True) == key)


def commonest_score(constant: str, row: EvalRow, of_row: list[dict]) -> float:
    """What always saying `constant` scores under the row's metric."""
    references = [x["references"] for x in of_row]
    return metrics.of_answers(metrics.of_row(row), references, [constant] * len(of_row))


def leave_one_out(of_row: list[dict]) -> float:
    """Share of the commonest answer among the other contents of a row: 0 where all differ."""
    answers = Counter(text.normalise(x["references"][0], answer=True) for x in of_row)
    most = max(answers.values(), default=0)
    return (most - 1) / (len(of_row) - 1) if len(of_row) > 1 else 0.0
