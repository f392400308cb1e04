# SPDX-License-Identifier: Apache-2.0
"""Exemplars for `:fsK`: drawn from the task's own training split, the same on any machine.

    pool      at most POOL training examples (per label where balanced), those with the smallest
              hash of
              their content: growing data replace few of them, and reading order none
    choose    K different ones for an example and a rendering, never the example's own input
    render    prompt = K exemplars, each prompt and answer in the example's own template, then its
              prompt
    fit       exemplars fall away, the last first, until prompt and target fit `data.fewshot_tokens`

A pool that cannot give K gives fewer: the manifest counts it ("fewer", "none").
"""

from collections.abc import Iterable, Sequence

import numpy as np

from itx import hashing
from itx.data.cache import Record
from itx.data.vocabulary import Vocabulary
from itx.prepare import render
from itx.prepare.types import Item, Rendered
from itx.tasks.names import Variant
from itx.tasks.spec import TaskSpec, Template
from itx.text_format.prompts import PLAIN, PromptFormat

POOL = 512
# Examples by class: one class for all ("") where exemplars need not be balanced.
Pool = dict[str, tuple[Item, ...]]


def pool(spec: TaskSpec, items: Iterable[Item]) -> Pool:
    """The pool of a task from the items of its training split."""
    by_label: dict[str, list[Item]] = {}
    for item in items:
        label = render.answers(spec, item.values, f"task {spec.name!r}, example {item.id}")[0][0]
        by_label.setdefault(label if spec.balanced_shots else "", []).append(item)
    return {
        label: tuple(sorted(by_label[label], key=lambda i: i.hash)[:POOL])
        for label in sorted(by_label)
    }


def choose(pool: Pool, item: Item, count: int, *seed) -> list[Item]:
    """`count` different examples of the pool, or all it has, none with the item's input.

    Balanced: labels take turns, in an order drawn from the seed; the item's own label is not known
    here, so that the exemplars cannot tell it.
    """
    turns = []
    for label, items in pool.items():
        others = [i for i in range(len(items)) if items[i].hash != item.hash]
        for k in range(min(count, len(others))):  # the first steps of a Fisher-Yates shuffle
            j = k + hashing.draw(*seed, item.id, "shot", label, k) % (len(others) - k)
            others[k], others[j] = others[j], others[k]
            turns.append((k, hashing.draw(*seed, item.id, "turn", label), items[others[k]]))
    turns.sort(key=lambda t: t[:2])
    return [chosen for _, _, chosen in turns[:count]]


def render_all(
    spec: TaskSpec,
    variant: Variant,
    pairs: Sequence[tuple[Item, Sequence[Template] | None]],
    rendering: int,
    render_seed: int,
    vocabulary: Vocabulary,
    pool: Pool | None = None,
    max_tokens: int = 0,
    prompt_format: PromptFormat = PLAIN,
) -> tuple[list[Rendered], list[Record]]:
    """Renderings and records of (item, templates to draw from).

    Args:
        pool: needed where the variant has shots.
        max_tokens: of prompt and target with BOS and EOS, beyond which exemplars fall away; 0: no
            limit.
    """
    items = [item for item, _ in pairs]
    exemplars: list[list[Item]] = [[] for _ in pairs]
    if variant.shots:
        seed = (render_seed, spec.name, rendering)
        exemplars = [choose(pool, item, variant.shots, *seed) for item in items]

    def one(i: int) -> Rendered:
        among = pairs[i][1]
        how = (rendering, render_seed, among, exemplars[i])
        rendered = render.render(spec, variant, items[i], *how)
        where = f"task {spec.name!r}, example {items[i].id}"
        return render.put_to(prompt_format, rendered, where, vocabulary)

    rendered = [one(i) for i in range(len(pairs))]
    records = render.encode(rendered, vocabulary)

    def too_long(i: int) -> bool:
        # two more for BOS and EOS
        return bool(exemplars[i]) and sum(len(ids) for ids, _ in records[i]) + 2 > max_tokens

    long = list(range(len(pairs))) if max_tokens else []
    while long := [i for i in long if too_long(i)]:
        for i in long:
            exemplars[i].pop()
            rendered[i] = one(i)
        shorter = render.encode([rendered[i] for i in long], vocabulary)
        for i, record in zip(long, shorter, strict=True):
            records[i] = record
    return rendered, records


def counts(exemplars: np.ndarray, variant: Variant) -> dict[str, int]:
    """{"asked": K, "fewer": renderings with fewer, "none": those with none}; {} where no shots are
    asked.

    exemplars: uint64 [n, k], content hashes; 0: none.
    """
    if not variant.shots:
        return {}
    given = (exemplars > 0).sum(1)
    return {
        "asked": variant.shots,
        "fewer": int((given < variant.shots).sum()),
        "none": int((given == 0).sum()),
    }
