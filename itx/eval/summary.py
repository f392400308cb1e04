# SPDX-License-Identifier: Apache-2.0
"""From predictions to scores.json: a row's score, its chance level, and averages over rows.

    {"step", "rows": {name: row}, "groups": [average, …], "easy": {task: why}}; of rows that the
    lock did not know, each row's "trained_on" and "contamination": {"tested_for", "untested": why
    not, or ""}

Groups are never pooled: held-out instances, templates, tasks and clusters (these two by grade), the
instruction ablation by kind, extra rows by relation to training. Tasks that the audit marks easy
stand in the rows but in no average.
"""

from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from itx import storage, text
from itx.config import RunConfig
from itx.data import cache
from itx.eval import foreign, metrics, stats
from itx.eval.predictions import predictions_file, read_predictions

GROUPS = ("instances", "templates", "tasks", "clusters", "instruction", "extra", "retention")
GRADES = ("new argument", "new composition", "new operation")
RANKINGS = ("sum", "token", "byte", "calibrated")
ABLATIONS = ("none", "removed", "swapped")


def write_scores(run: Any, step: int, rows: list[dict], lock: dict, config: RunConfig) -> dict:
    """Summarise rows whose predictions are on disk; rows scored before and not now are kept."""
    file = run.scores_json(step)
    old = storage.read_object(file, "rows") if file.is_file() else {"rows": {}}
    easy = storage.read_object(run.audit_json).get("easy", {}) if run.audit_json.is_file() else {}
    kept = {n: r for n, r in old["rows"].items() if predictions_file(run, step, n).is_file()}
    for row in rows:
        lines = read_predictions(run, step, row["name"])
        kept[row["name"]] = row_scores(
            row, lines, chance_of(row, lock, config), lock["sequence_length"]
        )
    kept = {name: kept[name] for name in sorted(kept)}
    for r in kept.values():
        r["easy"] = r["group"] in ("instances", "templates", "instruction") and r["task"] in easy
    scores = {
        "step": step,
        "split": config.eval.split,
        "rows": kept,
        "groups": averages(
            kept, {n: example_scores(r, read_predictions(run, step, n)) for n, r in kept.items()}
        ),
        "easy": easy,
        **({"contamination": lock["contamination"]} if "contamination" in lock else {}),
    }
    storage.write_json(file, storage.sealed(scores))
    return scores


# ---- one row
# ---------------------------------------------------------------------------------------


def example_scores(row: dict, lines: list[dict]) -> list[float]:
    """One number per example, whose mean is the row's score: the mean over its templates, or what
    it adds to the score of the whole set. Examples, not prompts, are what n counts."""
    if counted := _set_metric(row, lines):
        return stats.influences(_counts(counted, lines), counted.score)
    found: dict[str, list[float]] = {}
    for line in lines:
        found.setdefault(line["id"], []).append(line["score"])
    return [float(np.mean(v)) for v in found.values()]


def _set_metric(row: dict, lines: list[dict]) -> metrics.SetMetric | None:
    """The row's primary metric where it is one of a whole set. `row` is the lock's or one of
    scores.json."""
    if row.get("seqio") or row.get("primary") == "rank" or row.get("metric") == "rank" or not lines:
        return None
    name = row.get("set_metric", "") if "metric" in row else next(iter(row["metrics"]), "")
    return metrics.set_metric(name, [x["references"] for x in lines]) if name else None


def _counts(counted: metrics.SetMetric, lines: list[dict]) -> np.ndarray:
    """Counts [examples, k], over all templates of an example; of no answer those of an empty
    one."""
    found: dict[str, np.ndarray] = {}
    for line, counts in zip(
        lines, counted.counts([x["references"] for x in lines], answers(lines)), strict=True
    ):
        found[line["id"]] = found.get(line["id"], 0) + counts
    return np.array(list(found.values()))


def answers(lines: list[dict]) -> list[str]:
    return ["" if x["extracted"] is None else x["extracted"] for x in lines]


