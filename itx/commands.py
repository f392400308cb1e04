# SPDX-License-Identifier: Apache-2.0
"""What each command does, in order. cli.py parses; the parts below do the work.

`train` is the main job: build -> audit -> score before -> tune -> score after -> report. Each stage
leaves whole files in the run folder and is skipped when they are there, so that the same command
resumes after a kill at any moment.
"""

import contextlib
import dataclasses
import functools
import math
import os
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

from itx import begin, processes, storage
from itx import config as configs
from itx.data import verify
from itx.data.vocabulary import BYTE_EXTRA_IDS, BYTES, Bytes, Vocabulary
from itx.errors import UserError, did_you_mean
from itx.eval import metrics
from itx.runs import RunFolder, default_run, open_run, read_lock, run_config
from itx.text import visible
from itx.trainer_lock import TrainerLock

# ---- train ---------------------------------------------------------------------------------------


def train(args: Namespace) -> int:
    """The main job; with --restarts it runs in a child process that is started again after a crash."""
    if args.restarts:
        return _restarting(args)
    processes.die_with_starter()
    if args.dry_run:
        return _train_dry_run(args)
    config, origin = configs.load(args.config, args.overrides, args.quick)
    metrics.trust(config.data.modules)
    run = _run_folder(args)
    if config.train.deterministic:  # read by XLA when JAX starts
        os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_gpu_deterministic_ops=true"
    begin.check_same_run(run, config)
    TrainerLock(run.path).check()  # a second trainer is told before it builds
    if config.model.pretrained:
        from itx.models import pretrained

        pretrained.ready(config)
    lock_file = Path(args.lock) if args.lock else build_in_subprocess(args)
    from itx.data import lock as locks

    lock = locks.read(lock_file)
    locks.check_config(lock, config, lock_file)
    from itx.data.audit import audit, print_audit
    from itx.data.loader import Batches

    facts = audit(lock, config.data.cache_dir, config)
    print_audit(facts, tasks=False)
    if facts["errors"]:
        raise UserError(f"the audit fails: {facts['errors'][0]}")
    import jax

    from itx.mesh import make_mesh
    from itx.train import setup

    made = setup(config, lock, make_mesh(config.mesh))  # a mistake in the settings shows before anything is written
    batches = Batches(lock, config.data.cache_dir)
    begin.check(run, config, lock, made)
    with TrainerLock(run.path) if jax.process_index() == 0 else contextlib.nullcontext():
        notes = begin.check(run, config, lock, made)  # another trainer may have ended in between
        about = begin.write(run, config, origin, lock, args, notes)
        storage.write_json(run.audit_json, storage.sealed(facts))
        return _train_in(run, args, config, lock, facts, batches, made, about)


def _train_in(
    run: RunFolder, args: Namespace, config: configs.RunConfig, lock: dict, facts: dict, batches, made, about: dict
) -> int:
    """The stages that write into a run folder, which begins or goes on and which this process holds."""
    from itx.checkpoint import skips
    from itx.data.audit import with_uses
    from itx.eval.evaluate import evaluate
    from itx.eval.fixed import fixed_losses
    from itx.eval.retention import retention
    from itx.train import load_model
    from itx.train import train as tune

    def score(step: int, when: str) -> None:
        load = functools.cache(lambda: load_model(run, config, lock, step))
        evaluate(load, lock, config, run, step)
        fixed_losses(load, lock, config.data.cache_dir, run, step, when)
        retention(load, lock, config.data.cache_dir, run, step, when)

    if config.eval.before:
        score(0, "before")
    elif config.model.pretrained:  # what tuning may cost is known only beside what was there
        load = functools.cache(lambda: load_model(run, config, lock, 0))
        retention(load, lock, config.data.cache_dir, run, 0, "before")
        if kept := [r for r in lock["evaluation"] if r["group"] == "retention"]:
            evaluate(load, {**lock, "evaluation": kept}, config, run, 0)
    tune(config, lock, batches, run, made, about, entropy=facts["mixture"]["unigram_entropy"])
    taken = batches.order.counts(config.train.steps * lock["global_batch"])
    skipped = {step - 1 for step in skips(run.checkpoints)["skipped"]}
    trained = batches.order.distinct([t for t in range(config.train.steps) if t not in skipped]) if skipped else None
    storage.write_json(run.audit_json, storage.sealed(with_uses(facts, taken, trained)))
    score(config.train.steps, "after")
    from itx.analysis.report import report

    report(run)
    print(f"report: {run.report_html}")
    if args.json:
        storage.write_json(args.json, storage.read_json(run.report_json))
    return 0


