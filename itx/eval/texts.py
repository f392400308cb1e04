# SPDX-License-Identifier: Apache-2.0
"""Generation as a person wants it: text, stop strings, streaming."""

from collections.abc import Callable, Sequence
from typing import TypedDict

from itx.data.vocabulary import Vocabulary
from itx.errors import UserError
from itx.eval.generate import LOOK_EVERY
from itx.eval.loaded import Ids
from itx.eval.runner import Runner
from itx.eval.sampling import GREEDY, Sampling


class TextAnswer(TypedDict):
    text: str  # cut before the first of the stop strings in it
    tokens: Ids
    finished: bool  # by EOS or a stop string
    stop: str | None  # the stop string that ended it; None: another end


def texts(
    runner: Runner,
    vocabulary: Vocabulary,
    prompts: list[Ids],
    max_new_tokens: int | Sequence[int],
    how: Sampling = GREEDY,
    stop: Sequence[str] = (),
    stream: Callable[[int, str], None] | None = None,
    draws: Sequence[int] | None = None,
) -> list[TextAnswer]:
    """Answers as text, cut before the first of the `stop` strings in them.

    A stop string is looked for in the text, so it may begin or end within a token; `tokens` are
    then those up to the one that completes it. Beams are cut when the search is over. `stream` gets
    (prompt, text so far) after each token: what a later token may still change or a stop string
    take back is held back, so that each text begins with the one before.
    """
    if not all(stop):
        raise UserError("an empty stop string: every text holds it")

    told: dict[int, str] = {}

    def watch(i: int, ids: Ids) -> bool:
        text, stopped_by = cut(vocabulary.answer(ids), stop)
        sure = settled(text, stop)
        # part of a character may spoil those before it: then nothing new is told
        if stream and sure.startswith(told.get(i, "")):
            told[i] = sure
            stream(i, sure)
        return stopped_by is not None

    watched = watch if (stop or stream) and how.beams == 1 else None
    every = 1 if stream else LOOK_EVERY
    answers = []
    for answer in runner.generate(prompts, max_new_tokens, how, watched, every, draws):
        ids = answer["tokens"]
        text, stopped_by = cut(vocabulary.answer(ids), stop)
        if stopped_by is not None:  # looks are several tokens apart
            shorter = (ids[:n] for n in range(1, len(ids) + 1))
            ids = next(some for some in shorter if stopped_by in vocabulary.answer(some))
        finished = answer["finished"] or stopped_by is not None
        answers.append({"text": text, "tokens": ids, "finished": finished, "stop": stopped_by})
    return answers


def cut(text: str, stop: Sequence[str]) -> tuple[str, str | None]:
    """The text before the stop string that is complete first, and that stop string (None: there is
    none): the same however often one looks."""
    ends = ((text.find(s) + len(s), text.find(s), s) for s in stop if s in text)
    _, begin, stopped_by = min(ends, default=(0, len(text), None))
    return text[:begin], stopped_by


def settled(text: str, stop: Sequence[str]) -> str:
    """The text without an end that is not known yet: part of a character, or of a stop string."""
    text = text.rstrip("\ufffd")
    for s in stop:
        n = next((n for n in range(len(s) - 1, 0, -1) if text.endswith(s[:n])), 0)
        text = text[: len(text) - n]
    return text
