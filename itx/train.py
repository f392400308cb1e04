# SPDX-License-Identifier: Apache-2.0
"""Training: the state, the step, the loop. Read `train` first; it is the whole run, top to bottom.

The state is a dict {"params": {path: array}, "opt_state": …, "step": int32}. Parameters that do not
train (frozen by name, or the base under an adapter) stand apart in `frozen` {path: array}: gradients are
taken of the others alone, and so is the optimizer's state. `make_step` gives (state, frozen, batch) ->
(state, metrics); loss = sum(nll * w) / sum(w) over the global batch, divided once.
"""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from itx import checkpoint, health, loss, optim
from itx import mesh as meshes
from itx import peft as adapters
from itx.checkpoint import Checkpoints
from itx.config import ModelConfig, PeftConfig, RunConfig
from itx.data import lock as locks
from itx.errors import UserError
from itx.log import Book, MetricsLog, Progress
from itx.models import hf, pretrained
from itx.models.transformer import Transformer, fold
from itx.peft import logical_names
from itx.processes import Interrupts, newest_checkpoint

State = dict[str, Any]
Metrics = dict[str, jax.Array]
Params = dict[str, jax.Array]


class Parts(NamedTuple):
    """What trains and what does not, before there is a mesh; a function of (config, lock)."""

    graphdef: nnx.GraphDef
    names: optim.Names
    trainable: list[str]
    saved: list[str]
    tx: optax.GradientTransformation
    state_of: Callable[[Params], tuple[State, Params]]  # of the base's parameters
    shapes: tuple[State, Params]  # what that gives


class Setup(NamedTuple):
    """What a run has besides its state; a function of (config, lock, mesh)."""

    graphdef: nnx.GraphDef
    names: optim.Names  # path -> logical axes, of all parameters
    trainable: list[str]
    saved: list[str]  # what checkpoints hold: everything, or an adapter run's adapter
    mesh: Mesh
    init: Callable[[], tuple[State, Params]]
    step: Callable[[State, Params, dict], tuple[State, Metrics]]
    targets: tuple[State, Params]  # ShapeDtypeStructs with shardings


# ---------------------------------------------------------------- parameters and modules


def parameters(model: nnx.Module) -> Params:
    """{path: value} of all parameters, e.g. "decoder/blocks/mlp/w_in"."""
    state = nnx.state(model, nnx.Param)
    return {"/".join(map(str, p)): v.get_value() for p, v in nnx.to_flat_state(state)}


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

    settings = {
        "num_tasks": num_tasks, "z_loss": config.train.z_loss, "label_smoothing": config.train.label_smoothing,
    }  # fmt: skip

    def objective(params: Params, frozen: Params, batch: dict) -> tuple[jax.Array, loss.Sums]:
        batch = dict(batch)
        rows = batch.pop("rows", None)
        model = merge(graphdef, {**frozen, **params})
        trains = ("embedding" if model.head is None else "head") in params
        sums = batch_sums(model, batch, rows, trains=trains, **settings)
        return sums["objective"], sums

    def step(state: State, frozen: Params, batch: dict) -> tuple[State, Metrics]:
        params = state["params"]
        if config.model.dropout or config.peft.dropout:
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


def batch_sums(
    model: Transformer, batch: dict, rows: jax.Array | None = None, trains: bool = False, **settings
) -> loss.Sums:
    """The sums of a batch (itx/loss.py); `rows` are keys for dropout, `trains` says that the output table does."""
    states, found = model.states(batch, rows), loss.at_loss_positions(batch)
    if model.head_adapter is not None:  # what trains is not the table: all logits at once
        return loss.sums(model.logits(states, None if rows is None else fold(rows, 3)), *found, **settings)
    return loss.of_states(model.unembed, states, model.table, *found, trains=trains, **settings)


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
    """How the base model is made from the seed, and its shapes."""
    rows, seed = vocab_rows(config, lock), config.train.seed

    def create() -> Transformer:
        model = Transformer(config.model, rows, nnx.Rngs(seed))
        return model if config.peft.method == "full" else adapters.cast(model, config.peft.base_dtype)

    return create, shapes_of(create)


def shapes_of(create: Callable[..., nnx.Module], *models: nnx.Module) -> nnx.Module:
    """The shapes of create(*models). Unlike nnx.eval_shape it does not ask a mesh that is set for logical names."""
    graphdefs, states = zip(*map(nnx.split, models), strict=True) if models else ((), ())
    return nnx.merge(*jax.eval_shape(lambda states: nnx.split(create(*map(nnx.merge, graphdefs, states))), states))


