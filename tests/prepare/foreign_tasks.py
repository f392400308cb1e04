# SPDX-License-Identifier: Apache-2.0
"""A user's own module in T5's style: tasks and nested mixtures straight in SeqIO, nothing of itx in
it.

It finds the vocabulary in ITX_TEST_VOCABULARY. `user.by_*` and `user.no_*` are tasks that cannot be
scored or built.
"""

import functools
import os

import seqio
import tensorflow as tf

from tests.prepare import foreign_scores

WORDS = "red blue green black white pink".split()
LABELS = ["odd", "even"]
VOCABULARY = seqio.SentencePieceVocabulary(os.environ["ITX_TEST_VOCABULARY"], extra_ids=10)
FEATURES = {k: seqio.Feature(VOCABULARY, add_eos=True) for k in ("inputs", "targets")}


def rows(split, shuffle_files, seed=None, n=None, first=0):
    start = 1000 * list(n).index(split) + first
    words = [
        " ".join(WORDS[(i // 6**k) % 6] for k in range(5 + i % 3))
        for i in range(start, start + n[split])
    ]
    return tf.data.Dataset.from_tensor_slices(
        {"words": words, "label": [w.count(" ") % 2 for w in words]}
    )


def source(first, known=True, **n):
    make = functools.partial(rows, n=n, first=first)
    return seqio.FunctionDataSource(make, splits=list(n), num_input_examples=n if known else None)


@seqio.map_over_dataset
def parity(e):
    return {
        **e,
        "inputs": tf.strings.join(["Odd or even: ", e["words"]]),
        "targets": tf.gather(LABELS, e["label"]),
    }


@seqio.map_over_dataset(num_seeds=1)
def some_word(e, seed):
    """Asks for one word, which is drawn."""
    words = tf.strings.split(e["words"])
    at = tf.random.stateless_uniform([], seed, 0, tf.shape(words)[0], tf.int32)
    prompt = tf.strings.join(["Word ", tf.strings.as_string(at + 1), " of: ", e["words"]])
    return {"inputs": prompt, "targets": words[at]}


@seqio.map_over_dataset
def last_word(e):
    return {
        "inputs": tf.strings.join(["Last of: ", e["words"]]),
        "targets": tf.strings.split(e["words"])[-1],
    }


@seqio.map_over_dataset
def emptied(e):
    """Some targets are empty."""
    return {**e, "targets": e["targets"][: tf.where(tf.shape(e["inputs"])[0] % 3 == 0, 0, 99)]}


@seqio.map_over_dataset
def broken(e):
    return {**e, "inputs": e["no such field"]}


def task(name, source, *preprocessors, **scored):
    steps = [*preprocessors[:1], seqio.preprocessors.tokenize, *preprocessors[1:], seqio.CacheDatasetPlaceholder(),
             seqio.preprocessors.append_eos_after_trim]  # fmt: skip
    seqio.TaskRegistry.add(
        name, source=source, preprocessors=steps, output_features=FEATURES, **scored
    )


def by_tensorflow(targets, predictions):
    return {"equal": float(tf.reduce_mean(tf.cast(tf.equal(targets, predictions), tf.float32)))}


label_index = functools.partial(foreign_scores.label_index, labels=LABELS)
correlation, likelihood = foreign_scores.length_correlation, foreign_scores.mean_likelihood
task("user.short:v1", source(0, train=300, validation=24, test=5), parity,
     metric_fns=[foreign_scores.accuracy], postprocess_fn=label_index)  # fmt: skip
task(
    "user.long",
    source(5000, train=120, validation=24, test=5),
    last_word,
    metric_fns=[correlation, likelihood],
)
task("user.more", source(9000, train=90), some_word, emptied)
task("user.half", source(20000, train=9, validation=16), parity, metric_fns=[correlation])
capped = functools.partial(seqio.mixing_rate_num_examples, maximum=200)
seqio.MixtureRegistry.add("user_inner", [("user.short:v1", capped), ("user.long", capped)])
seqio.MixtureRegistry.add("user_mix", [("user_inner", 0.8), ("user.long", 0.1), ("user.more", 0.1)])

small = source(0, train=20, validation=4)
task("user.by_tensorflow", small, parity, metric_fns=[by_tensorflow])
task("user.by_lambda", small, parity, metric_fns=[lambda targets, predictions: {"one": 1.0}])
task("user.by_late_import", small, parity, metric_fns=[foreign_scores.late_import])
task("user.by_wrong_label", small, parity, metric_fns=[foreign_scores.accuracy],
     postprocess_fn=functools.partial(foreign_scores.label_index, labels=LABELS[::-1]))  # fmt: skip
task("user.no_field", small, broken)
task("user.no_train", source(0, validation=4), parity)
task("user.no_size", source(0, known=False, train=20), parity)
seqio.MixtureRegistry.add("user_no_size", ["user.no_size"], default_rate=capped)
