# SPDX-License-Identifier: Apache-2.0
"""Self-checks of a task on its own examples (`itx tasks check`), and its renderings (`itx tasks
show`)."""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Sequence
from multiprocessing.connection import Connection

from itx import text
from itx.errors import UserError, did_you_mean
from itx.eval import metrics
from itx.prepare import conversations, examples, fewshot, objectives, render, repeat, sources, types
from itx.tasks import names, templates
from itx.tasks.spec import SPLITS, TaskSpec, Template
from itx.text_format import chat

EXAMPLES = 50
POOL = 100  # training examples that `itx tasks show NAME:fsK` takes exemplars from
SHOTS = 2  # of the few-shot variants that are checked
# A field that holds the target in this share of the examples, and in so many of them, tells it
NEARLY, FEWEST = 0.9, 5


def _items(spec: TaskSpec, root: str, most: int) -> list[types.Item]:
    counts: Counter = Counter()
    for split in SPLITS:
        if sources.source_splits(spec.source, split):
            items = examples.items(spec, split, root, 0, counts)
            # a build counts what is too short, as it does other records that give no example
            if spec.objective:
                items = (i for i in items if objectives.in_words(spec, i))
            found = list(itertools.islice(items, most))
            if found:
                return found
    raise UserError(f"task {spec.name!r} has no examples; records read and skipped: {dict(counts)}")


def variants(spec: TaskSpec) -> list[tuple[str, str]]:
    """(variant name, which templates) of everything the task can render."""
    out = [(spec.name, "train"), (spec.name, "heldout")]
    out += [(f"{spec.name}:cot", "train"), (f"{spec.name}:cot", "heldout")] if spec.cot else []
    out += [(f"{spec.name}:inv", "train")] if spec.inverted else []
    out += [(f"{spec.name}:fs{SHOTS}", "train")] if spec.templated else []
    return [(n, w) for n, w in out if render.choices(spec, names.parse(n), w)]


def show(spec: TaskSpec, name: str, root: str) -> dict:
    """What a task is, and its first example in every template of the variant named."""
    wanted = names.parse(name)
    items = _items(spec, root, POOL if wanted.shots else 1)
    pool = fewshot.pool(spec, items) if wanted.shots else None
    has = variants(spec)
    bare = str(dataclasses.replace(wanted, shots=0, options=""))
    shown = [(n, w) for n, w in has if bare in (spec.name, n) and not names.parse(n).shots]
    asked = {"shots": wanted.shots, "options": wanted.options}
    shown = [(str(dataclasses.replace(names.parse(n), **asked)), w) for n, w in shown]
    if not any(render.choices(spec, names.parse(n), w) for n, w in shown):
        raise UserError(
            f"task {spec.name!r} has no variant {name!r}"
            + did_you_mean(str(wanted), {n for n, _ in has})
        )
    renderings = []
    for variant, which in shown:
        for t in render.choices(spec, names.parse(variant), which):
            r = _rendered(spec, names.parse(variant), items[0], t, pool)
            kind = ("held out" if which == "heldout" else "training") + variant[
                len(spec.name) :
            ].replace(":", ", ")
            renderings.append(
                {"template": r.template, "kind": kind, "prompt": r.prompt, "target": r.target}
            )
    facts = {"name": spec.name, "version": spec.version, "cluster": spec.cluster,
             "metrics": [metrics.shown(metrics.name_of(m)) for m in spec.metrics], "options": spec.options, "origin": spec.origin, "neighbours": spec.neighbours, "tags": dict(spec.tags),
             "module": spec.module, "splits": sources.splits(spec.source)}  # fmt: skip
    return {"task": facts, "renderings": renderings}


def read(spec: TaskSpec, root: str, seen: repeat.Seen, problems: list[str]) -> list[types.Item]:
    """The first EXAMPLES examples; `fields` is called twice on each record, see `repeat.twice`."""
    return _items(
        dataclasses.replace(spec, fields=repeat.twice(spec, seen, problems)), root, EXAMPLES
    )


