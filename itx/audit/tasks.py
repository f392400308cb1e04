# SPDX-License-Identifier: Apache-2.0
"""Facts of each task: its records, their lengths, its share of the mixture, what the loss sees."""

from typing import NotRequired, TypedDict

import numpy as np

from itx.data import cache
from itx.data.loader import Batches
from itx.data.lock import LockedData, loss_tokens
from itx.data.types import Lock, SplitAudit, TaskEntry

# examples of each task that are taken through the loader, to see what it puts under the loss
LOADED_EXAMPLES = 32


class Spread(TypedDict):
    """Lengths of a task's examples, in tokens."""

    mean: float
    median: float
    p95: float
    max: int


class TaskFacts(SplitAudit):
    """One variant of a task; records and tokens are those of its first rendering."""

    task: str
    cluster: str
    rate: float  # share of the mixture's examples
    renderings: int
    templates: int
    template_share: list[float]  # [smallest, largest] share of the examples that one wording has
    fewshot: dict[str, int]
    split_conversations: int
    said: dict[str, int]
    decoded: dict
    eos_within: int
    repeated: int  # records whose input the split has more than once
    duplicate_share: float  # of all records, those that the build left out included
    cut_share: float
    unknown_share: float  # of tokens
    input_tokens: int  # of all its examples, before the target
    target_tokens: int
    input_length: Spread
    target_length: Spread
    shared: int  # records with an input that another task of the mixture has too
    no_target: int
    eos_trained: int  # EOS under the loss among the examples that were loaded
    pieces_loaded: int
    effective_epochs: float
    input_tokens_seen: int  # that the run's steps take
    target_tokens_seen: int
    input_share: float  # of the mixture's tokens
    target_share: float
    examples_taken: NotRequired[int]  # these four are known after the order is counted
    used: NotRequired[int]
    only_skipped: NotRequired[int]
    not_reached: NotRequired[int]


def tasks_facts(lock: Lock, batches: Batches, examples: float) -> dict[str, TaskFacts]:
    """{variant: facts}; `examples` is what the run's steps take of the whole mixture."""
    data, facts = batches.data, {}
    shared = shared_inputs(lock, data)
    for i, task in enumerate(lock["tasks"]):
        facts[task["name"]] = {
            **_record_facts(task, data.records[i][0], data.usable[i][0], lock["architecture"]),
            "shared": shared[i],
            **_loss_facts(i, batches),
        }
    tokens = {
        kind: {name: f["rate"] * f[f"{kind}_length"]["mean"] for name, f in facts.items()}
        for kind in ("input", "target")
    }
    totals = {kind: sum(by_task.values()) for kind, by_task in tokens.items()}
    for name, f in facts.items():
        seen = examples * f["rate"]
        f["effective_epochs"] = seen / f["kept"]
        for kind in tokens:
            f[f"{kind}_tokens_seen"] = round(seen * f[f"{kind}_length"]["mean"])
        for kind, total in totals.items():
            f[f"{kind}_share"] = tokens[kind][name] / total if total else 0.0
    return facts


def _record_facts(
    task: TaskEntry, records: cache.Records, usable: np.ndarray, architecture: str
) -> dict:
    """Counts, lengths and shares of a task's usable records."""
    target = loss_tokens(records, architecture)[usable]
    trained_column = 4 if architecture == "encoder_decoder" else 2
    before = records.lengths[usable, 0] - records.lengths[usable, trained_column]
    manifest, audit = cache.read_manifest(records.folder), task["audit"]
    uses = np.bincount(records.template[usable], minlength=len(manifest["templates"])) / len(usable)
    repeated = manifest.get("repeated", 0)
    left_out = sum(audit["skipped"].get(reason, 0) for reason in (cache.REPEATED, cache.CONFLICT))
    return {
        "task": task["task"],
        "cluster": task["cluster"],
        "rate": task["rate"],
        **audit,
        "renderings": len(task["folders"]),
        "templates": len(uses),
        "template_share": [float(uses.min()), float(uses.max())],
        **{key: manifest.get(key, {}) for key in ("fewshot", "said", "decoded")},
        **{key: manifest.get(key, 0) for key in ("split_conversations", "eos_within")},
        "repeated": repeated,
        "duplicate_share": (left_out + repeated) / (left_out + len(usable)),
        "cut_share": max(audit.get(k, 0) for k in ("cut", "cut_targets")) / len(usable),
        "unknown_share": manifest.get("unknown_tokens", 0) / max(1, records.num_tokens),
        "input_tokens": int(before.sum()),
        "target_tokens": int(target.sum()),
        "input_length": _spread(before),
        "target_length": _spread(target),
    }


def _spread(lengths: np.ndarray) -> Spread:
    median, p95 = map(float, np.quantile(lengths, [0.5, 0.95]))
    return Spread(mean=float(lengths.mean()), median=median, p95=p95, max=int(lengths.max()))


def shared_inputs(lock: Lock, data: LockedData) -> list[int]:
    """For each variant, how many of its records have an input that another task has too."""
    contents = [r[0].content[u[0]] for r, u in zip(data.records, data.usable, strict=True)]
    of_task: TaskEntry[str, list[np.ndarray]] = {}
    for task, content in zip(lock["tasks"], contents, strict=True):
        of_task.setdefault(task["task"], []).append(content)
    distinct = [np.unique(np.concatenate(variants)) for variants in of_task.values()]
    inputs, tasks = np.unique(np.concatenate(distinct), return_counts=True)
    return [int(np.isin(content, inputs[tasks > 1]).sum()) for content in contents]


def _loss_facts(i: int, batches: Batches) -> dict[str, int]:
    """Task i's examples without a token of a target, and the trained pieces and the EOS under the
    loss of a few examples, as the loader gives them."""
    lock, records, usable = batches.lock, batches.data.records[i][0], batches.data.usable[i][0]
    both = lock["architecture"] == "encoder_decoder"
    places = np.linspace(0, len(usable) - 1, min(LOADED_EXAMPLES, len(usable)))
    loaded = usable[places.astype(int)]
    segments = [batches.segment(i, int(record), 0) for record in loaded]
    eos = sum(int(((ids == lock["eos_id"]) & (weights > 0)).sum()) for _, ids, weights in segments)
    return {
        "no_target": int((records.lengths[usable, 4 if both else 2] == 0).sum()),
        "eos_trained": eos,
        "pieces_loaded": len(loaded) if both else int(records.lengths[loaded, 3].sum()),
    }
