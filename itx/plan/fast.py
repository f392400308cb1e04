# SPDX-License-Identifier: Apache-2.0
"""The training step's peak by shapes alone, in a second and without a compiler: `itx plan --fast`.

Arguments are exact, from the shardings. Of temporaries three moments are added up, and the largest
counts:

    the output layer    what the layers keep, copies for products, the table brought together and
                        its gradient, a part of the logits
    the backward pass   what the layers keep, copies, gradients, one layer at work
    the update          gradients, and what clipping and the optimizer make of them

What counts in each was read off the compiler's buffers for one model (Llama 3.1 8B on v5e:4x4);
itx/plan/README.md has the error of each configuration that was compiled.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from itx import loss, restore
from itx import mesh as meshes
from itx.config import ModelConfig, RunConfig
from itx.models import kernels
from itx.params import unbuilt_vocab_size
from itx.plan import memory
from itx.plan.plan import Asked

# Arrays as large as one part of the logits that live at once: the logits, their gradient, and the
# exponentials between them
LOGITS_COPIES = 3
UPDATE_COPIES = 2  # of the gradients: themselves and the direction


def predict(asked: Asked) -> dict[str, Any]:
    """{"peak_bytes", "argument_bytes", "moments": {moment: {what: bytes}}} of a device."""
    config, mesh = asked.config, asked.mesh
    plan = restore.plan_model(config, unbuilt_vocab_size(config))
    state, frozen = restore.state_specs(plan, mesh)
    arguments = sum(memory.argument_bytes({"state": state, "frozen": frozen}).values())
    arguments += _batch_bytes(config) // meshes.batch_parts(mesh)
    trained = memory.argument_bytes({"all": state["params"]})["all"]
    microbatches = config.train.microbatches
    gradients = trained * (2 if microbatches > 1 else 1)
    table = "embedding" if config.model.tie_embeddings else "head"
    spec = {**frozen, **state["params"]}[table]
    head = _output_layer(config, mesh, spec)
    # Where logits are taken in parts (itx/loss.py), the table's gradient is whole on every device
    # until it is summed over them.
    in_parts = logits_bytes(config, mesh, spec) > loss.LOGITS_BYTES and table in state["params"]
    whole = 4 * math.prod(spec.shape) / mesh.shape["tensor"] if in_parts else 0
    kept = {
        "kept for the backward pass": kept_bytes(config, mesh),
        "copies of weights for products": _copies(config, {**state["params"], **frozen}),
        "the table's gradient": whole,
    }
    moments = {
        "the output layer": {**kept, "gradients": gradients - trained, **head},
        "the backward pass": {
            **kept,
            "gradients": gradients,
            "one layer at work": _layer(config, mesh),
        },
        "the update": {"gradients": UPDATE_COPIES * trained},
    }
    peak = arguments + max(sum(parts.values()) for parts in moments.values())
    return {"peak_bytes": int(peak), "argument_bytes": int(arguments), "moments": moments}


def _batch_bytes(config: RunConfig) -> int:
    d, both = config.data, config.model.architecture == "encoder_decoder"
    decoder = d.target_length if both else d.sequence_length
    return 4 * d.global_batch * (6 * decoder + (3 * d.sequence_length if both else 0))


def rows_per_device(config: RunConfig, mesh: Any) -> float:
    """Rows of a microbatch on a device."""
    return config.data.global_batch / meshes.batch_parts(mesh) / config.train.microbatches


def stacks_of(config: RunConfig) -> list[tuple[int, int, bool]]:
    """(layers, length of a row, whether it is a decoder behind an encoder) of each stack."""
    model, d = config.model, config.data
    if model.architecture == "decoder":
        return [(model.num_layers, d.sequence_length, False)]
    encoder = model.encoder_layers or model.num_layers
    return [(encoder, d.sequence_length, False), (model.num_layers, d.target_length, True)]


def _width(model: ModelConfig, tensor: int, crossed: bool) -> float:
    """Numbers that a layer's products with weights give for a token."""
    heads = (model.num_heads + 2 * model.num_kv_heads) * model.head_dim / tensor
    mlp = model.mlp_dim * (2 if model.mlp_gated else 1) / tensor
    return heads * (2 if crossed else 1) + mlp + model.embed_dim * (3 if crossed else 2)


