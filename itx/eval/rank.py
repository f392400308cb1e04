# SPDX-License-Identifier: Apache-2.0
"""Log-probabilities of given answers: sum of log p(option + EOS | prompt).

All options of a prompt stand in one row behind a single copy of the prompt, as branches that do not
see each other (itx/models/attention.py), and several prompts share a row as packed segments. So
there is one shape to compile, little padding, and a prompt is read once.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from itx import mesh as meshes
from itx import movement
from itx.errors import UserError
from itx.eval.generate import attention_rows
from itx.eval.loaded import LoadedModel
from itx.params import module_of
from itx.peft import prompted_encoder, with_prompts

ROW, SCORES = 256, 128  # tokens and scored positions of a row, where the longest prompt fits
MULTIPLE = 64  # longer rows are a multiple of this
ROWS = 4  # the rows of a batch are a multiple of this, so that batches have few shapes
LOGITS_BYTES = 2**30  # that a device holds at once


def rank(
    loaded: LoadedModel, prompts: list[list[int]], options: list[list[list[int]]], eos: bool = True
) -> list[list[dict[str, Any]]]:
    """For each prompt, for each of its options {"logprob": sum, "tokens": number of them}.

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
    longest = sizes.max(axis=0, initial=1)
    room = [
        max(r, -(-n // MULTIPLE) * MULTIPLE)
        for r, n in zip((ROW, ROW, SCORES), longest, strict=True)
    ]
    if not both:
        room[0] = 1 << 60
    rows = first_fit(sizes, room)
    count = batch_rows(len(rows), max(room[0] if both else 0, room[1]), room[2], loaded)
    out: list[list[dict]] = [[{} for _ in group] for group in options]
    with movement.track("ranked", len(prompts), "prompts") as advance:
        for i in range(0, len(rows), count):
            batch, wanted, where = _batch(
                loaded, rows[i : i + count], prompts, heads, targets, count, room
            )
            if prompted_encoder(loaded.model, loaded.peft):
                batch = with_prompts(batch)
            placed = meshes.put({**batch, "wanted": wanted}, loaded.mesh)
            with jax.set_mesh(loaded.mesh):
                scores = _scores(loaded.params, placed, graphdef=loaded.graphdef)
            scores = np.asarray(scores, np.float64)
            for prompt, option, row, begin, end in where:
                total = float(scores[row, begin:end].sum())
                out[prompt][option] = {"logprob": total, "tokens": end - begin}
            advance(sum(map(len, rows[i : i + count])))
    return out


def batch_rows(rows: int, width: int, scored: int, loaded: LoadedModel) -> int:
    """Rows of a batch: all batches alike, and few of their rows empty."""
    logits = 4 * scored * len(loaded.params["embedding"])  # bytes of a row
    most = max(
        1,
        min(
            loaded.batch_size // 8,
            attention_rows(width, loaded),
            loaded.mesh.size * LOGITS_BYTES // logits,
        ),
    )
    even = -(-rows // max(1, -(-rows // most)))
    parts = meshes.batch_parts(loaded.mesh)
    multiple = parts * -(-min(ROWS, most) // parts)
    return max(1, -(-even // multiple)) * multiple


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
            open_from = max(0, r - 32)  # a bounded search: older rows are nearly full
        rows[r].append(int(i))
        left[r] = left[r] - sizes[i]
    return rows


def _batch(
    loaded: LoadedModel,
    rows: list[list[int]],
    prompts: list,
    heads: list,
    targets: list,
    count: int,
    room: list[int],
) -> tuple[dict[str, np.ndarray], np.ndarray, list[tuple]]:
    """Model inputs, wanted ids [b, t] and where each option's scores lie."""
    both = loaded.model.architecture == "encoder_decoder"

    def zeros(n: int) -> np.ndarray:
        return np.zeros((count, n), np.int32)

    d = {
        f"decoder_{k}": zeros(room[1])
        for k in ("input_tokens", "segment_ids", "positions", "branches")
    }
    back = loaded.model.smear
    d["decoder_previous_tokens"] = np.full((count, room[1], back), -1, np.int32)
    if loaded.model.prefix_lm and not both:
        d["decoder_causal_attention"] = zeros(room[1])
    e = (
        {f"encoder_{k}": zeros(room[0]) for k in ("input_tokens", "segment_ids", "positions")}
        if both
        else {}
    )
    at, wanted = np.full((count, room[2]), -1, np.int32), zeros(room[2])
    where = []
    for r, members in enumerate(rows):
        p = q = s = 0  # next free decoder place, encoder place, scored place
        for segment, i in enumerate(members, 1):

            def place(
                ids: list[int],
                head: list[int],
                position: int,
                branch: int,
                begin: int,
                r=r,
                segment=segment,
            ):
                end = begin + len(ids)
                d["decoder_input_tokens"][r, begin:end] = ids
                behind = [-1] * back + head + ids
                for s in range(back):
                    first = back + len(head) - s - 1
                    d["decoder_previous_tokens"][r, begin:end, s] = behind[first : first + len(ids)]
                d["decoder_segment_ids"][r, begin:end] = segment
                d["decoder_positions"][r, begin:end] = np.arange(position, position + len(ids))
                d["decoder_branches"][r, begin:end] = branch
                return end

            if both:
                ids = [*prompts[i], loaded.eos_id]
                e["encoder_input_tokens"][r, q : q + len(ids)] = ids
                e["encoder_segment_ids"][r, q : q + len(ids)] = segment
                e["encoder_positions"][r, q : q + len(ids)] = np.arange(len(ids))
                q += len(ids)
            begin, p = p, place(heads[i], [], 0, 0, p)
            if "decoder_causal_attention" in d:
                d["decoder_causal_attention"][r, begin:p] = 1
            head_end = p - 1
            for o, target in enumerate(targets[i]):
                n, begin = len(target), p
                p = place(target[:-1], heads[i], len(heads[i]), o + 1, p)
                # the first token is predicted behind the prompt, the others inside the branch
                at[r, s : s + n] = [head_end, *range(begin, p)][:n]
                wanted[r, s : s + n] = target
                where.append((i, o, r, s, s + n))
                s += n
    return {**d, **e, "loss_positions": at}, wanted, where


@partial(jax.jit, static_argnames=("graphdef",))
def _scores(params: dict, batch: dict, *, graphdef: nnx.GraphDef) -> jax.Array:
    """log p of the wanted id at each loss position [b, t]."""
    batch = dict(batch)
    wanted = batch.pop("wanted")
    logits = module_of(graphdef, params)(batch)
    gold = jnp.take_along_axis(logits, wanted[..., None], axis=-1)[..., 0]
    return gold - jax.nn.logsumexp(logits, axis=-1)
