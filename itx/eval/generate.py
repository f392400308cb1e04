# SPDX-License-Identifier: Apache-2.0
"""Generation with a key/value cache, for many prompts of many lengths.

Prompts are sorted by length and cut into batches of few shapes (`buckets`), because each shape
costs a compilation; they are padded on the left, so that every row writes its next token at the
same slot. A batch stops as soon as all its rows have ended.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypedDict

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from itx import hosts, movement
from itx import mesh as meshes
from itx.errors import UserError
from itx.eval import reading, sampling
from itx.eval.loaded import Ids, LoadedModel
from itx.eval.sampling import GREEDY, Sampling
from itx.models import decoding
from itx.params import module_of

PROMPT_STEP, ANSWER_STEP = 16, 16  # prompts and answers are padded up to a multiple of these
# Tokens times parameters of a layer that a device works through while one layer of a new shape
# compiles. Two CPU cores: models of 1 M parameters in 4 layers, and of 135 M in 30, agree. H200:
# 0.6 B in 28 layers (tests/benchmarks/gpu.json); what is no CPU is taken for one.
COMPILATION_ON_CPU, COMPILATION_ELSEWHERE = 2e10, 2e14
MAX_SCORES_BYTES = 2**30  # of attention scores that a device holds at once: long prompts, few rows
LOOK_EVERY = 8  # tokens between two looks for stop strings: each costs a round trip to the device


class Answer(TypedDict):
    tokens: Ids  # without what ended it
    finished: bool  # by an id that ends answers, within the limit


# (number of the prompt, its tokens so far) -> whether it is to stop
Watch = Callable[[int, Ids], bool]


def generate(
    loaded: LoadedModel,
    prompts: list[Ids],
    max_new_tokens: int | Sequence[int],
    how: Sampling = GREEDY,
    watch: Watch | None = None,
    every: int = LOOK_EVERY,
    draws: Sequence[int] | None = None,
) -> list[Answer]:
    """Continue each prompt until an id that ends answers (EOS), or its limit.

    Args:
        prompts: token ids without BOS and EOS, as in training data.
        max_new_tokens: of every prompt, or of each.
        watch: called for each unfinished prompt after every `every` tokens, and once at its end;
            where it returns true the prompt is stopped. Beams cannot be watched.
        draws: for each prompt a number below 2**31; with how.seed it decides what is drawn.
            Default: the prompt's place.
    """
    numbers = np.asarray(range(len(prompts)) if draws is None else draws, np.int32)
    if isinstance(max_new_tokens, int):
        limits = np.full(len(prompts), max_new_tokens, np.int32)
    else:
        limits = np.asarray(max_new_tokens, np.int32)
    if len(limits) != len(prompts):
        raise UserError(f"generate: {len(prompts)} prompts but {len(limits)} limits")
    if len(prompts) and limits.min() < 1:
        raise UserError("generate: max_new_tokens must be at least 1")
    if watch and how.beams > 1:
        raise UserError("generate: beams are known at the end alone; they cannot be streamed")
    check_prompts(loaded, prompts, limits)
    out: list[Answer] = [{}] * len(prompts)
    waiting = None  # a batch is fetched while the next one runs
    with jax.set_mesh(loaded.mesh):
        ready = reading.ready(loaded.params, graphdef=loaded.graphdef)
    with movement.track("generated", len(prompts), "answers") as advance_by:
        for indices, shape in plan([len(p) for p in prompts], limits, loaded):
            carry, advance = _ask(
                loaded,
                ready,
                [prompts[i] for i in indices],
                numbers[indices],
                limits[indices],
                shape,
                how,
            )
            if watch:
                carry = _watched(advance, carry, indices, shape[2], watch, every, loaded.ends)
            else:
                carry = advance(carry, shape[2], np.zeros(shape[0], bool))
            advance_by(_collect(waiting, out, loaded.ends))
            waiting = (indices, limits[indices], carry["state"])
        advance_by(_collect(waiting, out, loaded.ends))
    return out


def check_prompts(loaded: LoadedModel, prompts: list[Ids], limits: np.ndarray) -> None:
    """UserError for an empty prompt without a BOS to begin from, and for one that is longer than
    the context with its answer."""
    for i, prompt in enumerate(prompts):
        tokens = len(prompt)
        if not loaded.can_begin(tokens):
            raise UserError(
                f"generate: prompt {i} is empty, and the vocabulary puts no BOS before it to "
                "begin from"
            )
        if why := loaded.no_room(tokens, int(limits[i])):
            raise UserError(f"generate: prompt {i} {why}")


def plan(
    lengths: Sequence[int], limits: np.ndarray, loaded: LoadedModel
) -> list[tuple[np.ndarray, tuple[int, int, int]]]:
    """Batches of prompts of like size: (indices, (rows, prompt slots, answer slots)).

    A lone prompt is padded to a power of two: a conversation grows with every turn and is compiled
    for few lengths.
    """
    batches = []
    size = np.asarray(lengths, np.int64) + 1  # BOS, or EOS at the end of an encoder's prompt
    widths = _up(size, PROMPT_STEP) if len(size) > 1 else np.maximum(PROMPT_STEP, _power(size))
    answers = _up(limits, ANSWER_STEP)
    # few groups of answers, for each takes shapes of its own for the prompts' lengths
    price = compilation_tokens(loaded)
    for slots, members in buckets(answers, 16 * price):
        for width, inner in buckets(widths[members], price):
            rows = members[inner]
            rows = rows[np.lexsort((rows, size[rows], limits[rows]))]
            count = batch_rows(len(rows), int(width), loaded)
            shape = (count, int(width), int(slots))
            batches += [(rows[i : i + count], shape) for i in range(0, len(rows), count)]
    return batches


def compilation_tokens(loaded: LoadedModel) -> int:
    """How many tokens of prompts the model reads in the time that a shape compiles."""
    on_cpu = loaded.mesh.devices.flat[0].platform == "cpu"
    work = COMPILATION_ON_CPU if on_cpu else COMPILATION_ELSEWHERE * loaded.mesh.size
    model, layers = loaded.model, loaded.model.num_layers
    if model.architecture == "encoder_decoder":
        layers += model.encoder_layers or model.num_layers
    return math.ceil(work * layers / sum(x.size for x in loaded.params.values()))


def batch_rows(n: int, width: int, loaded: LoadedModel) -> int:
    """Rows of a batch of n prompts: the configured size or what memory has room for; for few
    prompts a power of two, at least 8 from two prompts on, because each number of rows is a
    compilation."""
    few = max(8, int(_power(np.int64(n)))) if n > 1 else 1
    rows = min(loaded.batch_size, attention_rows(width, loaded), few)
    return int(_up(np.int64(rows), meshes.batch_parts(loaded.mesh)))


def attention_rows(width: int, loaded: LoadedModel) -> int:
    """The most rows of a width whose attention scores, in float32, fit MAX_SCORES_BYTES on each
    device."""
    return max(1, loaded.mesh.size * MAX_SCORES_BYTES // (4 * loaded.model.num_heads * width**2))


def _power(x: np.ndarray) -> np.ndarray:
    """The next power of two."""
    return 1 << np.ceil(np.log2(x)).astype(np.int64)


def _up(x: np.ndarray, multiple: int) -> np.ndarray:
    return -(-x // multiple) * multiple


def buckets(sizes: np.ndarray, price: int) -> list[tuple[int, np.ndarray]]:
    """Group sizes under few widths: [(width, indices)], ascending.

    The grouping of least cost, where each width costs `price` and each member its width.
    """
    widths, counts = np.unique(sizes, return_counts=True)
    best: list[tuple[int, tuple[int, ...]]] = [(0, ())]  # cost, ends of groups, for the first j
    for j in range(1, len(widths) + 1):
        best.append(
            min(
                (best[i][0] + price + int(counts[i:j].sum() * widths[j - 1]), (*best[i][1], j))
                for i in range(j)
            )
        )
    groups, begin = [], 0
    for end in best[-1][1]:
        low, high = widths[begin], widths[end - 1]
        groups.append((int(high), np.flatnonzero((sizes >= low) & (sizes <= high))))
        begin = end
    return groups


def _ask(
    loaded: LoadedModel,
    ready: dict,
    prompts: list[Ids],
    draws: np.ndarray,
    limits: np.ndarray,
    shape: tuple[int, int, int],
    how: Sampling,
) -> tuple[dict, Callable]:
    """Read one batch of prompts: (loop carry, advance). advance(carry, until, stopped) -> carry
    goes on until each row has `until` tokens, without the rows that are stopped. Neither waits for
    the device."""
    rows, width, slots = shape
    both = loaded.model.architecture == "encoder_decoder"
    tokens = np.full((rows, width), loaded.pad_id, np.int32)
    starts = np.full(rows, width - 1, np.int32)  # rows without a prompt hold one token
    room, index = np.zeros(rows, np.int32), np.zeros(rows, np.int32)
    room[: len(limits)], index[: len(draws)] = limits, draws
    for i, prompt in enumerate(prompts):
        ids = [*prompt, loaded.eos_id] if both else [*loaded.head, *prompt]
        starts[i] = width - len(ids)
        tokens[i, starts[i] :] = ids
    put = meshes.put(
        {"tokens": tokens, "starts": starts, "room": room, "index": index}, loaded.mesh
    )
    compiled, numbers = how.split()
    more = {"graphdef": loaded.graphdef, "how": compiled, "ends": loaded.ends}

    def advance(carry: dict, until: int, stopped: np.ndarray) -> dict:
        with jax.set_mesh(loaded.mesh):
            return choose_tokens(
                loaded.params, ready, constants, carry, numbers, np.int32(until), stopped, **more
            )

    with jax.set_mesh(loaded.mesh):
        constants, carry = read_prompts(
            loaded.params, ready, put, numbers, slots=slots, bos=loaded.bos_id, **more
        )
    return carry, advance


def _watched(
    advance: Callable,
    carry: dict,
    indices: np.ndarray,
    slots: int,
    watch: Watch,
    every: int,
    ends: tuple[int, ...],
) -> dict:
    """The loop carry at the end of a batch; `watch` looks at each row after every `every` tokens,
    and the rows that it stops are done."""
    going = np.arange(len(indices))
    stopped = np.zeros(len(carry["state"]["done"]), bool)
    n = 1
    while going.size:
        answers, done = (hosts.gather(carry["state"][name]) for name in ("answers", "done"))
        for row in going:
            ids = answers[row, :n]
            end = np.flatnonzero(np.isin(ids, ends))
            stopped[row] |= watch(int(indices[row]), ids[: end[0] if end.size else n].tolist())
        going = going[~done[going] & ~stopped[going]]
        n = min(n + every, slots)
        if going.size:
            carry = advance(carry, n, stopped)
    return carry


def _collect(waiting: tuple | None, out: list[Answer], ends: tuple[int, ...]) -> int:
    """Put a batch's answers into `out`, by the numbers of their prompts; returns how many."""
    if waiting is None:
        return 0
    indices, limits, state = waiting
    answers = hosts.gather(state["answers"])
    for row, (i, limit) in enumerate(zip(indices, limits, strict=True)):
        ids = answers[row, :limit]
        end = np.flatnonzero(np.isin(ids, ends))
        finished = bool(end.size)
        out[i] = {"tokens": ids[: end[0] if finished else limit].tolist(), "finished": finished}
    return len(indices)


