# SPDX-License-Identifier: Apache-2.0
"""What the device does for the server: prompts are read, and rows of answers grow token by token.

Every row has its own slot, seed and temperature, so that a request may join or leave a batch
between two steps. `Rows` of one row are a request at rest: what reading a prompt leaves, what goes
into a batch, and what is taken out of one. A row's numbers are computed from this row alone; in
programs of one shape they are the same whatever the other rows hold.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from itx.eval import reading, sampling
from itx.eval.sampling import Sampling
from itx.models import decoding
from itx.params import module_of

STEPS = 4  # tokens of each row between two looks of the host
TOP = 20  # the likeliest tokens that are told where log-probabilities are asked for, as OpenAI's

# Ways of drawing, cheapest first: a program that can do a later one does the earlier ones too.
GREEDY, DRAWN, NUCLEUS = range(3)
FILTERED = Sampling(temperature=1.0, top_p=0.5)  # what `sampling.filtered` is to filter by

Rows = dict[str, Array | list | None]  # cache, and for each row: see `read`


class Choice(NamedTuple):
    """What a program computes beside the logits: each costs time in every step."""

    draws: int = GREEDY
    scores: bool = False  # log-probabilities of the chosen token and of the TOP likeliest


class Chosen(NamedTuple):
    """A token for each row; the rest is there if `Choice.scores`."""

    token: Int[Array, "b"]
    logprob: Float[Array, "b"] | None
    top: Int[Array, "b t"] | None
    top_logprobs: Float[Array, "b t"] | None


def choose(logits: Float[Array, "b v"], rows: Rows, choice: Choice) -> Chosen:
    """Token `n` of each row by its own temperature (0: the best), top_p and seed, as
    `sampling.select` chooses it for a prompt that is asked alone under that seed."""
    token = sampling.best(logits)
    if choice.draws != GREEDY:
        warm = rows["temperature"] > 0
        temperature = jnp.where(warm, rows["temperature"], 1.0)[:, None]
        keys = jax.vmap(_key)(rows["seed"], rows["n"])
        drawn = jax.vmap(jax.random.categorical)(keys, logits / temperature).astype(jnp.int32)
        if choice.draws == NUCLEUS:
            top_p = rows["top_p"][:, None]
            scores, ids = sampling.filtered(logits, FILTERED, temperature, top_p)
            place = jax.vmap(jax.random.categorical)(keys, scores)[:, None]
            of_few = jnp.take_along_axis(ids, place, axis=1)[:, 0].astype(jnp.int32)
            drawn = jnp.where(rows["top_p"] < 1, of_few, drawn)
        token = jnp.where(warm, drawn, token)
    if not choice.scores:
        return Chosen(token, None, None, None)
    logprobs = jax.nn.log_softmax(logits, axis=-1)
    best, ids = jax.lax.top_k(logprobs, min(TOP, logits.shape[-1]))
    own = jnp.take_along_axis(logprobs, token[:, None], axis=1)[:, 0]
    return Chosen(token, own, ids.astype(jnp.int32), best)


def _key(seed: Array, n: Array) -> Array:
    """The key of token n of an answer, as generation has it for its first prompt."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 0), n)


@partial(jax.jit, static_argnames=("graphdef", "slots", "memory_slots", "bos", "choice"))
def read(
    params: dict,
    ready: dict,
    put: dict,
    *,
    graphdef: nnx.GraphDef,
    slots: int,
    memory_slots: int,
    bos: int,
    choice: Choice,
) -> tuple[Rows, Chosen]:
    """Read prompts and choose the first token behind each: (rows, the tokens).

    A row holds `token` (chosen, not yet in the cache), `previous` [s] (what stands before it),
    `slot` (where it goes), `n` (the number of the next token), how tokens are drawn, and behind an
    encoder `segments` [k].

    Args:
        put: tokens [b, l], padded on the left up to starts [b]; seed, temperature and top_p [b].
        slots: of the cache, prompts included; at least as many as a prompt has tokens.
        memory_slots: places of an encoder's output, at least as many as a prompt has.
    """
    model = module_of(graphdef, {**params, **ready["params"]})
    width = 1 if model.encoder is not None else put["tokens"].shape[1]
    found = reading.read(
        model,
        put["tokens"],
        put["starts"],
        max(slots, width) - width,
        bos,
        ready["layers"],
        memory_slots,
    )
    virtual = model.decoder.virtual_tokens

    def to_the_left(x: Array) -> Array:
        """Keys or values without the padding before each prompt."""
        front, own = x[:, :, :virtual], x[:, :, virtual:]
        own = jax.vmap(lambda row, start: jnp.roll(row, -start, axis=1))(own, found.starts)
        return jnp.concatenate([front, own[:, :, :slots]], axis=2)

    b = len(found.logits)
    rows = {
        "cache": [
            {name: x if name.startswith("cross") else to_the_left(x) for name, x in layer.items()}
            for layer in found.cache
        ],
        "previous": found.previous,
        "slot": width - found.starts,
        "n": jnp.zeros(b, jnp.int32),
        **{name: put[name] for name in ("seed", "temperature", "top_p")},
        "segments": found.segments,
    }
    chosen = choose(found.logits, rows, choice)
    return {**rows, "token": chosen.token, "n": rows["n"] + 1}, chosen


