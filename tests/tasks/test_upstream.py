# SPDX-License-Identifier: Apache-2.0
"""Super-NaturalInstructions and P3 as they are published, on fixtures in their layouts."""

import json
import struct
from collections import Counter
from pathlib import Path

import google_crc32c
import pytest

from itx.errors import UserError
from itx.prepare import examples, render
from itx.tasks import names, registry, resolve
from tasks import natural_instructions, p3  # noqa: F401  (they register)


def members(family: str, root: Path) -> list[str]:
    """The names of a family's tasks, or why there are none."""
    registry._family.cache_clear()
    try:
        return registry.expand(f"{family}.*", str(root))
    except UserError as e:
        return [str(e)]


def items(name: str, root: Path, split: str = "train") -> tuple[list, Counter]:
    counts: Counter = Counter()
    found = list(examples.items(registry.task(name, str(root)), split, str(root), 0, counts))
    assert counts["read"] == len(found) + sum(n for reason, n in counts.items() if reason != "read")
    return found, counts


# ---- Super-NaturalInstructions
# ---------------------------------------------------------------------

TASKS = {
    "task001_quoref_question_generation": ("Question Generation", ["quoref"], "English"),
    "task020_mctaco_answerability": ("Answerability Classification", ["mctaco"], "English"),
    "task1600_xling_tagging": ("Pos Tagging", ["xling (https://a.b)"], "Russian"),
    "task1700_excluded": ("Answerability Classification", ["other"], "English"),
}


def clone(root: Path, name: str = "natural-instructions", lists: bool = True, **changes) -> Path:
    """A folder as the repository has it."""
    folder = root / name
    (folder / "tasks").mkdir(parents=True)
    (folder / "tasks" / "README.md").write_text("# Tasks")
    for task, (category, source, language) in TASKS.items():
        rows = [
            {"id": f"{task}-{i}", "input": f"{task} вход {i}", "output": [f"ответ {i}"]}
            for i in range(40)
        ]
        document = {
            "Contributors": ["A"], "Source": source, "URL": [], "Categories": [category], "Reasoning": [],
            "Definition": ["Answer it."], "Input_language": [language], "Output_language": [language],
            "Positive Examples": [{"input": "x", "output": "y", "explanation": "z"}], "Negative Examples": [],
            "Instances": rows, "Instance License": ["CC"], **changes,
        }  # fmt: skip
        (folder / "tasks" / f"{task}.json").write_text(
            json.dumps({k: v for k, v in document.items() if v is not None})
        )
    first, second, third, fourth = TASKS
    if lists:
        for split, parts in (("default", {"train": [first, third], "test": [second], "excluded": [fourth]}),
                             ("xlingual", {"train": [first, fourth], "test": [third]})):  # fmt: skip
            (folder / "splits" / split).mkdir(parents=True)
            for part, tasks in parts.items():
                (folder / "splits" / split / f"{part}_tasks.txt").write_text(
                    "\n".join(tasks) + "\n"
                )
    return folder


@pytest.mark.parametrize("name", ["natural-instructions", "natural_instructions"])
def test_natural_instructions_needs_no_index(tmp_path, name):
    clone(tmp_path, name)
    assert members("ni", tmp_path) == [f"ni.{t}" for t in TASKS]
    specs = [registry.task(f"ni.{t}", str(tmp_path)) for t in TASKS]
    assert [(s.cluster, s.origin, s.tags.get("language")) for s in specs] == [
        ("question_generation", ("quoref",), "english"), ("answerability_classification", ("mctaco",), "english"),
        ("pos_tagging", ("xling",), "russian"), ("answerability_classification", ("other",), "english"),
    ]  # fmt: skip
    # what any official list tests, and what the default one does not train on, is for evaluation
    # only, and said
    assert [s.evaluation_only for s in specs] == [False, True, True, True]
    mix = registry.MixtureSpec("m", ("ni.*",))
    assert list(resolve.members(mix, str(tmp_path))) == [specs[0].name]
    assert resolve.left_out(mix, str(tmp_path)) == [
        ("ni.*", "3 of its 4 tasks are for evaluation only")
    ]
    found, counts = items(specs[0].name, tmp_path)
    assert (
        counts["read"] == 40
        and found[0].values["with_examples"] == "Answer it.\n\nInput: x\nOutput: y"
    )
    shown = render.render(specs[0], names.parse(specs[0].name), found[0], 0, 0)
    assert shown.target.startswith("ответ") and found[0].values["input"] in shown.prompt


def test_without_lists_every_upstream_task_is_trained(tmp_path):
    clone(tmp_path, lists=False)
    assert members("ni", tmp_path) == [f"ni.{t}" for t in TASKS]
    assert not any(registry.task(f"ni.{t}", str(tmp_path)).evaluation_only for t in TASKS)


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"Categories": None, "Category": ["Tagging"]},
            "tasks/task001_.*json: no 'Categories'; did you mean 'Category'",
        ),
        (
            {"Categories": []},
            "tasks/task001_quoref_question_generation.json: 'Categories' holds no text",
        ),
        ({"Source": None}, "tasks/task001_.*json: no 'Source'"),
        ({"Instances": None}, "'Instances' is not a list of instances"),
    ],
)
def test_an_upstream_task_that_lacks_something_is_named(tmp_path, changes, message):
    clone(tmp_path, **changes)
    (said,) = members("ni", tmp_path)
    with pytest.raises(UserError, match=message):
        raise UserError(said)


