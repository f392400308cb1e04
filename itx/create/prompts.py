# SPDX-License-Identifier: Apache-2.0
"""Self-Instruct's four questions to a model (Wang et al., 2023, section 2.2 and appendix A), and
how its answers are read. An answer that cannot be read says why; nothing in one is anything but
text.

    instructions   eight tasks are shown, further ones are asked for
    kind           is it a classification?
    input first    an input, then the output (any task)
    output first   a label, then an input with this label (classifications, else most would have
                   the same label)

A prompt ends where the model goes on, so that a model that was never tuned can be asked. A chat
model gets the same text as one message, and a line before it that says what to do.
"""

import re
from collections.abc import Sequence

from itx.create.seeds import Seed

SHOWN = 8  # tasks in the context of a request for instructions: SEEDS human and the rest machine
SEEDS = 6
NO_INPUT = "(none)"
ASKED = 8  # instructions that an answer may hold beyond those shown
_LEADS = {
    "instructions": "Continue this numbered list of varied tasks, one on a line. Write only it.",
    "kind": "Answer the last question with Yes or No.",
    "input first": "Go on with the last task in the same form. Write only its Input and Output.",
    "output first": "Go on with the last task in the same form. Write only its Output and Input.",
}


def lead(stage: str) -> str:
    """What a chat model is told before a prompt."""
    return _LEADS[stage]


def instructions(shown: Sequence[str]) -> str:
    lines = [f"{n}. {_line(task)}" for n, task in enumerate(shown, 1)]
    return "Come up with a series of tasks:\n\n" + "\n".join(lines) + f"\n{len(shown) + 1}."


def kind(shown: Sequence[Seed], instruction: str) -> str:
    said = {True: "Yes", False: "No"}
    parts = [
        f"Task: {_line(s.instruction)}\nIs it classification? {said[s.is_classification]}"
        for s in shown
    ]
    parts.append(f"Task: {_line(instruction)}\nIs it classification?")
    question = (
        "Can the following task be regarded as a classification task with finite output labels?"
    )
    return f"{question}\n\n" + "\n\n".join(parts)


def input_first(shown: Sequence[Seed], instruction: str) -> str:
    parts = [
        f"Task: {_line(s.instruction)}\nInput: {s.input or NO_INPUT}\nOutput: {s.output}"
        for s in shown
    ]
    parts.append(f"Task: {_line(instruction)}\nInput:")
    return (
        "Come up with an example for the following tasks. If a task needs no input, its input is "
        f"{NO_INPUT}.\n\n" + "\n\n".join(parts)
    )


def output_first(shown: Sequence[Seed], instruction: str) -> str:
    parts = [
        f"Task: {_line(s.instruction)}\nOutput: {s.output}\nInput: {s.input or NO_INPUT}"
        for s in shown
    ]
    parts.append(f"Task: {_line(instruction)}\nOutput:")
    return (
        "Given the classification task definition and a class label, write an input that has this "
        "label.\n\n" + "\n\n".join(parts)
    )


def _line(said: str) -> str:
    """A text on one line."""
    return " ".join(said.split())


# ---- answers

STOPS = {
    "instructions": (f"\n{SHOWN + ASKED + 1}.",),
    "kind": ("\n",),
    "input first": ("\nTask:",),
    "output first": ("\nTask:",),
}
_NUMBER = re.compile(r"^[ \t]*(?:[Tt]ask[ \t]*)?(\d{1,3})[ \t]*[.):][ \t]*", re.MULTILINE)


def read_instructions(answer: str, cut: bool) -> tuple[list[str], dict[str, int]]:
    """(the tasks of a numbered list that goes on behind the prompt, {why a part of it is none:
    how many}). The last one of an answer that was cut is not whole."""
    said = answer.replace("\r\n", "\n")
    first = _NUMBER.match(said)
    # the prompt ended in the first number; a chat model writes it again
    said = said if first else f"{SHOWN + 1}. {said}"
    begins = list(_NUMBER.finditer(said))
    ends = [m.start() for m in begins[1:]] + [len(said)]
    items = [said[m.end() : end] for m, end in zip(begins, ends, strict=True)]
    lost: dict[str, int] = {}
    if cut and items:
        items.pop()
        lost["cut off"] = 1
    out = []
    for item in items:
        # what follows an empty line belongs to no task of the list
        task, _, more = item.strip().partition("\n\n")
        task = _line(task)
        if not task:
            lost["empty"] = lost.get("empty", 0) + 1
            continue
        if more.strip():
            lost["text behind a task"] = lost.get("text behind a task", 0) + 1
        out.append(task)
    return out, lost


_YES = re.compile(r"\W*(yes|true|да|是)\b|\W*是", re.IGNORECASE)
_NO = re.compile(r"\W*(no|false|нет|не)\b|\W*(?:不|否)", re.IGNORECASE)


def read_kind(answer: str) -> bool | None:
    """Whether it is a classification; None where the answer says neither."""
    if _NO.match(answer):
        return False
    return True if _YES.match(answer) else None


_FIELD = re.compile(
    r"^[ \t]*\**(Input|Output|Class label)\**[ \t]*:\**[ \t]*", re.MULTILINE | re.IGNORECASE
)
_NONE = re.compile(
    r"\W*(?:none|no input|n/?a|not applicable|no input (?:is )?(?:required|needed)|noinput|нет)\W*",
    re.IGNORECASE,
)


def read_instance(answer: str, output_first: bool) -> tuple[str, str, bool] | str:
    """(input, output, whether something follows) of an answer that goes on behind `Input:` (or
    `Output:`), or why it is none. Further instances behind the first are left out; where one
    follows, the first is whole even if the answer was cut."""
    names = ("output", "input") if output_first else ("input", "output")
    said = answer.replace("\r\n", "\n")
    fields = list(_FIELD.finditer(said))
    if not (fields and fields[0].start() == 0 and _named(fields[0][1]) == names[0]):
        # the prompt ended in the first name; what stands before the first mark is its value
        said = f"{names[0].capitalize()}: {said}"
        fields = list(_FIELD.finditer(said))
    found: dict[str, str] = {}
    follows = False
    ends = [m.start() for m in fields[1:]] + [len(said)]
    for m, end in zip(fields, ends, strict=True):
        name = _named(m[1])
        if follows := name in found:
            break
        found[name] = said[m.end() : end].strip()
    if missing := [n for n in names if n not in found]:
        return f"no {missing[0]}"
    given = "" if _NONE.fullmatch(found["input"]) else found["input"]
    if output_first and not given:
        return "a label without an input"
    return given, found["output"], follows


def _named(name: str) -> str:
    return "input" if name.casefold() == "input" else "output"
