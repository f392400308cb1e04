# SPDX-License-Identifier: Apache-2.0
"""From predictions to scores.json: a row's score, its chance level, and averages over rows.

    {"step", "rows": {name: row}, "groups": [average, …], "easy": {task: why}}

Groups are never pooled: held-out instances, templates, tasks and clusters (these two by grade), the
instruction ablation by kind, extra rows by relation to training. Tasks that the audit marks easy
stand in the rows but in no average.
"""

import json
import re
import sys
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from itx import storage, text
from itx.config import RunConfig
from itx.data import cache
from itx.eval import foreign, metrics, stats

GROUPS = ("instances", "templates", "tasks", "clusters", "instruction", "extra", "retention")
GRADES = ("new argument", "new composition", "new operation")
RANKINGS = ("sum", "token", "byte", "calibrated")
ABLATIONS = ("none", "removed", "swapped")


def predictions_file(run: Any, step: int, row: str) -> Path:
    """The file of a row's predictions. Names are percent-encoded, so that no two rows share a file (`x:cot`, `x_cot`)."""
    return run.eval_dir(step) / "predictions" / f"{quote(row, safe='@')}.jsonl"


def read_predictions(run: Any, step: int, row: str) -> list[dict]:
    with open(predictions_file(run, step, row), encoding="utf-8") as f:
        return [json.loads(line) for line in f]


def write_scores(run: Any, step: int, rows: list[dict], lock: dict, config: RunConfig) -> dict:
    """Summarise rows whose predictions are on disk; rows scored before and not now are kept."""
    file = run.scores_json(step)
    old = storage.read_object(file, "rows") if file.is_file() else {"rows": {}}
    easy = storage.read_object(run.audit_json).get("easy", {}) if run.audit_json.is_file() else {}
    kept = {n: r for n, r in old["rows"].items() if predictions_file(run, step, n).is_file()}
    for row in rows:
        lines = read_predictions(run, step, row["name"])
        kept[row["name"]] = row_scores(row, lines, chance_of(row, lock, config), lock["sequence_length"])
    kept = {name: kept[name] for name in sorted(kept)}
    for r in kept.values():
        r["easy"] = r["group"] in ("instances", "templates", "instruction") and r["task"] in easy
    scores = {
        "step": step, "split": config.eval.split, "rows": kept,
        "groups": averages(kept, {n: example_scores(r, read_predictions(run, step, n)) for n, r in kept.items()}),
        "easy": easy,
    }  # fmt: skip
    storage.write_json(file, scores)
    return scores


# ---- one row ---------------------------------------------------------------------------------------


def example_scores(row: dict, lines: list[dict]) -> list[float]:
    """One number per example, whose mean is the row's score: the mean over its templates, or what it adds to the score of
    the whole set. Examples, not prompts, are what n counts."""
    if counted := _set_metric(row, lines):
        return stats.influences(_counts(counted, lines), counted.score)
    found: dict[str, list[float]] = {}
    for line in lines:
        found.setdefault(line["id"], []).append(line["score"])
    return [float(np.mean(v)) for v in found.values()]


def _set_metric(row: dict, lines: list[dict]) -> metrics.SetMetric | None:
    """The row's primary metric where it is one of a whole set. `row` is the lock's or one of scores.json."""
    if row.get("seqio") or row.get("primary") == "rank" or row.get("metric") == "rank" or not lines:
        return None
    name = row.get("set_metric", "") if "metric" in row else next(iter(row["metrics"]), "")
    return metrics.set_metric(name, [x["references"] for x in lines]) if name else None


def _counts(counted: metrics.SetMetric, lines: list[dict]) -> np.ndarray:
    """Counts [examples, k], over all templates of an example; of no answer those of an empty one."""
    found: dict[str, np.ndarray] = {}
    for line, counts in zip(lines, counted.counts([x["references"] for x in lines], answers(lines)), strict=True):
        found[line["id"]] = found.get(line["id"], 0) + counts
    return np.array(list(found.values()))


def answers(lines: list[dict]) -> list[str]:
    return ["" if x["extracted"] is None else x["extracted"] for x in lines]


