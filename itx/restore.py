# SPDX-License-Identifier: Apache-2.0
"""Fresh or restored parameters: for training, for inference, for an adapter over its base."""

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from itx import checkpoint, flops, optim, peft_files, pretrained
from itx import mesh as meshes
from itx import peft as adapters
from itx.checkpoint import Checkpoints, check_shapes
from itx.config import ModelConfig, PeftConfig, RunConfig
from itx.data import lock as locks
from itx.data.types import Lock
from itx.data.vocabulary import Vocabulary
from itx.errors import UserError
from itx.eval.loaded import LoadedModel
from itx.eval.runner import Runner
from itx.mesh import Specs
from itx.models import hf
from itx.models.transformer import Transformer
from itx.params import (
    Params,
    embedding_rows,
    logical_names,
    module_of,
    parameters,
    shapes_of,
    specs_of,
)
from itx.peft_files import Adapter
from itx.pretrained import Begin
from itx.processes import newest_checkpoint
from itx.runs import RunFolder, read_lock, run_config
from itx.text_format import chat

State = dict[str, Any]
Metrics = dict[str, jax.Array]


class ModelPlan(NamedTuple):
    """Which parameters of a run's model train, stay frozen and are saved: a function of (config,
    vocabulary size) that needs no mesh and no array."""

    graphdef: nnx.GraphDef
    names: optim.Names  # path -> logical axes, of all parameters
    saved: list[str]  # paths that checkpoints hold: all, or an adapter run's adapter
    tx: optax.GradientTransformation
    # (base parameters, a given adapter's or {}) -> (state, frozen)
    state_of: Callable[[Params, Params], tuple[State, Params]]
    shapes: tuple[State, Params]  # of what `state_of` returns

    def saved_of(self, state: State, frozen: Params) -> Params:
        """The parameters that a checkpoint holds (or their shapes), as whoever reads it takes
        them: with train.ema their average."""
        everything = {**evaluated(state), **frozen}
        return {p: everything[p] for p in self.saved}


def evaluated(state: State) -> Params:
    """The trainable parameters that are scored and saved as the model."""
    return state.get("ema", state["params"])


def besides_params(state: State) -> dict[str, Any]:
    """What a state holds besides the parameters: the optimizer's part and, with train.ema, their
    average."""
    return {k: v for k, v in state.items() if k not in ("params", "step")}


def of_training(state: State) -> Any:
    """What else a checkpoint holds of a state (or its shapes), as `opt_state`: what training alone
    goes on with."""
    if "ema" not in state:
        return state["opt_state"]
    return {"optimizer": state["opt_state"], "raw": state["params"]}


class Step(NamedTuple):
    """The compiled train step: (state, frozen, batch) -> (state, metrics)."""

    compiled: Any  # a jax.jit of step.make_step's
    plain: Any  # the same with XLA's attention and nothing recomputed, whose FLOPs are counted
    peak: jax.Array  # of the learning rate: an argument, so that runs of a sweep share a program

    def __call__(self, state: State, frozen: Params, batch: dict) -> tuple[State, Metrics]:
        return self.compiled(state, frozen, batch, self.peak)

    def lower(self, *arguments: Any) -> Any:
        """As that of a function from jax.jit."""
        return self.compiled.lower(*arguments, self.peak)

    def flops(self, *arguments: Any) -> float:
        """What one step computes (itx/flops.py)."""
        return flops.matmul_flops(self.plain.trace(*arguments, self.peak).jaxpr)


class Setup(NamedTuple):
    """What a run has besides its state: a function of (config, vocabulary size, number of tasks,
    mesh)."""

    plan: ModelPlan
    mesh: Mesh
    init: Callable[[], tuple[State, Params]]
    step: Step
    specs: tuple[State, Params]  # ShapeDtypeStructs with shardings

    @property
    def saved_specs(self) -> Specs:
        """Specs of the parameters that checkpoints hold."""
        return self.plan.saved_of(*self.specs)


def abstract_model(
    config: RunConfig, vocab_size: int
) -> tuple[Callable[[], Transformer], nnx.Module]:
    """(a function that draws the base model from the seed, the base model's shapes)."""
    rows, seed = embedding_rows(config, vocab_size), config.train.seed

    def create():
        model = Transformer(config.model, rows, nnx.Rngs(seed))
        full = config.peft.method == "full"
        return model if full else adapters.cast(model, config.peft.base_dtype)

    return create, shapes_of(create)


def adapted(config: RunConfig, base: nnx.Module) -> nnx.Module:
    """The shapes of the model with the run's adapter in it; the base itself without an adapter."""
    return shapes_of(lambda base: adapters.add(base, config.peft, config.train.seed), base)


