# SPDX-License-Identifier: Apache-2.0
"""`itx generate`: what is asked on the command line, in a file or by a person, and the answers.

A run that trained on conversations is asked through its own chat template, and remembers what was
said; any other run gets each prompt as it is, alone, as its training data were.
"""

import codecs
import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from itx.data import cache
from itx.data.vocabulary import Vocabulary
from itx.errors import UserError, did_you_mean
from itx.eval.runner import Runner
from itx.eval.sampling import Sampling
from itx.eval.texts import TextAnswer, texts
from itx.tasks.chat import ROLES
from itx.text import say, visible
from itx.text_format import chat, prompts
from itx.text_format.pieces import Pieces, encoded

Messages = list[dict[str, str]]  # [{"role", "content"}]
HELP = """  a line                asks it; \\n in it begins a new line
  /new                  forget the conversation
  /system TEXT          begin a new one under this instruction
  Ctrl-C                cut an answer short
  Ctrl-D, /quit         leave"""
PLACE = "a text of the next turn"  # stands for one that is not written yet
COMMANDS = ("/help", "/new", "/system", "/quit", "/exit")


@dataclass(frozen=True)
class Run:
    """A model that texts are put to. template: of conversations; "": it was trained on none."""

    runner: Runner
    vocabulary: Vocabulary
    template: str = ""
    max_new_tokens: int = 64
    how: Sampling = Sampling()
    stop: tuple[str, ...] = ()

    def ids(self, messages: Messages) -> list[int]:
        """What the model reads before its answer: the ids that training had for such a text."""
        if not self.template:
            return self.vocabulary.encode(messages[-1]["content"])
        pieces = self._pieces(messages)[:-1]
        before = encoded(pieces, self.vocabulary)
        return cache.prompt_ids(
            before, self.runner.loaded.eos_id, self.runner.loaded.model.architecture
        )

    def opening(self, messages: Messages, role: str) -> list[int]:
        """What the template writes behind the messages before a turn of another role, up to where
        its text begins."""
        pieces = self._pieces([*messages, {"role": role, "content": PLACE}])
        before, found, _ = pieces[0][0].rpartition(PLACE)
        if not found:
            raise UserError(f"data.chat_template does not write a turn of the role {role!r}")
        return encoded([(before, False)], self.vocabulary)[0][0]

    def _answers(self, messages: Messages) -> tuple[dict, list[chat.Answer]]:
        answered = {"messages": [*messages, {"role": "assistant", "content": "."}]}
        eos, control = self.vocabulary.eos_text, self.vocabulary.control
        return answered, chat.answers(self.template, answered, "the conversation", eos, control)

    def _pieces(self, messages: Messages) -> Pieces:
        return chat.last(self._answers(messages)[1])

    def unwritten(self, messages: Messages) -> list[str]:
        """What of the messages the template does not write."""
        if not self.template or not messages:
            return []
        return chat.unwritten(self.template, *self._answers(messages), "the conversation")

    def stops(self) -> tuple[str, ...]:
        """The stop strings, and what the template writes behind an answer."""
        if not self.template:
            return self.stop
        _, behind = prompts.around(self.template, "", self.vocabulary.eos_text)
        return (*self.stop, behind) if behind else self.stop

    def answers(
        self, asked: Sequence[Messages], stream: Callable | None = None
    ) -> list[TextAnswer]:
        if not asked:
            return []
        ids = [self.ids(messages) for messages in asked]
        how = (self.max_new_tokens, self.how, self.stops(), stream)
        return texts(self.runner, self.vocabulary, ids, *how)

    def room(self, messages: Messages) -> tuple[Messages, int]:
        """The messages without the oldest turns that the context has no room for, and how many
        these are."""
        context, both = (
            self.runner.loaded.context,
            self.runner.loaded.model.architecture == "encoder_decoder",
        )
        more = 1 if both else len(self.runner.loaded.head) + self.max_new_tokens
        head = [m for m in messages[:1] if m["role"] == "system"]
        turns = messages[len(head) :]
        left_out = 0
        while context and len(turns) > 1 and len(self.ids([*head, *turns])) + more > context:
            n = next((i for i, m in enumerate(turns) if i and m["role"] == "user"), len(turns))
            if n == len(turns):
                break
            turns, left_out = turns[n:], left_out + n
        return [*head, *turns], left_out


def message(text: str, where: str, role: str = "user") -> dict[str, str]:
    """A message that can be asked; UserError for an empty one and for one that is no Unicode
    text."""
    if not text.strip():
        raise UserError(f"{where} is empty")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as e:
        raise UserError(f"{where} is not UTF-8 (character {e.start})") from e
    return {"role": role, "content": text}


