# SPDX-License-Identifier: Apache-2.0
"""Whole files and folders, their modes, and paths that name a store."""

import os

import numpy as np
import pytest
from safetensors.numpy import save_file

from itx import storage
from itx.cli import main


@pytest.mark.parametrize("umask, mode", [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_written_files_have_the_mode_that_the_umask_says(tmp_path, umask, mode):
    """safetensors makes private files; other users of a machine could not read an exported model."""
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
        ("eval", "gs://bucket/run"),
        ("convert", "export", "s3://bucket/run", "out"),
        ("train", "configs/quickstart.py", "--run_dir=gs://bucket/run", "--lock=absent"),
        ("train", "configs/quickstart.py", "--data.cache_dir=gs://bucket/cache", "--lock=absent"),
    ],
)
def test_a_path_of_a_remote_store_is_refused(words, capsys, desk, monkeypatch):
    monkeypatch.chdir(desk)
    there = set(os.listdir())
    assert main(list(words)) == 2
    said = capsys.readouterr().err
    assert "remote storage is not built yet" in said and said.count("\n") == 1
    assert set(os.listdir()) == there
