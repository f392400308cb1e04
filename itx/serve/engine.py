# SPDX-License-Identifier: Apache-2.0
"""The engine of the server: a thread that owns the device, and the bounded queue before it.

A turn of the engine drops what nobody waits for, moves requests that have filled their lane, reads
a few prompts, and asks each lane for some tokens. Requests are taken in the order of their
arrival; one whose lane is full waits for that lane, and those behind it may pass.
"""

import threading
import time
from collections import deque
from collections.abc import Sequence

import jax

from itx.data.vocabulary import Vocabulary
from itx.errors import of_the_machine
from itx.eval.loaded import LoadedModel
from itx.serve.asks import CUT, Delta, Ticket
from itx.serve.lanes import Device, Lane, Size, Sizes, add
from itx.serve.meters import Meters
from itx.serve.writer import Writer
from itx.text import say

READS = 8  # prompts that are read, at most, between two steps of the others
WAIT_SECONDS = 1.0  # between two looks whether all is over, where nothing is to be done
SPEED_SECONDS = 20.0  # over which the speed of answers is taken
SHOWN = 200  # characters of an error
SHUTTING_DOWN, FAILED = "the server is shutting down", "the engine failed"


class Full(Exception):
    """The queue has no place. seconds: when it may have one."""

    def __init__(self, seconds: float):
        super().__init__(f"the queue is full; try again in {seconds:.0f} s")
        self.seconds = seconds


class Closed(Exception):
    """The engine takes nothing more: the server is shutting down."""


