# SPDX-License-Identifier: Apache-2.0
"""Readers: from a task's `Source` description to (example id, example), one record at a time.

    record   what the reader finds: a line, a row, an element. Each counts as "read".
    bad      a record that cannot be read. An error that names file, row and reason; with
             `data.skip_bad` it is counted under its reason and left out instead.
    reader   `reader(path, options) -> iterator of (row label, example or Bad)`, an entry of READERS.

Blank lines are no records. Row numbers count from 1 and are the file's own (a header is row 1).
A file that is damaged as a whole (cut-off gzip, broken JSON document) is an error in any case, for
nobody knows how many records it has lost. No reader here imports TensorFlow or SeqIO.
"""

import csv
import functools
import gzip
import hashlib
import inspect
import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from itx.build import fingerprint
from itx.errors import UserError, did_you_mean
from itx.tasks.spec import Source

_UTF8_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Bad:
    """An unreadable record: the reason it is counted under, and the details for the error."""

    reason: str
    detail: str


Rows = Iterator[tuple[str, dict | Bad]]
Reader = Callable[[Path, Mapping[str, Any]], Rows]


def open_source(
    source: Source, split: str, root: str, seed: int, counts: Counter, skip_bad: bool = False
) -> Iterator[tuple[str, dict]]:
    """Yield (example id, example) of a source's split; "" is the whole of a source split by hash.

    The id is `file:row`, or the record's own where `source.options["id"]` names that field and it does
    not repeat; for a function, the index. counts: "read" plus one entry per reason of a skip.
    """
    if not isinstance(source, Source):
        raise UserError(f"a source is one of {sorted([*READERS, 'function'])}, not {type(source).__name__}")
    if source.kind == "function":
        yield from _function(source, split, root, seed, counts)
        return
    for file in _files(source, split):
        path = find_file(file, root)
        name = Path(file).name if Path(file).is_absolute() else file
        seen: set[str] = set()
        for row, example in _reader(source)(path, source.options):
            counts["read"] += 1
            if isinstance(example, Bad):
                if not skip_bad:
                    raise UserError(
                        f"{name}:{row}: {example.reason} ({example.detail}); "
                        "--data.skip_bad=True counts and skips such rows"
                    )
                counts[example.reason] += 1
                continue
            own = example.get(source.options["id"]) if "id" in source.options else None
            own = str(own) if isinstance(own, (str, int)) and str(own) not in seen else f"{name}:{row}"
            seen.add(own)
            yield own, example


def source_hash(source: Source, split: str, root: str, seed: int) -> str:
    """Hash of what the split is read from: file bytes, or the maker's code and the seed."""
    if not isinstance(source, Source):
        raise UserError(f"a source is one of {sorted([*READERS, 'function'])}, not {type(source).__name__}")
    how = [source.kind, json.dumps(dict(source.options), sort_keys=True, default=str)]
    if source.kind == "function":
        # split matters to the maker only where the splits are its own
        how += [str(seed), "" if source.split_by_hash else split, _code_hash(source.make)]
    else:
        for file in _files(source, split):
            path = find_file(file, root)
            stat = path.stat()
            how += [str(file), _bytes_hash(path, stat.st_size, stat.st_mtime_ns)]
    return hashlib.sha256("\x1f".join(how).encode()).hexdigest()[:16]


def find_file(file: str, root: str) -> Path:
    """The path of a source file under `data.root`; a missing one is an error with the nearest names."""
    path = Path(file)
    if not path.is_absolute():
        if not root:
            raise UserError(f"source file {file!r} stands under data.root, which is not set: set --data.root=FOLDER")
        if not Path(root).is_dir():
            raise UserError(f"data.root: no folder {root!r}" + beside(Path(root)))
        path = Path(root) / file
    if path.is_file():
        return path
    if path.is_dir():
        raise UserError(f"source file {file!r} is a folder in data.root={root!r}" + beside(path / "?"))
    where = "is not there" if Path(file).is_absolute() else f"is not in data.root={root!r}"
    raise UserError(f"source file {file!r} {where}" + beside(path))


def beside(path: Path) -> str:
    """`; did you mean …` from what the deepest folder on the way to a missing path holds."""
    missing = path.name
    for folder in path.parents:
        if folder.is_dir():
            held = sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))
            return did_you_mean(missing, held) if held else f"; {folder} is empty"
        missing = folder.name
    return ""


def _files(source: Source, split: str) -> list[str]:
    if split not in source.files:
        raise UserError(f"the source has no split {split!r}" + did_you_mean(split, source.files))
    files = source.files[split]
    return [str(files)] if isinstance(files, (str, Path)) else [str(f) for f in files]


def _reader(source: Source) -> Reader:
    if source.kind not in READERS:
        raise UserError(f"unknown kind of source {source.kind!r}" + did_you_mean(source.kind, [*READERS, "function"]))
    return READERS[source.kind]


def _function(source: Source, split: str, root: str, seed: int, counts: Counter) -> Iterator[tuple[str, dict]]:
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
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


@functools.cache
def _code_hash(make: Callable) -> str:
    """Hash of a maker: its arguments, its module's text, and the own functions and values that it uses."""
    inner, given = make, []
    while isinstance(inner, functools.partial):
        given += [*fingerprint.of_value(list(inner.args)), *fingerprint.of_value(inner.keywords)]
        inner = inner.func
    module = inspect.getmodule(inner)
    text = "" if module is None else "\n".join(fingerprint.of_value(module))
    return hashlib.sha256("\x1f".join([*given, text, *fingerprint.of_function(inner)]).encode()).hexdigest()


