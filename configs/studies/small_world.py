# SPDX-License-Identifier: Apache-2.0
"""What the studies share: the recipe that each of their arms changes in one respect, their draws,
and what is measured.

The base is a small decoder that read documents and no instruction (documents.py); an arm tunes it
for STEPS steps. It is asked the test split of the tasks that its draw holds out, in the wordings of
their `templates`, so that all arms of a draw answer the same questions. No arm but the ceiling of
`clusters` trains on these tasks, except in three studies: the arms of `rows` train on rows of them
(for fewer steps), and `specialists` and `thoughts` ask tasks that their arms train on.

The primary measure is BITS, except in `forgetting` (bits per byte of the base's documents) and in
`thoughts` (accuracy).
"""

from itx.config import DataConfig, EvalConfig, OptimConfig, RunConfig, TrainConfig
from itx.study.spec import Draw, Measure
from tasks import studies

MODULES = ("tasks", "tasks.studies")
STEPS = 300
EIGHT = "--data.mixture=clusters_8_draw_{draw}"
BITS = Measure("instruction information, held-out clusters", "bits")
SCORE = Measure("accuracy, held-out clusters", "score")


def tuned(quick: bool, mixture: str = "clusters_8_draw_0", steps: int = STEPS) -> RunConfig:
    return RunConfig(
        data=DataConfig(
            mixture=mixture,
            modules=MODULES,
            sequence_length=128,
            target_length=64,
            global_batch=16,
            window_examples=2048,
        ),
        optim=OptimConfig(
            name="muon", learning_rate=3e-3, warmup_steps=20, schedule="linear", final_share=0.0
        ),
        train=TrainConfig(
            steps=4 if quick else steps, checkpoint_every=1000, log_every=2 if quick else 20
        ),
        eval=EvalConfig(
            max_examples=1 if quick else 8, max_new_tokens=8 if quick else 32, before=False
        ),
    )


def draws(quick: bool, *more: str) -> tuple[Draw, ...]:
    """Five, each with a pair of held-out clusters, an order of the others and a seed of its own.

    Args:
        more: what each task that is held out is also asked as, such as ":fs2".
    """
    out = []
    for i in range(studies.DRAWS)[: 2 if quick else None]:
        tasks = studies.tasks_of(studies.HELD_OUT[i])
        asked = [f"{task}{variant}" for variant in ("", *more) for task in tasks]
        own = (f"--eval.tasks={','.join(asked)}", f"--data.seed={i}", f"--train.seed={i}")
        alone = {f"alone_{n}": ",".join(studies.CLUSTERS[c]) for n, c in enumerate(studies.four(i))}
        out.append(Draw(str(i), own, {**alone, "four": ",".join(alone.values())}))
    return tuple(out)


def get_config(quick: bool = False) -> RunConfig:
    return tuned(quick)
