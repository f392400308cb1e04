# SPDX-License-Identifier: Apache-2.0
"""What a model chooses where there are options: which labels it mistakes for which, which places
and labels it prefers, and whether its probabilities are to be believed.

preference   of a place in the list of options or of a label: its share of the choices less its
             share of the right answers, 0 for a model without a bias, whatever its accuracy. The
             interval is over examples; p by Benjamini and Hochberg over all that are asked
calibration  mean probability of the chosen option less accuracy (above 0: overconfident), and the
             expected calibration error over ten bins (Naeini, Cooper and Hauskrecht, 2015); the
             probability is the option's among the options, from the log-probabilities with EOS
"""

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from itx.analysis.features import MAX_VALUES, MIN_EXAMPLES, Observations
from itx.eval import stats
from itx.eval.predictions import PredictionLine, chosen

BINS = 10
MAX_CONFUSED = 10  # pairs of labels shown of a task


class Choice(NamedTuple):
    task: str
    example: int
    line: PredictionLine
    chosen: int  # place of the option
    right: int


def choices(of: Observations, ranked_rows: set[str]) -> list[Choice]:
    """Of the answers that chose an option: by rank in the rows that are ranked, else by what was
    written."""
    found = []
    for line, row, task, example in zip(of.lines, of.rows, of.tasks, of.examples, strict=True):
        if line["options"] and line["answer_index"] is not None:
            place = chosen(line, row in ranked_rows)
            if place is not None:
                name = of.task_names[task]
                found.append(Choice(name, int(example), line, place, line["answer_index"]))
    return found


def facts(of: Observations, ranked_rows: set[str]) -> dict:
    """{"chosen", "confusion": {task: …}, "preferences": […], "untested": {reason: tasks},
    "calibration": {"all" or a task: …}}."""
    made = choices(of, ranked_rows)
    by_task = stats.grouped((c.task, c) for c in made)
    untested: Counter = Counter()
    preferences = [*_places(made, by_task, untested), *_labels(by_task, untested)]
    confusion = {task: _confusion(own) for task, own in by_task.items()}
    return {
        "chosen": len(made),
        "confusion": {task: pairs for task, pairs in confusion.items() if pairs},
        "preferences": _with_adjusted(preferences),
        "untested": dict(untested),
        "calibration": _calibrations(of),
    }


def _label(choice: Choice, place: int) -> str:
    return choice.line["options"][place]


def _confusion(own: list[Choice]) -> list[dict]:
    """The commonest mistakes: [{"right", "chosen", "answers", "of"}], for tasks of few labels."""
    right = Counter(_label(c, c.right) for c in own)
    if len(right) > MAX_VALUES:
        return []
    pairs = Counter((_label(c, c.right), _label(c, c.chosen)) for c in own if c.right != c.chosen)
    return [
        {"right": r, "chosen": c, "answers": n, "of": right[r]}
        for (r, c), n in pairs.most_common(MAX_CONFUSED)
    ]


# ---- preferences


def _places(made: list[Choice], by_task: dict[str, list[Choice]], untested: Counter) -> list[dict]:
    """Of each place in the list, over tasks whose options change places."""
    moving = set()
    for task, own in by_task.items():
        places = stats.grouped((o, i) for c in own for i, o in enumerate(c.line["options"]))
        if any(len(set(p)) > 1 for p in places.values()):
            moving.add(task)
        else:
            untested["options always in one order: a place is a label there"] += 1
    found = []
    of_count = stats.grouped((len(c.line["options"]), c) for c in made if c.task in moving)
    for count, own in sorted(of_count.items()):
        for place in range(count):
            named = f"place {place + 1} of {count}"
            found += _preference(named, "", "place", own, lambda c, i, place=place: i == place)
    return found


