# SPDX-License-Identifier: Apache-2.0
"""What the file system and the memory refuse ends in one line that names it; a fault of the program
stays one."""

import errno
import resource
import sys

import pytest

from itx.cli import main
from itx.commands import tasks as commands
from itx.config import to_dict
from itx.log import MetricsLog
from itx.runs import RunFolder
from itx.storage import write_json
from tests import scored

STORE = ('RESOURCE_EXHAUSTED: Error writing "a/0.0" in OCDBT database at local file "/runs/a/checkpoints/1/": Failed '
         "writing: \"/runs/a/checkpoints/1/d/c9\": Failed to write 9 bytes to file 7: No space [os_error_code='28']")  # fmt: skip
DEVICE = "RESOURCE_EXHAUSTED: Out of memory allocating 17179869184 bytes."
FAULTS = {
    "disk full": (
        OSError(errno.ENOSPC, "No space left on device", "/runs/a/config.json"),
        1,
        "/runs/a/config.json",
    ),
    "disk full, no name": (OSError(errno.ENOSPC, "No space left on device"), 1, "No space left"),
    "disk full in a checkpoint": (ValueError(STORE), 1, "/runs/a/checkpoints/1/"),
    "read-only": (
        OSError(errno.EROFS, "Read-only file system", "/runs/a"),
        2,
        "/runs/a: Read-only",
    ),
    "forbidden": (
        PermissionError(errno.EACCES, "Permission denied", "/runs/a"),
        2,
        "/runs/a: Permission denied",
    ),
    "absent": (
        FileNotFoundError(errno.ENOENT, "No such file", "/runs/b/x.json"),
        2,
        "/runs/b/x.json",
    ),
    "memory": (MemoryError("std::bad_alloc"), 1, "out of memory (std::bad_alloc)"),
    "memory of the device": (RuntimeError(DEVICE), 1, "train.microbatches"),
}


def said(words, capsys):
    """(exit code, or what was raised instead; the lines on stderr)"""
    try:
        code = main(words)
    except Exception as e:
        code = e
    return code, capsys.readouterr().err.splitlines()


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_the_machine_is_one_line(name, monkeypatch, capsys):
    fault, code, text = FAULTS[name]

    def refused(args):
        try:
            raise fault
        except type(fault) as e:
            if name != "disk full, no name":
                raise
            raise RuntimeError("a worker failed") from e

    monkeypatch.setattr(commands, "tasks_ls", refused)
    ended, lines = said(["tasks", "ls"], capsys)
    assert ended == code
    assert len(lines) == 1 and lines[0].startswith("itx: ") and text in lines[0]


def test_a_fault_of_the_program_is_not_hidden(monkeypatch):
    monkeypatch.setattr(commands, "tasks_ls", lambda args: {}["lost"])
    with pytest.raises(KeyError):
        main(["tasks", "ls"])


def test_a_write_that_the_system_cuts_short_leaves_nothing(tmp_path, capsys, monkeypatch):
    """A limit on the size of files stands for a full disk: the same call fails, halfway through a
    file."""
    # Python would keep the part that it could write
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    words = ["tasks", "ls", "--modules", "tests.sample_tasks", "--json", str(tmp_path / "x.json")]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        code, lines = said(words, capsys)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert code == 1 and len(lines) == 1 and f"{tmp_path / 'x.json'}: File too large" in lines[0]
    assert list(tmp_path.iterdir()) == []
    assert said(words, capsys)[0] == 0 and (tmp_path / "x.json").stat().st_size > 100


def test_a_folder_that_cannot_be_written_is_named(capsys):
    """No user may make a folder there, root included."""
    code, lines = said(
        ["tasks", "ls", "--modules", "tests.sample_tasks", "--json", "/sys/itx/x.json"], capsys
    )
    assert code == 2 and len(lines) == 1 and "/sys/itx" in lines[0]


@pytest.mark.parametrize(
    "line", ['{"step": 1, "train/lo', "\x00\x00", "[1]", '{"step": "one"}', '{"step": 1}}']
)
def test_a_damaged_line_of_metrics_is_named_and_nothing_is_written(line, tmp_path):
    file, failure = tmp_path / "metrics.jsonl", None
    file.write_text('{"step": 1}\n' + line + '\n{"step": 3}\n{"step": 4}\n')
    before = file.read_bytes()
    try:
        with MetricsLog(file, 3):
            pass
    except Exception as e:
        failure = e
    assert f"{file}: line 2 is damaged" in str(failure) and file.read_bytes() == before


def test_damage_behind_the_restored_step_is_made_again(tmp_path):
    file, failure = tmp_path / "metrics.jsonl", None
    file.write_bytes(b'{"step": 1}\n{"step": 2}\n{"st}\n\xff\xfe}\n{"step": 5}\n')
    try:
        with MetricsLog(file, 2):
            pass
    except Exception as e:
        failure = e
    assert failure is None and file.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_a_step_without_checkpoint_is_named_with_the_nearest(tmp_path, capsys):
    run, config, lock, _, _ = scored.small_run(tmp_path)
    assert run == RunFolder(tmp_path / "run")
    write_json(run.config_json, {"config": to_dict(config)})
    write_json(run.lock_json, lock)
    for step in (2, 4, 40):
        (run.checkpoints / str(step)).mkdir(parents=True)
    for given, near in ((3, "2, 4"), (39, "4, 40"), (-1, "0 (before tuning), 2")):
        code, lines = said(["generate", str(run.path), "--prompt=a", f"--step={given}"], capsys)
        assert code == 2 and len(lines) == 1
        assert f"--step {given}" in lines[0] and near in lines[0]


def test_a_short_write_of_numpy_is_a_full_disk():
    """It raises OSError without the system's number."""
    from itx.errors import of_the_machine

    line, code = of_the_machine(OSError("9932 requested and 6080 written")) or ("", 0)
    assert code == 1 and "No space left" in line
