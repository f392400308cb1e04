# SPDX-License-Identifier: Apache-2.0
"""A process that asks a server many things through a courier and writes what it was told:
`python -m tests.create.asker ADDRESS FOLDER COUNT`. Killed, the same command goes on."""

import json
import os
import sys
from pathlib import Path

from itx import processes, storage
from itx.create.courier import Courier
from itx.create.generators import Message, Request
from itx.create.server import Server

BATCH, CONCURRENCY = 12, 4


def main(address: str, folder: str, count: int) -> int:
    place = Path(folder)
    lines: list[str] = []
    server = Server(address, "small", concurrency=CONCURRENCY, first_pause_seconds=0.01)
    with Courier(server, place / "journal.sqlite") as courier:
        (place / "pids").write_text(f"{os.getpid()} {courier._process.pid}")
        for begin in range(0, count, BATCH):
            asked = [
                Request(messages=(Message("user", f"Question {i}"),), seed=i)
                for i in range(begin, min(count, begin + BATCH))
            ]
            lines += [
                json.dumps([r.digest, a.text])
                for r, a in zip(asked, courier.ask(asked), strict=True)
            ]
    with storage.whole_file(place / "answers.jsonl") as part:
        part.write_text("\n".join(lines), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(processes.as_command(lambda: main(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