def placed_targets(model: ModelConfig, rows: int, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """Shape, type and place of each parameter of a model."""
    return placed(shapes_of(lambda: Transformer(model, rows, nnx.Rngs(0))), mesh)


def placed(abstract: nnx.Module, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    shapes = parameters(abstract)
    return meshes.targets(shapes, meshes.parameter_shardings(shapes, logical_names(abstract), mesh))


def adapted(config: RunConfig, base: nnx.Module) -> nnx.Module:
    """The shapes of the model with the run's adapter in it (the base itself where all of it trains)."""
    return shapes_of(lambda base: adapters.add(base, config.peft, config.train.seed), base)


def parts(config: RunConfig, lock: dict) -> Parts:
    """What trains, by shapes alone; checks what the config says about parameters."""
    _, base = abstract_model(config, lock)
    base_graphdef, base_paths = nnx.graphdef(base), list(parameters(base))
    abstract = adapted(config, base)
    graphdef, names = nnx.graphdef(abstract), logical_names(abstract)
    fixed = optim.matching("optim.freeze", config.optim.freeze, names)
    trainable = [p for p in adapters.trained(abstract, config.peft) if p not in fixed]
    if not trainable:
        raise UserError("optim.freeze leaves no parameter to train")
    frozen_paths = [p for p in names if p not in set(trainable)]
    saved = [p for p in names if config.peft.method == "full" or p not in base_paths]
    tx = optim.make(config.optim, {p: names[p] for p in trainable}, frozen_paths)

    def state_of(base: Params) -> tuple[State, Params]:
        model = adapters.add(merge(base_graphdef, base), config.peft, config.train.seed)
        everything = parameters(model)
        params = {p: everything[p] for p in trainable}
        state = {"params": params, "opt_state": tx.init(params), "step": jnp.zeros((), jnp.int32)}
        return state, {p: everything[p] for p in frozen_paths}

    return Parts(graphdef, names, trainable, saved, tx, state_of, jax.eval_shape(state_of, parameters(base)))


def saved_shapes(config: RunConfig, lock: dict) -> dict[str, jax.ShapeDtypeStruct]:
    """The parameters that a run's checkpoints hold."""
    of = parts(config, lock)
    state, frozen = of.shapes
    everything = {**state["params"], **frozen}
    return {p: everything[p] for p in of.saved}


def shapes_by_name(of: Parts) -> dict[str, tuple[int, ...]]:
    """The shape of each parameter, and of each array of the optimizer's state."""
    state, frozen = of.shapes
    arrays = {"params": {**state["params"], **frozen}, "opt_state": state["opt_state"]}
    return {name: x.shape for name, x in checkpoint.named_leaves(arrays).items()}


def setup(config: RunConfig, lock: dict, mesh: Mesh) -> Setup:
    """Everything a run needs but its state."""
    groups = meshes.batch_parts(mesh) * config.train.microbatches
    if config.data.global_batch % groups:
        raise UserError(
            f"data.global_batch={config.data.global_batch} is not divisible by {groups} "
            f"(batch shards × train.microbatches)"
        )
    of = parts(config, lock)
    draw = initialiser(config, lock, mesh)
    where = shardings(of.shapes, of.names, mesh)

    def init() -> tuple[State, Params]:
        return jax.jit(of.state_of, out_shardings=where, donate_argnums=0)(draw())

    targets = jax.tree.map(lambda s, w: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=w), of.shapes, where)
    rate = optim.schedule(config.optim, config.train.steps)
    step = make_step(of.graphdef, of.tx, rate, config, len(lock["tasks"]))
    return Setup(
        of.graphdef, of.names, of.trainable, of.saved, mesh,
        init,
        jax.jit(step, donate_argnums=0, out_shardings=(where[0], meshes.replicated(mesh))),
        targets,
    )  # fmt: skip


def initialiser(config: RunConfig, lock: dict, mesh: Mesh) -> Callable[[], Params]:
    """Draws the base's parameters from the seed, each device making its own part, or reads those of `model.pretrained`."""
    create, abstract = abstract_model(config, lock)
    if config.model.pretrained:
        targets = placed(abstract, mesh)
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
    """State and frozen parameters of a checkpoint, on this run's mesh. An adapter's base is made as at the start."""
    targets = {**made.targets[0]["params"], **made.targets[1]}
    params = checkpoints.params(step, {p: targets[p] for p in made.saved})
    if len(params) < len(targets):
        _, frozen = made.init()
        params = {**frozen, **params}
        check_base(checkpoints.meta(step), frozen, made.saved)
    return {
        "params": {p: params[p] for p in made.targets[0]["params"]},
        "opt_state": checkpoints.opt_state(step, made.targets[0]["opt_state"]),
        "step": counter(made, step),
    }, {p: params[p] for p in made.targets[1]}


def counter(made: Setup, step: int) -> jax.Array:
    """The state's count of steps."""
    return jax.device_put(np.int32(step), made.targets[0]["step"].sharding)


def check_fits(checkpoints: Checkpoints, step: int, made: Setup, lock: dict) -> dict:
    """The meta of a checkpoint; UserError where it is of other data, or of arrays of other names or shapes."""
    meta = checkpoints.meta(step)
    if "lock" not in meta:
        raise UserError(
            f"{checkpoints.directory / str(step)} does not say which data it was trained on (its meta has no lock), so "
            "it cannot be resumed; model.pretrained can begin from it"
        )
    locks.check_same(meta["lock"], lock, checkpoints.directory)
    targets = {**made.targets[0]["params"], **made.targets[1]}
    checkpoints.check(step, "params", {p: targets[p] for p in made.saved})
    checkpoints.check(step, "opt_state", checkpoint.named_leaves(made.targets[0]["opt_state"]))
    return meta


def resume(
    checkpoints: Checkpoints, made: Setup, lock: dict
) -> tuple[int, dict, tuple[State, Params] | None, list[str]]:
    """(step, meta, state and frozen parameters, lines to say) of the newest checkpoint that is what was saved; step 0
    and no state where there is none. A damaged one is set aside."""
    lines: list[str] = []
    while step := checkpoints.latest():
        try:
            meta = check_fits(checkpoints, step, made, lock)
            held = restore(checkpoints, step, made)
        except checkpoint.Damaged as e:
            lines.append(f"{e}; it is set aside as {checkpoints.set_aside(step).name}")
            continue
        if "digests" not in meta:
            lines.append(f"the checkpoint of step {step} holds no digests: it could not be verified")
        return step, meta, held, lines
    if lines:
        lines.append("no checkpoint is left: training begins anew at step 0")
    return 0, {}, None, lines


def check_base(meta: dict, base: Params, saved: list[str]) -> None:
    """UserError where an adapter was trained over other parameters than these."""
    if meta["base"] != adapters.fingerprint({p: v for p, v in base.items() if p not in set(saved)}):
        raise UserError(
            f"the adapter of step {meta['step']} was trained over another base: the frozen parameters are not "
            "those it was begun with"
        )


def sizes(state: State, frozen: Params) -> dict[str, int]:
    """{"trainable", "parameters", "optimizer_bytes", "trainable_bytes", "frozen_bytes"} of arrays or their shapes."""
    count, rest = (sum(x.size for x in jax.tree.leaves(t)) for t in (state["params"], frozen))
    held = {"optimizer": state["opt_state"], "trainable": state["params"], "frozen": frozen}
    of = {f"{k}_bytes": sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(t)) for k, t in held.items()}
    return {"trainable": count, "parameters": count + rest, **of}


