# SPDX-License-Identifier: Apache-2.0
"""Tasks over public data in files under `data.root`, and the mixture `real_mix` of them.

    alpaca, dolly   open instructions: alpaca/alpaca_sample.jsonl.gz, dolly/dolly_3k_sample.jsonl
    gsm8k           word problems, direct and `:cot`: gsm8k/{train.jsonl.gz,test_part.jsonl}
    ni.*            one task per entry of natural_instructions/index.jsonl whose format is "v2"
    bbh.*, ii.*     evaluation only: tasks/bbh.py, tasks/induction.py

Your own JSON lines: copy one of the calls below and name your file and fields. Wordings are our own;
definitions of Natural Instructions are its authors'. Importing this module reads no data.
"""

import re
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any

from itx.build import readers, sources
from itx.errors import UserError, did_you_mean
from itx.tasks.registry import family, instruction_task, make_task, mixture
from itx.tasks.spec import CoT, Skip, Source, TaskSpec, jsonl
from tasks import bbh, induction  # noqa: F401  (registers what real_mix is evaluated on)

# "<noinput>", "No input required.", "N/A", "None", … stand for "there is no input"
_NO_INPUT = re.compile(
    r"\W*(no[ _]?inputs?(?: (?:needed|required|provided|given|necessary))?|n/a|none)\W*", re.IGNORECASE
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
        [
            ("{question}\nThink step by step.", "{rationale}\nThe answer is {answer}."),
            ("Solve this problem and write down how.\n{question}", "{rationale}\nThe answer is {answer}."),
            ("Problem: {question}\nSteps and result:", "{rationale}\nThe answer is {answer}."),
            ("{question}\nExplain each calculation before you answer.", "{rationale}\nThe answer is {answer}."),
            ("Reason first, then state the number.\n\n{question}", "{rationale}\nThe answer is {answer}."),
            ("Show your work.\n{question}", "{rationale}\nThe answer is {answer}."),
        ],
        [
            ("A pupil has to calculate: {question}\nLead them through it.", "{rationale}\nThe answer is {answer}."),
            ("{question}\nGo slowly, one line per thought.", "{rationale}\nThe answer is {answer}."),
        ],
    ),
)  # fmt: skip


NI_FOLDER = "natural_instructions"
NI_TEMPLATES = [
    ("{definition}\n\n{input}", "{answer}"),
    ("{definition}\n\nInput: {input}\nOutput:", "{answer}"),
    ("{input}\n\nWhat to do with the text above: {definition}", "{answer}"),
    ("Read the instructions and carry them out.\n{definition}\n\nCase: {input}\nResult:", "{answer}"),
]
NI_HELDOUT = [
    ("Here is a job for you. {definition}\nMaterial:\n{input}\nYour solution:", "{answer}"),
    ("Given: {input}\nDo this: {definition}", "{answer}"),
]
# Mean words of a task's answers up to which one wording is right, and exact match is a fair score
NI_SHORT_ANSWER = 3.0


def slug(text: str) -> str:
    """`Pos Tagging` -> `pos_tagging`: ASCII letters, digits and `_`."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "_", plain).strip("_")


def ni_fields(definition: str) -> Callable[[dict], Any]:
    """The `fields` of one Natural Instructions task: its definition, the instance's input, all references."""

    def fields(instance: dict) -> Any:
        references = list(dict.fromkeys(o.strip() for o in instance["output"] if o.strip()))
        if not references:
            return Skip("empty output")
        if not instance["input"].strip():
            return Skip("empty input")
        return {"definition": definition, "input": instance["input"].strip(), "answer": references}

    return fields


def ni_task(entry: Mapping[str, Any], document: Mapping[str, Any]) -> TaskSpec:
    """A line of the index and the task's file -> its spec (the name's other characters become `_`)."""
    file = _ni_file(entry)
    for key, kind in (("Definition", list), ("Instances", list)):
        if not isinstance(document, dict) or not isinstance(document.get(key), kind):
            keys = list(document) if isinstance(document, dict) else []
            raise UserError(f"{file}: {key!r} is not a list there" + ("" if key in keys else did_you_mean(key, keys)))
    definition = " ".join(str(d).strip() for d in document["Definition"])
    rows = [i for i in document["Instances"] if isinstance(i, dict)]  # others are told when they are read
    answers = [str(o) for i in rows for o in (i.get("output") or ())[:1]]
    short = sum(len(a.split()) for a in answers) <= NI_SHORT_ANSWER * len(answers)
    return make_task(
        "ni." + re.sub(r"[^A-Za-z0-9_.]", "_", entry["task"]), version=1, cluster=slug(entry["category"]),
        source=Source("json", {"train": _ni_file(entry)}, options={"rows": "Instances", "id": "id"}),
        fields=ni_fields(definition), content=("input",), origin=tuple(slug(s) for s in entry["source"]),
        metrics=("exact_match", "rouge_l") if short else ("rouge_l", "token_f1"),
        templates=NI_TEMPLATES, heldout_templates=NI_HELDOUT, module=__name__,
    )  # fmt: skip


def _ni_file(entry: Mapping[str, Any]) -> str:
    return f"{NI_FOLDER}/tasks/{entry['task']}.json"


def ni_members(root: str) -> list[TaskSpec]:
    """Every task of format "v2" in the index under a data root."""
    index = sources.find_file(f"{NI_FOLDER}/index.jsonl", root)
    found = []
    for row, entry in readers.read_jsonl(index, {}):
        if isinstance(entry, readers.Bad):  # a task would be missing and nobody would know
            raise UserError(f"{NI_FOLDER}/index.jsonl:{row}: {entry.reason} ({entry.detail})")
        if entry.get("format") != "v2":
            continue
        for key in ("task", "category", "source"):
            if key not in entry:
                raise UserError(f"{NI_FOLDER}/index.jsonl:{row}: no {key!r}" + did_you_mean(key, entry))
        found.append(ni_task(entry, readers.read_document(sources.find_file(_ni_file(entry), root))))
    return found


family("ni", ni_members)

# Examples-proportional with a cap: without it alpaca and GSM8K, each a hundred times as large as a task
# of Natural Instructions, would leave such a task a handful of examples in a short run.
REAL_MIX_MAXIMUM = 600
mixture("real_mix", ["alpaca", "dolly", "gsm8k", "gsm8k:cot", "ni.*"], maximum=REAL_MIX_MAXIMUM)
