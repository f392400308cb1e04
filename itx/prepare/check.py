# SPDX-License-Identifier: Apache-2.0
"""Self-checks of a task on its own examples (`itx tasks check`), and its renderings (`itx tasks
show`)."""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any

from itx import text
from itx.errors import UserError, did_you_mean
from itx.eval import metrics
from itx.prepare import (
    examples,
    fewshot,
    kinds,
    metric_audit,
    objectives,
    render,
    repeat,
    sources,
    values,
)
from itx.prepare.types import Item, Rendered
from itx.tasks import names, templates
from itx.tasks.spec import SPLITS, TaskSpec, Template

EXAMPLES = 50
POOL = 100  # training examples that `itx tasks show NAME:fsK` takes exemplars from
SHOTS = 2  # of the few-shot variants that are checked
# A field that holds the target in this share of the examples, and in so many of them, tells it.
MIN_TELLING_SHARE, MIN_TELLING = 0.9, 5
MAX_PROBLEMS = 10
# What `itx tasks show` says of a task, beside its metrics and splits
FACTS = "name version cluster options origin neighbours tags module".split()


def _items(spec: TaskSpec, root: str, most: int) -> list[Item]:
    counts: Counter = Counter()
    for split in SPLITS:
        if sources.source_splits(spec.source, split):
            items = examples.items(spec, split, root, 0, counts)
            # A build counts what is too short, as it does other records that give no example.
            if spec.kind == "text":
                items = (i for i in items if objectives.in_words(spec, i))
            if first := list(itertools.islice(items, most)):
                return first
    raise UserError(f"task {spec.name!r} has no examples; records read and skipped: {dict(counts)}")


def _every_item(spec: TaskSpec, root: str) -> Iterator[Item]:
    """The examples of all splits."""
    for split in SPLITS:
        yield from examples.items(spec, split, root, 0, Counter())


def variants(spec: TaskSpec) -> list[tuple[str, str]]:
    """(variant name, which templates) of everything the task can render."""
    both = ("train", "heldout")
    pairs = [(spec.name, w) for w in both]
    if spec.templated:
        pairs += [(f"{spec.name}:cot", w) for w in both]
        pairs += [(f"{spec.name}:inv", "train"), (f"{spec.name}:fs{SHOTS}", "train")]
    return [(n, w) for n, w in pairs if render.choices(spec, names.parse(n), w)]


def show(spec: TaskSpec, name: str, root: str) -> dict[str, Any]:
    """What a task is, and its first example in every template of the variant named."""
    asked = names.parse(name)
    items = _items(spec, root, POOL if asked.shots else 1)
    pool = fewshot.pool(spec, items) if asked.shots else None
    known = variants(spec)
    bare = str(dataclasses.replace(asked, shots=0, options=""))
    renderings = []
    for known_name, which in known:
        plain = names.parse(known_name)
        if bare not in (spec.name, known_name) or plain.shots:
            continue
        variant = dataclasses.replace(plain, shots=asked.shots, options=asked.options)
        kind = "held out" if which == "heldout" else "training"
        kind += str(variant)[len(spec.name) :].replace(":", ", ")
        for template in render.choices(spec, variant, which):
            r = kinds.of(spec).shown(spec, items[0], variant, template, pool)
            facts = {"template": r.template, "kind": kind, "prompt": r.prompt, "target": r.target}
            renderings.append(facts)
    if not renderings:
        near = did_you_mean(str(asked), {n for n, _ in known})
        raise UserError(f"task {spec.name!r} has no variant {name!r}{near}")
    facts = {key: getattr(spec, key) for key in FACTS} | {
        "metrics": [metrics.shown(metrics.name_of(m)) for m in spec.metrics],
        "splits": sources.splits(spec.source),
    }
    return {"task": facts, "renderings": renderings}


def read(spec: TaskSpec, root: str, seen: repeat.Seen, problems: list[str]) -> list[Item]:
    """The first EXAMPLES examples; `fields` is called twice on each record, see `repeat.twice`."""
    twice = dataclasses.replace(spec, fields=repeat.twice(spec, seen, problems))
    return _items(twice, root, EXAMPLES)


