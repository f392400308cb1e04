# SPDX-License-Identifier: Apache-2.0
"""Whether a run is well: steps without a finite loss and what is done about them, and what its loss
curve shows.

Everything here is a function of the steps so far, and what it needs to know travels in a
checkpoint's meta, so that a resumed run decides as an undisturbed one does.
"""

from collections import deque
from collections.abc import Iterable
from statistics import median
from typing import NamedTuple

from itx.config import RunConfig
from itx.errors import RunFailed

# Fewer skipped steps than this are never too large a share, however short the run.
MIN_SKIPPED_STEPS = 10
MAX_RANGES_SHOWN = 8  # ranges of batches in one line


class TooManySkipped(Exception):
    """More steps without a finite loss or gradient than the config allows; `step` is the last of
    `skips`."""

    def __init__(self, why: str, step: int, skips: "Skips"):
        super().__init__(why)
        self.step, self.skips = step, skips


class Skips:
    """The steps that changed nothing, and the checkpoint to return to when there are too many.

    A step is skipped if its loss or gradient is not finite, or if an earlier return left it out. A
    checkpoint is good once as many steps after it as may fail in a row were all finite; until that
    is known it is the candidate. Steps count from 1 here, as checkpoints do; step n takes batch n -
    1 of `itx data batch --step`.
    """

    def __init__(self, config: RunConfig, meta: dict):
        self.train = config.train
        self.skipped: list[int] = list(meta.get("skipped", []))
        # {"to", "at", "left_out": [step, …]}
        self.returns: list[dict] = list(meta.get("returns", []))
        # 0: none but the beginning
        self.good, self.candidate = meta.get("good", 0), meta.get("candidate", 0)
        self.left_out = {step for r in self.returns for step in r["left_out"]}

    def meta(self) -> dict:
        """What `__init__` reads from a checkpoint's meta."""
        steps = {"good": self.good, "candidate": self.candidate}
        return {"skipped": list(self.skipped), "returns": list(self.returns), **steps}

    def add(self, step: int, finite: bool) -> None:
        """Take note of a step that was made; TooManySkipped, or RunFailed if training has already
        returned once."""
        if not finite:
            self.skipped.append(step)
            self.candidate = 0
            self._check(step)
        elif self.candidate and step >= self.candidate + self.train.max_skipped_in_a_row:
            self.good, self.candidate = self.candidate, 0

    def saved(self, step: int) -> None:
        """A checkpoint of this step is saved that every run of this config has."""
        self.candidate = self.candidate or step

    def pinned(self) -> set[int]:
        """Checkpoints that must be kept to return to."""
        return {self.good, self.candidate} - {0}

    def _check(self, step: int) -> None:
        train, failed = self.train, [s for s in self.skipped if s not in self.left_out]
        in_a_row = next((n for n, s in enumerate(reversed(failed)) if s != step - n), len(failed))
        window = min(train.skipped_window, train.steps)
        recent = sum(s > step - window for s in failed)
        if in_a_row >= train.max_skipped_in_a_row:
            why = f"{in_a_row} steps in a row (train.max_skipped_in_a_row)"
        elif recent > max(train.max_skipped_share * window, MIN_SKIPPED_STEPS):
            share = f"train.max_skipped_share={train.max_skipped_share}"
            why = f"{recent} of the last {window} steps ({share})"
        else:
            return
        why = f"{why} without a finite loss or gradient, the last of them step {step}"
        if not self.returns:
            raise TooManySkipped(why, step, self)
        last = self.returns[-1]
        raise RunFailed(
            f"{why}, though training had returned from step {last['at']} to step {last['to']} for "
            f"that before; the last good checkpoint is {self.good or 'the beginning'}. Look at "
            f"{batches(s for s in failed if s > step - window)}, or lower optim.learning_rate in "
            "another --run_dir"
        )

    def check_end(self) -> None:
        """RunFailed if no step of a finished run changed anything."""
        if self.train.steps and len(set(self.skipped)) >= self.train.steps:
            raise RunFailed(
                f"none of the {self.train.steps} steps had a finite loss and gradient: the model "
                f"is as it began; look at {batches(self.skipped)}, or lower "
                "optim.learning_rate in another --run_dir"
            )


