# SPDX-License-Identifier: Apache-2.0
"""Tasks that a user registered straight in SeqIO (T5 or FLAN style): one rendering, their own
tokens, their own scores.

Task ──► get_dataset, neither shuffled nor trimmed ──► a cache folder per split
     ──► metric_fns and postprocess_fn, by name    ──► an evaluation row (itx/eval/foreign.py calls
                                                       them)
"""

import dataclasses
import hashlib
import itertools
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import seqio

from itx import hashing, text
from itx.config import RunConfig
from itx.data import cache
from itx.data.types import Manifest
from itx.data.vocabulary import Vocabulary
from itx.errors import UserError
from itx.eval import metrics
from itx.leaks import loose
from itx.prepare import evaluation, exclude, hits, jobs, notes, render, seqio_bridge
from itx.prepare.jobs import CHUNK, SAMPLE, Made
from itx.prepare.types import Item, Job, Plan, Rendered, Row, Settings
from itx.prepare.workers import Progress
from itx.tasks import registry
from itx.tasks.spec import TaskSpec

Example = tuple[int, cache.Record, dict]  # content hash, record, what examples.jsonl.gz says of it


def plan_of(config: RunConfig, mend: hits.Mend) -> Plan:
    """The plan of a Task or Mixture that `data.modules` registered straight in SeqIO; eval.tasks
    may name such ones and our own."""
    for name in ("patches", "rate_factors", "added"):
        if getattr(config.data, name):
            raise UserError(
                f"data.{name}: {config.data.mixture!r} is SeqIO's own; they go with itx's mixtures "
                "and tasks"
            )
    split = config.eval.split
    rates = seqio_bridge.rates(seqio_bridge.find(config.data.mixture))
    trained = {name: seqio_bridge.find(name) for name in rates}
    further: dict[str, seqio.Task] = {}
    ours = []
    for name in config.eval.tasks:
        if name in seqio_bridge.known():
            further |= {t.name: t for t in seqio_bridge.tasks_of(seqio_bridge.find(name))}
        else:
            ours.append(name)
    file = vocabulary_of(trained | further, config.data.cache_dir, mend)
    rows, unscored = _rows(trained, split, "", "instances", "same task")
    for name, task in further.items():
        relation = "same task" if name in trained else "none"
        more, without = _rows({name: task}, split, "@eval", "extra", relation)
        rows, unscored = rows + more, unscored + without
    if config.eval.every:
        rows += _rows(trained, evaluation.DEV_SPLIT, "", evaluation.DEV, "same task")[0]
    # dev rows are those of what is trained on, which is SeqIO's alone
    ours_alone = dataclasses.replace(config.eval, tasks=tuple(ours), every=0, keep_best=False)
    own = dataclasses.replace(config, eval=ours_alone)
    rows += evaluation.rows(own, []) + evaluation.texts(config, [])
    settings = jobs.settings_of(config, file)
    every = trained | further
    return Plan(config, settings, Vocabulary(file), list(trained), rows, unscored, every, rates)


def vocabulary_of(tasks: Mapping[str, seqio.Task], cache_dir: str, mend: hits.Mend) -> str:
    """The one vocabulary that SeqIO tasks share, as a file."""
    vocabularies = {}
    for name, task in tasks.items():
        features = task.output_features
        if "targets" not in features:
            known = ", ".join(sorted(features))
            raise UserError(f"task {name!r} has no feature 'targets', only {known}")
        for feature in ("inputs", "targets"):
            if feature in features:
                vocabularies[name, feature] = features[feature].vocabulary
    (first_name, _), first = next(iter(vocabularies.items()))
    for (name, feature), vocabulary in vocabularies.items():
        if vocabulary != first:
            raise UserError(
                f"tasks {first_name!r} and {name!r} have different vocabularies ({feature} of "
                f"{name!r})"
            )
    file = seqio_bridge.kept(first, cache_dir, mend)
    if file is None:
        raise UserError(
            f"task {first_name!r}: its vocabulary is {type(first).__name__}, not SentencePiece, "
            "bytes or a tokenizer.json"
        )
    return str(file)


