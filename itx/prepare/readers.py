# SPDX-License-Identifier: Apache-2.0
"""Readers: from one file or folder to its records. `reader(path, options) -> (row label, example or
Bad)`.

Blank lines are no records. Row numbers count from 1 and are the file's own (a header is row 1).
A file that is damaged as a whole (cut-off gzip, broken JSON document, a TFRecord whose checksum is
wrong) is an error in any case, for nobody knows how many records it has lost. No reader here
imports TensorFlow or SeqIO. A new format is a function and an entry of READERS.
"""

import functools
import struct
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from itx.errors import UserError, did_you_mean
from itx.prepare import delimited
from itx.prepare.json_rows import read_json, read_jsonl
from itx.prepare.records import Bad, Options, Reader, Rows, bad_utf8, lines, opened


def _read_table(path: Path, options: Options, delimiter: str, quoted: bool) -> Rows:
    """Rows of delimited text; `options["columns"]` names the columns where the file has no
    header."""
    # undecodable bytes become lone surrogates here and are found row by row
    texts = (line.decode("utf-8", "surrogateescape") + "\n" for _, line in lines(path, blank=True))
    return delimited.rows(texts, path.name, options.get("columns", ()), delimiter, quoted)


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
        return bad_utf8(e, "a text")


def read_parquet(path: Path, options: Options) -> Rows:
    """Apache Parquet, a batch of rows at a time; lists and structs become lists and dicts."""
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            _check_names(file.schema_arrow, path.name)
            yield from _arrow_rows(file.iter_batches(1024))
    except (pyarrow.ArrowInvalid, OSError) as e:
        raise UserError(f"{path.name}: not a whole Parquet file ({e})") from e


def read_arrow(path: Path, options: Options) -> Rows:
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
            raise UserError(
                f"{where}: {n} columns are called {field.name!r}; a field has one column"
            )
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
        return bad_utf8(e, "a text")


def tfrecords(path: Path) -> Iterator[bytes]:
    """The records of a TFRecord file, plain or .gz; both checksums (masked CRC-32C) are checked."""
    import google_crc32c

    def good(data: bytes, masked: bytes) -> bool:
        crc = google_crc32c.value(data)
        return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF) == masked

    n, damage = 0, f"{path.name}: cut off or damaged TFRecord after record"
    with opened(path, lambda: f" after record {n}") as f:
        while head := f.read(12):
            if len(head) < 12 or not good(head[:8], head[8:]):
                raise UserError(f"{damage} {n}")
            (length,) = struct.unpack("<Q", head[:8])
            data, mark = f.read(length), f.read(4)
            if len(data) < length or len(mark) < 4 or not good(data, mark):
                raise UserError(f"{damage} {n}")
            n += 1
            yield data


def read_tfrecord(path: Path, options: Options) -> Rows:
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


def read_tfds(path: Path, options: Options) -> Rows:
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
        raise UserError(
            f"{path.name}: holds {row + 1} records; dataset_info.json says {options['rows']}"
        )


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
    "csv": functools.partial(_read_table, delimiter=",", quoted=True),  # as spreadsheets quote
    "tsv": functools.partial(_read_table, delimiter="\t", quoted=False),
    "parquet": read_parquet,
    "tfrecord": read_tfrecord,
    "tfds": read_tfds,
    "hf_dataset": read_arrow,
}
