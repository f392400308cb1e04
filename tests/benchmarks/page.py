# SPDX-License-Identifier: Apache-2.0
"""README.md beside this file, from what the benchmarks wrote: `python -m tests.benchmarks.page`."""

from pathlib import Path

from itx import storage
from tests.benchmarks import (
    build,
    data_plane,
    decode,
    gpu,
    harness,
    novelty,
    serve,
    smollm2,
    task_sums,
    train_step,
)

HERE = Path(__file__).parent


def main() -> None:
    page = [
        "# Benchmarks",
        "",
        "Written by `python -m tests.benchmarks.page` from the runs of the commands below.",
    ]
    parts = (
        train_step,
        task_sums,
        decode,
        smollm2,
        harness,
        gpu,
        data_plane,
        build,
        novelty,
        serve,
    )
    for part in parts:
        file = HERE / f"{part.__name__.rpartition('.')[2]}.json"
        if file.is_file():
            page += ["", *part.lines(storage.read_json(file))]
    (HERE / "README.md").write_text("\n".join(page) + "\n")


if __name__ == "__main__":
    main()