@partial(jax.jit, static_argnames=("graphdef", "how", "slots", "bos", "ends"))
def read_prompts(
    params: dict,
    ready: dict,
    put: dict,
    numbers: dict,
    *,
    graphdef: nnx.GraphDef,
    how: Sampling,
    slots: int,
    bos: int,
    ends: tuple[int, ...],
) -> tuple[dict, dict]:
    """Read prompts [b, l], padded on the left up to `starts`, and choose the first token behind
    each: (loop constants, loop carry)."""
    model = module_of(graphdef, {**params, **ready["params"]})
    read = reading.read(model, put["tokens"], put["starts"], slots, bos, ready["layers"])
    logits, cache, previous, starts, segments = read[:5]
    b = len(logits)
    seen = jnp.zeros((b, logits.shape[-1]), bool)
    seen = seen.at[jnp.arange(b)[:, None], read.tokens].max(read.place >= 0)
    state = sampling.begin(how, put["room"], seen, slots, ends)
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(numbers["seed"]), i))(put["index"])
    if how.beams > 1:
        per_beam = (logits, cache, previous, starts, segments)
        logits, cache, previous, starts, segments = jax.tree.map(
            lambda x: jnp.repeat(x, how.beams, axis=0), per_beam
        )
    state, token, _ = sampling.select(
        how, numbers, keys, state, logits, jnp.int32(0), put["room"], ends
    )
    constants = dict(
        width=jnp.int32(read.tokens.shape[1]),
        keys=keys,
        room=put["room"],
        starts=starts,
        segments=segments,
    )
    carry = dict(n=jnp.int32(1), token=token, previous=previous, state=state, cache=cache)
    return constants, carry


