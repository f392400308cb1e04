# SPDX-License-Identifier: Apache-2.0
"""Study `specialists`: one model of four clusters beside four models of one each, for equally many
tokens in all, on new examples of their tasks."""

from small_world import STEPS, draws, tuned

from itx.config import RunConfig
from itx.study.spec import Arm, Comparison, Measure, Study

T5 = "Raffel et al. (arXiv:1910.10683, section 3.5.2) found a model trained on all tasks at once behind models tuned on each"
FOUR = 4


def get_config(quick: bool = False) -> RunConfig:
    return tuned(quick)


def get_study(quick: bool = False) -> Study:
    quarter = () if quick else (f"--train.steps={STEPS // FOUR}",)
    return Study(
        name="specialists",
        question="Is one model of several clusters as good on each as a model of its own?",
        arms=(
            *(
                Arm(
                    f"specialist {n}",
                    (
                        f"--data.mixture=alone_{n}_draw_{{draw}}",
                        f"--eval.tasks={{alone_{n}}}",
                        *quarter,
                    ),
                    side="specialists",
                )
                for n in range(FOUR)
            ),
            Arm("multitask", ("--data.mixture=multitask_draw_{draw}", "--eval.tasks={four}")),
        ),
        draws=draws(quick),
        measures=(
            Measure("instruction information, new examples", "bits"),
            Measure("accuracy, new examples", "score"),
        ),
        comparisons=(Comparison("specialists", "multitask", "worse", T5),),
    )
