# SPDX-License-Identifier: Apache-2.0
"""Study `rows`: 8, 32 or 128 rows of each task of two clusters never seen, tuned on from the base
and from the model that eight other clusters were tuned on."""

from small_world import BITS, EIGHT, SCORE, draws, tuned

from itx.config import RunConfig
from itx.study.spec import BASE, Arm, Comparison, Study

FLAN = "FLAN (arXiv:2109.01652) found its tuned model the better start for tuning prompts of an unseen task, most of all with few rows"
ROWS = (8, 32, 128)
STARTS = {"from the base": BASE, "from the tuned": "tuned"}
STEPS = 60


def get_config(quick: bool = False) -> RunConfig:
    return tuned(quick)


def get_study(quick: bool = False) -> Study:
    steps = () if quick else (f"--train.steps={STEPS}",)
    new = ("--data.mixture=new_draw_{draw}", *steps)
    return Study(
        name="rows",
        question="Is a tuned model the better start where a new task has few rows?",
        arms=(
            Arm("tuned", (EIGHT,)),
            *(
                Arm(
                    f"{n} rows {name}",
                    (*new, f"--data.train_examples={n}"),
                    begins=begins,
                    place=n,
                    line=name,
                )
                for name, begins in STARTS.items()
                for n in ROWS
            ),
        ),
        draws=draws(quick),
        measures=(BITS, SCORE),
        comparisons=tuple(
            Comparison(*(f"{n} rows {name}" for name in STARTS), "better", FLAN) for n in ROWS
        ),
        axis="rows of each new task",
        log=True,
    )
