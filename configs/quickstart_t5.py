# SPDX-License-Identifier: Apache-2.0
"""The main job on the embedded suite, T5-style encoder-decoder, from random weights: about five minutes on two CPU cores.

    uv run itx train configs/quickstart_t5.py

Expect: what configs/quickstart.py shows, within 0.10.
"""

import dataclasses

import quickstart

from itx.config import RunConfig
from itx.models import presets


def get_config(quick: bool = False) -> RunConfig:
    base = quickstart.get_config(quick)
    return dataclasses.replace(
        base,
        model=presets.quickstart_t5(),
        data=dataclasses.replace(base.data, sequence_length=192, target_length=48, global_batch=8),
        eval=dataclasses.replace(base.eval, before=not quick),
        train=base.train if quick else dataclasses.replace(base.train, steps=1700, checkpoint_every=340),
    )
