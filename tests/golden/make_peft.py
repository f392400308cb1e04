# SPDX-License-Identifier: Apache-2.0
"""Write tests/golden/peft/: adapters by `peft` over models of tests/golden/hf/, with their logits.

    uv venv hf && uv pip install --python hf/bin/python torch transformers peft
    hf/bin/python tests/golden/make_peft.py

A folder BASE_METHOD holds what `save_pretrained` wrote and logits.npy [b, l, v]: of the ids of the base's
golden.npz, without those of virtual tokens. Gemma's rows are so short that no window hides a virtual token, for there
a prefix is seen outside windows here and not in `transformers`.
"""

import shutil
from pathlib import Path

import numpy as np
import peft
import torch
import transformers as tf

HERE = Path(__file__).parent
LENGTH = {"llama": 4, "t5_v1_1": 4, "gemma3": 2}  # of prefixes and prompts
TOKENS = {"llama": 17, "t5_v1_1": 17, "gemma3": 3}
LINEAR = {
    "llama": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head"],
    "gemma3": ["q_proj", "v_proj", "o_proj", "down_proj"],
    "t5_v1_1": ["q", "k", "v", "o", "wi_0", "wi_1", "wo"],
}


def configs(base: str) -> dict[str, peft.PeftConfig]:
    task = "SEQ_2_SEQ_LM" if base == "t5_v1_1" else "CAUSAL_LM"
    lora = {"task_type": task, "r": 2, "target_modules": LINEAR[base]}
    # of a T5 `peft` counts the encoder's layers
    more = {"num_layers": 3} if base == "t5_v1_1" else {}
    out = {
        "lora": peft.LoraConfig(**lora, lora_alpha=3),
        "dora": peft.LoraConfig(**lora, lora_alpha=2, use_dora=True, use_rslora=True),
        "prefix": peft.PrefixTuningConfig(task_type=task, num_virtual_tokens=LENGTH[base], **more),
        "prompt": peft.PromptTuningConfig(task_type=task, num_virtual_tokens=LENGTH[base]),
    }
    if base == "llama":
        out["projected"] = peft.PrefixTuningConfig(
            task_type=task, num_virtual_tokens=LENGTH[base], prefix_projection=True, encoder_hidden_size=6
        )
    return out


def load(base: str) -> torch.nn.Module:
    auto = tf.AutoModelForSeq2SeqLM if base == "t5_v1_1" else tf.AutoModelForCausalLM
    return auto.from_pretrained(HERE / "hf" / base, dtype=torch.float32, attn_implementation="eager").eval()


def feed(base: str) -> dict[str, torch.Tensor]:
    golden = np.load(HERE / "hf" / base / "golden.npz")
    n = TOKENS[base]
    out = {"input_ids": golden["ids"][:, :n], "attention_mask": golden["mask"][:, :n]}
    if "decoder_ids" in golden:
        out["decoder_input_ids"] = golden["decoder_ids"]
    return {k: torch.tensor(v.astype(np.int64)) for k, v in out.items()}


def logits(folder: Path, base: str) -> np.ndarray:
    """What `peft` computes with an adapter that lies in a folder."""
    model = peft.PeftModel.from_pretrained(load(base), folder).eval()
    batch = feed(base)
    with torch.no_grad():
        out = model(**batch).logits
    ids = batch.get("decoder_input_ids", batch["input_ids"])
    return out[:, -ids.shape[1] :].numpy()  # a prompt's own places stand in front


def save(base: str, method: str, config: peft.PeftConfig, seed: int) -> None:
    folder = HERE / "peft" / f"{base}_{method}"
    shutil.rmtree(folder, ignore_errors=True)
    config.base_model_name_or_path = base
    model = peft.get_peft_model(load(base), config)
    r = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        if p.requires_grad:
            p.data += torch.randn(p.shape, generator=r) * (0.5 if p.dim() == 2 else 0.2)
    model.peft_config["default"].base_model_name_or_path = base
    model.save_pretrained(folder)
    (folder / "README.md").unlink()
    out = logits(folder, base)
    assert np.abs(out - load(base)(**feed(base)).logits.detach().numpy()).max() > 0.1
    np.save(folder / "logits.npy", out.astype(np.float32))
    print(folder.name, sum(p.stat().st_size for p in folder.iterdir()))


if __name__ == "__main__":
    torch.manual_seed(0)
    for base in LENGTH:
        for seed, (method, config) in enumerate(configs(base).items()):
            save(base, method, config, seed)