def plan_model(config: RunConfig, vocab_size: int) -> ModelPlan:
    """What trains, by shapes alone; UserError where the config's patterns of parameters match
    none, or leave none to train."""
    _, base = abstract_model(config, vocab_size)
    base_graphdef, base_shapes = nnx.graphdef(base), parameters(base)
    abstract = adapted(config, base)
    names = logical_names(abstract)
    fixed = optim.matching("optim.freeze", config.optim.freeze, names)
    trainable = [p for p in adapters.trained(abstract, config.peft) if p not in fixed]
    if not trainable:
        raise UserError("optim.freeze leaves no parameter to train")
    frozen_paths = [p for p in names if p not in set(trainable)]
    saved = [p for p in names if config.peft.method == "full" or p not in base_shapes]
    tx = optim.make(config.optim, {p: names[p] for p in trainable}, frozen_paths)

    def state_of(base, given):
        model = adapters.add(module_of(base_graphdef, base), config.peft, config.train.seed)
        everything = {**parameters(model), **given}
        params = {p: everything[p] for p in trainable}
        state = {"params": params, "opt_state": tx.init(params), "step": jnp.zeros((), jnp.int32)}
        if config.train.ema:  # copies: a step takes the memory of both
            state["ema"] = jax.tree.map(jnp.copy, params)
        return state, {p: everything[p] for p in frozen_paths}

    shapes = jax.eval_shape(state_of, base_shapes, {})
    return ModelPlan(nnx.graphdef(abstract), names, saved, tx, state_of, shapes)


def shapes_by_name(plan: ModelPlan) -> dict[str, tuple[int, ...]]:
    """The shape of each parameter, and of each array of the optimizer's state."""
    state, frozen = plan.shapes
    arrays = {"params": {**state["params"], **frozen}, "opt_state": of_training(state)}
    return {name: x.shape for name, x in checkpoint.named_leaves(arrays).items()}


def initialiser(config: RunConfig, vocab_size: int, mesh: Mesh) -> Callable[[], Params]:
    """A function that returns the base's parameters: drawn from the seed, each device making its
    own part, or read from `model.pretrained`."""
    create, abstract = abstract_model(config, vocab_size)
    specs, name = specs_of(abstract, mesh), config.model.pretrained
    if name:
        check_pretrained(name, config.model, specs)
        return lambda: load_pretrained(name, config.model, specs)
    # It runs once: on a CPU the compiler's optimisation would take longer than it saves.
    cpu = mesh.devices.flat[0].platform == "cpu"
    options = {"xla_backend_optimization_level": 0} if cpu else None
    out_shardings = {p: spec.sharding for p, spec in specs.items()}
    return jax.jit(
        lambda: parameters(create()), out_shardings=out_shardings, compiler_options=options
    )


def read_adapter(folder: str, cfg: ModelConfig, base: Params, family: str) -> Adapter:
    """An adapter in PEFT's layout; UserError where it was trained over another base than these
    parameters, by their shapes or, where the folder tells, by what they are."""
    adapter = peft_files.read(folder, cfg, len(base["embedding"]), family)
    if adapter.base and adapter.base != adapters.fingerprint(base):
        raise UserError(
            f"{folder} was trained over another base: the parameters differ, though their shapes "
            "do not"
        )
    return adapter


def given_adapter(config: RunConfig, base: Params) -> dict[str, np.ndarray]:
    """The parameters of `peft.adapter`; {} without one."""
    if not config.peft.adapter:
        return {}
    family = pretrained.model_family(pretrained.find(config.model.pretrained))
    return read_adapter(config.peft.adapter, config.model, base, family).params


def shardings(plan: ModelPlan, mesh: Mesh) -> tuple[dict, dict]:
    """NamedShardings of (state, frozen), from the parameters' logical names."""
    state, frozen = plan.shapes
    everything = {**state["params"], **frozen}
    of_parameter = meshes.parameter_shardings(everything, plan.names, mesh)
    of_trainable = {p: of_parameter[p] for p in state["params"]}
    return {
        "params": of_trainable,
        **({"ema": of_trainable} if "ema" in state else {}),
        "opt_state": meshes.like_parameters(state["opt_state"], everything, plan.names, mesh),
        "step": meshes.replicated(mesh),
    }, {p: of_parameter[p] for p in frozen}


def state_specs(plan: ModelPlan, mesh: Mesh) -> tuple[State, Params]:
    """Shape, type and sharding of each array of (state, frozen)."""
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        plan.shapes,
        shardings(plan, mesh),
    )


