# SPDX-License-Identifier: Apache-2.0
"""The equalities that a run rests on, as functions: `itx doctor` asks them of a person's own
config, the tests of small models. Each says what it compared, the largest difference and what is
allowed.

    1  a batch is a function of the lock and its step    4  an adapter begins as its base
    2  a run that was stopped goes on bit for bit        5  what is exported is read as it was
    3  packing, microbatches, meshes and processes       6  no example of a row sees another
       change nothing

A check that could see nothing (rows with one example, a model without an adapter) says so and is
not passed. Where two sides must differ for a check to mean anything, it looks whether they do.
"""

import contextlib
import dataclasses
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from itx import compared, peft, peft_files, restore, train, two_processes
from itx.compared import Finding, untested
from itx.config import MeshConfig, ModelConfig
from itx.data.loader import Batch
from itx.errors import RunFailed, UserError
from itx.models import families, hf
from itx.models.transformer import Transformer
from itx.params import model_specs, module_of, parameters, shapes_of
from itx.runs import RunFolder
from itx.shrunk import STEPS, Folded, Shrunk

# ---- the checks


def batches(run: Shrunk, folder: Path) -> list[Finding]:
    """A batch asked in another order, of fresh readers, and in the parts of two and four hosts."""
    first, fresh, steps = run.batches(), run.batches(), (0, 1, 3)
    wanted = {t: first.batch(t) for t in steps}
    if all(np.array_equal(wanted[0][k], wanted[1][k]) for k in wanted[0]):
        return [Finding(1, "batches", math.inf, 0.0, "the batches of steps 0 and 1 are the same")]
    again = {t: fresh.batch(t) for t in reversed(steps)}
    order = compared.farthest((f"step {t}", _apart(wanted[t], again[t])) for t in steps)
    size, pairs = len(wanted[3]["task_ids"]), []
    for hosts in (2, 4):
        share = size // hosts
        parts = [fresh.batch(3, range(h * share, (h + 1) * share)) for h in range(hosts)]
        whole = {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}
        pairs.append((f"{hosts} hosts", _apart(wanted[3], whole)))
    split = compared.farthest(iter(pairs))
    return [
        Finding(1, "a batch whatever was read before", *order[:1], 0.0, order[1]),
        Finding(1, "the hosts' parts of a batch are the batch", *split[:1], 0.0, split[1]),
    ]


def _apart(a: Batch, b: Batch) -> float:
    """By how much two batches differ, in ids."""
    if a.keys() != b.keys() or any(a[k].shape != b[k].shape for k in a):
        return math.inf
    return max(float(np.abs(a[k].astype(float) - b[k]).max()) for k in a)


def packing(run: Shrunk, folder: Path) -> list[Finding]:
    """Loss and gradient of packed rows, and of the same examples in rows of their own."""
    name, batch = "packed = unpacked", run.batches().batch(0)
    if compared.most_segments(batch) < 2:
        return [untested(3, name, "no row of the first batch holds two examples")]
    config, alone = compared.without_dropout(run.config), compared.MESHES["1×1"]
    packed = compared.one_step(config, run.sizes, batch, alone)
    return compared.steps(
        name, compared.one_step(config, run.sizes, compared.unpacked(batch), alone), packed
    )


