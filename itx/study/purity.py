# SPDX-License-Identifier: Apache-2.0
"""Whether the documents that a base is pretrained on hold any instruction.

A template's words between its slots are what instructs. Each run of at least MIN_WORDS of them is
looked for in every document, both in the loose form in which the leak test compares texts; so is a
question mark. Shorter runs are not looked for, and counted. What the tasks ask of their test
splits the build finds itself, and leaves out the documents that hold it
(itx/leaks/contamination.py).
"""

import string
from collections import Counter
from collections.abc import Iterable
from typing import Any

from itx.config import RunConfig
from itx.data.types import Lock
from itx.errors import RunFailed
from itx.leaks import loose
from itx.prepare import examples
from itx.tasks import registry
from itx.tasks.spec import TaskSpec

MIN_WORDS = 3  # fewer are what any text has: "of the", "in this"
QUESTION = "?"
FACTS = frozenset({"documents", "skipped", "instructions", "short", "left_out"})


def check(config: RunConfig, lock: Lock) -> dict[str, Any]:
    """{"documents": how many were searched, "skipped": {reason: records that are no document of
    the split}, "instructions": how many runs of words were looked for, "short": how many were not,
    "left_out": searched documents that hold a test input, which the build left out}; RunFailed
    where a document instructs.

    Args:
        config: of the base, whose mixture is a plain text; eval.tasks names the tasks.
        lock: its lock.
    """
    registry.load_modules(config.data.modules)
    d = config.data
    asked = [registry.task(name, d.root) for name in config.eval.tasks]
    sought = instructions(asked)
    spec = registry.task(d.mixture, d.root)
    count, counts = 0, Counter[str]()
    for item in examples.items(spec, "train", d.root, d.suite_seed, counts):
        document = item.values["text"]
        count += 1
        if held := instruction_in(document, sought):
            raise RunFailed(f"{d.mixture}, document {item.id}: {document!r} holds {held!r}")
    return {
        "documents": count,
        "skipped": {reason: n for reason, n in counts.items() if reason != "read"},
        "instructions": sum(map(len, sought.values())),
        "short": sum(len(words) < MIN_WORDS for words in _runs(asked)),
        "left_out": sum(leak["dropped"] for leak in lock["leaks"]),
    }


Sought = dict[tuple[str, ...], list[tuple[str, ...]]]  # {first MIN_WORDS words: runs of words}


def instructions(specs: Iterable[TaskSpec]) -> Sought:
    """What every wording of some tasks says between its slots in at least MIN_WORDS words, by how
    it begins."""
    sought: Sought = {}
    for words in _runs(specs):
        if len(words) >= MIN_WORDS:
            sought.setdefault(words[:MIN_WORDS], []).append(words)
    return sought


def _runs(specs: Iterable[TaskSpec]) -> list[tuple[str, ...]]:
    """What every wording of some tasks says between its slots, each run of words once."""
    found: dict[tuple[str, ...], None] = {}
    for spec in specs:
        cot = (*spec.cot.templates, *spec.cot.heldout_templates) if spec.cot else ()
        for prompt, _ in (*spec.templates, *spec.heldout_templates, *spec.inverted, *cot):
            for line in _lines(prompt):
                if words := tuple(loose.loose(line).split()):
                    found[words] = None
    return list(found)


def _lines(template: str) -> list[str]:
    """What stands between a template's slots, line by line."""
    parts = string.Formatter().parse(template)
    return [line for text, *_ in parts for line in text.splitlines()]


def instruction_in(document: str, sought: Sought) -> str:
    """What of an instruction a document holds; "" where it holds none."""
    if QUESTION in document:
        return QUESTION
    words = tuple(loose.loose(document).split())
    for i in range(len(words) - MIN_WORDS + 1):
        for run in sought.get(words[i : i + MIN_WORDS], ()):
            if words[i : i + len(run)] == run:
                return " ".join(run)
    return ""
