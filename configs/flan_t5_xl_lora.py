# SPDX-License-Identifier: Apache-2.0
"""FLAN-T5 XL by LoRA: configs/flan_t5_xl.py with an adapter over the frozen model, which one 40 GB
GPU holds.

    uv run itx train configs/flan_t5_xl_lora.py --quick      # a small random T5 on a CPU, on the
                                                             embedded suite
    uv run itx train configs/flan_t5_xl_lora.py --dry-run    # its size: parameters, what trains,
                                                             optimizer state

Rank 16, alpha 32, dropout 0.05 on queries and values, AdamW at 1e-3: P. Schmid, "Efficient Large
Language Model training with LoRA and Hugging Face" (2023), for FLAN-T5 XXL. `itx convert export RUN
OUT` writes the adapter for `peft`.
"""

import dataclasses

import flan_t5_xl

from itx.config import OptimConfig, PeftConfig, RunConfig


def get_config(quick: bool = False) -> RunConfig:
    base = flan_t5_xl.get_config(quick)
    adapter = PeftConfig(method="lora", targets=(r".*/(wq|wv)",), rank=16, alpha=32.0, dropout=0.05)
    if quick:
        return dataclasses.replace(base, peft=adapter)
    return dataclasses.replace(
        base,
        peft=dataclasses.replace(adapter, base_dtype="bfloat16"),
        optim=OptimConfig(
            name="adamw", learning_rate=1e-3, schedule="linear", final_share=0.0, warmup_steps=100
        ),
    )