# ---- P3
# --------------------------------------------------------------------------------------------


def masked(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


def write_tfrecord(file: Path, rows: list[dict]) -> None:
    """tf.train.Examples in TFRecord's framing: length, its checksum, data, its checksum."""
    from tensorflow_datasets.proto import tf_example_pb2

    with file.open("wb") as f:
        for row in rows:
            example = tf_example_pb2.Example()
            for key, value in row.items():
                if isinstance(value, str):
                    example.features.feature[key].bytes_list.value.append(value.encode())
                else:
                    example.features.feature[key].int64_list.value.extend(value)
            data, head = example.SerializeToString(), b""
            head = struct.pack("<Q", len(data))
            f.write(head + masked(head) + data + masked(data))


def write_p3(
    root: Path, name: str, splits: dict[str, int], under: str = "P3/data", shards: int = 1
) -> Path:
    """A template's folder as P3 has it."""
    folder = root / under / name
    folder.mkdir(parents=True)
    (folder / "COMPLETED").touch()
    for split, n in splits.items():
        info = {
            "num_shards": shards,
            "features": {"inputs_pretokenized": {"shape": [], "dtype": "string"}},
        }
        (folder / f"info.{split}.json").write_text(json.dumps(info))
        (folder / f"stats.{split}.json").write_text(json.dumps({"examples": n}))
        for shard in range(shards):
            rows = [{"inputs": [3, 4, 1], "targets": [5, 1], "inputs_pretokenized": f"{name} {split} вопрос {i}?\n",
                     "targets_pretokenized": f"ответ {i}"} for i in range(shard, n, shards)]  # fmt: skip
            write_tfrecord(folder / f"{split}.tfrecord-{shard:05d}-of-{shards:05d}", rows)
    return folder


@pytest.mark.parametrize("under", ["P3/data", "p3"])
def test_p3_is_read_as_it_is_published(tmp_path, under):
    write_p3(
        tmp_path,
        "cnn_dailymail_3.0.0_write_an_outline",
        {"train": 5, "validation": 2, "test": 3},
        under,
    )
    write_p3(tmp_path, "cnn_dailymail_3.0.0_news_summary", {"train": 7}, under, shards=2)
    write_p3(tmp_path, "imdb_Movie_Expressed_Sentiment", {"train": 4, "unsupervised": 2}, under)
    write_p3(
        tmp_path, "super_glue_wsc.fixed_the_pronoun_refers_to", {"train": 6, "validation": 2}, under
    )
    write_p3(
        tmp_path, "super_glue_wsc.fixed_the_pronoun_refers_to_score_eval", {"train": 12}, under
    )
    assert members("p3", tmp_path) == [
        "p3.cnn_dailymail_3_0_0",
        "p3.imdb",
        "p3.super_glue_wsc_fixed",
    ]
    for split, n in (("train", 12), ("validation", 2), ("test", 3)):
        found, counts = items("p3.cnn_dailymail_3_0_0", tmp_path, split)
        assert counts["read"] == n == len(found) and found[0].values["answer"].startswith("ответ")
        assert all(
            i.values["prompt"].endswith("?") and f" {split} вопрос" in i.values["prompt"]
            for i in found
        )
    spec = registry.task("p3.super_glue_wsc_fixed", str(tmp_path))
    assert (spec.cluster, spec.origin) == ("coreference", ("wsc",))
    assert (
        sum(
            n
            for n in (
                items("p3.super_glue_wsc_fixed", tmp_path, s)[1]["read"]
                for s in ("train", "validation")
            )
        )
        == 8
    )
    said = dict(resolve.left_out(registry.MixtureSpec("m", ("p3.*",)), str(tmp_path)))
    assert said == {"p3.imdb": "not read of it: split unsupervised",
                    "p3.super_glue_wsc_fixed": "not read of it: folders *_score_eval"}  # fmt: skip


def test_what_is_not_as_p3_has_it_is_named(tmp_path):
    folder = write_p3(tmp_path, "trec_what_category", {"train": 4}, shards=2)
    assert members("p3", tmp_path) == ["p3.trec"]
    (folder / "train.tfrecord-00001-of-00002").unlink()
    assert members("p3", tmp_path) == [
        "P3/data/trec_what_category: 1 of the 2 shards of its train split are there"
    ]
    (folder / "train.tfrecord-00000-of-00002").rename(folder / "train.tfrecord-0")
    assert members("p3", tmp_path) == [
        "P3/data/trec_what_category/train.tfrecord-0: not named <split>.tfrecord-00000-of-00001"
    ]
    write_p3(tmp_path / "b", "terc_what", {"train": 1})
    (said,) = members("p3", tmp_path / "b")
    assert said.startswith(
        "P3/data/terc_what: no data set of tasks/p3.py has this name; add it there; did you mean 'trec'"
    )
    write_p3(tmp_path / "c", "piqa_what_score_eval", {"train": 1})
    assert members("p3", tmp_path / "c") == [
        "p3: of data set piqa there is nothing but folders *_score_eval, which is not read"
    ]
    write_p3(tmp_path / "d", "trec_what", {"train": 1})
    (tmp_path / "d" / "p3_t0_train" / "data_per_template").mkdir(parents=True)
    assert "hold the same set; leave one" in members("p3", tmp_path / "d")[0]
