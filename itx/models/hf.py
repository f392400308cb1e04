# SPDX-License-Identifier: Apache-2.0
"""Hugging Face folders: read a model onto a mesh, write one that `transformers` loads.

A folder holds config.json, model.safetensors (or several files and model.safetensors.index.json)
and the tokenizer's files; of a GGUF file's folder, the weights lie in that file. Headers give
names, shapes and types, so that `check` finds what is wrong before a weight is read. `load` reads
each device's part of each parameter from the mapped files: no host holds more than the parts of its
devices. A parameter of ours stacks the layers' tensors; a matrix is (in, out), in files (out, in).
"""

import dataclasses
import json
import math
import re
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from itx import storage
from itx.config import ModelConfig
from itx.errors import UserError, check_known, did_you_mean
from itx.mesh import Specs
from itx.models import families, gguf_folder
from itx.models.names import COPIES, outside

CONFIG, GENERATION = "config.json", "generation_config.json"
INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
DTYPES = {
    "F32": np.dtype(np.float32),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
}
NAMES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
# Matrices by the last part of their path -> how many of our leading dimensions are their input
MATRICES = {"wq": 1, "wk": 1, "wv": 1, "wo": 2, "w_gate": 1, "w_in": 1, "w_out": 1, "head": 1}
BIASES = ("/bq", "/bk", "/bv")  # ends of paths
COMPARED_ROWS = 4096  # of a matrix, at a time
SHARD_BYTES = 5 * 10**9  # most of one file, as `save_pretrained` cuts


def is_folder(path: Path | str) -> bool:
    """Whether a folder holds a Hugging Face model."""
    return (Path(path) / CONFIG).is_file() and "model_type" in read_config(path)


def read_config(folder: Path | str) -> dict:
    return _json(Path(folder), CONFIG)


def _json(folder: Path, name: str) -> dict:
    try:
        values = storage.read_json(folder / name)
    except (OSError, ValueError) as e:
        raise UserError(f"{folder}: no readable {name} ({e})") from e
    if not isinstance(values, dict):
        raise UserError(f"{folder}: no readable {name} (it is no JSON object)")
    return values


def ends(folder: Path) -> tuple[int, ...]:
    """The ids that end an answer of the model: eos_token_id, a number or a list, of
    generation_config.json, or without that file of config.json, as for transformers."""
    name = next((n for n in (GENERATION, CONFIG) if (folder / n).is_file()), None)
    value = _json(folder, name).get("eos_token_id") if name else None
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if any(type(i) is not int or i < 0 for i in ids):
        raise UserError(
            f"{folder / name}: eos_token_id is {value!r}, neither an id nor a list of ids"
        )
    return tuple(ids)


class Tensors:
    """The tensors of a folder, by the names that a text model alone has; mapped, read when
    asked."""

    def __init__(self, folder: Path | str):
        self.folder, self.place, self.types = Path(folder), gguf_folder.shown(folder), tuple(DTYPES)
        # the text model's name -> (open file, the file's name of it)
        self.found: dict[str, tuple[Any, str]] = {}
        if gguf_folder.source(folder) is not None:
            self.found, self.types = gguf_folder.tensors(self.folder, read_config(folder))
            return
        for file in self._files():
            opened = _open(file)
            for name in opened.keys():  # noqa: SIM118 (not a dict)
                self.found[outside(name)] = opened, name

    def _files(self) -> list[Path]:
        single, index = self.folder / SINGLE, self.folder / INDEX
        if index.is_file():
            weight_map = _json(self.folder, INDEX).get("weight_map")
            if not isinstance(weight_map, dict) or not all(
                isinstance(n, str) for n in weight_map.values()
            ):
                raise UserError(f"{index} has no weight_map of tensors to files' names")
            files = [self.folder / n for n in sorted(set(weight_map.values()))]
            if missing := [f.name for f in files if not f.is_file()]:
                raise UserError(f"{index} names {len(files)} files; missing: {', '.join(missing)}")
            return files
        if single.is_file():
            return [single]
        kinds = (".safetensors", ".bin", ".pt", ".msgpack", ".h5")
        others = sorted(p.name for p in self.folder.glob("*") if p.suffix in kinds)
        raise UserError(
            f"{self.folder}: expected {SINGLE} or {INDEX}, found "
            f"{', '.join(others) or 'no weights at all'}"
        )

    def slice(self, name: str) -> Any:
        opened, own_name = self.found[name]
        return opened.get_slice(own_name)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.slice(name).get_shape())

    def dtype(self, name: str) -> str:
        return self.slice(name).get_dtype()


