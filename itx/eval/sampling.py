# SPDX-License-Identifier: Apache-2.0
"""How the next token is chosen from logits: greedily, by drawing, or by beam search.

Filters and their order are those of transformers: penalty, temperature, top-k, top-p. Beam search
is transformers' too (early_stopping=False): of the 2 K best continuations of K beams those that end
go to the K best ended ones, weighed by length, and the K best others go on, until no beam can
improve on the worst that has ended.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from itx.errors import UserError

NEVER = -1e9  # the score of what is not to be chosen
State = dict[str, Array]


def _positive(value: float) -> bool:
    """Whether a number is above 0, and neither so small nor so large that float32 has no logits
    divided by it."""
    return 1e-30 < value < 1e30


@dataclass(frozen=True)
class Sampling:
    """temperature 0 takes the best token; else tokens are drawn from softmax(logits / temperature),
    of the `top_k` best (0: all) and of the fewest that hold `top_p` of the probability (Holtzman et
    al. 2020).

    repetition_penalty: by which the logits of tokens that were read or written before are divided,
    or multiplied where negative (Keskar et al. 2019); an encoder's tokens do not count. beams,
    length_penalty: beam search; a beam's score is its log-probability / length ** length_penalty.
    seed: what is drawn for prompt i depends on it and on i, not on what else is asked.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    beams: int = 1
    length_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self):
        for name, ok, what in (
            (
                "temperature",
                self.temperature == 0 or _positive(self.temperature),
                "0 (greedy) or above",
            ),
            ("top_k", self.top_k >= 0, "0 (all) or above"),
            ("top_p", _positive(self.top_p) and self.top_p <= 1, "above 0 and at most 1"),
            ("repetition_penalty", _positive(self.repetition_penalty), "above 0"),
            ("length_penalty", math.isfinite(self.length_penalty), "a finite number"),
            ("beams", self.beams >= 1, "at least 1"),
            ("seed", 0 <= self.seed < 2**32, "a number of 32 bits"),
        ):
            if not ok:
                raise UserError(f"{name}={getattr(self, name)}: must be {what}")
        if self.temperature == 0 and (self.top_k or self.top_p < 1):
            raise UserError(
                "top_k and top_p choose what is drawn from: they need a temperature above 0"
            )
        if self.beams > 1 and self.temperature:
            raise UserError("beams are searched, not drawn: they need temperature=0")
        if self.beams == 1 and self.length_penalty != 1.0:
            raise UserError("length_penalty weighs beams: it needs beams above 1")

    def split(self) -> tuple["Sampling", dict[str, Any]]:
        """(what is compiled, the numbers that the program takes): another temperature or seed is
        the same program."""
        compiled = dataclasses.replace(
            self,
            temperature=float(self.temperature > 0),
            top_p=1.0 if self.top_p == 1 else 0.5,
            repetition_penalty=1.0 if self.repetition_penalty == 1 else 2.0,
            length_penalty=0.0 if self.beams > 1 else 1.0,
            seed=0,
        )
        names = ("temperature", "top_p", "repetition_penalty", "length_penalty")
        numbers = {name: jnp.float32(getattr(self, name)) for name in names}
        return compiled, numbers | {"seed": jnp.uint32(self.seed)}


GREEDY = Sampling()


def penalised(
    scores: Float[Array, "b v"], seen: Bool[Array, "b v"], penalty: Array
) -> Float[Array, "b v"]:
    return jnp.where(seen, jnp.where(scores < 0, scores * penalty, scores / penalty), scores)


def filtered(
    logits: Float[Array, "b v"], how: Sampling, temperature: Array, top_p: Array
) -> tuple[Float[Array, "b k"], Int[Array, "b k"] | None]:
    """What is drawn from: scores, and the ids that they stand for (None: all, in order). Only what
    `how` filters by is computed, for a sort of the vocabulary is slow."""
    scores, ids = logits / temperature, None
    if how.top_k or how.top_p < 1:
        scores, ids = jax.lax.top_k(scores, min(how.top_k or scores.shape[-1], scores.shape[-1]))
    if how.top_p < 1:  # the best token stays whatever top_p is
        p = jax.nn.softmax(scores, axis=-1)
        scores = jnp.where(jnp.cumsum(p, axis=-1) - p < top_p, scores, -jnp.inf)
    return scores, ids


def best(logits: Float[Array, "b v"]) -> Int[Array, "b"]:
    """The first of the highest: what argmax gives, which is four times as slow on a CPU, where XLA
    makes a loop over pairs of it."""
    place = jnp.arange(logits.shape[-1], dtype=jnp.int32)
    highest = logits == logits.max(axis=-1, keepdims=True)
    return jnp.min(jnp.where(highest, place, logits.shape[-1] - 1), axis=-1)


