# SPDX-License-Identifier: Apache-2.0
"""The harness's own backend for transformers at what tests/benchmarks/harness.py asks of itx, in
its FOLDER. PYTHON has torch, transformers and lm-eval; it imports nothing of itx.

    PYTHON hf_harness.py ask MAX_LENGTH CHAT LIMIT FILE TASK …
    PYTHON hf_harness.py time WHAT BATCH LIMIT TASK …
"""

import json
import os
import resource
import sys
import time


def model_of(max_length: int, batch: int):
    from lm_eval.models.huggingface import HFLM

    return HFLM("hf", dtype="float32", device="cpu", batch_size=batch, max_length=max_length)


def ask(max_length: str, chat: str, limit: str, file: str, *tasks: str) -> dict:
    from importlib import metadata

    from lm_eval import evaluator
    from lm_eval.tasks import TaskManager

    model = model_of(int(max_length), 8)
    began = time.perf_counter()
    told = evaluator.simple_evaluate(
        model=model,
        tasks=list(tasks),
        limit=int(limit),
        apply_chat_template=chat == "1",
        task_manager=TaskManager(include_path="tasks", include_defaults=False),
        bootstrap_iters=0,
    )
    seconds = time.perf_counter() - began
    with open(file, "w", encoding="utf-8") as out:
        json.dump({"samples": told["samples"]}, out, default=str)
    names = {"lm_eval": "lm-eval", "transformers": "transformers", "torch": "torch"}
    return {"seconds": seconds, "versions": {k: metadata.version(v) for k, v in names.items()}}


def timed(what: str, batch: str, limit: str, *tasks: str) -> dict:
    from lm_eval.tasks import TaskManager

    model = model_of(2048, int(batch))
    manager = TaskManager(include_path="tasks", include_defaults=False)
    requests = []
    for task in manager.load(list(tasks))["tasks"].values():
        task.set_fewshot_seed(seed=1234)
        task.set_config("num_fewshot", task.get_config("num_fewshot") or 0)
        task.build_all_requests(limit=int(limit), rank=0, world_size=1)
        requests += task.instances
    ask = model.generate_until if what == "generation" else model.loglikelihood
    ask(requests[: int(batch)], disable_tqdm=True)
    c, w = time.process_time(), time.perf_counter()
    ask(requests, disable_tqdm=True)
    return {
        "wall_s": time.perf_counter() - w,
        "cpu_s": time.process_time() - c,
        "requests": len(requests),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main() -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"
    work = {"ask": ask, "time": timed}[sys.argv[1]]
    print("RESULT " + json.dumps(work(*sys.argv[2:])))


if __name__ == "__main__":
    main()
