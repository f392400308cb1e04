# SPDX-License-Identifier: Apache-2.0
"""A small cache, lock and run folder written by hand through the cache's own writer, and a model
that recites."""

import hashlib
import io
import shutil
from pathlib import Path

from itx.config import DataConfig, EvalConfig, RunConfig, TrainConfig
from itx.data import cache
from itx.data.order import ORDER_VERSION
from itx.data.vocabulary import Vocabulary
from itx.prepare import exclude
from itx.runs import RunFolder

# the keys that every manifest has (itx/data/types.py), for folders that a test writes by hand
MANIFEST = {
    **dict.fromkeys(("task", "variant", "split", "key", "vocabulary", "cluster"), ""),
    "rendering": 0,
    "templates": [""],
    "examples": 0,
    "audit": {"read": 0, "kept": 0, "skipped": {}},
}
COLOURS = "red blue green white brown pink gold grey".split()


def vocabulary(file: Path) -> Vocabulary:
    import sentencepiece

    out = io.BytesIO()
    texts = [
        f"first of {a} {b}? Name it: even odd The answer is 3. So it is {a}."
        for a in COLOURS
        for b in COLOURS
    ]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=out,
        vocab_size=330,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        byte_fallback=True,
        hard_vocab_limit=False,
        minloglevel=2,
        normalization_rule_name="identity",
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(out.getvalue())
    return Vocabulary(file)


def example(
    content: str,
    answer: str,
    template: str = "t1",
    prompt: str = "",
    target: str = "",
    options=None,
    extractor=None,
) -> dict:
    return {
        "id": content,
        "content": hashlib.sha256(content.encode()).hexdigest()[:16],
        "input_content": content,
        "template": template,
        "prompt": prompt or f"{template}: {content}",
        "target": target or answer,
        "references": [answer],
        "options": options,
        "answer_index": options.index(answer) if options else None,
        "extractor": extractor,
    }


def folder(cache_dir: Path, where: str, examples: list[dict], vocab: Vocabulary) -> dict:
    """Write a cache folder; returns what lock entries hold of it."""
    records = [
        [(vocab.encode(e["prompt"]), False), (vocab.encode(e["target"]), True)] for e in examples
    ]
    hashes = [int(e["content"], 16) for e in examples]
    templates = sorted({e["template"] for e in examples})
    texts = [exclude.texts(e["input_content"], e["target"]) for e in examples]
    columns = cache.Columns.of(
        records, hashes, [templates.index(e["template"]) for e in examples], vocab.size
    )
    cache.write(cache_dir / where, columns, {**MANIFEST, "templates": templates}, examples, texts)
    longest = max(len(r[-1][0]) + 1 for r in records)
    return {
        "folder": where,
        "sha256": cache.manifest_hash(cache_dir / where),
        "templates": templates,
        "examples": len(set(hashes)),
        "records": len(records),
        "max_target_tokens": longest,
    }


def task(
    made: dict, name: str, cluster: str, rate: float, skipped: dict | None = None, excluded=()
) -> dict:
    kept, skipped = made["records"] - len(excluded), skipped or {}
    return {
        "name": name,
        "task": name.split(":")[0],
        "cluster": cluster,
        "rate": rate,
        "examples": kept,
        "target_tokens": 0,
        "folders": [made["folder"]],
        "sha256": [made["sha256"]],
        "excluded": [list(excluded)],
        "audit": {"read": kept + sum(skipped.values()), "skipped": skipped, "kept": kept},
    }


def row(made: dict, name: str, cluster: str, group: str, **more) -> dict:
    task = name.split("@")[0]
    return {
        "name": name,
        "task": task.split(":")[0],
        "variant": task,
        "cluster": cluster,
        "group": group,
        "grade": None,
        "relation": "same task",
        "split": "test",
        "metrics": ["exact_match"],
        "primary": "generate",
        "tags": {},
        "inputs": None,
        "ablation": None,
        "options": None,
        "audit": {"read": 9, "kept": 9, "skipped": {}},
        **made,
        **more,
    }


def lock(tasks: list[dict], rows: list[dict], vocab: Vocabulary, **more) -> dict:
    return {
        "version": 1,
        "order_version": ORDER_VERSION,
        "architecture": "decoder",
        "prefix_lm": False,
        "pad_id": 0,
        "bos_id": 0,
        "eos_id": 1,
        "vocabulary": {"file": "", "hash": vocab.hash, "size": vocab.size},
        "mixture": "mix",
        "sequence_length": 64,
        "target_length": 32,
        "global_batch": 2,
        "window_examples": 32,
        "seed": 0,
        "renderings": 1,
        "weighting": "token",
        "too_long": "error",
        "loss_positions": [32],
        "tasks": tasks,
        "evaluation": rows,
        "holdout": [{"task": "held", "reason": "held out <by name>"}],
        "leaks": [],
        **more,
    }


