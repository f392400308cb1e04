# SPDX-License-Identifier: Apache-2.0
"""Options in another order and another style, and the answer with them.

Of a task's row its fields say which options there are. Of a row of a file the text does, where it
lists them under labels (contents.py). What is listed is replaced where it stands; the answer, which
is an option's label, its text, or both, is written anew for the place that the right option got.
Options that speak of each other ("all of the above"), a text that speaks of one by its label, and
an answer that could be two of them are left alone.
"""

import dataclasses
import re
from collections.abc import Callable, Sequence

from itx import text
from itx.create import contents
from itx.create.row import Row
from itx.create.steps import Changed, Choice, Job, NotApplicable, Outcome
from itx.tasks.templates import OPTION_STYLES

Style = Callable[[Sequence[str]], tuple[str, Sequence[str]]]  # as in tasks/templates.py
LABELLED = ("(A)", "A.")  # styles whose labels answer
_OTHERS = re.compile(
    r"\b(?:above|below|these|previous|both|neither|either|none of|all of|вышеперечисл\w*|"
    r"перечисленн\w*|предыдущ\w*|оба|обе|ни один|ни одно|все ответы)\b"
    r"|以上|上述|都是|都不|均",
    re.IGNORECASE,
)
_BY_LABEL = re.compile(
    r"\b(?:options?|answers?|choices?|вариант\w*|ответ\w*)\s+\(?(?:[A-H]|[1-9])\b|选项\s*[A-H1-9]",
    re.IGNORECASE,
)
# a label before a text: "b) Paris", "(B) Paris", "2. Paris"
_LABEL = re.compile(r"\(?([a-hA-H1-9])(?:[).:]\s*|$)")


def options(job: Job) -> Outcome:
    """The options in another order, in a style that is drawn; the right answer stays right."""
    row = job.row
    choice = job.parent.choice or choice_of(row)
    if isinstance(choice, str):
        return NotApplicable(choice)
    if why := unfit(row, choice):
        return NotApplicable(why)
    form = answer_form(row.output, choice)
    if form is None:
        return NotApplicable("the answer is not one option alone")
    order = _another_order(job, len(choice.options))
    if not (styles := _styles(row, choice, form)):
        return NotApplicable("no style in which the options could be told apart")
    shown = tuple(choice.options[i] for i in order)
    listed, called = job.one_of(styles, "style")(shown)
    place = order.index(choice.right)
    answer = _answer(form, row.output, shown[place], called[place])
    if _named(answer, tuple(called), shown) != {place}:
        return NotApplicable("the answer could be two of the options")
    before, _, after = row.instruction.partition(choice.listed)
    where = {"instruction": before + listed + after}
    if choice.listed not in row.instruction:
        before, _, after = row.input.partition(choice.listed)
        where = {"input": before + listed + after}
    return Changed(dataclasses.replace(row, **where, output=answer, options=shown, finish=""))


def choice_of(row: Row) -> Choice | str:
    """The options that a row's text lists, and which one its answer is; or why there are none."""
    for said in (row.instruction, row.input):
        found = contents.labelled_options(said, f"{row.instruction}\n{row.input}")
        if found is None:
            continue
        labels, listed_options, listed = found
        if len({text.normalise(o, answer=True) for o in listed_options}) < len(listed_options):
            return "two options are the same"
        rights = _named(row.output, labels, listed_options)
        if len(rights) != 1:
            return "the answer is not one option alone"
        return Choice(listed_options, rights.pop(), listed, labels)
    return "no options are listed"


def _named(answer: str, labels: tuple[str, ...], listed: tuple[str, ...]) -> set[int]:
    """The options that an answer can stand for."""
    said, by = text.normalise(answer, answer=True), text.normalise
    found = {i for i, o in enumerate(listed) if by(o, answer=True) == said}
    found |= {i for i, label in enumerate(labels) if by(label, answer=True) == said}
    if (m := _LABEL.match(answer.strip())) and m.end() < len(answer.strip()):
        rest = by(answer.strip()[m.end() :], answer=True)
        found |= {
            i
            for i, (label, o) in enumerate(zip(labels, listed, strict=True))
            if by(label, answer=True) == m[1].casefold() and by(o, answer=True) == rest
        }
    return found


def unfit(row: Row, choice: Choice) -> str:
    """Why options must stay in their order; "" where they need not."""
    if any(_OTHERS.search(option) for option in choice.options):
        return "an option speaks of the others"
    asked = f"{row.instruction}\n{row.input}"
    if asked.count(choice.listed) != 1:
        return "the options are listed twice"
    if _BY_LABEL.search(asked.replace(choice.listed, "")):
        return "the text speaks of an option by its label"
    if len(choice.options) < 2:
        return "one option alone"
    return ""


def answer_form(answer: str, choice: Choice) -> str | None:
    """How an answer names the right option: by its "text", its "label" or "both"; None: not so, or
    so that it could be another."""
    option, label = choice.options[choice.right], choice.called[choice.right]
    if _named(answer, choice.called, choice.options) != {choice.right}:
        return None
    said = text.normalise(answer, answer=True)
    if said == text.normalise(option, answer=True):
        return "text"
    return "label" if said == text.normalise(label, answer=True) else "both"


def _answer(form: str, before: str, option: str, called: str) -> str:
    """The answer in the form that it had: of "b" the label's sign alone, in its case."""
    if form != "label":
        return option if form == "text" else f"{called} {option}"
    sign = text.normalise(called, answer=True)
    own = re.search(r"[^\W_]", before)
    if own is None:
        return called
    sign = sign if own[0].islower() else sign.upper()
    return before[: own.start()] + sign + before[own.end() :]


def _another_order(job: Job, n: int) -> list[int]:
    """An order that is drawn, and not the one there is."""
    order = job.order(n, "option")
    return order if order != list(range(n)) else order[1:] + order[:1]


def _styles(row: Row, choice: Choice, form: str) -> list[Style]:
    """The styles in which these options can be told apart; where a label answers, those with
    labels. A text in another alphabet than the Latin keeps the labels that it has."""
    latin, options = text.script(row.whole) == "Latin", choice.options
    out = []
    if latin and len(options) <= 8 and not _ambiguous(options):
        out += [OPTION_STYLES[name] for name in LABELLED]
    if set(choice.called) != set(options):
        out.append(_own(choice))
    if form != "text":
        return out
    out.append(OPTION_STYLES["list"])
    if not any("/" in o or "\n" in o for o in options):
        out.append(OPTION_STYLES["slashes"])
    # this style begins with an English word
    if latin and not any("," in o or "\n" in o for o in options):
        out.append(OPTION_STYLES["inline"])
    return out


def _own(choice: Choice) -> Style:
    """The labels as they stand in the row."""

    def style(options: Sequence[str]) -> tuple[str, Sequence[str]]:
        return "\n".join(map(" ".join, zip(choice.called, options, strict=True))), choice.called

    return style


def _ambiguous(options: tuple[str, ...]) -> bool:
    """Whether an option's text is what a label could be."""
    return any(re.fullmatch(r"\(?[a-h1-9][).:]?", text.normalise(o)) for o in options)
