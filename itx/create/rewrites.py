# SPDX-License-Identifier: Apache-2.0
"""Changes of a row that a generator makes: what is asked, and how answers are read.

    paraphrase        the instruction in other words
    back_translation  into another language and back (Sennrich et al., 2016, arXiv:1511.06709)
    inversion         an instruction to which the row's output is the answer (Li et al., 2023,
                      arXiv:2308.06259)
    magpie            what a chat model takes for a question where the row stands in its system
                      prompt, and its answer (Xu et al., 2024, arXiv:2406.08464)
    evol_*            Evol-Instruct's ways to make an instruction harder or rarer, and then an
                      answer to it (Xu et al., 2023, arXiv:2304.12244)

A text that is continued (a model without a chat template) is shown an example first. What comes
back is text and nothing else; what an operator can tell is wrong with it, it says under a name, as
filters do.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Callable

from itx import languages, text
from itx.create import contents
from itx.create.generators import CUT, MAX_SEED, Message, Request
from itx.create.row import Row
from itx.create.steps import (
    Changed,
    Job,
    NotApplicable,
    Outcome,
    Question,
    Steps,
    Unusable,
)

MAX_TOKENS = {"rewriting": 256, "answer": 512}
MAX_TIMES_AS_LONG = 3  # a paraphrase beside its text
MIN_OUTPUT_WORDS = 8  # of an output that tells what was asked
PIVOTS = {"en": "French", "fr": "English", "de": "English", "ru": "English", "zh": "English"}
NAMES = {"en": "English", "fr": "French", "de": "German", "ru": "Russian", "zh": "Chinese"}
TEXT, RESULT = "Text", "Result"
_EXAMPLE = {
    "paraphrase": (
        "Name three animals that sleep through the winter.",
        "Which animals hibernate? Give three of them.",
    ),
    "inversion": (
        "Bears, hedgehogs and dormice sleep through the winter.",
        "Name three animals that sleep through the winter.",
    ),
    "answer": (
        "Name three animals that sleep through the winter.",
        "Bears, hedgehogs and dormice sleep through the winter.",
    ),
    "constraints": (
        "Name three animals that sleep through the winter.",
        "Name three animals that sleep through the winter and weigh less than a kilogram.",
    ),
    "deepen": (
        "Name three animals that sleep through the winter.",
        "Explain what happens in the body of an animal that sleeps through the winter, and why it "
        "does not starve.",
    ),
    "concretize": (
        "Name three animals that sleep through the winter.",
        "Name three mammals of the Alps that sleep from October to April.",
    ),
    "reasoning": (
        "Name three animals that sleep through the winter.",
        "An animal sleeps through the winter and weighs less than a hedgehog. Say which it can be, "
        "and how you found out.",
    ),
    "breadth": (
        "Name three animals that sleep through the winter.",
        "Describe how Arctic ground squirrels keep their blood from freezing.",
    ),
}


def prompt(job: Job, what: str, lead: str, said: str) -> str:
    """What is asked: a message, or a text to continue with an example before it."""
    if job.chat:
        return f"{lead}\n\n{TEXT}:\n{said}"
    before, after = _EXAMPLE.get(what, ("", ""))
    shown = f"{TEXT}: {before}\n{RESULT}: {after}\n\n" if before else ""
    return f"{lead}\n\n{shown}{TEXT}: {said}\n{RESULT}:"


STOP = (f"\n{TEXT}:",)
_LEAD_IN = re.compile(
    r"(?:here(?:'s| is| are)|sure|certainly|of course|okay|вот|конечно|разумеется|当然|以下是|好的)"
    r"[^\n]{0,120}[:：!！。]\s*\n+",
    re.IGNORECASE,
)
_LABEL = re.compile(
    r"\**(?:result|rewritten(?: (?:text|prompt|instruction|task))?|paraphrase[d]?(?: \w+)?|"
    r"translation|instruction|new (?:prompt|instruction|task)|answer|text)\**[ ]*:\**\s*",
    re.IGNORECASE,
)
_PAIRS = (('"', '"'), ("“", "”"), ("«", "»"), ("「", "」"))


def read(answer: str) -> str:
    """The text in an answer: without a line that leads to it, its label, and quotes around all of
    it."""
    said = answer.replace("\r\n", "\n").strip()
    if lead := _LEAD_IN.match(said):
        said = said[lead.end() :].strip()
    if label := _LABEL.match(said):
        said = said[label.end() :].strip()
    for a, b in _PAIRS:
        inner = said[1:-1]
        if len(said) > 2 and said[0] == a and said[-1] == b and a not in inner and b not in inner:
            said = inner.strip()
    return said


def unread(row: Row, answer: str, finish: str) -> Unusable | None:
    """Why an answer holds no text that could be an instruction; None where it does."""
    if finish == CUT:
        return Unusable(row, "unreadable: cut at the limit of tokens")
    return Unusable(row, "unreadable: an empty answer") if text.blank(read(answer)) else None


# ---- what is wrong with a rewriting, by name


def flaws(job: Job, said: str, preserving: bool) -> dict[str, str]:
    """{name: what was found} of an instruction that was written anew."""
    before = job.row.instruction
    found = {
        "unchanged": "the same words" if text.words(said) == text.words(before) else "",
        "changes language": _other_language(job, said),
        "names its prompt": _names_prompt(before, said),
        "holds the answer": _holds_answer(job.row, said),
        "no request": _no_request(before, said),
    }
    if preserving:
        found["loses its subject"] = _lost_subject(before, said)
        found["loses numbers"] = _lost_numbers(before, said)
        found["loses options"] = _lost_options(job, said)
        times = len(text.words(said)) / max(1, len(text.words(before)))
        long = times > MAX_TIMES_AS_LONG and len(text.words(said)) > 2 * MIN_OUTPUT_WORDS
        found["grows"] = f"{times:.1f} times as long" if long else ""
    return {name: what for name, what in found.items() if what}


def _other_language(job: Job, said: str) -> str:
    code, sure = languages.language_of(said)
    was = job.parent.language
    return (
        f"from {was} to {code}"
        if code and was and code != was and sure >= contents.MIN_SURE
        else ""
    )


_OF_PROMPTS = re.compile(
    r"(?:given|rewritten|new|created|original|#\w+ ) ?(?:prompt|instruction)s?\b|\bparaphras\w+",
    re.IGNORECASE,
)


def _names_prompt(before: str, said: str) -> str:
    """Words of the question in its answer (Evol-Instruct's elimination rule 4)."""
    hit = _OF_PROMPTS.search(said)
    return repr(hit[0]) if hit and not _OF_PROMPTS.search(before) else ""


def _holds_answer(row: Row, said: str) -> str:
    """The output within the instruction, where it was not before; one word may stand in any."""
    output = row.output.strip()
    telling = len(text.words(output)) > 1 or bool(text.numbers(output))
    held = telling and text.contains(said, output) and not text.contains(row.asked, output)
    return "the output stands in it" if held else ""


# how a statement begins, or what an assistant says; and what makes a request of one
_STATEMENT = re.compile(
    r"\W*(?:(?:the|an?|this|that|these|those|it|i|i'm|i've|i'll|you|you're|your|we|he|she|they|there|"
    r"here|yes|no|sure|hello|hi|dear|thanks?|это|этот|эта|эти|я|ты|вы|мы|он|она|они|да|нет|конечно|"
    r"спасибо)\b|这|那|我|你|他|她|它|是的|不是|好的|当然|谢谢)",
    re.IGNORECASE,
)
_REQUESTS = re.compile(
    r"[?？]|\b(?:please|need|want|would like|have to|has to|must|should|your task|asked to|нужно|"
    r"надо|хочу|должн\w+|требуется|пожалуйста|прошу|задача)\b|请|需要|想|应该|任务",
    re.IGNORECASE,
)


def _no_request(before: str, said: str) -> str:
    """A text that states or answers, where one that asks was wanted: by how it begins. A text whose
    own original begins so may."""
    begins = _STATEMENT.match(said.replace("’", "'"))
    if not begins or _STATEMENT.match(before) or _REQUESTS.search(said):
        return ""
    return f"it begins with {begins[0].strip()[:20]!r}, and asks for nothing"


MIN_SUBJECT_LETTERS, SUBJECT_STEM = 4, 4  # of a word that tells what a text is about; of its stem
MIN_SUBJECT_SHARE = 0.25  # of such words of a text that another wording of it keeps


def _lost_subject(before: str, said: str) -> str:
    was, now = _subject(before), _subject(said)
    kept = len(was & now)
    if not was or kept >= MIN_SUBJECT_SHARE * len(was):
        return ""
    return f"{kept} of {len(was)} words that tell what it is about"


def _subject(said: str) -> set[str]:
    """Stems of long words; characters of scripts without spaces."""
    return {
        w[:SUBJECT_STEM]
        for w in text.words(said)
        if len(w) >= MIN_SUBJECT_LETTERS or (len(w) == 1 and not w.isascii() and w.isalpha())
    }


def _lost_numbers(before: str, said: str) -> str:
    was, now = Counter(text.numbers(before)), Counter(text.numbers(said))
    if was.keys() == now.keys():
        return ""
    differ = sorted(was.keys() ^ now.keys())
    return f"{len(differ)} numbers that one of the texts lacks, {differ[0]:g} first"


def _lost_options(job: Job, said: str) -> str:
    options = job.parent.choice.options if job.parent.choice else ()
    asked = job.row.instruction
    lost = [o for o in options if text.contains(asked, o) and not text.contains(said, o)]
    return f"{len(lost)} of {len(options)}" if lost else ""


# ---- the operators

_PARAPHRASE = (
    "Write the text below in other words. It must ask for exactly the same thing, with all its "
    "numbers, names and conditions, in the same language. Do not answer it. Write only the new "
    "text."
)


def paraphrase(job: Job) -> Steps:
    asked = prompt(job, "paraphrase", _PARAPHRASE, job.row.instruction)
    answer = yield job.ask("paraphrase", asked, MAX_TOKENS["rewriting"], STOP)
    return _rewritten(job, answer.text, answer.finish, preserving=True)


def _rewritten(job: Job, answer: str, finish: str, preserving: bool) -> Outcome:
    if bad := unread(dataclasses.replace(job.row, output=""), answer, finish):
        return bad
    said = read(answer)
    row = dataclasses.replace(job.row, instruction=said, finish="")
    return Changed(row, flaws(job, said, preserving))


def back_translation(job: Job) -> Steps:
    language = job.parent.language
    if language not in PIVOTS:
        return NotApplicable(f"no pivot for {language or 'a language that is not told'}")
    there = f"Translate the text below into {PIVOTS[language]}. Write only the translation."
    back = f"Translate the text below into {NAMES[language]}. Write only the translation."
    asked = prompt(job, "translation", there, job.row.instruction)
    answer = yield job.ask("translation", asked, MAX_TOKENS["rewriting"], STOP, best=True)
    if bad := unread(dataclasses.replace(job.row, output=""), answer.text, answer.finish):
        return bad
    asked = prompt(job, "translation", back, read(answer.text))
    answer = yield job.ask("back", asked, MAX_TOKENS["rewriting"], STOP, best=True)
    return _rewritten(job, answer.text, answer.finish, preserving=True)


_INVERSION = (
    "Below is what somebody answered. Write the request that they were given, so that this text is "
    "a full answer to it, in the same language. Write only the request."
)


def inversion(job: Job) -> Steps:
    output = job.row.output
    if len(text.words(output)) < MIN_OUTPUT_WORDS:
        return NotApplicable(f"an output of fewer than {MIN_OUTPUT_WORDS} words")
    asked = prompt(job, "inversion", _INVERSION, output)
    answer = yield job.ask("inversion", asked, MAX_TOKENS["rewriting"], STOP)
    row = Row("", "", output)
    if bad := unread(row, answer.text, answer.finish):
        return bad
    said = read(answer.text)
    return Changed(Row(said, "", output), flaws(job, said, preserving=False))


def magpie(job: Job) -> Steps:
    system = f"You answer people who ask for things like this:\n{job.row.asked}"
    request = Request(
        messages=(Message("system", system),),
        max_tokens=MAX_TOKENS["rewriting"],
        temperature=job.temperature,
        seed=job.draw("question") % (MAX_SEED + 1),
        speaker="user",
    )
    answer = yield Question("question", request)
    if bad := unread(Row("", "", ""), answer.text, answer.finish):
        return bad
    said = answer.text.strip()
    if found := flaws(job, said, preserving=False):
        return Changed(Row(said, "", ""), found)
    answer = yield job.ask("answer", said, MAX_TOKENS["answer"], best=True)
    return Changed(Row(said, "", answer.text.strip(), finish=answer.finish))


_KEEP = "Keep its language. Do not answer it. Write only the new task."
EVOLUTIONS = {
    "constraints": f"Make the task below harder: add one more condition or requirement. {_KEEP}",
    "deepen": f"Make the task below harder: ask about its subject in more depth. {_KEEP}",
    "concretize": f"Make the task below harder: put special things for general ones. {_KEEP}",
    "reasoning": f"Make the task below harder: it must take several steps of reasoning. {_KEEP}",
    "breadth": (
        "Write another task of the same field as the one below and about as long, on something "
        f"rarer. {_KEEP}"
    ),
}


def evolution(kind: str) -> Callable[[Job], Steps]:
    def evolved(job: Job) -> Steps:
        whole = job.row.prompt
        asked = prompt(job, kind, EVOLUTIONS[kind], whole)
        answer = yield job.ask("evolution", asked, MAX_TOKENS["rewriting"], STOP)
        if bad := unread(Row(whole, "", ""), answer.text, answer.finish):
            return bad
        said = read(answer.text)
        found = flaws(job, said, preserving=False)
        if found:  # a flaw is not answered
            return Changed(Row(said, "", ""), found)
        asked = said if job.chat else prompt(job, "answer", "Do what the text asks.", said)
        answer = yield job.ask("answer", asked, MAX_TOKENS["answer"], STOP, best=True)
        return Changed(Row(said, "", answer.text.strip(), finish=answer.finish))

    return evolved
