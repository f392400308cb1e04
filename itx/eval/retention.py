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
from itx import movement, storage
from itx.data import cache
from itx.errors import UserError
from itx.eval.loaded import LoadedModel
from itx.eval.runner import Runner
from itx.loss import batch_sums
from itx.params import module_of
from itx.peft import prompted_encoder, with_prompts
from itx.runs import RunFolder

TOKENS = 16_384  # of a call, for each part of the mesh that takes rows of its own
MULTIPLE = 128  # rows are as long as the longest chunk, up to a multiple of this

Chunk = tuple[list[int], list[int], list[int]]  # prompt, target, bytes of each of its tokens


def retention(
    load: Callable[[], Runner],
    lock: dict,
    cache_dir: str | Path,
    run: RunFolder,
    step: int,
    when: str,
) -> dict:
    """Adds {when: {text: facts of `bits_per_byte`}} to the run's file; `when` is "before" or
    "after"."""
    found = (
        storage.read_object(run.retention_json, "steps")
        if run.retention_json.is_file()
        else {"steps": {}}
    )
    texts = lock.get("retention", [])
    key = [step, *(t["sha256"] for t in texts)]
    if not texts or found["steps"].get(when) == key:
        return found
    found[when] = {}
    for t in texts:
        chunks = chunks_of(Path(cache_dir) / t["folder"], lock)
        with movement.shown(f"retention on {t['name']}"):
            found[when][t["name"]] = {
                "objective": t["objective"],
                **bits_per_byte(load().loaded, chunks),
            }
    found["steps"][when] = key
    storage.write_json(run.retention_json, storage.sealed(found))
    return found


def chunks_of(folder: Path, lock: dict) -> list[Chunk]:
    records, out = cache.Records(folder), []
    for i, line in enumerate(cache.iterate_examples(folder)):
        *before, (target, _) = records[i]
        prompt = cache.prompt_ids(before, lock["eos_id"], lock["architecture"])
        out.append((prompt, target.tolist(), line["bytes"]))
    return out


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
    widths = [
        -(-max(map(len, side)) // MULTIPLE) * MULTIPLE for side in list(zip(*rows, strict=True))[:2]
    ]
    parts = meshes.batch_parts(loaded.mesh)
    count = parts * max(1, TOKENS // max(widths))
    count = min(count, -(-len(rows) // parts) * parts)
    nats = 0.0
    with movement.track("read", len(rows), "chunks") as advance:
        for i in range(0, len(rows), count):
            batch = _batch(loaded, rows[i : i + count], widths, count)
            if prompted_encoder(loaded.model, loaded.peft):
                batch = with_prompts(batch)
            with jax.set_mesh(loaded.mesh):
                nats += float(
                    _nll(loaded.params, meshes.put(batch, loaded.mesh), graphdef=loaded.graphdef)
                )
            advance(len(rows[i : i + count]))
    bits, tokens = nats / math.log(2), sum(n for *_, n in rows)
    return {"bits_per_byte": bits / size, "bits": bits, "bytes": size, "tokens": tokens}


def _batch(loaded: LoadedModel, rows: list, widths: list[int], count: int) -> dict[str, np.ndarray]:
    """One chunk a row, as the loader lays a segment out (itx/data/loader.py); loss on its scored
    tokens."""

    def zeros(width: int) -> np.ndarray:
        return np.zeros((count, width), np.int32)

    sides = ("encoder", "decoder") if widths[0] else ("decoder",)
    out = {
        f"{s}_{k}": zeros(widths[s == "decoder"])
        for s in sides
        for k in ("input_tokens", "segment_ids", "positions")
    }
    width = widths[1]
    out |= {k: zeros(width) for k in ("decoder_target_tokens", "task_ids")}
    out["decoder_loss_weights"] = np.zeros((count, width), np.float32)
    out["loss_positions"] = np.full((count, width), -1, np.int32)
    if loaded.model.prefix_lm:
        out["decoder_causal_attention"] = zeros(width)

    def put(side: str, row: int, ids: list[int]) -> None:
        n = len(ids)
        out[f"{side}_input_tokens"][row, :n] = ids
        out[f"{side}_segment_ids"][row, :n] = 1
        out[f"{side}_positions"][row, :n] = np.arange(n)

    for r, (encoded, tokens, scored) in enumerate(rows):
        n = len(tokens) - 1
        if encoded:
            put("encoder", r, encoded)
        put("decoder", r, tokens[:-1])
        out["decoder_target_tokens"][r, :n] = tokens[1:]
        out["decoder_loss_weights"][r, n - scored : n] = 1.0
        out["loss_positions"][r, :scored] = np.arange(n - scored, n)
        if loaded.model.prefix_lm:
            out["decoder_causal_attention"][r, : n - scored + 1] = 1
    return out


@partial(jax.jit, static_argnames=("graphdef",))
def _nll(params: dict, batch: dict, *, graphdef: nnx.GraphDef) -> jax.Array:
    """Sum of -log p over the scored tokens."""
    return batch_sums(module_of(graphdef, params), batch, num_tasks=1)["loss"]
