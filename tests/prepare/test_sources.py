# SPDX-License-Identifier: Apache-2.0
"""Readers: ids, counts, hashes, and one clear line for every kind of damage."""

import functools
import gzip
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from itx.errors import UserError
from itx.prepare import json_rows, readers, sources
from itx.tasks import registry, spec
from itx.tasks.spec import Source, function, jsonl


def write_rows(path: Path, n: int = 3) -> Path:
    path.write_text(
        "".join(json.dumps({"text": f"row {i}", "n": i}) + "\n" for i in range(1, n + 1))
    )
    return path


def read(source: Source, root: Path, split: str = "train", skip_bad: bool = False, seed: int = 0):
    counts: Counter = Counter()
    return list(sources.open_source(source, split, str(root), seed, counts, skip_bad)), counts


def refused(source: Source, root: Path | str, split: str = "train") -> str:
    """The message of the error; it must be one line and come in both modes where `always`."""
    with pytest.raises(UserError) as e:
        list(sources.open_source(source, split, str(root), 0, Counter(), False))
    assert "\n" not in str(e.value)
    return str(e.value)


def test_jsonl_plain_and_gz_give_the_same_rows(tmp_path):
    plain = write_rows(tmp_path / "a.jsonl")
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(plain.read_bytes()))
    assert plain.read_bytes() != (tmp_path / "a.jsonl.gz").read_bytes()
    one, counts = read(jsonl({"train": "a.jsonl"}), tmp_path)
    two, _ = read(jsonl({"train": "a.jsonl.gz"}), tmp_path)
    assert one[1] == ("a.jsonl:2", {"text": "row 2", "n": 2})
    assert [e for _, e in one] == [e for _, e in two] and len(one) == 3
    assert counts == {"read": 3}


def test_several_files_and_a_source_split_by_hash(tmp_path):
    write_rows(tmp_path / "a.jsonl", 2)
    write_rows(tmp_path / "b.jsonl", 3)
    rows, counts = read(Source("jsonl", {"train": ["a.jsonl", "b.jsonl"]}), tmp_path)
    assert [i for i, _ in rows] == ["a.jsonl:1", "a.jsonl:2", "b.jsonl:1", "b.jsonl:2", "b.jsonl:3"]
    assert counts["read"] == 5
    whole = jsonl("a.jsonl", split_by_hash={"train": 0.5, "test": 0.5})
    assert len(read(whole, tmp_path, split="")[0]) == 2


def test_blank_lines_bom_and_crlf_are_no_errors(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"t": 1}\r\n\r\n{"t": 2}\r\n')
    rows, counts = read(jsonl({"train": "a.jsonl"}), tmp_path)
    assert rows == [("a.jsonl:1", {"t": 1}), ("a.jsonl:3", {"t": 2})] and counts["read"] == 2


BAD_ROWS = {
    "broken JSON": (b'{"text": "x" "n": 1}', "Expecting ',' delimiter at column 14"),
    "bad utf-8": (b'{"text": "x\xff"}', "byte 0xff at byte 12 of the row"),
    "not a JSON object": (b"[1, 2]", "list"),
}


@pytest.mark.parametrize("reason", BAD_ROWS)
def test_a_bad_row_1234_is_named_or_counted(tmp_path, reason):
    row, detail = BAD_ROWS[reason]
    lines = write_rows(tmp_path / "train.jsonl", 1300).read_bytes().splitlines()
    source = jsonl({"train": "train.jsonl"})
    good, _ = read(source, tmp_path)
    lines[1233] = row
    (tmp_path / "train.jsonl").write_bytes(b"\n".join(lines))
    assert refused(source, tmp_path) == (
        f"train.jsonl:1234: {reason} ({detail}); --data.skip_bad=True counts and skips such rows"
    )
    rows, counts = read(source, tmp_path, skip_bad=True)
    assert rows == good[:1233] + good[1234:]
    assert counts == {"read": 1300, reason: 1}


