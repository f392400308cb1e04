# SPDX-License-Identifier: Apache-2.0
"""Who sees whom: causality, packing, prefix, encoder; and the same numbers by every path."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from itx.models import presets
from itx.models.transformer import Transformer
from tests import synthetic


def make(model, seed: int = 0) -> Transformer:
    """A model from the seed; the smear is drawn too, since it starts at zero and would hide."""
    out = Transformer(model, synthetic.VOCAB, nnx.Rngs(seed))
    if out.smear is not None:
        out.smear[...] = jax.random.normal(jax.random.key(9), out.smear[...].shape) * 0.2
    return out


def run(model: Transformer, batch: dict, **settings) -> np.ndarray:
    return np.asarray(jax.jit(lambda b: model(b, **settings))(batch))


def arrays(batch: dict) -> dict:
    return {k: jnp.asarray(v) for k, v in batch.items()}


def influence(model, batch: dict, side: str, at: tuple[int, int]) -> np.ndarray:
    """|d logits[at] / d embedding of each input token| [b, l], on the side "encoder" or "decoder"."""
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


@pytest.mark.parametrize("name", ["decoder", "t5"])
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
    model = presets.tiny_decoder(prefix_lm=True)
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


@pytest.mark.parametrize("name", ["decoder", "t5"])
def test_packed_equals_separate(name):
    cfg = synthetic.config(synthetic.models()[name])
    some = synthetic.examples(3, 4)
    packed = arrays(synthetic.batch([some], cfg))
    alone = arrays(synthetic.batch([[e] for e in some], cfg))
    assert int(packed["decoder_positions"].max()) < int((packed["decoder_segment_ids"] > 0).sum()) - 1
    assert packed["decoder_input_tokens"].shape[0] != alone["decoder_input_tokens"].shape[0]
    model = make(cfg.model)
    together = run(model, packed)[0][np.asarray(packed["loss_positions"][0]) >= 0]
    parts = run(model, alone)[np.asarray(alone["loss_positions"]) >= 0]
    np.testing.assert_allclose(together, parts, atol=2e-5)
    shifted = dict(packed, decoder_segment_ids=jnp.ones_like(packed["decoder_segment_ids"]))
    wrong = run(model, shifted)[0][np.asarray(packed["loss_positions"][0]) >= 0]
    assert np.abs(wrong - parts).max() > 1e-2  # without segments the numbers do differ


@pytest.mark.parametrize("name", ["decoder", "t5"])
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
    for remat in ("none", "full"):
        model = make(dataclasses.replace(cfg.model, remat=remat))
        graphdef, state = nnx.split(model)

        def f(state, graphdef=graphdef):
            return jnp.sum(nnx.merge(graphdef, state)(batch) ** 2)

        programs.append("remat" in str(jax.make_jaxpr(jax.grad(f))(state)))
        grads.append(jax.tree.leaves(jax.jit(jax.grad(f))(state)))
    assert programs == [False, True]
    for a, b in zip(*grads, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_parameters_of_presets():
    """Counted by hand from the formulas of each family."""

    def count(model, rows):
        abstract = nnx.eval_shape(lambda: Transformer(model, rows, nnx.Rngs(0)))
        return sum(v.get_value().size for _, v in nnx.to_flat_state(nnx.state(abstract)))

    block = 4 * 128 * 128 + 3 * 128 * 384 + 2 * 128
    small = presets.quickstart_decoder()
    smear = small.smear * 128 * 128
    assert count(small, 1024) == small.num_layers * block + 128 + 1024 * 128 + smear
    # T5 1.1 small has 76,961,152 parameters (google/t5-v1_1-small)
    assert count(presets.t5_small(), 32_128) == 76_961_152
