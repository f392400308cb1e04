# SPDX-License-Identifier: Apache-2.0
"""`itx data build | audit | show | batch`: what a run trains on, made, judged and printed;
`itx data why`: where a made row came from, and what became of it; `itx data diff`
(differing.py): two versions or two locks."""

import argparse
import itertools
import sys
import time
from argparse import Namespace
from pathlib import Path

import numpy as np

from itx import pretrained, processes
from itx.audit import audit as auditing
from itx.audit import printed, sentences
from itx.commands import differing
from itx.commands.arguments import group, with_recipe
from itx.commands.building import build_in_subprocess
from itx.config import RunConfig
from itx.create import lineage, uses
from itx.data import fetch, verify
from itx.data import lock as locks
from itx.data.loader import Batches
from itx.data.types import Lock
from itx.data.vocabulary import Vocabulary
from itx.errors import UserError, did_you_mean
from itx.eval import metrics, tables
from itx.prepare import build
from itx.storage import local
from itx.tasks import registry
from itx.text import visible

MAX_STEPS = 12  # that a line names


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = group(parser)
    make = with_recipe(
        add("build", "tokenise everything a run needs; prints the lock's path", data_build)
    )
    make.add_argument(
        "--dry-run", action="store_true", help="print what it would write and take, and stop"
    )
    make.add_argument(
        "--keep-damaged",
        action="store_true",
        help="a damaged folder of the cache is an error; else it is made again",
    )
    audit = "what is trained on, what was skipped and why; exit 1 where it must not be"
    with_recipe(add("audit", audit, data_audit))
    show = with_recipe(
        add("show", "rendered examples, the tokens under the loss marked", data_show)
    )
    show.add_argument("--task", help="only this task")
    show.add_argument("--examples", type=int, default=1, metavar="N", help="of each task")
    batch = with_recipe(add("batch", "the batch of one step", data_batch))
    batch.add_argument("--step", type=int, default=0)
    batch.add_argument("--rows", type=int, default=4, metavar="N", help="print the first N rows")
    why = add("why", "where a row that `itx create` made came from, kept or dropped", data_why)
    why.add_argument("row", help="its id, or the beginning of it")
    why.add_argument(
        "--runs",
        nargs="+",
        type=local,
        default=[],
        metavar="RUN",
        help="also what these runs, or the runs in these folders, did with it",
    )
    why.add_argument("--root", type=local, default=".", help="folder of the data (data.root)")
    copied = "copy a data lock and the cache that it names from a store (gs://, s3://)"
    copy = add("fetch", copied, data_fetch)
    copy.add_argument("url", help="of the lock: gs://BUCKET/cache/locks/NAME.json")
    copy.add_argument("--to", type=local, default="cache", help="the cache to copy into")
    differing.add_commands(add)


def data_fetch(args: Namespace) -> tuple[dict, int]:
    """Copy a lock and what it names; prints how to train on it."""
    facts = fetch.fetch(args.url, Path(args.to))
    print(
        f"{facts['folders']} folders copied ({facts['files']} files, {facts['bytes'] / 1e6:,.1f} "
        f"MB), {facts['here_already']} were here; {facts['requests_made_again']} requests were "
        "made again; every file has its hash"
    )
    print(f"itx train CONFIG --lock {facts['lock']} --data.cache_dir={args.to}")
    return facts, 0


def _load(args: Namespace) -> RunConfig:
    config = pretrained.load_recipe(args.config, args.overrides, args.quick)[0]
    metrics.trust(config.data.modules)
    return config


def data_build(args: Namespace) -> tuple[dict, int]:
    config = _load(args)
    processes.die_with_starter()
    if args.dry_run:
        return _dry_run(config), 0
    started = time.monotonic()
    with processes.temporary_home():
        file, made, mended = build.build(config, _show_progress, args.keep_damaged)
    for line in mended:
        print(f"mended: {line}", file=sys.stderr)
    lock = locks.read(file)
    records = sum(t["examples"] for t in lock["tasks"])
    seconds = time.monotonic() - started
    print(
        f"data: {len(lock['tasks'])} task variants, {records:,} training examples, "
        f"{len(lock['evaluation'])} evaluation rows, {seconds:.0f} s; lock {file}"
    )
    for line in sentences.of_build(lock, config.data.cache_dir):
        print(f"note: {line}")
    known = sum(1 for _ in Path(config.data.cache_dir, "locks").iterdir()) > 1
    if made and known:  # not of a first build, which makes everything
        shown = ", ".join(made[:8]) + (f" and {len(made) - 8} more" if len(made) > 8 else "")
        print(f"made anew, for what shapes them had changed or was not there: {shown}")
    facts = {"lock": str(file), "tasks": len(lock["tasks"]), "examples": records}
    return facts | {"made": made, "mended": mended}, 0


