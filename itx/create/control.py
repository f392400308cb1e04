# SPDX-License-Identifier: Apache-2.0
"""The control arm of a refinement: as much is done to a run's data as its actions would do, but to
what a draw by hash chose. A refinement that gains no more than this found nothing.

    rows rejected or fixed        as many drawn rows of the same task are rejected
    rows that a generator wrote   it is asked for as many, like drawn rows of the task
    counterfactual rows           as many rows with the words of other groups swapped
    rates                         as many other tasks' rates times the factor
    settings                      stay as they are
"""

from collections import Counter
from collections.abc import Iterable

from itx import group_terms, hashing
from itx.analysis.actions import Action
from itx.create import asked
from itx.create.refine import Together, swapped, swaps_of
from itx.create.world import Outcome, World, judged, outcome
from itx.errors import UserError
from itx.prepare.patches import Entry
from itx.prepare.types import Item

SHOWN = 10  # drawn rows that a generator is shown at most
WHY = "drawn as a control"


def control(made: Together, world: World) -> Outcome:
    """What stands for the actions' outcomes; UserError where they did nothing that has a
    counterpart."""
    counts: Counter[str] = Counter()
    together = made.whole
    kept = {id(e) for e in together.entries}  # without what two actions did alike
    entries = rejected(together.entries, world)
    counts["rejected as a control"] = len(entries)
    of_rows = sum(e.verdict in ("reject", "fix") for e in together.entries)
    counts["fewer rejected than the actions reject or fix"] = of_rows - len(entries)
    for action, own in zip(made.actions, made.done, strict=True):
        wanted = Counter(e.task for e in own.entries if e.verdict == "new" and id(e) in kept)
        for task, n in sorted(wanted.items()):
            added = _added(action, task, n, world, counts)
            entries += added
            counts["added as a control"] += len(added)
            counts["fewer added than the actions add"] += n - len(added)
        counts["settings left as they are"] += len(own.settings)
    factors = _rates(set(together.factors), world, counts)
    if not entries and not factors:
        raise UserError(
            "--control: the actions neither reject, fix nor add rows, nor change the rates of some "
            "tasks among others, so that there is nothing to draw"
        )
    return outcome(entries, factors=factors, counts=+counts)


def rejected(entries: Iterable[Entry], world: World) -> list[Entry]:
    """As many rejected rows of each task as rows of it are rejected or fixed, drawn by hash among
    all of its rows, those that the actions chose among them: without these a control would keep
    what a sound refinement leaves out."""
    many = Counter(e.task for e in entries if e.verdict in ("reject", "fix"))
    return [
        judged(world.spec(task), item, "reject", WHY)
        for task, n in sorted(many.items())
        for item in _drawn(task, world)[:n]
    ]


def _drawn(task: str, world: World) -> list[Item]:
    """A task's rows in an order of chance."""
    return sorted(world.items(task), key=lambda i: hashing.draw("control", world.how.seed, i.hash))


def _added(action: Action, task: str, most: int, world: World, counts: Counter[str]) -> list[Entry]:
    """So many new rows of a task, or fewer."""
    spec, drawn = world.spec(task), _drawn(task, world)
    if action["kind"] == "generate":
        made = asked.written(
            world.ask, spec, drawn[:SHOWN], world.items(task), [], most, world.how.seed,
            world.how.chat, counts,
        )  # fmt: skip
        return [Entry(task, "new", values=v, why=f"{WHY}; {by}") for v, by in made]
    own = {p for c in action["conditions"] for p in swaps_of(c)}
    groups = group_terms.GROUPS
    pairs = [(a, b) for a in groups for b in groups if a.kind == b.kind and a != b]
    others = [p for p in pairs if p not in own]
    every = (values for i in drawn for values in swapped(spec, i, others, counts))
    return [Entry(task, "new", values=v, why=WHY) for v, _ in zip(every, range(most), strict=False)]


def _rates(raised: set[str], world: World, counts: Counter[str]) -> dict[str, float]:
    others = sorted(
        world.trained - raised, key=lambda t: hashing.draw("control", world.how.seed, t)
    )
    counts["rates left as they are, for no other task is trained on"] += max(
        0, len(raised) - len(others)
    )
    return dict.fromkeys(others[: len(raised)], world.how.factor)
