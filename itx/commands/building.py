# SPDX-License-Identifier: Apache-2.0
"""Work that needs the writing side goes to a process of its own: it may import SeqIO, training and
evaluation never do."""

import sys
from argparse import Namespace
from pathlib import Path

from itx import processes, storage


def build_in_subprocess(args: Namespace) -> Path:
    """Build (or find) the cache of a recipe; returns the lock's file."""
    words = [sys.executable, "-m", "itx.cli", *"data build --keep-damaged".split()]
    words += [args.config, *args.overrides, *(["--quick"] if args.quick else [])]
    with processes.temporary_home() as folder:
        facts = folder / "build.json"
        processes.run_child([*words, "--json", str(facts)], "the build")
        return Path(storage.read_json(facts)["lock"])


def further_in_subprocess(request: dict) -> dict:
    """Rows that the run's lock does not have, from a build process (itx/prepare/further.py)."""
    with processes.temporary_home() as folder:
        request_file, answer = folder / "request.json", folder / "answer.json"
        storage.write_json(request_file, request)
        command = [sys.executable, "-m", "itx.prepare.further", str(request_file), str(answer)]
        processes.run_child(command, "the build of further rows")
        return storage.read_json(answer)