def unescaped(text: str) -> str:
    return text.replace("\\n", "\n")


def read_prompts(file: str) -> list[Messages]:
    """A prompt in each line, where `\\n` stands for a new line; in a .jsonl file {"prompt"} or
    {"messages"} in each line."""
    try:
        lines = (
            Path(file).read_bytes().removeprefix(codecs.BOM_UTF8).removesuffix(b"\n").split(b"\n")
        )
    except OSError as e:
        raise UserError(f"--prompts {file}: {e.strerror or e}") from e
    out: list[Messages] = []
    for n, raw in enumerate(lines, 1):
        where = f"{file}, line {n},"
        try:
            line = raw.decode("utf-8").removesuffix("\r")
            held = (
                json.loads(line) if Path(file).suffix == ".jsonl" else {"prompt": unescaped(line)}
            )
        except UnicodeDecodeError as e:
            raise UserError(f"{where} is not UTF-8 (byte {e.start})") from e
        except ValueError as e:
            raise UserError(f"{where} is not JSON: {e}") from e
        out.append(messages_of(held, where))
    return out


def messages_of(held: Any, where: str) -> Messages:
    """The messages of a JSON object, {"prompt"} or {"messages"}; UserError, which begins with
    `where`, for one that asks nothing or asks for what is not written here."""
    if not isinstance(held, dict) or not {"prompt", "messages"} & held.keys():
        raise UserError(f'{where} has neither "prompt" nor "messages"')
    if {"prompt", "messages"} <= held.keys():
        raise UserError(f'{where} has both "prompt" and "messages"')
    if held.get("tools"):
        raise UserError(
            f'{where} "tools" are not written here: put them into a message of the system'
        )
    if "prompt" in held:
        if not isinstance(held["prompt"], str):
            raise UserError(f'{where} "prompt" is no text')
        return [message(held["prompt"], where)]
    turns = held["messages"]
    if not isinstance(turns, list) or not turns:
        raise UserError(f'{where} "messages" is no list of turns')
    for i, turn in enumerate(turns):
        if (
            not isinstance(turn, dict)
            or turn.get("role") not in ROLES
            or not isinstance(turn.get("content"), str)
        ):
            raise UserError(
                f'{where} turn {i} is no {{"role": one of {", ".join(ROLES)}, "content": text}}'
            )
        if more := [k for k, v in turn.items() if k not in ("role", "content") and v]:
            raise UserError(
                f'{where} turn {i} has {more[0]!r}, which is not written here; known: "role", '
                '"content"'
            )
    if turns[-1]["role"] == "assistant":
        raise UserError(f"{where} the last turn is the assistant's: nothing is left to answer")
    return [
        message(turn["content"], f"{where} turn {i}", turn["role"]) for i, turn in enumerate(turns)
    ]


def facts(messages: Messages, answer: TextAnswer) -> dict[str, Any]:
    """A line of `itx generate --json`."""
    said = {"prompt": messages[-1]["content"]} if len(messages) == 1 else {"messages": messages}
    return {
        **said,
        "answer": answer["text"],
        **{k: answer[k] for k in ("finished", "stop")},
        "tokens": len(answer["tokens"]),
    }


def shown(answer: TextAnswer) -> str:
    """An answer for the terminal: its control characters are spelled out, and ` …` says that it was
    cut."""
    return (visible(answer["text"]) or "(an empty answer)") + ("" if answer["finished"] else " …")


def warn(run: Run, messages: Messages, conversation: Messages = ()) -> None:
    """Say on stderr what the model cannot read of messages: what its vocabulary does not know, a
    text that reads as another turn, and what its chat template does not write of a conversation."""
    for text in (m["content"] for m in messages):
        ids = run.vocabulary.encode(text)
        if unknown := ids.count(run.vocabulary.unk_id):
            print(
                f"itx: the vocabulary does not know {unknown} of the {len(ids)} tokens of "
                f"{text[:40]!r}",
                file=sys.stderr,
            )
        if chat.imitates(text, run.template):
            print(
                f"itx: {text[:40]!r} holds a line that begins as a turn does; the model cannot "
                "tell it from one",
                file=sys.stderr,
            )
    for what in run.unwritten(conversation):
        print(f"itx: the run's chat template does not write {what}", file=sys.stderr)


