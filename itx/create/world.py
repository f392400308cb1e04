# SPDX-License-Identifier: Apache-2.0
"""What an action of refinement (refine.py) is given, and what comes of it."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from itx.analysis.actions import Action, ActionExample
from itx.config import RunConfig
from itx.create import review
from itx.create.generators import Ask
from itx.errors import UserError
from itx.eval import stats
from itx.prepare import patches
from itx.prepare.patches import Entry
from itx.prepare.types import Item
from itx.tasks import registry
from itx.tasks.spec import TaskSpec

RELABEL = ("drop", "rather", "ask")


@dataclass(frozen=True)
class How:
    """What a person may choose about the actions.

    Args:
        relabel: one of RELABEL; "": ask where there is a generator.
        rows: that an action adds at most. factor: of a rate that is raised.
    """

    relabel: str = ""
    rows: int = 50
    factor: float = 2.0
    seed: int = 0
    chat: bool = True


@dataclass(frozen=True)
class World:
    """The run that is refined.

    Args:
        suspects: {(task, content): what analysis says of a doubted label}.
        about: gives the training examples that an action is about, and the conditions that cannot
            be told of them.
    """

    config: RunConfig
    trained: frozenset[str]  # tasks, without variants
    suspects: dict[tuple[str, str], dict[str, Any]]
    about: Callable[[Action], tuple[list[ActionExample], list[str]]]
    ask: Ask | None = None
    how: How = How()
    _items: dict[str, list[Item]] = field(default_factory=dict)
    _by_content: dict[str, dict[str, list[Item]]] = field(default_factory=dict)

    def spec(self, task: str) -> TaskSpec:
        return registry.task(task, self.config.data.root)

    def items(self, task: str) -> list[Item]:
        """What the run trained on, its patches applied."""
        if task not in self._items:
            self._items[task] = review.training_items(self.spec(task), self.config.data)
        return self._items[task]

    def by_content(self, task: str) -> dict[str, list[Item]]:
        if task not in self._by_content:
            own = stats.grouped((f"{i.hash:016x}", i) for i in self.items(task))
            self._by_content[task] = own
        return self._by_content[task]

    def of_trained(self, action: Action) -> list[str]:
        """The action's tasks that are trained on; UserError where none is."""
        tasks = [t for t in action["tasks"] if t in self.trained]
        if not tasks:
            some = ", ".join(action["tasks"][:4])
            raise UserError(f"{named(action)}: none of its tasks is trained on ({some})")
        return tasks

    def rows(
        self, action: Action, wanted: Iterable[ActionExample]
    ) -> Iterator[tuple[TaskSpec, Item]]:
        """The rows behind the names; UserError where one is no longer there, or is not the only
        one."""
        for example in wanted:
            task, content = example["task"], example["content"]
            found = self.by_content(task).get(content, [])
            if len(found) != 1:
                why = (
                    f"{len(found)} rows have it now" if found else "its row is gone or has changed"
                )
                raise UserError(
                    f"{named(action)} does not apply any more: example {content} of {task!r}, "
                    f"{why}; analyse a run on the data of today"
                )
            yield self.spec(task), found[0]


class Outcome(NamedTuple):
    entries: list[Entry]
    factors: dict[str, float]  # task -> of its rate
    settings: dict[str, str]
    counts: Counter  # what was done and what not, in words
    notes: list[str]  # what was passed over


def outcome(entries: list[Entry] | None = None, **more: Any) -> Outcome:
    empty = {"factors": {}, "settings": {}, "counts": Counter(), "notes": []}
    return Outcome(entries or [], **{**empty, **more})


def named(action: Action) -> str:
    return f"action {action['id']} ({action['kind']})"


def judged(spec: TaskSpec, item: Item, verdict: str, why: str, **more: Any) -> Entry:
    """An entry on a row as it is now."""
    named = (item.id, f"{item.hash:016x}", patches.row_of(item.values))
    return Entry(spec.name, verdict, *named, why=why, **more)
