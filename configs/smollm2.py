# SPDX-License-Identifier: Apache-2.0
"""What configs/smollm2_lora.py tunes, all of it: every parameter of SmolLM2-135M-Instruct trains.

    uv run itx recipes fetch smollm2
    uv run itx train configs/smollm2.py

A twentieth of the adapter's rate; 2.2 GB for parameters, gradients and the optimizer's two moments.
"""

import dataclasses

import smollm2_lora

from itx.config import PeftConfig, RunConfig


def get_config(quick: bool = False) -> RunConfig:
    base = smollm2_lora.get_config(quick)
    return dataclasses.replace(
        base,
        peft=PeftConfig(method="full"),
        optim=dataclasses.replace(base.optim, learning_rate=1e-4),
    )
