# SPDX-License-Identifier: Apache-2.0
"""Invariants 3, 4, 5 and 6 of the design for every architecture and method of tuning, on meshes of
fsdp × tensor.

The default suite runs a subset in which every two of (architecture, method, mesh) meet:

    uv run pytest -m slow tests/test_meshes.py   # all others
"""

import dataclasses
import itertools

import jax
import numpy as np
import pytest
from flax import nnx

from itx import compared, peft
from itx import mesh as meshes
from itx.config import MeshConfig, PeftConfig
from itx.models import hf, transformer
from itx.params import model_specs, module_of, parameters, specs_of
from tests import synthetic
from tests.models import test_hf as golden
from tests.test_peft import METHODS, MODELS, adapted, base_of, batch_of, moved

LOCK = synthetic.lock()
ALL = {"full": PeftConfig(), **METHODS}
MESHES = [(1, 1), (2, 4), (4, 2)]  # fsdp, tensor
PAIRWISE = [
    (("decoder", "t5")[(i + j) % 2], method, mesh)
    for i, method in enumerate(("full", "lora", "dora", "prefix", "prompt"))
    for j, mesh in enumerate(MESHES)
]
# every method once, on a mesh that splits it; the others of PAIRWISE: -m slow
FEW = [PAIRWISE[3 * i + j] for i, j in enumerate((1, 1, 2, 2, 1))]
REST = [case for case in itertools.product(MODELS, ALL, MESHES) if case not in PAIRWISE]


def config_of(sizes: tuple[int, int]) -> MeshConfig:
    fsdp, tensor = sizes
    return MeshConfig(data=1, fsdp=fsdp, tensor=tensor)


def mesh_of(sizes: tuple[int, int]):
    return meshes.make_mesh(config_of(sizes), jax.devices()[: sizes[0] * sizes[1]])


def test_every_two_meet():
    for i, j in itertools.combinations(range(3), 2):
        levels = (("decoder", "t5"), ("full", "lora", "dora", "prefix", "prompt"), MESHES)
        assert {(c[i], c[j]) for c in PAIRWISE} == set(itertools.product(levels[i], levels[j]))
    assert [len({c[i] for c in FEW}) for i in range(3)] == [2, 5, 2]


def check_step(name: str, method: str, sizes: tuple[int, int], monkeypatch) -> None:
    """3 and 6: rows of three examples in two microbatches on the mesh, against a row each in one go
    on one device."""
    # layers in a scan, as on accelerators
    monkeypatch.setattr(transformer, "UNROLL_LAYERS_ON_CPU", 0)
    cfg = synthetic.config(MODELS[name], peft=dataclasses.asdict(ALL[method]))
    halved = dataclasses.replace(cfg, train=dataclasses.replace(cfg.train, microbatches=2))
    some = synthetic.examples(8, 3)
    packed = synthetic.batch([some[:3], some[3:6], some[6:], *[[]] * 5], cfg)
    alone = synthetic.batch([[e] for e in some], cfg)
    assert packed["decoder_segment_ids"].max() == 3 and alone["decoder_segment_ids"].max() == 1
    synthetic.same_steps((cfg, alone, MeshConfig(data=1)), (halved, packed, config_of(sizes)))


def logits(model: nnx.Module, batch: dict, sizes: tuple[int, int]) -> np.ndarray:
    """Of a model whose parameters are put on the mesh."""
    mesh, graphdef, params = mesh_of(sizes), nnx.graphdef(model), parameters(model)
    targets = specs_of(model, mesh)
    params = {p: jax.device_put(v, targets[p].sharding) for p, v in params.items()}
    with jax.set_mesh(mesh):
        return np.asarray(
            jax.jit(lambda p, b: module_of(graphdef, p)(b))(params, meshes.put(batch, mesh))
        )


