# SPDX-License-Identifier: Apache-2.0
"""Where a run does worse than it should: slices whose scores fall short of what is expected there.

slice       the observations for which a condition holds (features.py), or two conditions
expected    without a reference: what the same task (or, for wordings, the same example) scores
            outside the slice; with one: what the reference run scored on the same questions, give
            or take what the whole run gained
test        of permutations within strata (itx/eval/permutation.py): a slice of wordings is tested
            within examples; one of examples within tasks; one of whole tasks over all examples,
            and only beside a reference, for that a task is harder than others is no fault
noise       two runs of one recipe differ as well. Gains and losses that undo each other within a
            slice are noise, and what single conditions vary beyond chance, faults left out
            (`_dispersion`), widens all (Efron, 2004, “Large-scale simultaneous hypothesis
            testing”: the empirical null)
findings    by Benjamini and Hochberg (1995) at FALSE_DISCOVERIES; conditions, words and pairs each
            have a share of the error rate (Genovese, Roeder and Wasserman, 2006, “False discovery
            control with p-value weighting”). Of those that are sure, the one comes first that
            explains most of all that is lost (the sum of squares); its observations are set aside,
            and all slices are judged anew without them
"""

import itertools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from itx.analysis import features
from itx.analysis.features import WORD, Condition, Conditions, Observations
from itx.eval import permutation, stats
from itx.eval.permutation import Dispersion, Moments

FALSE_DISCOVERIES = 0.05
MIN_SHORTFALL = 0.05  # of a score: less is no finding, however sure
MIN_NULL = 8  # slices of one kind from which the empirical null is learned
MIN_TASKS = 4  # by which a whole task is told from what tasks vary
MAX_NULL_PAIRS = 300  # from which the empirical null of pairs is learned
MAX_FINDINGS = 20
EXPLAINED = "part of a finding, or around it, and not sure without it"
NOT_ALONE = "not sure once the findings are set aside"
EXAMPLES, TASKS, EVERYTHING = "examples", "tasks", "everything"  # what slices are compared within
WHOLE_TASKS = "whole tasks"
# of the error rate, by kind of slice
SHARES = {
    WHOLE_TASKS: 0.3,
    "conditions": 0.3,
    "words": 0.1,
    "pairs": 0.25,
    "pairs with words": 0.05,
}


class Finding(NamedTuple):
    conditions: tuple[Condition, ...]
    holds: np.ndarray  # bool [observations]
    difference: float  # mean score inside less what is expected there, below 0
    interval: tuple[float, float]  # 95 %, of this slice alone
    within: str  # what it was compared within
    p: float  # without the answers that the findings before it hold
    adjusted: float  # p by Benjamini and Hochberg, weighted
    explains: list[str]  # slices that are sure as well, but not without this one

    @property
    def text(self) -> str:
        return _text(self.conditions)


class Searched(NamedTuple):
    findings: list[Finding]
    tested: dict[str, int]  # slices by kind
    untested: dict[str, int]  # reason -> slices
    dispersion: dict[str, float]  # of what is compared within it, 1: no more than by chance
    explained: dict[str, int]  # sure slices that are no findings of their own, by reason
    more: int  # sure slices that are not shown, for there are MAX_FINDINGS before them


class _Slice(NamedTuple):
    conditions: tuple[Condition, ...]
    holds: np.ndarray


class _Tested(NamedTuple):
    slice: _Slice
    moments: Moments
    within: str
    p: float

    @property
    def kind(self) -> str:
        words = any(c.kind == WORD for c in self.slice.conditions)
        if len(self.slice.conditions) == 2:
            return "pairs with words" if words else "pairs"
        return "words" if words else WHOLE_TASKS if self.within == EVERYTHING else "conditions"