def about_size(state: State, frozen: Params) -> str:
    """What trains and what its optimizer holds, in one line."""
    n = sizes(state, frozen)
    return (
        f"{n['trainable']:,} of {n['parameters']:,} parameters train ({n['trainable'] / n['parameters']:.2%}); "
        f"optimizer state {n['optimizer_bytes'] / 1e6:,.2f} MB, frozen parameters {n['frozen_bytes'] / 1e6:,.2f} MB"
    )


# ---------------------------------------------------------------- the loop


class Loop(NamedTuple):
    """What the steps of a run share, whichever step they begin at."""

    config: RunConfig
    lock: dict
    batches: Any  # `iterate(start, stop, rows)` yields numpy batches
    run: Any  # names the folder's files
    made: Setup
    about: dict | None  # what config.json holds
    entropy: float | None  # unigram entropy of the targets
    checkpoints: Checkpoints
    interrupts: Interrupts
    progress: Progress


def train(
    config: RunConfig, lock: dict, batches: Any, run: Any,
    made: Setup | None = None, about: dict | None = None, progress: Progress | None = None,
    entropy: float | None = None,
) -> State:  # fmt: skip
    """Train until `train.steps`, from the newest checkpoint of the run folder or from the start.

    `batches.iterate(start, stop, rows)` yields numpy batches; `run` names the folder's files; `about` is
    what its config.json holds, kept in every checkpoint beside the lock; `entropy` is the unigram entropy of the
    targets, at which a loss that stands still is said.
    """
    made = made or setup(config, lock, meshes.make_mesh(config.mesh))
    with ExitStack() as stack:
        checkpoints = stack.enter_context(Checkpoints(run.checkpoints, config.train.keep_checkpoints))
        stack.enter_context(jax.set_mesh(made.mesh))
        interrupts = stack.enter_context(Interrupts())
        progress = stack.enter_context(progress or Progress(checkpoints.latest() or 0, config.train.steps))
        loop = Loop(config, lock, batches, run, made, about, entropy, checkpoints, interrupts, progress)
        returned: dict = {}
        while True:
            try:
                return steps(loop, returned)
            except health.TooManySkipped as e:
                fault = e.with_traceback(None)  # whose frames hold the state
            returned = go_back(loop, fault)


