# SPDX-License-Identifier: Apache-2.0
"""What the commands do around their work: the run folder, starting again, writing whole files."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from argparse import Namespace

import pytest

from itx import begin, runs, storage, versions
from itx import config as configs
from itx.commands import train as command
from itx.errors import UserError
from itx.runs import RunFolder
from tests import sample_tasks, samples
from tests.conftest import REPO, one_device


def begin_run(run: RunFolder, tmp_path):
    vocab = tmp_path / "cache" / "vocab" / "v" / "sentencepiece.model"
    vocab.parent.mkdir(parents=True, exist_ok=True)
    vocab.write_bytes(b"model")
    lock = {
        "vocabulary": {"file": "vocab/v/sentencepiece.model", "hash": "v"},
        "tasks": [],
        "version": 1,
    }
    config = samples.config(str(tmp_path / "cache"))
    notes = begin.check_same_run(run, config)
    begin.write(run, config, {}, lock, Namespace(config="c.py", quick=False, overrides=[]), notes)


def test_an_ascii_terminal_shows_a_task():
    done = samples.itx(
        "tasks",
        "show",
        "sample_add",
        "--modules",
        "tests.sample_tasks",
        check=None,
        PYTHONIOENCODING="ascii",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii() and "\\u27e6" in done.stdout  # ⟦ stands before a target


@pytest.mark.parametrize("killed_in", ["config.json", "data.lock.json", "vocab"])
def test_a_run_that_was_killed_while_it_began_begins_again(tmp_path, monkeypatch, killed_in):
    run, replace = RunFolder(tmp_path / "run"), os.replace

    def kill(part, path):
        if str(path).endswith(killed_in):
            raise KeyboardInterrupt
        replace(part, path)

    with monkeypatch.context() as m:
        m.setattr(os, "replace", kill)
        with pytest.raises(KeyboardInterrupt):
            begin_run(run, tmp_path)
    (run.path / ".config.json.1.part").write_text("{")  # SIGKILL leaves what an exception would not
    assert not all(f.is_file() for f in (run.config_json, run.lock_json, run.vocab_model))
    begin_run(run, tmp_path)
    assert all(f.is_file() for f in (run.config_json, run.lock_json, run.vocab_model))


def test_a_broken_run_folder_is_one_line(tmp_path):
    config = samples.config("")
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="is a file, not a folder"):
        begin.check_same_run(RunFolder(tmp_path / "file"), config)
    for text in ("{", "[]", '{"config": 5}'):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(UserError, match="config.json is not what a run writes"):
            begin.check_same_run(RunFolder(tmp_path), config)


def test_asking_a_run_without_checkpoint_is_refused(tmp_path):
    storage.write_json(tmp_path / "config.json", {"config": configs.to_dict(configs.RunConfig())})
    storage.write_json(tmp_path / "data.lock.json", {"version": 1})
    with pytest.raises(UserError, match="no checkpoint yet; --step 0 asks the model before tuning"):
        runs.chosen_step(RunFolder(tmp_path), None)
    assert runs.chosen_step(RunFolder(tmp_path), 0) == 0


@pytest.mark.parametrize(
    "codes, wanted, starts",
    [
        ([0], 0, 1),
        ([2], 2, 1),
        ([-9, 0], 0, 2),
        ([1, 143], 143, 2),
        ([130], 130, 1),
        ([1, 1, 1], 1, 3),
        ([-15, 0], 143, 1),
    ],
)
def test_restarts(monkeypatch, tmp_path, codes, wanted, starts):
    """After a crash (an exception, a signal) it starts again; not after a mistake, a stop, or the
    last try."""
    begun = []

    class Child:
        def __init__(self, words, **_):
            begun.append(words[3:])

        def wait(self):
            return codes[len(begun) - 1]

    handlers = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
    monkeypatch.setattr(subprocess, "Popen", Child)
    clock = iter(range(0, 10**6, 100))  # a pause is over at once
    monkeypatch.setattr(time, "sleep", lambda s: None)
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(sys, "argv", ["itx", "train", "c.py", "--restarts", "2", "--train.steps=3"])
    try:
        assert command.train(Namespace(restarts=2, run_dir=str(tmp_path / "run"), scratch="")) == (
            None,
            wanted,
        )
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert begun == [["train", "c.py", "--train.steps=3"]] * starts


def test_a_bad_setting_of_the_optimizer_leaves_no_run_folder(tmp_path, sample_cache):
    recipe = samples.write_recipe(tmp_path, sample_cache, mixture="sample_held")
    done = samples.itx(
        "train", recipe, "--run_dir", tmp_path / "run", "--optim.name=adamww", check=2
    )
    assert (
        "did you mean 'adamw'" in done.stderr.splitlines()[-1] and not (tmp_path / "run").exists()
    )
    done = samples.itx(
        "train", recipe, "--run_dir", tmp_path / "run", "--data.max_epochs=0.0001", check=2
    )
    assert "the audit fails" in done.stderr.splitlines()[-1] and not (tmp_path / "run").exists()


def test_data_smaller_than_a_window_build(tmp_path):
    """The default window holds more examples than the mixture has: its first window already repeats
    tasks."""
    recipe = samples.write_recipe(
        tmp_path, tmp_path / "cache", mixture="sample_mix", window_examples=8192
    )
    samples.itx("data", "build", recipe)
    (lock,) = (tmp_path / "cache" / "locks").iterdir()
    tasks = json.loads(lock.read_text())["tasks"]
    assert sum(t["examples"] for t in tasks) < 8192 and max(len(t["folders"]) for t in tasks) > 1


def test_nothing_of_a_killed_build_goes_on(tmp_path):
    """Workers and the process that imports SeqIO end although nobody tells them to."""
    recipe = samples.write_recipe(tmp_path, tmp_path / "cache")
    command = [sys.executable, "-m", "itx.cli", "data", "build", str(recipe)]
    child = subprocess.Popen(
        command, env=one_device(), cwd=REPO, start_new_session=True, stderr=subprocess.DEVNULL
    )
    try:
        while not list((tmp_path / "cache").glob("*/*/r*/manifest.json")):  # the workers are at it
            assert child.poll() is None
            time.sleep(0.01)
        child.kill()
        child.wait()
        os.killpg(child.pid, 0)  # some still live: the test would else show nothing
        until = time.monotonic() + 30
        with pytest.raises(ProcessLookupError):
            while time.monotonic() < until:
                os.killpg(child.pid, 0)
                time.sleep(0.1)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)


def size_of(cache) -> int:
    return sum(f.stat().st_size for f in cache.glob("*/*/r*/*"))


def test_a_dry_run_writes_nothing_and_says_what_the_build_then_does(tmp_path):
    recipe = samples.write_recipe(tmp_path, tmp_path / "cache", mixture="sample_held")
    said = tmp_path / "dry.json"
    samples.itx("data", "build", recipe, "--dry-run", "--json", said)
    first = json.loads(said.read_text())
    assert size_of(tmp_path / "cache") == 0 and first["bytes"] == first["new_bytes"]
    samples.itx("data", "build", recipe)
    folders = len(list((tmp_path / "cache").glob("*/*/r*")))
    overhead = 3000 * folders  # manifests and the headers of arrays: nothing in a cache of any size
    assert abs(size_of(tmp_path / "cache") - first["bytes"] - overhead) < 0.5 * size_of(
        tmp_path / "cache"
    )
    samples.itx("data", "build", recipe, "--dry-run", "--json", said)
    again = json.loads(said.read_text())
    assert again["new_bytes"] == 0 and again["seconds"] == 0 and again["bytes"] == first["bytes"]


def test_a_build_beyond_max_bytes_is_refused(tmp_path, shared):
    words = [
        "data",
        "build",
        "configs/real_mix.py",
        "--data.mixture=dolly",
        f"--data.root={shared}",
    ]
    words += [f"--data.cache_dir={tmp_path}", "--eval.tasks=", "--data.max_bytes=1e5"]
    done = samples.itx(*words, check=2)
    assert (
        "the build would write about 0.0 GB" in done.stderr
        and "data.max_bytes is 0.0 GB" in done.stderr
    )
    assert not list(tmp_path.glob("*/*/r*"))


def test_checks_download_a_tfds_set_or_say_in_a_line_why_not(tmp_path):
    nowhere = {
        p: "http://127.0.0.1:9" for p in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")
    }  # port 9: discard
    home = {"TFDS_DATA_DIR": str(tmp_path), **nowhere}
    done = samples.itx("tasks", "check", "wnli", "--download", check=2, **home)
    assert (
        done.stderr
        == "itx: TFDS 'glue/wnli:2.0.0': no network to download it (127.0.0.1 gives no answer)\n"
    )
    assert not [p for p in tmp_path.rglob("*incomplete*")]
    # to be fetched by hand
    done = samples.itx("tasks", "check", "story_cloze", "--download", check=2, **home)
    assert (
        done.stderr.count("\n") == 1
        and "could not be prepared: AssertionError: Manual directory" in done.stderr
    )
    done = samples.itx("tasks", "check", "wnli", check=1, **home)
    assert "FAIL wnli" in done.stdout and "uv run tfds build glue/wnli" in done.stdout
    done = samples.itx(
        "tasks", "check", "--json", tmp_path / "said.json", **home
    )  # all: absent ones are named and passed over
    rows = {
        r["task"]: r.get("skipped", "") for r in json.loads((tmp_path / "said.json").read_text())
    }
    assert "--download" in rows["wnli"] and "--root" in rows["alpaca"] and not rows["first_word"]


def test_a_run_whose_shares_change_on_the_way(tmp_path):
    recipe = samples.write_recipe(
        tmp_path, tmp_path / "cache", mixture="sample_mix", phases=((3, "sample_held"),)
    )
    samples.itx("data", "audit", recipe, "--train.steps=40", "--json", tmp_path / "audit.json")
    (lock,) = (json.loads(f.read_text()) for f in (tmp_path / "cache" / "locks").iterdir())
    assert [p["step"] for p in lock["phases"]] == [0, 3]
    for phase in lock["phases"]:
        assert sum(phase["rates"]) == pytest.approx(1)
    only_later = [i for i, r in enumerate(lock["phases"][0]["rates"]) if r == 0]
    assert only_later and all(lock["phases"][1]["rates"][i] > 0 for i in only_later)
    facts = json.loads((tmp_path / "audit.json").read_text())
    assert facts["errors"] == [] and set(facts["tasks"]) == {t["name"] for t in lock["tasks"]}
    done = samples.itx("data", "batch", recipe, "--train.steps=40", "--step", "30")
    assert any(lock["tasks"][i]["name"] in done.stdout for i in only_later)


def test_tasks_that_lack_the_variants_of_a_mixture_are_told(tmp_path):
    recipe = samples.write_recipe(tmp_path, tmp_path / "cache", mixture="sample_opt")
    done = samples.itx("data", "audit", recipe, "--json", tmp_path / "audit.json")
    facts = json.loads((tmp_path / "audit.json").read_text())
    assert (
        list(facts["tasks"]) == ["sample_even:opt"]
        and facts["tasks"]["sample_even:opt"]["used"] > 0
    )
    left = [x["task"] for x in facts["left_out"]]
    assert left == [n for n in sample_tasks.ALL if n != "sample_even"]
    said = [
        line for line in done.stdout.splitlines() if line.startswith("left out of sample_opt: ")
    ]
    assert said[
        0
    ] == "left out of sample_opt: sample_first (it has no wording for :zs:opt)" and len(
        said
    ) == len(left)


def test_a_copied_folder_has_no_version(monkeypatch):
    """Neither a checkout nor installed: a run begins all the same, and knows its code by a hash."""
    assert not versions.code_version().startswith("unknown")

    def none(*_, **__):
        raise versions.metadata.PackageNotFoundError("itx")

    monkeypatch.setattr(versions.metadata, "version", none)
    monkeypatch.setenv("PATH", "")
    assert re.fullmatch("unknown[+][0-9a-f]{8}", versions.code_version())