def begin(
    how: Sampling,
    room: Int[Array, "b"],
    seen: Bool[Array, "b v"],
    slots: int,
    ends: tuple[int, ...],
) -> State:
    """The state before the first token: `answers` [b, slots] hold EOS alone, rows that are `done`
    need no more tokens, and `seen` is there only if tokens are penalised.

    Args:
        room: the most tokens of each row.
        ends: the ids that end an answer; EOS is the first of them.
    """
    b, k = len(room), how.beams
    state = {"done": room <= 0, "answers": jnp.full((b, slots), ends[0], jnp.int32)}
    if how.repetition_penalty != 1:
        state["seen"] = jnp.repeat(seen, k, axis=0)
    if k > 1:
        state |= {
            "beams": jnp.full((b, k, slots), ends[0], jnp.int32),
            # all beams are alike: one counts
            "scores": jnp.where(jnp.arange(k) == 0, 0.0, NEVER) + jnp.zeros((b, 1)),
            "ended": jnp.full((b, k, slots), ends[0], jnp.int32),
            "ended_scores": jnp.full((b, k), NEVER),
            "has_ended": jnp.zeros((b, k), bool),
        }
    return state


def select(
    how: Sampling,
    numbers: dict,
    keys: Key[Array, "b"],
    state: State,
    logits: Float[Array, "bk v"],
    n: Array,
    room: Int[Array, "b"],
    ends: tuple[int, ...],
) -> tuple[State, Int[Array, "bk"], Int[Array, "bk"] | None]:
    """Choose token n of each row (of each beam): (the state with it, the tokens, the row that each
    token continues; None: its own)."""
    if how.beams > 1:
        return _beam_search(how, numbers, state, logits, n, room, ends)
    if "seen" in state:
        logits = penalised(logits, state["seen"], numbers["repetition_penalty"])
    if how.temperature:
        keys = jax.vmap(lambda key: jax.random.fold_in(key, n))(keys)
        scores, ids = filtered(logits, how, numbers["temperature"], numbers["top_p"])
        token = jax.vmap(jax.random.categorical)(keys, scores).astype(jnp.int32)
        token = token if ids is None else jnp.take_along_axis(ids, token[:, None], axis=1)[:, 0]
    else:
        token = best(logits)
    token = jnp.where(state["done"], ends[0], token)
    answers = jax.lax.dynamic_update_slice_in_dim(state["answers"], token[:, None], n, 1)
    state = {
        **state,
        "answers": answers,
        "done": state["done"] | jnp.isin(token, jnp.array(ends)) | (n + 1 >= room),
    }
    if "seen" in state:
        state["seen"] = state["seen"].at[jnp.arange(len(token)), token].set(True)
    return state, token, None


def _beam_search(
    how: Sampling,
    numbers: dict,
    state: State,
    logits: Array,
    n: Array,
    room: Array,
    ends: tuple[int, ...],
) -> tuple:
    k, v = how.beams, logits.shape[-1]
    b = len(logits) // k
    weight = (n + 1).astype(jnp.float32) ** numbers["length_penalty"]
    scores = jax.nn.log_softmax(logits, axis=-1)
    if "seen" in state:
        scores = penalised(scores, state["seen"], numbers["repetition_penalty"])
    scores = (state["scores"].reshape(-1, 1) + scores).reshape(b, k * v)
    scores, index = jax.lax.top_k(scores, 2 * k)
    parents, tokens = index // v, (index % v).astype(jnp.int32)
    beams = jnp.take_along_axis(state["beams"], parents[..., None], axis=1)  # [b, 2 k, slots]
    beams = jax.lax.dynamic_update_slice_in_dim(beams, tokens[..., None], n, 2)
    last = n + 1 >= room
    ended_now = jnp.isin(tokens, jnp.array(ends)) | last[:, None]

    open_ = ~state["done"]
    # beyond the k best only those that go on
    counts = ended_now & (jnp.arange(2 * k) < k) & open_[:, None]
    every = jnp.concatenate([state["ended_scores"], jnp.where(counts, scores / weight, NEVER)], 1)
    ended_scores, best = jax.lax.top_k(every, k)
    ended = jnp.take_along_axis(
        jnp.concatenate([state["ended"], beams], 1), best[..., None], axis=1
    )
    has_ended = jnp.take_along_axis(jnp.concatenate([state["has_ended"], counts], 1), best, axis=1)

    scores, on = jax.lax.top_k(scores + jnp.where(ended_now, NEVER, 0.0), k)
    parents, tokens = (jnp.take_along_axis(x, on, axis=1) for x in (parents, tokens))
    worst = jnp.where(has_ended, ended_scores.min(axis=1, keepdims=True), NEVER)
    improves = jnp.any(scores[:, :1] / weight > worst, axis=1)
    rows = (jnp.arange(b)[:, None] * k + parents).reshape(-1)
    state = {
        **state,
        "done": state["done"] | ~improves | last,
        "answers": ended[:, 0],
        "scores": scores,
        "beams": jnp.take_along_axis(beams, on[..., None], axis=1),
        "ended": ended,
        "ended_scores": ended_scores,
        "has_ended": has_ended,
    }
    tokens = tokens.reshape(-1)
    if "seen" in state:
        state["seen"] = state["seen"][rows].at[jnp.arange(b * k), tokens].set(True)
    return state, tokens, rows
