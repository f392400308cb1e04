# SPDX-License-Identifier: Apache-2.0
"""Paraphrase sets, instructions in another language than the text, and reasoning asked for or
not."""

import re

import pytest

import itx.tasks
from itx.errors import UserError
from itx.prepare import render, types
from itx.tasks import names, registry, templates
from tasks import files, translation


def item(**values) -> types.Item:
    return types.Item("0", values, "", 0)


def prompts(name: str, values: types.Item) -> dict[str, str]:
    """Prompt -> target in each wording of a variant."""
    spec, variant = registry.task(name), names.parse(name)
    found = [render.render(spec, variant, values, 0, 0, [t]) for t in render.choices(spec, variant)]
    assert len({r.template for r in found}) == len(found)
    return {r.prompt: r.target for r in found}


def test_paraphrases_are_templates_of_their_own():
    made = itx.tasks.paraphrases(
        ["Say it in {language}.", "Скажи это."], "{instruction}\n{text}\n{options}", "So: {answer}"
    )
    assert made == [
        ("Say it in {language}.\n{text}\n{options}", "So: {answer}"),
        ("Скажи это.\n{text}\n{options}", "So: {answer}"),
    ]
    assert len({templates.template_id(t) for t in made}) == 2
    with pytest.raises(UserError, match="has no {instruction}"):
        itx.tasks.paraphrases(["Say it."], "{instruct}\n{text}")
    with pytest.raises(UserError, match="a wording is there twice: 'b'"):
        itx.tasks.paraphrases(["a", "b", "b"], "{instruction}\n{text}")


def test_instructions_in_other_languages_than_the_text():
    values = item(
        **translation.from_english("ru")({"en": "The house is big.", "ru": "Дом большой."})
    )
    assert prompts("wmt16_en_ru", values) == dict.fromkeys([
        "Translate into Russian: The house is big.",
        "The house is big.\nHow do you say this in Russian?",
        "English: The house is big.\nRussian:",
        "Give the Russian translation of the following.\nThe house is big.",
        "The house is big.\n\nWrite the same in Russian.",
        "Put this English text into Russian.\nThe house is big.",
        "Переведи этот английский текст на русский.\nThe house is big.",
        "Как это будет по-русски?\nThe house is big.",
        "请把下面的英文翻译成俄语。\nThe house is big.",
        "这段英文用俄语怎么说？\nThe house is big.",
    ], "Дом большой.")  # fmt: skip
    assert prompts("wmt16_en_ru:inv", values) == dict.fromkeys([
        "Translate into English: Дом большой.",
        "Russian: Дом большой.\nEnglish:",
        "Дом большой.\nWhat does this Russian text say in English?",
        "Переведи на английский.\nДом большой.",
        "请把下面的俄语翻译成英文。\nДом большой.",
    ], "The house is big.")  # fmt: skip
    for code in translation.LANGUAGES:
        assert all(
            code in table for table in (translation.CHINESE, translation.INTO, translation.BACK)
        ), code


ASKS = r"(?i)\b(think|how|steps?|explain|reason(s|ing)?|work|why)\b"


@pytest.mark.parametrize("name", ["gsm8k", *(f"flan_cot.{n}" for n in files.FLAN_COT)])
def test_reasoning_is_asked_for_and_not(name):
    spec = registry.task(name)
    asking = [t for t in spec.cot.templates if re.search(ASKS, t[0])]
    plain = [t for t in spec.cot.templates if t not in asking]
    assert len(asking) >= 5 and len(plain) >= 2
    direct = {t[0] for t in (*spec.templates, *spec.heldout_templates)}
    assert not direct & {t[0] for t in plain}  # one prompt would have two targets
    assert not [p for p in direct if re.search(ASKS, p.replace("Work out", ""))]


def test_reasoning_with_and_without_a_trigger_reads_so():
    values = item(question="What is 2 + 3?", rationale="2 and 3 make 5.", answer="5")
    reasoning, answer = "2 and 3 make 5.\nThe answer is 5.", "5"
    found = prompts("gsm8k:cot", values)
    assert (
        found["What is 2 + 3?\nThink step by step."]
        == found["What is 2 + 3?\nSolution:"]
        == reasoning
    )
    assert set(found.values()) == {reasoning} and set(prompts("gsm8k", values).values()) == {answer}
