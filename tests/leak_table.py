# SPDX-License-Identifier: Apache-2.0
"""Measure the leak test and write its table into itx/data/README.md, between marks.

    uv run python -m tests.leak_table FOLDER              FOLDER: the public data of tasks/files.py
    uv run python -m tests.leak_table FOLDER --seed 7     other words, other copies; nothing is
                                                          written
    uv run python -m tests.leak_table FOLDER --drops CACHE    100 of the records that a build of
                                                              real_mix left out, to be read

Copies of evaluation inputs are planted among records that are like them: inputs made here in three
languages, and of public sets questions of GSM8K's test part (long) and instructions of Dolly
(short), among records of Alpaca and C4.
"""

import argparse
import gzip
import json
import random
import re
import sys
import tempfile
from collections import Counter
from pathlib import Path

from itx import hashing, text
from itx.data import cache
from itx.data import lock as locks
from itx.leaks import contamination, finder
from itx.prepare import exclude
from tests import leak_kinds as kinds
from tests.scored import MANIFEST

PAGE = Path("itx/data/README.md")
BEGIN, END = "<!-- leaks: uv run python -m tests.leak_table FOLDER -->", "<!-- /leaks -->"
INTRODUCTION = """## What the leak test finds

Of 100 planted copies of an evaluation input so many make the build leave the record out; short inputs have 4 to 12 words (5 to
25 characters in Chinese), long ones more. Inputs of fewer words count only where they are a whole field, or stand with their
answer. The kinds above the middle are those that the test is made for; below it stands what it makes of others. It does not look
for paraphrase, and a short input with a word changed is another input."""
READ = """Of `real_mix` (41,196 examples) it leaves out 431. A hundred of them, drawn by `--drops CACHE`, were read: 97 hold the
text or passage that is asked, 10 of these as the same problem with other numbers or another last clause; 3 share no more than
a name, two listed words or a sentence of an encyclopaedia. Of 250 tool conversations (Glaive), whose tools are alike, 5 are left
out, each for the same request. It takes 9.3 s of CPU time, 11 % of the build's 84: 4.9 for the loose forms, 0.7 to write them,
3.7 to search."""
COUNT = 40  # inputs of a language and size
SHOWN = 100
COLUMNS = [(x, size) for x in (*kinds.LANGUAGES, "public") for size in kinds.SIZES]


def section(page: str) -> str:
    """What stands between the marks of a page, with them."""
    return re.search(f"{re.escape(BEGIN)}.*?{re.escape(END)}\n", page, re.DOTALL)[0]


def public(root: Path, seed: int) -> tuple[dict[str, list[str]], list[str]]:
    """({size: inputs}, texts that are none of them)."""
    draw = random.Random(seed)

    def lines(file):
        return [json.loads(x) for x in (root / file).read_text(encoding="utf-8").splitlines()]

    long = [e["question"] for e in lines("gsm8k/test_part.jsonl")]
    short = [e["instruction"] for e in lines("dolly/dolly_3k_sample.jsonl") if not e["input"]]
    short = [x for x in short if 4 <= len(text.words(x)) <= 12]
    with gzip.open(root / "alpaca/alpaca_sample.jsonl.gz", "rt", encoding="utf-8") as f:
        other = [" ".join((e["instruction"], e["input"], e["output"])) for e in map(json.loads, f)][
            :3000
        ]
    return {"short": draw.sample(short, COUNT), "long": draw.sample(long, COUNT)}, other + [
        e["text"] for e in lines("c4_demo/c4_demo.jsonl")
    ]


def texts_of(record: dict) -> cache.Texts:
    """As the build has them (itx/prepare/exclude.py)."""
    if "messages" in record:
        turns = [m["content"] for m in record["messages"]]
        return exclude.texts(turns[::2], turns)
    answer = record.get("answer", "")
    return exclude.texts([v for k, v in record.items() if k != "answer"], [answer])


def write(folder: Path, texts: list[cache.Texts], origin: str) -> None:
    columns = cache.Columns.of(
        [[([1], False), ([2], True)]] * len(texts),
        list(range(1, len(texts) + 1)),
        [0] * len(texts),
        9,
    )
    cache.write(folder, columns, {**MANIFEST, "origin": [origin]}, [], texts)


