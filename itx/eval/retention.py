# SPDX-License-Identifier: Apache-2.0
"""What is left of a model's pretraining: bits per byte of held-out plain text, before and after
tuning.

    bits per byte = sum over scored tokens of -log2 p(token | what stands before it) / their UTF-8
    bytes

Every chunk of the lock's texts is scored as its objective has it: `lm` all of it, `prefix_lm` the
part behind the prompt, `span_corruption` the targets, whose sentinels cost bits and stand for no
bytes. EOS is not scored: a text goes on behind a chunk. Without BOS nothing foretells a chunk's
first token, so it is read only. Vocabularies cut a text differently, but its bytes are the same:
the numbers of two models can be compared.
"""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from itx import mesh as meshes
from itx import movement
from itx.data import cache
from itx.data.types import Lock
from itx.errors import UserError
from itx.eval import before_after
from itx.eval.loaded import Ids, LoadedModel
from itx.eval.rank import empty, put_ids
from itx.eval.runner import Runner
from itx.loss import batch_sums
from itx.params import module_of
from itx.peft import prompted_encoder, with_prompts
from itx.runs import RunFolder

CALL_TOKENS = 16_384  # for each part of the mesh that takes rows of its own
TOKEN_STEP = 128  # rows are as long as the longest chunk, up to a multiple of this

Chunk = tuple[Ids, Ids, list[int]]  # prompt, target, bytes of each of its tokens
Row = tuple[Ids, Ids, int]  # encoder's ids, decoder's ids, scored ones at their end


def retention(
    load: Callable[[], Runner],
    lock: Lock,
    cache_dir: str | Path,
    run: RunFolder,
    step: int,
    when: str,
) -> dict:
    """Adds {when: {text: facts of `bits_per_byte`}} to the run's file; `when` is "before" or
    "after"."""
    texts = lock.get("retention", [])

    def measure() -> dict:
        facts = {}
        for t in texts:
            chunks = chunks_of(Path(cache_dir) / t["folder"], lock)
            with movement.shown(f"retention on {t['name']}"):
                measured = bits_per_byte(load().loaded, chunks)
            facts[t["name"]] = {"objective": t["objective"], **measured}
        return facts

    key = [step, *(t["sha256"] for t in texts)]
    return before_after.once(run.retention_json, when, key, measure) if texts else {}


def chunks_of(folder: Path, lock: Lock) -> list[Chunk]:
    records, chunks = cache.Records(folder), []
    for i, line in enumerate(cache.iterate_examples(folder)):
        pair = records.prompt_and_target(i, lock["eos_id"], lock["architecture"])
        chunks.append((*pair, line["bytes"]))
    return chunks


def bits_per_byte(loaded: LoadedModel, chunks: list[Chunk]) -> dict[str, float]:
    """{"bits_per_byte", "bits", "bytes", "tokens"} of chunks of text."""
    both = loaded.model.architecture == "encoder_decoder"
    head = [loaded.bos_id] if both else loaded.head
    rows, size = [], 0
    for prompt, target, sizes in chunks:
        tokens = [*head, *([] if both else prompt), *target]
        # all but a first token that nothing stands before
        scored = min(len(target), len(tokens) - 1)
        if scored:
            rows.append(([*prompt, loaded.eos_id] if both else [], tokens, scored))
            size += sum(sizes[len(target) - scored :])
    if not size:
        raise UserError(
            "retention: the text has no token that something stands before; name a longer one"
        )
    encoded, decoded, _ = zip(*rows, strict=True)
    widths = tuple(
        -(-max(map(len, side)) // TOKEN_STEP) * TOKEN_STEP for side in (encoded, decoded)
    )
    parts = meshes.batch_parts(loaded.mesh)
    count = min(call_rows(widths, loaded), -(-len(rows) // parts) * parts)
    nats = 0.0
    with movement.track("read", len(rows), "chunks") as advance:
        for i in range(0, len(rows), count):
            part = rows[i : i + count]
            batch = laid_out(loaded, part, widths, count)
            if prompted_encoder(loaded.model, loaded.peft):
                batch = with_prompts(batch)
            placed = meshes.put(batch, loaded.mesh)
            with jax.set_mesh(loaded.mesh):
                nats += float(summed_nats(loaded.params, placed, graphdef=loaded.graphdef))
            advance(len(part))
    bits, tokens = nats / math.log(2), sum(n for *_, n in rows)
    return {"bits_per_byte": bits / size, "bits": bits, "bytes": size, "tokens": tokens}


def call_rows(widths: tuple[int, int], loaded: LoadedModel) -> int:
    """Most rows of a call whose encoder and decoder rows have these widths."""
    return meshes.batch_parts(loaded.mesh) * max(1, CALL_TOKENS // max(widths))


def laid_out(
    loaded: LoadedModel, rows: list[Row], widths: tuple[int, int], count: int
) -> dict[str, np.ndarray]:
    """One chunk a row, as the loader lays a segment out (itx/data/loader.py); loss on its scored
    tokens."""
    shape = (count, widths[1])
    sides = {"encoder": widths[0], "decoder": widths[1]}
    batch = empty({side: width for side, width in sides.items() if width}, count)
    batch |= {
        "decoder_target_tokens": np.zeros(shape, np.int32),
        "task_ids": np.zeros(shape, np.int32),
        "decoder_loss_weights": np.zeros(shape, np.float32),
        "loss_positions": np.full(shape, -1, np.int32),
    }
    if loaded.model.prefix_lm:
        batch["decoder_causal_attention"] = np.zeros(shape, np.int32)
    for r, (encoded, tokens, scored) in enumerate(rows):
        if encoded:
            put_ids(batch, "encoder", r, 0, encoded)
        n = put_ids(batch, "decoder", r, 0, tokens[:-1])
        batch["decoder_target_tokens"][r, :n] = tokens[1:]
        batch["decoder_loss_weights"][r, n - scored : n] = 1.0
        batch["loss_positions"][r, :scored] = np.arange(n - scored, n)
        if loaded.model.prefix_lm:
            batch["decoder_causal_attention"][r, : n - scored + 1] = 1
    return batch


@partial(jax.jit, static_argnames=("graphdef",))
def summed_nats(params: dict, batch: dict, *, graphdef: nnx.GraphDef) -> jax.Array:
    """Sum of -log p over the scored tokens."""
    return batch_sums(module_of(graphdef, params), batch, num_tasks=1)["loss"]
