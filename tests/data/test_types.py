# SPDX-License-Identifier: Apache-2.0
"""A lock and a manifest are checked when they are read: what is wrong is one line that names it."""

import json

import pytest

from itx import storage
from itx.data import cache, types
from itx.data import lock as locks
from itx.data.types import EvalRow, Lock
from itx.errors import UserError
from tests import scored


def small_lock() -> dict:
    """A lock that no test reads from a cache, with one task, one row and one of each optional key
    that has a type of its own."""
    made = {"folder": "a/train/r0-a", "sha256": "0", "templates": ["t1"]}
    made |= {"examples": 4, "records": 4, "max_target_tokens": 3}
    vocabulary = type("Vocabulary", (), {"hash": "h", "size": 9})
    task = scored.task(made, "first", "pick", 1, excluded=[2])
    row = scored.row(made, "first", "pick", "instances", grade="new", options=["a", "b"])
    return scored.lock([task], [row], vocabulary, phases=[{"step": 0, "rates": [1]}])


def test_what_a_build_writes_passes(sample_cache):
    files = list((sample_cache / "locks").iterdir())
    folders = {where for f in files for _, where, _ in locks.verify.entries(storage.read_json(f))}
    assert len(files) == 2 and len(folders) > 4
    for file in files:
        held = storage.read_json(file)
        assert storage.is_intact(held)
        assert locks.read(file) == {k: v for k, v in held.items() if k != storage.SEAL}
    for where in folders:
        assert cache.read_manifest(sample_cache / where)["records"]


def test_optional_keys_may_be_absent(tmp_path):
    lock = small_lock()
    optional = Lock.__optional_keys__ & set(lock)
    assert {"leaks", "loss_positions", "phases"} <= optional
    for name, held in (("whole", lock), ("old", {k: lock[k] for k in lock.keys() - optional})):
        storage.write_json(tmp_path / name, storage.sealed(held))
        assert locks.read(tmp_path / name) == held
    assert {"halved", "shots"} <= EvalRow.__optional_keys__ - set(lock["evaluation"][0])


def without(held: dict, key: str) -> None:
    del held[key]


FAULTS = {
    "unknown key 'sequence_lenght'; did you mean 'sequence_length'": lambda x: x.update(
        sequence_lenght=3
    ),
    "unknown key 'exclude' in tasks[0]; did you mean 'excluded'": lambda x: x["tasks"][0].update(
        exclude=[]
    ),
    "the key 'seed' is missing": lambda x: without(x, "seed"),
    "the key 'metrics' is missing in evaluation[0]": lambda x: without(
        x["evaluation"][0], "metrics"
    ),
    "the key 'size' is missing in vocabulary": lambda x: without(x["vocabulary"], "size"),
    "seed is a bool; expected int": lambda x: x.update(seed=True),
    "tasks is a dict; expected list": lambda x: x.update(tasks={}),
    "tasks[0].rate is a str; expected float": lambda x: x["tasks"][0].update(rate="much"),
    "tasks[0].excluded[0][1] is a str; expected int": lambda x: x["tasks"][0].update(
        excluded=[[1, "2"]]
    ),
    "evaluation[0].grade is a int; expected str": lambda x: x["evaluation"][0].update(grade=3),
    "evaluation[0].audit.skipped['empty'] is a str": lambda x: x["evaluation"][0].update(
        audit={"read": 1, "kept": 1, "skipped": {"empty": "1"}}
    ),
    "phases[0].rates[0] is a str; expected float": lambda x: x["phases"][0].update(rates=["1"]),
}


@pytest.mark.parametrize("said", FAULTS)
def test_what_is_wrong_in_a_lock_is_one_line(said, tmp_path):
    lock = small_lock()
    types.check(lock, Lock, "lock")
    FAULTS[said](lock)
    file = tmp_path / "data.lock.json"
    storage.write_json(file, lock)
    with pytest.raises(UserError) as error:
        locks.read(file)
    assert str(error.value).startswith(f"{file}: {said}") and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "change, said",
    [
        ({"exampels": 3}, "unknown key 'exampels'; did you mean 'examples'"),
        ({"audit": {"read": 1, "skipped": {}}}, "the key 'kept' is missing in audit"),
        ({"templates": "t1"}, "templates is a str; expected list"),
        ({"records": None}, "records is a NoneType; expected int"),
    ],
)
def test_what_is_wrong_in_a_manifest_is_one_line(change, said, tmp_path):
    file = tmp_path / "manifest.json"
    whole = {**scored.MANIFEST, "records": 0, "files": {}}
    file.write_text(json.dumps(whole))
    assert cache.read_manifest(tmp_path) == whole
    file.write_text(json.dumps(whole | change))
    with pytest.raises(UserError) as error:
        cache.read_manifest(tmp_path)
    assert str(error.value).startswith(f"{file}: {said}") and "\n" not in str(error.value)
