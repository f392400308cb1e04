# SPDX-License-Identifier: Apache-2.0
"""What the tasks of foreign_tasks.py are scored with: plain Python, as in-loop evaluation needs
it."""

import numpy as np


def accuracy(targets, predictions):
    """In percent, as T5's metrics are."""
    return {
        "accuracy": 100.0
        * float(np.mean([t == p for t, p in zip(targets, predictions, strict=True)]))
    }


def length_correlation(targets, predictions):
    """A value of the set alone: one example has none."""
    t, p = ([len(str(x)) for x in side] for side in (targets, predictions))
    varied = len(set(t)) > 1 and len(set(p)) > 1
    return {
        "length_correlation": float(np.corrcoef(t, p)[0, 1]) if varied else 0.0,
        "mean_length": float(np.mean(p)),
    }


def mean_likelihood(targets, scores):
    return {"mean_likelihood": float(np.mean(scores))}


def label_index(text, example=None, is_target=False, labels=()):
    """T5's string_label_to_class_id: -1 for what is no label. The Task's own label must agree with
    its target."""
    found = labels.index(text.strip()) if text.strip() in labels else -1
    assert not is_target or found == int(example["label"]), (text, example)
    assert example["words"].decode() and example["inputs"].dtype == np.int32
    return found


def late_import(targets, predictions):
    import tensorflow as tf

    return {
        "equal": float(
            tf.reduce_mean([float(t == p) for t, p in zip(targets, predictions, strict=True)])
        )
    }