def check_ready(config: RunConfig) -> None:
    """Before anything is built: UserError where the model's files are not what its config.json
    says, or the vocabulary has more ids than the embedding has rows."""
    size, file = 0, Path(config.data.vocab)
    if file.is_file():
        size = Vocabulary(file, config.model.vocab_size).size
    embedding_rows(config, size, config.data.vocab)
    shapes = parameters(abstract_model(config, size)[1])
    check_pretrained(config.model.pretrained, config.model, shapes)


def check_pretrained(name: str, cfg: ModelConfig, shapes: Specs) -> None:
    """UserError where a Hugging Face folder does not hold the parameters `shapes`; reads no
    weight."""
    begin = pretrained.find(name)
    if begin.run is None:
        hf.check(begin.folder, cfg, shapes)


def load_pretrained(name: str, cfg: ModelConfig, specs: Specs) -> Params:
    """The parameters `specs` of the model that a path names."""
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
    """Parameters of an adapter's checkpoint, merged into its base's weights."""
    run = begin.run
    return merged(load_model(run, run_config(run), read_lock(run), begin.step, mesh))


def restore(checkpoints: Checkpoints, step: int, setup: Setup) -> tuple[State, Params]:
    """State and frozen parameters of a checkpoint, on this run's mesh. An adapter's base is made as
    at the start."""
    state_specs, frozen_specs = setup.specs
    params = checkpoints.params(step, setup.saved_specs)
    if len(params) < len(setup.plan.names):
        _, frozen = setup.init()
        params = {**frozen, **params}
        check_base(checkpoints.meta(step), frozen, setup.plan.saved)
    state = {"params": {p: params[p] for p in state_specs["params"]}}
    held = checkpoints.opt_state(step, of_training(state_specs))
    if "ema" in state_specs:
        state = {"params": held["raw"], "ema": state["params"]}
        held = held["optimizer"]
    state |= {"opt_state": held, "step": counter(setup, step)}
    return state, {p: params[p] for p in frozen_specs}


def counter(setup: Setup, step: int) -> jax.Array:
    """The state's count of steps."""
    return jax.device_put(np.int32(step), setup.specs[0]["step"].sharding)


def check_fits(checkpoints: Checkpoints, step: int, setup: Setup, lock: Lock) -> dict:
    """The meta of a checkpoint; UserError where it was trained on other data, or its arrays have
    other names or shapes."""
    meta = checkpoints.meta(step)
    if "lock" not in meta:
        raise UserError(
            f"{checkpoints.directory / str(step)} does not say which data it was trained on (its "
            "meta has no lock), so it cannot be resumed; model.pretrained can begin from it"
        )
    locks.check_same(meta["lock"], lock, checkpoints.directory)
    checkpoints.check(step, "params", setup.saved_specs)
    checkpoints.check(step, "opt_state", checkpoint.named_leaves(of_training(setup.specs[0])))
    return meta


def resume(
    checkpoints: Checkpoints, setup: Setup, lock: Lock
) -> tuple[int, dict, tuple[State, Params] | None, list[str]]:
    """(step, meta, state and frozen parameters, lines to print) of the newest sound checkpoint;
    step 0 and no state where there is none. A damaged one is set aside."""
    lines: list[str] = []
    while step := checkpoints.latest():
        try:
            meta = check_fits(checkpoints, step, setup, lock)
            arrays = restore(checkpoints, step, setup)
        except checkpoint.Damaged as e:
            lines.append(f"{e}; it is set aside as {checkpoints.set_aside(step).name}")
            continue
        if "digests" not in meta:
            lines.append(
                f"the checkpoint of step {step} holds no digests: it could not be verified"
            )
        return step, meta, arrays, lines
    if lines:
        lines.append("no checkpoint is left: training begins anew at step 0")
    return 0, {}, None, lines


def base_fingerprint(frozen: Params, saved: Iterable[str] = ()) -> str | None:
    """The fingerprint of an adapter's base: the frozen parameters that are not saved. None: all
    are saved."""
    base = {p: v for p, v in frozen.items() if p not in set(saved)}
    return adapters.fingerprint(base) if base else None


def check_base(meta: dict, frozen: Params, saved: Iterable[str] = ()) -> None:
    """UserError where an adapter was trained over other parameters than these."""
    if meta["base"] != base_fingerprint(frozen, saved):
        raise UserError(
            f"the adapter of step {meta['step']} was trained over another base: the frozen "
            "parameters are not those it was begun with"
        )


