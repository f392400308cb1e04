# SPDX-License-Identifier: Apache-2.0
"""`itx soup`: the mean of runs' checkpoints, and what lies between it and the base."""

import argparse
import functools
from argparse import Namespace
from pathlib import Path

from itx import restore, soup, storage
from itx.analysis import plots
from itx.commands.arguments import command
from itx.config import changed
from itx.data import lock as locks
from itx.errors import UserError
from itx.eval import evaluate, metrics, retention
from itx.eval.tables import console, shown, table
from itx.runs import RunFolder
from itx.soup import Part
from itx.text import visible

GAIN = "instances"  # the group whose score says what tuning gained


def add_arguments(parser: argparse.ArgumentParser) -> None:
    option = command(parser, make_soup).add_argument
    option(
        "runs",
        nargs="+",
        type=storage.local,
        metavar="RUN",
        help="run folders, or RUN/checkpoints/STEP",
    )
    option(
        "--out",
        required=True,
        type=storage.local,
        help="a new run folder; with several shares a folder of them",
    )
    option("--weights", default="", help="one for each run, e.g. 1,2,1; default: all the same")
    option(
        "--with_base",
        default="0",
        metavar="SHARE",
        help="how much of the base is mixed in, 0 to 1; several between commas are scored, and "
        "give a curve of what is kept against what is gained",
    )
    option(
        "--cache_dir",
        type=storage.local,
        help="where the curve's data are; default: the run's data.cache_dir",
    )
    option(
        "--modules",
        default="",
        help="comma-separated modules whose own metrics may run; a run folder cannot name any",
    )


def make_soup(args: Namespace) -> tuple[dict, int]:
    base_shares = _base_shares(args.with_base)
    found = soup.parts(args.runs)
    weights = soup.shares(args.weights, len(found))
    if any(base_shares):
        soup.check_base(found)
    out, several = Path(args.out), len(base_shares) > 1
    places = [out / f"base-{s:g}" if several else out for s in base_shares]
    made = [soup.facts(found, weights, s) for s in base_shares]
    if several:
        _check_curve(args, found[0])
    missing = [not soup.is_written(p, m) for p, m in zip(places, made, strict=True)]
    if any(missing):
        tuned = soup.mean(found, weights)
        base = soup.base(found) if any(base_shares) else {}
        for place, facts, absent in zip(places, made, missing, strict=True):
            if absent:
                share = facts["base_share"]
                params = soup.between(tuned, base, share) if share else tuned
                soup.write(place, found, params, facts)
    _print(found, weights, places)
    if not several:
        return {"run": str(out), **made[0]}, 0
    curve = _curve(args, found, base_shares, places)
    storage.write_json(out / "curve.json", storage.sealed(curve))
    with storage.whole_file(out / "curve.png") as part:
        part.write_bytes(_picture(curve))
    print(f"table and picture: {visible(str(out / 'curve.json'))}, curve.png")
    return curve, 0


def _base_shares(text: str) -> list[float]:
    try:
        values = list(dict.fromkeys(float(v) for v in text.split(",")))
    except ValueError as e:
        raise UserError(f"--with_base {text}: a number from 0 to 1, or several") from e
    if not all(0 <= v <= 1 for v in values):
        raise UserError(f"--with_base {text}: each is from 0 to 1")
    return values


def _check_curve(args: Namespace, first: Part) -> None:
    """UserError where the curve cannot be measured, before anything is written."""
    metrics.trust(args.modules.split(","))
    cache = args.cache_dir or first.config.data.cache_dir
    if not Path(cache).is_dir():
        raise UserError(f"no folder {cache!r}, where the run's data are; give --cache_dir")
    kept = [r for r in first.lock["evaluation"] if r["group"] == "retention"]
    if not kept and not first.lock.get("retention"):
        raise UserError(
            f"{first.name}: its data name nothing that shows what is kept (eval.retention, "
            "data.replay_task); give one --with_base, which needs no curve"
        )


def _print(found: list[Part], weights: list[float], places: list[Path]) -> None:
    parts = ", ".join(
        f"{w:.3g} × {p.begin.run.path} at step {p.begin.step}"
        for p, w in zip(found, weights, strict=True)
    )
    how = ", adapters merged first" if found[0].config.peft.method != "full" else ""
    print(visible(f"{', '.join(map(str, places))}: {parts}{how}"))
    for other in found[1:]:
        if locks.shape_hash(other.lock) != locks.shape_hash(found[0].lock):
            why = locks.difference(found[0].lock, other.lock)
            print(visible(f"data of {other.name} differ ({why}); scored on {found[0].name}'s"))


def _curve(
    args: Namespace, found: list[Part], base_shares: list[float], places: list[Path]
) -> dict:
    """{"gain": group, "kept": what shows retention, "points": [{"base_share", "run", "gain",
    "kept": {text or group: value}}]}: each point scored as any run is."""
    config, lock = soup.plain(found[0]), found[0].lock
    cache = args.cache_dir or config.data.cache_dir
    config = changed(config, "data", cache_dir=cache)
    points = []
    for share, place in zip(base_shares, places, strict=True):
        run = RunFolder(place)
        step = run.steps()[-1]
        load = functools.cache(functools.partial(restore.load_model, run, config, lock, step))
        scores = evaluate.evaluate(load, lock, config, run, step)
        texts = retention.retention(load, lock, cache, run, step, "after").get("after", {})
        by_group = {g["group"]: g["score"] for g in scores["groups"] if not g["kind"]}
        kept = {name: of["bits_per_byte"] for name, of in texts.items()}
        if "retention" in by_group:
            kept["score of tasks"] = by_group["retention"]
        gain = by_group.get(GAIN)
        points.append({"base_share": share, "run": str(place), "gain": gain, "kept": kept})
    names = list(points[0]["kept"])
    cells = [
        (f"{p['base_share']:g}", shown(p["gain"]), *(f"{p['kept'][n]:.3f}" for n in names))
        for p in points
    ]
    head = ("share of the base", "gained: trained tasks", *(f"kept: {n}" for n in names))
    title = "kept against gained; of texts bits per byte, lower is better"
    console().print(table(title, head, cells))
    return {"gain": GAIN, "kept": names, "points": points}


def _picture(curve: dict) -> bytes:
    """Gain over each measure of what is kept, a line through the shares of the base."""
    first = curve["kept"][0]
    scored = [p for p in curve["points"] if p["gain"] is not None]  # the table shows a "-"
    places = [(p["kept"][first], [p["gain"]]) for p in scored]
    what = first if first == "score of tasks" else f"bits per byte of {first}, lower is better"
    notes = [f"{p['base_share']:g}" for p in scored]
    labels = (f"kept: {what}", "gained: score of trained tasks")
    return plots.lines_with_points({"share of the base": places}, labels, notes=notes)