def row_scores(row: dict, lines: list[dict], chance: tuple[float, str], longest: int) -> dict:
    """All that the report shows of one row."""
    values = example_scores(row, lines)
    counted = _set_metric(row, lines)
    if counted:
        mean, (low, high) = stats.of_counts(_counts(counted, lines), counted.score)
    else:
        mean = float(np.mean(values)) if values else 0.0
        low, high = stats.wilson(mean, len(values))
    references = [x["references"] for x in lines]
    signatures = {m: c.signature(references) for m in row["metrics"]
                  if not row.get("seqio") and lines and (c := metrics.set_metric(m, references))}  # fmt: skip
    ranked = [x for x in lines if "rank" in x]
    if row.get("seqio"):
        found = foreign.values(row, lines) if lines else {}
    else:
        found = {m: metrics.of_answers(m, references, answers(lines)) if m in signatures else
                 _mean(x["scores"][m] for x in lines) for m in row["metrics"]}  # fmt: skip
    return {
        **{k: row[k] for k in ("task", "variant", "cluster", "group", "grade", "relation", "ablation", "split")},
        "metric": "rank" if row["primary"] == "rank" else next(iter(found), ""), "max_examples": row["max_examples"],
        "examples": len(values), "prompts": len(lines), "score": mean, "interval": [low, high],
        "chance": chance[0], "chance_from": chance[1], "corrected": stats.corrected(mean, chance[0]),
        "corrected_interval": [stats.corrected(v, chance[0]) for v in (low, high)],
        "interval_from": "bootstrap" if counted else "Wilson",
        "metrics": found, **({"signatures": signatures} if signatures else {}),
        **({"set_metric": row["metrics"][0]} if counted else {}),
        "rank": {n: _mean(x["rank"]["choice"][n] == x["answer_index"] for x in ranked) for n in RANKINGS}
        if ranked else None,
        "by_template": _by_template(row, lines), "by_gold_position": _by_gold_position(ranked),
        "hit_limit": sum(not x["finished"] for x in lines), "limit": row["limit"], "limit_from": row["limit_from"],
        "no_answer": sum(x["extracted"] is None for x in lines),
        "limit_below_gold": row["max_target_tokens"] > row["limit"],
        "prompts_longer_than_a_row": sum(x["prompt_tokens"] >= longest for x in lines),
        **({"shots": row["shots"], "mean_shots": _mean(x["shots"] for x in lines)} if row.get("shots") else {}),
    }  # fmt: skip


def _mean(values) -> float:
    values = [float(v) for v in values]
    return sum(values) / len(values) if values else 0.0


def _by_template(row: dict, lines: list[dict]) -> dict[str, dict]:
    """{template: {"score", "prompts"}}"""
    found: dict[str, list[dict]] = {}
    for x in lines:
        found.setdefault(x["template"], []).append(x)
    return {k: {"score": _mean(example_scores(row, found[k])), "prompts": len(found[k])} for k in sorted(found)}


def _by_gold_position(ranked: list[dict]) -> dict[str, dict]:
    """{place of the right option: {"score", "prompts"}}, by the ranking's own accuracy."""
    found: dict[int, list[float]] = {}
    for x in ranked:
        found.setdefault(x["answer_index"], []).append(float(x["rank"]["choice"]["sum"] == x["answer_index"]))
    return {str(k): {"score": _mean(found[k]), "prompts": len(found[k])} for k in sorted(found)}


def chance_of(row: dict, lock: dict, config: RunConfig) -> tuple[float, str]:
    """(level, where it comes from): max(mean of 1/options, what always saying the commonest answer scores).

    Measured on all examples that the cache keeps for the row, not only on those asked: two examples
    would make every answer the commonest.
    """
    cache_dir = Path(config.data.cache_dir)
    asked = examples(cache_dir / row["folder"])
    options = _mean(1 / len(x["options"]) if x["options"] else 0.0 for x in asked)
    trained = training_folder(row, lock, cache_dir)
    if trained:
        constant, why = commonest_score(_commonest_of(trained), row, asked), "commonest training answer"
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
    own = [t for t in lock["tasks"] if t["task"] == row["task"] and "inv" not in t["name"].split(":")[1:]]
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
    return metrics.of_answers(metrics.of_row(row), [x["references"] for x in asked], [constant] * len(asked))


