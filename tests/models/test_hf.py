# SPDX-License-Identifier: Apache-2.0
"""Models written by `transformers` (tests/golden/make_hf.py): the same logits and gradients, the
same tensors back."""

import dataclasses
import json
import shutil
import struct
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from itx import mesh as meshes
from itx import pretrained
from itx.config import MeshConfig
from itx.errors import UserError
from itx.models import families, hf, presets
from itx.models.transformer import Transformer
from itx.params import model_specs, module_of
from tests import tiny

GOLDEN = Path(__file__).parents[1] / "golden" / "hf"
FAMILIES = sorted(p.name for p in GOLDEN.iterdir())


def placed(cfg, **sizes) -> dict:
    devices = int(np.prod(list(sizes.values()), dtype=int))
    mesh = meshes.make_mesh(MeshConfig(**{"data": 1, **sizes}), jax.devices()[:devices])
    return model_specs(cfg, cfg.vocab_size, mesh)


def model_of(cfg, params: dict) -> Transformer:
    return module_of(
        nnx.graphdef(nnx.eval_shape(lambda: Transformer(cfg, cfg.vocab_size, nnx.Rngs(0)))), params
    )


def golden(name: str) -> tuple:
    cfg = hf.model_config(GOLDEN / name)
    return (
        cfg,
        hf.load(GOLDEN / name, cfg, placed(cfg)),
        dict(np.load(GOLDEN / name / "golden.npz")),
    )


def side(ids: np.ndarray, mask: np.ndarray, name: str) -> dict:
    """A row per sequence, padded behind."""
    values = {
        "input_tokens": ids,
        "segment_ids": mask,
        "positions": np.maximum(np.cumsum(mask, 1) - 1, 0) * mask,
    }
    return {f"{name}_{k}": jnp.asarray(v, jnp.int32) for k, v in values.items()}


def packed(ids: np.ndarray, mask: np.ndarray, name: str) -> dict:
    """All sequences one behind the other in one row, and a place of padding."""
    lengths = mask.sum(1)
    tokens = np.concatenate([*(row[:n] for row, n in zip(ids, lengths, strict=True)), [0]])
    segments = np.concatenate([np.repeat(np.arange(1, len(lengths) + 1), lengths), [0]])
    positions = np.concatenate([*map(np.arange, lengths), [0]])
    values = {"input_tokens": tokens, "segment_ids": segments, "positions": positions}
    return {f"{name}_{k}": jnp.asarray(v[None], jnp.int32) for k, v in values.items()}


def batch(g: dict, lay) -> tuple[dict, np.ndarray]:
    """(batch, mask of what the decoder reads) with each side laid out by `side` or `packed`."""
    if "decoder_ids" not in g:
        return lay(g["ids"], g["mask"], "decoder"), g["mask"]
    both = lay(g["ids"], g["mask"], "encoder") | lay(g["decoder_ids"], g["decoder_mask"], "decoder")
    return both, g["decoder_mask"]


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_are_those_of_transformers(name):
    cfg, params, g = golden(name)
    model, want = model_of(cfg, params), g["logits"]
    inputs, mask = batch(g, side)
    assert mask.sum(1).min() < mask.shape[1]  # there is padding
    if cfg.sliding_window:
        assert mask.sum(1).max() > 2 * cfg.sliding_window
    forward = jax.jit(lambda b: model(b))
    out = np.asarray(forward(inputs))
    scale = np.abs(want).max()
    assert np.abs(out - want)[mask > 0].max() < 1e-4 * scale
    row, _ = batch(g, packed)
    together = np.asarray(forward(row))[0][: mask.sum()]
    assert np.abs(together - want[mask > 0]).max() < 1e-4 * scale
    one = {k: jnp.minimum(v, 1) if k.endswith("segment_ids") else v for k, v in row.items()}
    assert np.abs(np.asarray(forward(one))[0][: mask.sum()] - want[mask > 0]).max() > 1e-2 * scale