def _open(file: Path) -> Any:
    try:
        return safe_open(file, "numpy")
    except (SafetensorError, OSError, ValueError) as e:
        raise UserError(f"{file}: {_truncated(file) or f'no safetensors file ({e})'}") from e


def _truncated(file: Path) -> str:
    """In words, where a file ends too early; "" if that is not its trouble."""
    size = file.stat().st_size
    with open(file, "rb") as f:
        start = f.read(8)
        (header,) = struct.unpack("<Q", start) if len(start) == 8 else (0,)
        if len(start) < 8 or header > 10**8:
            return ""
        if size < 8 + header:
            return f"truncated: its header takes {8 + header:,} bytes, the file has {size:,}"
        try:
            tensors = json.loads(f.read(header))
            ends = [t["data_offsets"][1] for n, t in tensors.items() if n != "__metadata__"]
        except (ValueError, KeyError, TypeError, AttributeError):
            return ""
    expected = 8 + header + max(ends, default=0)
    return f"truncated: expected {expected:,} bytes, found {size:,}" if size != expected else ""


# ---- names and layouts ---------------------------------------------------------------------------


def _inputs(path: str) -> int:
    """How many of our leading dimensions are a matrix's input; 0: it is no matrix."""
    return MATRICES.get(path.rsplit("/", 1)[-1], 0)