def _where_going(going: Bool[Array, "b"], new: Array, old: Array) -> Array:
    return jnp.where(going.reshape(-1, *[1] * (new.ndim - 1)), new, old)


def _no_tokens(b: int, vocab: int, choice: Choice) -> Chosen:
    """Places for STEPS tokens of each row, and for their scores."""
    token = jnp.zeros((b, STEPS), jnp.int32)
    if not choice.scores:
        return Chosen(token, None, None, None)
    top = (b, STEPS, min(TOP, vocab))
    numbers = jnp.zeros((b, STEPS)), jnp.zeros(top, jnp.int32), jnp.zeros(top)
    return Chosen(token, *numbers)


@partial(jax.jit, static_argnames=("graphdef", "choice", "ends"), donate_argnames="rows")
def advance(
    params: dict,
    ready: dict,
    rows: Rows,
    room: Int[Array, "b"],
    *,
    graphdef: nnx.GraphDef,
    choice: Choice,
    ends: tuple[int, ...],
) -> tuple[Rows, Chosen, Int[Array, "b"]]:
    """Up to STEPS more tokens of each row: (rows, tokens and scores [b, STEPS, …], how many of them
    are the row's).

    A row stops at an id that ends answers, which is its last token. Fields of a row that has
    stopped stay as they are.

    Args:
        room: the most tokens of each row; 0: it rests, or is nobody's.
    """
    model = module_of(graphdef, {**params, **ready["params"]})
    b, ends_of = len(room), jnp.array(ends)

    def more(carry: dict) -> Array:
        return (carry["i"] < STEPS) & jnp.any(carry["room"] > 0)

    def one(carry: dict) -> dict:
        rows, going = carry["rows"], carry["room"] > 0
        token, previous = rows["token"], rows["previous"]
        logits, cache = decoding.decode(
            model,
            token,
            previous,
            rows["slot"],
            jnp.zeros(b, jnp.int32),
            ready["layers"],
            rows["cache"],
            rows["segments"],
        )
        chosen = choose(logits, rows, choice)
        before = jnp.concatenate([token[:, None], previous], 1)[:, : model.cfg.smear]
        rows = {
            **rows,
            "cache": cache,
            "token": _where_going(going, chosen.token, token),
            "previous": _where_going(going, before, previous),
            "slot": rows["slot"] + going,
            "n": rows["n"] + going,
        }
        out = jax.tree.map(lambda all, new: all.at[:, carry["i"]].set(new), carry["out"], chosen)
        ended = jnp.isin(chosen.token, ends_of)
        return {
            "i": carry["i"] + 1,
            "rows": rows,
            "room": jnp.where(going & ~ended, carry["room"] - 1, 0),
            "taken": carry["taken"] + going,
            "out": out,
        }

    out = _no_tokens(b, len(params["embedding"]), choice)
    carry = {"i": jnp.int32(0), "rows": rows, "room": room, "taken": jnp.zeros_like(room)}
    carry = jax.lax.while_loop(more, one, {**carry, "out": out})
    return carry["rows"], carry["out"], carry["taken"]


@partial(jax.jit, donate_argnames="rows")
def put_in(rows: Rows, one: Rows, place: Array) -> Rows:
    """Rows with a request at rest in the place of one of them."""
    return jax.tree.map(lambda all, x: all.at[place].set(x[0]), rows, one)


@partial(jax.jit, static_argnames="slots")
def taken_out(rows: Rows, place: Array, slots: int) -> Rows:
    """A row as a request at rest, with room for as many more tokens in its cache."""
    one = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, place, 1), rows)
    room = ((0, 0), (0, 0), (0, slots), (0, 0))
    cache = [
        {name: x if name.startswith("cross") else jnp.pad(x, room) for name, x in layer.items()}
        for layer in one["cache"]
    ]
    return {**one, "cache": cache}


@jax.jit
def in_order(rows: Rows, order: Int[Array, "c"]) -> Rows:
    """The rows that `order` names, as many as it has: another number of rows is another shape."""
    return jax.tree.map(lambda x: x[order], rows)
