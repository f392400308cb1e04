# SPDX-License-Identifier: Apache-2.0
"""Runs side by side (`itx compare`), from their folders' files alone: scores by group and by row,
answers' lengths, and what differs in settings and data.

    {"runs": [{"name", "run", "step", "of", "split", "note"}], "left_out": [{"run", "why"}],
     "groups": [{"group", "kind", "label", "same_questions", "scores": {run: average}, "answers":
     {run: {"answers", "characters", "cut"}}}], "rows": [{"row", "group", "metric", "scores": {run:
     value}}], "paired": {run: slices of paired.py, the run beside the first}, "recipes": [{"first",
     "other", "runs": [n, n], "groups"}], "information": {group: {run: bits against another task's
     instruction}}, "retention": {text: {run: bits per byte}}, "declined": {kind of request: {run:
     share}}, "settings": {name: {run: value}}, "data": [{"run", "batches", "questions"}]}

Averages are those of scores.json. Two runs are two checkpoints, which are compared on the same
questions; a recipe is all runs whose settings are the same but for seeds, and recipes are compared
over their runs, from MIN_SEEDS of each on.
"""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from itx import hashing, storage
from itx.analysis import paired
from itx.analysis.report import scored_steps
from itx.config import fields_by_name, flatten
from itx.data import lock as locks
from itx.data.types import Lock
from itx.errors import UserError
from itx.eval import averages, information, predictions, safety, stats, tables
from itx.eval.predictions import PredictionLine
from itx.runs import RunFolder, named, open_run, read_config, read_lock, runs_inside

SEEDS = ("train.seed", "data.seed", "data.suite_seed", "data.render_seed")
MIN_SEEDS = 3  # runs of each recipe, without which nothing is claimed of recipes


# (run folder, step, name of a row) -> its predictions
Read = Callable[[RunFolder, int, str], list[PredictionLine]]


class Scored(NamedTuple):
    """A run at a step that was scored."""

    name: str  # what it is called in tables
    run: RunFolder
    step: int
    about: dict  # what config.json holds
    lock: Lock
    scores: dict


class LeftOut(Exception):
    """Why a run cannot stand beside others."""


def facts(paths: list[str], rows: bool = False, margin: float = paired.MARGIN) -> dict[str, Any]:
    """All that `itx compare` says; UserError where fewer than two runs can be compared, or where a
    file is damaged.

    Args:
        rows: compare each row too, not only groups of them.
        margin: of the score, within which two runs are equivalent.
    """
    runs, left_out = [], []
    for path in _opened(paths):
        try:
            runs.append(scored(path))
        except LeftOut as e:
            left_out.append({"run": path, "why": str(e)})
    if len(runs) < 2:
        told = "; ".join(f"{x['run']}: {x['why']}" for x in left_out)
        raise UserError(f"fewer than two runs to compare{f' ({told})' if told else ''}")
    runs = _named(runs)
    read = functools.cache(predictions.read_whole)  # the first run stands beside each other one
    return {
        "runs": [_about(r) for r in runs],
        "left_out": left_out,
        "groups": _groups(runs, read),
        "rows": _rows(runs),
        "margin": margin,
        "paired": {r.name: _paired(runs[0], r, read, rows, margin) for r in runs[1:]},
        "recipes": _recipes(runs),
        "information": _information(runs),
        "retention": _retention(runs),
        "declined": _declined(runs),
        "settings": _settings(runs),
        "data": _data(runs),
    }


def _opened(paths: list[str]) -> list[str]:
    """The paths, each once, a folder of runs opened."""
    out: list[str] = []
    for path in paths:
        folder = RunFolder(Path(path))
        inside = [] if folder.is_begun() else runs_inside(folder.path)
        out += [str(r.path) for r in inside] or [path]
    return list(dict.fromkeys(str(Path(p)) for p in out))


def scored(path: str) -> Scored:
    """A run (its newest scored step) or RUN/checkpoints/STEP; LeftOut where there is no score."""
    folder, step = named(path)
    try:
        run = open_run(str(folder.path))
        about, lock = read_config(run), read_lock(run)
    except UserError as e:
        raise LeftOut(str(e)) from e
    steps = scored_steps(run)
    of = about["config"]["train"]["steps"]
    if step is None and (not steps or steps[-1] == 0 < of):
        done = max(run.steps(), default=0)
        scored = "only step 0 is scored" if steps else "nothing is scored yet"
        raise LeftOut(f"unfinished: {scored}, and step {done} of {of} is done")
    if step is not None and step not in steps:
        raise LeftOut(f"step {step} is not scored; scored: {', '.join(map(str, steps)) or 'none'}")
    step = steps[-1] if step is None else step
    keys = ("step", "split", "rows", "groups")
    scores = storage.read_object(run.scores_json(step), *keys)
    name = path if folder.path == Path(path) else f"{folder.path}@{step}"
    return Scored(name, run, step, about, lock, scores)


