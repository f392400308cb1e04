# SPDX-License-Identifier: Apache-2.0
"""The programs of a run as the run itself compiles them, with shapes for arrays.

    train     the step of itx/train.py
    forward   the loss of rows of text (itx/eval/retention.py), as long as a training row
    rank      log-probabilities of options (itx/eval/rank.py)
    prefill   a batch of prompts is read (itx/eval/generate.py)
    decode    tokens are chosen behind them

Shapes are the largest that the run asks for: rows as long as data.sequence_length, loss at
data.target_length places, prompts that leave room for eval.max_new_tokens. No weight is read and
nothing has to be built.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from itx import config as configs
from itx import mesh as meshes
from itx import restore, train
from itx.config import PeftConfig, RunConfig
from itx.eval import generate, rank, reading, retention
from itx.eval.loaded import LoadedModel
from itx.eval.sampling import GREEDY
from itx.mesh import Specs
from itx.params import module_of, specs_of, unbuilt_vocab_size
from itx.peft import prompted_encoder, with_prompts

NAMES = ("train", "forward", "rank", "prefill", "decode")
# Tasks that the step's sums tell apart. The data lock knows how many there are, and is not built
# yet: each costs two floats.
ASSUMED_TASKS = 64


class Program(NamedTuple):
    """A program before compilation."""

    traced: Any  # of jax.jit: `.jaxpr`, `.lower()`
    arguments: dict[str, Any]  # what they are: trees of specs
    mesh: Mesh
    shape: str  # of its batch, in words
    trips: int = 1  # of its while loop


def trace(name: str, config: RunConfig, mesh: Mesh, before: Any = None) -> Program:
    """A program of a run on a mesh.

    before: the compiled prefill, whose outputs decode takes.
    """
    config = without_files(config)
    if name == "train":
        return _train(config, mesh)
    loaded = abstract_loaded(config, mesh)
    if name in ("prefill", "decode"):
        return _generation(name, config, loaded, before)
    return {"forward": _forward, "rank": _rank}[name](config, loaded)


def without_files(config: RunConfig) -> RunConfig:
    """The config of a run for which no model's or adapter's file is looked for."""
    config = configs.changed(config, "model", pretrained="")
    return configs.changed(config, "peft", adapter="")


def _train(config: RunConfig, mesh: Mesh) -> Program:
    plan = restore.plan_model(config, unbuilt_vocab_size(config))
    train.check_divisible(config, mesh)
    step = train.jitted_step(config, plan, ASSUMED_TASKS, mesh)
    state, frozen = restore.state_specs(plan, mesh)
    batch = _placed(_train_batch(config), mesh)
    peak = jax.ShapeDtypeStruct((), jnp.float32, sharding=meshes.replicated(mesh))
    with jax.set_mesh(mesh):
        traced = step.trace(state, frozen, batch, peak)
    parts = {
        "parameters that train": state["params"],
        "optimizer state": restore.besides_params(state),
        "frozen parameters": frozen,
        "batch": batch,
    }
    d = config.data
    both = config.model.architecture == "encoder_decoder"
    length = f"({d.sequence_length} + {d.target_length})" if both else str(d.sequence_length)
    return Program(traced, parts, mesh, f"{d.global_batch} rows x {length} tokens")


def _train_batch(config: RunConfig) -> dict[str, np.ndarray]:
    """A batch as the loader makes it (itx/data/loader.py), of padding alone."""
    d, model = config.data, config.model
    both = model.architecture == "encoder_decoder"
    widths = {"encoder": d.sequence_length} if both else {}
    widths["decoder"] = d.target_length if both else d.sequence_length
    batch = rank.empty(widths, d.global_batch)
    shape = batch["decoder_input_tokens"].shape
    batch |= {name: np.zeros(shape, np.int32) for name in ("decoder_target_tokens", "task_ids")}
    batch["decoder_loss_weights"] = np.zeros(shape, np.float32)
    batch["loss_positions"] = np.full((d.global_batch, d.target_length), -1, np.int32)
    if model.prefix_lm and not both:
        batch["decoder_causal_attention"] = np.zeros(shape, np.int32)
    return with_prompts(batch) if prompted_encoder(model, config.peft) else batch


def abstract_loaded(config: RunConfig, mesh: Mesh) -> LoadedModel:
    """The model that evaluation asks, with specs for parameters, laid out for generation."""
    mesh = meshes.for_generation(mesh, config.model.num_heads)
    _, abstract = restore.abstract_model(config, unbuilt_vocab_size(config))
    abstract = restore.adapted(config, abstract)
    full = config.peft.method == "full"
    return LoadedModel(
        graphdef=nnx.graphdef(abstract),
        params=specs_of(abstract, mesh),
        mesh=mesh,
        model=config.model,
        bos_id=0,
        eos_id=1,
        pad_id=0,
        batch_size=config.eval.batch_size,
        peft=PeftConfig() if full else config.peft,
    )


def _placed(batch: dict[str, np.ndarray], mesh: Mesh) -> Specs:
    sharding = meshes.batch_sharding(mesh)
    return {
        name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding) for name, x in batch.items()
    }


def _asked(function: Any, batch: dict[str, np.ndarray], loaded: LoadedModel, shape: str) -> Program:
    """A program of evaluation that takes parameters and a batch."""
    if prompted_encoder(loaded.model, loaded.peft):
        batch = with_prompts(batch)
    specs = _placed(batch, loaded.mesh)
    with jax.set_mesh(loaded.mesh):
        traced = function.trace(loaded.params, specs, graphdef=loaded.graphdef)
    return Program(traced, {"parameters": loaded.params, "batch": specs}, loaded.mesh, shape)


def _forward(config: RunConfig, loaded: LoadedModel) -> Program:
    d = config.data
    both = loaded.model.architecture == "encoder_decoder"
    widths = (d.sequence_length, d.target_length) if both else (0, d.sequence_length)
    count = retention.call_rows(widths, loaded)
    batch = retention.laid_out(loaded, [], widths, count)
    return _asked(retention.summed_nats, batch, loaded, f"{count} rows x {sum(widths)} tokens")


def _rank(config: RunConfig, loaded: LoadedModel) -> Program:
    """Options of prompts that fill a training row, in the rows of the widest group."""
    d = config.data
    both = loaded.model.architecture == "encoder_decoder"
    sizes = np.array([[d.sequence_length, d.target_length if both else d.sequence_length, 1]])
    room = rank.row_room(sizes, both)
    many = loaded.batch_size
    count = rank.batch_rows(many, max(room[0] if both else 0, room[1]), room[2], loaded)
    batch, scored, _ = rank.laid_out(loaded, [], [], [], [], count, room)
    shape = f"{count} rows x {sum(room[:2]) if both else room[1]} tokens, {room[2]} scored"
    return _asked(rank.scored_logprobs, {**batch, "scored": scored}, loaded, shape)


def _generation(name: str, config: RunConfig, loaded: LoadedModel, before: Any) -> Program:
    """Reading prompts, or the loop over tokens behind them."""
    new = config.eval.max_new_tokens
    both = loaded.model.architecture == "encoder_decoder"
    prompt = max(1, config.data.sequence_length - 1 - (0 if both else new))
    many = loaded.batch_size
    _, (rows, width, slots) = generate.plan([prompt] * many, np.full(many, new), loaded)[0]
    ready = abstract_ready(loaded)
    one = np.zeros(rows, np.int32)
    put = {"tokens": np.zeros((rows, width), np.int32), "starts": one, "room": one, "index": one}
    put = _placed(put, loaded.mesh)
    how, numbers = GREEDY.split()
    numbers = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), numbers)
    static = {"graphdef": loaded.graphdef, "how": how, "ends": loaded.ends}
    prefill = {**static, "slots": slots, "bos": loaded.bos_id}
    parts = {"parameters": loaded.params, "parameters as tokens read them": ready}
    shape = f"{rows} rows x {width} prompt tokens, {slots} new"
    with jax.set_mesh(loaded.mesh):
        traced = generate.read_prompts.trace(loaded.params, ready, put, numbers, **prefill)
        if name == "prefill":
            return Program(traced, {**parts, "batch": put}, loaded.mesh, shape)
        constants, carry = jax.tree.map(
            lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
            traced.out_info,
            before.output_shardings,
        )
        arguments = (loaded.params, ready, constants, carry, numbers)
        until, stopped = np.int32(slots), np.zeros(rows, bool)
        traced = generate.choose_tokens.trace(*arguments, until, stopped, **static)
    parts |= {"cache": carry["cache"], "batch": (constants, {**carry, "cache": None})}
    return Program(traced, parts, loaded.mesh, shape, trips=slots)


def abstract_ready(loaded: LoadedModel) -> dict:
    """Specs of what `reading.ready` makes of the parameters: each layer's are split as the stacked
    ones are."""
    shapes = jax.eval_shape(
        lambda params: reading.ready(params, graphdef=loaded.graphdef), loaded.params
    )
    stacked = nnx.state(module_of(loaded.graphdef, loaded.params).decoder.blocks)

    def layer(shape: Any, whole: Any) -> jax.ShapeDtypeStruct:
        spec = PartitionSpec(*whole.sharding.spec[1:])
        sharding = NamedSharding(loaded.mesh, spec)
        return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)

    outside = {
        p: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=loaded.params[p].sharding)
        for p, s in shapes["params"].items()
    }
    layers = [jax.tree.map(layer, own, stacked) for own in shapes["layers"]]
    return {"params": outside, "layers": layers}