def config(cache_dir: Path, **evaluation) -> RunConfig:
    return RunConfig(
        data=DataConfig(mixture="mix", cache_dir=str(cache_dir), global_batch=2),
        train=TrainConfig(steps=4),
        eval=EvalConfig(**{"max_examples": 4, "max_new_tokens": 16, **evaluation}),
    )


def pairs(start: int = 0, n: int = 20) -> list[tuple[str, str]]:
    """(input, answer) of "the first word": distinct inputs."""
    every = [(f"{a} {b} {c}", a) for a in COLOURS for b in COLOURS for c in COLOURS]
    return every[start * 13 :: 11][:n]


class Reciter:
    """Knows an answer to each prompt by heart; refuses to be asked twice."""

    def __init__(self, vocab: Vocabulary, answers: dict[str, str], unfinished: str = "\x00"):
        self.vocab, self.unfinished = vocab, unfinished
        self.answers = {tuple(vocab.encode(p)): a for p, a in answers.items()}
        self.calls: list[tuple[list, list]] = []
        self.ranked: list[tuple[list, list]] = []

    def generate(self, prompts, limits):
        assert len({(*p, n) for p, n in zip(prompts, limits, strict=True)}) == len(prompts)
        self.calls.append((prompts, limits))
        said = [self.answers.get(tuple(p), "nothing") for p in prompts]
        return [
            {"tokens": self.vocab.encode(s), "finished": self.unfinished not in s} for s in said
        ]

    def rank(self, prompts, options):
        """Likes the option that its answer ends in; longer ones less."""
        self.ranked.append((prompts, options))
        out = []
        for prompt, group in zip(prompts, options, strict=True):
            said = self.answers.get(tuple(prompt), "")
            texts = [self.vocab.decode(o) for o in group]
            out.append(
                [
                    {"logprob": -len(o) - 9.0 * (t != said), "tokens": len(o) + 1}
                    for o, t in zip(group, texts, strict=True)
                ]
            )
        return out


def small_run(folder_: Path) -> tuple[RunFolder, RunConfig, dict, Vocabulary, dict[str, str]]:
    """(run, config, lock, vocabulary, right answers): two trained tasks, one with chain of thought,
    one held out."""
    run, where = RunFolder(folder_ / "run"), folder_ / "cache"
    vocab = vocabulary(run.vocab_model)
    options, cot = ["even", "odd"], r"answer\s+is\s*(.+?)\s*\.(?=\s|$)"
    numbers = [(f"number {i}", options[i % 2]) for i in range(60)]
    train = folder(where, "first/train/r0-a", [example(c, a) for c, a in pairs(0, 40)], vocab)
    parity = folder(
        where, "parity/train/r0-a", [example(c, a, options=options) for c, a in numbers[:40]], vocab
    )
    test = [example(c, a, template=t) for c, a in pairs(1, 10) for t in ("t1", "t2")]
    held = [
        example(c, c.split()[1], template="t8", prompt=f"second of {c}") for c, _ in pairs(1, 10)
    ]
    even = [
        example(
            c,
            a,
            options=options,
            target=f"So it is {a}.",
            extractor=r"So\s+it\s+is\s*(.+?)\s*\.(?=\s|$)",
        )
        for c, a in numbers[40:]
    ]
    steps = [
        example(f"say {i}", str(i), target=f"well 5. The answer is {i}.", extractor=cot)
        for i in range(8)
    ]
    removed = [{**e, "prompt": e["input_content"]} for e in test[::2]]

    def f(name, examples):
        return folder(where, f"{name}/test/r0-b", examples, vocab)

    rows = [
        row(f("first", test), "first", "pick", "instances"),
        row(
            f("parity", even), "parity", "parity", "instances", metrics=["accuracy"], primary="rank"
        ),
        row(f("steps", steps), "steps:cot", "pick", "instances", metrics=["numeric"]),
        row(
            f("second", held),
            "second",
            "pick",
            "tasks",
            grade="new argument",
            relation="same cluster",
        ),
        row(f("none", test[::2]), "first@none", "pick", "instruction", ablation="none"),
        row(f("removed", removed), "first@removed", "pick", "instruction", ablation="removed"),
    ]
    tasks = [
        task(train, "first", "pick", 0.75, {"empty": 3}),
        task(parity, "parity", "parity", 0.25),
    ]
    right = {e["prompt"]: e["target"] for e in [*test, *held, *even, *steps]}
    made = lock(tasks, rows, vocab)
    made["vocabulary"]["file"] = "vocab/sentencepiece.model"
    kept = where / made["vocabulary"]["file"]
    kept.parent.mkdir()
    shutil.copy(run.vocab_model, kept)
    return run, config(where), made, vocab, right