def _named(runs: list[Scored]) -> list[Scored]:
    """The runs called by the end of their path that tells them apart."""
    parts = [Path(r.name).parts for r in runs]
    size = 1
    while len({p[-size:] for p in parts}) < len(parts) and size < max(map(len, parts)):
        size += 1
    return [r._replace(name="/".join(p[-size:])) for r, p in zip(runs, parts, strict=True)]


def _about(run: Scored) -> dict[str, Any]:
    of = run.about["config"]["train"]["steps"]
    return {
        "name": run.name,
        "run": str(run.run.path),
        "step": run.step,
        "of": of,
        "split": run.scores["split"],
        "note": "" if run.step == of else f"scored at step {run.step} of {of}",
    }


# ---- scores


def _groups(runs: list[Scored], read: Read) -> list[dict]:
    by_key = [{(g["group"], g["kind"]): g for g in r.scores["groups"]} for r in runs]
    keys = sorted({k for own in by_key for k in own}, key=_place)
    groups = []
    for key in keys:
        have = [(r, own[key]) for r, own in zip(runs, by_key, strict=True) if key in own]
        asked = {_questions(r, g["rows"]) for r, g in have}
        groups.append(
            {
                "group": key[0],
                "kind": key[1],
                "label": tables.label(*key),
                "same_questions": len(asked) == 1 and len(have) == len(runs),
                "scores": {r.name: _average(g) for r, g in have},
                "answers": {r.name: _answers(r, read, [*g["rows"], *g["easy"]]) for r, g in have},
            }
        )
    return groups


def _place(key: tuple[str, str]) -> tuple[int, str]:
    return averages.GROUPS.index(key[0]), key[1]


def _average(group: dict) -> dict:
    keys = ("score", "score_interval", "mean", "interval", "chance", "tasks")
    return {k: group.get(k) for k in keys}


def _questions(run: Scored, rows: list[str]) -> str:
    """A digest of what was asked in rows: their examples, how many of them, and the metric."""
    known = {r["name"]: r["sha256"] for r in run.lock["evaluation"]}
    asked = []
    for name in sorted(rows):
        r = run.scores["rows"][name]
        asked.append([name, known.get(name, ""), r["examples"], r["metric"], r["split"]])
    return hashing.digest(str(asked))


def _answers(run: Scored, read: Read, rows: list[str]) -> dict[str, float | int | None]:
    """{"answers", "characters": of an answer on average, "cut": how many a limit ended}."""
    texts = []
    for name in dict.fromkeys(rows):
        for line in read(run.run, run.step, name):
            texts.append(line["prediction"])
    cut = sum(run.scores["rows"][name]["hit_limit"] for name in dict.fromkeys(rows))
    characters = sum(map(len, texts)) / len(texts) if texts else None
    return {"answers": len(texts), "characters": characters, "cut": cut}


def _rows(runs: list[Scored]) -> list[dict]:
    """A line for each row and metric: a row is scored by each of its metrics, and one of them, or
    the ranking of options, counts."""
    rows = {}
    for r in runs:
        for name, row in r.scores["rows"].items():
            for metric, value in {row["metric"]: row["score"], **row["metrics"]}.items():
                key = (averages.GROUPS.index(row["group"]), row["cluster"], name, metric)
                new = {"row": name, "group": row["group"], "metric": metric, "scores": {}}
                rows.setdefault(key, new)["scores"][r.name] = value
    return [rows[key] for key in sorted(rows)]


def same_questions(first: Scored, other: Scored) -> dict[str, dict]:
    """{name of a row that asked the same of both: what the first run's scores.json holds of it}."""
    sha256 = [{r["name"]: r["sha256"] for r in run.lock["evaluation"]} for run in (first, other)]
    held = [run.scores["rows"] for run in (first, other)]
    return {
        name: row
        for name, row in held[0].items()
        if name in held[1]
        and sha256[0].get(name) == sha256[1].get(name)
        and row["metric"] == held[1][name]["metric"]
    }


def _paired(first: Scored, other: Scored, read: Read, rows: bool, margin: float) -> list[dict]:
    """The groups of two runs, and with `rows` their rows, on the questions that are the same."""
    same = same_questions(first, other)
    used = [
        {(g["group"], g["kind"]): g["rows"] for g in run.scores["groups"]} for run in (first, other)
    ]
    slices = [
        paired.Slice(tables.label(*key), [n for n in used[0][key] if n in used[1][key]])
        for key in sorted(used[0].keys() & used[1].keys(), key=_place)
    ]
    if rows:
        slices += [paired.Slice(name, [name]) for name in sorted(same)]
    sides = tuple(functools.partial(read, run.run, run.step) for run in (first, other))
    return paired.compare(same, sides, slices, margin)


