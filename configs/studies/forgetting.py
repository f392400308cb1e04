# SPDX-License-Identifier: Apache-2.0
"""Study `forgetting`: what tuning costs of the documents that the base was pretrained on, without
and with a tenth of them replayed, beside a control that is tuned on nothing else."""

from small_world import BITS, EIGHT, SCORE, draws, tuned

from itx.config import RunConfig, changed
from itx.study.spec import Arm, Comparison, Measure, Study

REHEARSAL = (
    "Continual-T0 (Scialom et al. 2022, arXiv:2205.12393) keeps what it could before with one "
    "example in a hundred rehearsed"
)


def get_config(quick: bool = False) -> RunConfig:
    return changed(tuned(quick), "data", target_length=128)  # a document is a target as a whole


def get_study(quick: bool = False) -> Study:
    text = "few_documents" if quick else "toy_documents"
    kept = f"--eval.retention={text}"
    return Study(
        name="forgetting",
        question="How much of the pretraining does tuning forget, and does replaying text prevent it?",
        arms=(
            Arm("not tuned", (EIGHT, kept, "--train.steps=0")),
            Arm("text alone", (f"--data.mixture={text}", kept)),
            Arm("instructions alone", (EIGHT, kept)),
            Arm(
                "a tenth of text", (EIGHT, kept, "--data.replay=0.1", f"--data.replay_task={text}")
            ),
        ),
        draws=draws(quick),
        measures=(Measure("documents of the pretraining", "text"), BITS, SCORE),
        comparisons=(
            Comparison("text alone", "instructions alone", "worse", REHEARSAL),
            Comparison("instructions alone", "a tenth of text", "better", REHEARSAL),
        ),
        notes="Of text a positive difference is fewer bits per byte.",
    )
