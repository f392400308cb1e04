# SPDX-License-Identifier: Apache-2.0
"""Training: the state, the step, the loop. Read `train` first; it is the whole run, top to bottom.

The state is a dict {"params": {path: array}, "opt_state": …, "step": int32}. Parameters that do not
train stand apart in `frozen` {path: array}. `make_step` gives (state, frozen, batch) ->
(state, metrics); loss = sum(nll * w) / sum(w) over the global batch, divided once.
"""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from itx import checkpoint, loss, optim
from itx import mesh as meshes
from itx.checkpoint import Checkpoints
from itx.config import ModelConfig, RunConfig
from itx.data import lock as locks
from itx.errors import UserError
from itx.log import Book, Interrupts, MetricsLog, Progress
from itx.models import pretrained
from itx.models.transformer import Transformer

State = dict[str, Any]
Metrics = dict[str, jax.Array]
Params = dict[str, jax.Array]


class Setup(NamedTuple):
    """What a run has besides its state; a function of (config, lock, mesh)."""

    graphdef: nnx.GraphDef
    names: optim.Names  # path -> logical axes, of all parameters
    trainable: list[str]
    mesh: Mesh
    init: Callable[[], tuple[State, Params]]
    step: Callable[[State, Params, dict], tuple[State, Metrics]]
    targets: tuple[State, Params]  # ShapeDtypeStructs with shardings


# ---------------------------------------------------------------- parameters and modules


def parameters(model: nnx.Module) -> Params:
    """{path: value} of all parameters, e.g. "decoder/blocks/mlp/w_in"."""
    state = nnx.state(model, nnx.Param)
    return {"/".join(map(str, p)): v.get_value() for p, v in nnx.to_flat_state(state)}


def logical_names(model: nnx.Module) -> optim.Names:
    """{path: logical axis names} of all parameters."""
    state = nnx.state(model, nnx.Param)
    flat = nnx.to_flat_state(state)
    return {"/".join(map(str, p)): v.get_metadata()["out_sharding"] for p, v in flat}


def merge(graphdef: nnx.GraphDef, params: Params) -> Transformer:
    """The module with these parameters."""
    flat = {tuple(p.split("/")): v for p, v in params.items()}
    return nnx.merge(graphdef, nnx.from_flat_state(flat))


