# SPDX-License-Identifier: Apache-2.0
"""Training: the state and the loop. Read `steps` first: it is the loop. What a step computes, and
what the state holds, is in step.py.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import NamedTuple, NoReturn

import jax
import numpy as np
from jax.sharding import Mesh

from itx import checkpoint, health, hosts, restore, writers
from itx import config as configs
from itx import mesh as meshes
from itx import peft as adapters
from itx.checkpoint import Checkpoints
from itx.config import RunConfig
from itx.data.loader import Batch, Batches
from itx.data.types import Lock
from itx.errors import UserError
from itx.eval import dev
from itx.goodput import Clock
from itx.keeper import Keeper
from itx.log import Book, MetricsLog, Progress
from itx.params import Params
from itx.processes import Interrupts
from itx.restore import Metrics, ModelPlan, Setup, State, Step
from itx.runs import RunFolder
from itx.step import make_step
from itx.tracing import Trace

# ---------------------------------------------------------------- the state


def make_setup(config: RunConfig, vocab_size: int, num_tasks: int, mesh: Mesh) -> Setup:
    """Everything a run needs but its state."""
    check_divisible(config, mesh)
    plan = restore.plan_model(config, vocab_size)
    draw = restore.initialiser(config, vocab_size, mesh)
    shardings = restore.shardings(plan, mesh)
    shardings_by_path = {**shardings[0]["params"], **shardings[1]}

    def init():
        base = draw()
        given = restore.given_adapter(config, base)
        given = {p: jax.device_put(v, shardings_by_path[p]) for p, v in given.items()}
        return jax.jit(plan.state_of, out_shardings=shardings, donate_argnums=0)(base, given)

    peak = jax.device_put(np.float32(config.optim.learning_rate), meshes.replicated(mesh))
    compiled = jitted_step(config, plan, num_tasks, mesh)
    plain = compiled  # the same traces serve to count, where nothing else would be counted
    if config.model.remat != "none" or mesh.devices.flat[0].platform != "cpu":
        counted = configs.changed(config, "model", remat="none", attention="xla")
        plain = jitted_step(counted, restore.plan_model(counted, vocab_size), num_tasks, mesh)
    step = Step(compiled, plain, peak)
    return Setup(plan, mesh, init, step, restore.state_specs(plan, mesh))


def check_divisible(config: RunConfig, mesh: Mesh) -> None:
    """UserError where a batch cannot be split over the mesh and into microbatches."""
    groups = meshes.batch_parts(mesh) * config.train.microbatches
    if config.data.global_batch % groups:
        raise UserError(
            f"data.global_batch={config.data.global_batch} is not divisible by {groups} "
            f"(batch shards × train.microbatches)"
        )


def jitted_step(config: RunConfig, plan: ModelPlan, num_tasks: int, mesh: Mesh) -> Callable:
    """`make_step`'s as a function of jax.jit, which takes the memory of the state. It is the only
    one: `itx plan` compiles the same for devices that are not here."""
    step = make_step(plan, config, num_tasks)
    outputs = (restore.shardings(plan, mesh)[0], meshes.replicated(mesh))
    return jax.jit(step, donate_argnums=0, out_shardings=outputs)


def sizes(state: State, frozen: Params) -> dict[str, int]:
    """{"trainable", "parameters", "optimizer_bytes", "trainable_bytes", "frozen_bytes"} of arrays
    or their shapes."""
    trees = {
        "optimizer": restore.besides_params(state),
        "trainable": state["params"],
        "frozen": frozen,
    }
    leaves = {name: jax.tree.leaves(tree) for name, tree in trees.items()}
    count = {name: sum(x.size for x in leaves[name]) for name in ("trainable", "frozen")}
    return {"trainable": count["trainable"], "parameters": sum(count.values())} | {
        f"{name}_bytes": sum(x.size * x.dtype.itemsize for x in xs) for name, xs in leaves.items()
    }


def about_size(state: State, frozen: Params) -> str:
    """What trains and what its optimizer holds, in one line."""
    n = sizes(state, frozen)
    share = n["trainable"] / n["parameters"]
    return (
        f"{n['trainable']:,} of {n['parameters']:,} parameters train ({share:.2%}); "
        f"optimizer state {n['optimizer_bytes'] / 1e6:,.2f} MB, "
        f"frozen parameters {n['frozen_bytes'] / 1e6:,.2f} MB"
    )


def about_average(ema: float) -> str:
    """What train.ema means for whoever reads the run, in one line."""
    return (
        f"train.ema={ema}: scored, saved as the model and exported is the average of the "
        "parameters; training goes on with the parameters themselves, which checkpoints also hold"
    )


# ---------------------------------------------------------------- the loop


class Loop(NamedTuple):
    """What the steps of a run share, whichever step they begin at."""

    config: RunConfig
    lock: Lock
    batches: Batches
    run: RunFolder
    setup: Setup
    about: dict | None  # what config.json holds
    entropy: float | None  # unigram entropy of the trained tokens, in nats
    environment: dict  # mesh, devices and versions of this process
    checkpoints: Checkpoints
    interrupts: Interrupts
    progress: Progress
    rows: np.ndarray | None  # of a batch, that this process's devices hold; None: all
    clock: Clock
    keeper: Keeper
    trace: Trace
    flops: dict[tuple, float]  # of a step, by its batch's shapes, which this process has compiled


def train(
    config: RunConfig,
    lock: Lock,
    batches: Batches,
    run: RunFolder,
    setup: Setup,
    about: dict | None = None,
    progress: Progress | None = None,
    entropy: float | None = None,
    clock: Clock | None = None,
    keeper: Keeper | None = None,
) -> State:
    """Train until `train.steps`, from the newest checkpoint of the run folder or from the start.

    Args:
        about: what config.json holds, kept in every checkpoint beside the lock.
        entropy: unigram entropy of the trained tokens; a loss that stands still there is reported.
        clock: told what time is spent on; None: nobody asks.
        keeper: of a run in a store; None: the folder is all there is.
    """
    clock, keeper = clock or Clock(), keeper or Keeper("", run.path)
    with ExitStack() as stack:
        with clock.span("init"):
            checkpoints = stack.enter_context(
                Checkpoints(run.checkpoints, config.train.keep_checkpoints, is_own=keeper.is_remote)
            )
            stack.enter_context(jax.set_mesh(setup.mesh))
            interrupts = stack.enter_context(Interrupts())
            progress = progress or Progress(checkpoints.latest() or 0, config.train.steps)
            stack.enter_context(progress)
            environment = checkpoint.environment(setup.mesh)
            rows = meshes.local_rows(setup.mesh, config.data.global_batch)
        told = (config, lock, batches, run, setup, about, entropy, environment)
        trace = stack.enter_context(Trace(config.train.profile, run.profile, progress.say))
        loop = Loop(*told, checkpoints, interrupts, progress, rows, clock, keeper, trace, {})
        changes: dict = {}
        while True:
            try:
                return steps(loop, changes)
            except health.TooManySkipped as e:
                fault = e.with_traceback(None)  # whose frames hold the state
            clock.line()  # the steps since the last line, which are lost to the return too
            with clock.span("restore"):
                changes = go_back(loop, fault)


def steps(loop: Loop, changes: dict) -> State:
    """Make the steps that are left. `changes`, from `go_back`, replace parts of the meta of the
    checkpoint to begin from.

    The order of operations matters:
    1. Restore, then open the log: it is cut back to the restored step.
    2. Show the watch the lines that the log still has, so that no event is reported twice.
    3. Look for a signal once the state is there: nothing new has been computed yet. Of several
       processes each looks equally often (itx/hosts.py, `stop`).
    4. In the loop, start a step before the metrics of those before are read, which is once for
       each line of the log: the device never waits for the host.
    5. Read all steps' metrics before a checkpoint: the meta holds their sums.
    6. Save before dev is scored (eval.every): a signal may then end the process at once.
    7. Save before a signal ends the run, and look for one after the last step too, so that
       evaluation is not begun.
    """
    config, setup, clock = loop.config.train, loop.setup, loop.clock
    with ExitStack() as stack:
        with clock.span("restore"):
            begin, meta, arrays, lines = restore.resume(loop.checkpoints, setup, loop.lock)
        clock.line(restored=begin)
        with clock.span("init"):
            places = (loop.run.path, loop.run.tensorboard)
            copies = writers.opened(loop.config, loop.lock, *places, begin, loop.progress.say)
            log = stack.enter_context(MetricsLog(loop.run.metrics_jsonl, begin, copies))
            watch = health.LossWatch(loop.config, loop.entropy)
            health.events(watch, log.kept)
            book = Book(loop.config, loop.lock, {**meta, **changes}, watch, clock)
            looks = dev.Dev(loop.run, loop.lock, loop.config, begin)
            report_begin(loop, begin, meta, lines, log, again=bool(changes))
            state, frozen = arrays or setup.init()
            del arrays  # the first step takes the state's memory
            if told_to_stop(loop):
                stop(loop, f"at step {begin}")
            if not changes:
                loop.progress.say(about_size(state, frozen))
                if config.ema:
                    loop.progress.say(about_average(config.ema))
            base = restore.base_fingerprint(frozen, setup.plan.saved)
            batches = clock.waits(batches_from(loop, begin, config.steps))
        if looks.due(begin):  # a kill came between its checkpoint and its score
            score_dev(loop, looks, begin, state, frozen, copies)
        pending = None  # (step, metrics, token places) of the step before
        for step, batch in enumerate(batches, begin + 1):
            if step in book.skips.left_out:
                state, metrics = {**state, "step": restore.counter(setup, step)}, None
            else:
                state, metrics = timed_step(loop, step, state, frozen, batch)
            book.add(pending, log, loop.progress)
            pending = (step, metrics, cells(batch, loop.config.data.global_batch))
            is_look = looks.due(step)
            periodic = step % config.checkpoint_every == 0 or step == config.steps
            if (stops := told_to_stop(loop)) or is_look or periodic:
                book.add(pending, log, loop.progress)
                book.read(log, loop.progress)
                pending = None
                clock.line(saved=step)
                with clock.span("save"):
                    save(loop, step, state, frozen, base, book, log, looks.pinned())
                stops = stops or told_to_stop(loop)  # a signal came meanwhile
            if stops:
                stop(loop, f"after step {step}")
            if is_look:
                book.pause(score_dev(loop, looks, step, state, frozen, copies))
        book.skips.check_end()
        with clock.span("save"):
            keep(loop)
    return state


def keep(loop: Loop) -> None:
    """Wait until what was saved is on the disk, and in the store."""
    loop.checkpoints.wait()
    loop.keeper.settle()


def stop(loop: Loop, when: str) -> NoReturn:
    """Leave at a signal; what was saved is on the disk, and in the store."""
    with loop.clock.span("save"):
        keep(loop)
    loop.progress.say(f"stopped {when}; the same command goes on from there")
    raise SystemExit(loop.interrupts.exit_code)


def told_to_stop(loop: Loop) -> bool:
    """Whether a signal came to this process; of several processes: whether one came to any, which
    all hear at the same call."""
    signal = hosts.stop(loop.interrupts.seen)
    if signal:
        loop.interrupts.seen = signal
    return bool(signal)


def report_begin(
    loop: Loop, begin: int, meta: dict, lines: list[str], log: MetricsLog, again: bool
) -> None:
    """Say where training begins and what differs from when that checkpoint was saved; `again`:
    after a return, which has been reported."""
    say = loop.progress.say
    for line in lines:
        say(line)
    if hosts.is_writer() and meta.get("metrics", log.digest) != log.digest:
        say(
            f"{loop.run.metrics_jsonl} does not hold what was logged up to step {begin}: lines are "
            "missing or changed; training goes on as if they were there, and the report's curves "
            "are what is left"
        )
    if begin and not again:
        say(f"resumed at step {begin}")
        if changed := checkpoint.differences(meta.get("environment", {}), loop.environment):
            say(changed)


def save(
    loop: Loop,
    step: int,
    state: State,
    frozen: Params,
    base: str | None,
    book: Book,
    log: MetricsLog,
    best: set[int],
) -> None:
    """Save a checkpoint; those of the steps `best` are kept as well.

    The log's lines reach the disk first: the next start can cut lines back, but not bring them
    back.
    """
    log.sync()
    # A signal saves at any step; only steps that every run of this config saves can become good.
    if step % loop.config.train.checkpoint_every == 0:
        book.skips.saved(step)
    loop.checkpoints.pinned = book.skips.pinned() | best
    meta = {
        "step": step,
        "environment": loop.environment,
        "about": loop.about,
        "lock": loop.lock,
        "base": base,
        "metrics": log.digest,
        **book.meta(),
    }
    params = loop.setup.plan.saved_of(state, frozen)
    loop.keeper.wait()  # at most one checkpoint is not in the store yet
    loop.checkpoints.save(step, params, restore.of_training(state), meta)
    loop.keeper.note(loop.checkpoints.is_saving)


def score_dev(
    loop: Loop,
    looks: dev.Dev,
    step: int,
    state: State,
    frozen: Params,
    copies: Sequence[writers.Writer],
) -> float:
    """Score the trained tasks on dev with the parameters as they are, once the step is saved; how
    many seconds that took."""
    params = {**frozen, **restore.evaluated(state)}
    with loop.clock.span("save"):
        loop.checkpoints.wait()
    with loop.clock.span("evaluation"), loop.interrupts.ending():
        looks.score(
            lambda: restore.training_model(loop.run, loop.config, loop.lock, step, params),
            step,
            copies,
            loop.progress.say,
        )
    return looks.looks[-1]["seconds"]


def batches_from(loop: Loop, begin: int, stop: int) -> Iterator[Batch]:
    """This process's rows of the batches that follow `begin` steps, up to step `stop`."""
    return loop.batches.iterate(begin, stop, loop.rows)