def check(spec: TaskSpec, root: str, others: Sequence[Connection] = ()) -> list[str]:
    """Problems found, most of them on the first EXAMPLES examples; [] for a sound task.

    `fields` gives the same again, and in `others` (processes of repeat.py); every slot is filled;
    the gold target scores 1, and an option drawn at random as much as chance; the answer found in
    it names the right option and no other; all chain-of-thought targets give their answer back; no
    prompt tells its target; an inverted prompt shows the answer and asks for a field that the plain
    ones show.
    """
    problems, unsteady = [], []
    metrics.trust(name for m in spec.metrics if ":" in (name := metrics.name_of(m)))
    for pipe in others:
        pipe.send(spec.name)
    seen: repeat.Seen = []
    try:
        items = read(spec, root, seen, unsteady)
        pool = fewshot.pool(spec, items) if spec.templated else None
        shown = kinds.of(spec).shown
        for name, which in variants(spec):
            variant = names.parse(name)
            for template in render.choices(spec, variant, which):
                rendered = [shown(spec, item, variant, template, pool) for item in items]
                for r, item in zip(rendered, items, strict=True):
                    problems += _check_one(spec, r, item)
                problems += _chance(spec, rendered)
                if spec.templated and not variant.shots:
                    problems += _leaks(spec, template, items)
                    problems += _inversion(spec, template, items) if variant.inverted else []
        problems += _answers_given_back(spec, root) if spec.cot else []
    except UserError as e:
        problems.append(str(e))
    differing = [p for p in repeat.compare(spec, seen, others) if p not in problems]
    return sorted({*problems, *(unsteady or differing)})[:MAX_PROBLEMS]


def read_all(spec: TaskSpec, root: str) -> tuple[int, list[str]]:
    """(how many examples of all splits there are, what is wrong with the first that is)."""
    found = 0
    bare = names.parse(spec.name)
    wordings = [t for w in ("train", "heldout") for t in render.choices(spec, bare, w)]
    shown = values.slots(wordings) if spec.templated else []
    try:
        for item in _every_item(spec, root):
            found += 1
            bad = spec.templated and values.incomplete(item.values, shown, spec.options)
            if bad:
                return found, [f"example {item.id}: {bad.detail}"]
    except UserError as e:
        return found, [str(e)]
    return found, []


def audit_metrics(spec: TaskSpec, root: str) -> dict[str, dict[str, metric_audit.Counts]]:
    """{metric: what it forgives and what it lets pass} on the task's first answers; {} for
    conversations, whose answers are their turns, texts, and where a rule verifies the answers."""
    if not spec.templated or spec.verified:
        return {}
    items = _items(spec, root, metric_audit.MOST_ANSWERS)
    where = f"task {spec.name!r}"
    answers = [render.answers(spec, item.values, where).references for item in items]
    written = [[str(r) for r in references] for references in answers]
    return {name: metric_audit.audit(name, written) for name in map(metrics.name_of, spec.metrics)}


def _check_one(spec: TaskSpec, r: Rendered, item: Item) -> list[str]:
    where = f"template {r.template}, example {item.id}"
    answer = metrics.extract(r.extractor, r.target)
    if answer is None:
        return [f"{where}: the gold answer is not found in the target {r.target!r}"]
    named = [m for m in spec.metrics if isinstance(m, str)]
    low = [m for m in named if metrics.per_example(m)(list(r.references), answer) < 1]
    problems = [f"the gold target scores below 1 under {m}" for m in low]
    if r.answer_index is not None:
        equal = metrics.SCORES["exact_string" if "exact_string" in spec.metrics else "exact_match"]
        meant = [o for o in r.options if equal([o], answer)]
        if meant != [r.options[r.answer_index]]:
            problems.append(
                f"the answer {answer!r} stands for the options {meant}, not for one of {r.options}"
            )
    if r.prompt != r.prompt.rstrip():
        problems.append("the prompt ends in white space")
    if spec.templated and templates.template_id((r.prompt, r.target)) == r.template:
        problems.append("the template has no slot")
    return [f"{where}: {problem}" for problem in problems]


def _chance(spec: TaskSpec, rendered: list[Rendered]) -> list[str]:
    """Where an option drawn at random, as it would be written, scores other than chance: the mean
    over all options, so that no draw is made.

    Metrics that give partial credit are left aside: there the wrong options of some tasks rightly
    score more than 0.
    """
    chosen = [r for r in rendered if r.answer_index is not None]
    right = [len(set(r.references) & set(r.options)) / len(r.options) for r in chosen]
    chance = sum(right) / max(1, len(chosen))
    problems = []
    for metric in map(metrics.name_of, spec.metrics):
        judge = metrics.per_example(metric)
        scores = [[judge(list(r.references), said) for said in _said(r)] for r in chosen]
        if any(s not in (0, 1) for several in scores for s in several):
            continue
        means = [sum(several) / len(several) for several in scores]
        score = sum(means) / max(1, len(chosen))
        if abs(score - chance) > 1e-9:
            worst = next(i for i, mean in enumerate(means) if abs(mean - right[i]) > 1e-9)
            r, passed = chosen[worst], itertools.compress(chosen[worst].options, scores[worst])
            problems.append(
                f"template {r.template}: a random option scores {score:.2f} under {metric}, but "
                f"chance is {chance:.2f}; e.g. where {r.references} is right, {list(passed)} pass"
            )
    return problems


