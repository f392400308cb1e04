# SPDX-License-Identifier: Apache-2.0
"""Scores of the trained tasks on dev while training (eval.every), and which checkpoint was best.

Dev is the validation split of tasks that are trained on, never test and never a held-out task: what
chooses a checkpoint may not be what is claimed of it. The best is the highest mean over tasks, then
clusters, of scores corrected for chance; of equal ones the first.

    eval/dev.jsonl             {"step", "mean", "seconds", "rows": {row: score}}, a line a look
    eval/<step>/dev/           predictions and scores.json, as of any evaluation
"""

import dataclasses
import json
import time
from collections.abc import Callable, Sequence

from itx import config as configs
from itx import hosts, storage
from itx.config import RunConfig
from itx.data.types import Lock
from itx.errors import UserError
from itx.eval import evaluate
from itx.eval.runner import Runner
from itx.log import cut_back, read_metrics
from itx.runs import RunFolder
from itx.writers import Writer

SETTING = "dev"  # the folder of these scores below a step's


class Dev:
    """The looks at dev of one run, from the step that training begins at."""

    def __init__(self, run: RunFolder, lock: Lock, config: RunConfig, begin: int):
        self.run, self.began = run, time.monotonic()
        self.every, self.last = config.eval.every, config.train.steps
        self.keep_best = config.eval.keep_best
        if self.every and not lock.get("dev"):
            raise UserError(
                f"eval.every={self.every}: the data lock names no dev rows; build the data with "
                "eval.every set"
            )
        self.lock: Lock = {**lock, "evaluation": lock.get("dev", [])}
        # eval.dev_examples is what bounds the time of these looks
        split = {
            "split": "validation",
            "max_examples": config.eval.dev_examples,
            "max_seconds": 0.0,
        }
        self.config = configs.changed(config, "eval", **split)
        self.looks: list[dict] = []
        if self.every:
            self.looks = hosts.broadcast(lambda: cut_back(run.dev_jsonl, begin))
        self.seconds = 0.0

    def due(self, step: int) -> bool:
        """Whether a step is to be scored, and was not before."""
        if not self.every or not step or any(look["step"] == step for look in self.looks):
            return False
        return step % self.every == 0 or step == self.last

    def pinned(self) -> set[int]:
        """The checkpoint that is kept whatever comes after it."""
        step = best(self.looks)
        return {step} if self.keep_best and step else set()

    def score(
        self,
        load: Callable[[], Runner],
        step: int,
        writers: Sequence[Writer],
        say: Callable[[str], None],
    ) -> None:
        """Score the model as it is at `step`."""
        began = time.monotonic()
        place = dataclasses.replace(self.run, setting=SETTING)
        scores = evaluate.evaluate(load, self.lock, self.config, place, step, say)
        now = time.monotonic()
        self.seconds += now - began

        def look() -> dict:
            rows = {name: row["score"] for name, row in scores["rows"].items()}
            mean = scores["groups"][0]["mean"] if scores["groups"] else None
            return {"step": step, "mean": mean, "seconds": now - began, "rows": rows}

        self.looks.append(hosts.broadcast(look))
        if hosts.is_writer():
            self._write(scores, step, now, writers)
        say(in_words(self.looks, step))

    def _write(self, scores: dict, step: int, now: float, writers: Sequence[Writer]) -> None:
        """The looks into their file, the scores of the last one to the writers."""
        with storage.whole_file(self.run.dev_jsonl) as part:
            part.write_text("".join(json.dumps(x) + "\n" for x in self.looks), encoding="utf-8")
        values = {
            f"eval/{name}/{row['metric']}": row["score"]
            for name, row in scores["rows"].items()
            if row["score"] is not None
        }
        if (mean := self.looks[-1]["mean"]) is not None:
            values["eval/dev"] = mean
        values["eval/time_share"] = self.seconds / (now - self.began)
        for writer in writers:
            writer.write(step, values)


def best(looks: list[dict]) -> int | None:
    """The step of the highest mean; None where nothing was scored."""
    known = [x for x in looks if x["mean"] is not None]
    return max(known, key=lambda x: x["mean"])["step"] if known else None


def looks_of(run: RunFolder) -> list[dict]:
    """Every look of a run, in order of its steps."""
    return read_metrics(run.dev_jsonl)


def in_words(looks: list[dict], step: int) -> str:
    """The score at a step, and the best so far."""
    (mean,) = (x["mean"] for x in looks if x["step"] == step)
    chosen = best(looks)
    if mean is None or chosen is None:
        return f"step {step}: no answer of dev could be scored"
    (highest,) = (x["mean"] for x in looks if x["step"] == chosen)
    so_far = "the best so far" if chosen == step else f"the best: {highest:.3f} at step {chosen}"
    return f"step {step}: trained tasks on dev {mean:.3f} (0: chance, 1: all right), {so_far}"