# ---- evaluation


def _rows(
    tasks: Mapping[str, seqio.Task], split: str, suffix: str, group: str, relation: str
) -> tuple[list[Row], list[str]]:
    """(evaluation rows of tasks, those that have none with the reason): as SeqIO's Evaluator, which
    needs metric_fns."""
    rows, without = [], []
    for name, task in tasks.items():
        if not task.metric_objs or part_of(task, split) is None:
            why = evaluation.no_split(split, task.splits) if task.metric_objs else "no metric_fns"
            without.append(f"{name}{suffix} ({why})")
            continue
        scores, postprocess = _scoring(task)
        spec = TaskSpec(name, 1, "seqio", source=None, fields=dict, templates=(), metrics=scores)
        seqio_row = {"postprocess": postprocess}
        rows.append(Row(f"{name}{suffix}", group, relation, Job(name, split), spec, seqio_row))
    return rows, without


def _scoring(task: seqio.Task) -> tuple[tuple[str, ...], str]:
    """(names of a Task's metric functions, name of its postprocess_fn or "")."""
    where = f"task {task.name!r}"
    if len(task.metric_objs) > len(task.metric_fns):
        raise UserError(
            f"{where}: metric_objs need SeqIO, which scoring does without; give metric_fns"
        )
    if task.predict_with_aux_metric_fns:
        raise UserError(
            f"{where}: a metric of (targets, predictions, aux_values); there are no aux_values"
        )
    postprocess = task._postprocess_fn  # SeqIO has no public way to it
    try:
        scores = tuple(metrics.name_of(m) for m in task.metric_fns)
        return scores, metrics.name_of(postprocess) if postprocess else ""
    except UserError as e:
        raise UserError(f"{where}: {e}") from e


