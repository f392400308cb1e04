# SPDX-License-Identifier: Apache-2.0
"""Parameters by path: out of a module and into it, their shapes, logical axes and shardings."""

from collections.abc import Callable

import jax
from flax import nnx
from jax.sharding import Mesh

from itx import mesh as meshes
from itx import storage
from itx.config import ModelConfig, RunConfig
from itx.data.vocabulary import BYTE_EXTRA_IDS, BYTES, Bytes, Vocabulary
from itx.errors import UserError
from itx.mesh import Specs
from itx.models.transformer import Transformer

Params = dict[str, jax.Array]  # path -> parameter, e.g. "decoder/blocks/mlp/w_in"


def variables(model: nnx.Module, kind: type = nnx.Param) -> dict[str, nnx.Variable]:
    """{path: variable} of all variables of a kind."""
    flat = nnx.to_flat_state(nnx.state(model, kind))
    return {"/".join(map(str, path)): variable for path, variable in flat}


def parameters(model: nnx.Module) -> Params:
    """{path: value} of all parameters; of shapes, where the module holds those."""
    return {path: variable.get_value() for path, variable in variables(model).items()}


def module_of(graphdef: nnx.GraphDef, params: Params) -> Transformer:
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
    return {p: v.get_metadata()["out_sharding"] for p, v in variables(model).items()}


def shapes_of(create: Callable[..., nnx.Module], *models: nnx.Module) -> nnx.Module:
    """The shapes of create(*models). Unlike nnx.eval_shape it does not ask a mesh that is set for
    logical names."""
    graphdefs, states = zip(*map(nnx.split, models), strict=True) if models else ((), ())

    def split(states):
        return nnx.split(create(*map(nnx.merge, graphdefs, states)))

    return nnx.merge(*jax.eval_shape(split, states))


def model_specs(cfg: ModelConfig, rows: int, mesh: Mesh) -> Specs:
    """The specs of a model whose embedding has so many rows."""
    return specs_of(shapes_of(lambda: Transformer(cfg, rows, nnx.Rngs(0))), mesh)


def specs_of(abstract: nnx.Module, mesh: Mesh) -> Specs:
    """Shape, type and sharding of each parameter of a module that holds shapes."""
    shapes, names = parameters(abstract), logical_names(abstract)
    return meshes.specs(shapes, meshes.parameter_shardings(shapes, names, mesh))


def embedding_rows(config: RunConfig, vocab_size: int, file: str = "") -> int:
    """Rows of the embedding: as configured, or the vocabulary's size up to a multiple of 128.

    file: the vocabulary's, which the error names.
    """
    rows = config.model.vocab_size
    if rows and rows < vocab_size:
        named = f" of {file}" if file else ""
        raise UserError(
            f"model.vocab_size={rows} is below the vocabulary's {vocab_size} ids{named}: each "
            "needs a row of the embedding"
        )
    return rows or -(-vocab_size // 128) * 128


def unbuilt_vocab_size(config: RunConfig) -> int:
    """The vocabulary's size as far as it is known before data are built."""
    d, rows = config.data, config.model.vocab_size
    size = d.vocab_size
    if d.vocab == BYTES:
        size = Bytes(BYTE_EXTRA_IDS).size
    elif d.vocab and not rows:
        size = Vocabulary(storage.given_file(d.vocab, d.root, "data.vocab")).size
    return min(size, rows or size)
