# SPDX-License-Identifier: Apache-2.0
"""Training: the state, the step, the loop. Read `train` first; it is the whole run, top to bottom.

The state is a dict {"params": {path: array}, "opt_state": …, "step": int32}. Parameters that do not
train (frozen by name, or the base under an adapter) stand apart in `frozen` {path: array}:
gradients are taken of the others alone, and so is the optimizer's state. `make_step` gives (state,
frozen, batch) -> (state, metrics); loss = sum(nll * w) / sum(w) over the global batch, divided
once.
"""

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
from itx.config import RunConfig
from itx.errors import UserError
from itx.log import Book, MetricsLog, Progress
from itx.params import Params, merge
from itx.processes import Interrupts
from itx.restore import Metrics, Setup, State, counter, initialiser, parts, resume, shardings
from itx.runs import RunFolder

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
        sums = loss.batch_sums(model, batch, rows, trains=trains, **settings)
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


def setup(config: RunConfig, vocab_size: int, num_tasks: int, mesh: Mesh) -> Setup:
    """Everything a run needs but its state."""
    groups = meshes.batch_parts(mesh) * config.train.microbatches
    if config.data.global_batch % groups:
        raise UserError(
            f"data.global_batch={config.data.global_batch} is not divisible by {groups} "
            f"(batch shards × train.microbatches)"
        )
    of = parts(config, vocab_size)
    draw = initialiser(config, vocab_size, mesh)
    where = shardings(of.shapes, of.names, mesh)

    def init() -> tuple[State, Params]:
        return jax.jit(of.state_of, out_shardings=where, donate_argnums=0)(draw())

    specs = jax.tree.map(
        lambda s, w: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=w), of.shapes, where
    )
    rate = optim.schedule(config.optim, config.train.steps)
    step = make_step(of.graphdef, of.tx, rate, config, num_tasks)
    return Setup(
        of.graphdef, of.names, of.trainable, of.saved, mesh,
        init,
        jax.jit(step, donate_argnums=0, out_shardings=(where[0], meshes.replicated(mesh))),
        specs,
    )  # fmt: skip


def sizes(state: State, frozen: Params) -> dict[str, int]:
    """{"trainable", "parameters", "optimizer_bytes", "trainable_bytes", "frozen_bytes"} of arrays
    or their shapes."""
    count, rest = (sum(x.size for x in jax.tree.leaves(t)) for t in (state["params"], frozen))
    held = {"optimizer": state["opt_state"], "trainable": state["params"], "frozen": frozen}
    of = {
        f"{k}_bytes": sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(t))
        for k, t in held.items()
    }
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
    run: RunFolder
    made: Setup
    about: dict | None  # what config.json holds
    entropy: float | None  # unigram entropy of the targets
    checkpoints: Checkpoints
    interrupts: Interrupts
    progress: Progress


def train(
    config: RunConfig, lock: dict, batches: Any, run: RunFolder,
    made: Setup, about: dict | None = None, progress: Progress | None = None,
    entropy: float | None = None,
) -> State:  # fmt: skip
    """Train until `train.steps`, from the newest checkpoint of the run folder or from the start.

    `batches.iterate(start, stop, rows)` yields numpy batches; `run` names the folder's files;
    `about` is what its config.json holds, kept in every checkpoint beside the lock; `entropy` is
    the unigram entropy of the targets, at which a loss that stands still is said.
    """
    with ExitStack() as stack:
        checkpoints = stack.enter_context(
            Checkpoints(run.checkpoints, config.train.keep_checkpoints)
        )
        stack.enter_context(jax.set_mesh(made.mesh))
        interrupts = stack.enter_context(Interrupts())
        progress = stack.enter_context(
            progress or Progress(checkpoints.latest() or 0, config.train.steps)
        )
        loop = Loop(
            config, lock, batches, run, made, about, entropy, checkpoints, interrupts, progress
        )
        returned: dict = {}
        while True:
            try:
                return steps(loop, returned)
            except health.TooManySkipped as e:
                fault = e.with_traceback(None)  # whose frames hold the state
            returned = go_back(loop, fault)


