# SPDX-License-Identifier: Apache-2.0
"""GGUF files: the settings, tensors and vocabulary that stand in them, and files that are not what
they should be."""

import json
import os
import struct
from pathlib import Path

import gguf as package
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind

from itx import pretrained, storage
from itx.data.vocabulary import Vocabulary
from itx.errors import UserError
from itx.models import families, gguf, gguf_config, gguf_folder, hf
from tests import gguf_files
from tests.gguf_files import CORPUS, hugging_face, write
from tests.models.test_hf import GOLDEN, placed

# golden folder -> (architecture of llama.cpp, what a GGUF file cannot say of the golden's config)
FAMILIES = {
    "llama": ("llama", {}),
    "mistral": ("llama", {}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {}),
    "gemma2": ("gemma2", {"query_pre_attn_scalar": 8}),
    "gemma3": ("gemma3", {"query_pre_attn_scalar": 8}),
    "t5": ("t5", {"relative_attention_max_distance": 128}),
    "t5_v1_1": ("t5", {"relative_attention_max_distance": 128}),
    "mt5": ("t5", {"relative_attention_max_distance": 128}),
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "itx" / "gguf"


def twin(name: str, tmp_path: Path, **more) -> tuple[Path, Path]:
    """A golden folder, changed so far that a GGUF file can say the same, and that file."""
    arch, changes = FAMILIES[name]
    config, tensors = hugging_face(GOLDEN / name, **changes)
    tensors.pop("lm_head.weight", None) if config.get("tie_word_embeddings") else None
    folder = tmp_path / "hf"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / hf.SINGLE).write_bytes((GOLDEN / name / hf.SINGLE).read_bytes())
    return folder, write(tmp_path / f"{name}.gguf", arch, config, tensors, **more)


@pytest.mark.parametrize("name", FAMILIES)
def test_settings_and_tensors_are_those_of_the_hugging_face_folder(name, tmp_path):
    folder, file = twin(name, tmp_path)
    derived = pretrained.find(str(file)).folder
    want, cfg = hf.model_config(folder), hf.model_config(derived)
    assert cfg == want
    specs = placed(cfg)
    left_out = hf.check(derived, cfg, specs)
    assert dict(left_out) == ({"rope_freqs.weight": 1} if name == "llama" else {})
    loaded, right = hf.load(derived, cfg, specs), hf.load(folder, want, specs)
    assert loaded.keys() == right.keys()
    for path, value in right.items():
        np.testing.assert_allclose(loaded[path], value, rtol=0, atol=2e-7, err_msg=path)
    if name in ("llama", "mistral"):  # its heads stand otherwise in the file
        held = gguf.File(file)
        shown = held.rows("blk.0.attn_q.weight")
        tensors = hugging_face(folder)[1]
        assert not np.array_equal(shown, tensors["model.layers.0.self_attn.q_proj.weight"])
    if name.startswith("gemma"):
        shown = gguf.File(file).rows("output_norm.weight")
        assert np.abs(shown - hugging_face(folder)[1]["model.norm.weight"]).min() > 0.5


def wide(layers: int = 2) -> tuple[dict, dict[str, np.ndarray]]:
    """A Llama whose rows fill the blocks of every type."""
    config = {
        **{"model_type": "llama", "hidden_size": 256, "intermediate_size": 512, "head_dim": 64},
        **{"num_hidden_layers": layers, "num_attention_heads": 4, "num_key_value_heads": 2},
        **{"max_position_embeddings": 64, "rms_norm_eps": 1e-5, "vocab_size": 64},
        **{"rope_parameters": {"rope_theta": 10_000.0, "rope_type": "default"}},
    }
    r = np.random.default_rng(0)
    shapes = {"model.embed_tokens.weight": (64, 256), "model.norm.weight": (256,)}
    for i in range(layers):
        at = f"model.layers.{i}"
        shapes |= {f"{at}.{n}_layernorm.weight": (256,) for n in ("input", "post_attention")}
        shapes |= {f"{at}.self_attn.{n}_proj.weight": (256, 256) for n in "qo"}
        shapes |= {f"{at}.self_attn.{n}_proj.weight": (128, 256) for n in "kv"}
        shapes |= {f"{at}.mlp.{n}_proj.weight": (512, 256) for n in ("gate", "up")}
        shapes[f"{at}.mlp.down_proj.weight"] = (256, 512)
    return config, {n: r.standard_normal(s).astype(np.float32) * 0.05 for n, s in shapes.items()}


