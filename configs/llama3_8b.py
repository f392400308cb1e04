# SPDX-License-Identifier: Apache-2.0
"""Llama 3.1 8B, all of it, on instructions and conversations.

    uv run itx train configs/llama3_8b.py --quick      # a small random Llama on a CPU, on the
                                                       embedded suite
    uv run itx train configs/llama3_8b.py --dry-run    # its size: parameters, what trains,
                                                       optimizer state

The full run reads meta-llama/Llama-3.1-8B from checkpoints/Llama-3.1-8B and the files of `open_mix`
under `--data.root`: put your own mixture there, `--data.modules=mine --data.mixture=my_mix`. The
base model has no chat template: a plain one is used unless `--data.chat_template=…` names one.
Parameters and optimizer state take 96 GB, split over all devices. Eight parts a step are for a
v5e:4x4, where it takes 14.67 of 15.75 GiB by the compiler's word; four do not fit there (itx plan).

Rate 5e-6, falling linearly after 3 % of warm-up, 128 rows of 4,096 tokens: Tülu 3
(arXiv:2411.15124), section 4.3, for this model, over two epochs. Here it is 1,000 steps: set
`--train.steps` to your data, of which `itx data audit` says how often they are seen.
"""

from itx.config import DataConfig, EvalConfig, MeshConfig, OptimConfig, RunConfig, TrainConfig
from itx.models import presets, small


def get_config(quick: bool = False) -> RunConfig:
    if quick:
        return small.quick("llama3_1_8b")
    return RunConfig(
        model=presets.published(
            "llama3_1_8b", pretrained="checkpoints/Llama-3.1-8B", dtype="bfloat16", remat="full"
        ),
        data=DataConfig(
            mixture="open_mix",
            sequence_length=4096,
            target_length=4096,
            too_long="cut_left",
            global_batch=128,
            replay_task="c4_demo.lm",
        ),
        optim=OptimConfig(
            name="adamw", learning_rate=5e-6, schedule="linear", final_share=0.0, warmup_steps=30
        ),
        train=TrainConfig(steps=1000, microbatches=8, checkpoint_every=200, log_every=10),
        mesh=MeshConfig(data=1, fsdp=-1),
        eval=EvalConfig(max_examples=50, max_new_tokens=256, batch_size=64),
    )
