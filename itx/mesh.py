# SPDX-License-Identifier: Apache-2.0
"""Devices: the mesh, the table from logical names to mesh axes, and putting arrays on them.

A parameter names its axes logically (`("embed", "mlp")`); `PARAMETERS` and `ACTIVATIONS` say which
mesh axes split each. A layout (data parallel, FSDP, tensor, mixes) is the sizes in `MeshConfig`:
data=8 is data parallel, fsdp=8 also splits parameters, tensor=2 splits heads, MLP and vocabulary.
"""

import math
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from itx import malloc
from itx.config import MeshConfig
from itx.errors import UserError

Specs = dict[str, jax.ShapeDtypeStruct]  # {path: shape and type, mostly with a sharding}

AXES = ("replica", "data", "fsdp", "tensor")
BATCH_AXES = ("replica", "data", "fsdp")

# logical name -> mesh axes; names that are not here (layers, head_dim, relpos, …) stay whole
BY_TENSOR = dict.fromkeys(("vocab", "mlp", "heads", "kv_heads"), ("tensor",))
PARAMETERS = {"embed": ("fsdp",), **BY_TENSOR}
ACTIVATIONS = {"batch": BATCH_AXES, **BY_TENSOR}


def make_mesh(config: MeshConfig, devices: list | None = None) -> Mesh:
    """A mesh with the axes of `AXES`; one size may be -1 and takes the devices that are left. Only
    the axis `replica` crosses the slices of several."""
    malloc.keep_freed_memory()
    devices = devices if devices is not None else jax.devices()
    sizes = {a: getattr(config, a) for a in AXES}
    free = [a for a, n in sizes.items() if n == -1]
    fixed = math.prod(n for n in sizes.values() if n != -1)
    wrong = next((f"mesh.{a}={n}" for a, n in sizes.items() if n == 0 or n < -1), "")
    if wrong or len(free) > 1:
        told = wrong or " and ".join(f"mesh.{a}=-1" for a in free)
        raise UserError(
            f"{told}: the size of a mesh axis is at least 1, or of one axis -1, which takes the "
            "devices that are left"
        )
    if free and len(devices) % fixed == 0:
        sizes[free[0]] = len(devices) // fixed
    if math.prod(sizes.values()) != len(devices):
        told = ", ".join(f"mesh.{a}={getattr(config, a)}" for a in AXES)
        raise UserError(
            f"{told} take {'a multiple of ' if free else ''}{fixed} device(s), and there are "
            f"{len(devices)}: one axis of -1, as in --mesh.data=-1, takes those that are left"
        )
    shape, types = tuple(sizes.values()), (AxisType.Auto,) * len(AXES)
    # GPUs have a slice_index too, of their host: there NCCL finds its own way
    is_tpu = devices[0].platform == "tpu"
    slices = len({getattr(d, "slice_index", None) for d in devices}) if is_tpu else 1
    # Two axes of the mesh may share one of the torus, as tensor=2 on a v6e:4x4 must: slower than
    # axes that have their own, and `jax.make_mesh` refuses it for all chips but v5e.
    share = {"allow_split_physical_axes": True}
    if slices == 1:
        return Mesh(mesh_utils.create_device_mesh(shape, devices, **share), AXES, types)
    if sizes["replica"] % slices:
        raise UserError(
            f"mesh.replica={sizes['replica']} on {slices} slices: replicas lie in whole slices, "
            f"whose network within is the fast one; give --mesh.replica={slices} or a multiple"
        )
    within = (sizes["replica"] // slices, *shape[1:])
    between = (slices, *(1,) * (len(AXES) - 1))
    placed = mesh_utils.create_hybrid_device_mesh(within, between, devices, **share)
    return Mesh(placed, AXES, types)


# Training holds a parameter, its gradient and two moments; generation the parameter alone.
MAX_COPIES = 4


def for_generation(mesh: Mesh, heads: int) -> Mesh:
    """The same devices, laid out for generation: every token reads every weight, and weights that
    fsdp splits would be brought together for each token.

    As many of fsdp's devices as the heads divide split by tensor instead; of the others up to
    MAX_COPIES hold the same weights and other rows; the rest stays fsdp.
    """
    replica, data, fsdp, tensor = (mesh.shape[a] for a in AXES)

    def largest(n, fits):
        return max(d for d in range(1, n + 1) if n % d == 0 and fits(d))

    split = largest(fsdp, lambda d: d == 1 or heads % (tensor * d) == 0)
    copies = largest(fsdp // split, lambda d: d <= MAX_COPIES)
    shape = (replica, data * copies, fsdp // split // copies, tensor * split)
    return Mesh(mesh.devices.reshape(shape), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def spec(
    names: tuple[str | None, ...], shape: tuple[int, ...], mesh: Any, table: dict
) -> PartitionSpec:
    """The PartitionSpec of an array with these logical names.

    A mesh axis splits one dimension of an array at most, and only one that it divides: a dimension
    that cannot be split stays whole (4 heads on tensor=8), which changes memory, never values.
    """
    used, parts = set(), []
    for name, size in zip(names, shape, strict=True):
        axes = tuple(a for a in table.get(name, ()) if mesh.shape[a] > 1 and a not in used)
        if size % math.prod(mesh.shape[a] for a in axes):
            axes = ()
        used.update(axes)
        parts.append(axes if len(axes) > 1 else axes[0] if axes else None)
    return PartitionSpec(*parts)


def parameter_shardings(shapes: dict, names: dict, mesh: Mesh) -> dict:
    """{path: ShapeDtypeStruct}, {path: logical names} -> {path: NamedSharding}."""
    return {
        p: NamedSharding(mesh, spec(names[p], s.shape, mesh, PARAMETERS)) for p, s in shapes.items()
    }


def specs(shapes: dict, shardings: dict) -> Specs:
    """{path: shape and type}, {path: NamedSharding} -> {path: both}: what to restore or load."""
    return {
        p: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=shardings[p]) for p, s in shapes.items()
    }


def like_parameters(tree: Any, shapes: dict, names: dict, mesh: Mesh) -> Any:
    """Shardings of a tree that holds values per parameter (an optimizer's state).

    A leaf under a parameter's path is split as the parameter is where the shapes agree; where one
    dimension is missing (Adafactor's row and column averages) it keeps the names of the others.
    """

    def one(path, leaf):
        name = next((k.key for k in reversed(path) if getattr(k, "key", None) in shapes), None)
        axes = (None,) * len(leaf.shape)
        if name is not None:
            full = shapes[name].shape
            without = [i for i in range(len(full)) if full[:i] + full[i + 1 :] == leaf.shape]
            if full == leaf.shape:
                axes = names[name]
            elif without:
                axes = names[name][: without[0]] + names[name][without[0] + 1 :]
        return NamedSharding(mesh, spec(axes, leaf.shape, mesh, PARAMETERS))

    return jax.tree_util.tree_map_with_path(one, tree)


def constrain(x: jax.Array, *names: str | None) -> jax.Array:
    """Ask for an activation's layout; nothing where no mesh is set (a plain call of the model)."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or math.prod(mesh.shape.values()) == 1:
        return x
    return jax.lax.with_sharding_constraint(x, spec(names, x.shape, mesh, ACTIVATIONS))


def platform() -> str:
    """What the devices of the mesh that is set are ("cpu", "gpu", "tpu"); without one, JAX's own.

    A program that is compiled for devices which are not here (itx/plan) asks the same question.
    """
    mesh = jax.sharding.get_abstract_mesh()
    device = None if mesh.empty else mesh.abstract_device
    return device.platform if device else jax.default_backend()


def active() -> tuple[int, int]:
    """(devices, parts that split the rows of a batch) of the mesh that is set; (1, 1) without
    one."""
    mesh = jax.sharding.get_abstract_mesh()
    return (1, 1) if mesh.empty else (math.prod(mesh.shape.values()), batch_parts(mesh))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows of a batch over all axes that split the batch."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def batch_parts(mesh: Mesh) -> int:
    """Into how many parts the rows of a batch are split."""
    return math.prod(mesh.shape[a] for a in BATCH_AXES)


def local_rows(mesh: Mesh, global_batch: int) -> np.ndarray | None:
    """The global rows that this process's devices hold, ascending; None: all of them."""
    if jax.process_count() == 1:
        return None
    indices = batch_sharding(mesh).addressable_devices_indices_map((global_batch,))
    return np.unique(np.concatenate([np.arange(global_batch)[i] for i in indices.values()]))


def put(
    batch: dict[str, np.ndarray],
    mesh: Mesh,
    rows: np.ndarray | None = None,
    global_batch: int = 0,
) -> dict[str, jax.Array]:
    """A batch -> global arrays, each process giving its devices what they hold.

    Args:
        rows: which of the `global_batch` rows these are, ascending and possibly with gaps
            (`local_rows`); None: all of them, as every process has them.
    """
    sharding = batch_sharding(mesh)
    if jax.process_count() == 1:
        return {
            name: jax.make_array_from_process_local_data(sharding, np.asarray(part))
            for name, part in batch.items()
        }

    def put_one(part: np.ndarray) -> jax.Array:
        size = len(part) if rows is None else global_batch
        shape = (size, *part.shape[1:])
        return jax.make_array_from_callback(shape, sharding, lambda at: held(part, rows, at))

    return {name: put_one(np.asarray(part)) for name, part in batch.items()}


def held(part: np.ndarray, rows: np.ndarray | None, index: tuple[slice, ...]) -> np.ndarray:
    """whole[index] of a whole array, of which `part` has the `rows` (ascending; None: all)."""
    if rows is None:
        return part[index]
    wanted = np.arange(int(rows[-1]) + 1)[index[0]]
    return part[(np.searchsorted(rows, wanted), *index[1:])]