def _train_dry_run(args: Namespace) -> int:
    """How much trains, by shapes alone. A model that is still to be downloaded is the one that the recipe names."""
    config, _ = configs.load(args.config, args.overrides, args.quick, absent=True)
    from itx.train import about_size, parts, sizes

    d, size = config.data, config.data.vocab_size
    if d.vocab == BYTES:
        size = Bytes(BYTE_EXTRA_IDS).size
    elif d.vocab and not config.model.vocab_size:
        file = next((p for p in (Path(d.vocab), Path(d.root) / d.vocab) if p.is_file()), None)
        if file is None:
            raise UserError(f"data.vocab: no file {d.vocab!r} here or under data.root={d.root!r}")
        size = Vocabulary(file).size
    size = min(size, config.model.vocab_size or size)
    shapes = parts(config, {"vocabulary": {"size": size}}).shapes
    print(about_size(*shapes))
    if args.json:
        storage.write_json(args.json, sizes(*shapes))
    return 0


def _restarting(args: Namespace) -> int:
    words = sys.argv[1:]
    at = next(i for i, w in enumerate(words) if w.startswith("--restarts"))
    words = words[:at] + words[at + (1 if "=" in words[at] else 2) :]
    command = [sys.executable, "-m", "itx.cli", *words]
    return processes.Supervisor(command, args.restarts, _run_folder(args).checkpoints).run()


def _run_folder(args: Namespace) -> RunFolder:
    return RunFolder(Path(args.run_dir) if args.run_dir else default_run(args.config, args.quick))


def build_in_subprocess(args: Namespace) -> Path:
    """Build (or find) the cache in a process of its own: the build may import SeqIO, training never does."""
    words = [sys.executable, "-m", "itx.cli", "data", "build", "--keep-damaged", args.config, *args.overrides]
    words += ["--quick"] if args.quick else []
    with processes.temporary_home() as folder:
        out = folder / "build.json"
        processes.run_child([*words, "--json", str(out)], "the build")
        return Path(storage.read_json(out)["lock"])


# ---- data ----------------------------------------------------------------------------------------


def _load(args: Namespace) -> configs.RunConfig:
    config = configs.load(args.config, args.overrides, args.quick)[0]
    metrics.trust(config.data.modules)
    return config


def data_build(args: Namespace) -> int:
    config = _load(args)
    from itx.build.build import build
    from itx.data import lock as locks
    from itx.data import said

    processes.die_with_starter()
    if args.dry_run:
        return _dry_run(config, args.json)
    started = time.monotonic()
    with processes.temporary_home():
        file, made, mended = build(config, _build_progress, args.keep_damaged)
    for line in mended:
        print(f"mended: {line}", file=sys.stderr)
    lock = locks.read(file)
    records = sum(t["examples"] for t in lock["tasks"])
    print(f"data: {len(lock['tasks'])} task variants, {records:,} training examples, "
          f"{len(lock['evaluation'])} evaluation rows, {time.monotonic() - started:.0f} s; lock {file}")  # fmt: skip
    for line in said.of_build(lock, config.data.cache_dir):
        print(f"note: {line}")
    known = sum(1 for _ in Path(config.data.cache_dir, "locks").iterdir()) > 1
    if made and known:  # not of a first build, which makes everything
        shown = ", ".join(made[:8]) + (f" and {len(made) - 8} more" if len(made) > 8 else "")
        print(f"made anew, for what shapes them had changed or was not there: {shown}")
    if args.json:
        storage.write_json(
            args.json,
            {"lock": str(file), "tasks": len(lock["tasks"]), "examples": records, "made": made, "mended": mended},
        )
    return 0


