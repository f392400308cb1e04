# SPDX-License-Identifier: Apache-2.0
"""Write FOLDER/table.md: what `itx loop` gets back of a planted fault, beside as
much done at random, as many random new rows, and an oracle that trains on the same rows without the
fault.

    uv run python -m tests.loop_table FOLDER 1 2 3 [--steps N]

FOLDER keeps every run: the same command goes on where it was killed. A seed draws kind, size and
task of the fault (tests/looped_tasks.py) and is that of the weights and the order; `0` has none.
Scores are accuracy on test over all tasks and on the task of the fault; the loop chooses on dev.

    recovered = (loop - random) / (oracle - random), on the task of the fault
"""

import argparse
import json
import time
from pathlib import Path
from typing import NamedTuple

from tests import looped_tasks
from tests.conftest import REPO
from tests.create.test_closed_loop import RECIPE
from tests.samples import itx

ACTIONS = "drop,relabel,balance,counterfactual pairs"
ROUNDS, STEPS = 3, 200
SEES = {"PYTHONPATH": str(REPO)}
ARMS = ("loop", "random", "new rows", "oracle")
# of the closed loop's recipe, what this world has otherwise
SETTINGS = {
    "data.mixture": "looped",
    "data.modules": "tests.looped_tasks",
    "data.vocab_size": 400,
    "data.workers": 1,
}


class Arm(NamedTuple):
    accuracy: float  # over all tasks, on test
    on_task: float  # on the task of the fault
    rounds: int
    worse: int  # groups of questions that got worse, in all rounds
    seconds: float


def words(seed: int, suite: int, steps: int) -> list[str]:
    """The recipe of a run, and its settings."""
    half = {f"train.{name}": steps // 2 for name in ("checkpoint_every", "log_every")}
    seeds = {"data.suite_seed": suite, "train.seed": seed, "data.seed": seed}
    named = {**SETTINGS, "train.steps": steps, **half, **seeds}
    return ["recipe.py", *(f"--{name}={value}" for name, value in named.items())]


def trained(folder: Path, arm: str, seed: int, suite: int, steps: int) -> Arm:
    """A single run on the rows of a suite."""
    run, began = f"{arm}-{seed}", time.monotonic()
    took = folder / run / "seconds.txt"
    if not took.is_file():
        own = words(seed, suite, steps)
        itx("train", *own, "--eval.split=test", "--run_dir", run, cwd=folder, **SEES)
        took.write_text(f"{time.monotonic() - began:.0f}\n")
    return Arm(*scores(folder / run, "", seed), 0, 0, float(took.read_text()))


def changed_rows(folder: Path, seed: int) -> int:
    """How many training rows the loop's refinements rejected, fixed or added, kept or not."""
    manifests = (folder / f"loop-{seed}" / "refined").glob("*/v*/manifest.json")
    counts = [c for m in manifests for c in json.loads(m.read_text())["counts"].values()]
    return sum(n for c in counts for what, n in c.items() if what not in ("in", "out"))


def loop(folder: Path, seed: int, steps: int, *more: str) -> Arm:
    """The loop, or its control arm; what is there is not made again."""
    where = f"{'random' if more else 'loop'}-{seed}"
    done = folder / where / "done.json"
    if not done.is_file():
        how = ("--rounds", str(ROUNDS), "--actions", ACTIONS, "--relabel", "rather")
        own = [*words(seed, seed, steps), "--loop_dir", where, *how, *more]
        itx("loop", *own, "--json", done, cwd=folder, **SEES)
    facts = json.loads(done.read_text())
    own = scores(folder / facts["rounds"][facts["best"]]["run"], "test", seed)
    worse = sum(len(r["beside"]["worse"]) for r in facts["rounds"] if "beside" in r)
    seconds = sum(s for r in facts["rounds"] for s in r["cost"]["seconds"].values())
    return Arm(*own, len(facts["rounds"]) - 1, worse, seconds)


def scores(run: Path, setting: str, seed: int) -> tuple[float, float]:
    """Accuracy on test: the mean over tasks, and on the task of the fault."""
    file = max(run.glob(f"eval/*/{setting}/scores.json"), key=lambda f: f.stat().st_mtime)
    rows = json.loads(file.read_text())["rows"].values()
    own = {r["task"]: r["score"] for r in rows if r["group"] == "instances"}
    _, faulty, _ = looped_tasks.fault_of(seed)
    return sum(own.values()) / len(own), own[f"looped_{faulty}"]


def line(seed: int, arms: dict[str, Arm]) -> list[str]:
    kind, task, share = looped_tasks.fault_of(seed)
    told = f"{kind} {share:.0%}" if kind == "labels" else kind or "none"
    looped, random, _, sound = (arms[name] for name in ARMS)
    room = sound.on_task - random.on_task
    # a fault that costs a model little leaves nothing to get back
    got = f"{(looped.on_task - random.on_task) / room:.2f}" if kind and room >= 0.05 else "-"
    return [
        str(seed), told, str(task), *(f"{a.on_task:.2f}" for a in arms.values()), got,
        *(f"{a.accuracy:.2f}" for a in arms.values()), str(looped.rounds), str(looped.worse),
        f"{sum(a.seconds for a in arms.values()) / 60:.0f}",
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("seeds", nargs="+", type=int)
    parser.add_argument("--steps", type=int, default=STEPS)
    args = parser.parse_args()
    args.folder = args.folder.resolve()
    args.folder.mkdir(parents=True, exist_ok=True)
    (args.folder / "recipe.py").write_text(RECIPE)
    head = ["seed", "fault", "task", *(f"{n}, on it" for n in ARMS), "recovered"]
    head += [*(f"{n}, all" for n in ARMS), "rounds", "worse", "minutes"]
    lines = [head, ["---"] * len(head)]
    for seed in args.seeds:
        place = (args.folder, seed, args.steps)
        made = [loop(*place), loop(*place, "--control")]
        rows = seed + changed_rows(args.folder, seed) * looped_tasks.NEW
        for arm, suite in (("new_rows", rows), ("oracle", seed + looped_tasks.SOUND)):
            made.append(trained(args.folder, arm, seed, suite, args.steps))
        arms = dict(zip(ARMS, made, strict=True))
        lines.append(line(seed, arms))
        print(" | ".join(lines[-1]), flush=True)
    command = f"uv run python -m tests.loop_table FOLDER {' '.join(map(str, args.seeds))}"
    if args.steps != STEPS:
        command += f" --steps {args.steps}"
    text = "\n".join("| " + " | ".join(x) + " |" for x in lines) + "\n"
    (args.folder / "table.md").write_text(f"<!-- {command} -->\n{text}", encoding="utf-8")


if __name__ == "__main__":
    main()