KINDS = "F32 F16 BF16 Q8_0 Q4_0 Q4_1 Q5_0 Q5_1 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL".split()


@pytest.mark.parametrize("kind", KINDS)
def test_each_type_is_dequantised_as_the_package_does(kind, tmp_path):
    """Rows are quantised one by one, so that what is permuted is the same rows elsewhere."""
    config, tensors = wide(1)
    file = write(tmp_path / "m.gguf", "llama", config, tensors, kind)
    derived = pretrained.find(str(file)).folder
    cfg = hf.model_config(derived)
    names = hf.tensors_of(families.tensor_names(cfg, "llama"), placed(cfg))
    read = hf.Tensors(derived)
    held = package.GGUFReader(file)
    bytes_of = {t.name: t for t in held.tensors}
    for name in names:
        theirs = gguf_files._name("llama", name, 1)
        t = bytes_of[theirs]
        want = package.dequantize(t.data, t.tensor_type)
        assert (t.tensor_type.name == kind) == (len(t.shape) > 1) or kind == "F32"
        got = read.slice(name)[:]
        if "q_proj" in name or "k_proj" in name:
            assert not np.array_equal(got, want)
            got = gguf_files.paired(got, 4 if "q_proj" in name else 2)
        assert np.array_equal(got, want), name
    want = {"F16": "float16", "BF16": "bfloat16"}.get(kind, "float32")
    assert hf.dtype_of(hf.read_config(derived)) == want
    assert f"{kind} (8)" in gguf_folder.kinds(derived) or kind == "F32"


def test_only_the_rows_of_a_device_are_dequantised(tmp_path, monkeypatch):
    config, tensors = wide(1)
    file = write(tmp_path / "m.gguf", "llama", config, tensors, "Q4_1")
    derived = pretrained.find(str(file)).folder
    cfg = hf.model_config(derived)
    taken, real = [], gguf.dequantised
    monkeypatch.setattr(
        gguf, "dequantised", lambda rows, *a: taken.append(rows.shape[0]) or real(rows, *a)
    )
    whole = hf.load(derived, cfg, placed(cfg))
    alone, taken[:] = sum(taken), []
    split = hf.load(derived, cfg, placed(cfg, tensor=2, fsdp=2))
    assert max(taken) <= 512 // 2 or len(taken) > 4
    assert sum(taken) < 4 * alone
    for path, value in whole.items():
        assert np.array_equal(value, split[path]), path


def test_rows_are_read_in_any_part(tmp_path):
    config, tensors = wide(1)
    file = write(tmp_path / "m.gguf", "llama", config, tensors)
    read = hf.Tensors(pretrained.find(str(file)).folder)
    name = "model.layers.0.self_attn.q_proj.weight"
    part = read.slice(name)
    assert np.array_equal(part[:], tensors[name]) and part.get_shape() == [256, 256]
    assert np.array_equal(part[10:70, 3:9], tensors[name][10:70, 3:9])
    assert np.array_equal(read.slice("model.norm.weight")[5:9], tensors["model.norm.weight"][5:9])


# ---- settings ------------------------------------------------------------------------------------


def settings(tmp_path: Path, more=None, arch: str = "llama", name: str = "m", **changes):
    config, tensors = wide(1)
    return write(tmp_path / f"{name}.gguf", arch, config | changes, tensors, more=more)


