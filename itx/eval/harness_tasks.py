# SPDX-License-Identifier: Apache-2.0
"""Tasks of lm-evaluation-harness, asked of a model of ours (itx/eval/harness.py).

What a task reads, how its prompts look and how its answers are scored is the harness's own; its
YAML files are found by their names, in the package and in a folder of the user's. A YAML file can
name Python functions beside it (`!function`), which run: give no folder that you would not run.
"""

import math
import os
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from lm_eval import evaluator
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

from itx import movement
from itx.data.vocabulary import unguarded
from itx.errors import UserError, did_you_mean, did_you_mean_file
from itx.eval.harness import HarnessModel

# Draws behind the standard error of a score that is no mean (perplexity, BLEU), in this process:
# the harness's 100,000 need many, which it forks, and JAX's threads do not survive a fork.
BOOTSTRAP_DRAWS = 1000


class Found(NamedTuple):
    """Tasks that were asked for, loaded: each group and each task outside of one."""

    manager: TaskManager
    loaded: list[Any]
    tasks: dict[str, Any]  # all of them, those of groups too


def find(names: list[str], include_path: str = "") -> Found:
    """The harness's tasks, groups and tags of these names, which may hold `*`, after a first look
    at one example of each.

    UserError for a name that is none, and for what the harness cannot load or ask.
    """
    manager, matched = _index(names, include_path)
    try:
        held = manager.load(matched)
    except Exception as e:  # of YAML, of the data set's library, or of the network
        raise UserError(f"--harness {','.join(matched)}: {_in_a_line(e)}") from e
    groups, tasks = held.get("groups", {}), held["tasks"]
    for name, task in tasks.items():
        _look(name, task)
    top = [g for name, g in groups.items() if name in matched]
    grouped = {t.task_name for g in top for t in g.get_all_tasks()}
    return Found(manager, [*top, *(t for n, t in tasks.items() if n not in grouped)], tasks)


def _index(names: list[str], include_path: str) -> tuple[TaskManager, list[str]]:
    """The index that knows the names, and the names without `*`."""
    if include_path:
        folder = Path(include_path)
        if not folder.is_dir():
            raise UserError(f"--include_path {folder}: no such folder{did_you_mean_file(folder)}")
        # the harness's own 14,000 tasks take 12 s to index
        manager = TaskManager(include_path=include_path, include_defaults=False)
        found = [manager.match_tasks([name]) for name in names]
        if all(found) and {n for m in found for n in m} <= set(manager.all_subtasks):
            return manager, list(dict.fromkeys(n for m in found for n in m))
    manager = TaskManager(include_path=include_path or None)
    matched: dict[str, None] = {}
    for name in names:
        found = manager.match_tasks([name])
        if not found:
            raise UserError(
                f"--harness {name}: the harness has no task, group or tag of that name"
                + did_you_mean(name, manager.all_tasks)
                + _unreadable(include_path)
            )
        matched |= dict.fromkeys(found)
    return manager, list(matched)


def _unreadable(include_path: str) -> str:
    """The first YAML file of a folder that cannot be read: the harness passes such over."""
    for file in sorted(Path(include_path).rglob("*.yaml")) if include_path else ():
        try:
            load_yaml(file, resolve_func=False, recursive=True)
        except Exception as e:
            return f" ({file} cannot be read: {_in_a_line(e)})"
    return ""


def _look(name: str, task: Any) -> None:
    """UserError for a task that needs what we do not give, or whose file does not fit its data."""
    if getattr(task, "UNSAFE_CODE", False):
        raise UserError(f"--harness {name}: it runs code that the model writes, which itx does not")
    if getattr(task, "MULTIMODAL", False):
        raise UserError(f"--harness {name}: it shows pictures or plays sounds; itx reads text")
    try:
        task.build_all_requests(limit=1, rank=0, world_size=1)
    except Exception as e:
        raise UserError(f"--harness {name}: its first example fails: {_in_a_line(e)}") from e


def _in_a_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def scores(
    model: HarnessModel,
    found: Found,
    shots: int | None = None,
    max_examples: int = 0,
    chat: bool = False,
    system: str = "",
) -> tuple[dict[str, Any], dict[str, list[dict]]]:
    """(facts, {task: a line for each document and filter, as the harness logs them}).

    Args:
        shots: exemplars; None: what each task says. A task that fixes them at 0 keeps that.
        max_examples: of each task, its first ones; 0: all.
    """
    os.environ["DISABLE_MULTIPROC"] = "1"  # read where the harness bootstraps
    model.counts.clear()
    with movement.shown("harness"):
        told = evaluator.simple_evaluate(
            model=model,
            tasks=found.loaded,
            num_fewshot=shots,
            limit=max_examples or None,
            bootstrap_iters=BOOTSTRAP_DRAWS,
            system_instruction=system or None,
            apply_chat_template=chat,
            task_manager=found.manager,
        )
    facts = {
        "lm_eval": metadata.version("lm-eval"),
        "tasks": {name: _entry(name, told) for name in sorted(told["results"])},
        "counts": {what: n for what, n in model.counts.items() if n},
    }
    return facts, {name: list(map(_line, lines)) for name, lines in told["samples"].items()}


def _entry(name: str, told: dict[str, Any]) -> dict[str, Any]:
    """What the harness says of a task or a group."""
    size = told["n-samples"].get(name, {})
    return {
        "version": told["versions"].get(name),
        "group": name in told["group_subtasks"],
        "shots": told["n-shot"].get(name),
        "examples": size.get("effective"),
        "of": size.get("original"),
        "scores": _scores(told["results"][name], told["higher_is_better"].get(name) or {}),
    }


def _scores(values: dict[str, Any], better: dict[str, bool]) -> list[dict[str, Any]]:
    """Each metric under each filter of a task's answers; a value that is no finite number is None,
    and `why` says what it is."""
    found = []
    for key, value in values.items():
        metric, comma, filter = key.partition(",")
        if not comma or metric.endswith("_stderr"):
            continue
        error = values.get(f"{metric}_stderr,{filter}")
        number = isinstance(value, int | float) and math.isfinite(value)
        known = isinstance(error, int | float) and math.isfinite(error)
        found.append({
            "metric": metric,
            "filter": filter,
            "value": float(value) if number else None,
            "stderr": float(error) if known else None,
            "higher_is_better": better.get(metric),
            **({} if number else {"why": f"the harness gives {value!r}"[:200]}),
        })  # fmt: skip
    return found


def _line(sample: dict[str, Any]) -> dict[str, Any]:
    """A document's line without what marks contents in its prompts."""
    arguments = [
        [unguarded(x) if isinstance(x, str) else x for x in given] for given in sample["arguments"]
    ]
    return {**sample, "arguments": arguments}
