# SPDX-License-Identifier: Apache-2.0
"""Fresh or restored parameters: for training, for inference, and of an adapter over its base."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from itx import checkpoint, optim, pretrained
from itx import mesh as meshes
from itx import peft as adapters
from itx.checkpoint import Checkpoints, check_shapes
from itx.config import ModelConfig, PeftConfig, RunConfig
from itx.data import lock as locks
from itx.data.vocabulary import Vocabulary
from itx.errors import UserError
from itx.eval.loaded import LoadedModel
from itx.eval.runner import Runner
from itx.models import hf
from itx.models.transformer import Transformer
from itx.params import Params, embedding_rows, logical_names, merge, parameters, placed, shapes_of
from itx.pretrained import Begin
from itx.processes import newest_checkpoint
from itx.runs import RunFolder, read_lock, run_config

State = dict[str, Any]
Metrics = dict[str, jax.Array]


class Parts(NamedTuple):
    """What trains and what does not, before there is a mesh; a function of (config, size of the
    vocabulary)."""

    graphdef: nnx.GraphDef
    names: optim.Names
    trainable: list[str]
    saved: list[str]
    tx: optax.GradientTransformation
    state_of: Callable[[Params], tuple[State, Params]]  # of the base's parameters
    shapes: tuple[State, Params]  # what that gives


class Setup(NamedTuple):
    """What a run has besides its state; a function of (config, size of the vocabulary, number of
    tasks, mesh)."""

    graphdef: nnx.GraphDef
    names: optim.Names  # path -> logical axes, of all parameters
    trainable: list[str]
    saved: list[str]  # what checkpoints hold: everything, or an adapter run's adapter
    mesh: Mesh
    init: Callable[[], tuple[State, Params]]
    step: Callable[[State, Params, dict], tuple[State, Metrics]]
    specs: tuple[State, Params]  # ShapeDtypeStructs with shardings


def abstract_model(
    config: RunConfig, vocab_size: int
) -> tuple[Callable[[], Transformer], nnx.Module]:
    """How the base model is made from the seed, and its shapes."""
    rows, seed = embedding_rows(config, vocab_size), config.train.seed

    def create() -> Transformer:
        model = Transformer(config.model, rows, nnx.Rngs(seed))
        return (
            model if config.peft.method == "full" else adapters.cast(model, config.peft.base_dtype)
        )

    return create, shapes_of(create)


def adapted(config: RunConfig, base: nnx.Module) -> nnx.Module:
    """The shapes of the model with the run's adapter in it (the base itself where all of it
    trains)."""
    return shapes_of(lambda base: adapters.add(base, config.peft, config.train.seed), base)


def parts(config: RunConfig, vocab_size: int) -> Parts:
    """What trains, by shapes alone; checks what the config says about parameters."""
    _, base = abstract_model(config, vocab_size)
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

    return Parts(
        graphdef, names, trainable, saved, tx, state_of, jax.eval_shape(state_of, parameters(base))
    )


def saved_shapes(config: RunConfig, vocab_size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """The parameters that a run's checkpoints hold."""
    of = parts(config, vocab_size)
    state, frozen = of.shapes
    everything = {**state["params"], **frozen}
    return {p: everything[p] for p in of.saved}


def shapes_by_name(of: Parts) -> dict[str, tuple[int, ...]]:
    """The shape of each parameter, and of each array of the optimizer's state."""
    state, frozen = of.shapes
    arrays = {"params": {**state["params"], **frozen}, "opt_state": state["opt_state"]}
    return {name: x.shape for name, x in checkpoint.named_leaves(arrays).items()}


def initialiser(config: RunConfig, vocab_size: int, mesh: Mesh) -> Callable[[], Params]:
    """Draws the base's parameters from the seed, each device making its own part, or reads those of
    `model.pretrained`."""
    create, abstract = abstract_model(config, vocab_size)
    if config.model.pretrained:
        specs = placed(abstract, mesh)
        check_pretrained(config.model.pretrained, config.model, specs)
        return lambda: load_pretrained(config.model.pretrained, config.model, specs)
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


def check_ready(config: RunConfig) -> None:
    """Before anything is built: UserError where the model's files are not what its config.json
    says, or the vocabulary has more ids than the embedding has rows."""
    size, file = 0, Path(config.data.vocab)
    if file.is_file():
        size = Vocabulary(file, config.model.vocab_size).size
    embedding_rows(config, size, config.data.vocab)
    check_pretrained(
        config.model.pretrained, config.model, parameters(abstract_model(config, size)[1])
    )


def check_pretrained(name: str, cfg: ModelConfig, shapes: dict[str, jax.ShapeDtypeStruct]) -> None:
    """UserError where a model does not have the parameters `shapes`; reads no weight."""
    begin = pretrained.find(name)
    if begin.run is None:
        hf.check(begin.folder, cfg, shapes)


def load_pretrained(name: str, cfg: ModelConfig, specs: dict[str, jax.ShapeDtypeStruct]) -> Params:
    """The parameters of a model that a path names, as `specs` says: {path: ShapeDtypeStruct with a
    sharding}."""
    begin = pretrained.find(name)
    if begin.run is None:
        return hf.load(begin.folder, cfg, specs)
    if pretrained.method(begin.run) != "full":
        params = merged_checkpoint(begin, next(iter(specs.values())).sharding.mesh)
        check_shapes(f"{name}: params", params, specs)
        return {p: jax.device_put(params[p].astype(t.dtype), t.sharding) for p, t in specs.items()}
    with Checkpoints(begin.run.checkpoints, read_only=True) as checkpoints:
        return checkpoints.params(begin.step, specs)