def row_scores(row: dict, lines: list[dict], chance: tuple[float, str], longest: int) -> dict:
    """All that the report shows of one row."""
    values = example_scores(row, lines)
    counted, mean, interval = _set_metric(row, lines), None, None
    if counted:
        mean, interval = stats.of_counts(_counts(counted, lines), counted.score)
    elif values:
        mean = float(np.mean(values))
        interval = stats.wilson(mean, len(values))
    references = [x["references"] for x in lines]
    signatures = {
        m: c.signature(references)
        for m in row["metrics"]
        if not row.get("seqio") and lines and (c := metrics.set_metric(m, references))
    }
    ranked = [x for x in lines if "rank" in x]
    if row.get("seqio"):
        found = foreign.values(row, lines) if lines else {}
    else:
        found = {
            m: metrics.of_answers(m, references, answers(lines))
            if m in signatures
            else _mean(x["scores"][m] for x in lines)
            for m in row["metrics"]
        }
    return {
        **{
            k: row[k]
            for k in (
                "task",
                "variant",
                "cluster",
                "group",
                "grade",
                "relation",
                "ablation",
                "split",
            )
        },
        "metric": "rank" if row["primary"] == "rank" else next(iter(found), ""),
        "max_examples": row["max_examples"],
        "examples": len(values),
        "prompts": len(lines),
        "score": mean,
        "interval": interval and list(interval),
        "chance": chance[0],
        "chance_from": chance[1],
        "corrected": None if mean is None else stats.corrected(mean, chance[0]),
        "corrected_interval": interval and [stats.corrected(v, chance[0]) for v in interval],
        "none_of_options": none_of_options(row, lines),
        "interval_from": "bootstrap" if counted else "Wilson",
        "metrics": found,
        **({"signatures": signatures} if signatures else {}),
        **({"set_metric": row["metrics"][0]} if counted else {}),
        "rank": {
            n: _mean(x["rank"]["choice"][n] == x["answer_index"] for x in ranked) for n in RANKINGS
        }
        if ranked
        else None,
        "by_template": _by_template(row, lines),
        "by_gold_position": _by_gold_position(ranked),
        "hit_limit": sum(not x["finished"] for x in lines),
        "limit": row["limit"],
        "limit_from": row["limit_from"],
        "no_answer": sum(x["extracted"] is None for x in lines),
        "limit_below_gold": row["max_target_tokens"] > row["limit"],
        "prompts_longer_than_a_row": sum(x["prompt_tokens"] >= longest for x in lines),
        **({"trained_on": row["trained_on"]} if "trained_on" in row else {}),
        **(
            {"shots": row["shots"], "mean_shots": _mean(x["shots"] for x in lines)}
            if row.get("shots")
            else {}
        ),
    }


def none_of_options(row: dict, lines: list[dict]) -> float | None:
    """The share of generated answers that are none of the options: what is wrong about their form,
    not their choice. None where there are no options, or the model is not asked to write one
    (ranking, SeqIO's tasks)."""
    asked = [x for x in lines if x["options"]]
    if not asked or row["primary"] == "rank" or row.get("seqio"):
        return None
    judge = metrics.per_example(row["metrics"][0])
    return _mean(
        x["extracted"] is None or all(judge([o], x["extracted"]) < 1 for o in x["options"])
        for x in asked
    )


def _mean(values) -> float:
    values = [float(v) for v in values]
    return sum(values) / len(values) if values else 0.0


def _by_template(row: dict, lines: list[dict]) -> dict[str, dict]:
    """{template: {"score", "prompts"}}"""
    found: dict[str, list[dict]] = {}
    for x in lines:
        found.setdefault(x["template"], []).append(x)
    return {
        k: {"score": _mean(example_scores(row, found[k])), "prompts": len(found[k])}
        for k in sorted(found)
    }


