# SPDX-License-Identifier: Apache-2.0
"""The data side's nouns as they stand in JSON: a lock, its tasks and rows, a folder's manifest.

Each is defined here alone. `check` is called where a file is read (itx/data/lock.py,
itx/data/cache.py), so that the code behind it may rely on the keys and the types of their values.
"""

import types
from pathlib import Path
from typing import Any, NotRequired, TypedDict, get_args, get_origin, get_type_hints, is_typeddict

from itx.config_check import is_a
from itx.errors import UserError, did_you_mean


class SplitAudit(TypedDict):
    """What became of the records of one split."""

    read: int  # records of the source
    kept: int  # those that became examples
    skipped: dict[str, int]  # reason -> records
    first: NotRequired[dict[str, str]]  # reason -> the first unreadable record, with data.skip_bad
    cut: NotRequired[int]  # examples whose prompt lost tokens to fit a row
    cut_tokens: NotRequired[int]  # tokens that they lost
    cut_targets: NotRequired[int]  # examples whose last target lost tokens
    cut_target_tokens: NotRequired[int]  # tokens that they lost


class Manifest(TypedDict):
    """manifest.json of a cache folder: what it holds and what it was made from."""

    task: str  # without variant
    variant: str
    split: str
    rendering: int  # number of the rendering, from 0
    ablation: NotRequired[str]  # what was done to the instruction; "": nothing
    other: NotRequired[str]  # the task whose instruction was swapped in; "": none
    key: str  # hash of all that shapes the folder, as in its name
    vocabulary: str  # hash of the vocabulary
    cluster: str
    origin: NotRequired[list[str]]  # names of the public data sets that the task comes from
    templates: list[str]  # names; template.npy holds indices into it
    examples: int  # different examples; an evaluation folder renders each in several templates
    records: int
    fewshot: NotRequired[dict[str, int]]  # {"asked", "fewer", "none"}; empty without exemplars
    split_conversations: NotRequired[int]  # conversations that were split into several examples
    said: NotRequired[dict[str, int]]  # what the build noticed -> examples
    decoded: NotRequired[dict[str, Any]]  # {"examples", "lost", "losses"} of targets decoded again
    audit: SplitAudit
    repeated: NotRequired[int]  # examples that repeat the input of another one
    # accepted, rejected, fixed, added, undecided: rows that data.patches judge
    patched: NotRequired[dict[str, int]]
    target_tokens: NotRequired[int]  # tokens of all targets, EOS included
    max_target_tokens: NotRequired[int]  # tokens of the longest target, EOS included
    input_tokens: NotRequired[int]  # all other tokens
    unknown_tokens: NotRequired[int]  # tokens that the vocabulary does not know
    eos_within: NotRequired[int]  # EOS in trained pieces, beside the one that ends each
    files: dict[str, str]  # name of each other file -> its SHA-256


class TaskEntry(TypedDict):
    """One trained task variant of a lock."""

    name: str  # the variant
    task: str  # without variant
    cluster: str
    rate: float  # share of the examples; with phases the mean over the run
    examples: int  # records of the first rendering that are trained on
    folders: list[str]  # a cache folder for each rendering, relative to data.cache_dir
    sha256: list[str]  # hash of each folder's manifest
    excluded: list[list[int]]  # for each rendering the numbers of records that are left out
    audit: SplitAudit
    patched: NotRequired[dict[str, int]]  # as in the first rendering's manifest
    target_tokens: NotRequired[int]  # written by earlier versions, not read
    input_tokens: NotRequired[int]  # written by earlier versions, not read


class EvalRow(TypedDict):
    """One evaluation row: all that scoring needs, so that it needs no task module."""

    name: str  # the variant, and after @ what is special about the row
    task: str  # without variant
    variant: str
    cluster: str
    group: str  # instances, templates, tasks, clusters, instruction, extra or retention
    grade: str | None  # the task's tag of that name
    relation: str  # to the trained tasks: same task, same origin, same cluster or none
    split: str
    folder: str  # relative to data.cache_dir
    sha256: str  # hash of the folder's manifest
    examples: int  # different examples
    records: int  # examples times templates
    metrics: list[str]  # names, or module:function for a task module's own
    primary: str  # the metric that summaries show
    max_target_tokens: int
    templates: list[str]  # names, in the order of template.npy's indices
    tags: dict[str, str]
    inputs: str | None  # tasks with the same value share their inputs
    ablation: str | None  # none, removed or swapped: what was done to the instruction
    audit: SplitAudit
    options: list[str] | None  # answers to choose from, where all examples have the same
    halved: NotRequired[bool]  # the row has half of the split, the other half is another's
    seqio: NotRequired[dict[str, Any]]  # a Task registered straight in SeqIO (itx/eval/foreign.py)
    verified: NotRequired[bool]  # the references are what a rule reads, and no answers
    reasons: NotRequired[bool]  # an answer is longer than its reference
    shots: NotRequired[int]  # exemplars in each prompt
    stop: NotRequired[str]  # text at which an answer ends, such as that between exemplars
    trained_on: NotRequired[float | None]  # share of its examples that training saw; never on disk


class TextEntry(TypedDict):
    """A plain text that retention is measured on, in bits per byte."""

    name: str
    objective: str  # how it becomes prompts and targets
    split: str
    folder: str  # relative to data.cache_dir
    sha256: str  # hash of the folder's manifest