@pytest.mark.parametrize(
    "name",
    [
        n
        for n in FAMILIES
        if "grad/shared.weight" in (f := np.load(GOLDEN / n / "golden.npz"))
        or "grad/model.embed_tokens.weight" in f
    ],
)
def test_gradients_are_those_of_transformers(name):
    cfg, params, g = golden(name)
    inputs, mask = batch(g, side)
    ids = g.get("decoder_ids", g["ids"])
    weight = jnp.asarray(mask[:, 1:], jnp.float32)

    def loss(params):
        logp = jax.nn.log_softmax(model_of(cfg, params)(inputs)[:, :-1])
        nll = -jnp.take_along_axis(logp, jnp.asarray(ids)[:, 1:, None], -1)[..., 0]
        return jnp.sum(nll * weight) / jnp.sum(weight)

    gradient = jax.jit(jax.grad(loss))(params)
    wanted = {k.removeprefix("grad/"): v for k, v in g.items() if k.startswith("grad/")}
    places = hf.tensors_of(families.tensor_names(cfg, hf.family(GOLDEN / name)), gradient)
    assert wanted.keys() == places.keys() and len(wanted) > 30
    top = max(np.abs(v).max() for v in wanted.values())
    for tensor, (path, layer) in places.items():
        ours = hf.tensor(gradient, path, layer, np.dtype(np.float32))
        assert (
            np.abs(ours - wanted[tensor]).max() < 1e-4 * np.abs(wanted[tensor]).max() + 1e-6 * top
        ), tensor


def test_the_gradient_test_covers_both_architectures():
    with_gradients = {
        n
        for n in FAMILIES
        if any(k.startswith("grad/") for k in np.load(GOLDEN / n / "golden.npz"))
    }
    assert {hf.model_config(GOLDEN / n).architecture for n in with_gradients} == {
        "decoder",
        "encoder_decoder",
    }


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_imported_and_exported_is_the_same_tensor_for_tensor(name, tmp_path):
    cfg, params, _ = golden(name)
    source = hf.read_config(GOLDEN / name)
    hf.save(tmp_path / "out", cfg, params, source=source, shard_bytes=20_000)
    files = sorted(tmp_path.glob("out/*.safetensors"))
    assert len(files) > 1 and (tmp_path / "out" / hf.INDEX).is_file()
    there = {k: v for f in files for k, v in load_file(f).items()}
    first = load_file(GOLDEN / name / "model.safetensors")
    assert there.keys() == first.keys()
    for key, value in first.items():
        assert value.dtype == there[key].dtype and value.shape == there[key].shape
        assert value.tobytes() == there[key].tobytes(), key
    again = hf.model_config(tmp_path / "out")
    assert again == cfg and hf.read_config(tmp_path / "out")["model_type"] == source["model_type"]


@pytest.mark.parametrize("sizes", [{"fsdp": 2, "tensor": 4}, {"fsdp": 4, "tensor": 2}], ids=str)
@pytest.mark.parametrize("name", ["gemma3", "t5"])
def test_each_device_reads_its_own_part(name, sizes, monkeypatch):
    cfg, whole, _ = golden(name)
    slices, read = hf.Tensors.slice, []

    class Recorded:
        def __init__(self, inner):
            self.inner = inner
            self.get_shape, self.get_dtype = inner.get_shape, inner.get_dtype

        def __getitem__(self, index):
            out = self.inner[index]
            read.append(out.size)
            return out

    monkeypatch.setattr(hf.Tensors, "slice", lambda self, n: Recorded(slices(self, n)))
    params = hf.load(GOLDEN / name, cfg, placed(cfg, **sizes))
    split = [
        p
        for p, v in params.items()
        if len({s.index for s in map(str_index, v.addressable_shards)}) > 1
    ]
    assert len(split) > 5
    for path, value in params.items():
        np.testing.assert_array_equal(value, whole[path], err_msg=path)
        assert value.sharding == placed(cfg, **sizes)[path].sharding
    held = sum(s.data.size for v in params.values() for s in v.addressable_shards)
    assert sum(read) <= held  # nothing but what some device keeps
    assert max(read) < max(v.size for v in whole.values())


def str_index(shard):
    return dataclasses.make_dataclass("Shard", ["index"], frozen=True)(str(shard.index))


