# SPDX-License-Identifier: Apache-2.0
"""Readers: from one file or folder to its records. `reader(path, options) -> (row label, example or
Bad)`.

Blank lines are no records. Row numbers count from 1 and are the file's own (a header is row 1).
A file that is damaged as a whole (cut-off gzip, broken JSON document, a TFRecord whose checksum is
wrong) is an error in any case, for nobody knows how many records it has lost. No reader here
imports TensorFlow or SeqIO. A new format is a function and an entry of READERS.
"""

import functools
import gzip
import json
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from itx.errors import UserError, did_you_mean
from itx.prepare import delimited
from itx.prepare.records import Bad, Reader, Rows

_UTF8_BOM = b"\xef\xbb\xbf"
_DAMAGED_GZIP = (EOFError, zlib.error, gzip.BadGzipFile)


def _opened(path: Path) -> BinaryIO:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")


def _damaged(path: Path, e: Exception, after: str = "") -> UserError:
    return UserError(f"{path.name}: cut off or damaged gzip{after} ({e})")


def _bad_utf8(e: UnicodeDecodeError, place: str) -> Bad:
    return Bad("bad utf-8", f"byte 0x{e.object[e.start]:02x} at byte {e.start + 1} of {place}")


def _lines(path: Path, blank: bool = False) -> Iterator[tuple[int, bytes]]:
    """(row, bytes) of every line (blank ones where wanted), without its line end; .gz is opened as
    such."""
    row = 0
    try:
        with _opened(path) as f:
            for row, line in enumerate(f, 1):  # noqa: B007  row is used below
                line = line.removeprefix(_UTF8_BOM) if row == 1 else line
                if blank or line.strip():
                    yield row, line.rstrip(b"\r\n")
    except _DAMAGED_GZIP as e:
        raise _damaged(path, e, f" after row {row}") from e


def _text(line: bytes) -> str | Bad:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as e:
        return _bad_utf8(e, "the row")


def _decoder(numbers: bool = True) -> tuple[Callable[[str], Any], list[Bad]]:
    """(a function from a JSON text to its value, what it found that cannot be told from the value).

    JSON leaves open what a key that is there twice means, and has (`numbers`) no NaN and no
    Infinity: such an object or number stands as a Bad in the value, and is in the list, which is
    the caller's to clear.
    """
    bad: list[Bad] = []

    def pairs(items: list[tuple[str, Any]]) -> Any:
        value = dict(items)
        if len(value) == len(items):
            return value
        key = next(k for k, n in Counter(k for k, _ in items).items() if n > 1)
        bad.append(Bad("repeated key", f"the key {key!r} is there twice"))
        return bad[-1]

    def constant(name: str) -> Bad:
        bad.append(Bad("not a JSON number", name))
        return bad[-1]

    constant = constant if numbers else None
    return json.JSONDecoder(object_pairs_hook=pairs, parse_constant=constant).decode, bad


def _place(value: Any, bad: Bad, where: str = "") -> str | None:
    """The path to a Bad in a JSON value, `['meta'][2]`; None where it is not there."""
    if value is bad:
        return where
    parts = value.items() if isinstance(value, dict) else ()
    parts = enumerate(value) if isinstance(value, list) else parts
    return next((p for k, v in parts if (p := _place(v, bad, f"{where}[{k!r}]")) is not None), None)


def _named(value: Any, bad: Bad) -> Bad:
    """The Bad with the place where it stands in a record."""
    place = _place(value, bad)
    return Bad(bad.reason, f"{bad.detail} in the field {place}") if place else bad


def _object(text: str, decode: Callable[[str], Any], bad: list[Bad]) -> dict | Bad:
    """A JSON object from a text; decode, bad: of `_decoder`."""
    bad.clear()
    try:
        value = decode(text)
    except json.JSONDecodeError as e:
        return Bad("broken JSON", f"{e.msg} at column {e.colno}")
    except (RecursionError, ValueError) as e:  # nested too deep, an integer of thousands of digits
        return Bad("broken JSON", str(e))
    if bad:
        return _named(value, bad[-1])
    if not isinstance(value, dict):
        return Bad("not a JSON object", f"{type(value).__name__}")
    return _as_text(value) if "\\u" in text else value


