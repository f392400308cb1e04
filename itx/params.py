# SPDX-License-Identifier: Apache-2.0
"""Parameters by path: of a module and back into it, their shapes, their logical axes, their place
on a mesh."""

from collections.abc import Callable

import jax
from flax import nnx
from jax.sharding import Mesh

from itx import mesh as meshes
from itx.config import ModelConfig, RunConfig
from itx.errors import UserError
from itx.models.transformer import Transformer

Params = dict[str, jax.Array]


def parameters(model: nnx.Module) -> Params:
    """{path: value} of all parameters, e.g. "decoder/blocks/mlp/w_in"."""
    state = nnx.state(model, nnx.Param)
    return {"/".join(map(str, p)): v.get_value() for p, v in nnx.to_flat_state(state)}


def merge(graphdef: nnx.GraphDef, params: Params) -> Transformer:
    """The module with these parameters."""
    flat = {tuple(p.split("/")): v for p, v in params.items()}
    return nnx.merge(graphdef, nnx.from_flat_state(flat))


def find(model: nnx.Module, path: str) -> tuple[nnx.Module, str]:
    """("decoder/blocks/attention/wq") -> the module that holds the parameter, and its name
    there."""
    *way, name = path.split("/")
    for part in way:
        model = getattr(model, part)
    return model, name


def logical_names(model: nnx.Module) -> dict[str, tuple[str, ...]]:
    """{path: logical axis names} of all parameters."""
    flat = nnx.to_flat_state(nnx.state(model, nnx.Param))
    return {"/".join(map(str, p)): v.get_metadata()["out_sharding"] for p, v in flat}


def shapes_of(create: Callable[..., nnx.Module], *models: nnx.Module) -> nnx.Module:
    """The shapes of create(*models). Unlike nnx.eval_shape it does not ask a mesh that is set for
    logical names."""
    graphdefs, states = zip(*map(nnx.split, models), strict=True) if models else ((), ())
    return nnx.merge(
        *jax.eval_shape(
            lambda states: nnx.split(create(*map(nnx.merge, graphdefs, states))), states
        )
    )


def placed_targets(model: ModelConfig, rows: int, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """Shape, type and place of each parameter of a model."""
    return placed(shapes_of(lambda: Transformer(model, rows, nnx.Rngs(0))), mesh)


def placed(abstract: nnx.Module, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    shapes = parameters(abstract)
    return meshes.targets(shapes, meshes.parameter_shardings(shapes, logical_names(abstract), mesh))


def embedding_rows(config: RunConfig, vocab_size: int, file: str = "") -> int:
    """Rows of the embedding: as configured, or the vocabulary's size up to a multiple of 128.

    file: the vocabulary's, which the error names.
    """
    rows = config.model.vocab_size
    if rows and rows < vocab_size:
        named = f" of {file}" if file else ""
        raise UserError(
            f"model.vocab_size={rows} is below the vocabulary's {vocab_size} ids{named}: each needs a row of the embedding"
        )
    return rows or -(-vocab_size // 128) * 128
