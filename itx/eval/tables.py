# SPDX-License-Identifier: Apache-2.0
"""Scores as a terminal shows them: what groups are called, how a number is written, tables of
averages and rows."""

import re
import sys
from collections.abc import Iterable

import numpy as np

from itx.eval import metrics


def label(group: str, kind: str) -> str:
    """How a group is called in tables and pictures."""
    names = {
        "instances": "new examples, trained tasks", "templates": "unseen templates", "tasks": "unseen tasks",
        "clusters": "unseen clusters", "instruction": "instruction", "extra": "other data",
        "retention": "kept from before tuning",
    }  # fmt: skip
    if group == "extra" and kind:
        kind = "unrelated to training" if kind == "none" else f"{kind} as training"
    return names[group] + (
        f", {'kept' if kind == 'none' and group == 'instruction' else kind}" if kind else ""
    )


def console():
    """Wide enough for the tables where the output goes to a file."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=140)


def shown(value: float | None, interval: list[float] | None = None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" + (f" [{interval[0]:.2f}, {interval[1]:.2f}]" if interval else "")


def cut_lines(rows: Iterable[dict]) -> list[str]:
    """How many answers the limits cut, a line for each setting that makes them longer."""
    cut: dict[str, list[int]] = {}
    for r in rows:
        if r["hit_limit"]:
            cut.setdefault(r.get("limit_from", "eval.max_new_tokens"), []).append(r["hit_limit"])
    return [f"{sum(counts)} answers of {len(counts)} rows were cut at their row's limit; --{setting} makes it longer"
            for setting, counts in sorted(cut.items())]  # fmt: skip


def percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"


def print_scores(scores: dict) -> None:
    """Averages and rows as tables."""
    from rich.markup import escape
    from rich.table import Table

    out = console()
    table = Table(title=f"scores at step {scores['step']}, 95 % intervals")
    for column in ("group", "score", "chance", "none of the options", "tasks", "clusters"):
        table.add_column(column, justify="left" if column == "group" else "right")
    for g in scores["groups"]:
        note = " (all easy)" if g["all_easy"] else ""
        table.add_row(label(g["group"], g["kind"]) + note, shown(g["score"], g["score_interval"]), shown(g["chance"]),
                      percent(g["none_of_options"]), str(g["tasks"]), str(len(g["clusters"])))  # fmt: skip
    out.print(table)
    table = Table(title="rows")
    for column in (
        "row",
        "group",
        "metric",
        "score",
        "chance",
        "none of the options",
        "n",
        "no answer",
        "cut at limit",
    ):
        table.add_column(
            column, justify="left" if column in ("row", "group", "metric") else "right"
        )
    for name, r in scores["rows"].items():
        table.add_row(escape(name) + (" (easy)" if r["easy"] else ""), label(r["group"], ""),
                      escape(metrics.shown(r["metric"])), shown(r["score"], r["interval"]), shown(r["chance"]),
                      percent(r.get("none_of_options")), str(r["examples"]), str(r["no_answer"]),
                      str(r["hit_limit"]))  # fmt: skip
    out.print(table)
    for line in cut_lines(scores["rows"].values()):
        out.print(line, markup=False, highlight=False)


def by_draw(scores: dict) -> dict[str, dict]:
    """The rows of one setting, draws of exemplars together: {row: {"score", "sd", "draws",
    "missing", "trained_on"}}.

    sd: of the draws' scores, None for one; missing: exemplars by which a prompt falls short of what
    was asked, on average.
    """
    found: dict[str, list[dict]] = {}
    for name, r in scores["rows"].items():
        base, at, suffix = name.partition("@")
        found.setdefault(base.partition("#")[0] + at + suffix, []).append(r)
    out = {}
    for name, rows in found.items():
        values = [r["score"] for r in rows if r["score"] is not None]
        out[name] = {
            "score": float(np.mean(values)) if values else None, "draws": len(rows),
            "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None,
            "missing": float(np.mean([r["shots"] - r["mean_shots"] if "shots" in r else 0 for r in rows])),
            "trained_on": rows[0].get("trained_on"),
        }  # fmt: skip
    return out


def print_settings(settings: dict[str, dict], split: str) -> None:
    """Numbers of exemplars side by side: averages of groups, then rows."""
    from rich.markup import escape
    from rich.table import Table

    out = console()
    heads = ["shots as trained" if k == "own" else f"{k} shots" for k in settings]
    step = next(iter(settings.values()))["step"]
    table = Table("group", *heads, title=f"{split} split at step {step}: scores, 95 % intervals")
    groups = {k: {(g["group"], g["kind"]): g for g in s["groups"]} for k, s in settings.items()}
    for key in dict.fromkeys(key for g in groups.values() for key in g):
        cells = [
            shown(g[key]["score"], g[key]["score_interval"]) if key in g else "-"
            for g in groups.values()
        ]
        table.add_row(label(*key), *cells)
    out.print(table)
    table = Table(
        "row",
        *heads,
        "% trained on",
        title="rows: score, ± standard deviation over draws of exemplars",
    )
    rows = {k: by_draw(s) for k, s in settings.items()}
    if "own" not in rows:  # a task's rows with so many and so many exemplars stand side by side
        rows = {
            k: {re.sub(r":fs\d+", "", name): r for name, r in of.items()} for k, of in rows.items()
        }
    for name in dict.fromkeys(n for of in rows.values() for n in of):
        cells = []
        for r in (of.get(name) for of in rows.values()):
            few = f" ({r['missing']:.1f} exemplars missing)" if r and r["missing"] else ""
            cells.append(
                "-"
                if r is None
                else shown(r["score"]) + ("" if r["sd"] is None else f" ± {r['sd']:.2f}") + few
            )
        share = next(of[name]["trained_on"] for of in rows.values() if name in of)
        table.add_row(escape(name), *cells, "-" if share is None else f"{share:.1%}")
    out.print(table)
    test = next(iter(settings.values())).get("contamination", {})
    if why := test.get("untested"):
        out.print(f"% trained on: not tested, for {why}", markup=False)
    elif test:
        out.print(f"% trained on: of the examples scored, those in training records; tested for {test['tested_for']}; "
                  "not for paraphrase", markup=False)  # fmt: skip
