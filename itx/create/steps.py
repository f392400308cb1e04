# SPDX-License-Identifier: Apache-2.0
"""How a row is made of another one: an operator takes steps, each of which asks a generator.

parent     a row that there is (parents.py)
job        one operator on one parent, for the n-th time; all that it draws hangs on these
steps      a Python generator of a job: it yields what it asks, is sent the answer, and returns
           an outcome. A rule yields nothing. augment.py drives many together, in batches
outcome    a row, an answer of which none can be made, or why the parent is none for it
"""

import functools
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from itx import hashing, languages, text
from itx.create.generators import MAX_SEED, Completion, Request, request_for
from itx.create.row import Row

LANGUAGES = {"Latin": "en", "Cyrillic": "ru", "Han": "zh"}  # of a text too short to tell
MIN_SURE = 0.6  # probability below which a language is taken from the letters
Item = TypeVar("Item")


@dataclass(frozen=True)
class Choice:
    """The options of a row. listed: the text that lists them, as it stands in the row; called: what
    answers each of them there; right: the place of the right one."""

    options: tuple[str, ...]
    right: int
    listed: str
    called: tuple[str, ...]


@dataclass(frozen=True)
class Parent:
    """A row that others are made of, and how an answer to it is judged: `metric` is 1 for one that
    is one of the references.

    choice: its options, where its task says so; a row of a file may list them in its text.
    reasoned, closing: what asks for a rationale and how its last line says the answer (with
    {answer}), where its task has wordings for it.
    """

    id: str
    row: Row
    references: tuple[str, ...]
    metric: str = "exact_match"
    choice: Choice | None = None
    reasoned: str = ""
    closing: str = ""

    @functools.cached_property
    def language(self) -> str:
        """Its language's code; of a short text what its alphabet says, "" where that tells none."""
        code, sure = languages.language_of(self.row.whole)
        if sure >= MIN_SURE:
            return code
        return LANGUAGES.get(text.script(self.row.whole), "")


class Question(NamedTuple):
    stage: str
    request: Request


class Changed(NamedTuple):
    """A row. found: what the operator itself finds wrong with it, {name: what}; operator: the name
    that its lineage gets, "" for the job's own."""

    row: Row
    found: dict[str, str] = {}
    operator: str = ""


class Unusable(NamedTuple):
    """What was made is no row: `why`, and as much of it as there is."""

    row: Row
    why: str


class NotApplicable(NamedTuple):
    """The parent is none for this operator."""

    why: str


Outcome = Changed | Unusable | NotApplicable
Steps = Generator[Question, Completion, Outcome]


@dataclass(frozen=True)
class Job:
    """One operator on one parent.

    Args:
        place: the run's seed, the operator's name, the parent's id and how often before.
        chat: ask with a message, not with a text to continue.
        known: words of all parents, which no typo may give.
    """

    parent: Parent
    place: tuple[Any, ...]
    chat: bool = True
    temperature: float = 0.7
    known: frozenset[str] = frozenset()

    @property
    def row(self) -> Row:
        return self.parent.row

    def draw(self, *what: Any) -> int:
        return hashing.draw(*self.place, *what)

    def one_of(self, among: Sequence[Item], *what: Any) -> Item:
        return among[self.draw(*what) % len(among)]

    def order(self, n: int, *what: Any) -> list[int]:
        """The numbers below n in an order that is drawn."""
        return sorted(range(n), key=lambda i: self.draw(*what, i))

    def ask(
        self,
        stage: str,
        prompt: str,
        most: int,
        stop: tuple[str, ...] = (),
        best: bool = False,
    ) -> Question:
        """A question of a stage.

        Args:
            most: tokens of the answer.
            stop: at which a text that is continued ends.
            best: take the best token, so that asking again gives the same.
        """
        how = {
            "max_tokens": most,
            "temperature": 0.0 if best else self.temperature,
            "seed": self.draw(stage) % (MAX_SEED + 1),
        }
        return Question(stage, request_for(prompt, self.chat, stop, **how))
