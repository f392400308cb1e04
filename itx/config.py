# SPDX-License-Identifier: Apache-2.0
"""The whole configuration of a run: frozen dataclasses, a Python file that fills them, overrides.

A recipe is a Python file with `get_config(quick=False) -> RunConfig`; `--a.b=c` overrides a field.
Every field says what a change of it means on resume, as `kind`:
    data    shapes the batches: refused on resume
    maths   shapes the update: refused on resume unless named in `resume.allow`, then logged; always
            refused where an array of the model or the optimizer would have another shape
    free    changes neither (mesh, periods, number of steps, folders)
Derived values are functions of the config, never written back into it.
"""

import dataclasses
import functools
import json
from dataclasses import dataclass, field
from typing import Any, Literal

from itx.errors import UserError, did_you_mean

KINDS = ("data", "maths", "free")
_LORA, _VIRTUAL_TOKENS = ("lora",), ("prefix", "prompt")  # tuning methods by what they add


def _field(kind, default, doc, *, at_least=None, share=False, methods=()) -> Any:
    """A field of a section; config_check.py, recipe.py and begin.py read its metadata.

    Args:
        at_least: the smallest value that is allowed; None: any.
        share: whether the value must be at least 0 and below 1.
        methods: the values of peft.method that read the field; empty: all.
    """
    metadata = {"kind": kind, "doc": doc, "at_least": at_least, "share": share, "methods": methods}
    return field(default=default, metadata=metadata)


_data, _maths, _free = (functools.partial(_field, kind) for kind in KINDS)


@dataclass(frozen=True)
class ModelConfig:
    """One `Transformer`; both architectures are settings of it (itx/models/transformer.py)."""

    architecture: Literal["decoder", "encoder_decoder"] = _data("decoder", "stack(s)")
    vocab_size: int = _maths(0, "embedding rows; 0: the vocabulary's size, up to a multiple of 128")
    embed_dim: int = _maths(128, "width of the residual stream", at_least=1)
    num_layers: int = _maths(
        4, "blocks in the decoder (and in the encoder, where there is one)", at_least=1
    )
    encoder_layers: int = _maths(
        0, "blocks in the encoder; 0: as many as in the decoder", at_least=0
    )
    num_heads: int = _maths(4, "query heads", at_least=1)
    num_kv_heads: int = _maths(4, "key/value heads; divides num_heads", at_least=1)
    head_dim: int = _maths(32, "width of a head", at_least=1)
    mlp_dim: int = _maths(384, "hidden width of the MLP", at_least=1)
    mlp_activation: Literal["silu", "gelu", "gelu_exact", "relu"] = _maths(
        "silu", "activation of the MLP; gelu: its tanh form"
    )
    mlp_gated: bool = _maths(True, "act(x W_gate) * (x W_up), as in GLU variants")
    position: Literal["rope", "t5_relative"] = _maths("rope", "position encoding")
    rope_theta: float = _maths(10_000.0, "RoPE base")
    rope_theta_local: float = _maths(
        0.0, "RoPE base of sliding layers, which are then not scaled; 0: as the others", at_least=0
    )
    rope_scaling: Literal["none", "linear", "llama3"] = _maths(
        "none", "stretches RoPE's wavelengths"
    )
    rope_factor: float = _maths(1.0, "rope_scaling: by how much")
    rope_low_factor: float = _maths(
        1.0, "llama3: wavelengths above original length / this are stretched in full"
    )
    rope_high_factor: float = _maths(
        4.0, "llama3: wavelengths below original length / this are kept"
    )
    rope_original_length: int = _maths(8192, "llama3: context length before it was stretched")
    relative_buckets: int = _maths(32, "T5 relative-bias buckets")
    relative_max_distance: int = _maths(128, "T5 relative-bias farthest distance")
    sliding_window: int = _maths(
        0, "window of a sliding layer in tokens, the newest included; 0: no window", at_least=0
    )
    global_every: int = _maths(
        0, "every n-th layer has no window (model.sliding_window); 0: all have one", at_least=0
    )
    qk_norm: bool = _maths(False, "RMS norm of each head's queries and keys")
    qkv_bias: bool = _maths(False, "biases of queries, keys and values")
    scale_attention: bool = _maths(True, "divide scores by sqrt(head_dim); T5 does not")
    query_scalar: float = _maths(
        0.0, "divide scores by the root of this rather than of head_dim; 0: of head_dim", at_least=0
    )
    attention_cap: float = _maths(
        0.0, "soft cap of scores: cap tanh(score / cap); 0: none", at_least=0
    )
    logit_cap: float = _maths(0.0, "soft cap of logits; 0: none", at_least=0)
    smear: int = _maths(
        0,
        "previous tokens that an embedding also carries (for small models from scratch)",
        at_least=0,
    )
    tie_embeddings: bool = _maths(True, "the output layer is the embedding table")
    scale_embeddings: bool = _maths(False, "embeddings times sqrt(embed_dim), as in Gemma")
    scale_logits: bool = _maths(
        False, "divide what the output layer reads by sqrt(embed_dim), as in T5 1.0"
    )
    norm_eps: float = _maths(1e-6, "RMS norm epsilon")
    norm_plus_one: bool = _maths(False, "norms multiply by 1 + their weight, as in Gemma")
    post_norms: bool = _maths(
        False, "a norm behind attention and behind the MLP too, as in Gemma 2 and 3"
    )
    dropout: float = _maths(
        0.0, "dropout on each block's two outputs and the embeddings", at_least=0, share=True
    )
    prefix_lm: bool = _data(False, "decoder-only: prompt positions see the whole prompt")
    pretrained: str = _maths(
        "",
        "begin from this: a Hugging Face folder, its name on the hub, a GGUF file, a run or a "
        "checkpoint",
    )
    dtype: Literal["float32", "bfloat16"] = _maths("float32", "dtype of activations")
    attention: Literal["auto", "xla", "splash", "cudnn"] = _free(
        "auto", "kernel, replaced by XLA where it cannot serve; auto: splash on TPU, cudnn on GPU"
    )
    remat: Literal["none", "dots", "full"] = _free(
        "none",
        "in the backward pass recompute nothing, all but products with weights, or whole layers",
    )


