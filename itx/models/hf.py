# SPDX-License-Identifier: Apache-2.0
"""Hugging Face folders: read a model onto a mesh, write one that `transformers` loads.

A folder holds config.json, model.safetensors (or several files and model.safetensors.index.json)
and the tokenizer's files. Headers give names, shapes and types, so that `check` finds what is wrong
before a weight is read. `load` asks each device's part of each parameter from the mapped files: no
host ever holds more than the parts of its devices. A parameter of ours stacks the layers' tensors;
a matrix lies there as (out, in), ours as (in, out).
"""

import dataclasses
import json
import math
import re
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from itx import storage
from itx.config import ModelConfig
from itx.errors import UserError, did_you_mean
from itx.models import families

CONFIG, GENERATION = "config.json", "generation_config.json"
INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
DTYPES = {
    "F32": np.dtype(np.float32),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
}
NAMES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
# Matrices, by the last part of their path: how many of our leading dimensions are what they read
MATRICES = {"wq": 1, "wk": 1, "wv": 1, "wo": 2, "w_gate": 1, "w_in": 1, "w_out": 1, "head": 1}
COMPARED = 4096  # rows of a matrix at a time
SHARD_BYTES = 5 * 10**9  # of a file, as `save_pretrained` cuts

Shapes = dict[str, Any]  # path -> anything with a shape (and for `load` a sharding)


def is_folder(path: Path | str) -> bool:
    """Whether a folder holds a model of Hugging Face's."""
    return (Path(path) / CONFIG).is_file() and "model_type" in read_config(path)


def read_config(folder: Path | str) -> dict:
    return _json(Path(folder), CONFIG)


def _json(folder: Path, name: str) -> dict:
    try:
        found = storage.read_json(folder / name)
    except (OSError, ValueError) as e:
        raise UserError(f"{folder}: no readable {name} ({e})") from e
    if not isinstance(found, dict):
        raise UserError(f"{folder}: no readable {name} (it is no JSON object)")
    return found


def ends(folder: Path) -> tuple[int, ...]:
    """The ids that end an answer of the model: eos_token_id of generation_config.json, without
    which that of config.json counts, as for transformers; a number or a list there."""
    name = next((n for n in (GENERATION, CONFIG) if (folder / n).is_file()), None)
    found = _json(folder, name).get("eos_token_id") if name else None
    ids = found if isinstance(found, list) else [] if found is None else [found]
    if any(type(i) is not int or i < 0 for i in ids):
        raise UserError(
            f"{folder / name}: eos_token_id is {found!r}, neither an id nor a list of ids"
        )
    return tuple(ids)


class Tensors:
    """The tensors of a folder, by the names that a text model alone has; mapped, read when
    asked."""

    def __init__(self, folder: Path | str):
        self.folder = Path(folder)
        files = self._files()
        # our idea of the name -> (open file, its name there)
        self.found: dict[str, tuple[Any, str]] = {}
        for file in files:
            opened = _open(file)
            for name in opened.keys():  # noqa: SIM118 (not a dict)
                self.found[families.outside(name)] = opened, name

    def _files(self) -> list[Path]:
        single, index = self.folder / SINGLE, self.folder / INDEX
        if index.is_file():
            of = _json(self.folder, INDEX).get("weight_map")
            if not isinstance(of, dict) or not all(isinstance(n, str) for n in of.values()):
                raise UserError(f"{index} has no weight_map of tensors to files' names")
            files = [self.folder / n for n in sorted(set(of.values()))]
            missing = [f.name for f in files if not f.is_file()]
            if missing:
                raise UserError(f"{index} names {len(files)} files; missing: {', '.join(missing)}")
            return files
        if single.is_file():
            return [single]
        others = [
            p.name
            for p in self.folder.glob("*")
            if p.suffix in (".safetensors", ".bin", ".pt", ".msgpack", ".h5")
        ]
        raise UserError(
            f"{self.folder}: expected {SINGLE} or {INDEX}, found {', '.join(sorted(others)) or 'no weights at all'}"
        )

    def slice(self, name: str) -> Any:
        opened, there = self.found[name]
        return opened.get_slice(there)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.slice(name).get_shape())

    def dtype(self, name: str) -> str:
        return self.slice(name).get_dtype()


