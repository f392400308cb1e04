# SPDX-License-Identifier: Apache-2.0
"""From predictions to scores.json: a row's score, its chance level, and averages over rows.

    {"step", "rows": {name: row}, "groups": [average, …], "easy": {task: why}}; of rows that the
    lock did not know, each row's "trained_on" and "contamination": {"tested_for", "untested": why
    not, or ""}

Tasks that the audit marks easy stand in the rows but in no average.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from itx import storage
from itx.config import RunConfig
from itx.data.types import Lock
from itx.eval import bias, foreign, metrics, stats
from itx.eval.averages import averages
from itx.eval.budget import Budget
from itx.eval.chance import chance_of
from itx.eval.predictions import PredictionLine, ScoredRow, predictions_file, read_predictions

if TYPE_CHECKING:  # the run folder imports JAX
    from itx.runs import RunFolder

RANKINGS = ("sum", "token", "byte", "calibrated")
# what scores.json takes over from a row of the lock
OF_LOCK = ("task", "variant", "cluster", "group", "grade", "relation", "ablation", "split")


def write_scores(
    run: "RunFolder",
    step: int,
    rows: list[ScoredRow],
    lock: Lock,
    config: RunConfig,
    limited: Budget | None = None,
) -> dict:
    """Summarise rows whose predictions are on disk; rows scored before and not now are kept.

    Args:
        config: its eval.max_examples is what was asked.
        limited: what eval.max_seconds left, with the seconds that were taken; without them where
            some rows had been asked before.
    """
    file = run.scores_json(step)
    held = storage.read_object(file, "rows", absent={"rows": {}})
    old = held["rows"]
    easy = storage.read_object(run.audit_json, absent={}).get("easy", {})
    scored = {n: r for n, r in old.items() if predictions_file(run, step, n).is_file()}
    for row in rows:
        lines = read_predictions(run, step, row["name"])
        chance = chance_of(row, lock, config)
        scored[row["name"]] = row_scores(row, lines, chance, lock["sequence_length"])
    scored = {name: scored[name] for name in sorted(scored)}
    for r in scored.values():
        r["easy"] = r["group"] in ("instances", "templates", "instruction") and r["task"] in easy
    values = {n: example_scores(r, read_predictions(run, step, n)) for n, r in scored.items()}
    scores = {
        "step": step,
        "split": config.eval.split,
        "rows": scored,
        "groups": averages(scored, values),
        "easy": easy,
        **({"contamination": lock["contamination"]} if "contamination" in lock else {}),
    }
    if limited:
        before = held.get("budget", {}).get("seconds")
        scores["budget"] = {**limited, "seconds": limited["seconds"] or before}
    storage.write_json(file, storage.sealed(scores))
    return scores


def example_scores(row: dict, lines: list[PredictionLine]) -> list[float]:
    """One number for each example, whose mean is the row's score: the mean over its templates, or
    what it adds to the score of the whole set. Examples, not prompts, are what n counts."""
    if counted := _set_metric(row, lines):
        return stats.influences(_counts(counted, lines), counted.score)
    by_example = stats.grouped((line["id"], line["score"]) for line in lines)
    return [float(np.mean(scores)) for scores in by_example.values()]


def _set_metric(row: dict, lines: list[PredictionLine]) -> metrics.SetMetric | None:
    """The row's primary metric where it is one of a whole set. `row` is the lock's or one of
    scores.json."""
    if row.get("seqio") or row.get("primary") == "rank" or row.get("metric") == "rank" or not lines:
        return None
    name = row.get("set_metric", "") if "metric" in row else next(iter(row["metrics"]), "")
    return metrics.set_metric(name, [x["references"] for x in lines]) if name else None


def _counts(counted: metrics.SetMetric, lines: list[PredictionLine]) -> np.ndarray:
    """Counts [examples, k], over all templates of an example; no answer counts as an empty one."""
    counts = counted.counts([x["references"] for x in lines], answers(lines))
    by_example = stats.grouped((x["id"], c) for x, c in zip(lines, counts, strict=True))
    return np.array([sum(several) for several in by_example.values()])


def answers(lines: list[PredictionLine]) -> list[str]:
    return ["" if x["extracted"] is None else x["extracted"] for x in lines]


def row_scores(
    row: ScoredRow, lines: list[PredictionLine], chance: tuple[float, str], longest: int
) -> dict:
    """All that scores.json holds of one row.

    Args:
        chance: the level and where it comes from.
        longest: tokens of a training row.
    """
    values = example_scores(row, lines)
    counted, mean, interval = _set_metric(row, lines), None, None
    if counted:
        mean, interval = stats.of_counts(_counts(counted, lines), counted.score)
    elif values:
        mean = float(np.mean(values))
        interval = stats.wilson(mean, len(values))
    level, chance_from = chance
    by_metric, signatures = _by_metric(row, lines)
    ranked = [x for x in lines if "rank" in x]
    rank = {n: stats.mean(_is_ranked_first(x, n) for x in ranked) for n in RANKINGS}
    scores = {
        **{key: row[key] for key in OF_LOCK},
        "metric": "rank" if row["primary"] == "rank" else next(iter(by_metric), ""),
        "max_examples": row["max_examples"],
        "examples": len(values),
        "prompts": len(lines),
        "score": mean,
        "interval": interval and list(interval),
        "chance": level,
        "chance_from": chance_from,
        "corrected": None if mean is None else stats.corrected(mean, level),
        "corrected_interval": interval and [stats.corrected(v, level) for v in interval],
        "none_of_options": none_of_options(row, lines),
        "interval_from": "bootstrap" if counted else "Wilson",
        "metrics": by_metric,
        **({"signatures": signatures} if signatures else {}),
        **({"set_metric": row["metrics"][0]} if counted else {}),
        "rank": rank if ranked else None,
        "by_template": _by_template(row, lines),
        "by_gold_position": _by_gold_position(ranked),
        "hit_limit": sum(not x["finished"] for x in lines),
        "limit": row["limit"],
        "limit_from": row["limit_from"],
        "no_answer": sum(x["extracted"] is None for x in lines),
        "limit_below_gold": not row.get("verified") and row["max_target_tokens"] > row["limit"],
        "prompts_longer_than_a_row": sum(x["prompt_tokens"] >= longest for x in lines),
    }
    if "trained_on" in row:
        scores["trained_on"] = row["trained_on"]
    if measured := bias.of_row(row, lines):
        scores["bias"] = measured
    if row.get("shots"):
        scores["shots"], scores["mean_shots"] = row["shots"], stats.mean(x["shots"] for x in lines)
    return scores


def _by_metric(
    row: ScoredRow, lines: list[PredictionLine]
) -> tuple[dict[str, float], dict[str, str]]:
    """({metric: score of the row}, {metric of the whole set: how sacrebleu names it})."""
    if row.get("seqio"):
        return (foreign.values(row, lines) if lines else {}), {}
    references, scores, signatures = [x["references"] for x in lines], {}, {}
    for name in row["metrics"]:
        if lines and (counted := metrics.set_metric(name, references)):
            signatures[name] = counted.signature(references)
            scores[name] = counted.of_set(references, answers(lines))
        else:
            scores[name] = stats.mean(x["scores"][name] for x in lines)
    return scores, signatures


def _is_ranked_first(line: PredictionLine, ranking: str) -> bool:
    return line["rank"]["choice"][ranking] == line["answer_index"]


def none_of_options(row: ScoredRow, lines: list[PredictionLine]) -> float | None:
    """The share of generated answers that are none of the options: what is wrong about their form,
    not their choice. None where there are no options, or the model is not asked to write one
    (ranking, SeqIO's tasks)."""
    with_options = [x for x in lines if x["options"]]
    if not with_options or row["primary"] == "rank" or row.get("seqio"):
        return None
    judge = metrics.per_example(row["metrics"][0])
    return stats.mean(
        x["extracted"] is None or all(judge([o], x["extracted"]) < 1 for o in x["options"])
        for x in with_options
    )


def _by_template(row: ScoredRow, lines: list[PredictionLine]) -> dict[str, dict]:
    by_template = stats.grouped((x["template"], x) for x in lines)
    return _scores(by_template, lambda some: example_scores(row, some))


def _by_gold_position(ranked: list[PredictionLine]) -> dict[str, dict]:
    """By the place of the right option: the ranking's own accuracy."""
    by_place = stats.grouped((x["answer_index"], _is_ranked_first(x, "sum")) for x in ranked)
    return _scores(by_place, list)


def _scores(groups: dict, values: Callable[[list], list[float]]) -> dict[str, dict]:
    """{key: {"score", "prompts"}}, sorted."""
    return {
        str(key): {"score": stats.mean(values(groups[key])), "prompts": len(groups[key])}
        for key in sorted(groups)
    }
