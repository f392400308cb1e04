# SPDX-License-Identifier: Apache-2.0
"""What a user writes about a task (`instruction_task`) and a mixture (`mixture`).

Definitions
    example   what a source yields: a plain dict.
    fields    `fields(example)`: the named values that templates speak of, or `Skip(reason)`.
    answer    an index into the options, a text, or a list of reference texts.
    template  an (input, target) pair of format strings with named `{fields}`. Its id is a hash of
              its text.
    variant   a way to render a task: `zs` (bare), `cot`, `inv`, … (names.py has the grammar).
    split     train | validation | test, decided by the hash of the canonical input content.

Nothing here reads data: a source is a description that itx/prepare/sources.py opens.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from itx.errors import UserError

SPLITS = ("train", "validation", "test")
# What of a plain text is trained: itx/prepare/objectives.py
OBJECTIVES = ("lm", "prefix_lm", "span_corruption")
Template = tuple[str, str]
Values = dict[str, Any]  # what `fields` gives of an example: a value for each name
Files = str | Mapping[str, str]  # one file, or one for each split
Shares = Mapping[str, float] | None  # split -> share of the rows; None: the files are the splits


@dataclass(frozen=True)
class Skip:
    """Returned by `fields` for an example that is not wanted; counted under `reason` in the
    audit."""

    reason: str


@dataclass(frozen=True)
class CoT:
    """Chain of thought: a second kind of target. The answer extractor comes from the target
    pattern."""

    templates: Sequence[Template]
    heldout_templates: Sequence[Template] = ()


@dataclass(frozen=True)
class Source:
    """A plain description of where examples come from; `kind` names a reader
    (itx/prepare/readers.py)."""

    kind: str
    # split -> file(s), relative to `data.root`; "" is the file whose rows are split by hash
    files: Mapping[str, Any] = field(default_factory=dict)
    split_by_hash: Shares = None
    # kind "function": (split, root, seed) -> iterable of example dicts (split "" where
    # split_by_hash is set)
    make: Callable[[str, str, int], Iterable[dict]] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)  # what the reader of this kind needs
    # with split_by_hash: values -> the text whose hash decides the split; default: the input's
    # content
    split_key: Callable[[dict], str] | None = None
    halve: bool = False  # validation is cut by hash into validation and test: see `halved`


@dataclass(frozen=True)
class TaskSpec:
    """One task. Everything about it stands in this one place."""

    name: str
    version: int
    cluster: str
    source: Source | None  # None: a Task that was registered straight in SeqIO
    fields: Callable[[dict], Any]
    templates: tuple[Template, ...]
    heldout_templates: tuple[Template, ...] = ()
    options: tuple[str, ...] | None = None
    # names in templates.OPTION_STYLES, drawn per rendering
    option_styles: tuple[str, ...] = ("inline", "list", "slashes")
    shuffle_options: bool = True  # False: their order means something ("all of the above")
    metrics: tuple[Any, ...] = ("exact_match",)
    primary: str = "generate"  # or "rank": which score stands for the task in every average
    origin: tuple[str, ...] = ()  # names of the data sets it was made from
    # clusters that leave training when this task's cluster is held out
    neighbours: tuple[str, ...] = ()
    cot: CoT | None = None
    inverted: tuple[Template, ...] = ()  # templates that ask for the input, given the answer
    # the fields whose content decides split and identity; default: all but answer, options,
    # rationale
    content: tuple[str, ...] | None = None
    # `fields` gives messages (chat.py); the run's chat template writes them, and assistant turns
    # are trained
    chat: bool = False
    # one of OBJECTIVES for plain text, {"text": …}; "": it is not plain text
    objective: str = ""
    shot_separator: str = "\n\n"  # between the exemplars of `:fsK`
    # exemplars take the labels in turn (for tasks with few different answers)
    balanced_shots: bool = False
    # copying the answer from the input is the task: `itx tasks check` takes it for no leak
    extractive: bool = False
    # a rule verifies an answer: the references are what its metrics read, and no answers, so that
    # they tell nothing of an answer's length (eval.max_new_tokens alone limits it)
    verified: bool = False
    # an answer reasons before it says what the reference holds, so that the reference tells nothing
    # of its length either
    reasons: bool = False
    stop: str = ""  # text at which an answer ends, for models that go on with a next question
    # e.g. language, inputs (shared family), grade
    tags: Mapping[str, str] = field(default_factory=dict)
    evaluation_only: bool = False  # refused in any training mixture (BBH, GSM8K test, …)
    module: str = ""  # where it was registered

    @property
    def kind(self) -> str:
        """Its row in the build's table of kinds (itx/prepare/kinds.py)."""
        return "text" if self.objective else "chat" if self.chat else "instruction"

    @property
    def templated(self) -> bool:
        """Whether templates write it. A conversation and a plain text have one variant, the bare
        one."""
        return self.kind == "instruction"

    @property
    def scored(self) -> bool:
        """Whether it has answers to score: plain text has none."""
        return self.kind != "text"


