# SPDX-License-Identifier: Apache-2.0
"""The whole configuration of a run: frozen dataclasses, a Python file that fills them, overrides.

A recipe is a Python file with `get_config(quick=False) -> RunConfig`; `--a.b=c` overrides a field.
Every field says what a change of it means on resume, as `kind`:
    data    shapes the batches: refused on resume
    maths   shapes the update: refused on resume unless named in `resume.allow`, then logged; always
            refused where an
            array of the model or the optimizer would have another shape
    free    changes neither (mesh, periods, number of steps, folders)
Derived values are functions of the config, never written back into it.
"""

import dataclasses
import json
import math
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_origin

from itx import storage
from itx.errors import UserError, did_you_mean

KINDS = ("data", "maths", "free")


def _f(kind: str, default: Any, doc: str) -> Any:
    assert kind in KINDS
    return field(default=default, metadata={"kind": kind, "doc": doc})


@dataclass(frozen=True)
class ModelConfig:
    """One `Transformer`; both architectures are settings of it (itx/models/transformer.py)."""

    architecture: Literal["decoder", "encoder_decoder"] = _f("data", "decoder", "stack(s)")
    vocab_size: int = _f(
        "maths", 0, "embedding rows; 0: the vocabulary's size, up to a multiple of 128"
    )
    embed_dim: int = _f("maths", 128, "width of the residual stream")
    num_layers: int = _f(
        "maths", 4, "blocks in the decoder (and in the encoder, where there is one)"
    )
    encoder_layers: int = _f("maths", 0, "blocks in the encoder; 0: as many as in the decoder")
    num_heads: int = _f("maths", 4, "query heads")
    num_kv_heads: int = _f("maths", 4, "key/value heads; divides num_heads")
    head_dim: int = _f("maths", 32, "width of a head")
    mlp_dim: int = _f("maths", 384, "hidden width of the MLP")
    mlp_activation: Literal["silu", "gelu", "gelu_exact", "relu"] = _f(
        "maths", "silu", "of the MLP; gelu: tanh form"
    )
    mlp_gated: bool = _f("maths", True, "act(x W_gate) * (x W_up), as in GLU variants")
    position: Literal["rope", "t5_relative"] = _f("maths", "rope", "position encoding")
    rope_theta: float = _f("maths", 10_000.0, "RoPE base")
    rope_theta_local: float = _f(
        "maths", 0.0, "RoPE base of sliding layers, which are then not scaled; 0: as the others"
    )
    rope_scaling: Literal["none", "linear", "llama3"] = _f(
        "maths", "none", "stretches RoPE's wavelengths"
    )
    rope_factor: float = _f("maths", 1.0, "rope_scaling: by how much")
    rope_low_factor: float = _f(
        "maths", 1.0, "llama3: wavelengths above original length / this are stretched in full"
    )
    rope_high_factor: float = _f(
        "maths", 4.0, "llama3: wavelengths below original length / this are kept"
    )
    rope_original_length: int = _f("maths", 8192, "llama3: context length before it was stretched")
    relative_buckets: int = _f("maths", 32, "T5 relative-bias buckets")
    relative_max_distance: int = _f("maths", 128, "T5 relative-bias farthest distance")
    sliding_window: int = _f(
        "maths", 0, "newest tokens that a sliding layer sees, its own included; 0: none slides"
    )
    global_every: int = _f(
        "maths", 0, "with a window: every so many-th layer does not slide; 0: all slide"
    )
    qk_norm: bool = _f("maths", False, "RMS norm of each head's queries and keys")
    qkv_bias: bool = _f("maths", False, "biases of queries, keys and values")
    scale_attention: bool = _f("maths", True, "divide scores by sqrt(head_dim); T5 does not")
    query_scalar: float = _f(
        "maths", 0.0, "divide scores by the root of this rather than of head_dim; 0: of head_dim"
    )
    attention_cap: float = _f("maths", 0.0, "soft cap of scores: cap tanh(score / cap); 0: none")
    logit_cap: float = _f("maths", 0.0, "soft cap of logits; 0: none")
    smear: int = _f(
        "maths", 0, "previous tokens that an embedding also carries (for small models from scratch)"
    )
    tie_embeddings: bool = _f("maths", True, "the output layer is the embedding table")
    scale_embeddings: bool = _f("maths", False, "embeddings times sqrt(embed_dim), as in Gemma")
    scale_logits: bool = _f(
        "maths", False, "divide what the output layer reads by sqrt(embed_dim), as in T5 1.0"
    )
    norm_eps: float = _f("maths", 1e-6, "RMS norm epsilon")
    norm_plus_one: bool = _f("maths", False, "norms multiply by 1 + their weight, as in Gemma")
    post_norms: bool = _f(
        "maths", False, "a norm behind attention and behind the MLP too, as in Gemma 2 and 3"
    )
    dropout: float = _f("maths", 0.0, "on each block's two outputs and the embeddings")
    prefix_lm: bool = _f("data", False, "decoder-only: prompt positions see the whole prompt")
    pretrained: str = _f(
        "maths",
        "",
        "begin from this: a Hugging Face folder, a run or a checkpoint; it says the rest",
    )
    dtype: Literal["float32", "bfloat16"] = _f("maths", "float32", "of activations")
    attention: Literal["auto", "xla", "splash", "cudnn"] = _f(
        "free",
        "auto",
        "kernel where it can do what is asked, else XLA; auto: splash on TPU, cudnn on GPU",
    )
    remat: Literal["none", "dots", "full"] = _f(
        "free",
        "none",
        "in the backward pass recompute nothing, all but products with weights, or whole layers",
    )


