# SPDX-License-Identifier: Apache-2.0
"""Generation with a key/value cache, for many prompts of many lengths.

`Runner` is a model ready to be asked: parameters on a mesh and the ids it needs. Prompts are sorted
by length and cut into batches of few shapes (`buckets`), because each shape costs a compilation;
they are padded on the left, so that every row writes its next token at the same slot. A batch
stops as soon as all its rows have ended.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from itx import mesh as meshes
from itx.config import ModelConfig, PeftConfig
from itx.errors import UserError

# Prompts and answers are padded up to a multiple of these; tokens that a compilation is worth:
# measured on 2 cores, one shape of a 1 M-parameter model takes as long as reading that many.
PROMPT_STEP, ANSWER_STEP = 16, 16
COMPILATION = 80_000


@dataclass(frozen=True)
class Runner:
    """A model to be asked. `params` is {path: array}; step 0 is the model before tuning.

    Runners of several adapters over one base share the base's arrays.
    """

    graphdef: nnx.GraphDef
    params: dict[str, jax.Array]
    mesh: Mesh
    model: ModelConfig
    bos_id: int
    eos_id: int
    pad_id: int
    batch_size: int = 256
    step: int = 0
    peft: PeftConfig = PeftConfig()

    @property
    def head(self) -> list[int]:
        """What stands before a prompt in a decoder: BOS, or nothing (bos_id below 0)."""
        return [self.bos_id] if self.bos_id >= 0 else []

    def generate(
        self, prompts: list[list[int]], max_new_tokens: int | Sequence[int],
        temperature: float = 0.0, seed: int = 0,
    ) -> list[dict[str, Any]]:  # fmt: skip
        """[{"tokens": [...], "finished": bool}]: see `generate`."""
        return generate(self, prompts, max_new_tokens, temperature, seed)

    def rank(self, prompts: list[list[int]], options: list[list[list[int]]]) -> list[list[dict]]:
        """Log-probabilities of options: see itx/eval/rank.py."""
        from itx.eval.rank import rank

        return rank(self, prompts, options)


def generate(
    runner: Runner, prompts: list[list[int]], max_new_tokens: int | Sequence[int],
    temperature: float = 0.0, seed: int = 0,
) -> list[dict[str, Any]]:  # fmt: skip
    """Continue each prompt until EOS or its limit; greedy unless temperature > 0.

    Prompts are token ids without BOS and EOS, as in training data. `finished` says that EOS came
    within the limit; the EOS itself is left out of `tokens`.
    """
    if isinstance(max_new_tokens, int):
        limits = np.full(len(prompts), max_new_tokens, np.int32)
    else:
        limits = np.asarray(max_new_tokens, np.int32)
    if len(limits) != len(prompts):
        raise UserError(f"generate: {len(prompts)} prompts but {len(limits)} limits")
    if len(prompts) and limits.min() < 1:
        raise UserError("generate: max_new_tokens must be at least 1")
    if not all(map(len, prompts)) and not runner.head and runner.model.architecture == "decoder":
        raise UserError("generate: an empty prompt, and the vocabulary puts no BOS before it to begin from")
    out: list[dict[str, Any]] = [{}] * len(prompts)
    waiting = None  # a batch is fetched while the next one runs
    for indices, shape in plan([len(p) for p in prompts], limits, runner):
        answer = _ask(runner, [prompts[i] for i in indices], limits[indices], shape, temperature, seed)
        _collect(waiting, out, runner.eos_id)
        waiting = (indices, limits[indices], answer)
    _collect(waiting, out, runner.eos_id)
    return out


def plan(lengths: Sequence[int], limits: np.ndarray, runner: Runner) -> list[tuple[np.ndarray, tuple[int, int, int]]]:
    """Batches of prompts of like size: (indices, (rows, prompt slots, answer slots))."""
    out = []
    size = np.asarray(lengths, np.int64) + 1  # BOS, or EOS at the end of an encoder's prompt
    answers = _up(limits, ANSWER_STEP)
    groups = buckets(answers, 16 * COMPILATION)  # few: also a shape for each prompt length
    for slots, members in groups:
        for width, inner in buckets(_up(size[members], PROMPT_STEP), COMPILATION):
            rows = members[inner]
            rows = rows[np.lexsort((rows, size[rows], limits[rows]))]
            count = batch_rows(len(rows), runner)
            out += [(rows[i : i + count], (count, int(width), int(slots))) for i in range(0, len(rows), count)]
    return out


def batch_rows(n: int, runner: Runner) -> int:
    """Rows of a batch: the configured size, or a power of two for few prompts."""
    rows = min(runner.batch_size, max(8, 1 << (n - 1).bit_length()))
    return int(_up(np.int64(rows), meshes.batch_parts(runner.mesh)))


def _up(x: np.ndarray, multiple: int) -> np.ndarray:
    return -(-x // multiple) * multiple


def buckets(sizes: np.ndarray, price: int) -> list[tuple[int, np.ndarray]]:
    """Group sizes under few widths: [(width, indices)], ascending.

    Least cost of all groupings, where a width costs `price` and each member its width.
    """
    widths, counts = np.unique(sizes, return_counts=True)
    best: list[tuple[int, tuple[int, ...]]] = [(0, ())]  # cost, ends of groups, for the first j
    for j in range(1, len(widths) + 1):
        best.append(
            min((best[i][0] + price + int(counts[i:j].sum() * widths[j - 1]), (*best[i][1], j)) for i in range(j))
        )
    out, begin = [], 0
    for end in best[-1][1]:
        low, high = widths[begin], widths[end - 1]
        out.append((int(high), np.flatnonzero((sizes >= low) & (sizes <= high))))
        begin = end
    return out


def _ask(
    runner: Runner, prompts: list[list[int]], limits: np.ndarray,
    shape: tuple[int, int, int], temperature: float, seed: int,
) -> jax.Array:  # fmt: skip
    """Start one batch; the answer is an array [rows, answer slots] that may not be there yet."""
    rows, width, slots = shape
    both = runner.model.architecture == "encoder_decoder"
    tokens = np.full((rows, width), runner.pad_id, np.int32)
    starts = np.full(rows, width - 1, np.int32)  # rows without a prompt hold one token
    room = np.zeros(rows, np.int32)
    room[: len(limits)] = limits
    for i, prompt in enumerate(prompts):
        ids = [*prompt, runner.eos_id] if both else [*runner.head, *prompt]
        starts[i] = width - len(ids)
        tokens[i, starts[i] :] = ids
    put = meshes.put({"tokens": tokens, "starts": starts, "room": room}, runner.mesh)
    with jax.set_mesh(runner.mesh):
        return _generate(
            runner.params, put["tokens"], put["starts"], put["room"], np.float32(temperature or 1.0),
            np.int32(seed), graphdef=runner.graphdef, slots=slots, bos=runner.bos_id,
            eos=runner.eos_id, sample=temperature > 0.0,
        )  # fmt: skip


def _collect(waiting: tuple | None, out: list[dict], eos: int) -> None:
    if waiting is None:
        return
    indices, limits, answer = waiting
    answer = np.asarray(answer)
    for row, (i, limit) in enumerate(zip(indices, limits, strict=True)):
        ids = answer[row, :limit]
        end = np.flatnonzero(ids == eos)
        finished = bool(end.size)
        out[i] = {"tokens": ids[: end[0] if finished else limit].tolist(), "finished": finished}


@partial(jax.jit, static_argnames=("graphdef", "slots", "bos", "eos", "sample"))
def _generate(
    params: dict, tokens: jax.Array, starts: jax.Array, room: jax.Array, temperature: jax.Array,
    seed: jax.Array, *, graphdef: nnx.GraphDef, slots: int, bos: int, eos: int, sample: bool,
) -> jax.Array:  # fmt: skip
    """tokens [b, l] padded on the left up to `starts` -> answers [b, slots], filled up with EOS."""
    from itx.models.transformer import before
    from itx.train import merge

    model = merge(graphdef, params)
    b, width = tokens.shape
    memory = segments = None
    if model.encoder is not None:
        index = jnp.arange(width, dtype=jnp.int32)[None] - starts[:, None]
        segments = (index >= 0).astype(jnp.int32)
        memory, segments = model.encode(tokens, segments, jnp.maximum(index, 0))
        tokens, starts, width = jnp.full((b, 1), bos, jnp.int32), jnp.zeros_like(starts), 1
    logits, cache = model.prefill(tokens, starts, width + slots, memory, segments)

    def choose(logits: jax.Array, n: jax.Array) -> jax.Array:
        if not sample:
            return jnp.argmax(logits, axis=-1).astype(jnp.int32)
        key = jax.random.fold_in(jax.random.key(seed), n)
        return jax.random.categorical(key, logits / temperature).astype(jnp.int32)

    def more(carry: tuple) -> jax.Array:
        n, _, _, done, _, _ = carry
        return (n < slots) & ~jnp.all(done)

    def one(carry: tuple) -> tuple:
        n, previous, token, done, answers, cache = carry
        answers = jax.lax.dynamic_update_slice_in_dim(answers, token[:, None], n, 1)
        done = done | (token == eos) | (n + 1 >= room)

        def next_token(cache: list) -> tuple:
            logits, new = model.decode(token, previous, width + n, starts, cache, segments)
            return jnp.where(done, eos, choose(logits, n + 1)), new

        new, cache = next_token(cache)
        previous = jnp.concatenate([token[:, None], previous], 1)[:, : model.cfg.smear]
        return n + 1, previous, new, done, answers, cache

    zero = jnp.zeros((), jnp.int32)
    done = room <= 0
    # what stands before the first new token, nearest first
    back = before(tokens, jnp.maximum(jnp.arange(width, dtype=jnp.int32)[None] - starts[:, None], 0), model.cfg.smear)
    previous = jnp.concatenate([tokens[:, -1:], back[:, -1]], 1)[:, : model.cfg.smear]
    first = jnp.where(done, eos, choose(logits, zero))
    answers = jnp.full((b, slots), eos, jnp.int32)
    return jax.lax.while_loop(more, one, (zero, previous, first, done, answers, cache))[4]
