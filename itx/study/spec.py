# SPDX-License-Identifier: Apache-2.0
"""What a study is: a question about tuning, asked of several runs of one recipe that differ by just
what the question names.

    recipe     a file with get_config(), as `itx train` takes it, and get_study() beside it
    arm        overrides of the recipe: one answer to the question, such as "4 clusters"
    draw       overrides too: what is left to chance, which every arm sees alike: the clusters that
               are held out, the order, the seed
    run        an arm in a draw, an ordinary run folder
    side       what is compared: an arm, or several whose runs are averaged draw by draw
    measure    a number of each run, of the tasks that its eval.tasks names, the same for all arms
               of a draw. The first is the primary one, named before any run was made
    comparison two sides, draw by draw, and what others found of the same question

In an override of an arm `{draw}` stands for the draw's name, and `{name}` for what the draw's
`values` have under that name.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from itx.errors import UserError, check_known

BASE = "base"  # of an arm: it begins from the base that all studies share
# bits: what the instruction tells, against another task's (itx/eval/information.py)
# score: share of right answers; text: bits per byte of plain text (itx/eval/retention.py)
Kind = Literal["bits", "score", "text"]
MARGINS: dict[Kind, float] = {"bits": 0.5, "score": 0.05, "text": 0.02}
UNITS: dict[Kind, str] = {"bits": "bits an example", "score": "accuracy", "text": "bits per byte"}


@dataclass(frozen=True)
class Arm:
    name: str
    overrides: tuple[str, ...] = ()
    begins: str = BASE  # or the arm whose run of the same draw it goes on from
    side: str = ""  # what it is compared as; "": its name
    place: float | None = None  # along the picture, where the sides are numbers of something
    line: str = "tuned"  # of the picture, and of the slope, that it stands on with its place

    @property
    def compared_as(self) -> str:
        return self.side or self.name


@dataclass(frozen=True)
class Draw:
    name: str
    overrides: tuple[str, ...] = ()  # an arm's own come behind them, and count
    values: Mapping[str, str] = field(default_factory=dict)

    def filled(self, override: str) -> str:
        for name, value in {"draw": self.name, **self.values}.items():
            override = override.replace(f"{{{name}}}", value)
        return override


@dataclass(frozen=True)
class Measure:
    name: str
    kind: Kind
    variant: str = (
        ""  # of the tasks in eval.tasks those in this variant: "" bare ones, "fs2", "cot"
    )
    margin: float | None = None  # within which two sides are equivalent; None: MARGINS

    @property
    def within(self) -> float:
        return MARGINS[self.kind] if self.margin is None else self.margin


@dataclass(frozen=True)
class Comparison:
    """`other` beside `first`."""

    first: str
    other: str
    expected: str  # the verdict that agrees with what others found
    source: str  # who they are, and what they found: "FLAN (…) found that …"
    measure: str = ""  # what they found is about; "": the primary one, and all others beside it


@dataclass(frozen=True)
class Study:
    name: str
    question: str
    arms: tuple[Arm, ...]
    draws: tuple[Draw, ...]
    measures: tuple[Measure, ...]
    comparisons: tuple[Comparison, ...]
    axis: str = "arm"  # what the arms' places are
    # whether a place, which is then above 0, counts by its doublings in the slope and the picture
    log: bool = False
    notes: str = ""  # what a reader must know beside the design

    @property
    def sides(self) -> list[str]:
        return list(dict.fromkeys(arm.compared_as for arm in self.arms))

    def lines(self) -> dict[str, dict[str, float]]:
        """{line: {side: where it stands}} of the sides that are numbers of something."""
        out: dict[str, dict[str, float]] = {}
        for arm in self.arms:
            if arm.place is not None:
                out.setdefault(arm.line, {})[arm.compared_as] = arm.place
        return out


def check(study: Study) -> None:
    """UserError for a study that names what it does not have."""
    where = f"study {study.name!r}"
    names = [arm.name for arm in study.arms]
    for what, listed in (("arm", names), ("draw", [d.name for d in study.draws])):
        twice = next((n for i, n in enumerate(listed) if n in listed[:i]), None)
        if twice is not None or not listed:
            raise UserError(
                f"{where}: {f'{what} {twice!r} is there twice' if listed else f'no {what}'}"
            )
    for i, arm in enumerate(study.arms):
        if arm.begins != BASE:
            check_known(
                arm.begins, names[:i], f"{where}: arm {arm.name!r} begins from {arm.begins!r}"
            )
        if study.log and arm.place is not None and arm.place <= 0:
            raise UserError(
                f"{where}: arm {arm.name!r} has place {arm.place:g}, which has no logarithm; give "
                "it a place above 0, or none, or leave out log=True"
            )
    measures = [m.name for m in study.measures]
    for c in study.comparisons:
        for side in (c.first, c.other):
            check_known(side, study.sides, f"{where}: no side {side!r}")
        check_known(c.measure or measures[0], measures, f"{where}: no measure {c.measure!r}")
