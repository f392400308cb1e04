# SPDX-License-Identifier: Apache-2.0
"""Gemma 3 4B by prefix tuning: configs/gemma3_4b.py with trained keys and values before each
layer's own.

    uv run itx train configs/gemma3_4b_prefix.py --quick      # a small random Gemma on a CPU, on
                                                              the embedded suite
    uv run itx train configs/gemma3_4b_prefix.py --dry-run    # its size: parameters, what trains,
                                                              optimizer state

A prefix of 200, trained through an MLP of width 800 at a rate of 5e-5 that falls linearly: Li &
Liang 2021 (arXiv:2101.00190), section 4 and appendix A, for summaries, their longest outputs.
"""

import dataclasses

import gemma3_4b

from itx.config import OptimConfig, PeftConfig, RunConfig


def get_config(quick: bool = False) -> RunConfig:
    base = gemma3_4b.get_config(quick)
    if quick:
        return dataclasses.replace(
            base, peft=PeftConfig(method="prefix", length=8, prefix_hidden=32)
        )
    return dataclasses.replace(
        base,
        peft=PeftConfig(method="prefix", length=200, prefix_hidden=800, base_dtype="bfloat16"),
        optim=OptimConfig(
            name="adamw", learning_rate=5e-5, schedule="linear", final_share=0.0, warmup_steps=30
        ),
    )