def test_a_lone_surrogate_in_a_document_is_bad_utf8(tmp_path):
    file = tmp_path / "a.json"
    file.write_text('[{"x": "fine \\u00e9"}, {"x": "\\ud800"}, {"x": "\\ud83d\\ude00"}]')
    rows = [value for _, value in readers.read_json(file, {})]
    assert rows[0] == {"x": "fine é"} and rows[2] == {"x": "😀"}
    assert rows[1] == readers.Bad("bad utf-8", "lone surrogate \\ud800")
    with pytest.raises(UserError, match=r"a.json: bad utf-8 \(lone surrogate"):
        json_rows.read_document(file)


def test_a_lone_surrogate_is_bad_utf8(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"t": "\\ud83d\\ude00"}\n{"t": "\\ud800"}\n')
    assert refused(jsonl({"train": "a.jsonl"}), tmp_path).startswith(
        "a.jsonl:2: bad utf-8 (lone surrogate \\ud800)"
    )
    rows, counts = read(jsonl({"train": "a.jsonl"}), tmp_path, skip_bad=True)
    assert [e["t"] for _, e in rows] == ["😀"] and counts == {"read": 2, "bad utf-8": 1}


@pytest.mark.parametrize("skip_bad", [False, True])
def test_cut_off_gzip_is_an_error_in_any_case(tmp_path, skip_bad):
    whole = gzip.compress(write_rows(tmp_path / "a.jsonl", 2000).read_bytes())
    (tmp_path / "a.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"a\.jsonl\.gz: cut off or damaged gzip after row \d+ \("):
        read(jsonl({"train": "a.jsonl.gz"}), tmp_path, skip_bad=skip_bad)
    (tmp_path / "a.jsonl.gz").write_bytes(b"no gzip at all")
    with pytest.raises(UserError, match="damaged gzip after row 0"):
        read(jsonl({"train": "a.jsonl.gz"}), tmp_path, skip_bad=skip_bad)


def test_missing_files_and_folders_name_what_is_there(tmp_path):
    (tmp_path / "alpaca").mkdir()
    write_rows(tmp_path / "alpaca" / "train.jsonl")
    message = refused(jsonl({"train": "alpaca/trian.jsonl"}), tmp_path)
    assert (
        "'alpaca/trian.jsonl' is not in data.root=" in message
        and "did you mean 'train.jsonl'?" in message
    )
    assert "did you mean 'alpaca'?" in refused(jsonl({"train": "alpacca/train.jsonl"}), tmp_path)
    assert "is a folder" in refused(jsonl({"train": "alpaca"}), tmp_path)
    message = refused(
        jsonl({"train": "alpaca/train.jsonl"}), tmp_path.with_name(tmp_path.name + "x")
    )
    assert (
        message.startswith("data.root: no folder ") and f"did you mean {tmp_path.name!r}" in message
    )
    assert "give --data.root=FOLDER" in refused(jsonl({"train": "alpaca/train.jsonl"}), "")


def test_source_hash_meets_the_same_errors_before_any_reading(tmp_path):
    with pytest.raises(UserError, match="is not in data.root"):
        sources.source_hash(jsonl({"train": "a.jsonl"}), "train", str(tmp_path), 0)
    with pytest.raises(UserError, match="give --data.root=FOLDER"):
        sources.source_hash(jsonl({"train": "a.jsonl"}), "train", "", 0)


def test_unknown_split_kind_and_source(tmp_path):
    write_rows(tmp_path / "a.jsonl")
    assert refused(jsonl({"train": "a.jsonl"}), tmp_path, "tarin").endswith("did you mean 'train'?")
    assert "did you mean 'jsonl'" in refused(Source("jsonll", {"train": "a.jsonl"}), tmp_path)
    with pytest.raises(UserError, match="not str"):
        registry.make_task("x", version=1, cluster="c", source="a.jsonl", fields=dict, templates=())


def test_json_rows_from_a_list_and_from_a_dict(tmp_path):
    rows = [{"id": "x", "t": 1}, {"id": "y", "t": 2}, {"id": "x", "t": 3}]
    (tmp_path / "list.json").write_text(json.dumps({"rows": rows}))
    (tmp_path / "dict.json").write_text(json.dumps({"rows": {"7": {"t": 1}, "9": {"t": 2}}}))
    found, counts = read(
        Source("json", {"train": "list.json"}, options={"rows": "rows", "id": "id"}), tmp_path
    )
    assert [i for i, _ in found] == ["x", "y", "list.json:3"]  # a repeated id is no identity
    assert [e["t"] for _, e in found] == [1, 2, 3] and counts == {"read": 3}
    found, _ = read(Source("json", {"train": "dict.json"}, options={"rows": "rows"}), tmp_path)
    assert found == [("dict.json:7", {"t": 1}), ("dict.json:9", {"t": 2})]


def test_a_json_array_and_the_hint_of_jsonl(tmp_path):
    for name, indent in (("flat.json", None), ("lined.json", 1)):
        (tmp_path / name).write_text(json.dumps([{"t": 1}, {"t": 2}], indent=indent))
        rows, counts = read(spec.json({"train": name}), tmp_path)
        assert rows == [(f"{name}:1", {"t": 1}), (f"{name}:2", {"t": 2})] and counts == {"read": 2}
        hint = "this is one JSON document, and not a line for each row: use itx.tasks.json(…)"
        assert hint in refused(jsonl({"train": name}), tmp_path)
    (tmp_path / "keyed.json").write_text(json.dumps({"rows": [{"t": 1}]}))
    assert read(spec.json({"train": "keyed.json"}, rows="rows"), tmp_path)[0][0][1] == {"t": 1}
    # a row that is a list, in a file of lines, is told without the hint
    (tmp_path / "a.jsonl").write_text('{"t": 1}\n[1, 2]\n')
    assert "JSON document" not in refused(jsonl({"train": "a.jsonl"}), tmp_path)
    assert spec.json("a.json").split_by_hash is None and spec.json("a.json").options == {}


def test_broken_json_documents(tmp_path):
    source = Source("json", {"train": "a.json"}, options={"rows": "examples"})
    (tmp_path / "a.json").write_text('{"examples": [\n{"t": 1}\n{"t": 2}]}')
    assert (
        refused(source, tmp_path) == "a.json:3: broken JSON (Expecting ',' delimiter at column 1)"
    )
    (tmp_path / "a.json").write_bytes(b'{"examples":\n ["\xe9"]}')
    assert refused(source, tmp_path) == "a.json:2: bad utf-8 (byte 0xe9)"
    (tmp_path / "a.json").write_text('{"example": []}')
    assert refused(source, tmp_path) == "a.json: no 'examples'; did you mean 'example'?"
    (tmp_path / "a.json").write_text('{"examples": 3}')
    assert "its rows are int" in refused(source, tmp_path)
    (tmp_path / "a.json").write_text('{"examples": [{"t": 1}, 2]}')
    assert refused(source, tmp_path).startswith("a.json:2: not a JSON object (int)")


def test_csv_and_tsv(tmp_path):
    (tmp_path / "a.csv").write_text('q,a\n"one, two\n\nthree",x\nfour\nfive,"y ""z"""\n')
    source = Source("csv", {"train": "a.csv"})
    assert refused(source, tmp_path).startswith(
        "a.csv:5: wrong number of columns (1 rather than 2)"
    )
    rows, counts = read(source, tmp_path, skip_bad=True)
    assert [e for _, e in rows] == [
        {"q": "one, two\n\nthree", "a": "x"},
        {"q": "five", "a": 'y "z"'},
    ]
    assert counts == {"read": 3, "wrong number of columns": 1}
    (tmp_path / "a.tsv").write_bytes(b'a "quote\tb\nc\xff\td\n')
    source = Source("tsv", {"train": "a.tsv"}, options={"columns": ["q", "a"]})
    assert refused(source, tmp_path).startswith("a.tsv:2: bad utf-8 (byte 0xff in column 'q')")
    rows, counts = read(source, tmp_path, skip_bad=True)
    assert rows == [("a.tsv:1", {"q": 'a "quote', "a": "b"})] and counts == {
        "read": 2,
        "bad utf-8": 1,
    }


def test_an_unclosed_quote_is_an_error_not_one_long_cell(tmp_path):
    (tmp_path / "a.csv").write_text('q,a\n1,2\n"3,4\n5,6\n')
    said = refused(Source("csv", {"train": "a.csv"}), tmp_path)
    assert said.startswith(
        "a.csv:3: broken row (unexpected end of data; the quote that opens in line 3, column 'q', "
    )


def numbers(split, root, seed, factor=1):
    return ({"split": split, "n": factor * (i + seed)} for i in range(3))


def nothing_but_text(split, root, seed):
    return ["a"]


def test_function_sources_get_split_and_seed(tmp_path):
    rows, counts = read(function(numbers), tmp_path, split="test", seed=5)
    assert rows == [(str(i), {"split": "test", "n": i + 5}) for i in range(3)] and counts == {
        "read": 3
    }
    assert (
        refused(function(nothing_but_text), tmp_path)
        == "nothing_but_text: example 0 is str, not a dict"
    )


def test_source_hash_follows_content_and_seed(tmp_path):
    write_rows(tmp_path / "a.jsonl")
    source = jsonl({"train": "a.jsonl"})

    def of(source, seed=0):
        return sources.source_hash(source, "train", str(tmp_path), seed)

    first = of(source)
    assert of(source) == first and of(source, 1) == first  # a file's content knows no seed
    write_rows(tmp_path / "a.jsonl", 4)
    assert of(source) != first
    write_rows(tmp_path / "a.jsonl", 3)
    assert of(source) == first  # content, not the time of change
    one, two = (function(functools.partial(numbers, factor=f)) for f in (1, 2))
    assert len({of(function(numbers)), of(function(numbers), 1), of(one), of(two)}) == 4


def test_real_tab_separated_file(shared):
    columns = ["input", "answer", "rationale"]
    source = Source(
        "tsv", {"train": "flan_cot/creak_train.sample.tsv"}, options={"columns": columns}
    )
    rows, counts = read(source, shared)
    assert counts == {"read": len(rows)} and len(rows) > 100
    assert all(all(e[c].strip() for c in columns) for _, e in rows)


def test_readers_are_light():
    code = (
        "import sys, itx.prepare.sources, tasks.files, tasks.seeds;"
        "print([m for m in ('tensorflow', 'seqio', 'jax', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_nul_bytes_are_broken_json_and_text_in_a_table(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"t": "a\x00b"}\n{"t": "a\\u0000b"}\n')
    assert refused(jsonl({"train": "a.jsonl"}), tmp_path).startswith(
        "a.jsonl:1: broken JSON (Invalid control character"
    )
    rows, counts = read(jsonl({"train": "a.jsonl"}), tmp_path, skip_bad=True)
    assert [e["t"] for _, e in rows] == ["a\x00b"] and counts == {"read": 2, "broken JSON": 1}
    (tmp_path / "a.csv").write_bytes(b"t,u\na\x00b,2\n")
    assert read(Source("csv", {"train": "a.csv"}), tmp_path)[0] == [
        ("a.csv:2", {"t": "a\x00b", "u": "2"})
    ]


def test_a_line_of_ten_megabytes_and_ids_that_repeat(tmp_path):
    long = "word " * 2_000_000
    lines = [{"id": "x", "t": long}, {"id": "x", "t": "b"}, {"id": "y", "t": "c"}, {"t": "d"}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(e) + "\n" for e in lines))
    rows, counts = read(Source("jsonl", {"train": "a.jsonl"}, options={"id": "id"}), tmp_path)
    # a second x is told by its row
    assert [i for i, _ in rows] == ["x", "a.jsonl:2", "y", "a.jsonl:4"]
    assert rows[0][1]["t"] == long and counts == {"read": 4}