def _dry_run(config: configs.RunConfig, json_file: str | None) -> int:
    from rich.markup import escape
    from rich.table import Table

    from itx.build.build import estimate
    from itx.eval.tables import console

    found = estimate(config, _build_progress)
    table = Table(title=f"what itx data build would write for {config.data.mixture}")
    for column in ("task", "training records", "MB", "of that new", "seconds of one process"):
        table.add_column(column, justify="left" if column == "task" else "right")
    for name, t in found["tasks"].items():
        table.add_row(escape(name), f"{t['records']:,}", f"{t['bytes'] / 1e6:,.2f}", f"{t['new_bytes'] / 1e6:,.2f}",
                      f"{t['seconds']:,.1f}")  # fmt: skip
    console().print(table)
    print(f"{found['bytes'] / 1e9:,.3f} GB in all, {found['new_bytes'] / 1e9:,.3f} GB of them new, about "
          f"{found['seconds']:,.0f} s with {found['workers']} processes; first renderings only")  # fmt: skip
    if json_file:
        storage.write_json(json_file, found)
    return 0


def _build_progress(what: str, done: int, of: int) -> None:
    if sys.stderr.isatty():
        print(f"\rbuild: {what} {done}/{of}   ", end="\n" if done == of else "", file=sys.stderr, flush=True)
    elif done == of:
        print(f"build: {what} {done}/{of}", file=sys.stderr)


def _locked(args: Namespace):
    """(config, lock, vocabulary) of a config's data, built where it is not."""
    config = _load(args)
    from itx.data import lock as locks

    lock = locks.read(build_in_subprocess(args))
    verify.of_lock(lock, config.data.cache_dir)
    return config, lock, Vocabulary(Path(config.data.cache_dir) / lock["vocabulary"]["file"])


def data_audit(args: Namespace) -> int:
    config, lock, _ = _locked(args)
    from itx.data.audit import audit, print_audit, with_uses
    from itx.data.loader import Batches

    taken = Batches(lock, config.data.cache_dir).order.counts(config.train.steps * lock["global_batch"])
    facts = with_uses(audit(lock, config.data.cache_dir, config), taken)
    print_audit(facts)
    if args.json:
        storage.write_json(args.json, facts)
    return 1 if facts.get("errors") else 0


def marked(vocabulary, tokens, weights) -> str:
    """Text of a segment, the tokens under the loss between ⟦ ⟧."""
    out, run = [], []
    flags = [bool(w > 0) for w in weights]
    for i, token in enumerate(tokens):
        run.append(int(token))
        if i + 1 == len(tokens) or flags[i + 1] != flags[i]:
            ended = run[-1] == vocabulary.eos_id
            words = vocabulary.decode(run[:-1] if ended else run) + ("⟨eos⟩" if ended else "")
            out.append(f"⟦{words}⟧" if flags[i] else words)
            run = []
    return (" " if vocabulary.spaced else "").join(out)


def data_show(args: Namespace) -> int:
    config, lock, vocabulary = _locked(args)
    from itx.data.loader import Batches

    batches = Batches(lock, config.data.cache_dir)
    names = [t["name"] for t in lock["tasks"]]
    if args.task and args.task not in names:
        raise UserError(f"--task {args.task!r} is not in the mixture" + did_you_mean(args.task, names))
    out = []
    for i, name in enumerate(names):
        if args.task in (None, name):
            for record in batches.data.usable[i][0][: args.examples]:
                prompt, target, weight = batches.segment(i, int(record), 0)
                text = marked(vocabulary, [*prompt, *target], [*(0 * prompt), *weight])
                out.append({"task": name, "record": int(record), "text": text, "loss_tokens": len(target)})
                print(f"--- {name}, record {record}: {len(prompt)} + {len(target)} tokens\n{visible(text)}")
    if args.json:
        storage.write_json(args.json, out)
    return 0


def data_batch(args: Namespace) -> int:
    config, lock, vocabulary = _locked(args)
    import numpy as np

    from itx.data.loader import Batches

    batches = Batches(lock, config.data.cache_dir)
    batch = batches.batch(args.step)
    size = lock["global_batch"]
    filled = float((batch["decoder_segment_ids"] > 0).mean())
    print(f"step {args.step}: {size} rows, {filled:.1%} of decoder places filled, "
          f"{int((batch['decoder_loss_weights'] > 0).sum())} loss tokens; data {lock_hash(lock)}")  # fmt: skip
    out = []
    for b in range(min(args.rows, size)):
        segments = []
        for s, (task, record, rendering) in enumerate(batches.order.row(args.step * size + b), 1):
            at = batch["decoder_segment_ids"][b] == s
            if lock["bos_id"] < 0:  # its first token has a place that takes part in nothing
                at[np.flatnonzero(at)[0] - 1] = True
            tokens, weights = batch["decoder_target_tokens"][b][at], batch["decoder_loss_weights"][b][at]
            text = marked(vocabulary, tokens, weights)
            if "encoder_input_tokens" in batch:
                inside = batch["encoder_segment_ids"][b] == s
                text = vocabulary.decode(batch["encoder_input_tokens"][b][inside]) + " → " + text
            segments.append(
                {"task": lock["tasks"][task]["name"], "record": record, "rendering": rendering, "text": text}
            )
        print(f"--- row {b}")
        for s in segments:
            print(f"[{s['task']} {s['record']}#{s['rendering']}] {visible(s['text'])}")
        out.append(segments)
    if args.json:
        arrays = {k: v.tolist() for k, v in batch.items()}
        storage.write_json(args.json, {"step": args.step, "rows": out, "batch": arrays})
    return 0


