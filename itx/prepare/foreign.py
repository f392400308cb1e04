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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from itx import hashing, text
from itx.data import cache
from itx.data.vocabulary import Vocabulary
from itx.errors import UserError
from itx.eval import metrics
from itx.leaks import loose
from itx.prepare import evaluation, exclude, hits, notes, render
from itx.prepare.evaluation import Row
from itx.prepare.jobs import CHUNK, SAMPLE, Job, Settings
from itx.tasks.spec import TaskSpec

Example = tuple[int, cache.Record, dict]  # content hash, record, what examples.jsonl.gz says of it


def vocabulary_of(tasks: dict[str, Any], cache_dir: str, mend: hits.Mend) -> str:
    """The one vocabulary that SeqIO tasks share, as a file."""
    from itx.prepare import seqio_bridge

    found = {}
    for name, task in tasks.items():
        if "targets" not in task.output_features:
            raise UserError(
                f"task {name!r} has no feature 'targets', only {', '.join(sorted(task.output_features))}"
            )
        for feature in ("inputs", "targets"):
            if feature in task.output_features:
                found[name, feature] = task.output_features[feature].vocabulary
    (first_name, _), first = next(iter(found.items()))
    for (name, feature), v in found.items():
        if v != first:
            raise UserError(
                f"tasks {first_name!r} and {name!r} have different vocabularies ({feature} of {name!r})"
            )
    file = seqio_bridge.kept(first, cache_dir, mend)
    if file is None:
        raise UserError(
            f"task {first_name!r}: its vocabulary is {type(first).__name__}, not SentencePiece, bytes or a tokenizer.json"
        )
    return str(file)


# ---- evaluation
# ------------------------------------------------------------------------------------


def rows(
    tasks: list[Any], split: str, suffix: str, group: str, relation: str
) -> tuple[list[Row], list[str]]:
    """(evaluation rows of tasks, those that have none with the reason): as SeqIO's Evaluator, which
    needs metric_fns."""
    found, without = [], []
    for task in tasks:
        if not task.metric_objs or part_of(task, split) is None:
            why = evaluation.no_split(split, task.splits) if task.metric_objs else "no metric_fns"
            without.append(f"{task.name}{suffix} ({why})")
            continue
        names, postprocess = _scoring(task)
        spec = TaskSpec(
            task.name, 1, "seqio", source=None, fields=dict, templates=(), metrics=names
        )
        row = Row(
            f"{task.name}{suffix}",
            group,
            relation,
            Job(task.name, split),
            spec,
            {"postprocess": postprocess},
        )
        found.append(row)
    return found, without


def _scoring(task: Any) -> tuple[tuple[str, ...], str]:
    """(names of a Task's metric functions, name of its postprocess_fn or "")."""
    if len(task.metric_objs) > len(task.metric_fns):
        raise UserError(
            f"task {task.name!r}: metric_objs need SeqIO, which scoring does without; give metric_fns"
        )
    if task.predict_with_aux_metric_fns:
        raise UserError(
            f"task {task.name!r}: a metric of (targets, predictions, aux_values); there are no aux_values"
        )
    postprocess = task._postprocess_fn  # SeqIO has no public way to it
    try:
        names = tuple(metrics.name_of(m) for m in task.metric_fns)
        return names, metrics.name_of(postprocess) if postprocess else ""
    except UserError as e:
        raise UserError(f"task {task.name!r}: {e}") from e


def tried(rows: list[Row], folders: list[str]) -> list[Row]:
    """The rows, their functions called once on right answers where neither SeqIO nor TensorFlow can
    be imported."""
    asked = [[{"task": r.spec.name, "metrics": r.spec.metrics, "seqio": r.seqio}, f]
             for r, f in zip(rows, folders, strict=True)]  # fmt: skip
    done = subprocess.run([sys.executable, "-m", "itx.eval.foreign"], input=json.dumps(asked), text=True,
                          stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})  # fmt: skip
    if done.returncode:
        raise RuntimeError(
            f"the process that tries metric_fns ended with exit code {done.returncode}"
        )
    answer = json.loads(done.stdout.splitlines()[-1])  # the functions may print
    if "error" in answer:
        raise UserError(answer["error"])
    return [
        dataclasses.replace(r, seqio={**r.seqio, "scale": s})
        for r, s in zip(rows, answer["scales"], strict=True)
    ]


def part_of(task: Any, split: str) -> str | None:
    """SeqIO's split of a Task that is a split of ours, whole; None: there is none. A lone
    evaluation split is test, as it is of our own tasks (itx/prepare/render.py)."""
    if set(task.splits) in ({"validation"}, {"test"}):
        return next(iter(task.splits)) if split == "test" else None
    return split if split in task.splits else None


# ---- a cache folder
# --------------------------------------------------------------------------------


