# SPDX-License-Identifier: Apache-2.0
"""`itx eval MODEL --harness TASKS`: tasks of lm-evaluation-harness, with their prompts and scores.

A folder of such scores is one model's. It holds harness.json, {task[:fsK][:chat]: scores}, and each
document's prompts and answers in samples/. Another call adds tasks, or asks one anew.
"""

import importlib.util
import json
import re
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

from itx import peft_files, storage
from itx.commands import unbuilt
from itx.commands.opened import Opened, opened
from itx.errors import UserError
from itx.eval import tables

FILE, SAMPLES = "harness.json", "samples"
# Options of `itx eval` about tasks of ours
NOT_HERE = ("tasks", "split", "adapter", "modules", "root", "cache_dir")


def evaluate(args: Namespace) -> tuple[dict, int]:
    """Facts of the call, and of every task that its folder holds."""
    shots, chat = _settings(args)
    # It may be absent, and takes seconds to import.
    from itx.eval import harness_tasks
    from itx.eval.harness import HarnessModel

    names = [name.strip() for name in args.harness.split(",")]
    found = harness_tasks.find(names, args.include_path or "")
    model = opened(args.run, args.base, args.step, check=lambda template, _: _check(args, template))
    about, folder = _about(args, model), _folder(args, model)
    held = _held(folder, about)
    harness = HarnessModel(model.runner, model.vocabulary, model.template, name=args.run)
    began = time.monotonic()
    told, samples = harness_tasks.scores(
        harness, found, shots, args.max_examples or 0, chat, args.system or ""
    )
    asked = {
        "prompt_format": "chat" if chat else "plain",
        "system": args.system or "",
        "context": harness.max_length,
        "lm_eval": told["lm_eval"],
    }
    tasks = {_key(name, entry, chat): entry | asked for name, entry in told["tasks"].items()}
    for key, name in zip(tasks, told["tasks"], strict=True):
        if name in samples:
            _write_samples(folder, key, samples[name])
    storage.write_json(
        folder / FILE, storage.sealed({**about, "tasks": {**held.get("tasks", {}), **tasks}})
    )
    facts = {
        **about,
        "tasks": tasks,
        "counts": told["counts"],
        "seconds": time.monotonic() - began,
        "folder": str(folder),
    }
    _print(facts, shots, bool(model.template) and not chat)
    return facts, 0


def _settings(args: Namespace) -> tuple[int | None, bool]:
    """(exemplars or None, whether the chat template is put around prompts); UserError where an
    option has no meaning here, or the harness is not installed."""
    for name in NOT_HERE:
        if getattr(args, name):
            raise UserError(
                f"--{name} is of tasks of ours; --harness takes --shots, --max_examples, "
                "--include_path, --prompt_format, --system, --step, --base and --out"
            )
    if not all(name.strip() for name in args.harness.split(",")):
        raise UserError(f"--harness {args.harness!r}: a task without a name between the commas")
    if args.max_examples is not None and args.max_examples < 0:
        raise UserError(f"--max_examples {args.max_examples}: 0 (all) or above")
    if args.shots is not None and not re.fullmatch(r"[0-9]{1,2}", args.shots, re.ASCII):
        raise UserError(
            f"--shots {args.shots}: with --harness one number of exemplars from 0 to 99"
        )
    if args.system and args.prompt_format != "chat":
        raise UserError("--system: with --harness it needs --prompt_format=chat")
    if importlib.util.find_spec("lm_eval") is None:
        raise UserError(
            "--harness: the package lm_eval is not installed: `uv pip install lm-eval`, or "
            "`uv sync --extra lm-eval` in a clone"
        )
    return (None if args.shots is None else int(args.shots)), args.prompt_format == "chat"


def _check(args: Namespace, template: str) -> None:
    if args.prompt_format == "chat" and not template:
        raise UserError(
            f"--prompt_format=chat: {args.run} has no chat template; it is asked by plain"
        )


def _about(args: Namespace, model: Opened) -> dict[str, Any]:
    """Which model it is: of no run also by what its files hold."""
    of_files = {} if model.run else {"fingerprint": unbuilt.fingerprint(model.asked.model)}
    adapter = model.asked.adapter and peft_files.key(model.asked.adapter)
    return {"model": args.run, "step": model.step, "adapter": adapter, **of_files}


def _folder(args: Namespace, model: Opened) -> Path:
    """Where the scores stand."""
    if args.out:
        return Path(args.out)
    if model.run and not model.asked.adapter:
        return model.run.eval_dir(model.step) / "harness"
    return Path("runs") / f"harness-{unbuilt.name_of(args.run)}"


def _held(folder: Path, about: dict[str, Any]) -> dict[str, Any]:
    """What a folder of scores holds; {} for a new one, UserError for another model's."""
    held = storage.read_object(folder / FILE, "tasks", absent={})
    if not held and (folder.is_file() or folder.is_dir() and any(folder.iterdir())):
        raise UserError(f"--out: {folder} is there and is no folder of harness scores")
    for name, value in about.items() if held else ():
        if name != "model" and held.get(name) != value:
            raise UserError(
                f"{folder} holds scores of another model ({held['model']}: another {name}); give "
                "another --out"
            )
    return held


def _key(name: str, entry: dict[str, Any], chat: bool) -> str:
    """A task as it was asked, in our grammar of variants."""
    return name + (f":fs{entry['shots']}" if entry["shots"] else "") + (":chat" if chat else "")


def _write_samples(folder: Path, key: str, lines: list[dict]) -> None:
    path = folder / SAMPLES / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', key)}.jsonl"
    with storage.whole_file(path) as part, part.open("w", encoding="utf-8") as file:
        for line in lines:
            file.write(json.dumps(line, ensure_ascii=False, default=str) + "\n")


def _print(facts: dict[str, Any], shots: int | None, has_template: bool) -> None:
    out = tables.console()
    rows = [
        (
            "" if i else key,
            "" if i or entry["version"] is None else str(entry["version"]),
            "-" if entry["examples"] is None else f"{entry['examples']:,}",
            score["metric"],
            score["filter"],
            "-" if score["value"] is None else f"{score['value']:.4f}",
            "-" if score["stderr"] is None else f"± {score['stderr']:.4f}",
        )
        for key, entry in facts["tasks"].items()
        for i, score in enumerate(entry["scores"])
    ]
    texts = ("task", "version", "metric", "filter")
    head = ("task", "version", "n", "metric", "filter", "score", "standard error")
    out.print(tables.table("lm-evaluation-harness", head, rows, left=texts))
    lines = [f"{n:,} × {what}" for what, n in facts["counts"].items()]
    for key, entry in facts["tasks"].items():
        if shots is not None and entry["shots"] not in (None, shots):
            lines.append(f"{key}: the task fixes its exemplars at {entry['shots']}: not {shots}")
        lines += [
            f"{key}: {score['metric']}: {score['why']}"
            for score in entry["scores"]
            if "why" in score
        ]
    if has_template:
        lines.append("asked in plain text; --prompt_format=chat asks through the chat template")
    for line in (*lines, f"scores: {facts['folder']}"):
        out.print(line, markup=False, highlight=False)