class _Scores(NamedTuple):
    """What slices are tested on."""

    of: Observations
    values: np.ndarray  # float [observations]: scores, or differences from the reference
    referenced: bool

    def without(self, held: np.ndarray) -> "_Scores":
        return _Scores(features.kept(self.of, ~held), self.values[~held], self.referenced)

    def within(self, holds: np.ndarray) -> str:
        """What a slice is compared within; "" where it cannot be compared."""
        if permutation.varies_within(holds, self.of.examples):
            return EXAMPLES
        if permutation.varies_within(holds, self.of.tasks):
            return TASKS
        return EVERYTHING if self.referenced else ""

    def explained(self, holds: np.ndarray) -> float:
        """How much of the values' sum of squares a slice explains, over answers: the same measure
        for all slices, whatever they are compared within. Without a reference tasks may differ."""
        everywhere = np.zeros(len(holds), np.int64) if self.referenced else self.of.tasks
        found = permutation.moments(holds.astype(float), self.values, everywhere, everywhere)
        return found.total**2 / found.size if found.size > 0 else 0.0

    def mean_difference(self, holds: np.ndarray) -> float:
        return float(self.values[holds].mean() - self.values[~holds].mean())

    def moments(self, holds: np.ndarray, within: str) -> Moments | None:
        """None where nothing varies."""
        if within == EXAMPLES:
            found = _of_observations(self.of, holds, self.values)
        else:
            found = _of_examples(self.of, holds, self.values, within == TASKS)
        if found.size <= 0 or found.variance <= 0:
            return None
        if self.referenced:
            scale = found.size / max(1.0, float(holds.sum()))
            least = _noise(self.of, holds, self.values) * scale
            widened = {k: max(getattr(found, k), least) for k in ("variance", "rest")}
            found = found._replace(**widened)
        return found


def find(of: Observations, known: Conditions, reference: np.ndarray | None = None) -> Searched:
    """The slices that fall short.

    Args:
        known: single conditions, of which pairs are made; and how many were left out.
        reference: scores of the reference run on the same observations, float [observations].
    """
    values = of.scores - (0 if reference is None else reference)
    scores, untested = _Scores(of, values, reference is not None), Counter(known.untested)
    candidates = _slices(of, known.found, untested)
    dispersion = _dispersion(scores, candidates) if scores.referenced else {}
    tested = _tested(scores, candidates, dispersion, untested)
    findings, explained, more = _distinct(scores, tested, dispersion)
    counts = Counter(t.kind for t in tested)
    return Searched(
        findings,
        {kind: counts[kind] for kind in SHARES},
        dict(untested),
        {
            f"{within}, {('single', 'pairs')[n - 1]}": d.factor
            for (within, n), d in dispersion.items()
        },
        explained,
        more,
    )


def _tested(
    scores: _Scores, slices: Sequence[_Slice], dispersion: "Dispersions", untested: Counter
) -> list[_Tested]:
    """The slices with their p; in `untested` is counted why others have none."""
    tested = []
    for candidate in slices:
        within = scores.within(candidate.holds)
        moments = scores.moments(candidate.holds, within) if within else None
        if moments:
            usual = dispersion.get((within, len(candidate.conditions)))
            if within == EVERYTHING and usual is None:
                untested[f"whole tasks, of fewer than {MIN_TASKS}"] += 1
                continue
            tested.append(_Tested(candidate, moments, within, moments.p(usual)))
        else:
            untested["no score varies there" if within else "whole tasks, without a reference"] += 1
    return tested


def _of_observations(of: Observations, holds: np.ndarray, values: np.ndarray) -> Moments:
    """Within examples: of a slice that holds of some of their observations."""
    return permutation.moments(holds.astype(float), values, of.examples, of.examples)


def _of_examples(
    of: Observations, holds: np.ndarray, values: np.ndarray, within_tasks: bool
) -> Moments:
    """Over examples, within tasks or all together."""
    counts = np.bincount(of.examples)
    there = counts > 0
    x, y = (np.bincount(of.examples, weights=v)[there] / counts[there] for v in (holds, values))
    stratum = np.zeros(len(counts), np.int64)
    if within_tasks:
        stratum[of.examples] = of.tasks
    return permutation.moments(x, y, stratum[there], np.arange(len(x)))


