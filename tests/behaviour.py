# SPDX-License-Identifier: Apache-2.0
"""What a change of form must not change: the batches of three recipes and the scores of a run, compared with those that
were committed.

    uv run python -m tests.behaviour FOLDER [--checkout DIR] [--write]

FOLDER takes the caches and the run (it is kept: a second call is quick). --checkout runs another checkout of the
project, an older commit say; --write puts what it gives into tests/golden/behaviour.json. Else exit code 1 names what
differs. Batches are compared whole, scores number by number. Another CPU rounds losses otherwise in the seventh digit: on
one, write the facts of the old commit first (--checkout DIR --write), and compare with these.
"""

import argparse
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.conftest import REPO, SHARED, one_device

GOLDEN = REPO / "tests" / "golden" / "behaviour.json"
STEPS = (0, 7, 1000)
# recipe -> settings; the last needs the folder of real data
RECIPES = {
    "configs/quickstart.py": (),
    "configs/quickstart_t5.py": (),
    # more steps than its own, so that the renderings of step 1,000 are there
    "configs/real_mix.py": (f"--data.root={SHARED}", "--train.steps=1001"),
}
SCORED = ("configs/quickstart.py", "--quick")
TIMED = ("tokens_per_second", "seconds", "mfu")  # of metrics.jsonl: what differs from run to run


def itx(checkout: Path, out: Path, *words: Any) -> Any:
    """What a command of a checkout writes with --json."""
    command = [sys.executable, "-m", "itx.cli", *map(str, words), "--json", str(out)]
    subprocess.run(command, cwd=checkout, env=one_device(), check=True, stdout=subprocess.DEVNULL)
    return json.loads(out.read_text("utf-8"))


def digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def batches(folder: Path, checkout: Path) -> dict[str, dict[str, str]]:
    """{recipe: {step: digest of the arrays and of which records stand in each row}}."""
    out: dict[str, dict[str, str]] = {}
    for recipe, settings in RECIPES.items():
        if "real_mix" in recipe and not SHARED.is_dir():
            continue
        for step in STEPS:
            words = ("data", "batch", recipe, *settings, f"--data.cache_dir={folder / 'cache'}")
            said = itx(checkout, folder / "batch.json", *words, "--step", step, "--rows", 10**6)
            out.setdefault(recipe, {})[str(step)] = digest([said["rows"], said["batch"]])
    return out


def scores(folder: Path, checkout: Path) -> dict[str, Any]:
    """What a short run measures: the losses of its last logged step, the averages of its report, and of each row and its
    predictions a digest."""
    run = folder / "run"
    words = ("train", *SCORED, f"--data.cache_dir={folder / 'cache'}", "--run_dir", run)
    report = itx(checkout, folder / "report.json", *words)
    last = json.loads((run / "metrics.jsonl").read_text("utf-8").splitlines()[-1])
    predictions = {p.relative_to(run).as_posix(): p for p in run.glob("eval/*/predictions/*.jsonl")}
    return {
        "groups": {f"{g['group']} {g['kind']} {g['label']}": digest(g) for g in report["groups"]},
        "rows": {row["row"]: digest(row) for row in report["rows"]},
        "predictions": {name: digest(p.read_text("utf-8")) for name, p in predictions.items()},
        "metrics": {k: v for k, v in last.items() if not any(word in k for word in TIMED)},
    }


def differences(before: Any, after: Any, name: str = "") -> list[str]:
    """Each value that differs, in words."""
    if isinstance(before, dict) and isinstance(after, dict):
        keys = sorted({*before, *after})
        return [d for k in keys for d in differences(before.get(k), after.get(k), f"{name}/{k}")]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        pairs = enumerate(zip(before, after, strict=True))
        return [d for i, (a, b) in pairs for d in differences(a, b, f"{name}/{i}")]
    return [] if before == after else [f"{name}: {before!r} before, {after!r} now"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--checkout", type=Path, default=REPO)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    folder = args.folder.resolve()
    facts = {
        "batches": batches(folder, args.checkout),
        "scores": scores(folder, args.checkout),
    }
    if args.write:
        GOLDEN.write_text(json.dumps(facts, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
        return 0
    before = json.loads(GOLDEN.read_text("utf-8"))
    before["batches"] = {k: v for k, v in before["batches"].items() if k in facts["batches"]}
    found = differences(before, facts)
    print("\n".join(found) or "the batches and the scores are those that were committed")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