@dataclass(frozen=True)
class DataConfig:
    mixture: str = _f("data", "", "a mixture or task: a name in SeqIO's registries or ours")
    phases: tuple[tuple[int, str], ...] = _f(
        "data", (), "(step, mixture): from that step on the rates of that mixture"
    )
    modules: tuple[str, ...] = _f("data", ("tasks",), "modules to import; they register tasks")
    root: str = _f("free", "", "folder that relative source files stand under")
    cache_dir: str = _f("free", "cache", "where tokenised data are kept")
    vocab: str = _f(
        "data", "", "a SentencePiece model, a tokenizer.json, or bytes; empty: one is trained here"
    )
    vocab_size: int = _f("data", 1024, "pieces of a vocabulary trained here")
    render_seed: int = _f("data", 0, "draws templates and option order (part of the cache)")
    tfds_data_dir: str = _f(
        "free", "", "prepared TFDS datasets; default: $TFDS_DATA_DIR, ~/tensorflow_datasets"
    )
    suite_seed: int = _f("data", 0, "given to procedural sources (tasks/toy)")
    seed: int = _f("data", 0, "draws the order of examples")
    renderings: int = _f(
        "data", 8, "most different renderings of an example; epoch e uses e mod this"
    )
    sequence_length: int = _f("data", 256, "tokens of a row (decoder) or of an encoder row")
    target_length: int = _f(
        "data", 96, "loss positions of a row (decoder) or tokens of a decoder row"
    )
    global_batch: int = _f("data", 32, "rows of a step, over all hosts")
    window_examples: int = _f("data", 4096, "examples mixed, packed and permuted together")
    weighting: Literal["token", "example", "task"] = _f(
        "data", "token",
        "what weighs 1 in the loss: each target token; each example; or an example of a task on average, so that a task's "
        "share of the loss is its rate, however long its targets are",
    )  # fmt: skip
    chat_template: str = _f(
        "data",
        "",
        "of conversations: a .jinja file or a tokenizer_config.json; default: a plain one",
    )
    fewshot_tokens: int = _f(
        "data", 0, "a few-shot example's tokens, beyond which exemplars fall away; 0: a row's"
    )
    too_long: Literal["error", "drop", "cut_left", "cut_right", "cut_targets"] = _f(
        "data", "error", "an example longer than a row; cut_*: what its prompt loses first"
    )
    replay: float = _f(
        "data", 0.0, "share of the examples that are plain text, against forgetting, in every phase"
    )
    replay_task: str = _f(
        "data", "", "text task that `replay` draws from, and retention is measured on: c4_demo.lm"
    )
    skip_bad: bool = _f("data", False, "count and skip unreadable records rather than stop")
    max_epochs: float = _f("free", 1000.0, "the audit fails above this many passes over a task")
    eval_examples: int = _f(
        "data", 200, "evaluation examples kept per task and split, by content hash"
    )
    max_unknown: float = _f(
        "free",
        0.2,
        "the audit fails above this share of tokens unknown to the vocabulary, per task",
    )
    max_cut: float = _f(
        "free", 0.5, "the audit fails above this share of examples cut to fit a row, per task"
    )
    max_duplicates: float = _f(
        "free", 0.5, "the audit fails above this share of records that repeat an input, per task"
    )
    max_contamination: float = _f(
        "free",
        0.5,
        "the audit fails above this share of a task's records that one evaluation task asks",
    )
    max_bytes: float = _f(
        "free", 1e11, "a build that would write more is refused (estimated first)"
    )
    workers: int = _f("free", 0, "build processes; 0: one per core")