def lock_hash(lock: dict) -> str:
    from itx.data import lock as locks

    return locks.shape_hash(lock)


# ---- eval, generate --------------------------------------------------------------------------------


def _run_config(run: RunFolder, **evaluation) -> configs.RunConfig:
    """The config a run folder holds, with evaluation settings replaced."""
    config = run_config(run)
    given = {k: v for k, v in evaluation.items() if v is not None}
    return dataclasses.replace(config, eval=dataclasses.replace(config.eval, **given))


def _step(run: RunFolder, given: int | None) -> int:
    """The step asked for, or the newest checkpoint's; 0 is the model before tuning."""
    steps = run.steps()
    if given is None and not steps:
        raise UserError(f"{run.path} has no checkpoint yet; --step 0 asks the model before tuning")
    if given is None:
        return steps[-1]
    if given and given not in steps:
        near = sorted(sorted([0, *steps], key=lambda step: abs(step - given))[:3])
        raise UserError(f"--step {given}: {run.path} has no checkpoint of that step; the nearest: "
                        + ", ".join(f"{step} (before tuning)" if step == 0 else str(step) for step in near))  # fmt: skip
    return given


def evaluate_run(args: Namespace) -> int:
    metrics.trust(args.modules.split(","))
    run = open_run(args.run)
    config = _run_config(run, max_examples=args.max_examples)
    if args.cache_dir:
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, cache_dir=args.cache_dir))
    from itx.eval.evaluate import evaluate
    from itx.eval.tables import print_scores

    lock = read_lock(run)
    if not Path(config.data.cache_dir).is_dir():
        raise UserError(f"no folder {config.data.cache_dir!r}, where the run's data are; give --cache_dir")
    if args.shots is not None or args.split is not None:
        return _evaluate_settings(args, run, config, lock)
    if args.tasks:
        wanted = args.tasks.split(",")
        known = {n for r in lock["evaluation"] for n in (r["name"], r["task"])}
        for name in wanted:
            if name not in known:
                raise UserError(f"--tasks: no evaluation row {name!r} in this run" + did_you_mean(name, known))
        lock["evaluation"] = [r for r in lock["evaluation"] if {r["name"], r["task"]} & set(wanted)]
    out = {}
    for folder, step, load in _evaluated(args, run, config, lock):
        out[folder] = evaluate(load, lock, config, run, step)
        print_scores(out[folder])
    if args.json:
        storage.write_json(args.json, out if args.adapter else out[""])
    return 0


def _evaluated(
    args: Namespace, run: RunFolder, config: configs.RunConfig, lock: dict
) -> list[tuple[str, int | str, Callable]]:
    """(an adapter's folder, the step that its scores stand under, what loads its model) of each `--adapter`, over one
    base that is loaded once: the run's model, or the base of an adapter's run. Without any the run's own, as ""."""
    from itx import peft
    from itx.train import load_model, vocab_rows, with_adapter

    own = config.peft.method != "full"
    if args.adapter and args.step and own:
        raise UserError(
            f"--step {args.step} with --adapter: {run.path} trains an adapter itself ({config.peft.method}), and its "
            "base, which is what is scored with another one, is the same at every step; leave --step out"
        )
    step = 0 if args.adapter and own else _step(run, args.step)
    base = functools.cache(lambda: load_model(run, config, lock, step))
    if not args.adapter:
        return [("", step, base)]
    out = []
    for folder in dict.fromkeys(args.adapter):
        # a mistake shows before anything is built or asked
        for left, n in peft.read(folder, config.model, vocab_rows(config, lock)).left_out.items():
            print(
                f"itx: {visible(str(folder))}: left out, for text passes through no part that sees images: {n} × {left}",
                file=sys.stderr,
            )
        name = f"{Path(folder).name}-{peft.key(folder)}-{step}"
        out.append((folder, name, functools.cache(lambda folder=folder: with_adapter(base(), folder))))
    return out


