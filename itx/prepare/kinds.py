# SPDX-License-Identifier: Apache-2.0
"""The kinds of tasks, and what the build does with each: one function for each question.

    instruction   templates write its examples (instructions.py, render.py, fewshot.py)
    chat          the run's chat template writes its conversations (conversations.py)
    text          an objective says what of a plain text is trained (objectives.py)

A task that was registered straight in SeqIO comes with its own tokens, so that none of these
questions is asked: its jobs are made by foreign.py.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from itx.data.cache import Record, Texts
from itx.data.vocabulary import Vocabulary
from itx.prepare import conversations, instructions, objectives, render
from itx.prepare.fewshot import Pool
from itx.prepare.types import Bad, Item, Job, Rendered, Settings
from itx.tasks.names import Variant
from itx.tasks.spec import Skip, TaskSpec, Template

Values = dict[str, Any]  # what a task's `fields` gives


@dataclass(frozen=True)
class Kind:
    # ---- reading (examples.py)
    # What `fields` gave, in the form that everything behind it relies on
    checked: Callable[[Values], Values | Skip]
    # The canonical input, whose hash decides the split
    content: Callable[[TaskSpec, Values], str]
    # What two examples share that are one
    shared: Callable[[TaskSpec, Values], Any]
    # (…, where): what tells whether two such examples agree; None: there is nothing to agree on
    answer: Callable[[TaskSpec, Values, str], Any]
    # (…, slots of all wordings): what is wrong with an example, whatever wording it stands in
    unusable: Callable[[TaskSpec, Values, Sequence[str]], Bad | None]
    # ---- making a cache folder (jobs.py)
    # What else shapes the folder, for its key
    key: Callable[[Job, TaskSpec, Settings], list[Any]]
    # What a split's items become before they are rendered: pieces, answers, chunks
    expanded: Callable[
        [Job, TaskSpec, list[Item], Counter, Settings, Vocabulary, Counter | None], list[Item]
    ]
    # (renderings, records, the item of each); the pool is given where the variant has exemplars
    records: Callable[
        [Job, TaskSpec, list[Item], Settings, Vocabulary, Pool | None],
        tuple[list[Rendered], list[Record], list[Item]],
    ]
    # What only this kind says of an example in examples.jsonl.gz
    line: Callable[[Job, TaskSpec, Item, Settings], dict[str, Any]]
    # All that training reads of an example, for the leak test
    leak_texts: Callable[[TaskSpec, Item], Texts]
    # ---- elsewhere
    # One example as `itx tasks show` and `itx tasks check` have it
    shown: Callable[[TaskSpec, Variant, Item, Template, Pool | None], Rendered]
    # Texts that a vocabulary is trained on (vocab.py)
    vocabulary_texts: Callable[[TaskSpec, list[Item]], list[str]]


KINDS = {
    "instruction": Kind(
        checked=lambda values: values,
        content=render.content_of,
        shared=render.shared_fields,
        answer=instructions.answer,
        unusable=instructions.unusable,
        key=instructions.key,
        expanded=lambda job, spec, items, *_: items,
        records=instructions.records,
        line=lambda *_: {},
        leak_texts=instructions.leak_texts,
        shown=instructions.shown,
        vocabulary_texts=instructions.vocabulary_texts,
    ),
    "chat": Kind(
        checked=conversations.checked,
        content=conversations.content,
        shared=conversations.shared,
        answer=conversations.answer,
        unusable=lambda *_: None,
        key=conversations.key,
        expanded=conversations.expanded,
        records=conversations.records,
        line=lambda job, spec, item, settings: {"asked": item.values["asked"]},
        leak_texts=conversations.leak_texts,
        shown=conversations.shown,
        vocabulary_texts=conversations.vocabulary_texts,
    ),
    "text": Kind(
        checked=lambda values: values,
        content=render.content_of,
        shared=render.shared_fields,
        answer=lambda *_: None,
        unusable=objectives.unusable,
        key=objectives.key,
        expanded=objectives.expanded,
        records=objectives.records,
        line=objectives.line,
        leak_texts=objectives.leak_texts,
        shown=lambda spec, variant, item, template, pool: objectives.in_words(spec, item),
        vocabulary_texts=lambda spec, items: [item.values["text"] for item in items],
    ),
}


def of(spec: TaskSpec) -> Kind:
    return KINDS[spec.kind]
