# SPDX-License-Identifier: Apache-2.0
"""Binary formats: equal to what their own libraries read, and one clear line for damage."""

import json
import subprocess
import sys
from collections import Counter

import pyarrow
import pyarrow.parquet
import pytest

from itx.errors import UserError
from itx.prepare import readers, sources
from itx.tasks.spec import csv, hf_dataset, parquet, tfds, tfrecord, tsv
from tests.conftest import REPO


def read(source, root="", split="train", skip_bad=False):
    counts: Counter = Counter()
    return list(sources.open_source(source, split, str(root), 0, counts, skip_bad)), counts


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> tuple:
    """(data_dir, what TFDS reads from it)."""
    folder = tmp_path_factory.mktemp("tfds")
    command = [sys.executable, "-m", "tests.prepare.tfds_probe", str(folder)]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def data_dir(prepared, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared[0]))
    return prepared[0]


@pytest.mark.parametrize(
    "instruction", ["train", "validation", "train[:-15]", "train[35:90]", "train[50%:]"]
)
def test_tfds_ids_and_values_are_tfdss_own(prepared, data_dir, instruction):
    rows, counts = read(tfds("glue/rte:2.0.0", {"train": instruction}))
    want = prepared[1][instruction]
    assert [list(r) for r in rows] == want and counts == {"read": len(want)}
    assert len({i for i, _ in rows}) == len(rows) > 10


def test_tfds_nested_features_and_array_records(prepared, data_dir):
    rows, _ = read(tfds("squad/v1.1", ["train"]))  # no version: the newest there
    assert [list(r) for r in rows] == prepared[1]["squad"] and rows[0][1]["answers"]["text"] == [
        "one",
        "два",
    ]
    rows, _ = read(tfds("glue/mrpc", ["train"]))
    assert [e for _, e in rows] == prepared[1]["mrpc"]
    rows, _ = read(tfds("glue/mrpc", {"train": "train[45:]"}))
    assert [e for _, e in rows] == prepared[1]["mrpc"][45:]


@pytest.mark.parametrize(
    "name, splits, message",
    [
        (
            "glue/rtee",
            ["train"],
            "no folder 'glue/rtee' in data.tfds_data_dir=.*did you mean 'rte'.*tfds build glue/rtee",
        ),
        ("glue/rte:1.0.0", ["train"], "version 1.0.0 is not in .*'2.0.0'"),
        ("squad", ["train"], "holds no prepared version .*did you mean 'squad/v1.1'"),
        ("glue/rte", {"train": "trian"}, "no split 'trian'; did you mean 'train'"),
        ("glue/rte", {"train": "train[:"}, r"no split 'train\[:'"),
    ],
)
def test_tfds_mistakes_name_what_is_there(data_dir, name, splits, message):
    with pytest.raises(UserError, match=message):
        read(tfds(name, splits))


def test_a_damaged_or_shortened_shard_is_an_error(prepared, tmp_path, monkeypatch):
    import shutil

    shutil.copytree(prepared[0] / "glue" / "rte", tmp_path / "glue" / "rte")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    source = tfds("glue/rte:2.0.0", ["train"])
    before = sources.source_hash(source, "train", "", 0)
    shard = next((tmp_path / "glue" / "rte" / "2.0.0").glob("*train*00001"))
    data = shard.read_bytes()
    records = list(readers.tfrecords(shard))
    for damaged in (data[:-5], data[:20], data[:30] + b"\x00" + data[31:]):
        shard.write_bytes(damaged)
        with pytest.raises(
            UserError, match=f"{shard.name}: cut off or damaged TFRecord after record"
        ):
            read(source)
    assert sources.source_hash(source, "train", "", 0) != before
    # a whole record is gone: only the count tells
    shard.write_bytes(data[: len(data) - len(records[-1]) - 16])
    with pytest.raises(UserError, match=r"holds 39 records; dataset_info.json says 40"):
        read(source)
    shard.unlink()
    with pytest.raises(UserError, match="is missing; its dataset_info.json names it"):
        read(source)


def test_the_hash_of_a_part_is_of_its_rows(data_dir):
    def of(i):
        return sources.source_hash(tfds("glue/rte", {"train": i}), "train", "", 0)

    assert of("train") == of("train") != of("train[:-15]") != of("train[:50]")


def test_tfrecords_of_examples(shared):
    """The C4 documents of SeqIO's span corruption test: token ids and text."""
    file = next((shared / "conformance" / "airio" / "span_corruption").glob("*.tfrecord*"))
    name = str(file.relative_to(shared))
    rows, counts = read(tfrecord({"train": name}, {"targets": [int]}), shared)
    assert len(rows) == counts["read"] > 50 and all(
        isinstance(i, int) for i in rows[0][1]["targets"]
    )
    with pytest.raises(
        UserError, match=":1: missing feature .no 'tragets'; did you mean 'targets'"
    ):
        read(tfrecord({"train": name}, {"tragets": [int]}), shared)
    with pytest.raises(
        UserError, match=r":1: wrong feature .'targets' holds \d+ values of type int, not one"
    ):
        read(tfrecord({"train": name}, {"targets": int}), shared)
    counted = read(tfrecord({"train": name}, {"targets": str}), shared, skip_bad=True)[1]
    assert counted == {"read": len(rows), "wrong feature": len(rows)}


