# SPDX-License-Identifier: Apache-2.0
"""Log-probabilities of given answers: sum of log p(option + EOS | prompt).

All options of a prompt stand in one row behind a single copy of the prompt, as branches that do not
see each other (itx/models/attention.py), and several prompts share a row as packed segments. So
there is one shape to compile, little padding, and a prompt is read once.
"""

from collections.abc import Iterator
from functools import partial
from typing import TypedDict

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from itx import hosts, movement
from itx import mesh as meshes
from itx.errors import UserError
from itx.eval.generate import attention_rows, compilation_tokens
from itx.eval.loaded import Ids, LoadedModel
from itx.eval.sampling import best
from itx.params import module_of
from itx.peft import prompted_encoder, with_prompts

ROW_TOKENS, ROW_SCORES = 256, 128  # of a row, where the longest prompt fits
TOKEN_STEP = 64  # longer rows are a multiple of this
ROW_STEP = 4  # the rows of a batch are a multiple of this, so that batches have few shapes
MAX_LOGITS_BYTES = 2**30  # that a device holds at once
MAX_OPEN_ROWS = 32  # that are searched for room: older ones are nearly full


class Scored(TypedDict):
    logprob: float  # the sum over an option's tokens
    tokens: int  # how many these are
    greedy: bool  # each of them is the likeliest behind those before it


def rank(
    loaded: LoadedModel, prompts: list[Ids], options: list[list[Ids]], eos: bool = True
) -> list[list[Scored]]:
    """For each prompt the scores of each of its options.

    Prompts and options are token ids without BOS and EOS; `eos` scores the EOS behind an option.
    """
    both = loaded.model.architecture == "encoder_decoder"
    targets = [[[*o, loaded.eos_id] if eos else list(o) for o in group] for group in options]
    heads = [[loaded.bos_id] if both else [*loaded.head, *p] for p in prompts]
    if not all(heads):
        raise UserError(
            f"rank: prompt {heads.index([])} is empty, and the vocabulary puts no BOS before it"
        )
    sizes = np.array(
        [
            (len(p) + 1, len(h) + sum(len(t) - 1 for t in ts), sum(map(len, ts)))
            for p, h, ts in zip(prompts, heads, targets, strict=True)
        ],
        np.int64,
    ).reshape(-1, 3)  # encoder tokens, decoder tokens, scored positions
    widths = sizes[:, :2].max(axis=1) if both else sizes[:, 1]
    out: list[list[Scored]] = [[{} for _ in group] for group in options]
    with movement.track("ranked", len(prompts), "prompts") as advance:
        for members in alike(widths, loaded):
            room = row_room(sizes[members], both)
            rows = [members[row].tolist() for row in first_fit(sizes[members], room)]
            width = max(room[0] if both else 0, room[1])
            count = batch_rows(len(rows), width, room[2], loaded)
            for i in range(0, len(rows), count):
                part = rows[i : i + count]
                batch, scored, spans = laid_out(loaded, part, prompts, heads, targets, count, room)
                for prompt, option, score in _ranked(loaded, batch, scored, spans):
                    out[prompt][option] = score
                advance(sum(map(len, part)))
    return out


def alike(lengths: np.ndarray, loaded: LoadedModel) -> list[np.ndarray]:
    """The numbers of prompts that stand in rows of one width, the shortest first.

    Attention takes a row's whole width for each of its tokens: at twice the width a token may cost
    half as much again. So prompts share rows with longer ones only where they are too few to pay
    for a compilation of their own.
    """
    if not len(lengths):
        return []
    classes = np.maximum(ROW_TOKENS, 2 ** np.ceil(np.log2(np.maximum(lengths, 1))))
    least = 2 * compilation_tokens(loaded)
    groups, begin = [], 0
    for width in np.unique(classes):
        members = np.flatnonzero((classes > begin) & (classes <= width))
        if lengths[members].sum() >= least or width == classes.max():
            groups.append(members)
            begin = width
    return groups