def several(run: Run, asked: list[Messages]) -> list[dict[str, Any]]:
    """Answer all of them together; print each, behind its prompt where there are several."""
    if not run.template and (long := next((m for m in asked if len(m) > 1), None)):
        raise UserError(
            f"a conversation of {len(long)} turns: this run was not trained on conversations, so "
            "it takes one prompt"
        )
    for messages in asked:
        warn(run, messages, messages)
    answers = run.answers(asked)
    for messages, answer in zip(asked, answers, strict=True):
        if len(asked) > 1:
            print(f"> {visible(messages[-1]['content'])}")
        print(shown(answer) + ("\n" if len(asked) > 1 else ""))
    return [facts(m, a) for m, a in zip(asked, answers, strict=True)]


def converse(run: Run, system: str = "", read: TextIO | None = None) -> list[dict[str, Any]]:
    """Ask what a person types until the input ends; returns what was asked and answered."""
    terminal = read is None and sys.stdin.isatty()
    if terminal:
        import readline  # noqa: F401  (input() then edits lines and keeps a history, of any script)

        remembers = (
            "It remembers the conversation" if run.template else "Each prompt is asked alone"
        )
        print(f"{remembers}; /help says what there is.")
    elif read is None and run.template:
        say("the lines are one conversation, each behind what was said before; /new begins another")
    head = _head(run, system, "--system") if system else []
    messages, out = list(head), []
    while (line := _line(terminal, read or sys.stdin)) is not None:
        word, _, rest = line.strip().partition(" ")
        if not word:
            continue
        if word in ("/quit", "/exit"):
            break
        try:
            if word == "/help":
                lines = HELP.splitlines()
                print("\n".join(x for x in lines if run.template or "/" not in x[:3]))
            elif word in ("/new", "/system") and run.template:
                if word == "/new" and rest:
                    raise UserError(
                        f"/new takes no text; to ask under an instruction: /system {rest}"
                    )
                if word == "/system":
                    head = _head(run, unescaped(rest), word) if rest.strip() else []
                messages = list(head)
                print("(a new conversation)")
            elif re.fullmatch("/[a-z]+", word):
                known = [c for c in COMMANDS if run.template or c not in ("/new", "/system")]
                raise UserError(
                    f"no command {word}{did_you_mean(word, known)}; --prompt asks a text that "
                    "begins so"
                )
            else:
                before = messages if run.template else []
                messages, answered = _asked(run, before, unescaped(line), terminal)
                out.append(answered)
        except UserError as e:  # too long, say: the next may do, behind what was said so far
            print(f"itx: {e}", file=sys.stderr)
    return out


def _asked(
    run: Run, before: Messages, text: str, terminal: bool
) -> tuple[Messages, dict[str, Any]]:
    """Ask a text behind the messages before it: (the conversation so far, facts of the answer)."""
    user = message(text, "the line")
    warn(run, [user])
    asked, left_out = run.room([*before, user])
    if left_out:
        print(f"(the {left_out} oldest turns are left out: the context has no room for them)")
    answer = _streamed(run, asked, terminal)
    # a template has no place for an empty turn: the question is forgotten with it
    turn = {"role": "assistant", "content": answer["text"]}
    conversation = [*asked, turn] if answer["text"].strip() else asked[:-1]
    return conversation, facts(asked, answer)


def _head(run: Run, system: str, where: str) -> Messages:
    """An instruction, as a conversation begins with it; UserError where the run's template has no
    place for one."""
    head = [message(system, where, "system")]
    asked = [*head, message("?", where)]
    run.ids(asked)
    warn(run, head, asked)
    return head


def _line(terminal: bool, read: TextIO) -> str | None:
    """The next line; None at the end of the input."""
    try:
        line = input("> ") + "\n" if terminal else read.readline()
    except EOFError:
        print()
        return None
    except KeyboardInterrupt:
        print()
        return ""
    except UnicodeDecodeError as e:
        raise UserError(f"the input is not UTF-8: {e}") from e
    if not line:
        return None
    message("." + line, "the input")
    return line.removesuffix("\n")


def _streamed(run: Run, messages: Messages, terminal: bool) -> TextAnswer:
    """The answer, written as it comes where a person looks on; Ctrl-C cuts it short."""
    if not terminal:
        answer = run.answers([messages])[0]
        print(shown(answer), flush=True)
        return answer
    so_far = ""

    def write(_: int, text: str) -> None:
        nonlocal so_far
        text = visible(text)
        print(text[len(so_far) :], end="", flush=True)
        so_far = text

    stream = write if run.how.beams == 1 else None
    try:
        answer = run.answers([messages], stream)[0]
    except KeyboardInterrupt:
        answer = {"text": so_far, "tokens": [], "finished": False, "stop": None}
    whole = shown(answer)  # what bytes were cut short may read otherwise in the end
    print(whole[len(so_far) :] if whole.startswith(so_far) else "\n" + whole, flush=True)
    return answer
