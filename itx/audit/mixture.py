# SPDX-License-Identifier: Apache-2.0
"""Facts of the whole mixture: what the run's steps take, how full its rows are, the loss of a model
that knows only how frequent tokens are."""

from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from itx.audit.tasks import TaskFacts
from itx.data import cache, packing
from itx.data.lock import LockedData, loss_tokens
from itx.data.order import Order
from itx.data.types import Lock

MAX_WINDOWS = 4  # laid out to learn how many examples a row holds
MIN_FILL_GAIN = 0.05  # of all places: row lengths that fill so many more are proposed


class MixtureFacts(TypedDict):
    name: str
    steps: int
    examples: int  # that the steps take, about
    filled: float  # share of all places
    filled_sides: list[float]  # share of each of a row's two capacities
    loss_positions: dict[str, float]  # {cap: share of the steps that it serves}
    lengths: dict  # see `proposal`
    unigram_entropy: float  # nats per target token
    input_tokens: int  # that the steps take
    target_tokens: int


@dataclass(frozen=True)
class Filling:
    """What the rows of the first windows hold, and what so many steps therefore take."""

    examples: float  # that the steps take
    sides: np.ndarray  # float [2], share of a row's two capacities that is filled
    loss_positions: dict[str, float]  # {cap of the lock: share of the steps that it serves}


def filling(lock: Lock, data: LockedData, steps: int) -> Filling:
    """Lay out windows until the steps' rows are there, at most MAX_WINDOWS. A decoder's second
    capacity is what its steps have."""
    order, batch = Order(lock, data.usable, data.sizes), lock["global_batch"]
    needed = steps * batch
    rows = examples = windows = 0
    tokens = np.zeros(2)
    while rows < max(1, needed) and windows < MAX_WINDOWS:
        window = order.window(windows)
        taken = min(len(window), needed - rows) if needed else len(window)
        lengths = order.size(*window.segments[: window.starts[taken]].T)
        tokens = tokens + lengths.sum(0, dtype=np.int64)
        rows, examples, windows = rows + taken, examples + len(lengths), windows + 1
    caps = [order.cap(range(t * batch, (t + 1) * batch)) for t in range(max(1, rows // batch))]
    share = {cap: caps.count(cap) / len(caps) for cap in order.caps}
    mean_cap = sum(cap * x for cap, x in share.items())
    return Filling(
        examples / rows * needed,
        tokens / (rows * np.array([order.capacity[0], mean_cap])),
        {str(cap): x for cap, x in share.items()},
    )


def mixture_facts(
    lock: Lock, data: LockedData, steps: int, filled: Filling, tasks: dict[str, TaskFacts]
) -> MixtureFacts:
    capacity = np.array([lock["sequence_length"], lock["target_length"]])
    both = lock["architecture"] == "encoder_decoder"
    places = filled.sides @ capacity / capacity.sum() if both else filled.sides[0]
    return {
        "name": lock.get("mixture", ""),
        "steps": steps,
        "examples": round(filled.examples),
        "filled": float(places),
        "filled_sides": filled.sides.tolist(),
        "loss_positions": filled.loss_positions,
        "lengths": proposal(lock, data),
        "unigram_entropy": unigram_entropy(lock, data),
        "input_tokens": sum(f["input_tokens_seen"] for f in tasks.values()),
        "target_tokens": sum(f["target_tokens_seen"] for f in tasks.values()),
    }


def proposal(lock: Lock, data: LockedData) -> dict:
    """Row lengths of an encoder-decoder that waste less, from packing the first window's examples
    with them; {} where there are none.

    {"sequence_length", "target_length", "filled": [2], "filled_now": [2]}: shares of the two
    capacities.
    """
    if lock["architecture"] == "decoder":
        return {}
    order = Order(lock, data.usable, data.sizes)
    size, now = order.size(*order.window(0).segments.T), order.capacity
    pair = packing.length_pair(size, now)
    filled, filled_now = packing.fill(size, pair), packing.fill(size, now)
    if filled @ pair / sum(pair) < filled_now @ now / sum(now) + MIN_FILL_GAIN:
        return {}
    return {
        "sequence_length": pair[0],
        "target_length": pair[1],
        "filled": filled.tolist(),
        "filled_now": filled_now.tolist(),
    }


def unigram_entropy(lock: Lock, data: LockedData) -> float:
    """Nats per token of the targets (with EOS) under their own frequencies, weighted as the loss
    weighs them.

    A model that has learned nothing but how frequent tokens are has this loss.
    """
    counts = np.zeros(lock["vocabulary"]["size"] + 1)
    for task, records, usable in zip(lock["tasks"], data.records, data.usable, strict=True):
        own = _target_counts(records[0], usable[0], lock)
        # with weighting "task" a task counts by its examples, not by their length
        total = own.sum() if lock["weighting"] == "task" else len(usable[0])
        own *= task["rate"] / total
        counts[: len(own)] += own
    p = counts[counts > 0] / counts.sum()
    return float(-(p * np.log(p)).sum())


def _target_counts(records: cache.Records, usable: np.ndarray, lock: Lock) -> np.ndarray:
    """How often each token stands in the usable targets; with weighting "example" an example counts
    as one token."""
    last_pieces = records.record_pieces[1:] - 1
    record_of_piece = np.repeat(np.arange(len(records)), np.diff(records.record_pieces))
    trained = records.piece_trained.copy()
    if lock["architecture"] == "encoder_decoder":
        trained &= np.isin(np.arange(len(trained)), last_pieces)
    pieces = np.flatnonzero(trained & np.isin(record_of_piece, usable))
    lengths = records.piece_lengths[pieces]
    target_tokens = loss_tokens(records, lock["architecture"])[record_of_piece[pieces]]
    weight = 1.0 / target_tokens if lock["weighting"] == "example" else np.ones(len(lengths))
    starts = records.piece_starts[pieces]
    places = np.repeat(starts - (np.cumsum(lengths) - lengths), lengths) + np.arange(lengths.sum())
    size = lock["vocabulary"]["size"] + 1
    counts = np.bincount(records.take(places), np.repeat(weight, lengths), size)
    counts[lock["eos_id"]] += weight.sum()
    return counts
