# SPDX-License-Identifier: Apache-2.0
"""Tasks over public data in files under `data.root`, and the mixtures `real_mix*` of them.

    alpaca, dolly, instruction_1100, self_instruct   open instructions: a JSONL file each in the
                                                     folder of that name
    gsm8k           word problems, direct and `:cot`: gsm8k/{train.jsonl.gz,test_part.jsonl}
    flan_cot.*      seven sets with written-out reasoning, direct and `:cot`:
                    flan_cot/*_train.sample.tsv
    ni.*            Natural Instructions: tasks/natural_instructions.py
    p3.*            P3, the T0 training part: tasks/p3.py
    c4_demo.*       plain text, no instructions: tasks/text.py
    bbh.*, bbh_cot.*, ii.*, mmlu.*   evaluation only: tasks/bbh.py, tasks/induction.py, tasks/mmlu.py

Your own JSON lines: copy one of the calls below and name your file and fields. Wordings are our
own. Importing this module reads no data.
"""

import re
from typing import Any

from itx.tasks.registry import instruction_task, mixture
from itx.tasks.spec import CoT, Skip, Template, jsonl, tsv
from tasks import bbh, dialog, induction, mmlu, natural_instructions, p3, text  # noqa: F401  (they register tasks and families)

# "<noinput>", "No input required.", "N/A", "None", … stand for "there is no input"
_NO_INPUT = re.compile(
    r"\W*(no[ _]?inputs?(?: (?:needed|required|provided|given|necessary))?|n/a|none)\W*",
    re.IGNORECASE,
)
# GSM8K's calculator marks; their result follows them in the text
_CALCULATOR = re.compile(r"<<[^<>]*>>")


def request_fields(example: dict) -> Any:
    """instruction, input, output -> {request, marked, answer}; two ways to join what is asked and its input.

    {"instruction": "Translate", "input": "cat"} -> request "Translate\\n\\ncat", marked "Translate\\nInput: cat".
    """
    instruction, given = example["instruction"].strip(), example["input"].strip()
    if not example["output"].strip():
        return Skip("empty output")
    if not instruction:
        return Skip("empty instruction")
    if not given or _NO_INPUT.fullmatch(given):
        request = marked = instruction
    else:
        request, marked = f"{instruction}\n\n{given}", f"{instruction}\nInput: {given}"
    return {"request": request, "marked": marked, "answer": example["output"].strip()}


REQUEST_TEMPLATES = [
    ("{request}", "{answer}"),
    ("{marked}", "{answer}"),
    ("{marked}\nOutput:", "{answer}"),
    ("Do what is asked below.\n\n{request}\n\nAnswer:", "{answer}"),
    ("Instruction: {marked}\nResponse:", "{answer}"),
    ("Somebody sent this message:\n{request}\n\nWrite a fitting reply.", "{answer}"),
    ("Complete the task.\n{marked}\n\nYour result:", "{answer}"),
]
REQUEST_HELDOUT = [
    ("A user needs help with the following.\n{request}\n\nHelp them:", "{answer}"),
    ("### Question\n{marked}\n### Reply", "{answer}"),
]

instruction_task(
    "alpaca", version=1, cluster="open_instructions", origin=("alpaca", "self_instruct"),
    source=jsonl({"train": "alpaca/alpaca_sample.jsonl.gz"}), fields=request_fields, content=("request",),
    metrics=("rouge_l", "token_f1"), templates=REQUEST_TEMPLATES, heldout_templates=REQUEST_HELDOUT,
)  # fmt: skip


instruction_task(
    "instruction_1100", version=1, cluster="open_instructions", origin=("instruction_1100",), fields=request_fields,
    source=jsonl({"train": "instruction_1100/instruction-data.jsonl"}), content=("request",),
    metrics=("rouge_l", "token_f1"), templates=REQUEST_TEMPLATES, heldout_templates=REQUEST_HELDOUT,
)  # fmt: skip


def self_instruct_fields(example: dict) -> Any:
    """One instruction with several instances: an example each."""
    return [
        request_fields({**i, "instruction": example["instruction"]}) for i in example["instances"]
    ]


instruction_task(
    "self_instruct", version=1, cluster="open_instructions", origin=("self_instruct",), fields=self_instruct_fields,
    source=jsonl({"train": "self_instruct/seed_tasks.jsonl"}), content=("request",),
    metrics=("rouge_l", "token_f1"), templates=REQUEST_TEMPLATES, heldout_templates=REQUEST_HELDOUT,
)  # fmt: skip


def dolly_fields(example: dict) -> Any:
    """As alpaca, with the category beside it (templates need not name it)."""
    values = request_fields(example)
    return values if isinstance(values, Skip) else {**values, "category": example["category"]}


instruction_task(
    "dolly", version=1, cluster="open_instructions", origin=("databricks_dolly",), metrics=("rouge_l", "token_f1"),
    source=jsonl({"train": "dolly/dolly_3k_sample.jsonl"}), fields=dolly_fields, content=("request",),
    templates=REQUEST_TEMPLATES, heldout_templates=REQUEST_HELDOUT,
)  # fmt: skip


def gsm8k_fields(example: dict) -> Any:
    """question, "steps\\n#### 1,080" -> {question, rationale, answer: "1080"}, calculator marks taken out."""
    rationale, mark, answer = example["answer"].rpartition("####")
    rationale, answer = _CALCULATOR.sub("", rationale).strip(), answer.strip().replace(",", "")
    if not mark or not re.fullmatch(r"-?\d+(\.\d+)?", answer):
        return Skip("no number after ####")
    if not rationale:
        return Skip("no steps")
    return {"question": example["question"].strip(), "rationale": rationale, "answer": answer}


