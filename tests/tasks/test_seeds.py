# SPDX-License-Identifier: Apache-2.0
"""The seed examples register, render and score, in Russian and English."""

from collections import Counter

import pytest

from itx.eval.metrics import SCORES
from itx.prepare import examples, render, types
from itx.tasks import names, registry, resolve
from tasks import seeds

NAMES = ["seed_en_fr", "seed_capitals", "seed_train_ru", "seed_train_en"]


def all_items(name: str) -> list[types.Item]:
    spec = registry.task(name)
    return [
        i
        for split in ("train", "validation", "test")
        for i in examples.items(spec, split, "", 0, Counter())
    ]


def prompts(name: str, item: types.Item) -> dict[str, types.Rendered]:
    spec, variant = registry.task(name), names.parse(name)
    among = [*render.choices(spec, variant), *render.choices(spec, variant, "heldout")]
    found = [render.render(spec, variant, item, 0, 0, [t]) for t in among]
    return {r.prompt: r for r in found}


def item_with(name: str, **values) -> types.Item:
    return next(i for i in all_items(name) if all(i.values[k] == v for k, v in values.items()))


def test_the_seed_prompts_come_out_as_written():
    cat = item_with("seed_en_fr", english="The cat is on the table.")
    shown = prompts("seed_en_fr", cat)[
        "Переведите следующее предложение на французский: 'The cat is on the table.'"
    ]
    assert shown.target == "Le chat est sur la table."
    france = item_with("seed_capitals", country="Франции")
    shown = prompts("seed_capitals", france)["Какая столица Франции?"]
    assert shown.target == "Столица Франции - Париж." and shown.references == ("Париж",)
    ru = item_with("seed_train_ru", distance="120 км", time="2 часа")
    steps = prompts("seed_train_ru:cot", ru)[
        "Поезд проехал 120 км за 2 часа. Какова его скорость? Решите по шагам."
    ]
    assert steps.target.endswith("120 / 2 = 60.\nОтвет: 60 км/ч.")
    en = item_with("seed_train_en", distance="120 km", time="2 hours")
    direct = prompts("seed_train_en", en)["A train travels 120 km in 2 hours. What is its speed?"]
    assert direct.target == "60 km/h"


def test_the_seed_answers_score():
    assert SCORES["contains"](["Париж"], "Столица Франции - Париж.") == 1.0
    assert SCORES["contains"](["Париж"], "Столица Германии - Берлин.") == 0.0
    for right in ("60 км/ч", "Скорость поезда 60 км/ч.", "60"):
        assert SCORES["numeric"](["60 км/ч"], right) == 1.0
        assert SCORES["numeric"](["60"], right) == 1.0
    assert SCORES["numeric"](["60"], "65 км/ч") == 0.0


@pytest.mark.parametrize("name", [*NAMES, "seed_train_ru:cot", "seed_train_en:cot"])
def test_every_gold_target_scores_full_and_another_does_not(name):
    import re

    spec = registry.task(name)
    score = SCORES[spec.metrics[0]]
    items = all_items(name)
    for i, item in enumerate(items[:60]):
        for r in prompts(name, item).values():
            answer = re.findall(r.extractor, r.target)[-1] if r.extractor else r.target
            assert score(list(r.references), answer) == 1.0, r
            wrong = next(
                o.values["answer"]
                for o in items[i + 1 :] + items
                if o.values["answer"] != r.references[0]
            )
            assert score(list(r.references), wrong) == 0.0, (r, wrong)


@pytest.mark.parametrize("name", NAMES)
def test_splits_are_disjoint_and_none_is_empty(name):
    spec = registry.task(name)
    hashes = []
    for split in ("train", "validation", "test"):
        counts: Counter = Counter()
        found = list(examples.items(spec, split, "", 0, counts))
        assert found and counts["read"] == len(found) + counts["another split"]
        hashes += [i.hash for i in found]
    assert len(set(hashes)) == len(hashes) == counts["read"] >= 20


def test_russian_hours():
    assert [seeds.hours_ru(n) for n in (1, 2, 4, 5, 9)] == [
        "1 час",
        "2 часа",
        "4 часа",
        "5 часов",
        "9 часов",
    ]


def test_the_mixture_resolves():
    assert len(resolve.members(registry.MIXTURES["seeds"])) == 6