def test_every_published_model_can_be_written_and_read_as_its_family():
    kinds = {
        "t5_v1_1": "t5",
        "flan_t5": "t5",
        "t5": "t5",
        "mt5": "t5",
        "llama3": "llama",
        "qwen2_5": "qwen2",
        "qwen3": "qwen3",
        "gemma2": "gemma2",
        "gemma3": "gemma3_text",
        "mistral": "mistral",
    }
    for name, cfg in presets.PUBLISHED.items():
        kind = families.family_of(cfg)
        assert kind == kinds[max((k for k in kinds if name.startswith(k)), key=len)], name
        back = families.read(json.loads(json.dumps(families.write(cfg, kind))), name)
        assert (
            families.family_of(back) == kind
            and presets.dataclasses.replace(
                back,
                encoder_layers=0,
                query_scalar=cfg.query_scalar,
                rope_theta_local=cfg.rope_theta_local,
                relative_buckets=32,
                relative_max_distance=128,
            )
            == cfg
        ), name


# What the hub's files say, as transformers 4 wrote them, and which published model that is
OLD_CONFIGS = {
    "llama3_2_1b": {
        "model_type": "llama",
        "attention_bias": False,
        "head_dim": 64,
        "hidden_act": "silu",
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "mlp_bias": False,
        "num_attention_heads": 32,
        "num_hidden_layers": 16,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "factor": 32.0,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
        "rope_theta": 500000.0,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "vocab_size": 128256,
    },
    "qwen2_5_0_5b": {
        "model_type": "qwen2",
        "hidden_act": "silu",
        "hidden_size": 896,
        "intermediate_size": 4864,
        "max_window_layers": 21,
        "num_attention_heads": 14,
        "num_hidden_layers": 24,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "sliding_window": 32768,
        "tie_word_embeddings": True,
        "use_sliding_window": False,
        "vocab_size": 151936,
    },
    "mistral_7b": {
        "model_type": "mistral",
        "hidden_act": "silu",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-05,
        "rope_theta": 10000.0,
        "sliding_window": 4096,
        "tie_word_embeddings": False,
        "vocab_size": 32000,
    },
    "gemma2_2b": {
        "model_type": "gemma2",
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "head_dim": 256,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_attention_heads": 8,
        "num_hidden_layers": 26,
        "num_key_value_heads": 4,
        "query_pre_attn_scalar": 256,
        "rms_norm_eps": 1e-06,
        "rope_theta": 10000.0,
        "sliding_window": 4096,
        "vocab_size": 256000,
    },
    "gemma3_4b": {
        "model_type": "gemma3",
        "vision_config": {"hidden_size": 1152},
        "text_config": {
            "hidden_size": 2560,
            "intermediate_size": 10240,
            "model_type": "gemma3_text",
            "num_hidden_layers": 34,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
            "sliding_window": 1024,
        },
    },
    "gemma3_1b": {
        "model_type": "gemma3_text",
        "hidden_size": 1152,
        "intermediate_size": 6912,
        "num_attention_heads": 4,
        "num_hidden_layers": 26,
        "num_key_value_heads": 1,
        "head_dim": 256,
        "rope_local_base_freq": 10000,
        "rope_theta": 1000000,
        "rope_scaling": None,
        "sliding_window": 512,
        "sliding_window_pattern": 6,
        "query_pre_attn_scalar": 256,
        "vocab_size": 262144,
    },
    "t5_small": {
        "model_type": "t5",
        "d_ff": 2048,
        "d_kv": 64,
        "d_model": 512,
        "num_heads": 8,
        "num_layers": 6,
        "vocab_size": 32128,
        "relative_attention_num_buckets": 32,
        "layer_norm_epsilon": 1e-06,
    },
    "flan_t5_base": {
        "model_type": "t5",
        "d_ff": 2048,
        "d_kv": 64,
        "d_model": 768,
        "num_heads": 12,
        "num_layers": 12,
        "num_decoder_layers": 12,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
        "vocab_size": 32128,
        "relative_attention_max_distance": 128,
    },
}


@pytest.mark.parametrize("name", OLD_CONFIGS)
def test_configs_of_the_hub_are_read(name):
    want, got = presets.published(name), families.read(OLD_CONFIGS[name], name)
    rest = (
        {"encoder_layers": 0, "query_scalar": want.query_scalar}
        if want.query_scalar
        else {"encoder_layers": 0}
    )
    assert dataclasses.replace(got, **rest) == want
    assert families._same(got) == families._same(want)


