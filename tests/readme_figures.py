# SPDX-License-Identifier: Apache-2.0
"""Write the README's transcript, picture and table from run folders; no number there is typed.

    uv run python -m tests.readme_figures 101 102 103            from the runs runs/<recipe>-<seed>
                                                                 that are there
    uv run python -m tests.readme_figures 101 102 103 --train    make them first (half an hour on
                                                                 two cores)

The seeds are of the suite, of the order and of the weights. The first decoder run gives transcript
and picture, all runs give the table: mean and range over the seeds.
"""

import argparse
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

REPO = Path(__file__).parents[1]  # not tests.conftest's, which sets eight devices up
PICTURE = REPO / ".readme" / "report.png"
LINES = 45  # of the transcript, from its end
RECIPES = {"decoder": "quickstart", "T5": "quickstart_t5"}


def train(words: list[str], run: Path) -> None:
    """`itx train` with these arguments from an empty folder, with what it printed and how long it
    took."""
    shutil.rmtree(run, ignore_errors=True)
    command = ["uv", "run", "itx", "train", *words, "--run_dir", str(run.relative_to(REPO))]
    began = time.monotonic()
    done = subprocess.run(
        command, cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        raise SystemExit(f"{command}: exit {done.returncode}\n{done.stdout[-3000:]}")
    (run / "seconds.txt").write_text(f"{time.monotonic() - began:.0f}\n")
    (run / "console.txt").write_text(done.stdout, encoding="utf-8")


def seeds(seed: int) -> list[str]:
    """One seed for the suite, the weights and the order."""
    return [f"--{name}={seed}" for name in ("data.suite_seed", "train.seed", "data.seed")]


def page(name: str) -> Path:
    """The page that holds the part between `<!-- name: command -->` and `<!-- end name -->`."""
    folders = ("", "itx/models", "itx/analysis", "itx/create")
    pages = [REPO / folder / "README.md" for folder in folders]
    return next(p for p in pages if f"<!-- {name}: " in p.read_text(encoding="utf-8"))


def part(name: str) -> tuple[str, str, str]:
    """A page before `<!-- name: command -->`, from there to `<!-- end name -->`, and from that
    on."""
    begin, end = f"<!-- {name}: ", f"<!-- end {name} -->"
    before, rest = page(name).read_text(encoding="utf-8").split(begin, 1)
    text, after = rest.split(" -->\n", 1)[1].split(end, 1)
    return before, text, end + after


def put(name: str, command: str, text: str) -> None:
    """Replace what stands in its page between the marks of this name."""
    before, _, after = part(name)
    whole = f"{before}<!-- {name}: {command} -->\n{text}{after}"
    page(name).write_text(whole, encoding="utf-8")


def groups(run: Path) -> dict[str, float]:
    """Label -> score after tuning, corrected for chance."""
    return {
        g["label"]: g["after"]["mean"]
        for g in json.loads((run / "report.json").read_text())["groups"]
    }


def spread(values: list[float], digits: int = 2) -> str:
    mean, least, most = (
        f"{v:.{digits}f}" for v in (sum(values) / len(values), min(values), max(values))
    )
    return f"{mean} ({least} to {most})"


def table(columns: dict[str, list[Path]]) -> str:
    """A row per group, a column per recipe: mean (range) over its runs."""
    found = {name: [groups(r) for r in runs] for name, runs in columns.items()}
    labels = list(next(iter(found.values()))[0])
    head = [f"{name}, {len(runs)} seeds" for name, runs in found.items()]
    rows = [["", *head], ["---"] * (len(head) + 1)]
    rows += [
        [label, *(spread([g[label] for g in runs]) for runs in found.values())] for label in labels
    ]
    timed = [
        [float((r / "seconds.txt").read_text()) for r in runs if (r / "seconds.txt").is_file()]
        for runs in columns.values()
    ]
    rows.append(["seconds, all in all", *(f"{min(s):.0f} to {max(s):.0f}" for s in timed)])
    return "\n".join("| " + " | ".join(r) + " |" for r in rows)


def facts(run: Path) -> str:
    about, report = (json.loads((run / f).read_text()) for f in ("config.json", "report.json"))
    speed = report["loss"]["tokens_per_second"]
    return (f"`{about['command']}`: {report['loss']['tokens']:,} tokens in {report['steps']['after']} steps at "
            f"{speed:,.0f} tokens/s.")  # fmt: skip


def block(columns: dict[str, list[Path]]) -> str:
    run = next(iter(columns.values()))[0]
    text = (
        (run / "console.txt").read_text(encoding="utf-8").replace("\r", "\n").rstrip().splitlines()
    )
    transcript = "\n".join(line.rstrip() for line in text[-LINES:])
    return (
        f"{facts(run)} The end of its output:\n\n```\n{transcript}\n```\n\n"
        f"![before and after tuning, by group, and the loss](.readme/report.png)\n\n"
        f"Scores corrected for chance (0 is chance, 1 all right), mean and range over seeds of the suite, the order and the "
        f"weights that were not used in development; {os.cpu_count()} CPU cores:\n\n{table(columns)}\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("seeds", nargs="+", type=int)
    parser.add_argument("--train", action="store_true")
    args = parser.parse_args()
    columns = {
        name: [REPO / "runs" / f"{r}-{seed}" for seed in args.seeds] for name, r in RECIPES.items()
    }
    if args.train:
        for name, runs in columns.items():
            for seed, run in zip(args.seeds, runs, strict=True):
                train([f"configs/{RECIPES[name]}.py", *seeds(seed)], run)
    columns = {
        name: [r for r in runs if (r / "report.json").is_file()] for name, runs in columns.items()
    }
    numbers = " ".join(map(str, args.seeds))
    put("figures", f"uv run python -m tests.readme_figures {numbers} --train", block(columns))
    PICTURE.parent.mkdir(exist_ok=True)
    shutil.copyfile(columns["decoder"][0] / "report.png", PICTURE)


if __name__ == "__main__":
    main()
