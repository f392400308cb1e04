# SPDX-License-Identifier: Apache-2.0
"""The run folder: the names of its files stand here and nowhere else."""

import contextlib
import functools
import sys
from dataclasses import dataclass
from pathlib import Path

from itx import config as configs
from itx import storage
from itx.checkpoint import Checkpoints, Damaged
from itx.data import lock as locks
from itx.data.vocabulary import FILES
from itx.errors import UserError, did_you_mean
from itx.text import visible


@dataclass(frozen=True)
class RunFolder:
    path: Path
    setting: str = ""  # of an evaluation other than the run's own, e.g. "test-5shots"

    @property
    def config_json(self) -> Path:
        """{"file", "overrides", "config", "origin", "versions", "command", "seal", …}"""
        return self.path / "config.json"

    @property
    def lock_json(self) -> Path:
        return self.path / "data.lock.json"

    @property
    def vocab_model(self) -> Path:
        """The vocabulary's file, of whichever kind; beside it what else its tokenizer consists
        of."""
        folder = self.path / "vocab"
        return next(
            (f for n in FILES if (f := folder / n).is_file()), folder / "sentencepiece.model"
        )

    @property
    def chat_template(self) -> Path:
        """How conversations were written, where any were trained on; a Hugging Face tokenizer reads
        it there."""
        return self.path / "vocab" / "chat_template.jinja"

    @property
    def pretrained(self) -> Path:
        """config.json and generation_config.json of the Hugging Face folder that the run began
        from."""
        return self.path / "pretrained"

    @property
    def metrics_jsonl(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def steps(self) -> list[int]:
        """Of the checkpoints, sound or not."""
        return storage.checkpoint_steps(self.checkpoints)

    def is_begun(self) -> bool:
        """Whether this is a run folder, even one that lost its config.json."""
        return self.config_json.is_file() or bool(self.steps())

    @property
    def audit_json(self) -> Path:
        return self.path / "audit.json"

    def eval_dir(self, step: int) -> Path:
        """scores.json, predictions/<row>.jsonl; in a folder below it those of another setting."""
        return self.path / "eval" / str(step) / self.setting

    def scores_json(self, step: int) -> Path:
        return self.eval_dir(step) / "scores.json"

    @property
    def test_log(self) -> Path:
        """One line per look at the test split."""
        return self.path / "eval" / "test_looks.jsonl"

    @property
    def fixed_json(self) -> Path:
        """Loss on fixed training examples per task, before and after."""
        return self.path / "eval" / "fixed_examples.json"

    @property
    def retention_json(self) -> Path:
        """Bits per byte of plain text, before and after."""
        return self.path / "eval" / "retention.json"

    @property
    def report_json(self) -> Path:
        return self.path / "report.json"

    @property
    def report_html(self) -> Path:
        return self.path / "report.html"

    @property
    def report_png(self) -> Path:
        return self.path / "report.png"


def read_config(run: RunFolder) -> dict:
    """What config.json of a run folder holds; where it is lost or damaged, what a checkpoint keeps
    of it."""
    try:
        return stored_config(run)
    except UserError as e:
        return _from_checkpoint(run, "about", e)


def stored_config(run: RunFolder) -> dict:
    """What config.json itself holds; UserError where that is not what a run writes."""
    try:
        held = storage.read_json(run.config_json)
        configs.flatten(held["config"])
    except FileNotFoundError as e:
        raise UserError(f"{run.config_json} is not there") from e
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise UserError(
            f"{run.config_json} is not what a run writes ({type(e).__name__}: {e})"
        ) from e
    if not storage.is_intact(held):
        raise UserError(f"{run.config_json} is not what the run wrote: a value in it has changed")
    return held


def read_lock(run: RunFolder) -> dict:
    """What data.lock.json of a run folder holds; where it is lost or damaged, what a checkpoint
    keeps of it."""
    try:
        return locks.read(run.lock_json)
    except UserError as e:
        return locks.checked(_from_checkpoint(run, "lock", e), run.lock_json)


def _from_checkpoint(run: RunFolder, key: str, error: UserError) -> dict:
    """What the newest sound checkpoint keeps in its meta under `key`, which is said; `error` where
    none does."""
    if not run.steps():
        raise error
    with Checkpoints(run.checkpoints, read_only=True) as checkpoints:
        for step in reversed(checkpoints.steps()):
            with contextlib.suppress(Damaged):
                if held := checkpoints.meta(step).get(key):
                    _say_once(f"{error}; what the checkpoint of step {step} keeps of it is used")
                    return held
    raise error


@functools.cache
def _say_once(line: str) -> None:
    """A command may read a file in several places."""
    print(f"itx: {visible(line)}", file=sys.stderr)


def run_config(run: RunFolder) -> configs.RunConfig:
    return configs.from_dict(read_config(run)["config"])


def default_run(config_file: str, quick: bool) -> Path:
    return Path("runs") / (Path(config_file).stem + ("-quick" if quick else ""))


def open_run(path: str) -> RunFolder:
    """An existing run folder; UserError where it is none."""
    run = RunFolder(Path(path))
    if not run.is_begun():
        parent = run.path.parent if run.path.parent.is_dir() else Path("runs")
        others = (
            [str(p) for p in parent.iterdir() if (p / "config.json").is_file()]
            if parent.is_dir()
            else []
        )
        raise UserError(
            f"{path} is not a run folder (no config.json there)" + did_you_mean(str(path), others)
        )
    return run


def chosen_step(run: RunFolder, given: int | None) -> int:
    """The step asked for, or the newest checkpoint's; 0 is the model before tuning."""
    steps = run.steps()
    if given is None and not steps:
        raise UserError(f"{run.path} has no checkpoint yet; --step 0 asks the model before tuning")
    if given is None:
        return steps[-1]
    if given and given not in steps:
        near = sorted(sorted([0, *steps], key=lambda step: abs(step - given))[:3])
        raise UserError(f"--step {given}: {run.path} has no checkpoint of that step; the nearest: "
                        + ", ".join(f"{step} (before tuning)" if step == 0 else str(step) for step in near))  # fmt: skip
    return given
