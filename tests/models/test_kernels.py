# SPDX-License-Identifier: Apache-2.0
"""Each kernel against attention in plain XLA: Splash interpreted, cuDNN's mask through JAX's own
reference."""

import dataclasses
import functools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import export

from itx import mesh as meshes
from itx.config import MeshConfig
from itx.models import attention, kernels
from itx.models.transformer import Transformer
from tests import synthetic, tiny
from tests.conftest import REPO, one_device

L = 256
INTERPRETED = functools.partial(kernels.splash, interpret=True)
REFERENCE = functools.partial(kernels.cudnn, implementation="xla")


def inputs(heads: int = 4, groups: int = 2, dim: int = 8, rows: int = 2):
    q, k, v = (
        jax.random.normal(jax.random.key(i), (rows, n, L, dim))
        for i, n in enumerate((heads, groups, groups))
    )
    # segments; the last one stands for padding
    lengths = [[100, 90, 66], [37, 200, 19]] * (rows // 2)
    segments = np.stack([np.repeat([1, 2, 0], n) for n in lengths]).astype(np.int32)
    positions = np.stack([np.concatenate([np.arange(i) for i in n]) for n in lengths]).astype(
        np.int32
    )
    return (q, k, v), jnp.asarray(segments), jnp.asarray(positions)


@pytest.mark.parametrize(
    "kernel, cap, window",
    [(INTERPRETED, 0.0, 0), (INTERPRETED, 1.5, 30), (REFERENCE, 0.0, 0), (REFERENCE, 0.0, 30)],
    ids=["splash", "splash, cap and window", "cudnn", "cudnn, window"],
)
def test_kernels_and_their_gradients_are_those_of_plain_attention(kernel, cap, window):
    qkv, segments, positions = inputs()
    bias = attention.bias(segments, segments, positions, positions, window=window)
    there = np.asarray(segments)[:, None, :, None] > 0

    def plain(q, k, v):
        return jnp.where(there, attention.attend(q, k, v, bias, 0.3, cap=cap), 0)

    def other(q, k, v):
        return jnp.where(there, kernel(q, k, v, segments, 0.3, cap, window), 0)

    weights = jax.random.normal(jax.random.key(5), qkv[0].shape)

    def value(f):
        return jax.jit(jax.value_and_grad(lambda x: jnp.sum(f(*x) * weights)))(qkv)

    (a, da), (b, db) = value(plain), value(other)
    np.testing.assert_allclose(a, b, rtol=1e-5)
    for x, y in zip(da, db, strict=True):
        np.testing.assert_allclose(x, y, atol=2e-5)
    without = attention.bias(segments, segments, positions, positions, window=0 if window else 30)
    assert (
        np.abs(
            plain(*qkv) - jnp.where(there, attention.attend(*qkv, without, 0.3, cap=cap), 0)
        ).max()
        > 1e-2
    )


def test_a_model_with_splash_computes_what_it_computes_without(monkeypatch):
    """Layers of two kinds in a scan, where a layer's kind is a traced number; on a mesh of 8."""
    monkeypatch.setattr(kernels, "INTERPRET", True)
    model = tiny.gemma(sliding_window=30, attention="splash", num_layers=2)
    _, segments, positions = inputs(rows=4)
    tokens = jax.random.randint(jax.random.key(3), segments.shape, 2, synthetic.VOCAB)
    batch = {
        "decoder_input_tokens": tokens,
        "decoder_segment_ids": segments,
        "decoder_positions": positions,
    }
    made = Transformer(model, synthetic.VOCAB, nnx.Rngs(0))
    plain = Transformer(dataclasses.replace(model, attention="xla"), synthetic.VOCAB, nnx.Rngs(0))
    calls = []
    splash = kernels.splash
    monkeypatch.setattr(
        kernels, "splash", lambda *a: calls.append((a[0].shape, a[-1])) or splash(*a)
    )
    want = jax.jit(lambda b: plain(b, unroll=False))(batch)
    assert not calls
    mesh = meshes.make_mesh(MeshConfig(data=2, fsdp=2, tensor=2), jax.devices())
    with jax.set_mesh(mesh):
        out = jax.jit(lambda b: made(b, unroll=False))(batch)
    # each device its row and two of the heads
    assert set(calls) == {((1, 2, L, 8), 30), ((1, 2, L, 8), 0)}
    there = np.asarray(segments) > 0
    np.testing.assert_allclose(np.asarray(out)[there], np.asarray(want)[there], atol=5e-5)


def test_splash_compiles_for_a_tpu():
    """Lowered for a TPU without one: forward and backward, heads of 64 to 256, in bf16, window and
    cap."""
    for dim, window, cap in ((64, 0, 0.0), (128, 100, 0.0), (256, 0, 50.0)):
        (q, k, v), segments, _ = inputs(dim=dim)
        q, k, v = (x.astype(jnp.bfloat16) for x in (q, k, v))

        def loss(q, k, v, s, window=window, cap=cap):
            return jnp.sum(kernels.splash(q, k, v, s, 0.1, cap, window).astype(jnp.float32))

        f = jax.grad(loss, argnums=(0, 1, 2))

        made = export.export(jax.jit(f), platforms=["tpu"])(q, k, v, segments)
        # forward, and the two of the backward pass
        assert made.mlir_module().count("@tpu_custom_call") == 3


def test_who_computes_what():
    cfg = tiny.decoder(attention="splash")
    assert kernels.choose(cfg, 256, True) == "splash"
    assert kernels.choose(cfg, 250, True) == kernels.choose(cfg, 256, False) == "xla"
    # on this CPU
    assert kernels.choose(dataclasses.replace(cfg, attention="auto"), 256, True) == "xla"
    assert kernels.choose(tiny.t5(attention="splash"), 256, True) == "xla"
    gpu = tiny.decoder(attention="cudnn", dtype="bfloat16")
    assert kernels.choose(gpu, 256, True) == "cudnn"
    for other in ({"dtype": "float32"}, {"attention_cap": 5.0}, {"head_dim": 256}):
        assert kernels.choose(dataclasses.replace(gpu, **other), 256, True) == "xla"


FOR_A_TPU = """
import jax, jax.numpy as jnp
from flax import nnx
from jax.experimental import mesh_utils, topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from itx import mesh as meshes
from itx.models.transformer import Transformer
from itx.params import model_specs, module_of
from tests import tiny

topology = topologies.get_topology_desc("v5e:2x2", "tpu")
devices = mesh_utils.create_device_mesh((1, 1, 2, 2), devices=topology.devices)
mesh = Mesh(devices, meshes.AXES, axis_types=(AxisType.Auto,) * 4)
cfg = tiny.gemma(sliding_window=100, head_dim=64, dtype="bfloat16", attention="splash")
model = nnx.graphdef(nnx.eval_shape(lambda: Transformer(cfg, 128, nnx.Rngs(0))))
split = NamedSharding(mesh, PartitionSpec(meshes.BATCH_AXES))
rows = jax.ShapeDtypeStruct((4, 256), jnp.int32, sharding=split)
batch = {f"decoder_{k}": rows for k in ("input_tokens", "segment_ids", "positions")}
loss = lambda p, b: jnp.sum(module_of(model, p)(b, None, False) ** 2)
params = model_specs(cfg, 128, mesh)
with jax.set_mesh(mesh):
    made = jax.jit(jax.grad(loss)).lower(params, batch).compile()
print(made.as_text().count('custom_call_target="tpu_custom_call"'))
"""


@pytest.mark.slow
def test_a_model_with_splash_compiles_ahead_of_time_for_a_tpu():
    """By libtpu, without a TPU; forward and backward, layers of both kinds in one scan."""
    pytest.importorskip(
        "libtpu", reason="libtpu is not installed (extra `tpu`): nothing compiles for a TPU"
    )
    quiet = {
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_SKIP_MDS_QUERY": "1",
    }
    command = [sys.executable, "-c", FOR_A_TPU]
    done = subprocess.run(
        command, cwd=REPO, capture_output=True, text=True, env=one_device() | quiet
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) == 6  # one forward and two backward kernels of each kind