@dataclass(frozen=True)
class DataConfig:
    mixture: str = _data("", "a mixture or task: a name in SeqIO's registries or ours")
    phases: tuple[tuple[int, str], ...] = _data(
        (), "(step, mixture): from that step on the rates of that mixture"
    )
    modules: tuple[str, ...] = _data(("tasks",), "modules to import; they register tasks")
    root: str = _free("", "folder that relative source files stand under")
    cache_dir: str = _free("cache", "where tokenised data are kept")
    vocab: str = _data(
        "", "a SentencePiece model, a tokenizer.json, or bytes; empty: one is trained here"
    )
    vocab_size: int = _data(1024, "pieces of a vocabulary trained here", at_least=1)
    render_seed: int = _data(0, "draws templates and option order (part of cache keys)")
    tfds_data_dir: str = _free(
        "", "prepared TFDS datasets; default: $TFDS_DATA_DIR, ~/tensorflow_datasets"
    )
    suite_seed: int = _data(0, "given to procedural sources (tasks/toy)")
    seed: int = _data(0, "draws the order of examples")
    renderings: int = _data(
        8, "most different renderings of an example; epoch e uses number e mod this", at_least=1
    )
    sequence_length: int = _data(256, "tokens of a row (decoder) or of an encoder row", at_least=1)
    target_length: int = _data(
        96, "loss positions of a row (decoder) or tokens of a decoder row", at_least=1
    )
    global_batch: int = _data(32, "rows of a step, over all hosts", at_least=1)
    window_examples: int = _data(4096, "examples mixed, packed and permuted together", at_least=1)
    weighting: Literal["token", "example", "task"] = _data(
        "token",
        "what weighs 1 in the loss: each target token; each example; or an example of a task on "
        "average, so that a task's share of the loss is its rate, however long its targets are",
    )
    chat_template: str = _data(
        "", "chat template: a .jinja file or a tokenizer_config.json; default: a plain one"
    )
    prompt_format: Literal["auto", "plain", "chat"] = _data(
        "auto",
        "an instruction task's prompt and answer: text behind text (plain), or a user's and an "
        "assistant's turn (chat); auto: chat where the pretrained model has a chat template",
    )
    targets: Literal["own", "shuffled"] = _data(
        "own",
        "shuffled: a control run, whose instruction examples are trained on the target of another "
        "example of their task and wording, so that only form, brevity and label shares are left",
    )
    system: str = _data("", "what the system says before each prompt, with prompt_format=chat")
    exemplars_as: Literal["turns", "text"] = _data(
        "turns",
        "with prompt_format=chat: few-shot exemplars are earlier turns, or text in the user's turn",
    )
    fewshot_tokens: int = _data(
        0, "a few-shot example's tokens, beyond which exemplars fall away; 0: a row's", at_least=0
    )
    too_long: Literal["error", "drop", "cut_left", "cut_right", "cut_targets"] = _data(
        "error", "an example longer than a row; cut_*: what its prompt loses first"
    )
    replay: float = _data(
        0.0,
        "share of the examples that are plain text, against forgetting, in every phase",
        share=True,
    )
    replay_task: str = _data(
        "", "text task that `replay` draws from, and retention is measured on: c4_demo.lm"
    )
    patches: tuple[str, ...] = _data(
        (),
        "patches of training rows, in order: files that `itx create review` or refine wrote, here "
        "or under data.root",
    )
    rate_factors: tuple[tuple[str, float], ...] = _data(
        (), "(task, factor): its rate is that of the mixture times this, in every phase"
    )
    added: tuple[tuple[str, float], ...] = _data(
        (), "(task, share): trained on beside the mixture with this share of the examples"
    )
    skip_bad: bool = _data(False, "count and skip unreadable records rather than stop")
    max_epochs: float = _free(1000.0, "the audit fails above this many passes over a task")
    train_examples: int = _data(
        0,
        "training examples kept per task, by content hash, before they are rendered; 0: all",
        at_least=0,
    )
    eval_examples: int = _data(
        200, "evaluation examples kept per task and split, by content hash", at_least=1
    )
    max_unknown: float = _free(
        0.2, "the audit fails above this share of tokens unknown to the vocabulary, per task"
    )
    max_cut: float = _free(
        0.5, "the audit fails above this share of examples cut to fit a row, per task"
    )
    max_duplicates: float = _free(
        0.5, "the audit fails above this share of records that repeat an input, per task"
    )
    max_contamination: float = _free(
        0.5, "the audit fails above this share of a task's records that one evaluation task asks"
    )
    max_bytes: float = _free(1e11, "a build that would write more is refused (estimated first)")
    workers: int = _free(0, "build processes; 0: one per core", at_least=0)


