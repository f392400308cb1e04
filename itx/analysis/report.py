# SPDX-License-Identifier: Apache-2.0
"""The report of a run: report.json (every number), report.html, report.png, and a table to read at
once.

`facts` gathers from the run folder's files alone; page.py and plots.py only show what it holds.
No time stamp: the same run folder gives the same report.
"""

import hashlib
from collections import Counter

from itx import goodput, health, storage
from itx.analysis import page, plots, words
from itx.analysis.printed import print_report
from itx.checkpoint import skips
from itx.config import RunConfig, flatten, to_dict
from itx.data.types import Lock
from itx.errors import UserError
from itx.eval import averages, dev, information, predictions, safety, tables
from itx.eval.budget import Budget
from itx.log import TIMING, read_lines, read_metrics
from itx.runs import RunFolder, read_config, read_lock, run_config

MAX_SAMPLES = 5  # good outputs shown, and bad ones
MIN_GOOD_SCORE = 0.5
SHOWN = ("id", "template", "prompt", "references", "prediction", "extracted", "score")
SAMPLE_GROUPS = ("instances", "templates", "tasks", "clusters")


def report(run: RunFolder, step: int | None = None) -> dict:
    """Write the run's report.json, report.html and report.png, print the table; returns the
    facts.

    Args:
        step: the one that is reported; None: the last that was scored.
    """
    gathered = facts(run, step)
    picture = plots.picture(words.main_groups(gathered), gathered["loss"])
    html = page.page(gathered, picture, plots.task_losses(gathered["loss"]))
    with storage.whole_file(run.report_png) as part:
        part.write_bytes(picture["light"])
    with storage.whole_file(run.report_html) as part:
        part.write_text(html, encoding="utf-8")
    storage.write_json(run.report_json, gathered)
    print_report(gathered)
    return gathered


def facts(run: RunFolder, step: int | None = None) -> dict:
    """Everything the report says, as plain values."""
    about, lock = read_config(run), read_lock(run)
    steps = scored_steps(run)
    if not steps:
        raise UserError(
            f"{run.path}: nothing is scored yet (no eval/<step>/scores.json); run itx eval "
            f"{run.path}"
        )
    scores = {
        key: storage.read_object(run.scores_json(s), "step", "split", "rows", "groups", "easy")
        for key, s in _before_and_after(steps, step).items()
    }
    after = scores["after"]
    audit = storage.read_object(run.audit_json, "mixture", absent={}) or None
    values, default = flatten(about["config"]), flatten(to_dict(RunConfig()))
    gathered = {
        "steps": {k: s["step"] for k, s in scores.items()},
        "command": about["command"],
        "config_file": about["file"],
        "notes": about.get("notes", []),
        "run": {
            "pretrained": values.get("model.pretrained", ""),
            "method": values.get("peft.method", "full"),
            "adapter": values.get("peft.adapter", ""),
            "steps": values["train.steps"],
        },
        "settings": {
            k: {"value": v, "from": about["origin"].get(k, "")}
            for k, v in values.items()
            if default.get(k) != v
        },
        "versions": about["versions"],
        "code": about["code"],
        "data_hash": about["data_hash"],
        "vocabulary": {k: lock["vocabulary"][k] for k in ("hash", "size")},
        "evaluation": {
            "split": after["split"],
            "looks_at_test": len(read_lines(run.test_log)),
            **_asked(after["rows"]),
            "max_new_tokens": values["eval.max_new_tokens"],
            "limits": limits(lock, after["rows"], after.get("budget")),
            "budget": after.get("budget"),
            "unscored": lock.get("unscored", []),
            "uninformed": lock.get("uninformed", []),
            "halved": sorted({r["task"] for r in lock["evaluation"] if r.get("halved")}),
        },
        "groups": _groups(scores),
        "rows": _rows(scores),
        "easy": after["easy"],
        "samples": samples(run, after),
        "loss": losses(run, lock, audit),
        "goodput": _goodput(run),
        "dev": dev.looks_of(run),
        "fixed_examples": storage.read_object(run.fixed_json, absent={}) or None,
        "information": _information(run, lock),
        "retention": _retention(run, lock, about["config"]["model"].get("pretrained")),
        "safety": _safety(run, lock, run_config(run)),
        "holdout": lock["holdout"],
        "audit": audit,
    }
    return {**gathered, "summary": words.summary(gathered), "claims": words.claims(gathered)}