def isolation(run: Shrunk, folder: Path) -> list[Finding]:
    """Other tokens in the other examples of a row change no logit of an example."""
    name, batch = "an example whatever stands beside it", asked_everywhere(run)
    if compared.most_segments(batch) < 2:
        return [untested(6, name, "no row of the first batch holds two examples")]
    mesh = compared.on_first_devices(compared.MESHES["1×1"])
    setup = train.make_setup(compared.without_dropout(run.config), *run.sizes, mesh)
    state, frozen = setup.init()
    params = {**frozen, **compared.moved(state["params"])}
    before = compared.logits(setup.plan.graphdef, params, batch)
    pairs, controls = [], []
    for kept in (1, 2):  # what stands in front of it may not be seen either, nor what is behind
        other = dict(batch)
        for side in ("decoder", "encoder"):
            if f"{side}_segment_ids" in batch:
                away = (batch[f"{side}_segment_ids"] != kept) & (batch[f"{side}_segment_ids"] > 0)
                for key in (f"{side}_input_tokens", f"{side}_target_tokens"):
                    if key in batch:
                        other[key] = np.where(away, (batch[key] + 1) % run.ids, batch[key])
        after = compared.logits(setup.plan.graphdef, params, other)
        mine = batch["decoder_segment_ids"] == kept
        others = (batch["decoder_segment_ids"] > 0) & ~mine
        pairs.append((f"example {kept} of a row", compared.relative(before[mine], after[mine])))
        controls.append(compared.differ(before[others], after[others]))
    worst, where = compared.farthest(iter(pairs))
    if not all(controls):
        worst, where = math.inf, "the changed tokens changed no logit of their own to a number"
    return [Finding(6, name, worst, compared.MAX_LOGITS, where)]


def microbatches(run: Shrunk, folder: Path) -> list[Finding]:
    """A step in one go, and in four parts."""
    batch, alone = run.batches().batch(0), compared.MESHES["1×1"]
    whole = compared.one_step(run.config, run.sizes, batch, alone)
    cut = dataclasses.replace(
        run.config, train=dataclasses.replace(run.config.train, microbatches=4)
    )
    return compared.steps(
        "1 = 4 microbatches", whole, compared.one_step(cut, run.sizes, batch, alone)
    )


def all_meshes(run: Shrunk, folder: Path) -> list[Finding]:
    """A step on one device, and on each way to lay out eight."""
    names, batch = list(compared.MESHES), run.batches().batch(0)
    if len(jax.devices()) < 8:
        raise UserError(f"meshes need 8 devices, and there are {len(jax.devices())}")
    one = compared.one_step(run.config, run.sizes, batch, compared.MESHES[names[0]])
    found = []
    for name in names[1:]:
        other = compared.one_step(run.config, run.sizes, batch, compared.MESHES[name])
        found += compared.steps(f"{names[0]} = {name}", one, other)
    return found


class Silent:
    """Progress of a training run that nobody looks at."""

    def __enter__(self) -> "Silent":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def say(self, text: str) -> None:
        pass

    def update(self, *seen: Any) -> None:
        pass


class Stopped(Exception):
    """Planted between two steps."""


class StopsAt:
    """Batches that end in an error behind so many steps, as a crash does."""

    def __init__(self, batches: Folded, steps: int):
        self.batches, self.steps = batches, steps

    def iterate(self, start: int, stop: int, rows: Sequence[int] | None = None) -> Iterator[Batch]:
        yield from self.batches.iterate(start, min(stop, self.steps), rows)
        raise Stopped


def trained(run: Shrunk, folder: Path, batches: Any, mesh: MeshConfig) -> restore.State:
    """The state behind the run's steps, from the newest checkpoint of the folder."""
    config = dataclasses.replace(run.config, mesh=mesh)
    setup = train.make_setup(config, *run.sizes, compared.on_first_devices(mesh))
    made = RunFolder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return jax.device_get(train.train(config, run.lock, batches, made, setup, progress=Silent()))


def straight(run: Shrunk, folder: Path) -> restore.State:
    """The state of the undisturbed run on one device, which stands in folder/straight."""
    return trained(run, folder / "straight", run.batches(), compared.MESHES["1×1"])


