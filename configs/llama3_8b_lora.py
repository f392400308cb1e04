# SPDX-License-Identifier: Apache-2.0
"""Llama 3.1 8B by LoRA: configs/llama3_8b.py with an adapter over the frozen model in bfloat16 (16
GB).

    uv run itx train configs/llama3_8b_lora.py --quick      # a small random Llama on a CPU, on the
                                                            embedded suite
    uv run itx train configs/llama3_8b_lora.py --dry-run    # its size: parameters, what trains,
                                                            optimizer state

All matrices of the layers, rank 64, alpha 16, dropout 0.1, a constant rate of 2e-4 and 16 rows a
step: Dettmers et al.
2023 (QLoRA, arXiv:2305.14314), appendix B, for models of 7 B and 13 B, here over a base that is not
quantised.
"""

import dataclasses

import llama3_8b

from itx.config import OptimConfig, PeftConfig, RunConfig


def get_config(quick: bool = False) -> RunConfig:
    base = llama3_8b.get_config(quick)
    adapter = PeftConfig(method="lora", rank=64, alpha=16.0, dropout=0.1)
    if quick:
        return dataclasses.replace(base, peft=dataclasses.replace(adapter, rank=8))
    return dataclasses.replace(
        base,
        data=dataclasses.replace(base.data, global_batch=16),
        train=dataclasses.replace(base.train, microbatches=1),  # so that up to 16 devices have rows
        peft=dataclasses.replace(adapter, base_dtype="bfloat16"),
        optim=OptimConfig(
            name="adamw", learning_rate=2e-4, schedule="constant", warmup_steps=30, clip_norm=0.3
        ),
    )