def _evaluate_settings(args: Namespace, run: RunFolder, config: configs.RunConfig, lock: dict) -> int:
    """`--shots`, `--split`: each number of exemplars is a setting with a folder of its own below the run's scores."""
    from itx.eval.evaluate import evaluate
    from itx.eval.tables import print_settings

    splits, split = ("validation", "test"), args.split or config.eval.split
    if split not in splits:
        raise UserError(f"--split {split!r}: no split that is evaluated" + did_you_mean(split, splits))
    words = args.shots.split(",") if args.shots is not None else []
    for word in words:
        if not word.isascii() or not word.isdigit() or len(word) > 2:
            raise UserError(f"--shots {args.shots}: {word!r} is not a number of exemplars from 0 to 99")
    evaluated = _evaluated(args, run, config, lock)
    config = dataclasses.replace(config, eval=dataclasses.replace(config.eval, split=split))
    answer = _further_in_subprocess({
        "config": configs.to_dict(config), "vocab": str(run.vocab_model), "evaluation": lock["evaluation"],
        "trained": [t["name"] for t in lock["tasks"]], "tasks": args.tasks.split(",") if args.tasks else [],
        "split": split, "shots": list(dict.fromkeys(map(int, words))),
    })  # fmt: skip
    for x in answer["skipped"]:
        print(f"not evaluated: {x['row']} ({x['reason']})")
    known, test = _trained_on(lock, config, [r for rows in answer["settings"].values() for r in rows])
    out = {}
    for folder, step, load in evaluated:
        settings = {}
        for shots, rows in answer["settings"].items():
            if rows:
                place = dataclasses.replace(run, setting=split if shots == "own" else f"{split}-{shots}shots")
                rows = [{**r, "trained_on": known.get(r["name"])} for r in rows]
                settings[shots] = evaluate(
                    load, {**lock, "evaluation": rows, "contamination": test}, config, place, step
                )
        print_settings(settings, split)
        out[folder] = {"step": step, "split": split, "settings": settings, "skipped": answer["skipped"]}
    if args.json:
        storage.write_json(args.json, out if args.adapter else out[""])
    return 0


def _trained_on(lock: dict, config: configs.RunConfig, rows: list[dict]) -> tuple[dict[str, float], dict[str, str]]:
    """(of each row that the lock does not know the share of its scored examples that was trained on, {"tested_for",
    "untested": why that cannot be told, or ""})."""
    from itx.data import contamination

    try:
        shares = contamination.trained_on(lock, config.data.cache_dir, rows, config.eval.max_examples)
    except contamination.Untestable as e:
        return {}, {"tested_for": "", "untested": str(e)}
    return shares, {"tested_for": contamination.TESTED, "untested": ""}


def _further_in_subprocess(request: dict) -> dict:
    """Rows that the run's lock does not have, from a build process (itx/build/further.py)."""
    with processes.temporary_home() as folder:
        asked, answer = folder / "request.json", folder / "answer.json"
        storage.write_json(asked, request)
        command = [sys.executable, "-m", "itx.build.further", str(asked), str(answer)]
        processes.run_child(command, "the build of further rows")
        return storage.read_json(answer)


