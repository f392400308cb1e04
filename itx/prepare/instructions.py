# SPDX-License-Identifier: Apache-2.0
"""Instruction tasks, whose examples templates write: their row in the table of kinds (kinds.py)."""

import dataclasses
import itertools
from typing import Any

from itx import hashing, text
from itx.data.cache import Texts
from itx.errors import UserError
from itx.eval.averages import ABLATIONS
from itx.prepare import exclude, fewshot, render, sources, values
from itx.prepare.fewshot import Pool
from itx.prepare.records import Bad
from itx.prepare.types import EACH, Item, Job, Records, Rendered, Settings, Work
from itx.tasks import names, resolve, templates
from itx.tasks.names import Variant
from itx.tasks.spec import TaskSpec, Template, Values
from itx.text_format import chat

VOCABULARY_VARIANTS = ("", ":cot", ":inv")  # that a vocabulary is trained on, where a task has them


def answer(spec: TaskSpec, given: Values, where: str) -> list[str]:
    return render.trimmed(sorted(render.answers(spec, given, where).references))


def unusable(spec: TaskSpec, given: Values, slots: list[str]) -> Bad | None:
    """What is wrong with an example whatever wording it stands in; slots: `values.every_slot` of
    the task."""
    if bad := values.unusable(given, slots):
        return bad
    checked = (values.answers(spec, given), values.example_tags(given))
    return next((c for c in checked if isinstance(c, Bad)), None)


def leak_texts(spec: TaskSpec, item: Item) -> Texts:
    content = [item.values[k] for k in render.content_fields(spec, item.values)]
    shown = [v for k, v in item.values.items() if k != values.EXAMPLE_TAGS]
    return exclude.texts(content, shown)


def line(work: Work, item: Item) -> dict[str, Any]:
    tags = values.example_tags(item.values)
    return {values.EXAMPLE_TAGS: tags} if tags else {}


def key(job: Job, spec: TaskSpec, settings: Settings) -> list[Any]:
    """Few-shot renderings depend on their budget, and on the training split that exemplars come
    from; turns on what writes them."""
    d, how = settings.data, settings.prompt_format
    written: list[Any] = [chat.CHAT_VERSION, *how] if how.template else []
    written += [d.targets] if d.targets == "shuffled" and not job.crossed else []
    if not job.parsed.shots:
        return written
    train = sources.hashes(spec.source, "train", d.root, d.suite_seed)
    return [*written, fewshot.POOL, settings.fewshot_tokens, *train]


def wordings(job: Job, spec: TaskSpec) -> list[Template]:
    """The templates that a job draws from, or goes through."""
    which = ("train", "heldout") if job.templates == "all" else (job.templates,)
    return [t for w in which for t in render.choices(spec, job.parsed, w)]


def ablated(template: Template, ablation: str, others: list[Template], h: int) -> Template:
    """The template whose instruction is kept ("none"), removed, or swapped for another task's.

    Removed: the slots alone, a line each. Swapped: a template of `others`, which ask something else
    about the same inputs.
    """
    if ablation == "removed":
        slots = dict.fromkeys(templates.slots(template[0]))
        return "\n".join(f"{{{slot}}}" for slot in slots), template[1]
    if ablation == "swapped":
        return others[h % len(others)][0], template[1]
    return template


def template_sets(work: Work, item: Item) -> list[list[Template]]:
    """The sets of templates to render an item from: one each for a crossed job, one for each
    instruction where it is ablated."""
    job, spec = work.job, work.spec
    among = wordings(job, spec)
    if not job.crossed:
        return [among]
    if not job.ablation:
        return [[t] for t in among]
    h = hashing.draw(work.settings.data.render_seed, "ablation", spec.name, item.id)
    others = _fitting(work, item)
    if job.others and not others:
        if job.ablation == EACH:  # the lock says so (`uninformed`)
            return []
        named = ", ".join(map(repr, job.others))
        raise UserError(f"task {spec.name!r}: no template of {named} fits its inputs")
    kinds = ABLATIONS if job.ablation == EACH else (job.ablation,)
    return [[ablated(among[h % len(among)], kind, others, h)] for kind in kinds]


def _fitting(work: Work, item: Item) -> list[Template]:
    """The templates of the first of a job's other tasks that has some for what an example holds."""
    known = {k for k, v in item.values.items() if not text.blank(str(v))}
    known |= {"options"} if work.spec.options else set()
    for name in work.job.others:
        every = work.settings.task(name).templates
        if fitting := [t for t in every if set(templates.slots(t[0])) <= known]:
            return fitting
    return []


def records(work: Work, items: list[Item], pool: Pool | None) -> Records:
    pairs = [(item, among) for item in items for among in template_sets(work, item)]
    seed, most = work.settings.data.render_seed, work.settings.fewshot_tokens
    how = (work.job.rendering, seed, work.vocabulary, pool, most, work.settings.prompt_format)
    rendered, encoded = fewshot.render_all(work.spec, work.variant, pairs, *how)
    return rendered, encoded, [item for item, _ in pairs]


def shuffled(work: Work, rendered: list[Rendered], owners: list[Item]) -> Records:
    """Renderings with their targets passed round among those in one template, in an order drawn
    from the render seed: none keeps its own unless it is alone."""
    seed, how = work.settings.data.render_seed, work.settings.prompt_format
    order = sorted(
        range(len(rendered)),
        key=lambda i: (rendered[i].template, hashing.draw(seed, "targets", owners[i].id)),
    )
    out = list(rendered)
    for _, group in itertools.groupby(order, key=lambda i: rendered[i].template):
        places = list(group)
        for i, other in zip(places, [*places[1:], places[0]], strict=True):
            changed = dataclasses.replace(rendered[i], target=rendered[other].target)
            out[i] = render.put_to(how, changed, work.where(owners[i]), work.vocabulary)
    return out, render.encode(out, work.vocabulary), owners


def shown(
    spec: TaskSpec, item: Item, variant: Variant, template: Template, pool: Pool | None
) -> Rendered:
    exemplars = fewshot.choose(pool, item, variant.shots, 0) if variant.shots else []
    return render.render(spec, variant, item, 0, 0, [template], exemplars)


def vocabulary_texts(spec: TaskSpec, items: list[Item]) -> list[str]:
    """Prompts and targets of every variant; the build tells of examples that a wording cannot
    show."""
    texts = []
    for name in VOCABULARY_VARIANTS:
        variant = names.parse(spec.name + name)
        if not resolve.supports(spec, variant):
            continue
        slots = values.slots(render.choices(spec, variant))
        for item in items:
            if not values.incomplete(item.values, slots, spec.options):
                rendered = render.render(spec, variant, item, 0, 0)
                texts += [rendered.prompt, rendered.target]
    return texts