def _by_gold_position(ranked: list[dict]) -> dict[str, dict]:
    """{place of the right option: {"score", "prompts"}}, by the ranking's own accuracy."""
    found: dict[int, list[float]] = {}
    for x in ranked:
        found.setdefault(x["answer_index"], []).append(
            float(x["rank"]["choice"]["sum"] == x["answer_index"])
        )
    return {str(k): {"score": _mean(found[k]), "prompts": len(found[k])} for k in sorted(found)}


def chance_of(row: dict, lock: dict, config: RunConfig) -> tuple[float, str]:
    """(level, where it comes from): max(mean of 1/options, what always saying the commonest answer
    scores).

    Measured on all examples that the cache keeps for the row, not only on those asked: two examples
    would make every answer the commonest.
    """
    cache_dir = Path(config.data.cache_dir)
    asked = examples(cache_dir / row["folder"])
    options = _mean(1 / len(x["options"]) if x["options"] else 0.0 for x in asked)
    trained = training_folder(row, lock, cache_dir)
    if trained:
        constant, why = (
            commonest_score(_commonest_of(trained), row, asked),
            "commonest training answer",
        )
    else:
        constant, why = leave_one_out(asked), "commonest answer of the row"
    return max((options, "options"), (constant, why), key=lambda pair: pair[0])


@lru_cache(maxsize=1024)  # a folder's name holds the hash of its content
def examples(folder: Path) -> list[dict]:
    """{"references", "options"} of each example of an evaluation row, once."""
    found: dict[str, dict] = {}
    for line in cache.iterate_examples(folder):
        found.setdefault(line["id"], {k: line[k] for k in ("references", "options")})
    return list(found.values())


def training_folder(row: dict, lock: dict, cache_dir: Path) -> Path | None:
    """Where the row's own training data lie; None for a task that is not trained on."""
    own = [
        t
        for t in lock["tasks"]
        if t["task"] == row["task"] and "inv" not in t["name"].split(":")[1:]
    ]
    own.sort(key=lambda t: t["name"] != row["variant"])
    return cache_dir / own[0]["folders"][0] if own else None


@lru_cache(maxsize=1024)
def _commonest_of(folder: Path) -> str:
    return commonest([e["references"][0] for e in cache.read_examples(folder)])


def commonest(answers: list[str]) -> str:
    """The commonest answer as it was first written; of equals the first in order."""
    counts = Counter(text.normalise(a, answer=True) for a in answers)
    key = min(counts, key=lambda a: (-counts[a], a))
    return next(a for a in answers if text.normalise(a, answer=True) == key)


def commonest_score(constant: str, row: dict, asked: list[dict]) -> float:
    """What always saying `constant` scores under the row's metric."""
    return metrics.of_answers(
        metrics.of_row(row), [x["references"] for x in asked], [constant] * len(asked)
    )


def leave_one_out(asked: list[dict]) -> float:
    """Share of the commonest answer among the other contents of a row: 0 where all differ."""
    answers = Counter(text.normalise(x["references"][0], answer=True) for x in asked)
    most = max(answers.values(), default=0)
    return (most - 1) / (len(asked) - 1) if len(asked) > 1 else 0.0


# ---- averages
# --------------------------------------------------------------------------------------


def averages(rows: dict[str, dict], values: dict[str, list[float]]) -> list[dict]:
    """Averages of corrected scores over tasks, then clusters: [{"group", "kind", "mean", …}]."""
    found: dict[tuple[str, str], list[str]] = {}
    for name, row in rows.items():
        kind = {
            "tasks": row["grade"] or "",
            "clusters": row["grade"] or "",
            "instruction": row["ablation"] or "",
            "extra": row["relation"],
        }.get(row["group"], "")
        found.setdefault((row["group"], kind), []).append(name)
    order = (*GRADES, *ABLATIONS)
    keys = sorted(
        found, key=lambda k: (GROUPS.index(k[0]), order.index(k[1]) if k[1] in order else -1, k[1])
    )
    return [
        {"group": g, "kind": k, **_average([(n, rows[n]) for n in found[g, k]], values)}
        for g, k in keys
    ]


