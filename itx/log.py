# SPDX-License-Identifier: Apache-2.0
"""What a run says while it trains: metrics.jsonl, TensorBoard, and a progress line.

metrics.jsonl has one object per logged step, {"step": n, "train/loss": …}. On resume it is cut back
to the restored step. Values under `TIMING` differ from run to run; all others are reproducible.
"""

import json
import os
import sys
import time
from pathlib import Path

TIMING = ("train/tokens_per_second", "train/seconds")


class MetricsLog:
    """Append-only JSON lines that are on disk before a checkpoint commits; optional TensorBoard."""

    def __init__(self, file: Path, step: int, tensorboard: Path | None = None):
        cut_back(file, step)
        self.out = open(file, "a", encoding="utf-8")  # noqa: SIM115 (closed on exit)
        self.board = None
        if tensorboard is not None:
            from tensorboardX import SummaryWriter

            self.board = SummaryWriter(str(tensorboard), purge_step=step + 1)

    def write(self, step: int, values: dict[str, float]) -> None:
        self.out.write(json.dumps({"step": step, **values}) + "\n")
        self.out.flush()
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(name, value, step)

    def sync(self) -> None:
        """Until this returns, lines may be lost in a power cut; after it they are on disk."""
        self.out.flush()
        os.fsync(self.out.fileno())

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *error: object) -> None:
        self.sync()
        self.out.close()
        if self.board is not None:
            self.board.close()


def cut_back(file: Path, step: int) -> None:
    """Drop lines of later steps, and a last line that a kill left incomplete."""
    file.parent.mkdir(parents=True, exist_ok=True)
    kept = [line for line in read_lines(file) if json.loads(line)["step"] <= step]
    scratch = file.with_name(file.name + ".tmp")
    with open(scratch, "w", encoding="utf-8") as out:
        out.writelines(line + "\n" for line in kept)
        out.flush()
        os.fsync(out.fileno())
    os.replace(scratch, file)


def read_lines(file: Path) -> list[str]:
    """The whole lines of metrics.jsonl."""
    if not file.is_file():
        return []
    lines = file.read_text(encoding="utf-8").split("\n")
    return [line for line in lines[:-1] if line.endswith("}")]


class Progress:
    """A bar with loss, tokens/s and time left; plain lines where the output is not a terminal."""

    def __init__(self, start: int, stop: int, every_seconds: float = 15.0):
        self.start, self.stop, self.every = start, stop, every_seconds
        self.began = self.told = time.monotonic()
        self.bar = None
        if sys.stderr.isatty():
            from rich import progress as rich

            self.bar = rich.Progress(
                rich.TextColumn("train"), rich.BarColumn(), rich.MofNCompleteColumn(),
                rich.TextColumn("loss {task.fields[loss]}  {task.fields[speed]} tokens/s"),
                rich.TimeRemainingColumn(), transient=False,
                console=__import__("rich.console").console.Console(stderr=True),
            )  # fmt: skip
            self.bar.start()
            self.task = self.bar.add_task("", total=stop, completed=start, loss="-", speed="-")

    def say(self, text: str) -> None:
        if self.bar is not None:
            self.bar.console.print(text, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def update(self, step: int, loss: float | None = None, speed: float | None = None) -> None:
        """`step` steps are done; loss and tokens/s where they are known anew."""
        now = time.monotonic()
        if self.bar is not None:
            fields = {} if loss is None else {"loss": f"{loss:.3f}", "speed": f"{speed:,.0f}"}
            self.bar.update(self.task, completed=step, **fields)
        elif loss is not None and (now - self.told >= self.every or step >= self.stop):
            self.told = now
            left = (now - self.began) / max(step - self.start, 1) * (self.stop - step)
            self.say(f"train {step}/{self.stop}  loss {loss:.3f}  {speed:,.0f} tokens/s  {left:.0f} s left")

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.stop()
