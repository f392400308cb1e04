# SPDX-License-Identifier: Apache-2.0
"""What a model may learn from the data besides the task: labels that are commoner than others, one
alphabet, groups of people that are named or not, and cues.

cue     something about the prompt that goes with a label: its length, its alphabet, or a group of
        people that it names. A model may learn the cue in place of the task. Whether a label is
        more frequent with it than without is tested by permutation within wordings, whose labels
        differ, and apart in prompts that hold the label, which may be copied from there
        (itx/eval/permutation.py); p by Benjamini and Hochberg over all that the mixture was asked.
        A cue may be the task itself ("is it about women?"): that is for a person to tell

Of each task's first rendering MAX_RECORDS records are read, drawn by hash.
"""

from collections import Counter
from pathlib import Path
from typing import TypedDict

import numpy as np

from itx import group_terms, hashing, text
from itx.data import cache
from itx.data.lock import LockedData
from itx.data.types import Lock
from itx.data.vocabulary import Vocabulary
from itx.eval import permutation, stats

MAX_RECORDS = 500
MAX_LABELS = 20  # a task with more different targets has open answers
MIN_RECORDS = 20  # with a cue, and without it
LONG = 0.75  # quantile of a prompt's characters from which on it is long
FALSE_DISCOVERIES = 0.05
MIN_DIFFERENCE = 0.15  # of a label's share, with the cue and without it


class Biases(TypedDict):
    """Of one task."""

    records: int  # that were read
    labels: dict[str, float]  # {target: share}, the commonest first; {} for open answers
    scripts: dict[str, float]  # {alphabet of the prompt: share}
    groups: dict[str, float]  # {group of people: share of the prompts that name it}


class Cue(TypedDict):
    task: str
    cue: str
    label: str
    records: int  # with the cue
    share: float  # of the label, among records with the cue
    without: float  # among others of the same wordings, which hold the label as often
    p: float
    adjusted: float


class BiasFacts(TypedDict):
    tasks: dict[str, Biases]
    cues: list[Cue]  # the surest first
    tested: int  # cues with labels


def bias_facts(lock: Lock, data: LockedData, cache_dir: Path) -> BiasFacts:
    vocabulary = Vocabulary(cache_dir / lock["vocabulary"]["file"])
    tasks: dict[str, Biases] = {}
    asked: list[Cue] = []
    for name, i in _fewest_exemplars(lock, data).items():
        records, usable = data.records[i][0], data.usable[i][0]
        numbers = _drawn(records, usable)
        prompts, targets = _texts(records, numbers, vocabulary, lock)
        conditions, labels = _conditions(prompts), _labels(targets)
        tasks[name] = _biases(prompts, labels, conditions)
        holding = _holding(prompts, labels)
        asked += _cues(name, conditions, targets, holding, records.template[numbers])
    adjusted = stats.benjamini_hochberg([c["p"] for c in asked])
    cues = [
        Cue(**{**c, "adjusted": a})
        for c, a in zip(asked, adjusted, strict=True)
        if a <= FALSE_DISCOVERIES and c["share"] - c["without"] >= MIN_DIFFERENCE
    ]
    cues.sort(key=lambda c: (c["p"], c["task"], c["cue"]))
    return {"tasks": tasks, "cues": cues, "tested": len(asked)}


def of_texts(prompts: list[str], targets: list[str]) -> Biases:
    """The same of texts that are in no lock."""
    return _biases(prompts, _labels(targets), _conditions(prompts))


def _labels(targets: list[str]) -> Counter[str]:
    """How often each target stands; nothing where answers are open."""
    return Counter(targets) if len(set(targets)) <= MAX_LABELS else Counter()


