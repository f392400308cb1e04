# SPDX-License-Identifier: Apache-2.0
"""Who sees whom: causality, packing, prefix, encoder; and the same numbers by every path."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from itx.errors import UserError
from itx.models import presets
from itx.models.transformer import Transformer
from tests import synthetic, tiny


def make(model, seed: int = 0) -> Transformer:
    """A model from the seed; smear, norms and biases are moved off their start, where they would
    hide."""
    out = Transformer(model, synthetic.VOCAB, nnx.Rngs(seed))
    for i, (path, param) in enumerate(nnx.to_flat_state(nnx.state(out, nnx.Param))):
        if path[-1] in ("smear", "scale", "bq", "bk", "bv"):
            param[...] = param[...] + jax.random.normal(jax.random.key(i), param[...].shape) * 0.2
    return out


def run(model: Transformer, batch: dict, **settings) -> np.ndarray:
    return np.asarray(jax.jit(lambda b: model(b, **settings))(batch))


def arrays(batch: dict) -> dict:
    return {k: jnp.asarray(v) for k, v in batch.items()}


def influence(model, batch: dict, side: str, at: tuple[int, int]) -> np.ndarray:
    """|d logits[at] / d embedding of each input token| [b, l], on the side "encoder" or
    "decoder"."""
    tokens = batch[f"{side}_input_tokens"]
    everywhere = {k: v for k, v in batch.items() if k != "loss_positions"}

    plain = Transformer.embed

    def logit(shift):
        def shifted(self, ids, *rest):
            x = plain(self, ids, *rest)
            return x + shift if ids is tokens else x

        Transformer.embed = shifted
        try:
            return jnp.sum(model(everywhere)[at] ** 2)
        finally:
            Transformer.embed = plain

    shape = (*tokens.shape, model.cfg.embed_dim)
    return np.abs(np.asarray(jax.jit(jax.grad(logit))(jnp.zeros(shape)))).sum(-1)


@pytest.mark.parametrize("name", ["decoder", "t5", "gemma"])
def test_no_later_token_and_no_other_segment_has_influence(name):
    cfg = synthetic.config(synthetic.models()[name])
    batch = arrays(synthetic.batch([synthetic.examples(3, 1), synthetic.examples(3, 2)], cfg))
    segments = np.asarray(batch["decoder_segment_ids"])
    at = int(np.flatnonzero(segments[0] == 2)[1])  # the second token of the second segment
    seen = influence(make(cfg.model), batch, "decoder", (0, at))
    index = np.arange(segments.shape[1])
    allowed = (segments[0] == 2) & (index <= at)
    assert allowed.sum() == 2 and (index < at).sum() > allowed.sum()  # both rules have work to do
    assert (seen[0][allowed] > 0).all()
    assert (seen[0][~allowed] == 0).all() and (seen[1] == 0).all()
    if name == "t5":
        seen = influence(make(cfg.model), batch, "encoder", (0, at))
        own = np.asarray(batch["encoder_segment_ids"])[0] == 2
        assert (seen[0][own] > 0).all() and (seen[0][~own] == 0).all() and (seen[1] == 0).all()


def test_prefix_sees_itself_both_ways_and_targets_stay_causal():
    model = tiny.decoder(prefix_lm=True)
    cfg = synthetic.config(model)
    batch = arrays(synthetic.batch([synthetic.examples(2, 3)], cfg))
    prefix = np.asarray(batch["decoder_causal_attention"][0]) > 0
    first = np.asarray(batch["decoder_segment_ids"][0]) == 1
    seen = influence(make(model), batch, "decoder", (0, 0))[0]
    assert (seen[first & prefix] > 0).all() and (seen[~(first & prefix)] == 0).all()
    last_prefix = int(np.flatnonzero(first & prefix)[-1])
    seen = influence(make(model), batch, "decoder", (0, last_prefix + 1))[0]
    assert seen[last_prefix + 1] > 0 and (seen[last_prefix + 2 :] == 0).all()
    plain = dataclasses.replace(model, prefix_lm=False)
    assert (influence(make(plain), batch, "decoder", (0, 0))[0][1:] == 0).all()


@pytest.mark.parametrize("name", ["decoder", "t5", "gemma"])
def test_packed_equals_separate(name):
    cfg = synthetic.config(synthetic.models()[name])
    some = synthetic.examples(3, 4)
    packed = arrays(synthetic.batch([some], cfg))
    alone = arrays(synthetic.batch([[e] for e in some], cfg))
    assert (
        int(packed["decoder_positions"].max()) < int((packed["decoder_segment_ids"] > 0).sum()) - 1
    )
    assert packed["decoder_input_tokens"].shape[0] != alone["decoder_input_tokens"].shape[0]
    model = make(cfg.model)
    together = run(model, packed)[0][np.asarray(packed["loss_positions"][0]) >= 0]
    parts = run(model, alone)[np.asarray(alone["loss_positions"]) >= 0]
    np.testing.assert_allclose(together, parts, atol=2e-5)
    shifted = dict(packed, decoder_segment_ids=jnp.ones_like(packed["decoder_segment_ids"]))
    wrong = run(model, shifted)[0][np.asarray(packed["loss_positions"][0]) >= 0]
    assert np.abs(wrong - parts).max() > 1e-2  # without segments the numbers do differ


@pytest.mark.parametrize("name", ["decoder", "t5", "gemma"])
def test_scan_and_unrolled_loop_agree(name):
    """The CPU's loop cuts the last layer down to loss positions; the scan computes all of it."""
    cfg = synthetic.config(synthetic.models()[name])
    batch = arrays(synthetic.batch([synthetic.examples(3, 5)] * 2, cfg))
    model = make(cfg.model)
    jaxprs = [str(jax.make_jaxpr(lambda u=u: model(batch, unroll=u))()) for u in (True, False)]
    assert "scan" not in jaxprs[0] and "scan" in jaxprs[1]
    out = run(model, batch, unroll=True)
    np.testing.assert_allclose(out, run(model, batch, unroll=False), atol=2e-5)
    everywhere = {k: v for k, v in batch.items() if k != "loss_positions"}
    at = np.maximum(np.asarray(batch["loss_positions"]), 0)
    picked = np.take_along_axis(run(model, everywhere), at[..., None], axis=1)
    np.testing.assert_allclose(out, picked, atol=2e-5)


