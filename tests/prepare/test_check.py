# SPDX-License-Identifier: Apache-2.0
"""`itx tasks check`: a sound task passes, and each way to break one is named."""

import itertools
import json
import random
import time

import pytest

from itx.errors import UserError
from itx.prepare import check
from itx.tasks import registry
from itx.tasks.registry import make_task
from itx.tasks.spec import CoT, Skip, function
from tests import sample_tasks  # noqa: F401  (registers)
from tests.samples import itx

N = 70  # more than the examples that most checks look at
BARE = ("{text}\nKind:", "{answer}")
COT = "{rationale}\nThe answer is {answer}."


def rows(split: str, root: str, seed: int):
    for i in range(N):
        yield {
            "n": i,
            "text": f"letter {i} came",
            "label": ("complaint", "question", "praise")[i % 3],
        }


def sound(e: dict) -> dict:
    return {"text": e["text"], "answer": e["label"], "rationale": f"Number {e['n']} is one."}


def problems(fields=sound, **changed) -> str:
    """What is found in the sound task but for what is changed."""
    if changed.get("options", ()) is None:
        changed = {
            "templates": [BARE],
            "heldout_templates": [],
            "cot": CoT([("{text}\nThink.", COT)]),
            **changed,
        }
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
    cased = {
        "options": ("Praise", "praise", "question"),
        "fields": with_values(answer=lambda e: e["n"] % 3),
    }
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
        {"metrics": ("tests.prepare.test_check:lenient",), "option_styles": ("inline",)},
        "a random option scores 1.00 under tests.prepare.test_check:lenient, but chance is 0.33"),
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
    copied = {
        "fields": with_values(answer=lambda e: e["text"]),
        "inverted": [],
        "cot": None,
        "options": None,
    }
    assert "{text} holds {answer}" in problems(**copied)
    assert problems(**copied, extractive=True) == ""
    # an answer that stands somewhere in a longer text is reading, not a leak
    assert (
        problems(with_values(answer=lambda e: e["text"].split()[1]), options=None, inverted=[])
        == ""
    )


def test_a_task_without_examples_says_what_became_of_them():
    said = problems(lambda e: Skip("not wanted"))
    assert (
        said
        == f"task 'made' has no examples; records read and skipped: {{'read': {2 * N}, 'not wanted': {2 * N}}}"
    )


def test_wordings_with_and_without_options_are_shown():
    spec = registry.task("sample_even")
    every = check.show(spec, "sample_even", "")["renderings"]
    assert (
        every
        == [
            {**r, "kind": "training"} for r in check.show(spec, "sample_even:opt", "")["renderings"]
        ]
        != []
    )
    shown = check.show(spec, "sample_even:fs2:opt", "")["renderings"]
    assert [r["kind"] for r in shown] == ["training, fs2, opt"] and shown[0]["prompt"].count(
        "even or odd?"
    ) == 3
    with pytest.raises(UserError, match="task 'sample_even' has no variant 'sample_even:noopt'"):
        check.show(spec, "sample_even:noopt", "")


COUNTER, SHARED = itertools.count(), {"n": 0}


def renamed(e: dict) -> dict:
    e["text"] = e["text"].upper()
    return sound(e)


def state(e: dict) -> dict:
    SHARED["n"] += 1
    return {**sound(e), "text": f"{e['text']}, {SHARED['n'] % 7}"}


UNSTEADY = {
    "random numbers": (with_values(text=lambda e: f"{e['text']} {random.random()}"), "('text')"),
    "a random label": (with_values(answer=lambda e: random.choice(("complaint", "question"))), "('answer')"),
    "the clock": (with_values(text=lambda e: f"{e['text']} at {time.perf_counter_ns()}"), "('text')"),
    "a counter": (with_values(text=lambda e: f"{e['text']} as {next(COUNTER)}"), "('text')"),
    "state": (state, "('text')"),
    "several of them": (lambda e: [sound(e), {**sound(e), "rationale": f"{random.random()}."}], "('1.rationale')"),
    "now and then a skip": (lambda e: Skip("no") if random.random() < 0.5 else sound(e), "('"),
    "the order of the fields": (
        lambda e: dict(sorted(sound(e).items(), reverse=random.random() < 0.5)), "(the order of its fields)"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNSTEADY)
def test_fields_that_give_something_else_each_time_are_named(case):
    fields, where = UNSTEADY[case]
    said = problems(fields).replace("the field ", "")
    assert (
        "fields() gives another result when it is called again on an equal record " in said
        and where in said
    )
    assert said.count("called again") == 1


def test_fields_that_change_their_record_are_named():
    assert "record 0: fields() changes the record that it is given (the field 'text')" in problems(
        renamed
    )
    assert "is given (the field 'label')" in problems(
        lambda e: {"text": e["text"], "answer": e.pop("label")}
    )
    assert problems(lambda e: sound({**e})) == ""


SETS = """
from itx.tasks import function, instruction_task

def rows(split, root, seed):
    return [{"text": f"letter {i} of {i * 7} to {i * 5}", "label": i % 2} for i in range(60)]

def add(name, fields, options=("no", "yes"), make=rows):
    instruction_task(name, version=1, cluster="c", fields=fields, options=options, metrics=("accuracy",),
                     source=function(make), templates=[("{text}\\n{options}", "{answer}")])

def plain(e):
    return {"text": e["text"], "answer": e["label"]}

add("sound", plain)
add("words", lambda e: {"text": " ".join(set(e["text"].split())), "answer": e["label"]})
add("addresses", lambda e: {"text": f"{e['text']} {object}{object()}", "answer": e["label"]})
add("made", plain, make=lambda split, root, seed: [{"text": t, "label": 0} for t in {f"letter {i}" for i in range(60)}])
add("options", plain, options=tuple({"no", "yes", "perhaps", "never", "always", "often", "seldom"}))
"""


def test_the_order_of_a_set_is_told_by_other_processes(tmp_path):
    (tmp_path / "with_sets.py").write_text(SETS)
    itx(
        "tasks",
        "check",
        "--modules=with_sets",
        "--json=said.json",
        check=1,
        cwd=tmp_path,
        PYTHONHASHSEED="1",
    )
    said = {
        t["task"]: "\n".join(t["problems"])
        for t in json.loads((tmp_path / "said.json").read_text())
    }
    assert said.pop("sound") == ""
    assert "record 0: fields() gives another result in another process" in said["words"]
    assert "record 0: fields() gives another result in another process" in said["addresses"]
    assert "record 0: its source gives another record in another process" in said["made"]
    assert "its options, templates or constants differ in another process" in said["options"]


def test_show_says_what_the_splits_are_made_of(capsys):
    from itx.cli import main

    assert main(["tasks", "show", "sample_add", "--modules", "tests.sample_tasks"]) == 0
    (line,) = [x for x in capsys.readouterr().out.splitlines() if x.startswith("splits")] or [""]
    shares = registry.task("sample_add").source.split_by_hash
    assert shares and all(
        f"'{split}': '{share:.0%} of all rows, by hash'" in line for split, share in shares.items()
    )
