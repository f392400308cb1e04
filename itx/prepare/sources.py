# SPDX-License-Identifier: Apache-2.0
"""From a task's `Source` description to (example id, example), one record at a time.

    record   what a reader (readers.py) finds: a line, a row, an element. Each counts as "read".
    bad      a record that cannot be read. An error that names file, row and reason; with
             `data.skip_bad` it is counted under its reason and left out instead.

Files stand under `data.root`, TFDS folders under $TFDS_DATA_DIR (`data.tfds_data_dir` sets it).
"""

import functools
import inspect
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from itx import hashing, hub
from itx.errors import UserError, check_known, did_you_mean, did_you_mean_file
from itx.prepare import hub_tables, json_rows, readers
from itx.prepare.readers import READERS
from itx.prepare.records import Bad
from itx.tasks import fingerprint
from itx.tasks.spec import SPLITS, Source

# A set that ships no validation or test part gives them this share of train, by content hash.
HELD_OUT_SHARE = 0.05


def source_splits(source: Source, split: str) -> list[tuple[str, float, float]]:
    """Which rows make a split: [(source split, from, to)], from <= hash / 2^64 < to.

    A split that is declared is whole, so that its scores compare with published ones. A set with
    train alone gives 5 % of it each to validation and test; with train and test, 5 % of train to
    validation; with train and validation it has no test, or (`halve`) each half of validation. A
    set whose only split is an evaluation split is test, and has no validation.
    """
    if source.split_by_hash:
        low, shares = 0.0, []
        for name, share in source.split_by_hash.items():
            if name == split:
                shares.append(("", low, low + share))
            low += share
        return shares
    have = set(source.files) or set(source.options.get("splits", ()))
    evaluation = have - {"train"}
    if split == "train":
        # how many shares the other splits take of it
        shares = 0 if "validation" in have else 1 if evaluation else 2
        return [("train", 0.0, 1.0 - shares * HELD_OUT_SHARE)] if "train" in have else []
    if source.halve:
        return [("validation", 0.0, 0.5) if split == "validation" else ("validation", 0.5, 1.0)]
    if len(have) == 1 and evaluation:
        return [(*evaluation, 0.0, 1.0)] if split == "test" else []
    if split in have:
        return [(split, 0.0, 1.0)]
    if "validation" in have or "train" not in have:
        return []
    low = 1 - HELD_OUT_SHARE * (1 if split == "test" or evaluation else 2)
    return [("train", low, 1.0 if evaluation else low + HELD_OUT_SHARE)]


def splits(source: Source) -> dict[str, str]:
    """Each split that a source has, and what it is made of: `whole`, or its share of a split that
    is declared."""
    made_of = {}
    for split in SPLITS:
        for declared, low, high in source_splits(source, split):
            if (low, high) == (0.0, 1.0):
                made_of[split] = "whole" if declared == split else f"all of {declared}"
            else:
                made_of[split] = f"{high - low:.0%} of {declared or 'all rows'}, by hash"
    return made_of


def open_source(
    source: Source,
    split: str,
    root: str,
    seed: int,
    counts: Counter,
    skip_bad: bool = False,
    faults: dict[str, str] | None = None,
) -> Iterator[tuple[str, dict]]:
    """Yield (example id, example) of a source's split; "" is the whole of a source split by hash.

    The id is `file:row` (`file__row` for TFDS, as its own ids are), or the record's own where
    `source.options["id"]` names that field and it does not repeat; for a function, the index.

    Args:
        seed: data.suite_seed, which functions are given.
        counts: gets "read" and one entry per reason of a skip.
        faults: gets the first record of each reason, in words.
    """
    if source.kind == "function":
        yield from _function(source, split, root, seed, counts)
        return
    own_ids: set[str] = set()
    for part in parts(source, split, root):
        for row, example in READERS[part.kind or source.kind](part.path, part.options):
            counts["read"] += 1
            if isinstance(example, Bad):
                told = f"{part.name}:{row}: {example.reason} ({example.detail})"
                if not skip_bad:
                    raise UserError(told + "; --data.skip_bad=True counts and skips such rows")
                counts[example.reason] += 1
                if faults is not None:
                    faults.setdefault(example.reason, told)
                continue
            own = example.get(source.options["id"]) if "id" in source.options else None
            if isinstance(own, (str, int)) and str(own) not in own_ids:
                own_ids.add(str(own))
                yield str(own), example
            else:
                yield f"{part.name}{part.joined}{row}", example


