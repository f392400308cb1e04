# SPDX-License-Identifier: Apache-2.0
"""Invariant 2 from outside: SIGKILL in every stage, the same command again, and nothing differs.

uv run pytest -m slow tests/test_kill.py
uv run python -m tests.test_kill configs/quickstart.py     the same on any recipe; prints the times
                                                           of the kills
"""

import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

from tests import samples
from tests.conftest import REPO

TIMING = ("seconds", "tokens_per_second", "mfu")


def curve(run: Path) -> list[dict]:
    """The logged lines without the figures that depend on the clock."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.endswith(TIMING)} for line in lines]


def parameters(run: Path) -> dict[str, np.ndarray]:
    """Every parameter of the newest checkpoint, as bytes would have it."""
    import orbax.checkpoint as ocp

    step = max(int(p.name) for p in (run / "checkpoints").iterdir() if p.name.isdigit())
    # Orbax warns that the devices are those of the file: here they are the same
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sharding info not provided")
        tree = ocp.PyTreeCheckpointer().restore(run / "checkpoints" / str(step) / "params")
    return {"/".join(map(str, k)): np.asarray(v) for k, v in _leaves(tree)}


def _leaves(tree, path=()):
    for k, v in tree.items():
        yield from _leaves(v, (*path, k)) if isinstance(v, dict) else [((*path, k), v)]


def moments(run: Path, cache: Path, said: Path) -> dict:
    """Stage -> a test of whether the run is in it, seen from its files and from what it said."""

    def step():
        return len(curve(run)) if (run / "metrics.jsonl").exists() else 0

    return {
        "inside the build": lambda: len(list(cache.glob("*/*/r*/manifest.json"))) >= 3 and not (run / "config.json").exists(),
        "inside evaluation": lambda: "evaluate step 0" in said.read_text(),
        "between saves": lambda: step() >= 1,
        "inside a save": lambda: any((run / "checkpoints").glob("*.orbax-checkpoint-tmp*")),
        "inside the last evaluation": lambda: re.search("evaluate step [1-9]", said.read_text()) is not None,
    }  # fmt: skip


def killed(command: list, environment: dict, said: Path, when, wait: float) -> float:
    """Start the command, SIGKILL its whole group `wait` seconds after `when()` holds; returns the
    time of the kill."""
    began = time.monotonic()
    with open(said, "w") as out:
        child = subprocess.Popen(
            command, cwd=REPO, env=environment, start_new_session=True, stdout=out, stderr=out
        )
    while child.poll() is None and not when():
        time.sleep(0.002)
    time.sleep(wait)
    assert child.poll() is None, (
        f"the run ended (exit {child.returncode}) before it could be killed"
    )
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    return time.monotonic() - began


def disturbed_equals_undisturbed(
    folder: Path, recipe: Path, *overrides: str, seed: int = 0
) -> list[str]:
    """Train once in peace and once with five kills; assert equality; returns what was done when."""
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | {
        "JAX_PLATFORMS": "cpu"
    }

    def command(name: str) -> list[str]:
        where = [
            f"--data.cache_dir={folder / name / 'cache'}",
            "--run_dir",
            str(folder / name / "run"),
        ]
        return [sys.executable, "-m", "itx.cli", "train", str(recipe), *overrides, *where]

    subprocess.run(
        command("peace"), cwd=REPO, env=environment, check=True, stdout=subprocess.DEVNULL
    )
    draw, told = random.Random(seed), []
    run, cache, said = folder / "war" / "run", folder / "war" / "cache", folder / "said.txt"
    for stage, when in moments(run, cache, said).items():
        wait = 0.0 if "save" in stage and "inside" in stage else draw.uniform(0, 0.5)
        told.append(
            f"{stage}: killed after {killed(command('war'), environment, said, when, wait):.2f} s"
        )
    subprocess.run(command("war"), cwd=REPO, env=environment, check=True, stdout=subprocess.DEVNULL)
    a, b = folder / "peace" / "run", folder / "war" / "run"
    assert curve(a) == curve(b) and len(curve(a)) > 2
    pa, pb = parameters(a), parameters(b)
    assert pa.keys() == pb.keys() and all(pa[k].tobytes() == pb[k].tobytes() for k in pa)
    for scores in a.glob("eval/*/scores.json"):
        assert json.loads(scores.read_text()) == json.loads((b / scores.relative_to(a)).read_text())
    return told


def digests(cache: Path) -> dict[str, str]:
    return {
        str(f.relative_to(cache)): hashlib.sha256(f.read_bytes()).hexdigest()
        for f in cache.rglob("*")
        if f.is_file()
    }


@pytest.mark.slow
def test_a_build_killed_twenty_times_gives_the_same_bytes(tmp_path):
    recipes = {}
    for name in ("peace", "war"):
        (tmp_path / name).mkdir()
        recipes[name] = samples.write_recipe(tmp_path / name, tmp_path / name / "cache")
    began = time.monotonic()
    samples.itx("data", "build", recipes["peace"])
    whole, draw, kills = time.monotonic() - began, random.Random(0), 0
    command = [sys.executable, "-m", "itx.cli", "data", "build", str(recipes["war"])]
    cache = tmp_path / "war" / "cache"
    while kills < 20:
        child = subprocess.Popen(
            command,
            cwd=REPO,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            child.wait(draw.uniform(0, whole))
            for folder in [
                cache / "locks",
                *draw.sample(sorted(cache.glob("*/*/r*")), 6),
            ]:  # it was done: let it work again
                shutil.rmtree(folder)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            kills += 1
    samples.itx("data", "build", recipes["war"])
    assert digests(tmp_path / "peace" / "cache") == digests(tmp_path / "war" / "cache")


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["decoder", "encoder_decoder"])
def test_a_killed_run_ends_as_an_undisturbed_one(tmp_path, architecture):
    recipe = samples.write_recipe(tmp_path, tmp_path / "unused", architecture=architecture)
    steps = ("--train.steps=60", "--train.checkpoint_every=10", "--train.log_every=5")
    told = disturbed_equals_undisturbed(tmp_path, recipe, *steps)
    assert len(told) == 5


if __name__ == "__main__":
    place = Path(tempfile.mkdtemp())
    for line in disturbed_equals_undisturbed(place, Path(sys.argv[1]), *sys.argv[2:]):
        print(line)
    print("every logged loss and every parameter is bitwise equal")
    shutil.rmtree(place)