@pytest.mark.parametrize(
    ("factor", "length", "theta"),
    [(8.0, 8192, 5e5), (32.0, 8192, 5e5), (4.0, 16, 500.0), (16.0, 4096, 1e4)],
)
def test_llama_3s_frequencies_give_back_its_parameters(factor, length, theta, tmp_path):
    rope = {
        **{"rope_type": "llama3", "rope_theta": theta, "factor": factor, "low_freq_factor": 1.0},
        **{"high_freq_factor": 4.0, "original_max_position_embeddings": length},
    }
    cfg = hf.model_config(pretrained.find(str(settings(tmp_path, rope_parameters=rope))).folder)
    assert cfg.rope_scaling == "llama3" and cfg.rope_factor == factor
    made = gguf_config.llama3_divisors(theta, 64, factor, 1.0, 4.0, cfg.rope_original_length)
    want = gguf_files.frequencies({"rope_parameters": rope, "head_dim": 64})
    np.testing.assert_allclose(made, want, rtol=1e-5)
    assert len(set(want.round(4))) > 1


def test_frequencies_of_another_kind_are_refused(tmp_path):
    def more(w):
        w.add_tensor("rope_freqs.weight", np.linspace(1, 9, 32, dtype=np.float32))

    with pytest.raises(UserError, match="rope_freqs.weight is not what Llama 3's scaling gives"):
        pretrained.find(str(settings(tmp_path, more)))


def test_frequencies_of_ones_scale_nothing(tmp_path):
    more = lambda w: w.add_tensor("rope_freqs.weight", np.ones(32, np.float32))  # noqa: E731
    cfg = hf.model_config(pretrained.find(str(settings(tmp_path, more))).folder)
    assert cfg.rope_scaling == "none"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (lambda w: w.add_uint32("llama.expert_count", 8), "llama.expert_count=8, which this model"),
        (lambda w: w.add_float32("llama.attention.scale", 2), "llama.attention.scale=2.0 is not"),
        (lambda w: w.add_uint32("llama.rope.dimension_count_x", 2), "mean 'rope.dimension_count'"),
        (lambda w: w.add_string("llama.rope.scaling.type", "longrope"), "RoPE of type 'longrope'"),
        (lambda w: w.add_uint16("split.count", 3), "one of 3 parts"),
        (lambda w: w.add_tokenizer_model("rwkv"), "kind 'rwkv'; those known are gpt2, llama, t5"),
    ],
)
def test_what_would_change_the_model_is_refused_by_its_key(more, words, tmp_path, cache):
    with pytest.raises(UserError) as e:
        pretrained.find(str(settings(tmp_path, more)))
    assert words in str(e.value) and "\n" not in str(e.value)
    assert str(e.value).startswith(str(tmp_path / "m.gguf"))
    assert not list(cache.glob("*/*"))


def test_an_unknown_architecture_is_named_with_those_that_are_known(tmp_path):
    w = package.GGUFWriter(tmp_path / "m.gguf", "mamba")
    w.add_tensor("token_embd.weight", np.zeros((4, 4), np.float32))
    w.write_header_to_file(), w.write_kv_data_to_file(), w.write_tensors_to_file(), w.close()
    with pytest.raises(UserError, match="unknown architecture 'mamba'; those known are llama, q"):
        pretrained.find(str(tmp_path / "m.gguf"))


def test_a_linear_scaling_and_a_missing_head_are_read(tmp_path):
    rope = {"rope_theta": 1e4, "rope_type": "linear", "factor": 4.0}
    cfg = hf.model_config(pretrained.find(str(settings(tmp_path, rope_parameters=rope))).folder)
    assert (cfg.rope_scaling, cfg.rope_factor, cfg.tie_embeddings) == ("linear", 4.0, True)


def test_tensors_that_the_model_does_not_have_are_refused(tmp_path):
    more = lambda w: w.add_tensor("blk.0.attn_q.bias", np.zeros(256, np.float32))  # noqa: E731
    derived = pretrained.find(str(settings(tmp_path, more))).folder
    cfg = hf.model_config(derived)
    with pytest.raises(UserError, match=r"m\.gguf: holds 'model.layers.0.self_attn.q_proj.bias'"):
        hf.check(derived, cfg, placed(cfg))


