# SPDX-License-Identifier: Apache-2.0
"""Scores as a terminal shows them: what groups are called, how a number is written, tables of
averages and rows."""

import re
import sys
from collections.abc import Collection, Iterable

import numpy as np

from itx.eval import bias, metrics, stats


def label(group: str, kind: str) -> str:
    """How a group is called in tables and pictures."""
    names = {
        "instances": "new examples, trained tasks",
        "templates": "unseen templates",
        "tasks": "unseen tasks",
        "clusters": "unseen clusters",
        "instruction": "instruction",
        "extra": "other data",
        "retention": "kept from before tuning",
    }
    if group == "extra" and kind:
        kind = "unrelated to training" if kind == "none" else f"{kind} as training"
    if group == "instruction" and kind == "none":
        kind = "kept"
    return names[group] + (f", {kind}" if kind else "")


def console():
    """Wide enough for the tables where the output goes to a file."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=140)


def table(
    title: str,
    head: Iterable[str],
    rows: Iterable[Iterable[str]],
    left: Collection[str] = (),
    fold: bool = False,
):
    """A rich.Table of texts, each shown as it is.

    Args:
        left: the columns that stand left; numbers stand right.
        fold: the left columns break long words, the others stay on one line; else what has no room
            is cut short.
    """
    from rich.markup import escape
    from rich.table import Table

    made = Table(title=escape(title))
    for column in head:
        own = column in left
        made.add_column(
            escape(column),
            justify="left" if own else "right",
            overflow="fold" if fold else "ellipsis",
            no_wrap=fold and not own,
        )
    for row in rows:
        made.add_row(*map(escape, row))
    return made


def shown(value: float | None, interval: list[float] | None = None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" + (f" [{interval[0]:.2f}, {interval[1]:.2f}]" if interval else "")


def cut_lines(rows: Iterable[dict]) -> list[str]:
    """How many answers the limits cut, a line for each setting that makes them longer."""
    cut = stats.grouped(
        (r.get("limit_from", "eval.max_new_tokens"), r["hit_limit"]) for r in rows if r["hit_limit"]
    )
    return [
        f"{sum(counts)} answers of {len(counts)} rows were cut at their row's limit; "
        f"--{setting} makes it longer"
        for setting, counts in sorted(cut.items())
    ]


def bias_lines(rows: dict[str, dict]) -> list[str]:
    """What the bias benchmarks among the rows of scores.json say."""
    return [f"{name}: {line}" for name, r in rows.items() if "bias" in r for line in bias.says(r)]


def percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"


def print_scores(scores: dict) -> None:
    """Averages and rows of scores.json as tables."""
    out = console()
    groups = [
        (
            label(g["group"], g["kind"]) + (" (all easy)" if g["all_easy"] else ""),
            shown(g["score"], g["score_interval"]),
            shown(g["chance"]),
            percent(g["none_of_options"]),
            str(g["tasks"]),
            str(len(g["clusters"])),
        )
        for g in scores["groups"]
    ]
    title = f"scores at step {scores['step']}, 95 % intervals"
    head = ("group", "score", "chance", "none of the options", "tasks", "clusters")
    out.print(table(title, head, groups, left=("group",)))
    rows = [
        (
            name + (" (easy)" if r["easy"] else ""),
            label(r["group"], ""),
            metrics.shown(r["metric"]),
            shown(r["score"], r["interval"]),
            shown(r["chance"]),
            percent(r.get("none_of_options")),
            *(str(r[key]) for key in ("examples", "no_answer", "hit_limit")),
        )
        for name, r in scores["rows"].items()
    ]
    texts = ("row", "group", "metric")
    numbers = ("score", "chance", "none of the options", "n", "no answer", "cut at limit")
    out.print(table("rows", (*texts, *numbers), rows, left=texts))
    for line in [*cut_lines(scores["rows"].values()), *bias_lines(scores["rows"])]:
        out.print(line, markup=False, highlight=False)


def by_draw(scores: dict) -> dict[str, dict]:
    """The rows of one setting, draws of exemplars together: {row: {"score", "sd", "draws",
    "missing", "trained_on"}}.

    sd: of the draws' scores, None for one; missing: exemplars by which a prompt falls short of what
    was asked, on average.
    """
    draws: dict[str, list[dict]] = {}
    for name, r in scores["rows"].items():
        base, at, suffix = name.partition("@")
        draws.setdefault(base.partition("#")[0] + at + suffix, []).append(r)
    joined = {}
    for name, rows in draws.items():
        values = [r["score"] for r in rows if r["score"] is not None]
        missing = [r["shots"] - r["mean_shots"] if "shots" in r else 0 for r in rows]
        joined[name] = {
            "score": float(np.mean(values)) if values else None,
            "draws": len(rows),
            "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None,
            "missing": float(np.mean(missing)),
            "trained_on": rows[0].get("trained_on"),
        }
    return joined


def print_settings(settings: dict[str, dict], split: str, own: str = "shots as trained") -> None:
    """Numbers of exemplars side by side: averages of groups, then rows.

    Args:
        settings: {exemplars, or "own": scores.json of that setting}.
        own: the head of the column "own".
    """
    out, first = console(), next(iter(settings.values()))
    heads = [own if k == "own" else f"{k} shots" for k in settings]
    groups = [{(g["group"], g["kind"]): g for g in s["groups"]} for s in settings.values()]
    rows = [
        [label(*key), *(_group_cell(averages.get(key)) for averages in groups)]
        for key in dict.fromkeys(key for averages in groups for key in averages)
    ]
    title = f"{split} split at step {first['step']}: scores, 95 % intervals"
    out.print(table(title, ("group", *heads), rows, left=("group", *heads)))
    by_setting = list(map(by_draw, settings.values()))
    if (
        "own" not in settings
    ):  # a task's rows with different numbers of exemplars stand side by side
        by_setting = [
            {re.sub(r":fs\d+", "", name): r for name, r in joined.items()} for joined in by_setting
        ]
    rows = []
    for name in dict.fromkeys(name for joined in by_setting for name in joined):
        of_row = [joined.get(name) for joined in by_setting]
        share = next(r["trained_on"] for r in of_row if r)
        trained_on = "-" if share is None else f"{share:.1%}"
        rows.append([name, *map(_draws_cell, of_row), trained_on])
    head = ("row", *heads, "% trained on")
    title = "rows: score, ± standard deviation over draws of exemplars"
    out.print(table(title, head, rows, left=head))
    for setting, scores in settings.items():
        shots = "" if setting == "own" else f", {setting} shots"
        for line in bias_lines(scores["rows"]):
            out.print(line + shots, markup=False, highlight=False)
    test = first.get("contamination", {})
    if why := test.get("untested"):
        out.print(f"% trained on: not tested, for {why}", markup=False)
    elif test:
        line = (
            "% trained on: of the examples scored, those in training records; "
            f"tested for {test['tested_for']}; not for paraphrase"
        )
        out.print(line, markup=False)


def _group_cell(average: dict | None) -> str:
    return shown(average["score"], average["score_interval"]) if average else "-"


def _draws_cell(row: dict | None) -> str:
    if row is None:
        return "-"
    deviation = "" if row["sd"] is None else f" ± {row['sd']:.2f}"
    few = f" ({row['missing']:.1f} exemplars missing)" if row["missing"] else ""
    return shown(row["score"]) + deviation + few
