# SPDX-License-Identifier: Apache-2.0
"""Study `shuffled`: the control of all others. What is learned from the answers of other examples
of the same task is form, brevity and the shares of labels, and nothing of the tasks."""

from small_world import BITS, EIGHT, SCORE, draws, tuned

from itx.config import RunConfig
from itx.study.spec import Arm, Comparison, Study

KUNG = "Kung and Peng (arXiv:2305.11383) found that models tuned on few tasks with misleading examples score about as well on unseen ones, so that the gain can be one of form"


def get_config(quick: bool = False) -> RunConfig:
    return tuned(quick)


def get_study(quick: bool = False) -> Study:
    return Study(
        name="shuffled",
        question="Does tuning on right answers help more with tasks never seen than tuning on other examples' answers?",
        arms=(
            Arm("not tuned", ("--train.steps=0", EIGHT)),
            Arm("shuffled answers", (EIGHT, "--data.targets=shuffled")),
            Arm("right answers", (EIGHT,)),
        ),
        draws=draws(quick),
        measures=(BITS, SCORE),
        comparisons=(Comparison("shuffled answers", "right answers", "equivalent", KUNG),),
    )
