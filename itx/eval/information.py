# SPDX-License-Identifier: Apache-2.0
"""Instruction information: by how much its own instruction makes the right answer likelier than
another task's does, and than none, over the same inputs. In bits an example, before and after
tuning.

    log2 p(y | x, own instruction) - log2 p(y | x, another's or none)

y is the target as the own instruction has it, with its EOS, behind all three prompts. The number is
near 0 for a model that learned only form, brevity or the shares of labels, for these are the same
under every instruction; and nothing has to be generated, so that it moves before scores do. It may
be negative: then the model believes the wrong instruction.
"""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from itx import movement
from itx.data import cache
from itx.data.types import InformationEntry, Lock
from itx.eval import before_after, stats, tables
from itx.eval.averages import ABLATIONS, place_of
from itx.eval.loaded import Ids
from itx.eval.runner import Runner
from itx.runs import RunFolder

AGAINST = ABLATIONS[1:]  # what the own instruction is compared with: removed, swapped

Triple = tuple[list[Ids], Ids]  # the prompt under each instruction of ABLATIONS, the target


def information(
    load: Callable[[], Runner],
    lock: Lock,
    cache_dir: str | Path,
    run: RunFolder,
    step: int,
    when: str,
    max_examples: int,
) -> dict:
    """Adds {when: {name of a row: {"removed", "swapped": bits of each example}}} to the run's file;
    `when` is "before" or "after".

    Args:
        max_examples: of a row, the first by content hash; 0: all.
    """
    entries = lock.get("information", [])

    def measure() -> dict:
        triples = {e["name"]: triples_of(Path(cache_dir) / e["folder"], lock) for e in entries}
        few = {name: all_[: max_examples or None] for name, all_ in triples.items()}
        with movement.shown(f"what the instruction tells {when} tuning"):
            return bits(load(), few)

    key = [step, max_examples, *(e["sha256"] for e in entries)]
    return before_after.once(run.information_json, when, key, measure) if entries else {}


def triples_of(folder: Path, lock: Lock) -> list[Triple]:
    """The examples of a folder whose records come by three: one for each of ABLATIONS."""
    records, triples = cache.Records(folder), []
    for first in range(0, len(records), len(ABLATIONS)):
        three = [
            records.prompt_and_target(n, lock["eos_id"], lock["architecture"])
            for n in range(first, first + len(ABLATIONS))
        ]
        triples.append(([prompt for prompt, _ in three], three[0][1]))
    return triples


def bits(runner: Runner, triples_of_row: dict[str, list[Triple]]) -> dict[str, dict]:
    """{row: {"removed", "swapped": bits of each of its examples}}, all asked together."""
    flat = [
        (prompt, target)
        for triples in triples_of_row.values()
        for prompts, target in triples
        for prompt in prompts
    ]
    answers = iter(runner.rank([p for p, _ in flat], [[t] for _, t in flat]))
    found = {}
    for name, triples in triples_of_row.items():
        nats = np.array([[next(answers)[0]["logprob"] for _ in ABLATIONS] for _ in triples])
        told = (nats[:, :1] - nats[:, 1:]) / math.log(2) if triples else np.zeros((0, 2))
        found[name] = {kind: told[:, k].tolist() for k, kind in enumerate(AGAINST)}
    return found


def averages(held: dict, entries: list[InformationEntry]) -> list[dict]:
    """What a run's file says of each group of rows.

    Args:
        held: what the file holds: {"before"?, "after"?: {row: bits}}.

    Returns:
        [{"group", "kind", "label", "examples", "before"?, "after"?, "gain"?: {"removed",
        "swapped": {"mean", "interval", "method", "tasks", "clusters"}}}], averaged over tasks,
        then clusters, with scores' intervals. "gain" is after - before of the same examples.
    """
    known = [
        e for e in entries if all(e["name"] in of_rows for of_rows in _measured(held).values())
    ]
    members = stats.grouped(((e["group"], e["grade"] or ""), e) for e in known)
    out = []
    for group, kind in sorted(members, key=place_of):
        rows = members[group, kind]
        measured = {when: _values(of_rows, rows) for when, of_rows in _measured(held).items()}
        if {"before", "after"} <= measured.keys():
            measured["gain"] = {
                against: {
                    task: (cluster, values - measured["before"][against][task][1])
                    for task, (cluster, values) in tasks.items()
                }
                for against, tasks in measured["after"].items()
            }
        examples = sum(len(v) for _, v in next(iter(measured.values()))[AGAINST[0]].values())
        averaged = {
            when: {against: stats.average(tasks, most=math.inf) for against, tasks in kinds.items()}
            for when, kinds in measured.items()
        }
        named = {"group": group, "kind": kind, "label": tables.label(group, kind)}
        out.append({**named, "examples": examples, **averaged})
    return out


def of_rows(held: dict, entries: list[InformationEntry]) -> list[dict]:
    """[{"row", "group", "kind", "before"?, "after"?: {"removed", "swapped": mean bits}}],
    ordered as the averages are; a mean of no example is None."""
    order = sorted(entries, key=lambda e: (place_of((e["group"], e["grade"] or "")), e["name"]))
    return [
        {
            "row": e["name"],
            "group": e["group"],
            "kind": e["grade"] or "",
            **{
                when: {k: float(np.mean(v)) if v else None for k, v in rows[e["name"]].items()}
                for when, rows in _measured(held).items()
                if e["name"] in rows
            },
        }
        for e in order
    ]


def _measured(held: dict) -> dict[str, dict]:
    return {when: held[when] for when in ("before", "after") if when in held}


def _values(
    of_rows: dict[str, dict], rows: list[InformationEntry]
) -> dict[str, dict[str, tuple[str, np.ndarray]]]:
    """{removed, swapped: {task: (cluster, bits of its examples)}}, rows without example left
    out."""
    return {
        against: {
            e["task"]: (e["cluster"], np.array(of_rows[e["name"]][against]))
            for e in rows
            if of_rows[e["name"]][against]
        }
        for against in AGAINST
    }
