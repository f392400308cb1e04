# SPDX-License-Identifier: Apache-2.0
"""A small run trained by two processes of this machine, four CPU devices each, for itx/checks.py.

python -m itx.two_processes REQUEST.json INDEX     one of them
"""

import contextlib
import dataclasses
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from itx import config as configs
from itx import hosts, processes, storage
from itx import mesh as meshes
from itx import train as training
from itx.config import MeshConfig
from itx.errors import RunFailed
from itx.runs import RunFolder
from itx.shrunk import Shrunk

COUNT, DEVICES = 2, 4
MAX_SECONDS = 600.0  # to start, compile and train, on a busy machine too
LAST_CHARACTERS = 300  # of what a process says that fails


@contextlib.contextmanager
def started(run: Shrunk, folder: Path, mesh: MeshConfig) -> Iterator[Callable[[], None]]:
    """Inside, two processes train into `folder`; the function waits for them, and raises RunFailed
    with the words of one that fails. None outlives the block."""
    folder.mkdir(parents=True, exist_ok=True)
    config = dataclasses.replace(run.config, mesh=mesh)
    request = folder / "request.json"
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    storage.write_json(
        request,
        {
            "config": configs.to_dict(config),
            "lock": run.lock,
            "ids": run.ids,
            "notes": run.notes,
            "coordinator": address,
        },
    )
    flags = os.environ.get("XLA_FLAGS", "").split()
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(DEVICES),
        "XLA_FLAGS": " ".join(f for f in flags if "device_count" not in f),
        processes.WATCH: str(os.getpid()),
    }
    children = []
    with contextlib.ExitStack() as stack:
        for i in range(COUNT):
            out = stack.enter_context(open(folder / f"{i}.txt", "wb"))
            command = [sys.executable, "-m", "itx.two_processes", str(request), str(i)]
            children.append(
                subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT)
            )
    try:
        yield lambda: _wait(children, folder)
    finally:
        for child in children:
            child.kill()
            child.wait()


def _wait(children: list[subprocess.Popen], folder: Path) -> None:
    until = time.monotonic() + MAX_SECONDS
    for i, child in enumerate(children):
        try:
            code = child.wait(max(0.1, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise RunFailed(
                f"process {i} of {COUNT} did not end within {MAX_SECONDS:.0f} s"
            ) from None
        if code:
            said = " ".join((folder / f"{i}.txt").read_text("utf-8", "replace").split())
            raise RunFailed(f"process {i} of {COUNT}: exit {code}: {said[-LAST_CHARACTERS:]}")


def main(file: str, index: int) -> None:
    processes.die_with_starter()
    request = json.loads(Path(file).read_text("utf-8"))
    config = configs.from_dict(request["config"])
    run = Shrunk(config, request["lock"], request["ids"], request["notes"])
    with hosts.joined(request["coordinator"], COUNT, index):
        setup = training.make_setup(config, *run.sizes, meshes.make_mesh(config.mesh))
        training.train(config, run.lock, run.batches(), RunFolder(Path(file).parent), setup)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
