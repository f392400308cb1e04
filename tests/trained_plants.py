# SPDX-License-Identifier: Apache-2.0
"""Write the table of itx/analysis/README.md on models that were trained with a defect in their data:
does `itx analyze` find it beside a sound run of the recipe, and nothing beside sound reruns?

    uv run python -m tests.trained_plants [--plants N] [--reruns N] [--unfinished N] [--workers N]

A small decoder learns six tasks, each a table from a key word to a label. A plant changes the labels
of some key words wherever a fact holds (a task, a cluster, an alphabet, a person that is named, a
wording, a label, or two of these), drawn by a seed. What such a model then gets wrong is its own
doing: a plant counts where it cost the model at least 10 points inside the slice.
"""

import argparse
import dataclasses
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np

from itx import mesh as meshes
from itx import restore, storage, train
from itx.analysis import analyze, features, slices
from itx.config import DataConfig, EvalConfig, OptimConfig, RunConfig, TrainConfig
from itx.data.loader import Batches
from itx.data.vocabulary import Vocabulary
from itx.eval.evaluate import evaluate
from itx.models import presets
from itx.runs import RunFolder
from tests import planted, scored
from tests.readme_figures import put

KEYS = [a + b for a in ("bra", "del", "fin", "gor", "lum", "mex") for b in ("to", "ska")]
CYRILLIC_KEYS = [a + b for a in ("бра", "дел", "фин", "гор", "лум", "мек") for b in ("то", "ска")]
FILLERS, CYRILLIC_FILLERS = "so it was then over by".split(), "так это было там над при".split()
LABELS = ("yes", "no", "maybe")
WORDINGS = ("Question: {}", "Task: {} What is it?", "Say which: {}", "{} Answer:")
TASKS, TRAIN_EXAMPLES, DEV_EXAMPLES = 6, 1500, 72
STEPS, UNFINISHED_STEPS = 300, 115  # learned; and before all is, where seeds differ much
LEAST_EFFECT = 0.1  # of the score, inside the slice


class Example(NamedTuple):
    facts: dict
    content: str
    label: str