def test_a_type_that_cannot_be_dequantised_is_named_with_its_tensor(tmp_path):
    config, tensors = wide(1)
    file = tmp_path / "m.gguf"
    write(file, "llama", config, tensors, "Q8_0")
    # the type's number of the first tensor, behind its name and shape, becomes Q8_1's
    data = bytearray(file.read_bytes())
    name = b"blk.0.ffn_down.weight"
    at = data.index(struct.pack("<Q", len(name)) + name) + 8 + len(name) + 4 + 16
    assert struct.unpack_from("<I", data, at) == (Kind.Q8_0,)
    struct.pack_into("<I", data, at, Kind.Q8_1)
    file.write_bytes(data + bytes(10**5))
    derived = pretrained.find(str(file)).folder
    cfg = hf.model_config(derived)
    with pytest.raises(UserError) as e:
        hf.check(derived, cfg, placed(cfg))
    assert "m.gguf: model.layers.0.mlp.down_proj.weight is Q8_1; expected one of" in str(e.value)
    assert "Q4_K" in str(e.value)


# ---- files that are not what they should be ------------------------------------------------------


def _cut(n: int):
    return lambda data: data[:n] if n > 0 else data[: len(data) + n]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: b"PK\x03\x04" + d[4:], "is no GGUF file"),
        (lambda d: b"", "is no GGUF file"),
        (lambda d: d[:4] + struct.pack("<I", 1) + d[8:], "is GGUF of version 1; known are 2 and 3"),
        (lambda d: d[:4] + struct.pack(">I", 3) + d[8:], "is big-endian"),
        (_cut(30), "truncated: its header takes at least"),
        (_cut(900), "truncated: its header takes at least"),
        (_cut(-5000), "truncated: its tensor"),
        (lambda d: d[:8] + struct.pack("<Q", 10**15) + d[16:], "m.gguf: "),
    ],
)
def test_a_broken_file_is_one_line(change, words, tmp_path, cache):
    file = settings(tmp_path)
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(UserError) as e:
        pretrained.find(str(file))
    assert words in str(e.value) and str(e.value).count("\n") == 0
    assert not cache.exists() or not list(cache.glob("*/*"))


def test_names_that_are_near_and_files_in_folders_are_told(tmp_path):
    file = settings(tmp_path)
    with pytest.raises(UserError, match=f"did you mean '{file}'"):
        pretrained.find(str(tmp_path / "n.gguf"))
    with pytest.raises(UserError, match=f"in it lies {file}"):
        pretrained.find(str(tmp_path))


# ---- the derived folder --------------------------------------------------------------------------


def test_the_folder_is_derived_once_and_follows_the_file(tmp_path, cache, monkeypatch):
    file = settings(tmp_path)
    derived = pretrained.find(str(file)).folder
    assert derived.parent == cache and len(derived.name) == 16
    assert not (derived / hf.SINGLE).exists()  # no copy of the weights
    assert gguf_folder.source(derived) == file and pretrained.find(str(file)).place == str(file)
    os.utime(file, (1, 1))
    monkeypatch.setattr(storage, "MIN_AGE_SECONDS", -1e9)
    assert pretrained.find(str(file)).folder == derived

    def fail(*_):
        raise AssertionError("it is derived again, or read as a whole")

    monkeypatch.setattr(gguf_folder, "_derive", fail)
    with monkeypatch.context() as m:
        m.setattr(gguf_folder.hashing, "file_sha256", fail)
        assert pretrained.find(str(file)).folder == derived
    moved = file.rename(tmp_path / "moved.gguf")
    assert pretrained.find(str(moved)).folder == derived
    assert gguf_folder.source(derived) == moved
    cfg = hf.model_config(derived)
    assert hf.load(derived, cfg, placed(cfg))
    moved.unlink()
    with pytest.raises(UserError, match=r"moved\.gguf"):
        hf.load(derived, cfg, placed(cfg))


