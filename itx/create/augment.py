# SPDX-License-Identifier: Apache-2.0
"""New rows of old ones: operators (operators.py) on parents (parents.py), each filtered.

    jobs    every operator on every parent, `copies` times, a share of the jobs at a time
    drive   all jobs of a share take a step; what they ask is asked together
    judge   what the operator found, the filters, what is there already, what an evaluation asks

Of each job comes a row that is kept, a row that is dropped, or a count of why there is none: the
three add up to the jobs. All that is drawn comes from the seed, the operator, the parent's id and
the number of the copy, so that the same answers give the same rows: a run that was killed goes
through its jobs again and asks only for what its journal lacks.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from itx import hashing, text
from itx.create import collection, filters, lineage
from itx.create.filters import Filter
from itx.create.generators import FAILED, Ask, Completion
from itx.create.lineage import Lineage, Made
from itx.create.operators import Operator
from itx.create.row import Row
from itx.create.steps import Changed, Job, NotApplicable, Outcome, Parent, Question, Steps, Unusable
from itx.leaks.finder import Asked

AUGMENT_VERSION = 1  # raise it when an operator asks or does another thing
RULES = "rules"  # who made a row that no generator was asked for
JOBS_AT_ONCE = 1024


@dataclass(frozen=True)
class Settings:
    """What decides the rows, besides parents, operators, filters and answers.

    Args:
        copies: of each operator on each parent.
        chat: ask with a message, not with a text to continue.
    """

    copies: int = 1
    seed: int = 0
    temperature: float = 0.7
    chat: bool = True


class Result(NamedTuple):
    made: list[Made]
    operators: dict[str, dict[str, Any]]  # {operator: its jobs, and what came of them}


def run(
    ask: Ask,
    generator: str,
    parents: Sequence[Parent],
    chosen: dict[str, Operator],
    settings: Settings,
    every: dict[str, Filter],
    asked: Sequence[Asked] = (),
    told: Callable[[int, int, int], None] = lambda done, of, kept: None,
) -> Result:
    """Do each operator to each parent.

    Args:
        generator: the name of who answers.
        every: the filters by name, in the order in which a row is dropped by them.
        asked: what evaluations ask (itx/leaks): rows that hold it are dropped.
        told: called with (jobs that are done, all of them, rows kept) after each share.
    """
    making = _Making(ask, generator, parents, chosen, settings, every, asked)
    jobs = [(n, name, p) for n in range(settings.copies) for name in chosen for p in parents]
    for begin in range(0, len(jobs), JOBS_AT_ONCE):
        making.share(jobs[begin : begin + JOBS_AT_ONCE])
        made = [m for of in making.made.values() for m in of]
        kept = sum(not m.lineage.dropped for m in made)
        told(min(len(jobs), begin + JOBS_AT_ONCE), len(jobs), kept)
    return Result([m for of in making.made.values() for m in of], making.by_operator())


class _Making:
    """The rows so far."""

    def __init__(
        self,
        ask: Ask,
        generator: str,
        parents: Sequence[Parent],
        chosen: dict[str, Operator],
        settings: Settings,
        every: dict[str, Filter],
        asked: Sequence[Asked],
    ) -> None:
        self.ask, self.generator, self.chosen = ask, generator, chosen
        self.settings, self.filters, self.asked = settings, every, asked
        self.known = frozenset(w for p in parents for s in p.row.texts for w in text.words(s))
        self.ids = {_id(p.row): p.id for p in parents}  # of each row that is there: its name
        self.duplicates = collection.Duplicates()
        if any(o.new for o in chosen.values()):
            for p in parents:
                self.duplicates(p.row, p.id)
        self.made: dict[str, list[Made]] = {name: [] for name in chosen}
        self.none: dict[str, Counter[str]] = {name: Counter() for name in chosen}

    def share(self, jobs: Sequence[tuple[int, str, Parent]]) -> None:
        """Some of the jobs, from their first question to their rows."""
        names, places = [name for _, name, _ in jobs], [self._job(*job) for job in jobs]
        ended = self._drive(names, places)
        rows: list[tuple[str, Made]] = []
        for (_, name, _), job, (outcome, made_by) in zip(jobs, places, ended, strict=True):
            if isinstance(outcome, NotApplicable):
                self.none[name][outcome.why] += 1
            else:
                rows.append((name, self._judged(name, job, outcome, made_by)))
        whole = [m for _, m in rows if not m.lineage.dropped]
        found = collection.leaks([m.row for m in whole], self.asked)
        leaking = {id(whole[i]): how for i, how in found.items()}
        for name, m in rows:
            how = leaking.get(id(m))
            self.made[name].append(m if how is None else m.without(f"leak: {how}", leak=how))

    def _job(self, copy: int, name: str, parent: Parent) -> Job:
        how = self.settings
        place = (how.seed, name, parent.id, copy)
        return Job(parent, place, how.chat, how.temperature, self.known)

    def _drive(
        self, names: Sequence[str], jobs: Sequence[Job]
    ) -> list[tuple[Outcome, dict[str, Any]]]:
        """The outcome of each job, and what was asked for it: those that ask go on together."""
        ended: list[tuple[Outcome, dict[str, Any]]] = []
        waiting: dict[int, tuple[Steps, Question]] = {}
        for i, (name, job) in enumerate(zip(names, jobs, strict=True)):
            operator = self.chosen[name]
            if operator.rule:
                ended.append((operator.rule(job), {}))
                continue
            ended.append((NotApplicable(""), {}))
            self._step(i, operator.asks(job), None, ended, waiting)
        while waiting:
            places, several = list(waiting), list(waiting.values())
            answers = self.ask([question.request for _, question in several])
            waiting = {}
            for i, (steps, question), answer in zip(places, several, answers, strict=True):
                ended[i][1][question.stage] = lineage.asked(question.request)
                if answer.finish == FAILED:
                    row = dataclasses.replace(jobs[i].row, output="")
                    ended[i] = Unusable(row, f"no answer: {answer.error}"), ended[i][1]
                else:
                    self._step(i, steps, answer, ended, waiting)
        return ended

    def _step(
        self,
        i: int,
        steps: Steps,
        answer: Completion | None,
        ended: list[tuple[Outcome, dict[str, Any]]],
        waiting: dict[int, tuple[Steps, Question]],
    ) -> None:
        """Send a job its answer: it ends, or waits for the answer to what it asks next."""
        try:
            waiting[i] = steps, steps.send(answer)
        except StopIteration as stop:
            ended[i] = stop.value, ended[i][1]

    def _judged(
        self, name: str, job: Job, outcome: Changed | Unusable, made_by: dict[str, Any]
    ) -> Made:
        operator = self.chosen[name]
        done, verdicts = name, {}
        if isinstance(outcome, Changed):
            done = outcome.operator or name
            verdicts = {**outcome.found, **filters.verdicts(outcome.row, self.filters)}
            verdicts = verdicts or self._there_already(operator, job, outcome.row)
            why = next((f"{n}: {found}" for n, found in verdicts.items()), "")
        else:
            why = outcome.why
        who = self.generator if operator.asks else RULES
        return Made(
            outcome.row,
            Lineage((job.parent.id,), who, made_by, verdicts, why, done, operator.preserving),
        )

    def _there_already(self, operator: Operator, job: Job, row: Row) -> dict[str, str]:
        """Whether a row is its parent or another one; else it is remembered."""
        name = _id(row)
        if name in self.ids:
            return {"duplicate": f"of {self.ids[name]}"}
        if operator.new and (alike := self.duplicates(row, name)):
            return alike
        self.ids[name] = name
        return {}

    def by_operator(self) -> dict[str, dict[str, Any]]:
        out = {}
        for name, made in self.made.items():
            counts = lineage.counts(made)
            none = dict(sorted(self.none[name].items(), key=lambda x: (-x[1], x[0])))
            kept = [m.lineage.operator for m in made if not m.lineage.dropped]
            out[name] = {
                "jobs": len(made) + sum(none.values()),
                "kept": counts["kept"],
                "dropped": counts["dropped"],
                "not applicable": none,
                "preserving": self.chosen[name].preserving,
            }
            # such as rationalisations among the rationales
            out[name] |= {other: n for other, n in Counter(kept).items() if other != name}
        return out


def _id(row: Row) -> str:
    return hashing.digest(*row.texts)