def check(spec: TaskSpec, root: str, others: Sequence[Connection] = ()) -> list[str]:
    """Problems found, most of them on the first EXAMPLES examples; [] for a sound task.

    `fields` gives the same again, and in `others` (processes of repeat.py); every slot is filled;
    the gold target scores 1, and an option drawn at random as much as chance; the answer found in
    it names the right option and no other; all chain-of-thought targets give their answer back; no
    prompt tells its target; an inverted prompt shows the answer and asks for a field that the plain
    ones show.
    """
    problems = []
    metrics.trust(name for m in spec.metrics if ":" in (name := metrics.name_of(m)))
    for pipe in others:
        pipe.send(spec.name)
    seen: repeat.Seen = []
    unsteady: list[str] = []
    try:
        items = read(spec, root, seen, unsteady)
        pool = fewshot.pool(spec, items) if spec.templated else None
        for name, which in variants(spec):
            variant = names.parse(name)
            for template in render.choices(spec, variant, which):
                rendered = [_rendered(spec, variant, item, template, pool) for item in items]
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
    problems += unsteady or differing
    return sorted(set(problems))[:10]


def _rendered(
    spec: TaskSpec, variant: names.Variant, item: types.Item, template: Template, pool
) -> types.Rendered:
    if spec.objective:
        return objectives.in_words(spec, item)
    if spec.chat:
        return conversations.render(item, chat.PLAIN, f"task {spec.name!r}, example {item.id}")
    shots = fewshot.choose(pool, item, variant.shots, 0) if variant.shots else []
    return render.render(spec, variant, item, 0, 0, [template], shots)


def _check_one(spec: TaskSpec, r: types.Rendered, item: types.Item) -> list[str]:
    where = f"template {r.template}, example {item.id}"
    answer = metrics.extract(r.extractor, r.target)
    if answer is None:
        return [f"{where}: the gold answer is not found in the target {r.target!r}"]
    names_ = [m for m in spec.metrics if isinstance(m, str)]
    bad = [m for m in names_ if metrics.per_example(m)(list(r.references), answer) < 1]
    out = [f"{where}: the gold target scores below 1 under {m}" for m in bad]
    if r.answer_index is not None:
        equal = metrics.SCORES["exact_string" if "exact_string" in spec.metrics else "exact_match"]
        named = [o for o in r.options if equal([o], answer)]
        if named != [r.options[r.answer_index]]:
            out.append(
                f"{where}: the answer {answer!r} stands for the options {named}, not for one of {r.options}"
            )
    if r.prompt != r.prompt.rstrip():
        out.append(f"{where}: the prompt ends in white space")
    if spec.templated and templates.template_id((r.prompt, r.target)) == r.template:
        out.append(f"{where}: the template has no slot")
    return out


def _chance(spec: TaskSpec, rendered: list[types.Rendered]) -> list[str]:
    """What an option drawn at random scores, as it would be written: the mean over all options, so
    no draw is made.

    Metrics that give partial credit are left aside: there the wrong options of some tasks rightly
    score more than 0.
    """
    asked = [r for r in rendered if r.answer_index is not None]
    right = [
        len({r.options.index(x) for x in r.references if x in r.options}) / len(r.options)
        for r in asked
    ]
    chance = sum(right) / max(1, len(asked))
    out = []
    for m in map(metrics.name_of, spec.metrics):
        judge = metrics.per_example(m)
        scores = [[judge(list(r.references), said) for said in _said(r)] for r in asked]
        if any(s not in (0, 1) for several in scores for s in several):
            continue
        score = sum(sum(several) / len(several) for several in scores) / max(1, len(asked))
        if abs(score - chance) > 1e-9:
            worst = next(i for i, s in enumerate(scores) if abs(sum(s) / len(s) - right[i]) > 1e-9)
            passed = [o for o, s in zip(asked[worst].options, scores[worst], strict=True) if s]
            out.append(f"template {asked[worst].template}: a random option scores {score:.2f} under {m}, but chance is "
                       f"{chance:.2f}; e.g. where {asked[worst].references} is right, {passed} pass")  # fmt: skip
    return out