def timed_step(
    loop: Loop, step: int, state: State, frozen: Params, batch: Batch
) -> tuple[State, Metrics]:
    """`take_step`, and what it is to the clock and to the profiler. The first batch of a shape is
    compiled for."""
    shapes = tuple((name, part.shape) for name, part in sorted(batch.items()))
    with loop.clock.span("log"):
        loop.trace.before(step)
    with loop.clock.span("step" if shapes in loop.flops else "compile"):
        if shapes not in loop.flops:
            loop.flops[shapes] = loop.setup.step.flops(state, frozen, placed(loop, batch))
        made = take_step(loop, state, frozen, batch)
    loop.clock.made(step, loop.flops[shapes])
    with loop.clock.span("log"):
        loop.trace.after(step, made[1])
    return made


def take_step(loop: Loop, state: State, frozen: Params, batch: Batch) -> tuple[State, Metrics]:
    """One step with a batch from the host; takes the memory of `state`."""
    on_devices = placed(loop, batch)
    with jax.transfer_guard("disallow"):
        return loop.setup.step(state, frozen, on_devices)


def placed(loop: Loop, batch: Batch) -> dict[str, jax.Array]:
    """A batch from the host on the mesh."""
    if adapters.prompted_encoder(loop.config.model, loop.config.peft):
        batch = adapters.with_prompts(batch)
    return meshes.put(batch, loop.setup.mesh, loop.rows, loop.config.data.global_batch)