def vocab_rows(config: RunConfig, lock: dict) -> int:
    """Rows of the embedding: as configured, or the vocabulary's size up to a multiple of 128."""
    size, rows = lock["vocabulary"]["size"], config.model.vocab_size
    if rows and rows < size:
        of = f" of {lock['vocabulary']['file']}" if "file" in lock["vocabulary"] else ""
        raise UserError(
            f"model.vocab_size={rows} is below the vocabulary's {size} ids{of}: each needs a row of the embedding"
        )
    return rows or -(-size // 128) * 128


# ---------------------------------------------------------------- the step


def make_step(
    graphdef: nnx.GraphDef,
    tx: optax.GradientTransformation,
    rate: Callable[[jax.Array], jax.Array],
    config: RunConfig,
    num_tasks: int,
) -> Callable[[State, Params, dict], tuple[State, Metrics]]:
    """The train step, not yet compiled: (state, frozen, batch) -> (state, metrics).

    metrics: sums over the batch {"loss", "weight", "correct", "task_loss" [k], "task_weight" [k],
    "tokens", "cells"} and {"grad_norm", "learning_rate", "skipped"}.
    """

    def objective(params: Params, frozen: Params, batch: dict) -> tuple[jax.Array, loss.Sums]:
        batch = dict(batch)
        rows = batch.pop("rows", None)
        model = merge(graphdef, {**frozen, **params})
        sums = loss.of_states(
            model.unembed, model.states(batch, rows), model.table, *loss.at_loss_positions(batch), num_tasks=num_tasks,
            z_loss=config.train.z_loss, label_smoothing=config.train.label_smoothing,
        )  # fmt: skip
        return sums["objective"], sums

    def step(state: State, frozen: Params, batch: dict) -> tuple[State, Metrics]:
        params = state["params"]
        if config.model.dropout:
            key = jax.random.fold_in(jax.random.key(config.train.seed), state["step"])
            row = jnp.arange(len(batch["task_ids"]), dtype=jnp.int32)
            batch = {**batch, "rows": jax.vmap(lambda r: jax.random.fold_in(key, r))(row)}
        grads, sums = summed_gradients(objective, params, frozen, batch, config.train.microbatches)
        grads = jax.tree.map(lambda g: loss.mean(g, sums["weight"]), grads)
        grad_norm = optax.tree.norm(grads)
        ok = jnp.isfinite(grad_norm) & jnp.isfinite(loss.mean(sums["objective"], sums["weight"]))
        direction, opt_state = tx.update(grads, state["opt_state"], params)
        lr = jnp.asarray(rate(state["step"]), jnp.float32)
        moved = jax.tree.map(lambda p, u: p - lr * u, params, direction)
        # a step without a finite loss and gradient changes nothing but the count of steps
        new = jax.tree.map(
            lambda n, o: jnp.where(ok, n, o),
            {"params": moved, "opt_state": opt_state},
            {"params": params, "opt_state": state["opt_state"]},
        )
        segments = [v for k, v in batch.items() if k.endswith("segment_ids")]
        metrics = {
            **sums,
            "grad_norm": grad_norm,
            "learning_rate": lr,
            "skipped": ~ok,
            "tokens": sum(jnp.sum(s > 0, dtype=jnp.int32) for s in segments),
        }
        return {**new, "step": state["step"] + 1}, metrics

    return step


def summed_gradients(
    objective: Callable, params: Params, frozen: Params, batch: dict, microbatches: int
) -> tuple[Params, loss.Sums]:
    """Gradient of the summed objective and the sums, over `microbatches` parts of the batch."""
    gradient = jax.grad(objective, has_aux=True)
    if microbatches == 1:
        return gradient(params, frozen, batch)
    # part i holds rows i, i + m, i + 2m, …: every device keeps the rows it has
    parts = jax.tree.map(lambda x: x.reshape(-1, microbatches, *x.shape[1:]).swapaxes(0, 1), batch)
    first = jax.tree.map(lambda x: x[0], parts)
    shapes = jax.eval_shape(gradient, params, frozen, first)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

    def add(total: Any, part: dict) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, gradient(params, frozen, part)), None

    return jax.lax.scan(add, zeros, parts)[0]


# ---------------------------------------------------------------- the state


def abstract_model(config: RunConfig, lock: dict) -> tuple[Callable[[], Transformer], nnx.Module]:
    """How the model is made from the seed, and its shapes."""
    rows, seed = vocab_rows(config, lock), config.train.seed

    def create() -> Transformer:
        return Transformer(config.model, rows, nnx.Rngs(seed))

    return create, nnx.eval_shape(create)


