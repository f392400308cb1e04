# SPDX-License-Identifier: Apache-2.0
"""Adapters as files: what `peft` wrote is computed as there (tests/golden/make_peft.py), and what
is written here reads back, here and in `peft`."""

import dataclasses
import json
import re
import shutil
import warnings
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from itx import cli, peft, peft_files, pretrained, storage
from itx.checkpoint import Checkpoints
from itx.config import RunConfig, to_dict
from itx.errors import UserError
from itx.models import hf
from itx.models.transformer import Transformer
from itx.params import module_of, parameters
from itx.runs import RunFolder
from tests import scored
from tests.conftest import need

GOLDEN = Path(__file__).parent / "golden"
FOLDERS = sorted(p for p in (GOLDEN / "peft").iterdir())
BASES = ("gemma3", "llama", "t5_v1_1")


def base_of(folder: Path) -> Path:
    return GOLDEN / "hf" / next(b for b in BASES if folder.name.startswith(b + "_"))


def base_model(folder: Path) -> Transformer:
    """A tiny model of `transformers`, in float32."""
    cfg = hf.model_config(folder)
    abstract = nnx.eval_shape(lambda: Transformer(cfg, cfg.vocab_size, nnx.Rngs(0)))
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    targets = {
        p: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=here)
        for p, s in parameters(abstract).items()
    }
    return module_of(nnx.graphdef(abstract), hf.load(folder, cfg, targets))


def with_adapter(model: Transformer, adapter: peft_files.Adapter) -> Transformer:
    model = peft.add(model, adapter.peft, 0)
    assert set(peft.trained(model, adapter.peft)) == set(adapter.params)
    return module_of(nnx.graphdef(model), {**parameters(model), **adapter.params})


def feed(base: Path, length: int) -> tuple[dict, np.ndarray]:
    """The golden ids as a batch, and which of their logits count."""
    golden = np.load(base / "golden.npz")
    ids, mask = golden["ids"][:, :length], golden["mask"][:, :length]
    places = np.broadcast_to(np.arange(ids.shape[1], dtype=np.int32), ids.shape)
    if "decoder_ids" not in golden:
        return {
            "decoder_input_tokens": ids,
            "decoder_segment_ids": mask,
            "decoder_positions": places,
        }, mask > 0
    d = golden["decoder_ids"]
    d_places = np.broadcast_to(np.arange(d.shape[1], dtype=np.int32), d.shape)
    return {
        "encoder_input_tokens": ids,
        "encoder_segment_ids": mask,
        "encoder_positions": places,
        "encoder_prompts": np.ones((len(ids), 1), np.int32),
        "decoder_input_tokens": d,
        "decoder_segment_ids": np.ones_like(d),
        "decoder_positions": d_places,
    }, np.ones_like(d) > 0


def logits(model: Transformer, base: Path, length: int) -> tuple[np.ndarray, np.ndarray]:
    batch, counts = feed(base, length)
    graphdef, state = nnx.split(model)
    out = jax.jit(lambda s, b: nnx.merge(graphdef, s)(b))(state, batch)
    return np.asarray(out), counts


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda f: f.name)
def test_logits_are_those_of_peft(folder, tmp_path):
    base = base_of(folder)
    model = base_model(base)
    want = np.load(folder / "logits.npy")
    length = 3 if "gemma" in folder.name else 17
    adapter = peft_files.read(folder, model.cfg)
    out, counts = logits(with_adapter(model, adapter), base, length)
    scale = np.abs(want[counts]).max()
    np.testing.assert_allclose(out[counts], want[counts], rtol=1e-4, atol=1e-4 * scale)
    # and the way back: the same tensors, but for entries that PEFT never reads
    peft_files.save(tmp_path, model.cfg, adapter.peft, adapter.params, "f00d", "somewhere")
    again = peft_files.read(tmp_path, model.cfg)
    assert (
        again.peft == adapter.peft
        and again.base == "f00d"
        and again.params.keys() == adapter.params.keys()
    )
    assert all(np.array_equal(again.params[p], v) for p, v in adapter.params.items())