def build(
    task: Any, split: str, settings: Settings, vocabulary: Vocabulary, mend: hits.Mend
) -> tuple[str, dict, bool]:
    """Cache one split: (relative folder, manifest, whether it was made now). Its content is its
    key: SeqIO has no other."""
    counts: Counter = Counter()
    examples: Iterator[Example] = _examples(task, split, settings, vocabulary, counts)
    if split != "train":  # as of our own tasks: the first by content hash
        found = sorted(examples, key=lambda e: e[0])
        counts["beyond data.eval_examples"] += max(0, len(found) - settings.eval_examples)
        examples = iter(found[: settings.eval_examples])
    digest = hashlib.blake2b(
        "\x1f".join(
            [task.name, split, vocabulary.hash, f"{render.RENDER_VERSION}.{loose.LOOSE_VERSION}"]
        ).encode(),
        digest_size=8,
    )
    found = notes.Notes(vocabulary)
    parts, sample, texts, n, inputs = [], [], [], 0, set()
    while chunk := list(itertools.islice(examples, CHUNK)):
        digest.update(json.dumps([e[1:] for e in chunk]).encode())
        content, records, lines = map(list, zip(*chunk, strict=True))
        parts.append(cache.Columns.of(records, content, [0] * len(chunk), vocabulary.size))
        sample += lines if split != "train" else lines[: max(0, SAMPLE - n)]
        inputs |= {hashing.draw(e["prompt"].strip() or e["target"].strip()) for e in lines}
        if split == "train":
            texts += [exclude.texts(e["prompt"] or e["target"], e["target"]) for e in lines]
        n += len(chunk)
        for e, record in zip(lines, records, strict=True):
            found.texts((e["prompt"], e["target"]))
            if found.decoded < notes.DRAWN:
                found.decode([(e["target"], record[-1][0])])
    said = found.facts()
    columns = cache.Columns.joined(parts or [cache.Columns.of([], [], [], vocabulary.size)])
    digest.update(json.dumps([sorted(counts.items()), said]).encode())  # the manifest tells them
    key = digest.hexdigest()
    where = f"{cache.folder_name(task.name)}/{split}/r0-{key}"
    path = Path(settings.cache_dir) / where
    hits.check([(task.name, where, None)], settings.cache_dir, vocabulary.size, mend)
    if path.is_dir():
        return where, cache.read_manifest(path), False
    read = counts.pop("read", 0)
    manifest = {
        "task": task.name, "variant": task.name, "split": split, "rendering": 0, "key": key,
        "vocabulary": vocabulary.hash, "cluster": "seqio", "origin": [], "templates": [""], "examples": n,
        "audit": {"read": read, "kept": n, "skipped": {k: v for k, v in sorted(counts.items()) if v}},
        "repeated": n - len(inputs), **said, **columns.counts(vocabulary.unk_id, vocabulary.eos_id, settings.architecture),
    }  # fmt: skip
    cache.write(path, columns, manifest, sample, texts)
    return where, cache.read_manifest(path), True


def _examples(
    task: Any, split: str, settings: Settings, vocabulary: Vocabulary, counts: Counter
) -> Iterator[Example]:
    """Every example of a Task's split in its own order. Without a feature `inputs`, the target is
    its content."""
    eos = vocabulary.eos_id
    theirs = part_of(task, split) or split
    for i, e in enumerate(_dataset(task, theirs, settings.render_seed)):
        counts["read"] += 1
        prompt, target = (np.asarray(e.get(k, ())).tolist() for k in ("inputs", "targets"))
        target = target[:-1] if target[-1:] == [eos] else target  # the layout puts it there
        if settings.architecture == "encoder_decoder" and prompt[-1:] == [eos]:
            prompt = prompt[:-1]
        if not target:
            counts["empty target"] += 1
            continue
        asked, wanted = (
            _text(e, "inputs", prompt, vocabulary),
            _text(e, "targets", target, vocabulary),
        )
        content = text.normalise(asked if prompt else wanted)
        hashed = hashing.draw("content", content)
        line = {
            "id": str(i), "content": f"{hashed:016x}", "input_content": content, "template": "",
            "prompt": asked, "target": wanted, "references": [wanted], "options": None, "answer_index": None,
            "extractor": None,
        }  # fmt: skip
        if split != "train" and task._postprocess_fn:
            line["example"] = {k: [v.dtype.name, _plain(v.tolist())] for k, v in _arrays(e).items()}
        yield hashed, [(prompt, False), (target, True)], line


def _dataset(task: Any, split: str, seed: int) -> Iterator[dict]:
    if split not in task.splits:
        raise UserError(f"task {task.name!r} has no {split} split, only {', '.join(task.splits)}")
    try:
        yield from task.get_dataset(None, split, shuffle=False, seed=seed).as_numpy_iterator()
    # of the user's source and preprocessors: whatever it is, they are told whose
    except Exception as e:
        raise UserError(
            f"task {task.name!r}: its {split} split cannot be read: {type(e).__name__}: {e}"
        ) from e


def _text(example: dict, feature: str, ids: list[int], vocabulary: Vocabulary) -> str:
    """What SeqIO's own evaluation takes for the text: the one before tokenising where the Task
    keeps it."""
    written = example.get(f"{feature}_pretokenized")
    return written.decode() if isinstance(written, bytes) else vocabulary.decode(ids)


def _arrays(example: dict) -> dict[str, np.ndarray]:
    """The features that a postprocess_fn may read, ragged ones aside."""
    return {k: np.asarray(v, object if isinstance(v, bytes) else None) for k, v in example.items()
            if isinstance(v, (bytes, np.ndarray, np.generic))}  # fmt: skip


def _plain(value: Any) -> Any:
    """Bytes as text of the same code points, in lists of any depth; itx/eval/foreign.py has the way
    back."""
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return value.decode("latin-1") if isinstance(value, bytes) else value
