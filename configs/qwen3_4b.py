# SPDX-License-Identifier: Apache-2.0
"""Qwen 3 4B, all of it, on instructions and conversations.

    uv run itx train configs/qwen3_4b.py --quick      # a small random Qwen on a CPU, on the
                                                      embedded suite
    uv run itx train configs/qwen3_4b.py --dry-run    # its size: parameters, what trains, optimizer
                                                      state

The full run reads Qwen/Qwen3-4B-Base from checkpoints/Qwen3-4B-Base and the files of `open_mix`
under `--data.root`: put your own mixture there, `--data.modules=mine --data.mixture=my_mix`.
Conversations are written by the model's own template.

The rate falls from 7e-6 to a tenth of it, weight decay 0.1, gradients clipped at 1: Qwen 2.5's
report (arXiv:2412.15115), section 4.1, over two epochs; Qwen 3's (arXiv:2505.09388) names no other.
Set `--train.steps` to your data.
"""

import dataclasses

import llama3_8b

from itx.config import OptimConfig, RunConfig
from itx.models import presets, small


def get_config(quick: bool = False) -> RunConfig:
    if quick:
        return small.quick("qwen3_4b")
    return dataclasses.replace(
        llama3_8b.get_config(),
        model=presets.published(
            "qwen3_4b", pretrained="checkpoints/Qwen3-4B-Base", dtype="bfloat16", remat="full"
        ),
        optim=OptimConfig(
            name="adamw",
            learning_rate=7e-6,
            schedule="linear",
            final_share=0.1,
            warmup_steps=30,
            weight_decay=0.1,
        ),
    )
