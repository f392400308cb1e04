# SPDX-License-Identifier: Apache-2.0
"""Scores of tasks that were registered straight in SeqIO: their metric_fns and postprocess_fn,
called as seqio.Evaluator calls them, where SeqIO and TensorFlow are not installed.

row     "metrics": names of the metric functions
        "seqio": {"postprocess": name or "", "scale": see `tried`}
line    "references": [target text], "prediction"
        "logprob" of the target, for metrics of (targets, scores)
        "example": {feature: [dtype, value]}, where there is a postprocess_fn
"""

import inspect
import json
import math
import sys
import warnings
from typing import Any

import numpy as np

from itx.data import cache
from itx.data.types import EvalRow
from itx.errors import UserError
from itx.eval import metrics
from itx.eval.predictions import PredictionLine

ABSENT = ("tensorflow", "tensorflow_datasets", "tensorflow_text", "seqio", "t5")


def takes_scores(name: str) -> bool:
    """Whether a metric judges the log-likelihoods of targets: (targets, scores) rather than
    (targets, predictions)."""
    return "scores" in inspect.signature(metrics.resolve(name)).parameters


def values(row: EvalRow, lines: list[PredictionLine]) -> dict[str, float]:
    """{SeqIO's name of the value: value} of all of a row's metrics over the lines."""
    called, scores = row["seqio"]["postprocess"], {}
    try:
        targets, predictions = _postprocessed(called, lines)
        for called in row["metrics"]:
            judged = {"predictions": predictions}
            if takes_scores(called):
                judged = {"scores": np.array([x["logprob"] for x in lines])}
            for key, value in metrics.resolve(called)(targets=targets, **judged).items():
                if key in scores:
                    raise ValueError(f"a second value {key!r}")
                scores[key] = float(getattr(value, "value", value))
    except Exception as e:  # whatever the user's functions raise, they are told which it was
        raise UserError(
            f"task {row['task']!r}: {called.split(' ')[0]} fails: {type(e).__name__}: {e}"
        ) from e
    return scores


def _postprocessed(name: str, lines: list[PredictionLine]) -> tuple[list, list]:
    """(targets, predictions) as the metric functions get them."""
    targets, predictions = [x["references"][0] for x in lines], [x["prediction"] for x in lines]
    if not name:
        return targets, predictions
    function, examples = metrics.resolve(name), [_example(x["example"]) for x in lines]

    def processed(texts: list[str], is_target: bool) -> list:
        pairs = zip(texts, examples, strict=True)
        return [function(text, example=e, is_target=is_target) for text, e in pairs]

    return processed(targets, True), processed(predictions, False)


def _example(features: dict[str, list]) -> dict[str, Any]:
    """Features as a tf.data iterator gives them: NumPy arrays and scalars, texts as bytes."""
    arrays = {}
    for name, (dtype, value) in features.items():
        texts = _bytes(value) if dtype == "object" else value
        arrays[name] = texts if isinstance(texts, bytes) else np.array(texts, dtype)[()]
    return arrays


def _bytes(value: Any) -> Any:
    return [_bytes(v) for v in value] if isinstance(value, list) else value.encode("latin-1")


def score(row: EvalRow, line: PredictionLine) -> float:
    """One example's score, 0 to 1: the first metric's first value on it alone, over what a right
    answer gets; for a metric that says nothing of one example (correlations, corpus scores) whether
    target and prediction are the same."""
    scale = row["seqio"]["scale"]
    if scale is None:
        targets, predictions = _postprocessed(row["seqio"]["postprocess"], [line])
        return float(repr(targets) == repr(predictions))  # texts, numbers, lists, arrays
    first = {**row, "metrics": row["metrics"][:1]}
    return min(1.0, max(0.0, next(iter(values(first, [line]).values())) / scale))


def tried(row: EvalRow, folder: str) -> float | None:
    """Call a row's functions on right answers, before a run relies on them.

    Returns the value of a right answer (1, or 100 for percent), None where it differs between one
    and all examples.
    """
    right = [
        {**x, "prediction": x["references"][0], "logprob": 0.0}
        for x in cache.iterate_examples(folder)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a correlation of equal values, say
        try:
            every = values(row, right)
        except UserError as e:
            if any(f"import of {m} halted" in str(e) for m in ABSENT):
                raise UserError(
                    f"{e}; scoring runs where TensorFlow and SeqIO are not installed: define "
                    "metric_fns and postprocess_fn in a module that imports neither"
                ) from e
            raise
        if not every or takes_scores(row["metrics"][0]):
            return None
        first = {**row, "metrics": row["metrics"][:1]}
        scale = next(iter(values(first, right).values()))
        try:
            alone = [next(iter(values(first, [x]).values())) for x in right]
        except UserError:
            return None
    same = scale > 0 and all(math.isclose(v, scale, rel_tol=1e-6) for v in alone)
    return scale if same else None


def main() -> None:
    """`tried` of [[row, folder], …] on standard input, in a process that cannot import SeqIO and
    TensorFlow: prints {"scales": […]} or {"error": …}."""
    sys.modules |= dict.fromkeys(ABSENT)  # an import of them is an ImportError now
    try:
        rows = json.load(sys.stdin)  # from the build, which has imported the user's own tasks
        metrics.trust(
            name for row, _ in rows for name in (*row["metrics"], row["seqio"]["postprocess"])
        )
        answer = {"scales": [tried(row, folder) for row, folder in rows]}
    except UserError as e:
        answer = {"error": str(e)}
    print("\n" + json.dumps(answer))


if __name__ == "__main__":
    main()