def _lines(path: Path, blank: bool = False) -> Iterator[tuple[int, bytes]]:
    """(row, bytes) of every line (blank ones where wanted), without its line end; .gz is opened as such."""
    row = 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as f:
            for row, line in enumerate(f, 1):  # noqa: B007  row is used below
                line = line.removeprefix(_UTF8_BOM) if row == 1 else line
                if blank or line.strip():
                    yield row, line.rstrip(b"\r\n")
    except (EOFError, zlib.error, gzip.BadGzipFile) as e:
        raise UserError(f"{path.name}: cut off or damaged gzip after row {row} ({e})") from e


def _text(line: bytes) -> str | Bad:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as e:
        return Bad("bad utf-8", f"byte 0x{line[e.start]:02x} at byte {e.start + 1} of the row")


def _object(text: str) -> dict | Bad:
    """A JSON object from a text."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as e:
        return Bad("broken JSON", f"{e.msg} at column {e.colno}")
    except (RecursionError, ValueError) as e:  # nested too deep, an integer of thousands of digits
        return Bad("broken JSON", str(e))
    if not isinstance(value, dict):
        return Bad("not a JSON object", f"{type(value).__name__}")
    if "\\u" in text:  # "\ud800" is valid JSON and no valid text: it could not be written anywhere
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as e:
            return Bad("bad utf-8", f"lone surrogate \\u{ord(e.object[e.start]):04x}")
    return value


def read_jsonl(path: Path, options: Mapping[str, Any]) -> Rows:
    """One JSON object per line, plain or .gz."""
    for row, line in _lines(path):
        text = _text(line)
        yield str(row), text if isinstance(text, Bad) else _object(text)


def read_document(path: Path) -> Any:
    """A whole JSON file, plain or .gz; a damaged one is an error that names file and line."""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        return json.loads(data.removeprefix(_UTF8_BOM).decode("utf-8"))
    except UnicodeDecodeError as e:
        row = e.object[: e.start].count(b"\n") + 1
        raise UserError(f"{path.name}:{row}: bad utf-8 (byte 0x{e.object[e.start]:02x})") from e
    except json.JSONDecodeError as e:
        raise UserError(f"{path.name}:{e.lineno}: broken JSON ({e.msg} at column {e.colno})") from e
    except (RecursionError, ValueError) as e:
        raise UserError(f"{path.name}: broken JSON ({e})") from e
    except (EOFError, zlib.error, gzip.BadGzipFile) as e:
        raise UserError(f"{path.name}: cut off or damaged gzip ({e})") from e


def read_json(path: Path, options: Mapping[str, Any]) -> Rows:
    """One JSON document; `options["rows"]` names the list or the dict (key = row label) of examples in it."""
    found = read_document(path)
    key = options.get("rows")
    if key is not None:
        if not isinstance(found, dict) or key not in found:
            raise UserError(f"{path.name}: no {key!r}" + did_you_mean(key, found if isinstance(found, dict) else ()))
        found = found[key]
    if not isinstance(found, (list, dict)):
        raise UserError(f"{path.name}: its rows are {type(found).__name__}, neither a list nor an object")
    pairs = found.items() if isinstance(found, dict) else enumerate(found, 1)
    for row, value in pairs:
        good = isinstance(value, dict)
        yield str(row), value if good else Bad("not a JSON object", type(value).__name__)


def _table(path: Path, options: Mapping[str, Any], **dialect: Any) -> Rows:
    """Rows of delimited text; `options["columns"]` names the columns where the file has no header."""
    # undecodable bytes become lone surrogates here and are found row by row below
    lines = (line.decode("utf-8", "surrogateescape") + "\n" for _, line in _lines(path, blank=True))
    columns = list(options.get("columns", ())) or None
    # strict: a quote that never closes is an error, not one cell that swallows the file
    reader = csv.reader(lines, strict=True, **dialect)
    for row in iter(functools.partial(_next_row, reader), None):
        if row == []:  # a blank line
            continue
        if columns is None and not isinstance(row, Bad):
            columns = row
            continue
        yield str(reader.line_num), row if isinstance(row, Bad) else _record(columns, row)


def _next_row(reader: Any) -> list[str] | Bad | None:
    try:
        return next(reader, None)
    except csv.Error as e:
        return Bad("broken row", str(e))


def _record(columns: list[str], row: list[str]) -> dict | Bad:
    if len(row) != len(columns):
        return Bad("wrong number of columns", f"{len(row)} rather than {len(columns)}")
    try:
        "".join(row).encode()
    except UnicodeEncodeError as e:
        return Bad("bad utf-8", f"byte 0x{ord(e.object[e.start]) & 0xFF:02x}")
    return dict(zip(columns, row, strict=True))


def read_csv(path: Path, options: Mapping[str, Any]) -> Rows:
    """Comma-separated, quoted as spreadsheets do, with a header unless `columns` is given."""
    return _table(path, options)


def read_tsv(path: Path, options: Mapping[str, Any]) -> Rows:
    """Tab-separated without quoting, with a header unless `columns` is given."""
    return _table(path, options, delimiter="\t", quoting=csv.QUOTE_NONE)


READERS: dict[str, Reader] = {"jsonl": read_jsonl, "json": read_json, "csv": read_csv, "tsv": read_tsv}
