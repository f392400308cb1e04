# SPDX-License-Identifier: Apache-2.0
"""Settings of glibc's malloc for training on a CPU."""

import ctypes
import os
import platform

# glibc's mallopt: parameter -> value. -1: never give freed memory back to the system (glibc reads
# the value -1 as the largest size); -4: no mmap; -8: one arena. Without these, each step faults in
# anew the pages that XLA freed after the one before, a quarter of the time of a step of the
# quickstart (measured: 528 ms, and 399 ms with them). A trim threshold of 2 GB is not enough: a
# step of M2 (tests/benchmarks) that needs 2.2 GB for a moment took 8.8 CPU seconds, and takes about
# 7 when nothing is trimmed. The price is fragments: the process may keep up to four times what a
# step needs.
KEEP_FREED_MEMORY = {-1: -1, -4: 0, -8: 1}
MAX_CORES = 16  # a larger machine keeps glibc's defaults


def keep_freed_memory() -> None:
    """Keep freed memory in the process, on a small machine; without effect once JAX has started."""
    if platform.libc_ver()[0] == "glibc" and (os.cpu_count() or 1) <= MAX_CORES:
        libc = ctypes.CDLL(None)
        for parameter, value in KEEP_FREED_MEMORY.items():
            libc.mallopt(parameter, value)