def _asked(rows: dict[str, dict]) -> dict:
    """{"splits": {split: rows}, "max_examples": its values}."""
    splits = Counter(r["split"] for r in rows.values())
    limits = {r["max_examples"] for r in rows.values()}
    return {"splits": dict(sorted(splits.items())), "max_examples": sorted(limits)}


def limits(lock: Lock, scored: dict, budget: Budget | None = None) -> dict[str, int]:
    """{"tasks", "examples": of their evaluation splits, "asked", and what each setting left out of
    them}; the first row of each task counts."""
    most = budget["most"] if budget else 0
    first = {r["task"]: r for r in reversed(lock["evaluation"]) if r["name"] in scored}
    built = sum(r["examples"] for r in first.values())
    beyond = sum(r["audit"]["skipped"].get("beyond data.eval_examples", 0) for r in first.values())
    asked = sum(scored[r["name"]]["examples"] for r in first.values())
    allowed = asked
    if budget:
        allowed = sum(min(r["examples"], most or r["examples"]) for r in first.values())
    return {
        "tasks": len(first),
        "examples": built + beyond,
        "asked": asked,
        "data.eval_examples": beyond,
        "eval.max_examples": max(0, built - allowed),
        "eval.max_seconds": max(0, allowed - asked),
    }


def scored_steps(run: RunFolder) -> list[int]:
    folders = (p.parent.name for p in run.eval_dir(0).parent.glob("*/scores.json"))
    return sorted(int(name) for name in folders if name.isdigit())


def _before_and_after(steps: list[int], step: int | None) -> dict[str, int]:
    after = steps[-1] if step is None else step
    before = {"before": 0} if steps[0] == 0 < after else {}
    return {**before, "after": after}


def _groups(scores: dict[str, dict]) -> list[dict]:
    """The averages, before beside after: [{"group", "kind", "label", "before"?, "after",
    "says"}]."""
    by_key = {k: {(g["group"], g["kind"]): g for g in s["groups"]} for k, s in scores.items()}
    groups = []
    for key in by_key["after"]:
        both = {k: _average(own[key]) for k, own in by_key.items() if key in own}
        named = {"group": key[0], "kind": key[1], "label": tables.label(*key)}
        groups.append({**named, **both, "says": words.says(both["after"])})
    return groups


def _average(group: dict) -> dict:
    """A group of scores.json, with what earlier versions did not write."""
    absent = {"score_interval": None, "score_clusters": {}, "none_of_options": None}
    values = {k: v for k, v in group.items() if k not in ("group", "kind")}
    as_corrected = dict.fromkeys(("lift_interval", "excess_interval"), group["interval"])
    return {**absent, "all_easy": False, **as_corrected, **values}


def _rows(scores: dict[str, dict]) -> list[dict]:
    before = scores.get("before", {"rows": {}})["rows"]

    def place(row: tuple[str, dict]) -> tuple[int, str, str]:
        return averages.GROUPS.index(row[1]["group"]), row[1]["cluster"], row[0]

    return [
        {"row": n, **r, "before": before[n]["score"] if n in before else None}
        for n, r in sorted(scores["after"]["rows"].items(), key=place)
    ]


def samples(run: RunFolder, scores: dict) -> dict[str, list[dict]]:
    """Good and bad outputs, drawn by hash: at most one of each task, the same for the same
    predictions. Rows of other groups are drawn from if there are no others."""

    def drawn(rows: dict[str, dict], by_task: bool) -> list[tuple[str, dict, dict]]:
        lines = []
        for name, row in rows.items():
            for x in predictions.read_predictions(run, scores["step"], name):
                key = f"{row['task'] if by_task else name}/{x['id']}/{x['template']}"
                lines.append((hashlib.sha256(key.encode()).hexdigest(), row, x))
        return sorted(lines, key=lambda line: line[0])

    main = {n: r for n, r in scores["rows"].items() if r["group"] in SAMPLE_GROUPS}
    chosen: dict[str, dict[str, dict]] = {"good": {}, "bad": {}}  # by task
    for _, row, x in drawn(main, True) or drawn(scores["rows"], False):
        of_kind = chosen["good" if x["score"] >= MIN_GOOD_SCORE else "bad"]
        if row["task"] not in of_kind and len(of_kind) < MAX_SAMPLES:
            label = tables.label(row["group"], row["grade"] or "")
            of_kind[row["task"]] = {"task": row["task"], "label": label}
            of_kind[row["task"]] |= {k: x[k] for k in SHOWN}
    return {kind: list(by_task.values()) for kind, by_task in chosen.items()}