def _said(r: types.Rendered) -> list[str]:
    """What is read from the target of each option, were it the answer."""
    gold = r.options[r.answer_index]
    written = [r.target.replace(gold, o) if r.target.count(gold) == 1 else o for o in r.options]
    return [metrics.extract(r.extractor, w) or "" for w in written]


def _leaks(spec: TaskSpec, template: Template, items: list[types.Item]) -> list[str]:
    """Where a template's input tells its target: it names a field of the target, or a field of it
    holds the same text, or the right option alone, in nearly every example.

    An answer that merely stands in a longer text is no leak, or reading comprehension would be one.
    """
    shown = [s for s in templates.slots(template[0]) if s != "options"]
    where = f"template {templates.template_id(template)}"
    asked = set(templates.slots(template[1]))
    # a sentence around the answer may repeat the question
    asked = asked & {"answer", "rationale"} or asked
    named = sorted((asked | {"rationale"}) & set(shown))
    out = [f"{where}: the prompt tells the target: its input names {{{n}}}" for n in named]
    if spec.extractive:
        return out
    told: Counter = Counter()
    for item in items:
        references, options, right = render.answers(spec, item.values, where)
        values = {**item.values, "answer": references[0]}
        texts = {s: str(values[s]).strip() for s in shown if s not in named}
        for slot, value in texts.items():
            for target in asked - set(named):
                gold = str(values[target]).strip()
                if value == gold or (target == "rationale" and gold in value):
                    told[f"{{{slot}}} holds {{{target}}}"] += 1
        if right is not None and "answer" in asked:
            every = "\n".join(texts.values())
            if [o for o in options if text.contains(every, o)] == [options[right]]:
                told["of the options the right one alone stands in its fields"] += 1
    for how, n in told.items():
        if n >= max(FEWEST, NEARLY * len(items)):
            out.append(f"{where}: the prompt tells the target: {how} in {n} of {len(items)} examples (extractive=True "
                       "declares that this is the task's nature)")  # fmt: skip
    return out


def _inversion(spec: TaskSpec, template: Template, items: list[types.Item]) -> list[str]:
    """An inverted template shows the answer and asks for what the plain ones show: a field, or a
    part of one."""
    where = f"inverted template {templates.template_id(template)}"
    shown, asked = (set(templates.slots(t)) for t in template)
    plain = {
        s
        for t in (*spec.templates, *(spec.cot.templates if spec.cot else ()))
        for s in templates.slots(t[0])
    }
    out = [] if "answer" in shown else [f"{where}: its input does not show {{answer}}"]
    if not asked:
        out.append(f"{where}: its target names no field")
    for slot in sorted(asked - plain):
        given = [
            (str(i.values.get(slot, "")), [str(v) for k, v in i.values.items() if k in plain])
            for i in items
        ]
        if sum(
            any(text.contains(v, part) for v in fields) for part, fields in given
        ) < NEARLY * len(items):
            near = did_you_mean(slot, plain)
            out.append(
                f"{where}: its target asks for {{{slot}}}, which stands in no plain template" + near
            )
    return out


def _answers_given_back(spec: TaskSpec, root: str) -> list[str]:
    """Whether the answer is found in the chain-of-thought target of every example of every
    split."""
    targets = {
        t[1]: templates.answer_pattern(t[1])
        for t in (*spec.cot.templates, *spec.cot.heldout_templates)
    }
    judge = metrics.SCORES["exact_match"]
    wrong: Counter = Counter()
    first: dict[str, str] = {}
    seen = 0
    for split in SPLITS:
        for item in examples.items(spec, split, root, 0, Counter()):
            where = f"task {spec.name!r}, example {item.id}"
            references = render.answers(spec, item.values, where)[0]
            seen += 1
            for target, pattern in targets.items():
                written = templates.fill(target, {**item.values, "answer": references[0]}, where)
                found = metrics.extract(pattern, written)
                if found is None or not judge([references[0]], found):
                    wrong[target] += 1
                    first.setdefault(target, f"of {item.id} reads {found!r}, not {references[0]!r}")
    return [f"chain-of-thought target {t!r}: {n} of {seen} examples do not give their answer back; that {first[t]}"
            for t, n in wrong.items()]  # fmt: skip
