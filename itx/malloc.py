# SPDX-License-Identifier: Apache-2.0
"""Settings of glibc's malloc for training on a CPU.

Each step takes and frees gigabytes. By default glibc gives freed memory back, and the next step
faults its pages in anew, 4 kB at a time: a quarter of the time of a step of the quickstart. With
pages of 2 MB that takes little time, and memory is still given back. glibc reads the setting for
them before a process starts, so a command sets it and starts itself once more.
"""

import ctypes
import os
import platform
import sys
from pathlib import Path

TUNABLES = "GLIBC_TUNABLES"  # the environment variable that glibc reads (2.35 and later)
HUGE_PAGES = "glibc.malloc.hugetlb=1"  # malloc asks the kernel for pages of 2 MB (madvise)
KERNEL = Path("/sys/kernel/mm/transparent_hugepage/enabled")  # always [madvise] never

# Where a process was not started so: glibc's mallopt, parameter -> value. -1: never give freed
# memory back to the system (glibc reads the value -1 as the largest size); -4: no mmap; -8: one
# arena. The price is fragments: the process may keep up to four times what a step needs.
KEEP_FREED_MEMORY = {-1: -1, -4: 0, -8: 1}
MAX_CORES = 16  # a larger machine keeps glibc's defaults


def _is_small_glibc() -> bool:
    return platform.libc_ver()[0] == "glibc" and (os.cpu_count() or 1) <= MAX_CORES


def _has_huge_pages() -> bool:
    """Whether glibc and the kernel have them."""
    version = tuple(int(n) for n in platform.libc_ver()[1].split(".") if n.isdigit())
    try:
        return version >= (2, 35) and "[never]" not in KERNEL.read_text()
    except OSError:
        return False


def start_with_huge_pages() -> None:
    """Replace this process, on a small machine, by the same command with HUGE_PAGES in its
    environment, from which its children have it too. Returns where that is so already, or where
    there are no such pages."""
    held = os.environ.get(TUNABLES, "")
    # a person's own value of that setting stays
    if not _is_small_glibc() or "glibc.malloc.hugetlb" in held or not _has_huge_pages():
        return
    if sys.executable:
        os.environ[TUNABLES] = f"{held}:{HUGE_PAGES}".lstrip(":")
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def keep_freed_memory() -> None:
    """Keep freed memory in the process, on a small machine without huge pages; without effect once
    JAX has started."""
    if _is_small_glibc() and HUGE_PAGES not in os.environ.get(TUNABLES, ""):
        libc = ctypes.CDLL(None)
        for parameter, value in KEEP_FREED_MEMORY.items():
            libc.mallopt(parameter, value)
