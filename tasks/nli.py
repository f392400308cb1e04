# SPDX-License-Identifier: Apache-2.0
"""Natural language inference: does one text follow from another?"""

from itx.tasks.registry import instruction_task
from itx.tasks.spec import tfds
from tasks.from_tfds import of_cluster, origins, plain, to_answer

NLI = {**of_cluster("nli"), "metrics": ("accuracy",)}
OPEN = "it is not possible to tell"
HELDOUT = to_answer(
    "Suppose these lines are true: {premise}\nMust one then accept that {hypothesis}?\n{options}",
    "{options}\nClaim: {hypothesis}\nEvidence: {premise}\nVerdict:",
)
TWO_WAY = to_answer(
    "{premise}\nDoes it follow that {hypothesis}?\n{options}",
    "Premise: {premise}\nHypothesis: {hypothesis}\nDoes the premise entail the hypothesis?\n{options}",
    "Read this text.\n{premise}\n\nGiven the text, can we conclude the following?\n{hypothesis}\n{options}",
    "Text: {premise}\n\nStatement: {hypothesis}\n\nIs the statement implied by the text?\n{options}",
    "Here is a sentence: {premise}\nSomeone infers from it: {hypothesis}\nIs that inference right?\n{options}",
    "{premise}\nQuestion: is it therefore certain that {hypothesis} Answer yes or no.",
    "Say yes if the second text follows from the first, else no.\n1. {premise}\n2. {hypothesis}",
)
THREE_WAY = to_answer(
    "{premise}\nDoes it follow that {hypothesis}?\n{options}",
    "Premise: {premise}\nHypothesis: {hypothesis}\nIs the hypothesis true, given the premise?\n{options}",
    "Read this text.\n{premise}\n\nIs the following right according to it?\n{hypothesis}\n{options}",
    "Text: {premise}\n\nStatement: {hypothesis}\n\nDoes the text settle the statement?\n{options}",
    "Somebody knows only this: {premise}\nWhat should they reply when told: {hypothesis}\n{options}",
    "{premise}\nQuestion: {hypothesis} True? Answer yes, no, or " + OPEN + ".",
    "Say yes if the second text follows from the first, no if they exclude each other, otherwise " + OPEN
    + ".\n1. {premise}\n2. {hypothesis}",
)  # fmt: skip
LABELLED = plain(premise="premise", hypothesis="hypothesis")

instruction_task(
    "rte", **NLI, origin=origins("rte"), options=("yes", "no"), templates=TWO_WAY, heldout_templates=HELDOUT,
    source=tfds("glue/rte:2.0.0", {"train": "train[:-200]", "validation": "train[-200:]", "test": "validation"}),
    fields=plain(premise="sentence1", hypothesis="sentence2"),
)  # fmt: skip
instruction_task(
    "wnli", **NLI, origin=origins("wnli"), options=("no", "yes"), templates=TWO_WAY, heldout_templates=HELDOUT,
    source=tfds("glue/wnli:2.0.0", {"train": "train", "test": "validation"}),
    fields=plain(premise="sentence1", hypothesis="sentence2"),
)  # fmt: skip
instruction_task(
    "mnli", **NLI, origin=origins("mnli"), options=("yes", OPEN, "no"), fields=LABELLED,
    source=tfds("glue/mnli:2.0.0", {"train": "train", "validation": "validation_matched", "test": "validation_mismatched"}),
    templates=THREE_WAY, heldout_templates=HELDOUT,
)  # fmt: skip
instruction_task(
    "snli", **NLI, origin=origins("snli"), options=("yes", OPEN, "no"), fields=LABELLED,
    source=tfds("snli:1.1.0", ("train", "validation", "test")), templates=THREE_WAY, heldout_templates=HELDOUT,
)  # fmt: skip
instruction_task(
    "cb", **NLI, origin=origins("cb"), options=("yes", "no", OPEN), fields=LABELLED,
    source=tfds("super_glue/cb:1.0.2", {"train": "train", "test": "validation"}),
    templates=THREE_WAY, heldout_templates=HELDOUT,
)  # fmt: skip
for part in ("r1", "r2", "r3"):
    instruction_task(
        f"anli_{part}", **NLI, origin=origins("anli"), options=("yes", OPEN, "no"),
        source=tfds(f"anli/{part}:0.1.0", ("train", "validation", "test")),
        fields=plain(premise="context", hypothesis="hypothesis"), templates=THREE_WAY, heldout_templates=HELDOUT,
    )  # fmt: skip

instruction_task(
    "qnli", **NLI, origin=origins("qnli"), options=("yes", "no"),
    source=tfds("glue/qnli:2.0.0", {"train": "train", "test": "validation"}),
    fields=plain(question="question", sentence="sentence"),
    templates=to_answer(
        "{question}\nDoes this sentence answer it? {sentence}\n{options}",
        "Sentence: {sentence}\nQuestion: {question}\nIs the answer in the sentence?\n{options}",
        "I asked: {question}\nI found: {sentence}\nIs my question answered by that?\n{options}",
        "Can one reply to the question using only the sentence?\n{options}\nQuestion: {question}\nSentence: {sentence}",
        "Decide whether the information asked for is given.\nAsked: {question}\nGiven: {sentence}\n{options}",
        "{sentence}\nDoes that tell you the answer to \"{question}\"? Yes or no?",
        "Reply yes if the line answers the question and no if it does not.\nLine: {sentence}\nQuestion: {question}",
    ),
    heldout_templates=to_answer(
        "A search for \"{question}\" returned: {sentence}\nWas it a hit?\n{options}",
        "{options}\n{sentence}\nEnough to resolve this? {question}",
    ),
)  # fmt: skip
