# SPDX-License-Identifier: Apache-2.0
"""Training examples whose label is likely wrong: the tuned model, asked what it was trained on,
would rather have said another of the task's answers.

margin      log2 p(the likeliest other answer) - log2 p(the given one), in bits: above 0 the model
            disagrees with the label. A label that was learned by heart has a margin below 0, true
            or not: suspects show after few epochs
suspect     the margin is above 0 at every checkpoint that was asked, in a task that the model has
            learned: it agrees with more labels than the commonest answer has, beyond chance. A
            model that has not doubts everything
order       by the smallest margin over the checkpoints: what is doubted at all times comes first

The answers of a task are the different targets of its training records; a task with more than
MAX_VALUES of them has open answers, of which nothing is said (Northcutt, Jiang and Chuang, 2021,
“Confident learning”, is the idea: labels against the model's own probabilities; here one model
judges what it saw, which doubts too little rather than too much).
"""

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TypedDict

import numpy as np

from itx import hashing, movement
from itx.analysis.features import MAX_VALUES
from itx.data import cache
from itx.data.types import Lock, TaskEntry
from itx.data.vocabulary import Vocabulary
from itx.eval import stats
from itx.eval.loaded import Ids
from itx.eval.runner import Runner


class Suspect(TypedDict):
    task: str
    content: str  # hash of the example's content
    record: int  # in the task's cache folder
    prompt: str
    label: str
    rather: str  # what the model would have said
    margin: float  # bits, the smallest over the checkpoints


class Asked(TypedDict):
    task: str
    examples: int
    suspects: int


def find(
    runners: list[Callable[[], Runner]],
    lock: Lock,
    cache_dir: str | Path,
    vocabulary: Vocabulary,
    most: int,
) -> dict:
    """{"suspects": [Suspect], "asked": [Asked], "untested": {reason: tasks}}.

    Args:
        runners: what loads the model of each checkpoint.
        most: training examples asked of each task, drawn by hash; 0: all.
    """
    drawn: list[tuple[TaskEntry, cache.Records, list[int], list[Ids]]] = []
    untested: Counter = Counter()
    for entry in lock["tasks"]:
        records = cache.Records(Path(cache_dir) / entry["folders"][0])
        numbers, answers = _drawn(records, entry, most)
        reason = _untestable(answers)
        if reason:
            untested[reason] += 1
        else:
            drawn.append((entry, records, numbers, answers))
    margins = [_margins(load(), drawn, lock) for load in runners]
    suspects, asked = [], []
    for place, (entry, records, numbers, answers) in enumerate(drawn):
        agreed = [max(own[place][i][0] for own in margins) <= 0 for i in range(len(numbers))]
        if not _learned(agreed, _commonest(records, numbers)):
            untested[NOT_LEARNED] += 1
            continue
        found = []
        for i, record in enumerate(numbers):
            of_record = [own[place][i] for own in margins]
            if min(m for m, _ in of_record) > 0:
                margin, rather = min(of_record)
                prompt, target = records.prompt_and_target(
                    record, lock["eos_id"], lock["architecture"]
                )
                found.append(
                    Suspect(
                        task=entry["task"],
                        content=f"{int(records.content[record]):016x}",
                        record=record,
                        prompt=vocabulary.decode(prompt),
                        label=vocabulary.decode(target),
                        rather=vocabulary.decode(answers[rather]),
                        margin=margin,
                    )
                )
        suspects += found
        asked.append(Asked(task=entry["name"], examples=len(numbers), suspects=len(found)))
    suspects.sort(key=lambda s: (-s["margin"], s["task"], s["record"]))
    return {"suspects": suspects, "asked": asked, "untested": dict(untested)}


NOT_LEARNED = "the model agrees with no more labels than the commonest answer has"


def _learned(agreed: list[bool], commonest: float) -> bool:
    """Whether a share of labels that the model agrees with is beyond the commonest answer's."""
    return stats.wilson(stats.mean(agreed), len(agreed))[0] > commonest


def _commonest(records: cache.Records, numbers: list[int]) -> float:
    """The share of the commonest answer."""
    counts = Counter(tuple(records[i][-1][0].tolist()) for i in numbers)
    return max(counts.values(), default=0) / max(1, len(numbers))


def _drawn(records: cache.Records, entry: TaskEntry, most: int) -> tuple[list[int], list[Ids]]:
    """(records that are trained on, drawn by hash; the task's different targets, the commonest
    first)."""
    left_out = set(entry["excluded"][0])
    trained = [i for i in range(len(records)) if i not in left_out]
    counts = Counter(tuple(records[i][-1][0].tolist()) for i in trained)
    answers = [list(t) for t in sorted(counts, key=lambda t: (-counts[t], t))]
    by_hash = sorted(trained, key=lambda i: hashing.draw("suspects", int(records.content[i])))
    return by_hash[: most or None], answers


def _untestable(answers: list[Ids]) -> str:
    if len(answers) < 2:
        return "one answer to every example"
    if len(answers) > MAX_VALUES:
        return f"more than {MAX_VALUES} different answers"
    return ""


def _margins(runner: Runner, drawn: list, lock: Lock) -> list[list[tuple[float, int]]]:
    """Of each task's drawn records (margin in bits, place of the likeliest other answer)."""
    prompts, options, given = [], [], []
    for _, records, numbers, answers in drawn:
        for record in numbers:
            prompt, target = records.prompt_and_target(record, lock["eos_id"], lock["architecture"])
            prompts.append(prompt)
            options.append(answers)
            given.append(answers.index(target))
    with movement.shown("what the model thinks of its training labels"):
        scores = iter(runner.rank(prompts, options)) if prompts else iter(())
    places = iter(given)
    found = []
    for _, _, numbers, _ in drawn:
        own = []
        for _ in numbers:
            label = next(places)
            logprobs = np.array([s["logprob"] for s in next(scores)])
            others = np.where(np.arange(len(logprobs)) == label, -np.inf, logprobs)
            best = int(others.argmax())
            own.append((float(logprobs[best] - logprobs[label]) / math.log(2), best))
        found.append(own)
    return found
