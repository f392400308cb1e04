# SPDX-License-Identifier: Apache-2.0
"""A small model of a published one's family, drawn at random and written as a Hugging Face folder.

The quick variants of the recipes begin from one, so that on a CPU they do all that the real run
does: config.json, safetensors in bfloat16, a tokenizer with the family's special tokens and a chat
template. The tokenizer is a byte-level BPE without merges: it reads any text, and no text is needed
to make it.
"""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import NamedTuple

from flax import nnx

from itx.config import DataConfig, EvalConfig, ModelConfig, OptimConfig, RunConfig, TrainConfig
from itx.data.vocabulary import SENTINELS
from itx.models import hf, presets
from itx.models.transformer import Transformer
from itx.params import parameters

VERSION = 1  # raise it when a change here alters a folder


class Special(NamedTuple):
    """A family's special tokens; "" where it has none."""

    bos: str  # in front of every prompt
    eos: str
    pad: str
    turn: tuple[str, str] = ("", "")  # a turn is: first {role} \n content second


SPECIAL = {
    "flan_t5": Special("", "</s>", "<pad>"),
    "llama3": Special(
        "<|begin_of_text|>", "<|eot_id|>", "<|end_of_text|>", ("<|start_header_id|>", "<|eot_id|>")
    ),
    "qwen3": Special("", "<|im_end|>", "<|endoftext|>", ("<|im_start|>", "<|im_end|>")),
    "gemma3": Special("<bos>", "<eos>", "<pad>", ("<start_of_turn>", "<end_of_turn>")),
}


def config(name: str) -> ModelConfig:
    """A published model's settings with a small model's sizes; about 0.2 M parameters."""
    return dataclasses.replace(reduced(presets.published(name)), vocab_size=384)


def reduced(cfg: ModelConfig) -> ModelConfig:
    """A model's settings with a small model's sizes, and its own vocabulary."""
    return dataclasses.replace(
        cfg,
        embed_dim=64,
        num_layers=cfg.global_every or 2,
        encoder_layers=2 if cfg.encoder_layers else 0,
        num_heads=4,
        num_kv_heads=2 if cfg.num_kv_heads < cfg.num_heads else 4,
        head_dim=16,
        mlp_dim=128,
        sliding_window=32 if cfg.sliding_window else 0,
        query_scalar=16.0 if cfg.query_scalar else 0.0,
    )


def folder(name: str, cache_dir: str = "cache") -> str:
    """The folder of the small model of a published one's family; it is written if absent.

    >>> folder("qwen3_4b")  # doctest: +SKIP
    'cache/small/qwen3_4b-1f0c…'
    """
    cfg = config(name)
    key = hashlib.sha256(repr((VERSION, cfg)).encode()).hexdigest()[:8]
    out = Path(cache_dir) / "small" / f"{name}-{key}"
    if not out.is_dir():
        params = parameters(Transformer(cfg, cfg.vocab_size, nnx.Rngs(0)))
        hf.save(out, cfg, params, beside=_tokenizer(name, cfg), dtype="bfloat16")
    return str(out)


def _tokenizer(name: str, cfg: ModelConfig) -> dict[str, bytes]:
    """The tokenizer's files."""
    import tokenizers
    from tokenizers import models, pre_tokenizers, processors

    bos, eos, pad, (begin, end) = next(s for f, s in SPECIAL.items() if name.startswith(f))
    special = [t for t in dict.fromkeys((pad, eos, bos, begin, end)) if t]
    count = SENTINELS if cfg.architecture == "encoder_decoder" else 0
    sentinels = [f"<extra_id_{i}>" for i in reversed(range(count))]  # T5's, behind all else
    pieces = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet()), *sentinels]
    tokenizer = tokenizers.Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens([*special, *sentinels])
    frame = f"{bos} $A" if bos else f"$A {eos}" if sentinels else "$A"
    ids = [(t, pieces.index(t)) for t in (bos, eos) if t in frame.split()]
    tokenizer.post_processor = processors.TemplateProcessing(single=frame, special_tokens=ids)
    about = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": pad,
        "eos_token": eos,
        **({"bos_token": bos} if bos else {}),
    }
    if begin:
        about["chat_template"] = (
            f"{{% for m in messages %}}{begin}{{{{ m.role }}}}\n{{{{ m.content }}}}{end}\n"
            f"{{% endfor %}}{{% if add_generation_prompt %}}{begin}assistant\n{{% endif %}}"
        )
    return {
        "tokenizer.json": tokenizer.to_str().encode(),
        "tokenizer_config.json": json.dumps(about, indent=1).encode(),
    }


def quick(name: str, **data) -> RunConfig:
    """The quick variant of a published model's recipe: its small model, on the embedded suite or on
    what `data` says.

    Examples are long, for a byte is a token; those that do not fit a row are dropped and counted.
    Retention is measured if `data.root` has the text.
    """
    decoder = config(name).architecture == "decoder"
    defaults = {
        "mixture": "toy_few",
        "sequence_length": 1024,
        "target_length": 512,
        "too_long": "drop",
        "global_batch": 8,
        "window_examples": 1024,
        "eval_examples": 20,
        "replay_task": "c4_demo.lm" if decoder else "c4_demo.span_corruption",
    }
    return RunConfig(
        model=ModelConfig(pretrained=folder(name)),
        data=DataConfig(**{**defaults, **data}),
        optim=OptimConfig(name="adamw", learning_rate=3e-3, warmup_steps=5, schedule="linear"),
        train=TrainConfig(steps=20, checkpoint_every=10, log_every=5),
        eval=EvalConfig(max_examples=1, max_new_tokens=16, batch_size=32, before=False),
    )
