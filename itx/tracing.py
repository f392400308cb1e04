# SPDX-License-Identifier: Apache-2.0
"""A trace of some steps by JAX's profiler (train.profile=100:105), for TensorBoard's profile plugin
or ui.perfetto.dev. Of several processes the writer's devices are traced."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from itx import hosts
from itx.errors import UserError


def steps_of(setting: str) -> tuple[int, int] | None:
    """(first, last) step that is traced, counted from 1; None: none. UserError for a value that is
    no FIRST:LAST."""
    if not setting:
        return None
    found = re.fullmatch(r"(\d{1,9}):(\d{1,9})", setting)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise UserError(
            f"train.profile={setting!r}: give the first and the last step to trace, as 100:105; "
            "steps count from 1"
        )
    return int(found[1]), int(found[2])


class Trace:
    """The trace of one run's steps; one whose last step does not come ends with the block."""

    def __init__(self, setting: str, folder: Path, say: Callable[[str], None]):
        self.folder, self.say, self.is_on = folder, say, False
        self.steps = steps_of(setting) if hosts.is_writer() else None

    def before(self, step: int) -> None:
        """To be called before each step."""
        if self.steps is None or self.is_on or step < self.steps[0]:
            return
        first, last = self.steps
        if step > first:
            self.steps = None
            self.say(f"train.profile={first}:{last}: training goes on at step {step}: no trace")
            return
        jax.profiler.start_trace(str(self.folder))
        self.is_on = True

    def after(self, step: int, result: Any) -> None:
        """To be called with what each step gives, which the end of the trace waits for."""
        if self.is_on and self.steps and step >= self.steps[1]:
            jax.block_until_ready(result)
            self._end(step)

    def _end(self, step: int | None) -> None:
        self.is_on = False
        jax.profiler.stop_trace()
        first, last = self.steps or (0, 0)
        until = f"to {last}" if step == last else f"on, not all to {last}"
        self.say(f"a trace of the steps from {first} {until}: {self.folder}")
        self.steps = None

    def __enter__(self) -> "Trace":
        return self

    def __exit__(self, *error: object) -> None:
        if self.is_on:
            self._end(None)
        elif self.steps:
            first, last = self.steps
            self.say(f"train.profile={first}:{last}: training ended before: no trace")