def _fewest_exemplars(lock: Lock, data: LockedData) -> dict[str, int]:
    """{task: place of its variant with the fewest exemplars}: variants have the same examples, and
    exemplars those of others."""
    found: dict[str, int] = {}
    for i, task in enumerate(lock["tasks"]):
        best = found.setdefault(task["task"], i)
        if data.records[i][0].exemplars.shape[1] < data.records[best][0].exemplars.shape[1]:
            found[task["task"]] = i
    return found


def _drawn(records: cache.Records, usable: np.ndarray) -> list[int]:
    """The records that are read."""
    by_hash = sorted(usable.tolist(), key=lambda n: hashing.draw("biases", records.content[n], n))
    return by_hash[:MAX_RECORDS]


def _texts(
    records: cache.Records, numbers: list[int], vocabulary: Vocabulary, lock: Lock
) -> tuple[list[str], list[str]]:
    """The prompts and the last targets of records."""
    prompts, targets = [], []
    for n in numbers:
        prompt, target = records.prompt_and_target(n, lock["eos_id"], lock["architecture"])
        prompts.append(vocabulary.decode(prompt))
        targets.append(vocabulary.decode(target).strip())
    return prompts, targets


def _conditions(prompts: list[str]) -> dict[str, np.ndarray]:
    """{cue: bool [records]}."""
    scripts = np.array([text.script(p) for p in prompts], object)
    named = [{g.name for g in group_terms.named(text.normalise(p))} for p in prompts]
    sizes = np.array([len(p) for p in prompts])
    found = {f"written in {s}": scripts == s for s in sorted(set(scripts) - {""})}
    for group in group_terms.GROUPS:
        found[f"names {group.name}"] = np.array([group.name in own for own in named], bool)
    if len(sizes):
        long = int(np.ceil(np.quantile(sizes, LONG)))
        found[f"at least {long} characters"] = sizes >= long
    return found


def _holding(prompts: list[str], labels: Counter) -> dict[str, np.ndarray]:
    """For each label the prompts that hold its words, bool [records]."""
    written = [f" {' '.join(text.words(p))} " for p in prompts] if labels else []
    spoken = {label: f" {' '.join(text.words(label))} " for label in labels}
    return {label: np.array([words in p for p in written]) for label, words in spoken.items()}


def _biases(prompts: list[str], labels: Counter, conditions: dict[str, np.ndarray]) -> Biases:
    def shares(prefix: str) -> dict[str, float]:
        of = {
            name.removeprefix(prefix): float(holds.mean())
            for name, holds in conditions.items()
            if name.startswith(prefix) and holds.any()
        }
        return dict(sorted(of.items(), key=lambda x: -x[1]))

    n = max(1, len(prompts))
    return {
        "records": len(prompts),
        "labels": {label: count / n for label, count in labels.most_common()},
        "scripts": shares("written in "),
        "groups": shares("names "),
    }


def _cues(
    task: str,
    conditions: dict[str, np.ndarray],
    targets: list[str],
    holding: dict[str, np.ndarray],
    wordings: np.ndarray,
) -> list[Cue]:
    """Each cue beside each label, where there are records enough with it and without.

    Args:
        holding: for each label the prompts that hold it, bool [records].
        wordings: int [records].
    """
    found = []
    places = np.arange(len(targets))
    for cue, holds in conditions.items():
        if len(holding) < 2 or not MIN_RECORDS <= holds.sum() <= len(holds) - MIN_RECORDS:
            continue
        for label, in_prompt in holding.items():
            is_label = np.array([t == label for t in targets], float)
            # p is of the lower tail, and a label that is more frequent is to be found
            moments = permutation.moments(
                holds.astype(float), -is_label, 2 * wordings.astype(int) + in_prompt, places
            )
            if moments.size > 0 and moments.variance > 0:
                share = float(is_label[holds].mean())
                found.append(
                    Cue(
                        task=task,
                        cue=cue,
                        label=label,
                        records=int(holds.sum()),
                        share=share,
                        without=share + moments.difference,
                        p=moments.p(),
                        adjusted=1.0,
                    )
                )
    return found