def tensor_shape(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape in Hugging Face's files of one layer's part of a parameter."""
    shape = shape[1:] if "/blocks/" in path else shape
    if inputs := _inputs(path):
        return math.prod(shape[inputs:]), math.prod(shape[:inputs])
    return (math.prod(shape),) if path.endswith(BIASES) else shape


def tensors_of(table: dict[str, str], shapes: Specs) -> dict[str, tuple[str, int | None]]:
    """{tensor's name: (our path, layer)}; UserError for a parameter that the family has not.
    `table`: families.tensor_names."""
    tensors = {}
    for path, leaf in shapes.items():
        check_known(path, table, f"parameter {path} has no place in a Hugging Face model")
        layers = range(leaf.shape[0]) if "/blocks/" in path else [None]
        tensors |= {table[path].format(i): (path, i) for i in layers}
    return tensors


# ---- reading -------------------------------------------------------------------------------------


def family(folder: Path | str) -> str:
    """The model_type of a folder's text model; "" without a config.json, which the model of a run
    that began from random weights has not."""
    if not (Path(folder) / CONFIG).is_file():
        return ""
    return families.text_config(read_config(folder)).get("model_type", "")


def model_config(folder: Path | str) -> ModelConfig:
    """The ModelConfig of a folder; whether the head is tied, its tensors say, unless the file
    denies it."""
    cfg = families.read(read_config(folder), gguf_folder.shown(folder, CONFIG))
    # transformers 5 writes `tie_word_embeddings: true` for every encoder-decoder, and ties no head
    # that differs
    if cfg.architecture == "encoder_decoder" or cfg.tie_embeddings:
        table = families.tensor_names(cfg, family(folder))
        tied = _tied(Tensors(folder), cfg.tie_embeddings, table["head"], table["embedding"])
        cfg = dataclasses.replace(cfg, tie_embeddings=tied)
    return cfg


def passed_over(folder: Path | str) -> list[str]:
    """Keys of a folder's config.json that neither transformers nor `families.read` reads."""
    return families.passed_over(read_config(folder), gguf_folder.shown(folder, CONFIG))


def _tied(tensors: Tensors, said: bool, head: str, table: str) -> bool:
    """Whether the tensor `head` is `table`, the embedding: there is no head, or it is a copy.
    `said`: what config.json says."""
    if head not in tensors.found:
        return True
    shape = tensors.shape(head)
    if not said or table not in tensors.found or len(shape) != 2 or tensors.shape(table) != shape:
        return False
    head, table = tensors.slice(head), tensors.slice(table)
    parts = (slice(i, min(i + COMPARED_ROWS, shape[0])) for i in range(0, shape[0], COMPARED_ROWS))
    return all(np.array_equal(head[p], table[p]) for p in parts)


def check(
    folder: Path | str, cfg: ModelConfig, shapes: Specs, tensors: Tensors | None = None
) -> Counter:
    """UserError for a tensor that is missing, superfluous, or of the wrong shape or type; returns
    the counts of those that are left out."""
    tensors = tensors or Tensors(folder)
    table, place = families.tensor_names(cfg, family(folder)), tensors.place
    expected, left_out = tensors_of(table, shapes), Counter()
    if missing := [n for n in expected if n not in tensors.found]:
        others = [n for n in tensors.found if n not in expected] or tensors.found
        raise UserError(
            f"{place}: {len(missing)} of {len(expected)} tensors are missing, first "
            f"{missing[0]!r}{did_you_mean(missing[0], others)}"
        )
    for name in (n for n in tensors.found if n not in expected):
        copy = name == table["head"] and cfg.tie_embeddings
        if not copy and not any(re.fullmatch(p, name) for p in COPIES):
            raise UserError(
                f"{place}: holds {name!r}, which a model of this configuration does not have"
                + did_you_mean(name, expected)
            )
        left_out[re.sub(r"\d+", "#", name)] += 1
    for name, (path, _) in expected.items():
        shape, right = tensors.shape(name), tensor_shape(path, shapes[path].shape)
        if shape != right:
            raise UserError(f"{place}: {name} has shape {shape}; expected {right}")
        if (dtype := tensors.dtype(name)) not in DTYPES:
            known = ", ".join(tensors.types)
            raise UserError(f"{place}: {name} is {dtype}; expected one of {known}")
    return left_out


def load(folder: Path | str, cfg: ModelConfig, specs: Specs) -> dict[str, jax.Array]:
    """The parameters `specs`, each device reading its own part."""
    tensors = Tensors(folder)
    check(folder, cfg, specs, tensors)
    table = families.tensor_names(cfg, family(folder))

    def one(path, spec):
        def read(index):
            return part(tensors, table[path], path, spec, index)

        return jax.make_array_from_callback(spec.shape, spec.sharding, read)

    return {path: one(path, spec) for path, spec in specs.items()}


def part(
    tensors: Tensors, name: str, path: str, spec: jax.ShapeDtypeStruct, index: tuple[slice, ...]
) -> np.ndarray:
    """parameter[index] from the file(s): nothing else of them is read, except if a head is
    split."""
    index = tuple(slice(*i.indices(n)) for i, n in zip(index, spec.shape, strict=True))
    if "/blocks/" not in path:
        return _read(tensors, name, path, spec.shape, index).astype(spec.dtype)
    layers, *rest = index
    values = np.empty([i.stop - i.start for i in index], spec.dtype)
    for at, layer in enumerate(range(layers.start, layers.stop)):
        values[at] = _read(tensors, name.format(layer), path, spec.shape[1:], rest)
    return values


def _read(
    tensors: Tensors, name: str, path: str, shape: tuple[int, ...], index: Sequence[slice]
) -> np.ndarray:
    """One layer's part, in our layout."""
    inputs = _inputs(path)
    if not inputs and not path.endswith(BIASES):
        return tensors.slice(name)[tuple(index)]
    # Each group of our dimensions is one of the file's. It is read split along our first dimension
    # and whole along the others, which are cut afterwards.
    groups = [slice(0, inputs), slice(inputs, None)] if inputs else [slice(0, None)]
    read, cut, sizes = [], [], []
    for g in groups:
        (first, _), *rest = zip(index[g], shape[g], strict=True)
        width = math.prod(n for _, n in rest)
        read.append(slice(first.start * width, first.stop * width))
        cut += [slice(None), *(i for i, _ in rest)]
        sizes += [first.stop - first.start, *(n for _, n in rest)]
    values = tensors.slice(name)[tuple(read[::-1])]
    return (values.T if inputs else values).reshape(sizes)[tuple(cut)]


# ---- writing -------------------------------------------------------------------------------------


def dtype_of(source: dict) -> str:
    """The type of the weights that a config.json names; float32 if it names none."""
    source = families.text_config(source)
    return source.get("dtype") or source.get("torch_dtype") or "float32"


# Keys of a source that are left out: `families.write` says the same under another name or in
# another place, and they would contradict it where a setting was changed.
STALE = (
    "rope_parameters original_max_position_embeddings layer_types hidden_act hidden_activation"
    " dtype dense_act_fn is_gated_act transformers_version _name_or_path _sliding_window_pattern"
    " sliding_window_pattern"
).split()


def write_config(cfg: ModelConfig, source: dict, dtype: str) -> dict:
    """config.json: the model's own settings, over what else the source's has (lengths, ids of
    special tokens)."""
    source = families.text_config(source)
    kind = families.family_of(cfg, source.get("model_type"))
    config = {k: v for k, v in source.items() if k not in STALE}
    if cfg.architecture == "encoder_decoder":
        config = {"decoder_start_token_id": 0, "pad_token_id": 0, **config}
    return {**config, **families.write(cfg, kind), "torch_dtype": dtype}


def save(
    folder: Path | str,
    cfg: ModelConfig,
    params: dict[str, Any],
    *,
    source: dict | None = None,
    beside: dict[str, bytes] | None = None,
    dtype: str = "",
    shard_bytes: int = SHARD_BYTES,
) -> list[Path]:
    """Write a folder whole; returns its files. One file's tensors are in memory at a time.

    Args:
        source: the config.json that the model came with, and more of its keys.
        beside: further files by name.
        dtype: of the weights; default: the source's.
    """
    dtype = dtype or dtype_of(source or {})
    check_known(dtype, NAMES, f"--dtype {dtype!r}")
    config = write_config(cfg, source or {}, dtype)
    config["vocab_size"] = params["embedding"].shape[0]
    kind = DTYPES[NAMES[dtype]]
    expected = tensors_of(families.tensor_names(cfg, config["model_type"]), params)
    sizes = {
        name: math.prod(tensor_shape(path, params[path].shape)) * kind.itemsize
        for name, (path, _) in expected.items()
    }
    shards = list(_shards(sizes, shard_bytes))
    with storage.whole_folder(folder) as new:
        for name, content in (beside or {}).items():
            (new / name).write_bytes(content)
        weight_map = {}
        for i, members in enumerate(shards, 1):
            file = SINGLE if len(shards) == 1 else f"model-{i:05d}-of-{len(shards):05d}.safetensors"
            tensors = {n: tensor(params, *expected[n], kind) for n in members}
            save_file(tensors, new / file, metadata={"format": "pt"})
            weight_map |= dict.fromkeys(members, file)
        if len(shards) > 1:
            total = {"total_size": sum(sizes.values())}
            storage.write_json(new / INDEX, {"metadata": total, "weight_map": weight_map})
        storage.write_json(new / CONFIG, config)
    return sorted(Path(folder).iterdir())


def _shards(sizes: dict[str, int], max_bytes: int) -> Iterator[list[str]]:
    members, used = [], 0
    for name, size in sizes.items():
        if members and used + size > max_bytes:
            yield members
            members, used = [], 0
        members.append(name)
        used += size
    yield members


def tensor(params: dict[str, Any], path: str, layer: int | None, dtype: np.dtype) -> np.ndarray:
    """One tensor in Hugging Face's layout."""
    ours = np.asarray(params[path] if layer is None else params[path][layer])
    shape = tensor_shape(path, params[path].shape)
    theirs = ours.reshape(shape[::-1]).T if _inputs(path) else ours.reshape(shape)
    return np.ascontiguousarray(theirs.astype(dtype))
