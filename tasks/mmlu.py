# SPDX-License-Identifier: Apache-2.0
"""MMLU (Hendrycks et al. 2021, arXiv:2009.03300), `mmlu.*`: a task per subject in
`<data.root>/mmlu/{dev,test}/`, for evaluation only.

The five dev questions are the exemplars of `mmlu.<subject>:fs5`; options keep their order ("all of
the above"). Ranking by probability is the primary score. Wordings are our own.
"""

from typing import Any

from itx.tasks.registry import family, family_folder, make_task
from itx.tasks.spec import Skip, TaskSpec, csv

CHOICES = [f"choice{i}" for i in range(4)]
TEMPLATES = [
    ("{question}\n{options}\nAnswer:", "{answer}"),
    ("A question about {subject}.\n{question}\n{options}", "{answer}"),
    ("Pick the right answer.\n\n{question}\n{options}", "{answer}"),
]


def fields_of(subject: str) -> Any:
    def fields(row: dict) -> Any:
        question, options = row["question"].strip(), tuple(row[c].strip() for c in CHOICES)
        if not question or not all(options):
            return Skip("empty question or choice")
        return {
            "question": question,
            "subject": subject,
            "options": options,
            "answer": int(row["answer"]),
        }

    return fields


def members(root: str) -> list[TaskSpec]:
    """A spec per subject of which the folder has a test file."""
    folder = family_folder("mmlu", "mmlu/test", root)
    return [
        make_task(
            f"mmlu.{name}", version=1, cluster="exams", origin=("mmlu",), evaluation_only=True, metrics=("accuracy",),
            source=csv({"train": f"mmlu/dev/{name}_dev.csv", "test": f"mmlu/test/{name}_test.csv"}), primary="rank",
            fields=fields_of(name.replace("_", " ")), templates=TEMPLATES, content=("question", "options"),
            option_styles=("(A)", "A."), shuffle_options=False, module=__name__,
        )
        for name in sorted(p.name.removesuffix("_test.csv") for p in folder.glob("*_test.csv"))
    ]  # fmt: skip


family("mmlu", members)