def _average(members: list[tuple[str, dict]], values: dict[str, list[float]]) -> dict:
    """{"mean", "interval", "method", "tasks", "clusters": of corrected scores; "score",
    "score_interval", "score_clusters": of plain ones; "lift", "lift_interval": between -1 and 1, by
    which a group is read (stats.lift); "chance", "none_of_options", "rows", "easy", "all_easy"}.

    Easy tasks are left out; where all are easy all are shown, and `all_easy` says so.
    """
    answered = [(n, r) for n, r in members if values[n]]
    used = [(n, r) for n, r in answered if not r["easy"]]
    all_easy = bool(answered) and not used
    used = used or answered
    average, plain, lift = (stats.average(_by_task(used, values, kind)) for kind in KINDS_OF_SCORE)
    if plain["interval"]:
        plain["interval"][0] = max(0.0, plain["interval"][0])  # no score is below 0
        _widen(plain, lift, [(row["chance"], values[n]) for n, row in used])
    if len(used) == 1:  # one task: its own interval
        row = used[0][1]
        average |= {
            "interval": row["corrected_interval"],
            "method": f"{row.get('interval_from', 'Wilson')}, one task",
        }
        plain["interval"] = row["interval"]
        lift["interval"] = (
            row["interval"] and stats.lift(row["interval"], row["chance"], row["score"]).tolist()
        )
    return {
        **average,
        "score": plain["mean"],
        "score_interval": plain["interval"],
        "score_clusters": plain["clusters"],
        "lift": lift["mean"],
        "lift_interval": lift["interval"],
        "chance": _over_clusters(used, "chance"),
        "none_of_options": _over_clusters(used, "none_of_options"),
        "rows": [n for n, _ in used],
        "easy": [n for n, r in members if r["easy"]],
        "all_easy": all_easy,
    }


def _widen(plain: dict, lift: dict, asked: list[tuple[float, list[float]]]) -> None:
    """Make no interval narrower than Wilson's of all examples together: where no answer of a few is
    right nothing varies, and what is drawn from them again says that one is sure."""
    scores = np.concatenate([np.asarray(v, float) for _, v in asked])
    chance = float(np.repeat([c for c, _ in asked], [len(v) for _, v in asked]).mean())
    mean = min(1.0, max(0.0, float(scores.mean())))
    pooled = stats.wilson(mean, len(scores))
    for found, (low, high) in ((plain, pooled), (lift, stats.lift(pooled, chance, mean).tolist())):
        found["interval"] = [min(found["interval"][0], low), max(found["interval"][1], high)]


# (scores of a row's examples, chance, their mean) -> what is averaged
KINDS_OF_SCORE: tuple[Callable[[np.ndarray, float, float], np.ndarray], ...] = (
    lambda scores, chance, _: np.array([stats.corrected(v, chance) for v in scores]),
    lambda scores, *_: scores,
    stats.lift,
)


def _by_task(
    used: list[tuple[str, dict]], values: dict[str, list[float]], of: Callable[..., np.ndarray]
) -> dict[str, tuple[str, np.ndarray]]:
    """{task: (cluster, scores of its examples)}, variants of one task together."""
    tasks: dict[str, tuple[str, np.ndarray]] = {}
    for name, row in used:
        scores = of(np.array(values[name]), row["chance"], float(np.mean(values[name])))
        before = tasks.get(row["task"])
        tasks[row["task"]] = (
            row["cluster"],
            scores if before is None else np.concatenate([before[1], scores]),
        )
    return tasks


def _over_clusters(used: list[tuple[str, dict]], key: str) -> float | None:
    """The mean of a row's value over tasks, then clusters, of those rows that have one."""
    found: dict[str, tuple[str, list[float]]] = {}
    for _, r in used:
        if r.get(key) is not None:
            found.setdefault(r["task"], (r["cluster"], []))[1].append(r[key])
    means = stats.cluster_means({t: (c, _mean(v)) for t, (c, v) in found.items()})
    return float(np.mean(list(means.values()))) if means else None
