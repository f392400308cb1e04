# SPDX-License-Identifier: Apache-2.0
"""Study `thoughts`: a story with two steps, tuned on with 0, 25, 50 or 100 % of its reasoning
written out; asked for the answer alone and for the reasoning."""

from small_world import draws, tuned

from itx.config import RunConfig
from itx.study.spec import Arm, Comparison, Measure, Study
from tasks.studies import REASONED, SHARES

CHUNG = "Chung et al. (arXiv:2210.11416) found that tuning on sets with and without reasoning scores better than on either alone, asked in either way"
DIRECT = Measure("accuracy, asked for the answer", "score")
THOUGHT = Measure("accuracy, asked for the reasoning", "score", variant="cot")


def get_config(quick: bool = False) -> RunConfig:
    return tuned(quick)


def get_study(quick: bool = False) -> Study:
    asked = f"--eval.tasks={REASONED},{REASONED}:cot"
    return Study(
        name="thoughts",
        question="Does reasoning have to be tuned on to be of use when it is asked for?",
        arms=tuple(
            Arm(f"{p} in 100 reasoned", (f"--data.mixture=cot_{p}_draw_{{draw}}", asked), place=p)
            for p in SHARES
        ),
        draws=draws(quick),
        measures=(THOUGHT, DIRECT),
        comparisons=(
            Comparison("0 in 100 reasoned", "50 in 100 reasoned", "better", CHUNG),
            Comparison("0 in 100 reasoned", "50 in 100 reasoned", "equivalent", CHUNG, DIRECT.name),
        ),
        axis="examples in 100 with reasoning",
        notes="New examples of a task that is trained. The primary measure is accuracy: no other task asks something else of the same stories, so that an instruction's information is not defined.",
    )
