# SPDX-License-Identifier: Apache-2.0
"""Write the README's table of a real model: SmolLM2-135M-Instruct before and after tuning, beside
the control.

    uv run itx recipes fetch smollm2
    uv run python -m tests.smollm2_table FOLDER --dev                     the settings tried, on the
                                                                          validation splits, seed 1
    uv run python -m tests.smollm2_table FOLDER 201 202 203 --train       three fresh seeds on test
    uv run python -m tests.smollm2_table FOLDER 201 202 203               the table from those runs

A run that is done is kept: the same command goes on where it was stopped.

FOLDER has the files of tasks/files.py, of which `c4_demo` tells what the model forgets (bits per
byte). A seed is one of the suite, of the order and of the adapter. Of each seed the model is asked
before tuning in three forms: in its own turns, in these with a system that asks for the answer
alone, and behind four exemplars. It is then tuned twice, with equal steps: on the answers, and on
the answers of other examples of the same task and wording (`data.targets=shuffled`), which teach
form, brevity and the shares of labels alone.
"""

import argparse
import json
import subprocess
from pathlib import Path

from itx import storage
from tests.readme_figures import REPO, put, seeds, spread, train

RECIPE = "configs/smollm2_lora.py"
TEXT = "c4_demo.lm"
ANSWER_ONLY = "Reply with the answer alone: no explanation, no sentence."
SHOTS = 4
# what `--dev` tries: learning rates of the recipe
RATES = (1e-3, 2e-3)
DEV_EXAMPLES = 2  # of each task, in every wording: one leaves the rates apart by less than noise
COLUMNS = {
    "zero-shot": "before",
    "answer_only": "before, told to give the answer alone",
    "shots": f"before, {SHOTS} exemplars",
    "shuffled": "tuned on shuffled answers",
    "tuned": "tuned",
}
Scores = dict[str, tuple[float, float]]  # {label of a group: (share right, chance)}


def run_of(seed: int, kind: str) -> Path:
    return REPO / "runs" / f"smollm2-{seed}{'' if kind == 'tuned' else '-' + kind}"


def words(root: str, seed: int) -> list[str]:
    return [RECIPE, *seeds(seed), f"--data.root={root}"]


def once(given: list[str], run: Path) -> None:
    if not (run / "seconds.txt").is_file():  # written when a run has ended
        train(given, run)


def make(root: str, seed: int) -> None:
    """The runs of one seed, and its evaluation behind exemplars."""
    tuned = run_of(seed, "tuned")
    once([*words(root, seed), f"--eval.retention={TEXT}"], tuned)
    shuffled = ["--data.targets=shuffled", "--eval.before=False", "--eval.safety=False"]
    shuffled.append(f"--eval.retention={TEXT}")
    once([*words(root, seed), *shuffled], run_of(seed, "shuffled"))
    untrained = [f"--data.system={ANSWER_ONLY}", "--train.steps=0", "--eval.safety=False"]
    once([*words(root, seed), *untrained], run_of(seed, "answer_only"))
    if not file_of(seed, "shots").is_file():
        command = ["uv", "run", "itx", "eval", str(tuned.relative_to(REPO)), "--step=0"]
        command += [f"--shots={SHOTS}", "--json", str(file_of(seed, "shots"))]
        subprocess.run(command, cwd=REPO, check=True)


def scores_of(groups: list[dict]) -> Scores:
    from itx.eval import tables

    return {tables.label(g["group"], g["kind"]): (g["score"], g["chance"]) for g in groups}


def file_of(seed: int, column: str) -> Path:
    """Where the scores of a column stand."""
    if column == "shots":
        return run_of(seed, "tuned") / "shots.json"
    return run_of(seed, {"zero-shot": "tuned"}.get(column, column)) / "report.json"


def scores(seed: int, column: str) -> Scores:
    held = json.loads(file_of(seed, column).read_text())
    if column == "shots":
        return scores_of(held["settings"][str(SHOTS)]["groups"])
    when = "before" if column == "zero-shot" else "after"
    return scores_of([{**g, **g[when]} for g in held["groups"]])


