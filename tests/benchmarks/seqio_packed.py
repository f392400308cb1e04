# SPDX-License-Identifier: Apache-2.0
"""SeqIO's packed pipeline on a lock's tokens; data_plane.py runs it, because it needs TensorFlow.

Reads [{lock, root, seconds}] as JSON from standard input, prints [{source: {tokens, cpu, wall,
fill}}].
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


def in_memory(records: cache.Records, eos_id: int) -> seqio.FunctionDataSource:
    """Two-piece records from tensors: no file is read, nothing is parsed."""

    def dataset(split, shuffle_files, seed=None):
        flat, eos = (
            tf.constant(np.concatenate(records.shards).astype(np.int32)),
            tf.constant([eos_id]),
        )

        def example(start, middle, end):
            return {"inputs": flat[start:middle], "targets": tf.concat([flat[middle:end], eos], 0)}

        at = records.piece_starts
        return tf.data.Dataset.from_tensor_slices((at[:-1:2], at[1::2], at[2::2])).map(example)

    return seqio.FunctionDataSource(dataset, splits=["train"])


def from_cache(records: cache.Records, eos_id: int) -> seqio.TFExampleDataSource:
    """The records in the files that SeqIO's own cache has: tf.Example in TFRecord."""
    file = records.folder / "train.tfrecord"
    if not file.exists():
        with tf.io.TFRecordWriter(str(file)) as writer:
            for i in range(len(records)):
                (prompt, _), (target, _) = records[i]
                ids = {"inputs": prompt, "targets": [*target, eos_id]}
                features = {
                    k: tf.train.Feature(int64_list=tf.train.Int64List(value=v))
                    for k, v in ids.items()
                }
                writer.write(
                    tf.train.Example(
                        features=tf.train.Features(feature=features)
                    ).SerializeToString()
                )
    ragged = tf.io.FixedLenSequenceFeature([], tf.int64, allow_missing=True)
    return seqio.TFExampleDataSource({"train": str(file)}, {"inputs": ragged, "targets": ragged})


SOURCES = {"memory": in_memory, "cache": from_cache}


def to_int32(dataset: tf.data.Dataset) -> tf.data.Dataset:
    return dataset.map(lambda e: {k: tf.cast(v, tf.int32) for k, v in e.items()})


def register(lock: dict, root: Path, name: str, source: str) -> None:
    """The lock's tasks and their mixture; targets end in EOS."""
    vocabulary = seqio.PassThroughVocabulary(lock["vocabulary"]["size"])
    features = {
        k: seqio.Feature(vocabulary, add_eos=False, dtype=tf.int32) for k in ("inputs", "targets")
    }
    names = [f"{name}_{task['name']}" for task in lock["tasks"]]
    for task, task_name in zip(lock["tasks"], names, strict=True):
        made = SOURCES[source](cache.Records(root / task["folders"][0]), lock["eos_id"])
        seqio.TaskRegistry.add(
            task_name, source=made, preprocessors=[to_int32], output_features=features
        )
    seqio.MixtureRegistry.add(name, names, default_rate=1.0)


def measure(lock: dict, root: Path, seconds: float, source: str) -> dict:
    name = f"mixture_{len(seqio.MixtureRegistry.names())}"
    register(lock, root, name, source)
    both = lock["architecture"] == "encoder_decoder"
    row = lock["sequence_length"]
    sides = (
        {"inputs": row, "targets": lock["target_length"]}
        if both
        else {"inputs": row * 3 // 4, "targets": row // 4}
    )
    if both:
        converter = seqio.EncDecFeatureConverter(pack=True)
    else:
        converter = seqio.PrefixLMFeatureConverter(pack=True)
    rows = seqio.get_dataset(name, sides, converter, shuffle=True, num_epochs=None, seed=0)
    options = tf.data.Options()
    options.threading.private_threadpool_size = options.threading.max_intra_op_parallelism = 1
    batches = (
        rows.batch(lock["global_batch"], drop_remainder=True)
        .with_options(options)
        .as_numpy_iterator()
    )
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
    print(
        json.dumps(
            [
                {s: measure(r["lock"], Path(r["root"]), r["seconds"], s) for s in SOURCES}
                for r in runs
            ]
        )
    )


if __name__ == "__main__":
    main()