def steps(loop: Loop, returned: dict) -> State:
    """Make the steps that are left. `returned` goes over the meta of the checkpoint to begin from
    (`go_back`)."""
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
        # it came while the state was made or restored, before anything new was computed
        if interrupts.seen:
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
                # A stop saves at any step: the last good one must not depend on it.
                if step % every == 0:
                    book.skips.saved(step)
                checkpoints.pinned = book.skips.pinned()
                meta = {
                    "step": step, "environment": here, "about": loop.about, "lock": loop.lock, "base": base,
                    "metrics": log.digest, **book.meta(),
                }  # fmt: skip
                everything = {**state["params"], **frozen}
                checkpoints.save(
                    step, {p: everything[p] for p in made.saved}, state["opt_state"], meta
                )
            if interrupts.seen:  # after the last step too: evaluation is not begun
                checkpoints.wait()
                progress.say(f"stopped after step {step}; the same command goes on from there")
                raise SystemExit(interrupts.exit_code)
        book.skips.check_end()
    return state


def batches_from(loop: Loop, begin: int, stop: int) -> Iterator[dict[str, np.ndarray]]:
    """This process's rows of the batches that follow `begin` steps, up to step `stop`."""
    return loop.batches.iterate(
        begin, stop, meshes.local_rows(loop.made.mesh, loop.config.data.global_batch)
    )


def made_step(loop: Loop, state: State, frozen: Params, batch: dict) -> tuple[State, Metrics]:
    """One step with a batch from the host; takes the memory of `state`."""
    prompted = adapters.prompted_encoder(loop.config.model, loop.config.peft)
    placed = meshes.put(adapters.with_prompts(batch) if prompted else batch, loop.made.mesh)
    with jax.transfer_guard("disallow"):
        return loop.made.step(state, frozen, placed)


def go_back(loop: Loop, fault: health.TooManySkipped) -> dict:
    """Return to the last good checkpoint; what goes over its meta: the steps that are left out from
    now on.

    To leave out what was skipped anyway would give the same parameters once more. So the last batch
    without a finite loss is tried with the good parameters: if it fails with them too, the batches
    are at fault and those that failed are left out. If not, an earlier step has spoiled the
    parameters, and the steps before the first failure are, too.
    """
    config = loop.config.train
    removed = loop.checkpoints.remove_after(fault.skips.good)
    begin, _, held, lines = resume(loop.checkpoints, loop.made, loop.lock)
    state, frozen = held or loop.made.init()
    del held
    _, metrics = made_step(
        loop, state, frozen, next(batches_from(loop, fault.step - 1, fault.step))
    )
    left_out = [s for s in fault.skips.skipped if s > begin]
    if jax.device_get(metrics["skipped"]):
        reason = "the last of them fails with its parameters too, so the batches are at fault: they are left out"
    else:
        # As many steps before the first failure as make a checkpoint good: which of them spoiled it
        # is not known.
        left_out = list(
            range(max(begin + 1, left_out[0] - config.max_skipped_in_a_row), fault.step + 1)
        )
        reason = "the last of them is finite with its parameters, so a step before spoiled them: they are left out"
    where = (
        f"step {begin}, the last good checkpoint"
        if begin
        else "the beginning, for no checkpoint is known as good"
    )
    lines.append(f"{fault}: training returns to {where}; {reason} ({health.batches(left_out)})")
    if removed:
        lines.append(
            f"removed the checkpoints that came after it: {', '.join(map(str, sorted(removed)))}"
        )
    for line in lines:
        loop.progress.say(line)
    return {
        "returns": [{"to": begin, "at": fault.step, "left_out": left_out}],
        "good": begin,
        "candidate": 0,
    }


def cells(batch: dict[str, np.ndarray]) -> int:
    """Token places of a batch on this process, padding included."""
    return sum(v.size for k, v in batch.items() if k.endswith("segment_ids"))
