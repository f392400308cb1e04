# SPDX-License-Identifier: Apache-2.0
"""The report of a run: report.json (every number), report.html, report.png, and a table to read at
once.

`facts` gathers from the run folder's files alone; page.py and plots.py only show what it holds.
No time stamp: the same run folder gives the same report.
"""

import hashlib
from collections import Counter
from typing import Any

from itx import health, storage
from itx.analysis import page, plots, words
from itx.audit.sentences import accounts
from itx.checkpoint import skips
from itx.config import RunConfig, flatten, to_dict
from itx.errors import UserError
from itx.eval import averages, predictions, tables
from itx.log import TIMING, read_lines, read_metrics
from itx.runs import read_config, read_lock, run_config

SAMPLES = 5  # good outputs shown, and bad ones
SHOWN = ("id", "template", "prompt", "references", "prediction", "extracted", "score")
SAMPLE_GROUPS = ("instances", "templates", "tasks", "clusters")


def report(run: Any) -> dict:
    """Write the run's report.json, report.html and report.png, print the table; returns the
    facts."""
    found = facts(run)
    picture = plots.picture(words.main_groups(found), found["loss"])
    html = page.page(found, picture, plots.task_losses(found["loss"]))
    with storage.whole_file(run.report_png) as part:
        part.write_bytes(picture["light"])
    with storage.whole_file(run.report_html) as part:
        part.write_text(html, encoding="utf-8")
    storage.write_json(run.report_json, found)
    print_report(found)
    return found


def facts(run: Any) -> dict:
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
        for key, s in _before_and_after(steps).items()
    }
    audit = storage.read_object(run.audit_json, "mixture") if run.audit_json.is_file() else None
    looks = len(read_lines(run.test_log)) if run.test_log.is_file() else 0
    default = flatten(to_dict(RunConfig()))
    values = flatten(about["config"])
    found = {
        "steps": {k: s["step"] for k, s in scores.items()},
        "command": about["command"],
        "config_file": about["file"],
        "notes": about.get("notes", []),
        "run": {
            "pretrained": values.get("model.pretrained", ""),
            "method": values.get("peft.method", "full"),
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
            "split": scores["after"]["split"],
            "looks_at_test": looks,
            "splits": dict(
                sorted(Counter(r["split"] for r in scores["after"]["rows"].values()).items())
            ),
            "max_examples": sorted({r["max_examples"] for r in scores["after"]["rows"].values()}),
            "max_new_tokens": values["eval.max_new_tokens"],
            "limits": _limits(lock, scores["after"]["rows"]),
            "unscored": lock.get("unscored", []),
            "halved": sorted({r["task"] for r in lock["evaluation"] if r.get("halved")}),
        },
        "groups": _groups(scores),
        "rows": _rows(scores),
        "easy": scores["after"]["easy"],
        "samples": samples(run, scores["after"]),
        "loss": losses(run, lock, audit),
        "fixed_examples": _fixed(run),
        "retention": _retention(run, lock, about["config"]["model"].get("pretrained")),
        "holdout": lock["holdout"],
        "audit": audit,
    }
    return {**found, "summary": words.summary(found), "claims": words.claims(found)}


def _limits(lock: dict, scored: dict) -> dict[str, int]:
    """{"tasks", "examples": of their evaluation splits, "asked", and what each setting left out of
    them}: of each task its first row counts."""
    first = {r["task"]: r for r in reversed(lock["evaluation"]) if r["name"] in scored}
    built = sum(r["examples"] for r in first.values())
    beyond = sum(r["audit"]["skipped"].get("beyond data.eval_examples", 0) for r in first.values())
    asked = sum(scored[r["name"]]["examples"] for r in first.values())
    return {
        "tasks": len(first),
        "examples": built + beyond,
        "asked": asked,
        "data.eval_examples": beyond,
        "eval.max_examples": max(0, built - asked),
    }


def scored_steps(run: Any) -> list[int]:
    folder = run.eval_dir(0).parent
    return sorted(
        int(p.parent.name) for p in folder.glob("*/scores.json") if p.parent.name.isdigit()
    )


def _before_and_after(steps: list[int]) -> dict[str, int]:
    return (
        {"before": 0, "after": steps[-1]}
        if steps[0] == 0 and steps[-1] > 0
        else {"after": steps[-1]}
    )


def _groups(scores: dict[str, dict]) -> list[dict]:
    """The averages, before beside after: [{"group", "kind", "label", "before"?, "after",
    "says"}]."""
    by_key = {k: {(g["group"], g["kind"]): g for g in s["groups"]} for k, s in scores.items()}
    # what scores.json of earlier versions does not hold
    absent = {
        "score_interval": None,
        "score_clusters": {},
        "none_of_options": None,
        "all_easy": False,
    }
    out = []
    for g in scores["after"]["groups"]:
        key = (g["group"], g["kind"])
        both = {
            k: {
                **absent,
                "lift_interval": by_key[k][key]["interval"],
                **{n: v for n, v in by_key[k][key].items() if n not in ("group", "kind")},
            }
            for k in by_key
            if key in by_key[k]
        }
        out.append(
            {
                "group": key[0],
                "kind": key[1],
                "label": tables.label(*key),
                **both,
                "says": words.says(both["after"]),
            }
        )
    return out


def _rows(scores: dict[str, dict]) -> list[dict]:
    before = scores.get("before", {"rows": {}})["rows"]
    order = {g: i for i, g in enumerate(averages.GROUPS)}
    rows = sorted(
        scores["after"]["rows"].items(), key=lambda x: (order[x[1]["group"]], x[1]["cluster"], x[0])
    )
    return [{"row": n, **r, "before": before[n]["score"] if n in before else None} for n, r in rows]