@dataclass(frozen=True)
class Holdout:
    """Every registered task but these; `removed` in resolve.py says what leaves and why."""

    clusters: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    # the tasks to start from; default: all that are registered
    among: tuple[str, ...] | None = None


@dataclass(frozen=True)
class MixtureSpec:
    name: str
    members: Any  # tuple of names (examples-proportional), dict name -> weight, or Holdout
    variants: Mapping[str, float] = field(default_factory=lambda: {"zs": 1.0})
    maximum: int | None = None
    temperature: float = 1.0
    scale: float = 1.0
    partial: bool = False  # a task that has none of the variants is left out and told, not an error
    max_examples: int | None = None  # cuts each task's training data, by content hash
    module: str = ""


def holdout(
    clusters: Sequence[str] = (), tasks: Sequence[str] = (), among: Sequence[str] | None = None
) -> Holdout:
    """All tasks but the named clusters and tasks, their neighbours and their kin by origin."""
    return Holdout(tuple(clusters), tuple(tasks), None if among is None else tuple(among))


def halved(source: Source) -> Source:
    """A source with a validation and no test split: by the hash of their content half of the
    validation examples are test. Without it validation is whole, and the task has no test split."""
    have = {*source.files, *source.options.get("splits", ())} - {"train"}
    if have != {"validation"} or source.split_by_hash:
        raise UserError(
            "halved() is for a source with a validation split and no test split; this one has "
            f"{sorted(have)}"
        )
    return replace(source, halve=True)


def _source(kind: str, files: Files, shares: Shares, **more: Any) -> Source:
    """A source of one file, whose rows are split by hash (as `shares` says, else 5 % each held
    out), or of one file per split. Settings that are not given are none of its reader's options."""
    files = {"" if shares else "train": files} if isinstance(files, str) else dict(files)
    split_key = more.pop("split_key", None)
    options = {k: v for k, v in more.items() if v}
    return Source(kind, files, shares, options=options, split_key=split_key)


def jsonl(
    files: Files,
    split_by_hash: Shares = None,
    split_key: Callable[[dict], str] | None = None,
) -> Source:
    """JSON lines, plain or .gz: one file (5 % each for validation and test, or `split_by_hash`) or
    one per split."""
    return _source("jsonl", files, split_by_hash, split_key=split_key)


def json(files: Files, split_by_hash: Shares = None, rows: str = "") -> Source:
    """A JSON array of objects, plain or .gz; with `rows` the list or the object of objects under
    that key of the document."""
    return _source("json", files, split_by_hash, rows=rows)


def csv(files: Files, split_by_hash: Shares = None, columns: Sequence[str] = ()) -> Source:
    """Comma-separated rows, plain or .gz; the header names the fields unless `columns` does."""
    return _source("csv", files, split_by_hash, columns=tuple(columns))


def tsv(files: Files, split_by_hash: Shares = None, columns: Sequence[str] = ()) -> Source:
    """Tab-separated rows without quoting, plain or .gz; the header names the fields unless
    `columns` does."""
    return _source("tsv", files, split_by_hash, columns=tuple(columns))


def parquet(files: Files, split_by_hash: Shares = None) -> Source:
    """Apache Parquet files."""
    return _source("parquet", files, split_by_hash)


def hf_dataset(folders: Files, split_by_hash: Shares = None, subset: str = "") -> Source:
    """Folders that Hugging Face's `Dataset.save_to_disk` wrote; for a `DatasetDict`: {"train":
    "folder/train", …}. Or data sets of the hub: "tatsu-lab/alpaca", or for its splits {"train":
    "openai/gsm8k", "test": "openai/gsm8k"} with subset="main", the folder there that is meant."""
    return _source("hf_dataset", folders, split_by_hash, subset=subset)


def tfrecord(files: Files, features: Mapping[str, Any], split_by_hash: Shares = None) -> Source:
    """tf.train.Examples; features: {"text": str, "label": int, "tokens": [int]} (str, bytes, int,
    float)."""
    return _source("tfrecord", files, split_by_hash, features=dict(features))


def tfds(name: str, splits: Mapping[str, str] | Sequence[str]) -> Source:
    """A prepared TFDS dataset, `glue/rte:2.0.0`, under `data.tfds_data_dir`.

    splits: ours -> TFDS's instruction ({"train": "train[:-200]", "test": "validation"}), or names
    that are both.
    """
    files = dict(splits) if isinstance(splits, Mapping) else {s: s for s in splits}
    return Source("tfds", files, options={"name": name})


def function(
    make: Callable[[str, str, int], Iterable[dict]],
    split_by_hash: Shares = None,
    splits: Sequence[str] = ("train",),
) -> Source:
    """Examples from `make(split, root, seed)`: root is `data.root`, seed is `data.suite_seed`.

    `splits` are those that `make` knows (others are cut from them by hash); with `split_by_hash` it
    is called once, with the split "".
    """
    options = {} if split_by_hash else {"splits": tuple(splits)}
    return Source("function", {}, split_by_hash, make, options)
