# SPDX-License-Identifier: Apache-2.0
"""The main job on the embedded suite, T5-style encoder-decoder, from random weights, on a laptop's CPU.

    uv run itx train configs/quickstart_t5.py
"""

from itx.config import DataConfig, EvalConfig, OptimConfig, RunConfig, TrainConfig
from itx.models import presets


def get_config(quick: bool = False) -> RunConfig:
    return RunConfig(
        model=presets.quickstart_t5(),
        data=DataConfig(
            mixture="toy_train",
            vocab_size=1024,
            sequence_length=96,
            target_length=48,
            global_batch=8 if quick else 64,
            window_examples=4096,
        ),
        optim=OptimConfig(name="adamw", learning_rate=3e-3, warmup_steps=50, schedule="linear", final_share=0.0),
        train=TrainConfig(steps=20 if quick else 600, checkpoint_every=10 if quick else 200, log_every=10),
        eval=EvalConfig(max_examples=2 if quick else 24, max_new_tokens=8 if quick else 64),
    )