def measure(root: Path, seed: int) -> tuple[dict[str, dict], dict[str, list[int]]]:
    """({kind: {column: [found, planted]}}, {set without copies: [left out, records]})."""
    inputs = {(x, s): kinds.inputs(x, s, COUNT, seed) for x in kinds.LANGUAGES for s in kinds.SIZES}
    real, other = public(root, seed)
    inputs |= {("public", size): found for size, found in real.items()}
    asked = [
        a for (x, size), found in inputs.items() for t in found
        for a in contamination.spellings(f"{x} {size}", hashing.draw(t), [t], ["none of them"])
    ]  # fmt: skip
    every = [*kinds.EDITS, *kinds.PLACES, *kinds.MEASURED]
    with tempfile.TemporaryDirectory() as where:
        owners = {}
        for n, kind in enumerate(every):
            draw, planted, owners[kind] = random.Random(f"{kind}/{seed}"), [], []
            for column, found in inputs.items():
                language = "en" if column[0] == "public" else column[0]
                for i, t in enumerate(found):
                    made = kinds.records(kind, t, language, draw)
                    planted += map(texts_of, made)
                    owners[kind] += [(column, i)] * len(made)
            like = [
                kinds.plain(t)
                for x in kinds.LANGUAGES
                for s in kinds.SIZES
                for t in kinds.inputs(x, s, 20, 1000 + n)
            ]
            write(Path(where) / str(n), planted + [texts_of(r) for r in like], "copies")
        write(Path(where) / "other", [exclude.texts(t, ()) for t in other], "other")
        trained = [(kind, Path(where) / str(n)) for n, kind in enumerate(every)] + [
            ("other", Path(where) / "other")
        ]
        hits = contamination.search(trained, asked)
    recall: dict[str, dict] = {}
    alarms = {"public texts": [len(hits["other"]), len(other)], "records like the inputs": [0, 0]}
    for kind in every:
        rows = recall[kind] = {c: [0, 0] for c in COLUMNS}
        for i, (column, _) in enumerate(owners[kind]):
            rows[column][0] += i in hits[kind]
            rows[column][1] += 1
        alarms["records like the inputs"][0] += sum(i >= len(owners[kind]) for i in hits[kind])
        alarms["records like the inputs"][1] += 120
    return recall, alarms


def table(recall: dict[str, dict], alarms: dict[str, list[int]]) -> str:
    head = ["copy", *(f"{x} {size}" for x, size in COLUMNS)]
    lines = [head, ["---", *["---:"] * len(COLUMNS)]]
    for kind, of in recall.items():
        if kind == next(iter(kinds.MEASURED)):
            lines.append(["*as measured:*", *[""] * len(COLUMNS)])
        lines.append([kind, *(f"{100 * of[c][0] / of[c][1]:.0f}" for c in COLUMNS)])
    told = "; ".join(f"{name}: {out} of {n}" for name, (out, n) in alarms.items())
    missed = [kind for kind, of in recall.items() if any(a == 0 for a, _ in of.values())]
    return (
        "\n".join("| " + " | ".join(line) + " |" for line in lines)
        + f"\n\nLeft out without a copy in them: {told}. Never found in a column or more: {', '.join(missed) or 'none'}."
    )


def drops(root: Path, cache_dir: Path, seed: int) -> None:
    """Prints SHOWN of the records that a build left out, each with the evaluation input that it
    holds."""
    lock = locks.read(max(cache_dir.glob("locks/*.json"), key=lambda f: f.stat().st_mtime))
    asked = contamination.asked_of(contamination.scored_rows(lock), cache_dir)
    by_content = {a.content: a for a in asked}
    folders = {t["name"]: cache_dir / t["folders"][0] for t in lock["tasks"]}
    found = contamination.matches(list(folders.items()), finder.Finder(asked), asked)
    pairs: dict[tuple, tuple] = {}
    for name, of in found.items():
        for i, content, how in of:
            pairs.setdefault((name.split(":")[0], i), (name, i, content, how))
    print(f"{len(pairs)} records of {len({str(f) for f in folders.values()})} folders; "
          f"{Counter(how for *_, how in pairs.values())}")  # fmt: skip
    for name, i, content, how in random.Random(seed).sample(
        sorted(pairs.values()), min(SHOWN, len(pairs))
    ):
        said = " | ".join(sum(list(cache.iterate_texts(folders[name]))[i], [])).replace("\n", " / ")
        wanted = " | ".join(by_content[content].fields).replace("\n", " / ")
        print(
            f"\n{name} {i}: {how}, {by_content[content].task}\n  record  {said[:600]}\n  asked   {wanted[:600]}"
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--drops", type=Path)
    args = parser.parse_args()
    if not (args.folder / "gsm8k/test_part.jsonl").is_file():
        sys.exit(
            f"skipped: {args.folder} holds no gsm8k/test_part.jsonl, so the public data are not there"
        )
    if args.drops:
        return drops(args.folder, args.drops, args.seed or 0)
    text_ = table(*measure(args.folder, args.seed or 0))
    if args.seed is not None:
        return print(text_)
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(
        page.replace(section(page), f"{BEGIN}\n{INTRODUCTION}\n\n{text_}\n\n{READ}\n{END}\n"),
        encoding="utf-8",
    )
    return None


if __name__ == "__main__":
    main()
