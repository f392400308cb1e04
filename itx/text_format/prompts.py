# SPDX-License-Identifier: Apache-2.0
"""An instruction task's prompt and answer as the model reads them: text behind text, or turns that
the run's chat template writes (data.prompt_format).

    plain   the prompt, one space, the target
    chat    system: data.system, if any; user: the prompt; assistant: the target. Exemplars are
            earlier turns of both, or (data.exemplars_as=text) stand in the user's turn

Training, generation, ranking and retention all ask here, so that a model is measured in the very
form that it is tuned in.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

from itx.data.vocabulary import Vocabulary
from itx.errors import UserError
from itx.text_format import chat
from itx.text_format.pieces import END, Pieces, encoded

Message = dict[str, str]  # {"role", "content"}


class PromptFormat(NamedTuple):
    """How prompts are put to a model. template: the chat template's text; "": plain text."""

    template: str = ""
    system: str = ""
    exemplars_as: str = "turns"

    def messages(self, prompt: str, turns: Sequence[str] = ()) -> tuple[Message, ...]:
        """What stands before the answer; none in plain text.

        Args:
            prompt: all of it as one text, exemplars included.
            turns: the exemplars' prompts and answers in turn, then the prompt alone.
        """
        if not self.template:
            return ()
        said = turns if turns and self.exemplars_as == "turns" else (prompt,)
        roles = [("user", "assistant")[i % 2] for i in range(len(said))]
        head = [("system", self.system)] if self.system else []
        both = [*head, *zip(roles, said, strict=True)]
        return tuple({"role": role, "content": text} for role, text in both)


PLAIN = PromptFormat()


def pieces(
    template: str, messages: Sequence[Message], target: str, where: str, vocabulary: Vocabulary
) -> Pieces:
    """(what the model reads, not trained), (what it is to write, trained), as the template writes
    both; the layout adds EOS."""
    conversation = {"messages": [*messages, {"role": "assistant", "content": target}]}
    marks = (vocabulary.eos_text, vocabulary.control)
    reply = chat.last_answer(template, conversation, where, *marks)
    return (reply.prompt, False), (reply.text, True)


def ids(
    template: str, messages: Sequence[Message], targets: Sequence[str], vocabulary: Vocabulary
) -> tuple[list[int], list[list[int]]]:
    """The ids of what the model reads, and of each target behind it."""
    records = [
        encoded(pieces(template, messages, target, "a prompt", vocabulary), vocabulary)
        for target in targets
    ]
    return records[0][0][0], [target_ids for _, (target_ids, _) in records]


@functools.lru_cache(maxsize=8)
def around(template: str, system: str, eos: str) -> tuple[str, str]:
    """What a template writes before and behind the text of an answer, EOS aside; both are no part
    of the answer: an empty thought, say, and the end of the turn."""
    asked = PromptFormat(template, system).messages("?")
    answered = {"messages": [*asked, {"role": "assistant", "content": "."}]}
    written = chat.last_answer(template, answered, "a prompt", eos).text
    before, _, behind = written.partition(".")
    return before.lstrip(), behind.replace(END, "").strip()


def answer(text: str, before: str, behind: str) -> str:
    """The answer in what a model wrote, without what its template writes `around` it."""
    text = text.lstrip()
    text = text.removeprefix(before)
    return text.split(behind)[0] if behind else text


@functools.lru_cache(maxsize=8)
def check(template: str, system: str) -> None:
    """UserError where a template does not write what it is given: the question, or data.system."""
    asked = PromptFormat(template, system).messages("A question of the user.")
    told = {"messages": [*asked, {"role": "assistant", "content": "An answer to it."}]}
    replies = chat.answers(template, told, "data.prompt_format=chat")
    for what in chat.unwritten(template, told, replies, "data.prompt_format=chat"):
        hint = ": data.system has no effect" if "system" in what else ""
        raise UserError(f"data.chat_template does not write {what}{hint}")