@dataclass(frozen=True)
class OptimConfig:
    name: str = _f("maths", "adamw", "an entry of optim.OPTIMIZERS")
    kwargs: dict[str, float] = _f("maths", None, "passed to the optimizer as they are")
    learning_rate: float = _f("maths", 1e-3, "peak")
    schedule: Literal["constant", "cosine", "linear", "rsqrt"] = _f(
        "maths", "cosine", "after warm-up"
    )
    warmup_steps: int = _f("maths", 100, "linear from 0")
    decay_steps: int = _f("maths", 0, "where the schedule ends; 0: train.steps")
    final_share: float = _f("maths", 0.1, "learning rate at the end, as a share of the peak")
    clip_norm: float = _f("maths", 1.0, "global gradient norm; 0: no clipping")
    weight_decay: float = _f("maths", 0.0, "on parameters that `decay` matches")
    decay: tuple[str, ...] = _f(
        "maths", (r".*/(kernel|w\w*|\w+_lora/[ab])$",), "regexes of decayed parameters"
    )
    lr_multipliers: tuple[tuple[str, float], ...] = _f(
        "maths", (), "(regex, factor), first match wins"
    )
    freeze: tuple[str, ...] = _f("maths", (), "regexes of parameters that stay as they are")


@dataclass(frozen=True)
class TrainConfig:
    steps: int = _f("free", 1000, "optimizer steps in all")
    seed: int = _f("maths", 0, "initialisation and dropout")
    microbatches: int = _f("free", 1, "gradient accumulation: parts a batch is split into")
    checkpoint_every: int = _f("free", 500, "steps")
    keep_checkpoints: int = _f("free", 3, "newest kept")
    log_every: int = _f("free", 10, "steps between lines of metrics.jsonl")
    z_loss: float = _f("maths", 0.0, "weight of log(Z)^2")
    label_smoothing: float = _f("maths", 0.0, "share of the target spread over the vocabulary")
    deterministic: bool = _f("maths", False, "GPU: only kernels that repeat bit for bit")
    tensorboard: bool = _f("free", False, "also write tensorboard/")
    max_skipped_in_a_row: int = _f(
        "maths",
        50,
        "so many steps in a row without a finite loss or gradient: once, training returns; then it ends",
    )
    max_skipped_share: float = _f(
        "maths", 0.25, "and so does a larger share of them among the newest skipped_window steps"
    )
    skipped_window: int = _f("maths", 200, "steps that max_skipped_share is of")


@dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh axes; -1 takes the devices that are left. itx/mesh.py has the table."""

    replica: int = _f("free", 1, "slices, over the slow network")
    data: int = _f("free", -1, "batch only")
    fsdp: int = _f("free", 1, "batch and parameters")
    tensor: int = _f("free", 1, "heads, MLP and vocabulary")


@dataclass(frozen=True)
class PeftConfig:
    """What trains: all of the model, or an adapter over a frozen base (itx/peft.py)."""

    method: Literal["full", "lora", "prefix", "prompt"] = _f(
        "maths", "full", "full: everything trains"
    )
    targets: tuple[str, ...] = _f(
        "maths", (r".*/(wq|wk|wv|wo|w_gate|w_in|w_out)",), "LoRA: regexes of weights"
    )
    rank: int = _f("maths", 8, "LoRA: columns of A, rows of B")
    alpha: float = _f("maths", 16.0, "LoRA: the product is scaled by alpha / rank")
    rslora: bool = _f("maths", False, "LoRA: by alpha / sqrt(rank) instead")
    dora: bool = _f("maths", False, "LoRA: also train each output's magnitude")
    dropout: float = _f("maths", 0.0, "LoRA: on the input of A")
    length: int = _f("maths", 20, "prefix, prompt: virtual tokens")
    prefix_hidden: int = _f(
        "maths", 0, "prefix: width of an MLP that it is trained through; 0: none"
    )
    base_dtype: Literal["float32", "bfloat16"] = _f(
        "maths", "float32", "of the frozen base's parameters"
    )


@dataclass(frozen=True)
class EvalConfig:
    tasks: tuple[str, ...] = _f("free", (), "evaluated besides what the mixture holds out")
    split: Literal["validation", "test"] = _f("free", "test", "scored by `itx train` at the end")
    max_examples: int = _f(
        "free", 24, "examples per task, times every template; the report says so"
    )
    batch_size: int = _f("free", 256, "sequences generated or scored together")
    limit_factor: float = _f(
        "free", 1.5, "new tokens that a row may take, as a multiple of its longest right answer"
    )
    max_new_tokens: int = _f(
        "free", 64, "most of them in any row; the report counts answers that either limit cuts"
    )
    retention: tuple[str, ...] = _f(
        "free",
        (),
        "what a pretrained model should keep: text tasks (bits per byte), and others with exemplars",
    )
    before: bool = _f("free", True, "also score the model before tuning")
    instructions: bool = _f(
        "free", True, "also score tasks that share inputs without and with a swapped instruction"
    )


@dataclass(frozen=True)
class ResumeConfig:
    allow: tuple[str, ...] = _f(
        "free", (), "maths fields that may differ from the run's, by dotted name"
    )


@dataclass(frozen=True)
class RunConfig:
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    mesh: MeshConfig = MeshConfig()
    peft: PeftConfig = PeftConfig()
    eval: EvalConfig = EvalConfig()
    resume: ResumeConfig = ResumeConfig()


def fields_by_name(config: Any = None) -> dict[str, dataclasses.Field]:
    """Dotted name -> field, for every leaf: {"train.steps": Field(...), ...}."""
    out = {}
    for section in dataclasses.fields(RunConfig):
        for f in dataclasses.fields(section.type):
            out[f"{section.name}.{f.name}"] = f
    return out


def to_dict(config: RunConfig) -> dict:
    """Nested plain values, as config.json holds them (tuples become lists)."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def flatten(values: dict) -> dict[str, Any]:
    """{"train": {"steps": 5}} -> {"train.steps": 5}; one level, as RunConfig is."""
    return {f"{s}.{k}": v for s, group in values.items() for k, v in group.items()}


AT_LEAST = {
    0: ("train.steps", "optim.warmup_steps", "optim.decay_steps", "optim.clip_norm", "optim.weight_decay",
        "model.smear", "model.dropout", "model.encoder_layers", "model.sliding_window", "model.global_every",
        "model.attention_cap", "model.logit_cap", "model.query_scalar", "model.rope_theta_local", "eval.max_examples",
        "data.workers", "data.fewshot_tokens", "peft.prefix_hidden"),
    1: ("train.microbatches", "train.checkpoint_every", "train.keep_checkpoints", "train.log_every",
        "train.max_skipped_in_a_row", "train.skipped_window",
        "data.sequence_length", "data.target_length", "data.global_batch", "data.window_examples", "data.renderings",
        "data.vocab_size", "data.eval_examples", "eval.batch_size", "eval.max_new_tokens", "eval.limit_factor",
        "model.embed_dim",
        "model.num_layers", "model.num_heads", "model.num_kv_heads", "model.head_dim", "model.mlp_dim",
        "peft.rank", "peft.length"),
}  # fmt: skip


