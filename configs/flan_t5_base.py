# SPDX-License-Identifier: Apache-2.0
"""FLAN-T5 base (250 M parameters) as it was made: T5 1.1 that was adapted to language modelling,
tuned on FLAN's tasks.

    uv run itx train configs/flan_t5_base.py --quick      # a small random T5 on a CPU, on the
                                                          embedded suite
    uv run itx train configs/flan_t5_base.py --dry-run    # its size: parameters, what trains,
                                                          optimizer state

The full run reads google/t5-base-lm-adapt from checkpoints/t5-base-lm-adapt (`--model.pretrained=…`
another T5, e.g. google/flan-t5-base to tune that on) and TFDS sets, prepared (tasks/README.md). One
cluster, natural language inference, is held out with its neighbours, as FLAN does: that row of the
report says whether it generalises.

Batch, rate (constant), Adafactor, dropout and steps: Chung et al. 2022 (arXiv:2210.11416), appendix
E; lengths: Wei et al. 2022 (arXiv:2109.01652), section 2.4. Both were for more tasks than are here:
`itx data audit` tells the epochs.
"""

from itx.config import DataConfig, EvalConfig, MeshConfig, OptimConfig, RunConfig, TrainConfig
from itx.models import presets, small


def get_config(quick: bool = False) -> RunConfig:
    if quick:
        return small.quick("flan_t5_base")
    return RunConfig(
        model=presets.published(
            "flan_t5_base",
            pretrained="checkpoints/t5-base-lm-adapt",
            dropout=0.05,
            dtype="bfloat16",
            remat="dots",
        ),
        data=DataConfig(
            mixture="flan_fs_no_nli",
            sequence_length=1024,
            target_length=256,
            too_long="cut_left",
            global_batch=64,
            replay_task="c4_demo.span_corruption",
        ),
        optim=OptimConfig(
            name="adafactor", learning_rate=5e-4, schedule="constant", warmup_steps=0, clip_norm=0.0
        ),
        train=TrainConfig(steps=84_000, checkpoint_every=2000, log_every=50),
        mesh=MeshConfig(data=-1),
        eval=EvalConfig(max_examples=200),
    )