@pytest.mark.slow
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda f: f.name)
def test_peft_loads_what_is_written_here(folder, tmp_path):
    """An adapter that PEFT has not seen, with every layer's values its own."""
    need("torch", "transformers", "peft")
    from tests.golden import make_peft

    base = base_of(folder)
    model = base_model(base)
    adapter = peft_files.read(folder, model.cfg)
    r = np.random.default_rng(2)
    params = {
        p: (v + 0.3 * r.standard_normal(v.shape)).astype(np.float32)
        for p, v in adapter.params.items()
    }
    peft_files.save(tmp_path, model.cfg, adapter.peft, params, "", str(base))
    out, counts = logits(
        with_adapter(model, adapter._replace(params=params)), base, make_peft.TOKENS[base.name]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs
        want = make_peft.logits(tmp_path, base.name)
    assert np.abs(want - np.load(folder / "logits.npy"))[counts].max() > 0.1
    np.testing.assert_allclose(
        out[counts], want[counts], rtol=1e-4, atol=1e-4 * np.abs(want[counts]).max()
    )


def test_up_to_where_a_window_leaves_virtual_tokens_alone_in_peft():
    gemma, llama = (hf.model_config(GOLDEN / "hf" / name) for name in ("gemma3", "llama"))
    prefix, prompt, lora = (
        peft.PeftConfig(method=m, length=2) for m in ("prefix", "prompt", "lora")
    )
    assert gemma.sliding_window == 5 and not llama.sliding_window
    assert [peft_files.same_in_peft(gemma, p) for p in (prefix, prompt, lora)] == [3, 3, None]
    assert peft_files.same_in_peft(gemma, dataclasses.replace(prefix, length=7)) == 0
    assert peft_files.same_in_peft(llama, prefix) is None


@pytest.mark.slow
@pytest.mark.parametrize("method", ["prefix", "prompt"])
def test_a_window_hides_virtual_tokens_in_peft(method, monkeypatch):
    """The same up to the token that `same_in_peft` says, and no further."""
    need("torch", "transformers", "peft")
    from tests.golden import make_peft

    folder = GOLDEN / "peft" / f"gemma3_{method}"
    model = base_model(base_of(folder))
    adapter = peft_files.read(folder, model.cfg)
    monkeypatch.setitem(make_peft.TOKENS, "gemma3", 12)
    out, counts = logits(with_adapter(model, adapter), base_of(folder), 12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs
        want = make_peft.logits(folder, "gemma3")
    whole = counts.all(1)
    apart = np.abs(out - want)[whole].max((0, 2)) / np.abs(want).max()
    same = peft_files.same_in_peft(model.cfg, adapter.peft)
    assert whole.any() and apart[:same].max() < 1e-4 and apart[same:].min() > 0.01


# ---- over a model that also sees images
# -----------------------------------------------------------

NESTED = GOLDEN / "peft" / "gemma3_nested"


def nest(to: Path) -> Path:
    """The golden Gemma 3 as the text part of one that also sees images, as the hub's are from 4B
    on."""
    base = GOLDEN / "hf" / "gemma3"
    to.mkdir()
    inner = {
        n.replace("model.", "language_model.model.", 1): x
        for n, x in load_file(base / hf.SINGLE).items()
    }
    save_file({**inner, "vision_tower.head.weight": np.ones((2, 2), np.float32)}, to / hf.SINGLE)
    outer = {
        "model_type": "gemma3",
        "text_config": hf.read_config(base),
        "vision_config": {"hidden_size": 16},
    }
    (to / hf.CONFIG).write_text(json.dumps(outer))
    return to


def run_of(adapter: peft_files.Adapter, pretrained_at: Path, to: Path) -> Path:
    """A run folder whose newest checkpoint holds an adapter over a model that lies elsewhere."""
    run = RunFolder(to)
    config = RunConfig(
        model=dataclasses.replace(hf.model_config(pretrained_at), pretrained=str(pretrained_at)),
        peft=adapter.peft,
    )
    with Checkpoints(run.checkpoints, keep=None) as checkpoints:
        params = {p: jax.numpy.asarray(x) for p, x in adapter.params.items()}
        checkpoints.save(3, params, None, {"step": 3, "base": "f00d", "about": {}})
    run.config_json.write_text(json.dumps({"config": to_dict(config)}))
    vocabulary = SimpleNamespace(hash="", size=config.model.vocab_size)
    lock = scored.lock([], [], vocabulary)
    run.lock_json.write_text(json.dumps(lock))
    pretrained.keep(str(pretrained_at), run.pretrained)
    return to


@pytest.mark.parametrize("there", ["nested", "moved", "plain"])
def test_a_lora_is_written_by_the_names_of_the_class_that_its_base_is_loaded_as(
    there, tmp_path, capsys
):
    """`modules.json` is what `peft` sees in the class of the nested folder (make_peft.py); the part
    that sees images has modules whose names end alike."""
    adapter = peft_files.read(
        GOLDEN / "peft" / "gemma3_dora", hf.model_config(GOLDEN / "hf" / "gemma3")
    )
    base = GOLDEN / "hf" / "gemma3" if there == "plain" else nest(tmp_path / "base")
    run = run_of(adapter, base, tmp_path / "run")
    if there == "moved":
        shutil.rmtree(base)
    assert cli.main(["convert", "export", str(run), str(tmp_path / "out")]) == 0
    about, tensors = (
        f(tmp_path / "out" / n)
        for f, n in ((storage.read_json, peft_files.CONFIG), (load_file, peft_files.WEIGHTS))
    )
    modules = json.loads((NESTED / "modules.json").read_text())
    if there == "plain":  # as the class of the text model alone calls them
        modules = [m.replace("language_model.", "") for m in modules if "vision" not in m]
    adapted = {n.removeprefix("base_model.model.").split(".lora_")[0] for n in tensors}
    wanted = {
        m
        for m in modules
        if "vision" not in m and m.split(".")[-1] in ("q_proj", "v_proj", "o_proj", "down_proj")
    }
    assert len(wanted) == 12 and adapted == wanted
    targets = about["target_modules"]
    by_name = targets if isinstance(targets, list) else ()
    # PEFT's own rule: a name is a target as a whole or after a dot, a text is a regex of whole
    # names
    hit = {
        m
        for m in modules
        if m.split(".")[-1] in by_name or not by_name and re.fullmatch(targets, m)
    }
    assert hit == wanted
    again = peft_files.read(tmp_path / "out", hf.model_config(GOLDEN / "hf" / "gemma3"))
    assert again.peft == adapter.peft and all(
        np.array_equal(again.params[p], v) for p, v in adapter.params.items()
    )


def test_an_adapter_that_was_trained_over_a_nested_model_is_read(tmp_path):
    """Its logits are those of text there; what it has for images is counted and left out."""
    base = GOLDEN / "hf" / "gemma3"
    model, refused, adapter = base_model(base), "", None
    try:
        adapter = peft_files.read(NESTED, model.cfg)
    except UserError as e:
        refused = str(e)
    assert refused == "" and adapter.left_out
    tower = [n for n in load_file(NESTED / peft_files.WEIGHTS) if ".vision_tower." in n]
    assert tower and sum(adapter.left_out.values()) == len(tower)
    assert all(n.startswith("model.vision_tower.encoder.layers.#.") for n in adapter.left_out)
    plain, counts = logits(model, base, 3)
    out, _ = logits(with_adapter(model, adapter), base, 3)
    want = np.load(NESTED / "logits.npy")
    scale = np.abs(want).max()
    assert np.abs(plain - want)[counts].max() > 0.1 * scale
    np.testing.assert_allclose(out[counts], want[counts], rtol=1e-4, atol=1e-4 * scale)
    # the names of older versions of transformers, and of an adapter of images alone
    tensors = load_file(NESTED / peft_files.WEIGHTS)
    for old in ("language_model.model.", "model."):
        folder = edited(NESTED, tmp_path / old)
        save_file(
            {n.replace("model.language_model.", old): x for n, x in tensors.items()},
            folder / peft_files.WEIGHTS,
        )
        again = peft_files.read(folder, model.cfg)
        assert all(np.array_equal(again.params[p], v) for p, v in adapter.params.items())
    save_file({n: x for n, x in tensors.items() if n in tower}, folder / peft_files.WEIGHTS)
    with pytest.raises(UserError, match="adapts only parts that see images"):
        peft_files.read(folder, model.cfg)
    twice = {n.replace("model.language_model.", "model."): x for n, x in tensors.items()}
    save_file({**tensors, **twice}, folder / peft_files.WEIGHTS)
    with pytest.raises(UserError, match="is there by two names"):
        peft_files.read(folder, model.cfg)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "dora", "prefix", "prompt"])