TABLE = {"text": ["один", "two", "三"], "label": [0, 1, 0], "choices": [["a"], ["b", "c"], []]}
PLAIN = [{k: v[i] for k, v in TABLE.items()} for i in range(3)]


def test_parquet(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table(TABLE), tmp_path / "a.parquet", row_group_size=2)
    rows, counts = read(parquet({"train": "a.parquet"}), tmp_path)
    assert rows == [(f"a.parquet:{i}", e) for i, e in enumerate(PLAIN, 1)] and counts == {"read": 3}
    data = (tmp_path / "a.parquet").read_bytes()
    for damaged in (data[: len(data) // 2], b"text,label\n"):
        (tmp_path / "a.parquet").write_bytes(damaged)
        with pytest.raises(UserError, match="a.parquet: not a whole Parquet file"):
            read(parquet({"train": "a.parquet"}), tmp_path)


def test_parquet_text_that_is_not_utf8_is_counted(tmp_path):
    bad = pyarrow.array([b"good", b"b\xff", b"fine"]).view(pyarrow.string())
    pyarrow.parquet.write_table(pyarrow.table({"text": bad}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a.parquet:2: bad utf-8 .byte 0xff at byte 2"):
        read(parquet({"train": "a.parquet"}), tmp_path)
    rows, counts = read(parquet({"train": "a.parquet"}), tmp_path, skip_bad=True)
    assert [e["text"] for _, e in rows] == ["good", "fine"] and counts == {
        "read": 3,
        "bad utf-8": 1,
    }


def save_to_disk(folder, table, files=2, **state):
    """The layout of datasets.Dataset.save_to_disk: state.json names the Arrow streams."""
    folder.mkdir()
    names = [f"data-{i:05}-of-{files:05}.arrow" for i in range(files)]
    size = -(-len(table) // files)
    for i, name in enumerate(names):
        with (
            pyarrow.OSFile(str(folder / name), "wb") as f,
            pyarrow.ipc.new_stream(f, table.schema) as stream,
        ):
            stream.write_table(table.slice(i * size, size))
    (folder / "state.json").write_text(
        json.dumps({"_data_files": [{"filename": n} for n in names], **state})
    )


def test_a_datasets_folder(tmp_path):
    save_to_disk(tmp_path / "d", pyarrow.table(TABLE))
    rows, _ = read(hf_dataset({"train": "d"}), tmp_path)
    assert [e for _, e in rows] == PLAIN and rows[2][0] == "d/data-00001-of-00002.arrow:1"
    save_to_disk(
        tmp_path / "shuffled", pyarrow.table(TABLE), _indices_files=[{"filename": "indices.arrow"}]
    )
    with pytest.raises(UserError, match=r"shuffled: .*flatten_indices\(\)"):
        read(hf_dataset({"train": "shuffled"}), tmp_path)
    with pytest.raises(UserError, match="'e/state.json' is not in data.root=.*valid: d, shuffled"):
        read(hf_dataset({"train": "e"}), tmp_path)
    (tmp_path / "d" / "data-00000-of-00002.arrow").write_bytes(b"no arrow")
    with pytest.raises(UserError, match="data-00000-of-00002.arrow: not a whole Arrow stream"):
        read(hf_dataset({"train": "d"}), tmp_path)


@pytest.mark.slow
def test_a_datasets_folder_is_what_datasets_writes(tmp_path):
    """uv run --with datasets pytest -m slow tests/prepare/test_readers.py"""
    datasets = pytest.importorskip("datasets")
    both = datasets.DatasetDict(
        {"train": datasets.Dataset.from_dict(TABLE), "test": datasets.Dataset.from_dict(TABLE)}
    )
    both.save_to_disk(tmp_path / "d", num_shards={"train": 2, "test": 1})
    for split in ("train", "test"):
        assert [e for _, e in read(hf_dataset({"train": f"d/{split}"}), tmp_path)[0]] == PLAIN
    both["train"].filter(lambda e: e["label"] == 0).save_to_disk(tmp_path / "f")
    assert [e for _, e in read(hf_dataset({"train": "f"}), tmp_path)[0]] == [
        e for e in PLAIN if e["label"] == 0
    ]


def test_tables_with_and_without_a_header(tmp_path):
    (tmp_path / "a.csv").write_text('text,label\n"one, two",0\nthree,1\n')
    (tmp_path / "b.tsv").write_text("one\t0\nthree\t1\n")
    assert [e for _, e in read(csv({"train": "a.csv"}), tmp_path)[0]][0] == {
        "text": "one, two",
        "label": "0",
    }
    named = read(tsv({"train": "b.tsv"}, columns=("text", "label")), tmp_path)[0]
    assert [e for _, e in named] == [{"text": "one", "label": "0"}, {"text": "three", "label": "1"}]