class InformationEntry(TypedDict):
    """Examples of a task under three instructions: its own, none, and that of another task over the
    same inputs (itx/eval/information.py)."""

    name: str  # that of the evaluation row with the same examples
    task: str  # without variant
    others: list[str]  # the first that fits an example lends its instruction
    cluster: str
    group: str  # instances, templates, tasks, clusters or extra
    grade: str | None  # as an EvalRow's; of `extra` its relation to training
    split: str
    folder: str  # relative to data.cache_dir; three records an example
    sha256: str  # hash of the folder's manifest


class VocabularyEntry(TypedDict):
    file: str  # relative to data.cache_dir
    hash: str
    size: int
    files: NotRequired[dict[str, str]]  # name of each file of the vocabulary's folder -> SHA-256


class Phase(TypedDict):
    step: int  # at which it begins
    rates: list[float]  # for each task of the lock


class Leaks(TypedDict):
    train: str  # a trained variant
    evaluation: str  # the task whose inputs its records hold
    how: str  # how they hold them
    dropped: int  # records left out for it


class PatchEntry(TypedDict):
    """A patch of training data that the build applied (itx/prepare/patches.py)."""

    file: str  # as data.patches has it
    sha256: str
    editor: str
    entries: int
    untrained: dict[str, int]  # task that is not trained on -> entries, which apply to nothing


class VariantShares(TypedDict):
    mixture: str
    asked: dict[str, float]  # variant -> share that the mixture names
    got: dict[str, float]  # variant -> share of what is trained on
    without: dict[str, list[str]]  # variant -> tasks that lack it


class Lock(TypedDict):
    """data.lock.json: everything that shapes a batch, and what is scored (itx/data/lock.py)."""

    version: int
    order_version: int  # version of the rules in itx/data/order.py and packing.py
    architecture: str
    prefix_lm: bool
    pad_id: int
    bos_id: int  # -1: rows begin without BOS
    eos_id: int
    vocabulary: VocabularyEntry
    mixture: str
    sequence_length: int  # tokens of a row (decoder) or of an encoder row
    target_length: int  # loss positions of a row (decoder) or tokens of a decoder row
    global_batch: int  # rows of a step
    window_examples: int
    seed: int
    renderings: int
    weighting: str
    too_long: str
    loss_positions: NotRequired[list[int]]  # caps, rising; absent before order version 3
    tasks: list[TaskEntry]
    evaluation: list[EvalRow]
    holdout: list[dict[str, str]]  # {"task", "reason"}
    chat: NotRequired[str]  # the chat template of what is trained on
    prompt_format: NotRequired[str]  # "chat"; absent: plain, as the next two then are
    targets: NotRequired[str]  # "shuffled": a control run; absent: each example's own
    system: NotRequired[str]  # what the system says before each prompt
    exemplars_as: NotRequired[str]
    replay: NotRequired[float]
    replay_task: NotRequired[str]
    phases: NotRequired[list[Phase]]
    left_out: NotRequired[list[dict[str, str]]]  # {"mixture", "task", "reason"}
    variants: NotRequired[list[VariantShares]]
    unscored: NotRequired[list[str]]  # rows without an example, each with the reason
    # trained tasks on the validation split, scored while training (eval.every)
    dev: NotRequired[list[EvalRow]]
    information: NotRequired[list[InformationEntry]]
    uninformed: NotRequired[list[str]]  # rows that are not among it, each with the reason
    retention: NotRequired[list[TextEntry]]
    unretained: NotRequired[str]  # why no text is measured
    leaks: NotRequired[list[Leaks]]
    patch_files: NotRequired[list[PatchEntry]]  # in the order of data.patches
    factors: NotRequired[dict[str, float]]  # data.rate_factors, which `rate` has in it
    added: NotRequired[dict[str, float]]  # data.added: the share of each task
    hub: NotRequired[dict[str, str]]  # commits of what came from the hub (itx/hub.py)
    contamination: NotRequired[dict[str, str]]  # what `itx eval --shots` tested; never on disk


def check(value: Any, kind: Any, file: Path | str) -> None:
    """UserError where a JSON value is not of `kind`: a key is unknown or missing, or a value has
    another type."""
    if found := _fault(value, kind, ""):
        raise UserError(f"{file}: {found}")


def _fault(value: Any, kind: Any, place: str) -> str:
    """What is wrong with a value, beginning with its place (`tasks[0].rate`); "" if nothing is."""
    if kind is Any:
        return ""
    if get_origin(kind) is types.UnionType:
        faults = [_fault(value, k, place) for k in get_args(kind)]
        return "" if "" in faults else faults[0]
    of_record = is_typeddict(kind)
    container = dict if of_record else get_origin(kind)
    if container is None and is_a(value, kind):
        return ""
    if container is None or not isinstance(value, container):
        name = getattr(container or kind, "__name__", kind)
        return f"{place or 'it'} is a {type(value).__name__}; expected {name}"
    if of_record:
        return _record_fault(value, kind, place)
    inner = get_args(kind)[-1]
    if container is list and set(map(type, value)) <= {inner}:  # quickly: lists may be long
        return ""
    parts = value.items() if container is dict else enumerate(value)
    return next((f for k, v in parts if (f := _fault(v, inner, f"{place}[{k!r}]"))), "")


def _record_fault(value: dict, kind: Any, place: str) -> str:
    """`_fault` for an object whose keys are known."""
    kinds, inside = get_type_hints(kind), f" in {place}" if place else ""
    for key in value:
        if key not in kinds:
            return f"unknown key {key!r}{inside}" + did_you_mean(key, kinds)
    for key in kinds:
        if key in kind.__required_keys__ and key not in value:
            return f"the key {key!r} is missing{inside}"
    prefix = f"{place}." if place else ""
    return next((f for k, v in value.items() if (f := _fault(v, kinds[k], prefix + k))), "")
