# SPDX-License-Identifier: Apache-2.0
"""SeqIO's packed pipeline on a lock's tokens; data_plane.py runs it, because it needs TensorFlow.

Reads [{lock, root, seconds}] as JSON from standard input, prints [{tokens, cpu, wall, fill}].
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import seqio
import tensorflow as tf

from itx.data import cache
from tests.benchmarks.data_plane import consume

WARM_UP = 3  # batches before the clock starts


def in_memory(records: cache.Records, eos_id: int):
    """The function of a FunctionDataSource over two-piece records."""

    def dataset(split, shuffle_files, seed=None):
        flat, eos = tf.constant(np.asarray(records.tokens, np.int32)), tf.constant([eos_id])

        def example(start, middle, end):
            return {"inputs": flat[start:middle], "targets": tf.concat([flat[middle:end], eos], 0)}

        at = records.piece_starts
        return tf.data.Dataset.from_tensor_slices((at[:-1:2], at[1::2], at[2::2])).map(example)

    return dataset


def register(lock: dict, root: Path, name: str) -> None:
    """The lock's tasks and their mixture, from tokens in memory; targets end in EOS."""
    features = {k: seqio.Feature(seqio.PassThroughVocabulary(lock["vocabulary"]["size"]), add_eos=False, dtype=tf.int32)
                for k in ("inputs", "targets")}  # fmt: skip
    names = []
    for task in lock["tasks"]:
        names.append(f"{name}_{task['name']}")
        seqio.TaskRegistry.add(
            names[-1],
            source=seqio.FunctionDataSource(
                in_memory(cache.Records(root / task["folders"][0]), lock["eos_id"]), splits=["train"]
            ),
            preprocessors=[],
            output_features=features,
        )
    seqio.MixtureRegistry.add(name, names, default_rate=1.0)


def measure(lock: dict, root: Path, seconds: float, name: str) -> dict:
    register(lock, root, name)
    both = lock["architecture"] == "encoder_decoder"
    row = lock["sequence_length"]
    sides = {"inputs": row, "targets": lock["target_length"]} if both else {"inputs": row * 3 // 4, "targets": row // 4}
    if both:
        converter = seqio.EncDecFeatureConverter(pack=True)
    else:
        converter = seqio.PrefixLMFeatureConverter(pack=True)
    rows = seqio.get_dataset(name, sides, converter, shuffle=True, num_epochs=None, seed=0)
    options = tf.data.Options()
    options.threading.private_threadpool_size = options.threading.max_intra_op_parallelism = 1
    batches = rows.batch(lock["global_batch"], drop_remainder=True).with_options(options).as_numpy_iterator()
    for _ in range(WARM_UP):
        next(batches)

    def timed():
        cpu = time.process_time()
        while time.process_time() - cpu < seconds:
            yield next(batches)

    return consume(timed())


def main() -> None:
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    runs = json.load(sys.stdin)
    print(json.dumps([measure(r["lock"], Path(r["root"]), r["seconds"], f"mix{i}") for i, r in enumerate(runs)]))


if __name__ == "__main__":
    main()