def _recipes(runs: list[Scored]) -> list[dict[str, Any]]:
    """The first run's recipe beside each other one: for each group the difference of the means over
    runs, with Welch's interval, where both have MIN_SEEDS of them."""
    by_recipe = stats.grouped((_recipe(r), r) for r in runs)
    (first, *others), found = by_recipe.values(), []
    for other in others:
        sides, groups = (first, other), []
        if min(map(len, sides)) >= MIN_SEEDS:
            scores = [stats.grouped(_group_scores(side)) for side in sides]
            for key in sorted(scores[0].keys() & scores[1].keys(), key=_place):
                mean, interval = stats.welch(scores[0][key], scores[1][key])
                groups.append(
                    {"label": tables.label(*key), "difference": mean, "interval": interval}
                )
        names = [side[0].name for side in sides]
        counts = [len(side) for side in sides]
        found.append({"first": names[0], "other": names[1], "runs": counts, "groups": groups})
    return found


def _group_scores(runs: list[Scored]) -> Iterator[tuple[tuple[str, str], float]]:
    for run in runs:
        for g in run.scores["groups"]:
            if g["score"] is not None:
                yield (g["group"], g["kind"]), g["score"]


def _recipe(run: Scored) -> str:
    """What runs of one recipe share: the settings that shape data or maths, but seeds."""
    values = flatten(run.about["config"])
    kinds = {name: f.metadata["kind"] for name, f in fields_by_name().items()}
    shaping = {n: v for n, v in values.items() if kinds.get(n) != "free" and n not in SEEDS}
    # free to change in a run, and yet another recipe
    steps = {"train.steps": values["train.steps"], "scored at": run.step}
    return hashing.digest(repr(sorted({**shaping, **steps}.items())))


def _information(runs: list[Scored]) -> dict[str, dict[str, dict]]:
    out: dict[str, dict[str, dict]] = {}
    for r in runs:
        held = storage.read_object(r.run.information_json, absent={})
        for g in information.averages(held, r.lock.get("information", [])):
            if "after" in g:
                out.setdefault(g["label"], {})[r.name] = g["after"]["swapped"]
    return out


def _retention(runs: list[Scored]) -> dict[str, dict[str, float]]:
    out: dict[str, dict[str, float]] = {}
    for r in runs:
        held = storage.read_object(r.run.retention_json, absent={})
        for text, measured in held.get("after", {}).items():
            out.setdefault(text, {})[r.name] = measured["bits_per_byte"]
    return out


def _declined(runs: list[Scored]) -> dict[str, dict[str, float]]:
    """{kind of request: {run: share that it declines}} of chat models, as they are after tuning."""
    out: dict[str, dict[str, float]] = {}
    for r in runs:
        of_kinds = safety.averages(storage.read_object(r.run.safety_json, absent={}))
        for kind, share in safety.declined_after(of_kinds).items():
            out.setdefault(kind, {})[r.name] = share
    return out


# ---- what differs


def _settings(runs: list[Scored]) -> dict[str, dict[str, Any]]:
    """{setting, or "code" or a library: {run: value}} of those that are not the same in all."""
    values = {
        r.name: {
            **flatten(r.about["config"]),
            "code": r.about.get("code"),
            **r.about.get("versions", {}),
        }
        for r in runs
    }
    names = dict.fromkeys(name for own in values.values() for name in own)
    by_name = {name: {run: own.get(name) for run, own in values.items()} for name in names}
    return {n: own for n, own in by_name.items() if len({repr(v) for v in own.values()}) > 1}


def _data(runs: list[Scored]) -> list[dict[str, str]]:
    """What each run's data have otherwise than the first's: the batches, and the questions."""
    first, found = runs[0], []
    for r in runs[1:]:
        batches = ""
        if locks.shape_hash(first.lock) != locks.shape_hash(r.lock):
            batches = locks.difference(first.lock, r.lock)
        old, new = (
            {x["name"]: x["sha256"] for x in lock["evaluation"]} for lock in (first.lock, r.lock)
        )
        other = sorted(n for n in old.keys() & new.keys() if old[n] != new[n])
        parts = [
            _rows_in_words(names, what)
            for names, what in (
                (sorted(old.keys() - new.keys()), f"of {first.name} alone"),
                (sorted(new.keys() - old.keys()), f"of {r.name} alone"),
                (other, "with other examples"),
            )
            if names
        ]
        if batches or parts:
            found.append({"run": r.name, "batches": batches, "questions": "; ".join(parts)})
    return found


def _rows_in_words(names: list[str], what: str) -> str:
    shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
    return f"{len(names)} row{'s' * (len(names) > 1)} {what} ({shown})"