def placed_targets(model: ModelConfig, rows: int, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """Shape, type and place of each parameter of a model."""
    abstract = nnx.eval_shape(lambda: Transformer(model, rows, nnx.Rngs(0)))
    shapes = parameters(abstract)
    return meshes.targets(shapes, meshes.parameter_shardings(shapes, logical_names(abstract), mesh))


def setup(config: RunConfig, lock: dict, mesh: Mesh) -> Setup:
    """Everything a run needs but its state; checks what the config says about parameters."""
    parts = meshes.batch_parts(mesh) * config.train.microbatches
    if config.data.global_batch % parts:
        raise UserError(
            f"data.global_batch={config.data.global_batch} is not divisible by {parts} "
            f"(batch shards × train.microbatches)"
        )
    _, abstract = abstract_model(config, lock)
    graphdef = nnx.graphdef(abstract)
    names = logical_names(abstract)
    frozen_paths = optim.matching("optim.freeze", config.optim.freeze, names)
    trainable = [p for p in names if p not in frozen_paths]
    if not trainable:
        raise UserError("optim.freeze leaves no parameter to train")
    tx = optim.make(config.optim, {p: names[p] for p in trainable})
    rate = optim.schedule(config.optim, config.train.steps)

    draw = initialiser(config, lock, mesh)

    def state_of(everything: Params) -> tuple[State, Params]:
        params = {p: everything[p] for p in trainable}
        state = {"params": params, "opt_state": tx.init(params), "step": jnp.zeros((), jnp.int32)}
        return state, {p: everything[p] for p in frozen_paths}

    shapes = jax.eval_shape(state_of, parameters(abstract))
    where = shardings(shapes, names, mesh)

    def init() -> tuple[State, Params]:
        return jax.jit(state_of, out_shardings=where, donate_argnums=0)(draw())

    targets = jax.tree.map(lambda s, w: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=w), shapes, where)
    step = make_step(graphdef, tx, rate, config, len(lock["tasks"]))
    return Setup(
        graphdef, names, trainable, mesh,
        init,
        jax.jit(step, donate_argnums=0, out_shardings=(where[0], meshes.replicated(mesh))),
        targets,
    )  # fmt: skip


def initialiser(config: RunConfig, lock: dict, mesh: Mesh) -> Callable[[], Params]:
    """Draws all parameters from the seed, each device making its own part, or reads those of `model.pretrained`."""
    create, abstract = abstract_model(config, lock)
    if config.model.pretrained:
        targets = placed_targets(config.model, vocab_rows(config, lock), mesh)
        pretrained.check(config.model.pretrained, config.model, targets)
        return lambda: pretrained.load(config.model.pretrained, config.model, targets)
    place = meshes.parameter_shardings(parameters(abstract), logical_names(abstract), mesh)
    # run once: on a CPU the compiler's optimisation would take longer than it saves
    cpu = jax.default_backend() == "cpu"
    options = {"xla_backend_optimization_level": 0} if cpu else None
    return jax.jit(lambda: parameters(create()), out_shardings=place, compiler_options=options)


def shardings(shapes: tuple[State, Params], names: optim.Names, mesh: Mesh) -> tuple[dict, dict]:
    """NamedShardings of (state, frozen), from the parameters' logical names."""
    state, frozen = shapes
    everything = {**state["params"], **frozen}
    place = meshes.parameter_shardings(everything, names, mesh)
    return {
        "params": {p: place[p] for p in state["params"]},
        "opt_state": meshes.like_parameters(state["opt_state"], everything, names, mesh),
        "step": meshes.replicated(mesh),
    }, {p: place[p] for p in frozen}


def init_state(config: RunConfig, lock: dict, mesh: Mesh) -> tuple[State, Params, Setup]:
    """A fresh state, the frozen parameters, and the rest of the run's set-up."""
    made = setup(config, lock, mesh)
    state, frozen = made.init()
    return state, frozen, made


def restore(checkpoints: Checkpoints, step: int, made: Setup) -> tuple[State, Params]:
    """State and frozen parameters of a checkpoint, on this run's mesh."""
    state, frozen = made.targets
    params = checkpoints.params(step, {**state["params"], **frozen})
    counter = jax.device_put(np.int32(step), state["step"].sharding)
    return {
        "params": {p: params[p] for p in state["params"]},
        "opt_state": checkpoints.opt_state(step, state["opt_state"]),
        "step": counter,
    }, {p: params[p] for p in frozen}


# ---------------------------------------------------------------- the loop


