# SPDX-License-Identifier: Apache-2.0
"""IFEval (Zhou et al. 2023, arXiv:2311.07911), `ifeval`: prompts with instructions that a rule
verifies, for evaluation only, from `<data.root>/ifeval/input_data.jsonl` as it is published:

    {"key", "prompt", "instruction_id_list": [kind, …], "kwargs": [{argument: value}, …]}

The reference of a prompt is the list of its instructions as JSON, which the metrics read:

prompts   whether all instructions of a prompt are followed; strict is the primary score
share     the share of a prompt's instructions that is. Averages are over prompts, where the paper's
          instruction-level accuracy is over all instructions
strict    the answer as it stands; loose: also after harmless changes (itx/eval/verifiable.py)
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

from itx.eval import verifiable
from itx.tasks.registry import instruction_task
from itx.tasks.spec import jsonl


def fields(row: dict) -> dict[str, Any]:
    pairs = zip(row["instruction_id_list"], row["kwargs"], strict=True)
    instructions = [verifiable.instruction(kind, kwargs or {}) for kind, kwargs in pairs]
    if not instructions:
        raise ValueError(f"prompt {row['key']} has no instruction")
    return {
        "prompt": row["prompt"].strip(),
        "answer": json.dumps(instructions, ensure_ascii=False, sort_keys=True),
        "example_tags": {
            "instruction": instructions[0]["id"].partition(":")[0],
            "instructions": str(len(instructions)),
        },
    }


def _mean(
    targets: Sequence[str],
    predictions: Sequence[str],
    check: Callable[[dict, str], bool],
    over: Callable[[list[bool]], float],
) -> float:
    followed = (
        [check(given, said) for given in json.loads(target)]
        for target, said in zip(targets, predictions, strict=True)
    )
    return _average([float(over(own)) for own in followed])


def _average(values: Sequence[float]) -> float:
    return sum(values) / max(1, len(values))


def prompts_strict(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    return {"prompts_strict": _mean(targets, predictions, verifiable.follows, all)}


def prompts_loose(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    return {"prompts_loose": _mean(targets, predictions, verifiable.loosely, all)}


def share_strict(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    return {"share_strict": _mean(targets, predictions, verifiable.follows, _average)}


def share_loose(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    return {"share_loose": _mean(targets, predictions, verifiable.loosely, _average)}


instruction_task(
    "ifeval", version=1, cluster="instruction_following", origin=("ifeval",), evaluation_only=True,
    source=jsonl({"test": "ifeval/input_data.jsonl"}), fields=fields, templates=[("{prompt}", "{answer}")],
    content=("prompt",), metrics=(prompts_strict, prompts_loose, share_strict, share_loose),
    verified=True,
)  # fmt: skip
