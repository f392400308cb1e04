# SPDX-License-Identifier: Apache-2.0
"""Write tests/golden/peft/: adapters by `peft` over models of tests/golden/hf/, with their logits.

    uv venv hf && uv pip install --python hf/bin/python torch transformers peft
    hf/bin/python tests/golden/make_peft.py

A folder BASE_METHOD holds what `save_pretrained` wrote and logits.npy [b, l, v]: of the ids of the
base's golden.npz, without those of virtual tokens. Gemma's rows are so short that no window hides a
virtual token, for there a prefix is seen outside windows here and not in `transformers`.

gemma3_nested is a LoRA over the same Gemma 3 as a part of one that also sees images (`nest`), with
the modules that `peft` sees there: the targets' names match some in the part that sees, too.
"""

import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import peft
import torch
import transformers as tf

HERE = Path(__file__).parent
LENGTH = {"llama": 4, "t5_v1_1": 4, "gemma3": 2}  # of prefixes and prompts
TOKENS = {"llama": 17, "t5_v1_1": 17, "gemma3": 3}
LINEAR = {
    "llama": [
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
        "lm_head",
    ],
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
            task_type=task,
            num_virtual_tokens=LENGTH[base],
            prefix_projection=True,
            encoder_hidden_size=6,
        )
    return out


def load(base: str) -> torch.nn.Module:
    auto = tf.AutoModelForSeq2SeqLM if base == "t5_v1_1" else tf.AutoModelForCausalLM
    return auto.from_pretrained(
        HERE / "hf" / base, dtype=torch.float32, attn_implementation="eager"
    ).eval()


VISION = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 8,
          "patch_size": 4}  # fmt: skip


def nest(base: str, folder: Path) -> None:
    """Write a Gemma 3 as the text part of one that also sees images, as the hub's are from 4B
    on."""
    text = load(base)
    config = tf.Gemma3Config(text_config=text.config.to_dict(), vision_config=VISION, mm_tokens_per_image=4,
                             image_token_index=60, boi_token_index=59, eoi_token_index=58)  # fmt: skip
    model = tf.Gemma3ForConditionalGeneration(config).float()
    model.model.language_model.load_state_dict(text.model.state_dict())
    model.save_pretrained(folder)


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


def auto_logits(folder: Path, base: str) -> np.ndarray:
    """What `peft` computes with an adapter over the base that the adapter itself names."""
    model = peft.AutoPeftModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    with torch.no_grad():
        out = model(**feed(base)).logits
    # a prompt's own places stand in front
    return out[:, -feed(base)["input_ids"].shape[1] :].numpy()


def save_nested(base: str, seed: int) -> None:
    folder = HERE / "peft" / f"{base}_nested"
    shutil.rmtree(folder, ignore_errors=True)
    with tempfile.TemporaryDirectory() as there:
        nest(base, Path(there))
        model = tf.AutoModelForCausalLM.from_pretrained(
            there, dtype=torch.float32, attn_implementation="eager"
        )
        modules = [n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)]
        plain = model.eval()(**feed(base)).logits.detach().numpy()
        assert (
            np.abs(plain - load(base)(**feed(base)).logits.detach().numpy()).max() < 1e-5
        )  # it is the same text model
        model = peft.get_peft_model(model, configs(base)["lora"])
        r = torch.Generator().manual_seed(seed)
        for p in model.parameters():
            if p.requires_grad:
                p.data += torch.randn(p.shape, generator=r) * 0.5
        model.save_pretrained(folder)
        out = auto_logits(folder, base)
    (folder / "README.md").unlink()
    about = json.loads((folder / "adapter_config.json").read_text())
    about["base_model_name_or_path"] = f"{base}_nested"  # the folder is gone
    (folder / "adapter_config.json").write_text(json.dumps(about, indent=2) + "\n")
    (folder / "modules.json").write_text(json.dumps(modules, indent=0) + "\n")
    assert np.abs(out - plain).max() > 0.1
    np.save(folder / "logits.npy", out.astype(np.float32))
    print(folder.name, sum(p.stat().st_size for p in folder.iterdir()))


if __name__ == "__main__":
    torch.manual_seed(0)
    for base in LENGTH:
        for seed, (method, config) in enumerate(configs(base).items()):
            save(base, method, config, seed)
    save_nested("gemma3", len(configs("gemma3")))