def _noise(of: Observations, holds: np.ndarray, differences: np.ndarray) -> float:
    """What the variance of a slice's sum of differences is at least: gains and losses inside it
    that undo each other are noise. Twice the smaller of the two, in squares, and its spread."""
    inside = of.examples[holds]
    counts = np.maximum(np.bincount(inside), 1)
    means = np.bincount(inside, weights=differences[holds]) / counts
    less = min(float(np.square(np.clip(sign * means, 0, None)).sum()) for sign in (1, -1))
    return 2 * less + 2 * math.sqrt(less)


def _slices(of: Observations, known: Sequence[Condition], untested: Counter) -> list[_Slice]:
    """Single conditions, pairs of known ones of two features, and of a word with a task; each set
    of observations once."""
    seen = {c.holds.tobytes() for c in known}
    found = [_Slice((c,), c.holds) for c in known]
    for both in itertools.combinations(known, 2):
        of_features, kinds = {c.feature for c in both}, [c.kind for c in both]
        words = kinds.count(WORD)
        if len(of_features) == 1 or words == 2 or (words and "task" not in of_features):
            continue
        holds = both[0].holds & both[1].holds
        if not features.enough(of, holds):
            untested[f"pairs of fewer than {features.MIN_EXAMPLES} examples"] += 1
        elif (key := holds.tobytes()) not in seen:
            seen.add(key)
            found.append(_Slice(both, holds))
    return found


Dispersions = dict[tuple[str, int], Dispersion]  # by what is compared within, and conditions


