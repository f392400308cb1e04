# SPDX-License-Identifier: Apache-2.0
"""Devices of TPUs that are not here, as the TPU's compiler describes them to JAX."""

import contextlib
import importlib.util
import os
from collections.abc import Iterator

import jax
from jax.experimental import topologies
from jax.sharding import Mesh

from itx import config as configs
from itx import mesh as meshes
from itx.config import RunConfig
from itx.errors import UserError
from itx.plan.chips import Topology

# Read by libtpu when it is loaded. Without them it looks for a TPU's metadata server, and says in
# several lines that there is none.
QUIET = {
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_SKIP_MDS_QUERY": "1",
}
ONE_PROCESS = (
    "another process of this machine has loaded libtpu, the compiler of TPUs, which admits one at "
    "a time (/tmp/libtpu_lockfile): wait for it, or set ALLOW_MULTIPLE_LIBTPU_LOAD=1 to let both "
    "compile, each with its own memory"
)


def use_no_accelerator() -> None:
    """Nothing is computed, so JAX is not to look for a TPU or GPU on this machine."""
    jax.config.update("jax_platforms", "cpu")


@contextlib.contextmanager
def kept_out_of_the_cache() -> Iterator[None]:
    """Within it JAX's persistent cache keeps no program: one that was compiled for devices which
    are not here cannot be read back, and the next plan would say so in a warning."""
    name = "jax_persistent_cache_min_compile_time_secs"
    before = getattr(jax.config, name)
    jax.config.update(name, float("inf"))
    try:
        yield
    finally:
        jax.config.update(name, before)


def devices(topology: Topology) -> list:
    """The devices of all slices; UserError where the compiler is missing, taken, or does not know
    such a slice."""
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            "itx plan needs the TPU's compiler, which runs on any Linux machine: `uv sync --extra "
            "plan`, or `pip install libtpu`"
        )
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    several = {"num_slices": topology.slices} if topology.slices > 1 else {}
    try:
        described = topologies.get_topology_desc(
            platform="tpu", topology_name=topology.name, **several
        )
    except jax.errors.JaxRuntimeError as e:
        said = " ".join(str(e).split())
        if "lockfile" in said:
            raise UserError(ONE_PROCESS) from e
        raise UserError(f"{topology}: the compiler refuses it: {said[:300]}") from e
    return described.devices


def mesh_of(config: RunConfig, topology: Topology) -> tuple[RunConfig, Mesh, list[str]]:
    """(the config, its mesh on these devices, lines to print). Several slices take a replica each
    where the recipe says nothing else."""
    lines = []
    if topology.slices > 1 and config.mesh.replica == 1:
        config = configs.changed(config, "mesh", replica=topology.slices)
        lines.append(f"mesh.replica={topology.slices}: a replica of the model for each slice")
    return config, meshes.make_mesh(config.mesh, devices(topology)), lines