def test_auto_peft_computes_what_is_exported_over_a_nested_model(method, tmp_path):
    """`AutoPeftModelForCausalLM` on the exported folder alone, which names a nested base that
    transformers wrote."""
    need("torch", "transformers", "peft")
    from tests.golden import make_peft

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs
        make_peft.nest("gemma3", tmp_path / "base")
    model = base_model(tmp_path / "base")
    adapter = peft_files.read(GOLDEN / "peft" / f"gemma3_{method}", model.cfg)
    r = np.random.default_rng(2)
    params = {
        p: (v + 0.3 * r.standard_normal(v.shape)).astype(np.float32)
        for p, v in adapter.params.items()
    }
    adapter = adapter._replace(params=params)
    run = run_of(adapter, tmp_path / "base", tmp_path / "run")
    assert cli.main(["convert", "export", str(run), str(tmp_path / "out")]) == 0
    base = GOLDEN / "hf" / "gemma3"  # whose ids are asked
    out, counts = logits(with_adapter(model, adapter), base, 3)
    plain, _ = logits(base_model(base), base, 3)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        want = make_peft.auto_logits(tmp_path / "out", "gemma3")
    # how PEFT tells that tensors found no module
    assert [w for w in said if "missing" in str(w.message)] == []
    scale = np.abs(want).max()
    assert np.abs(plain - want)[counts].max() > 0.1 * scale
    np.testing.assert_allclose(out[counts], want[counts], rtol=1e-4, atol=1e-4 * scale)


