# SPDX-License-Identifier: Apache-2.0
"""Measure the filters of data creation and write their table into itx/create/README.md, between
marks.

    uv run python -m tests.create_table FOLDER              FOLDER: the public data of tasks/files.py
    uv run python -m tests.create_table FOLDER --seed 7     other rows, other places; nothing is written
    uv run python -m tests.create_table FOLDER --misses     also what was missed, and false alarms

Flaws (tests/create/plants.py) are planted in rows of public sets; the other rows are taken for
sound, so that what is wrong with them by itself counts as a false alarm.
"""

import argparse
import csv
import dataclasses
import gzip
import json
import random
import re
import sys
from collections.abc import Callable
from pathlib import Path

from itx import hashing, text
from itx.create import collection, contents, filters
from itx.create.generators import STOPPED
from itx.create.row import Row
from itx.leaks import contamination
from tests import leak_kinds
from tests.create import plants

PAGE = Path("itx/create/README.md")
BEGIN, END = "<!-- filters: uv run python -m tests.create_table FOLDER -->", "<!-- /filters -->"
COUNT = 100
INTRODUCTION = f"""{COUNT} flaws of each kind are planted among rows of Dolly and two other public sets that are taken for sound
({{sound:,}} for most kinds). *Alarms* are rows among these that the filter drops; precision is that of {COUNT} plants among
so many. The plants (`tests/create/plants.py`) were written before the patterns were last changed, by the same hand: a first
measurement found 0.94 of *empty*, 0.92 of *off-language*, 0.80 of *refusal*, 0.93 of *format break*, 0.87 of *personal data*,
0.85 of *broken code*, 0.76 of *broken address*, 0.97 of *unsafe term*, 0.91 of *copies its input* and 0.92 of *answer not among
options*, and what it missed was looked at. On flaws that nobody has looked at, expect those figures rather than the table's."""


def lines_of(file: Path) -> list[dict]:
    opened = (
        gzip.open(file, "rt", encoding="utf-8")
        if file.suffix == ".gz"
        else file.open(encoding="utf-8")
    )
    with opened as f:
        return [json.loads(line) for line in f]


def sound_rows(root: Path) -> list[Row]:
    rows = lines_of(root / "dolly/dolly_3k_sample.jsonl") + lines_of(
        root / "instruction_1100/instruction-data.jsonl"
    )
    # what is empty or equal in a source is no sound row
    seen: dict[str, Row] = {}
    for r in rows:
        if text.exact(r["output"]) not in ("", text.exact(r["input"])):
            row = Row(r["instruction"], r["input"], r["output"])
            seen.setdefault(" ".join(text.words(row.whole)), row)
    return list(seen.values())


def programs(root: Path) -> list[Row]:
    """Rows of Alpaca whose output is a Python program that parses."""
    rows = [
        Row(r["instruction"], r["input"], r["output"])
        for r in lines_of(root / "alpaca/alpaca_sample.jsonl.gz")
    ]
    return [
        r
        for r in rows
        if r.output.startswith(("def ", "import ", "class "))
        and "\n" in r.output
        and contents.is_python(r.output)
    ]


def questions(root: Path) -> list[Row]:
    """Questions of MMLU with four options and the right one, asked in two ways."""
    out = []
    for file in sorted((root / "mmlu/test").glob("*.csv")):
        with file.open(encoding="utf-8", newline="") as f:
            for r in csv.DictReader(f):
                options = tuple(r[f"choice{i}"] for i in range(4))
                answer = int(r["answer"])
                if len(out) % 2:
                    listed = "\n".join(f"{c}. {o}" for c, o in zip("ABCD", options, strict=True))
                    said = f"Choose the correct answer.\n{listed}"
                    out.append(
                        Row(
                            said,
                            r["question"],
                            random.Random(r["question"]).choice(
                                [
                                    "ABCD"[answer],
                                    f"{'ABCD'[answer]}. {options[answer]}",
                                    options[answer],
                                ]
                            ),
                        )
                    )
                else:
                    out.append(Row(r["question"], "", options[answer], options))
    return out


