# SPDX-License-Identifier: Apache-2.0
"""Two runs judged by a person who does not know whose answer is whose: what `itx compare A B
--blind PAGE` shows, and what `--votes FILE` makes of the votes.

shown     questions that both runs were asked in the same words, one wording of each example, where
          their answers differ; drawn by hash, the groups in turn
side      left or right is drawn by the seed and the row, and stands nowhere in the page
win rate  of the second run: (rows that it won + half of the ties) / rows judged; two answers that
          are both bad are a tie
interval  95 %, Wilson's; p: two-sided binomial over the rows that one of them won (sign test)
"""

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from itx import hashing, storage
from itx.analysis import compare
from itx.analysis.compare import Scored
from itx.errors import UserError, check_known
from itx.eval import averages, predictions, stats, tables

VOTES_VERSION = 1
VOTES = ("left", "right", "tie", "both bad")
SHOWN_GROUPS = tuple(g for g in averages.GROUPS if g != "instruction")  # that is an ablation


class Asked(NamedTuple):
    """A question, and what the first and the second run answered."""

    id: str
    group: str
    prompt: str
    references: list[str]
    answers: tuple[str, str]

    def swapped(self, seed: int) -> bool:
        """Whether the second run's answer stands on the left."""
        return bool(hashing.draw("blind", seed, self.id) & 1)


def pair(paths: Sequence[str]) -> tuple[Scored, Scored]:
    """The two runs of the command line; UserError where they are not two that are scored."""
    if len(paths) != 2:
        raise UserError(f"a blind comparison is of two runs, not of {len(paths)}")
    try:
        first, other = (compare.scored(p) for p in paths)
    except compare.LeftOut as e:
        raise UserError(str(e)) from e
    return first, other


def facts(runs: tuple[Scored, Scored], most: int, seed: int) -> dict[str, Any]:
    """All that the page is made of: at most so many rows."""
    asked, counts = _drawn(runs, most, seed)
    if not asked:
        told = "; ".join(f"{n} {why}" for why, n in counts.items()) or "they share no question"
        raise UserError(f"{runs[0].name} and {runs[1].name}: nothing to judge ({told})")
    rows = []
    for a in asked:
        left, right = reversed(a.answers) if a.swapped(seed) else a.answers
        told = {"id": a.id, "prompt": a.prompt, "references": a.references}
        rows.append({**told, "left": left, "right": right})
    return {
        "digest": _digest(asked),
        "seed": seed,
        "rows": rows,
        "left_out": [f"Not shown: {n:,} {why}." for why, n in counts.items()],
    }


def _digest(asked: Sequence[Asked]) -> str:
    return hashing.digest(*(repr(a) for a in asked))


def _drawn(runs: tuple[Scored, Scored], most: int, seed: int) -> tuple[list[Asked], dict[str, int]]:
    """(the rows, what is not among them by reason)."""
    counts: Counter[str] = Counter()
    by_group = stats.grouped((a.group, a) for a in _differing(runs, counts))
    for own in by_group.values():
        own.sort(key=lambda a: hashing.draw("shown", seed, a.id))
    turns = itertools.zip_longest(*(by_group[g] for g in SHOWN_GROUPS if g in by_group))
    ordered = [a for turn in turns for a in turn if a]
    counts["differing answers beyond --blind_rows"] += max(0, len(ordered) - most)
    return ordered[:most], {why: n for why, n in counts.items() if n}


def _differing(runs: tuple[Scored, Scored], counts: Counter[str]) -> Iterator[Asked]:
    first, other = runs
    for name, row in first.scores["rows"].items():
        if name not in other.scores["rows"] or row["group"] not in SHOWN_GROUPS:
            only = "rows of other groups" if name in other.scores["rows"] else "rows that one has"
            counts[only] += 1
            continue
        sides = [predictions.read_whole(r.run, r.step, name) for r in runs]
        of_other = {(x["content"], x["template"]): x for x in sides[1]}
        shown: set[str] = set()
        for x in sorted(
            sides[0], key=lambda x: hashing.draw("wording", x["content"], x["template"])
        ):
            y = of_other.get((x["content"], x["template"]))
            if y is None or y["prompt"] != x["prompt"]:
                counts["questions that one of them was asked in other words, or not"] += 1
            elif x["prediction"].strip() == y["prediction"].strip():
                counts["questions that both answered alike"] += 1
            elif x["content"] in shown:
                counts["further wordings of the same question"] += 1
            else:
                shown.add(x["content"])
                key = hashing.digest(name, x["content"], x["template"])
                both = (x["prediction"], y["prediction"])
                yield Asked(key, row["group"], x["prompt"], list(x["references"]), both)


