# SPDX-License-Identifier: Apache-2.0
"""`itx compare`: runs side by side, and what differs between them."""

import argparse
from argparse import Namespace

from itx.analysis import blind, compare, page, paired, words
from itx.commands.arguments import command
from itx.errors import UserError
from itx.eval import metrics
from itx.eval.tables import console, label, percent, shown, table
from itx.storage import local, of_run, whole_file
from itx.stored_run import here
from itx.text import visible


def add_arguments(parser: argparse.ArgumentParser) -> None:
    option = command(parser, compare_runs).add_argument
    option(
        "runs",
        nargs="+",
        type=of_run,
        metavar="RUN",
        help="run folders (their newest scores), RUN/checkpoints/STEP, their URLs in a store, or a "
        "folder of runs",
    )
    option("--rows", action="store_true", help="also every row, by each of its metrics")
    option(
        "--margin",
        type=float,
        default=paired.MARGIN,
        help="difference of scores within which two runs are equivalent (default %(default)s)",
    )
    judged = option.__self__.add_argument_group("judged by a person, of two runs")
    judged.add_argument(
        "--blind", type=local, metavar="PAGE", help="write a page to judge answers on, unnamed"
    )
    judged.add_argument(
        "--blind_rows", type=int, default=100, metavar="N", help="at most (default %(default)s)"
    )
    judged.add_argument("--seed", type=int, default=0, metavar="N", help="of what the page shows")
    judged.add_argument(
        "--votes", type=local, nargs="+", default=[], metavar="FILE", help="what the page saved"
    )


def compare_runs(args: Namespace) -> tuple[dict, int]:
    if not 0 < args.margin < 1:
        raise UserError(f"--margin {args.margin}: a difference of scores, between 0 and 1")
    args.runs = list(map(here, args.runs))
    if args.blind or args.votes:
        return _judged(args), 0
    return side_by_side(args.runs, args.rows, args.margin)


def side_by_side(
    runs: list[str], rows: bool = False, margin: float = paired.MARGIN
) -> tuple[dict, int]:
    """What `itx compare` says of runs, printed; exit code 1 where one was left out."""
    facts = compare.facts(runs, rows, margin)
    names = [r["name"] for r in facts["runs"]]
    for r in facts["runs"]:
        if r["note"]:
            print(visible(f"{r['run']}: {r['note']}"))
    for x in facts["left_out"]:
        print(visible(f"left out: {x['run']}: {x['why']}"))
    _print_groups(facts["groups"], names)
    if rows:
        _print_rows(facts["rows"], names)
    _print_paired(facts, names[0])
    _print_information(facts["information"], names)
    _print_retention(facts["retention"], names)
    _print_declined(facts["declined"], names)
    _print_differences(facts, names)
    return facts, 1 if facts["left_out"] else 0


def _judged(args: Namespace) -> dict:
    """The page of a blind comparison, or what its votes say."""
    if args.blind and args.votes:
        raise UserError("--blind writes a page and --votes reads what it saved: give one of them")
    if args.blind_rows < 1:
        raise UserError(f"--blind_rows {args.blind_rows}: must be at least 1")
    runs = blind.pair(args.runs)
    if args.blind:
        made = blind.facts(runs, args.blind_rows, args.seed)
        with whole_file(args.blind) as part:
            part.write_text(page.blind(made), encoding="utf-8")
        for line in made["left_out"]:
            print(line)
        print(visible(f"{args.blind}: {len(made['rows'])} rows to judge; then --votes FILE"))
        return {"page": str(args.blind), "rows": len(made["rows"]), "left_out": made["left_out"]}
    several = [blind.decided(runs, blind.read(file)) for file in args.votes]
    results = [blind.result(of) for of in several]
    first, other = (r.name for r in runs)
    cells = [
        (
            visible(r["judge"]),
            *map(str, (*r["won"], r["ties"], r["bad"], r["open"])),
            shown(r["win_rate"], r["interval"]) if r["judged"] else "-",
            f"{r['p']:.3f}",
        )
        for r in results
    ]
    head = ("judge", f"won by {first}", f"won by {other}", "ties", "both bad", "open")
    title = f"win rate of {other}: its wins and half of the ties, 95 %"
    console().print(table(title, (*head, "win rate", "p"), cells, left=head[:1]))
    together = blind.agreement(several)
    if together:
        n, alike = together["rows"], together["alike"]
        print(f"decided alike by all: {alike} of {n} rows of several judges")
    return {"runs": [first, other], "votes": results, "agreement": together}


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


def _print_paired(facts: dict, first: str) -> None:
    head = ("", "pairs", "difference", "p (Holm)", "smallest found", "same length", "unknown", "")
    for name, slices in facts["paired"].items():
        title = f"{name}, beside {first}: the same questions in pairs"
        console().print(table(title, head, map(_slice_cells, slices), left=("",)))
    print(
        "difference: over tasks, then clusters, 95 %; answers that were cut, or that held none, "
        f"count as 0 and as 1 at its ends. Equivalent: within {facts['margin']:g}. Smallest found: "
        "with 80 % probability. Same length: pairs whose answers are about equally long."
    )
    for r in facts["recipes"]:
        (one, other), (n, m) = (r["first"], r["other"]), r["runs"]
        if r["groups"]:
            cells = [(g["label"], _signed(g["difference"], g["interval"])) for g in r["groups"]]
            title = f"recipe of {other} ({m} runs), beside that of {one} ({n} runs)"
            console().print(table(title, ("group", "difference"), cells, left=("group",)))
        else:
            print(
                f"{one} and {other} are of recipes with {n} and {m} runs here: the pairs compare "
                f"checkpoints; of recipes nothing is said below {compare.MIN_SEEDS} seeds of each"
            )


def _slice_cells(s: dict) -> tuple[str, ...]:
    if not s["pairs"]:
        return visible(s["slice"]), "0", *["-"] * 5, "no question in common"
    matched = f"{_signed(s['matched_difference'])} of {s['matched_pairs']}"
    numbers = (f"{s['holm']:.3f}", shown(s["smallest"]), matched, str(s["unknown"]))
    difference = _signed(s["difference"], s["interval"])
    return visible(s["slice"]), str(s["pairs"]), difference, *numbers, s["verdict"]


def _signed(value: float | None, interval: list[float] | None = None) -> str:
    if value is None:
        return "-"
    return f"{value:+.2f}" + (f" [{interval[0]:+.2f}, {interval[1]:+.2f}]" if interval else "")


def _print_information(information: dict, names: list[str]) -> None:
    if information:
        cells = [
            (label, *(shown(of[n]["mean"], of[n]["interval"]) if n in of else "-" for n in names))
            for label, of in information.items()
        ]
        title = "bits that its own instruction tells of the answer, against another task's, 95 %"
        console().print(table(title, ("group", *names), cells, left=("group",)))


def _print_retention(retention: dict, names: list[str]) -> None:
    if retention:
        cells = [(t, *(shown(of.get(n)) for n in names)) for t, of in retention.items()]
        title = "kept from before tuning: bits per byte of held-out text, lower is better"
        console().print(table(title, ("text", *names), cells, left=("text",)))


def _print_declined(declined: dict, names: list[str]) -> None:
    if declined:
        cells = [
            (words.OF_REQUESTS[kind], *(percent(of[n]) if n in of else "-" for n in names))
            for kind, of in declined.items()
        ]
        console().print(table("declined", ("of", *names), cells, left=("of",)))


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
