# SPDX-License-Identifier: Apache-2.0
"""Evaluation rows in settings that a run was not built for: other numbers of exemplars, another
split, other tasks.

    python -m itx.prepare.further REQUEST.json ANSWER.json        what `itx eval RUN --shots 0,5
                                                                  --split …` starts

REQUEST   {"config", "vocab": file, "evaluation": the lock's rows, "trained": names, "tasks": names
          or [], "split", "shots": [K, …]}
ANSWER    {"settings": {K, or "own" where none is asked: rows as a lock has them}, "skipped":
          [{"row", "reason"}]}

Exemplars come from the task's training split; a row has DRAWS draws of them, as renderings #0, #1,
….
"""

import dataclasses
import sys

from itx import processes, storage
from itx.config import RunConfig, from_dict
from itx.errors import UserError, did_you_mean
from itx.prepare import build, evaluation, render
from itx.prepare.evaluation import Row
from itx.prepare.jobs import Job
from itx.tasks import names, registry, resolve
from itx.tasks.spec import TaskSpec

DRAWS = 3  # the spread over draws of exemplars is shown
# of a row's group; otherwise those of training
WORDINGS = {"templates": "heldout", "tasks": "all", "clusters": "all"}


def rows(request: dict, config: RunConfig, shots: int | None) -> tuple[list[Row], list[dict]]:
    """(rows with so many exemplars (None: as many as they have), those that cannot be: [{"row",
    "reason"}])."""
    root, split, wanted = config.data.root, request["split"], set(request["tasks"])
    out: dict[str, Row] = {}
    skipped: dict[str, str] = {}
    found = [(r["variant"], r["group"], r["relation"], r["name"].partition("@")[1:]) for r in request["evaluation"]
             if not r["ablation"] and (not wanted or wanted & {r["name"], r["task"]})]  # fmt: skip
    trained = [registry.task(n, root) for n in request["trained"]]
    for name in sorted(wanted - {n for r in request["evaluation"] for n in (r["name"], r["task"])}):
        for member in _registered(name, request, root):
            found.append(
                (
                    member,
                    "extra",
                    evaluation.relation(registry.task(member, root), trained),
                    ("@", "eval"),
                )
            )
    for variant_name, group, relation, suffix in found:
        spec = registry.task(variant_name, root)
        variant = names.parse(variant_name)
        variant = dataclasses.replace(variant, shots=variant.shots if shots is None else shots)
        reason = _impossible(spec, variant, split)
        for draw in range(DRAWS if variant.shots else 1):
            job = Job(str(variant), split, WORDINGS.get(group, "train"), rendering=draw)
            name = str(dataclasses.replace(variant, rendering=draw)) + "".join(suffix)
            if reason:
                skipped[name] = reason
            else:  # variants that differ in exemplars alone are one row
                out.setdefault(name, Row(name, group, relation, job, spec))
    return list(out.values()), [
        {"row": n, "reason": why} for n, why in skipped.items() if "#" not in n
    ]


def _registered(name: str, request: dict, root: str) -> list[str]:
    """A task that the run has no row of, or a family's."""
    try:
        found = registry.expand(name, root)
        return [n for n in found if registry.task(n, root)]
    except UserError as e:
        known = {n for r in request["evaluation"] for n in (r["name"], r["task"])}
        raise UserError(f"--tasks: {name!r} is neither an evaluation row of this run nor a registered task"
                        + did_you_mean(name, {*known, *registry.TASKS})) from e  # fmt: skip


def _impossible(spec: TaskSpec, variant: names.Variant, split: str) -> str:
    """Why a task cannot be asked so; "" where it can."""
    if spec.objective:
        return "plain text has no answer to score"
    if not render.source_splits(spec.source, split):
        return f"it has no {split} split"
    if not resolve.supports(spec, variant):
        return (
            "conversations take no exemplars" if spec.chat else f"it has no wording for {variant}"
        )
    if variant.shots and not render.source_splits(spec.source, "train"):
        return "it has no training split, which exemplars come from"
    return ""


def make(request: dict) -> dict:
    """The answer to a request; folders that are not in the cache are built."""
    config = from_dict(request["config"])
    registry.load_modules(config.data.modules)
    settings = build.settings_of(config, request["vocab"])
    found, skipped = {}, []
    for shots in request["shots"] or [None]:
        found["own" if shots is None else shots], more = rows(request, config, shots)
        skipped += more
    made = build.make(
        [r.job for several in found.values() for r in several], settings, config.data.workers
    )
    answer = {}
    for shots, several in found.items():
        empty = [r for r in several if not made[r.job][1]["records"]]
        skipped += [{"row": r.name, "reason": "no example or no wording"} for r in empty]
        kept = [r for r in several if r not in empty]
        answer[shots] = evaluation.lock_rows(kept, made, settings)
        for row, line in zip(kept, answer[shots], strict=True):
            if k := names.parse(row.job.variant).shots:
                line |= {"shots": k, "stop": row.spec.shot_separator}
    if not any(answer.values()):
        why = "; ".join(f"{s['row']}: {s['reason']}" for s in skipped[:3])
        raise UserError("no evaluation row is left: " + (why or "the run has none"))
    return {"settings": answer, "skipped": skipped}


def main(request: str, answer: str) -> int:
    processes.die_with_starter()

    def work() -> int:
        storage.write_json(answer, make(storage.read_json(request)))
        return 0

    return processes.as_command(work)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