def go_back(loop: Loop, fault: health.TooManySkipped) -> dict:
    """Return to the last good checkpoint; what replaces parts of its meta: the steps that are left
    out from now on.

    To leave out only the steps that were skipped would give the same parameters once more. So the
    last batch without a finite loss is tried with the good parameters. If it fails with them too,
    the batches are at fault, and those that failed are left out. If not, an earlier step has
    spoiled the parameters, and the steps before the first failure are left out too.
    """
    loop.keeper.wait()
    removed = loop.checkpoints.remove_after(fault.skips.good)
    loop.keeper.refresh()
    loop.checkpoints.reload()
    begin, _, arrays, lines = restore.resume(loop.checkpoints, loop.setup, loop.lock)
    state, frozen = arrays or loop.setup.init()
    del arrays
    batch = next(batches_from(loop, fault.step - 1, fault.step))
    _, metrics = take_step(loop, state, frozen, batch)
    left_out = [s for s in fault.skips.skipped if s > begin]
    if jax.device_get(metrics["skipped"]):
        reason = "fails with its parameters too, so the batches are at fault"
    else:
        # Which step spoiled the parameters is not known: as many steps are left out before the
        # first failure as make a checkpoint good.
        first = max(begin + 1, left_out[0] - loop.config.train.max_skipped_in_a_row)
        left_out = list(range(first, fault.step + 1))
        reason = "is finite with its parameters, so a step before spoiled them"
    target = f"step {begin}, the last good checkpoint"
    if not begin:
        target = "the beginning, for no checkpoint is known as good"
    lines.append(
        f"{fault}: training returns to {target}; the last of them {reason}: they are left out "
        f"({health.batches(left_out)})"
    )
    if removed:
        steps_removed = ", ".join(map(str, sorted(removed)))
        lines.append(f"removed the checkpoints that came after it: {steps_removed}")
    for line in lines:
        loop.progress.say(line)
    returned = {"to": begin, "at": fault.step, "left_out": left_out}
    return {"returns": [returned], "good": begin, "candidate": 0}


def cells(batch: Batch, global_batch: int) -> int:
    """Token places of a whole batch, of which this process has some rows, padding included."""
    widths = [v.shape[1] for k, v in batch.items() if k.endswith("segment_ids")]
    return global_batch * sum(widths)
