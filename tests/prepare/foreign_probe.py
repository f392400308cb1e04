# SPDX-License-Identifier: Apache-2.0
"""What SeqIO itself says of foreign_tasks.py, in a process of its own: prints JSON facts.

python -m tests.prepare.foreign_probe PREDICTIONS CACHE     PREDICTIONS: {task: {index of the
                                                            example: text}}
"""

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import seqio

from itx.data import lock as locks
from itx.data.cache import Records
from itx.errors import UserError
from itx.prepare import build, foreign
from tests import samples
from tests.prepare import foreign_tasks

REFUSED = ("by_tensorflow", "by_lambda", "by_late_import", "by_wrong_label", "no_field", "no_train")


def evaluated(task, predictions: dict[str, str]) -> dict:
    """A Task's values for these predictions by seqio.Evaluator; likelihoods are minus the example's
    number."""
    vocabulary = foreign_tasks.VOCABULARY
    evaluator = seqio.Evaluator(
        task.name,
        seqio.EncDecFeatureConverter(pack=False),
        "validation",
        sequence_length={"inputs": 64, "targets": 64},
        use_memory_cache=False,
    )
    ids = [vocabulary.encode(predictions[str(i)]) for i in range(len(predictions))]
    longest = max(map(len, ids))

    def predict(dataset):
        return [
            (int(i), np.array(ids[int(i)] + [1] + [0] * (longest - len(ids[int(i)]))))
            for i, _ in dataset
        ]

    def likelihood(dataset):
        return [(int(i), -float(i)) for i, _ in dataset]

    found, _ = evaluator.evaluate(compute_metrics=True, predict_fn=predict, score_fn=likelihood)
    return found.result()[task.name]


def refused(config) -> str:
    try:
        build.build(config)
    except UserError as e:
        return str(e)
    return ""


def pieces(lock: dict, cache_dir: str) -> list:
    """[[prompt, target]] of a lock's one task."""
    (task,) = lock["tasks"]
    return [[ids.tolist() for ids, _ in r] for r in Records(Path(cache_dir) / task["folders"][0])]


def main() -> None:
    predictions, cache = json.loads(Path(sys.argv[1]).read_text()), sys.argv[2]
    mixture = seqio.get_mixture_or_task("user_mix")
    rates = {t.name: mixture.get_rate(t) for t in mixture.tasks}
    get = seqio.get_mixture_or_task

    def config(name):
        found = samples.config(cache, name, modules=("tests.prepare.foreign_tasks",), workers=1)
        return dataclasses.replace(found, eval=dataclasses.replace(found.eval, split="validation"))

    print(json.dumps({
        "rates": {n: r / sum(rates.values()) for n, r in rates.items()},
        "tokens": {t.name: [[e["inputs"].tolist(), e["targets"].tolist()] for e in
                            t.get_dataset(None, "train", shuffle=False, seed=0).as_numpy_iterator()]
                   for t in mixture.tasks},
        "parts": {n: [foreign.part_of(get(n), s) for s in ("train", "validation", "test")]
                  for n in ("user.long", "user.half", "user.more")},
        "values": {n: evaluated(get(n), p) for n, p in predictions.items()},
        "decoder": pieces(locks.read(build.build(config("user.long")).lock), cache),
        "refused": {n: refused(config(f"user.{n}")) for n in REFUSED}
        | {n: refused(config(n)) for n in ("user_no_size", "user_mixture")},
    }))  # fmt: skip


if __name__ == "__main__":
    main()
