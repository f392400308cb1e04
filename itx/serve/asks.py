# SPDX-License-Identifier: Apache-2.0
"""What the engine is asked, and what it tells of the answer.

ask      one prompt's token ids, how its answer is drawn, and what ends it
delta    what has been added to the answer since the last one
ticket   an ask in the engine, from its arrival until its last delta
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from itx.eval.loaded import Ids
from itx.serve.steps import DRAWN, GREEDY, NUCLEUS, Choice, Rows

STOPPED, CUT = "stop", "length"  # finish_reason: an end was written, or the limit was reached


class Scored(NamedTuple):
    """A token of an answer with its log-probability, and where its text begins."""

    id: int
    logprob: float
    top: list[tuple[int, float]]  # the likeliest (id, log-probability), best first
    offset: int  # in the answer's text, in characters


class Delta(NamedTuple):
    """What has been added to an answer. finish: why it is over, None: it goes on; tokens: how many
    it has so far. failure: it ends without an answer, and this says why."""

    text: str
    scored: list[Scored]
    finish: str | None
    tokens: int
    failure: str = ""


@dataclass(frozen=True)
class Ask:
    """temperature 0 takes the best token; then top_p and seed change nothing.

    stop: texts that end the answer and are no part of it. scored: log-probabilities are wanted.
    streamed: deltas are wanted as the answer grows; else one tells all of it.
    """

    ids: Ids
    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    scored: bool = False
    streamed: bool = False

    @property
    def choice(self) -> Choice:
        """What a program must do for this ask."""
        draws = GREEDY if self.temperature == 0 else NUCLEUS if self.top_p < 1 else DRAWN
        return Choice(draws, self.scored)


@dataclass(eq=False)
class Ticket:
    """An ask in the engine.

    Args:
        tell: is called with each delta, in the engine's thread.
        rest: the request's row, where it stands in no batch.
    """

    ask: Ask
    tell: Callable[[Delta], None]
    ids: Ids = field(default_factory=list)  # of the answer so far
    scores: list[tuple[float, list[tuple[int, float]]]] = field(default_factory=list)
    cancelled: bool = False
    rest: Rows | None = None
    arrived: float = field(default_factory=time.monotonic)
    first_told: float | None = None

    def cancel(self) -> None:
        """Nobody waits for the answer any more: the engine drops it before its next step."""
        self.cancelled = True
