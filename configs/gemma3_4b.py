# SPDX-License-Identifier: Apache-2.0
"""Gemma 3 4B, its text model, all of it, on instructions and conversations.

    uv run itx train configs/gemma3_4b.py --quick      # a small random Gemma on a CPU, on the
                                                       embedded suite
    uv run itx train configs/gemma3_4b.py --dry-run    # its size: parameters, what trains,
                                                       optimizer state

The full run reads google/gemma-3-4b-pt from checkpoints/gemma-3-4b-pt (the part that sees images is
left out) and the files of `open_mix` under `--data.root`: put your own mixture there,
`--data.modules=mine --data.mixture=my_mix`.

Gemma's report (arXiv:2503.19786) gives no rate of its tuning: data, rate and schedule are those of
Tülu 3 for a model of twice the size (configs/llama3_8b.py).
"""

import dataclasses

import llama3_8b

from itx.config import RunConfig
from itx.models import presets, small


def get_config(quick: bool = False) -> RunConfig:
    if quick:
        return small.quick("gemma3_4b")
    return dataclasses.replace(
        llama3_8b.get_config(),
        model=presets.published(
            "gemma3_4b", pretrained="checkpoints/gemma-3-4b-pt", dtype="bfloat16", remat="full"
        ),
    )
