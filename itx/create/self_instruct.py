# SPDX-License-Identifier: Apache-2.0
"""Self-Instruct (Wang et al., 2023, arXiv:2212.10560): a model makes instructions from examples,
then an instance of each, and filters keep what is new and sound.

    round      1. ask for instructions: six seeds and two made before are shown
               2. drop those that the paper's rules or the filters refuse, and those that are like
                  one of the pool (novelty.py)
               3. ask of each whether it is a classification
               4. ask for an instance: output first for classifications, else input first
               5. filters, duplicates, leaks; what passes is kept

Rounds end when enough is kept, or after `rounds`. All that is drawn comes from (seed, stage, round,
number), so that with the same answers the same rows come out: a run that was killed goes through
its rounds again and asks only for what its journal lacks.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from itx import hashing
from itx.create import collection, filters, lineage, prompts
from itx.create.filters import Filter
from itx.create.generators import (
    CUT,
    FAILED,
    MAX_SEED,
    STOPPED,
    Ask,
    Completion,
    Message,
    Request,
)
from itx.create.lineage import Lineage, Made
from itx.create.novelty import MAX_LIKENESS, Pool
from itx.create.row import Row
from itx.create.seeds import Seed
from itx.eval import rouge
from itx.leaks.finder import Asked

SELF_INSTRUCT_VERSION = 1  # raise it when a change here or in prompts.py alters what is asked
EXAMPLES = 4  # shown with a question about one instruction
MAX_TOKENS = {"instructions": 512, "kind": 5, "input first": 400, "output first": 300}
# Self-Instruct: instructions are drawn (temperature 0.7), the rest is the best token
DRAWN = ("instructions",)
# of an instruction alone, before anything more is asked about it
OF_INSTRUCTIONS = ("length", "language", "format", "personal", "unsafe")
MIN_COPIED_WORDS = 4  # of a seed's output that an answer repeats: "yes" is none's own
# what a model of text alone can neither see nor make (the paper's list)
_KEYWORDS = re.compile(
    r"\b(?:images?|pictures?|photos?|graphs?|files?|maps?|draw|plot|go to|videos?|audio|music|"
    r"flowcharts?|diagrams?|картинк\w*|изображени\w*|фотографи\w*|рисун\w*|нарису\w*|график\w*|"
    r"видео|аудио|файл\w*|диаграмм\w*)\b|图片|图像|视频|音频|画一",
    re.IGNORECASE,
)
_PROGRAM = re.compile(r"write a program\b|напиши программу\b", re.IGNORECASE)


@dataclass(frozen=True)
class Settings:
    """What decides the rows, besides seeds, filters and answers.

    Args:
        wanted: rows; rounds: at most. requests: for instructions, in each round.
        chat: ask with a message, not with a text to continue.
    """

    wanted: int = 100
    rounds: int = 50
    requests: int = 8
    seed: int = 0
    temperature: float = 0.7
    likeness: float = MAX_LIKENESS
    chat: bool = False


class Result(NamedTuple):
    made: list[Made]
    notes: dict[str, int]  # what was met besides: parts of answers that are no rows
    rounds: int


class _Candidate(NamedTuple):
    instruction: str
    parents: tuple[str, ...]
    made_by: dict


def run(
    ask: Ask,
    generator: str,
    seeds: Sequence[Seed],
    settings: Settings,
    every: dict[str, Filter],
    asked: Sequence[Asked] = (),
    told: Callable[[int, int], None] = lambda rounds, kept: None,
) -> Result:
    """Make rows until enough are kept.

    Args:
        generator: the name of who answers.
        every: the filters by name, in the order in which a row is dropped by them.
        asked: what evaluations ask (itx/leaks): rows that hold it are dropped.
        told: called after each round.
    """
    making = _Making(ask, generator, seeds, settings, every, asked)
    rounds = 0
    while making.kept < settings.wanted and rounds < settings.rounds:
        making.round(rounds)
        rounds += 1
        told(rounds, making.kept)
    return Result(making.made, dict(sorted(making.notes.items())), rounds)


class _Making:
    """The pool and the rows so far."""

    def __init__(
        self,
        ask: Ask,
        generator: str,
        seeds: Sequence[Seed],
        settings: Settings,
        every: dict[str, Filter],
        asked: Sequence[Asked],
    ) -> None:
        self.ask, self.generator, self.seeds = ask, generator, list(seeds)
        self.settings, self.filters, self.asked = settings, every, asked
        self.pool = Pool(settings.likeness, [s.instruction for s in seeds])
        self.ids = [s.id for s in seeds]  # of each entry of the pool
        self.machine: list[tuple[str, str]] = []  # (id, instruction) of what was accepted
        self.duplicates = collection.Duplicates()
        words = {s.id: tuple(rouge.words(s.output)) for s in seeds}
        self.seed_outputs = {w: i for i, w in words.items() if len(w) >= MIN_COPIED_WORDS}
        self.made: list[Made] = []
        self.notes: Counter[str] = Counter()

    @property
    def kept(self) -> int:
        return sum(not m.lineage.dropped for m in self.made)

    def round(self, number: int) -> None:
        accepted = self._instructions(number)
        kinds = self._kinds(number, accepted)
        rows = self._instances(number, accepted, kinds)
        found = collection.leaks([m.row for m in rows if not m.lineage.dropped], self.asked)
        whole = [m for m in rows if not m.lineage.dropped]
        leaking = {id(whole[i]): how for i, how in found.items()}
        for m in rows:
            how = leaking.get(id(m))
            self.made.append(m if how is None else m.without(f"leak: {how}", leak=how))

    # ---- asking

    def _request(self, stage: str, prompt: str, *place: int) -> Request:
        said = {"prompt": prompt}
        if self.settings.chat:
            said = {"messages": (Message("user", f"{prompts.lead(stage)}\n\n{prompt}"),)}
        return Request(
            **said,
            max_tokens=MAX_TOKENS[stage],
            temperature=self.settings.temperature if stage in DRAWN else 0.0,
            stop=prompts.STOPS[stage],
            seed=hashing.draw(self.settings.seed, stage, *place) % (MAX_SEED + 1),
        )

    def _chosen(self, of: Sequence, count: int, *place: object) -> list:
        """Some of the items, drawn, in an order that is drawn."""
        keys = [hashing.draw(self.settings.seed, *place, i) for i in range(len(of))]
        return [of[i] for i in sorted(range(len(of)), key=keys.__getitem__)[:count]]

    def _instructions(self, number: int) -> list[_Candidate]:
        """Instructions that are new and pass; the others are rows that were dropped."""
        shown, requests = [], []
        for i in range(self.settings.requests):
            place = ("shown", number, i)
            old = self._chosen(self.machine, prompts.SHOWN - prompts.SEEDS, *place, "machine")
            count = prompts.SHOWN - len(old)
            new = [(s.id, s.instruction) for s in self._chosen(self.seeds, count, *place, "seeds")]
            both = self._chosen([*new, *old], prompts.SHOWN, *place, "order")
            shown.append(tuple(name for name, _ in both))
            prompt = prompts.instructions([said for _, said in both])
            requests.append(self._request("instructions", prompt, number, i))
        accepted = []
        for parents, request, answer in zip(shown, requests, self.ask(requests), strict=True):
            if answer.finish == FAILED:
                self.notes[f"instructions: no answer ({answer.error})"] += 1
                continue
            found, lost = prompts.read_instructions(answer.text, answer.finish == CUT)
            for why, n in lost.items():
                self.notes[f"instructions: {why}"] += n
            for instruction in found:
                made_by = {"instructions": lineage.asked(request)}
                candidate = _Candidate(instruction, parents, made_by)
                if self._is_new(candidate):
                    accepted.append(candidate)
        return accepted

    def _is_new(self, candidate: _Candidate) -> bool:
        """Whether an instruction is sound and unlike the pool, which it then joins."""
        said = candidate.instruction
        row = Row(said, "", "")
        verdicts = {
            name: found
            for name in OF_INSTRUCTIONS
            if name in self.filters and (found := self.filters[name](row))
        }
        why = instruction_flaw(said) or next((f"{n}: {f}" for n, f in verdicts.items()), "")
        if not why and (near := self.pool.admit(said)) is not None:
            why = f"not novel: ROUGE-L {near.likeness:.2f} with {self.ids[near.index]}"
        if why:
            self._drop(candidate, row, why, verdicts)
            return False
        name = hashing.digest(said)
        self.ids.append(name)
        self.machine.append((name, said))
        return True

    def _kinds(self, number: int, accepted: list[_Candidate]) -> list[bool]:
        """Of each instruction whether it is a classification."""
        labels = [s for s in self.seeds if s.is_classification]
        others = [s for s in self.seeds if not s.is_classification]
        requests = []
        for i, candidate in enumerate(accepted):
            half = EXAMPLES // 2
            shown = self._chosen(labels, half, "kind", number, i, "labels")
            shown += self._chosen(others, half, "kind", number, i, "others")
            shown = self._chosen(shown, EXAMPLES, "kind", number, i, "order")
            prompt = prompts.kind(shown, candidate.instruction)
            requests.append(self._request("kind", prompt, number, i))
        out = []
        for candidate, request, answer in zip(
            accepted, requests, self.ask(requests) if requests else [], strict=True
        ):
            candidate.made_by["kind"] = lineage.asked(request)
            is_label = None if answer.finish == FAILED else prompts.read_kind(answer.text)
            if is_label is None:
                self.notes["kind: neither yes nor no, taken for no"] += 1
            out.append(bool(is_label))
        return out

    def _instances(self, number: int, accepted: list[_Candidate], kinds: list[bool]) -> list[Made]:
        requests = []
        for i, (candidate, is_label) in enumerate(zip(accepted, kinds, strict=True)):
            stage = "output first" if is_label else "input first"
            alike = [
                s
                for s in self.seeds
                if s.is_classification == is_label and (s.input or not is_label)
            ]
            shown = self._chosen(alike or self.seeds, EXAMPLES, stage, number, i)
            write = prompts.output_first if is_label else prompts.input_first
            request = self._request(stage, write(shown, candidate.instruction), number, i)
            candidate.made_by[stage] = lineage.asked(request)
            requests.append(request)
        answers = self.ask(requests) if requests else []
        return [self._row(*parts) for parts in zip(accepted, kinds, answers, strict=True)]

    def _row(self, candidate: _Candidate, is_label: bool, answer: Completion) -> Made:
        """The row of an instruction and the answer that holds its instance."""
        row, why = Row(candidate.instruction, "", ""), ""
        verdicts: dict[str, str] = {}
        if answer.finish == FAILED:
            why = f"no answer: {answer.error}"
        else:
            read = prompts.read_instance(answer.text, is_label)
            if isinstance(read, str):
                why = f"unreadable: {read}"
            else:
                given, output, follows = read
                finish = STOPPED if follows else answer.finish
                row = Row(candidate.instruction, given, output, finish=finish)
                verdicts = filters.verdicts(row, self.filters)
                if copied := self.seed_outputs.get(tuple(rouge.words(row.output))):
                    verdicts["copies a seed"] = copied
                verdicts = verdicts or self.duplicates(row)
                why = next((f"{name}: {found}" for name, found in verdicts.items()), "")
        return Made(row, self._lineage(candidate, verdicts, why))

    def _lineage(self, candidate: _Candidate, verdicts: dict[str, str], why: str) -> Lineage:
        return Lineage(candidate.parents, self.generator, candidate.made_by, verdicts, why)

    def _drop(self, candidate: _Candidate, row: Row, why: str, verdicts: dict[str, str]) -> None:
        self.made.append(Made(row, self._lineage(candidate, verdicts, why)))


def instruction_flaw(said: str) -> str:
    """The paper's rules for instructions: a keyword of what a text model cannot do, a program, a
    beginning that is no word."""
    if found := _KEYWORDS.search(said):
        return f"keyword: {found[0].casefold()}"
    if _PROGRAM.match(said):
        return "keyword: write a program"
    if not said[0].isalnum() and said[0] not in "\"'«“(":
        return f"beginning: {said[0]!r}"
    return ""