def examples(task: int, count: int, seed: int) -> list[Example]:
    rng, made = np.random.default_rng([task, seed]), {}
    while len(made) < count:
        cyrillic = rng.random() < 0.3
        keys, fillers = (CYRILLIC_KEYS, CYRILLIC_FILLERS) if cyrillic else (KEYS, FILLERS)
        key = int(rng.integers(len(keys)))
        person = str(rng.choice(["she", "he", "", ""]))
        said = rng.choice(fillers, int(rng.integers(1, 9))).tolist()
        content = " ".join(filter(None, [person, *said, keys[key]]))
        label = (key * (task + 1) + task + key // 3) % len(LABELS)
        facts = {"task": task, "cluster": task // 2, "cyrillic": cyrillic, "person": person, "label": label, "key": key}  # fmt: skip
        made[content] = Example(facts, content, LABELS[label])
    return list(made.values())


Fact = Callable[[dict, int], bool]  # (facts of an example, wording) -> whether it holds


class Slice(NamedTuple):
    kind: str
    holds: Fact


def drawn(seed: int) -> Slice:
    """Where labels are changed."""
    rng = np.random.default_rng([seed, 7])
    task, label, wording = (int(rng.integers(n)) for n in (TASKS, len(LABELS), len(WORDINGS)))
    person = str(rng.choice(["she", "he"]))
    singles = {
        "task": lambda f, w: f["task"] == task,
        "cluster": lambda f, w: f["cluster"] == task // 2,
        "language": lambda f, w: f["cyrillic"],
        "group term": lambda f, w: f["person"] == person,
        "wording": lambda f, w: w == wording,
        "label": lambda f, w: f["label"] == label,
    }
    pairs = {
        "cluster and label": lambda f, w: f["cluster"] == task // 2 and f["label"] == label,
        "language and cluster": lambda f, w: f["cyrillic"] and f["cluster"] == task // 2,
        "group term and cluster": lambda f, w: f["person"] == person and f["cluster"] == task // 2,
    }
    both = {**singles, **pairs}
    kind = sorted(both)[int(rng.integers(len(both)))]
    return Slice(kind, both[kind])


def lines(of: list[Example], task: int, wordings: list[int]) -> list[dict]:
    return [
        scored.example(
            e.content,
            e.label,
            template=f"task{task}-wording{w}",
            prompt=f"task{task} " + WORDINGS[w].format(e.content),
            options=list(LABELS),
        )
        for e, w in zip(of, wordings, strict=True)
    ]


def spoilt(of: list[Example], wordings: list[int], plant: Slice | None) -> list[Example]:
    """A half of the key words inside the plant have the next label."""
    changed = []
    for e, w in zip(of, wordings, strict=True):
        wrong = plant and e.facts["key"] % 2 == 0 and plant.holds(e.facts, w)
        label = LABELS[(LABELS.index(e.label) + 1) % len(LABELS)] if wrong else e.label
        changed.append(e._replace(label=label))
    return changed


def vocabulary(file: Path) -> Vocabulary:
    import io

    import sentencepiece

    texts = [
        f"task{t} {w.format(f'she he {k} {c}')} {' '.join([*FILLERS, *CYRILLIC_FILLERS, *LABELS])}"
        for t in range(TASKS)
        for w in WORDINGS
        for k, c in zip(KEYS, CYRILLIC_KEYS, strict=True)
    ]
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=out, vocab_size=500, model_type="word", pad_id=0,
        eos_id=1, unk_id=2, bos_id=-1, hard_vocab_limit=False, minloglevel=2, use_all_vocab=True,
    )  # fmt: skip
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(out.getvalue())
    return Vocabulary(file)


def trained(folder: Path, seed: int, plant: Slice | None, steps: int = STEPS) -> analyze.Side:
    """A run trained on data with the plant, and scored on dev."""
    run, where = RunFolder(folder / "run"), folder / "cache"
    vocab = vocabulary(run.vocab_model)
    tasks, rows = [], []
    for t in range(TASKS):
        data, rng = examples(t, TRAIN_EXAMPLES, 0), np.random.default_rng([t, 1])
        wordings = rng.integers(len(WORDINGS), size=len(data)).tolist()
        made = lines(spoilt(data, wordings, plant), t, wordings)
        tasks.append(
            scored.task(
                scored.folder(where, f"task{t}/train/r0-a", made, vocab),
                f"task{t}",
                f"cluster{t // 2}",
                1 / TASKS,
            )
        )
        asked = [(e, w) for e in examples(t, DEV_EXAMPLES, 1) for w in range(len(WORDINGS))]
        dev = lines([e for e, _ in asked], t, [w for _, w in asked])
        rows.append(
            scored.row(
                scored.folder(where, f"task{t}/validation/r0-b", dev, vocab),
                f"task{t}",
                f"cluster{t // 2}",
                "instances",
                primary="rank",
                metrics=["accuracy"],
                split="validation",
            )
        )
    lock = scored.lock(tasks, rows, vocab, sequence_length=32, target_length=16, global_batch=32, seed=seed, loss_positions=[16], window_examples=512, prefix_lm=True)  # fmt: skip
    config = RunConfig(
        model=dataclasses.replace(presets.quickstart_decoder(), embed_dim=64, head_dim=16, mlp_dim=192),
        data=DataConfig(mixture="mix", cache_dir=str(where), global_batch=32, sequence_length=32, target_length=16),
        optim=OptimConfig(learning_rate=3e-3, warmup_steps=20),
        train=TrainConfig(steps=steps, seed=seed, checkpoint_every=steps, log_every=100),
        eval=EvalConfig(max_examples=0, split="validation"),
    )  # fmt: skip
    mesh = meshes.make_mesh(config.mesh)
    setup = train.make_setup(config, vocab.size, TASKS, mesh)
    train.train(config, lock, Batches(lock, where), run, setup)
    load = lambda: restore.load_model(run, config, lock, steps)  # noqa: E731
    scores = evaluate(load, lock, config, run, steps, say=lambda text: None)
    return analyze.Side(run, steps, lock, config, scores)


def dev_facts() -> list[tuple[dict, int]]:
    return [
        (e.facts, w)
        for t in range(TASKS)
        for e in examples(t, DEV_EXAMPLES, 1)
        for w in range(len(WORDINGS))
    ]


class Trained(NamedTuple):
    kind: str  # "" without a plant
    accuracy: float
    effect: float  # mean score inside the plant less the reference's, 0 without one
    findings: list[str]
    found: bool
    first: bool


def scores_of(side: analyze.Side) -> np.ndarray:
    """Of dev's answers, in the order of `dev_facts`."""
    return np.array([x["score"] for t in range(TASKS) for x in side.read(f"task{t}")])


def one(seed: int, planted_seed: int | None, reference: str, steps: int) -> Trained:
    """A run beside the reference run, whose folder `main` keeps."""
    sound = reopened(Path(reference), steps)
    plant = None if planted_seed is None else drawn(planted_seed)
    with tempfile.TemporaryDirectory() as folder:
        side = trained(Path(folder), seed, plant, steps)
        facts, own, held = analyze.facts(side, sound, None), scores_of(side), held_by(side, sound)
    found = [f for f in facts["findings"] if f["kind"] == "slice"]
    if plant is None:
        return Trained("", own.mean(), 0.0, [f["text"] for f in found], False, False)
    inside = np.array([plant.holds(f, w) for f, w in dev_facts()])
    effect = float((own - scores_of(sound))[inside].mean())
    overlaps = [planted.jaccard(x, inside) >= 0.5 for x in held]
    return Trained(
        plant.kind, own.mean(), effect, [f["text"] for f in found], any(overlaps), overlaps[:1] == [True]
    )  # fmt: skip


def held_by(side: analyze.Side, sound: analyze.Side) -> list[np.ndarray]:
    """What each finding holds of dev's answers."""
    rows = side.scores["rows"]
    of = features.observations(rows, side.read)
    expected = features.observations(rows, sound.read).scores
    return [f.holds for f in slices.find(of, features.conditions(of, rows, {}), expected).findings]


def reopened(folder: Path, steps: int) -> analyze.Side:
    """The sides' parts that analysis reads, of a run that another process trained."""
    run = RunFolder(folder / "run")
    scores = storage.read_json(run.scores_json(steps))
    return analyze.Side(run, steps, {}, RunConfig(), scores)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--plants", type=int, default=20)
    parser.add_argument("--reruns", type=int, default=20)
    parser.add_argument("--unfinished", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as unfinished:
        accuracy = scores_of(trained(Path(folder), 0, None)).mean()
        early = scores_of(trained(Path(unfinished), 0, None, UNFINISHED_STEPS)).mean()
        jobs = [(100 + i, None, folder, STEPS) for i in range(args.reruns)]
        jobs += [(200 + i, 300 + i, folder, STEPS) for i in range(args.plants)]
        jobs += [(100 + i, None, unfinished, UNFINISHED_STEPS) for i in range(args.unfinished)]
        with ProcessPoolExecutor(args.workers, get_context("spawn")) as pool:
            made = []
            for result in pool.map(one, *zip(*jobs, strict=True)):
                made.append(result)
                print(result, flush=True)
    sound, all_spoilt = made[: args.reruns], made[args.reruns : args.reruns + args.plants]
    differing = made[args.reruns + args.plants :]
    learned = [r for r in all_spoilt if r.effect <= -LEAST_EFFECT]
    rows = [
        f"| {r.kind} | {100 * r.effect:+.0f} | {'yes' if r.found else 'no'} | {'yes' if r.first else 'no'} | {'; '.join(r.findings) or 'none'} |"
        for r in all_spoilt
    ]  # fmt: skip
    text = [
        f"A reference of {accuracy:.0%} on dev and {len(sound)} sound reruns of {np.mean([r.accuracy for r in sound]):.0%}: "
        f"{sum(bool(r.findings) for r in sound)} of {len(sound)} reruns have a finding. "
        f"({sum(bool(r.findings) for r in differing)} of {len(differing)} where runs are stopped at step {UNFINISHED_STEPS}, before all is learned: "
        f"the reference has {early:.0%} there, the reruns {min(r.accuracy for r in differing):.0%} to {max(r.accuracy for r in differing):.0%}, and what one has not learned yet is found.) "
        f"Of {len(all_spoilt)} plants {len(learned)} cost the model {100 * LEAST_EFFECT:.0f} points or more inside their slice: "
        f"{sum(r.found for r in learned)} of these were found, {sum(r.first for r in learned)} as the first.",
        "", "| plant | points inside | found | first | findings |", "|---|--:|---|---|---|", *rows,
    ]  # fmt: skip
    command = f"uv run python -m tests.trained_plants --plants {args.plants} --reruns {args.reruns}"
    put("trained plants", command, "\n".join(text) + "\n")


if __name__ == "__main__":
    main()