def generate(args: Namespace) -> int:
    if args.prompt and args.prompts:
        raise UserError("--prompt or --prompts, not both")
    for name in ("max_new_tokens", "context"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise UserError(f"--{name} {getattr(args, name)}: must be at least 1")
    run = open_run(args.run)
    config = run_config(run)
    from itx.eval import terminal
    from itx.eval.sampling import Sampling
    from itx.train import load_model

    how = Sampling(**{f.name: getattr(args, f.name) for f in dataclasses.fields(Sampling)})
    lock = read_lock(run)
    template = "" if args.raw else lock.get("chat", "")
    if args.system and not template:
        raise UserError("--system: " + ("with --raw" if args.raw else "this run was not trained on conversations, and")
                        + " a prompt is asked as it is")  # fmt: skip
    asked = [[terminal.message(terminal.unescaped(p), "--prompt")] for p in args.prompt or ()]
    asked = terminal.read_prompts(args.prompts) if args.prompts else asked
    head = [terminal.message(args.system, "--system", "system")] if args.system else []
    runner = load_model(run, config, lock, _step(run, args.step))
    runner = dataclasses.replace(runner, context=args.context or config.data.sequence_length)
    stop = tuple(map(terminal.unescaped, args.stop or ()))
    ready = terminal.Run(runner, verify.vocabulary_of_run(run, lock), template, args.max_new_tokens, how, stop)
    if asked:
        out = terminal.several(ready, [m if m[0]["role"] == "system" else [*head, *m] for m in asked])
    else:
        out = terminal.converse(ready, args.system)
    if args.json:
        storage.write_json(args.json, out)
    return 0


# ---- convert ---------------------------------------------------------------------------------------


def convert_import(args: Namespace) -> int:
    from itx.models import pretrained

    found = pretrained.import_to(args.hf_dir, args.out)
    left_out = ", ".join(f"{n} × {name}" for name, n in found["left_out"].items())
    print(f"{found['family']}: {found['parameters']:,} parameters, {found['dtype']} there, to {found['folder']}"
          + (f"; left out: {left_out}" if left_out else "")
          + (f"; passed over in its config.json: {visible(', '.join(found['passed_over']))}" if found["passed_over"] else ""))  # fmt: skip
    if args.json:
        storage.write_json(args.json, found)
    return 0


def convert_export(args: Namespace) -> int:
    from itx.models import pretrained

    if not 0 < args.shard_gb < math.inf:
        raise UserError(f"--shard_gb {args.shard_gb}: must be above 0")
    if pretrained.has_adapter(args.run) and not args.merge:
        if args.dtype:
            raise UserError(
                "--dtype: an adapter is written as it was trained, in float32; with --merge it is the model's"
            )
        from itx import peft

        found = pretrained.export_adapter(args.run, args.out_dir)
        print(f"{found['method']}: {found['parameters']:,} parameters of step {found['step']} over {found['base']}, "
              f"to {found['folder']}: {', '.join(found['files'])}")  # fmt: skip
        config = run_config(pretrained.find(args.run).run)
        found["same_in_peft"] = same = peft.same_in_peft(config.model, config.peft)
        if same is not None:
            print(f"beyond {same:,} tokens of prompt and answer it computes something else in PEFT: there the window of "
                  f"{config.model.sliding_window:,} tokens hides virtual tokens, here they are always seen")  # fmt: skip
        if args.json:
            storage.write_json(args.json, found)
        return 0
    found = pretrained.export(args.run, args.out_dir, args.dtype, int(args.shard_gb * 1e9))
    print(f"{found['family']}: {found['parameters']:,} parameters of step {found['step']} as {found['dtype']}, "
          f"to {found['folder']}: {', '.join(found['files'])}")  # fmt: skip
    if args.json:
        storage.write_json(args.json, found)
    return 0


# ---- runs ------------------------------------------------------------------------------------------


def runs_check(args: Namespace) -> int:
    from rich.markup import escape
    from rich.table import Table

    from itx import run_check
    from itx.eval.tables import console

    run = open_run(args.run)
    rows = run_check.check(run)
    table = Table(title=f"what {visible(args.run)} holds")
    for column in ("file", "state", ""):
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(escape(visible(row[key])) for key in ("file", "state", "what")))
    console().print(table)
    damaged = [row["file"] for row in rows if row["state"] == run_check.DAMAGED]
    print(f"{len(damaged)} of {len(rows)} damaged" + (f": {visible(', '.join(damaged))}" if damaged else ""))
    if args.json:
        storage.write_json(args.json, {"run": args.run, "damaged": len(damaged), "files": rows})
    return 1 if damaged else 0


# ---- tasks -----------------------------------------------------------------------------------------


def _registered(args: Namespace):
    from itx.tasks import registry

    registry.load_modules(args.modules.split(","))
    return registry


