# SPDX-License-Identifier: Apache-2.0
"""`itx tasks check`: a sound task passes, and each way to break one is named."""

import pytest

from itx.build import check
from itx.errors import UserError
from itx.tasks import registry
from itx.tasks.registry import make_task
from itx.tasks.spec import CoT, Skip, function
from tests import sample_tasks  # noqa: F401  (registers)

N = 70  # more than the examples that most checks look at
BARE = ("{text}\nKind:", "{answer}")
COT = "{rationale}\nThe answer is {answer}."


def rows(split: str, root: str, seed: int):
    for i in range(N):
        yield {"n": i, "text": f"letter {i} came", "label": ("complaint", "question", "praise")[i % 3]}


def sound(e: dict) -> dict:
    return {"text": e["text"], "answer": e["label"], "rationale": f"Number {e['n']} is one."}


def problems(fields=sound, **changed) -> str:
    """What is found in the sound task but for what is changed."""
    if changed.get("options", ()) is None:
        changed = {"templates": [BARE], "heldout_templates": [], "cot": CoT([("{text}\nThink.", COT)]), **changed}
    spec = {
        "source": function(rows, {"train": 0.9, "test": 0.1}),
        "options": ("complaint", "question", "praise"), "metrics": ("accuracy",),
        "templates": [("What is it?\n{text}\n{options}", "{answer}"), ("{text}\nKind:", "{answer}")],
        "heldout_templates": [("{options}\nLabel: {text}", "It is {answer}.")], "option_styles": ("inline", "(A)"),
        "inverted": [("Write a {answer}.", "{text}")], "cot": CoT([("{text}\nThink.\n{options}", COT)]),
    }  # fmt: skip
    made = make_task("made", version=1, cluster="c", fields=fields, **{**spec, **changed})
    return "\n".join(check.check(made, ""))


def with_values(**values):
    """The sound task's fields, some of them computed otherwise from an example."""
    return lambda e: {**sound(e), **{k: f(e) for k, f in values.items()}}


def test_a_sound_task_passes():
    assert problems() == ""
    assert problems(options=None, metrics=("rouge_l", "exact_match")) == ""
    cased = {"options": ("Praise", "praise", "question"), "fields": with_values(answer=lambda e: e["n"] % 3)}
    assert "stands for the options" in problems(**cased, cot=None)
    assert problems(**cased, cot=None, metrics=("exact_string",)) == ""


BROKEN = {
    "a hole": ({"fields": with_values(text=lambda e: " ")}, "the field 'text' is empty"),
    "no such field": ({"templates": [("{txt}", "{answer}")]}, "needs the field 'txt'; did you mean 'text'"),
    "a label that is no option": (
        {"fields": with_values(answer=lambda e: "spam")}, "answer 'spam' is not among the options"),
    "a metric that does not fit": ({"metrics": ("numeric",)}, "the gold target scores below 1 under numeric"),
    "two options alike": (
        {"options": ("complaint", "question", "praise", "Praise!"), "option_styles": ("inline",)},
        "the answer 'praise' stands for the options ['praise', 'Praise!']"),
    "a metric that several options pass": (
        {"options": ("no", "no idea"), "metrics": ("contains",), "option_styles": ("inline",),
         "fields": with_values(answer=lambda e: e["n"] % 2)},
        "under contains, but chance is 0.50; e.g. where ('no',) is right, ['no"),
    "references that are options": (
        {"metrics": ("tests.build.test_check:lenient",), "option_styles": ("inline",)},
        "a random option scores 1.00 under tests.build.test_check:lenient, but chance is 0.33"),
    "an answer behind which the pattern stops": (
        {"fields": with_values(answer=lambda e: "no. 3 of it" if e["n"] == N - 1 else "yes"), "options": None},
        f"1 of {N} examples do not give their answer back; that of {N - 1} reads 'no', not 'no. 3 of it'"),
    "a target without its answer": (
        {"cot": CoT([("{text}", "{rationale}")])}, "do not give their answer back"),
    "an input that names the answer": (
        {"templates": [("{text} ({answer})", "{answer}")]}, "the prompt tells the target: its input names {answer}"),
    "an input that names the reasoning": (
        {"cot": CoT([("{text}\n{rationale}", COT)])}, "its input names {rationale}"),
    "a field that is the answer": (
        {"fields": with_values(kind=lambda e: e["label"]), "templates": [("{text}\n{kind}", "{answer}")]},
        "{kind} holds {answer} in "),
    "the label in the text": (
        {"fields": with_values(text=lambda e: f"{e['text']} [{e['label']}]")},
        "of the options the right one alone stands in its fields in "),
    "the reasoning in the text": (
        {"fields": with_values(text=lambda e: f"{e['text']}. Number {e['n']} is one.")}, "{text} holds {rationale} in "),
    "an inverted input without the answer": ({"inverted": [("Write a letter.", "{text}")]}, "does not show {answer}"),
    "an inverted target of its own": (
        {"inverted": [("Write a {answer}.", "{rationale}")], "cot": None}, "asks for {rationale}, which stands in no plain"),
    "an inverted target that is shown": (
        {"inverted": [("{text} Write a {answer}.", "{text}")]}, "its input names {text}"),
}  # fmt: skip


def lenient(targets, predictions) -> dict[str, float]:
    return {"lenient": 1.0}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_task_is_told(case):
    changed, message = BROKEN[case]
    assert message in problems(**changed)


def test_copying_is_declared():
    copied = {"fields": with_values(answer=lambda e: e["text"]), "inverted": [], "cot": None, "options": None}
    assert "{text} holds {answer}" in problems(**copied)
    assert problems(**copied, extractive=True) == ""
    # an answer that stands somewhere in a longer text is reading, not a leak
    assert problems(with_values(answer=lambda e: e["text"].split()[1]), options=None, inverted=[]) == ""


def test_a_task_without_examples_says_what_became_of_them():
    said = problems(lambda e: Skip("not wanted"))
    assert said == f"task 'made' has no examples; records read and skipped: {{'read': {2 * N}, 'not wanted': {2 * N}}}"


def test_wordings_with_and_without_options_are_shown():
    spec = registry.task("sample_even")
    every = check.show(spec, "sample_even", "")["renderings"]
    assert every == [{**r, "kind": "training"} for r in check.show(spec, "sample_even:opt", "")["renderings"]] != []
    shown = check.show(spec, "sample_even:fs2:opt", "")["renderings"]
    assert [r["kind"] for r in shown] == ["training, fs2, opt"] and shown[0]["prompt"].count("even or odd?") == 3
    with pytest.raises(UserError, match="task 'sample_even' has no variant 'sample_even:noopt'"):
        check.show(spec, "sample_even:noopt", "")
