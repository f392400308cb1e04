# SPDX-License-Identifier: Apache-2.0
"""Write tests/golden/hf/: tiny random models by `transformers`, with their logits and gradients.

    uv venv hf && uv pip install --python hf/bin/python torch transformers
    hf/bin/python tests/golden/make_hf.py

A family's folder holds what `save_pretrained` wrote and golden.npz: token ids and masks, logits [b,
l, v] in float32 (of padded places: garbage), and of two families the gradient of the mean loss by
every tensor. All norms and biases are moved off their start. Decoders read rows longer than the
sliding window, padded on the right.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import tokenizers
import torch
import transformers as tf

HERE = Path(__file__).parent / "hf"
SIZES = {"vocab_size": 61, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3,
         "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}  # fmt: skip
GEMMA = {**SIZES, "head_dim": 8, "query_pre_attn_scalar": 11, "sliding_window": 5}
T5 = {"vocab_size": 61, "d_model": 24, "d_kv": 8, "d_ff": 40, "num_layers": 2, "num_decoder_layers": 3, "num_heads": 3,
      "relative_attention_num_buckets": 8, "relative_attention_max_distance": 16}  # fmt: skip
TEXTS = [
    "Translate to German: the house is small. Das Haus ist klein.",
    "Question: how many? Answer: yes no maybe",
    "Вопрос: сколько? Ответ: да нет",
    "问题：多少？答案：是 否",
    "def f(x):\n    return x + 1\n",
    "😀 🎉 👩‍🚀",
]
CHATML = ("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
          "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")  # fmt: skip
TOKENS = 320  # of the two that have a tokenizer
LLAMA3 = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 16}  # fmt: skip
FAMILIES = {
    "t5": tf.T5Config(**{**T5, "vocab_size": TOKENS}),
    "t5_v1_1": tf.T5Config(**T5, feed_forward_proj="gated-gelu", tie_word_embeddings=False),
    "mt5": tf.MT5Config(**T5, feed_forward_proj="gated-gelu", tie_word_embeddings=False),
    "llama": tf.LlamaConfig(**SIZES, head_dim=8, rope_parameters=LLAMA3),
    "mistral": tf.MistralConfig(**SIZES, head_dim=8, sliding_window=5),
    "qwen2": tf.Qwen2Config(**SIZES, tie_word_embeddings=True),
    "qwen3": tf.Qwen3Config(**{**SIZES, "vocab_size": TOKENS}, head_dim=8),
    "gemma2": tf.Gemma2Config(**GEMMA, attn_logit_softcapping=2.0, final_logit_softcapping=3.0),
    "gemma3": tf.Gemma3TextConfig(**GEMMA, layer_types=["sliding_attention", "full_attention", "sliding_attention"],
                                  rope_parameters={"full_attention": {"rope_type": "linear", "rope_theta": 1000.0,
                                                                      "factor": 4.0},
                                                   "sliding_attention": {"rope_type": "default", "rope_theta": 100.0}}),
}  # fmt: skip
WITH_GRADIENTS = ("t5_v1_1", "gemma3")
LENGTHS = (17, 6)


def tokenizer() -> tf.PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with a chat template, as GPT-2's and its descendants' are."""
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    special = ["<pad>", "</s>", "<|im_start|>", "<|im_end|>"]
    made.train_from_iterator(TEXTS, tokenizers.trainers.BpeTrainer(
        vocab_size=TOKENS - 8, special_tokens=special, initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False))  # fmt: skip
    fast = tf.PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="</s>",
                                      additional_special_tokens=special[2:])  # fmt: skip
    fast.chat_template = CHATML
    return fast


def perturb(model: torch.nn.Module, seed: int) -> None:
    r = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        if p.dim() == 1:  # norms and biases
            p.data += 0.3 * torch.randn(p.shape, generator=r)
        elif "relative_attention_bias" in name:
            p.data = torch.randn(p.shape, generator=r)
        else:
            p.data = torch.randn(p.shape, generator=r) * p.shape[1] ** -0.5


def save(name: str, config: tf.PreTrainedConfig, seed: int) -> None:
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    config._attn_implementation = "eager"
    auto = tf.AutoModelForSeq2SeqLM if config.is_encoder_decoder else tf.AutoModelForCausalLM
    model = auto.from_config(config).float().eval()
    # a head of its own, as the published ones have; from_config ties it
    if name in ("t5_v1_1", "mt5"):
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    perturb(model, seed)
    if name in ("t5_v1_1", "mt5"):
        config.tie_word_embeddings = model.config.tie_word_embeddings = False
    model.bfloat16().save_pretrained(folder)
    # as a user would
    model = auto.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    assert name not in ("t5_v1_1", "mt5") or not torch.equal(
        model.lm_head.weight, model.shared.weight
    )
    if config.vocab_size == TOKENS:
        tokenizer().save_pretrained(folder)
    r = np.random.default_rng(seed)
    ids = r.integers(2, config.vocab_size, (len(LENGTHS), max(LENGTHS)))
    mask = (np.arange(max(LENGTHS)) < np.array(LENGTHS)[:, None]).astype(np.int64)
    ids = ids * mask
    feed = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}
    out = {"ids": ids, "mask": mask}
    labels, labels_mask = ids, mask
    if config.is_encoder_decoder:
        labels = r.integers(2, config.vocab_size, (2, 7))
        labels_mask = np.array([[1] * 7, [1] * 4 + [0] * 3])
        feed["decoder_input_ids"] = torch.tensor(labels)
        out |= {"decoder_ids": labels, "decoder_mask": labels_mask}
    logits = model(**feed).logits
    out["logits"] = logits.detach().numpy()
    if name in WITH_GRADIENTS:  # the mean loss of the next id at places that are followed by one
        logp = torch.log_softmax(logits[:, :-1].double(), -1)
        nll = -logp.gather(-1, torch.tensor(labels[:, 1:, None]))[..., 0]
        weight = torch.tensor(labels_mask[:, 1:]).double()
        ((nll * weight).sum() / weight.sum()).backward()
        out |= {f"grad/{n}": p.grad.numpy().astype(np.float32) for n, p in model.named_parameters()}
    np.savez_compressed(folder / "golden.npz", **{k: v.astype(np.int32) if v.dtype == np.int64 else v
                                                  for k, v in out.items()})  # fmt: skip
    print(
        name,
        json.dumps(sorted(p.name for p in folder.iterdir())),
        sum(p.stat().st_size for p in folder.iterdir()),
    )


if __name__ == "__main__":
    torch.manual_seed(0)
    for i, (name, config) in enumerate(FAMILIES.items()):
        save(name, config, i)
