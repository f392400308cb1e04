# SPDX-License-Identifier: Apache-2.0
"""A command of ours in a process of its own, which says what it says in a file: what commands that
run other commands are made of."""

import sys
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from itx import processes
from itx.commands.building import build_in_subprocess
from itx.errors import RunFailed

STOPPED = (130, 143)  # exit codes of a signal, which ends the outer command too


def itx(log: Path, words: list[str], environment: Mapping[str, str] = MappingProxyType({})) -> None:
    """Run `itx WORDS`; RunFailed with the last line that it said where it fails.

    Args:
        log: all that it says is added to this file.
        environment: what is set for it besides.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    try:
        processes.run_child([sys.executable, "-m", "itx.cli", *words], "it", log, environment)
    except SystemExit as e:
        if e.code in STOPPED:
            raise
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        said = lines[-1].removeprefix("itx: ") if lines else "it said nothing"
        raise RunFailed(f"{said} (exit {e.code}; all of it: {log})") from e


def built(args: Namespace) -> Path:
    """The lock of a recipe, whose data are built where they are not; RunFailed where they cannot
    be."""
    try:
        return build_in_subprocess(args)
    except SystemExit as e:
        if e.code in STOPPED:
            raise
        raise RunFailed(f"its data cannot be built (exit {e.code}, said above)") from e


def compiled_in(folder: Path) -> dict[str, str]:
    """The environment in which commands share what JAX compiles, in a folder."""
    return {
        "JAX_COMPILATION_CACHE_DIR": str(folder.resolve()),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