def _open(file: Path) -> Any:
    try:
        return safe_open(file, "numpy")
    except (SafetensorError, OSError, ValueError) as e:
        raise UserError(f"{file}: {_whole(file) or f'no safetensors file ({e})'}") from e


def _whole(file: Path) -> str:
    """What is wrong with a file that ends too early; "" where that is not its trouble."""
    size = file.stat().st_size
    with open(file, "rb") as f:
        start = f.read(8)
        (header,) = struct.unpack("<Q", start) if len(start) == 8 else (0,)
        if len(start) < 8 or header > 10**8:
            return ""
        if size < 8 + header:
            return f"truncated: its header takes {8 + header:,} bytes, the file has {size:,}"
        try:
            ends = [
                t["data_offsets"][1]
                for n, t in json.loads(f.read(header)).items()
                if n != "__metadata__"
            ]
        except (ValueError, KeyError, TypeError, AttributeError):
            return ""
    expected = 8 + header + max(ends, default=0)
    return f"truncated: expected {expected:,} bytes, found {size:,}" if size != expected else ""


# ---- names and layouts ---------------------------------------------------------------------------


def tensor_shape(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape there of one layer's part of a parameter."""
    shape = shape[1:] if "/blocks/" in path else shape
    reads = MATRICES.get(path.rsplit("/", 1)[-1])
    if reads:
        return math.prod(shape[reads:]), math.prod(shape[:reads])
    return (math.prod(shape),) if path.endswith(("/bq", "/bk", "/bv")) else shape


def tensors_of(cfg: ModelConfig, shapes: Shapes) -> dict[str, tuple[str, int | None]]:
    """Name there -> (our path, layer); UserError for a parameter that no family has."""
    table, out = families.tensor_names(cfg), {}
    for path, leaf in shapes.items():
        if path not in table:
            raise UserError(
                f"parameter {path} has no place in a Hugging Face model" + did_you_mean(path, table)
            )
        if "/blocks/" in path:
            out |= {table[path].format(i): (path, i) for i in range(leaf.shape[0])}
        else:
            out[table[path]] = path, None
    return out


# ---- reading -------------------------------------------------------------------------------------


def model_config(folder: Path | str) -> ModelConfig:
    """The ModelConfig of a folder; whether the head is tied is what its tensors say, where the file
    does not deny it."""
    cfg = families.read(read_config(folder), str(Path(folder) / CONFIG))
    # transformers 5 writes `tie_word_embeddings: true` for every encoder-decoder, and ties no head
    # that differs
    if cfg.architecture == "encoder_decoder" or cfg.tie_embeddings:
        table = families.tensor_names(cfg)["embedding"]
        cfg = dataclasses.replace(
            cfg, tie_embeddings=_tied(Tensors(folder), cfg.tie_embeddings, table)
        )
    return cfg


def passed_over(folder: Path | str) -> list[str]:
    """Keys of a folder's config.json that are read neither here nor there."""
    return families.passed_over(read_config(folder), str(Path(folder) / CONFIG))


def _tied(tensors: Tensors, said: bool, table: str) -> bool:
    """Whether a head is the embedding `table`: there is none of its own, or what there is is a
    copy."""
    head = "lm_head.weight"
    if head not in tensors.found:
        return True
    shape = tensors.shape(head)
    if not said or table not in tensors.found or len(shape) != 2 or tensors.shape(table) != shape:
        return False
    head, table = tensors.slice(head), tensors.slice(table)
    parts = (slice(i, min(i + COMPARED, shape[0])) for i in range(0, shape[0], COMPARED))
    return all(np.array_equal(head[p], table[p]) for p in parts)


def check(
    folder: Path | str, cfg: ModelConfig, shapes: Shapes, tensors: Tensors | None = None
) -> Counter:
    """UserError for a tensor that is missing, too many, or of the wrong shape or type; counts what
    is left out."""
    tensors = tensors or Tensors(folder)
    expected, left_out = tensors_of(cfg, shapes), Counter()
    missing = [n for n in expected if n not in tensors.found]
    if missing:
        near = did_you_mean(
            missing[0], [n for n in tensors.found if n not in expected] or tensors.found
        )
        raise UserError(
            f"{folder}: {len(missing)} of {len(expected)} tensors are missing, first {missing[0]!r}{near}"
        )
    for name in tensors.found:
        if name in expected:
            continue
        if (
            name == "lm_head.weight"
            and cfg.tie_embeddings
            or any(re.fullmatch(p, name) for p in families.COPIES)
        ):
            left_out[re.sub(r"\d+", "#", name)] += 1
            continue
        raise UserError(f"{folder}: holds {name!r}, which a model of this configuration does not have"
                        + did_you_mean(name, expected))  # fmt: skip
    for name, (path, _) in expected.items():
        found, right = tensors.shape(name), tensor_shape(path, shapes[path].shape)
        if found != right:
            raise UserError(f"{folder}: {name} has shape {found}; expected {right}")
        if tensors.dtype(name) not in DTYPES:
            raise UserError(
                f"{folder}: {name} is {tensors.dtype(name)}; expected one of {', '.join(DTYPES)}"
            )
    return left_out


def load(folder: Path | str, cfg: ModelConfig, targets: Shapes) -> dict[str, Any]:
    """Parameters as `targets` says: {path: ShapeDtypeStruct with a sharding}, each device reading
    its own part."""
    tensors = Tensors(folder)
    check(folder, cfg, targets, tensors)
    table = families.tensor_names(cfg)

    def one(path: str, target: Any) -> Any:
        return jax.make_array_from_callback(
            target.shape,
            target.sharding,
            lambda index: part(tensors, table[path], path, target, index),
        )

    return {path: one(path, target) for path, target in targets.items()}


def part(
    tensors: Tensors, name: str, path: str, target: Any, index: tuple[slice, ...]
) -> np.ndarray:
    """target[index] from the file(s): nothing else of them is read, but for a split inside a
    head."""
    index = tuple(slice(*i.indices(n)) for i, n in zip(index, target.shape, strict=True))
    if "/blocks/" not in path:
        return _read(tensors, name, path, target.shape, index).astype(target.dtype)
    out = np.empty([i.stop - i.start for i in index], target.dtype)
    for at, layer in enumerate(range(index[0].start, index[0].stop)):
        out[at] = _read(tensors, name.format(layer), path, target.shape[1:], index[1:])
    return out


def _read(
    tensors: Tensors, name: str, path: str, shape: tuple[int, ...], index: tuple[slice, ...]
) -> np.ndarray:
    """One layer's part, in our layout."""
    reads = MATRICES.get(path.rsplit("/", 1)[-1], 0)
    if not reads and not path.endswith(("/bq", "/bk", "/bv")):
        return tensors.slice(name)[index]
    groups = [slice(0, reads), slice(reads, None)] if reads else [slice(0, None)]
    # each group of our dimensions is one of theirs: split along its first, whole along the others
    there, inside, sizes = [], [], []
    for g in groups:
        first, *rest = zip(index[g], shape[g], strict=True)
        width = math.prod(n for _, n in rest)
        there.append(slice(first[0].start * width, first[0].stop * width))
        inside += [slice(None), *(i for i, _ in rest)]
        sizes += [first[0].stop - first[0].start, *(n for _, n in rest)]
    found = tensors.slice(name)[tuple(there[::-1])]
    return (found.T if reads else found).reshape(sizes)[tuple(inside)]


# ---- writing -------------------------------------------------------------------------------------


def dtype_of(source: dict) -> str:
    """The type of the weights that a config.json names; float32 where it names none."""
    source = families.text_config(source)
    return source.get("dtype") or source.get("torch_dtype") or "float32"


def write_config(cfg: ModelConfig, source: dict, dtype: str) -> dict:
    """config.json: the model's own settings, over what the source's holds besides (lengths, ids of
    special tokens)."""
    source = families.text_config(source)
    kind = families.family_of(cfg, source.get("model_type"))
    # other names and places of what `families.write` says, which would contradict it where a
    # setting was changed
    stale = ("rope_parameters", "original_max_position_embeddings", "layer_types", "hidden_act", "hidden_activation",
             "dtype", "dense_act_fn", "is_gated_act", "transformers_version", "_name_or_path",
             "_sliding_window_pattern", "sliding_window_pattern")  # fmt: skip
    kept = {k: v for k, v in source.items() if k not in stale}
    if cfg.architecture == "encoder_decoder":
        kept = {"decoder_start_token_id": 0, "pad_token_id": 0, **kept}
    return {**kept, **families.write(cfg, kind), "torch_dtype": dtype}


def save(
    folder: Path | str, cfg: ModelConfig, params: dict[str, Any], *, source: dict | None = None,
    beside: dict[str, bytes] | None = None, dtype: str = "", shard_bytes: int = SHARD_BYTES,
) -> list[Path]:  # fmt: skip
    """Write a folder whole; returns its files. One file's tensors are in memory at a time.

    source: the config.json that the model came with, and more of its keys; beside: what else goes
    there, by name; dtype: of the weights, default the source's.
    """
    dtype = dtype or dtype_of(source or {})
    if dtype not in NAMES:
        raise UserError(f"--dtype {dtype!r}" + did_you_mean(dtype, NAMES))
    config = write_config(cfg, source or {}, dtype)
    config["vocab_size"] = params["embedding"].shape[0]
    kind, expected = DTYPES[NAMES[dtype]], tensors_of(cfg, params)
    sizes = {
        n: math.prod(tensor_shape(p, params[p].shape)) * kind.itemsize
        for n, (p, _) in expected.items()
    }
    shards = list(_shards(sizes, shard_bytes))
    with storage.whole_folder(folder) as out:
        for name, content in (beside or {}).items():
            (out / name).write_bytes(content)
        weight_map = {}
        for i, names in enumerate(shards, 1):
            file = SINGLE if len(shards) == 1 else f"model-{i:05d}-of-{len(shards):05d}.safetensors"
            made = {n: tensor(params, *expected[n], kind) for n in names}
            save_file(made, out / file, metadata={"format": "pt"})
            weight_map |= dict.fromkeys(names, file)
        if len(shards) > 1:
            total = {"total_size": sum(sizes.values())}
            storage.write_json(out / INDEX, {"metadata": total, "weight_map": weight_map})
        storage.write_json(out / CONFIG, config)
    return sorted(Path(folder).iterdir())


def _shards(sizes: dict[str, int], most: int) -> Iterator[list[str]]:
    names, used = [], 0
    for name, size in sizes.items():
        if names and used + size > most:
            yield names
            names, used = [], 0
        names.append(name)
        used += size
    yield names


def tensor(params: dict, path: str, layer: int | None, dtype: np.dtype) -> np.ndarray:
    """One tensor as it lies there."""
    ours = np.asarray(params[path] if layer is None else params[path][layer])
    reads = MATRICES.get(path.rsplit("/", 1)[-1], 0)
    shape = tensor_shape(path, params[path].shape)
    theirs = ours.reshape(shape[::-1]).T if reads else ours.reshape(shape)
    return np.ascontiguousarray(theirs.astype(dtype))