def steps(loop: Loop, returned: dict) -> State:
    """Make the steps that are left. `returned` goes over the meta of the checkpoint to begin from (`go_back`)."""
    config, made, checkpoints, interrupts, progress = (
        loop.config, loop.made, loop.checkpoints, loop.interrupts, loop.progress
    )  # fmt: skip
    stop, every = config.train.steps, config.train.checkpoint_every
    here = checkpoint.environment(made.mesh)
    with ExitStack() as stack:
        begin, meta, held, lines = resume(checkpoints, made, loop.lock)
        board = loop.run.tensorboard if config.train.tensorboard else None
        log = stack.enter_context(MetricsLog(loop.run.metrics_jsonl, begin, board))
        watch = health.LossWatch(config, loop.entropy)
        health.events(watch, log.kept)  # what was said of them is not said again
        book = Book(config, loop.lock, {**meta, **returned}, watch)
        for line in lines:
            progress.say(line)
        if meta.get("metrics", log.digest) != log.digest:
            progress.say(
                f"{loop.run.metrics_jsonl} does not hold what was logged up to step {begin}: lines are missing or changed; "
                "training goes on as if they were there, and the report's curves are what is left"
            )
        if begin and not returned:
            progress.say(f"resumed at step {begin}")
            if changed := checkpoint.differences(meta.get("environment", {}), here):
                progress.say(changed)
        state, frozen = held or made.init()
        del held  # the first step takes the state's memory
        if interrupts.seen:  # it came while the state was made or restored, before anything new was computed
            progress.say(f"stopped at step {begin}; the same command goes on from there")
            raise SystemExit(interrupts.exit_code)
        if not returned:
            progress.say(about_size(state, frozen))
        base = {p: v for p, v in frozen.items() if p not in set(made.saved)}
        base = adapters.fingerprint(base) if base else None
        pending = None  # metrics of the step before: fetched while the next one runs
        for step, batch in enumerate(batches_from(loop, begin, stop), begin + 1):
            if step in book.skips.left_out:
                state, metrics = {**state, "step": counter(made, step)}, None
            else:
                state, metrics = made_step(loop, state, frozen, batch)
            book.add(pending, log, progress)
            pending = (step, metrics, cells(batch))
            if step % every == 0 or step == stop or interrupts.seen:
                book.add(pending, log, progress)
                pending = None
                log.sync()  # before the checkpoint commits: a line may be cut back, never missing
                if step % every == 0:  # A stop saves at any step: the last good one must not depend on it.
                    book.skips.saved(step)
                checkpoints.pinned = book.skips.pinned()
                meta = {
                    "step": step, "environment": here, "about": loop.about, "lock": loop.lock, "base": base,
                    "metrics": log.digest, **book.meta(),
                }  # fmt: skip
                everything = {**state["params"], **frozen}
                checkpoints.save(step, {p: everything[p] for p in made.saved}, state["opt_state"], meta)
            if interrupts.seen:  # after the last step too: evaluation is not begun
                checkpoints.wait()
                progress.say(f"stopped after step {step}; the same command goes on from there")
                raise SystemExit(interrupts.exit_code)
        book.skips.check_end()
    return state


def batches_from(loop: Loop, begin: int, stop: int) -> Iterator[dict[str, np.ndarray]]:
    """This process's rows of the batches that follow `begin` steps, up to step `stop`."""
    return loop.batches.iterate(begin, stop, meshes.local_rows(loop.made.mesh, loop.config.data.global_batch))


def made_step(loop: Loop, state: State, frozen: Params, batch: dict) -> tuple[State, Metrics]:
    """One step with a batch from the host; takes the memory of `state`."""
    prompted = adapters.prompted_encoder(loop.config.model, loop.config.peft)
    placed = meshes.put(adapters.with_prompts(batch) if prompted else batch, loop.made.mesh)
    with jax.transfer_guard("disallow"):
        return loop.made.step(state, frozen, placed)