def source_hash(source: Source, split: str, root: str, seed: int) -> str:
    """Hash of what the split is read from: file bytes, or the maker's code and the seed."""
    read = [source.kind, json.dumps(dict(source.options), sort_keys=True, default=str)]
    if source.kind == "function":
        # The split matters to the maker only where the splits are its own.
        read += [seed, "" if source.split_by_hash else split, _code_hash(source.make)]
    else:
        for part in parts(source, split, root):
            for path in (part.path, *part.beside):
                stat = path.stat()
                sha256 = _bytes_hash(path, stat.st_size, stat.st_mtime_ns)
                read += [part.name, json.dumps(part.where), sha256]
    return hashing.digest(*read)


def hashes(source: Source, split: str, root: str, seed: int) -> list[tuple[str, float, float]]:
    """`source_splits` of a split, with a hash of what is read in place of a name."""
    return [
        (source_hash(source, s, root, seed), *share) for s, *share in source_splits(source, split)
    ]


@dataclass(frozen=True)
class Part:
    """One file of a source's split, as its reader opens it."""

    name: str
    path: Path
    options: Mapping[str, Any]
    joined: str = ":"  # between the file's name and the row, in an example's id
    where: tuple = ()  # which rows of the file, where not all
    beside: tuple[Path, ...] = ()  # files that say how it is read
    kind: str = ""  # of its reader, where not the source's


def parts(source: Source, split: str, root: str) -> list[Part]:
    """The files of a split in order; one that is missing is an error with the nearest names."""
    kinds = [*READERS, "function"]
    check_known(source.kind, kinds, f"unknown kind of source {source.kind!r}")
    check_known(split, source.files, f"the source has no split {split!r}")
    given = source.files[split]
    if source.kind == "tfds":
        return _tfds_parts(source, given)
    files = [str(given)] if isinstance(given, (str, Path)) else [str(f) for f in given]
    if source.kind == "hf_dataset":
        return [part for f in files for part in _hf_parts(source, f, split, root)]
    return [
        Part(Path(f).name if Path(f).is_absolute() else f, find_file(f, root), source.options)
        for f in files
    ]


def _tfds_parts(source: Source, instruction: str) -> list[Part]:
    """The shards that a split instruction such as `train[:-200]` reads, with the rows of each."""
    name = source.options["name"]
    folder = tfds_folder(name)
    info = readers.tfds_builder(folder).info
    try:
        shards = info.splits[instruction].file_instructions
    except (KeyError, ValueError, AssertionError) as e:
        base = instruction.partition("[")[0]
        near = did_you_mean(base, info.splits) if base not in info.splits else f" ({e})"
        raise UserError(f"{name}: no split {instruction!r}{near}") from e
    files = []
    for shard in shards:
        path = Path(shard.filename)
        if not path.is_file():
            raise UserError(f"{name}: {path} is missing; its dataset_info.json names it")
        rows = {"skip": shard.skip, "take": shard.take, "rows": shard.examples_in_shard}
        where, beside = (shard.skip, shard.take), (folder / "features.json",)
        files.append(Part(path.name, path, {**source.options, **rows}, "__", where, beside))
    return files


def tfds_top() -> Path:
    """The folder that prepared TFDS sets stand in."""
    return Path(os.environ.get("TFDS_DATA_DIR") or Path.home() / "tensorflow_datasets")