def samples(run: Any, scores: dict) -> dict[str, list[dict]]:
    """Good and bad outputs, drawn by hash: of each task at most one, the same for the same
    predictions."""
    found = []
    for name, row in scores["rows"].items():
        if row["group"] not in SAMPLE_GROUPS:
            continue
        for x in predictions.read_predictions(run, scores["step"], name):
            draw = hashlib.sha256(f"{row['task']}/{x['id']}/{x['template']}".encode()).hexdigest()
            found.append((draw, row, x))
    found = found or _any_rows(run, scores)
    out: dict[str, list[dict]] = {"good": [], "bad": []}
    for kind, wanted in (("good", lambda s: s >= 0.5), ("bad", lambda s: s < 0.5)):
        tasks: set[str] = set()
        for _, row, x in sorted(found, key=lambda f: f[0]):
            if wanted(x["score"]) and row["task"] not in tasks and len(out[kind]) < SAMPLES:
                tasks.add(row["task"])
                label = tables.label(row["group"], row["grade"] or "")
                out[kind].append({"task": row["task"], "label": label, **{k: x[k] for k in SHOWN}})
    return out


def _any_rows(run: Any, scores: dict) -> list[tuple[str, dict, dict]]:
    """Where only extra rows are scored, those."""
    return [
        (hashlib.sha256(f"{n}/{x['id']}/{x['template']}".encode()).hexdigest(), r, x)
        for n, r in scores["rows"].items()
        for x in predictions.read_predictions(run, scores["step"], n)
    ]


def losses(run: Any, lock: dict, audit: dict | None) -> dict:
    """Loss over steps, in total and per task, and what else metrics.jsonl says in one number."""
    lines = read_metrics(run.metrics_jsonl)
    entropy = audit["mixture"]["unigram_entropy"] if audit else None
    left, events = (
        skips(run.checkpoints),
        health.events(health.LossWatch(run_config(run), entropy), lines),
    )
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
            "returned to step "
            f"{r['to']} and left out {len(r['left_out'])} steps ({health.batches(r['left_out'])})."
        )
    return notes + [f"At step {e.step}: {e.text}." for e in events]


def _fixed(run: Any) -> dict | None:
    return storage.read_object(run.fixed_json) if run.fixed_json.is_file() else None


def _retention(run: Any, lock: dict, pretrained: str | None) -> dict | None:
    """{"before", "after": {text: {"bits_per_byte", …}}}, or {"unretained": why there is none}; None
    for a run from scratch."""
    found = storage.read_object(run.retention_json) if run.retention_json.is_file() else lock
    # locks of earlier versions do not say why
    none = {"unretained": "the run's data name no text"} if pretrained else None
    return {k: found[k] for k in ("before", "after", "unretained") if k in found} or none


# ---- terminal
# --------------------------------------------------------------------------------------


def print_report(found: dict) -> None:
    """The averages before and after, and where the rest is."""
    from rich.table import Table

    shown, percent = tables.shown, tables.percent
    table = Table(title="scores averaged over tasks, then clusters; 95 % intervals")
    for column in (
        "group",
        "before",
        "after",
        "chance",
        "none of the options",
        "tasks",
        "clusters",
        "",
    ):
        table.add_column(column, justify="left" if column in ("group", "") else "right")
    for g in found["groups"]:
        before, after = g.get("before"), g["after"]
        table.add_row(
            g["label"],
            shown(before["score"]) if before else "-",
            shown(after["score"], after["score_interval"]),
            shown(after["chance"]),
            percent(after["none_of_options"]),
            str(after["tasks"]),
            str(len(after["clusters"])),
            g["says"],
        )
    console, loss, e = tables.console(), found["loss"], found["evaluation"]
    console.print(table)
    if loss["total"]:
        entropy = (
            f"; unigram entropy of targets {loss['unigram_entropy']:.3f}"
            if loss["unigram_entropy"]
            else ""
        )
        console.print(
            f"loss {loss['total'][0]:.3f} -> {loss['total'][-1]:.3f}{entropy}; "
            f"{loss['skipped_steps']} steps skipped",
            markup=False,
        )
        for note in loss["notes"]:
            console.print(note, markup=False)
    for line in retention_lines(found["retention"]):
        console.print(line, markup=False)
    if found["audit"]:
        console.print(accounts(found["audit"]), markup=False)
    console.print(
        f"scored on {words.splits(e)}, eval.max_examples={words.examples_per_row(e)} contents per "
        f"row in every template; {words.easy(found)}",
        markup=False,
    )
    for line in (*words.scope(found["evaluation"]), *tables.cut_lines(found["rows"])):
        console.print(line, markup=False)
    for line in words.lines(found["summary"]):
        console.print(line, markup=False)


def retention_lines(found: dict | None) -> list[str]:
    """Bits per byte before and after, a line for each text."""
    if found is None:
        return []
    if "unretained" in found:
        return [f"retention: not measured, for {found['unretained']}"]
    before = {name: f"{t['bits_per_byte']:.3f} -> " for name, t in found.get("before", {}).items()}
    return [
        f"retention on {name}: {before.get(name, '')}"
        f"{t['bits_per_byte']:.3f} bits per byte ({t['bytes']:,} bytes, {t['objective']})"
        for name, t in found.get("after", {}).items()
    ]