def batches(steps: Iterable[int]) -> str:
    """What prints the batches of these steps: "itx data batch --step 3 to 7, 9"."""
    ranges: list[list[int]] = []
    for number in sorted(step - 1 for step in steps):
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    shown = [f"{a}" if a == b else f"{a} to {b}" for a, b in ranges[:MAX_RANGES_SHOWN]]
    more = sum(b - a + 1 for a, b in ranges[MAX_RANGES_SHOWN:])
    return "itx data batch --step " + ", ".join(shown) + (f" and {more} more" if more else "")


# ---------------------------------------------------------------- the loss curve

# The loss stands at the unigram entropy of the targets if it is within this share of it …
MAX_ENTROPY_DISTANCE = 0.05
# … for so many steps and so large a share of the run, over so many lines: every curve passes by on
# its way down.
MIN_PLATEAU_STEPS, MIN_PLATEAU_SHARE, MIN_PLATEAU_LINES = 200, 0.1, 10
# A spike is a logged loss above this multiple of the median of the lines before, and further above
# it than this multiple of how far those lines lie from their median themselves.
MIN_SPIKE_RATIO, MIN_SPIKE_DEVIATIONS = 1.5, 8.0
SPIKE_LINES, MIN_SPIKE_LINES = 20, 10


class Event(NamedTuple):
    step: int
    text: str


class LossWatch:
    """Reads the logged losses one by one, and says where they stand still at the unigram entropy,
    or leap.

    Each such stretch or leap is said once. A phase of the data begins a new curve, for its loss may
    lie elsewhere.
    """

    def __init__(self, config: RunConfig, entropy: float | None):
        self.entropy = entropy
        self.least_steps = max(MIN_PLATEAU_STEPS, MIN_PLATEAU_SHARE * config.train.steps)
        self.phases = [begin for begin, _ in config.data.phases]
        self.before: deque[float] = deque(maxlen=SPIKE_LINES)
        self.last_step, self.high = 0, False
        self.near: list[int] = []  # logged steps of the stretch near the entropy

    def add(self, step: int, loss: float) -> list[Event]:
        """What this line of the log shows that was not said before."""
        if any(self.last_step <= begin < step for begin in self.phases):
            self.before.clear()
            self.near, self.high = [], False
        self.last_step = step
        events = [e for e in (self._plateau(step, loss), self._spike(step, loss)) if e]
        self.before.append(loss)
        return events

    def _plateau(self, step: int, loss: float) -> Event | None:
        if not self.entropy or abs(loss - self.entropy) > MAX_ENTROPY_DISTANCE * self.entropy:
            self.near = []
            return None
        said = self._long_enough()
        self.near.append(step)
        if said or not self._long_enough():
            return None
        text = (
            f"since step {self.near[0]} the loss stands at the unigram entropy of the targets "
            f"({self.entropy:.3f}): the model knows how frequent tokens are and nothing else"
        )
        return Event(step, text)

    def _long_enough(self) -> bool:
        return (
            len(self.near) >= MIN_PLATEAU_LINES and self.near[-1] - self.near[0] >= self.least_steps
        )

    def _spike(self, step: int, loss: float) -> Event | None:
        if len(self.before) < MIN_SPIKE_LINES:
            return None
        middle = median(self.before)
        spread = median(abs(x - middle) for x in self.before)
        was_high = self.high
        least = max(MIN_SPIKE_RATIO * middle, middle + MIN_SPIKE_DEVIATIONS * spread)
        self.high = loss > least
        if was_high or not self.high:
            return None
        text = (
            f"the loss leapt to {loss:.3f} at step {step}, from a median of {middle:.3f} over the "
            f"{len(self.before)} logged lines before"
        )
        return Event(step, text)


def events(watch: LossWatch, lines: Iterable[dict]) -> list[Event]:
    """All that a `LossWatch` says of the lines of metrics.jsonl."""
    return [e for x in lines if "train/loss" in x for e in watch.add(x["step"], x["train/loss"])]
