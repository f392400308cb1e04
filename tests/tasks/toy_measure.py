# SPDX-License-Identifier: Apache-2.0
"""How easy each toy task is without a model: `python -m tests.tasks.toy_measure` prints the table.

majority    share of test answers that are the commonest training answer
neighbour   share of test answers given by the training example whose input shares most words
            (Jaccard)
Both are corrected for chance, (score - chance) / (1 - chance), where options are given.
"""

from collections import Counter, defaultdict

import tasks.mixtures  # noqa: F401
from itx import text
from itx.prepare import examples, render, types
from itx.tasks import names, registry, resolve
from itx.tasks.spec import TaskSpec
from tasks.mixtures import TOY

TRAIN, TEST = 2000, 200


def items(spec: TaskSpec, split: str, most: int, seed: int = 0) -> list[types.Item]:
    found = examples.items(spec, split, "", seed, Counter())
    return [item for item, _ in zip(found, range(most), strict=False)]


def rendered(spec: TaskSpec, found: list[types.Item], variant: str = "") -> list[types.Rendered]:
    parsed = names.parse(spec.name + variant)
    return [render.render(spec, parsed, item, 0, 0) for item in found]


def nearest(train: list[set[str]], test: list[set[str]]) -> list[int]:
    """For each test set the training set with the highest Jaccard similarity, the first of
    equals."""
    having = defaultdict(list)
    for i, words in enumerate(train):
        for w in words:
            having[w].append(i)
    out = []
    for words in test:
        shared = Counter(i for w in words for i in having[w])
        out.append(
            min(
                shared,
                key=lambda i: (-shared[i] / (len(words) + len(train[i]) - shared[i]), i),
                default=0,
            )
        )
    return out


def measure(spec: TaskSpec) -> dict:
    train, test = items(spec, "train", TRAIN), items(spec, "test", TEST)
    shown, asked = rendered(spec, train), rendered(spec, test)
    gold, known = [r.references[0] for r in asked], [r.references[0] for r in shown]
    common = Counter(known).most_common(1)[0][0]
    # the input as the model sees it: every slot of the task's templates, but not the options
    near = nearest(
        [set(text.words(seen(spec, i))) for i in train],
        [set(text.words(seen(spec, i))) for i in test],
    )
    chance = sum(1 / len(r.options) if r.options else 0 for r in asked) / len(asked)
    score = {
        "majority": sum(g == common for g in gold) / len(gold),
        "neighbour": sum(g == known[i] for g, i in zip(gold, near, strict=True)) / len(gold),
    }
    return {
        "task": spec.name,
        "cluster": spec.cluster,
        "tests": len(test),
        "prompt": sum(len(r.prompt.split()) for r in shown) / len(shown),
        "target": sum(len(r.target.split()) for r in shown) / len(shown),
        **{k: (v - chance) / (1 - chance) for k, v in score.items()},
    }


def seen(spec: TaskSpec, item: types.Item) -> str:
    return "\n".join(str(v) for k, v in item.values.items() if k not in render.NOT_CONTENT)


def main() -> None:
    trained = {names.parse(m).task for m in resolve.members(registry.MIXTURES["toy_train"])}
    print(
        f"{'task':20}{'cluster':15}{'held out':>9}{'prompt':>8}{'target':>8}{'majority':>10}{'neighbour':>11}"
    )
    hard = 0
    for name in TOY:
        m = measure(registry.TASKS[name])
        hard += name in trained and max(m["majority"], m["neighbour"]) <= 0.5
        held = "" if name in trained else "yes"
        print(
            f"{m['task']:20}{m['cluster']:15}{held:>9}{m['prompt']:8.1f}{m['target']:8.1f}{m['majority']:10.2f}{m['neighbour']:11.2f}"
        )
    print(f"{len(TOY)} tasks, {len(trained)} trained, {hard} of them not easy")


if __name__ == "__main__":
    main()