def tfds_folder(name: str) -> Path:
    """The folder of `glue/rte:2.0.0` (without a version: the newest there) under $TFDS_DATA_DIR."""
    base, _, version = name.partition(":")
    folder = tfds_top() / base
    where = f"TFDS {name!r}:"
    hint = f"`uv run tfds build {base} --data_dir={tfds_top()}` makes it where there is a network"
    if not folder.is_dir():
        near = did_you_mean_file(folder)
        raise UserError(
            f"{where} no folder {base!r} in data.tfds_data_dir={str(tfds_top())!r}{near}; {hint}"
        )
    inside = list(folder.iterdir())
    versions = [p.name for p in inside if (p / "dataset_info.json").is_file()]
    if version and version not in versions:
        near = did_you_mean(version, versions)
        raise UserError(f"{where} version {version} is not in {folder}{near}; {hint}")
    if not versions:
        configs = [f"{base}/{p.name}" for p in inside if list(p.glob("*/dataset_info.json"))]
        near = did_you_mean(base, configs) if configs else ""
        raise UserError(
            f"{where} {folder} holds no prepared version (dataset_info.json){near}; {hint}"
        )

    def numbers(v: str) -> list[int]:
        return [int(n) if n.isdigit() else -1 for n in v.split(".")]

    return folder / (version or max(versions, key=numbers))


def _hf_parts(source: Source, folder: str, split: str, root: str) -> list[Part]:
    """The Arrow files of a folder that `Dataset.save_to_disk` wrote, or of one split of a
    `DatasetDict`'s; or the files of a data set of the hub."""
    if hub.is_name(folder) and not (Path(root) / folder.partition("/")[0]).exists():
        subset, name = source.options.get("subset", ""), hub.pinned(folder, "dataset")
        place, files = hub.folder(
            name, "dataset", lambda names: hub_tables.of_split(name, names, split, subset)
        )
        repo = folder.partition("@")[0]
        return [Part(f"{repo}/{f}", place / f, {}, kind=hub_tables.kind(place / f)) for f in files]
    state = json_rows.read_document(find_file(f"{folder}/state.json", root))
    if any(state.get(f"_indices_{what}") for what in ("files", "mapping", "data_files")):
        raise UserError(
            f"{folder}: the dataset was filtered or shuffled; save dataset.flatten_indices() "
            "instead"
        )
    files = [f["filename"] for f in state.get("_data_files", ())]
    return [Part(f"{folder}/{f}", find_file(f"{folder}/{f}", root), source.options) for f in files]


def find_file(file: str, root: str) -> Path:
    """The path of a source file under `data.root`; a missing one is an error with the nearest
    names."""
    path = Path(file)
    told, inside = f"source file {file!r}", f"data.root={root!r}"
    if not path.is_absolute():
        if not root:
            hint = "which is not set: give --data.root=FOLDER (--root FOLDER of `itx tasks`)"
            raise UserError(f"{told} stands under data.root, {hint}")
        if not Path(root).is_dir():
            raise UserError(f"data.root: no folder {root!r}" + did_you_mean_file(Path(root)))
        path = Path(root) / file
    if path.is_file():
        return path
    if path.is_dir():
        raise UserError(f"{told} is a folder in {inside}" + did_you_mean_file(path / "?"))
    where = "is not there" if Path(file).is_absolute() else f"is not in {inside}"
    raise UserError(f"{told} {where}" + did_you_mean_file(path))


def _function(
    source: Source, split: str, root: str, seed: int, counts: Counter
) -> Iterator[tuple[str, dict]]:
    for i, example in enumerate(source.make(split, root, seed)):
        counts["read"] += 1
        if not isinstance(example, Mapping):
            name = getattr(source.make, "__qualname__", repr(source.make))
            raise UserError(f"{name}: example {i} is {type(example).__name__}, not a dict")
        yield str(i), example


@functools.lru_cache(maxsize=4096)
def _bytes_hash(path: Path, size: int, changed_ns: int) -> str:
    """SHA-256 of a file's bytes; size and time of change only say when to compute it anew."""
    del size, changed_ns
    return hashing.file_sha256(path)


def _code_hash(make: Callable) -> str:
    """Hash of a maker: its module's text, and the values and the code of the user's that it
    uses."""
    inner = make
    while isinstance(inner, functools.partial):
        inner = inner.func
    module = inspect.getmodule(inner)
    text = [] if module is None else fingerprint.of_value(module)
    package = {fingerprint.package_of(inner)}
    return hashing.digest(*text, *fingerprint.of_function(make, package))