@partial(jax.jit, static_argnames=("graphdef", "how", "ends"), donate_argnames="carry")
def choose_tokens(
    params: dict,
    ready: dict,
    constants: dict,
    carry: dict,
    numbers: dict,
    until: jax.Array,
    stopped: jax.Array,
    *,
    graphdef: nnx.GraphDef,
    how: Sampling,
    ends: tuple[int, ...],
) -> dict:
    """Choose tokens until each row has `until`, or all rows are done; returns the loop carry."""
    model = module_of(graphdef, {**params, **ready["params"]})

    def more(carry: dict) -> jax.Array:
        return (carry["n"] < until) & ~jnp.all(carry["state"]["done"])

    def one(carry: dict) -> dict:
        n, token, previous = carry["n"], carry["token"], carry["previous"]
        logits, cache = decoding.decode(
            model,
            token,
            previous,
            constants["width"] + n - 1,
            constants["starts"],
            ready["layers"],
            carry["cache"],
            constants["segments"],
        )
        state, new, rows = sampling.select(
            how, numbers, constants["keys"], carry["state"], logits, n, constants["room"], ends
        )
        previous = jnp.concatenate([token[:, None], previous], 1)[:, : model.cfg.smear]
        if rows is not None:  # beams of a prompt share what the encoder left
            previous = previous[rows]
            cache = [
                {k: x if k.startswith("cross") else x[rows] for k, x in layer.items()}
                for layer in cache
            ]
        return {"n": n + 1, "token": new, "previous": previous, "state": state, "cache": cache}

    state = {**carry["state"], "done": carry["state"]["done"] | stopped}
    return jax.lax.while_loop(more, one, {**carry, "state": state})