class Engine:
    """Answers asks with one model. `submit` and `cancel` of a ticket may be called in any thread.

    Args:
        queue: most asks that wait for a row.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        vocabulary: Vocabulary,
        sizes: Sizes,
        queue: int,
        meters: Meters,
    ):
        self.loaded, self.vocabulary, self.sizes = loaded, vocabulary, sizes
        self.queue, self.meters = queue, meters
        self.changed = threading.Condition()  # over the five that follow
        self.waiting: deque[Ticket] = deque()
        self.closing = False
        self.answering = 0  # tickets that have a row, or had one and wait for the next
        self.last_failed = ""
        self.done: deque[tuple[float, int]] = deque()  # (when, tokens) of the last seconds
        self.device = Device(loaded)
        self.lanes: dict[Size, Lane] = {}
        self.parked: deque[Ticket] = deque()  # taken out of a full lane, at rest
        self.writers: dict[Ticket, Writer] = {}
        self.thread = threading.Thread(target=self._run, name="itx-engine", daemon=True)

    def start(self) -> None:
        self.thread.start()

    def submit(self, tickets: Sequence[Ticket]) -> None:
        """Put all of the tickets into the queue, or none: Full, Closed."""
        with self.changed:
            if self.closing:
                raise Closed
            free = self.sizes.rungs[-1] - self.answering  # rows that will take from the queue
            if len(self.waiting) + len(tickets) > self.queue + max(0, free):
                raise Full(self._seconds_for_a_place())
            self.waiting += tickets
            self.meters.waiting.set(len(self.waiting))
            self.changed.notify()

    def close(self) -> int:
        """Refuse what waits and what comes; what has a row is finished, and the thread then ends.
        Returns how many were refused."""
        with self.changed:
            self.closing = True
            refused = list(self.waiting)
            self.waiting.clear()
            self.meters.waiting.set(0)
            self.changed.notify()
        for ticket in refused:
            ticket.tell(Delta("", [], CUT, 0, SHUTTING_DOWN))
        return len(refused)

    def give_up(self) -> int:
        """Nobody waits any more for what has a row, who is told so; returns how many that were."""
        given_up = list(self.writers)
        for ticket in given_up:
            ticket.cancel()
            ticket.tell(Delta("", [], CUT, len(ticket.ids), SHUTTING_DOWN))
        return len(given_up)

    def _seconds_for_a_place(self) -> float:
        """When the queue may have a place, by how fast answers have been written of late."""
        span = min(SPEED_SECONDS, time.monotonic() - self.done[0][0]) if self.done else 0.0
        per_second = sum(n for _, n in self.done) / span if span > 0 else 0.0
        waited_for = [t.ask.max_tokens for t in self.waiting]
        return min(60.0, max(1.0, sum(waited_for) / max(1, len(waited_for)) / (per_second or 1.0)))

    # ---- the thread

    def _run(self) -> None:
        while True:
            with self.changed:
                while not self.waiting and not self.writers and not self.closing:
                    self.changed.wait(WAIT_SECONDS)
                if self.closing and not self.writers:
                    return
            try:
                self._turn()
                self.last_failed = ""
            except Exception as e:  # of the device; the next request may do
                self._fail(e)

    def _turn(self) -> None:
        self._drop()
        self._move()
        self._admit()
        self.lanes = {size: lane for size, lane in self.lanes.items() if lane.active}
        for lane in self.lanes.values():
            lane.settle()
            for ticket, tokens in list(lane.step()):
                self._count(tokens)
                if self._told(ticket):
                    lane.leave(ticket)
        self.lanes = {size: lane for size, lane in self.lanes.items() if lane.active}
        with self.changed:
            self.answering = len(self.writers)
            self.meters.answering.set(self.answering)

    def _drop(self) -> None:
        """Cancelled tickets leave the queue, their lanes and the memory."""
        with self.changed:
            gone = [t for t in self.waiting if t.cancelled]
            self.waiting = deque(t for t in self.waiting if not t.cancelled)
            self.meters.waiting.set(len(self.waiting))
        self.meters.cancelled.inc(len(gone))
        for lane in self.lanes.values():
            for ticket in lane.active:
                if ticket.cancelled:
                    lane.leave(ticket)
                    self._forget(ticket)
        for ticket in [t for t in self.parked if t.cancelled]:
            self.parked.remove(ticket)
            self._forget(ticket)

    def _forget(self, ticket: Ticket) -> None:
        self.meters.cancelled.inc()
        del self.writers[ticket]

    def _move(self) -> None:
        """Requests that have filled their lane go to the next as soon as it has room."""
        for lane in list(self.lanes.values()):
            for ticket in lane.active:
                if not lane.room(ticket):
                    lane.take(ticket, self._size(ticket).slots)
                    self.parked.append(ticket)
        still: deque[Ticket] = deque()
        while self.parked:
            ticket = self.parked.popleft()
            lane = self._lane(self._size(ticket))
            if lane.has_room:
                lane.put(ticket)
            else:
                still.append(ticket)
        self.parked = still

    def _admit(self) -> None:
        """Read the prompts of the first that wait and whose lanes have room."""
        for _ in range(READS):
            with self.changed:
                free = len(self.writers) < self.sizes.rungs[-1]
                fits = (t for t in self.waiting if free and self._lane(self._size(t)).has_room)
                ticket = next(fits, None)
                if ticket is None:
                    return
                self.waiting.remove(ticket)
                self.writers[ticket] = Writer(self.vocabulary, self.loaded.ends, ticket)
                self.answering = len(self.writers)
                self.meters.waiting.set(len(self.waiting))
                self.meters.answering.set(self.answering)
            size = self._size(ticket)
            ticket.rest, chosen = self.device.read(ticket.ask, size)
            add(ticket, jax.tree.map(lambda x: x[:1], chosen))
            self.meters.prompt_tokens.inc(len(ticket.ask.ids))
            self._count(1)
            if not self._told(ticket):
                self._lane(size).put(ticket)

    def _size(self, ticket: Ticket) -> Size:
        return self.device.size(ticket.ask, self.sizes, len(ticket.ids))

    def _lane(self, size: Size) -> Lane:
        if size not in self.lanes:
            self.lanes[size] = Lane(self.device, size, self.sizes)
        return self.lanes[size]

    def _count(self, tokens: int) -> None:
        now = time.monotonic()
        self.meters.completion_tokens.inc(tokens)
        with self.changed:
            self.done.append((now, tokens))
            while now - self.done[0][0] > SPEED_SECONDS:
                self.done.popleft()

    def _told(self, ticket: Ticket) -> bool:
        """Tell what is new of an answer; whether that was the last of it."""
        delta = self.writers[ticket].delta()
        if ticket.first_told is None:
            ticket.first_told = time.monotonic()
            self.meters.first_token.observe(ticket.first_told - ticket.arrived)
        if delta is None:
            return False
        over = delta.finish is not None
        if over:
            del self.writers[ticket]
            ticket.rest = None
        ticket.tell(delta)
        return over

    def _fail(self, error: Exception) -> None:
        """Whoever has a row is told that the device failed; the rows are gone."""
        known = of_the_machine(error)
        why = known[0] if known else f"{type(error).__name__}: {' '.join(str(error).split())}"
        say(f"the engine failed, and {len(self.writers)} requests with it: {why[:SHOWN]}")
        self.meters.failures.inc()
        failed, self.writers, self.lanes = list(self.writers), {}, {}
        self.parked.clear()
        with self.changed:
            self.answering, self.last_failed = 0, why[:SHOWN]
            self.meters.answering.set(0)
        for ticket in failed:
            ticket.rest = None
            ticket.tell(Delta("", [], CUT, len(ticket.ids), FAILED))
