# SPDX-License-Identifier: Apache-2.0
"""What rules do to rows: slips of the right keyboard, frames, forms, and options of which the right
one stays right."""

import random
import re
from collections import Counter

import pytest
from rapidfuzz.distance import OSA

from itx.create import (
    choices,
    filters,
    parents,
    rules,
)
from itx.create.steps import Changed, NotApplicable
from itx.tasks import registry
from itx.text import script, words
from tests.create.rows import CHINESE, ENGLISH, RUSSIAN, job, parent

# ---- typos


def test_keys_that_touch():
    latin, cyrillic = rules.neighbours("Latin"), rules.neighbours("Cyrillic")
    assert set(latin["g"]) == set("tyfhvb") and set(latin["q"]) == set("wa")
    assert set(cyrillic["п"]) == set("енарми") and set(cyrillic["й"]) == set("цф")
    for near in (latin, cyrillic):
        assert all(c in near[d] and c != d for c in near for d in near[c])


@pytest.mark.parametrize(("said", "alphabet"), [(ENGLISH, "Latin"), (RUSSIAN, "Cyrillic")])
def test_typos_are_single_slips_of_the_right_keyboard(said, alphabet):
    slips = Counter()
    for seed in range(200):
        made = rules.typos(job(parent(said, "Дело сделано."), seed))
        assert isinstance(made, Changed)
        before, after = said.split(), made.row.instruction.split()
        assert len(before) == len(after) and before != after
        for a, b in zip(before, after, strict=True):
            if a == b:
                continue
            slips[a] += 1
            a, b = (re.sub(r"\W", "", w) for w in (a, b))
            assert OSA.distance(a, b) == 1 and (a[0], a[-1]) == (b[0], b[-1])
            assert len(a) >= rules.MIN_LETTERS and script(b) == alphabet
            if len(a) == len(b) and sorted(a) != sorted(b):
                at = next(i for i in range(len(a)) if a[i] != b[i])
                assert b[at] in rules.neighbours(alphabet)[a[at]]
    assert len(slips) >= 4  # not one word alone


@pytest.mark.parametrize(
    ("said", "output", "why"),
    [
        (CHINESE, "好的。", "no keyboard of letters for Han"),
        ("東京へ行く電車はどれですか。", "山手線", "no keyboard of letters for Hi"),
        ("1 + 2 = ?", "3", "no keyboard of letters for a text without letters"),
        ("Spell the word for a large river.", "river", "about its letters"),
        ("Сколько букв в этом слове?", "пять", "about its letters"),
        ("Is it so?", "never mind", "no word that may have a typo"),
    ],
)
def test_typos_where_they_make_no_sense(said, output, why):
    made = rules.typos(job(parent(said, output)))
    assert isinstance(made, NotApplicable) and why in made.why


def test_what_no_typo_touches():
    said = 'Which city did Napoleon leave: "Moscow burning" or `paris_code`? See https://a.org/way.'
    p = parent(said, "Moscow leave", "Never count 12345 people without reading.")
    for seed in range(300):
        made = rules.typos(job(p, seed, known=frozenset(words(p.row.whole))))
        both = f"{made.row.instruction} {made.row.input}"
        for piece in ("Napoleon", '"Moscow burning"', "`paris_code`", "https://a.org/way", "12345"):
            assert piece in both
        assert {"leave", "never", "without"} <= set(words(both))
        assert made.row.output == "Moscow leave"


# ---- a sentence around, another form


@pytest.mark.parametrize(("said", "language"), [(ENGLISH, "en"), (RUSSIAN, "ru"), (CHINESE, "zh")])
def test_frames_are_of_the_language_and_keep_every_sign(said, language):
    every = filters.every(())
    seen = set()
    for seed in range(60):
        made = rules.frame(job(parent(said), seed))
        assert said in made.row.instruction and made.row.instruction != said
        around = made.row.instruction.replace(said, "")
        assert script(around) == script(said)
        assert filters.verdicts(made.row, every) == {}
        seen.add(around)
    assert len(seen) == len(rules.FRAMES[language])


def test_what_leads_on_gets_nothing_behind_it():
    for seed in range(40):
        made = rules.frame(job(parent("Translate into French:", given="a cat"), seed))
        assert made.row.instruction.endswith("Translate into French:")
    made = rules.frame(job(parent("Γράψε ένα μικρό γράμμα στον παλιό φούρναρη του χωριού.")))
    assert isinstance(made, NotApplicable) and "no wording in el" in made.why


@pytest.mark.parametrize(
    ("said", "given"),
    [(ENGLISH, "He is called Tom, and his bread is good."), (RUSSIAN, "Его зовут Том."), (CHINESE, "他叫汤姆。")],
)  # fmt: skip
def test_forms_keep_every_word(said, given):
    """The words of both stand there, whatever the form; only what an input is called is added."""
    called = {w for names in rules.CALLED.values() for n in names for w in words(n)} | {"text"}
    every, forms = filters.every(()), set()
    for seed in range(60):
        made = rules.formats(job(parent(said, given=given), seed))
        assert isinstance(made, Changed) and given in made.row.asked
        left = Counter(words(made.row.asked)) - Counter(words(f"{said} {given}"))
        assert set(left) <= called and not Counter(words(said)) - Counter(words(made.row.asked))
        assert filters.verdicts(made.row, every) == {}
        forms.add(made.row.asked.replace(said, "").replace(given, ""))
    assert len(forms) >= 5


