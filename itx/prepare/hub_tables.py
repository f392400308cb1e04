# SPDX-License-Identifier: Apache-2.0
"""Which files of a data set of the hub make a split, by their names, as `datasets` takes them.

    data/train-00000-of-00001.parquet    main/test.jsonl    dev.csv

A file whose path holds a split's name is of that split; where none does, all files are train. A
script that loads a data set is code, and never run.
"""

import gzip
import re
from pathlib import Path

from itx.errors import UserError, did_you_mean

# {end of a file's name: its reader}; of a data set that has several forms the first is read
KINDS = {".parquet": "parquet", ".jsonl": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "tsv"}
WORDS = {
    "train": "train|training",
    "validation": "validation|valid|dev|val",
    "test": "test|testing|eval|evaluation",
}
OF_THE_SET = re.compile(r"(?:.*/)?(?:dataset_infos?|dataset_dict|state|config|\..*)\.json")


def _suffix(file: str) -> str:
    return Path(file.removesuffix(".gz")).suffix


def _split_of(file: str) -> str:
    """The split that a path names; "" for none."""
    named = (s for s, w in WORDS.items() if re.search(rf"(?<![a-z])(?:{w})(?![a-z])", file.lower()))
    return next(named, "")


def of_split(name: str, files: list[str], split: str, subset: str = "") -> list[str]:
    """The files of a split ("" is the whole); UserError where there are none, or of several
    subsets."""
    tables = [f for f in files if _suffix(f) in KINDS and not OF_THE_SET.fullmatch(f)]
    if not tables:
        others = ", ".join(f for f in files if not f.startswith("."))
        raise UserError(
            f"{name} holds no data file ({', '.join(KINDS)}), only {others or 'nothing'}; code is "
            "never run"
        )
    if subset:
        inside = {p for f in tables for p in Path(f).parts[:-1]}
        tables = [f for f in tables if subset in Path(f).parts[:-1]]
        if not tables:
            raise UserError(f"{name} has no subset {subset!r}" + did_you_mean(subset, inside))
    suffix = next(s for s in KINDS if any(_suffix(f) == s for f in tables))
    tables = [f for f in tables if _suffix(f) == suffix]
    by_split: dict[str, list[str]] = {}
    for file in tables:
        by_split.setdefault(_split_of(file), []).append(file)
    if list(by_split) == [""]:
        by_split = {"train": by_split[""]}
    if split and split not in by_split:
        raise UserError(
            f"{name} has no files of the split {split!r}" + did_you_mean(split, by_split)
        )
    chosen = by_split[split] if split else tables
    folders = sorted({str(Path(f).parent) for f in chosen})
    if len(folders) > 1 and split:
        raise UserError(
            f"{name} holds several subsets; name one: subset={folders[0].split('/')[0]!r}"
            + did_you_mean("", folders)
        )
    return sorted(chosen)


def kind(file: Path) -> str:
    """The reader of a file: many a .json holds a line for each row."""
    suffix = _suffix(file.name)
    if suffix != ".json":
        return KINDS[suffix]
    opener = gzip.open if file.suffix == ".gz" else open
    with opener(file, "rb") as f:
        return "json" if f.read(64).lstrip()[:1] == b"[" else "jsonl"
