# SPDX-License-Identifier: Apache-2.0
"""One cache folder's work: read, render, encode, write. Runs in worker processes without
TensorFlow."""

import functools
import hashlib
import itertools
import json
import time
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from itx import hashing, text
from itx.data import cache
from itx.data.vocabulary import Vocabulary
from itx.errors import UserError
from itx.leaks import loose
from itx.prepare import conversations, exclude, fewshot, notes, objectives, render, sources, values
from itx.tasks import fingerprint, names, registry, templates
from itx.tasks.spec import TaskSpec, Template
from itx.text_format import chat

SAMPLE = 2000  # texts kept beside a training split, for the audit and the neighbour baseline
ESTIMATED = 200  # examples that `itx data build --dry-run` renders and encodes per task and split
CHUNK = 4096  # examples rendered and encoded at once; beyond them tokens are kept as arrays alone
GZIP = 4  # the texts beside the records are packed about so much (measured on the toy suite: 3.9)


@dataclass(frozen=True)
class Job:
    """What one cache folder holds: a variant's split, in one rendering or crossed with
    templates."""

    variant: str
    split: str
    # train | heldout | all: what is drawn from, or crossed; text: plain text that is scored
    templates: str = "train"
    ablation: str = ""  # "" | none | removed | swapped: see `ablated`
    other: str = ""  # swapped: the task whose instruction stands in
    rendering: int = 0

    @property
    def crossed(self) -> bool:
        """Evaluation splits: every example in every template (in one, for an ablation)."""
        return self.split != "train" or self.templates == "text"


@dataclass(frozen=True)
class Settings:
    """What all jobs of a build share; plain values, so that workers can receive it."""

    modules: tuple[str, ...]
    root: str
    cache_dir: str
    vocab: str
    render_seed: int
    suite_seed: int
    eval_examples: int
    skip_bad: bool
    fewshot_tokens: int = 0  # prompt and target of a few-shot rendering; 0: no limit
    chat_template: str = ""  # the text
    # matters for conversations: an encoder-decoder trains on one turn at a time
    architecture: str = "decoder"
    sequence_length: int = 256  # these two for plain text, which is cut to fit a row
    target_length: int = 96

    @property
    def room(self) -> objectives.Room:
        return objectives.Room(self.architecture, self.sequence_length, self.target_length)


def key(job: Job, settings: Settings, vocab_hash: str) -> str:
    """Hash of all that shapes the folder's content; never the git commit."""
    spec = registry.task(job.variant, settings.root)
    parts = [
        render.RENDER_VERSION, loose.LOOSE_VERSION, json.dumps(asdict(job), sort_keys=True), fingerprint.of_task(spec),
        *((sources.source_hash(spec.source, s, settings.root, settings.suite_seed), low, high)
          for s, low, high in render.source_splits(spec.source, job.split)),
        vocab_hash, settings.render_seed, settings.suite_seed, settings.skip_bad,
        settings.eval_examples if job.crossed else 0,
        fingerprint.of_task(registry.task(job.other, settings.root)) if job.other else "",
        *_further_key(job, spec, settings),
    ]  # fmt: skip
    return hashlib.sha256("\x1f".join(map(str, parts)).encode()).hexdigest()[:16]


def _further_key(job: Job, spec: TaskSpec, settings: Settings) -> list:
    """What else shapes a rendering: of few shots the budget, and the training split that exemplars
    come from; of conversations the chat template; of plain text the room in a row."""
    if spec.objective:
        objectives.check(spec, settings.room)
        return [objectives.OBJECTIVES_VERSION, *settings.room]
    if spec.chat:
        return [chat.CHAT_VERSION, settings.chat_template, settings.architecture]
    if not names.parse(job.variant).shots:
        return []
    train = [(sources.source_hash(spec.source, s, settings.root, settings.suite_seed), low, high)
             for s, low, high in render.source_splits(spec.source, "train")]  # fmt: skip
    return [fewshot.POOL, settings.fewshot_tokens, *train]


