# SPDX-License-Identifier: Apache-2.0
"""FLAN-T5 XL (2.8 B parameters): configs/flan_t5_base.py at that size, parameters split over all
devices.

    uv run itx train configs/flan_t5_xl.py --quick      # a small random T5 on a CPU, on the
                                                        embedded suite
    uv run itx train configs/flan_t5_xl.py --dry-run    # its size: parameters, what trains,
                                                        optimizer state

The full run reads google/t5-xl-lm-adapt from checkpoints/t5-xl-lm-adapt. Same rate and batch as the
base model, 38,000
steps: Chung et al. 2022 (arXiv:2210.11416), appendix E.
"""

import dataclasses

import flan_t5_base

from itx.config import MeshConfig, RunConfig
from itx.models import presets, small


def get_config(quick: bool = False) -> RunConfig:
    if quick:
        return small.quick("flan_t5_xl")
    base = flan_t5_base.get_config()
    return dataclasses.replace(
        base,
        model=presets.published(
            "flan_t5_xl",
            pretrained="checkpoints/t5-xl-lm-adapt",
            dropout=0.05,
            dtype="bfloat16",
            remat="full",
        ),
        train=dataclasses.replace(base.train, steps=38_000),
        mesh=MeshConfig(data=1, fsdp=-1),
    )
