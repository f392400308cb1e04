# SPDX-License-Identifier: Apache-2.0
"""Whole files and folders, their modes, and paths that name a store."""

import errno
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from safetensors.numpy import save_file

from itx import storage
from itx.cli import main


@pytest.mark.parametrize("umask, mode", [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_written_files_have_the_mode_that_the_umask_says(tmp_path, umask, mode):
    """safetensors makes private files; other users of a machine could not read an exported
    model."""
    before = os.umask(umask)
    try:
        save_file({"x": np.zeros(2, np.float32)}, tmp_path / "alone")
        with storage.whole_file(tmp_path / "file") as part:
            save_file({"x": np.zeros(2, np.float32)}, part)
        with storage.whole_folder(tmp_path / "folder") as part:
            (part / "inner").mkdir()
            save_file({"x": np.zeros(2, np.float32)}, part / "inner" / "file")
    finally:
        os.umask(before)
    for file in (tmp_path / "file", tmp_path / "folder" / "inner" / "file"):
        assert file.stat().st_mode & 0o777 == mode


@pytest.mark.parametrize(
    "words",
    [
        ("eval", "run", "--cache_dir=gs://bucket/cache"),
        ("convert", "export", "run", "s3://bucket/out"),
        ("train", "configs/quickstart.py", "--lock=gs://bucket/cache/locks/a.json"),
        ("analyze", "gs://bucket/run"),
        ("train", "configs/quickstart.py", "--data.cache_dir=gs://bucket/cache", "--lock=absent"),
    ],
)
def test_a_path_of_a_remote_store_is_refused(words, capsys, desk, monkeypatch):
    monkeypatch.chdir(desk)
    there = set(os.listdir())
    assert main(list(words)) == 2
    said = capsys.readouterr().err
    assert "only runs may lie in a store" in said and said.count("\n") == 1
    assert next(w.split("=")[-1] for w in words if "://" in w) in said
    assert next(w.split("=")[-1] for w in words if "://" in w) in said
    assert set(os.listdir()) == there


WRITER = """
import sys
from itx import storage
with storage.whole_folder(sys.argv[1]) as part:
    (part / "file").write_text("content")
    print("writing", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def start_writer(tmp_path):
    """Starts a process that writes tmp_path/made until it is told to end."""
    begun = []

    def start(*before):
        words = [*before, sys.executable, "-c", WRITER, str(tmp_path / "made")]
        begun.append(
            subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        )
        assert begun[-1].stdout.readline() == "writing\n"
        return begun[-1]

    yield start
    for process in begun:
        process.kill()
        process.communicate()


def no_such_process(pid, signal):
    """What every number of another pid namespace is told."""
    raise ProcessLookupError


def test_a_writer_in_another_pid_namespace_keeps_its_part(tmp_path, monkeypatch, start_writer):
    writer = start_writer()
    monkeypatch.setattr(os, "kill", no_such_process)
    assert storage.clean_parts(tmp_path) == 0
    writer.communicate("end\n")
    assert writer.returncode == 0 and (tmp_path / "made" / "file").read_text() == "content"
    assert [p.name for p in tmp_path.iterdir()] == ["made"]


def test_a_writer_in_a_real_pid_namespace_keeps_its_part(tmp_path, start_writer):
    apart = ["unshare", "--user", "--map-root-user", "--pid", "--fork"]
    if (
        not shutil.which("unshare")
        or subprocess.run([*apart, "true"], capture_output=True).returncode
    ):
        pytest.skip("this machine lets no user make a pid namespace")
    writer = start_writer(*apart)
    assert storage.clean_parts(tmp_path) == 0
    writer.communicate("end\n")
    assert writer.returncode == 0 and (tmp_path / "made" / "file").read_text() == "content"


def test_what_a_killed_writer_left_is_removed_at_once_whoever_has_its_number_now(
    tmp_path, monkeypatch, start_writer
):
    writer = start_writer()
    writer.kill()
    writer.communicate()
    assert len(list(tmp_path.iterdir())) == 1
    monkeypatch.setattr(os, "kill", lambda pid, signal: None)  # another process has the number
    assert storage.clean_parts(tmp_path) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("why", ["no locks", "another machine"])
def test_where_locks_tell_nothing_only_old_parts_are_removed(
    tmp_path, monkeypatch, start_writer, why
):
    """Some network file systems have no locks, others keep those of each machine apart."""
    import fcntl

    def no_locks(number, operation):
        raise OSError(errno.ENOLCK, "no locks available")

    writer = start_writer()
    writer.kill()
    writer.communicate()
    (part,) = tmp_path.iterdir()
    if why == "no locks":
        monkeypatch.setattr(fcntl, "flock", no_locks)
    else:
        for lock in part.glob("lock"):
            lock.write_text("another machine")
    monkeypatch.setattr(os, "kill", no_such_process)
    assert storage.clean_parts(tmp_path) == 0
    two_days_ago = time.time() - 2 * 86400
    for found in (*part.rglob("*"), part):
        os.utime(found, (two_days_ago, two_days_ago))
    assert storage.clean_parts(tmp_path) == 1
    assert not list(tmp_path.iterdir())
    with storage.whole_file(tmp_path / "file") as new:  # written all the same
        new.write_text("content")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_two_writers_of_one_name_do_not_meet(tmp_path):
    """Process numbers of two containers may be equal; here both writers are this process."""
    with storage.whole_folder(tmp_path / "made") as first:
        (first / "file").write_text("first")
        with storage.whole_folder(tmp_path / "made") as second:
            (second / "other").write_text("second")
        assert (first / "file").read_text() == "first"
    assert sorted(p.name for p in (tmp_path / "made").iterdir()) == ["file"]
    assert [p.name for p in tmp_path.iterdir()] == ["made"]


def test_all_of_a_folder_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    events, fsync, replace = [], os.fsync, os.replace

    def synced(number):
        events.append(os.path.basename(os.readlink(f"/proc/self/fd/{number}")))
        fsync(number)

    def renamed(part, path):
        events.append("rename")
        replace(part, path)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    with storage.whole_folder(tmp_path / "made") as part:
        (part / "inner").mkdir()
        (part / "inner" / "leaf").write_text("1")
        (part / "top").write_text("2")
    before, after = events[: events.index("rename")], events[events.index("rename") + 1 :]
    assert {"leaf", "inner", "top"} < set(before) and len(before) == 4
    assert after == [tmp_path.name]