def _itemsize(model: ModelConfig) -> int:
    return jnp.dtype(model.dtype).itemsize


def kept_bytes(config: RunConfig, mesh: Any) -> float:
    """What the layers keep for the backward pass, by model.remat."""
    model, rows, tensor = config.model, rows_per_device(config, mesh), mesh.shape["tensor"]
    total = 0.0
    for layers, length, crossed in stacks_of(config):
        numbers = model.embed_dim  # a layer's input
        if model.remat != "full":
            numbers += _width(model, tensor, crossed)
        if model.remat == "none":  # also norms, activations, the products within attention
            numbers += 2 * model.embed_dim + 2 * model.mlp_dim / tensor
            numbers += 0 if _has_kernel(config, mesh) else 3 * model.num_heads / tensor * length
        total += layers * rows * length * numbers * _itemsize(model)
    return total


def _has_kernel(config: RunConfig, mesh: Any) -> bool:
    """Whether attention keeps no scores: a kernel takes the rows of the training step."""
    plain = not config.model.prefix_lm and config.peft.method not in ("prefix", "prompt")
    with jax.set_mesh(mesh):
        return kernels.choose(config.model, config.data.sequence_length, plain) != "xla"


def _copies(config: RunConfig, params: dict[str, Any]) -> float:
    """Stacked weights in the activations' type, which the compiler makes before the loop."""
    if config.model.dtype == "float32":
        return 0.0
    own = {p: s for p, s in params.items() if "/blocks/" in p and s.dtype == jnp.float32}
    return memory.argument_bytes({"all": own})["all"] / 2


def logits_bytes(config: RunConfig, mesh: Any, table: Any) -> float:
    """Of all loss positions of a microbatch, on a device, in float32."""
    places = rows_per_device(config, mesh) * config.data.target_length
    return 4 * places * max(table.shape) / mesh.shape["tensor"]


def _output_layer(config: RunConfig, mesh: Any, table: Any) -> dict[str, float]:
    model, d, tensor = config.model, config.data, mesh.shape["tensor"]
    places = rows_per_device(config, mesh) * d.target_length
    logits = logits_bytes(config, mesh, table)
    parts = max(1, math.ceil(logits / loss.LOGITS_BYTES))
    return {
        "the table, brought together": math.prod(table.shape) / tensor * _itemsize(model),
        "logits": LOGITS_COPIES * logits / parts,
        "states at loss positions": 2 * places * model.embed_dim * _itemsize(model),
    }


def _layer(config: RunConfig, mesh: Any) -> float:
    """One layer in the backward pass: its activations and their gradients, its weights brought
    together."""
    model, rows, tensor = config.model, rows_per_device(config, mesh), mesh.shape["tensor"]
    largest = 0.0
    for _, length, crossed in stacks_of(config):
        numbers = 2 * _width(model, tensor, crossed) * _itemsize(model)
        if not _has_kernel(config, mesh):
            numbers += 3 * 4 * model.num_heads / tensor * length
        largest = max(largest, rows * length * numbers)
    weights = 2 * model.embed_dim * model.mlp_dim / tensor * _itemsize(model)
    return largest + weights


def fits(asked: Asked, predicted: dict[str, Any]) -> bool:
    return predicted["peak_bytes"] <= asked.topology.chip.usable_bytes


def ruled_out(asked: Asked, predicted: dict[str, Any]) -> bool:
    """Whether arguments alone, which are exact, take more than there is."""
    return predicted["argument_bytes"] > asked.topology.chip.usable_bytes
