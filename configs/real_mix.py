# SPDX-License-Identifier: Apache-2.0
"""Real public data from a folder, on a laptop's CPU: small (4.7 M parameters, 4.1 M of them the
vocabulary's), but right: every record accounted for, a loss for each of the 170 task variants.

    uv run itx train configs/real_mix.py --data.root=FOLDER --train.steps=200

The folder's layout is in tasks/files.py; `itx data audit` prints every task's lengths. Expect: the
loss falls from 9.8 to 5.4 and on every task; it is below 6.74, the unigram entropy of the mixture's
targets (nats), from step 30 on. Nothing held out can be expected of a model of this size and
training.

Rows are 768 long and hold every task; what is longer is dropped and counted ("longer than a row":
143 of alpaca, 152 of dolly, 99 of ni.*, 274 of p3.*, 6 of the others), not cut: a cut prompt would
lose its instruction. The quick variant trains on one task of each kind.
"""

from itx.config import DataConfig, EvalConfig, ModelConfig, OptimConfig, RunConfig, TrainConfig


def get_config(quick: bool = False) -> RunConfig:
    every = 5 if quick else 10
    return RunConfig(
        model=ModelConfig(
            embed_dim=128, num_layers=3, num_heads=2, num_kv_heads=2, head_dim=64, mlp_dim=384
        ),
        data=DataConfig(
            mixture="real_mix_few" if quick else "real_mix",
            modules=("tasks.files",),
            vocab="tokenizers/t5_32k/sentencepiece.model",  # under data.root
            sequence_length=768,
            target_length=256,
            too_long="drop",
            global_batch=8,
            window_examples=2048,
            eval_examples=50,
        ),
        optim=OptimConfig(name="adamw", learning_rate=4e-3, warmup_steps=20, schedule="linear"),
        train=TrainConfig(steps=5 if quick else 200, checkpoint_every=every * 10, log_every=every),
        eval=EvalConfig(
            tasks=("ii.*", "bbh.*"),
            max_examples=1 if quick else 4,
            max_new_tokens=8 if quick else 32,
            before=not quick,
        ),
    )
