# SPDX-License-Identifier: Apache-2.0
"""Batches whose rows come and go.

    lane    rows of one cache size, which are asked for their next tokens together
    rung    a number of rows that a lane may have: each is a compilation

A request's lane follows from its own length alone: the smallest that holds its prompt and some
tokens, and when that is full the next. So no other request decides in which shape of cache its
numbers are computed; only the number of rows, where there is more than one rung.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from itx import mesh as meshes
from itx.eval import reading
from itx.eval.loaded import LoadedModel
from itx.serve import steps
from itx.serve.asks import Ask, Ticket
from itx.serve.steps import Choice, Chosen, Rows

# Places of the smallest lane's cache, and of its encoder's output; the next has RISE times as many
FIRST_SLOTS, FIRST_MEMORY, RISE = 256, 64, 4
ROOM_SHARE = 4  # the first lane of a request leaves first / ROOM_SHARE places for its answer
PATIENCE = 16  # looks that fewer rows must do for before a lane gives the others up
PROMPT_STEP = 16  # the shortest prompts are padded up to so many


class Size(NamedTuple):
    """Of a lane: slots of its cache, and places of an encoder's output (0: no encoder)."""

    slots: int
    memory: int


@dataclass(frozen=True)
class Sizes:
    """The sizes of lanes, and how many rows each may have.

    rungs: numbers of rows, ascending. cache_bytes: that one lane's cache may take. longest: slots
    that a request may need; no lane has more.
    """

    rungs: tuple[int, ...]
    cache_bytes: int
    longest: int
    first: int = FIRST_SLOTS

    def slots(self, needed: int) -> int:
        size = self.first
        while size < needed:
            size *= RISE
        return min(size, max(self.longest, needed))

    def rungs_of(self, row_bytes: int) -> tuple[int, ...]:
        """The rungs of a lane whose rows take so many bytes: at least one row."""
        most = max(1, min(self.rungs[-1], self.cache_bytes // row_bytes))
        return (*(r for r in self.rungs if r < most), most)


class Device:
    """A model and the programs that ask it; all of it in one thread."""

    def __init__(self, loaded: LoadedModel):
        self.loaded = loaded
        self.both = loaded.model.architecture == "encoder_decoder"
        self.parts = meshes.batch_parts(loaded.mesh)
        with jax.set_mesh(loaded.mesh):
            self.ready = reading.ready(loaded.params, graphdef=loaded.graphdef)

    def prompt_slots(self, ask: Ask) -> int:
        """Places that an ask takes of a cache before its answer."""
        return 1 if self.both else len(self.loaded.head) + len(ask.ids)

    def size(self, ask: Ask, sizes: Sizes, tokens: int) -> Size:
        """Of the lane for an ask that has so many tokens of its answer."""
        room = max(tokens + 1, min(ask.max_tokens, sizes.first // ROOM_SHARE))
        memory = 0
        if self.both:
            memory = FIRST_MEMORY
            while memory < len(ask.ids) + 1:
                memory *= RISE
        return Size(sizes.slots(self.prompt_slots(ask) + room - 1), memory)

    def row_bytes(self, size: Size) -> int:
        """Of a row's keys and values."""
        model = self.loaded.model
        one = model.num_layers * model.num_kv_heads * model.head_dim
        return 2 * one * (size.slots + size.memory) * jnp.dtype(model.dtype).itemsize

    def read(self, ask: Ask, size: Size) -> tuple[Rows, Chosen]:
        """A prompt's row, and the first token of its answer."""
        loaded = self.loaded
        ids = [*ask.ids, loaded.eos_id] if self.both else [*loaded.head, *ask.ids]
        width = max(PROMPT_STEP, 1 << (len(ids) - 1).bit_length())
        b = self.parts
        tokens = np.full((b, width), loaded.pad_id, np.int32)
        tokens[0, width - len(ids) :] = ids
        starts = np.full(b, width - 1, np.int32)
        starts[0] = width - len(ids)
        put = meshes.put(
            {
                "tokens": tokens,
                "starts": starts,
                "seed": np.full(b, ask.seed, np.uint32),
                "temperature": np.full(b, ask.temperature, np.float32),
                "top_p": np.full(b, ask.top_p, np.float32),
            },
            loaded.mesh,
        )
        with jax.set_mesh(loaded.mesh):
            rows, chosen = steps.read(
                loaded.params,
                self.ready,
                put,
                graphdef=loaded.graphdef,
                slots=size.slots,
                memory_slots=size.memory,
                bos=loaded.bos_id,
                choice=ask.choice,
            )
            return rows, jax.device_get(chosen)

    def advance(
        self, rows: Rows, room: np.ndarray, choice: Choice
    ) -> tuple[Rows, Chosen, np.ndarray]:
        loaded = self.loaded
        with jax.set_mesh(loaded.mesh):
            rows, chosen, taken = steps.advance(
                loaded.params,
                self.ready,
                rows,
                jnp.asarray(room, jnp.int32),
                graphdef=loaded.graphdef,
                choice=choice,
                ends=loaded.ends,
            )
            return rows, *jax.device_get((chosen, taken))


class Lane:
    """Rows of one size on the device, and the tickets that stand in them."""

    def __init__(self, device: Device, size: Size, sizes: Sizes):
        self.device, self.size = device, size
        up = [-(-r // device.parts) * device.parts for r in sizes.rungs_of(device.row_bytes(size))]
        self.rungs = tuple(dict.fromkeys(up))
        self.rows: Rows | None = None
        self.tickets: list[Ticket | None] = []
        self.looks_with_fewer = 0

    @property
    def active(self) -> list[Ticket]:
        return [t for t in self.tickets if t is not None]

    @property
    def has_room(self) -> bool:
        return len(self.active) < self.rungs[-1]

    def put(self, ticket: Ticket) -> None:
        """Put a request at rest into a row; the lane has room for it."""
        if None not in self.tickets:
            self._resize(next(r for r in self.rungs if r > len(self.tickets)), ticket.rest)
        place = self.tickets.index(None)
        with jax.set_mesh(self.device.loaded.mesh):
            self.rows = steps.put_in(self.rows, ticket.rest, jnp.int32(place))
        self.tickets[place], ticket.rest = ticket, None

    def leave(self, ticket: Ticket) -> None:
        """A row is nobody's any more; without any, the cache is freed."""
        self.tickets[self.tickets.index(ticket)] = None
        if not self.active:
            self.rows, self.tickets, self.looks_with_fewer = None, [], 0

    def take(self, ticket: Ticket, slots: int) -> None:
        """Take a request out as one at rest whose cache has so many slots."""
        place = jnp.int32(self.tickets.index(ticket))
        with jax.set_mesh(self.device.loaded.mesh):
            ticket.rest = steps.taken_out(self.rows, place, slots=slots - self.size.slots)
        self.leave(ticket)

    def room(self, ticket: Ticket) -> int:
        """Tokens that a ticket may yet have here."""
        answered = len(ticket.ids)
        used = self.device.prompt_slots(ticket.ask) + answered - 1
        return min(ticket.ask.max_tokens - answered, self.size.slots - used)

    def step(self) -> Iterator[tuple[Ticket, int]]:
        """Ask all rows for their next tokens: each ticket that got some, and how many."""
        room = np.array([0 if t is None else self.room(t) for t in self.tickets], np.int32)
        choices = [t.ask.choice for t in self.active]
        choice = Choice(max(c.draws for c in choices), any(c.scores for c in choices))
        self.rows, chosen, taken = self.device.advance(self.rows, room, choice)
        for row, ticket in enumerate(self.tickets):
            if ticket is not None and taken[row]:
                add(ticket, jax.tree.map(lambda x, row=row: x[row, : taken[row]], chosen))
                yield ticket, int(taken[row])

    def settle(self) -> None:
        """Go down to a rung that has done for some time."""
        if not self.tickets:
            return
        fewer = next(r for r in self.rungs if r >= len(self.active))
        self.looks_with_fewer = self.looks_with_fewer + 1 if fewer < len(self.tickets) else 0
        if self.looks_with_fewer >= PATIENCE:
            self._resize(fewer, None)

    def _resize(self, count: int, example: Rows | None) -> None:
        """Another number of rows; those that somebody has come first."""
        held = [i for i, t in enumerate(self.tickets) if t is not None]
        rows = self.rows if self.rows is not None else example
        order = np.zeros(count, np.int32)
        order[: len(held)] = held
        with jax.set_mesh(self.device.loaded.mesh):
            self.rows = steps.in_order(rows, jnp.asarray(order))
        tickets = [self.tickets[i] for i in held]
        self.tickets, self.looks_with_fewer = tickets + [None] * (count - len(held)), 0


def add(ticket: Ticket, chosen: Chosen) -> None:
    """Add tokens [n] and their scores to a ticket's answer."""
    ticket.ids += chosen.token.tolist()
    if ticket.ask.scored:
        tops = (
            list(zip(ids, logprobs, strict=True))
            for ids, logprobs in zip(chosen.top.tolist(), chosen.top_logprobs.tolist(), strict=True)
        )
        ticket.scores += list(zip(chosen.logprob.tolist(), tops, strict=True))