def _dispersion(scores: _Scores, candidates: list[_Slice]) -> Dispersions:
    """How much slices vary beyond chance, single conditions and pairs apart; where whole tasks are
    compared, from the tasks.

    What a fault does to the slices that overlap it is no noise. Two measures leave it out, and the
    smaller counts: how gains alone vary, which are as large as losses where both are noise; and how
    differences vary where what explains most of the losses is set aside, as long as that is sure.
    """
    pairs = [c for c in candidates if len(c.conditions) == 2]
    some = [c for c in candidates if len(c.conditions) == 1]
    some += pairs[:: max(1, len(pairs) // MAX_NULL_PAIRS)]
    gains = scores._replace(values=np.maximum(scores.values, 0.0))
    by_gains = _factors(gains, some, np.ones(len(scores.values), bool), np.mean, 1.0)
    without = _without_faults(scores, some, candidates)
    return {key: min(found, without.get(key, found)) for key, found in by_gains.items()}


def _without_faults(scores: _Scores, some: list[_Slice], candidates: list[_Slice]) -> Dispersions:
    left = np.ones(len(scores.values), bool)
    for _ in range(MAX_FINDINGS):
        rest = scores.without(~left)
        worst = _worst(rest, [c.holds[left] for c in candidates])
        if worst is None:
            break
        held, within, moments = worst
        others = left.copy()
        others[left] = ~held
        usual = _factors(scores, some, others, np.median, MEDIAN).get((within, 1))
        if moments.p(usual) * len(candidates) > FALSE_DISCOVERIES:
            break
        left = others
    return _factors(scores, some, left, np.mean, 1.0)


MEDIAN = 0.4549  # of chi-square with one degree of freedom


def _factors(
    scores: _Scores,
    slices: list[_Slice],
    left: np.ndarray,
    middle: Callable[[list[float]], float],
    expected: float,
) -> Dispersions:
    """The middle of the squares of t, beside what it would be by chance.

    Args:
        left: bool [observations], those that count.
    """
    rest, squares = scores.without(~left), {}
    for s in slices:
        holds = s.holds[left]
        if features.enough(rest.of, holds) and (within := rest.within(holds)):
            if within != EVERYTHING or [c.feature for c in s.conditions] == ["task"]:
                moments = rest.moments(holds, within)
                square = moments.t**2 if moments else 0.0
                squares.setdefault((within, len(s.conditions)), []).append(square)
    found: Dispersions = {}
    for (within, n), own in squares.items():
        if len(own) >= (MIN_TASKS if within == EVERYTHING else MIN_NULL):
            df = len(own) - 1 if within == EVERYTHING else math.inf
            found[within, n] = Dispersion(max(1.0, float(middle(own)) / expected), df)
    if (EVERYTHING, 1) in found:
        found[EVERYTHING, 2] = found[EVERYTHING, 1]
    return found


def _worst(scores: _Scores, slices: Sequence[np.ndarray]) -> tuple[np.ndarray, str, Moments] | None:
    """(the slice, what it is compared within, its moments) of that which explains most of what is
    lost, and holds of at most half of all."""
    parts = [held for held in slices if held.any() and held.mean() <= 0.5]
    for held in sorted(parts, key=scores.explained, reverse=True):
        if scores.mean_difference(held) < 0 and features.enough(scores.of, held):
            within = scores.within(held)
            if moments := scores.moments(held, within):
                return held, within, moments
    return None


def _adjusted(tested: list[_Tested]) -> list[float]:
    """p by Benjamini and Hochberg, weighted by SHARES: over all slices the weights average to 1."""
    kinds = [t.kind for t in tested]
    counts = Counter(kinds)
    shares = sum(SHARES[kind] for kind in counts)
    weights = [SHARES[k] / shares * len(kinds) / counts[k] for k in kinds]
    return stats.benjamini_hochberg([t.p / w for t, w in zip(tested, weights, strict=True)])


def _sure(tested: list[_Tested]) -> list[tuple[_Tested, float]]:
    """(slice, adjusted p) of those that fall short beyond chance."""
    return [
        (t, adjusted)
        for t, adjusted in zip(tested, _adjusted(tested), strict=True)
        if adjusted <= FALSE_DISCOVERIES and t.moments.difference <= -MIN_SHORTFALL
    ]


def _distinct(
    scores: _Scores, tested: list[_Tested], dispersion: Dispersions
) -> tuple[list[Finding], dict[str, int], int]:
    """(findings, sure slices that are none of their own by reason, sure slices beyond
    MAX_FINDINGS).

    A strong fault makes many slices sure that overlap it, and with them the 5 % of all that may be
    false would become a large share of the few findings. So all slices are judged anew, each time
    without what the findings so far hold: once the faults are set aside, a further finding is as
    unlikely as in a run without any.
    """
    sure = _sure(tested)
    first = {_text(t.slice.conditions): t for t, _ in sure}
    found: list[Finding] = []
    left, rest = np.ones(len(scores.values), bool), scores
    while sure and len(found) < MAX_FINDINGS:
        t, adjusted = min(
            sure, key=lambda s: (-rest.explained(s[0].slice.holds), len(s[0].slice.conditions))
        )
        name = _text(t.slice.conditions)
        found.append(_finding(first.pop(name), t.p, adjusted))
        left &= ~found[-1].holds
        rest = scores.without(~left)
        others = [_Slice(o.slice.conditions, o.slice.holds[left]) for o in tested]
        others = [o for o in others if features.enough(rest.of, o.holds)]
        judged = _sure(_tested(rest, others, dispersion, Counter()))
        sure = [s for s in judged if _text(s[0].slice.conditions) in first]
    more = {_text(t.slice.conditions) for t, _ in sure}
    reasons = _explain(found, [t.slice for name, t in first.items() if name not in more])
    return found, reasons, len(more)


def _explain(found: list[Finding], slices: list[_Slice]) -> dict[str, int]:
    """Puts each slice under the finding that it shares most answers with, where most of either are
    the other's too. Returns how many were and were not."""
    reasons: Counter = Counter()
    for s in slices:
        shares = [(f.holds & s.holds).sum() / min(f.holds.sum(), s.holds.sum()) for f in found]
        if max(shares) >= 0.5:
            found[int(np.argmax(shares))].explains.append(_text(s.conditions))
            reasons[EXPLAINED] += 1
        else:
            reasons[NOT_ALONE] += 1
    return dict(reasons)


def _finding(t: _Tested, p: float, adjusted: float) -> Finding:
    """
    Args:
        t: the slice over all answers.
        p, adjusted: without those that earlier findings hold.
    """
    half, difference = stats.LEVEL_95 * t.moments.error, t.moments.difference
    interval = max(-1.0, difference - half), min(1.0, difference + half)
    return Finding(
        t.slice.conditions, t.slice.holds, difference, interval, t.within, p, adjusted, []
    )


def _text(conditions: Sequence[Condition]) -> str:
    return " and ".join(c.text for c in conditions)