def test_a_folder_that_is_not_whole_or_of_an_older_form_is_derived_anew(tmp_path, monkeypatch):
    file = settings(tmp_path)
    derived = pretrained.find(str(file)).folder
    (derived / "config.json").unlink()
    assert pretrained.find(str(file)).folder == derived and (derived / "config.json").is_file()
    monkeypatch.setattr(gguf_folder, "DERIVED_VERSION", 99)
    before = (derived / "config.json").stat().st_ino
    assert pretrained.find(str(file)).folder == derived
    assert (derived / "config.json").stat().st_ino != before


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    file = settings(tmp_path)
    (tmp_path / "blocked").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "blocked"))
    with pytest.raises(UserError, match="cannot be kept in .*blocked.*XDG_CACHE_HOME names"):
        pretrained.find(str(file))


# ---- vocabularies --------------------------------------------------------------------------------


def vocabulary(
    tmp_path: Path, tokenizer, size: int, arch: str = "llama"
) -> tuple[Path, Vocabulary]:
    config, tensors = wide(1)
    tensors["model.embed_tokens.weight"] = np.zeros((size, 256), np.float32)
    config["vocab_size"] = size
    file = write(tmp_path / "m.gguf", arch, config, tensors, tokenizer=tokenizer)
    derived = pretrained.find(str(file)).folder
    return derived, Vocabulary(derived / "tokenizer.json", size)


@pytest.mark.parametrize("pre", ["gpt-2", "smollm"])
def test_a_byte_level_vocabulary_gives_the_ids_of_the_tokenizer_it_came_from(pre, tmp_path):
    trained, put = gguf_files.byte_level(pre)
    derived, vocab = vocabulary(tmp_path, put, trained.get_vocab_size())
    for text in CORPUS:
        assert vocab.encode(text) == trained.encode(text).ids
        assert vocab.decode(vocab.encode(text)) == text
    assert (vocab.eos_id, vocab.pad_id, vocab.begins) == (2, 2, False)
    assert vocab.control == ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    assert hf.ends(derived) == (2,)
    # a content never becomes a control token; what a template writes does
    assert not {0, 1, 2} & set(vocab.encode("a <|im_end|> b <|endoftext|>"))
    assert vocab.model.encode_template("<|im_start|>") == [1]
    tool = trained.token_to_id("<tool_call>")
    assert vocab.encode("<tool_call>") == [tool]
    assert pretrained.chat_template(pretrained.Begin(derived)).read_text() == gguf_files.CHATML


def test_pre_tokenizers_cut_numbers_and_words_as_they_say(tmp_path):
    ids = {}
    for pre in ("gpt-2", "smollm", "llama-bpe", "qwen2", "tekken"):
        (tmp_path / pre).mkdir()
        trained, put = gguf_files.byte_level(pre)
        _, vocab = vocabulary(tmp_path / pre, put, trained.get_vocab_size())
        ids[pre] = [vocab.model.content.pre_tokenizer.pre_tokenize_str(t) for t in CORPUS]
        assert all(vocab.decode(vocab.encode(t)) == t for t in CORPUS if pre != "qwen2")
    digits = {
        pre: [len(p) for p, _ in cut[0] if p.strip("Ġ").isdigit()] for pre, cut in ids.items()
    }
    assert digits["llama-bpe"][:3] == [3, 3, 1] and set(digits["qwen2"]) == {1}
    assert max(digits["gpt-2"]) > 3 and max(digits["smollm"]) <= 2
    assert len({str(cut) for cut in ids.values()}) == len(ids)


@pytest.mark.parametrize(("pre", "near"), [("smolm", "'smollm'"), ("default", "llama-bpe, ")])
def test_an_unknown_pre_tokenizer_is_refused(pre, near, tmp_path):
    trained, put = gguf_files.byte_level(pre)
    with pytest.raises(UserError, match="how its tokenizer cuts a text is not known") as e:
        vocabulary(tmp_path, put, trained.get_vocab_size())
    assert near in str(e.value)