def row_room(sizes: np.ndarray, both: bool) -> list[int]:
    """Tokens of an encoder's row, of a decoder's, and scored places, for prompts of these sizes."""
    longest = sizes.max(axis=0, initial=1)
    least = (ROW_TOKENS, ROW_TOKENS, ROW_SCORES)
    room = [max(r, -(-n // TOKEN_STEP) * TOKEN_STEP) for r, n in zip(least, longest, strict=True)]
    return room if both else [1 << 60, *room[1:]]


def _ranked(
    loaded: LoadedModel, batch: dict[str, np.ndarray], scored: np.ndarray, spans: list["Span"]
) -> Iterator[tuple[int, int, Scored]]:
    """(prompt, option, its score) of a batch."""
    if prompted_encoder(loaded.model, loaded.peft):
        batch = with_prompts(batch)
    placed = meshes.put({**batch, "scored": scored}, loaded.mesh)
    with jax.set_mesh(loaded.mesh):
        scores, likeliest = scored_logprobs(loaded.params, placed, graphdef=loaded.graphdef)
    scores, likeliest = hosts.gather(scores).astype(np.float64), hosts.gather(likeliest)
    for prompt, option, row, begin, end in spans:
        yield (
            prompt,
            option,
            {
                "logprob": float(scores[row, begin:end].sum()),
                "tokens": end - begin,
                "greedy": bool(likeliest[row, begin:end].all()),
            },
        )


def batch_rows(rows: int, width: int, scored: int, loaded: LoadedModel) -> int:
    """Rows of a batch: all batches alike, and few of their rows empty. Of a large model none are,
    for they take longer than a compilation."""
    row_bytes = 4 * scored * len(loaded.params["embedding"])  # logits in float32
    fit = loaded.mesh.size * MAX_LOGITS_BYTES // row_bytes
    most = max(1, min(loaded.batch_size // 8, attention_rows(width, loaded), fit))
    batches = max(1, -(-rows // most))
    even = -(-rows // batches)
    parts = meshes.batch_parts(loaded.mesh)
    multiple = parts * -(-min(ROW_STEP, most) // parts)
    count = max(1, -(-even // multiple)) * multiple
    if batches * (count - even) * width > compilation_tokens(loaded):
        return -(-even // parts) * parts  # a shape of its own costs less than its empty rows
    return count


def first_fit(sizes: np.ndarray, room: list[int]) -> list[list[int]]:
    """Rows as lists of prompts, longest first, none over `room` in any of the three sizes."""
    rows: list[list[int]] = []
    left: list[np.ndarray] = []
    open_from = 0
    for i in np.argsort(-sizes[:, 1], kind="stable"):
        for r in range(open_from, len(rows)):
            if np.all(left[r] >= sizes[i]):
                break
        else:
            r = len(rows)
            rows.append([])
            left.append(np.asarray(room, np.int64))
            open_from = max(0, r - MAX_OPEN_ROWS)
        rows[r].append(int(i))
        left[r] = left[r] - sizes[i]
    return rows


Span = tuple[int, int, int, int, int]  # prompt, option, row, first scored place, place behind


def laid_out(
    loaded: LoadedModel,
    rows: list[list[int]],
    prompts: list[Ids],
    heads: list[Ids],
    targets: list[list[Ids]],
    count: int,
    room: list[int],
) -> tuple[dict[str, np.ndarray], np.ndarray, list[Span]]:
    """Model inputs, the ids that are scored [b, t], and where each option's scores lie."""
    both = loaded.model.architecture == "encoder_decoder"
    batch = empty({"encoder": room[0], "decoder": room[1]} if both else {"decoder": room[1]}, count)
    shape = (count, room[1])
    batch["decoder_branches"] = np.zeros(shape, np.int32)
    batch["decoder_previous_tokens"] = np.full((*shape, loaded.model.smear), -1, np.int32)
    causal = np.zeros(shape, np.int32)  # 1: attends to the whole prompt
    if loaded.model.prefix_lm and not both:
        batch["decoder_causal_attention"] = causal
    positions = batch["loss_positions"] = np.full((count, room[2]), -1, np.int32)
    scored = np.zeros((count, room[2]), np.int32)
    spans: list[Span] = []
    for r, members in enumerate(rows):
        decoder = encoder = s = 0  # next free place of decoder, encoder and scores
        for segment, i in enumerate(members, 1):
            if both:
                ids = [*prompts[i], loaded.eos_id]
                encoder = put_ids(batch, "encoder", r, encoder, ids, segment)
            head, begin = heads[i], decoder
            decoder = _put_branch(batch, r, decoder, [], head, segment, 0)
            causal[r, begin:decoder] = 1
            head_end = decoder - 1
            for option, target in enumerate(targets[i]):
                n, begin = len(target), decoder
                decoder = _put_branch(batch, r, begin, head, target[:-1], segment, option + 1)
                # the first token is predicted behind the prompt, the others inside the branch
                positions[r, s : s + n] = [head_end, *range(begin, decoder)][:n]
                scored[r, s : s + n] = target
                spans.append((i, option, r, s, s + n))
                s += n
    return batch, scored, spans


def empty(widths: dict[str, int], count: int) -> dict[str, np.ndarray]:
    """Model inputs [count, width] of each side without a token: segment 0 is padding."""
    return {
        f"{side}_{key}": np.zeros((count, width), np.int32)
        for side, width in widths.items()
        for key in ("input_tokens", "segment_ids", "positions")
    }


def put_ids(
    batch: dict[str, np.ndarray],
    side: str,
    row: int,
    begin: int,
    ids: Ids,
    segment: int = 1,
    position: int = 0,
) -> int:
    """Write token ids of one segment from place `begin` on; returns the place behind them."""
    end = begin + len(ids)
    batch[f"{side}_input_tokens"][row, begin:end] = ids
    batch[f"{side}_segment_ids"][row, begin:end] = segment
    batch[f"{side}_positions"][row, begin:end] = np.arange(position, position + len(ids))
    return end


def _put_branch(
    batch: dict[str, np.ndarray],
    row: int,
    begin: int,
    head: Ids,
    ids: Ids,
    segment: int,
    branch: int,
) -> int:
    """Write a prompt (branch 0, without a head) or an option that goes on behind the head."""
    end = put_ids(batch, "decoder", row, begin, ids, segment, len(head))
    batch["decoder_branches"][row, begin:end] = branch
    previous = batch["decoder_previous_tokens"]
    back = previous.shape[-1]
    behind = [-1] * back + head + ids
    for s in range(back):
        first = back + len(head) - s - 1
        previous[row, begin:end, s] = behind[first : first + len(ids)]
    return end


@partial(jax.jit, static_argnames=("graphdef",))
def scored_logprobs(
    params: dict, batch: dict, *, graphdef: nnx.GraphDef
) -> tuple[jax.Array, jax.Array]:
    """(log p of the scored id at each loss position, float [b, t], whether no id is likelier)."""
    batch = dict(batch)
    scored = batch.pop("scored")
    logits = module_of(graphdef, params)(batch)
    gold = jnp.take_along_axis(logits, scored[..., None], axis=-1)[..., 0]
    return gold - jax.nn.logsumexp(logits, axis=-1), best(logits) == scored
