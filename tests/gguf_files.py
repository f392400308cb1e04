# SPDX-License-Identifier: Apache-2.0
"""GGUF files for tests, laid out as llama.cpp's converter lays them out, from Hugging Face's
tensors and settings."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind
from safetensors.numpy import load_file

CORPUS = [
    "The capital of France is Paris, isn't it? They'LL say: 1234567 and 3.14.",
    "Столица Франции — Париж; ёлка, 2024 год, не так ли?",
    "法国的首都是巴黎。今天天气很好，我们去公园吧！",
    "def f(x):\n    return [i**2 for i in range(x)]  # squares\n\n\n\tpass\r\n",
    "🙂👍🏽 family: 👨‍👩‍👧, flag: 🇫🇷, é vs e\u0301, ﬁ ½ ①",
    "  two spaces  inside   and behind  ",
    "",
]
TRAINING = [line * 3 for line in CORPUS] + ["hello world the cat sat on the mat"] * 5


def hugging_face(folder: Path, **changes: Any) -> tuple[dict, dict[str, np.ndarray]]:
    """(config.json with changes, tensors as float32) of a folder."""
    config = json.loads((folder / "config.json").read_text()) | changes
    tensors = load_file(folder / "model.safetensors")
    return config, {n: t.astype(np.float32) for n, t in tensors.items()}


def paired(weight: np.ndarray, heads: int) -> np.ndarray:
    """Llama's queries or keys as llama.cpp has them: what a rotation pairs stands side by side."""
    rows = np.arange(weight.shape[0]).reshape(heads, 2, -1)
    return weight[rows.transpose(0, 2, 1).ravel()]


def _name(arch: str, name: str, layers: int) -> str:
    known = next(a for a, n in gguf.MODEL_ARCH_NAMES.items() if n == arch)
    found = gguf.get_tensor_name_map(known, layers).get_name(name, (".weight", ".bias"))
    assert found, name
    return found


