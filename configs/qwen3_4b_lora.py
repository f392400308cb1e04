# SPDX-License-Identifier: Apache-2.0
"""Qwen 3 4B by LoRA: configs/qwen3_4b.py with an adapter over the frozen model in bfloat16 (8 GB).

    uv run itx train configs/qwen3_4b_lora.py --quick      # a small random Qwen on a CPU, on the
                                                           embedded suite
    uv run itx train configs/qwen3_4b_lora.py --dry-run    # its size: parameters, what trains,
                                                           optimizer state

The adapter, its rate and batch are those of configs/llama3_8b_lora.py.
"""

import dataclasses

import llama3_8b_lora
import qwen3_4b

from itx.config import RunConfig


def get_config(quick: bool = False) -> RunConfig:
    lora = llama3_8b_lora.get_config(quick)
    return dataclasses.replace(lora, model=qwen3_4b.get_config(quick).model)