def folder(job: Job, settings: Settings, vocab_hash: str) -> str:
    """Relative to the cache."""
    row = "-".join(p for p in (job.split, job.templates if job.crossed else "", job.ablation) if p)
    return (
        f"{cache.folder_name(job.variant)}/{row}/r{job.rendering}-{key(job, settings, vocab_hash)}"
    )


def ablated(template: Template, ablation: str, others: list[Template], h: int) -> Template:
    """The template whose instruction is kept, removed, or swapped for another task's.

    Removed: the slots alone, a line each. Swapped: a template of `others`, which ask something else
    about the same inputs.
    """
    if ablation == "removed":
        return "\n".join(
            f"{{{slot}}}" for slot in dict.fromkeys(templates.slots(template[0]))
        ), template[1]
    if ablation == "swapped":
        return others[h % len(others)][0], template[1]
    return template


def wordings(job: Job, spec: TaskSpec) -> list[Template]:
    """The templates that a job draws from, or goes through."""
    which = ("train", "heldout") if job.templates == "all" else (job.templates,)
    return [t for w in which for t in render.choices(spec, names.parse(job.variant), w)]


def plans(job: Job, spec: TaskSpec, item: render.Item, settings: Settings) -> list[list[Template]]:
    """The template sets to render an item with: one each for a crossed job."""
    among = wordings(job, spec)
    if not job.crossed:
        return [among]
    if not job.ablation:
        return [[t] for t in among]
    h = hashing.draw(settings.render_seed, "ablation", spec.name, item.id)
    others = []
    if job.other:
        known = {k for k, v in item.values.items() if not text.blank(str(v))} | (
            {"options"} if spec.options else set()
        )
        swap = registry.task(job.other, settings.root)
        others = [t for t in swap.templates if set(templates.slots(t[0])) <= known]
        if not others:
            raise UserError(f"task {spec.name!r}: no template of {job.other!r} fits its inputs")
    return [[ablated(among[h % len(among)], job.ablation, others, h)]]


@functools.lru_cache(maxsize=4)
def _items(
    task: str, split: str, settings: Settings
) -> tuple[list[render.Item], Counter, dict[str, str]]:
    """(a split's items, counts, the first record of each fault), kept while one task's jobs follow
    each other."""
    counts, faults = Counter(), {}
    spec = registry.task(task, settings.root)
    found = render.items(
        spec, split, settings.root, settings.suite_seed, counts, settings.skip_bad, faults
    )
    return list(found), counts, faults


def _complete(
    job: Job, split: str, settings: Settings
) -> tuple[list[render.Item], Counter, dict[str, str]]:
    """`_items` that a job's wordings can show. With data.skip_bad those with a hole are counted and
    left out, in every rendering alike; else `render` tells of the first one that it meets."""
    items, counts, faults = _items(names.parse(job.variant).task, split, settings)
    spec, counts, faults = registry.task(job.variant, settings.root), Counter(counts), dict(faults)
    if not settings.skip_bad or not spec.templated:
        return items, counts, faults
    fields, kept = values.slots(wordings(job, spec)), []
    for item in items:
        if bad := values.incomplete(item.values, fields, spec.options):
            counts[bad.reason] += 1
            faults.setdefault(bad.reason, f"task {spec.name!r}, example {item.id}: {bad.detail}")
        else:
            kept.append(item)
    return kept, counts, faults


@functools.lru_cache(maxsize=4)
def _pool(job: Job, settings: Settings) -> fewshot.Pool:
    return fewshot.pool(
        registry.task(job.variant, settings.root), _complete(job, "train", settings)[0]
    )


def _chosen(job: Job, settings: Settings) -> tuple[list[render.Item], Counter, dict[str, str]]:
    """The items of a job, and what was counted on the way: an evaluation split's first ones by
    content hash."""
    items, counts, faults = _complete(job, job.split, settings)
    if job.crossed:
        items = sorted(items, key=lambda item: item.hash)
        counts["beyond data.eval_examples"] += max(0, len(items) - settings.eval_examples)
        items = items[: settings.eval_examples]
    return items, counts, faults