def reasoned(*prompts: str) -> list[Template]:
    """Prompts whose target is the reasoning and, behind it, the answer."""
    return [(p, "{rationale}\nThe answer is {answer}.") for p in prompts]


# Some prompts of `:cot` ask for reasoning and some do not: it should come unasked too. None is one
# of the direct ones, whose target is the answer alone.
instruction_task(
    "gsm8k", version=1, cluster="math_word_problems", origin=("gsm8k",), metrics=("numeric",), fields=gsm8k_fields,
    source=jsonl({"train": "gsm8k/train.jsonl.gz", "test": "gsm8k/test_part.jsonl"}),
    templates=[
        ("{question}", "{answer}"),
        ("{question}\nAnswer with a number.", "{answer}"),
        ("Solve this problem and give only the result.\n{question}", "{answer}"),
        ("Problem: {question}\nResult:", "{answer}"),
        ("Work out the number that is asked for.\n\n{question}\n\nNumber:", "{answer}"),
        ("Here is a word problem.\n{question}\nWhat comes out?", "{answer}"),
    ],
    heldout_templates=[
        ("A pupil has to calculate: {question}\nTell the final value.", "{answer}"),
        ("{question}\nReply with digits alone.", "{answer}"),
    ],
    cot=CoT(
        reasoned(
            "{question}\nThink step by step.",
            "Solve this problem and write down how.\n{question}",
            "Problem: {question}\nSteps and result:",
            "{question}\nExplain each calculation before you answer.",
            "Reason first, then state the number.\n\n{question}",
            "Show your work.\n{question}",
            "{question}\nSolution:",
            "A word problem for you: {question}",
        ),
        reasoned("A pupil has to calculate: {question}\nLead them through it.", "{question}\nGo slowly, one line per thought."),
    ),
)  # fmt: skip


def flan_cot_fields(example: dict) -> Any:
    """input, answer, rationale; the file writes newlines as the two characters `\\n`."""
    values = {
        k: example[k].replace("\\n", "\n").strip() for k in ("question", "answer", "rationale")
    }
    empty = [k for k, v in values.items() if not v]
    return Skip(f"empty {empty[0]}") if empty else values


# file -> (cluster, data set it was made from)
FLAN_COT = {
    "aqua": ("math_word_problems", "aqua_rat"), "creak": ("closed_book_qa", "creak"), "ecqa": ("commonsense", "commonsense_qa"),
    "gsm8k": ("math_word_problems", "gsm8k"), "qasc": ("commonsense", "qasc"), "sensemaking": ("commonsense", "sensemaking"),
    "strategyqa": ("closed_book_qa", "strategyqa"),
}  # fmt: skip
for name, (cluster, origin) in FLAN_COT.items():
    # the inputs of these files are whole prompts in several wordings: ours only say what kind of
    # answer is wanted
    instruction_task(
        f"flan_cot.{name}", version=1, cluster=cluster, origin=(origin,), fields=flan_cot_fields, content=("question",),
        source=tsv({"train": f"flan_cot/{name}_train.sample.tsv"}, columns=("question", "answer", "rationale")),
        templates=[
            ("{question}", "{answer}"),
            ("{question}\nAnswer:", "{answer}"),
            ("{question}\nReply with the answer alone.", "{answer}"),
            ("Answer this.\n{question}", "{answer}"),
            ("Question: {question}\nShort answer:", "{answer}"),
        ],
        heldout_templates=[("Here is something to decide.\n{question}\nYour verdict:", "{answer}"), ("{question}\n=>", "{answer}")],
        cot=CoT(
            reasoned(
                "{question}\nThink step by step.",
                "{question}\nGive reasons, then the answer.",
                "Answer this and say why.\n{question}",
                "Question: {question}\nReasoning and answer:",
                "{question}\nExplain your choice, then state it.",
                "Q: {question}\nA:",
                "Here is a question.\n{question}",
            ),
            reasoned("Consider this with care, then decide.\n{question}"),
        ),
    )  # fmt: skip

# Examples-proportional with a cap: without it alpaca and GSM8K, each a hundred times as large as a
# task of Natural Instructions, would leave such a task a handful of examples in a short run.
REAL_MIX_MAXIMUM = 600
COT = [f"flan_cot.{name}{kind}" for name in FLAN_COT for kind in ("", ":cot")]
mixture(
    "real_mix",
    ["alpaca", "dolly", "gsm8k", "gsm8k:cot", *COT, "ni.*", "p3.*"],
    maximum=REAL_MIX_MAXIMUM,
)
# one of each kind, for the quick variant of configs/real_mix.py
FEW = ["dolly", "gsm8k", "gsm8k:cot", "flan_cot.creak:cot", "p3.samsum", "ni.task1600_smcalflow_sentence_generation",
       "ni.subtask024_cosmosqa_answer_generation", "ni.task141_odd_man_out_classification_category",
       "ni.task002_quoref_answer_generation"]  # fmt: skip
mixture("real_mix_few", FEW, maximum=REAL_MIX_MAXIMUM)
# one example in twenty is plain text, against forgetting; for an encoder-decoder take
# c4_demo.span_corruption
mixture("real_mix_replay", {"real_mix": 0.95, "c4_demo.lm": 0.05})
# everything that may be trained on (tests/data_page.py tells what it is)
OPEN = ["alpaca", "dolly", "instruction_1100", "self_instruct"]
mixture(
    "all_files",
    [
        *OPEN,
        "gsm8k",
        "gsm8k:cot",
        *COT,
        "ni.*",
        "p3.*",
        *dialog.FILES,
        "c4_demo.lm",
        "c4_demo.prefix_lm",
    ],
    maximum=3 * REAL_MIX_MAXIMUM,
)
