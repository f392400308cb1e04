# SPDX-License-Identifier: Apache-2.0
"""The main job on the embedded suite, T5-style encoder-decoder, from random weights: about five
minutes on two CPU cores.

    uv run itx train configs/quickstart_t5.py

Expect: what configs/quickstart.py shows, lower on practised tasks, higher on new wordings (the
README has the figures).
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
        # muon takes a third of a step here
        optim=dataclasses.replace(base.optim, kwargs={"ns_steps": 4}),
        eval=dataclasses.replace(base.eval, before=not quick),
        train=base.train
        if quick
        else dataclasses.replace(base.train, steps=2200, checkpoint_every=440),
    )
