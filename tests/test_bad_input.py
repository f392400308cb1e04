# SPDX-License-Identifier: Apache-2.0
"""A user's mistakes: one clear line that names the file, row or key and the nearest valid name,
exit 2, nothing left."""

import json

import pytest

from tests import samples

GOOD = [json.dumps({"text": f"letter number {i}", "answer": str(i)}) for i in range(1500)]


def spoiled(row: int, line: bytes) -> bytes:
    """1,500 good rows, the given one (from 1) replaced."""
    lines = [g.encode() for g in GOOD]
    lines[row - 1] = line
    return b"\n".join(lines) + b"\n"


CASES = {
    "unknown config key": (
        {"extra": ["--train.stps=5"]},
        ["unknown setting '--train.stps'", "'train.steps'"],
    ),
    "unknown option": ({"extra": ["--run-dirr=x"]}, ["unknown option", "--run_dir"]),
    "unknown mixture": ({"mixture": "bad_mx"}, ["unknown mixture or task 'bad_mx'", "'bad_mix'"]),
    "unknown task": ({"mixture": "bad_names"}, ["unknown task 'bad_leters'", "'bad_letters'"]),
    "unknown evaluation task": (
        {"extra": ["--eval.tasks=bad_leters"]},
        ["unknown task 'bad_leters'", "'bad_letters'"],
    ),
    "missing data folder": ({"root": "nowhere"}, ["data.root", "nowhere"]),
    "missing file": ({"file": "leters.jsonl"}, ["letters.jsonl", "'leters.jsonl'"]),
    "missing field": (
        {"data": spoiled(7, b'{"txt": "a", "answer": "b"}')},
        ["letters.jsonl:7", "'text'", "'txt'"],
    ),
    "broken JSON": (
        {"data": spoiled(1234, b'{"text": "a" "answer": "b"}')},
        ["letters.jsonl:1234", "JSON"],
    ),
    "invalid UTF-8": (
        {"data": spoiled(99, b'{"text": "\xff\xfe", "answer": "b"}')},
        ["letters.jsonl:99", "utf-8"],
    ),
    "no vocabulary file": ({"extra": ["--data.vocab=none.model"]}, ["none.model"]),
    "not a vocabulary": (
        {"extra": ["--data.vocab=letters.jsonl"]},
        ["letters.jsonl", "not a SentencePiece model"],
    ),
    "no such recipe": ({"recipe": "recip.py"}, ["recip.py", "recipe.py"]),
    "a folder that is no run": ({"run": "full"}, ["full", "not a run folder"]),
}


@pytest.mark.parametrize("case", CASES)
def test_a_mistake_is_one_line(tmp_path, case):
    given, named = CASES[case]
    root = tmp_path / "root"
    root.mkdir()
    (root / given.get("file", "letters.jsonl")).write_bytes(
        given.get("data", "\n".join(GOOD).encode())
    )
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("do not touch")
    cache = tmp_path / "cache"
    recipe = samples.write_recipe(
        tmp_path, cache, mixture=given.get("mixture", "bad_mix"), modules=("tests.bad_tasks",),
        root=str(tmp_path / given.get("root", "root")),
    )  # fmt: skip
    run = tmp_path / given.get("run", "run")
    words = [tmp_path / given.get("recipe", recipe.name), *given.get("extra", []), "--run_dir", run]
    done = samples.itx("train", *words, check=2)
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("itx: "), done.stderr
    for part in named:
        assert part in lines[0]
    assert not list(cache.rglob("*.part")) and not list(cache.rglob("manifest.json"))
    assert sorted(p.name for p in (tmp_path / "full").iterdir()) == ["thesis.txt"]
    assert run.name == "full" or not run.exists()


def test_a_run_folder_of_another_config_is_refused(tmp_path, sample_cache):
    file = samples.write_recipe(tmp_path, sample_cache, mixture="sample_held")
    run = tmp_path / "run"
    run.mkdir()
    from itx import config as configs
    from itx import recipe, storage

    other = recipe.override(samples.config(str(sample_cache)), "--data.seed=5")[0]
    storage.write_json(run / "config.json", {"config": configs.to_dict(other)})
    before = (run / "config.json").read_text()
    done = samples.itx("train", file, "--run_dir", run, check=2)
    assert "belongs to another config: data.seed was 5, is 0" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert [p.name for p in run.iterdir()] == ["config.json"] and (
        run / "config.json"
    ).read_text() == before


def test_bad_rows_may_be_skipped_and_are_counted(tmp_path):
    (tmp_path / "letters.jsonl").write_bytes(spoiled(1234, b"{"))
    recipe = samples.write_recipe(tmp_path, tmp_path / "cache", mixture="bad_mix", modules=("tests.bad_tasks",),
                                  root=str(tmp_path), skip_bad=True)  # fmt: skip
    samples.itx("data", "build", recipe)
    (lock,) = (tmp_path / "cache" / "locks").iterdir()
    audit = json.loads(lock.read_text())["tasks"][0]["audit"]
    assert audit["read"] == 1500 == audit["kept"] + sum(audit["skipped"].values())
    assert (
        sum(n for reason, n in audit["skipped"].items() if "JSON" in reason or "json" in reason)
        == 1
    )