def leave_one_out(asked: list[dict]) -> float:
    """Share of the commonest answer among the other contents of a row: 0 where all differ."""
    answers = Counter(text.normalise(x["references"][0], answer=True) for x in asked)
    most = max(answers.values(), default=0)
    return (most - 1) / (len(asked) - 1) if len(asked) > 1 else 0.0


# ---- averages --------------------------------------------------------------------------------------


def averages(rows: dict[str, dict], values: dict[str, list[float]]) -> list[dict]:
    """Averages of corrected scores over tasks, then clusters: [{"group", "kind", "mean", …}]."""
    found: dict[tuple[str, str], list[str]] = {}
    for name, row in rows.items():
        kind = {"tasks": row["grade"] or "", "clusters": row["grade"] or "", "instruction": row["ablation"] or "",
                "extra": row["relation"]}.get(row["group"], "")  # fmt: skip
        found.setdefault((row["group"], kind), []).append(name)
    order = (*GRADES, *ABLATIONS)
    keys = sorted(found, key=lambda k: (GROUPS.index(k[0]), order.index(k[1]) if k[1] in order else -1, k[1]))
    return [{"group": g, "kind": k, **_average([(n, rows[n]) for n in found[g, k]], values)} for g, k in keys]


def _average(members: list[tuple[str, dict]], values: dict[str, list[float]]) -> dict:
    used = [(n, r) for n, r in members if not r["easy"]]
    tasks: dict[str, tuple[str, np.ndarray]] = {}
    for name, row in used:  # variants of one task count as one task
        scores = np.array([stats.corrected(v, row["chance"]) for v in values[name]])
        before = tasks.get(row["task"])
        tasks[row["task"]] = (row["cluster"], scores if before is None else np.concatenate([before[1], scores]))

    def plain(key: str) -> float:
        by_task = {t: (c, _mean(r[key] for _, r in used if r["task"] == t)) for t, (c, _) in tasks.items()}
        return float(np.mean(list(stats.cluster_means(by_task).values()))) if by_task else 0.0

    average = stats.average(tasks)
    if len(used) == 1:  # one task: its own interval
        row = used[0][1]
        average |= {"interval": row["corrected_interval"], "method": f"{row.get('interval_from', 'Wilson')}, one task"}
    return {
        **average, "score": plain("score"), "chance": plain("chance"),
        "rows": [n for n, _ in used], "easy": [n for n, r in members if r["easy"]],
    }  # fmt: skip


def label(group: str, kind: str) -> str:
    """How a group is called in tables and pictures."""
    names = {
        "instances": "new examples, trained tasks", "templates": "unseen templates", "tasks": "unseen tasks",
        "clusters": "unseen clusters", "instruction": "instruction", "extra": "other data",
        "retention": "kept from before tuning",
    }  # fmt: skip
    if group == "extra" and kind:
        kind = "unrelated to training" if kind == "none" else f"{kind} as training"
    return names[group] + (f", {'kept' if kind == 'none' and group == 'instruction' else kind}" if kind else "")


def console():
    """Wide enough for the tables where the output goes to a file."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=140)


def shown(value: float | None, interval: list[float] | None = None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" + (f" [{interval[0]:.2f}, {interval[1]:.2f}]" if interval else "")


def cut_at(row: dict) -> str:
    """How many answers the row's limit cut, and which setting makes it longer: `3 at 48 (eval.limit_factor)`."""
    if not row["hit_limit"]:
        return "0"
    return f"{row['hit_limit']} at {row['limit']} ({row.get('limit_from', 'eval.max_new_tokens')})"


def cut_lines(rows: Iterable[dict]) -> list[str]:
    """How many answers the limits cut, a line for each setting that makes them longer."""
    cut: dict[str, list[int]] = {}
    for r in rows:
        if r["hit_limit"]:
            cut.setdefault(r.get("limit_from", "eval.max_new_tokens"), []).append(r["hit_limit"])
    return [f"{sum(counts)} answers of {len(counts)} rows were cut at their row's limit; --{setting} makes it longer"
            for setting, counts in sorted(cut.items())]  # fmt: skip


