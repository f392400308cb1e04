# SPDX-License-Identifier: Apache-2.0
"""Study `shots`: 0, 25, 50 or 100 % of the examples tuned on stand behind two exemplars; asked
without exemplars and with two."""

from small_world import BITS, SCORE, draws, tuned

from itx.config import RunConfig
from itx.study.spec import Arm, Comparison, Measure, Study
from tasks.studies import SHARES

FLAN2022 = "The Flan Collection (arXiv:2301.13688) found tuning with and without exemplars mixed better than either alone, in both ways of asking"
FEW_SHOT = Measure("accuracy behind two exemplars, held-out clusters", "score", variant="fs2")


def get_config(quick: bool = False) -> RunConfig:
    return tuned(quick)


def get_study(quick: bool = False) -> Study:
    return Study(
        name="shots",
        question="Does tuning with exemplars help without them, and with them?",
        arms=tuple(
            Arm(f"{p} in 100 few-shot", (f"--data.mixture=shots_{p}_draw_{{draw}}",), place=p)
            for p in SHARES
        ),
        draws=draws(quick, ":fs2"),
        measures=(BITS, SCORE, FEW_SHOT),
        comparisons=(
            Comparison("0 in 100 few-shot", "25 in 100 few-shot", "better", FLAN2022),
            Comparison(
                "0 in 100 few-shot", "50 in 100 few-shot", "better", FLAN2022, FEW_SHOT.name
            ),
            Comparison("100 in 100 few-shot", "50 in 100 few-shot", "better", FLAN2022),
        ),
        axis="examples in 100 behind exemplars",
    )