def prose(rows: list[Row], least: int) -> list[Row]:
    return [r for r in rows if len(text.words(r.output)) >= least]


class Sets:
    """Rows to plant in, and rows taken for sound, for each kind."""

    def __init__(self, root: Path, draw: random.Random):
        rows = sound_rows(root)
        draw.shuffle(rows)
        self.base, self.sound = rows[: len(rows) // 3], rows[len(rows) // 3 :]
        self.programs, self.questions = programs(root), questions(root)
        draw.shuffle(self.programs)
        draw.shuffle(self.questions)
        self.gsm8k = [r["question"] for r in lines_of(root / "gsm8k/test_part.jsonl")]


def one_row(
    name: str, change: plants.Change, base: list[Row], sound: list[Row], draw: random.Random
) -> Callable:
    """(found, alarms, misses) of a filter that sees one row."""

    def measure() -> tuple[list[bool], list[str], list[str]]:
        one = filters.every(("en",))[name]
        made = [change(r, draw, base) for r in draw.choices(base, k=COUNT)]
        alarms = [f"{found}: {shown(r)}" for r in sound if (found := one(r))]
        found = [bool(one(r)) for r in made]
        return found, alarms, [shown(r) for r, f in zip(made, found, strict=True) if not f]

    return measure


def shown(row: Row) -> str:
    return f"{row.instruction[:80]!r} {row.output[:60]!r} … {row.output[-80:]!r}"


def doubled(name: str, change: plants.Change, sets: Sets, draw: random.Random) -> Callable:
    def measure() -> tuple[list[bool], list[str], list[str]]:
        seen = collection.Duplicates()
        alarms = [
            f"{found}: {shown(r)}" for r in sets.sound if (found := seen(r)) and name in found
        ]
        made = [change(r, draw, sets.base) for r in draw.sample(prose(sets.sound, 8), COUNT)]
        found = [bool(seen(r)) for r in made]
        return found, alarms, [shown(r) for r, f in zip(made, found, strict=True) if not f]

    return measure


def leaked(kind: str, sets: Sets, draw: random.Random) -> Callable:
    """Questions of GSM8K's test part, and short ones, in rows that are made of them."""

    def measure() -> tuple[list[bool], list[str], list[str]]:
        items = (
            draw.sample(sets.gsm8k, COUNT)
            if kind != "short"
            else leak_kinds.inputs("en", "short", COUNT, 5)
        )
        asked = [
            a
            for t in items
            for a in contamination.spellings("test", hashing.draw(t), [t], ["none of them"])
        ]
        hosts = draw.sample(sets.base, COUNT)

        def row(item: str, host: Row) -> Row:
            if kind == "verbatim":
                return Row(item, "", host.output)
            if kind == "short":
                return draw.choice(
                    [Row(item, host.input, host.output), Row(host.instruction, item, host.output)]
                )
            edits = [k for k in leak_kinds.EDITS if k != "verbatim"]
            edited = leak_kinds.EDITS[draw.choice(edits)](item, "en", draw)
            filler = leak_kinds.FILLER["en"]
            return draw.choice(
                [
                    Row(host.instruction, f"{filler} {edited} {filler}", host.output),
                    Row(f"{host.instruction} {edited}", host.input, host.output),
                    Row(host.instruction, host.input, f"{host.output}\n{edited}\n{filler}"),
                ]
            )

        made = [row(t, h) for t, h in zip(items, hosts, strict=True)]
        hits = collection.leaks([*made, *sets.sound], asked)
        found = [i in hits for i in range(COUNT)]
        alarms = [f"{how}: {shown(sets.sound[i - COUNT])}" for i, how in hits.items() if i >= COUNT]
        return found, alarms, [shown(r) for r, f in zip(made, found, strict=True) if not f]

    return measure


def measures(root: Path, seed: int) -> tuple[int, dict[str, tuple[Callable, int]]]:
    """(rows taken for sound, {kind: (its measurement, rows without a flaw)})."""
    draw = random.Random(seed)
    sets = Sets(root, draw)
    words = filters.shipped_unsafe_words()
    long, sound = prose(sets.base, 30), sets.sound
    half = len(sets.programs) // 2
    near_words = [
        Row(
            "Tell me more.",
            "",
            f"{r.output} The assassin of Scunthorpe ate shiitake, and the class passed in Essex.",
        )
        for r in sound[:200]
    ]
    single = {
        "empty": ("empty", plants.empty, sets.base, sound),
        "truncated, as the generator tells": ("truncated", plants.cut_told, long, [dataclasses.replace(r, finish=STOPPED) for r in sound]),
        "truncated, by its text alone": ("truncated", plants.cut, long, sound),
        "off-language": ("language", plants.other_language, sets.base, sound),
        "repetition": ("repetition", plants.repeated, long, sound),
        "refusal": ("refusal", plants.refused, sets.base, sound),
        "format break": ("format", plants.marked, sets.base, sound),
        "personal data": ("personal", plants.personal, sets.base, sound),
        "broken code": ("code", plants.broken_code, sets.programs[:half], [*sound, *sets.programs[half:]]),
        "broken address": ("address", plants.broken_address, sets.base, sound),
        "unsafe term": ("unsafe", plants.unsafe(words), sets.base, [*sound, *near_words]),
        "copies its input": ("copies", plants.copied, [r for r in sets.base if len(text.words(r.input or r.instruction)) > 3], sound),
        "answer not among options": ("options", plants.no_option, [q for q in sets.questions[:300] if q.options], [*sound, *sets.questions[300:]]),
    }  # fmt: skip
    out = {k: (one_row(*v, draw), len(v[3])) for k, v in single.items()}
    out["exact duplicate"] = doubled("duplicate", plants.duplicate, sets, draw), len(sound)
    out["near duplicate"] = doubled("near duplicate", plants.near_duplicate, sets, draw), len(sound)
    for kind in ("verbatim", "short", "embedded"):
        out[f"test item, {kind}"] = leaked(kind, sets, draw), len(sound)
    return len(sound), out


def rate(hits: int, of: int) -> str:
    return f"{hits / of:.2f}" if of else "–"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--misses", action="store_true")
    parser.add_argument("--only", default="")
    args = parser.parse_args()
    if not (args.folder / "dolly/dolly_3k_sample.jsonl").is_file():
        sys.exit(
            f"skipped: {args.folder} holds no dolly/dolly_3k_sample.jsonl, so the public data are not there"
        )
    sound, kinds = measures(args.folder, args.seed or 0)
    lines = ["| flaw | found | recall | alarms | precision |", "|---|--:|--:|--:|--:|"]
    for kind, (measure, without) in kinds.items():
        if args.only and args.only not in kind:
            continue
        found, alarms, misses = measure()
        hits = sum(found)
        lines.append(
            f"| {kind} | {hits} of {len(found)} | {rate(hits, len(found))} | {len(alarms)} of {without:,} | {rate(hits, hits + len(alarms))} |"
        )
        if args.misses:
            print(
                f"\n{kind}",
                *(f"   MISSED {m}" for m in misses[:12]),
                *(f"   ALARM {a}" for a in alarms[:12]),
                sep="\n",
            )
    table = "\n".join(lines)
    print(table)
    if args.seed is None and not args.only:
        page = PAGE.read_text(encoding="utf-8")
        between = re.search(f"{re.escape(BEGIN)}.*?{re.escape(END)}\n", page, re.DOTALL)[0]
        said = INTRODUCTION.format(sound=sound)
        PAGE.write_text(
            page.replace(between, f"{BEGIN}\n{said}\n\n{table}\n{END}\n"), encoding="utf-8"
        )


if __name__ == "__main__":
    main()