def tried(plan: Plan, made: Mapping[Job, Made]) -> Plan:
    """The plan with a scale of scores for SeqIO's rows, whose functions are called once on right
    answers where neither SeqIO nor TensorFlow can be imported."""
    rows = [r for r in plan.rows if r.seqio]
    questions = [
        [
            {"task": r.spec.name, "metrics": r.spec.metrics, "seqio": r.seqio},
            str(Path(plan.config.data.cache_dir) / made[r.job][0]),
        ]
        for r in rows
    ]
    done = subprocess.run(
        [sys.executable, "-m", "itx.eval.foreign"],
        input=json.dumps(questions),
        text=True,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    if done.returncode:
        raise RuntimeError(
            f"the process that tries metric_fns ended with exit code {done.returncode}"
        )
    answer = json.loads(done.stdout.splitlines()[-1])  # the functions may print
    if "error" in answer:
        raise UserError(answer["error"])
    scaled = [
        dataclasses.replace(r, seqio={**r.seqio, "scale": scale})
        for r, scale in zip(rows, answer["scales"], strict=True)
    ]
    return dataclasses.replace(plan, rows=[*scaled, *(r for r in plan.rows if not r.seqio)])


def part_of(task: seqio.Task, split: str) -> str | None:
    """SeqIO's split of a Task that is a split of ours, whole; None: there is none. A lone
    evaluation split is test, as with our own tasks (`sources.source_splits`)."""
    if set(task.splits) in ({"validation"}, {"test"}):
        return next(iter(task.splits)) if split == "test" else None
    return split if split in task.splits else None


# ---- `itx tasks ls | check`

CHECKED_EXAMPLES = 20


def own_tasks() -> dict[str, seqio.Task]:
    """The Tasks that a user's modules registered straight in SeqIO, by name."""
    names = sorted(set(seqio.TaskRegistry.names()) - registry.TASKS.keys())
    return {name: seqio.TaskRegistry.get(name) for name in names}


def own_mixtures() -> dict[str, int]:
    """{Mixture that a user's modules registered straight in SeqIO: how many tasks it has}."""
    names = sorted(set(seqio.MixtureRegistry.names()) - registry.MIXTURES.keys())
    return {n: len(seqio_bridge.tasks_of(seqio.MixtureRegistry.get(n))) for n in names}


def scores_of(task: seqio.Task) -> list[str]:
    """The names of a Task's metric functions as far as they have one."""
    return [getattr(m, "__name__", type(m).__name__) for m in task.metric_fns]


def problems(task: seqio.Task) -> list[str]:
    """What keeps a Task from being built or scored: of each split the first examples are read."""
    found = []
    if "targets" not in task.output_features:
        known = ", ".join(sorted(task.output_features))
        return [f"it has no feature 'targets', only {known}"]
    kind = task.output_features["targets"].vocabulary
    if not isinstance(kind, seqio_bridge.VOCABULARIES):
        found.append(f"its vocabulary is {type(kind).__name__}, which is not read here")
    if "train" not in task.splits:
        found.append(f"it has no train split, only {', '.join(task.splits)}")
    try:
        _scoring(task)
    except UserError as e:
        found.append(str(e))
    for split in task.splits:
        try:
            first = list(itertools.islice(_dataset(task, split, 0), CHECKED_EXAMPLES))
        except UserError as e:  # the user's functions may say several lines
            found.append(" ".join(str(e).split()))
            continue
        targets = [np.asarray(e.get("targets", ())) for e in first]
        if not any(t.size for t in targets):
            found.append(f"its {split} split has no target in its first {len(first)} examples")
    return found


# ---- a cache folder


def make_all(plan: Plan, mend: hits.Mend, progress: Progress) -> tuple[dict[Job, Made], set[str]]:
    """(folder, manifest) of each job of SeqIO's tasks, and the tasks of which a folder was made."""
    todo = [job for job in plan.jobs if job.variant in plan.seqio]
    made, new = {}, set()
    for i, job in enumerate(todo):
        progress("cache", i, len(todo))
        task = plan.seqio[job.variant]
        *made[job], fresh = build(task, job.split, plan.settings, plan.vocabulary, mend)
        new |= {job.variant} if fresh else set()
    progress("cache", len(todo), len(todo))
    return made, new


def build(
    task: seqio.Task, split: str, settings: Settings, vocabulary: Vocabulary, mend: hits.Mend
) -> tuple[str, Manifest, bool]:
    """Cache one split: (relative folder, manifest, whether it was made now). Its content is its
    key: SeqIO has no other."""
    counts: Counter = Counter()
    trained = split == "train"
    setting, most = jobs.most_of(not trained, settings)
    examples: Iterator[Example] = _examples(task, split, settings, vocabulary, counts)
    if most is not None:  # the first by content hash, as with our own tasks
        in_order = sorted(examples, key=lambda e: e[0])
        counts[f"beyond {setting}"] += max(0, len(in_order) - most)
        examples = iter(in_order[:most])
    versions = f"{render.RENDER_VERSION}.{loose.LOOSE_VERSION}"
    head = "\x1f".join([task.name, split, vocabulary.hash, versions])
    digest = hashlib.blake2b(head.encode(), digest_size=8)
    noted = notes.Notes(vocabulary)
    parts, sample, texts, n, inputs = [], [], [], 0, set()
    while chunk := list(itertools.islice(examples, CHUNK)):
        digest.update(json.dumps([e[1:] for e in chunk]).encode())
        hashes, records, lines = map(list, zip(*chunk, strict=True))
        parts.append(cache.Columns.of(records, hashes, [0] * len(chunk), vocabulary.size))
        sample += lines[: max(0, SAMPLE - n)] if trained else lines
        inputs |= {hashing.draw(e["prompt"].strip() or e["target"].strip()) for e in lines}
        if trained:
            texts += [exclude.texts(e["prompt"] or e["target"], e["target"]) for e in lines]
        n += len(chunk)
        for e, record in zip(lines, records, strict=True):
            noted.texts((e["prompt"], e["target"]))
            if noted.decoded < notes.DRAWN:
                noted.decode([(e["target"], record[-1][0])])
    facts = noted.facts()
    columns = cache.Columns.joined(parts or [cache.Columns.of([], [], [], vocabulary.size)])
    digest.update(json.dumps([sorted(counts.items()), facts]).encode())  # the manifest tells them
    key = digest.hexdigest()
    folder = f"{cache.folder_name(task.name)}/{split}/r0-{key}"
    path = Path(settings.data.cache_dir) / folder
    hits.check([(task.name, folder, None)], settings.data.cache_dir, vocabulary.size, mend)
    fresh = not path.is_dir()
    if fresh:
        manifest = {
            "task": task.name,
            "variant": task.name,
            "split": split,
            "rendering": 0,
            "key": key,
            "vocabulary": vocabulary.hash,
            "cluster": "seqio",
            "origin": [],
            "templates": [""],
            "examples": n,
            "audit": jobs.audit(counts, n),
            "repeated": n - len(inputs),
            **facts,
            **columns.counts(vocabulary.unk_id, vocabulary.eos_id, settings.architecture),
        }
        cache.write(path, columns, manifest, sample, texts)
    return folder, cache.read_manifest(path), fresh


def _examples(
    task: seqio.Task, split: str, settings: Settings, vocabulary: Vocabulary, counts: Counter
) -> Iterator[Example]:
    """Every example of a Task's split in its own order. Without a feature `inputs`, the target is
    its content."""
    eos = vocabulary.eos_id
    theirs = part_of(task, split) or split
    for i, example in enumerate(_dataset(task, theirs, settings.data.render_seed)):
        counts["read"] += 1
        prompt, target = (np.asarray(example.get(k, ())).tolist() for k in ("inputs", "targets"))
        target = target[:-1] if target[-1:] == [eos] else target  # the layout puts it there
        if settings.architecture == "encoder_decoder" and prompt[-1:] == [eos]:
            prompt = prompt[:-1]
        if not target:
            counts["empty target"] += 1
            continue
        question = _text(example, "inputs", prompt, vocabulary)
        answer = _text(example, "targets", target, vocabulary)
        content = text.normalise(question if prompt else answer)
        item = Item(str(i), {}, content, hashing.draw("content", content))
        line = jobs.line_of(item, Rendered("", question, answer, (answer,)))
        if split != "train" and task._postprocess_fn:
            arrays = _arrays(example).items()
            line["example"] = {k: [v.dtype.name, _plain(v.tolist())] for k, v in arrays}
        yield item.hash, [(prompt, False), (target, True)], line


def _dataset(task: seqio.Task, split: str, seed: int) -> Iterator[dict[str, Any]]:
    if split not in task.splits:
        raise UserError(f"task {task.name!r} has no {split} split, only {', '.join(task.splits)}")
    try:
        yield from task.get_dataset(None, split, shuffle=False, seed=seed).as_numpy_iterator()
    # The user's source and preprocessors may raise anything: they are told whose it was.
    except Exception as e:
        raise UserError(
            f"task {task.name!r}: its {split} split cannot be read: {type(e).__name__}: {e}"
        ) from e


def _text(example: dict, feature: str, ids: list[int], vocabulary: Vocabulary) -> str:
    """What SeqIO's own evaluation takes for the text: the one before tokenising where the Task
    keeps it."""
    written = example.get(f"{feature}_pretokenized")
    return written.decode() if isinstance(written, bytes) else vocabulary.decode(ids)


def _arrays(example: dict[str, Any]) -> dict[str, np.ndarray]:
    """The features that a postprocess_fn may read, ragged ones aside."""
    return {
        k: np.asarray(v, object if isinstance(v, bytes) else None)
        for k, v in example.items()
        if isinstance(v, (bytes, np.ndarray, np.generic))
    }


def _plain(value: Any) -> Any:
    """Bytes as text of the same code points, in lists of any depth; itx/eval/foreign.py has the way
    back."""
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return value.decode("latin-1") if isinstance(value, bytes) else value
