# SPDX-License-Identifier: Apache-2.0
"""Parents, jobs on them, and a whole augmentation with a scripted generator."""

import contextlib
from collections import Counter
from pathlib import Path

from itx.create import (
    augment,
    filters,
    lineage,
    operators,
)
from itx.create.augment import Settings
from itx.create.generators import Request, Scripted
from itx.create.journal import Journal, ask
from itx.create.row import Row
from itx.create.steps import Job, Parent

ENGLISH = "Write a short letter to the old baker who lives behind the church and ask him for bread."
RUSSIAN = (
    "Напиши короткое письмо старому пекарю, который живёт за церковью, и попроси у него хлеба."
)
CHINESE = "请给住在教堂后面的老面包师写一封短信，向他要一些面包。"


def parent(instruction: str, output: str = "It is done.", given: str = "", **more) -> Parent:
    row = Row(instruction, given, output)
    return Parent(more.pop("id", row.instruction[:12]), row, (output,), **more)


def job(p: Parent, seed: int = 0, **more) -> Job:
    return Job(p, (seed, "test", p.id, 0), **more)


def script_of(request: Request) -> str:
    return request.prompt or request.messages[-1].content


def run(folder: Path, of: list[Parent], names: str, model=None, **how) -> augment.Result:
    folder.mkdir(exist_ok=True)
    generator = Scripted(model or (lambda request: "Please say it."))
    asked = how.pop("asked", ())
    every = filters.chosen(filters.every(()), how.pop("without", ()))
    with Journal(folder / "journal.sqlite") as kept:
        return augment.run(
            lambda requests: ask(kept, generator, requests),
            generator.name,
            of,
            operators.chosen(names.split()),
            Settings(**how),
            every,
            asked,
        )


def kept(result: augment.Result) -> list[lineage.Made]:
    return [m for m in result.made if not m.lineage.dropped]


class Stop(Exception):
    """Ends a run from within a scripted model."""


def stopped_and_continued(model, allowed, work) -> tuple[object, Counter[str]]:
    """(what `work(model)` gives in the end, how often each request was asked for): it is begun
    anew for each of the `allowed` numbers of requests, behind which it is stopped, and once without
    a bound."""
    asked: Counter[str] = Counter()
    result = None
    for most in (*allowed, 10**9):
        left = [most]

        def stopping(request, left=left):
            left[0] -= 1
            if left[0] < 0:
                raise Stop
            asked[request.digest] += 1
            return model(request)

        with contextlib.suppress(Stop):
            result = work(stopping)
    return result, asked
