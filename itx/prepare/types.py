# SPDX-License-Identifier: Apache-2.0
"""The nouns of the build: what is rendered, the jobs that do it, what a build makes."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

from itx.config import DataConfig, RunConfig
from itx.data.cache import Record
from itx.data.types import PatchEntry
from itx.data.vocabulary import Vocabulary
from itx.tasks import names, registry
from itx.tasks.names import Variant
from itx.tasks.spec import TaskSpec, Values
from itx.text_format.pieces import Pieces
from itx.text_format.prompts import Message, PromptFormat

EACH = "each"  # of a job: its examples under every instruction of averages.ABLATIONS


@dataclass(frozen=True)
class Item:
    """One example of a task's split: its values, and the identity that its content gives it."""

    id: str
    values: Values
    content: str  # the canonical input text
    hash: int  # of the content, 64 bits


@dataclass(frozen=True)
class Rendered:
    """A prompt, its gold target, and what scoring needs."""

    template: str
    prompt: str
    target: str
    references: tuple[str, ...]
    options: tuple[str, ...] | None = None
    answer_index: int | None = None
    extractor: str | None = None
    exemplars: tuple[int, ...] = ()  # hashes of the inputs of the examples shown before it
    # prompts and answers of the exemplars in turn, then its own prompt: what `prompt` joins
    turns: tuple[str, ...] = ()
    messages: tuple[Message, ...] = ()  # what a chat template is given; plain text has none
    pieces: Pieces = ()  # only what a chat template wrote has them


Records = tuple[list[Rendered], list[Record], list[Item]]  # the item of each of the others


@dataclass(frozen=True)
class Job:
    """What one cache folder holds: a variant's split, in one rendering or crossed with
    templates."""

    variant: str
    split: str
    # train | heldout | all: the templates that are drawn from, or crossed; text: plain text that
    # is scored
    templates: str = "train"
    # "" | none | removed | swapped: what is done to the instruction; each: all three for an example
    ablation: str = ""
    # swapped, each: tasks between commas; the first that asks about inputs which an example has
    # lends its instruction
    other: str = ""
    rendering: int = 0

    @property
    def parsed(self) -> Variant:
        """Its variant's name in parts; names of SeqIO's own tasks have none."""
        return names.parse(self.variant)

    @property
    def others(self) -> list[str]:
        return self.other.split(",") if self.other else []

    @property
    def crossed(self) -> bool:
        """Evaluation splits: every example in every template (in one, for an ablation)."""
        return self.split != "train" or self.templates == "text"


class Room(NamedTuple):
    """What a row of the run holds, in tokens (itx/data/lock.py, `sizes`)."""

    architecture: str = "decoder"
    length: int = 256  # data.sequence_length
    targets: int = 96  # data.target_length


@dataclass(frozen=True)
class Settings:
    """What all jobs of a build share; plain values, so that workers can receive it."""

    data: DataConfig
    vocab: str  # the vocabulary's file
    chat_template: str = ""  # the text of what data.chat_template names
    # It matters for conversations: an encoder-decoder trains on one turn at a time.
    architecture: str = "decoder"

    @property
    def prompt_format(self) -> PromptFormat:
        chat = self.data.prompt_format == "chat"
        template = self.chat_template if chat else ""
        return PromptFormat(template, self.data.system, self.data.exemplars_as)

    @property
    def room(self) -> Room:
        return Room(self.architecture, self.data.sequence_length, self.data.target_length)

    @property
    def unpatched(self) -> "Settings":
        """Those of what is asked, which no patch changes."""
        return replace(self, data=replace(self.data, patches=()))

    @property
    def fewshot_tokens(self) -> int:
        """The most tokens of prompt and target of a few-shot rendering."""
        return self.data.fewshot_tokens or self.data.sequence_length

    def task(self, name: str) -> TaskSpec:
        """The spec behind a name or variant name."""
        return registry.task(name, self.data.root)


@dataclass(frozen=True)
class Work:
    """A job, and what the process that does it works with."""

    job: Job
    settings: Settings
    vocabulary: Vocabulary | None  # None: examples are read, and not encoded

    @cached_property
    def spec(self) -> TaskSpec:
        return self.settings.task(self.job.variant)

    @cached_property
    def variant(self) -> Variant:
        return self.job.parsed

    @property
    def shuffled(self) -> bool:
        """Whether each of its examples gets another one's target (data.targets)."""
        own = self.settings.data.targets == "own" or self.job.crossed
        return self.spec.templated and not own

    def where(self, item: Item) -> str:
        """An example, for an error."""
        return f"task {self.spec.name!r}, example {item.id}"


@dataclass(frozen=True)
class Row:
    """Something that a run is scored on: an evaluation row, or a plain text."""

    name: str
    group: str
    relation: str  # to the trained tasks: `evaluation.relation`
    job: Job
    spec: TaskSpec
    # For a Task that was registered straight in SeqIO: what itx/eval/foreign.py reads
    seqio: dict[str, Any] | None = None

    @property
    def is_dev(self) -> bool:
        """Whether it is scored while training."""
        return self.group == "dev"

    @property
    def is_information(self) -> bool:
        """Whether its examples tell of the instruction (itx/eval/information.py), and are not
        scored."""
        return self.job.ablation == EACH


@dataclass(frozen=True)
class Plan:
    """What a build makes."""

    config: RunConfig
    settings: Settings
    vocabulary: Vocabulary
    members: list[str]  # variants that are trained on
    rows: list[Row]
    unscored: list[str]  # tasks that lack the split to be scored on, each with the reason
    # For a mixture that only SeqIO knows: its tasks and those of eval.tasks, and its rates
    seqio: Mapping[str, Any] = field(default_factory=dict)
    rates: Mapping[str, float] = field(default_factory=dict)
    patches: list[PatchEntry] = field(default_factory=list)  # what is told of data.patches

    @property
    def jobs(self) -> list[Job]:
        """Each once; further renderings, which the number of epochs decides, are not among them."""
        trained = [Job(m, "train") for m in self.members]
        return list(dict.fromkeys([*trained, *(r.job for r in self.rows)]))
