# SPDX-License-Identifier: Apache-2.0
"""Rationales by STaR (Zelikman et al., 2022, arXiv:2203.14465): a generator reasons its way to an
answer that is known already.

    1. it is asked for steps and an answer; what comes out right is kept
    2. where it is wrong, or no answer can be read, it is asked again with the right answer as a
       hint (the paper's rationalisation); such a row's operator is `rationalisation`
    3. what is wrong again is dropped, and what a right answer does not make a rationale: no steps,
       a sum that does not come out, two answers, words of the hint, a number from the hint that
       its steps do not come to

An answer is read and judged as evaluation does with a chain of thought: by the pattern of the
wording (tasks/templates.py, answer_pattern), the last match counting, and the task's own metric.
The row asks for the steps, in the task's own wording for it where there is one.
"""

import re

from itx import text
from itx.create import arithmetic
from itx.create.generators import CUT, STOPPED, Completion
from itx.create.row import Row
from itx.create.steps import Changed, Job, NotApplicable, Outcome, Steps, Unusable
from itx.eval import metrics
from itx.tasks import templates

RATIONALISED = "rationalisation"
MAX_TOKENS = 400
MAX_ANSWER_WORDS = 12  # a longer one is not told right from wrong
MIN_STEP_WORDS = 5  # before the sentence with the answer
CLOSINGS = {
    "en": "The answer is {answer}.",
    "ru": "Правильный ответ — {answer}.",
    "zh": "答案是{answer}。",
}
_ASKS = {
    "en": 'Reason step by step. End with a sentence of the form "{}"',
    "ru": "Рассуждай по шагам. Закончи предложением вида «{}»",
    "zh": "请一步一步地推理，最后用这样的句子结束：“{}”",
}
_HINTS = {
    "en": "(The right answer is {}. Show the steps that lead to it, as if you had found it alone.)",
    "ru": "(Правильный ответ: {}. Покажи шаги, которые к нему ведут, как будто ты нашёл его сам.)",
    "zh": "（正确答案是{}。请像自己找到的一样写出得到它的步骤。）",
}
# for a text that is continued: (question, steps, answer)
_SHOWN = {
    "en": (
        (
            "Ann has 3 boxes of 4 pens and gives 2 pens away. How many are left?",
            "Ann has 3 * 4 = 12 pens at first. She gives 2 away, so 12 - 2 = 10 are left.",
            "10",
        ),
        (
            "Which is heavier, a kilogram of wool or 900 grams of lead?",
            "A kilogram is 1000 grams. 1000 grams are more than 900, whatever they are made of.",
            "wool",
        ),
    ),
    "ru": (
        (
            "У Ани 3 коробки по 4 ручки, 2 ручки она отдала. Сколько осталось?",
            "Сначала у Ани 3 * 4 = 12 ручек. Она отдала 2, значит, осталось 12 - 2 = 10.",
            "10",
        ),
    ),
    "zh": (
        (
            "小安有3盒笔，每盒4支，送出2支，还剩几支？",
            "小安一开始有3 * 4 = 12支笔。送出2支，所以还剩12 - 2 = 10支。",
            "10",
        ),
    ),
}


def pattern(closing: str) -> str:
    """What reads the answer back from a rationale that ends so."""
    return str(templates.answer_pattern("{rationale}\n" + closing))


def right(job: Job, said: str, closing: str) -> tuple[str | None, bool]:
    """(the answer in a text, None where none can be read; whether it is the known one)."""
    answer = metrics.extract(pattern(closing), said)
    if answer is None:
        return None, False
    score = metrics.per_example(job.parent.metric)(list(job.parent.references), answer)
    return answer, score >= 1.0


def rationale(job: Job) -> Steps:
    language = job.parent.language
    if language not in CLOSINGS:
        return NotApplicable(f"no wording in {language or 'a language that is not told'}")
    known = job.parent.references[0]
    if len(text.words(known)) > MAX_ANSWER_WORDS:
        return NotApplicable(f"an answer of more than {MAX_ANSWER_WORDS} words")
    closing = job.parent.closing or CLOSINGS[language]
    form = _ASKS[language].format(closing.format(answer="…"))
    question = job.parent.reasoned or f"{job.row.prompt}\n{form}"
    # the row asks for its form, and a task's own wording for it may not: the generator is told
    told = f"{question}\n{form}" if job.parent.reasoned else question
    answer = yield job.ask("rationale", _prompt(job, language, told), MAX_TOKENS, _stop(language))
    outcome = _judged(job, question, answer, closing)
    if isinstance(outcome, Changed):
        return outcome
    told = f"{told}\n{_HINTS[language].format(known)}"
    stage = "rationale with the answer as hint"
    answer = yield job.ask(stage, _prompt(job, language, told), MAX_TOKENS, _stop(language))
    outcome = _judged(job, question, answer, closing)
    if not isinstance(outcome, Changed):
        return outcome
    hinted = {
        "hint": reveals(outcome.row.output, job.row.whole),
        "from nowhere": _from_nowhere(outcome.row.output, job.row, known),
    }
    found = outcome.found | {name: what for name, what in hinted.items() if what}
    return Changed(outcome.row, found, RATIONALISED)


