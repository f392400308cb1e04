# SPDX-License-Identifier: Apache-2.0
"""Write the README's table of tuning methods: each over the same small model, itself tuned fully
before.

    uv run python -m tests.peft_table FOLDER 101 102 103            from the runs runs/peft-… that
                                                                    are there
    uv run python -m tests.peft_table FOLDER 101 102 103 --train    make them first (an hour on two
                                                                    cores)

FOLDER has the files of tasks/files.py. For each seed a base is tuned fully, from random weights, on
the toy suite, Alpaca and plain text (tests/adapt_tasks.py); an adapter of each method then tunes it
on `instruction_1100`, and another on those tasks of the suite that the base never saw. No evaluated
input of either is in a base's training data: the base's run evaluates `instruction_1100` too, and
so leaves out what Alpaca shares with it; the suite splits all its tasks alike. Rates were chosen by
a few runs on the validation splits with seed 1.
"""

import argparse
import os
from pathlib import Path

from itx import storage
from tests.readme_figures import REPO, put, seeds, spread, train

DATA = {
    "instruction_1100": "`instruction_1100`",
    "adapt_suite": "the tasks that the toy suite holds out",
}
METHODS = {
    "full": ["--optim.learning_rate=1e-3"],
    "LoRA": ["--peft.method=lora", "--optim.learning_rate=3e-3"],
    "DoRA": ["--peft.method=lora", "--peft.dora=True", "--optim.learning_rate=3e-3"],
    "prefix": ["--peft.method=prefix", "--peft.length=16", "--optim.learning_rate=3e-2"],
    "prompt": ["--peft.method=prompt", "--peft.length=16", "--optim.learning_rate=3e-2"],
}
# the base practised them
KEPT = ("first_word", "sum", "count_words", "who_more", "day_after", "thing_of")
TEXT = "c4_demo.lm"


def words(root: str, seed: int, mixture: str) -> list[str]:
    """What the base's run and the adapters' have in common."""
    return [
        "configs/quickstart.py", *seeds(seed), f"--data.root={root}", "--data.modules=tasks,tests.adapt_tasks",
        f"--data.mixture={mixture}", "--data.sequence_length=256", "--data.target_length=128", "--data.too_long=drop",
        "--eval.instructions=False",
    ]  # fmt: skip


def base_words(root: str, seed: int) -> list[str]:
    return [
        *words(root, seed, "adapt_base"), f"--data.replay_task={TEXT}", "--data.replay=0.05", "--data.vocab_size=2048",
        "--train.steps=1300", "--eval.before=False", "--eval.tasks=instruction_1100", "--eval.max_examples=4",
    ]  # fmt: skip


def adapter_words(root: str, seed: int, data: str, method: str, base: Path) -> list[str]:
    return [
        *words(root, seed, data), f"--model.pretrained={base.relative_to(REPO)}", "--data.global_batch=8",
        "--optim.name=adamw", "--train.steps=300", f"--eval.retention={TEXT},{','.join(KEPT)}", "--eval.max_examples=40",
        *METHODS[method],
    ]  # fmt: skip


def measure(run: Path) -> None:
    """Writes facts.json: what of a run its report does not say. The loss is that of all contents of
    the evaluated split."""
    from itx import config as configs
    from itx import mesh as meshes
    from itx.data import lock as locks
    from itx.data.loader import Batches
    from itx.eval.fixed import fixed_examples, target_losses
    from itx.restore import load_model
    from itx.runs import RunFolder
    from itx.train import make_setup, sizes

    folder = RunFolder(run)
    config = configs.from_dict(storage.read_json(folder.config_json)["config"])
    lock = locks.read(folder.lock_json)
    rows = [r for r in lock["evaluation"] if r["group"] == "instances"]
    pairs = [
        p
        for r in rows
        for p in fixed_examples(Path(config.data.cache_dir) / r["folder"], lock, None)
    ]

    def loss(step: int) -> float:
        return target_losses(load_model(folder, config, lock, step), {"all": pairs})["all"]

    setup = make_setup(
        config, lock["vocabulary"]["size"], len(lock["tasks"]), meshes.make_mesh(config.mesh)
    )
    batch = Batches(lock, config.data.cache_dir).batch(0)
    used = setup.step.lower(*setup.specs, batch).compile().memory_analysis()
    storage.write_json(run / "facts.json", {
        "loss": {"before": loss(0), "after": loss(config.train.steps)}, "examples": len(pairs),
        "step_bytes": used.argument_size_in_bytes + used.temp_size_in_bytes, **sizes(*setup.specs[:2]),
    })  # fmt: skip


