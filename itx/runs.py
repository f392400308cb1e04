# SPDX-License-Identifier: Apache-2.0
"""The run folder: the names of its files stand here and nowhere else."""

import contextlib
import functools
from dataclasses import dataclass
from pathlib import Path

from itx import config as configs
from itx import storage
from itx.checkpoint import Checkpoints, Damaged
from itx.data import lock as locks
from itx.data.types import Lock
from itx.data.vocabulary import FILES
from itx.errors import UserError, did_you_mean, download_hint
from itx.text import say


def _below(name: str) -> property:
    """The path of that name in a run folder."""
    return property(lambda run: run.path / name)


@dataclass(frozen=True)
class RunFolder:
    path: Path
    setting: str = ""  # an evaluation other than the run's own, e.g. "test-5shots"

    # {"file", "overrides", "config", "origin", "versions", "command", "seal", …}
    config_json = _below("config.json")
    lock_json = _below("data.lock.json")  # itx/data/types.py, Lock
    # the chat template of what is trained on, where a Hugging Face tokenizer reads it
    chat_template = _below("vocab/chat_template.jinja")
    # config.json and generation_config.json of the Hugging Face folder that the run began from
    pretrained = _below("pretrained")
    metrics_jsonl = _below("metrics.jsonl")  # itx/log.py
    goodput_jsonl = _below("goodput.jsonl")  # what its time went to (itx/goodput.py)
    goodput_json = _below("goodput.json")  # the sums of these lines, and the use of the devices
    tensorboard = _below("tensorboard")
    profile = _below("profile")  # a trace of some steps (itx/tracing.py)
    checkpoints = _below("checkpoints")  # itx/checkpoint.py
    audit_json = _below("audit.json")  # itx/audit/audit.py
    test_log = _below("eval/test_looks.jsonl")  # one line per look at the test split
    # scores on dev while training: {"step", "mean", "rows": {row: score}} (itx/eval/dev.py)
    dev_jsonl = _below("eval/dev.jsonl")
    # loss on fixed training examples per task, before and after tuning
    fixed_json = _below("eval/fixed_examples.json")
    # how many examples of each row eval.max_seconds leaves (itx/eval/budget.py)
    budget_json = _below("eval/budget.json")
    retention_json = _below("eval/retention.json")  # bits per byte of plain text, before and after
    # what a chat model declines, before and after
    safety_json = _below("eval/safety.json")
    # bits that the instruction tells, before and after
    information_json = _below("eval/information.json")
    report_json = _below("report.json")
    report_html = _below("report.html")
    report_png = _below("report.png")

    @property
    def vocab_model(self) -> Path:
        """The vocabulary's file, of whichever kind, beside the other files of its tokenizer."""
        files = [self.path / "vocab" / name for name in FILES]
        return next((f for f in files if f.is_file()), files[FILES.index("sentencepiece.model")])

    def steps(self) -> list[int]:
        """The steps of the checkpoints, sound or not."""
        return storage.checkpoint_steps(self.checkpoints)

    def is_begun(self) -> bool:
        """Whether this is a run folder, even one that lost its config.json."""
        return self.config_json.is_file() or bool(self.steps())

    def has_lock(self) -> bool:
        """Whether it came as far as its lock, even one that is lost: not where it was killed while
        it began."""
        return self.lock_json.is_file() or bool(self.steps())

    def eval_dir(self, step: int | str) -> Path:
        """The folder of scores.json and predictions/<row>.jsonl; another `setting` than the run's
        own has one below it."""
        return self.path / "eval" / str(step) / self.setting

    def scores_json(self, step: int | str) -> Path:
        return self.eval_dir(step) / "scores.json"


def named(path: Path | str) -> tuple[RunFolder, int | None]:
    """(run folder, step) of RUN/checkpoints/STEP; of any other path itself and None."""
    folder = Path(path)
    if folder.parent.name == "checkpoints" and folder.name.isdigit():
        return RunFolder(folder.parents[1]), int(folder.name)
    return RunFolder(folder), None


def read_config(run: RunFolder) -> dict:
    """What config.json of a run folder holds, or a checkpoint's copy where it is lost or
    damaged."""
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


def read_lock(run: RunFolder) -> Lock:
    """What data.lock.json of a run folder holds, or a checkpoint's copy where it is lost or
    damaged."""
    try:
        return locks.read(run.lock_json)
    except UserError as e:
        return locks.checked(_from_checkpoint(run, "lock", e), run.lock_json)