def _dry_run(config: RunConfig) -> dict:
    estimate = build.estimate(config, _show_progress)
    title = f"what itx data build would write for {config.data.mixture}"
    head = ("task", "training records", "MB", "of that new", "seconds of one process")
    rows = []
    for name, t in estimate["tasks"].items():
        sizes = (f"{t[key] / 1e6:,.2f}" for key in ("bytes", "new_bytes"))
        rows.append((name, f"{t['records']:,}", *sizes, f"{t['seconds']:,.1f}"))
    tables.console().print(tables.table(title, head, rows, left=("task",)))
    print(
        f"{estimate['bytes'] / 1e9:,.3f} GB in all, {estimate['new_bytes'] / 1e9:,.3f} GB of them "
        f"new, about {estimate['seconds']:,.0f} s with {estimate['workers']} processes; first "
        "renderings only"
    )
    return estimate


def _show_progress(what: str, done: int, of: int) -> None:
    line, end = f"build: {what} {done}/{of}", "\n" if done == of else ""
    if sys.stderr.isatty():
        print(f"\r{line}   ", end=end, file=sys.stderr, flush=True)
    elif end:
        print(line, file=sys.stderr)


def _built(args: Namespace) -> tuple[RunConfig, Batches, Vocabulary]:
    """(config, batches, vocabulary) of a config's data, built where it is not."""
    config = _load(args)
    lock, cache_dir = locks.read(build_in_subprocess(args)), config.data.cache_dir
    verify.of_lock(lock, cache_dir)
    vocabulary = Vocabulary(Path(cache_dir) / lock["vocabulary"]["file"])
    return config, Batches(lock, cache_dir), vocabulary


def data_audit(args: Namespace) -> tuple[dict, int]:
    config, batches, _ = _built(args)
    taken = batches.order.counts(config.train.steps * batches.lock["global_batch"])
    audit = auditing.audit(batches.lock, config.data.cache_dir, config)
    facts = auditing.with_uses(audit, taken)
    printed.print_audit(facts)
    return facts, 1 if facts.get("errors") else 0


def marked(vocabulary: Vocabulary, tokens: np.ndarray, weights: np.ndarray) -> str:
    """Text of a segment, the tokens under the loss between ⟦ ⟧."""
    parts = []
    pairs = zip(map(int, tokens), (bool(w > 0) for w in weights), strict=True)
    for under_loss, run in itertools.groupby(pairs, key=lambda pair: pair[1]):
        ids = [token for token, _ in run]
        ended = ids[-1] == vocabulary.eos_id
        text = vocabulary.decode(ids[:-1] if ended else ids) + ("⟨eos⟩" if ended else "")
        parts.append(f"⟦{text}⟧" if under_loss else text)
    return (" " if vocabulary.spaced else "").join(parts)


def data_show(args: Namespace) -> tuple[list[dict], int]:
    _, batches, vocabulary = _built(args)
    names = [t["name"] for t in batches.lock["tasks"]]
    if args.task and args.task not in names:
        raise UserError(
            f"--task {args.task!r} is not in the mixture" + did_you_mean(args.task, names)
        )
    examples = []
    for i, name in enumerate(names):
        usable = batches.data.usable[i][0] if args.task in (None, name) else ()
        for record in map(int, usable[: args.examples]):
            prompt, target, weight = batches.segment(i, record, 0)
            text = marked(vocabulary, [*prompt, *target], [*(0 * prompt), *weight])
            example = {"task": name, "record": record, "text": text, "loss_tokens": len(target)}
            examples.append(example)
            print(f"--- {name}, record {record}: {len(prompt)} + {len(target)} tokens")
            print(visible(text))
    return examples, 0


