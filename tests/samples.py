# SPDX-License-Identifier: Apache-2.0
"""A small config over tests/sample_tasks.py, and its build in a process of its own (built once per
test session)."""

import subprocess
import sys
from pathlib import Path

from itx.config import DataConfig, EvalConfig, OptimConfig, RunConfig, TrainConfig
from itx.tasks import registry
from itx.tasks.spec import TaskSpec
from tests import tiny
from tests.conftest import REPO, one_device

RECIPE = """
from tests.samples import config
def get_config(quick=False):
    return config({arguments})
"""


def config(
    cache: str, mixture: str = "sample_held", architecture: str = "decoder", **data
) -> RunConfig:
    model = tiny.decoder() if architecture == "decoder" else tiny.t5()
    return RunConfig(
        model=model,
        data=DataConfig(**{
            "mixture": mixture, "modules": ("tests.sample_tasks",), "cache_dir": cache, "vocab_size": 400,
            "sequence_length": 128, "target_length": 64, "global_batch": 8, "window_examples": 128,
            "eval_examples": 20, "workers": 2, **data,
        }),
        optim=OptimConfig(learning_rate=3e-3, warmup_steps=2),
        train=TrainConfig(steps=6, checkpoint_every=2, log_every=2),
        eval=EvalConfig(max_examples=2, max_new_tokens=6, batch_size=32),
    )  # fmt: skip


def write_recipe(folder: Path, cache: Path, **arguments) -> Path:
    file = folder / "recipe.py"
    file.write_text(
        RECIPE.format(
            arguments=", ".join(f"{k}={v!r}" for k, v in {"cache": str(cache), **arguments}.items())
        )
    )
    return file


def itx(
    *words, check: int | None = 0, cwd: Path = REPO, **environment
) -> subprocess.CompletedProcess:
    """Run the `itx` command as a user would, on one CPU device; `check` is the exit code it must
    have."""
    command = [sys.executable, "-m", "itx.cli", *map(str, words)]
    done = subprocess.run(
        command, cwd=cwd, env=one_device() | environment, capture_output=True, text=True
    )
    assert check is None or done.returncode == check, (
        f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    )
    return done


def shipped_tasks() -> dict[str, TaskSpec]:
    """What `import tasks` registers; another test of this process may have loaded the studies'
    own modules."""
    apart = ("tasks.documents", "tasks.studies")
    return {
        name: task
        for name, task in registry.TASKS.items()
        if task.module.startswith("tasks.") and task.module not in apart
    }