def _as_text(value: Any) -> Any | Bad:
    """The value, or a Bad for a text in it that no file can hold: "\\ud800" is valid JSON."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as e:
        return Bad("bad utf-8", f"lone surrogate \\u{ord(e.object[e.start]):04x}")
    return value


def read_jsonl(path: Path, options: Mapping[str, Any]) -> Rows:
    """One JSON object per line, plain or .gz."""
    decode, bad = _decoder()
    for row, line in _lines(path):
        text = _text(line)
        yield str(row), text if isinstance(text, Bad) else _object(text, decode, bad)


def _document(path: Path, numbers: bool) -> tuple[Any, list[Bad], bool]:
    """A whole JSON file, plain or .gz, what `_decoder` found in it, and whether it spells
    characters by number, as lone surrogates are; a damaged file is an error with its line."""
    decode, bad = _decoder(numbers)
    try:
        with _opened(path) as f:
            text = f.read().removeprefix(_UTF8_BOM).decode("utf-8")
            return decode(text), bad, "\\u" in text
    except UnicodeDecodeError as e:
        row = e.object[: e.start].count(b"\n") + 1
        raise UserError(f"{path.name}:{row}: bad utf-8 (byte 0x{e.object[e.start]:02x})") from e
    except json.JSONDecodeError as e:
        raise UserError(f"{path.name}:{e.lineno}: broken JSON ({e.msg} at column {e.colno})") from e
    except (RecursionError, ValueError) as e:
        raise UserError(f"{path.name}: broken JSON ({e})") from e
    except _DAMAGED_GZIP as e:
        raise _damaged(path, e) from e


def read_document(path: Path) -> Any:
    """A whole JSON file, plain or .gz, each key of whose objects is there once; else an error. NaN
    may stand in it: one of Natural Instructions' tasks has it for a URL, which nobody reads."""
    value, bad, escaped = _document(path, False)
    first = _named(value, bad[-1]) if bad else _as_text(value) if escaped else value
    if isinstance(first, Bad):
        raise UserError(f"{path.name}: {first.reason} ({first.detail})")
    return value


def read_json(path: Path, options: Mapping[str, Any]) -> Rows:
    """One JSON document; `options["rows"]` names the list or the dict (key = row label) of examples
    in it."""
    rows, bad, escaped = _document(path, True)
    key = options.get("rows")
    if key is not None and not isinstance(rows, Bad):
        known = rows if isinstance(rows, dict) else ()
        if key not in known:
            raise UserError(f"{path.name}: no {key!r}" + did_you_mean(key, known))
        rows = rows[key]
    if isinstance(rows, Bad):
        raise UserError(f"{path.name}: {rows.reason} ({rows.detail})")
    if not isinstance(rows, (list, dict)):
        kind = type(rows).__name__
        raise UserError(f"{path.name}: its rows are {kind}, neither a list nor an object")
    for row, value in rows.items() if isinstance(rows, dict) else enumerate(rows, 1):
        inside = next((b for b in bad if _place(value, b) is not None), None)
        if inside:
            value = _named(value, inside)
        elif not isinstance(value, dict):
            value = Bad("not a JSON object", type(value).__name__)
        elif escaped:
            value = _as_text(value)
        yield str(row), value


def _table(path: Path, options: Mapping[str, Any], delimiter: str, quoted: bool) -> Rows:
    """Rows of delimited text; `options["columns"]` names the columns where the file has no
    header."""
    # undecodable bytes become lone surrogates here and are found row by row
    lines = (line.decode("utf-8", "surrogateescape") + "\n" for _, line in _lines(path, blank=True))
    return delimited.rows(lines, path.name, options.get("columns", ()), delimiter, quoted)


def read_csv(path: Path, options: Mapping[str, Any]) -> Rows:
    """Comma-separated, quoted as spreadsheets do, with a header unless `columns` is given."""
    return _table(path, options, ",", True)


def read_tsv(path: Path, options: Mapping[str, Any]) -> Rows:
    """Tab-separated without quoting, with a header unless `columns` is given."""
    return _table(path, options, "\t", False)


def _plain(value: Any) -> Any:
    """NumPy and bytes as Python: texts decoded, scalars and lists; UnicodeDecodeError where bytes
    are no text."""
    import numpy as np  # naming a file format, as every task does, takes no NumPy

    if isinstance(value, bytes):
        return value.decode("utf-8")
    if isinstance(value, np.ndarray):
        return _plain(value.item()) if value.ndim == 0 else [_plain(v) for v in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value


def _plain_or_bad(value: Any) -> Any:
    try:
        return _plain(value)
    except UnicodeDecodeError as e:
        return _bad_utf8(e, "a text")


def read_parquet(path: Path, options: Mapping[str, Any]) -> Rows:
    """Apache Parquet, a batch of rows at a time; lists and structs become lists and dicts."""
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            _check_names(file.schema_arrow, path.name)
            yield from _arrow_rows(file.iter_batches(1024))
    except (pyarrow.ArrowInvalid, OSError) as e:
        raise UserError(f"{path.name}: not a whole Parquet file ({e})") from e


def read_arrow(path: Path, options: Mapping[str, Any]) -> Rows:
    """An Arrow stream, as `datasets.Dataset.save_to_disk` writes it."""
    import pyarrow

    try:
        with pyarrow.OSFile(str(path)) as file, pyarrow.ipc.open_stream(file) as stream:
            _check_names(stream.schema, path.name)
            yield from _arrow_rows(stream)
    except (pyarrow.ArrowInvalid, OSError) as e:
        raise UserError(f"{path.name}: not a whole Arrow stream ({e})") from e


def _check_names(fields: Any, where: str) -> None:
    """Each field of a schema, and of a struct in it, must have a name of its own: in a dict the
    last one would win."""
    names = Counter(f.name for f in fields)
    for field in fields:
        if (n := names[field.name]) > 1:
            told = f"{n} columns are called {field.name!r}; a field has one column"
            raise UserError(f"{where}: {told}")
        kind = field.type
        while hasattr(kind, "value_type"):  # a list's or a dictionary's
            kind = kind.value_type
        if hasattr(kind, "fields"):
            _check_names(kind.fields, f"{where}: {field.name!r}")


def _arrow_rows(batches: Any) -> Rows:
    row = 0
    for batch in batches:
        try:
            values = batch.to_pylist()
        except UnicodeDecodeError:  # find the row
            values = [_one_arrow_row(batch, i) for i in range(batch.num_rows)]
        for value in values:
            row += 1
            yield str(row), value


def _one_arrow_row(batch: Any, i: int) -> dict | Bad:
    try:
        return batch.slice(i, 1).to_pylist()[0]
    except UnicodeDecodeError as e:
        return _bad_utf8(e, "a text")


def tfrecords(path: Path) -> Iterator[bytes]:
    """The records of a TFRecord file, plain or .gz; both checksums (masked CRC-32C) are checked."""
    import google_crc32c

    def good(data: bytes, masked: bytes) -> bool:
        crc = google_crc32c.value(data)
        return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF) == masked

    n, damage = 0, f"{path.name}: cut off or damaged TFRecord after record"
    with _opened(path) as f:
        try:
            while head := f.read(12):
                if len(head) < 12 or not good(head[:8], head[8:]):
                    raise UserError(f"{damage} {n}")
                (length,) = struct.unpack("<Q", head[:8])
                data, mark = f.read(length), f.read(4)
                if len(data) < length or len(mark) < 4 or not good(data, mark):
                    raise UserError(f"{damage} {n}")
                n += 1
                yield data
        except _DAMAGED_GZIP as e:
            raise _damaged(path, e, f" after record {n}") from e