def expanded(
    job: Job, items: list[render.Item], counts: Counter, settings: Settings, vocabulary: Vocabulary,
    said: Counter | None = None,
) -> list[render.Item]:  # fmt: skip
    """Items, or those they make: a conversation's pieces or answers, a document's chunks. said: of
    `conversations.prepared`."""
    spec = registry.task(job.variant, settings.root)
    if spec.objective:
        return list(
            objectives.chunks(spec, items, vocabulary, settings.room, counts, sized=job.crossed)
        )
    if not spec.chat:
        return items
    each = settings.architecture == "encoder_decoder"
    more = (
        vocabulary.eos_text,
        each,
        job.crossed,
        spec,
        counts,
        settings.skip_bad,
        vocabulary.control,
        said,
    )
    return list(conversations.prepared(items, settings.chat_template, *more))


def records_of(
    job: Job, items: list[render.Item], settings: Settings, vocabulary: Vocabulary
) -> tuple[list[render.Rendered], list[cache.Record], list[render.Item]]:
    """(renderings, records, the item of each)."""
    spec, variant = registry.task(job.variant, settings.root), names.parse(job.variant)
    if spec.objective:
        more = (job.rendering, settings.render_seed, vocabulary.size, settings.room)
        records = [objectives.record(spec, item, *more) for item in items]
        return [objectives.rendered(spec, r, vocabulary) for r in records], records, items
    pairs = [(item, among) for item in items for among in plans(job, spec, item, settings)]
    pool = _pool(replace(job, split="train", rendering=0), settings) if variant.shots else None
    more = (
        job.rendering,
        settings.render_seed,
        vocabulary,
        pool,
        settings.fewshot_tokens,
        settings.chat_template,
    )
    return *fewshot.render_all(spec, variant, pairs, *more), [item for item, _ in pairs]


def run_all(several: list[Job], settings: Settings) -> list[tuple[Job, tuple[str, dict]]]:
    """The jobs of one task, in turn."""
    return [(job, run(job, settings)) for job in several]


