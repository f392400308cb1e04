# SPDX-License-Identifier: Apache-2.0
"""Evaluation rows in settings that a run was not built for: other numbers of exemplars, another
split, other tasks; or of a model that no run of ours made. `itx eval` starts it:

    python -m itx.prepare.further REQUEST.json ANSWER.json

REQUEST   {"config", "vocab": file, or "" for what data.vocab names, "evaluation": the lock's rows,
          "trained": names, "tasks": names or [], "split", "shots": [K, …]}
ANSWER    {"settings": {K, or "own" where no K is asked for: rows as a lock has them}, "skipped":
          [{"row", "reason"}], "lock": that of a model without a run, where "vocab" is ""}

Exemplars come from the task's training split; a row has DRAWS draws of them, as renderings #0, #1,
….
"""

import dataclasses
import sys
from typing import Any

from itx import hub, processes, storage
from itx.config import RunConfig, from_dict
from itx.data.vocabulary import Vocabulary
from itx.errors import UserError, did_you_mean
from itx.prepare import build, evaluation, jobs, new_lock, sources, workers
from itx.prepare.types import Job, Plan, Row
from itx.tasks import names, registry, resolve
from itx.tasks.spec import TaskSpec

DRAWS = 3  # the spread over draws of exemplars is shown
# The wordings of a row's group; other groups have those of training.
WORDINGS = {"templates": "heldout", "tasks": "all", "clusters": "all"}


def rows(
    request: dict[str, Any], config: RunConfig, shots: int | None
) -> tuple[list[Row], list[dict[str, str]]]:
    """(rows with so many exemplars, those that cannot be: [{"row", "reason"}]); shots=None: as many
    as they have."""
    root, named = config.data.root, set(request["tasks"])
    variants = [  # (variant, group, relation, what follows the variant in the row's name)
        (r["variant"], r["group"], r["relation"], "".join(r["name"].partition("@")[1:]))
        for r in request["evaluation"]
        if not r["ablation"] and (not named or named & {r["name"], r["task"]})
    ]
    trained = [registry.task(n, root) for n in request["trained"]]
    for name in sorted(named - _known(request)):
        for member in _registered(name, request, root):
            relation = evaluation.relation(registry.task(member, root), trained)
            variants.append((member, "extra", relation, "@eval"))
    by_name: dict[str, Row] = {}
    skipped: dict[str, str] = {}
    for variant_name, group, relation, suffix in variants:
        spec = registry.task(variant_name, root)
        variant = names.parse(variant_name)
        variant = dataclasses.replace(variant, shots=variant.shots if shots is None else shots)
        reason = _impossible(spec, variant, request["split"])
        for draw in range(DRAWS if variant.shots else 1):
            name = str(dataclasses.replace(variant, rendering=draw)) + suffix
            if reason:
                skipped[name] = reason
                continue
            templates = WORDINGS.get(group, "train")
            job = Job(str(variant), request["split"], templates, rendering=draw)
            # Variants that differ in exemplars alone are one row.
            by_name.setdefault(name, Row(name, group, relation, job, spec))
    reasons = [{"row": n, "reason": why} for n, why in skipped.items() if "#" not in n]
    return list(by_name.values()), reasons


def _known(request: dict[str, Any]) -> set[str]:
    """The names by which a request's rows may be called."""
    return {n for r in request["evaluation"] for n in (r["name"], r["task"])}


def _registered(name: str, request: dict[str, Any], root: str) -> list[str]:
    """A task that the run has no row of, or a family's tasks."""
    try:
        return [n for n in registry.expand(name, root) if registry.task(n, root)]
    except UserError as e:
        near = did_you_mean(name, {*_known(request), *registry.TASKS})
        what = "neither an evaluation row of this run nor a registered task"
        what = what if request["vocab"] else "no registered task"
        raise UserError(f"--tasks: {name!r} is {what}{near}") from e


def _impossible(spec: TaskSpec, variant: names.Variant, split: str) -> str:
    """Why a task cannot be scored in a variant; "" where it can."""
    if not spec.scored:
        return "plain text has no answer to score"
    if not sources.source_splits(spec.source, split):
        return f"it has no {split} split"
    if not resolve.supports(spec, variant):
        if spec.kind == "chat":
            return "conversations take no exemplars"
        return f"it has no wording for {variant}"
    if variant.shots and not sources.source_splits(spec.source, "train"):
        return "it has no training split, which exemplars come from"
    return ""


def make(request: dict[str, Any]) -> dict[str, Any]:
    """The answer to a request; folders that are not in the cache are built."""
    config = from_dict(request["config"])
    hub.keep_in(config.data.cache_dir)
    registry.load_modules(config.data.modules)
    vocab = request["vocab"] or build.vocabulary_file(config, [])
    settings = jobs.settings_of(config, vocab)
    by_shots, skipped = {}, []
    for shots in request["shots"] or [None]:
        by_shots["own" if shots is None else shots], reasons = rows(request, config, shots)
        skipped += reasons
    todo = [r.job for several in by_shots.values() for r in several]
    made = workers.make(todo, settings, config.data.workers)
    answer = {}
    for shots, several in by_shots.items():
        scored = []
        for row in several:
            if made[row.job][1]["records"]:
                scored.append(row)
            else:
                skipped.append({"row": row.name, "reason": "no example or no wording"})
        answer[shots] = evaluation.lock_rows(scored, made, settings)
        for row, entry in zip(scored, answer[shots], strict=True):
            entry |= evaluation.exemplars_of(row.job.variant, row.spec)
    if not any(answer.values()):
        why = "; ".join(f"{s['row']}: {s['reason']}" for s in skipped[:3])
        raise UserError("no evaluation row is left: " + (why or "the run has none"))
    said = {"settings": answer, "skipped": skipped}
    if not request["vocab"]:
        said["lock"] = new_lock.untrained(Plan(config, settings, Vocabulary(vocab), [], [], []))
    return said


def main(request: str, answer: str) -> int:
    processes.die_with_starter()

    def work() -> int:
        storage.write_json(answer, make(storage.read_json(request)))
        return 0

    return processes.as_command(work)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
