# SPDX-License-Identifier: Apache-2.0
"""The kinds of tasks, and what the build does with each: one function for each question.

    instruction   templates write its examples (instructions.py, render.py, fewshot.py)
    chat          the run's chat template writes its conversations (conversations.py)
    text          an objective says what of a plain text is trained (objectives.py)

A task that was registered straight in SeqIO comes with its own tokens, so that none of these
questions is asked: its jobs are made by foreign.py.
"""

from collections.abc import Callable
from dataclasses import dataclass

from itx.prepare import conversations, instructions, objectives, render
from itx.tasks.spec import TaskSpec


@dataclass(frozen=True)
class Kind:
    """values: what a task's `fields` gives; where: the example, for an error."""

    # ---- reading (examples.py)
    # values -> the form of them that everything behind relies on, or Skip
    checked: Callable
    # (spec, values) -> the canonical input, a text whose hash decides the split
    content: Callable
    # (spec, values) -> what two examples share that are one
    shared: Callable
    # (spec, values, where) -> what tells whether two such examples agree; None: nothing does
    answer: Callable
    # (spec, values, slots of all wordings) -> a Bad where no wording can show the example
    unusable: Callable
    # ---- making a cache folder (jobs.py)
    # (job, spec, settings) -> a list of what else shapes the folder, for its key
    key: Callable
    # (work, items, counts, said) -> what a split's items become before they are rendered
    expanded: Callable
    # (work, items, pool) -> Records; there is a pool where the variant has exemplars
    records: Callable
    # (work, item) -> what only this kind says of an example in examples.jsonl.gz
    line: Callable
    # (spec, item) -> the Texts that training reads, for the leak test
    leak_texts: Callable
    # ---- elsewhere
    # (spec, item, variant, template, pool) -> Rendered, for `itx tasks show` and `check`
    shown: Callable
    # (spec, items) -> the texts that a vocabulary is trained on (vocab.py)
    vocabulary_texts: Callable


KINDS = {
    "instruction": Kind(
        checked=lambda values: values,
        content=render.content_of,
        shared=render.shared_fields,
        answer=instructions.answer,
        unusable=instructions.unusable,
        key=instructions.key,
        expanded=lambda work, items, *_: items,
        records=instructions.records,
        line=instructions.line,
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
        line=lambda work, item: {"asked": item.values["asked"]},
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
        shown=lambda spec, item, *_: objectives.in_words(spec, item),
        vocabulary_texts=lambda spec, items: [item.values["text"] for item in items],
    ),
}


def of(spec: TaskSpec) -> Kind:
    return KINDS[spec.kind]
