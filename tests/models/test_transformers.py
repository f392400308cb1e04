# SPDX-License-Identifier: Apache-2.0
"""What `itx` exports, loaded by `transformers`: no warning, the same logits, the same greedy text.

uv pip install torch transformers        # not among the project's dependencies
pytest -m slow tests/models/test_transformers.py
"""

import json
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from itx import config as configs
from itx import mesh as meshes
from itx import restore
from itx.config import MeshConfig
from itx.data.vocabulary import Vocabulary
from itx.eval.loaded import LoadedModel
from itx.eval.runner import Runner
from itx.models import hf
from itx.runs import RunFolder
from tests.conftest import need
from tests.models.test_hf import FAMILIES, GOLDEN, batch, golden, model_of, side
from tests.test_pretrained import tuned

pytestmark = pytest.mark.slow

# transformers 5 sets `tie_word_embeddings` of every T5 by itself, and then says so of any file with
# a head of its own, Google's included; the head is used all the same, which the logits show
TIED = "we will NOT tie them"


@pytest.fixture(autouse=True)
def peers():
    need("torch", "transformers")


def loaded(folder, caplog):
    """The model as a user loads it; anything it logs from WARNING up, or could not place, fails."""
    import transformers as tf

    seq2seq = hf.read_config(folder)["architectures"][0].endswith("ConditionalGeneration")
    auto = tf.AutoModelForSeq2SeqLM if seq2seq else tf.AutoModelForCausalLM
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    try:
        model, info = auto.from_pretrained(
            folder, output_loading_info=True, attn_implementation="eager"
        )
    finally:
        logger.removeHandler(caplog.handler)
    said = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert [m for m in said if TIED not in m] == []
    assert {k: v for k, v in info.items() if v} == {}
    return model.eval()


@pytest.mark.parametrize("name", FAMILIES)
def test_transformers_computes_the_same(name, tmp_path, caplog):
    import torch

    cfg, params, g = golden(name)
    r = np.random.default_rng(1)  # weights that transformers has not seen
    params = {
        p: v + 0.05 * jnp.asarray(r.standard_normal(v.shape), jnp.float32)
        for p, v in params.items()
    }
    hf.save(
        tmp_path / "out",
        cfg,
        params,
        source=hf.read_config(GOLDEN / name),
        dtype="float32",
        shard_bytes=50_000,
    )
    theirs = loaded(tmp_path / "out", caplog)
    inputs, mask = batch(g, side)
    feed = {"input_ids": torch.tensor(g["ids"]), "attention_mask": torch.tensor(g["mask"])}
    if "decoder_ids" in g:
        feed["decoder_input_ids"] = torch.tensor(g["decoder_ids"])
    want = theirs(**feed).logits.detach().numpy()
    out = np.asarray(model_of(cfg, params)(inputs))
    assert np.abs(out - g["logits"])[mask > 0].max() > 1e-2  # they are other weights
    assert np.abs(out - want)[mask > 0].max() < 1e-4 * np.abs(want).max()

    graphdef = nnx.graphdef(model_of(cfg, params))
    mesh = meshes.make_mesh(MeshConfig(data=1), jax.devices()[:1])
    runner = Runner(
        LoadedModel(graphdef, params, mesh, cfg, bos_id=0, eos_id=1, pad_id=0, batch_size=4)
    )
    prompt = g["ids"][0, : g["mask"][0].sum()].tolist()
    both = cfg.architecture == "encoder_decoder"
    ids = torch.tensor([[*prompt, 1] if both else [0, *prompt]])
    # transformers sizes the cache of a T5 by its encoder, which here has another depth
    more = {"decoder_start_token_id": 0, "use_cache": False} if both else {}
    text = theirs.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=9,
        do_sample=False,
        eos_token_id=1,
        pad_token_id=0,
        **more,
    )[0].tolist()
    text = text[1:] if both else text[len(ids[0]) :]
    answer = runner.generate([prompt], 9)[0]
    assert answer["tokens"] == (text[: text.index(1)] if 1 in text else text)
    assert len(set(answer["tokens"])) > 1


@pytest.mark.parametrize("name", ["qwen3", "t5"])
def test_a_tuned_run_is_served_by_transformers(name, tmp_path, caplog):
    """The model, tokenizer and chat template of a run that began from `transformers`' own
    folder."""
    import torch
    import transformers as tf

    run, out = tuned(name, tmp_path)
    model, tokenizer = loaded(out, caplog), tf.AutoTokenizer.from_pretrained(out)
    config = json.loads((run / "config.json").read_text())["config"]
    lock = json.loads((run / "data.lock.json").read_text())
    runner = restore.load_model(RunFolder(run), configs.from_dict(config), lock)
    text = "Дай первое слово: red blue"
    ours = Vocabulary(RunFolder(run).vocab_model)
    prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert prompt == ours.encode(text)
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
    )
    assert chat.endswith("<|im_start|>assistant\n")
    both = config["model"]["architecture"] == "encoder_decoder"
    assert lock["bos_id"] == (0 if both else -1)  # this tokenizer puts nothing before a prompt
    ids = torch.tensor([[*prompt, 1] if both else prompt])
    # transformers sizes the cache of a T5 by its encoder, which here has another depth
    more = {"decoder_start_token_id": 0, "use_cache": False} if both else {}
    found = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=9,
        do_sample=False,
        eos_token_id=1,
        pad_token_id=0,
        **more,
    )[0].tolist()
    found = found[1:] if both else found[len(ids[0]) :]
    assert runner.generate([prompt], 9)[0]["tokens"] == (
        found[: found.index(1)] if 1 in found else found
    )