@dataclass(frozen=True)
class OptimConfig:
    name: str = _maths("adamw", "an entry of optim.OPTIMIZERS")
    kwargs: dict[str, float] = _maths(None, "passed to the optimizer as they are")
    learning_rate: float = _maths(1e-3, "peak")
    schedule: Literal["constant", "cosine", "linear", "rsqrt", "wsd"] = _maths(
        "cosine", "after warm-up; wsd: constant, then linear to the end (cooldown_share)"
    )
    cooldown_share: float = _maths(
        0.2, "wsd: share of the steps, the last ones, in which the rate falls", share=True
    )
    warmup_steps: int = _maths(100, "linear from 0", at_least=0)
    decay_steps: int = _maths(0, "where the schedule ends; 0: train.steps", at_least=0)
    final_share: float = _maths(0.1, "learning rate at the end, as a share of the peak")
    clip_norm: float = _maths(1.0, "global gradient norm; 0: no clipping", at_least=0)
    weight_decay: float = _maths(0.0, "on parameters that `decay` matches", at_least=0)
    decay: tuple[str, ...] = _maths(
        (r".*/(kernel|w\w*|\w+_lora/[ab])$",), "regexes of decayed parameters"
    )
    lr_multipliers: tuple[tuple[str, float], ...] = _maths((), "(regex, factor), first match wins")
    freeze: tuple[str, ...] = _maths((), "regexes of parameters that stay as they are")


@dataclass(frozen=True)
class TrainConfig:
    steps: int = _free(1000, "optimizer steps in all", at_least=0)
    seed: int = _maths(0, "initialisation and dropout")
    microbatches: int = _free(1, "gradient accumulation: parts a batch is split into", at_least=1)
    checkpoint_every: int = _free(500, "steps", at_least=1)
    keep_checkpoints: int = _free(3, "newest kept", at_least=1)
    log_every: int = _free(10, "steps between lines of metrics.jsonl", at_least=1)
    z_loss: float = _maths(0.0, "weight of log(Z)^2")
    label_smoothing: float = _maths(
        0.0, "share of the target spread over the vocabulary", share=True
    )
    neftune_alpha: float = _maths(
        0.0, "noise on embeddings while training (NEFTune; 5 to 15 are usual); 0: none", at_least=0
    )
    ema: float = _maths(
        0.0,
        "decay of an average of the parameters, which is what is scored, saved as the model and "
        "exported; 0: the parameters themselves are",
        share=True,
    )
    deterministic: bool = _maths(False, "GPU: only kernels that repeat bit for bit")
    profile: str = _free(
        "", "first and last step, as 100:105, of which JAX's profiler writes a trace; empty: none"
    )
    tensorboard: bool = _free(False, "also write tensorboard/")
    writers: tuple[str, ...] = _free(
        (), "services that metrics are also sent to: wandb, trackio (extras of that name)"
    )
    max_skipped_in_a_row: int = _maths(
        50,
        "steps in a row without finite loss or gradient: training returns once, then it ends",
        at_least=1,
    )
    max_skipped_share: float = _maths(
        0.25,
        "a larger share of such steps among the newest skipped_window does the same",
        share=True,
    )
    skipped_window: int = _maths(200, "steps among which max_skipped_share is counted", at_least=1)


@dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh axes; -1 takes the devices that are left. itx/mesh.py has the table."""

    replica: int = _free(1, "slices, over the slow network")
    data: int = _free(-1, "batch only")
    fsdp: int = _free(1, "batch and parameters")
    tensor: int = _free(1, "heads, MLP and vocabulary")


@dataclass(frozen=True)
class PeftConfig:
    """What trains: all of the model, or an adapter over a frozen base (itx/peft.py)."""

    method: Literal["full", "lora", "prefix", "prompt"] = _maths("full", "full: everything trains")
    targets: tuple[str, ...] = _maths(
        (r".*/(wq|wk|wv|wo|w_gate|w_in|w_out)",), "LoRA: regexes of weights", methods=_LORA
    )
    rank: int = _maths(8, "LoRA: columns of A, rows of B", at_least=1, methods=_LORA)
    alpha: float = _maths(16.0, "LoRA: the product is scaled by alpha / rank", methods=_LORA)
    rslora: bool = _maths(False, "LoRA: scaled by alpha / sqrt(rank) instead", methods=_LORA)
    dora: bool = _maths(False, "LoRA: also train each output's magnitude", methods=_LORA)
    dropout: float = _maths(0.0, "LoRA: dropout on the input of A", share=True, methods=_LORA)
    length: int = _maths(20, "prefix, prompt: virtual tokens", at_least=1, methods=_VIRTUAL_TOKENS)
    prefix_hidden: int = _maths(
        0,
        "prefix: width of an MLP that it is trained through; 0: none",
        at_least=0,
        methods=("prefix",),
    )
    base_dtype: Literal["float32", "bfloat16"] = _maths(
        "float32", "dtype of the frozen base's parameters", methods=_LORA + _VIRTUAL_TOKENS
    )
    adapter: str = _maths(
        "",
        "go on from this adapter over model.pretrained: a folder that PEFT or `itx convert export` "
        "wrote; it says method, rank, alpha and targets",
    )


@dataclass(frozen=True)
class EvalConfig:
    tasks: tuple[str, ...] = _free((), "evaluated besides what the mixture holds out")
    split: Literal["validation", "test"] = _free("test", "scored by `itx train` at the end")
    max_examples: int = _free(
        24, "examples per task, times every template; the report says so", at_least=0
    )
    max_seconds: float = _free(
        0.0,
        "that scoring all rows may take, before tuning and after it: so many of their first "
        "examples are asked, fixed beforehand; 0: no bound",
        at_least=0,
    )
    fixed_examples: int = _free(
        16, "examples of each trained task whose loss is taken before and after", at_least=1
    )
    batch_size: int = _free(256, "sequences generated or scored together", at_least=1)
    limit_factor: float = _free(
        1.5, "new tokens that a row may take, as a multiple of its longest right answer", at_least=1
    )
    max_new_tokens: int = _free(
        64,
        "most new tokens of any row; the report counts answers that either limit cuts",
        at_least=1,
    )
    retention: tuple[str, ...] = _free(
        (),
        "what a pretrained model should keep: text tasks (bits per byte), others with exemplars",
    )
    safety: bool = _free(
        True,
        "ask a pretrained chat model, before and after, requests that it should decline and "
        "harmless ones that look like them",
    )
    before: bool = _free(True, "also score the model before tuning")
    every: int = _free(
        0, "steps between scores of trained tasks on dev, while training; 0: none", at_least=0
    )
    dev_examples: int = _free(8, "examples of each trained task that are scored then", at_least=1)
    keep_best: bool = _free(
        False, "keep, score and report the checkpoint that was best on dev, not the last one"
    )
    instructions: bool = _free(
        True, "also score tasks that share inputs without and with a swapped instruction"
    )


@dataclass(frozen=True)
class ResumeConfig:
    allow: tuple[str, ...] = _free(
        (), "maths fields that may differ from the run's, by dotted name"
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


def fields_by_name() -> dict[str, dataclasses.Field]:
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


def changed(config: RunConfig, section: str, **values) -> RunConfig:
    """The config with other values in one section."""
    group = dataclasses.replace(getattr(config, section), **values)
    return dataclasses.replace(config, **{section: group})


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
