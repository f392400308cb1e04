# SPDX-License-Identifier: Apache-2.0
"""What names a cache must not change by itself, and must change with what it stands for."""

import functools
import re
from collections import Counter

import pytest

from itx.build import fingerprint, render, vocab
from itx.errors import UserError
from itx.tasks.registry import make_task
from itx.tasks.spec import function
from tasks import files
from tests import sample_tasks  # noqa: F401  (registers)


def test_a_vocabulary_is_the_same_file_each_time(tmp_path):
    first, second = (vocab.train(["sample_first"], 300, "", 0, str(tmp_path / n)).read_bytes() for n in ("a", "b"))
    other = vocab.train(["sample_add"], 300, "", 0, str(tmp_path / "c")).read_bytes()
    assert first == second != other


def test_a_fingerprint_sees_regexes_partials_and_keyword_defaults():
    def uses(pattern):
        return lambda e: pattern.search(e["a"])

    def plain(e, *, k=1):
        return k

    def same(e, *, k=1):
        return k

    same.__kwdefaults__ = {"k": 2}
    one, two = re.compile("a"), re.compile("b")
    assert fingerprint.of_function(uses(one)) == fingerprint.of_function(uses(re.compile("a")))
    assert fingerprint.of_function(uses(one)) != fingerprint.of_function(uses(two))
    of = lambda k: fingerprint.of_function(functools.partial(plain, k=k))  # noqa: E731
    assert of(1) == of(1) != of(2)
    assert fingerprint.of_function(plain)[1:] != fingerprint.of_function(same)[1:]


def spec_of(fields):
    rows = [{"a": str(i)} for i in range(5)]
    source = function(lambda split, root, seed: rows, {"train": 1.0})
    return make_task("t", version=1, cluster="c", source=source, fields=fields, templates=[("{a}", "{answer}")])


@pytest.mark.parametrize(
    "found, message",
    [
        ({"a": None, "answer": "x"}, r"task 't', example 0: fields\(\) .*None.*'a'"),
        (None, r"fields\(\) .*gave NoneType"),
        (ZeroDivisionError("no"), r"ZeroDivisionError: no; the example is \{'a': '0'\}"),
    ],
)
def test_values_that_cannot_be_used_are_told_or_counted(found, message):
    def fields(e):
        if isinstance(found, Exception):
            raise found
        return found

    with pytest.raises(UserError, match=message):
        list(render.items(spec_of(fields), "train", "", 0, Counter()))
    counts = Counter()
    assert list(render.items(spec_of(fields), "train", "", 0, counts, skip_bad=True)) == []
    assert counts == {"read": 5, "unusable fields": 5}


def test_an_empty_list_of_values_is_counted():
    counts = Counter()
    assert list(render.items(spec_of(lambda e: []), "train", "", 0, counts)) == []
    assert counts == {"read": 5, "fields() gave nothing": 5}


def test_a_broken_line_of_the_index_is_an_error(tmp_path):
    folder = tmp_path / files.NI_FOLDER
    folder.mkdir()
    (folder / "index.jsonl").write_text('{"format": "v1"}\n{"format": "v2", \n')
    with pytest.raises(UserError, match="natural_instructions/index.jsonl:2: broken JSON"):
        files.ni_members(str(tmp_path))
    (folder / "index.jsonl").write_text('{"format": "v2", "tsk": "x"}\n')
    with pytest.raises(UserError, match="index.jsonl:1: no 'task'; did you mean 'tsk'"):
        files.ni_members(str(tmp_path))
