# SPDX-License-Identifier: Apache-2.0
"""Study `clusters`: tuned on 1, 2, 4 or 8 clusters for equally many tokens, asked of two clusters
never seen. The ceiling trains on those two and six others."""

from small_world import BITS, SCORE, draws, tuned

from itx.config import RunConfig
from itx.study.spec import Arm, Comparison, Study
from tasks.studies import COUNTS

FLAN = "FLAN (arXiv:2109.01652) found that the average over held-out clusters rises with the number of clusters, up to the seven that were tried"


def get_config(quick: bool = False) -> RunConfig:
    return tuned(quick)


def get_study(quick: bool = False) -> Study:
    own = {n: f"--data.mixture=clusters_{n}_draw_{{draw}}" for n in COUNTS}
    return Study(
        name="clusters",
        question="Does tuning on more clusters of tasks help with clusters never seen?",
        arms=(
            Arm("not tuned", ("--train.steps=0", own[1])),
            *(
                Arm(f"{n} cluster{'s' * (n > 1)}", (mixture,), place=n)
                for n, mixture in own.items()
            ),
            Arm("ceiling", ("--data.mixture=ceiling_draw_{draw}",)),
        ),
        draws=draws(quick),
        measures=(BITS, SCORE),
        comparisons=(Comparison("1 cluster", "8 clusters", "better", FLAN),),
        axis="clusters trained on",
        log=True,
    )