def check(config: RunConfig) -> None:
    """UserError for a value that cannot be meant: out of range, or in conflict with another."""
    for name in ("data.root", "data.cache_dir", "data.vocab", "model.pretrained"):
        section, leaf = name.split(".")
        path = str(getattr(getattr(config, section), leaf))
        if storage.is_remote(path):
            raise UserError(f"{name}={path}: remote storage is not built yet; give a local path")
    for name, f in fields_by_name().items():
        section, leaf = name.split(".")
        value = getattr(getattr(config, section), leaf)
        if not is_a(value, f.type):
            if get_origin(f.type) is Literal:
                raise UserError(
                    f"{name}={value!r}: no such choice" + did_you_mean(str(value), get_args(f.type))
                )
            raise UserError(f"{name}={value!r}: not a {getattr(f.type, '__name__', f.type)}")
        if f.type is float and (
            math.isnan(value) or math.isinf(value) and not name.startswith("data.max_")
        ):
            raise UserError(f"{name}={value}: must be a finite number")
    values = flatten(to_dict(config))
    for least, names in AT_LEAST.items():
        for name in names:
            if values[name] < least:
                raise UserError(f"{name}={values[name]}: must be at least {least}")
    m = config.model
    for name in (
        "data.replay",
        "model.dropout",
        "train.label_smoothing",
        "peft.dropout",
        "train.max_skipped_share",
    ):
        if not 0 <= values[name] < 1:
            raise UserError(f"{name}={values[name]}: a share, at least 0 and below 1")
    if m.num_heads % m.num_kv_heads:
        raise UserError(
            f"model.num_kv_heads={m.num_kv_heads} does not divide model.num_heads={m.num_heads}"
        )
    if m.prefix_lm and m.architecture == "encoder_decoder":
        raise UserError("model.prefix_lm is for decoders: an encoder sees all of the prompt anyway")
    if m.sliding_window and m.architecture == "encoder_decoder":
        raise UserError("model.sliding_window is for decoders")
    if m.global_every == 1 or m.global_every and not m.sliding_window:
        raise UserError(
            f"model.global_every={m.global_every}: no layer slides (model.sliding_window={m.sliding_window})"
        )
    if config.data.replay and not config.data.replay_task:
        raise UserError(
            f"data.replay={config.data.replay} needs data.replay_task, a text task (tasks/text.py)"
        )
    _check_peft(config)


def _check_peft(config: RunConfig) -> None:
    peft, data = config.peft, config.data
    if peft.method in ("prefix", "prompt"):
        # a prefix stands before the decoder's row, a prompt before that which holds the instruction
        short = config.model.architecture == "encoder_decoder" and peft.method == "prefix"
        row = "target_length" if short else "sequence_length"
        if peft.length >= getattr(data, row):
            raise UserError(
                f"peft.length={peft.length}: a {peft.method} longer than the context, data.{row}={getattr(data, row)}"
            )
    if peft.method == "lora" and peft.alpha <= 0:
        raise UserError(f"peft.alpha={peft.alpha}: must be above 0, or LoRA adds nothing")
    if peft.method == "lora" and not peft.targets:
        raise UserError(
            "peft.targets is empty: LoRA adapts the weights that its regexes match, e.g. .*/(wq|wv)"
        )


def is_a(value: Any, kind: Any) -> bool:
    """Whether a value is of a field's type; an int may stand for a float, None for an empty
    dict."""
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if get_origin(kind) is tuple:
        inner = get_args(kind)
        if not isinstance(value, (tuple, list)):
            return False
        if len(inner) == 2 and inner[1] is Ellipsis:
            return all(is_a(v, inner[0]) for v in value)
        return len(value) == len(inner) and all(
            is_a(v, t) for v, t in zip(value, inner, strict=True)
        )
    if get_origin(kind) is dict:
        return value is None or isinstance(value, dict)
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def setting(values: dict, key: str, kind: type, where: str, default: Any = None) -> Any:
    """A value of a JSON file that others wrote, or the default where it is absent or null;
    UserError where that is None, or the value of another type than `kind`. Whole numbers count
    something: at least 1."""
    value = default if values.get(key) is None else values[key]
    if value is None:
        raise UserError(f"{where}: no {key!r}" + did_you_mean(key, values))
    if not is_a(value, kind) or kind is int and value < 1:
        expected = {
            int: "a whole number from 1",
            float: "a number",
            str: "a name",
            bool: "true or false",
        }
        raise UserError(f"{where}: {key}={value!r}; expected {expected.get(kind, 'an object')}")
    return value


def from_dict(values: dict) -> RunConfig:
    """The config that `to_dict` wrote; keys that this version does not know are errors."""
    sections = {}
    for section in dataclasses.fields(RunConfig):
        known = {f.name: f for f in dataclasses.fields(section.type)}
        given = values.get(section.name, {})
        for key in given:
            if key not in known:
                raise UserError(
                    f"config.json: unknown setting {section.name}.{key}" + did_you_mean(key, known)
                )
        plain = {k: as_tuples(v) if isinstance(v, list) else v for k, v in given.items()}
        sections[section.name] = section.type(**plain)
    return RunConfig(**sections)


def as_tuples(value: Any) -> Any:
    return tuple(map(as_tuples, value)) if isinstance(value, list | tuple) else value