def check_adapter(name: str, method: str, sizes: tuple[int, int]) -> None:
    """4: a LoRA at its start is the base, merged it is the adapter; no virtual tokens are the
    base."""
    batch = batch_of(name, [[e] for e in synthetic.examples(4, 2)])
    plain = logits(base_of(name), batch, (1, 1))
    if ALL[method].method == "lora":
        model = adapted(name, method)
        np.testing.assert_allclose(logits(model, batch, sizes), plain, atol=1e-5)
        tuned = logits(moved(model), batch, sizes)
        assert np.abs(tuned - plain).max() > 0.1
        peft.merge(model)
        assert parameters(model).keys() == parameters(base_of(name)).keys()
        np.testing.assert_allclose(logits(model, batch, sizes), tuned, atol=2e-4)
    else:
        np.testing.assert_allclose(
            logits(adapted(name, method, length=0), batch, sizes), plain, atol=1e-5
        )
        assert np.abs(logits(moved(adapted(name, method)), batch, sizes) - plain).max() > 0.01


def few_of(cases: list) -> list:
    """The cases, those that are not among FEW marked slow."""
    return [c if c in FEW else pytest.param(*c, marks=pytest.mark.slow) for c in cases]


@pytest.mark.parametrize(("name", "method", "sizes"), few_of(PAIRWISE))
def test_loss_and_gradient_are_those_of_one_device_unpacked(name, method, sizes, monkeypatch):
    check_step(name, method, sizes, monkeypatch)


@pytest.mark.slow
def test_what_dropout_draws_is_the_same_on_a_mesh(monkeypatch):
    """LoRA's, on a mesh with an axis of data too."""
    monkeypatch.setattr(transformer, "UNROLL_LAYERS_ON_CPU", 0)
    lora = dataclasses.asdict(ALL["lora"])
    plain, cfg = (
        synthetic.config(MODELS["decoder"], peft=lora | {"dropout": d}) for d in (0.0, 0.1)
    )
    batch = synthetic.Batches(cfg).batch(0)
    alone, sizes = MeshConfig(data=1), synthetic.sizes_of(LOCK)
    drawn, none = (compared.one_step(c, sizes, batch, alone)[0]["loss"] for c in (cfg, plain))
    assert abs(drawn - none) > 1e-3
    synthetic.same_steps((cfg, batch, alone), (cfg, batch, MeshConfig(data=2, fsdp=2, tensor=2)))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "method", "sizes"), REST)
def test_the_same_for_all_others(name, method, sizes, monkeypatch):
    check_step(name, method, sizes, monkeypatch)


@pytest.mark.parametrize(
    ("name", "method", "sizes"),
    few_of([c for c in PAIRWISE if c[1] != "full" and c[2] != (1, 1)]),
)
def test_an_adapter_on_a_mesh_begins_as_the_base_and_merges(name, method, sizes):
    check_adapter(name, method, sizes)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "method", "sizes"), [c for c in REST if c[1] != "full"])
def test_all_other_adapters_begin_as_the_base_and_merge(name, method, sizes):
    check_adapter(name, method, sizes)


SHOWN = ("gemma3", "t5")


@pytest.mark.parametrize("sizes", MESHES[1:])
@pytest.mark.parametrize(
    "name", [n if n in SHOWN else pytest.param(n, marks=pytest.mark.slow) for n in golden.FAMILIES]
)
def test_logits_on_a_mesh_are_those_of_transformers(name, sizes):
    """5, with each device holding its part of the weights; on one device:
    tests/models/test_hf.py."""
    cfg, _, g = golden.golden(name)
    mesh = mesh_of(sizes)
    params = hf.load(golden.GOLDEN / name, cfg, model_specs(cfg, cfg.vocab_size, mesh))
    assert any(not v.sharding.is_fully_replicated for v in params.values())
    inputs, mask = golden.batch(g, golden.side)
    missing = -len(mask) % sizes[0]
    inputs = {k: np.pad(np.asarray(v), ((0, missing), (0, 0))) for k, v in inputs.items()}
    graphdef = nnx.graphdef(golden.model_of(cfg, params))
    with jax.set_mesh(mesh):
        out = jax.jit(lambda p, b: module_of(graphdef, p)(b))(params, meshes.put(inputs, mesh))
    out, want = np.asarray(out)[: len(mask)], g["logits"]
    assert np.abs(out - want)[mask > 0].max() < 1e-4 * np.abs(want).max()
