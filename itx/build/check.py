# SPDX-License-Identifier: Apache-2.0
"""Self-checks of a task on its own examples (`itx tasks check`), and its renderings (`itx tasks show`)."""

import dataclasses
import itertools
from collections import Counter

from itx.build import chat, fewshot, objectives, render
from itx.errors import UserError, did_you_mean
from itx.eval import metrics
from itx.tasks import names, templates
from itx.tasks.spec import TaskSpec, Template

EXAMPLES = 50
POOL = 100  # training examples that `itx tasks show NAME:fsK` takes exemplars from
SHOTS = 2  # of the few-shot variants that are checked


def _items(spec: TaskSpec, root: str, most: int) -> list[render.Item]:
    for split in ("train", "validation", "test"):
        if render.source_splits(spec.source, split):
            items = render.items(spec, split, root, 0, Counter())
            if spec.objective:  # a build counts what is too short, as it does other records that give no example
                items = (i for i in items if objectives.in_words(spec, i))
            found = list(itertools.islice(items, most))
            if found:
                return found
    raise UserError(f"task {spec.name!r} has no examples")


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
    bare = str(dataclasses.replace(wanted, shots=0))
    shown = [(n, w) for n, w in has if bare in (spec.name, n) and not names.parse(n).shots]
    if wanted.shots:
        shown = [(str(dataclasses.replace(names.parse(n), shots=wanted.shots)), w) for n, w in shown]
    if not shown:
        raise UserError(f"task {spec.name!r} has no variant {name!r}" + did_you_mean(str(wanted), {n for n, _ in has}))
    renderings = []
    for variant, which in shown:
        for t in render.choices(spec, names.parse(variant), which):
            r = _rendered(spec, names.parse(variant), items[0], t, pool)
            kind = ("held out" if which == "heldout" else "training") + variant[len(spec.name) :].replace(":", ", ")
            renderings.append({"template": r.template, "kind": kind, "prompt": r.prompt, "target": r.target})
    facts = {"name": spec.name, "version": spec.version, "cluster": spec.cluster, "metrics": list(map(str, spec.metrics)),
             "options": spec.options, "origin": spec.origin, "neighbours": spec.neighbours, "tags": dict(spec.tags),
             "module": spec.module}  # fmt: skip
    return {"task": facts, "renderings": renderings}


def check(spec: TaskSpec, root: str) -> list[str]:
    """Problems found on the first examples: holes, targets that do not score 1, answers not extracted."""
    problems = []
    try:
        items = _items(spec, root, EXAMPLES)
        pool = fewshot.pool(spec, items) if spec.templated else None
        for name, which in variants(spec):
            variant = names.parse(name)
            for template in render.choices(spec, variant, which):
                for item in items:
                    problems += _check_one(spec, _rendered(spec, variant, item, template, pool), item)
    except UserError as e:
        problems.append(str(e))
    return sorted(set(problems))[:10]


def _rendered(spec: TaskSpec, variant: names.Variant, item: render.Item, template: Template, pool) -> render.Rendered:
    if spec.objective:
        return objectives.in_words(spec, item)
    if spec.chat:
        return chat.render(item, chat.PLAIN, f"task {spec.name!r}, example {item.id}")
    shots = fewshot.choose(pool, item, variant.shots, 0) if variant.shots else []
    return render.render(spec, variant, item, 0, 0, [template], shots)


def _check_one(spec: TaskSpec, r: render.Rendered, item: render.Item) -> list[str]:
    where = f"template {r.template}, example {item.id}"
    answer = metrics.extract(r.extractor, r.target)
    if answer is None:
        return [f"{where}: the gold answer is not found in the target {r.target!r}"]
    names_ = [m for m in spec.metrics if isinstance(m, str)]
    bad = [m for m in names_ if metrics.per_example(m)(list(r.references), answer) < 1]
    out = [f"{where}: the gold target scores below 1 under {m}" for m in bad]
    if r.prompt != r.prompt.rstrip():
        out.append(f"{where}: the prompt ends in white space")
    if spec.templated and templates.template_id((r.prompt, r.target)) == r.template:
        out.append(f"{where}: the template has no slot")
    return out