def _labels(by_task: dict[str, list[Choice]], untested: Counter) -> list[dict]:
    found = []
    for task, own in sorted(by_task.items()):
        labels = sorted({o for c in own for o in c.line["options"]})
        if len(labels) > MAX_VALUES:
            untested[f"more than {MAX_VALUES} different options"] += 1
            continue
        for label in labels:
            named = f"“{label}” in {task}"
            found += _preference(
                named, task, "label", own, lambda c, i, label=label: _label(c, i) == label
            )
    return found


def _preference(
    named: str, task: str, kind: str, own: list[Choice], is_it: Callable[[Choice, int], bool]
) -> list[dict]:
    """[{"of", "task", "kind", "chosen", "right", "difference", "interval", "p", "examples"}], or []
    for fewer than MIN_EXAMPLES examples; `is_it`: whether a place of a choice is what is asked
    about."""
    values = stats.grouped(
        (c.example, (float(is_it(c, c.chosen)), float(is_it(c, c.right)))) for c in own
    )
    means = np.array([np.mean(v, axis=0) for v in values.values()]).reshape(-1, 2)
    if len(means) < MIN_EXAMPLES:
        return []
    differences = means[:, 0] - means[:, 1]
    found = stats.mean_of(differences.tolist())
    return [
        {
            "of": named,
            "task": task,
            "kind": kind,
            "examples": len(differences),
            "chosen": float(means[:, 0].mean()),
            "right": float(means[:, 1].mean()),
            "difference": found.mean,
            "interval": list(found.interval),
            "p": found.p,
        }
    ]


def _with_adjusted(preferences: list[dict]) -> list[dict]:
    adjusted = stats.benjamini_hochberg([p["p"] for p in preferences])
    return [{**p, "adjusted": a} for p, a in zip(preferences, adjusted, strict=True)]


# ---- calibration


def probabilities(line: PredictionLine) -> np.ndarray:
    """Of each option of a ranked line, among the options."""
    logprobs = np.array(line["rank"]["logprob"])
    weights = np.exp(logprobs - logprobs.max())
    return weights / weights.sum()


def right(line: PredictionLine) -> float:
    """The probability of the right option among the options, else the score."""
    return float(probabilities(line)[line["answer_index"]]) if "rank" in line else line["score"]


def _calibrations(of: Observations) -> dict[str, dict]:
    """Over all, and of each task with enough examples."""
    found: dict[str, list[tuple[int, float, float]]] = {}
    for line, task, example in zip(of.lines, of.tasks, of.examples, strict=True):
        if "rank" in line:
            p = probabilities(line)
            best = int(p.argmax())
            scored = (int(example), float(p[best]), float(best == line["answer_index"]))
            for name in ("", of.task_names[task]):
                found.setdefault(name, []).append(scored)
    return {name: made for name, values in found.items() if (made := calibration(values))}


def calibration(values: list[tuple[int, float, float]]) -> dict | None:
    """{"answers", "examples", "confidence", "accuracy", "gap", "interval", "ece", "bins": [[mean
    probability, accuracy, answers]]}; None for fewer than MIN_EXAMPLES examples.

    Args:
        values: (number of the example, probability of the chosen option, 1 where it is right).
    """
    by_example = stats.grouped((e, (p, right)) for e, p, right in values)
    if len(by_example) < MIN_EXAMPLES:
        return None
    sure, right = np.array([v[1:] for v in values]).T
    places = np.minimum((sure * BINS).astype(int), BINS - 1)
    bins = [
        [
            float(sure[places == b].mean()),
            float(right[places == b].mean()),
            int((places == b).sum()),
        ]
        for b in range(BINS)
        if (places == b).any()
    ]
    gaps = [float(np.mean([p - r for p, r in own])) for own in by_example.values()]
    interval = stats.t_interval(gaps)
    return {
        "answers": len(values),
        "examples": len(by_example),
        "confidence": float(sure.mean()),
        "accuracy": float(right.mean()),
        "gap": float(np.mean(gaps)),
        "interval": list(interval) if interval else None,
        "ece": float(sum(n * abs(p - a) for p, a, n in bins) / len(values)),
        "bins": bins,
    }
