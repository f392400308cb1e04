# SPDX-License-Identifier: Apache-2.0
"""No row of a table or key of an object is lost to another one: what could be read in two ways is
refused by name."""

import json
from collections import Counter

import pyarrow
import pyarrow.parquet
import pytest

from itx.errors import UserError
from itx.prepare import sources
from itx.tasks.spec import Source
from tests.prepare.test_readers import save_to_disk

TEXTS = [
    "the cat sat",
    "«Роман» — книга",
    "東京 は 大きい",
    "if x:\n  y",
    'he said "hi"',
    "",
    "a, b and c",
    "so, it ends",
]


def read(tmp_path, file: str, data: bytes | str, skip_bad: bool = False, **options):
    data = data if isinstance(data, bytes) else data.encode()
    (tmp_path / file).write_bytes(data)
    counts: Counter = Counter()
    source = Source(file.rpartition(".")[2], {"train": file}, options=options)
    return list(sources.open_source(source, "train", str(tmp_path), 0, counts, skip_bad)), counts


def refused(tmp_path, file: str, data: bytes | str, **options) -> str:
    """What both modes say: nobody knows what such a file has lost."""
    said = []
    for skip_bad in (False, True):
        try:
            found = read(tmp_path, file, data, skip_bad, **options)
        except UserError as e:
            said.append(str(e))
        else:
            pytest.fail(f"read as {found}")
    assert said[0] == said[1] and "\n" not in said[0]
    return said[0]


def table(n: int = 12, end: str = "\n") -> list[str]:
    return ["text,label", *(f"sentence {i} of the set,{i % 2}" for i in range(n))]


# what stands in place of some lines of the table (by their number, from 1), and the line of the
# quote that is at fault
QUOTES = {
    "never closes": ({4: '"sentence 2,0'}, 4),
    "never closes, in the last line": ({13: '"sentence 11,1'}, 13),
    "in the second column": ({4: 'sentence 2,"0'}, 4),
    "closes eight rows later": ({3: '"sentence 1,1', 11: 'sentence 9",1'}, 3),
    "closes in the next row": ({5: '"sentence 3,1', 6: 'sentence 4",0'}, 5),
    "closes before other columns": ({3: 'a,"1', 6: 'b",0'}, 3),
    "a quoted cell ends it": ({3: '"sentence 1,1', 6: '"sentence, quoted",0'}, 3),
    "a doubled quote does not": ({3: '"sentence 1,1', 6: '"",0', 9: 'sentence 7",1'}, 3),
}


@pytest.mark.parametrize("case", QUOTES)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_stray_quote_is_told_with_its_line(tmp_path, case, end):
    changed, line = QUOTES[case]
    lines = table()
    assert len(read(tmp_path, "whole.csv", end.join(lines) + end)[0]) == 12
    for number, new in changed.items():
        lines[number - 1] = new
    said = refused(tmp_path, "a.csv", end.join(lines) + end)
    assert said.startswith(f"a.csv:{line}: ")


def test_rows_within_a_cell_are_seen_where_every_column_holds_text(tmp_path):
    rows = [
        f"question number {i} of this long table of text,the answer number {i * i} to it, in words"
        for i in range(9)
    ]
    rows = [r.replace(", in", " in") + " " * i for i, r in enumerate(rows)]
    assert len(read(tmp_path, "a.csv", "\n".join(["prompt,response", *rows]))[0]) == 9
    rows[2], rows[6] = '"' + rows[2], rows[6].replace(",", '",')
    assert refused(tmp_path, "a.csv", "\n".join(["prompt,response", *rows])).startswith("a.csv:4: ")


LEGAL = [
    "Roses are red, violets blue\nSugar is sweet",
    "Dear Anna,\n\nthank you, all of you, for the book.\nYours, Bob",
    "one, 1\ntwo, 2\nthree, 3",
    'x = "a,b"\nif x:\n    print(x, "c")\n',
    "\n",
    "кошка, собака\nкот",
    'a ""quoted"" word\nand more',
]


@pytest.mark.parametrize("quoting", [0, 1])  # as needed, or every cell
def test_cells_of_several_lines_are_read_as_they_were_written(tmp_path, quoting):
    import csv
    import io

    rows = [[t, i % 2] for i, t in enumerate([*LEGAL, *TEXTS, *LEGAL, *TEXTS])]
    for turned in (False, True):
        out = io.StringIO()
        writer = csv.writer(out, quoting=quoting, lineterminator="\n")
        writer.writerows(
            [
                ["label", "text"] if turned else ["text", "label"],
                *(r[::-1] if turned else r for r in rows),
            ]
        )
        found, counts = read(tmp_path, "a.csv", out.getvalue())
        assert [(e["text"], e["label"]) for _, e in found] == [(t, str(label)) for t, label in rows]
        assert counts == {"read": len(rows)}


def test_a_row_with_a_quote_within_is_still_one_bad_row(tmp_path):
    lines = table()
    lines[4] = '"sentence" 3,1'
    rows, counts = read(tmp_path, "a.csv", "\n".join(lines), skip_bad=True)
    assert len(rows) == 11 and counts == {"read": 12, "broken row": 1}


