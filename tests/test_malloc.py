# SPDX-License-Identifier: Apache-2.0
"""A command starts itself once more with pages of 2 MB, where there are such pages."""

import json
import os
import subprocess
import sys

import pytest

from itx import malloc

CODE = """
import json, os, sys
from itx import malloc
before = os.environ.get("GLIBC_TUNABLES", "")
malloc.start_with_huge_pages()
print(json.dumps([os.getpid(), before, sys.argv, sys.flags.dont_write_bytecode]))
"""


def started(**environment) -> tuple[int, list]:
    """(the process's id, what it printed)."""
    kept = {k: v for k, v in os.environ.items() if k != malloc.TUNABLES}
    process = subprocess.Popen(
        [sys.executable, "-B", "-c", CODE, "a b", "--x=1"],
        stdout=subprocess.PIPE,
        text=True,
        env={**kept, **environment},
    )
    lines = process.communicate()[0].splitlines()
    assert process.returncode == 0 and len(lines) == 1
    return process.pid, json.loads(lines[0])


@pytest.fixture
def huge_pages():
    if not (malloc._is_small_glibc() and malloc._has_huge_pages()):
        assert started()[1][1] == ""  # such a machine starts once
        return ""
    return malloc.HUGE_PAGES


def test_a_process_starts_once_more_as_itself(huge_pages):
    pid, told = started()
    assert told == [pid, huge_pages, ["-c", "a b", "--x=1"], 1]


def test_settings_of_a_person_stay(huge_pages):
    both = ":".join(filter(None, ["glibc.malloc.check=0", huge_pages]))
    assert started(GLIBC_TUNABLES="glibc.malloc.check=0")[1][1] == both
    assert started(GLIBC_TUNABLES="glibc.malloc.hugetlb=0")[1][1] == "glibc.malloc.hugetlb=0"


def test_without_such_pages_freed_memory_is_kept(monkeypatch):
    taken = []
    monkeypatch.setattr(malloc, "_is_small_glibc", lambda: True)
    monkeypatch.setattr(
        malloc.ctypes,
        "CDLL",
        lambda name: type("C", (), {"mallopt": lambda _, *a: taken.append(a)})(),
    )
    monkeypatch.setenv(malloc.TUNABLES, malloc.HUGE_PAGES)
    malloc.keep_freed_memory()
    assert taken == []
    monkeypatch.delenv(malloc.TUNABLES)
    malloc.keep_freed_memory()
    assert dict(taken) == malloc.KEEP_FREED_MEMORY


@pytest.mark.parametrize(
    ("version", "kernel", "found"),
    [
        ("2.36", "always [madvise] never", True),
        ("2.35", "[always] madvise never", True),
        ("2.34", "always [madvise] never", False),
        ("2.36", "always madvise [never]", False),
        ("2.36", None, False),
    ],
)
def test_where_there_are_such_pages(tmp_path, monkeypatch, version, kernel, found):
    monkeypatch.setattr(malloc.platform, "libc_ver", lambda: ("glibc", version))
    monkeypatch.setattr(malloc, "KERNEL", tmp_path / "enabled")
    if kernel:
        (tmp_path / "enabled").write_text(kernel)
    assert malloc._has_huge_pages() is found
