# SPDX-License-Identifier: Apache-2.0
"""The closed loop in miniature: labels are spoilt in a slice of the training data, `itx analyze` finds
it, `itx create refine` acts on it, and runs on the refined data are right there again, which as many
random drops do not bring about.

    uv run pytest -m slow -s tests/create/test_closed_loop.py
"""

import json
from pathlib import Path

import pytest

from tests.conftest import REPO
from tests.samples import itx

RECIPE = """
import dataclasses
from itx.config import DataConfig, EvalConfig, OptimConfig, RunConfig, TrainConfig
from itx.models import presets

def get_config(quick=False):
    return RunConfig(
        model=dataclasses.replace(presets.quickstart_decoder(), embed_dim=64, head_dim=16, mlp_dim=192),
        data=DataConfig(
            mixture="faulty", modules=("tests.faulty_tasks",), cache_dir="cache", vocab_size=350,
            global_batch=32, sequence_length=64, target_length=32, window_examples=512, workers=2,
        ),
        optim=OptimConfig(learning_rate=3e-3, warmup_steps=20),
        train=TrainConfig(steps=160, checkpoint_every=80, log_every=80),
        eval=EvalConfig(max_examples=0, split="validation", before=False, instructions=False),
    )
"""
SEEDS = (0, 1)
LONG = (
    300  # steps of the arms, which are then sure of what their data say; the recipe's own are few
)


def scores(run: Path) -> tuple[float, float]:
    """Accuracy on dev (inside the slice, outside it)."""
    sides: dict[bool, list[float]] = {True: [], False: []}
    for file in run.glob(f"eval/{LONG}/predictions/faulty_*.jsonl"):
        for line in file.read_text("utf-8").splitlines():
            held = json.loads(line)
            if "score" in held:
                sides["she" in held["prompt"].split()].append(held["score"])
    inside, outside = (sum(s) / len(s) for s in (sides[True], sides[False]))
    return inside, outside


@pytest.mark.slow
def test_a_spoilt_slice_recovers_and_a_control_does_not(tmp_path):
    """A short run is analysed, for labels that were learned by heart are not doubted. Then two seeds
    of each arm: as it is, suspects relabelled, suspects dropped, as many others dropped, rows of
    others with the slice's words."""

    def run(*words):
        return itx(*words, cwd=tmp_path, PYTHONPATH=str(REPO))

    (tmp_path / "recipe.py").write_text(RECIPE)
    run("train", "recipe.py", "--run_dir", "runs/faulty")
    run("analyze", "runs/faulty", "--train_examples", "1000", "--json", "analysis.json")
    analysis = json.loads((tmp_path / "analysis.json").read_text())
    first = analysis["findings"][0]
    assert "names women" in first["text"], first
    doubted = [f["action"] for f in analysis["findings"] if f["kind"] == "suspects"]
    assert len(doubted) == 3
    arms = {
        "relabelled": [",".join(doubted), "--relabel", "rather"],
        "dropped": [",".join(doubted), "--relabel", "drop"],
        "control": [",".join(doubted), "--relabel", "drop", "--control"],
        "pairs": [first["action"], "--rows", "400"],
    }
    recipes = {"faulty": "recipe.py"}
    for name, words in arms.items():
        run("create", "refine", "runs/faulty", "--name", name, "--json", f"{name}.json", "--actions", *words)  # fmt: skip
        recipes[name] = f"refined/{name}/v1/{name}_v1.py"
        held = json.loads((tmp_path / f"{name}.json").read_text())
        print(name, held["counts"], flush=True)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in recipes}
    for seed in SEEDS:
        for name, recipe in recipes.items():
            where = f"runs/{name}-{seed}"
            seeds = (f"--train.seed={seed}", f"--data.seed={seed}", f"--train.steps={LONG}")
            run("train", recipe, *seeds, "--run_dir", where)
            found[name].append(scores(tmp_path / where))
            print(f"{name}, seed {seed}: inside {found[name][-1][0]:.3f}, outside {found[name][-1][1]:.3f}", flush=True)  # fmt: skip
    inside = {name: [i for i, _ in s] for name, s in found.items()}
    for name in ("relabelled", "dropped", "pairs"):
        assert min(inside[name]) > max(*inside["faulty"], *inside["control"]) + 0.05, inside
        assert min(o for _, o in found[name]) > 0.95