def told(seed: int, column: str) -> dict[str, float]:
    """{label of a group: bits by which its own instruction makes the answer likelier than
    another's}; none where that was not measured."""
    held = json.loads(file_of(seed, column).read_text()).get("information") or {"groups": []}
    when = "before" if column == "zero-shot" else "after"
    return {g["label"]: g[when]["swapped"]["mean"] for g in held["groups"] if when in g}


def kept(seed: int, column: str) -> float | None:
    """Bits per byte of plain text; None where it was not measured."""
    held = json.loads(file_of(seed, column).read_text()).get("retention") or {}
    texts = held.get("before" if column == "zero-shot" else "after") or {}
    return texts[TEXT]["bits_per_byte"] if TEXT in texts else None


def shown(values: list[float], digits: int = 2) -> str:
    """Mean (range) over seeds; the value of a single seed; nothing for none."""
    if len(values) < 2:
        return "".join(f"{v:.{digits}f}" for v in values)
    return spread(values, digits)


def table(numbers: list[int]) -> str:
    """A row per group of evaluation rows, a column per form that every seed was asked in: share
    right, mean (range) over the seeds; then bits that the instruction tells, and what is kept."""
    columns = [c for c in COLUMNS if all(file_of(seed, c).is_file() for seed in numbers)]
    found = {c: [scores(seed, c) for seed in numbers] for c in columns}
    rows = [["", "chance", *(COLUMNS[c] for c in columns)], ["---"] * (len(columns) + 2)]
    for label in found["tuned"][0]:
        cells = [[s[label][0] for s in own if label in s] for own in found.values()]
        chance = sum(s[label][1] for s in found["tuned"]) / len(numbers)
        rows.append([label, f"{chance:.2f}", *map(shown, cells)])
    bits = {c: [told(seed, c) for seed in numbers] for c in columns}
    for label in bits["tuned"][0]:
        cells = [[b[label] for b in own if label in b] for own in bits.values()]
        rows.append([f"bits of the instruction, {label}", "", *map(shown, cells)])
    lost = [[v for seed in numbers if (v := kept(seed, c)) is not None] for c in columns]
    rows.append([f"bits per byte of `{TEXT}`", "", *(shown(v, 3) for v in lost)])
    taken = [float((run_of(seed, "tuned") / "seconds.txt").read_text()) for seed in numbers]
    rows.append(["seconds, all in all", *[""] * len(columns), shown(taken, 0)])
    return "\n".join("| " + " | ".join(r) + " |" for r in rows)


def dev(root: str) -> None:
    """Each rate on the validation splits of seed 1; written to tests/benchmarks/smollm2_dev.json."""
    found = {}
    for rate in RATES:
        run = run_of(1, f"dev-{rate:g}")
        more = [f"--optim.learning_rate={rate}", "--eval.split=validation", "--eval.before=False"]
        more += [f"--eval.max_examples={DEV_EXAMPLES}", "--eval.safety=False"]
        once([*words(root, 1), *more, f"--eval.retention={TEXT}"], run)
        report = json.loads((run / "report.json").read_text())
        groups = scores_of([{**g, **g["after"]} for g in report["groups"]])
        text = report["retention"]["after"][TEXT]["bits_per_byte"]
        found[f"{rate:g}"] = {"scores": groups, TEXT: text}
        print(rate, found[f"{rate:g}"], flush=True)
    storage.write_json(REPO / "tests" / "benchmarks" / "smollm2_dev.json", found)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("root")
    parser.add_argument("seeds", nargs="*", type=int)
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--dev", action="store_true")
    args = parser.parse_args()
    if args.dev:
        dev(args.root)
    if args.train:
        for seed in args.seeds:
            make(args.root, seed)
    if args.seeds:
        numbers = " ".join(map(str, args.seeds))
        command = f"uv run python -m tests.smollm2_table FOLDER {numbers} --train"
        put("smollm2", command, table(args.seeds) + "\n")


if __name__ == "__main__":
    main()
