# SPDX-License-Identifier: Apache-2.0
"""Averages of rows' scores over tasks, then clusters. Groups are never pooled: held-out instances,
templates, tasks and clusters (these two by grade), the instruction ablation by kind, extra rows by
relation to training."""

from collections.abc import Callable

import numpy as np

from itx.eval import stats

GROUPS = ("instances", "templates", "tasks", "clusters", "instruction", "extra", "retention")
GRADES = ("new argument", "new composition", "new operation")
ABLATIONS = ("none", "removed", "swapped")

Row = tuple[str, dict]  # name, what scores.json holds of it


def averages(rows: dict[str, dict], values: dict[str, list[float]]) -> list[dict]:
    """Averages of corrected scores over tasks, then clusters: [{"group", "kind", "mean", …}]."""
    members = stats.grouped(((row["group"], _kind(row)), (n, row)) for n, row in rows.items())
    return [
        {"group": key[0], "kind": key[1], **_average(members[key], values)}
        for key in sorted(members, key=place_of)
    ]


def place_of(key: tuple[str, str]) -> tuple[int, int, str]:
    """Where a (group, kind) stands among others."""
    (group, kind), order = key, (*GRADES, *ABLATIONS)
    return GROUPS.index(group), order.index(kind) if kind in order else -1, kind


def _kind(row: dict) -> str:
    """What tells rows of one group apart."""
    kinds = {"tasks": "grade", "clusters": "grade", "instruction": "ablation", "extra": "relation"}
    return row[kinds[row["group"]]] or "" if row["group"] in kinds else ""


def _average(members: list[Row], values: dict[str, list[float]]) -> dict:
    """{"mean", "interval", "method", "tasks", "clusters": of corrected scores; "score",
    "score_interval", "score_clusters": of plain ones; "excess", "excess_interval": of scores -
    chance, whose mean is 0 for a model that guesses; "lift", "lift_interval": between -1 and 1
    (stats.lift); a group is read by both (words.says); "chance", "none_of_options", "rows", "easy",
    "all_easy"}.

    Easy tasks are left out; where all are easy all are shown, and `all_easy` says so.
    """
    answered = [(n, r) for n, r in members if values[n]]
    used = [(n, r) for n, r in answered if not r["easy"]]
    all_easy = bool(answered) and not used
    used = used or answered
    average, plain, excess, lift = (
        stats.average(_by_task(used, values, kind)) for kind in KINDS_OF_SCORE
    )
    if plain["interval"]:
        plain["interval"][0] = max(0.0, plain["interval"][0])  # no score is below 0
        _widen(plain, excess, lift, [(row["chance"], values[n]) for n, row in used])
    if len(used) == 1:  # one task: its own interval
        row = used[0][1]
        average |= {
            "interval": row["corrected_interval"],
            "method": f"{row.get('interval_from', 'Wilson')}, one task",
        }
        plain["interval"] = row["interval"]
        for kind, of in zip(KINDS_OF_SCORE[2:], (excess, lift), strict=True):
            if ends := row["interval"]:
                ends = kind(np.array(ends), row["chance"], row["score"]).tolist()
            of["interval"] = ends
    return {
        **average,
        "score": plain["mean"],
        "score_interval": plain["interval"],
        "score_clusters": plain["clusters"],
        "excess": excess["mean"],
        "excess_interval": excess["interval"],
        "lift": lift["mean"],
        "lift_interval": lift["interval"],
        "chance": _over_clusters(used, "chance"),
        "none_of_options": _over_clusters(used, "none_of_options"),
        "rows": [n for n, _ in used],
        "easy": [n for n, r in members if r["easy"]],
        "all_easy": all_easy,
    }


def _widen(plain: dict, excess: dict, lift: dict, rows: list[tuple[float, list[float]]]) -> None:
    """Make the intervals at least as wide as Wilson's of all examples together. (Where none of a
    few answers is right nothing varies, and a bootstrap's interval has no width.)

    Args:
        rows: chance and the examples' scores of each.
    """
    scores = np.concatenate([np.asarray(v, float) for _, v in rows])
    chance = float(np.repeat([c for c, _ in rows], [len(v) for _, v in rows]).mean())
    mean = min(1.0, max(0.0, float(scores.mean())))
    pooled = np.array(stats.wilson(mean, len(scores)))
    for kind, average in zip(KINDS_OF_SCORE[1:], (plain, excess, lift), strict=True):
        least, most = kind(pooled, chance, mean).tolist()
        low, high = average["interval"]
        average["interval"] = [min(low, least), max(high, most)]


# (scores of a row's examples, chance, their mean) -> what is averaged
KINDS_OF_SCORE: tuple[Callable[[np.ndarray, float, float], np.ndarray], ...] = (
    lambda scores, chance, _: np.array([stats.corrected(v, chance) for v in scores]),
    lambda scores, *_: scores,
    lambda scores, chance, _: scores - chance,
    stats.lift,
)


def _by_task(
    used: list[Row], values: dict[str, list[float]], kind: Callable[..., np.ndarray]
) -> dict[str, tuple[str, np.ndarray]]:
    """{task: (cluster, scores of its examples)}, variants of one task together."""
    clusters = {row["task"]: row["cluster"] for _, row in used}
    scores = stats.grouped(
        (row["task"], kind(np.array(v), row["chance"], float(np.mean(v))))
        for row, v in ((row, values[name]) for name, row in used)
    )
    return {task: (clusters[task], np.concatenate(parts)) for task, parts in scores.items()}


def _over_clusters(used: list[Row], key: str) -> float | None:
    """The mean of a row's value over tasks, then clusters, of those rows that have one."""
    clusters = {row["task"]: row["cluster"] for _, row in used}
    known = stats.grouped((row["task"], row[key]) for _, row in used if row.get(key) is not None)
    means = stats.cluster_means({t: (clusters[t], stats.mean(v)) for t, v in known.items()})
    return float(np.mean(list(means.values()))) if means else None