def print_scores(scores: dict) -> None:
    """Averages and rows as tables."""
    from rich.markup import escape
    from rich.table import Table

    out = console()
    table = Table(title=f"scores at step {scores['step']}: corrected for chance, 95 % intervals")
    for column in ("group", "corrected", "score", "chance", "tasks", "clusters"):
        table.add_column(column, justify="left" if column == "group" else "right")
    for g in scores["groups"]:
        table.add_row(label(g["group"], g["kind"]), shown(g["mean"], g["interval"]), shown(g["score"]),
                      shown(g["chance"]), str(g["tasks"]), str(len(g["clusters"])))  # fmt: skip
    out.print(table)
    table = Table(title="rows")
    for column in ("row", "group", "metric", "score", "chance", "corrected", "n", "no answer", "cut at limit"):
        table.add_column(column, justify="left" if column in ("row", "group", "metric") else "right")
    for name, r in scores["rows"].items():
        table.add_row(escape(name), label(r["group"], ""), escape(metrics.shown(r["metric"])), shown(r["score"], r["interval"]),
                      shown(r["chance"]), shown(r["corrected"]) + (" easy" if r["easy"] else ""), str(r["examples"]),
                      str(r["no_answer"]), str(r["hit_limit"]))  # fmt: skip
    out.print(table)
    for line in cut_lines(scores["rows"].values()):
        out.print(line, markup=False, highlight=False)


def by_draw(scores: dict) -> dict[str, dict]:
    """The rows of one setting, draws of exemplars together: {row: {"score", "sd", "draws", "missing"}}.

    sd: of the draws' scores, None for one; missing: exemplars by which a prompt falls short of what was asked, on average.
    """
    found: dict[str, list[dict]] = {}
    for name, r in scores["rows"].items():
        base, at, suffix = name.partition("@")
        found.setdefault(base.partition("#")[0] + at + suffix, []).append(r)
    return {
        name: {
            "score": _mean(r["score"] for r in rows), "draws": len(rows),
            "sd": float(np.std([r["score"] for r in rows], ddof=1)) if len(rows) > 1 else None,
            "missing": _mean(r["shots"] - r["mean_shots"] if "shots" in r else 0 for r in rows),
        }
        for name, rows in found.items()
    }  # fmt: skip


def print_settings(settings: dict[str, dict], split: str) -> None:
    """Numbers of exemplars side by side: averages of groups, then rows."""
    from rich.markup import escape
    from rich.table import Table

    out = console()
    heads = ["shots as trained" if k == "own" else f"{k} shots" for k in settings]
    step = next(iter(settings.values()))["step"]
    table = Table("group", *heads, title=f"{split} split at step {step}: corrected for chance, 95 % intervals")
    groups = {k: {(g["group"], g["kind"]): g for g in s["groups"]} for k, s in settings.items()}
    for key in dict.fromkeys(key for g in groups.values() for key in g):
        cells = [shown(g[key]["mean"], g[key]["interval"]) if key in g else "-" for g in groups.values()]
        table.add_row(label(*key), *cells)
    out.print(table)
    table = Table("row", *heads, title="rows: score, ± standard deviation over draws of exemplars")
    rows = {k: by_draw(s) for k, s in settings.items()}
    if "own" not in rows:  # a task's rows with so many and so many exemplars stand side by side
        rows = {k: {re.sub(r":fs\d+", "", name): r for name, r in of.items()} for k, of in rows.items()}
    for name in dict.fromkeys(n for of in rows.values() for n in of):
        cells = []
        for r in (of.get(name) for of in rows.values()):
            few = f" ({r['missing']:.1f} exemplars missing)" if r and r["missing"] else ""
            cells.append(
                "-" if r is None else shown(r["score"]) + ("" if r["sd"] is None else f" ± {r['sd']:.2f}") + few
            )
        table.add_row(escape(name), *cells)
    out.print(table)