def load_model(
    run: RunFolder, config: RunConfig, lock: Lock, step: int | None = None, mesh: Mesh | None = None
) -> Runner:
    """A Runner with the parameters of a checkpoint: the newest, or `step`.

    Step 0 is the model before tuning, made anew from the seed: the base without an adapter, or with
    the given one (peft.adapter).
    mesh: by default the config's devices, laid out for generation.
    """
    mesh = mesh or meshes.for_generation(meshes.make_mesh(config.mesh), config.model.num_heads)
    vocab_size = lock["vocabulary"]["size"]
    _, abstract = abstract_model(config, vocab_size)
    if step is None:
        step = newest_checkpoint(run.checkpoints)
    full = config.peft.method == "full"
    params = {} if step and full else initialiser(config, vocab_size, mesh)()
    if step:
        abstract = adapted(config, abstract)
        # `params` holds an adapter's base, which is not in the checkpoint
        specs = {p: spec for p, spec in specs_of(abstract, mesh).items() if p not in params}
        with Checkpoints(run.checkpoints, read_only=True) as checkpoints:
            if params:
                check_base(checkpoints.meta(step), params)
            params = {**params, **checkpoints.params(step, specs)}
    runner = _runner(run, config, lock, step, mesh, abstract, params)
    given = config.peft.adapter
    return with_adapter(runner, given) if given and not step else runner


def _runner(
    run: RunFolder,
    config: RunConfig,
    lock: Lock,
    step: int,
    mesh: Mesh,
    abstract: nnx.Module,
    params: Params,
) -> Runner:
    return Runner(
        LoadedModel(
            graphdef=nnx.graphdef(abstract),
            params=params,
            mesh=mesh,
            model=config.model,
            peft=config.peft if step else PeftConfig(),
            **{name: lock[name] for name in ("bos_id", "eos_id", "pad_id")},
            batch_size=config.eval.batch_size,
            step=step,
            more_ends=hf.ends(run.pretrained),
            family=hf.family(run.pretrained),
        )
    )


def training_model(
    run: RunFolder, config: RunConfig, lock: Lock, step: int, params: Params
) -> Runner:
    """A Runner of the parameters that a run trains, as they are at `step`; to be let go of before
    the next step takes their memory."""
    mesh = meshes.for_generation(meshes.make_mesh(config.mesh), config.model.num_heads)
    _, abstract = abstract_model(config, lock["vocabulary"]["size"])
    abstract = adapted(config, abstract)
    specs = specs_of(abstract, mesh)
    placed = {p: jax.device_put(x, specs[p].sharding) for p, x in params.items()}
    return _runner(run, config, lock, step, mesh, abstract, placed)


def load_untrained(begin: Begin) -> tuple[Runner, Vocabulary, str]:
    """A Runner of a model that no data of ours were built for, its vocabulary, and its chat
    template, "" where it has none."""
    cfg = dataclasses.replace(pretrained.model_config(begin), pretrained=begin.place)
    vocabulary = Vocabulary(pretrained.vocabulary_file(begin), cfg.vocab_size)
    lock = {
        "vocabulary": {"size": vocabulary.size},
        "bos_id": vocabulary.first_id(cfg.architecture),
        "eos_id": vocabulary.eos_id,
        "pad_id": vocabulary.pad_id,
    }
    folder = begin.run.pretrained if begin.run else begin.folder
    loaded = load_model(RunFolder(folder), RunConfig(model=cfg), lock, step=0).loaded
    loaded = dataclasses.replace(
        loaded,
        more_ends=hf.ends(folder),
        family=pretrained.model_family(begin),
        context=pretrained.context(begin),
    )
    template = pretrained.chat_template(begin)
    return Runner(loaded), vocabulary, chat.template_text(str(template), "") if template else ""


def with_adapter(runner: Runner, folder: str) -> Runner:
    """The Runner of an adapter in PEFT's layout over a base, whose arrays both share."""
    base = runner.loaded
    adapter = read_adapter(folder, base.model, base.params, base.family)
    shapes = nnx.eval_shape(lambda params: module_of(base.graphdef, params), base.params)
    model = shapes_of(lambda shapes: adapters.add(shapes, adapter.peft, 0), shapes)
    specs = specs_of(model, base.mesh)
    params = {p: jax.device_put(v, specs[p].sharding) for p, v in adapter.params.items()}
    loaded = dataclasses.replace(
        base, graphdef=nnx.graphdef(model), params={**base.params, **params}, peft=adapter.peft
    )
    return Runner(loaded)


def merged(runner: Runner) -> Params:
    """The parameters of a LoRA's Runner as those of a plain model."""
    loaded = runner.loaded
    if loaded.peft.method in ("prefix", "prompt"):
        raise UserError(
            f"a {loaded.peft.method} cannot be merged into weights; export it as an adapter"
        )
    # bfloat16 would round the adapter away
    model = adapters.cast(module_of(loaded.graphdef, loaded.params), "float32")
    adapters.merge(model)
    return parameters(model)
