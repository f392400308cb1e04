# SPDX-License-Identifier: Apache-2.0
"""`itx compare`: runs side by side, and what differs between them."""

import argparse
from argparse import Namespace

from itx.analysis import compare
from itx.commands.arguments import command
from itx.eval import metrics
from itx.eval.tables import console, label, shown, table
from itx.storage import local
from itx.text import visible


def add_arguments(parser: argparse.ArgumentParser) -> None:
    option = command(parser, compare_runs).add_argument
    option(
        "runs",
        nargs="+",
        type=local,
        metavar="RUN",
        help="run folders (their newest scores), RUN/checkpoints/STEP, or a folder of runs",
    )
    option("--rows", action="store_true", help="also every row, by each of its metrics")


def compare_runs(args: Namespace) -> tuple[dict, int]:
    facts = compare.facts(args.runs)
    names = [r["name"] for r in facts["runs"]]
    for r in facts["runs"]:
        if r["note"]:
            print(visible(f"{r['run']}: {r['note']}"))
    for x in facts["left_out"]:
        print(visible(f"left out: {x['run']}: {x['why']}"))
    _print_groups(facts["groups"], names)
    if args.rows:
        _print_rows(facts["rows"], names)
    _print_retention(facts["retention"], names)
    _print_differences(facts, names)
    return facts, 1 if facts["left_out"] else 0


def _print_groups(groups: list[dict], names: list[str]) -> None:
    out, other = console(), [g["label"] for g in groups if not g["same_questions"]]
    cells = []
    for g in groups:
        of = [g["scores"].get(n) for n in names]
        chances = dict.fromkeys(shown(x["chance"]) for x in of if x)
        tasks = dict.fromkeys(str(x["tasks"]) for x in of if x)
        scores = [shown(x["score"], x["score_interval"]) if x else "-" for x in of]
        cells.append((g["label"], *scores, " / ".join(chances), " / ".join(tasks)))
    title = "scores, 95 % intervals; groups are never pooled"
    out.print(table(title, ("group", *names, "chance", "tasks"), cells, left=("group",)))
    cells = []
    for g in groups:
        of = [g["answers"].get(n) for n in names]
        cells.append((g["label"], *map(_answers, of)))
    title = "answers: characters on average, and how many were cut at their limit"
    out.print(table(title, ("group", *names), cells, left=("group",)))
    if other:
        print(
            "not the same questions in every run, so that scores cannot be compared as they "
            f"stand: {', '.join(other)}"
        )


def _answers(of: dict | None) -> str:
    if of is None or of["characters"] is None:
        return "-"
    return f"{of['characters']:.1f}, {of['cut']} of {of['answers']} cut"


def _print_rows(rows: list[dict], names: list[str]) -> None:
    cells = [
        (
            visible(r["row"]),
            label(r["group"], ""),
            metrics.shown(r["metric"]),
            *(shown(r["scores"].get(n)) for n in names),
        )
        for r in rows
    ]
    texts = ("row", "group", "metric")
    console().print(table("rows", (*texts, *names), cells, left=texts))


def _print_retention(retention: dict, names: list[str]) -> None:
    if retention:
        cells = [(t, *(shown(of.get(n)) for n in names)) for t, of in retention.items()]
        title = "kept from before tuning: bits per byte of held-out text, lower is better"
        console().print(table(title, ("text", *names), cells, left=("text",)))


def _print_differences(facts: dict, names: list[str]) -> None:
    cells = [
        (name, *(visible(str(of[n])) for n in names)) for name, of in facts["settings"].items()
    ]
    if cells:
        head = ("setting", *names)
        console().print(table("settings that differ", head, cells, left=head, fold=True))
    else:
        print("settings: all the same")
    first = names[0]
    for d in facts["data"]:
        if d["batches"]:
            print(visible(f"data of {d['run']}, beside {first}: {d['batches']}"))
        if d["questions"]:
            print(visible(f"questions of {d['run']}, beside {first}: {d['questions']}"))
    if not facts["data"]:
        print("data: the same batches and the same questions")
