# SPDX-License-Identifier: Apache-2.0
"""`itx train` by several processes on this machine's CPU, and what may happen to one of them.

    python -m tests.pod FAULTS WORDS…      one process; FAULTS is JSON, {} for none

A process does not know that it is disturbed: `main` wraps the train step from outside.
"""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from tests.conftest import REPO

PATIENCE_SECONDS = 240.0  # for a process to end, or to come as far as a test waits for

RECIPE = """
import dataclasses
from tests.samples import config

def get_config(quick=False):
    made = config({cache!r})
    train = dataclasses.replace(made.train, steps={steps}, checkpoint_every=4, log_every=1)
    scored = dataclasses.replace(made.eval, before=False, max_examples=1)
    return dataclasses.replace(made, train=train, eval=scored)
"""


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


class Pod:
    """A recipe over the cache of the fixture `sample_cache`, and processes that train it."""

    def __init__(self, folder: Path, cache: Path, lock: Path, steps: int = 6):
        self.folder, self.lock = folder, lock
        self.recipe = folder / "recipe.py"
        self.recipe.write_text(RECIPE.format(cache=str(cache), steps=steps))

    def start(
        self, run: str, *words: str, processes: int = 2, devices: int = 1, **faults
    ) -> list[subprocess.Popen]:
        """The processes that train into the folder `run`; process i says what it says in
        `run`.i.txt. Faults: "seconds", which each step takes longer; "raises": [process, step];
        "store": a folder of objects, where the run is kept, and each process has a disk of its own
        (`disk`)."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("XLA_FLAGS")}
        environment |= {"JAX_NUM_CPU_DEVICES": str(devices), "PYTHONFAULTHANDLER": "1"}
        where, started = [f"--coordinator=localhost:{free_port()}", f"--processes={processes}"], []
        for i in range(processes):
            told = [*where, f"--process={i}"] if processes > 1 else ["--processes=1"]
            fault = json.dumps(faults | {"process": i})
            place = ["--run_dir", str(self.folder / run)]
            if "store" in faults:
                place = [f"--run_dir=flaky://bucket/{run}", f"--scratch={self.disk(run, i)}"]
            command = [sys.executable, "-m", "tests.pod", fault, "train", str(self.recipe)]
            command += ["--lock", str(self.lock), *place]
            with open(self.folder / f"{run}.{i}.txt", "wb") as out:
                started.append(
                    subprocess.Popen(
                        [*command, *told, *words], cwd=REPO, env=environment, stdout=out, stderr=out
                    )
                )
        return started

    def disk(self, run: str, process: int) -> Path:
        return self.folder / f"{run}.disk{process}"

    def place(self, run: str, process: int) -> Path:
        """The run folder of a process with a disk of its own."""
        (place,) = self.disk(run, process).glob(f"*-trained-{process}")
        return place / "run" / run

    def said(self, run: str, process: int) -> str:
        return (self.folder / f"{run}.{process}.txt").read_text("utf-8", "replace")

    def ended(self, run: str, processes: list[subprocess.Popen]) -> list[int]:
        """The exit codes; whoever is still there after PATIENCE_SECONDS is killed and fails the
        test."""
        until, late = time.monotonic() + PATIENCE_SECONDS, []
        for i, process in enumerate(processes):
            try:
                process.wait(max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                late.append(i)
        assert not late, f"{late} did not end\n" + self.said(run, late[0])[-3000:]
        return [process.returncode for process in processes]

    def trained(self, run: str, *words: str, **more) -> Path:
        """The run folder of processes that must all end well."""
        processes = self.start(run, *words, **more)
        codes = self.ended(run, processes)
        whole = "\n".join(self.said(run, i)[-3000:] for i in range(len(codes)))
        assert codes == [0] * len(codes), whole
        return self.folder / run

    def wait_for_step(self, run: str, step: int, processes: list[subprocess.Popen]) -> None:
        """Wait until metrics.jsonl holds a step."""
        until = time.monotonic() + PATIENCE_SECONDS
        inside = f"{run}.disk0/*-trained-0/run/{run}/metrics.jsonl"
        while not any(
            len(file.read_text().splitlines()) >= step
            for file in (*self.folder.glob(f"{run}/metrics.jsonl"), *self.folder.glob(inside))
        ):
            alive = all(p.poll() is None for p in processes)
            assert alive and time.monotonic() < until, self.said(run, 0)[-3000:]
            time.sleep(0.05)


def disturb(process: int, seconds: float = 0.0, raises: tuple = (), store: str = "") -> None:
    """Wrap the train step of this process."""
    from itx import train
    from tests import stores

    if store:
        stores.serve(store)

    inner, steps = train.take_step, 0

    def take_step(*arguments):
        nonlocal steps
        steps += 1
        time.sleep(seconds)
        if list(raises) == [process, steps]:
            raise ArithmeticError("planted in a step")
        return inner(*arguments)

    train.take_step = take_step


if __name__ == "__main__":
    from itx import cli

    disturb(**json.loads(sys.argv[1]))
    sys.argv = ["itx", *sys.argv[2:]]
    cli.run()
