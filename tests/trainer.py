# SPDX-License-Identifier: Apache-2.0
"""`itx train` in this process, up to its evaluation, on an adapter of the small config of
tests/samples.py."""

import json

import pytest

from itx import cli
from itx.eval import evaluate as evaluation

ADAPTER_RECIPE = """
import dataclasses
from itx.config import PeftConfig
from tests.samples import config

def get_config(quick=False):
    made = config({cache!r})
    train = dataclasses.replace(made.train, steps=4 if quick else 6)
    scored = dataclasses.replace(made.eval, before=False)
    model = dataclasses.replace(made.model, smear=0)  # a model that Hugging Face has
    return dataclasses.replace(made, model=model, train=train, eval=scored, peft=PeftConfig(method="lora", rank=4))
"""


class Trainer:
    """A recipe and the command that trains it, up to its evaluation."""

    def __init__(self, folder, cache):
        self.recipe = folder / "recipe.py"
        self.recipe.write_text(ADAPTER_RECIPE.format(cache=str(cache)))
        locks = [
            f
            for f in (cache / "locks").iterdir()
            if json.loads(f.read_text())["mixture"] == "sample_held"
        ]
        self.words = ["--lock", str(locks[0])]

    def train(self, run, *words, meanwhile=lambda: None) -> int:
        """The exit code, 130 where evaluation was reached; `meanwhile` is called there."""

        def stop(*_, **__):
            meanwhile()
            raise KeyboardInterrupt

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(evaluation, "evaluate", stop)
            return cli.main(["train", str(self.recipe), "--run_dir", str(run), *self.words, *words])


def contents(folder) -> dict:
    return {
        str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None
        for p in folder.rglob("*")
    }