def edited(folder: Path, to: Path, **changes) -> Path:
    """A copy of an adapter with other settings."""
    shutil.copytree(folder, to)
    about = json.loads((to / peft_files.CONFIG).read_text())
    (to / peft_files.CONFIG).write_text(json.dumps({**about, **changes}))
    return to


def test_an_adapter_for_another_base_is_told(tmp_path):
    cfg = hf.model_config(GOLDEN / "hf" / "llama")
    fewer = dataclasses.replace(cfg, num_layers=2)
    for method, what in (
        ("lora", "no 'base_model.model.model.layers.2"),
        ("prefix", "3 layers there, 2 here"),
    ):
        with pytest.raises(UserError, match=f"adapter for another base: .*{what}"):
            peft_files.read(GOLDEN / "peft" / f"llama_{method}", fewer)
    wider = dataclasses.replace(cfg, embed_dim=32)
    for method in ("lora", "prompt"):
        with pytest.raises(UserError, match="adapter for another base: .* 24.* there, .* 32"):
            peft_files.read(GOLDEN / "peft" / f"llama_{method}", wider)
    more = dataclasses.replace(cfg, num_layers=4)
    with pytest.raises(UserError, match="w._lora/a is in 3 of 4 layers only"):
        peft_files.read(GOLDEN / "peft" / "llama_lora", more)
    cut = dataclasses.replace(
        hf.model_config(GOLDEN / "hf" / "t5_v1_1"), num_layers=1, encoder_layers=1
    )
    with pytest.raises(UserError, match=r"another base: \d layers there, 1 here"):
        peft_files.read(GOLDEN / "peft" / "t5_v1_1_prefix", cut)
    with pytest.raises(UserError, match="another base: 3 layers of 2 heads"):
        peft_files.read(GOLDEN / "peft" / "llama_prefix", dataclasses.replace(cfg, num_kv_heads=4))
    with pytest.raises(
        UserError, match="adapter for another base: this model has no 'base_model.model.decoder"
    ):
        peft_files.read(GOLDEN / "peft" / "t5_v1_1_lora", cfg)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "IA3"}, "an adapter of type 'IA3'"),
        ({"rank_pattern": {"q_proj": 4}}, "rank_pattern=.* is not supported"),
        ({"bias": "all"}, "LoRA with biases"),
        ({"alora_invocation_tokens": [3, 4]}, "alora_invocation_tokens=.* is not supported"),
        (
            {"init_lora_weights": "pissa"},
            "init_lora_weights='pissa': its base's weights are others",
        ),
        ({"peft_type": ["LORA"]}, r"an adapter of type \['LORA'\]"),
        ({"r": "8"}, "adapter_config.json: r='8'; expected a whole number from 1"),
        ({"r": 0}, "adapter_config.json: r=0; expected a whole number from 1"),
        ({"lora_alpha": [8]}, r"lora_alpha=\[8\]; expected a number"),
        ({"use_dora": "yes"}, "use_dora='yes'; expected true or false"),
        ({"lora_alpha": float("nan")}, "lora_alpha=nan; expected a finite number"),
        ({"lora_alpha": 0}, "lora_alpha=0; .* 0 would add nothing"),
        ({"lora_dropout": 1.5}, "lora_dropout=1.5; expected a share"),
        ({"target_parameters": ["experts.w"]}, "target_parameters=.* is not supported"),
        ({"monteclora_config": {"n": 4}}, "monteclora_config=.* is not supported"),
    ],
)
def test_what_is_not_supported_is_named(changes, message, tmp_path):
    cfg = hf.model_config(GOLDEN / "hf" / "llama")
    with pytest.raises(UserError, match=message):
        peft_files.read(edited(GOLDEN / "peft" / "llama_lora", tmp_path / "a", **changes), cfg)
    with pytest.raises(UserError, match="holds no adapter: adapter_config.json"):
        peft_files.read(tmp_path, cfg)