def test_what_stands_outside_the_text_part_is_exported(tmp_path):
    """The hub's gemma-3-4b-it names its type and the ends of an answer outside `text_config`."""
    cfg, params, _ = golden("gemma3")
    outside = {"torch_dtype": "bfloat16", "eos_token_id": [1, 106], "pad_token_id": 0}
    source = {
        "model_type": "gemma3",
        **outside,
        "bos_token_id": None,
        "text_config": hf.read_config(GOLDEN / "gemma3") | {"eos_token_id": 1},
    }
    del source["text_config"]["dtype"]
    hf.save(tmp_path / "out", cfg, params, source=source)
    written = hf.read_config(tmp_path / "out")
    assert {k: written[k] for k in outside} == outside and written["model_type"] == "gemma3_text"
    # null there says nothing
    assert written.get("bos_token_id") == source["text_config"].get("bos_token_id")
    expected = hf.tensors_of(families.tensor_names(cfg, hf.family(tmp_path / "out")), params)
    assert set(map(hf.Tensors(tmp_path / "out").dtype, expected)) == {"BF16"}


def test_the_text_model_inside_one_that_sees_images(tmp_path):
    """gemma-3-4b: the text model's tensors have another prefix, and an image tower stands beside
    them."""
    cfg, params, _ = golden("gemma3")
    source = hf.read_config(GOLDEN / "gemma3")
    tensors = load_file(GOLDEN / "gemma3" / "model.safetensors")
    for prefix in ("language_model.model.", "model.language_model."):
        folder = tmp_path / prefix
        folder.mkdir()
        inside = {n.replace("model.", prefix, 1): v for n, v in tensors.items()}
        save_file(
            {**inside, "vision_tower.layer.0.weight": np.ones((2, 2), np.float32)},
            folder / hf.SINGLE,
        )
        (folder / hf.CONFIG).write_text(json.dumps({"model_type": "gemma3", "text_config": source}))
        assert hf.model_config(folder) == cfg
        targets = placed(cfg)
        assert dict(hf.check(folder, cfg, targets)) == {"vision_tower.layer.#.weight": 1}
        for path, value in hf.load(folder, cfg, targets).items():
            np.testing.assert_array_equal(value, params[path])


# Keys that change what a model computes, a value that says so, values that say that there is
# nothing of it
CHANGES_THE_MATHS = {
    "no_rope_layers": ([1, 1, 0], [None, [], [1, 1, 1]], "NoPE"),
    "no_rope_layer_interval": (4, [None, 0], "NoPE"),
    "embedding_multiplier": (12.0, [None, 1.0, 1], "multipliers"),
    "attention_multiplier": (0.0078125, [None], "multipliers"),
    "residual_multiplier": (0.22, [None, 1.0], "multipliers"),
    "logits_scaling": (8.0, [None, 1.0], "multipliers"),
    "num_local_experts": (8, [None, 0], "MoE"),
    "num_experts": (60, [None, 0], "MoE"),
    "n_routed_experts": (64, [None, 0], "MoE"),
    "moe_intermediate_size": (768, [None, 0], "MoE"),
    "quantization_config": ({"quant_method": "gptq", "bits": 4}, [None, {}], "quantised"),
    "partial_rotary_factor": (0.5, [None, 1.0], "part of a head"),
    "rotary_pct": (0.25, [None, 1.0], "part of a head"),
    "use_bidirectional_attention": (True, [None, False], "what comes later"),
    "is_causal": (False, [True], "what comes later"),
    "mlp_bias": (True, [None, False], "biases in the MLP"),
    "rope_interleaved": (True, [None, False], "neighbouring"),
    "use_qk_norm": (True, [None, False], "norm of queries"),
    "kv_lora_rank": (512, [None, 0], "latent"),
    "clip_qkv": (8.0, [None], "caps"),
    "logit_softcapping": (30.0, [None, 0.0], "caps"),
    "scale_emb": (12, [None, 1], "multipliers"),
    "per_layer_config": ([{}, {"sliding_window": 5}], [None, [], {}], "layers that differ"),
    "use_mrope": (True, [None, False], "several axes"),
    "mlp_layer_types": (["dense", "sparse", "dense"], [None, ["dense"] * 3], "kinds"),
    "add_cross_attention": (True, [None, False], "cross attention"),
    "is_encoder_decoder": (True, [None, False], "cross attention"),
}


