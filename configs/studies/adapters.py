# SPDX-License-Identifier: Apache-2.0
"""Study `adapters`: LoRA of several ranks and prefixes of several lengths beside tuning all
parameters, as tests of equivalence."""

from small_world import BITS, EIGHT, SCORE, draws, tuned

from itx.config import RunConfig
from itx.study.spec import Arm, Comparison, Study

LORA = (
    "LoRA (arXiv:2106.09685) found low ranks about equal to, or better than, full tuning of GPT-3"
)
PREFIX = (
    "Prefix tuning (arXiv:2101.00190) found 0.1 % of GPT-2's parameters about equal to all of them"
)
ADAMW = ("--optim.name=adamw", "--optim.learning_rate=5e-3")


def get_config(quick: bool = False) -> RunConfig:
    return tuned(quick)


def get_study(quick: bool = False) -> Study:
    ranks, lengths = (1, 4, 16), (4, 16, 64)
    lora = {f"LoRA of rank {r}": f"--peft.method=lora --peft.rank={r} --peft.alpha={2 * r}" for r in ranks}  # fmt: skip
    prefix = {f"prefix of {n}": f"--peft.method=prefix --peft.length={n}" for n in lengths}
    return Study(
        name="adapters",
        question="Do small adapters reach what tuning all parameters reaches?",
        arms=(
            Arm("all parameters", (EIGHT,)),
            *(
                Arm(name, (EIGHT, *ADAMW, *words.split()))
                for name, words in {**lora, **prefix}.items()
            ),
        ),
        draws=draws(quick),
        measures=(BITS, SCORE),
        comparisons=(
            *(Comparison("all parameters", name, "equivalent", LORA) for name in lora),
            *(Comparison("all parameters", name, "equivalent", PREFIX) for name in prefix),
        ),
        notes="Adapters train with AdamW at 5e-3, all parameters with Muon at 3e-3; no rate was searched for.",
    )
