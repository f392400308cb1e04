# SPDX-License-Identifier: Apache-2.0
"""Write tests/golden/generation.json: what `transformers` answers with the models of make_hf.py,
and what its filters leave of random logits.

    uv venv hf && uv pip install --python hf/bin/python torch transformers
    hf/bin/python tests/golden/make_generation.py

The id that ends an answer is one that greedy decoding writes early, so that beams end at different
lengths.
"""

import json
from pathlib import Path

import numpy as np
import torch
import transformers as tf
from transformers.generation import logits_process as filters

HERE = Path(__file__).parent
NEW = 10
LENGTHS = (14, 5, 9)
MODELS = ("llama", "gemma3", "t5", "t5_v1_1")
SETTINGS = {
    "greedy": {},
    "penalty": {"repetition_penalty": 1.7},
    "beams": {"num_beams": 3},
    "long": {"num_beams": 4, "length_penalty": 2.0},
    "short": {"num_beams": 2, "length_penalty": -1.0},
    "beams_penalty": {"num_beams": 3, "repetition_penalty": 1.3},
}
# temperature, top_k, top_p
WARPED = [(0.7, 0, 1.0), (1.0, 5, 1.0), (1.3, 0, 0.8), (0.9, 12, 0.6), (1.0, 0, 0.01)]


def answers(name: str) -> dict:
    config = tf.AutoConfig.from_pretrained(HERE / "hf" / name)
    both = config.is_encoder_decoder
    auto = tf.AutoModelForSeq2SeqLM if both else tf.AutoModelForCausalLM
    model = auto.from_pretrained(
        HERE / "hf" / name, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    r = np.random.default_rng(3)
    prompts = [r.integers(3, 61, n).tolist() for n in LENGTHS]

    def ask(prompt: list[int], eos: int, **settings) -> list[int]:
        ids = torch.tensor([[*prompt, eos] if both and eos >= 0 else prompt])
        # its cache has as many layers as the encoder, which here has fewer
        settings |= {"decoder_start_token_id": 0, "use_cache": False} if both else {}
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, do_sample=False,
                             eos_token_id=eos if eos >= 0 else None, pad_token_id=0, **settings)  # fmt: skip
        new = out[0, 1 if both else len(prompt) :].tolist()
        return new[: new.index(eos)] if eos in new else new

    free = ask(prompts[0], -1, num_beams=3)
    eos = free[2]
    return {"eos": eos, "prompts": prompts,
            "answers": {k: [ask(p, eos, **s) for p in prompts] for k, s in SETTINGS.items()}}  # fmt: skip


def warped() -> dict:
    r = np.random.default_rng(0)
    logits = torch.tensor(r.normal(0, 2, (4, 61)), dtype=torch.float32)
    seen = torch.tensor(r.integers(0, 61, (4, 9)))
    out = []
    for temperature, top_k, top_p in WARPED:
        scores = filters.TemperatureLogitsWarper(temperature)(seen, logits)
        scores = filters.TopKLogitsWarper(top_k)(seen, scores) if top_k else scores
        scores = filters.TopPLogitsWarper(top_p)(seen, scores) if top_p < 1 else scores
        out.append({"temperature": temperature, "top_k": top_k, "top_p": top_p,
                    "probabilities": torch.softmax(scores, -1).tolist()})  # fmt: skip
    penalised = filters.RepetitionPenaltyLogitsProcessor(1.7)(seen, logits)
    return {
        "logits": logits.tolist(),
        "seen": seen.tolist(),
        "penalised": penalised.tolist(),
        "settings": out,
    }


if __name__ == "__main__":
    found = {
        "new": NEW,
        "settings": SETTINGS,
        "models": {n: answers(n) for n in MODELS},
        "filters": warped(),
    }
    (HERE / "generation.json").write_text(json.dumps(found) + "\n", encoding="utf-8")
    for name, x in found["models"].items():
        for setting, got in x["answers"].items():
            print(name, setting, got)