@pytest.mark.parametrize("key", CHANGES_THE_MATHS)
def test_a_key_that_changes_the_maths_is_refused_by_name_and_its_off_values_are_not(key):
    on, off, needs = CHANGES_THE_MATHS[key]
    source = hf.read_config(GOLDEN / "llama")
    for value in off:
        assert families.read({**source, key: value}, "config.json") == hf.model_config(
            GOLDEN / "llama"
        ), value
    found = ""
    try:
        families.read({**source, key: on}, "config.json")
    except UserError as e:
        found = str(e)
    assert found.startswith(f"config.json: {key}={on!r}") and needs in found


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("gemma3", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping=50.0 would need caps"),
        ("qwen3", {"attention_bias": True}, "attention_bias=True would need biases"),
        (
            "gemma2",
            {"hidden_act": "silu"},
            "hidden_act='silu', but a gemma2 reads hidden_activation='gelu_pytorch_tanh'",
        ),
        (
            "llama",
            {"hidden_activation": "relu"},
            "hidden_activation='relu', but a llama reads hidden_act='silu'",
        ),
        ("llama", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping=50.0 would need caps"),
        (
            "t5_v1_1",
            {"dense_act_fn": "relu"},
            "dense_act_fn='relu' beside feed_forward_proj='gated-gelu'",
        ),
        ("t5", {"is_gated_act": True}, "is_gated_act=True beside feed_forward_proj='relu'"),
        ("t5", {"num_hidden_layers": 1}, "num_hidden_layers=1 and num_layers=2"),
        (
            "t5",
            {"tie_encoder_decoder": True},
            "tie_encoder_decoder=True would need an encoder that is the decoder",
        ),
    ],
)
def test_a_key_that_another_family_reads_is_refused(name, change, words):
    source = hf.read_config(GOLDEN / name)
    families.read({**source, **dict.fromkeys(change)}, "config.json")
    found = ""
    try:
        families.read({**source, **change}, "config.json")
    except UserError as e:
        found = str(e)
    assert words in found


def test_what_stands_outside_the_text_part_is_refused_as_well():
    """`quantization_config` stands there; and the class of the whole model caps no logits."""
    inner = hf.read_config(GOLDEN / "gemma3")
    source = {"model_type": "gemma3", "text_config": inner, "vision_config": {}}
    plain = families.read(source, "config.json")
    capped = {**inner, "final_logit_softcapping": 30.0}
    assert families.read(capped, "config.json") == dataclasses.replace(plain, logit_cap=30.0)
    for change in ({"quantization_config": {"bits": 4}}, {"text_config": capped}):
        found = ""
        try:
            families.read({**source, **change}, "config.json")
        except UserError as e:
            found = str(e)
        assert (
            "quantization_config=" in found or "final_logit_softcapping in text_config" in found
        ), change


@pytest.mark.parametrize(
    "kind", ["qwen4", "qwen3_moe", "llama4_text", "granite", "mixtral", "gemma"]
)
def test_an_unknown_family_is_not_taken_for_another(kind):
    source = hf.read_config(GOLDEN / "llama") | {"model_type": kind, "num_local_experts": 8}
    with pytest.raises(UserError) as e:
        families.read(source, "config.json")
    assert f"unknown architecture, model_type {kind!r}" in str(e.value)
    assert "did you mean" not in str(e.value)
    assert "num_local_experts would need a mixture of experts" in str(e.value)


@pytest.mark.parametrize(
    ("name", "extra", "settings"),
    [
        ("llama", {"original_max_position_embeddings": 16}, {"rope_original_length": 8}),
        ("mistral", {"layer_types": ["sliding_attention"] * 3}, {"sliding_window": 0}),
        ("gemma2", {"hidden_act": "gelu_pytorch_tanh"}, {"mlp_activation": "silu"}),
        ("gemma2", {}, {"sliding_window": 0, "global_every": 0}),
        ("gemma3", {}, {"sliding_window": 0, "global_every": 0, "rope_theta_local": 0.0}),
    ],
)
def test_a_setting_that_was_changed_is_exported_whatever_the_source_says_elsewhere(
    name, extra, settings
):
    source = hf.read_config(GOLDEN / name) | extra
    was = families.read(source, "config.json")
    cfg = dataclasses.replace(was, **settings)
    assert families._same(cfg) != families._same(was)
    written = hf.write_config(cfg, source, "float32")
    assert families._same(families.read(written, "config.json")) == families._same(cfg)
    # the class of Gemma makes a mask of a window even where no layer slides
    assert not name.startswith("gemma") or written["sliding_window"]