def test_remat_changes_the_program_and_not_the_gradient():
    cfg = synthetic.config()
    batch = arrays(synthetic.batch([synthetic.examples(3, 6)], cfg))
    grads, programs = [], []
    for remat in ("none", "dots", "full"):
        model = make(dataclasses.replace(cfg.model, remat=remat))
        graphdef, state = nnx.split(model)

        def f(state, graphdef=graphdef):
            return jnp.sum(nnx.merge(graphdef, state)(batch) ** 2)

        programs.append(str(jax.make_jaxpr(jax.grad(f))(state)).count("dot_general"))
        grads.append(jax.tree.leaves(jax.jit(jax.grad(f))(state)))
    # products that are computed again: none, attention's, all
    assert programs[0] < programs[1] < programs[2]
    for a, b, c in zip(*grads, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(a, c, rtol=1e-4, atol=1e-4)


def test_a_sliding_layer_sees_its_window_and_one_that_is_not_sees_all():
    """One layer at a time: which of a segment's tokens reach the last one."""
    one = tiny.gemma(num_layers=1)
    cfg = synthetic.config(one)
    batch = arrays(synthetic.batch([[([2] * 7 + [3], [4, 5, 6, 7], 0), ([8] * 4, [9], 0)]], cfg))
    at = int(np.flatnonzero(np.asarray(batch["decoder_segment_ids"])[0] == 1)[-1])
    window = np.flatnonzero(influence(make(one), batch, "decoder", (0, at))[0])
    assert window.tolist() == [*range(at - 4, at + 1)]  # five tokens, its own included
    plain = dataclasses.replace(one, sliding_window=0, global_every=0)
    assert np.flatnonzero(influence(make(plain), batch, "decoder", (0, at))[0]).tolist() == [
        *range(at + 1)
    ]
    both = dataclasses.replace(one, num_layers=2)
    assert len(np.flatnonzero(influence(make(both), batch, "decoder", (0, at))[0])) == at + 1


def test_bf16_activations_over_float32_parameters():
    cfg = synthetic.config(tiny.gemma(dtype="bfloat16"))
    batch = arrays(synthetic.batch([synthetic.examples(3, 4)], cfg))
    model = make(cfg.model)
    assert {v.get_value().dtype for _, v in nnx.to_flat_state(nnx.state(model))} == {
        jnp.dtype("float32")
    }
    assert "bf16" in str(jax.make_jaxpr(lambda: model(batch))())
    out = run(model, batch)
    exact = run(make(dataclasses.replace(cfg.model, dtype="float32")), batch)
    assert out.dtype == np.float32 and 1e-4 < np.abs(out - exact).max() < 0.2


def test_the_encoder_may_have_another_depth():
    deeper = tiny.t5(encoder_layers=3)
    assert count(deeper, 64) - count(tiny.t5(), 64) == 4 * 32 * 32 + 3 * 32 * 48 + 2 * 32


def count(model, rows: int = 0) -> int:
    abstract = nnx.eval_shape(lambda: Transformer(model, rows or model.vocab_size, nnx.Rngs(0)))
    return sum(v.get_value().size for _, v in nnx.to_flat_state(nnx.state(abstract)))


def test_parameters_of_the_quickstart():
    """Counted by hand from the formulas of the family."""
    block = 4 * 128 * 128 + 3 * 128 * 384 + 2 * 128
    small = presets.quickstart_decoder()
    smear = small.smear * 128 * 128
    assert count(small, 1024) == small.num_layers * block + 128 + 1024 * 128 + smear


# Parameters of the checkpoints on Hugging Face's hub (of gemma-3-4b those of the language model)
PARAMETERS = {
    "t5_small": 60_506_624,
    "t5_base": 222_903_552,
    "t5_large": 737_668_096,
    "t5_3b": 2_851_598_336,
    "t5_11b": 11_307_321_344,
    "t5_v1_1_small": 76_961_152,
    "t5_v1_1_base": 247_577_856,
    "t5_v1_1_large": 783_150_080,
    "t5_v1_1_xl": 2_849_757_184,
    "t5_v1_1_xxl": 11_135_332_352,
    "flan_t5_small": 76_961_152,
    "flan_t5_base": 247_577_856,
    "flan_t5_large": 783_150_080,
    "flan_t5_xl": 2_849_757_184,
    "flan_t5_xxl": 11_135_332_352,
    "mt5_small": 300_176_768,
    "mt5_base": 582_401_280,
    "mt5_large": 1_229_581_312,
    "mt5_xl": 3_742_619_648,
    "mt5_xxl": 12_921_057_280,
    "llama3_1_8b": 8_030_261_248,
    "llama3_2_1b": 1_235_814_400,
    "llama3_2_3b": 3_212_749_824,
    "qwen2_5_0_5b": 494_032_768,
    "qwen2_5_1_5b": 1_543_714_304,
    "qwen2_5_3b": 3_085_938_688,
    "qwen2_5_7b": 7_615_616_512,
    "qwen3_0_6b": 596_049_920,
    "qwen3_1_7b": 1_720_574_976,
    "qwen3_4b": 4_022_468_096,
    "qwen3_8b": 8_190_735_360,
    "gemma2_2b": 2_614_341_888,
    "gemma2_9b": 9_241_705_984,
    "gemma3_270m": 268_098_176,
    "gemma3_1b": 999_885_952,
    "gemma3_4b": 3_880_263_168,
    "mistral_7b": 7_241_732_096,
}


def test_parameters_of_published_models():
    assert {name: count(presets.published(name)) for name in presets.PUBLISHED} == PARAMETERS
    with pytest.raises(UserError, match="qwen3_4b"):
        presets.published("qwen3_4")