@pytest.mark.parametrize("method", ["prefix", "prompt"])
def test_the_number_of_virtual_tokens_is_that_of_the_rows(method, tmp_path):
    """Fewer were taken for a shorter prompt, more for what is there; PEFT loads neither."""
    cfg, folder = hf.model_config(GOLDEN / "hf" / "llama"), GOLDEN / "peft" / f"llama_{method}"
    assert peft_files.read(folder, cfg).peft.length == 4
    for wrong in (3, 5, 1):
        with pytest.raises(
            UserError, match=f"num_virtual_tokens={wrong}, but prompt_embeddings has 4 rows"
        ):
            peft_files.read(edited(folder, tmp_path / str(wrong), num_virtual_tokens=wrong), cfg)


def test_settings_that_a_file_leaves_out_are_those_of_pefts_classes(tmp_path):
    """None of them was written by PEFT; people edit such files, and older versions wrote fewer
    keys."""
    cfg = hf.model_config(GOLDEN / "hf" / "llama")
    absent = (
        "r",
        "lora_alpha",
        "lora_dropout",
        "use_dora",
        "num_layers",
        "num_attention_heads",
        "num_virtual_tokens",
    )
    for method in ("lora", "prefix", "prompt"):
        whole = peft_files.read(GOLDEN / "peft" / f"llama_{method}", cfg)
        folder = edited(
            GOLDEN / "peft" / f"llama_{method}", tmp_path / method, **dict.fromkeys(absent[1:])
        )
        found = peft_files.read(folder, cfg)
        assert found.params.keys() == whole.params.keys()
        want = (
            dataclasses.replace(whole.peft, alpha=8.0, dropout=0.0)
            if method == "lora"
            else whole.peft
        )
        assert found.peft == want and (whole.peft != want) == (method == "lora")
    about = json.loads((GOLDEN / "peft" / "llama_lora" / peft_files.CONFIG).read_text())
    assert about["r"] != 8  # so that PEFT's default does not fit the tensors
    with pytest.raises(UserError, match="an adapter for another base: .*cannot reshape .*8"):
        peft_files.read(edited(GOLDEN / "peft" / "llama_lora", tmp_path / "rank", r=None), cfg)


def test_an_adapters_broken_files_are_named(tmp_path):
    cfg = hf.model_config(GOLDEN / "hf" / "llama")
    odd = edited(GOLDEN / "peft" / "llama_lora", tmp_path / "odd")
    tensors = load_file(odd / peft_files.WEIGHTS)
    name = next(n for n in tensors if "layers.1." in n and n.endswith("lora_A.weight"))
    tensors[name] = np.concatenate([tensors[name]] * 2)
    save_file(tensors, odd / peft_files.WEIGHTS)
    with pytest.raises(UserError, match="an adapter for another base: .*_lora/a"):
        peft_files.read(odd, cfg)
    folder = edited(GOLDEN / "peft" / "llama_lora", tmp_path / "a")
    (folder / peft_files.BASE).write_text("{}")
    with pytest.raises(UserError, match="itx_base.json is not what itx writes"):
        peft_files.read(folder, cfg)
    (folder / peft_files.CONFIG).write_text("[]")
    with pytest.raises(UserError, match="adapter_config.json: expected a JSON object, found list"):
        peft_files.read(folder, cfg)


def test_the_key_of_an_adapter_is_of_settings_and_weights(tmp_path):
    folder = GOLDEN / "peft" / "llama_lora"
    assert peft_files.key(folder) == peft_files.key(shutil.copytree(folder, tmp_path / "same"))
    assert peft_files.key(folder) != peft_files.key(
        edited(folder, tmp_path / "other", lora_alpha=1)
    )


def test_target_modules_name_exactly_what_is_adapted():
    cfg = hf.model_config(GOLDEN / "hf" / "t5_v1_1")
    modules = peft_files._modules(cfg, "t5")
    every = {p: m for p, m in modules.items() if p.endswith("/wq")}
    assert peft_files._target_modules(every, modules) == ["q"]
    one = {p: every[p] for p in ["decoder/blocks/cross/wq"]}
    only = peft_files._target_modules(one, modules)
    assert only == r"decoder\.block\.\d+\.layer\.1\.EncDecAttention\.q"