def data_batch(args: Namespace) -> tuple[dict, int]:
    _, batches, vocabulary = _built(args)
    lock, batch = batches.lock, batches.batch(args.step)
    size = lock["global_batch"]
    filled = float((batch["decoder_segment_ids"] > 0).mean())
    loss_tokens = int((batch["decoder_loss_weights"] > 0).sum())
    print(
        f"step {args.step}: {size} rows, {filled:.1%} of decoder places filled, {loss_tokens} loss "
        f"tokens; data {locks.shape_hash(lock)}"
    )
    rows = []
    for b in range(min(args.rows, size)):
        print(f"--- row {b}")
        rows.append([])
        row = {name: array[b] for name, array in batch.items()}
        segments = batches.order.row(args.step * size + b)
        for number, (task, record, rendering) in enumerate(segments, 1):
            name = lock["tasks"][task]["name"]
            text = _segment_text(row, number, lock, vocabulary)
            rows[b].append({"task": name, "record": record, "rendering": rendering, "text": text})
            print(f"[{name} {record}#{rendering}] {visible(text)}")
    arrays = {name: array.tolist() for name, array in batch.items()}
    return {"step": args.step, "rows": rows, "batch": arrays}, 0


def _segment_text(
    row: dict[str, np.ndarray], number: int, lock: Lock, vocabulary: Vocabulary
) -> str:
    """The text of a row's segment, tokens under the loss marked."""
    at = row["decoder_segment_ids"] == number
    if lock["bos_id"] < 0:  # its first token has a place that takes part in nothing
        at[np.flatnonzero(at)[0] - 1] = True
    tokens, weights = row["decoder_target_tokens"][at], row["decoder_loss_weights"][at]
    text = marked(vocabulary, tokens, weights)
    if "encoder_input_tokens" not in row:
        return text
    prompt = row["encoder_input_tokens"][row["encoder_segment_ids"] == number]
    return vocabulary.decode(prompt) + " → " + text


def data_why(args: Namespace) -> tuple[dict, int]:
    (task, held), *others = places = lineage.find(args.root, args.row)
    came = held["lineage"]
    print(f"{came['id']} of {task}, {visible(_state(held))}")
    for name in ("instruction", "input", "output"):
        if held[name]:
            print(f"  {name}: {visible(held[name])}")
    print(f"  made by {visible(came['generator'])}; parents: {', '.join(came['parents'])}")
    if came.get("operator"):
        same = "the same meaning" if came["preserving"] else "another meaning"
        print(f"  operator {visible(came['operator'])}, of {same}")
    for stage, request in came["made_by"].items():
        print(f"  {stage}: request {request['request']}, seed {request['seed']}")
    for name, found in came["verdicts"].items():
        print(f"  filter {name}: {visible(found)}")
    for other, line in others:
        print(f"  also in {other}, {visible(_state(line))}")
    facts = {"task": task, **held, "also_in": {other: _state(line) for other, line in others}}
    if not args.runs:
        return facts, 0
    registry.load_modules(["tasks"])
    used = uses.of_row(args.root, places, uses.opened(args.runs))
    for use in used:
        _print_use(use)
    return {**facts, "uses": used}, 0


def _state(held: dict) -> str:
    dropped = held["lineage"]["dropped"]
    return f"dropped: {dropped}" if dropped else "kept"


def _print_use(use: uses.Use) -> None:
    """What a run did with a row."""
    print(visible(f"in {use['run']}, of {use['task']}: {use['why'] or 'trained on'}"))
    for v in use["variants"]:
        times = v["steps"]
        shown = ", ".join(map(str, times[:MAX_STEPS]))
        more = f" and {len(times) - MAX_STEPS:,} more" if len(times) > MAX_STEPS else ""
        at = f" at steps {shown}{more}" if times else ""
        print(
            f"  {v['variant']}: {v['records']:,} records, {v['left_out']:,} of them left out; in "
            f"{len(times):,} batches of {use['steps']:,} steps{at}; an exemplar in "
            f"{v['exemplar_of']:,} records"
        )
    for row in use["evaluation"]:
        print(f"  asked by the evaluation row {row}")