def go_back(loop: Loop, fault: health.TooManySkipped) -> dict:
    """Return to the last good checkpoint; what goes over its meta: the steps that are left out from now on.

    To leave out what was skipped anyway would give the same parameters once more. So the last batch without a finite
    loss is tried with the good parameters: if it fails with them too, the batches are at fault and those that failed
    are left out. If not, an earlier step has spoiled the parameters, and the steps before the first failure are, too.
    """
    config = loop.config.train
    removed = loop.checkpoints.remove_after(fault.skips.good)
    begin, _, held, lines = resume(loop.checkpoints, loop.made, loop.lock)
    state, frozen = held or loop.made.init()
    del held
    _, metrics = made_step(loop, state, frozen, next(batches_from(loop, fault.step - 1, fault.step)))
    left_out = [s for s in fault.skips.skipped if s > begin]
    if jax.device_get(metrics["skipped"]):
        reason = "the last of them fails with its parameters too, so the batches are at fault: they are left out"
    else:
        # As many steps before the first failure as make a checkpoint good: which of them spoiled it is not known.
        left_out = list(range(max(begin + 1, left_out[0] - config.max_skipped_in_a_row), fault.step + 1))
        reason = "the last of them is finite with its parameters, so a step before spoiled them: they are left out"
    where = f"step {begin}, the last good checkpoint" if begin else "the beginning, for no checkpoint is known as good"
    lines.append(f"{fault}: training returns to {where}; {reason} ({health.batches(left_out)})")
    if removed:
        lines.append(f"removed the checkpoints that came after it: {', '.join(map(str, sorted(removed)))}")
    for line in lines:
        loop.progress.say(line)
    return {"returns": [{"to": begin, "at": fault.step, "left_out": left_out}], "good": begin, "candidate": 0}


def cells(batch: dict[str, np.ndarray]) -> int:
    """Token places of a batch on this process, padding included."""
    return sum(v.size for k, v in batch.items() if k.endswith("segment_ids"))


# ---------------------------------------------------------------- after training


def load_model(run: Any, config: RunConfig, lock: dict, step: int | None = None, mesh: Mesh | None = None):
    """A Runner (itx/eval/generate.py) with the parameters of a checkpoint: the newest, or `step`.

    Step 0 is the model before tuning, made anew from the seed: the base without an adapter.
    mesh: default: the config's devices as generation wants them.
    """
    from itx.eval.generate import Runner

    mesh = mesh or meshes.for_generation(meshes.make_mesh(config.mesh), config.model.num_heads)
    _, abstract = abstract_model(config, lock)
    base = parameters(abstract)
    if step is None:
        step = newest_checkpoint(run.checkpoints)
    params = initialiser(config, lock, mesh)() if step == 0 or config.peft.method != "full" else {}
    if step:
        abstract = adapted(config, abstract)
        targets = {p: t for p, t in placed(abstract, mesh).items() if config.peft.method == "full" or p not in base}
        with Checkpoints(run.checkpoints, read_only=True) as checkpoints:
            if params:
                check_base(checkpoints.meta(step), params, [])
            params = {**params, **checkpoints.params(step, targets)}
    return Runner(
        graphdef=nnx.graphdef(abstract), params=params, mesh=mesh, model=config.model,
        peft=config.peft if step else PeftConfig(),
        bos_id=lock["bos_id"], eos_id=lock["eos_id"], pad_id=lock["pad_id"],
        batch_size=config.eval.batch_size, step=step, more_ends=hf.ends(run.pretrained),
    )  # fmt: skip


def with_adapter(runner: Any, folder: str) -> Any:
    """The Runner of an adapter in PEFT's layout over a base, whose arrays both share."""
    adapter = adapters.read(folder, runner.model, len(runner.params["embedding"]))
    if adapter.base and adapter.base != adapters.fingerprint(runner.params):
        raise UserError(f"{folder} was trained over another base: the parameters differ, though their shapes do not")
    base = nnx.eval_shape(lambda params: merge(runner.graphdef, params), runner.params)
    model = shapes_of(lambda base: adapters.add(base, adapter.peft, 0), base)
    targets = placed(model, runner.mesh)
    params = {p: jax.device_put(v, targets[p].sharding) for p, v in adapter.params.items()}
    return dataclasses.replace(
        runner, graphdef=nnx.graphdef(model), params={**runner.params, **params}, peft=adapter.peft
    )


def merged(runner: Any) -> Params:
    """The parameters of a LoRA's Runner as those of a plain model."""
    if runner.peft.method in ("prefix", "prompt"):
        raise UserError(f"a {runner.peft.method} cannot be merged into weights; export it as an adapter")
    model = adapters.cast(merge(runner.graphdef, runner.params), "float32")  # bfloat16 would round the adapter away
    adapters.merge(model)
    return parameters(model)
