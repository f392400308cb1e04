# SPDX-License-Identifier: Apache-2.0
"""Study `instructions`: eight clusters tuned on with their instructions, with the tasks' names in
their place, or with the inputs alone; asked with instructions."""

from small_world import BITS, EIGHT, SCORE, draws, tuned

from itx.config import RunConfig
from itx.study.spec import Arm, Comparison, Study

FLAN = "FLAN (arXiv:2109.01652) found 55.2 for held-out tasks with instructions in tuning, 46.6 with the data set's name alone and 37.3 without either"


def get_config(quick: bool = False) -> RunConfig:
    return tuned(quick)


def get_study(quick: bool = False) -> Study:
    return Study(
        name="instructions",
        question="Is it the instruction, in tuning, that helps with tasks never seen?",
        arms=(
            Arm("instructions", (EIGHT,)),
            Arm("names alone", ("--data.mixture=named_draw_{draw}",)),
            Arm("inputs alone", ("--data.mixture=bare_draw_{draw}",)),
        ),
        draws=draws(quick),
        measures=(BITS, SCORE),
        comparisons=(
            Comparison("names alone", "instructions", "better", FLAN),
            Comparison("inputs alone", "instructions", "better", FLAN),
        ),
    )