def train(
    config: RunConfig, lock: dict, batches: Any, run: Any,
    made: Setup | None = None, about: dict | None = None, progress: Progress | None = None,
) -> State:  # fmt: skip
    """Train until `train.steps`, from the newest checkpoint of the run folder or from the start.

    `batches.iterate(start, stop, rows)` yields numpy batches; `run` names the folder's files; `about` is
    what its config.json holds, kept in every checkpoint beside the lock.
    """
    made = made or setup(config, lock, meshes.make_mesh(config.mesh))
    mesh = made.mesh
    stop, every = config.train.steps, config.train.checkpoint_every
    here = checkpoint.environment(mesh)
    with ExitStack() as stack:
        checkpoints = stack.enter_context(Checkpoints(run.checkpoints, config.train.keep_checkpoints))
        begin = checkpoints.latest() or 0
        meta = checkpoints.meta(begin) if begin else {}
        book = Book(config, lock, meta)
        progress = stack.enter_context(progress or Progress(begin, stop))
        board = run.tensorboard if config.train.tensorboard else None
        log = stack.enter_context(MetricsLog(run.metrics_jsonl, begin, board))
        interrupts = stack.enter_context(Interrupts())
        stack.enter_context(jax.set_mesh(mesh))
        if begin:
            if locks.shape_hash(meta["lock"]) != locks.shape_hash(lock):
                raise UserError(f"{run.checkpoints} was begun on other data: {locks.difference(meta['lock'], lock)}")
            changed = checkpoint.differences(meta["environment"], here)
            progress.say(changed or f"resumed at step {begin}")
            state, frozen = restore(checkpoints, begin, made)
        else:
            state, frozen = made.init()
        rows = meshes.local_rows(mesh, config.data.global_batch)
        pending = None  # metrics of the step before: fetched while the next one runs
        for step, batch in enumerate(batches.iterate(begin, stop, rows), begin + 1):
            placed = meshes.put(batch, mesh)
            with jax.transfer_guard("disallow"):
                state, metrics = made.step(state, frozen, placed)
            book.add(pending, log, progress)
            pending = (step, metrics, cells(batch))
            if step % every == 0 or step == stop or interrupts.seen:
                book.add(pending, log, progress)
                pending = None
                log.sync()  # before the checkpoint commits: a line may be cut back, never missing
                meta = {"step": step, "environment": here, "about": about, "lock": lock, **book.meta()}
                checkpoints.save(step, {**state["params"], **frozen}, state["opt_state"], meta)
            if interrupts.seen and step < stop:
                checkpoints.wait()
                progress.say(f"stopped after step {step}; the same command goes on from there")
                raise SystemExit(interrupts.exit_code)
    return state


def cells(batch: dict[str, np.ndarray]) -> int:
    """Token places of a batch on this process, padding included."""
    return sum(v.size for k, v in batch.items() if k.endswith("segment_ids"))


# ---------------------------------------------------------------- after training


def load_model(run: Any, config: RunConfig, lock: dict, step: int | None = None, mesh: Mesh | None = None):
    """A Runner (itx/eval/generate.py) with the parameters of a checkpoint: the newest, or `step`.

    Step 0 is the model before tuning, made anew from the seed.
    """
    from itx.eval.generate import Runner

    mesh = mesh or meshes.make_mesh(config.mesh)
    _, abstract = abstract_model(config, lock)
    if step is None:
        step = latest_step(run)
    if step == 0:
        params = initialiser(config, lock, mesh)()
    else:
        targets = placed_targets(config.model, vocab_rows(config, lock), mesh)
        with Checkpoints(run.checkpoints, config.train.keep_checkpoints) as checkpoints:
            params = checkpoints.params(step, targets)
    return Runner(
        graphdef=nnx.graphdef(abstract), params=params, mesh=mesh, model=config.model,
        bos_id=lock["bos_id"], eos_id=lock["eos_id"], pad_id=lock["pad_id"],
        batch_size=config.eval.batch_size, step=step,
    )  # fmt: skip


def latest_step(run: Any) -> int:
    """The newest checkpoint's step; 0 where there is none."""
    steps = [int(p.name) for p in run.checkpoints.glob("[0-9]*") if p.name.isdigit()]
    return max(steps, default=0)