def losses(run: RunFolder, lock: Lock, audit: dict | None) -> dict:
    """Loss over steps, in total and per task, and what else metrics.jsonl says in one number."""
    lines = read_metrics(run.metrics_jsonl)
    entropy = audit["mixture"]["unigram_entropy"] if audit else None
    left = skips(run.checkpoints)
    events = health.events(health.LossWatch(run_config(run), entropy), lines)
    tasks: dict[str, tuple[list, list]] = {}
    for line in lines:
        for key, value in line.items():
            if key.startswith("train/loss/"):
                steps, values = tasks.setdefault(key.removeprefix("train/loss/"), ([], []))
                steps.append(line["step"])
                values.append(value)
    with_loss = [x for x in lines if "train/loss" in x]
    speeds = sorted(x[TIMING[0]] for x in lines if x.get(TIMING[0]))
    return {
        "steps": [x["step"] for x in with_loss],
        "total": [x["train/loss"] for x in with_loss],
        "tasks": tasks,
        "clusters": {t["name"]: t["cluster"] for t in lock["tasks"]},
        "without_loss": [t["name"] for t in lock["tasks"] if t["name"] not in tasks],
        "unigram_entropy": entropy,
        "skipped_steps": lines[-1].get("train/skipped", 0) if lines else 0,
        **left,
        "events": [e._asdict() for e in events],
        "notes": _loss_notes(left, events),
        "tokens": sum(x.get("train/tokens", 0) for x in lines),
        "tokens_per_second": speeds[len(speeds) // 2] if speeds else None,
    }


def _loss_notes(left: dict, events: list[health.Event]) -> list[str]:
    """Sentences about steps that changed nothing, and about what the curve shows."""
    notes = [f"Skipped batches: {health.batches(left['skipped'])}."] if left["skipped"] else []
    for r in left["returns"]:
        notes.append(
            f"After step {r['at']} too many steps had no finite loss or gradient: training "
            f"returned to step {r['to']} and left out {len(r['left_out'])} steps "
            f"({health.batches(r['left_out'])})."
        )
    return notes + [f"At step {e.step}: {e.text}." for e in events]


def _goodput(run: RunFolder) -> dict | None:
    """What the run's time went to; None where nothing was written of it."""
    lines, unreadable = goodput.read(run.goodput_jsonl)
    if not lines:
        return None
    held = goodput.summary(lines, unreadable)
    return {**held, "says": goodput.in_words(held)}


def _information(run: RunFolder, lock: Lock) -> dict | None:
    """{"groups": what the instruction tells in each, "rows"}; None where nothing was measured."""
    held = storage.read_object(run.information_json, absent={})
    entries = lock.get("information", [])
    if not held or not entries:
        return None
    return {
        "groups": information.averages(held, entries),
        "rows": information.of_rows(held, entries),
    }


def _safety(run: RunFolder, lock: Lock, config: RunConfig) -> dict | None:
    """{"groups": what is declined of each kind of request, "left_out": {id: why}, "changed":
    {kind: requests that are declined before or after alone}}, or {"unasked": why nothing was
    asked}; None for a run from scratch, and for one that was scored before there were requests."""
    held = storage.read_object(run.safety_json, absent={})
    if held:
        left_out = [held[when]["left_out"] for when in ("before", "after") if when in held]
        return {
            "groups": safety.averages(held),
            "left_out": {k: why for of in left_out for k, why in of.items()},
            "changed": {kind: safety.changed(held, kind) for kind in safety.KINDS},
        }
    why = safety.unasked(lock, config)
    return {"unasked": why} if why and config.model.pretrained else None


def _retention(run: RunFolder, lock: Lock, pretrained: str | None) -> dict | None:
    """{"before", "after": {text: {"bits_per_byte", …}}}, or {"unretained": why there is none}; None
    for a run from scratch."""
    held = storage.read_object(run.retention_json, absent=lock)
    # locks of earlier versions do not say why
    none = {"unretained": "the run's data name no text"} if pretrained else None
    return {k: held[k] for k in ("before", "after", "unretained") if k in held} or none