def test_sentencepieces_bpe_gives_its_own_ids(tmp_path):
    model, put = gguf_files.sentencepiece("bpe", 600)
    derived, vocab = vocabulary(tmp_path, put, model.get_piece_size())
    for text in CORPUS:
        assert vocab.encode(text) == model.encode(text), text
        assert vocab.decode(vocab.encode(text)) == text
    assert vocab.encode("\x07") != [model.unk_id()]  # bytes stand for what has no piece
    assert (vocab.bos_id, vocab.eos_id, vocab.begins, vocab.spaced) == (1, 2, True, True)
    assert not {0, 1, 2} & set(vocab.encode("a </s> <s> <unk>"))
    assert vocab.model.encode_template("</s>") == [2]


def test_sentencepieces_bpe_without_a_space_in_front(tmp_path):
    model, put = gguf_files.sentencepiece("bpe", 600, add_dummy_prefix=False)

    def bare(w):
        put(w)
        w.add_add_space_prefix(False)

    _, vocab = vocabulary(tmp_path, bare, model.get_piece_size())
    assert not vocab.spaced
    for text in CORPUS:
        assert vocab.encode(text) == model.encode(text), text


def test_sentencepieces_unigrams_give_their_own_ids(tmp_path):
    model, put = gguf_files.sentencepiece("unigram", 260)
    derived, vocab = vocabulary(tmp_path, put, model.get_piece_size())
    differ = [t for t in CORPUS if vocab.encode(t) != model.encode(t)]
    assert differ == []
    assert (vocab.eos_id, vocab.pad_id, vocab.unk_id) == (1, 0, 2)
    assert 1 not in vocab.encode("a </s> b") and 0 not in vocab.encode("<pad>")
    assert vocab.model.encode_template("</s>") == [1]
    whole = vocab.model.tokenizer.encode("a", add_special_tokens=True).ids
    assert whole == [*model.encode("a"), 1]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (lambda w: w.add_uint32("tokenizer.ggml.eot_token_id", 10**6), "eot_token_id=1000000; it"),
        (lambda w: w.add_array("tokenizer.ggml.scores", [0.5, 1.0]), "scores has 2 entries for"),
        (lambda w: w.add_bool("tokenizer.chat_template", True), "chat_template is no text"),
    ],
)
def test_a_vocabulary_that_contradicts_itself_is_refused(more, words, tmp_path):
    trained, put = gguf_files.byte_level()

    def both(w):
        put(w)
        w.kv_data[0].pop("tokenizer.chat_template", None) if "chat" in words else None
        more(w)

    with pytest.raises(UserError, match=words):
        vocabulary(tmp_path, both, trained.get_vocab_size())


def test_a_control_token_that_a_content_could_become_is_refused(tmp_path):
    """A merge makes it of the content's pieces."""
    trained, put = gguf_files.byte_level()
    word = next(t for t in trained.get_vocab() if t.isascii() and len(t) > 3 and t.isalpha())

    def marked(w):
        put(w)
        types = w.kv_data[0]["tokenizer.ggml.token_type"].value
        types[trained.token_to_id(word)] = package.TokenType.CONTROL

    with pytest.raises(UserError, match=f"control token '{word}' cannot be told from"):
        vocabulary(tmp_path, marked, trained.get_vocab_size())


def test_the_end_of_a_turn_that_the_template_writes_ends_an_answer(tmp_path):
    trained, put = gguf_files.byte_level()

    def other(w):
        put(w)
        w.kv_data[0]["tokenizer.ggml.eos_token_id"].value = 0

    derived, vocab = vocabulary(tmp_path, other, trained.get_vocab_size())
    assert vocab.eos_id == 0 and hf.ends(derived) == (0, 2)


def test_rows_without_a_token_are_no_tokens(tmp_path):
    trained, put = gguf_files.byte_level()
    size = trained.get_vocab_size()

    def padded(w):
        put(w)
        kv = w.kv_data[0]
        kv["tokenizer.ggml.tokens"].value += [f"[PAD{size + i}]" for i in range(8)]
        kv["tokenizer.ggml.token_type"].value += [package.TokenType.UNUSED] * 8

    _, vocab = vocabulary(tmp_path, padded, size + 8)
    assert vocab.size == size and vocab.decode([size + 1]) == vocab.decode([vocab.unk_id])