def resume(run: Shrunk, folder: Path) -> list[Finding]:
    """The run, and the same run that crashed behind its first checkpoint and went on."""
    whole, name, after = straight(run, folder), "resumed = undisturbed, bit for bit", STEPS // 2
    with contextlib.suppress(Stopped):
        trained(run, folder / "halted", StopsAt(run.batches(), after), compared.MESHES["1×1"])
    if RunFolder(folder / "halted").steps() != [after]:
        return [Finding(2, name, math.inf, 0.0, f"the crash left no checkpoint of step {after}")]
    again = trained(run, folder / "halted", run.batches(), compared.MESHES["1×1"])
    curves = compared.curves(compared.curve(folder / "straight"), compared.curve(folder / "halted"))
    leaves = zip(*(jax.tree_util.tree_leaves_with_path(x) for x in (whole, again)), strict=True)
    arrays = compared.farthest(
        (jax.tree_util.keystr(path), float(np.abs(np.asarray(a - b, np.float64)).max(initial=0.0)))
        for (path, a), (_, b) in leaves
    )
    return [
        Finding(2, f"{name}: metrics", curves[0], 0.0, curves[1]),
        Finding(2, f"{name}: parameters and optimizer", arrays[0], 0.0, arrays[1]),
    ]


def processes(run: Shrunk, folder: Path) -> list[Finding]:
    """The run's own optimizer over its steps on eight devices of this process, on one, and on eight
    of two processes."""
    mesh = MeshConfig(data=2, fsdp=4)
    if not (folder / "straight").is_dir():
        straight(run, folder)
    with two_processes.started(run, folder / "two", mesh) as wait:
        trained(run, folder / "eight", run.batches(), mesh)
        wait()
    one, eight, two = (compared.curve(folder / name) for name in ("straight", "eight", "two"))
    spread, apart = compared.curves(one, eight), compared.curves(eight, two)
    steps = f"{STEPS} steps of {run.config.optim.name}"
    return [
        Finding(3, f"{steps}: 1 = 8 devices", spread[0], 10 * compared.MAX_LOSS, spread[1]),
        Finding(3, f"{steps}: 1 = 2 processes", apart[0], compared.MAX_LOSS, apart[1]),
    ]


def adapter(run: Shrunk, folder: Path) -> list[Finding]:
    """An adapter at its start (of no virtual tokens, where it has some) and its base; a LoRA that
    has moved, and what it is merged into."""
    config = compared.without_dropout(run.config)
    method = config.peft.method
    if method == "full":
        return [untested(4, "an adapter begins as its base", "peft.method=full has no adapter")]
    batch = asked_everywhere(run)

    def base() -> Transformer:
        return Transformer(config.model, rows_of(run), nnx.Rngs(config.train.seed))

    def of(model: Transformer) -> np.ndarray:
        return compared.logits(nnx.graphdef(model), parameters(model), batch)

    at_start = config.peft if method == "lora" else dataclasses.replace(config.peft, length=0)
    plain, begun = of(base()), of(peft.add(base(), at_start, config.train.seed))
    model = peft.add(base(), config.peft, config.train.seed)
    new = compared.moved({p: v.get_value() for p, v in peft.trained(model, config.peft).items()})
    model = module_of(nnx.graphdef(model), {**parameters(model), **new})
    tuned = of(model)
    apart, where = compared.relative(plain, begun), "logits"
    if not compared.differ(plain, tuned):
        apart, where = math.inf, "parameters that were moved changed no logit to a number"
    found = [Finding(4, f"{method} at its start = base", apart, compared.MAX_LOGITS, where)]
    if method == "lora":
        peft.merge(model)
        found.append(
            Finding(4, "merged = adapter", compared.relative(tuned, of(model)), 2e-4, "logits")
        )
    return found


def asked_everywhere(run: Shrunk) -> Batch:
    """The first batch, for logits at every place."""
    batch = dict(run.batches().batch(0))
    del batch["loss_positions"]
    prompted = peft.prompted_encoder(run.config.model, run.config.peft)
    return peft.with_prompts(batch) if prompted else batch