def merged_checkpoint(begin: Begin, mesh: Mesh) -> Params:
    """Parameters of an adapter's checkpoint, put into its base's weights."""
    return merged(
        load_model(begin.run, run_config(begin.run), read_lock(begin.run), begin.step, mesh)
    )


def restore(checkpoints: Checkpoints, step: int, made: Setup) -> tuple[State, Params]:
    """State and frozen parameters of a checkpoint, on this run's mesh. An adapter's base is made as
    at the start."""
    specs = {**made.specs[0]["params"], **made.specs[1]}
    params = checkpoints.params(step, {p: specs[p] for p in made.saved})
    if len(params) < len(specs):
        _, frozen = made.init()
        params = {**frozen, **params}
        check_base(checkpoints.meta(step), frozen, made.saved)
    return {
        "params": {p: params[p] for p in made.specs[0]["params"]},
        "opt_state": checkpoints.opt_state(step, made.specs[0]["opt_state"]),
        "step": counter(made, step),
    }, {p: params[p] for p in made.specs[1]}


def counter(made: Setup, step: int) -> jax.Array:
    """The state's count of steps."""
    return jax.device_put(np.int32(step), made.specs[0]["step"].sharding)


def check_fits(checkpoints: Checkpoints, step: int, made: Setup, lock: dict) -> dict:
    """The meta of a checkpoint; UserError where it is of other data, or of arrays of other names or
    shapes."""
    meta = checkpoints.meta(step)
    if "lock" not in meta:
        raise UserError(
            f"{checkpoints.directory / str(step)} does not say which data it was trained on (its meta has no lock), so "
            "it cannot be resumed; model.pretrained can begin from it"
        )
    locks.check_same(meta["lock"], lock, checkpoints.directory)
    specs = {**made.specs[0]["params"], **made.specs[1]}
    checkpoints.check(step, "params", {p: specs[p] for p in made.saved})
    checkpoints.check(step, "opt_state", checkpoint.named_leaves(made.specs[0]["opt_state"]))
    return meta


def resume(
    checkpoints: Checkpoints, made: Setup, lock: dict
) -> tuple[int, dict, tuple[State, Params] | None, list[str]]:
    """(step, meta, state and frozen parameters, lines to say) of the newest checkpoint that is what
    was saved; step 0 and no state where there is none. A damaged one is set aside."""
    lines: list[str] = []
    while step := checkpoints.latest():
        try:
            meta = check_fits(checkpoints, step, made, lock)
            held = restore(checkpoints, step, made)
        except checkpoint.Damaged as e:
            lines.append(f"{e}; it is set aside as {checkpoints.set_aside(step).name}")
            continue
        if "digests" not in meta:
            lines.append(
                f"the checkpoint of step {step} holds no digests: it could not be verified"
            )
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


def load_model(
    run: RunFolder, config: RunConfig, lock: dict, step: int | None = None, mesh: Mesh | None = None
) -> Runner:
    """A Runner with the parameters of a checkpoint: the newest, or `step`.

    Step 0 is the model before tuning, made anew from the seed: the base without an adapter.
    mesh: default: the config's devices as generation wants them.
    """
    mesh = mesh or meshes.for_generation(meshes.make_mesh(config.mesh), config.model.num_heads)
    vocab_size = lock["vocabulary"]["size"]
    _, abstract = abstract_model(config, vocab_size)
    base = parameters(abstract)
    if step is None:
        step = newest_checkpoint(run.checkpoints)
    params = (
        initialiser(config, vocab_size, mesh)() if step == 0 or config.peft.method != "full" else {}
    )
    if step:
        abstract = adapted(config, abstract)
        specs = {
            p: t
            for p, t in placed(abstract, mesh).items()
            if config.peft.method == "full" or p not in base
        }
        with Checkpoints(run.checkpoints, read_only=True) as checkpoints:
            if params:
                check_base(checkpoints.meta(step), params, [])
            params = {**params, **checkpoints.params(step, specs)}
    return Runner(LoadedModel(
        graphdef=nnx.graphdef(abstract), params=params, mesh=mesh, model=config.model,
        peft=config.peft if step else PeftConfig(),
        bos_id=lock["bos_id"], eos_id=lock["eos_id"], pad_id=lock["pad_id"],
        batch_size=config.eval.batch_size, step=step, more_ends=hf.ends(run.pretrained),
    ))  # fmt: skip


def with_adapter(runner: Runner, folder: str) -> Runner:
    """The Runner of an adapter in PEFT's layout over a base, whose arrays both share."""
    base = runner.loaded
    adapter = adapters.read(folder, base.model, len(base.params["embedding"]))
    if adapter.base and adapter.base != adapters.fingerprint(base.params):
        raise UserError(
            f"{folder} was trained over another base: the parameters differ, though their shapes do not"
        )
    shapes = nnx.eval_shape(lambda params: merge(base.graphdef, params), base.params)
    model = shapes_of(lambda shapes: adapters.add(shapes, adapter.peft, 0), shapes)
    specs = placed(model, base.mesh)
    params = {p: jax.device_put(v, specs[p].sharding) for p, v in adapter.params.items()}
    return Runner(
        dataclasses.replace(
            base, graphdef=nnx.graphdef(model), params={**base.params, **params}, peft=adapter.peft
        )
    )


def merged(runner: Runner) -> Params:
    """The parameters of a LoRA's Runner as those of a plain model."""
    loaded = runner.loaded
    if loaded.peft.method in ("prefix", "prompt"):
        raise UserError(
            f"a {loaded.peft.method} cannot be merged into weights; export it as an adapter"
        )
    # bfloat16 would round the adapter away
    model = adapters.cast(merge(loaded.graphdef, loaded.params), "float32")
    adapters.merge(model)
    return parameters(model)