def tasks_ls(args: Namespace) -> int:
    registry = _registered(args)
    rows = [
        {"task": t.name, "cluster": t.cluster, "version": t.version, "templates": len(t.templates),
         "heldout_templates": len(t.heldout_templates), "metrics": [str(m) for m in t.metrics],
         "cot": t.cot is not None, "inverted": bool(t.inverted), "evaluation_only": t.evaluation_only,
         "language": t.tags.get("language", "")}
        for t in _all_tasks(registry, args.root) if not args.name or args.name in (t.name, t.cluster)
    ]  # fmt: skip
    if args.name and not rows:
        raise UserError(f"no task or cluster {args.name!r}" + did_you_mean(args.name, registry.TASKS))
    for r in sorted(rows, key=lambda r: (r["cluster"], r["task"])):
        marks = [k for k in ("cot", "inverted", "evaluation_only") if r[k]]
        print(f"{r['cluster']:<20} {r['task']:<28} v{r['version']}  {r['templates']}+{r['heldout_templates']} templates  "
              f"{','.join(r['metrics'])}  {r['language']} {' '.join(marks)}".rstrip())  # fmt: skip
    mixtures = [{"mixture": m, "members": "holdout" if hasattr(s.members, "clusters") else len(s.members)}
                for m, s in sorted(registry.MIXTURES.items())]  # fmt: skip
    for m in [] if args.name else mixtures:
        print(f"mixture              {m['mixture']:<28} {m['members']}")
    for f in [] if args.root or args.name else sorted(registry.FAMILIES):
        print(f"family               {f}.*  (its members need --root)")
    if args.json:
        storage.write_json(args.json, {"tasks": rows, "mixtures": mixtures})
    return 0


def _all_tasks(registry, root: str) -> list:
    members = (
        [registry.task(n, root) for f in registry.FAMILIES for n in registry.expand(f"{f}.*", root)] if root else []
    )
    return [*registry.TASKS.values(), *members]


def tasks_show(args: Namespace) -> int:
    registry = _registered(args)
    if args.name in registry.MIXTURES:
        return _show_mixture(registry, args)
    from itx.build import check

    facts = check.show(registry.task(args.name, args.root), args.name, args.root)
    for key, value in facts["task"].items():
        print(f"{key:<12} {visible(str(value))}")
    for r in facts["renderings"]:
        print(f"--- {r['template']} ({r['kind']})\n{visible(r['prompt'])}\n⟦{visible(r['target'])}⟧")
    if args.json:
        storage.write_json(args.json, facts)
    return 0


def _show_mixture(registry, args: Namespace) -> int:
    spec = registry.MIXTURES[args.name]
    facts = {"mixture": args.name, "members": registry.members(spec, args.root),
             "held out": dict(registry.removed(spec, args.root)),
             "left out": dict(registry.left_out(spec, args.root))}  # fmt: skip
    for name, share in facts["members"].items():
        print(f"{name:<32} {'' if share is None else share}")
    for how in ("held out", "left out"):
        for name, why in facts[how].items():
            print(f"{how}: {name:<22} {why}")
    if args.json:
        storage.write_json(args.json, facts)
    return 0


def tasks_check(args: Namespace) -> int:
    registry = _registered(args)
    from itx.build import check, download, repeat

    specs = [registry.task(args.name, args.root)] if args.name else _all_tasks(registry, args.root)
    rows = []
    with repeat.other_processes(tuple(args.modules.split(",")), args.root, check.read) as others:
        for spec in specs:
            absent = download.missing(spec)
            if absent and args.download:
                download.prepare(spec.source.options["name"])
            skipped = ""
            if absent and not args.download and not args.name:
                skipped = "its TFDS set is not prepared: --download does that"
            elif not args.root and not args.name and getattr(spec.source, "kind", "") != "tfds":
                skipped = "its files need --root" if getattr(spec.source, "files", None) else ""
            rows.append({"task": spec.name, "problems": [] if skipped else check.check(spec, args.root, others)})
            rows[-1] |= {"skipped": skipped} if skipped else {}
            found = rows[-1]
            word = "skip" if found.get("skipped") else "FAIL" if found["problems"] else "ok  "
            print(f"{word} {spec.name}" + "".join(f"\n     {p}" for p in found["problems"]))
    if args.json:
        storage.write_json(args.json, rows)
    return 1 if any(r["problems"] for r in rows) else 0


COMMANDS = {
    ("runs", "check"): runs_check,
    ("train", None): train,
    ("data", "build"): data_build,
    ("data", "audit"): data_audit,
    ("data", "show"): data_show,
    ("data", "batch"): data_batch,
    ("tasks", "ls"): tasks_ls,
    ("tasks", "show"): tasks_show,
    ("tasks", "check"): tasks_check,
    ("eval", None): evaluate_run,
    ("generate", None): generate,
    ("convert", "import"): convert_import,
    ("convert", "export"): convert_export,
}