def _said(r: Rendered) -> list[str]:
    """What is read from the target of each option, were it the answer."""
    gold = r.options[r.answer_index]
    written = [r.target.replace(gold, o) if r.target.count(gold) == 1 else o for o in r.options]
    return [metrics.extract(r.extractor, w) or "" for w in written]


def _leaks(spec: TaskSpec, template: Template, items: list[Item]) -> list[str]:
    """Where a template's input tells its target: it names a field of the target, or a field of it
    holds the same text, or the right option alone, in nearly every example.

    An answer that merely stands in a longer text is no leak, or reading comprehension would be one.
    """
    shown = [s for s in templates.slots(template[0]) if s != "options"]
    where = f"template {templates.template_id(template)}"
    asked = set(templates.slots(template[1]))
    # A sentence around the answer may repeat the question.
    asked = asked & {"answer", "rationale"} or asked
    named = sorted((asked | {"rationale"}) & set(shown))
    tells = f"{where}: the prompt tells the target:"
    problems = [f"{tells} its input names {{{n}}}" for n in named]
    if spec.extractive:
        return problems
    told: Counter = Counter()
    for item in items:
        references, options, right = render.answers(spec, item.values, where)
        given = {**item.values, "answer": references[0]}
        texts = {s: str(given[s]).strip() for s in shown if s not in named}
        for slot, value in texts.items():
            for target in asked - set(named):
                gold = str(given[target]).strip()
                if value == gold or (target == "rationale" and gold in value):
                    told[f"{{{slot}}} holds {{{target}}}"] += 1
        if right is not None and "answer" in asked:
            every = "\n".join(texts.values())
            if [o for o in options if text.contains(every, o)] == [options[right]]:
                told["of the options the right one alone stands in its fields"] += 1
    return problems + [
        f"{tells} {how} in {n} of {len(items)} examples (extractive=True declares that this is the "
        "task's nature)"
        for how, n in told.items()
        if n >= max(MIN_TELLING, MIN_TELLING_SHARE * len(items))
    ]


def _inversion(spec: TaskSpec, template: Template, items: list[Item]) -> list[str]:
    """An inverted template shows the answer and asks for what the plain ones show: a field, or a
    part of one."""
    shown, asked = (set(templates.slots(t)) for t in template)
    inputs = [t[0] for t in (*spec.templates, *(spec.cot.templates if spec.cot else ()))]
    plain = {s for t in inputs for s in templates.slots(t)}
    problems = [] if "answer" in shown else ["its input does not show {answer}"]
    if not asked:
        problems.append("its target names no field")
    for slot in sorted(asked - plain):
        holding = 0
        for given in (item.values for item in items):
            part = str(given.get(slot, ""))
            holding += any(text.contains(str(v), part) for k, v in given.items() if k in plain)
        if holding < MIN_TELLING_SHARE * len(items):
            told = f"its target asks for {{{slot}}}, which stands in no plain template"
            problems.append(told + did_you_mean(slot, plain))
    return [
        f"inverted template {templates.template_id(template)}: {problem}" for problem in problems
    ]


def _answers_given_back(spec: TaskSpec, root: str) -> list[str]:
    """Whether the answer is found in the chain-of-thought target of every example of every
    split."""
    targets = {t for _, t in (*spec.cot.templates, *spec.cot.heldout_templates)}
    judge = metrics.SCORES["exact_match"]
    wrong: Counter = Counter()
    first: dict[str, str] = {}
    seen = 0
    for item in _every_item(spec, root):
        where = f"task {spec.name!r}, example {item.id}"
        gold = render.answers(spec, item.values, where).references[0]
        seen += 1
        for target in targets:
            written = templates.fill(target, {**item.values, "answer": gold}, where)
            said = metrics.extract(templates.answer_pattern(target), written)
            if said is None or not judge([gold], said):
                wrong[target] += 1
                first.setdefault(target, f"of {item.id} reads {said!r}, not {gold!r}")
    return [
        f"chain-of-thought target {t!r}: {n} of {seen} examples do not give their answer back; "
        f"that {first[t]}"
        for t, n in wrong.items()
    ]