def facts(run: Path, when: str) -> dict[str, float]:
    """A run's numbers of the table."""
    found, report = storage.read_json(run / "facts.json"), storage.read_json(run / "report.json")
    score = {g["group"]: g[when]["score"] for g in report["groups"]}
    loss = report["loss"]
    return {
        "trains": found["trainable"] / found["parameters"], "optimizer": found["optimizer_bytes"] / 1e6,
        "step": found["step_bytes"] / 1e6, "seconds": loss["tokens"] / loss["tokens_per_second"],
        "loss": found["loss"][when], "score": score["instances"], "kept": score["retention"],
        "text": report["retention"][when][TEXT]["bits_per_byte"],
    }  # fmt: skip


SCORES = ("loss", "score", "text", "kept")
HEAD = ["", "trains", "optimizer state, MB", "a step's memory, MB", "seconds", "held-out loss", "{score}",
        f"kept: bits per byte of `{TEXT}`", "kept: practised tasks"]  # fmt: skip


def table(runs: dict[str, list[Path]], score: str) -> str:
    """A row per method: mean (range) over its runs; first the base, as all methods find it."""
    rows = [[h.format(score=score) for h in HEAD], ["---", *["---:"] * (len(HEAD) - 1)]]
    before = [facts(r, "before") for r in next(iter(runs.values()))]
    for name, found in {
        "as it was": before,
        **{n: [facts(r, "after") for r in m] for n, m in runs.items()},
    }.items():
        shown = {k: spread([f[k] for f in found], 0 if k == "seconds" else 2) for k in found[0]}
        size = [
            f"{found[0]['trains']:.1%}",
            f"{found[0]['optimizer']:.2f}",
            f"{found[0]['step']:.0f}",
            shown["seconds"],
        ]
        rows.append(
            [name, *(size if found is not before else [""] * 4), *(shown[k] for k in SCORES)]
        )
    return "\n".join("| " + " | ".join(r) + " |" for r in rows)


def block(runs: dict[str, dict[str, list[Path]]]) -> str:
    adapted = runs["instruction_1100"]["LoRA"]
    one, report = (storage.read_json(adapted[0] / f) for f in ("facts.json", "report.json"))
    parts = [
        f"A decoder of {one['frozen_bytes'] / 4e6:.2f} M parameters, first tuned fully on the toy suite, Alpaca and plain text, "
        f"then tuned for {report['steps']['after']} steps by each method; mean and range over {len(adapted)} seeds, {os.cpu_count()} CPU cores. "
        "Loss: nats a target token, of all held-out examples. A step's memory is that of its compiled program."
    ]
    scores = {"instruction_1100": "ROUGE-L", "adapt_suite": "accuracy"}
    for data, methods in runs.items():
        examples = storage.read_json(methods["LoRA"][0] / "facts.json")["examples"]
        parts.append(
            f"On {DATA[data]} ({examples:,} held-out examples):\n\n{table(methods, scores[data])}"
        )
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("root", metavar="FOLDER")
    parser.add_argument("seeds", nargs="+", type=int)
    parser.add_argument("--train", action="store_true")
    args = parser.parse_args()
    runs: dict[str, dict[str, list[Path]]] = {d: {m: [] for m in METHODS} for d in DATA}
    for seed in args.seeds:
        base = REPO / "runs" / f"peft-base-{seed}"
        if args.train:
            train(base_words(args.root, seed), base)
        for data, methods in runs.items():
            for method, found in methods.items():
                run = REPO / "runs" / f"peft-{data}-{method}-{seed}"
                if args.train:
                    train(adapter_words(args.root, seed, data, method, base), run)
                    measure(run)
                found.append(run)
    numbers = " ".join(map(str, args.seeds))
    put("methods", f"uv run python -m tests.peft_table FOLDER {numbers} --train", block(runs))


if __name__ == "__main__":
    main()
