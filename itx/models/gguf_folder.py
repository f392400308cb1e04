# SPDX-License-Identifier: Apache-2.0
"""The Hugging Face folder of a GGUF file: config.json, the tokenizer's files and a pointer.

It is derived once, below the user's cache, under a digest of the file's content, and holds no
weights: those are read from the GGUF file, to which `gguf.json` points. The pointer follows the
file where it is moved. Messages name the GGUF file.
"""

import contextlib
import fcntl
import functools
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from itx import hashing, storage
from itx.errors import UserError
from itx.models import families, gguf_config, gguf_tokenizer
from itx.models.gguf import MAGIC, File, is_readable, readable_kinds

SUFFIX = ".gguf"
POINTER = "gguf.json"  # {"file", "identity", "version", "files"}
# Raise it when a file's folder comes out otherwise: it is derived anew then.
DERIVED_VERSION = 1


def is_gguf(path: Path) -> bool:
    """Whether a path is a GGUF file, by its content or, where there is none, its name."""
    called_so = path.suffix.lower() == SUFFIX and not path.is_dir()
    if called_so or not path.is_file():
        return called_so
    with contextlib.suppress(OSError), open(path, "rb") as f:
        return f.read(len(MAGIC)) == MAGIC
    return False  # what cannot be read and is not called so is told of as any other file


def folder(path: Path) -> Path:
    """The Hugging Face folder of a GGUF file, derived if it is not there yet; UserError where the
    file cannot be used, or the cache cannot be written."""
    file, top = path.absolute(), storage.user_cache() / "gguf"
    identity = _identity(file)
    try:
        if (known := _known(top, file, identity)) is not None:
            return known
        opened(file)  # what is wrong with its header is said before all of it is read
        to = top / hashing.file_sha256(file)[:16]
        top.mkdir(parents=True, exist_ok=True)
        with _alone(top):
            pointer = {"file": str(file), "identity": identity, "version": DERIVED_VERSION}
            if (held := _pointer(to)) is None:
                storage.clean_parts(top)
                _derive(file, to, pointer)
            else:
                storage.write_json(to / POINTER, held | pointer)
    except OSError as e:
        raise UserError(
            f"{path}: what is derived of it cannot be kept in {top} ({e.strerror or e}); "
            "XDG_CACHE_HOME names another place"
        ) from e
    return to


def _identity(file: Path) -> list[int]:
    """`storage.identity`, as the pointer holds it; UserError where the file is not to be had."""
    try:
        return list(storage.identity(file.stat()))
    except OSError as e:
        raise UserError(f"{file}: {e.strerror or e}") from e


def _known(top: Path, file: Path, identity: list[int]) -> Path | None:
    """The folder that points to this very file, which need not be read then."""
    if time.time() - identity[2] / 1e9 < storage.MIN_AGE_SECONDS:
        return None
    for place in top.glob(f"*/{POINTER}"):
        held = _pointer(place.parent)
        if held and (held["file"], held["identity"]) == (str(file), identity):
            return place.parent
    return None