# Of keys that real files hold, the notes of tools: no class of transformers reads them
NOTES = {
    "unsloth_fixed": True,
    "transformers.js_config": {"dtype": "fp16"},
    "is_llama_config": True,
    "auto_map": {"A": "b.B"},
}


def test_keys_that_no_reader_knows_are_named_where_a_model_is_loaded(tmp_path, capsys):
    from itx import cli

    folder = shutil.copytree(GOLDEN / "llama", tmp_path / "model")
    source = hf.read_config(folder)
    files = {
        **source,
        **NOTES,
        "rope_scaling": {"type": "linear", "factor": 2.0, "finetuned": True},
    }
    for config in (source, files):
        (folder / hf.CONFIG).write_text(json.dumps(config))
        assert cli.main(["convert", "import", str(folder), str(tmp_path / str(len(config)))]) == 0
        out = capsys.readouterr().out
        named = [k for k in (*NOTES, "rope_scaling.finetuned") if k in out]
        assert named == ([] if config is source else [*NOTES, "rope_scaling.finetuned"])


def test_they_are_named_where_a_run_begins_from_it_too(tmp_path, capsys):
    folder = shutil.copytree(GOLDEN / "qwen3", tmp_path / "model")
    source = hf.read_config(folder)
    (folder / hf.CONFIG).write_text(json.dumps({**source, "unsloth_fixed": True, "a\x1b[2Jb": 1}))
    recipe = tmp_path / "recipe.py"
    recipe.write_text(
        "from itx.config import *\ndef get_config(quick=False):\n    return RunConfig()\n"
    )
    pretrained.load_recipe(str(recipe), [f"--model.pretrained={folder}"])
    err = capsys.readouterr().err
    assert "a\\x1b[2Jb, unsloth_fixed" in err and str(folder) in err and "\x1b" not in err


def test_every_key_of_the_golden_and_the_hubs_configs_is_known():
    for name in FAMILIES:
        assert families.passed_over(hf.read_config(GOLDEN / name)) == []
    for name, values in OLD_CONFIGS.items():
        assert families.passed_over(values) == [], name


def test_a_head_that_differs_is_no_copy_of_the_embedding_whatever_the_file_says(tmp_path):
    """transformers 5 ties no head that stands in the file and differs."""
    folder = shutil.copytree(GOLDEN / "qwen2", tmp_path / "model")
    tensors = load_file(folder / hf.SINGLE)
    assert hf.read_config(folder)["tie_word_embeddings"] and "lm_head.weight" not in tensors
    table = tensors["model.embed_tokens.weight"]
    for head, tied in ((table, True), (table[::-1], False)):
        save_file({**tensors, "lm_head.weight": np.ascontiguousarray(head)}, folder / hf.SINGLE)
        cfg = hf.model_config(folder)
        params = hf.load(folder, cfg, placed(cfg))
        assert cfg.tie_embeddings == tied == ("head" not in params)
    np.testing.assert_array_equal(params["head"], np.asarray(table[::-1], np.float32).T)


# ---- bad input -----------------------------------------------------------------------------------


def broken(tmp_path, change) -> Path:
    """A copy of the golden qwen2 with its tensors changed."""
    folder = tmp_path / "model"
    shutil.copytree(GOLDEN / "qwen2", folder)
    tensors = load_file(folder / hf.SINGLE)
    change(tensors)
    save_file(tensors, folder / hf.SINGLE)
    return folder


NORM = "model.layers.1.post_attention_layernorm.weight"
CHANGES = {
    "missing": (lambda t: t.pop(NORM), ["1 of 38 tensors are missing", NORM]),
    "renamed": (
        lambda t: t.update({"model.layers.1.post_norm.weight": t.pop(NORM)}),
        ["missing", NORM, "did you mean 'model.layers.1.post_norm.weight'"],
    ),
    "extra": (
        lambda t: t.update({"model.layers.3.mlp.up_proj.weight": t[NORM]}),
        ["'model.layers.3.mlp.up_proj.weight'", "did you mean 'model.layers.2.mlp.up_proj.weight'"],
    ),
    "wrong shape": (
        lambda t: t.update({NORM: t[NORM][:5]}),
        [NORM, "shape (5,)", "expected (24,)"],
    ),
    "transposed": (
        lambda t: t.update(
            {
                "model.layers.0.mlp.down_proj.weight": np.ascontiguousarray(
                    t["model.layers.0.mlp.down_proj.weight"].T
                )
            }
        ),
        ["shape (40, 24)", "expected (24, 40)"],
    ),
    "wrong dtype": (
        lambda t: t.update({NORM: np.ones(24, np.int8)}),
        [NORM, "is I8", "expected one of F32, BF16, F16"],
    ),
}


