# SPDX-License-Identifier: Apache-2.0
"""Where a run's metrics go besides metrics.jsonl: TensorBoard's files, and the services that
`train.writers` names.

A writer is an object with `write(step, {name: value})` and `close()`. It is a copy for looking at:
what it cannot take is counted and said, and training goes on. Of several processes the first one
writes.
"""

import importlib
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from itx import hashing, hosts
from itx.config import RunConfig, flatten, to_dict
from itx.data.types import Lock
from itx.errors import UserError
from itx.text import visible

TASK_LOSS, CLUSTER_LOSS = "train/loss/", "train/cluster_loss/"  # of metrics: their names follow
MAX_BOARD_TASKS = 50  # curves of single tasks on a board: thousands are slow, and nobody reads them
PROJECT = "itx"  # unless $WANDB_PROJECT or $TRACKIO_PROJECT names another


class Writer(Protocol):
    def write(self, step: int, values: dict[str, float]) -> None: ...

    def close(self) -> None: ...


def check_installed(config: RunConfig) -> None:
    """UserError for a service whose package is not installed."""
    for name in config.train.writers:
        found = importlib.util.find_spec(name)
        # wandb leaves a folder of its own name where it works: such a folder has no origin
        if found is None or found.origin is None:
            raise UserError(
                f"train.writers={name}: the package {name} is not installed: `uv pip install "
                f"{name}`, or `uv sync --extra {name}` in a clone"
            )


class TensorBoard:
    """Files that TensorBoard reads; lines of steps that are made again take the old ones' place.
    Every cluster has a curve, and of the tasks only those in `shown`."""

    def __init__(self, folder: Path, step: int, shown: set[str]):
        from tensorboardX import SummaryWriter

        self.board = SummaryWriter(str(folder), purge_step=step + 1)
        self.shown = shown

    def write(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            if not name.startswith(TASK_LOSS) or name.removeprefix(TASK_LOSS) in self.shown:
                self.board.add_scalar(name, value, step)

    def close(self) -> None:
        self.board.close()


class Service:
    """A run of wandb or trackio, gone on with when the run folder is. A service keeps the lines of
    steps that are made again as it received them first."""

    def __init__(self, name: str, folder: Path, config: RunConfig):
        self.module = importlib.import_module(name)
        place = folder.resolve()
        run_id = hashing.digest(str(place))
        settings: dict[str, Any] = {
            "project": os.environ.get(f"{name.upper()}_PROJECT") or PROJECT,
            "name": f"{place.name}-{run_id[:8]}",
            "config": flatten(to_dict(config)),
            "resume": "allow",
        }
        if name == "wandb":
            settings |= {"id": run_id, "dir": str(place)}
        self.module.init(**settings)

    def write(self, step: int, values: dict[str, float]) -> None:
        self.module.log(values, step=step)

    def close(self) -> None:
        self.module.finish()


class Guarded:
    """A writer whose failures are counted and said, the first and the sum of them."""

    def __init__(self, name: str, make: Callable[[], Writer], say: Callable[[str], None]):
        self.name, self.say = name, say
        self.lines = self.lost = 0
        self.writer: Writer | None = None
        self._try("it cannot begin", lambda: setattr(self, "writer", make()), say=True)

    def write(self, step: int, values: dict[str, float]) -> None:
        self.lines += 1
        what, first = f"step {step} is lost there", not self.lost
        if self.writer is None or not self._try(
            what, lambda: self.writer.write(step, values), say=first
        ):
            self.lost += 1

    def close(self) -> None:
        if self.writer is not None:
            self._try("it did not end well", self.writer.close, say=True)
        if self.lost:
            self.say(
                f"{self.name}: {self.lost} of {self.lines} lines are lost there; metrics.jsonl "
                "holds all of them"
            )

    def _try(self, what: str, work: Callable[[], None], say: bool) -> bool:
        """Whether the work was done; with `say` a failure is told in a line."""
        try:
            work()
        # a service may raise anything, and no copy of the metrics is worth a run
        except Exception as e:
            if say:
                why = " ".join(f"{type(e).__name__}: {e}".split())[:200]
                self.say(f"{self.name}: {what} ({visible(why)}); training goes on")
            return False
        return True


def shown_tasks(lock: Lock) -> set[str]:
    """The tasks, at most MAX_BOARD_TASKS, that a run draws from most; of equal ones the first by
    name."""
    by_rate = sorted(lock["tasks"], key=lambda t: (-t["rate"], t["name"]))
    return {t["name"] for t in by_rate[:MAX_BOARD_TASKS]}


def opened(
    config: RunConfig,
    lock: Lock,
    folder: Path,
    tensorboard: Path,
    step: int,
    say: Callable[[str], None],
) -> list[Guarded]:
    """The writers that a config names, for a run that begins or goes on at `step`."""
    if not hosts.is_writer():
        return []
    writers = []
    if config.train.tensorboard:
        shown, tasks = shown_tasks(lock), len(lock["tasks"])
        writers.append(Guarded("tensorboard", lambda: TensorBoard(tensorboard, step, shown), say))
        if len(shown) < tasks:
            say(
                f"tensorboard: curves of every cluster and of {len(shown)} of {tasks} tasks, those "
                "drawn from most; metrics.jsonl holds all of them"
            )
    for name in config.train.writers:
        make = lambda name=name: Service(name, folder, config)  # noqa: E731
        writers.append(Guarded(name, make, say))
    return writers