def _pointer(folder: Path) -> dict[str, Any] | None:
    """What a derived folder's pointer holds; None where the folder is not whole, or older."""
    try:
        held = storage.read_json(folder / POINTER)
        whole = held["version"] == DERIVED_VERSION and {"file", "identity"} <= held.keys()
        whole = whole and all((folder / name).is_file() for name in held["files"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return held if whole else None


@contextlib.contextmanager
def _alone(top: Path) -> Iterator[None]:
    """One process at a time; where the file system has no locks, the folder is whole all the
    same."""
    with open(top / "lock", "w") as f:
        with contextlib.suppress(OSError):
            fcntl.flock(f, fcntl.LOCK_EX)
        yield


def _derive(file: Path, to: Path, pointer: dict[str, Any]) -> None:
    held = opened(file)
    config = gguf_config.config(held)
    texts, generation = gguf_tokenizer.files(held)
    special = ("bos_token_id", "eos_token_id", "pad_token_id")
    config |= {k: generation[k] for k in special if k in generation}
    written = {"config.json": config} | ({"generation_config.json": generation} if texts else {})
    with storage.whole_folder(to) as new:
        for name, values in written.items():
            storage.write_json(new / name, values)
        for name, text in texts.items():
            (new / name).write_text(text, encoding="utf-8")
        storage.write_json(new / POINTER, pointer | {"files": [*written, *texts]})


def source(folder: Path | str) -> Path | None:
    """The GGUF file of a derived folder; None for any other folder."""
    pointer = Path(folder) / POINTER
    if not pointer.is_file():
        return None
    return Path(storage.read_json(pointer)["file"])


def shown(folder: Path | str, name: str = "") -> str:
    """What a message calls a folder, or a file in it: the GGUF file that it was derived from, or
    itself."""
    return str(source(folder) or Path(folder) / name)


# ---- tensors, as safetensors gives them ----------------------------------------------------------


def opened(file: Path) -> File:
    """The file, its header read once a process for as long as it is the same."""
    return _opened(file, tuple(_identity(file)))


@functools.lru_cache(maxsize=4)
def _opened(file: Path, identity: tuple[int, ...]) -> File:
    return File(file)


def tensors(
    folder: Path, config: dict[str, Any]
) -> tuple[dict[str, tuple["Tensors", str]], tuple[str, ...]]:
    """({Hugging Face's name: (what reads it, the file's name)}, the types that can be read) of a
    derived folder; a tensor that the model does not have keeps its own name."""
    cfg, held = families.read(config, shown(folder)), opened(source(folder))
    layers, kind = max(cfg.num_layers, cfg.encoder_layers), config["model_type"]
    own = [
        name.format(i)
        for name in families.tensor_names(cfg, kind).values()
        for i in (range(layers) if "{}" in name else [0])
    ]
    back = {theirs: ours for ours, theirs in gguf_config.tensor_names(held, own, layers).items()}
    reader = Tensors(held)
    return {back.get(name, name): (reader, name) for name in held.tensors}, readable_kinds()


class Tensors:
    """What `safe_open` gives of a file of safetensors."""

    def __init__(self, file: File):
        self.file = file

    def get_slice(self, name: str) -> "Slice":
        return Slice(self.file, name)


class Slice:
    """A tensor in Hugging Face's layout, of which the rows are read that are asked for."""

    def __init__(self, file: File, name: str):
        self.file, self.name, self.tensor = file, name, file.tensors[name]

    def get_shape(self) -> list[int]:
        return list(self.tensor.shape)

    def get_dtype(self) -> str:
        """Of what is read; the type itself where the package gguf cannot read it."""
        return "F32" if is_readable(self.tensor.kind) else self.tensor.kind

    def __getitem__(self, index: Any) -> np.ndarray:
        first, *rest = index if isinstance(index, tuple) else (index,)
        if len(self.tensor.shape) == 1:
            return self.file.rows(self.name)[first] - gguf_config.shift(self.file, self.name)
        rows = np.arange(self.tensor.shape[0])[first]
        rows = gguf_config.original_rows(self.file, self.name, rows)
        if rows.size and rows[-1] - rows[0] == rows.size - 1 and (np.diff(rows) == 1).all():
            rows = slice(rows[0], rows[-1] + 1)  # of the mapped file, not a copy
        return self.file.rows(self.name, rows)[(slice(None), *rest)]


def kinds(folder: Path | str) -> str:
    """In words, how the weights of a derived folder are stored: "Q4_1 (210 tensors), …"; "" for
    any other folder."""
    file = source(folder)
    if file is None:
        return ""
    counts = Counter(t.kind for t in opened(file).tensors.values())
    return ", ".join(f"{kind} ({n})" for kind, n in counts.most_common())
