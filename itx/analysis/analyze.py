# SPDX-License-Identifier: Apache-2.0
"""Where a run fails, from its predictions on dev, and what may be done about it (`itx analyze`).

    {"run", "step", "split", "reference": {"run", "step"} or None, "answers", "examples", "rows",
     "left_out": {reason: answers}, "findings": [Finding], "search": what slices were tested,
     "errors": {task: kinds of wrong answers}, "choices": …, "worst": […], "suspects": …,
     "counterfactual": …, "actions": actions.Actions}

The parts that need the model ("worst", "suspects", "counterfactual") are None where it is not to be
asked. Every finding has an action that refinement can carry out, but those that only a person can
judge.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import NamedTuple, NotRequired, TypedDict

import numpy as np

from itx import hashing, storage
from itx.analysis import (
    actions,
    choices,
    counterfactual,
    error_kinds,
    features,
    slices,
    suspects,
    words,
)
from itx.analysis.actions import Action, Actions
from itx.analysis.counterfactual import AskedRow
from itx.analysis.features import Observations
from itx.config import RunConfig
from itx.data import lock as locks
from itx.data import verify
from itx.data.types import Lock
from itx.errors import UserError
from itx.eval import evaluate, predictions, safety, tables
from itx.eval.predictions import PredictionLine
from itx.eval.runner import Runner
from itx.runs import RunFolder

MIN_PREFERENCE = 0.05  # share of the choices, of a place or a label
MIN_BIAS = 0.02  # of the probability of the right option, or of the score
MAX_FORM = 0.1  # share of a task's answers that may be wrong in one way of their form
MAX_SHOWN = 3  # answers of a finding
# the task of tasks/safety.py, and its share of the examples at first and at most
DEMONSTRATIONS, DEMONSTRATED, MAX_DEMONSTRATED = "safety_demonstrations", 0.05, 0.2
MAX_WORST = 50
SHOWN = ("id", "template", "prompt", "references", "prediction", "score")


class Finding(TypedDict):
    id: str
    kind: str  # slice, preference, form, counterfactual, suspects or safety
    text: str  # what it is about
    says: str  # a sentence
    tasks: list[str]
    examples: int
    difference: NotRequired[float]
    interval: NotRequired[list[float]]
    p: NotRequired[float]
    adjusted: NotRequired[float]
    explains: NotRequired[list[str]]
    errors: NotRequired[dict[str, int]]  # kinds of the wrong answers inside
    shown: NotRequired[list[dict]]
    action: str  # id of what may be done about it


class Side(NamedTuple):
    """A run at a step, and the rows that were asked of it."""

    run: RunFolder  # with the setting that its scores stand under
    step: int
    lock: Lock  # its evaluation rows are those that were asked
    config: RunConfig
    scores: dict  # what scores.json holds

    def read(self, row: str) -> list[PredictionLine]:
        return predictions.read_whole(self.run, self.step, row)


class Model(NamedTuple):
    """What is asked beyond the predictions."""

    load: Callable[[], Runner]
    earlier: list[Callable[[], Runner]]  # of earlier checkpoints of the run
    train_examples: int  # of each task, whose labels are judged; 0: none


def facts(side: Side, reference: Side | None, model: Model | None) -> dict:
    """All that `itx analyze` says; UserError where nothing can be analysed."""
    asked = {row["name"] for row in side.lock["evaluation"]}
    rows = {name: r for name, r in side.scores["rows"].items() if name in asked}
    of = features.observations(rows, side.read)
    left_out = Counter(
        {f"rows of the group {group!r}": n for group, n in _other_groups(rows).items()}
    )
    expected = None
    if reference:
        of, expected, missing = _beside(of, reference)
        left_out[f"answers that {reference.run.path} was not asked for"] += missing
    if len(np.unique(of.examples)) < 2 * features.MIN_EXAMPLES:
        raise UserError(
            f"{side.run.path}: {len(np.unique(of.examples))} examples of the {_split(side)} split "
            f"are too few for slices of {features.MIN_EXAMPLES}; --max_examples asks more"
        )
    tags = {row["task"]: row["tags"] for row in side.lock["evaluation"]}
    searched = slices.find(of, features.conditions(of, rows, tags), expected)
    ranked = {name for name, row in rows.items() if row["metric"] == "rank"}
    chosen = choices.facts(of, ranked)
    errors = error_kinds.by_task((of.task_names[t] for t in of.tasks), of.lines)
    measured = _of_model(side, model) if model else dict.fromkeys(OF_MODEL)
    proposed: dict[str, Action] = {}
    findings = [
        *_of_slices(of, searched, reference is not None, proposed),
        *_of_preferences(chosen["preferences"], of, proposed),
        *_of_forms(errors, rows, proposed),
        *_of_swaps(measured["counterfactual"], of, proposed),
        *_of_suspects(measured["suspects"], proposed),
        *_of_safety(side, proposed),
    ]
    return {
        "run": str(side.run.path),
        "step": side.step,
        "split": _split(side),
        "reference": reference and {"run": str(reference.run.path), "step": reference.step},
        "answers": len(of.lines),
        "examples": len(np.unique(of.examples)),
        "rows": sorted(set(of.rows)),
        "left_out": {reason: n for reason, n in left_out.items() if n},
        "findings": findings,
        "search": {
            "tested": searched.tested,
            "untested": searched.untested,
            "dispersion": searched.dispersion,
            "explained": searched.explained,
            "more": searched.more,
        },
        "errors": errors,
        "choices": chosen,
        **measured,
        "actions": Actions(
            version=actions.ACTIONS_VERSION,
            run=str(side.run.path),
            data=locks.shape_hash(side.lock),
            step=side.step,
            split=_split(side),
            actions=list(proposed.values()),
        ),
    }


def _split(side: Side) -> str:
    return side.lock["evaluation"][0]["split"]


def _other_groups(rows: dict[str, dict]) -> Counter:
    return Counter(r["group"] for r in rows.values() if r["group"] not in features.GROUPS)


def _beside(of: Observations, reference: Side) -> tuple[Observations, np.ndarray, int]:
    """(what both runs were asked, what the reference scored there, what it was not asked)."""
    scored: dict[tuple[str, str, str], float] = {}
    for name in dict.fromkeys(of.rows):
        if name in reference.scores["rows"]:
            for x in reference.read(name):
                scored[name, x["content"], x["template"]] = x["score"]
    keys = [(row, x["content"], x["template"]) for row, x in zip(of.rows, of.lines, strict=True)]
    shared = np.array([key in scored for key in keys], bool)
    if not shared.any():
        raise UserError(
            f"{reference.run.path}: no question in common with the run that it stands beside"
        )
    expected = np.array([scored[k] for k, both in zip(keys, shared, strict=True) if both])
    return features.kept(of, shared), expected, int((~shared).sum())


# ---- what the model is asked


OF_MODEL = ("worst", "suspects", "counterfactual")


def _of_model(side: Side, model: Model) -> dict:
    vocabulary = verify.vocabulary_of_run(side.run.vocab_model, side.lock)
    cache_dir = side.config.data.cache_dir
    judged = None
    if model.train_examples and side.lock["tasks"]:
        loads = [*model.earlier, model.load]
        judged = suspects.find(loads, side.lock, cache_dir, vocabulary, model.train_examples)
    asked = _asked_rows(side, vocabulary.eos_id)
    return {
        "worst": _worst(model.load(), asked),
        "suspects": judged,
        "counterfactual": counterfactual.measured(model.load, vocabulary, side.lock, asked),
    }


def _asked_rows(side: Side, eos_id: int) -> list[AskedRow]:
    """The rows that are analysed, with what the model reads of each example."""
    found = []
    for row in evaluate.scored_rows(side.lock, side.config):
        if row["group"] in features.GROUPS:
            said = {(x["id"], x["template"]): x for x in side.read(row["name"])}
            lines = evaluate.examples_of(row, side.config, eos_id)
            found.append(AskedRow(row, [(x, said[x["id"], x["template"]]) for x in lines]))
    return found


def _worst(runner: Runner, asked: list[AskedRow]) -> list[dict]:
    """The answers that the model believes least: by nats a token of the right answer."""
    lines = [(row["name"], *both) for row, several in asked for both in several]
    scores = runner.rank(
        [list(x["prompt_ids"]) for _, x, _ in lines], [[x["target_ids"]] for _, x, _ in lines]
    )
    losses = [-own["logprob"] / own["tokens"] for (own,) in scores]
    order = sorted(range(len(lines)), key=lambda i: -losses[i])[:MAX_WORST]
    return [
        {"row": lines[i][0], "loss": losses[i], **{k: lines[i][2][k] for k in SHOWN}} for i in order
    ]


# ---- findings


def _finding(kind: str, text: str, says: str, tasks: Iterable[str], **more) -> Finding:
    named = sorted(set(tasks))
    return Finding(
        id=hashing.digest(kind, text, *named), kind=kind, text=text, says=says, tasks=named, **more
    )


def _propose(proposed: dict[str, Action], *args, **kwargs) -> str:
    """The id of an action, which is put among those proposed."""
    made = actions.action(*args, **kwargs)
    proposed[made["id"]] = made
    return made["id"]


def _of_slices(
    of: Observations, searched: slices.Searched, referenced: bool, proposed: dict[str, Action]
) -> list[Finding]:
    found = []
    for f in searched.findings:
        places = np.flatnonzero(f.holds)
        inside = [of.lines[i] for i in places]
        tasks = sorted({of.task_names[of.tasks[i]] for i in places})
        beside = "what the reference scored" if referenced else f"the rest of its {f.within}"
        says = (
            f"{f.text}: {-f.difference:.2f} below {beside} "
            f"[{tables.shown(f.interval[0])}, {tables.shown(f.interval[1])}]"
        )
        groups = any(c.feature.startswith("names ") for c in f.conditions)
        kind = actions.for_slice([c.feature for c in f.conditions], groups)
        conditions = [c.text for c in f.conditions]
        found.append(
            _finding(
                "slice",
                f.text,
                says,
                tasks,
                examples=len({int(of.examples[i]) for i in places}),
                difference=f.difference,
                interval=list(f.interval),
                p=f.p,
                adjusted=f.adjusted,
                explains=f.explains,
                errors=error_kinds.kinds(inside),
                shown=_some_wrong(inside),
                action=_propose(proposed, kind, says, tasks, conditions),
            )
        )
    return found


def _some_wrong(lines: list[PredictionLine]) -> list[dict]:
    """Wrong answers drawn by hash, each of another example."""
    wrong = {x["id"]: x for x in lines if error_kinds.is_wrong(x)}
    drawn = sorted(wrong.values(), key=lambda x: hashing.draw("shown", x["id"], x["template"]))
    return [{**{k: x[k] for k in SHOWN}, "kind": error_kinds.kind_of(x)} for x in drawn[:MAX_SHOWN]]


def _of_preferences(
    preferences: list[dict], of: Observations, proposed: dict[str, Action]
) -> list[Finding]:
    found = []
    for p in preferences:
        if p["adjusted"] <= slices.FALSE_DISCOVERIES and p["difference"] >= MIN_PREFERENCE:
            says = (
                f"{p['of']}: chosen in {p['chosen']:.0%} of the answers, right in {p['right']:.0%}"
            )
            tasks = [p["task"]] if p["task"] else of.task_names
            numbers = {k: p[k] for k in ("examples", "difference", "interval", "p", "adjusted")}
            done = _propose(proposed, "balance", says, tasks, [p["of"]])
            found.append(_finding("preference", p["of"], says, tasks, **numbers, action=done))
    return found


def _of_forms(
    errors: dict[str, dict], rows: dict[str, dict], proposed: dict[str, Action]
) -> list[Finding]:
    """Wrong answers whose form is wrong, where they are many: they hide what the model knows."""
    found = []
    for kind in error_kinds.OF_FORM:
        of = {t: e for t, e in errors.items() if e["kinds"].get(kind, 0) > MAX_FORM * e["answers"]}
        if not of:
            continue
        wrong = sum(e["kinds"][kind] for e in of.values())
        answers = sum(e["answers"] for e in of.values())
        says = f"{kind}: {wrong:,} of {answers:,} answers of {len(of)} tasks ({_some(of)})"
        settings = _longer(rows, of) if kind == "cut" else {}
        done = _propose(
            proposed,
            "setting" if settings else "reweight",
            says,
            list(of),
            [kind],
            settings=settings,
        )
        found.append(_finding("form", kind, says, of, examples=wrong, action=done))
    return found


def _some(names: Iterable[str], most: int = 4) -> str:
    listed = list(names)
    return ", ".join(listed[:most]) + ", …" * (len(listed) > most)


def _longer(rows: dict[str, dict], tasks: Iterable[str]) -> dict[str, str]:
    """The settings that cut the tasks' answers, with twice the room: an answer that goes on for
    ever is no matter of room, and shows then."""
    wanted: dict[str, int] = {}
    for row in rows.values():
        if row["task"] in set(tasks) and row["hit_limit"]:
            twice = 2 * row["limit"] if row["limit_from"] == "eval.max_new_tokens" else 3
            wanted[row["limit_from"]] = max(wanted.get(row["limit_from"], 0), twice)
    return {name: str(value) for name, value in wanted.items()}


def _of_swaps(
    measured: dict | None, of: Observations, proposed: dict[str, Action]
) -> list[Finding]:
    found = []
    for d in measured["differences"] if measured else ():
        if d["adjusted"] <= slices.FALSE_DISCOVERIES and abs(d["difference"]) >= MIN_BIAS:
            text = f"{d['group']}, in their place {d['other']}"
            says = (
                f"{text}: {d['difference']:+.3f} on the right answer "
                f"[{d['interval'][0]:+.3f}, {d['interval'][1]:+.3f}], {d['flips']} of {d['pairs']} "
                "answers change"
            )
            numbers = {k: d[k] for k in ("examples", "difference", "interval", "p", "adjusted")}
            # rows of those who fare better, with the words for those who fare worse
            worse, better = (
                (d["group"], d["other"]) if d["difference"] > 0 else (d["other"], d["group"])
            )
            swap = f"{better}, in their place {worse}"
            done = _propose(proposed, "counterfactual pairs", says, of.task_names, [swap])
            found.append(
                _finding("counterfactual", text, says, of.task_names, **numbers, action=done)
            )
    return found


def _of_suspects(judged: dict | None, proposed: dict[str, Action]) -> list[Finding]:
    if not judged or not judged["suspects"]:
        return []
    asked = {a["task"]: a for a in judged["asked"]}
    found = []
    for task in dict.fromkeys(s["task"] for s in judged["suspects"]):
        own = [s for s in judged["suspects"] if s["task"] == task]
        of_task = [a for name, a in asked.items() if name.partition(":")[0] == task]
        says = (
            f"{task}: the model would rather say another answer than the label in "
            f"{sum(a['suspects'] for a in of_task)} of {sum(a['examples'] for a in of_task)} "
            "training examples"
        )
        named = [{"task": task, "content": s["content"]} for s in own]
        done = _propose(proposed, "relabel", says, [task], examples=named)
        found.append(_finding("suspects", task, says, [task], examples=len(own), action=done))
    return found


def _of_safety(side: Side, proposed: dict[str, Action]) -> list[Finding]:
    """What tuning did to what a chat model declines."""
    found = []
    for g in safety.eroded(safety.averages(storage.read_object(side.run.safety_json, absent={}))):
        says = f"declined are {words.declined(g)}"
        text = words.OF_REQUESTS[g["kind"]]
        done = _propose(
            proposed, "setting", says, [], [text], settings=_demonstrated(side.config, g["kind"])
        )
        change = g["after"]["declined"] - g["before"]["declined"]
        numbers = {"examples": g["requests"], "difference": change, "p": g["p"]}
        found.append(_finding("safety", text, says, [], **numbers, action=done))
    return found


def _demonstrated(config: RunConfig, kind: str) -> dict[str, str]:
    """The setting that trains on demonstrations beside the mixture. Where some were trained on:
    twice as many if it declines too little, half as many if it declines what is harmless."""
    shares = dict(config.data.added)
    before = shares.get(DEMONSTRATIONS)
    if before is None:
        shares[DEMONSTRATIONS] = DEMONSTRATED
    elif kind == "harmless":
        shares[DEMONSTRATIONS] = before / 2
    else:  # never fewer than there were
        shares[DEMONSTRATIONS] = max(before, min(MAX_DEMONSTRATED, 2 * before))
    return {"data.added": ",".join(f"{task},{share:g}" for task, share in shares.items())}
