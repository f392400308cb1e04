# SPDX-License-Identifier: Apache-2.0
"""The parts of attention against definitions written another way."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from itx.models import attention
from itx.models.layers import RMSNorm, rope_tables, rotate


def naive(q, k, v, bias, scale, cap=0.0):
    """Head by head, query by query, in float64."""
    q, k, v, bias = (np.asarray(x, np.float64) for x in (q, k, v, bias))
    b, n, lq, _ = q.shape
    out = np.zeros(q.shape)
    for i, h, a in np.ndindex(b, n, lq):
        g = h * k.shape[1] // n  # the key/value head of this query head
        s = k[i, g] @ q[i, h, a] * scale
        s = (cap * np.tanh(s / cap) if cap else s) + bias[i % bias.shape[0], h % bias.shape[1], a]
        w = np.exp(s - s.max())
        out[i, h, a] = w / w.sum() @ v[i, g]
    return out


@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("ordered", [False, True])
def test_attend_is_softmax_attention_with_grouped_heads(heads, ordered, monkeypatch):
    monkeypatch.setattr(attention, "SMALLEST_BLOCK", 4)  # 20 queries in blocks of 8: 8, 8 and 4
    keys = jax.random.split(jax.random.key(0), 4)
    q = jax.random.normal(keys[0], (2, 4, 20, 8))
    k, v = (jax.random.normal(keys[i], (2, 2, 20, 8)) for i in (1, 2))
    bias = jax.random.normal(keys[3], (2, heads, 20, 20)) * 2
    bias = bias + jnp.where(jnp.tril(jnp.ones((20, 20), bool)), 0.0, attention.FORBIDDEN)
    out = attention.attend(q, k, v, bias, 0.3, ordered)
    np.testing.assert_allclose(out, naive(q, k, v, bias, 0.3), atol=2e-5)
    exps = str(jax.make_jaxpr(lambda q: attention.attend(q, k, v, bias, 0.3, ordered))(q)).count(
        " exp "
    )
    assert exps == (3 if ordered else 1)  # the blocks are really taken


def test_attend_leaves_out_what_stands_before_the_window(monkeypatch):
    monkeypatch.setattr(attention, "SMALLEST_BLOCK", 4)
    q, k, v = jax.random.normal(jax.random.key(0), (3, 1, 2, 32, 8))
    one, place = jnp.ones((1, 32), jnp.int32), jnp.arange(32, dtype=jnp.int32)[None]
    bias = attention.bias(one, one, place, place, window=6)
    assert ((bias[0, 0] == 0).sum(-1) == np.minimum(np.arange(32) + 1, 6)).all()
    out = attention.attend(q, k, v, bias, 0.3, True, cap=0.5, window=6)
    np.testing.assert_allclose(out, naive(q, k, v, bias, 0.3, 0.5), atol=2e-5)
    assert np.abs(out - naive(q, k, v, bias, 0.3)).max() > 0.01  # the cap is felt
    shapes = str(jax.make_jaxpr(lambda q: attention.attend(q, k, v, bias, 0.3, True, window=6))(q))
    # eight queries and five keys before them
    assert "f32[1,2,8,13]" in shapes and "f32[1,2,8,32]" not in shapes


def test_relative_buckets_against_the_published_function():
    """T5's own values: `_relative_position_bucket` of mesh_tensorflow, 32 buckets, distance 128."""
    distance = jnp.asarray(
        [0, 1, 7, 8, 11, 12, 15, 16, 22, 23, 31, 32, 45, 46, 63, 64, 90, 91, 127, 500]
    )
    expected = np.array([0, 1, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13, 14, 14, 15, 15, 15])
    behind = attention.relative_bucket(-distance, 32, 128, True)
    np.testing.assert_array_equal(behind, expected)
    ahead = np.asarray(attention.relative_bucket(distance, 32, 128, True))
    np.testing.assert_array_equal(ahead[1:], expected[1:] + 16)
    causal = np.asarray(attention.relative_bucket(-distance, 32, 128, False))
    np.testing.assert_array_equal(causal[:8], [0, 1, 7, 8, 11, 12, 15, 16])
    assert causal[-1] == 31 and (np.diff(causal) >= 0).all()
    assert (np.asarray(attention.relative_bucket(distance, 32, 128, False)) == 0).all()


def test_rope_scores_depend_on_distance_alone():
    q, k = jax.random.normal(jax.random.key(1), (2, 1, 1, 1, 8))

    def score(i, j):
        def turn(x, p):
            return rotate(x, rope_tables(jnp.asarray([[p]]), 8, 100.0))

        return float(jnp.sum(turn(q, i) * turn(k, j)))

    assert abs(score(3, 1) - score(13, 11)) < 1e-5
    assert abs(score(3, 1) - score(3, 2)) > 1e-3
    # half rotation: at position p the pair (x[0], x[4]) turns by p * 1
    turned = rotate(jnp.eye(8)[:1][None, None], rope_tables(jnp.asarray([[2]]), 8, 100.0))
    np.testing.assert_allclose(turned[0, 0, 0, [0, 4]], [np.cos(2), np.sin(2)], atol=1e-6)


def test_rms_norm_takes_no_mean():
    x = jnp.asarray([[3.0, 4.0]]) + 10
    out = RMSNorm(2, "embed", 0.0)(x)
    np.testing.assert_allclose(out, x / np.sqrt((13**2 + 14**2) / 2), rtol=1e-6)


def test_bias_of_branches():
    """Options of one prompt: each sees the prompt and itself, none another option."""
    segments = jnp.ones((1, 4), jnp.int32)
    positions = jnp.asarray([[0, 1, 2, 2]])
    branches = jnp.asarray([[0, 0, 1, 2]])
    bias = attention.bias(segments, segments, positions, positions, branches=branches)
    expected = [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 0, 1]]
    np.testing.assert_array_equal(bias[0, 0] == 0, np.array(expected, bool))