def estimate_all(several: list[Job], settings: Settings) -> list[tuple[Job, dict]]:
    """What the jobs of one task would write and take, from all of their source and ESTIMATED of
    their examples.

    (job, {"records", "bytes", "seconds", "exists"}); seconds of one process.
    """
    registry.load_modules(settings.modules)
    vocabulary = Vocabulary(settings.vocab)
    out = []
    for job in several:
        began = time.monotonic()
        exists = cache.is_there(Path(settings.cache_dir) / folder(job, settings, vocabulary.hash))
        items, _, _ = _chosen(job, settings)
        reading = time.monotonic() - began
        few = items[:: max(1, len(items) // ESTIMATED)]
        share = len(items) / max(1, len(few))
        few = expanded(job, few, Counter(), settings, vocabulary)
        rendered, records, owners = records_of(job, few, settings, vocabulary)
        n = round(len(records) * share)
        texts = [
            len(json.dumps(example_of(o, r), ensure_ascii=False).encode())
            for o, r in zip(owners, rendered, strict=True)
        ]
        kept = n if job.crossed else min(n, SAMPLE)
        tokens = (
            sum(len(ids) for r in records for ids, _ in r)
            * cache.token_type(vocabulary.size).itemsize
        )
        places = sum(
            5 * len(r) + 18 + 8 * len(x.exemplars) for r, x in zip(records, rendered, strict=True)
        )
        size = (tokens + places) * share + kept * sum(texts) / max(1, len(texts)) / GZIP
        work = (time.monotonic() - began - reading) * share
        out.append(
            (job, {"records": n, "bytes": round(size), "seconds": reading + work, "exists": exists})
        )
    return out


def run(job: Job, settings: Settings) -> tuple[str, dict]:
    """Make the job's folder unless it is there. Returns (relative folder, manifest)."""
    registry.load_modules(settings.modules)
    vocabulary = Vocabulary(settings.vocab)
    where = folder(job, settings, vocabulary.hash)
    path = Path(settings.cache_dir) / where
    spec, variant = registry.task(job.variant, settings.root), names.parse(job.variant)
    # may have changed since: they shape no rendering
    about = {"cluster": spec.cluster, "origin": list(spec.origin)}
    if cache.is_there(path):
        return where, cache.read_manifest(path) | about
    items, counts, faults = _chosen(job, settings)
    found = None if job.crossed else notes.Notes(vocabulary, spec, items)  # of what is trained on
    items = expanded(job, items, counts, settings, vocabulary, found and found.said)
    ids: dict[str, int] = {}  # of templates, by first use
    parts, sample = [], []
    for first in range(0, max(1, len(items)), CHUNK):
        rendered, records, owners = records_of(
            job, items[first : first + CHUNK], settings, vocabulary
        )
        empty = next((i for i, r in enumerate(records) if not r[-1][0]), None)
        if empty is not None:
            raise UserError(
                f"task {spec.name!r}, example {owners[empty].id}: the target {rendered[empty].target!r} has no tokens"
            )
        if found:
            found.records(rendered, records, owners)
        at = sum(len(p.content) for p in parts)
        keep = len(rendered) if job.crossed else max(0, SAMPLE - at)
        sample += [
            example_of(o, r) for o, r in itertools.islice(zip(owners, rendered, strict=True), keep)
        ]
        if spec.objective and job.crossed:
            for line, item in zip(sample[at:], owners, strict=True):
                line["bytes"] = objectives.target_bytes(
                    spec, item, settings.render_seed, settings.room
                )
        drawn = [ids.setdefault(r.template, len(ids)) for r in rendered]
        shots = [r.exemplars for r in rendered]
        parts.append(
            cache.Columns.of(records, [o.hash for o in owners], drawn, vocabulary.size, shots)
        )
    columns = cache.Columns.joined(parts)
    read, split = counts.pop("read", 0), counts.pop(conversations.SPLIT, 0)
    manifest = {
        "task": spec.name, "variant": job.variant, **asdict(job), "key": where.rsplit("-", 1)[1],
        "vocabulary": vocabulary.hash, **about, "templates": list(ids), "examples": len(items),
        "fewshot": fewshot.counts(columns.exemplars, variant), "split_conversations": split,
        **(found.facts() if found else {}),
        "audit": {"read": read, "kept": len(items), "skipped": {k: v for k, v in sorted(counts.items()) if v},
                  **({"first": faults} if faults else {})},
        # chunks of documents alone: of all else `render.items` leaves no two of one identity
        "repeated": len(items) - len({tuple(i.values["tokens"]) for i in items}) if spec.objective else 0,
        **columns.counts(vocabulary.unk_id, vocabulary.eos_id, settings.architecture),
    }  # fmt: skip
    # other renderings, and evaluation, hold nothing that the first does not say
    cache.write(
        path,
        columns,
        manifest,
        sample,
        () if job.crossed or job.rendering else _texts(spec, items, settings),
    )
    return where, cache.read_manifest(path)


def _texts(spec: TaskSpec, items: list[render.Item], settings: Settings) -> list[cache.Texts]:
    """For the leak test: all that training reads of each example."""
    if spec.templated:
        return _task_texts(spec.name, settings)
    return [exclude.of_example(spec, item) for item in items]


@functools.lru_cache(maxsize=4)
def _task_texts(task: str, settings: Settings) -> list[cache.Texts]:
    """Of a task's training split, once for all its variants."""
    spec = registry.task(task, settings.root)
    return [exclude.of_example(spec, item) for item in _items(task, "train", settings)[0]]


def example_of(item: render.Item, r: render.Rendered) -> dict:
    return {
        "id": item.id, "content": f"{item.hash:016x}", "input_content": item.content, "template": r.template,
        "prompt": r.prompt, "target": r.target, "references": list(r.references),
        "options": None if r.options is None else list(r.options), "answer_index": r.answer_index,
        "extractor": r.extractor, **({"asked": item.values["asked"]} if r.pieces else {}),
    }  # fmt: skip