@pytest.mark.parametrize("case", CHANGES)
def test_wrong_tensors_are_named(tmp_path, case):
    change, words = CHANGES[case]
    folder = broken(tmp_path, change)
    cfg = hf.model_config(folder)
    with pytest.raises(UserError) as e:
        hf.check(folder, cfg, placed(cfg))
    assert all(w in str(e.value) for w in words), e.value


def test_a_truncated_file_is_named(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(GOLDEN / "qwen2", folder)
    file = folder / hf.SINGLE
    data = file.read_bytes()
    file.write_bytes(data[:-100])
    with pytest.raises(
        UserError, match=rf"truncated: expected {len(data):,} bytes, found {len(data) - 100:,}"
    ):
        hf.Tensors(folder)
    (header,) = struct.unpack("<Q", data[:8])
    file.write_bytes(data[: header // 2])
    with pytest.raises(
        UserError, match=f"its header takes {8 + header:,} bytes, the file has {header // 2:,}"
    ):
        hf.Tensors(folder)
    for rubbish in (
        b"not a tensor in here",
        bytes(4096),
        struct.pack("<Q", 4) + b"nope" + bytes(99),
    ):
        file.write_bytes(rubbish)
        with pytest.raises(UserError, match="no safetensors file"):
            hf.Tensors(folder)
    file.rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="expected model.safetensors .*found pytorch_model.bin"):
        hf.Tensors(folder)
    (folder / hf.INDEX).write_text(json.dumps({"weight_map": {"a": "model-1.safetensors"}}))
    with pytest.raises(UserError, match="missing: model-1.safetensors"):
        hf.Tensors(folder)
    for text, match in (
        ('{"weight_map": {"a"', "no readable model.safetensors.index.json"),
        ("{}", "has no weight_map"),
    ):
        (folder / hf.INDEX).write_text(text)
        with pytest.raises(UserError, match=match):
            hf.Tensors(folder)
    (folder / hf.CONFIG).write_text('{"model_type": "qw')
    with pytest.raises(UserError, match="no readable config.json"):
        hf.is_folder(folder)


@pytest.mark.parametrize(
    "change, words",
    [
        (
            {"model_type": "qwen4"},
            "unknown architecture, model_type 'qwen4'; those known are t5, mt5, llama",
        ),
        ({"model_type": None}, "unknown architecture"),
        (
            {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}, "rope_parameters": None},
            "RoPE of type 'yarn'",
        ),
        ({"hidden_act": "swish2"}, "unknown activation 'swish2'"),
        ({"hidden_size": None}, "no 'hidden_size'"),
        ({"model_type": "llama", "mlp_bias": True}, "mlp_bias=True"),
        (
            {
                "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
                "sliding_window": 5,
                "use_sliding_window": True,
            },
            "pattern",
        ),
        ({"layer_types": ["chunked_attention"] * 3}, "chunked_attention"),
        ({"layer_types": "full_attention"}, "layer_types='full_attention'; expected 3 times"),
        ({"hidden_size": "64"}, "hidden_size='64'; expected a whole number from 1"),
        ({"hidden_size": 64.0}, "hidden_size=64.0; expected a whole number from 1"),
        ({"num_attention_heads": 0}, "num_attention_heads=0; expected a whole number from 1"),
        ({"num_hidden_layers": 0}, "num_hidden_layers=0; expected a whole number from 1"),
        ({"num_key_value_heads": 3}, "3 key/value heads do not divide 4 heads"),
        ({"rms_norm_eps": "small"}, "rms_norm_eps='small'; expected a number"),
        (
            {"rope_scaling": "linear", "rope_parameters": None},
            "rope_scaling='linear'; expected an object",
        ),
        (
            {"rope_scaling": {"type": "linear"}, "rope_parameters": None},
            "rope_scaling: no 'factor'",
        ),
        (
            {"rope_scaling": {"type": "llama3", "factor": 8.0}, "rope_parameters": None},
            "no 'low_freq_factor'",
        ),
        ({"model_type": ["qwen2"]}, "unknown architecture"),
        (
            {"rms_norm_eps": None},
            "rms_norm_eps=None; expected a value, or no such key, which means 1e-06",
        ),
        ({"tie_word_embeddings": None}, "tie_word_embeddings=None; expected a value"),
        ({"rms_norm_eps": -1.0}, "rms_norm_eps=-1.0; expected a number from 0"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps=nan; expected a number from 0"),
        ({"num_hidden_layers": 10**9, "layer_types": None}, "more than 10,000 layers"),
        (
            {"model_type": "gemma3", "text_config": None},
            "text_config=None; expected the settings of the text model",
        ),
    ],
)
def test_configs_that_say_what_no_model_here_does(change, words):
    source = hf.read_config(GOLDEN / "qwen2")
    families.read(source, "config.json")
    with pytest.raises(UserError, match=words):
        families.read({**source, **change}, "config.json")


def test_null_and_absent_are_what_the_classes_of_transformers_make_of_them():
    """Of each family's keys: null is refused there but for a few, absent is the class's own
    value."""
    heads = {
        "llama": (4, 4),
        "qwen2": (4, 32),
        "qwen3": (4, 32),
        "mistral": (None, 8),
        "gemma2": (None, 4),
    }  # null, absent
    for name, (null, absent) in heads.items():
        source = hf.read_config(GOLDEN / name) | {"num_attention_heads": 4, "hidden_size": 64}
        silent = {k: v for k, v in source.items() if k != "num_key_value_heads"} | {
            "num_attention_heads": absent
        }
        assert families.read(silent, name).num_kv_heads == absent
        try:
            found = families.read({**source, "num_key_value_heads": None}, name).num_kv_heads
        except UserError:
            found = None
        assert found == null, name
    mt5 = {
        k: v
        for k, v in hf.read_config(GOLDEN / "mt5").items()
        if k not in ("feed_forward_proj", "dense_act_fn")
    }
    assert families.read({k: v for k, v in mt5.items() if k != "is_gated_act"}, "mt5").mlp_gated
    for name, key in (
        ("gemma3", "query_pre_attn_scalar"),
        ("qwen3", "head_dim"),
        ("t5", "feed_forward_proj"),
    ):
        with pytest.raises(UserError, match=key):
            families.read({**hf.read_config(GOLDEN / name), key: None}, name)
    with pytest.raises(UserError, match="query_pre_attn_scalar=0; expected a number above 0"):
        families.read({**hf.read_config(GOLDEN / "gemma3"), "query_pre_attn_scalar": 0}, "gemma3")


def test_a_window_that_is_not_said_is_that_of_the_class_and_null_is_none():
    for name, kind in (
        ("mistral_7b", "mistral"),
        ("gemma2_2b", "gemma2"),
        ("gemma3_1b", "gemma3_text"),
    ):
        said = OLD_CONFIGS[name]
        assert said["model_type"] == kind and families.read(said, name).sliding_window
        if kind == "mistral":
            assert families.read({**said, "sliding_window": None}, name).sliding_window == 0
        # every second or sixth layer does not slide, the others have nothing to slide over: no
        # model of theirs runs
        else:
            with pytest.raises(UserError, match="layers slide .*, but sliding_window=None"):
                families.read({**said, "sliding_window": None}, name)
        absent = {k: v for k, v in said.items() if k != "sliding_window"}
        assert families.read(absent, name).sliding_window == 4096
    assert families.read(OLD_CONFIGS["llama3_2_1b"], "llama").sliding_window == 0
    slides = OLD_CONFIGS["qwen2_5_0_5b"] | {"use_sliding_window": True, "max_window_layers": 0}
    assert families.read(slides, "qwen").sliding_window == 32768  # all layers from the first on


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"smear": 2}, "model.smear=2"),
        ({"prefix_lm": True, "smear": 0}, "model.prefix_lm"),
        (
            {"smear": 0, "qkv_bias": True},
            "nearest, 'qwen[23]', differs in model.(qk_norm|qkv_bias)",
        ),
    ],
)
def test_what_transformers_cannot_compute_is_not_exported(settings, words):
    with pytest.raises(UserError, match=words):
        families.family_of(tiny.decoder(**settings))