def _from_checkpoint(run: RunFolder, key: str, error: UserError) -> dict:
    """What the newest sound checkpoint keeps in its meta under `key`, with a line that says so;
    `error` is raised where none does."""
    if not run.steps():
        raise error
    with Checkpoints(run.checkpoints, read_only=True) as checkpoints:
        for step in reversed(checkpoints.steps()):
            with contextlib.suppress(Damaged):
                if held := checkpoints.meta(step).get(key):
                    _say_once(f"{error}; what the checkpoint of step {step} keeps of it is used")
                    return held
    raise error


_say_once = functools.cache(say)  # a command may read a file in several places


def run_config(run: RunFolder) -> configs.RunConfig:
    return configs.from_dict(read_config(run)["config"])


def default_run(config_file: str, quick: bool) -> Path:
    return Path("runs") / (Path(config_file).stem + ("-quick" if quick else ""))


def open_run(path: str) -> RunFolder:
    """An existing run folder; UserError where the path is none."""
    run = RunFolder(Path(path))
    if run.config_json.is_file() and not run.steps() and _is_hugging_face(run.config_json):
        raise UserError(
            f"{path} is a Hugging Face folder, not a run folder: `itx convert import {path} RUN` "
            "makes one of it"
        )
    if not run.is_begun():
        if inside := runs_inside(run.path):
            raise UserError(f"{path} holds runs and is none; did you mean {_in_words(inside)}?")
        if not run.path.exists() and (hint := download_hint(path)):
            raise UserError(f"{path}: no such folder{hint}")
        parent = run.path.parent if run.path.parent.is_dir() else Path("runs")
        others = [str(f.parent) for f in parent.glob("*/config.json") if f.is_file()]
        raise UserError(
            f"{path} is not a run folder (no config.json there)" + did_you_mean(str(path), others)
        )
    return run


def runs_inside(folder: Path) -> list[RunFolder]:
    """The run folders that stand in a folder, by name."""
    held = sorted(folder.iterdir()) if folder.is_dir() else []
    return [run for p in held if (run := RunFolder(p)).is_begun()]


def _in_words(runs: list[RunFolder], most: int = 8) -> str:
    more = f" or one of {len(runs) - most} more" if len(runs) > most else ""
    return " or ".join(repr(str(run.path)) for run in runs[:most]) + more


def _is_hugging_face(config_json: Path) -> bool:
    """Whether a config.json is a model's, as `save_pretrained` writes it, rather than a run's."""
    try:
        held = storage.read_json(config_json)
    except (OSError, ValueError):
        return False
    return isinstance(held, dict) and "config" not in held and "model_type" in held


def step_of(path: str, given: int | None) -> tuple[str, int | None]:
    """(run folder, step) of RUN/checkpoints/STEP, or of a run and `--step`; UserError where the two
    differ."""
    run, step = named(path)
    if step is None:
        return path, given
    if given not in (None, step):
        raise UserError(f"--step {given}: {path} is the checkpoint of step {step}")
    return str(run.path), step


def base_step(run: RunFolder, given: int | None) -> int:
    """The step whose parameters an adapter is put over: of a run that trains an adapter itself 0,
    its base, which is the same at every step."""
    method = run_config(run).peft.method
    if method == "full":
        return chosen_step(run, given)
    if given:
        raise UserError(
            f"--step {given} with an adapter: {run.path} trains an adapter itself ({method}), and "
            "its base, which is what another one is put over, is the same at every step; leave "
            "the step out"
        )
    return 0


def chosen_step(run: RunFolder, given: int | None) -> int:
    """The step asked for, or the newest checkpoint's; 0 is the model before tuning."""
    steps = run.steps()
    if given is None and not steps:
        raise UserError(f"{run.path} has no checkpoint yet; --step 0 asks the model before tuning")
    if given is None:
        return steps[-1]
    if given and given not in steps:
        near = sorted(sorted([0, *steps], key=lambda step: abs(step - given))[:3])
        names = [f"{step} (before tuning)" if step == 0 else str(step) for step in near]
        raise UserError(
            f"--step {given}: {run.path} has no checkpoint of that step; the nearest: "
            + ", ".join(names)
        )
    return given