HEADERS = {
    "a name that is there twice": ("a.csv", "text,label,text\na,b,c\n", "a.csv:1: columns 1 and 3 are both called 'text'"),
    "no name, twice": ("a.csv", "text,,\na,b,c\n", "a.csv:1: columns 2 and 3 are both called ''"),
    "of a TSV": ("a.tsv", "q\ta\tq\n1\t2\t3\n", "a.tsv:1: columns 1 and 3 are both called 'q'"),
    "behind a BOM": ("a.csv", b"\xef\xbb\xbftext,text\na,b\n", "a.csv:1: columns 1 and 2 are both called 'text'"),
    "semicolons": ("a.csv", "text;label\nred;1\nblue;0\n", "a.csv:1: the header has one column, 'text;label': it looks "
                   "separated by ';', not by ','"),
    "broken": ("a.csv", '"text"x,label\na,0\nb,1\n', "a.csv:1: broken row ("),
    "not UTF-8": ("a.csv", b"t\xe9xt,label\na,0\n", "a.csv:1: bad utf-8 in the header (byte 0xe9)"),
}  # fmt: skip


@pytest.mark.parametrize("case", HEADERS)
def test_a_header_that_loses_a_column_is_refused(tmp_path, case):
    file, data, says = HEADERS[case]
    assert refused(tmp_path, file, data).startswith(says)


def test_columns_that_a_task_names_twice_are_refused(tmp_path):
    assert "columns 1 and 2 are both called 'q'" in refused(
        tmp_path, "a.csv", "1,2\n3,4\n", columns=("q", "q")
    )


GOOD = [
    '{"text": "a", "meta": {"n": [1.5, null]}, "label": 0}',
    '{"text": "b", "meta": {}, "label": 1}',
]
OBJECTS = {
    "a repeated key": ('{"text": "a", "text": "b"}', "repeated key", "the key 'text' is there twice"),
    "a repeated key within": ('{"text": "a", "meta": {"n": 1, "n": 2}}', "repeated key",
                              "the key 'n' is there twice in the field ['meta']"),
    "within a list": ('{"text": "a", "turns": [{}, {"from": 1, "from": 1}]}', "repeated key",
                      "the key 'from' is there twice in the field ['turns'][1]"),
    "NaN": ('{"text": NaN}', "not a JSON number", "NaN in the field ['text']"),
    "NaN within": ('{"text": "a", "meta": {"n": [1, NaN]}}', "not a JSON number", "NaN in the field ['meta']['n'][1]"),
    "Infinity": ('{"text": "a", "label": -Infinity}', "not a JSON number", "-Infinity in the field ['label']"),
}  # fmt: skip


@pytest.mark.parametrize("case", OBJECTS)
def test_an_object_that_can_be_read_in_two_ways_is_told_or_counted(tmp_path, case):
    line, reason, detail = OBJECTS[case]
    for file, data in (
        ("a.jsonl", "\n\n".join([GOOD[0], line, GOOD[1]]) + "\r\n"),
        ("a.json", "[" + ",\n".join([GOOD[0], line, GOOD[1]]) + "]"),
    ):
        row = 3 if file == "a.jsonl" else 2
        rows, counts = read(tmp_path, file, data, skip_bad=True)
        assert [e for _, e in rows] == [json.loads(t) for t in GOOD] and counts == {
            "read": 3,
            reason: 1,
        }
        with pytest.raises(UserError) as e:
            read(tmp_path, file, data)
        assert str(e.value).startswith(f"{file}:{row}: {reason} ({detail})")


def test_a_document_with_a_repeated_key_is_refused_as_a_whole(tmp_path):
    rows = '{"examples": [{"t": 1}], "examples": [{"t": 2}]}'
    said = refused(tmp_path, "a.json", rows, rows="examples")
    assert said == "a.json: repeated key (the key 'examples' is there twice)"


@pytest.mark.parametrize("kind", ["parquet", "hf_dataset"])
def test_columns_of_one_name_are_refused(tmp_path, kind):
    inner = pyarrow.StructArray.from_arrays(
        [pyarrow.array([1, 2]), pyarrow.array([3, 4])], ["n", "n"]
    )
    words = pyarrow.array(["a", "b"])
    for arrays, names, says in (
        ([words, words], ["text", "text"], "2 columns are called 'text'"),
        ([words, inner], ["text", "meta"], "'meta': 2 columns are called 'n'"),
    ):
        data = pyarrow.Table.from_arrays(arrays, names)
        if kind == "parquet":
            pyarrow.parquet.write_table(data, tmp_path / "d")
        else:
            save_to_disk(tmp_path / f"d{len(says)}", data, files=1)
        name = "d" if kind == "parquet" else f"d{len(says)}"
        try:
            found = list(
                sources.open_source(
                    Source(kind, {"train": name}), "train", str(tmp_path), 0, Counter(), True
                )
            )
        except Exception as e:
            assert isinstance(e, UserError) and says in str(e), repr(e)
        else:
            pytest.fail(f"read as {found}")
