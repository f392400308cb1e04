# SPDX-License-Identifier: Apache-2.0
"""The stages of a loop, each a command of ours in a process of its own, and what each took.

LOOP/logs/NAME.txt           what the command said
LOOP/logs/NAME.seconds.json  how long it took, once it has ended
"""

import time
from pathlib import Path
from typing import Any

from itx import storage
from itx.analysis import sweep
from itx.commands import child
from itx.errors import RunFailed
from itx.runs import RunFolder
from itx.text import visible

# of every run of a loop: it chooses on dev, and the model before tuning is the same for all
OWN = (f"--eval.split={sweep.SPLIT}", "--eval.before=False")


def train(folder: Path, run: Path, recipe: list[str]) -> None:
    """Trains a run that is not done."""
    if not RunFolder(run).report_json.is_file():
        print(visible(f"{run.name}: training on {recipe[0]}"), flush=True)
        itx(folder, f"{run.name}-train", "train", *recipe, "--run_dir", str(run))


def test(folder: Path, run: str) -> dict[str, Any]:
    """The score on test of a run that dev has chosen; {} where nothing of its trained tasks could
    be scored."""
    told = folder / "logs" / f"{Path(run).name}-test.json"
    if not told.is_file():
        itx(folder, f"{Path(run).name}-test", "eval", run, "--split", "test", "--json", str(told))
    settings = storage.read_json(told)["settings"]
    groups = [g for scores in settings.values() for g in scores["groups"]]
    own = next((g for g in groups if g["group"] == sweep.GROUP), None)
    return {k: own[k] for k in ("score", "score_interval")} if own else {}


def itx(folder: Path, name: str, *words: str) -> None:
    """A command of ours; RunFailed with its last line where it fails."""
    began = time.monotonic()
    try:
        child.itx(folder / "logs" / f"{name}.txt", list(words))
    except RunFailed as e:
        raise RunFailed(f"itx {words[0]}: {e}") from e
    if not _took(folder, name).is_file():  # what was made already takes no time the second time
        seconds = time.monotonic() - began
        storage.write_json(_took(folder, name), {"seconds": round(seconds, 1)})


def seconds(folder: Path, name: str) -> float | None:
    """How long a stage took; None where it has not ended."""
    file = _took(folder, name)
    return storage.read_json(file)["seconds"] if file.is_file() else None


def _took(folder: Path, name: str) -> Path:
    return folder / "logs" / f"{name}.seconds.json"
