# SPDX-License-Identifier: Apache-2.0
"""The base that the studies tune: a small decoder pretrained on documents that show what the toy
suite is about and ask nothing (tasks/documents.py), about 5 M tokens.

`itx study` trains it once, for all studies. That it scores the suite's tasks is no aim: their test
inputs are named here so that the build leaves out every document that holds one.
"""

import dataclasses

from small_world import MODULES

from itx.config import DataConfig, EvalConfig, OptimConfig, RunConfig, TrainConfig
from itx.models import presets
from tasks.studies import SPOKEN_OF


def get_config(quick: bool = False) -> RunConfig:
    return RunConfig(
        model=dataclasses.replace(presets.quickstart_decoder(), prefix_lm=False),
        data=DataConfig(
            mixture="few_documents" if quick else "toy_documents",
            modules=MODULES,
            vocab_size=1024,
            sequence_length=128,
            target_length=128,
            global_batch=16,
            window_examples=4096,
        ),
        optim=OptimConfig(
            name="muon", learning_rate=6e-3, warmup_steps=50, schedule="linear", final_share=0.0
        ),
        train=TrainConfig(
            steps=6 if quick else 2600,
            checkpoint_every=3 if quick else 520,
            log_every=3 if quick else 20,
        ),
        eval=EvalConfig(
            tasks=SPOKEN_OF,
            max_examples=1 if quick else 4,
            max_new_tokens=8 if quick else 32,
            before=False,
            instructions=False,
        ),
    )