# ---- the votes


class Votes(NamedTuple):
    file: str
    judge: str
    of: str  # digest of the page
    seed: int
    rows: int  # of the page
    votes: dict[str, str]


def read(file: Path | str) -> Votes:
    """The votes of a file; UserError with the line where it holds none."""
    lines = storage.objects_in(file)
    _, head = next(lines)
    if head.get("votes") != VOTES_VERSION:
        raise UserError(f"{file}: no votes of version {VOTES_VERSION} in its first line")
    kinds = {"judge": str, "of": str, "seed": int, "rows": int}
    for key, kind in kinds.items():
        if type(head.get(key)) is not kind:
            raise UserError(f"{file}, line 1: {key!r} is absent or is no {kind.__name__}")
    votes: dict[str, str] = {}
    for number, held in lines:
        where, vote = f"{file}, line {number}", held.get("vote")
        if not isinstance(vote, str):
            raise UserError(f"{where}: a row without a vote; valid: {', '.join(VOTES)}")
        check_known(vote, VOTES, f"{where}: vote {vote!r}")
        if not isinstance(held.get("id"), str) or held["id"] in votes:
            raise UserError(f"{where}: a row without id, or one that was voted on before")
        votes[held["id"]] = vote
    return Votes(str(file), *(head[k] for k in kinds), votes)


class Decided(NamedTuple):
    """The rows of a page, and what the votes of a judge decided."""

    votes: Votes
    asked: list[Asked]
    outcomes: dict[str, str]  # {row: first, other, tie or both bad}


def decided(runs: tuple[Scored, Scored], votes: Votes) -> Decided:
    """UserError where the votes are of other runs, or of answers that have changed since."""
    asked, _ = _drawn(runs, votes.rows, votes.seed)
    if _digest(asked) != votes.of:
        raise UserError(
            f"{votes.file}: these votes are of other runs or of other answers than "
            f"{runs[0].name} and {runs[1].name}, in this order, have now"
        )
    by_id = {a.id: a for a in asked}
    for name in votes.votes:
        check_known(name, by_id, f"{votes.file}: no row {name!r} in the page")
    return Decided(votes, asked, {a.id: _outcome(a, votes) for a in asked if a.id in votes.votes})


def _outcome(asked: Asked, votes: Votes) -> str:
    """first, other, tie or both bad."""
    vote = votes.votes[asked.id]
    if vote not in ("left", "right"):
        return vote
    return "other" if (vote == "left") == asked.swapped(votes.seed) else "first"


def result(of: Decided) -> dict[str, Any]:
    """{"file", "judge", "judged", "open", "won": [rows that each run won], "ties", "bad",
    "win_rate", "interval", "p", "groups": {group: [won, won, ties]}}."""
    counted, judged = Counter(of.outcomes.values()), len(of.outcomes)
    first, other, ties = counted["first"], counted["other"], counted["tie"] + counted["both bad"]
    rate = (other + ties / 2) / judged if judged else None
    return {
        "file": of.votes.file,
        "judge": of.votes.judge,
        "judged": judged,
        "open": len(of.asked) - judged,
        "won": [first, other],
        "ties": counted["tie"],
        "bad": counted["both bad"],
        "win_rate": rate,
        "interval": list(stats.wilson(rate, judged)) if judged else None,
        "p": stats.sign_test(first, other),
        "groups": {
            tables.label(group, ""): [
                sum(of.outcomes.get(a.id) in kinds for a in own)
                for kinds in (("first",), ("other",), ("tie", "both bad"))
            ]
            for group, own in stats.grouped((a.group, a) for a in of.asked).items()
        },
    }


def agreement(several: Sequence[Decided]) -> dict[str, int] | None:
    """Of rows that two judges or more decided, how many all of them decided alike; None for one
    judge."""
    if len(several) < 2:
        return None
    said = stats.grouped(pair for of in several for pair in of.outcomes.items())
    both = [own for own in said.values() if len(own) > 1]
    return {"rows": len(both), "alike": sum(len(set(own)) == 1 for own in both)}
