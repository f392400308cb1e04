# SPDX-License-Identifier: Apache-2.0
"""A model that a command asks: of a run or of no run, with an adapter or without."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

from itx import pretrained, restore
from itx.data import verify
from itx.data.vocabulary import Vocabulary
from itx.errors import UserError
from itx.eval.runner import Runner
from itx.pretrained import Asked
from itx.runs import RunFolder, base_step, chosen_step, open_run, read_lock, run_config, step_of


class Opened(NamedTuple):
    """A model in memory, and what it is asked with."""

    runner: Runner
    vocabulary: Vocabulary
    template: str  # the chat template's text, "" without one
    system: str  # what a run's conversations stand under
    asked: Asked
    run: RunFolder | None  # None: no run of ours made the model
    step: int


def opened(
    name: str,
    base: str = "",
    step: int | None = None,
    context: int | None = None,
    check: Callable[[str, bool], None] = lambda template, of_run: None,
) -> Opened:
    """The model that a path or a name of the hub stands for.

    Args:
        base: of an adapter's folder.
        step: of a run; None: the newest checkpoint.
        context: most tokens; None: what the model says, or the run's data.sequence_length.
        check: refuses a chat template, "" for none; of a run it is called before the model is read.
    """
    asked = pretrained.asked(name, base)
    begin = pretrained.untrained(asked.model)
    run, system = None, ""
    if begin is not None:
        if step:
            raise UserError(f"--step {step}: {asked.model} holds one model, and no steps")
        runner, vocabulary, template = restore.load_untrained(begin)
        check(template, False)
        context, step = context or runner.loaded.context, 0
    else:
        path, step = step_of(asked.model, step)
        run = open_run(path)
        config, lock = run_config(run), read_lock(run)
        template, system = lock.get("chat", ""), lock.get("system", "")
        check(template, True)
        step = base_step(run, step) if asked.adapter else chosen_step(run, step)
        runner = restore.load_model(run, config, lock, step)
        vocabulary = verify.vocabulary_of_run(run.vocab_model, lock)
        context = context or config.data.sequence_length
    runner = Runner(dataclasses.replace(runner.loaded, context=context))
    if asked.adapter:
        runner = restore.with_adapter(runner, asked.adapter)
    return Opened(runner, vocabulary, template, system, asked, run, step)
