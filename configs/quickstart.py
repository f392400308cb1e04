# SPDX-License-Identifier: Apache-2.0
"""The main job on the embedded suite, decoder-only, from random weights: about four minutes on two
CPU cores.

    uv run itx train configs/quickstart.py

Expect: practised tasks mostly right, new wordings partly, new tasks little, new clusters near
chance.
"""

from itx.config import DataConfig, EvalConfig, OptimConfig, RunConfig, TrainConfig
from itx.models import presets


def get_config(quick: bool = False) -> RunConfig:
    return RunConfig(
        model=presets.quickstart_decoder(),
        data=DataConfig(
            mixture="toy_quick" if quick else "toy_train",
            vocab_size=1024,
            sequence_length=128,
            target_length=48,
            global_batch=16,
            window_examples=4096,
        ),
        optim=OptimConfig(
            name="muon", learning_rate=6e-3, warmup_steps=50, schedule="linear", final_share=0.0
        ),
        train=TrainConfig(
            steps=20 if quick else 2600,
            checkpoint_every=10 if quick else 520,
            log_every=10 if quick else 20,
        ),
        eval=EvalConfig(max_examples=1 if quick else 12, max_new_tokens=8 if quick else 48),
    )
