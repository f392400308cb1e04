# SPDX-License-Identifier: Apache-2.0
"""Optimizers by name, regex tables, schedules."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from itx import optim
from itx.config import OptimConfig
from itx.errors import UserError

NAMES = {
    "decoder/blocks/mlp/w_in": ("layers", "embed", "mlp"),
    "decoder/blocks/attention/wo": ("layers", "heads", "head_dim", "embed"),
    "decoder/blocks/mlp_norm/scale": ("layers", "embed"),
    "embedding": ("vocab", "embed"),
}
SHAPES = {
    "decoder/blocks/mlp/w_in": (3, 6, 10),
    "decoder/blocks/attention/wo": (3, 2, 4, 6),
    "decoder/blocks/mlp_norm/scale": (3, 6),
    "embedding": (12, 6),
}


def params(seed: int) -> dict:
    keys = jax.random.split(jax.random.key(seed), len(SHAPES))
    return {p: jax.random.normal(k, s) for k, (p, s) in zip(keys, SHAPES.items(), strict=True)}


def direction(seed: int = 1, **settings) -> dict:
    tx = optim.make(OptimConfig(**{"clip_norm": 0.0, **settings}), NAMES)
    p = params(0)
    return tx.update(params(seed), tx.init(p), p)[0]


def test_every_optimizer_gives_its_own_direction():
    seen = {}
    for name in optim.OPTIMIZERS:
        d = direction(name=name)
        assert {p: u.shape for p, u in d.items()} == SHAPES
        seen[name] = np.asarray(d["decoder/blocks/mlp/w_in"])
    values = [v.ravel()[:5].round(5).tolist() for v in seen.values()]
    assert len({tuple(v) for v in values}) == len(values)


def test_adamw_is_optax_adamw():
    p, g = params(0), params(1)
    decay = (r".*/w\w*", "embedding")
    tx = optim.make(OptimConfig(name="adamw", clip_norm=0.5, weight_decay=0.1, decay=decay), NAMES)
    mask = {k: "norm" not in k for k in NAMES}
    reference = optax.chain(
        optax.clip_by_global_norm(0.5), optax.adamw(0.01, weight_decay=0.1, mask=mask)
    )
    ours, theirs = tx.update(g, tx.init(p), p)[0], reference.update(g, reference.init(p), p)[0]
    for k in NAMES:
        np.testing.assert_allclose(-0.01 * ours[k], theirs[k], rtol=1e-5)


def test_muon_orthogonalises_each_layer_of_a_stack_alone():
    d = direction(name="muon")
    for path, flat in (
        ("decoder/blocks/mlp/w_in", (6, 10)),
        ("decoder/blocks/attention/wo", (8, 6)),
    ):
        for layer in np.asarray(d[path]):
            s = np.linalg.svd(layer.reshape(flat), compute_uv=False)
            s = s / (0.2 * max(flat) ** 0.5)
            assert (s > 0.5).all() and (s < 1.4).all()  # Newton-Schulz brings them near 1
        raw = np.linalg.svd(np.asarray(params(1)[path])[0].reshape(flat), compute_uv=False)
        assert raw.max() / raw.min() > 2.9
    # one layer alone, as a matrix, gives that layer's update
    path = "decoder/blocks/mlp/w_in"
    tx = optim.make(OptimConfig(name="muon", clip_norm=0.0), {path: ("embed", "mlp")})
    one = {path: params(1)[path][2]}
    np.testing.assert_allclose(tx.update(one, tx.init(one), one)[0][path], d[path][2], atol=1e-5)
    adam = direction(name="adamw", kwargs={"b2": 0.95})
    for path in ("embedding", "decoder/blocks/mlp_norm/scale"):
        np.testing.assert_allclose(d[path], adam[path], rtol=1e-5)


def test_multipliers_first_match_wins_and_the_rest_is_one():
    table = ((r"decoder/.*/w_in", 3.0), (r"decoder/.*", 0.5))
    plain, scaled = direction(name="sgd"), direction(name="sgd", lr_multipliers=table)
    want = {"decoder/blocks/mlp/w_in": 3.0, "embedding": 1.0}
    for path in NAMES:
        np.testing.assert_allclose(scaled[path], plain[path] * want.get(path, 0.5), rtol=1e-6)


@pytest.mark.parametrize(
    "settings",
    [
        {"weight_decay": 0.1, "decay": (r".*/kernels",)},
        {"lr_multipliers": ((r"embeding", 2.0),)},
    ],
)
def test_a_pattern_that_matches_nothing_is_named(settings):
    with pytest.raises(
        UserError, match=r"optim\.(decay|lr_multipliers): '.*' matches no parameter"
    ):
        optim.make(OptimConfig(**settings), NAMES)


def test_a_decay_of_nothing_that_trains_is_named():
    """An adapter's own factors decay; of a prompt nothing does, and it is said."""
    factors = {"decoder/blocks/attention/wq_lora/a": ("layers", "embed", "rank")}
    p = {"decoder/blocks/attention/wq_lora/a": jnp.ones((3, 6, 2))}
    tx = optim.make(OptimConfig(weight_decay=0.1, name="sgd"), factors, list(NAMES))
    update = tx.update(jax.tree.map(jnp.zeros_like, p), tx.init(p), p)[0]
    np.testing.assert_allclose(next(iter(update.values())), 0.1, rtol=1e-6)
    with pytest.raises(UserError, match="optim.decay matches nothing that trains"):
        optim.make(
            OptimConfig(weight_decay=0.1), {"decoder/prompt": ("prompt", "embed")}, list(NAMES)
        )


def test_unknown_names_are_named():
    with pytest.raises(UserError, match="did you mean 'adamw'"):
        optim.make(OptimConfig(name="adam_w"), NAMES)
    with pytest.raises(UserError, match="muon has no 'betta'; did you mean 'beta'"):
        optim.make(OptimConfig(name="muon", kwargs={"betta": 0.9}), NAMES)
    with pytest.raises(UserError, match="not a regular expression"):
        optim.matching("optim.freeze", ["("], NAMES)


def test_schedules():
    def at(step, **settings):
        config = OptimConfig(**{"warmup_steps": 10, "final_share": 0.1, **settings})
        return float(optim.schedule(config, 110)(jnp.asarray(step), jnp.float32(2.0)))

    assert at(0) == pytest.approx(0.2) and at(9) == pytest.approx(2.0)
    assert (
        at(10) == pytest.approx(2.0)
        and at(60) == pytest.approx(1.1)
        and at(110) == pytest.approx(0.2)
    )
    assert at(60, schedule="linear") == pytest.approx(1.1)
    assert at(35, schedule="linear") == pytest.approx(2.0 - 1.8 / 4)
    assert at(99, schedule="constant") == 2.0
    assert at(40, schedule="rsqrt") == pytest.approx(2.0 * (10 / 40) ** 0.5)
    # of 110 steps the last 22, by default
    assert at(88, schedule="wsd") == 2.0 and at(10, schedule="wsd") == 2.0
    assert at(99, schedule="wsd") == pytest.approx(1.1) and at(0, schedule="wsd") == at(0)
    assert at(110, schedule="wsd") == pytest.approx(0.2) == at(500, schedule="wsd")
    assert at(99, schedule="wsd", cooldown_share=0.1) == 2.0
    assert at(30, decay_steps=30) == pytest.approx(0.2)
    assert at(0, warmup_steps=0) == pytest.approx(2.0)
    with pytest.raises(UserError, match="did you mean 'cosine'"):
        at(0, schedule="cosin")