def read_tfrecord(path: Path, options: Mapping[str, Any]) -> Rows:
    """tf.train.Examples. `options["features"]`: name -> str, bytes, int or float, in a list ([int])
    for many values."""
    from tensorflow_datasets.proto import tf_example_pb2

    features = dict(options["features"])
    for row, data in enumerate(tfrecords(path), 1):
        try:
            given = tf_example_pb2.Example.FromString(data).features.feature
        except Exception as e:  # protobuf's DecodeError, under several names
            yield str(row), Bad("not a tf.train.Example", str(e))
            continue
        yield str(row), _features(given, features)


def _features(given: Mapping[str, Any], kinds: Mapping[str, Any]) -> dict | Bad:
    features = {}
    for name, kind in kinds.items():
        if name not in given:
            return Bad("missing feature", f"no {name!r}{did_you_mean(name, given)}")
        many = isinstance(kind, list)
        kind = kind[0] if many else kind
        stored = {int: "int64_list", float: "float_list"}.get(kind, "bytes_list")
        values = list(getattr(given[name], stored).value)
        if not many and len(values) != 1:
            told = f"{name!r} holds {len(values)} values of type {kind.__name__}, not one"
            return Bad("wrong feature", told)
        values = values if kind is bytes else _plain_or_bad(values)
        if isinstance(values, Bad):
            return values
        features[name] = values if many else values[0]
    return features


@functools.lru_cache(maxsize=1024)
def tfds_builder(folder: Path) -> Any:
    """TFDS's description of a prepared folder; neither this nor reading the folder imports
    TensorFlow."""
    import tensorflow_datasets as tfds

    try:
        return tfds.builder_from_directory(folder)
    except Exception as e:
        raise UserError(f"{folder}: not a prepared TFDS folder ({type(e).__name__}: {e})") from e


def read_tfds(path: Path, options: Mapping[str, Any]) -> Rows:
    """Elements of one TFDS shard (TFRecord or ArrayRecord), decoded by the features of its folder.

    `skip`, `take`: which of its rows; `rows`: how many it must hold. Rows count from 0, as TFDS's
    ids do.
    """
    features = tfds_builder(path.parent).info.features
    skip, most = options["skip"], options["skip"] + options["take"]
    row = -1
    records = _array_records if "array_record" in path.name else tfrecords
    for row, data in enumerate(records(path)):
        if row >= most:
            return
        if row >= skip:
            yield str(row), _plain_or_bad(features.deserialize_example_np(data))
    if row + 1 < min(most, options["rows"]):
        told = f"holds {row + 1} records; dataset_info.json says {options['rows']}"
        raise UserError(f"{path.name}: {told}")


def _array_records(path: Path) -> Iterator[bytes]:
    from array_record.python import array_record_module

    reader = array_record_module.ArrayRecordReader(str(path))
    try:
        for start in range(0, reader.num_records(), 1024):
            yield from reader.read(start, min(start + 1024, reader.num_records()))
    finally:
        reader.close()


READERS: dict[str, Reader] = {
    "jsonl": read_jsonl,
    "json": read_json,
    "csv": read_csv,
    "tsv": read_tsv,
    "parquet": read_parquet,
    "tfrecord": read_tfrecord,
    "tfds": read_tfds,
    "hf_dataset": read_arrow,
}