def test_names_and_points_in_another_form():
    seen = set()
    for seed in range(80):
        p = parent("Premise: It rains.\nHypothesis: It is dry: truly.\n- yes\n- no", "no")
        made = rules.formats(job(p, seed)).row.instruction
        assert [w for w in words(made)] == words(p.row.instruction)
        seen.add(made)
    assert "[Premise] It rains.\n[Hypothesis] It is dry: truly.\n- yes\n- no" in seen
    assert "Premise: It rains.\nHypothesis: It is dry: truly.\n* yes\n* no" in seen
    plain = rules.formats(job(parent("Name a bird that sings at night.")))
    assert isinstance(plain, NotApplicable)


# ---- options


def read_back(asked: str, said: str, known: list[str]) -> str:
    """The option that an answer stands for, read by one who knows no style: its text, or what
    stands behind its label, or both."""
    said = said.strip()
    label = re.match(r"\(?([a-hA-H1-9])(?:[).:]\s*|$)", said)
    if said in known:
        return said
    if label and said[label.end() :] in known:
        said = label[0]
    (line,) = re.findall(rf"^\(?{label[1]}[).:]\s*(.+)$", asked, flags=re.MULTILINE | re.IGNORECASE)
    return line


WORDS = {
    "Latin": "red green blue, dark|not blue|a red house|12 boats|C|the 3rd one|Rome|Not Rome".split("|"),
    "Cyrillic": "красный|синий, тёмный|не синий|красный дом|12 лодок|Рим|не Рим".split("|"),
    "Han": "红色|深蓝色|不是蓝色|红房子|12条船|罗马|不是罗马".split("|"),
}  # fmt: skip
QUESTIONS = {"Latin": "Choose the right option of these.", "Cyrillic": "Выбери правильный вариант.", "Han": "请选择正确的答案。"}  # fmt: skip


def test_the_right_option_stays_right():
    """Drawn questions in three alphabets, with labels of several forms and answers of three."""
    draw, done, moved = random.Random(0), Counter(), 0
    for _ in range(1500):
        alphabet = draw.choice(list(WORDS))
        known = draw.sample(WORDS[alphabet], draw.randrange(2, 6))
        right = draw.randrange(len(known))
        mark = draw.choice(["{})", "({})", "{}.", "{}:"])
        signs = "abcdefgh" if draw.random() < 0.4 else "ABCDEFGH"
        if draw.random() < 0.3 and mark in ("{})", "{}."):
            signs = "12345678"
        labels = [mark.format(c) for c in signs[: len(known)]]
        listed = "\n".join(f"{c} {o}" for c, o in zip(labels, known, strict=True))
        said = draw.choice(
            [signs[right], labels[right], known[right], f"{labels[right]} {known[right]}"]
        )
        p = parent(f"{QUESTIONS[alphabet]}\n{listed}", said)
        made = choices.options(job(p, draw.randrange(10**6)))
        if isinstance(made, NotApplicable):
            done[made.why] += 1
            continue
        done["made"] += 1
        assert read_back(made.row.asked, made.row.output, known) == known[right], (p.row, made.row)
        assert set(made.row.options) == set(known) and made.row.options != tuple(known)
        assert filters.options(made.row) == ""
        moved += made.row.asked != p.row.asked and made.row.output != p.row.output
    assert done["made"] > 1200 and moved > 500
    # an option called "C" may be meant by the answer "C", and then nobody knows
    assert done["the answer is not one option alone"]


@pytest.mark.parametrize(
    ("asked", "said", "why"),
    [
        ("Choose one.\na) yes\nb) no\nc) all of the above", "a", "an option speaks of the others"),
        ("Выбери вариант.\n1. да\n2. всё вышеперечисленное", "1", "an option speaks of the others"),
        ("选择正确的答案。\nA. 红\nB. 以上都是", "A", "an option speaks of the others"),
        ("Choose one. Why is option B wrong?\na) yes\nb) no", "b", "speaks of an option by its label"),
        ("Choose one.\na) yes\nb) no", "a and b", "not one option alone"),
        ("Choose one.\na) yes\nb) yes", "a", "two options are the same"),
        ("Name a colour.", "red", "no options are listed"),
        ("Choose one.\n1. 2\n2. 1", "1", "not one option alone"),
    ],
)  # fmt: skip
def test_options_that_stay_as_they_are(asked, said, why):
    made = choices.options(job(parent(asked, said)))
    assert isinstance(made, NotApplicable) and why in made.why


@pytest.mark.parametrize("name", ["entails", "ru_entails", "has_word"])
def test_options_of_a_task(name):
    """What a task's fields say of its options, in the list that its own wording shows."""
    registry.load_modules(["tasks"])
    source = parents.drawn(parents.of(name, "", 0), 200, 0)
    seen = Counter()
    for p in source.parents:
        if p.choice is None:
            assert not p.row.options
            seen["not listed"] += 1
            continue
        c = p.choice
        assert p.row.asked.count(c.listed) == 1
        assert p.row.output == c.called[c.right] and p.references == (p.row.output,)
        made = choices.options(job(p))
        if isinstance(made, NotApplicable):
            seen[made.why] += 1
            continue
        right = read_back(made.row.asked, made.row.output, list(c.options))
        assert right == c.options[c.right]
        seen["made"] += 1
    assert seen["made"] > 20, seen