def rows_of(run: Shrunk) -> int:
    """Rows of the embedding."""
    return run.config.model.vocab_size or -(-run.ids // 128) * 128


def interop(run: Shrunk, folder: Path) -> list[Finding]:
    """The model as a Hugging Face folder and the adapter as PEFT's, written and read."""
    cfg, name = run.config.model, "exported and read = the model"
    model = Transformer(cfg, rows_of(run), nnx.Rngs(run.config.train.seed))
    params = parameters(model)
    try:
        hf.save(folder / "hf", cfg, params, dtype="float32")
    except UserError as e:
        return [untested(5, name, f"not exported: {e}")]
    read_cfg = dataclasses.replace(
        hf.model_config(folder / "hf"), **{n: getattr(cfg, n) for n in families.OF_THE_RUN}
    )
    mesh = compared.on_first_devices(compared.MESHES["1×1"])
    read = hf.load(folder / "hf", read_cfg, model_specs(read_cfg, rows_of(run), mesh))
    batch = {k: v for k, v in run.batches().batch(0).items() if k != "loss_positions"}
    again = shapes_of(lambda: Transformer(read_cfg, rows_of(run), nnx.Rngs(0)))
    one = compared.logits(nnx.graphdef(model), params, batch)
    found = [
        Finding(
            5,
            name,
            compared.relative(one, compared.logits(nnx.graphdef(again), read, batch)),
            0.0,
            "logits",
        )
    ]
    if run.config.peft.method != "full":
        found.append(_exported_adapter(run, cfg, model, folder))
    return found


def _exported_adapter(run: Shrunk, cfg: ModelConfig, base: Transformer, folder: Path) -> Finding:
    name = "adapter exported and read = the adapter"
    fingerprint = peft.fingerprint(parameters(base))
    model = peft.add(base, run.config.peft, run.config.train.seed)
    params = compared.moved(
        {p: v.get_value() for p, v in peft.trained(model, run.config.peft).items()}
    )
    if run.config.peft.prefix_hidden:
        return untested(5, name, "what PEFT keeps of a prefix's MLP is its result")
    try:
        peft_files.save(folder / "peft", cfg, run.config.peft, params, fingerprint, "base")
        read = peft_files.read(folder / "peft", cfg, rows_of(run)).params
    except UserError as e:
        return untested(5, name, f"not exported: {e}")
    if read.keys() != params.keys():
        return Finding(5, name, math.inf, 0.0, "other parameters")
    return Finding(
        5,
        name,
        *compared.farthest((p, compared.relative(params[p], read[p])) for p in params)[:1],
        0.0,
        "",
    )


# {name: (its invariant, the check)}
CHECKS: dict[str, tuple[int, Callable[[Shrunk, Path], list[Finding]]]] = {
    "batches": (1, batches),
    "resume": (2, resume),
    "packing": (3, packing),
    "microbatches": (3, microbatches),
    "meshes": (3, all_meshes),
    "processes": (3, processes),
    "adapter": (4, adapter),
    "interop": (5, interop),
    "isolation": (6, isolation),
}


def run_all(
    run: Shrunk, names: Sequence[str], told: Callable[[str], None] = lambda line: None
) -> list[Finding]:
    """What the named checks find; `told` hears which one is under way. A check that comes to no end
    has failed, whatever stopped it, and the others go on."""
    found = []
    with tempfile.TemporaryDirectory(prefix="itx-doctor-") as folder:
        for name in names:
            told(name)
            invariant, check = CHECKS[name]
            try:
                found += check(run, Path(folder))
            except (UserError, RunFailed) as e:
                found.append(Finding(invariant, name, math.inf, 0.0, str(e)))
            except Exception as e:  # a fault of ours, or one of a library: XLA, optax, a disk
                first = next(filter(str.strip, str(e).splitlines()), "")
                why = f"{type(e).__name__}: {first}" if first else type(e).__name__
                found.append(Finding(invariant, name, math.inf, 0.0, why))
    return found
