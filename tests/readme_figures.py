# SPDX-License-Identifier: Apache-2.0
"""Write the README's transcript, picture and table from run folders; no number there is typed.

    uv run itx train configs/quickstart.py --data.suite_seed=S --run_dir runs/S | tee runs/S/console.txt     (and so on)
    uv run python -m tests.readme_figures runs/… --t5 runs/…

The first folder gives transcript and picture, all of them the table: mean and range over the runs.
"""

import argparse
import json
import re
import shutil
from pathlib import Path

from tests.conftest import REPO

PICTURE = REPO / ".readme" / "report.png"
LINES = 45  # of the transcript, from its end


def groups(run: Path) -> dict[str, float]:
    """Label -> score after tuning, corrected for chance."""
    return {g["label"]: g["after"]["mean"] for g in json.loads((run / "report.json").read_text())["groups"]}


def spread(values: list[float]) -> str:
    mean = sum(values) / len(values)
    return f"{mean:.2f} ({min(values):.2f} to {max(values):.2f})"


def table(columns: dict[str, list[Path]]) -> str:
    """A row per group, a column per recipe: mean (range) over its runs."""
    found = {name: [groups(r) for r in runs] for name, runs in columns.items() if runs}
    labels = list(next(iter(found.values()))[0])
    head = [f"{name}, {len(runs)} seeds" for name, runs in found.items()]
    rows = [["", *head], ["---"] * (len(head) + 1)]
    rows += [[label, *(spread([g[label] for g in runs]) for runs in found.values())] for label in labels]
    return "\n".join("| " + " | ".join(r) + " |" for r in rows)


def facts(run: Path) -> str:
    about, report = (json.loads((run / f).read_text()) for f in ("config.json", "report.json"))
    speed = report["loss"]["tokens_per_second"]
    return (f"`{about['command']}`: {report['loss']['tokens']:,} tokens in {report['steps']['after']} steps at "
            f"{speed:,.0f} tokens/s.")  # fmt: skip


def block(runs: list[Path], t5: list[Path]) -> str:
    text = (runs[0] / "console.txt").read_text(encoding="utf-8").replace("\r", "\n").rstrip().splitlines()
    transcript = "\n".join(line.rstrip() for line in text[-LINES:])
    return (
        f"{facts(runs[0])} The end of its output:\n\n```\n{transcript}\n```\n\n"
        f"![before and after tuning, by group, and the loss](.readme/report.png)\n\n"
        f"Scores corrected for chance (0 is chance, 1 all right), mean and range over training and suite seeds that were "
        f"not used in development:\n\n{table({'decoder': runs, 'T5': t5})}\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--t5", nargs="*", type=Path, default=[])
    args = parser.parse_args()
    readme = REPO / "README.md"
    begin, end = "<!-- figures: ", "<!-- end figures -->"
    said = re.sub(r"\s+", " ", f"uv run python -m tests.readme_figures {' '.join(map(str, args.runs))}"
                  + (f" --t5 {' '.join(map(str, args.t5))}" if args.t5 else ""))  # fmt: skip
    text = readme.read_text(encoding="utf-8")
    before, rest = text.split(begin, 1)
    after = rest.split(end, 1)[1]
    readme.write_text(f"{before}{begin}{said} -->\n{block(args.runs, args.t5)}{end}{after}", encoding="utf-8")
    PICTURE.parent.mkdir(exist_ok=True)
    shutil.copyfile(args.runs[0] / "report.png", PICTURE)


if __name__ == "__main__":
    main()
