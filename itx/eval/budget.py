# SPDX-License-Identifier: Apache-2.0
"""eval.max_seconds: how many examples of each row are asked, so that scoring takes no longer.

The number is fixed before anything is scored, from how long the first example of each row takes in
all its templates, and is the same for all rows: the first so many in the order of their content
hashes. So a smaller budget asks some of what a larger one asks, and no score decides how many are
asked. It stands in eval/budget.json of the run, by what is asked: before and after tuning, and a
look that goes on after a kill, ask the same.

    {key: {"max_seconds", "example_seconds": what one more example of each row takes, "examples": of
           each row, "most": what eval.max_examples allows; 0: all}}

The first example is asked twice, for the first time compiles, unless all would be in time even if
each took as long as that.
"""

import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NotRequired, TypedDict

from itx import config as configs
from itx import hashing, hosts, storage
from itx.config import RunConfig
from itx.eval.predictions import ScoredRow

if TYPE_CHECKING:  # the audit imports what imports this, and does without JAX
    from itx.runs import RunFolder


class Budget(TypedDict):
    max_seconds: float
    example_seconds: float
    examples: int
    most: int
    seconds: NotRequired[float | None]  # that the look took, all of it; only in scores.json


def bounded(
    run: "RunFolder",
    config: RunConfig,
    rows: list[ScoredRow],
    ask: Callable[[], None],
    say: Callable[[str], None],
) -> tuple[RunConfig, Budget | None]:
    """(the config with the eval.max_examples that its eval.max_seconds leaves, the budget; None
    where there is none).

    Args:
        rows: all that are asked.
        ask: answers the first example of each row, and keeps nothing of it.
    """
    if not config.eval.max_seconds or not rows:
        return config, None
    held = hosts.broadcast(lambda: of_rows(run, config, rows))
    if held is None:
        held = hosts.broadcast(_measured(config, rows, ask))
        if hosts.is_writer():
            every = storage.read_object(run.budget_json, absent={})
            every.pop(storage.SEAL, None)
            every[_key(config, rows)] = held
            storage.write_json(run.budget_json, storage.sealed(every))
        say(in_words(held))
    return configs.changed(config, "eval", max_examples=held["examples"]), held


def examples(run: "RunFolder", config: RunConfig, rows: list[ScoredRow]) -> int:
    """How many examples of each of these rows are asked; 0: all."""
    held = hosts.broadcast(lambda: of_rows(run, config, rows))
    return held["examples"] if held else config.eval.max_examples


def of_rows(run: "RunFolder", config: RunConfig, rows: list[ScoredRow]) -> Budget | None:
    """What was fixed for these rows; None where nothing was yet, or there is no budget."""
    if not config.eval.max_seconds:
        return None
    return storage.read_object(run.budget_json, absent={}).get(_key(config, rows))


def _key(config: RunConfig, rows: list[ScoredRow]) -> str:
    asked = [(row["name"], row["sha256"], row["limit"]) for row in rows]
    settings = (config.eval.max_seconds, config.eval.max_examples, config.eval.batch_size)
    return hashing.digest(json.dumps([settings, asked]))


def _measured(
    config: RunConfig, rows: list[ScoredRow], ask: Callable[[], None]
) -> Callable[[], Budget]:
    """What gives the budget. All processes ask; the writer's clock counts."""
    most = config.eval.max_examples
    largest = max(row["examples"] for row in rows)
    wanted = min(most or largest, largest)
    seconds = hosts.broadcast(_timed(ask))
    if seconds * wanted > config.eval.max_seconds:
        seconds = hosts.broadcast(_timed(ask))
    examples = most
    if seconds * wanted > config.eval.max_seconds:
        examples = max(1, int(config.eval.max_seconds / seconds))
    return lambda: {
        "max_seconds": config.eval.max_seconds,
        "example_seconds": seconds,
        "examples": examples,
        "most": most,
    }


def _timed(ask: Callable[[], None]) -> Callable[[], float]:
    began = time.monotonic()
    ask()
    seconds = time.monotonic() - began
    return lambda: seconds


def in_words(held: Budget) -> str:
    """How many examples the budget leaves."""
    told = f"eval.max_seconds={held['max_seconds']:g}: an example of each row takes "
    told += f"{held['example_seconds']:.3g} s, "
    if held["examples"] == held["most"]:
        return told + "so all are asked that eval.max_examples allows"
    allowed = f"{held['most']} that eval.max_examples allows" if held["most"] else "all"
    if held["example_seconds"] > held["max_seconds"]:
        return told + f"more than there is; one is asked, of {allowed}"
    return told + f"so {held['examples']} are asked of {allowed}"
