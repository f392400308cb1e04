# SPDX-License-Identifier: Apache-2.0
"""`itx runs check` names what is damaged in a run folder and in its cache, and writes nothing."""

import json
import shutil

import pytest

from itx import cli, storage
from tests.trainer import contents


@pytest.fixture
def run(adapter_run, tmp_path):
    folder = shutil.copytree(adapter_run[1], tmp_path / "run")
    groups = dict.fromkeys(("step", "split", "rows", "groups", "easy"), {})
    storage.write_json(folder / "eval" / "6" / "scores.json", groups)
    (folder / "eval" / "6" / "predictions").mkdir()
    (folder / "eval" / "6" / "predictions" / "row.jsonl").write_text('{"id": 1}\n')
    return folder


def checked(folder, said) -> tuple[int, dict[str, str]]:
    before = contents(folder)
    code = cli.main(["runs", "check", str(folder), "--json", str(said)])
    assert contents(folder) == before
    return code, {row["file"]: row["state"] for row in json.loads(said.read_text())["files"]}


def largest(folder):
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def flip(file) -> None:
    held = bytearray(file.read_bytes())
    held[len(held) // 2] ^= 4
    file.write_bytes(held)


DAMAGE = {
    "checkpoints/4": lambda run: flip(largest(run / "checkpoints" / "4" / "params")),
    "checkpoints/6": lambda run: shutil.rmtree(run / "checkpoints" / "6" / "opt_state"),
    "config.json": lambda run: (run / "config.json").unlink(),
    "data.lock.json": lambda run: flip(run / "data.lock.json"),
    "vocab/sentencepiece.model": lambda run: flip(run / "vocab" / "sentencepiece.model"),
    "metrics.jsonl": lambda run: (run / "metrics.jsonl").write_text('{"step": 2}\n'),
    "audit.json": lambda run: (run / "audit.json").write_text("{"),
    "eval/6/scores.json": lambda run: (run / "eval" / "6" / "scores.json").write_text("{}"),
    "eval/6/predictions/row.jsonl": lambda run: (
        run / "eval" / "6" / "predictions" / "row.jsonl"
    ).write_text('{"id": 1'),
}


# Orbax drops its other reads where one of them fails
@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning",
    "ignore:coroutine.*never awaited:RuntimeWarning",
)
def test_what_is_damaged_is_named_and_what_is_sound_is_not(run, tmp_path, capfd):
    said = tmp_path / "said.json"
    code, states = checked(run, said)
    assert code == 0 and set(states.values()) == {"ok"} and {*DAMAGE} <= {*states}
    assert "0 of" in capfd.readouterr().out
    for name, harm in DAMAGE.items():
        harm(run)
        code, states = checked(run, said)
        assert code == 1 and states[name] == "damaged", name
        assert name in capfd.readouterr().out.replace("\n", "")
    assert {name for name, state in states.items() if state == "damaged"} == {*DAMAGE}


def test_a_damaged_shard_of_the_cache_is_named(run, adapter_run, tmp_path):
    held = json.loads((run / "config.json").read_text())
    cache = shutil.copytree(held["config"]["data"]["cache_dir"], tmp_path / "cache")
    held["config"]["data"]["cache_dir"] = str(cache)
    storage.write_json(run / "config.json", storage.sealed(held))
    assert checked(run, tmp_path / "said.json")[0] == 0
    lock = json.loads((run / "data.lock.json").read_text())
    folder = cache / lock["tasks"][0]["folders"][0]
    flip(folder / "tokens-00000.npy")
    code, states = checked(run, tmp_path / "said.json")
    assert code == 1 and [n for n, state in states.items() if state == "damaged"] == [str(folder)]


def test_what_is_no_run_folder_is_a_line(tmp_path, capfd):
    assert cli.main(["runs", "check", str(tmp_path)]) == 2
    assert "is not a run folder" in capfd.readouterr().err
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    assert cli.main(["runs", "check", str(tmp_path)]) == 2
    said = capfd.readouterr().err
    assert "is a Hugging Face folder, not a run folder: `itx convert import" in said
