# SPDX-License-Identifier: Apache-2.0
"""Run in a process of its own (TensorFlow stays out of the tests' process): a TFDS folder, read by
TFDS itself.

python -m tests.prepare.tfds_probe FOLDER    writes glue/rte in its builder's own schema, three
                                             shards of training rows,
                                           squad with its nested answers, glue/mrpc as ArrayRecord;
                                           prints {instruction: [[tfds id, row], …]} as TFDS reads
                                           them
"""

import json
import sys
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

ROWS = {"train": 100, "validation": 11}


def rows(split: str) -> list[dict]:
    return [
        {"idx": i, "label": i % 2, "sentence1": f"{split} премиса {i}", "sentence2": f"假设 {i}"}
        for i in range(ROWS[split])
    ]


def write(builder, examples: dict[str, list[dict]], **form) -> None:
    Path(builder.data_dir).mkdir(parents=True)
    writer = tfds.core.SequentialWriter(builder.info, max_examples_per_shard=40, **form)
    writer.initialize_splits(list(examples))
    writer.add_examples(examples)
    writer.close_all()


def plain(value):
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return [plain(v) for v in value]
    return value.decode() if isinstance(value, bytes) else value.item()


def read(builder, instruction: str) -> list:
    config = tfds.ReadConfig(add_tfds_id=True, interleave_cycle_length=1)
    found = []
    for example in tfds.as_numpy(builder.as_dataset(split=instruction, read_config=config)):
        found.append([example.pop("tfds_id").decode(), plain(example)])
    return found


def main(folder: str) -> None:
    rte = tfds.builder("glue/rte", data_dir=folder)
    write(rte, {split: rows(split) for split in ROWS})
    squad = tfds.builder("squad", data_dir=folder)
    answers = {"text": ["one", "два"], "answer_start": [3, 5]}
    write(
        squad,
        {
            "train": [
                {
                    "id": str(i),
                    "title": "t",
                    "context": "c",
                    "question": f"q {i}",
                    "answers": answers,
                }
                for i in range(3)
            ]
        },
    )
    array = tfds.builder("glue/mrpc", data_dir=folder, file_format="array_record")
    pairs = [
        {"idx": i, "label": i % 2, "sentence1": f"a {i}", "sentence2": f"b {i}"} for i in range(50)
    ]
    write(array, {"train": pairs}, file_format="array_record")
    print(json.dumps({
        **{i: read(rte, i) for i in ("train", "validation", "train[:-15]", "train[35:90]", "train[50%:]")},
        "squad": read(squad, "train"), "mrpc": pairs,
    }))  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1])