_QUESTION = {"en": "Question", "ru": "Вопрос", "zh": "问题"}
_STEPS = {"en": "Reasoning", "ru": "Рассуждение", "zh": "推理"}


def _stop(language: str) -> tuple[str, ...]:
    return (f"\n{_QUESTION[language]}:",)


def _prompt(job: Job, language: str, question: str) -> str:
    """A message, or a text to continue behind examples."""
    if job.chat:
        return question
    closing = job.parent.closing or CLOSINGS[language]
    name, steps = _QUESTION[language], _STEPS[language]
    shown = [
        f"{name}: {q}\n{steps}: {s} {closing.format(answer=a)}" for q, s, a in _SHOWN[language]
    ]
    return "\n\n".join([*shown, f"{name}: {question}\n{steps}:"])


def _judged(job: Job, question: str, answer: Completion, closing: str) -> Outcome:
    """The row of an answer that is right; what follows its last sentence with an answer is left
    out, so that the row says nothing behind it."""
    said = answer.text.replace("\r\n", "\n").strip()
    read, is_right = right(job, said, closing)
    if read is None:
        why = "no answer in it, and cut" if answer.finish == CUT else "no answer in it"
        return Unusable(Row(question, "", said), f"unreadable: {why}")
    if not is_right:
        return Unusable(Row(question, "", said), f"wrong answer: {read[:60]!r}")
    first, *_, last = [*re.finditer(pattern(closing), said)] * 2
    kept = said[: last.end()].strip()
    return Changed(Row(question, "", kept, finish=STOPPED), _flaws(job, kept, first, closing))


def _flaws(job: Job, kept: str, first: re.Match, closing: str) -> dict[str, str]:
    """{name: what was found} of a text whose last answer is right."""
    found = {}
    if len(text.words(kept[: first.start()])) < MIN_STEP_WORDS:
        found["no steps"] = f"fewer than {MIN_STEP_WORDS} words before the answer"
    if not right(job, kept[: first.end()], closing)[1]:
        found["two answers"] = f"first {first[1][:40]!r}"
    if wrong := arithmetic.wrong(kept):
        found["wrong sum"] = wrong[0][:60]
    return found


_OF_ANSWERS = re.compile(r"answer|ответ|答案|答", re.IGNORECASE)
_SENTENCE = re.compile(r"(?<=[.!?。！？])\s*(?=\D|$)|\n+")


def _from_nowhere(said: str, row: Row, known: str) -> str:
    """A known number to which no step comes: it stands in no sentence but those that speak of the
    answer. A number of the question is passed over, and what is no number."""
    wanted = text.numbers(known)
    if not wanted or wanted[-1] in text.numbers(row.asked):
        return ""
    steps = (s for s in _SENTENCE.split(said) if not _OF_ANSWERS.search(s))
    came = any(wanted[-1] in text.numbers(s) for s in steps)
    return "" if came else f"no step comes to {known[:40]}"


# what a rationale says that was written from its end
_REVEALS = re.compile(
    r"\bhint(?:s|ed)?\b|\b(?:given|provided|known|stated|expected) (?:final |right )?answer\b"
    r"|\banswer (?:is|was|has been) (?:already )?(?:given|provided|known|told|stated)\b"
    r"|\b(?:told|given|know|knew) that the (?:\w+ )?answer\b|\bas (?:was |i was |we were )?told\b"
    r"|подсказ\w*|\b(?:данн|известн|указанн|заданн)\w+ ответ"
    r"|\bответ (?:уже )?(?:дан|известен|указан)"
    r"|\b(?:сказали|сообщили|известно), что (?:\w+ )?ответ"
    r"|提示|(?:给定|已知|给出|提供)的?(?:正确)?答案|答案(?:已经|已)(?:给出|知道|告诉)|告诉我们答案",
    re.IGNORECASE,
)


def reveals(said: str, asked: str) -> str:
    """Words by which a rationale tells that its answer was shown before; "" where it does not, or
    the row itself speaks so."""
    for hit in _REVEALS.finditer(said):
        if hit[0].casefold() not in asked.casefold():
            return f"it says {hit[0]!r}"
    return ""