def metadata(w: gguf.GGUFWriter, arch: str, c: dict) -> None:
    """What the converter writes about the settings of a model."""
    if arch == "t5":
        w.add_context_length(512)
        w.add_embedding_length(c["d_model"])
        w.add_feed_forward_length(c["d_ff"])
        w.add_block_count(c["num_layers"])
        w.add_decoder_block_count(c["num_decoder_layers"])
        w.add_head_count(c["num_heads"])
        w.add_key_length(c["d_kv"])
        w.add_value_length(c["d_kv"])
        w.add_layer_norm_eps(c["layer_norm_epsilon"])
        w.add_relative_attn_buckets_count(c["relative_attention_num_buckets"])
        w.add_layer_norm_rms_eps(c["layer_norm_epsilon"])
        w.add_decoder_start_token_id(0)
        return
    w.add_context_length(c["max_position_embeddings"])
    w.add_embedding_length(c["hidden_size"])
    w.add_block_count(c["num_hidden_layers"])
    w.add_feed_forward_length(c["intermediate_size"])
    w.add_head_count(c["num_attention_heads"])
    w.add_head_count_kv(c["num_key_value_heads"])
    w.add_layer_norm_rms_eps(c["rms_norm_eps"])
    head_dim = c.get("head_dim")
    if head_dim:
        w.add_key_length(head_dim)
        w.add_value_length(head_dim)
    if arch == "llama":
        w.add_vocab_size(c["vocab_size"])
        w.add_rope_dimension_count(head_dim or c["hidden_size"] // c["num_attention_heads"])
    rope = c["rope_parameters"]
    full = rope.get("full_attention", rope)
    w.add_rope_freq_base(full["rope_theta"])
    if "sliding_attention" in rope:
        w.add_rope_freq_base_swa(rope["sliding_attention"]["rope_theta"])
    if full["rope_type"] == "linear":
        w.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        w.add_rope_scaling_factor(full["factor"])
    if c.get("attn_logit_softcapping"):
        w.add_attn_logit_softcapping(c["attn_logit_softcapping"])
    if c.get("final_logit_softcapping"):
        w.add_final_logit_softcapping(c["final_logit_softcapping"])
    if c.get("sliding_window"):
        w.add_sliding_window(c["sliding_window"])
    if arch == "gemma3":
        w.add_sliding_window_pattern([t == "sliding_attention" for t in c["layer_types"]])


def frequencies(c: dict) -> np.ndarray:
    """The divisors of Llama 3's frequencies, one by one."""
    rope, dim, out = c["rope_parameters"], c["head_dim"], []
    length = rope["original_max_position_embeddings"]
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    for i in range(0, dim, 2):
        wave = 2 * np.pi * rope["rope_theta"] ** (i / dim)
        if wave < length / high:
            out.append(1.0)
        elif wave > length / low:
            out.append(rope["factor"])
        else:
            s = (length / wave - low) / (high - low)
            out.append(1 / ((1 - s) / rope["factor"] + s))
    return np.asarray(out, np.float32)


def stored(weight: np.ndarray, kind: str) -> np.ndarray:
    """Values as bytes of a type; those types that the package cannot write are made of bytes that
    stand for small numbers."""
    if kind == "F32":
        return weight.astype(np.float32)
    if kind == "F16":
        return weight.astype(np.float16)
    try:
        return gguf.quantize(weight.astype(np.float32), Kind[kind])
    except NotImplementedError:
        block, size = gguf.GGML_QUANT_SIZES[Kind[kind]]
        shape = (*weight.shape[:-1], weight.shape[-1] // block * size)
        return np.random.default_rng(weight.size).integers(0, 0x3C, shape).astype(np.uint8)


def write(
    file: Path,
    arch: str,
    config: dict,
    tensors: dict[str, np.ndarray],
    kind: str = "F32",
    tokenizer: Callable[[gguf.GGUFWriter], None] | None = None,
    more: Callable[[gguf.GGUFWriter], None] | None = None,
) -> Path:
    """Matrices are stored as `kind` where their rows fill its blocks, as the converter does."""
    w = gguf.GGUFWriter(file, arch)
    w.add_type("model")
    w.add_name(f"tiny {arch}")
    metadata(w, arch, config)
    if tokenizer:
        tokenizer(w)
    if more:
        more(w)
    layers = max(
        config.get(k, 0) for k in ("num_hidden_layers", "num_layers", "num_decoder_layers")
    )
    for name, values in tensors.items():
        values = np.asarray(values, np.float32)
        if arch == "llama" and name.endswith("q_proj.weight"):
            values = paired(values, config["num_attention_heads"])
        if arch == "llama" and name.endswith("k_proj.weight"):
            values = paired(values, config["num_key_value_heads"])
        if arch.startswith("gemma") and name.endswith("norm.weight"):
            values = values + 1
        fits = values.ndim > 1 and values.shape[-1] % gguf.GGML_QUANT_SIZES[Kind[kind]][0] == 0
        own = kind if fits and "rel" not in name else "F32"
        w.add_tensor(_name(arch, name, layers), stored(values, own), raw_dtype=Kind[own])
    if config.get("rope_parameters", {}).get("rope_type") == "llama3":
        w.add_tensor("rope_freqs.weight", frequencies(config))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return file


# ---- tokenizers ----------------------------------------------------------------------------------

PRE_TOKENIZERS = {
    "gpt-2": lambda p: p.ByteLevel(add_prefix_space=False, use_regex=True),
    "smollm": lambda p: p.Sequence(
        [p.Digits(individual_digits=True), p.ByteLevel(add_prefix_space=False, use_regex=True)]
    ),
}
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def byte_level(pre: str = "gpt-2", size: int = 400):
    """(a trained tokenizer, what writes it): three control tokens, and a user-defined one."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    t = tokenizers.Tokenizer(models.BPE())
    if pre in PRE_TOKENIZERS:
        t.pre_tokenizer = PRE_TOKENIZERS[pre](pre_tokenizers)
    else:
        t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    t.train_from_iterator(
        TRAINING,
        trainers.BpeTrainer(
            vocab_size=size, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
        ),
    )
    t.add_tokens([tokenizers.AddedToken("<tool_call>", normalized=False)])
    model = json.loads(t.to_str())["model"]
    texts = sorted(t.get_vocab(), key=t.get_vocab().get)

    def put(w: gguf.GGUFWriter) -> None:
        types = [gguf.TokenType.NORMAL] * len(texts)
        types[:3] = [gguf.TokenType.CONTROL] * 3
        types[texts.index("<tool_call>")] = gguf.TokenType.USER_DEFINED
        w.add_tokenizer_model("gpt2")
        w.add_tokenizer_pre(pre)
        w.add_token_list(texts)
        w.add_token_types(types)
        w.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in model["merges"]])
        w.add_bos_token_id(1)
        w.add_eos_token_id(2)
        w.add_unk_token_id(0)
        w.add_pad_token_id(2)
        w.add_add_bos_token(False)
        w.add_chat_template(CHATML)

    return t, put


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def sentencepiece(kind: str, size: int, **more: Any):
    """(a trained SentencePiece model, what writes it) of the kind "bpe" or "unigram"."""
    import sentencepiece as sp

    out = io.BytesIO()
    bpe = kind == "bpe"
    rules = "identity" if bpe else "nmt_nfkc"
    sp.SentencePieceTrainer.train(
        **{"sentence_iterator": iter(TRAINING), "model_writer": out, "vocab_size": size},
        **{"model_type": kind, "byte_fallback": bpe, "normalization_rule_name": rules},
        **{"remove_extra_whitespaces": not bpe, "hard_vocab_limit": False, "minloglevel": 2},
        **({"unk_id": 0, "bos_id": 1, "eos_id": 2, "pad_id": -1} if bpe else T5_IDS),
        **{"character_coverage": 1.0 if bpe else 0.98, **more},
    )
    model = sp.SentencePieceProcessor(model_proto=out.getvalue())
    return model, lambda w: put_sentencepiece(w, model, out.getvalue())


T5_IDS = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}


def put_sentencepiece(w: gguf.GGUFWriter, model: Any, proto: bytes) -> None:
    from sentencepiece import sentencepiece_model_pb2

    held = sentencepiece_model_pb2.ModelProto.FromString(proto)
    bpe = held.trainer_spec.model_type == 2
    ids = range(model.get_piece_size())
    order = (model.is_unknown, model.is_control, model.is_unused, model.is_byte)
    codes = (2, 3, 5, 6)
    kinds = [next((c for f, c in zip(order, codes, strict=True) if f(i)), 1) for i in ids]
    w.add_tokenizer_model("llama" if bpe else "t5")
    w.add_tokenizer_pre("default")
    w.add_token_list([model.id_to_piece(i) for i in ids])
    w.add_token_scores([model.get_score(i) for i in ids])
    w.add_token_types(kinds)
    w.add_eos_token_id(model.eos_id())
    w.add_unk_token_id(model.unk_id())
    if bpe:
        w.add_bos_token_id(model.bos_id())
        w.add_add_bos_token(True)
        return
    w.add_pad_token_id(model.pad_id())
    w.add_add_space_prefix(held.normalizer_spec.add_dummy_prefix)
    w.add_remove_extra_whitespaces(held.normalizer_spec.remove_extra_whitespaces)
    w.add_precompiled_charsmap(held.normalizer_spec.precompiled_charsmap)
    w.add_add_bos_token(False)
    w.add_add_eos_token(True)
